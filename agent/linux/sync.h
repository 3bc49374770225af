/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * syncfs(2) of several file systems, or fsync(2) of block devices, at once, waited for no longer
 * than a time. */
#ifndef SEALPOINT_AGENT_SYNC_H
#define SEALPOINT_AGENT_SYNC_H

#include <stddef.h>

/* results[i]: 0, a negative errno of the call, or -ETIMEDOUT (its thread goes on by itself with a
 * duplicate of the fd). 0 or -ENOMEM. */
int sync_bounded(const int *fds, size_t count, unsigned budget_ms, int *results);

#endif
