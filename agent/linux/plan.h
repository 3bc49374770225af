/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which file systems a freeze takes, and which devices that are in use without one, in which order,
 * and what became of each.
 *
 *   plan_make ─▶ plan_sync ─▶ plan_targets ─▶ (freezer) ─▶ plan_take ─▶ … hold … ─▶ plan_settle
 *
 * For the one worker thread that freezes and thaws. */
#ifndef SEALPOINT_AGENT_PLAN_H
#define SEALPOINT_AGENT_PLAN_H

#include "agent/config.h"
#include "agent/inventory.h"
#include "agent/linux/freezer.h"
#include <sealpoint/v1/agent_link.pb-c.h>

/* One file system, or device. */
struct held {
    char *mount_point, *type, *device, *devno;
    char *node;     /* of a raw device: its node; its mount_point is the path to name it by. NULL: a
                     * file system */
    uint32_t level; /* higher is frozen first */
    int fd;         /* of the mount, or suspend_open(); -1: not to be frozen */
    int target;     /* its index in the freezer, -1: none */
    Sp__FreezeResult__Outcome outcome;
    int error;
    uint64_t freeze_us, sectors_before;
    bool sectors_known, wrote;
};

struct plan {
    struct held *at;
    size_t count;
};

/* Every file system of the inventory, and the raw devices that freeze.suspend names; opens the
 * mounts of those that are to be frozen. 0 or -ENOMEM; plan_drop() in either case. */
int plan_make(struct plan *plan, const struct agent_config *config,
              const struct inventory_roots *roots, const Sp__FreezeCommand *command,
              const Sp__Inventory *inventory);
/* Closes the mounts: an open descriptor keeps a file system from being unmounted. */
void plan_close(struct plan *plan);
void plan_drop(struct plan *plan);

/* Syncs what is to be frozen, again and again until little is left to write, within the budget.
 * What does not sync in time is BLOCKED and closed: it would hang in FIFREEZE, with its writers
 * stopped; the others are frozen. 0, -ENOMEM or -E2BIG (more than FREEZE_LIST_MOST). */
int plan_sync(struct plan *plan, unsigned budget_ms, uint64_t *ret_us);

/* Fills `targets` (FREEZE_LIST_MOST) and returns how many; notes how much was written so far to
 * each device (`sys`: where sysfs is). */
uint32_t plan_targets(struct plan *plan, const char *sys, struct freezer_target *targets);
/* What the freezer says of them. */
void plan_take(struct plan *plan, const struct freezer_report *report);
/* Before the thaw: a file system that cannot freeze, was synced and had nothing written meanwhile
 * is as good as frozen. */
void plan_settle(struct plan *plan, const char *sys);
/* True if everything that was frozen was thawed with success. */
bool plan_all_thawed(const struct plan *plan, const struct freezer_report *report);
/* The first mount point that did not freeze before the deadline, NULL if none. */
const char *plan_blocked(const struct plan *plan);

/* A FreezeResult for each, appended; thaw facts where `report` is not NULL. 0 or -ENOMEM. */
int plan_results(const struct plan *plan, const struct freezer_report *report,
                 Sp__FreezeResult ***array, size_t *count);

#endif
