/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Every non-zero range of a captured disk must be something known. What is left is
 * UNIDENTIFIED_CONTENT: it may be a closed plain or detached volume.
 *
 *   stored data of the disk  −  uses (look, proved plain and detached volumes)  −  zero blocks */
#ifndef SEALPOINT_BACKUP_ACCOUNTING_H
#define SEALPOINT_BACKUP_ACCOUNTING_H

#include "base/why.h"
#include "controller/backup/finding.h"
#include "controller/backup/ranges.h"
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>

enum { ACCOUNTING_BLOCK_BYTES = 4096, ACCOUNTING_MAX_RANGES = 1024 };

/* Where the disk's bytes come from: the vault's reader, a table in tests. */
struct accounting_disk {
    const char *disk_id;
    uint64_t size_bytes;
    /* As vault_reader_at and vault_reader_next_data. */
    int (*read_at)(void *self, uint64_t offset, void *out, uint32_t length, struct sp_why *why);
    int (*next_data)(void *self, uint64_t offset, uint64_t *ret_offset, uint64_t *ret_length,
                     struct sp_why *why);
    void *self;
};

/* Adds the uses of this disk from the look to `uses`. */
int accounting_add_uses(struct ranges *uses, const char *disk_id, Sp__RangeUse *const *list,
                        size_t count);
/* Adds the pieces of a volume that lie on this disk. */
int accounting_add_volume(struct ranges *uses, const char *disk_id, const Sp__Volume *);

/* Ranges (in blocks, merged) that hold data nobody accounts for, into `left`. `uses` must be
 * settled. Reads only what is not used. */
int accounting_left(const struct accounting_disk *, const struct ranges *uses, struct ranges *left,
                    struct sp_why *why);

/* One finding for the disk, when something is left: how many ranges and bytes, and where the first
 * ones are. */
int accounting_report(const char *disk_id, const struct ranges *left, struct finding_list findings);
/* Adds what is left to the manifest's ranges, as "unidentified". Beyond ACCOUNTING_MAX_RANGES the
 * closest neighbours become one, so that all of them are covered: `left` is changed. */
int accounting_keep(const char *disk_id, struct ranges *left, Sp__Manifest *);

#endif
