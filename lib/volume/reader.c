/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Readers: over a file, over a window of another reader, past what cannot be read, over the
 * extents of a volume. */
#include "base/file.h"
#include "volume/internal.h"
#include <string.h>

int volume_read(const struct volume_reader *r, uint64_t offset, void *out, uint32_t length)
{
    if (offset > r->size_bytes || length > r->size_bytes - offset)
        return -ERANGE;
    return length ? r->read_at(r->self, offset, out, length) : 0;
}

static int fd_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    int rc = sp_pread_all(*(const int *)self, out, length, offset);
    return rc == -ENODATA ? -ERANGE : rc;
}

struct volume_reader volume_reader_of_fd(const int *fd, uint64_t size_bytes)
{
    return (struct volume_reader){
        .read_at = fd_read_at, .self = (void *)(uintptr_t)fd, .size_bytes = size_bytes};
}

static int window_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct volume_window *w = self;
    uint64_t at;
    if (volume_add_overflows(w->offset_bytes, offset, &at))
        return -ERANGE;
    return volume_read(w->of, at, out, length);
}

struct volume_reader volume_reader_window(struct volume_window *store,
                                          const struct volume_reader *of, uint64_t offset_bytes,
                                          uint64_t length_bytes)
{
    *store = (struct volume_window){.of = of, .offset_bytes = offset_bytes};
    /* A window that reaches past its base is cut: what is not there cannot be read. */
    uint64_t most = offset_bytes < of->size_bytes ? of->size_bytes - offset_bytes : 0;
    return (struct volume_reader){.read_at = window_read_at,
                                  .self = store,
                                  .size_bytes = length_bytes < most ? length_bytes : most};
}

/* ---- past what cannot be read ---- */

/* Where the piece stands, or would. */
static size_t place_of(const struct volume_unreadable *u, uint64_t piece)
{
    size_t i = 0;
    while (i < u->count && u->at[i] < piece)
        i++;
    return i;
}

static int remember(struct volume_unreadable *u, uint64_t piece)
{
    if (u->count == u->most)
        return -EIO;
    size_t i = place_of(u, piece);
    memmove(u->at + i + 1, u->at + i, (u->count - i) * sizeof u->at[0]);
    u->at[i] = piece;
    u->count++;
    return 0;
}

/* One piece or a part of it. A bad one is not tried again: a disk may take seconds to give up. */
static int read_piece(struct volume_unreadable *u, uint64_t offset, void *out, uint32_t length)
{
    uint64_t piece = offset - offset % VOLUME_UNREADABLE_PIECE;
    size_t i = place_of(u, piece);
    bool bad = i < u->count && u->at[i] == piece;
    int rc = bad ? -EIO : volume_read(u->of, offset, out, length);
    if (rc != -EIO)
        return rc;
    memset(out, 0, length);
    return bad ? 0 : remember(u, piece);
}

static int lenient_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    struct volume_unreadable *u = self;
    size_t i = place_of(u, offset - offset % VOLUME_UNREADABLE_PIECE);
    bool known_bad = i < u->count && u->at[i] < offset + length;
    int rc = known_bad ? -EIO : volume_read(u->of, offset, out, length);
    if (rc != -EIO)
        return rc;
    uint8_t *to = out;
    for (rc = 0; rc == 0 && length;) {
        uint32_t left = VOLUME_UNREADABLE_PIECE - (uint32_t)(offset % VOLUME_UNREADABLE_PIECE);
        uint32_t now = left < length ? left : length;
        rc = read_piece(u, offset, to, now);
        to += now;
        offset += now;
        length -= now;
    }
    return rc;
}

struct volume_reader volume_reader_lenient(struct volume_unreadable *store,
                                           const struct volume_reader *of, size_t most)
{
    *store = (struct volume_unreadable){
        .of = of, .most = most < VOLUME_UNREADABLE_MOST ? most : VOLUME_UNREADABLE_MOST};
    struct volume_reader reader = *of; /* with what the caller knows of it */
    reader.read_at = lenient_read_at;
    reader.self = store;
    return reader;
}

