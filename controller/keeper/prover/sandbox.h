/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the prover gives up before it sees a hostile byte. In this order:
 *
 *   limits       address space, CPU time, descriptors, no core dumps
 *   namespaces   no network, no System V IPC of others (where allowed; seccomp stands anyway)
 *   user         root becomes nobody; no capability is left to anybody
 *   Landlock     no path can be opened, made or removed; a memfd through /proc/self/fd can
 *   seccomp      only what reading sockets and memfds, memory and threads need; no new socket
 *
 * Only one thing may be missing: Landlock, when the kernel has no such system call or was started
 * without it. Anything else that fails ends the prover. */
#ifndef SEALPOINT_PROVER_SANDBOX_H
#define SEALPOINT_PROVER_SANDBOX_H

#include "base/why.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sandbox_limits {
    uint64_t
        memory_bytes; /* address space; not with AddressSanitizer, which needs terabytes of it */
    uint64_t cpu_seconds;
};

/* All of it. 0 or negative errno with a sentence. *ret_landlock: false when the kernel lacks it. */
int sandbox_enter(const struct sandbox_limits *, bool *ret_landlock, struct sp_why *why);

/* ---- in two steps, for a process that makes provers: it enters the first, each of its children
 * the second. Together they are sandbox_enter(). ---- */

/* What step one leaves for step two: the seccomp filter, compiled. */
struct sandbox {
    bool landlock;
    void *filter;
    size_t filter_bytes;
};

/* Namespaces, user, Landlock, descriptors, no core dumps. May still fork. */
int sandbox_enter_maker(struct sandbox *ret, struct sp_why *why);
/* Address space, CPU time, seccomp. `ret` of the maker. */
int sandbox_enter_job(const struct sandbox *, const struct sandbox_limits *, struct sp_why *why);
void sandbox_free(struct sandbox *);

#endif
