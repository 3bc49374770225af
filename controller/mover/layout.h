/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which parts of a disk are ciphertext of the guest: stored as they are. All else is sealed. */
#ifndef SEALPOINT_MOVER_LAYOUT_H
#define SEALPOINT_MOVER_LAYOUT_H

#include <sealpoint/v1/node.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct layout_range {
    uint64_t start, end;
};

/* Sorted, joined, within the disk. Zero-initialise; free `ranges`. */
struct layout {
    struct layout_range *ranges;
    size_t count;
};

/* The ciphertext ranges of one disk. 0, -ENOMEM, -EINVAL (a range that is not on the disk). */
int layout_of(const Sp__TransferRequest *, const char *disk_id, uint64_t size_bytes,
              struct layout *ret);
/* Whether all of it is ciphertext. A piece that is in part counts as clear: sealing too much is
 * safe. */
bool layout_is_ciphertext(const struct layout *, uint64_t offset, uint64_t length);
/* The ranges as extents for DiskImage.ciphertext; to free with the message. 0, -ENOMEM. */
int layout_extents(const struct layout *, const char *disk_id, size_t *ret_count,
                   Sp__DiskExtent ***ret);

#endif
