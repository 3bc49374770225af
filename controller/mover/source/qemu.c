/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The QEMU source: one point in time over all disks of a running QEMU (7.1 or later), by QMP.
 *
 * Order, and why:
 *   1 prepare   bitmap of this point on each disk, fleece file, filter; nothing uses them yet.
 *               Old and new bitmaps both record from here on.
 *   2 switch    the devices are put on their filters, one after the other. Between the first and
 * the last the guest must not write: a freeze holds it, or the vCPUs are stopped here. 3 rotate
 * older bitmaps end. Before the switch they would miss writes of this point; left recording they
 * would only hold too much. 4 expose    snapshot-access nodes (before the switch QEMU refuses them)
 * and NBD exports.
 *
 * iothreads. QEMU before 9.0 with the fix of CVE-2024-7409 asserts that an NBD client closes in the
 * main thread; for a disk in an iothread that is so only when the server closes first. A client
 * that just goes, as one that was killed does, would take the guest down. So for these disks QEMU
 * itself holds a second descriptor of our end of each connection (getfd), made before anything is
 * negotiated, and release removes the exports before it lets go of them. */
#include "controller/mover/source/qemu.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <string.h>

enum { CBW_TIMEOUT_S = 5, BITMAP_GRANULARITY = 65536, OLDEST_QEMU = 7001000 };

struct source_snapshot {
    struct qemu_reader *reader;
};

/* What an increment of a disk rests on. */
struct base {
    const char *point_id; /* the request's; NULL: none */
    char *bitmap;
    const char *why_none; /* static */
};

/* One snapshot in the making. */
struct making {
    struct qmp *q;
    const Sp__SnapshotRequest *request;
    const Sp__QemuSource *source;
    char tag[QEMU_TAG];
    char *bitmap, *socket_path;
    struct qemu_disks disks;
    const struct qemu_disk **chosen;
    struct base *bases; /* of each chosen disk */
    size_t count;
    uint64_t fleece_limit;
    bool stop; /* we hold the vCPUs for the switch */
    uint64_t switch_us;
    source_journal_fn *journal;
    void *journal_self;
    json_object *told; /* the journal */
    struct sp_why *why;
};

/* ── Journal ── */

/* Writes what comes next. `stopped`: from here on the vCPUs may be held by us. */
static int announce(struct making *m, const char *step, bool stopped)
{
    json_object *text = json_object_new_string(step), *flag = json_object_new_boolean(stopped);
    if (!text || !flag || json_object_object_add(m->told, "step", text) ||
        json_object_object_add(m->told, "stopped", flag))
        return -ENOMEM;
    int r = m->journal(m->journal_self,
                       json_object_to_json_string_ext(m->told, JSON_C_TO_STRING_PLAIN));
    if (r)
        return sp_why_set(m->why, r, "the step '%s' of the snapshot could not be recorded", step);
    return 0;
}

static int journal_new(struct making *m)
{
    json_object *disks = json_object_new_array();
    m->told = qmp_object("source=s,point=s,fleece=s,disks=o", "qemu", m->request->point_id,
                         m->source->fleece_directory, disks);
    if (!m->told)
        return -ENOMEM;
    for (size_t i = 0; i < m->count; i++) {
        json_object *d = qmp_object("qdev=s,node=s", m->chosen[i]->qdev, m->chosen[i]->node);
        if (!d || json_object_array_add(disks, d))
            return -ENOMEM;
    }
    return 0;
}

/* ── Which disks ── */

static int choose(struct making *m)
{
    const Sp__SnapshotRequest *rq = m->request;
    m->chosen = calloc(m->disks.count + 1, sizeof *m->chosen);
    m->bases = calloc(m->disks.count + 1, sizeof *m->bases);
    if (!m->chosen || !m->bases)
        return -ENOMEM;
    for (size_t i = 0; i < m->disks.count; i++) {
        const struct qemu_disk *d = &m->disks.all[i];
        bool wanted = !rq->n_disk_ids && !d->skipped;
        for (size_t j = 0; j < rq->n_disk_ids; j++)
            wanted |= !strcmp(rq->disk_ids[j], d->disk_id);
        if (!wanted)
            continue;
        if (d->skipped)
            return sp_why_set(m->why, -EINVAL, "disk '%s' cannot be captured: %s", d->disk_id,
                              d->skipped);
        m->chosen[m->count++] = d;
    }
    if (rq->n_disk_ids && m->count != rq->n_disk_ids)
        return sp_why_set(m->why, -ENOENT, "QEMU has %zu of the %zu disks asked for", m->count,
                          rq->n_disk_ids);
    if (!m->count)
        return sp_why_set(m->why, -ENODEV, "QEMU has no disk to capture");
    return 0;
}

