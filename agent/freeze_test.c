/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/freeze_test.h"
#include "agent/linux/quiesce.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <string.h>

#define OPERATION "freeze-test"

static const char *outcome_text(Sp__FreezeResult__Outcome outcome)
{
    switch (outcome) {
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN:
        return "frozen";
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_UNSUPPORTED:
        return "cannot freeze, was written to";
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_SYNCED:
        return "cannot freeze; synced, nothing wrote";
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_BUSY:
        return "frozen by somebody else, left alone";
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_READ_ONLY:
        return "read-only";
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_NETWORK:
        return "on the network";
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_BLOCKED:
        return "did not freeze in time";
    default:
        return "failed";
    }
}

static void print(const Sp__ThawAnswer *thaw, FILE *out)
{
    for (size_t i = 0; i < thaw->n_results; i++) {
        const Sp__FreezeResult *r = thaw->results[i];
        if (r->error == ECANCELED)
            continue;
        fprintf(out, "%-24s %-8s %s", r->mount_point, r->type, outcome_text(r->outcome));
        if (r->outcome == SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN)
            fprintf(out, " in %.1f ms, thawed in %.1f ms", (double)r->freeze_us / 1000,
                    (double)r->thaw_us / 1000);
        if (r->error && r->outcome == SP__FREEZE_RESULT__OUTCOME__OUTCOME_FAILED)
            fprintf(out, ": %s", strerror(r->error));
        fprintf(out, "\n");
    }
    fprintf(out, "from the first freeze to the last thaw: %.1f ms, ended by %s\n",
            (double)thaw->window_us / 1000, thaw->ended_by);
}

static int freeze_and_thaw(struct quiesce *q, unsigned lease_ms, FILE *out, struct sp_why *why)
{
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    command.lease_ms = lease_ms;
    Sp__FreezeAnswer *frozen = NULL;
    Sp__ThawAnswer *thaw = NULL;
    int r = quiesce_freeze(q, OPERATION, &command, &frozen, why);
    if (r == 0 || r == -ETIME) {
        struct sp_why late = {0};
        int thawed = quiesce_thaw(q, OPERATION, &thaw, &late);
        if (thawed == 0)
            print(thaw, out);
        if (r == 0 && thawed < 0) {
            *why = late;
            r = thawed;
        }
    }
    if (frozen)
        sp__freeze_answer__free_unpacked(frozen, NULL);
    if (thaw) {
        if (r == 0 && !thaw->all_thawed_on_command)
            r = sp_why_set(why, -EIO, "not everything was thawed on command");
        sp__thaw_answer__free_unpacked(thaw, NULL);
    }
    return r;
}

int freeze_test(const struct agent_config *config, const char *const *mount_points, size_t count,
                unsigned lease_ms, FILE *out, struct sp_why *why)
{
    SP_BUFFER struct sp_buffer only = {0};
    struct agent_config narrowed = *config;
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = sp_buffer_printf(&only, "%s%s", i ? "," : "", mount_points[i]);
    if (r == 0 && count)
        narrowed.only = (char *)(uintptr_t)sp_buffer_text(&only);
    SP_FREE char *runtime = sp_format("%s/" FREEZE_TEST_FOLDER, config->runtime);
    if (r < 0 || !runtime)
        return -ENOMEM;
    struct quiesce_options options = {
        .config = &narrowed, .roots = &inventory_roots_system, .runtime = runtime};
    struct quiesce *q = NULL;
    r = quiesce_new(&options, &q, why);
    if (r == 0)
        r = freeze_and_thaw(q, lease_ms, out, why);
    quiesce_free(q);
    return r;
}
