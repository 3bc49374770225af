/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/accounting.h"
#include "controller/message.h"
#include <string.h>

enum { READ_BYTES = 64 * 1024 };

int accounting_add_uses(struct ranges *uses, const char *disk_id, Sp__RangeUse *const *list,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const Sp__DiskExtent *on = list[i]->on;
        if (!on || strcmp(on->disk_id, disk_id) != 0)
            continue;
        int r = ranges_add(uses, on->offset_bytes, on->length_bytes);
        if (r < 0)
            return r;
    }
    return 0;
}

int accounting_add_volume(struct ranges *uses, const char *disk_id, const Sp__Volume *volume)
{
    for (size_t i = 0; i < volume->n_extents; i++) {
        const Sp__DiskExtent *on = volume->extents[i]->on;
        if (!on || strcmp(on->disk_id, disk_id) != 0)
            continue;
        int r = ranges_add(uses, on->offset_bytes, on->length_bytes);
        if (r < 0)
            return r;
    }
    return 0;
}

struct scan {
    const struct accounting_disk *disk;
    struct ranges *left;
    struct sp_why *why;
    uint8_t buffer[READ_BYTES];
};

/* Blocks of the buffer that hold something, as ranges cut to [start, start + length). */
static int note_blocks(struct scan *s, uint64_t start, uint32_t length)
{
    for (uint32_t at = 0; at < length;) {
        /* The first piece ends at a block's boundary, so that blocks are the disk's blocks. */
        uint32_t piece = ACCOUNTING_BLOCK_BYTES - (uint32_t)((start + at) % ACCOUNTING_BLOCK_BYTES);
        if (piece > length - at)
            piece = length - at;
        if (!sp_is_zero(s->buffer + at, piece)) {
            int r = ranges_add(s->left, start + at, piece);
            if (r < 0)
                return r;
        }
        at += piece;
    }
    return 0;
}

static int scan_unused(void *arg, uint64_t start, uint64_t end)
{
    struct scan *s = arg;
    while (start < end) {
        uint32_t length = end - start < READ_BYTES ? (uint32_t)(end - start) : READ_BYTES;
        int r = s->disk->read_at(s->disk->self, start, s->buffer, length, s->why);
        if (r == 0)
            r = note_blocks(s, start, length);
        if (r < 0)
            return r;
        start += length;
    }
    return 0;
}

int accounting_left(const struct accounting_disk *disk, const struct ranges *uses,
                    struct ranges *left, struct sp_why *why)
{
    struct scan *scan SP_FREE = malloc(sizeof(*scan));
    if (!scan)
        return -ENOMEM;
    scan->disk = disk;
    scan->left = left;
    scan->why = why;
    uint64_t at = 0;
    while (at < disk->size_bytes) {
        uint64_t offset = 0, length = 0, end;
        int r = disk->next_data(disk->self, at, &offset, &length, why);
        if (r <= 0) {
            if (r < 0)
                return r;
            break;
        }
        if (__builtin_add_overflow(offset, length, &end) || end <= at)
            return sp_why_set(why, -EBADMSG, "the map of disk %s goes backwards", disk->disk_id);
        if (end > disk->size_bytes)
            end = disk->size_bytes;
        r = ranges_outside(uses, offset < at ? at : offset, end, scan_unused, scan);
        if (r < 0)
            return r;
        at = end;
    }
    ranges_settle(left);
    return 0;
}

/* " at bytes 0+4096, 8192+4096, …" */
static void first_places(const struct ranges *left, char *out, size_t size)
{
    enum { SHOWN = 3 };
    size_t at = 0;
    for (size_t i = 0; i < left->count && i < SHOWN && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%llu+%llu", i ? ", " : "",
                               (unsigned long long)left->at[i].start,
                               (unsigned long long)(left->at[i].end - left->at[i].start));
    if (left->count > SHOWN && at < size)
        snprintf(out + at, size - at, ", …");
}

int accounting_report(const char *disk_id, const struct ranges *left, struct finding_list findings)
{
    char places[160] = "";
    uint64_t bytes = 0;
    if (left->count == 0)
        return 0;
    for (size_t i = 0; i < left->count; i++)
        bytes += left->at[i].end - left->at[i].start;
    first_places(left, places, sizeof(places));
    uint64_t start = left->at[0].start, end = left->at[left->count - 1].end;
    struct finding_about about = {
        .disk_id = disk_id, .offset_bytes = start, .length_bytes = end - start};
    return finding_add(findings, SP__REASON__REASON_UNIDENTIFIED_CONTENT, about,
                       "%llu bytes in %zu range%s (%s) are nothing known: if a plain dm-crypt or "
                       "detached-header volume lies there, open it and back up again",
                       (unsigned long long)bytes, left->count, left->count == 1 ? "" : "s", places);
}

int accounting_keep(const char *disk_id, struct ranges *left, Sp__Manifest *m)
{
    int r = 0;
    ranges_coarsen(left, ACCOUNTING_MAX_RANGES);
    for (size_t i = 0; i < left->count && r == 0; i++) {
        Sp__RangeUse *use = message_new(&sp__range_use__descriptor);
        if (!use || !(use->on = message_new(&sp__disk_extent__descriptor))) {
            message_free(use);
            return -ENOMEM;
        }
        use->on->offset_bytes = left->at[i].start;
        use->on->length_bytes = left->at[i].end - left->at[i].start;
        r = message_set(&use->on->disk_id, disk_id);
        if (r == 0)
            r = message_set(&use->what, "unidentified");
        if (r == 0)
            r = message_append(&m->ranges, &m->n_ranges, use);
        else
            message_free(use);
    }
    return r;
}