static int refuse_leftovers(struct making *m)
{
    for (size_t i = 0; i < qmp_length(m->disks.nodes); i++) {
        const char *name = qmp_string(qmp_at(m->disks.nodes, i), "node-name");
        if (qemu_is_ours(name, 0, NULL))
            return sp_why_set(m->why, -EBUSY,
                              "a snapshot of Sealpoint is still in QEMU (node '%s'): release its "
                              "point first",
                              name);
    }
    return 0;
}

/* ── 1 Prepare ── */

/* The first point asked for since which QEMU knows all changes of the disk. */
static int find_base(struct making *m, size_t n)
{
    const Sp__SnapshotRequest *rq = m->request;
    for (size_t i = 0; i < rq->n_base_point_ids && !m->bases[n].point_id; i++) {
        char tag[QEMU_TAG];
        qemu_tag(rq->base_point_ids[i], tag);
        SP_FREE char *bitmap = sp_format(QEMU_BITMAP_PREFIX "%s", tag);
        const char *why;
        if (!bitmap)
            return -ENOMEM;
        if (qemu_bitmap_is_whole(m->disks.nodes, m->chosen[n]->node, bitmap, &why)) {
            m->bases[n].point_id = rq->base_point_ids[i];
            m->bases[n].bitmap = sp_steal(bitmap);
        } else if (!m->bases[n].why_none) {
            m->bases[n].why_none = why;
        }
    }
    return 0;
}

static int add_bitmap(struct making *m, const struct qemu_disk *d)
{
    int r = qemu_bitmaps_prepare(m->q, m->disks.nodes, d->node, m->why);
    if (r)
        return r;
    bool persistent = !strcmp(d->format, "qcow2");
    for (;;) {
        r = qmp_call(m->q, "block-dirty-bitmap-add",
                     qmp_object("node=s,name=s,granularity=n,persistent=b", d->node, m->bitmap,
                                (int64_t)BITMAP_GRANULARITY, (int)persistent),
                     NULL, m->why);
        if (r != -EREMOTEIO || !persistent)
            return r;
        persistent =
            false; /* qcow2 of version 2 cannot keep one; until QEMU ends it still counts */
    }
}

/* Passes the fleece file to QEMU; *ret_set is the number of its set of descriptors. */
static int pass_fleece(struct making *m, const struct qemu_disk *d, uint64_t *ret_window,
                       uint64_t *ret_set)
{
    SP_FD int fd = qemu_fleece_create(m->source->fleece_directory, d->size_bytes,
                                      m->source->fleece_limit_bytes, ret_window, m->why);
    if (fd < 0)
        return fd;
    SP_FREE char *mark = sp_format("sealpoint %s", m->tag);
    QMP_JSON json_object *set = NULL;
    int r = mark ? qmp_call_fd(m->q, "add-fd", qmp_object("opaque=s", mark), fd, &set, m->why)
                 : -ENOMEM;
    *ret_set = qmp_number(set, "fdset-id");
    return r;
}

static int add_fleece(struct making *m, size_t n)
{
    uint64_t window, set;
    int r = pass_fleece(m, m->chosen[n], &window, &set);
    if (r)
        return r;
    m->fleece_limit += window;
    SP_FREE char *file = sp_format("/dev/fdset/%llu", (unsigned long long)set);
    if (!file)
        return -ENOMEM;
    /* Nothing in it needs to outlive a crash: no flush. The raw layer bounds it. */
    json_object *bounded =
        qmp_object("driver=s,size=n,file=o", "raw", (int64_t)window,
                   qmp_object("driver=s,filename=s,locking=s", "file", file, "off"));
    r = qmp_call(m->q, "blockdev-add",
                 qmp_object("driver=s,node-name=s,cache=o,file=o", "qcow2",
                            QEMU_NAME_OF('f', m->tag, n), qmp_object("no-flush=b", 1), bounded),
                 NULL, m->why);
    /* The node has a descriptor of its own now; with the set gone, the file ends with the node. */
    return r ? r
             : qmp_call(m->q, "remove-fd", qmp_object("fdset-id=n", (int64_t)set), NULL, m->why);
}

