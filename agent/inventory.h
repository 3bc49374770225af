/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the agent knows of its guest's storage: every block device, what it lies on and what is in
 * it, every encrypted or clear volume, every file system once.
 *
 * Reads only; never opens a device for writing. Blocking: not for an RPC loop. Any thread, each
 * call for itself. It touches nothing but /proc, /sys, /dev, /run and crypttab, whose text can be
 * read beforehand, so that it may run while everything is frozen. */
#ifndef SEALPOINT_AGENT_INVENTORY_H
#define SEALPOINT_AGENT_INVENTORY_H

#include "base/why.h"
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

/* One line of a device-mapper table, without key material. */
struct inventory_dm_target {
    uint64_t start_sectors, length_sectors;
    char type[16];   /* linear, crypt, striped, … */
    char device[24]; /* linear, crypt: "major:minor" below */
    uint64_t device_offset_sectors;
    char cipher[64]; /* crypt */
    uint32_t key_bits;
    uint64_t iv_offset_sectors;
    uint32_t sector_bytes;
};

struct suspend_state; /* linux/suspend.h */

/* Devices that were searched in vain for what lost its first sector: not again at every change.
 * Zero-initialised; of one thread. */
struct inventory_memory {
    struct {
        uint8_t digest[32]; /* of devno, size and the first bytes */
    } searched[64];
    size_t next;
};

/* Where to look; tests put trees of their own there. */
struct inventory_roots {
    const char *sys, *proc, *dev, *run;
    const char *crypttab;      /* a path */
    const char *crypttab_text; /* not NULL: its content, read before; the path is not opened */
    /* Reads the table of the dm device: at most `most` targets. The number of targets or a negative
     * errno; -ENOSYS: no device-mapper here. NULL: none. */
    int (*dm_table)(void *self, const char *devno, struct inventory_dm_target *targets,
                    unsigned most);
    /* What the dm device does at this moment; 0 or a negative errno. NULL: none. */
    int (*dm_look)(void *self, const char *devno, struct suspend_state *ret);
    void *self;
    struct inventory_memory *memory; /* NULL: none */
};
extern const struct inventory_roots inventory_roots_system;

/* *ret: free with sp__inventory__free_unpacked(). Devices that cannot be read are in it all the
 * same, without content. 0 or negative errno. */
int inventory_read(const struct inventory_roots *roots, Sp__Inventory **ret, struct sp_why *why);

/* The same, right after `before` was read: what that says of a device is taken over where the bytes
 * still say it, which is cheaper than to ask what they may be: a header by its fingerprint, a file
 * system or partition table by looking for this very kind. All that needs no reading of devices
 * (sysfs, mounts, dm tables) is read anew. */
int inventory_read_again(const struct inventory_roots *roots, const Sp__Inventory *before,
                         Sp__Inventory **ret, struct sp_why *why);

/* SHA-256 over what does not move by itself: all but times, sequence and digest. */
int inventory_digest(const Sp__Inventory *inventory, uint8_t out[32]);

/* CLOCK_BOOTTIME in ms. */
uint64_t inventory_boottime_ms(void);

/* How many loop devices lie between the device (kernel name) and its disks. File systems with more
 * are frozen first. */
unsigned inventory_loop_depth(const Sp__Inventory *inventory, const char *device);

const Sp__BlockDevice *inventory_device(const Sp__Inventory *inventory, const char *name);

#endif
