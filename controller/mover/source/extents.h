/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Where a file's bytes lie on its file system, and what differs between two files that share
 * blocks: a clone and what the original has become. FIEMAP (Linux
 * Documentation/filesystems/fiemap.rst). */
#ifndef SEALPOINT_SOURCE_EXTENTS_H
#define SEALPOINT_SOURCE_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct extent {
    uint64_t at, length; /* in the file, in bytes */
    uint64_t on;         /* on the device */
    bool certain; /* the same place means the same bytes: not inline, packed or yet to be written */
};
struct extents {
    struct extent *all; /* in the file's order, without overlap; holes and zeros left out */
    size_t count;
};

struct extent_range {
    uint64_t at, length;
};

/* All of a file's; what is not written yet gets its place first. 0, -EOPNOTSUPP: the file system
 * does not tell; others. */
int extents_load(int fd, struct extents *ret);
void extents_clear(struct extents *);

/* The ranges of [0, size) in which `now` may hold other bytes than `before`, in order. Both files
 * must exist while this is believed: else a place may have been given to other bytes. *ret is new.
 * 0 or -ENOMEM. Pure. */
int extents_changed(const struct extents *before, const struct extents *now, uint64_t size_bytes,
                    struct extent_range **ret, size_t *ret_count);

#endif
