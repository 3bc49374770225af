/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/quiesce.h"
#include "agent/linux/freezer.h"
#include "agent/linux/sync.h"
#include "agent/message.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEFAULT_SYNC_MS = 10000, HOUR_MS = 3600000 };

#define OUTCOME(name) SP__FREEZE_RESULT__OUTCOME__OUTCOME_##name

/* One file system of the plan. */
struct held {
    char *mount_point, *type, *device, *devno;
    uint32_t level;
    int fd;     /* of the mount, -1: not to be frozen */
    int target; /* its index in the freezer, -1: none */
    Sp__FreezeResult__Outcome outcome;
    int error;
    uint64_t freeze_us, sectors_before;
    bool sectors_known, wrote;
};

struct quiesce {
    struct quiesce_options options;
    struct freezer *freezer;
    uint64_t allowance_ms, allowance_at_ns; /* of the rate cap: a bucket that holds one hour */
    struct held *plan;                      /* of the last freeze */
    size_t count;
    uint64_t window_started_ns;
    bool complete; /* it was held */
};

/* ---- life ---- */

static void ended(void *self, const char *operation_id, enum freeze_end end)
{
    struct quiesce *q = self;
    if (q->options.on_ended)
        q->options.on_ended(q->options.self, operation_id, freeze_end_name(end));
}

