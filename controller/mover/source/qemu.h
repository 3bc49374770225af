/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of the QEMU source share.
 *
 *     guest device ──▶ spc (copy-before-write) ──file──▶ the disk's own node
 *                          ▲      └──target──▶ spf (qcow2 ▶ raw of a fixed size ▶ fleece file)
 *                          └── spa (snapshot-access) ──▶ NBD export spe ──▶ libnbd in here
 *
 * Everything put into QEMU carries the point's id in its name, so that release finds it by that
 * alone. The fleece file has no name: it is opened here and passed as a descriptor, so that QEMU
 * needs no rights in the folder and a crash leaves no file. */
#ifndef SEALPOINT_SOURCE_QEMU_H
#define SEALPOINT_SOURCE_QEMU_H

#include "controller/mover/source/qmp.h"
#include "controller/mover/source/source.h"

/* ── Names ── */

enum { QEMU_TAG = 21, QEMU_NAME = 32 /* node names have at most 31 characters */ };

/* 20 characters for a point: of its UUID, or of the hash of an id that is none. */
void qemu_tag(const char *point_id, char out[QEMU_TAG]);
/* "spX-<tag>-<n>", X: c filter, f fleece, a access, e export. Returns out. */
char *qemu_name(char out[QEMU_NAME], char kind, const char *tag, size_t n);
#define QEMU_NAME_OF(kind, tag, n) (qemu_name((char[QEMU_NAME]){0}, (kind), (tag), (n)))
/* Is it one of ours, of the kind (0: any), of the tag (NULL: any)? */
bool qemu_is_ours(const char *node_name, char kind, const char *tag);
/* "sealpoint-<tag>": the bitmap of what changed since the point. */
#define QEMU_BITMAP_PREFIX "sealpoint-"

/* ── Disks (qemu_disks.c) ── */

struct qemu_disk {
    char *qdev;     /* QOM path of the device that has the property "drive" */
    char *top_node; /* what the device sees; our filter while a snapshot is there */
    char *node;     /* the disk's own node, below our filter; may be the same */
    char *source_name, *serial, *disk_id, *format, *file, *pci_path;
    uint64_t size_bytes;
    uint32_t sector_bytes;
    bool in_iothread, read_only;
    bool is_firmware;    /* a flash chip, not a disk */
    const char *skipped; /* why it is no disk to back up; static text, NULL: it is one */
};

struct qemu_disks {
    struct qemu_disk *all;
    size_t count;
    json_object *query_block, *nodes; /* the answers they were read from */
};

/* Asks QEMU. With only_nodes just qdev, top_node, node and what their nodes tell: a fraction of the
 * questions. Free with qemu_disks_free() also after a failure. */
int qemu_disks_load(struct qmp *q, bool only_nodes, struct qemu_disks *ret, struct sp_why *why);
void qemu_disks_free(struct qemu_disks *d);
/* The entry of a node in `query-named-block-nodes`, or NULL. */
json_object *qemu_node(json_object *nodes, const char *name);
/* The node under a filter of ours by the graph that QEMU tells; to free(). -ENOENT. */
int qemu_node_below(json_object *graph, const char *filter, char **ret);
/* Fills size, format and file of a disk from its node's entry; pure, for the fuzzer too. */
void qemu_disk_from_node(struct qemu_disk *d, json_object *node);
int qemu_disk_to_message(const struct qemu_disk *d, Sp__SourceDisk *m);
int qemu_describe_on(struct qmp *q, Sp__DescribeResponse **ret, struct sp_why *why);
int qemu_describe(const Sp__DescribeRequest *request, Sp__DescribeResponse **ret,
                  struct sp_why *why);

/* ── Fleece (qemu_fleece.c) ── */

/* An empty qcow2 of disk_bytes in a file without a name. The file is as large as it may ever get
 * (sparse); what does not fit in breaks the snapshot. limit 0: room for a whole rewrite of the
 * disk. Returns the fd or a negative errno; *ret_window is the file's size. */
int qemu_fleece_create(const char *folder, uint64_t disk_bytes, uint64_t limit_bytes,
                       uint64_t *ret_window, struct sp_why *why);

/* ── Reading (qemu_nbd.c) ── */

struct qemu_reader; /* the exports of one snapshot */

int qemu_reader_new(const char *socket_path, size_t disks, struct qemu_reader **ret);
/* `bitmap`: of what changed, exported beside the data; NULL: none. Texts are copied. */
struct qemu_export {
    const char *name, *bitmap;
    uint64_t size_bytes;
};
/* Says what disk n is called. `held` connections are made at once and their sockets passed to
 * hold(), before anything is negotiated on them; no others are made later (see qemu.c, iothreads).
 */
typedef int qemu_hold_fn(void *self, size_t disk, unsigned connection, int fd);
int qemu_reader_disk(struct qemu_reader *r, size_t n, const struct qemu_export *export,
                     unsigned held, qemu_hold_fn *hold, void *self, struct sp_why *why);
int qemu_reader_read(struct qemu_reader *r, size_t n, uint64_t offset, void *out, uint32_t length,
                     struct sp_why *why);
int qemu_reader_next_data(struct qemu_reader *r, size_t n, uint64_t offset, uint64_t *ret_offset,
                          uint64_t *ret_length, struct sp_why *why);
/* What the bitmap says. */
int qemu_reader_next_changed(struct qemu_reader *r, size_t n, uint64_t offset, uint64_t *ret_offset,
                             uint64_t *ret_length, struct sp_why *why);
bool qemu_reader_broken(const struct qemu_reader *r);
void qemu_reader_free(struct qemu_reader *r);
/* connect(2) to a unix socket whose path may be longer than sun_path. fd or negative errno. */
int qemu_connect(const char *path);
/* bind(2) and listen(2), mode 0600; replaces what is there. fd or negative errno. */
int qemu_listen(const char *path);

/* ── Undo (qemu_undo.c) ── */

/* The path of a point's NBD socket, to free(); NULL: no memory. */
char *qemu_socket_path(const char *folder, const char *point_id);
/* The connections that QEMU holds the other end of, for disks in an iothread. */
enum { QEMU_HELD_CONNECTIONS = 2 };
#define QEMU_HELD_NAME   "sealpoint-%s-%zu-%u"
#define QEMU_SERVER_NAME "sealpoint-%s-nbd"
/* Takes everything of the point out of a running QEMU. journal may be NULL; so may ret_fleece,
 * which gets the bytes that the fleeces took. */
int qemu_undo(struct qmp *q, const char *point_id, const char *fleece_folder, const char *journal,
              bool transferred, uint64_t *ret_fleece, struct sp_why *why);
int qemu_release(const Sp__ReleaseSnapshotRequest *request, Sp__ReleaseSnapshotResponse **ret,
                 struct sp_why *why);
/* Everything that records changes, in order again: see qemu_undo.c. */
int qemu_bitmaps_prepare(struct qmp *q, json_object *nodes, const char *node, struct sp_why *why);
/* The bitmap, as `nodes` have it, records all that changed since its point: after prepare. When
 * not, *ret_why says why, static. */
bool qemu_bitmap_is_whole(json_object *nodes, const char *node, const char *bitmap,
                          const char **ret_why);
int qemu_bitmaps_disable_others(struct qmp *q, json_object *nodes, const char *node,
                                const char *keep, struct sp_why *why);

#endif
