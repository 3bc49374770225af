/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/source/extents.h"

#include "base/cleanup.h"
#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>

enum { AT_ONCE = 1024 };

static int append(struct extents *e, size_t *capacity, const struct fiemap_extent *f)
{
    const uint32_t uncertain = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC |
                               FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_ENCRYPTED |
                               FIEMAP_EXTENT_NOT_ALIGNED | FIEMAP_EXTENT_DATA_INLINE |
                               FIEMAP_EXTENT_DATA_TAIL;
    if (f->fe_flags & FIEMAP_EXTENT_UNWRITTEN)
        return 0; /* zeros, as a hole */
    if (e->count == *capacity) {
        size_t more = *capacity ? *capacity * 2 : 256;
        struct extent *grown = reallocarray(e->all, more, sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        e->all = grown;
        *capacity = more;
    }
    e->all[e->count++] = (struct extent){.at = f->fe_logical,
                                         .length = f->fe_length,
                                         .on = f->fe_physical,
                                         .certain = !(f->fe_flags & uncertain)};
    return 0;
}

int extents_load(int fd, struct extents *ret)
{
    SP_FREE struct fiemap *map = malloc(sizeof(*map) + AT_ONCE * sizeof(map->fm_extents[0]));
    struct extents e = {NULL, 0};
    size_t capacity = 0;
    uint64_t at = 0;
    bool last = false;
    int r = map ? 0 : -ENOMEM;
    while (r == 0 && !last) {
        *map = (struct fiemap){.fm_start = at,
                               .fm_length = FIEMAP_MAX_OFFSET - at,
                               .fm_flags = FIEMAP_FLAG_SYNC,
                               .fm_extent_count = AT_ONCE};
        if (ioctl(fd, FS_IOC_FIEMAP, map) < 0) {
            r = errno == ENOTTY || errno == EBADR ? -EOPNOTSUPP : -errno;
            break;
        }
        last = map->fm_mapped_extents == 0;
        for (uint32_t i = 0; r == 0 && i < map->fm_mapped_extents; i++) {
            const struct fiemap_extent *f = &map->fm_extents[i];
            last = f->fe_flags & FIEMAP_EXTENT_LAST;
            at = f->fe_logical + f->fe_length;
            r = append(&e, &capacity, f);
        }
    }
    if (r < 0) {
        extents_clear(&e);
        return r;
    }
    *ret = e;
    return 0;
}

void extents_clear(struct extents *e)
{
    free(e->all);
    *e = (struct extents){NULL, 0};
}

/* ---- what differs ---- */

struct changes {
    struct extent_range *all;
    size_t count, capacity;
};

static int add(struct changes *c, uint64_t from, uint64_t to)
{
    struct extent_range *last = c->count ? &c->all[c->count - 1] : NULL;
    if (last && last->at + last->length == from) {
        last->length += to - from;
        return 0;
    }
    if (c->count == c->capacity) {
        size_t more = c->capacity ? c->capacity * 2 : 64;
        struct extent_range *grown = reallocarray(c->all, more, sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        c->all = grown;
        c->capacity = more;
    }
    c->all[c->count++] = (struct extent_range){from, to - from};
    return 0;
}

/* The extent that holds `at`, if one does, and where that (or the hole) ends. */
static const struct extent *holds(const struct extents *e, size_t *next, uint64_t at, uint64_t *end)
{
    while (*next < e->count && e->all[*next].at + e->all[*next].length <= at)
        ++*next;
    if (*next == e->count)
        return NULL;
    const struct extent *x = &e->all[*next];
    uint64_t to = x->at <= at ? x->at + x->length : x->at;
    if (to < *end)
        *end = to;
    return x->at <= at ? x : NULL;
}

static bool same(const struct extent *a, const struct extent *b, uint64_t at)
{
    if (!a || !b)
        return !a && !b;
    return a->certain && b->certain && a->on + (at - a->at) == b->on + (at - b->at);
}

int extents_changed(const struct extents *before, const struct extents *now, uint64_t size_bytes,
                    struct extent_range **ret, size_t *ret_count)
{
    struct changes c = {NULL, 0, 0};
    size_t i = 0, j = 0;
    for (uint64_t at = 0, end; at < size_bytes; at = end) {
        end = size_bytes;
        const struct extent *a = holds(before, &i, at, &end), *b = holds(now, &j, at, &end);
        if (!same(a, b, at) && add(&c, at, end) < 0) {
            free(c.all);
            return -ENOMEM;
        }
    }
    *ret = c.all;
    *ret_count = c.count;
    return 0;
}
