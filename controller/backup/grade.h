/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * How consistent a point is: the lowest over the read-write file systems on captured disks, and
 * over the raw devices there that the guest was to hold. Pure. */
#ifndef SEALPOINT_BACKUP_GRADE_H
#define SEALPOINT_BACKUP_GRADE_H

#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stddef.h>

/* What is known about the moment of the snapshot. */
struct grade_facts {
    bool running;                   /* false: the machine was off */
    bool held_by_source;            /* the vCPUs stood still for the switch */
    size_t disks;                   /* captured */
    const Sp__FreezeAnswer *freeze; /* NULL: no freeze was granted */
    const Sp__ThawAnswer *thaw;     /* NULL: no answer to the thaw */
    bool snapshot_inside_freeze; /* begun after the freeze reply, ended before the thaw command */
    const Sp__Inventory *inventory; /* read while frozen; NULL: none */
    /* Whether a file system's device lies on a captured disk. NULL: all do. */
    bool (*captured)(void *self, const Sp__FileSystem *);
    void *self;
};

/* Why the grade is not higher; both texts are static or inside the messages of the facts. */
struct grade_lowered {
    Sp__Reason reason; /* UNSPECIFIED: nothing to say */
    const char *mount_point;
    const char *text;
};

/* The grade, and up to `capacity` things that lowered it. */
Sp__Grade grade_of(const struct grade_facts *, struct grade_lowered *lowered, size_t capacity,
                   size_t *ret_lowered);

/* Whether the freeze holds all that could write to disk, so that the source need not stop the
 * vCPUs: every outcome is frozen, or cannot matter. */
bool grade_holds_guest(const Sp__FreezeAnswer *);

/* Whether `grade` is at least `least` (UNSPECIFIED: anything is). Offline is as good as filesystem.
 */
bool grade_reaches(Sp__Grade grade, Sp__Grade least);

#endif
