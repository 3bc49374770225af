/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/ranges.h"
#include <errno.h>
#include <stdlib.h>

int ranges_add(struct ranges *r, uint64_t start, uint64_t length)
{
    uint64_t end;
    if (length == 0)
        return 0;
    if (__builtin_add_overflow(start, length, &end))
        return -EOVERFLOW;
    if (r->count == r->capacity) {
        size_t more = r->capacity ? r->capacity * 2 : 16;
        struct range *larger = reallocarray(r->at, more, sizeof(*larger));
        if (!larger)
            return -ENOMEM;
        r->at = larger;
        r->capacity = more;
    }
    r->at[r->count++] = (struct range){start, end};
    return 0;
}

static int by_start(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

void ranges_settle(struct ranges *r)
{
    if (r->count < 2)
        return;
    qsort(r->at, r->count, sizeof(*r->at), by_start);
    size_t last = 0;
    for (size_t i = 1; i < r->count; i++) {
        if (r->at[i].start > r->at[last].end)
            r->at[++last] = r->at[i];
        else if (r->at[i].end > r->at[last].end)
            r->at[last].end = r->at[i].end;
    }
    r->count = last + 1;
}

void ranges_coarsen(struct ranges *r, size_t most)
{
    for (uint64_t gap = 4096; r->count > most; gap = gap > UINT64_MAX / 2 ? UINT64_MAX : gap * 2) {
        size_t last = 0;
        for (size_t i = 1; i < r->count; i++) {
            if (r->at[i].start - r->at[last].end <= gap)
                r->at[last].end = r->at[i].end;
            else
                r->at[++last] = r->at[i];
        }
        r->count = last + 1;
    }
}

/* Index of the first range that ends after `at`. */
static size_t first_after(const struct ranges *r, uint64_t at)
{
    size_t low = 0, high = r->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (r->at[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int ranges_outside(const struct ranges *r, uint64_t start, uint64_t end,
                   int (*each)(void *, uint64_t, uint64_t), void *arg)
{
    size_t i = first_after(r, start);
    while (start < end) {
        uint64_t stop = i < r->count && r->at[i].start < end ? r->at[i].start : end;
        if (stop > start) {
            int e = each(arg, start, stop);
            if (e < 0)
                return e;
        }
        if (stop == end)
            break;
        start = r->at[i++].end;
    }
    return 0;
}

int ranges_inside(const struct ranges *r, uint64_t start, uint64_t end,
                  int (*each)(void *, uint64_t, uint64_t), void *arg)
{
    for (size_t i = first_after(r, start); i < r->count && r->at[i].start < end; i++) {
        uint64_t from = r->at[i].start > start ? r->at[i].start : start;
        uint64_t to = r->at[i].end < end ? r->at[i].end : end;
        int e = each(arg, from, to);
        if (e < 0)
            return e;
    }
    return 0;
}

void ranges_free(struct ranges *r)
{
    free(r->at);
    *r = (struct ranges){0};
}
