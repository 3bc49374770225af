/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Loop mounts of a test's own, all below one folder in /dev/shm, and the guard that makes sure that
 * none of them stays frozen or mounted, however the test ends. Nothing outside the folder is ever
 * frozen: the helpers refuse it. */
#ifndef SEALPOINT_TESTS_AGENT_MOUNTS_H
#define SEALPOINT_TESTS_AGENT_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>

/* The folder, made with the guard; "" before mounts_begin(). */
extern char mounts_folder[64];

/* 0, or 77 with a reason on stderr when this is not root. */
int mounts_begin(void);
void mounts_end(void);

/* Makes an image of `mib` MiB at <folder>/<image>.img (or in `holder`, another mount), formats it
 * ("ext4", "xfs", "btrfs") and mounts it at <folder>/<name>. Fails the test otherwise. Returns the
 * mount point, static per name. */
const char *mounts_make(const char *name, const char *type, unsigned mib, const char *holder);

/* Freezes or thaws below the folder; errno or 0. */
int mounts_freeze(const char *mount_point);
int mounts_thaw(const char *mount_point);
/* Asks by FIFREEZE: EBUSY says frozen. */
bool mounts_frozen(const char *mount_point);
/* Waits until it is not; fails the test after half a minute. */
void mounts_wait_thawed(const char *mount_point);
/* Writes a file; with sync it reaches the device. */
void mounts_write(const char *mount_point, size_t kib, bool sync);
/* "major:minor" as mountinfo has it. */
const char *mounts_devno(const char *mount_point, char out[24]);

#endif
