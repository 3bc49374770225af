/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The look: each node is examined once; what is found on it is accounted for, and what it makes (a
 * partition, an array, a logical volume) is pushed as a node of its own. When nothing waits any
 * more, arrays and groups are assembled from their members, and so on until nothing is new.
 *
 * What nothing recognises is left out of the ranges: the caller finds the bytes that nobody
 * accounts for, which may be a closed plain volume. */
#include "volume/look.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- collecting ---- */

static int keep_in(struct volume_node ***list, size_t *count, struct volume_node *node)
{
    if (!node)
        return -ENOMEM;
    int rc = *count == LOOK_NODES_MAX ? -E2BIG : volume_append(list, count, node);
    if (rc < 0)
        volume_node_free(node);
    return rc;
}

int look_keep(struct look *l, struct volume_node *node)
{
    return keep_in(&l->parts, &l->part_count, node);
}

int look_push(struct look *l, struct volume_node *node)
{
    if (node)
        node->reader.search_left = &l->search_left;
    return keep_in(&l->nodes, &l->node_count, node);
}

struct sink {
    struct look *look;
    const char *what, *volume_id;
};

static int add_range(void *self, const struct volume_disk *disk, uint64_t offset, uint64_t length)
{
    const struct sink *sink = self;
    Sp__RangeUse *use = malloc(sizeof *use);
    Sp__DiskExtent *on = malloc(sizeof *on);
    if (!use || !on) {
        free(use);
        free(on);
        return -ENOMEM;
    }
    sp__range_use__init(use);
    sp__disk_extent__init(on);
    use->on = on;
    on->offset_bytes = offset;
    on->length_bytes = length;
    if (volume_set_text(&on->disk_id, disk->disk_id, 512) < 0 ||
        volume_set_text(&use->what, sink->what, 64) < 0 ||
        volume_set_text(&use->volume_id, sink->volume_id, 512) < 0 ||
        volume_append(&sink->look->out.ranges, &sink->look->out.range_count, use) < 0) {
        sp__range_use__free_unpacked(use, NULL);
        return -ENOMEM;
    }
    return 0;
}

int look_account(struct look *l, const struct volume_node *node, uint64_t offset, uint64_t length,
                 const char *what, const char *volume_id)
{
    struct sink sink = {.look = l, .what = what, .volume_id = volume_id ? volume_id : ""};
    return volume_node_each_range(node, offset, length, add_range, &sink);
}

int look_gaps(struct look *l, const struct volume_node *node, uint64_t (*covers)[2], size_t count)
{
    uint64_t size = node->reader.size_bytes, at = 0;
    count = volume_join_ranges(covers, count, size);
    for (size_t i = 0; i <= count; i++) {
        uint64_t begin = i < count ? covers[i][0] : size;
        int rc = 0;
        if (begin > at && begin - at <= VOLUME_GAP_MAX)
            rc = look_account(l, node, at, begin - at, "gap", NULL);
        if (rc < 0)
            return rc;
        if (i < count)
            at = covers[i][0] + covers[i][1];
    }
    return 0;
}

/* Where a node begins: its first byte on a disk. */
static const char *place_of(const struct volume_node *node, uint64_t *offset)
{
    const struct volume_disk *disk;
    uint64_t run;
    *offset = 0;
    return volume_node_map(node, 0, &disk, offset, &run) < 0 ? "" : disk->disk_id;
}

int look_find(struct look *l, Sp__Reason reason, bool is_note, const struct volume_node *node,
              const char *volume_id, const char *format, ...)
{
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    Sp__Finding *f = malloc(sizeof *f);
    if (!f)
        return -ENOMEM;
    sp__finding__init(f);
    f->reason = reason;
    f->note = is_note;
    const char *disk_id = place_of(node, &f->offset_bytes);
    f->length_bytes = node->reader.size_bytes;
    if (volume_set_text(&f->text, text, sizeof text) < 0 ||
        volume_set_text(&f->disk_id, disk_id, 512) < 0 ||
        volume_set_text(&f->volume_id, volume_id, 512) < 0 ||
        volume_append(&l->out.findings, &l->out.finding_count, f) < 0) {
        sp__finding__free_unpacked(f, NULL);
        return -ENOMEM;
    }
    return 0;
}

/* ---- volumes ---- */

