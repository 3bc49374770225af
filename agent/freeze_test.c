/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/freeze_test.h"
#include "agent/linux/quiesce.h"
#include "agent/linux/raw.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <stdarg.h>
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

static const char *raw_outcome_text(Sp__FreezeResult__Outcome outcome)
{
    switch (outcome) {
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN:
        return "suspended";
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_BUSY:
        return "suspended by somebody else, left alone";
    default:
        return outcome_text(outcome);
    }
}

static bool is_raw(const Sp__FreezeResult *r)
{
    return r->raw_device[0] != 0;
}

static const char *name_of(const Sp__FreezeResult *r)
{
    return is_raw(r) ? r->raw_device : r->mount_point;
}

/* What the thaw knows of a file system or raw device, and what that means for a backup. */
static void print_results(const Sp__ThawAnswer *thaw, FILE *out)
{
    for (size_t i = 0; i < thaw->n_results; i++) {
        const Sp__FreezeResult *r = thaw->results[i];
        if (r->error == ECANCELED)
            continue;
        bool held = r->outcome == SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN;
        fprintf(out, "%-24s %-8s %s", name_of(r), is_raw(r) ? "raw" : r->type,
                is_raw(r) ? raw_outcome_text(r->outcome) : outcome_text(r->outcome));
        if (held)
            fprintf(out, " in %.1f ms, %s in %.1f ms", (double)r->freeze_us / 1000,
                    is_raw(r) ? "resumed" : "thawed", (double)r->thaw_us / 1000);
        if (r->error && r->outcome == SP__FREEZE_RESULT__OUTCOME__OUTCOME_FAILED)
            fprintf(out, ": %s", r->error == EXDEV ? "not frozen" : strerror(r->error));
        fprintf(out, "\n");
    }
}

static void print_hooks(Sp__HookResult *const *hooks, size_t count, const char *phase, FILE *out)
{
    for (size_t i = 0; i < count; i++) {
        const Sp__HookResult *h = hooks[i];
        if (h->timed_out)
            fprintf(out, "hook %s %s: took too long (hooks.timeout)\n", h->name, phase);
        else if (h->exit_status)
            fprintf(out, "hook %s %s: failed with %d\n", h->name, phase, h->exit_status);
        else
            fprintf(out, "hook %s %s: done\n", h->name, phase);
        if ((h->timed_out || h->exit_status) && h->output[0])
            fprintf(out, "  %s\n", h->output);
    }
}

static void print_times(const Sp__FreezeAnswer *frozen, const Sp__ThawAnswer *thaw, FILE *out)
{
    if (frozen) {
        fprintf(out, "sync before the freeze: %.1f ms\n", (double)frozen->sync_us / 1000);
        fprintf(out, "inventory, read again while frozen: %.1f ms\n",
                (double)frozen->inventory_us / 1000);
    }
    fprintf(out, "from the first freeze to the last thaw: %.1f ms, ended by %s\n",
            (double)thaw->window_us / 1000, thaw->ended_by);
}

/* ---- advice ---- */

__attribute__((format(printf, 2, 3))) static void advise(FILE *out, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("! ", out);
    vfprintf(out, format, arguments);
    fputs("\n", out);
    va_end(arguments);
}

static void advise_result(const Sp__FreezeResult *r, FILE *out)
{
    switch (r->outcome) {
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_UNSUPPORTED:
        advise(out, "%s cannot freeze and was written to: its files may be torn in a snapshot",
               r->mount_point);
        break;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_BUSY:
        advise(out,
               "%s is %s by another program, which may %s it at any time: run only one that "
               "freezes this guest",
               name_of(r), is_raw(r) ? "suspended" : "frozen", is_raw(r) ? "resume" : "thaw");
        break;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_NETWORK:
        advise(out, "%s is on another host: it is in no snapshot of this guest", r->mount_point);
        break;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_BLOCKED:
        advise(out,
               "%s could not be written out in time: its disk is too slow or too busy for a freeze",
               name_of(r));
        break;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_FAILED:
        if (r->error == EXDEV)
            advise(
                out,
                "%s, is not frozen, so that backups have the grade crash: mounted here as well it "
                "would be",
                r->mount_point);
        else if (r->error == ENODEV && !is_raw(r))
            advise(out,
                   "%s is hidden below another mount, where it cannot be reached: it is not "
                   "frozen, so "
                   "that backups have the grade crash",
                   r->mount_point);
        else if (r->error != ECANCELED)
            advise(out, "%s could not be %s", name_of(r), is_raw(r) ? "suspended" : "frozen");
        break;
    default:
        break;
    }
}

