/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One run of one hook: a process group of its own, as its user, within its time. See hooks.h for
 * what the hook is promised. */
#ifndef SEALPOINT_AGENT_HOOK_PROCESS_H
#define SEALPOINT_AGENT_HOOK_PROCESS_H

#include "base/why.h"
#include <stdbool.h>
#include <sys/types.h>

#define HOOK_PRE_FREEZE "pre-freeze"
#define HOOK_POST_THAW  "post-thaw"

enum { HOOK_CANNOT_RUN = 126, HOOK_GROUPS_MOST = 64 };

struct hook_user {
    char name[64], home[256];
    uid_t uid;
    gid_t gid, groups[HOOK_GROUPS_MOST];
    int group_count;
    bool other; /* not the one that this process runs as */
};
/* NULL or "": the user of this process. -ENOENT: no such user. */
int hook_user_find(const char *name, struct hook_user *ret, struct sp_why *why);

struct hook_process {
    const char *path, *phase, *folder, *operation_id;
    unsigned hold_seconds, timeout_ms;
    const struct hook_user *user;
};
struct hook_outcome {
    int exit_status; /* 128 + signal if one ended it */
    bool timed_out;
    char output[4097];
};
/* Blocks. 0: it was run; a negative errno: it could not be. What it started in the background goes
 * on, unless its time was over: then the whole group is ended. */
int hook_run(const struct hook_process *process, struct hook_outcome *ret, struct sp_why *why);

#endif
