/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/layout.h"
#include "base/cleanup.h"
#include <string.h>

static int by_start(const void *a, const void *b)
{
    const struct layout_range *x = a, *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

static int gather(const Sp__DiskLayout *from, uint64_t size_bytes, struct layout *to)
{
    if (from->n_ciphertext == 0)
        return 0;
    struct layout_range *bigger =
        realloc(to->ranges, (to->count + from->n_ciphertext) * sizeof *bigger);
    if (!bigger)
        return -ENOMEM;
    to->ranges = bigger;
    for (size_t i = 0; i < from->n_ciphertext; i++) {
        const Sp__DiskExtent *e = from->ciphertext[i];
        if (e->offset_bytes > size_bytes || e->length_bytes > size_bytes - e->offset_bytes)
            return -EINVAL;
        if (e->length_bytes > 0)
            to->ranges[to->count++] =
                (struct layout_range){e->offset_bytes, e->offset_bytes + e->length_bytes};
    }
    return 0;
}

int layout_of(const Sp__TransferRequest *request, const char *disk_id, uint64_t size_bytes,
              struct layout *ret)
{
    struct layout l = {0};
    for (size_t i = 0; i < request->n_layout; i++) {
        if (strcmp(request->layout[i]->disk_id, disk_id))
            continue;
        int r = gather(request->layout[i], size_bytes, &l);
        if (r < 0) {
            free(l.ranges);
            return r;
        }
    }
    if (l.count > 0) {
        qsort(l.ranges, l.count, sizeof *l.ranges, by_start);
        size_t last = 0;
        for (size_t i = 1; i < l.count; i++) {
            if (l.ranges[i].start > l.ranges[last].end)
                l.ranges[++last] = l.ranges[i];
            else if (l.ranges[i].end > l.ranges[last].end)
                l.ranges[last].end = l.ranges[i].end;
        }
        l.count = last + 1;
    }
    *ret = l;
    return 0;
}

bool layout_is_ciphertext(const struct layout *l, uint64_t offset, uint64_t length)
{
    size_t low = 0, high = l->count; /* the first range that ends after offset */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->ranges[middle].end <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low < l->count && l->ranges[low].start <= offset &&
           length <= l->ranges[low].end - offset;
}

int layout_extents(const struct layout *l, const char *disk_id, size_t *ret_count,
                   Sp__DiskExtent ***ret)
{
    Sp__DiskExtent **list = calloc(l->count + 1, sizeof(Sp__DiskExtent *));
    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < l->count; i++) {
        Sp__DiskExtent *e = malloc(sizeof *e);
        char *id = strdup(disk_id);
        if (!e || !id) {
            free(e);
            free(id);
            while (i > 0)
                sp__disk_extent__free_unpacked(list[--i], NULL);
            free(list);
            return -ENOMEM;
        }
        sp__disk_extent__init(e);
        e->disk_id = id;
        e->offset_bytes = l->ranges[i].start;
        e->length_bytes = l->ranges[i].end - l->ranges[i].start;
        list[i] = e;
    }
    *ret_count = l->count;
    *ret = list;
    return 0;
}
