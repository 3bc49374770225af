/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Taking a point out of QEMU again. Nothing in here trusts that the steps before it were done: each
 * looks at what QEMU has, by the point's tag, and removes it. The journal is needed for one thing
 * that QEMU cannot tell: that it was us who stopped the vCPUs.
 *
 * Bitmaps. Between two points each bitmap "sealpoint-<tag>" that is there records, and holds all
 * that changed since its point (it may hold more). The switch of a new point disables the older
 * ones, so that they end exactly there; whoever ends the point restores the rule:
 *   transferred   the older ones are removed, the new one is the base of the next increment;
 *   not           the older ones record again and get what the new one recorded since, which is
 *                 removed then: the base stays the last point that was fully copied. */
#include "controller/mover/source/qemu.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { EXPORT_WAIT_MS = 30000 };

char *qemu_socket_path(const char *folder, const char *point_id)
{
    char tag[QEMU_TAG];
    qemu_tag(point_id, tag);
    return sp_format("%s/%s.nbd", folder, tag);
}

/* ── Bitmaps ── */

static bool is_bitmap(json_object *bitmap, const char **ret_name)
{
    const char *name = *ret_name = qmp_string(bitmap, "name");
    return name && !strncmp(name, QEMU_BITMAP_PREFIX, sizeof QEMU_BITMAP_PREFIX - 1);
}

static int bitmap_call(struct qmp *q, const char *command, const char *node, const char *name,
                       struct sp_why *why)
{
    return qmp_call(q, command, qmp_object("node=s,name=s", node, name), NULL, why);
}

/* A bitmap that did not record records again, and gets what the recording ones hold, at once. */
static int catch_up(struct qmp *q, json_object *bitmaps, const char *node, const char *name,
                    struct sp_why *why)
{
    QMP_JSON json_object *actions = json_object_new_array();
    QMP_JSON json_object *from = json_object_new_array();
    if (!actions || !from)
        return -ENOMEM;
    json_object *enable = qmp_object("type=s,data=o", "block-dirty-bitmap-enable",
                                     qmp_object("node=s,name=s", node, name));
    if (!enable || json_object_array_add(actions, enable))
        return -ENOMEM;
    for (size_t i = 0; i < qmp_length(bitmaps); i++) {
        json_object *b = qmp_at(bitmaps, i);
        const char *other;
        if (!is_bitmap(b, &other) || !qmp_flag(b, "recording") || qmp_flag(b, "inconsistent"))
            continue;
        json_object *text = json_object_new_string(other);
        if (!text || json_object_array_add(from, text))
            return -ENOMEM;
    }
    if (qmp_length(from)) {
        json_object *merge =
            qmp_object("type=s,data=o", "block-dirty-bitmap-merge",
                       qmp_object("node=s,target=s,bitmaps=o", node, name, json_object_get(from)));
        if (!merge || json_object_array_add(actions, merge))
            return -ENOMEM;
    }
    return qmp_call(q, "transaction", qmp_object("actions=o", json_object_get(actions)), NULL, why);
}

/* One that was disabled when its successor had begun to record lacks nothing as long as a successor
 * records. With none, what was written since is known to nobody. */
static bool any_records(json_object *bitmaps)
{
    for (size_t i = 0; i < qmp_length(bitmaps); i++) {
        json_object *b = qmp_at(bitmaps, i);
        const char *name;
        if (is_bitmap(b, &name) && qmp_flag(b, "recording") && !qmp_flag(b, "inconsistent"))
            return true;
    }
    return false;
}

/* Inconsistent: QEMU died with it, and what it missed is not known. */
static bool is_lost(json_object *bitmap, bool chain)
{
    return qmp_flag(bitmap, "inconsistent") || (!qmp_flag(bitmap, "recording") && !chain);
}

