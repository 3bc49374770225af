/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Programs of the administrator that run before the first freeze and after the last thaw, so that
 * an application is consistent in the snapshot. Never while anything is frozen.
 *
 *   hooks_before ─▶ mark ─▶ 10-a pre-freeze ─▶ 20-b pre-freeze ─▶ … freeze, thaw …
 *   hooks_after  ─▶ 20-b post-thaw ─▶ 10-a post-thaw ─▶ no mark
 *
 * The mark, <runtime>/hooks on a tmpfs, names every hook whose pre-freeze was started; it is
 * written before the start and is all the state there is. So post-thaw runs also when the agent was
 * killed in between: the next agent and `thaw-left-over` call hooks_after(). A hook may see
 * post-thaw twice, and without a pre-freeze that succeeded.
 *
 * A hook is FOLDER/NAME, an executable whose name has only letters, digits, '_' and '-' (as
 * run-parts(8) wants it), run in the order of the names as
 *
 *     NAME pre-freeze      NAME post-thaw
 *
 * with a clean environment (below), standard input from /dev/null, both outputs kept (4 KiB), in a
 * process group of its own, which is ended when the time is over. Its working directory is a folder
 * of its own, empty at pre-freeze, on a tmpfs, gone after post-thaw: what it wants to keep from one
 * call to the other lies there.
 *
 *     PATH, LANG, HOME, USER   as usual
 *     SEALPOINT_OPERATION      id of the freeze
 *     SEALPOINT_HOLD_SECONDS   post-thaw comes before that, unless the agent is dead: a lock that
 * is held should end by itself then
 *
 * It runs as the agent's user (root) or as `run_as` says. Folder and hook must belong to root and
 * be writable by nobody else, and so must every folder above them; otherwise it does not run, which
 * is a failure of the hook. A failed hook does not stop the freeze: it costs the grade.
 *
 * Calls block. One at a time for one runtime folder. */
#ifndef SEALPOINT_AGENT_HOOKS_H
#define SEALPOINT_AGENT_HOOKS_H

#include "base/why.h"
#include <sealpoint/v1/agent_link.pb-c.h>

enum { HOOKS_MOST = 32, HOOKS_OUTPUT_BYTES = 4096 };

struct hooks_options {
    const char *folder;  /* a missing or an empty one: no hooks */
    const char *run_as;  /* "NAME:USER,NAME:USER"; the others run as the agent does */
    const char *runtime; /* on a tmpfs */
    unsigned timeout_ms; /* of each call */
};

/* Results, in the order in which they ran; their exit_status: 0, what the program returned, 128 +
 * the signal that ended it, or 126: it could not be run, `output` says why. */
struct hooks_results {
    Sp__HookResult **at;
    size_t count;
};
void hooks_results_free(struct hooks_results *results);

/* Runs pre-freeze of every hook. 0, also when some failed, or a negative errno: nothing was run, or
 * not all. hooks_after() must follow in any case. */
int hooks_before(const struct hooks_options *options, const char *operation_id,
                 unsigned hold_seconds, struct hooks_results *results, struct sp_why *why);

/* Runs post-thaw of the hooks on the mark, in reverse order. 0 also when there is no mark. */
int hooks_after(const struct hooks_options *options, struct hooks_results *results,
                struct sp_why *why);

/* Names of the hooks, sorted, and what keeps each from being run ("" if nothing), without running
 * them. `names` and `faults` are arrays of `count` strings; hooks_names_free(). */
struct hooks_names {
    char **names, **faults;
    size_t count;
};
int hooks_names(const struct hooks_options *options, struct hooks_names *ret, struct sp_why *why);
void hooks_names_free(struct hooks_names *names);

#endif