static bool is_known(const struct look *l, const char *volume_id)
{
    for (size_t i = 0; i < l->out.volume_count; i++)
        if (!strcmp(l->out.volumes[i]->volume_id, volume_id))
            return true;
    return false;
}

static Sp__Volume *new_volume(struct look *l, const struct volume_node *node, Sp__VolumeKind kind,
                              const char *volume_id)
{
    Sp__Volume *v = malloc(sizeof *v);
    if (!v)
        return NULL;
    sp__volume__init(v);
    v->kind = kind;
    v->size_bytes = node->reader.size_bytes;
    if (volume_set_text(&v->volume_id, volume_id, 512) < 0 ||
        volume_node_extents(node, LOOK_EXTENTS_MAX, v) < 0 ||
        volume_append(&l->out.volumes, &l->out.volume_count, v) < 0) {
        sp__volume__free_unpacked(v, NULL);
        return NULL;
    }
    return v;
}

static int capture_range(struct look *l, const struct volume_node *node, const char *volume_id,
                         uint64_t offset, uint64_t length)
{
    SP_FREE uint8_t *bytes = malloc(length);
    if (!bytes)
        return -ENOMEM;
    int rc = volume_read(&node->reader, offset, bytes, (uint32_t)length);
    if (rc < 0)
        return rc;
    Sp__CapturedHeader *h = malloc(sizeof *h);
    if (!h)
        return -ENOMEM;
    sp__captured_header__init(h);
    h->volume_offset_bytes = offset;
    h->bytes.data = sp_steal(bytes);
    h->bytes.len = length;
    if (volume_set_text(&h->volume_id, volume_id, 512) < 0 ||
        volume_append(&l->out.headers, &l->out.header_count, h) < 0) {
        sp__captured_header__free_unpacked(h, NULL);
        return -ENOMEM;
    }
    l->captured += length;
    return 0;
}