static int add_filter(struct making *m, size_t n)
{
    int r = add_fleece(m, n);
    if (r)
        return r;
    return qmp_call(m->q, "blockdev-add",
                    qmp_object("driver=s,node-name=s,file=s,target=s,on-cbw-error=s,cbw-timeout=n",
                               "copy-before-write", QEMU_NAME_OF('c', m->tag, n),
                               m->chosen[n]->node, QEMU_NAME_OF('f', m->tag, n), "break-snapshot",
                               (int64_t)CBW_TIMEOUT_S),
                    NULL, m->why);
}

static int prepare(struct making *m)
{
    int r = announce(m, "prepare", false);
    for (size_t i = 0; !r && i < m->count; i++) {
        r = find_base(m, i);
        r = r ? r : add_bitmap(m, m->chosen[i]);
        r = r ? r : add_filter(m, i);
    }
    return r;
}

/* ── 2 Switch, 3 rotate ── */

static int switch_all(struct making *m)
{
    for (size_t i = 0; i < m->count; i++) {
        int r = qmp_call(m->q, "qom-set",
                         qmp_object("path=s,property=s,value=s", m->chosen[i]->qdev, "drive",
                                    QEMU_NAME_OF('c', m->tag, i)),
                         NULL, m->why);
        if (r)
            return r;
    }
    return 0;
}

static int switch_and_rotate(struct making *m)
{
    QMP_JSON json_object *status = NULL;
    int r = qmp_call(m->q, "query-status", NULL, &status, m->why);
    if (r)
        return r;
    m->stop = !m->request->guest_is_held && qmp_flag(status, "running");
    r = announce(m, "switch", m->stop);
    if (r)
        return r;
    uint64_t start_ns = sp_clock_system.monotonic_ns(sp_clock_system.self);
    r = m->stop ? qmp_call(m->q, "stop", NULL, NULL, m->why) : 0;
    r = r ? r : switch_all(m);
    /* The guest goes on first of all, also when something failed; qemu_undo() repeats it. */
    int resumed = m->stop ? qmp_call(m->q, "cont", NULL, NULL, r ? NULL : m->why) : 0;
    m->switch_us = (sp_clock_system.monotonic_ns(sp_clock_system.self) - start_ns) / 1000;
    r = r ? r : resumed;
    r = r ? r : announce(m, "rotate", false);
    for (size_t i = 0; !r && i < m->count; i++)
        r = qemu_bitmaps_disable_others(m->q, m->disks.nodes, m->chosen[i]->node, m->bitmap,
                                        m->why);
    return r;
}

/* ── 4 Expose ── */

static int start_server(struct making *m)
{
    SP_FD int fd = qemu_listen(m->socket_path);
    if (fd < 0)
        return sp_why_set(m->why, fd, "no socket can be made at '%s': %s", m->socket_path,
                          strerror(-fd));
    SP_FREE char *name = sp_format(QEMU_SERVER_NAME, m->tag);
    if (!name)
        return -ENOMEM;
    int r = qmp_call_fd(m->q, "getfd", qmp_object("fdname=s", name), fd, NULL, m->why);
    r = r ? r
          : qmp_call(
                m->q, "nbd-server-start",
                qmp_object("addr=o", qmp_object("type=s,data=o", "fd", qmp_object("str=s", name))),
                NULL, m->why);
    if (r == -EREMOTEIO)
        return sp_why_prefix(m->why, r, "QEMU serves NBD to somebody else, or cannot");
    return r;
}

/* The export of a disk, with the bitmap of its changes (which the rotation has ended: QEMU exports
 * none that still records). */
