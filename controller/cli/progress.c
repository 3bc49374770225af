/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include "base/clock.h"
#include <inttypes.h>

enum { FIRST_MS = 1000, AGAIN_MS = 200, BAR = 30 };

void cli_progress_start(struct cli_progress *p, const char *what)
{
    *p = (struct cli_progress){.what = what, .started_ms = sp_clock_monotonic_ms(&sp_clock_system)};
}

void cli_progress_show(struct cli_progress *p, uint64_t done, uint64_t total, const char *step)
{
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    if (!isatty(STDERR_FILENO) || now - p->started_ms < FIRST_MS || now - p->shown_ms < AGAIN_MS)
        return;
    p->shown_ms = now;
    p->drawn = true;
    if (total == 0) {
        fprintf(stderr, "\r\033[K%s: %s", p->what, step);
        return;
    }
    char rate[24], all[24];
    uint64_t elapsed = now - p->started_ms;
    int filled = done >= total ? BAR : (int)((double)done / (double)total * BAR);
    uint64_t left_s =
        done ? (uint64_t)((double)elapsed * (double)(total - (done > total ? total : done)) /
                          (double)done / 1000)
             : 0;
    fprintf(stderr, "\r\033[K%s [%.*s%*s] %3d%% of %s, %s/s, %" PRIu64 ":%02" PRIu64 " left  %s",
            p->what, filled, "##############################", BAR - filled, "",
            (int)((double)done / (double)total * 100), cli_size_text(total, all),
            cli_size_text(done * 1000 / elapsed, rate), left_s / 60, left_s % 60, step);
}

void cli_progress_end(struct cli_progress *p)
{
    if (p->drawn)
        fprintf(stderr, "\r\033[K");
    p->drawn = false;
}