bool qemu_bitmap_is_whole(json_object *nodes, const char *node, const char *bitmap,
                          const char **ret_why)
{
    json_object *bitmaps = qmp_get_array(qemu_node(nodes, node), "dirty-bitmaps");
    *ret_why =
        "QEMU has no record of what changed since an earlier point: it was restarted, or its "
        "record is of a point that is not in the vault";
    for (size_t i = 0; i < qmp_length(bitmaps); i++) {
        json_object *b = qmp_at(bitmaps, i);
        const char *name;
        if (!is_bitmap(b, &name) || strcmp(name, bitmap) != 0)
            continue;
        if (qmp_flag(b, "inconsistent"))
            *ret_why = "QEMU ended without saving its record of what changed";
        else if (!qmp_flag(b, "recording") && !any_records(bitmaps))
            *ret_why = "QEMU's record of what changed was switched off";
        else
            return true;
    }
    return false;
}

int qemu_bitmaps_prepare(struct qmp *q, json_object *nodes, const char *node, struct sp_why *why)
{
    json_object *bitmaps = qmp_get_array(qemu_node(nodes, node), "dirty-bitmaps");
    bool chain = any_records(bitmaps);
    for (size_t i = 0; i < qmp_length(bitmaps); i++) {
        json_object *b = qmp_at(bitmaps, i);
        const char *name;
        int r = 0;
        if (!is_bitmap(b, &name))
            continue;
        if (is_lost(b, chain))
            r = bitmap_call(q, "block-dirty-bitmap-remove", node, name, why);
        else if (!qmp_flag(b, "recording"))
            r = catch_up(q, bitmaps, node, name, why);
        if (r)
            return r;
    }
    return 0;
}

static int remove_others(struct qmp *q, json_object *nodes, const char *node, const char *keep,
                         struct sp_why *why)
{
    json_object *bitmaps = qmp_get_array(qemu_node(nodes, node), "dirty-bitmaps");
    int r = 0;
    for (size_t i = 0; !r && i < qmp_length(bitmaps); i++) {
        const char *name;
        if (is_bitmap(qmp_at(bitmaps, i), &name) && strcmp(name, keep) != 0)
            r = bitmap_call(q, "block-dirty-bitmap-remove", node, name, why);
    }
    return r;
}

/* `nodes` are from before qemu_bitmaps_prepare(), which has removed the lost ones. */
int qemu_bitmaps_disable_others(struct qmp *q, json_object *nodes, const char *node,
                                const char *keep, struct sp_why *why)
{
    json_object *bitmaps = qmp_get_array(qemu_node(nodes, node), "dirty-bitmaps");
    bool chain = any_records(bitmaps);
    int r = 0;
    for (size_t i = 0; !r && i < qmp_length(bitmaps); i++) {
        const char *name;
        if (is_bitmap(qmp_at(bitmaps, i), &name) && strcmp(name, keep) != 0 &&
            !is_lost(qmp_at(bitmaps, i), chain))
            r = bitmap_call(q, "block-dirty-bitmap-disable", node, name, why);
    }
    return r;
}

static int undo_bitmaps(struct qmp *q, const char *tag, bool transferred, struct sp_why *why)
{
    QMP_JSON json_object *nodes = NULL;
    int r = qmp_call(q, "query-named-block-nodes", qmp_object("flat=b", 1), &nodes, why);
    bool filter_is_there = false;
    SP_FREE char *mine = sp_format(QEMU_BITMAP_PREFIX "%s", tag);
    if (r || !mine)
        return r ? r : -ENOMEM;
    for (size_t i = 0; i < qmp_length(nodes); i++)
        filter_is_there |= qemu_is_ours(qmp_string(qmp_at(nodes, i), "node-name"), 'c', tag);
    /* A release that is repeated later, with newer points there, must not touch their bitmaps. */
    if (transferred && !filter_is_there)
        return 0;
    for (size_t i = 0; !r && i < qmp_length(nodes); i++) {
        const char *node = qmp_string(qmp_at(nodes, i), "node-name");
        json_object *bitmaps = qmp_get_array(qmp_at(nodes, i), "dirty-bitmaps");
        bool here = false;
        for (size_t j = 0; j < qmp_length(bitmaps); j++) {
            const char *name;
            here |= is_bitmap(qmp_at(bitmaps, j), &name) && !strcmp(name, mine);
        }
        if (!here || qemu_is_ours(node, 0, NULL))
            continue;
        if (transferred) {
            r = remove_others(q, nodes, node, mine, why);
        } else {
            r = qemu_bitmaps_prepare(q, nodes, node, why);
            r = r ? r : bitmap_call(q, "block-dirty-bitmap-remove", node, mine, why);
        }
    }
    return r;
}

