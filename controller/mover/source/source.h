/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sources: storage layers that can take one point in time over all disks of a machine. One file,
 * one const row each (qemu.c); the table is in source.c. Requests and answers are the messages of
 * node.proto, so that a source can move to another host.
 *
 *   describe ─▶ snapshot (journal before every act) ─▶ open/read ─▶ release
 *
 * Calls block; run them on a worker. A snapshot handle is used by one thread at a time, but read_at
 * may be called from several when `parallel` is set in the row. */
#ifndef SEALPOINT_SOURCE_H
#define SEALPOINT_SOURCE_H

#include "base/why.h"
#include <sealpoint/v1/node.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

struct source_snapshot;

/* Persists the journal text before the act that it announces; 0 or negative errno (then the act is
 * not done). */
typedef int source_journal_fn(void *self, const char *journal);

struct source {
    const char *name; /* "qemu" */
    Sp__SourceConfig__KindCase kind;
    bool parallel;
    int (*describe)(const Sp__DescribeRequest *, Sp__DescribeResponse **ret, struct sp_why *why);
    /* *ret_response to free with sp__snapshot_response__free_unpacked(). On failure everything is
     * undone already, or the journal says what is left for release. */
    int (*snapshot)(const Sp__SnapshotRequest *, source_journal_fn *journal, void *journal_self,
                    struct source_snapshot **ret, Sp__SnapshotResponse **ret_response,
                    struct sp_why *why);
    /* -EIO with why when the snapshot broke (fleece full): `broken` then says so for good. */
    int (*read_at)(struct source_snapshot *, uint32_t disk, uint64_t offset, void *out,
                   uint32_t length, struct sp_why *why);
    /* The next range at or after offset that may hold data: 1, 0 none, negative errno. */
    int (*next_data)(struct source_snapshot *, uint32_t disk, uint64_t offset, uint64_t *ret_offset,
                     uint64_t *ret_length, struct sp_why *why);
    /* The next range at or after offset that may have changed since the disk's base point
     * (SourceDisk.base_point_id, which must not be empty): 1, 0 none, negative errno. NULL: this
     * source knows no changes. */
    int (*next_changed)(struct source_snapshot *, uint32_t disk, uint64_t offset,
                        uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why);
    bool (*broken)(struct source_snapshot *);
    /* Closes the handle without touching the storage layer. */
    void (*close)(struct source_snapshot *);
    /* Undoes by point id alone; works again and again, after any crash, with no handle open. */
    int (*release)(const Sp__ReleaseSnapshotRequest *, Sp__ReleaseSnapshotResponse **ret,
                   struct sp_why *why);
};

/* The row for a configuration; NULL: none. */
const struct source *source_for(const Sp__SourceConfig *);

#endif
