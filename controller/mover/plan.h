/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which disks of a snapshot are copied as increments, and which in full.
 *
 *   the source knows the changes since a point ── and ── that point's disk, of the same size, is in
 *   the vault ── and ── a random 0.5 % of what should be unchanged is unchanged  ─▶ increment
 *
 * When a single chunk is not as it should be, the record of changes of this source is not to be
 * trusted: every disk is copied in full. */
#ifndef SEALPOINT_MOVER_PLAN_H
#define SEALPOINT_MOVER_PLAN_H

#include "controller/mover/mover.h"

struct plan_disk {
    const char *disk_id;
    const Sp__BaseDisk *base; /* the request's; NULL: in full */
    char *full_why;           /* NULL: nobody expected an increment */
    uint64_t reread_bytes;
};

struct plan {
    struct plan_disk *disks; /* as in the snapshot, skipped ones included */
    size_t count;
};

/* Reads from the source and from the maps in the vault. -ECANCELED, -EIO: the source is lost. Free
 * with plan_free() also after a failure; request and snapshot must outlive the plan. */
int plan_make(const struct source *, struct source_snapshot *, const Sp__SnapshotResponse *,
              const Sp__TransferRequest *, struct vault *, const struct mover_transfer_hooks *,
              struct plan *ret, struct sp_why *why);
void plan_free(struct plan *);
/* In full after all. */
int plan_drop(struct plan_disk *, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The reasons as findings that lower nothing. */
int plan_notes(const struct plan *, size_t *ret_count, Sp__Finding ***ret);

#endif
