/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Freeze and thaw as the controller sees them: which file systems, in which order, synced before
 * within a time, held by the freezer, and what became of each.
 *
 *   hooks ─▶ plan (inventory) ─▶ sync, bounded ─▶ freeze ─▶ inventory again ─▶ … hold …
 *         ─▶ thaw ─▶ hooks, in reverse
 *
 * However a freeze ends, the post-thaw hooks run after it: in quiesce_thaw(), on a thread of their
 * own when it ended by itself, in the next quiesce_new() when the agent was killed. Loop devices:
 * the file system on one is frozen before the one that holds its file. Calls block: one worker
 * thread makes them, except quiesce_abort() and quiesce_state(). */
#ifndef SEALPOINT_AGENT_QUIESCE_H
#define SEALPOINT_AGENT_QUIESCE_H

#include "agent/config.h"
#include "agent/inventory.h"
#include "agent/linux/hooks.h"
#include <sealpoint/v1/agent_link.pb-c.h>

struct quiesce;

struct quiesce_options {
    const struct agent_config *config;
    const struct inventory_roots *roots;
    /* A freeze ended by itself; on a thread of its own. `ended_by` as in ThawAnswer. */
    void (*on_ended)(void *self, const char *operation_id, const char *ended_by);
    void *self;
    const char *runtime;             /* NULL: the configuration's */
    const char *const *freezer_argv; /* NULL: this program */
};
int quiesce_new(const struct quiesce_options *options, struct quiesce **ret, struct sp_why *why);
/* Thaws. NULL is fine. */
void quiesce_free(struct quiesce *q);

/* Freezes. *ret: results, inventory and lease; also set when the freeze ended before it was held
 * (-ETIME; `why` names the file system that blocked). Free with sp__freeze_answer__free_unpacked().
 * Other errors: -EBUSY (one is held, or one hangs), -EDQUOT (more freezes than most_per_hour),
 * -EIO. */
int quiesce_freeze(struct quiesce *q, const char *operation_id, const Sp__FreezeCommand *command,
                   Sp__FreezeAnswer **ret, struct sp_why *why);
/* Thaws the freeze of that operation. -ENOENT: it is not the last one here. */
int quiesce_thaw(struct quiesce *q, const char *freeze_operation_id, Sp__ThawAnswer **ret,
                 struct sp_why *why);
/* Ends any freeze, without waiting: on a Thaw command, or since the agent itself ends. */
void quiesce_abort(struct quiesce *q, bool commanded);
/* From the hand-over to the freezer to the last thaw. Any thread. */
bool quiesce_is_frozen(struct quiesce *q);
/* Fills an initialised message; its strings are allocated. 0 or -ENOMEM. */
int quiesce_state(struct quiesce *q, Sp__FreezeState *state);
/* The hooks of this configuration; borrows from it. */
void quiesce_hooks_options(const struct agent_config *config, const char *runtime,
                           struct hooks_options *ret);
/* 0: the freezer's memory is locked; else the errno. */
int quiesce_lock_error(struct quiesce *q);

#endif
