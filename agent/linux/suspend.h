/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Suspending device-mapper devices (`dmsetup suspend`), for those that are in use without a file
 * system.
 *
 * Over a descriptor of /dev/mapper/control that was opened beforehand, and without libdevmapper:
 * nothing is allocated, neither here nor, for these calls, in the kernel, so that the freezer may
 * make them while everything is held. (<linux/dm-ioctl.h>, drivers/md/dm-ioctl.c.)
 *
 * A suspension waits for the I/O that is under way and keeps back what comes after it. It is made
 * without "lockfs": no file system lies on these devices, and without one lockfs would only write
 * out the page cache, which was done before, bounded in time. Unlike FIFREEZE it ends with EINTR at
 * a signal or at the death of its process, and has then done nothing.
 *
 * The kernel does not count suspensions: the second one of a device says success and the first
 * resume ends both. What is suspended already is therefore left alone, and what is not suspended
 * any more is not resumed. Between that look and the call lie microseconds, which nothing in the
 * kernel's interface can close.
 *
 * Devices are named by their "major:minor". Any thread. */
#ifndef SEALPOINT_AGENT_SUSPEND_H
#define SEALPOINT_AGENT_SUSPEND_H

#include <stdbool.h>

struct suspend_state {
    unsigned open_count; /* every open(2), mount, swapon, and each table of another device on it */
    bool suspended, read_only;
    bool has_inactive_table; /* another program is about to resume it with a new table */
};

/* A descriptor for the others, or negative errno: there is no device-mapper here. */
int suspend_open(void);
/* 0 or negative errno; -ENXIO: no such device. */
int suspend_look(int control, const char *devno, struct suspend_state *ret);

/* The same with a descriptor of its own: inventory_roots.dm_look of the system. */
int suspend_look_system(void *self, const char *devno, struct suspend_state *ret);

/* As ioctl(2): 0, or -1 with errno. Both block.
 * EBUSY: somebody else has suspended it, or is about to change its table. EINTR: interrupted, it is
 * not suspended. */
int suspend_hold(int control, const char *devno);
/* EINVAL: it is not suspended. ENXIO: it is gone. */
int suspend_release(int control, const char *devno);

#endif
