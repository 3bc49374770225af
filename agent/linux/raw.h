/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Device-mapper devices that are in use without a file system: a database on a raw dm-crypt device,
 * the disk of a machine inside this one. Which there are, and which of them may be suspended.
 *
 * In use: something has it open, and that is no mount, no swap and no other block device. Only the
 * top of a stack is therefore ever meant; what lies below is held with it.
 *
 * A wrong choice would stop this guest until the freeze ends. So it is made from what is surely
 * known, and in doubt the device is left alone: one that looks like a file system or a part of one
 * (a second btrfs member, a ZFS pool, an external journal: these are open without being mounted
 * themselves), or like several things at once, or that a mount names in its options, or any device
 * at all while it cannot be told what `/` lies on. */
#ifndef SEALPOINT_AGENT_RAW_H
#define SEALPOINT_AGENT_RAW_H

#include "agent/inventory.h"
#include <stddef.h>

enum raw_verdict {
    RAW_MAY,       /* it may be suspended */
    RAW_BUSY,      /* somebody else has suspended it, or is changing its table */
    RAW_READ_ONLY, /* nothing can write to it */
    RAW_CONTENT,   /* a file system or a part of one, or it cannot be told */
    RAW_ROOT       /* it cannot be told what `/` lies on */
};

struct raw_device {
    const Sp__BlockDevice *device; /* of the inventory */
    char *path;                    /* "/dev/mapper/NAME" */
    bool listed;                   /* freeze.suspend names it */
    enum raw_verdict verdict;
};

/* All of them. `suspend`: the configuration's freeze.suspend: "all", paths with commas, or "" for
 * none. 0 or -ENOMEM; raw_free() in either case. Reads the beginning of each; blocking. */
int raw_find(const struct inventory_roots *roots, const Sp__Inventory *inventory,
             const char *suspend, struct raw_device **ret, size_t *ret_count);
void raw_free(struct raw_device *devices, size_t count);

#endif
