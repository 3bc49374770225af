/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The two sides of a snapshot: what the guest said (inventory, disk ids already rewritten by
 * match_rewrite) and what an independent look at the stored bytes found. Pure.
 *
 * Fills volumes, ranges, headers and findings of a manifest. Volumes that only the guest can know
 * (plain dm-crypt, detached headers, swap with a random key) come from the inventory and still have
 * to be proved against the stored bytes; everything else comes from the look. */
#ifndef SEALPOINT_BACKUP_COMPARE_H
#define SEALPOINT_BACKUP_COMPARE_H

#include <sealpoint/v1/keeper.pb-c.h>
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>

/* How far the inventory can be trusted to describe this very snapshot. */
enum compare_age {
    COMPARE_NONE,    /* there is no inventory */
    COMPARE_OFFLINE, /* the last one of a machine that is off */
    COMPARE_STALE,   /* the last one of a machine whose agent did not answer */
    COMPARE_NOW      /* read during this backup */
};

/* manifest->inventory, ->disks and ->headers (from the guest) are set; volumes, ranges and findings
 * are appended to. -ENOMEM. */
int compare(enum compare_age, const Sp__LookResponse *, Sp__Manifest *manifest);

/* Whether the volume is encrypted and its key must be proved. */
bool compare_needs_proof(const Sp__Volume *);
/* Whether the volume is known from the guest only, so that the look's ranges lack it. */
bool compare_from_guest_only(const Sp__Volume *);
/* The snapshot's volume as the inventory knows it; NULL. Where several have its UUID the place says
 * which. */
const Sp__Volume *compare_find(const Sp__Inventory *, const Sp__Volume *);

#endif