int quiesce_new(const struct quiesce_options *options, struct quiesce **ret, struct sp_why *why)
{
    struct quiesce *q = calloc(1, sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->options = *options;
    q->allowance_ms = HOUR_MS;
    q->allowance_at_ns = freeze_now_ns();
    struct freezer_options freezer = {
        .runtime = options->runtime ? options->runtime : options->config->runtime,
        .argv = options->freezer_argv,
        .on_ended = ended,
        .self = q,
    };
    int r = freezer_new(&freezer, &q->freezer, why);
    if (r < 0) {
        free(q);
        return r;
    }
    *ret = q;
    return 0;
}

/* An open descriptor keeps a file system from being unmounted: none stays longer than needed. */
static void close_plan(struct quiesce *q)
{
    for (size_t i = 0; i < q->count; i++) {
        if (q->plan[i].fd >= 0)
            close(q->plan[i].fd);
        q->plan[i].fd = -1;
    }
}

static void drop_plan(struct quiesce *q)
{
    close_plan(q);
    for (size_t i = 0; i < q->count; i++) {
        struct held *held = &q->plan[i];
        free(held->mount_point);
        free(held->type);
        free(held->device);
        free(held->devno);
    }
    free(q->plan);
    q->plan = NULL;
    q->count = 0;
    q->complete = false;
}

void quiesce_free(struct quiesce *q)
{
    if (!q)
        return;
    freezer_free(q->freezer);
    drop_plan(q);
    free(q);
}

void quiesce_abort(struct quiesce *q, bool commanded)
{
    freezer_abort(q->freezer, commanded ? FREEZE_END_COMMAND : FREEZE_END_AGENT_LOST);
}

int quiesce_lock_error(struct quiesce *q)
{
    return freezer_lock_error(q->freezer);
}

int quiesce_state(struct quiesce *q, Sp__FreezeState *state)
{
    struct freezer_status status;
    freezer_state(q->freezer, &status);
    state->frozen = status.frozen;
    state->remaining_ms = status.remaining_ms;
    int r = message_text(&state->operation_id, status.operation_id);
    return r == 0 ? message_text(&state->last_ended_by, freeze_end_name(status.last_ended_by)) : r;
}

/* ---- the plan ---- */

/* A freeze costs its share of an hour. */
static int take_allowance(struct quiesce *q, struct sp_why *why)
{
    uint64_t now = freeze_now_ns(), cost = HOUR_MS / q->options.config->most_per_hour;
    q->allowance_ms += (now - q->allowance_at_ns) / 1000000;
    q->allowance_at_ns = now;
    if (q->allowance_ms > HOUR_MS)
        q->allowance_ms = HOUR_MS;
    if (q->allowance_ms < cost)
        return sp_why_set(why, -EDQUOT,
                          "this guest allows %llu freezes an hour (freeze.most_per_hour)",
                          (unsigned long long)q->options.config->most_per_hour);
    q->allowance_ms -= cost;
    return 0;
}

static bool is_excluded(const struct quiesce *q, const Sp__FreezeCommand *command,
                        const char *mount_point)
{
    const struct agent_config *config = q->options.config;
    for (size_t i = 0; i < command->n_exclude_mount_points; i++)
        if (strcmp(command->exclude_mount_points[i], mount_point) == 0)
            return true;
    return agent_config_lists(config->exclude, mount_point) ||
           (config->only[0] && !agent_config_lists(config->only, mount_point));
}

/* What is known before anything is frozen; opens the mount of what is to be frozen. */
static void preset(const struct quiesce *q, const Sp__FreezeCommand *command,
                   const Sp__FileSystem *fs, struct held *held)
{
    held->fd = held->target = -1;
    if (fs->network)
        held->outcome = OUTCOME(NETWORK);
    else if (fs->read_only)
        held->outcome = OUTCOME(READ_ONLY);
    else if (is_excluded(q, command, fs->mount_point)) {
        held->outcome = OUTCOME(FAILED);
        held->error = ECANCELED;
    } else {
        held->fd = open(fs->mount_point, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (held->fd < 0) {
            held->outcome = OUTCOME(FAILED);
            held->error = errno;
        }
    }
}

static int make_plan(struct quiesce *q, const Sp__FreezeCommand *command,
                     const Sp__Inventory *inventory)
{
    drop_plan(q);
    q->plan = calloc(inventory->n_file_systems ? inventory->n_file_systems : 1, sizeof(*q->plan));
    if (!q->plan)
        return -ENOMEM;
    for (size_t i = 0; i < inventory->n_file_systems; i++) {
        const Sp__FileSystem *fs = inventory->file_systems[i];
        struct held *held = &q->plan[q->count++];
        held->mount_point = strdup(fs->mount_point);
        held->type = strdup(fs->type);
        held->device = strdup(fs->device);
        held->devno = strdup(fs->devno);
        held->level = inventory_loop_depth(inventory, fs->device);
        preset(q, command, fs, held);
        if (!held->mount_point || !held->type || !held->device || !held->devno)
            return -ENOMEM;
    }
    return 0;
}

/* What does not sync in time would hang in FIFREEZE as well, with its writers stopped: it is not
 * frozen, the others are. */
static int sync_plan(struct quiesce *q, unsigned budget_ms)
{
    int fds[FREEZE_LIST_MOST] = {0}, results[FREEZE_LIST_MOST] = {0};
    struct held *of[FREEZE_LIST_MOST];
    size_t count = 0;
    for (size_t i = 0; i < q->count; i++)
        if (q->plan[i].fd >= 0) {
            if (count == FREEZE_LIST_MOST)
                return -E2BIG;
            of[count] = &q->plan[i];
            fds[count++] = q->plan[i].fd;
        }
    int r = sync_bounded(fds, count, budget_ms ? budget_ms : DEFAULT_SYNC_MS, results);
    for (size_t i = 0; r == 0 && i < count; i++)
        if (results[i] == -ETIMEDOUT) {
            of[i]->outcome = OUTCOME(BLOCKED);
            of[i]->error = ETIMEDOUT;
            close(of[i]->fd);
            of[i]->fd = -1;
        }
    return r;
}

/* ---- who wrote in spite of it ---- */

/* Sectors written since boot: the seventh number of the stat file (Documentation/block/stat.rst).
 */
static bool read_sectors(const struct quiesce *q, const char *device, uint64_t *ret)
{
    SP_FREE char *path = sp_format("%s/class/block/%s/stat", q->options.roots->sys, device);
    SP_FREE char *text = NULL;
    if (!path || sp_file_read(path, 4096, &text, NULL) < 0)
        return false;
    unsigned long long n[7];
    if (sscanf(text, "%llu %llu %llu %llu %llu %llu %llu", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5],
               &n[6]) != 7)
        return false;
    *ret = n[6];
    return true;
}

static void count_before(struct quiesce *q)
{
    for (size_t i = 0; i < q->count; i++)
        if (q->plan[i].fd >= 0)
            q->plan[i].sectors_known =
                read_sectors(q, q->plan[i].device, &q->plan[i].sectors_before);
}

/* An idle, synced file system that cannot freeze is as good as frozen. */
static void settle_unsupported(struct quiesce *q)
{
    for (size_t i = 0; i < q->count; i++) {
        struct held *held = &q->plan[i];
        uint64_t now;
        if (held->outcome != OUTCOME(UNSUPPORTED) || !held->sectors_known)
            continue;
        held->wrote = !read_sectors(q, held->device, &now) || now != held->sectors_before;
        if (!held->wrote)
            held->outcome = OUTCOME(SYNCED);
    }
}

/* ---- freeze ---- */

static void take_outcomes(struct quiesce *q, const struct freezer_report *report)
{
    for (size_t i = 0; i < q->count; i++) {
        struct held *held = &q->plan[i];
        if (held->target < 0)
            continue;
        const struct freezer_outcome *outcome = &report->outcomes[held->target];
        held->freeze_us = outcome->freeze_us;
        held->error = outcome->freeze_error;
        switch (outcome->state) {
        case FREEZE_ENTRY_FROZEN:
        case FREEZE_ENTRY_THAWING:
        case FREEZE_ENTRY_THAWED:
            held->outcome = OUTCOME(FROZEN);
            break;
        case FREEZE_ENTRY_REFUSED:
            held->outcome = held->error == EOPNOTSUPP || held->error == ENOTTY
                                ? OUTCOME(UNSUPPORTED)
                            : held->error == EBUSY ? OUTCOME(BUSY)
                                                   : OUTCOME(FAILED);
            break;
        case FREEZE_ENTRY_IDLE:
            held->outcome = OUTCOME(FAILED);
            held->error = ETIME;
            break;
        default:
            held->outcome = OUTCOME(BLOCKED);
            break;
        }
    }
}

static int add_result(Sp__FreezeResult ***array, size_t *count, const struct held *held,
                      const struct freezer_report *report)
{
    Sp__FreezeResult *m = malloc(sizeof(*m));
    if (!m)
        return -ENOMEM;
    sp__freeze_result__init(m);
    int r = message_append(array, count, m);
    if (r < 0) {
        free(m);
        return r;
    }
    m->outcome = held->outcome;
    m->error = held->error;
    m->freeze_us = held->freeze_us;
    m->wrote_while_held = held->wrote;
    if (report && held->target >= 0) {
        m->thaw_us = report->outcomes[held->target].thaw_us;
        m->thaw_error = report->outcomes[held->target].thaw_error;
    }
    r = message_text(&m->mount_point, held->mount_point);
    if (r == 0)
        r = message_text(&m->type, held->type);
    return r == 0 ? message_text(&m->device, held->device) : r;
}

static int freeze_plan(struct quiesce *q, const char *operation_id, uint32_t lease_ms,
                       struct freezer_report *report, struct sp_why *why)
{
    struct freezer_target targets[FREEZE_LIST_MOST];
    uint32_t count = 0;
    for (size_t i = 0; i < q->count; i++) {
        struct held *held = &q->plan[i];
        if (held->fd < 0)
            continue;
        held->target = (int)count;
        targets[count++] = (struct freezer_target){.mount_point = held->mount_point,
                                                   .devno = held->devno,
                                                   .level = held->level,
                                                   .fd = held->fd};
    }
    count_before(q);
    return freezer_freeze(q->freezer, operation_id, targets, count, lease_ms, report, why);
}

static uint64_t boottime_us_of(uint64_t monotonic_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    uint64_t boot = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    return monotonic_ns ? boot - (freeze_now_ns() - monotonic_ns) / 1000 : boot;
}

static int make_freeze_answer(struct quiesce *q, uint32_t lease_ms,
                              const struct freezer_report *report,
                              const struct inventory_roots *roots, bool held,
                              Sp__FreezeAnswer **ret)
{
    Sp__FreezeAnswer *answer = malloc(sizeof(*answer));
    if (!answer)
        return -ENOMEM;
    sp__freeze_answer__init(answer);
    *ret = answer;
    answer->lease_ms = lease_ms;
    answer->window_started_boottime_us = boottime_us_of(report->first_freeze_ns);
    if (report->last_freeze_ns > report->first_freeze_ns)
        answer->freeze_us = (report->last_freeze_ns - report->first_freeze_ns) / 1000;
    int r = 0;
    for (size_t i = 0; r == 0 && i < q->count; i++)
        r = add_result(&answer->results, &answer->n_results, &q->plan[i], NULL);
    /* Again, now that nothing changes: this one describes the snapshot. */
    if (r == 0 && held)
        r = inventory_read(roots, &answer->inventory, NULL);
    return r;
}

static uint32_t lease_of(const struct agent_config *config, uint32_t asked_ms)
{
    uint64_t lease = asked_ms ? asked_ms : config->default_lease_ms;
    return (uint32_t)(lease > config->max_lease_ms ? config->max_lease_ms : lease);
}

int quiesce_freeze(struct quiesce *q, const char *operation_id, const Sp__FreezeCommand *command,
                   Sp__FreezeAnswer **ret, struct sp_why *why)
{
    struct freezer_status status;
    freezer_state(q->freezer, &status);
    if (status.frozen)
        return sp_why_set(why, -EBUSY, "frozen already by operation %s", status.operation_id);
    /* crypttab lies on a file system that may be frozen when it is read again. */
    SP_FREE char *crypttab = NULL;
    struct inventory_roots roots = *q->options.roots;
    if (!roots.crypttab_text && roots.crypttab &&
        sp_file_read(roots.crypttab, 1 << 20, &crypttab, NULL) < 0)
        crypttab = strdup("");
    if (crypttab)
        roots.crypttab_text = crypttab;

    int r = take_allowance(q, why);
    Sp__Inventory *before = NULL;
    if (r == 0)
        r = inventory_read(&roots, &before, why);
    if (r == 0) {
        r = make_plan(q, command, before);
        sp__inventory__free_unpacked(before, NULL);
    }
    if (r == 0)
        r = sync_plan(q, command->sync_budget_ms);
    if (r < 0)
        return r;
    struct freezer_report *report = calloc(1, sizeof(*report));
    if (!report)
        return -ENOMEM;
    uint32_t lease_ms = lease_of(q->options.config, command->lease_ms);
    r = freeze_plan(q, operation_id, lease_ms, report, why);
    close_plan(q); /* the freezer has its own */
    if (r == 0 || r == -ETIME) {
        q->complete = r == 0;
        q->window_started_ns = report->first_freeze_ns;
        take_outcomes(q, report);
        int made = make_freeze_answer(q, lease_ms, report, &roots, r == 0, ret);
        if (made < 0 && r == 0) {
            quiesce_abort(q, false); /* nobody would learn of it */
            sp__freeze_answer__free_unpacked(*ret, NULL);
            *ret = NULL;
            r = made;
        }
    }
    free(report);
    return r;
}

/* ---- thaw ---- */

static bool all_thawed(const struct quiesce *q, const struct freezer_report *report)
{
    if (!q->complete || report->ended_by != FREEZE_END_COMMAND)
        return false;
    for (size_t i = 0; i < q->count; i++) {
        const struct held *held = &q->plan[i];
        if (held->outcome != OUTCOME(FROZEN))
            continue;
        const struct freezer_outcome *outcome = &report->outcomes[held->target];
        if (outcome->state != FREEZE_ENTRY_THAWED || outcome->thaw_error != 0)
            return false;
    }
    return true;
}

int quiesce_thaw(struct quiesce *q, const char *freeze_operation_id, Sp__ThawAnswer **ret,
                 struct sp_why *why)
{
    struct freezer_status status;
    freezer_state(q->freezer, &status);
    if (status.frozen && strcmp(status.operation_id, freeze_operation_id) == 0)
        settle_unsupported(q);
    struct freezer_report *report = calloc(1, sizeof(*report));
    Sp__ThawAnswer *answer = malloc(sizeof(*answer));
    int r = report && answer ? 0 : -ENOMEM;
    if (answer)
        sp__thaw_answer__init(answer);
    if (r == 0)
        r = freezer_thaw(q->freezer, freeze_operation_id, report, why);
    if (r == 0) {
        answer->all_thawed_on_command = all_thawed(q, report);
        if (report->last_thaw_ns > report->first_freeze_ns && report->first_freeze_ns)
            answer->window_us = (report->last_thaw_ns - report->first_freeze_ns) / 1000;
        r = message_text(&answer->ended_by, freeze_end_name(report->ended_by));
    }
    for (size_t i = 0; r == 0 && i < q->count; i++)
        r = add_result(&answer->results, &answer->n_results, &q->plan[i], report);
    free(report);
    if (r < 0) {
        sp__thaw_answer__free_unpacked(answer, NULL);
        return r;
    }
    *ret = answer;
    return 0;
}