/* ── Exports and the NBD server ── */

static int list_exports(struct qmp *q, const char *tag, bool remove, size_t *ret_left,
                        struct sp_why *why)
{
    QMP_JSON json_object *exports = NULL;
    int r = qmp_call(q, "query-block-exports", NULL, &exports, why);
    *ret_left = 0;
    for (size_t i = 0; !r && i < qmp_length(exports); i++) {
        json_object *e = qmp_at(exports, i);
        const char *id = qmp_string(e, "id");
        if (!qemu_is_ours(id, 'e', tag))
            continue;
        ++*ret_left;
        if (remove && !qmp_flag(e, "shutting-down"))
            r = qmp_call(q, "block-export-del", qmp_object("id=s,mode=s", id, "hard"), NULL, why);
        /* It may have gone between the two commands: the next look tells. */
        r = r == -EREMOTEIO ? 0 : r;
    }
    return r;
}

static void pause_ms(unsigned ms)
{
    struct timespec t = {.tv_nsec = (long)ms * 1000000};
    nanosleep(&t, NULL);
}

static int undo_exports(struct qmp *q, const char *tag, struct sp_why *why)
{
    uint64_t deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + EXPORT_WAIT_MS;
    for (;;) {
        size_t left;
        int r = list_exports(q, tag, true, &left, why);
        if (r || !left)
            return r;
        if (sp_clock_monotonic_ms(&sp_clock_system) >= deadline_ms)
            return sp_why_set(why, -EBUSY, "QEMU does not end an NBD export of this point");
        pause_ms(10);
    }
}

/* Lets QEMU's main loop turn, so that it sees that connections were closed. Its nbd-server-stop
 * waits for connections still in negotiation, without serving them: it must not meet one. */
static int let_turn(struct qmp *q, struct sp_why *why)
{
    int r = 0;
    for (unsigned i = 0; !r && i < 4; i++) {
        r = qmp_call(q, "query-version", NULL, NULL, why);
        pause_ms(2);
    }
    return r;
}

/* Descriptors that QEMU held for us (qemu.c, hold). Only after the exports have gone. */
static int undo_held(struct qmp *q, const char *tag, size_t disks, struct sp_why *why)
{
    if (qmp_version(q) >= 9000000)
        return 0;
    for (size_t n = 0; n < disks; n++) {
        for (unsigned i = 0; i < QEMU_HELD_CONNECTIONS; i++) {
            SP_FREE char *name = sp_format(QEMU_HELD_NAME, tag, n, i);
            if (!name)
                return -ENOMEM;
            int r = qmp_call(q, "closefd", qmp_object("fdname=s", name), NULL, why);
            if (r == -EREMOTEIO)
                break; /* none of this name */
            if (r)
                return r;
        }
    }
    return 0;
}

/* Talks to the server until it says goodbye: is it there? A client that hangs up without that
 * leaves a complaint in QEMU's log, and perhaps a connection that is still in negotiation. */
static bool server_answers(const char *socket_path)
{
    /* Client flags (fixed newstyle), then NBD_OPT_ABORT without data (NBD's doc/proto.md). */
    static const uint8_t goodbye[] = {0,   0,   0, 1, 'I', 'H', 'A', 'V', 'E', 'O',
                                      'P', 'T', 0, 0, 0,   2,   0,   0,   0,   0};
    SP_FD int fd = qemu_connect(socket_path);
    if (fd < 0)
        return false;
    struct timeval limit = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char said[64];
    if (recv(fd, said, 18, MSG_WAITALL) != 18 || memcmp(said, "NBDMAGICIHAVEOPT", 16) != 0)
        return false;
    if (send(fd, goodbye, sizeof goodbye, MSG_NOSIGNAL) == (ssize_t)sizeof goodbye) {
        while (recv(fd, said, sizeof said, 0) > 0)
            ;
    }
    return true;
}

