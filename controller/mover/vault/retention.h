/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which points of one machine its retention keeps. Pure.
 *
 * The rules go by the points alone and never by the time of day: a clock that jumps expires
 * nothing. Points that are not valid are counted apart, by the same rules, so that they never push
 * a valid one out. */
#ifndef SEALPOINT_VAULT_RETENTION_H
#define SEALPOINT_VAULT_RETENTION_H

#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct retention_point {
    uint64_t taken_unix_ms, sequence;
    bool valid;
    bool held; /* kept, and counted by no rule */
    bool keep; /* the answer */
};

/* Sets `keep` of each. The newest point and the newest valid one (by number and by time) are always
 * kept; without rules all are. */
void retention_apply(const Sp__Retention *, struct retention_point *, size_t count);

#endif
