/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which disk of the guest is which disk of the source: by serial, else by a volume's UUID seen on
 * both sides, else by PCI path. Two candidates are no match: the disk then counts as missing.
 *
 * Also: the guest's own names in an inventory are replaced by the source's disk ids, so that
 * extents of both sides speak of the same disks. Pure. */
#ifndef SEALPOINT_BACKUP_MATCH_H
#define SEALPOINT_BACKUP_MATCH_H

#include "controller/backup/finding.h"
#include <sealpoint/v1/keeper.pb-c.h>
#include <sealpoint/v1/node.pb-c.h>
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stddef.h>

/* One disk of the guest. Points into the inventory and the list of disks. */
struct match_pair {
    const Sp__BlockDevice *guest;
    const Sp__SourceDisk *source; /* NULL: none */
    bool ambiguous;
};
struct match {
    struct match_pair *pairs;
    size_t count;
};

/* `look` (of the snapshot) may be NULL: no UUIDs then. `disks`: all that the source described, also
 * the skipped ones. -ENOMEM. */
int match_disks(const Sp__Inventory *, Sp__SourceDisk *const *disks, size_t disk_count,
                const Sp__LookResponse *look, struct match *ret);
void match_free(struct match *);
#define MATCH __attribute__((cleanup(match_free)))

/* The source's disk for a name that the inventory uses in extents (serial or kernel name); NULL. */
const Sp__SourceDisk *match_find(const struct match *, const char *guest_disk);
/* Whether a file system lies, through whatever stack, on a disk for which `captured` says so. What
 * cannot be followed counts as captured. */
bool match_on_captured(const struct match *, const Sp__Inventory *, const Sp__FileSystem *,
                       bool (*captured)(void *self, const Sp__SourceDisk *), void *self);
/* Appends DISK_MISSING for every disk of the guest that could hold data and has no match. */
int match_report(const struct match *, struct finding_list findings);
/* Rewrites disk ids in extents, and in the ids of plain volumes, to the source's. */
int match_rewrite(const struct match *, Sp__Inventory *);

#endif