static int add_export(struct making *m, size_t n)
{
    const char *access = QEMU_NAME_OF('a', m->tag, n), *export = QEMU_NAME_OF('e', m->tag, n);
    json_object *bitmaps = json_object_new_array();
    json_object *arguments = qmp_object("type=s,id=s,node-name=s,name=s,writable=b,bitmaps=o",
                                        "nbd", export, access, export, 0, bitmaps);
    if (!arguments)
        return -ENOMEM;
    if (m->bases[n].bitmap) {
        json_object *bitmap = qmp_object("node=s,name=s", m->chosen[n]->node, m->bases[n].bitmap);
        if (!bitmap || json_object_array_add(bitmaps, bitmap)) {
            json_object_put(bitmap);
            json_object_put(arguments);
            return -ENOMEM;
        }
    }
    return qmp_call(m->q, "block-export-add", arguments, NULL, m->why);
}

static int expose(struct making *m)
{
    int r = announce(m, "expose", false);
    r = r ? r : start_server(m);
    for (size_t i = 0; !r && i < m->count; i++) {
        r = qmp_call(m->q, "blockdev-add",
                     qmp_object("driver=s,node-name=s,file=s", "snapshot-access",
                                QEMU_NAME_OF('a', m->tag, i), QEMU_NAME_OF('c', m->tag, i)),
                     NULL, m->why);
        r = r ? r : add_export(m, i);
    }
    return r;
}

static int hold(void *self, size_t disk, unsigned connection, int fd)
{
    struct making *m = self;
    SP_FREE char *name = sp_format(QEMU_HELD_NAME, m->tag, disk, connection);
    return name ? qmp_call_fd(m->q, "getfd", qmp_object("fdname=s", name), fd, NULL, m->why)
                : -ENOMEM;
}

static int open_reader(struct making *m, struct source_snapshot **ret)
{
    struct qemu_reader *reader = NULL;
    int r = qemu_reader_new(m->socket_path, m->count, &reader);
    for (size_t i = 0; !r && i < m->count; i++) {
        bool must_hold = m->chosen[i]->in_iothread && qmp_version(m->q) < 9000000;
        const struct qemu_export export = {QEMU_NAME_OF('e', m->tag, i), m->bases[i].bitmap,
                                           m->chosen[i]->size_bytes};
        r = qemu_reader_disk(reader, i, &export, must_hold ? QEMU_HELD_CONNECTIONS : 0, hold, m,
                             m->why);
    }
    struct source_snapshot *s = r ? NULL : calloc(1, sizeof *s);
    if (!s) {
        qemu_reader_free(reader);
        return r ? r : -ENOMEM;
    }
    s->reader = reader;
    *ret = s;
    return 0;
}

/* ── The whole ── */

static int respond_disk(const struct making *m, size_t n, Sp__SourceDisk *d)
{
    const struct base *base = &m->bases[n];
    int r = qemu_disk_to_message(m->chosen[n], d);
    if (!r && base->point_id && !(d->base_point_id = strdup(base->point_id)))
        r = -ENOMEM;
    if (!r && !base->point_id && base->why_none && !(d->full_why = strdup(base->why_none)))
        r = -ENOMEM;
    return r;
}

static int respond(const struct making *m, Sp__SnapshotResponse **ret)
{
    Sp__SnapshotResponse *s = malloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    sp__snapshot_response__init(s);
    s->switch_us = m->switch_us;
    s->held_by_source = m->stop;
    s->fleece_limit_bytes = m->fleece_limit;
    s->journal = strdup(json_object_to_json_string_ext(m->told, JSON_C_TO_STRING_PLAIN));
    s->disks = calloc(m->count, sizeof *s->disks);
    int r = s->journal && s->disks ? 0 : -ENOMEM;
    for (size_t i = 0; !r && i < m->count; i++) {
        Sp__SourceDisk *d = malloc(sizeof *d);
        if (!d) {
            r = -ENOMEM;
            break;
        }
        sp__source_disk__init(d);
        s->disks[s->n_disks++] = d;
        r = respond_disk(m, i, d);
    }
    if (r) {
        sp__snapshot_response__free_unpacked(s, NULL);
        return r;
    }
    *ret = s;
    return 0;
}