bool volume_unreadable_range(const struct volume_unreadable *u, size_t *next, uint64_t *ret_offset,
                             uint64_t *ret_length)
{
    if (*next >= u->count)
        return false;
    uint64_t from = u->at[*next], end = from;
    while (*next < u->count && u->at[*next] == end) {
        end += VOLUME_UNREADABLE_PIECE;
        ++*next;
    }
    if (end > u->of->size_bytes)
        end = u->of->size_bytes;
    *ret_offset = from;
    *ret_length = end - from;
    return true;
}

/* ---- a volume's extents ---- */

struct piece {
    uint64_t at, length, disk_offset;
    struct volume_reader disk;
};
struct pieces {
    size_t count;
    struct piece of[];
};

static int pieces_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct pieces *p = self;
    uint8_t *to = out;
    while (length) {
        size_t low = 0, high = p->count;
        while (low < high) { /* first piece that ends behind offset */
            size_t middle = low + (high - low) / 2;
            if (p->of[middle].at + p->of[middle].length <= offset)
                low = middle + 1;
            else
                high = middle;
        }
        if (low == p->count || p->of[low].at > offset)
            return -ERANGE; /* a hole that no extent covers */
        const struct piece *piece = &p->of[low];
        uint64_t in = offset - piece->at, left = piece->length - in;
        uint32_t now = left < length ? (uint32_t)left : length;
        int rc = volume_read(&piece->disk, piece->disk_offset + in, to, now);
        if (rc < 0)
            return rc;
        to += now;
        offset += now;
        length -= now;
    }
    return 0;
}

static int piece_of(const struct volume_disk *disks, size_t disk_count, const Sp__VolumeExtent *e,
                    struct piece *ret)
{
    uint64_t end;
    if (!e->on || !e->on->disk_id ||
        volume_add_overflows(e->volume_offset_bytes, e->on->length_bytes, &end) ||
        volume_add_overflows(e->on->offset_bytes, e->on->length_bytes, &end))
        return -EINVAL;
    for (size_t i = 0; i < disk_count; i++) {
        if (strcmp(disks[i].disk_id, e->on->disk_id))
            continue;
        if (end > disks[i].reader.size_bytes)
            return -ERANGE;
        *ret = (struct piece){.at = e->volume_offset_bytes,
                              .length = e->on->length_bytes,
                              .disk_offset = e->on->offset_bytes,
                              .disk = disks[i].reader};
        return 0;
    }
    return -ENOENT;
}

static int by_offset(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

int volume_reader_of_extents(const struct volume_disk *disks, size_t disk_count,
                             Sp__VolumeExtent *const *extents, size_t extent_count,
                             struct volume_reader *ret, void **ret_store)
{
    if (extent_count == 0 || extent_count > SIZE_MAX / sizeof(struct piece) / 2)
        return -EINVAL;
    SP_FREE struct pieces *p = calloc(1, sizeof *p + extent_count * sizeof p->of[0]);
    if (!p)
        return -ENOMEM;
    for (size_t i = 0; i < extent_count; i++) {
        int rc = piece_of(disks, disk_count, extents[i], &p->of[p->count]);
        if (rc < 0)
            return rc;
        if (p->of[p->count].length)
            p->count++;
    }
    if (p->count == 0)
        return -EINVAL;
    qsort(p->of, p->count, sizeof p->of[0], by_offset);
    for (size_t i = 1; i < p->count; i++)
        if (p->of[i].at < p->of[i - 1].at + p->of[i - 1].length)
            return -EINVAL; /* two extents claim the same bytes */
    const struct piece *last = &p->of[p->count - 1];
    *ret = (struct volume_reader){
        .read_at = pieces_read_at, .self = p, .size_bytes = last->at + last->length};
    *ret_store = sp_steal(p);
    return 0;
}

void volume_reader_free(void *store)
{
    free(store);
}