/* The server is ours when it answers on the socket that carries our name. */
static int undo_server(struct qmp *q, const char *tag, const char *socket_path, struct sp_why *why)
{
    SP_FREE char *name = sp_format(QEMU_SERVER_NAME, tag);
    if (!name)
        return -ENOMEM;
    /* The listening socket, if the server was not started with it: else it would seem to answer. */
    int r = qmp_call(q, "closefd", qmp_object("fdname=s", name), NULL, why);
    r = r == -EREMOTEIO ? 0 : r;
    if (!r && server_answers(socket_path)) {
        r = let_turn(q, why);
        r = r ? r : qmp_call(q, "nbd-server-stop", NULL, NULL, why);
        r = r == -EREMOTEIO ? 0 : r; /* stopped meanwhile */
    }
    if (!r && unlink(socket_path) && errno != ENOENT)
        return sp_why_set(why, -errno, "cannot remove '%s': %s", socket_path, strerror(errno));
    return r;
}

/* ── Nodes ── */

static int delete_nodes(struct qmp *q, const char *tag, char kind, struct sp_why *why)
{
    QMP_JSON json_object *nodes = NULL;
    int r = qmp_call(q, "query-named-block-nodes", qmp_object("flat=b", 1), &nodes, why);
    for (size_t i = 0; !r && i < qmp_length(nodes); i++) {
        const char *name = qmp_string(qmp_at(nodes, i), "node-name");
        if (qemu_is_ours(name, kind, tag))
            r = qmp_call(q, "blockdev-del", qmp_object("node-name=s", name), NULL, why);
    }
    return r;
}

/* What the journal says is under the filter of a device. */
static const char *journal_node(json_object *journal, const char *qdev)
{
    json_object *disks = qmp_get_array(journal, "disks");
    for (size_t i = 0; i < qmp_length(disks); i++) {
        const char *is = qmp_string(qmp_at(disks, i), "qdev");
        if (is && !strcmp(is, qdev))
            return qmp_string(qmp_at(disks, i), "node");
    }
    return NULL;
}

static int restore_drives(struct qmp *q, const char *tag, const struct qemu_disks *disks,
                          json_object *journal, struct sp_why *why)
{
    for (size_t i = 0; i < disks->count; i++) {
        const struct qemu_disk *d = &disks->all[i];
        if (!qemu_is_ours(d->top_node, 'c', tag))
            continue;
        const char *node =
            strcmp(d->node, d->top_node) != 0 ? d->node : journal_node(journal, d->qdev);
        if (!node)
            return sp_why_set(why, -ENOENT,
                              "it is not known which node is under the filter '%s' of '%s'",
                              d->top_node, d->qdev);
        int r =
            qmp_call(q, "qom-set", qmp_object("path=s,property=s,value=s", d->qdev, "drive", node),
                     NULL, why);
        if (r)
            return r;
    }
    return 0;
}

/* What the fleeces of the point take in their file system. */
static int fleece_used(struct qmp *q, const char *tag, uint64_t *ret, struct sp_why *why)
{
    QMP_JSON json_object *nodes = NULL;
    int r = qmp_call(q, "query-named-block-nodes", qmp_object("flat=b", 1), &nodes, why);
    uint64_t sum = 0;
    for (size_t i = 0; !r && i < qmp_length(nodes); i++) {
        json_object *node = qmp_at(nodes, i);
        if (qemu_is_ours(qmp_string(node, "node-name"), 'f', tag))
            sum += qmp_number(qmp_get_object(node, "image"), "actual-size");
    }
    if (!r && ret)
        *ret = sum;
    return r;
}

