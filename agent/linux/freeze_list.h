/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The frozen list: what is frozen, or about to be, in a MAP_SHARED file on a tmpfs. The freezer
 * writes it, the agent reads it; whoever is left alive thaws by it. Its entries are file systems
 * and, where the agent's configuration wants that, device-mapper devices that are in use without
 * one: for these read "suspend" for FIFREEZE and "resume" for FITHAW (suspend.h).
 *
 *   an entry:   IDLE ─▶ QUEUED ─▶ FREEZING ─▶ FROZEN ─▶ THAWING ─▶ THAWED
 *                 ▲───────┘ (the hold  │  └───▶ REFUSED (FIFREEZE failed)
 *                            ended)    └──────▶ ABANDONED (FIFREEZE had not returned when the
 *                                                  │       hold ended)
 *                                                  └──▶ THAWING ─▶ THAWED, by the thread that
 *                                                                  issued it
 *
 * FREEZING is written right before the ioctl, by its thread, so a freezer that dies at any
 * instruction leaves every file system that it may have frozen in FREEZING, FROZEN, ABANDONED or
 * THAWING; these four, and nothing else, may be thawed by another process, once the freezer has
 * really exited (a FIFREEZE cannot be interrupted: before its exit the state is not final).
 *
 * What somebody else froze answers EBUSY within the call, so it is FREEZING for a microsecond; only
 * a kill in that very moment leaves it undecided, and then it is thawed: a guest that stays frozen
 * is the worse fault.
 *
 * A living freezer holds flock(LOCK_EX) on its own open file description of the file. */
#ifndef SEALPOINT_AGENT_FREEZE_LIST_H
#define SEALPOINT_AGENT_FREEZE_LIST_H

#include "base/why.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { FREEZE_LIST_MOST = 256, FREEZE_LIST_VERSION = 1 };
#define FREEZE_LIST_MAGIC "spfrozen"

enum freeze_entry_state {
    FREEZE_ENTRY_IDLE = 0,
    FREEZE_ENTRY_FREEZING,
    FREEZE_ENTRY_FROZEN,
    FREEZE_ENTRY_ABANDONED,
    FREEZE_ENTRY_THAWING,
    FREEZE_ENTRY_THAWED,
    FREEZE_ENTRY_REFUSED,
    FREEZE_ENTRY_QUEUED /* its turn has come, FIFREEZE is not called yet */
};

enum freeze_phase {
    FREEZE_PHASE_IDLE = 0,
    FREEZE_PHASE_FREEZING,
    FREEZE_PHASE_HELD,
    FREEZE_PHASE_THAWING,
    FREEZE_PHASE_ENDED
};

enum freeze_end {
    FREEZE_END_NONE = 0,
    FREEZE_END_COMMAND,
    FREEZE_END_DEADLINE,
    FREEZE_END_AGENT_LOST,
    FREEZE_END_FREEZER_LOST
};
/* "command", "deadline", "agent lost", "freezer lost"; "" for none. */
const char *freeze_end_name(enum freeze_end end);

enum freeze_kind { FREEZE_KIND_FILE_SYSTEM = 0, FREEZE_KIND_DEVICE };

/* Times are CLOCK_MONOTONIC nanoseconds, 0: has not happened. Errors are positive errnos. */
struct freeze_entry {
    _Atomic uint32_t state;
    int32_t freeze_error, thaw_error;
    uint32_t level; /* higher is frozen first and thawed last */
    uint64_t freeze_from_ns, freeze_to_ns, thaw_from_ns, thaw_to_ns;
    char devno[24];        /* as in mountinfo */
    char mount_point[512]; /* of a device its path, for messages */
    uint32_t kind;         /* enum freeze_kind */
    uint32_t spare;
};

struct freeze_list {
    char magic[8];
    uint32_t version, size;
    _Atomic uint32_t phase, ended_by, count;
    char operation_id[64];
    _Atomic uint64_t deadline_ns;
    struct freeze_entry entries[FREEZE_LIST_MOST];
};

/* Creates (or empties) and maps the list <folder>/frozen. The folder must be on a tmpfs or ramfs:
 * on a file system that may be frozen, writing the list would block. */
int freeze_list_create(const char *folder, int *ret_fd, struct freeze_list **ret,
                       struct sp_why *why);
/* Maps the list behind fd (the freezer does). */
int freeze_list_map(int fd, struct freeze_list **ret);
void freeze_list_unmap(struct freeze_list *list);

/* True if another process may have to thaw this entry. */
bool freeze_entry_unsettled(const struct freeze_entry *entry);
/* Opens some mount of the superblock "major:minor", also one whose other mounts are hidden below
 * others. The fd or a negative errno; -ENODEV: nothing of it can be reached. */
int freeze_open_superblock(const char *devno);
uint64_t freeze_now_ns(void);

/* True if the outcome of a thaw, an errno or 0, says that it is not frozen now, by us or at all:
 * thawed, was not frozen, cannot freeze, is gone. */
bool freeze_error_settles(int error);

/* Thaws what a dead freezer left in <folder>/frozen: waits up to wait_s seconds for its exit, opens
 * the file systems by the device number in mountinfo, resumes the devices, and writes a line for
 * each to `out` (may be NULL). 0: nothing is left frozen (also when there is no list), -EBUSY: a
 * freezer still lives, another negative errno: something could not be thawed. */
int freeze_list_thaw_left_over(const char *folder, unsigned wait_s, FILE *out, struct sp_why *why);

#endif