/* Devices in use without a file system, which hold databases more often than not. */
static void advise_raw(const struct raw_device *raw, FILE *out)
{
    if (raw->verdict == RAW_MAY && !raw->listed)
        advise(
            out,
            "%s is in use without a file system, and goes on writing while the snapshot is taken: "
            "freeze.suspend=%s would suspend it with the freeze",
            raw->path, raw->path);
    else if (raw->verdict == RAW_CONTENT && raw->listed)
        advise(
            out,
            "%s is not suspended: it is, or may be, part of a file system that is not mounted by "
            "itself",
            raw->path);
    else if (raw->verdict == RAW_ROOT && raw->listed)
        advise(out, "%s is not suspended: it cannot be told whether / lies on it", raw->path);
}

static void advise_raws(const struct agent_config *config, const Sp__Inventory *inventory,
                        FILE *out)
{
    struct raw_device *raws = NULL;
    size_t count = 0, listed = 0;
    if (raw_find(&inventory_roots_system, inventory, config->suspend, &raws, &count) == 0) {
        for (size_t i = 0; i < count; i++) {
            advise_raw(&raws[i], out);
            listed += raws[i].listed;
        }
        if (config->suspend[0] && !listed)
            advise(out,
                   "freeze.suspend is '%s', and nothing of it is a device-mapper device that is in "
                   "use without a file system",
                   config->suspend);
    }
    raw_free(raws, count);
}

static void advise_all(const struct agent_config *config, const Sp__FreezeAnswer *frozen,
                       const Sp__ThawAnswer *thaw, FILE *out)
{
    size_t left_out = 0;
    for (size_t i = 0; i < thaw->n_results; i++) {
        advise_result(thaw->results[i], out);
        left_out += thaw->results[i]->error == ECANCELED;
    }
    if (left_out)
        advise(out, "%zu file systems were left out (freeze.only, freeze.exclude)", left_out);
    if (frozen && frozen->inventory)
        advise_raws(config, frozen->inventory, out);
    if (thaw->window_us / 1000 > config->default_lease_ms / 2)
        advise(out,
               "this takes more than half of freeze.default_lease (%llu s): the snapshot may not "
               "fit in",
               (unsigned long long)config->default_lease_ms / 1000);
    if (frozen && frozen->sync_us > 5000000)
        advise(out, "the sync takes %.0f s: a backup gives it 10 s", (double)frozen->sync_us / 1e6);
    bool failed = false;
    for (size_t i = 0; frozen && i < frozen->n_hooks; i++)
        failed = failed || frozen->hooks[i]->exit_status || frozen->hooks[i]->timed_out;
    for (size_t i = 0; i < thaw->n_hooks; i++)
        failed = failed || thaw->hooks[i]->exit_status || thaw->hooks[i]->timed_out;
    if (failed)
        advise(out, "a hook failed: backups have the grade filesystem, not application");
    if (config->max_lease_ms < 10000)
        advise(out, "freeze.max_lease is %llu ms: few snapshots are that fast",
               (unsigned long long)config->max_lease_ms);
    if (config->most_per_hour < 4)
        advise(out, "freeze.most_per_hour allows %llu backups an hour, repeated ones included",
               (unsigned long long)config->most_per_hour);
}

static int freeze_and_thaw(struct quiesce *q, const struct agent_config *config, unsigned lease_ms,
                           FILE *out, struct sp_why *why)
{
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    command.lease_ms = lease_ms;
    command.run_hooks = true;
    Sp__FreezeAnswer *frozen = NULL;
    Sp__ThawAnswer *thaw = NULL;
    int r = quiesce_freeze(q, OPERATION, &command, &frozen, why);
    if (r == 0 || r == -ETIME) {
        struct sp_why late = {0};
        int thawed = quiesce_thaw(q, OPERATION, &thaw, &late);
        if (thawed == 0) {
            if (frozen)
                print_hooks(frozen->hooks, frozen->n_hooks, "pre-freeze", out);
            print_results(thaw, out);
            print_hooks(thaw->hooks, thaw->n_hooks, "post-thaw", out);
            print_times(frozen, thaw, out);
            advise_all(config, frozen, thaw, out);
        }
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
        r = freeze_and_thaw(q, &narrowed, lease_ms, out, why);
    quiesce_free(q);
    return r;
}