static int remove_files(struct qmp *q, const char *tag, struct sp_why *why)
{
    QMP_JSON json_object *sets = NULL;
    SP_FREE char *mark = sp_format("sealpoint %s", tag);
    int r = mark ? qmp_call(q, "query-fdsets", NULL, &sets, why) : -ENOMEM;
    for (size_t i = 0; !r && i < qmp_length(sets); i++) {
        json_object *set = qmp_at(sets, i), *fds = qmp_get_array(set, "fds");
        bool ours = false;
        for (size_t j = 0; j < qmp_length(fds); j++) {
            const char *opaque = qmp_string(qmp_at(fds, j), "opaque");
            ours |= opaque && !strcmp(opaque, mark);
        }
        if (!ours)
            continue;
        int64_t id = (int64_t)qmp_number(set, "fdset-id");
        r = qmp_call(q, "remove-fd", qmp_object("fdset-id=n", id), NULL, why);
        r = r == -EREMOTEIO ? 0 : r; /* it went by itself with the last monitor */
    }
    return r;
}

/* ── All of it ── */

static int resume(struct qmp *q, json_object *journal, struct sp_why *why)
{
    QMP_JSON json_object *status = NULL;
    if (!qmp_flag(journal, "stopped"))
        return 0;
    int r = qmp_call(q, "query-status", NULL, &status, why);
    const char *is = qmp_string(status, "status");
    if (!r && is && !strcmp(is, "paused"))
        r = qmp_call(q, "cont", NULL, NULL, why);
    return r;
}

int qemu_undo(struct qmp *q, const char *point_id, const char *fleece_folder, const char *journal,
              bool transferred, uint64_t *ret_fleece, struct sp_why *why)
{
    char tag[QEMU_TAG];
    __attribute__((cleanup(qemu_disks_free))) struct qemu_disks disks = {0};
    SP_FREE char *socket_path = qemu_socket_path(fleece_folder, point_id);
    QMP_JSON json_object *told = journal && *journal ? json_tokener_parse(journal) : NULL;
    if (!socket_path)
        return -ENOMEM;
    qemu_tag(point_id, tag);
    int r = resume(q, told, why);
    r = r ? r : undo_exports(q, tag, why);
    r = r ? r : qemu_disks_load(q, true, &disks, why);
    r = r ? r : undo_held(q, tag, disks.count, why);
    r = r ? r : undo_server(q, tag, socket_path, why);
    r = r ? r : delete_nodes(q, tag, 'a', why);
    r = r ? r : undo_bitmaps(q, tag, transferred, why);
    r = r ? r : restore_drives(q, tag, &disks, told, why);
    r = r ? r : delete_nodes(q, tag, 'c', why);
    r = r ? r : fleece_used(q, tag, ret_fleece, why);
    r = r ? r : delete_nodes(q, tag, 'f', why);
    return r ? r : remove_files(q, tag, why);
}

int qemu_release(const Sp__ReleaseSnapshotRequest *request, Sp__ReleaseSnapshotResponse **ret,
                 struct sp_why *why)
{
    const Sp__QemuSource *source = request->source->qemu;
    QMP_CLOSE struct qmp *q = NULL;
    SP_FREE char *socket_path = qemu_socket_path(source->fleece_directory, request->point_id);
    if (!socket_path)
        return -ENOMEM;
    uint64_t fleece = 0;
    int r = qmp_open(source->qmp_socket, 0, &q, why);
    if (r == -ENOENT || r == -ECONNREFUSED) {
        /* QEMU has ended: everything but the name of the socket ended with it. */
        unlink(socket_path);
        r = 0;
    } else if (!r) {
        r = qemu_undo(q, request->point_id, source->fleece_directory, request->journal,
                      request->transferred, &fleece, why);
    }
    if (r)
        return r;
    Sp__ReleaseSnapshotResponse *m = malloc(sizeof *m);
    if (!m)
        return -ENOMEM;
    sp__release_snapshot_response__init(m);
    m->nothing_left = true;
    m->fleece_used_bytes = fleece;
    *ret = m;
    return 0;
}
