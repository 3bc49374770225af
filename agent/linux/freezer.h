/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The agent's side of the freezer: starts the process, hands it mounts, waits for its answers,
 * watches its life, and thaws by the frozen list when it dies.
 *
 *   worker thread: freezer_freeze() … freezer_thaw()      any thread: freezer_abort(), _state()
 *   watch thread (own): answers on the socket, the freezer's pidfd
 *
 * One freeze at a time. */
#ifndef SEALPOINT_AGENT_FREEZER_H
#define SEALPOINT_AGENT_FREEZER_H

#include "agent/linux/freeze_list.h"
#include "base/why.h"
#include <stdbool.h>
#include <stdint.h>

struct freezer; /* opaque */

struct freezer_options {
    const char *runtime;     /* folder of the frozen list, on a tmpfs */
    const char *const *argv; /* of the freezer; NULL: this program, subcommand `freezer` */
    /* Called on the watch thread when a freeze ended by anything but freezer_thaw(). */
    void (*on_ended)(void *self, const char *operation_id, enum freeze_end end);
    void *self;
};

/* One file system to freeze, or device to suspend. */
struct freezer_target {
    const char *mount_point, *devno; /* of a device its path */
    uint32_t level;
    enum freeze_kind kind;
    int fd; /* of its mount, or what suspend_open() gave; stays the caller's, a duplicate is kept
             * until the end */
};

/* What became of it; a copy out of the frozen list. */
struct freezer_outcome {
    uint32_t state; /* enum freeze_entry_state */
    int freeze_error, thaw_error;
    uint64_t freeze_us, thaw_us;
};
struct freezer_report {
    enum freeze_end ended_by;
    uint64_t first_freeze_ns, last_freeze_ns, last_thaw_ns; /* CLOCK_MONOTONIC */
    uint32_t count;
    struct freezer_outcome outcomes[FREEZE_LIST_MOST];
};

/* Thaws what an earlier run left, then starts the freezer and waits until it is armed. */
int freezer_new(const struct freezer_options *options, struct freezer **ret, struct sp_why *why);
/* Thaws what is frozen, waits for the freezer's exit. NULL is fine. */
void freezer_free(struct freezer *f);

/* Freezes; returns when every FIFREEZE has returned, or the freeze has ended. 0: held (report->
 * ended_by is NONE), also when no target could freeze. -ETIME: it ended before (ended_by says how;
 * everything is thawed or will be by its thread). -EBUSY: a freeze is under way, or a file system
 * of an earlier one still hangs. -E2BIG: too many. -EIO: no freezer. */
int freezer_freeze(struct freezer *f, const char *operation_id,
                   const struct freezer_target *targets, uint32_t count, uint32_t lease_ms,
                   struct freezer_report *report, struct sp_why *why);

/* Ends the freeze and waits for the end. 0: it ended, report says how: by this command if
 * ended_by is COMMAND. -ENOENT: that operation is not the last freeze. */
int freezer_thaw(struct freezer *f, const char *operation_id, struct freezer_report *report,
                 struct sp_why *why);

/* Ends a freeze that is under way or held, without waiting; it counts as ended by `as` (COMMAND or
 * AGENT_LOST). */
void freezer_abort(struct freezer *f, enum freeze_end as);

struct freezer_status {
    bool frozen;
    char operation_id[64];
    uint32_t remaining_ms;
    enum freeze_end last_ended_by;
};
void freezer_state(struct freezer *f, struct freezer_status *ret);

/* For tests: the process that freezes. */
int freezer_pid(struct freezer *f);
/* 0: its memory is locked; else the errno. */
int freezer_lock_error(struct freezer *f);

#endif