/* On a connection of its own when that of the snapshot was lost. */
static void undo_after_failure(struct making *m)
{
    const char *told = json_object_to_json_string_ext(m->told, JSON_C_TO_STRING_PLAIN);
    struct sp_why ignored;
    int r = qemu_undo(m->q, m->request->point_id, m->source->fleece_directory, told, false, NULL,
                      &ignored);
    QMP_CLOSE struct qmp *again = NULL;
    if (r) {
        qmp_close(sp_steal(m->q)); /* the socket serves one at a time */
        r = qmp_open(m->source->qmp_socket, 0, &again, &ignored);
        if (!r)
            qemu_undo(again, m->request->point_id, m->source->fleece_directory, told, false, NULL,
                      &ignored);
    }
}

static int make(struct making *m, struct source_snapshot **ret, Sp__SnapshotResponse **ret_response)
{
    int r = qmp_open(m->source->qmp_socket, 0, &m->q, m->why);
    if (r)
        return r;
    if (qmp_version(m->q) < OLDEST_QEMU)
        return sp_why_set(m->why, -ENOTSUP, "QEMU %u.%u is too old: a snapshot needs 7.1 or later",
                          qmp_version(m->q) / 1000000, qmp_version(m->q) / 1000 % 1000);
    r = qemu_disks_load(m->q, false, &m->disks, m->why);
    r = r ? r : refuse_leftovers(m);
    r = r ? r : choose(m);
    r = r ? r : journal_new(m);
    if (r)
        return r;
    struct source_snapshot *s = NULL;
    r = prepare(m);
    r = r ? r : switch_and_rotate(m);
    r = r ? r : expose(m);
    r = r ? r : open_reader(m, &s);
    r = r ? r : announce(m, "open", false);
    r = r ? r : respond(m, ret_response);
    if (r) {
        if (s)
            qemu_reader_free(s->reader);
        free(s);
        undo_after_failure(m);
        return r;
    }
    *ret = s;
    return 0;
}

static int snapshot(const Sp__SnapshotRequest *request, source_journal_fn *journal,
                    void *journal_self, struct source_snapshot **ret,
                    Sp__SnapshotResponse **ret_response, struct sp_why *why)
{
    struct making m = {
        .request = request,
        .source = request->source->qemu,
        .journal = journal,
        .journal_self = journal_self,
        .why = why,
    };
    if (!*request->point_id || !*m.source->fleece_directory)
        return sp_why_set(why, -EINVAL, "a snapshot needs a point and a fleece folder");
    qemu_tag(request->point_id, m.tag);
    m.bitmap = sp_format(QEMU_BITMAP_PREFIX "%s", m.tag);
    m.socket_path = qemu_socket_path(m.source->fleece_directory, request->point_id);
    int r = m.bitmap && m.socket_path ? make(&m, ret, ret_response) : -ENOMEM;
    free(m.bitmap);
    free(m.socket_path);
    free(m.chosen);
    for (size_t i = 0; m.bases && i < m.count; i++)
        free(m.bases[i].bitmap);
    free(m.bases);
    json_object_put(m.told);
    qemu_disks_free(&m.disks);
    qmp_close(m.q);
    return r;
}

static int read_at(struct source_snapshot *s, uint32_t disk, uint64_t offset, void *out,
                   uint32_t length, struct sp_why *why)
{
    return qemu_reader_read(s->reader, disk, offset, out, length, why);
}

static int next_data(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                     uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    return qemu_reader_next_data(s->reader, disk, offset, ret_offset, ret_length, why);
}

static int next_changed(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                        uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    return qemu_reader_next_changed(s->reader, disk, offset, ret_offset, ret_length, why);
}

static bool broken(struct source_snapshot *s)
{
    return qemu_reader_broken(s->reader);
}

static void close_snapshot(struct source_snapshot *s)
{
    if (!s)
        return;
    qemu_reader_free(s->reader);
    free(s);
}

extern const struct source source_qemu;
const struct source source_qemu = {
    .name = "qemu",
    .kind = SP__SOURCE_CONFIG__KIND_QEMU,
    .parallel = true,
    .describe = qemu_describe,
    .snapshot = snapshot,
    .read_at = read_at,
    .next_data = next_data,
    .next_changed = next_changed,
    .broken = broken,
    .close = close_snapshot,
    .release = qemu_release,
};