static int capture(struct look *l, const struct volume_node *node, const char *volume_id,
                   const struct volume_ranges *ranges)
{
    uint64_t total = 0;
    for (size_t i = 0; i < ranges->count; i++)
        total += ranges->at[i][1];
    if (total > VOLUME_CAPTURE_MAX || total > LOOK_CAPTURE_MAX - l->captured)
        return look_find(l, SP__REASON__REASON_HEADER_MISSING, true, node, volume_id,
                         "the header's %llu bytes are too many to keep them in the manifest: they "
                         "are in the disk's data only",
                         (unsigned long long)total);
    for (size_t i = 0; i < ranges->count; i++) {
        int rc = capture_range(l, node, volume_id, ranges->at[i][0], ranges->at[i][1]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

struct fault_sink {
    struct look *look;
    const struct volume_node *node;
    const char *volume_id;
};

static int add_fault(void *self, Sp__Reason reason, bool is_note, const char *text)
{
    const struct fault_sink *to = self;
    return look_find(to->look, reason, is_note, to->node, to->volume_id, "%s", text);
}

static int add_encrypted(struct look *l, const struct volume_node *node,
                         const struct volume_format *format, Sp__HeaderFacts *facts)
{
    SP_CLEANUP(volume_facts) Sp__HeaderFacts *owned = facts;
    char id[512];
    uint64_t offset;
    const char *disk_id = place_of(node, &offset);
    volume_id_text(format->kind, facts->uuid, disk_id, offset, id, sizeof id);
    bool again = is_known(l, id);
    if (again) {
        size_t end = strlen(id);
        snprintf(id + end, sizeof id - end, "@%s+%llu", disk_id, (unsigned long long)offset);
    }
    Sp__Volume *v = new_volume(l, node, format->kind, id);
    if (!v)
        return -ENOMEM;
    v->header = sp_steal(owned);
    struct volume_ranges ranges;
    int rc = format->header_ranges(&node->reader, facts, &ranges);
    if (rc == 0 && !l->layout_only)
        rc = capture(l, node, id, &ranges);
    if (rc == 0 && !facts->detached)
        rc = look_account(l, node, 0, node->reader.size_bytes, format->name, id);
    /* A detached header vouches for itself only: its data lie elsewhere, unseen. */
    for (size_t i = 0; rc == 0 && facts->detached && i < ranges.count; i++)
        rc = look_account(l, node, ranges.at[i][0], ranges.at[i][1], format->name, id);
    if (rc == 0 && again)
        rc = look_find(l, SP__REASON__REASON_INVENTORY_MISMATCH, true, node, id,
                       "another volume has this UUID too: they are told apart by their place; give "
                       "the clone its own ('cryptsetup luksUUID')");
    struct fault_sink to = {.look = l, .node = node, .volume_id = id};
    return rc < 0 ? rc : volume_each_fault(facts, add_fault, &to);
}

/* Content that only makes sense as a part of something that could not be put together. */
static bool is_member(const Sp__Content *c)
{
    return !strcmp(c->usage, "raid") || !strcmp(c->usage, "crypto");
}

static int add_clear(struct look *l, const struct volume_node *node, Sp__Content *content)
{
    SP_CLEANUP(volume_content) Sp__Content *owned = content;
    if (is_member(content))
        return look_find(l, SP__REASON__REASON_UNIDENTIFIED_CONTENT, true, node, NULL,
                         "a %s, which is not looked into", content->type);
    char id[256];
    uint64_t offset, size = node->reader.size_bytes;
    const char *disk_id = place_of(node, &offset);
    volume_id_text(SP__VOLUME_KIND__VOLUME_KIND_CLEAR, content->uuid, disk_id, offset, id,
                   sizeof id);
    if (is_known(l, id)) /* one more device of a btrfs, or a clone */
        volume_id_text(SP__VOLUME_KIND__VOLUME_KIND_CLEAR, NULL, disk_id, offset, id, sizeof id);
    Sp__Volume *v = new_volume(l, node, SP__VOLUME_KIND__VOLUME_KIND_CLEAR, id);
    if (!v)
        return -ENOMEM;
    v->content = sp_steal(owned);
    uint64_t used = volume_content_size(&node->reader, content->type);
    if (used == 0)
        used = size;
    int rc = look_account(l, node, 0, used, content->type, id);
    uint64_t cover[1][2] = {{0, used}};
    return rc < 0 ? rc : look_gaps(l, node, cover, 1);
}

/* ---- tables ---- */

static int add_partition(struct look *l, struct volume_node *node, const struct volume_partition *p)
{
    if (volume_partition_is_boot_code(p))
        return look_account(l, node, p->offset, p->length, "boot code", NULL);
    struct volume_node *part = volume_node_window(node, p->offset, p->length);
    if (!part)
        return look_find(l, SP__REASON__REASON_UNIDENTIFIED_CONTENT, true, node, NULL,
                         "partition %u is nested too deep to be looked at", p->number);
    return look_push(l, part);
}

static int add_table(struct look *l, struct volume_node *node, const struct volume_table *t)
{
    size_t count = t->own_count + t->count;
    uint64_t(*covers)[2] SP_FREE = calloc(count + 1, sizeof covers[0]);
    if (!covers)
        return -ENOMEM;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < t->own_count; i++) {
        covers[i][0] = t->own[i][0];
        covers[i][1] = t->own[i][1];
        rc = look_account(l, node, t->own[i][0], t->own[i][1], t->kind, NULL);
    }
    for (size_t i = 0; rc == 0 && i < t->count; i++) {
        covers[t->own_count + i][0] = t->partitions[i].offset;
        covers[t->own_count + i][1] = t->partitions[i].length;
        rc = add_partition(l, node, &t->partitions[i]);
    }
    if (rc == 0 && !t->damaged)
        rc = look_gaps(l, node, covers, count);
    if (rc == 0 && *t->problem)
        rc = look_find(l,
                       t->damaged ? SP__REASON__REASON_UNIDENTIFIED_CONTENT
                                  : SP__REASON__REASON_HEADER_DAMAGED,
                       !t->damaged, node, NULL, "partition table: %s", t->problem);
    return rc;
}

/* 1: a table was there. */
static int examine_table(struct look *l, struct volume_node *node)
{
    SP_CLEANUP(volume_table) struct volume_table *t = NULL;
    uint32_t sector = node->disk ? node->disk->logical_sector_bytes : 0;
    int rc = volume_table_read(&node->reader, sector, &t);
    /* An image may have been made for another sector size than the source says. */
    if (sector && (rc == 0 || rc == -EINVAL || (rc == 1 && t->damaged))) {
        SP_CLEANUP(volume_table) struct volume_table *other = NULL;
        int other_rc = volume_table_read(&node->reader, 0, &other);
        if (other_rc < 0)
            return other_rc;
        if (other_rc == 1 && (rc != 1 || !other->damaged)) {
            volume_table_free(t);
            t = sp_steal(other);
            rc = 1;
        } else if (rc == -EINVAL) {
            rc = 0;
        }
    }
    if (rc != 1)
        return rc;
    rc = add_table(l, node, t);
    return rc < 0 ? rc : 1;
}

/* ---- members ---- */

static int examine_md(struct look *l, struct volume_node *node)
{
    struct volume_md md;
    int rc = volume_md_read(&node->reader, &md);
    if (rc != 1)
        return rc;
    if (md.major == 0) { /* 0.90: of the last partition and of the disk it is at the same place */
        SP_CLEANUP(volume_table) struct volume_table *t = NULL;
        rc = volume_table_read(&node->reader, 0, &t);
        if (rc < 0 || (rc == 1 && t->count))
            return rc < 0 ? rc : 0;
    }
    struct look_md *grown = realloc(l->mds, (l->md_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    l->mds = grown;
    grown[l->md_count++] = (struct look_md){.node = node, .md = md};
    uint64_t covers[SP_COUNT(md.own) + 1][2];
    for (size_t i = 0; i < md.own_count; i++) {
        covers[i][0] = md.own[i][0];
        covers[i][1] = md.own[i][1];
        rc = look_account(l, node, md.own[i][0], md.own[i][1], "md metadata", NULL);
        if (rc < 0)
            return rc;
    }
    covers[md.own_count][0] = md.data_offset;
    covers[md.own_count][1] = md.data_size;
    rc = look_gaps(l, node, covers, md.own_count + 1);
    return rc < 0 ? rc : 1;
}

static int examine_pv(struct look *l, struct volume_node *node)
{
    SP_CLEANUP(volume_pv) struct volume_pv *pv = NULL;
    int rc = volume_pv_read(&node->reader, &pv);
    if (rc != 1)
        return rc;
    struct look_pv *grown = realloc(l->pvs, (l->pv_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    l->pvs = grown;
    uint64_t covers[2 * VOLUME_LVM_AREAS + 1][2] = {{0, 2048}};
    size_t count = 1;
    rc = look_account(l, node, 0, covers[0][1], "lvm2 metadata", NULL);
    for (size_t i = 0; rc == 0 && i < pv->area_count; i++, count++) {
        covers[count][0] = pv->areas[i][0];
        covers[count][1] = pv->areas[i][1];
        rc = look_account(l, node, covers[count][0], covers[count][1], "lvm2 metadata", NULL);
    }
    for (size_t i = 0; i < pv->data_count; i++, count++) {
        covers[count][0] = pv->data[i][0]; /* size 0: all the rest */
        covers[count][1] = pv->data[i][1] ? pv->data[i][1] : node->reader.size_bytes;
    }
    if (rc == 0)
        rc = look_gaps(l, node, covers, count);
    if (rc == 0 && *pv->problem)
        rc = look_find(l, SP__REASON__REASON_HEADER_DAMAGED, true, node, NULL,
                       "LVM2 physical volume: %s", pv->problem);
    if (rc < 0)
        return rc;
    grown[l->pv_count++] = (struct look_pv){.node = node, .pv = sp_steal(pv)};
    return 1;
}

/* ---- the loop ---- */

static int examine_clear(struct look *l, struct volume_node *node)
{
    Sp__Content *content = NULL;
    bool ambiguous = false;
    int rc = volume_content_clear(&node->reader, &content, &ambiguous);
    if (rc < 0)
        return rc;
    if (ambiguous)
        rc = look_find(l, SP__REASON__REASON_UNIDENTIFIED_CONTENT, true, node, NULL,
                       "signatures of more than one kind of content: wipe the stale one");
    else if (content)
        rc = add_clear(l, node, content);
    else
        return 0;
    return rc < 0 ? rc : 1;
}

static int examine_encrypted(struct look *l, struct volume_node *node)
{
    const struct volume_format *format;
    Sp__HeaderFacts *facts = NULL;
    int rc = volume_probe(&node->reader, &format, &facts);
    if (rc != 1)
        return rc;
    rc = add_encrypted(l, node, format, facts);
    return rc < 0 ? rc : 1;
}

/* Whether sector 0 has one of the magics of a header: a hint for the order, not a verdict. */
static int hints_at_header(const struct volume_node *node, bool *ret)
{
    uint8_t s[16];
    int rc = volume_read(&node->reader, 0, s, sizeof s);
    *ret = rc == 0 && (!memcmp(s, "LUKS", 4) || !memcmp(s + 3, "-FVE-FS-", 8) ||
                       !memcmp(s + 3, "MSWIN4.1", 8));
    return rc;
}

/* Members first (a mirror leg with its superblock at the end looks like what it mirrors), then
 * headers that sector 0 hints at, then tables (sector 0 of a partitioned disk may hold anything),
 * then file systems. A header whose beginning is lost is looked for last: the probes believe in one
 * only where nothing else begins, and looking costs the most. */
static int examine(struct look *l, struct volume_node *node)
{
    if (node->reader.size_bytes < 512)
        return 0;
    bool hint = false;
    int rc = examine_md(l, node);
    if (rc == 0)
        rc = hints_at_header(node, &hint);
    if (rc == 0 && hint)
        rc = examine_encrypted(l, node);
    if (rc == 0)
        rc = examine_table(l, node);
    if (rc == 0)
        rc = examine_pv(l, node);
    if (rc == 0)
        rc = examine_clear(l, node);
    if (rc == 0 && !hint)
        rc = examine_encrypted(l, node);
    return rc < 0 ? rc : 0;
}

static int run(struct look *l)
{
    for (size_t i = 0; i < l->disk_count; i++) {
        int rc = look_push(l, volume_node_of_disk(&l->disks[i]));
        if (rc < 0)
            return rc;
    }
    for (;;) {
        while (l->examined < l->node_count) {
            int rc = examine(l, l->nodes[l->examined++]);
            if (rc < 0)
                return rc;
        }
        int made = look_assemble(l, false);
        if (made == 0)
            made = look_assemble(l, true);
        if (made <= 0)
            return made;
    }
}

static int by_place(const void *a, const void *b)
{
    const Sp__RangeUse *x = *(Sp__RangeUse *const *)a, *y = *(Sp__RangeUse *const *)b;
    int order = strcmp(x->on->disk_id, y->on->disk_id);
    if (order)
        return order;
    return x->on->offset_bytes < y->on->offset_bytes ? -1
                                                     : x->on->offset_bytes > y->on->offset_bytes;
}

static void look_clear(struct look *l)
{
    for (size_t i = 0; i < l->node_count; i++)
        volume_node_free(l->nodes[i]);
    free(l->nodes);
    for (size_t i = 0; i < l->part_count; i++)
        volume_node_free(l->parts[i]);
    free(l->parts);
    for (size_t i = 0; i < l->pv_count; i++)
        volume_pv_free(l->pvs[i].pv);
    free(l->pvs);
    free(l->mds);
    for (size_t i = 0; i < l->group_count; i++)
        free(l->groups_done[i]);
    free(l->groups_done);
}

int volume_look(const struct volume_disk *disks, size_t disk_count, bool layout_only,
                struct volume_look *ret)
{
    struct look l = {.disks = disks,
                     .disk_count = disk_count,
                     .layout_only = layout_only,
                     .search_left = LOOK_SEARCH_MAX};
    int rc = run(&l);
    look_clear(&l);
    if (rc < 0) {
        volume_look_free(&l.out);
        return rc;
    }
    if (l.out.range_count)
        qsort(l.out.ranges, l.out.range_count, sizeof l.out.ranges[0], by_place);
    *ret = l.out;
    return 0;
}

void volume_look_free(struct volume_look *look)
{
    for (size_t i = 0; i < look->volume_count; i++)
        sp__volume__free_unpacked(look->volumes[i], NULL);
    for (size_t i = 0; i < look->range_count; i++)
        sp__range_use__free_unpacked(look->ranges[i], NULL);
    for (size_t i = 0; i < look->header_count; i++)
        sp__captured_header__free_unpacked(look->headers[i], NULL);
    for (size_t i = 0; i < look->finding_count; i++)
        sp__finding__free_unpacked(look->findings[i], NULL);
    free(look->volumes);
    free(look->ranges);
    free(look->headers);
    free(look->findings);
    *look = (struct volume_look){0};
}
