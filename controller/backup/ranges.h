/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sets of byte ranges on one disk: sorted, merged, overflow-checked. One owner. */
#ifndef SEALPOINT_BACKUP_RANGES_H
#define SEALPOINT_BACKUP_RANGES_H

#include "base/cleanup.h"
#include <stddef.h>
#include <stdint.h>

struct range {
    uint64_t start, end; /* bytes, end excluded */
};

struct ranges {
    struct range *at;
    size_t count, capacity;
};

/* Adds in any order; an empty range is ignored. -EOVERFLOW when start + length leaves 64 bits. */
int ranges_add(struct ranges *, uint64_t start, uint64_t length);
/* Sorts and merges what touches. Before any lookup. */
void ranges_settle(struct ranges *);
/* Makes neighbours one, the closest first (gaps double), until at most `most` (1 or more) are left.
 * Of a settled set. */
void ranges_coarsen(struct ranges *, size_t most);
/* Calls `each` for the parts of [start, end) that are not in the set; a negative return ends. */
int ranges_outside(const struct ranges *, uint64_t start, uint64_t end,
                   int (*each)(void *arg, uint64_t start, uint64_t end), void *arg);
/* Calls `each` for the parts of [start, end) that are in the set. */
int ranges_inside(const struct ranges *, uint64_t start, uint64_t end,
                  int (*each)(void *arg, uint64_t start, uint64_t end), void *arg);
void ranges_free(struct ranges *);
#define RANGES __attribute__((cleanup(ranges_free)))

#endif
