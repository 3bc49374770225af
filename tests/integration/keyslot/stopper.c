/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * sealpoint-enrol-volume that ends or waits where a test says:
 *
 *     keyslot-stopper CONTROL serve|listen|typed …
 *
 * CONTROL holds "STEP kill" or "STEP wait" (a number of enum keyslot_step); it is removed when it
 * has come to that. Waiting, it makes CONTROL.reached and goes on when CONTROL.go is there. */
#include "agent/enrol_volume/program.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void wait_for(const char *path)
{
    const struct timespec moment = {.tv_nsec = 5000000};
    while (access(path, F_OK) < 0)
        nanosleep(&moment, NULL);
    unlink(path);
}

static void at(void *self, enum keyslot_step step)
{
    const char *control = self;
    char what[16] = "", reached[4096], go[4096];
    int number = -1;
    FILE *f = fopen(control, "re");
    if (!f)
        return;
    bool read = fscanf(f, "%d %15s", &number, what) == 2;
    fclose(f);
    if (!read || number != (int)step)
        return;
    unlink(control);
    if (strcmp(what, "kill") == 0)
        kill(getpid(), SIGKILL);
    snprintf(reached, sizeof(reached), "%s.reached", control);
    snprintf(go, sizeof(go), "%s.go", control);
    f = fopen(reached, "we");
    if (f)
        fclose(f);
    wait_for(go);
}

int main(int argc, char **argv)
{
    return argc < 2 ? 2 : enrol_volume_program(argc - 1, argv + 1, at, argv[1]);
}
