/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The tree of what lies on what. Nodes point downwards only and know their depth, so that reading
 * and mapping recurse at most NODE_DEPTH_MAX times, whatever a disk claims. */
#include "volume/internal.h"
#include <string.h>

enum { NODE_DEPTH_MAX = 16 };

struct place {
    const struct volume_disk *disk;
    uint64_t offset, run;
};

/* The segment that holds a byte, NULL behind the last. */
static const struct volume_segment *segment_of(const struct volume_node *n, uint64_t offset)
{
    size_t low = 0, high = n->segment_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct volume_segment *s = &n->segments[middle];
        if (s->at + s->length <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n->segment_count ? &n->segments[low] : NULL;
}

int volume_node_map(const struct volume_node *n, uint64_t offset, const struct volume_disk **disk,
                    uint64_t *disk_offset, uint64_t *run)
{
    uint64_t most = UINT64_MAX;
    while (!n->disk) {
        const struct volume_segment *s = segment_of(n, offset);
        if (!s)
            return -ERANGE;
        uint64_t in = offset - s->at, left = s->length - in;
        const struct volume_leg *leg = &s->legs[0];
        if (s->leg_count > 1) {
            uint64_t chunk = in / s->stripe_bytes, within = in % s->stripe_bytes;
            leg = &s->legs[chunk % s->leg_count];
            in = chunk / s->leg_count * s->stripe_bytes + within;
            if (s->stripe_bytes - within < left)
                left = s->stripe_bytes - within;
        }
        if (left < most)
            most = left;
        offset = leg->offset + in;
        n = leg->on;
    }
    if (offset >= n->reader.size_bytes)
        return -ERANGE;
    uint64_t left = n->reader.size_bytes - offset;
    *disk = n->disk;
    *disk_offset = offset;
    *run = left < most ? left : most;
    return 0;
}

static int node_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct volume_node *n = self;
    uint8_t *to = out;
    while (length) {
        const struct volume_disk *disk;
        uint64_t at, run;
        int rc = volume_node_map(n, offset, &disk, &at, &run);
        if (rc < 0)
            return rc;
        uint32_t now = run < length ? (uint32_t)run : length;
        rc = volume_read(&disk->reader, at, to, now);
        if (rc < 0)
            return rc;
        to += now;
        offset += now;
        length -= now;
    }
    return 0;
}

struct volume_node *volume_node_new(void)
{
    struct volume_node *n = calloc(1, sizeof *n);
    if (n) {
        n->reader.read_at = node_read_at;
        n->reader.self = n;
    }
    return n;
}

struct volume_node *volume_node_of_disk(const struct volume_disk *disk)
{
    struct volume_node *n = volume_node_new();
    if (n) {
        n->disk = disk;
        n->reader.size_bytes = disk->reader.size_bytes;
    }
    return n;
}

/* Bytes of one leg that a striped segment uses: the chunks of the longest leg. */
static uint64_t leg_length(uint64_t length, uint64_t stripe_bytes, size_t count)
{
    if (count == 1)
        return length;
    uint64_t row = stripe_bytes * count, rest = length % row;
    return length / row * stripe_bytes + (rest < stripe_bytes ? rest : stripe_bytes);
}

int volume_node_add(struct volume_node *n, uint64_t length, uint64_t stripe_bytes,
                    const struct volume_leg *legs, size_t count)
{
    uint64_t end, row;
    if (length == 0 || count == 0 || count > 4096 ||
        volume_add_overflows(n->reader.size_bytes, length, &end) ||
        (count > 1 && (stripe_bytes == 0 || volume_mul_overflows(stripe_bytes, count, &row))))
        return -EINVAL;
    uint64_t need = leg_length(length, stripe_bytes, count);
    for (size_t i = 0; i < count; i++) {
        uint64_t size = legs[i].on->reader.size_bytes;
        if (legs[i].offset > size || need > size - legs[i].offset)
            return -EINVAL;
        if (legs[i].on->depth >= NODE_DEPTH_MAX)
            return -E2BIG;
    }
    struct volume_segment *grown =
        realloc(n->segments, (n->segment_count + 1) * sizeof *n->segments);
    if (!grown)
        return -ENOMEM;
    n->segments = grown;
    struct volume_leg *kept = malloc(count * sizeof *kept);
    if (!kept)
        return -ENOMEM;
    memcpy(kept, legs, count * sizeof *kept);
    grown[n->segment_count++] = (struct volume_segment){.at = n->reader.size_bytes,
                                                        .length = length,
                                                        .stripe_bytes = stripe_bytes,
                                                        .legs = kept,
                                                        .leg_count = count};
    n->reader.size_bytes = end;
    for (size_t i = 0; i < count; i++)
        if (legs[i].on->depth + 1 > n->depth)
            n->depth = legs[i].on->depth + 1;
    return 0;
}

int volume_node_add_twin(struct volume_node *n, const struct volume_leg *leg)
{
    uint64_t size = leg->on->reader.size_bytes;
    if (leg->offset > size || n->reader.size_bytes > size - leg->offset)
        return -EINVAL;
    if (leg->on->depth >= NODE_DEPTH_MAX)
        return -E2BIG;
    struct volume_leg *grown = realloc(n->twins, (n->twin_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    n->twins = grown;
    grown[n->twin_count++] = *leg;
    if (leg->on->depth + 1 > n->depth)
        n->depth = leg->on->depth + 1;
    return 0;
}

struct volume_node *volume_node_window(struct volume_node *of, uint64_t offset, uint64_t length)
{
    struct volume_node *n = volume_node_new();
    struct volume_leg leg = {.on = of, .offset = offset};
    if (n && volume_node_add(n, length, 0, &leg, 1) < 0) {
        volume_node_free(n);
        return NULL;
    }
    return n;
}

void volume_node_free(struct volume_node *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->segment_count; i++)
        free(n->segments[i].legs);
    free(n->segments);
    free(n->twins);
    free(n);
}

static Sp__DiskExtent *disk_extent(const struct place *p)
{
    Sp__DiskExtent *on = malloc(sizeof *on);
    if (!on)
        return NULL;
    sp__disk_extent__init(on);
    on->offset_bytes = p->offset;
    on->length_bytes = p->run;
    if (volume_set_text(&on->disk_id, p->disk->disk_id, 512) < 0) {
        sp__disk_extent__free_unpacked(on, NULL);
        return NULL;
    }
    return on;
}

static int add_extent(Sp__Volume *into, uint64_t at, const struct place *p)
{
    Sp__VolumeExtent *e = malloc(sizeof *e);
    if (!e)
        return -ENOMEM;
    sp__volume_extent__init(e);
    e->volume_offset_bytes = at;
    e->on = disk_extent(p);
    if (!e->on || VOLUME_APPEND(into, extents, e) < 0) {
        sp__volume_extent__free_unpacked(e, NULL);
        return -ENOMEM;
    }
    return 0;
}

int volume_node_extents(const struct volume_node *n, size_t most, Sp__Volume *into)
{
    struct place open = {0};
    uint64_t open_at = 0, at = 0;
    while (at < n->reader.size_bytes) {
        struct place p;
        int rc = volume_node_map(n, at, &p.disk, &p.offset, &p.run);
        if (rc < 0)
            return rc;
        if (open.disk == p.disk && open.offset + open.run == p.offset) {
            open.run += p.run;
        } else {
            if (open.disk && (rc = add_extent(into, open_at, &open)) < 0)
                return rc;
            if (into->n_extents == most)
                return 0;
            open = p;
            open_at = at;
        }
        at += p.run;
    }
    return open.disk ? add_extent(into, open_at, &open) : 0;
}

/* Part of leg `i` that holds bytes of [from, from + length) of a striped segment. Chunks of one leg
 * lie one behind the other, so it is one range. */
static bool leg_part(const struct volume_segment *s, size_t i, uint64_t from, uint64_t length,
                     uint64_t *ret_at, uint64_t *ret_length)
{
    uint64_t stripe = s->stripe_bytes, row = stripe * s->leg_count;
    /* Position on the leg of the first byte at or behind `x` that this leg holds. */
    uint64_t edge[2], x[2] = {from, from + length};
    for (int side = 0; side < 2; side++) {
        uint64_t rows = x[side] / row, in = x[side] % row, begin = stripe * i;
        uint64_t part = in <= begin ? 0 : in - begin < stripe ? in - begin : stripe;
        edge[side] = rows * stripe + part;
    }
    *ret_at = edge[0];
    *ret_length = edge[1] - edge[0];
    return edge[1] > edge[0];
}

static int each_of_segment(const struct volume_segment *s, uint64_t in, uint64_t length,
                           int (*each)(void *, const struct volume_disk *, uint64_t, uint64_t),
                           void *self)
{
    for (size_t i = 0; i < s->leg_count; i++) {
        uint64_t at = in, part = length;
        if (s->leg_count > 1 && !leg_part(s, i, in, length, &at, &part))
            continue;
        int rc = volume_node_each_range(s->legs[i].on, s->legs[i].offset + at, part, each, self);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int volume_node_each_range(const struct volume_node *n, uint64_t offset, uint64_t length,
                           int (*each)(void *self, const struct volume_disk *, uint64_t offset,
                                       uint64_t length),
                           void *self)
{
    if (offset >= n->reader.size_bytes)
        return 0;
    if (length > n->reader.size_bytes - offset)
        length = n->reader.size_bytes - offset;
    if (n->disk)
        return length ? each(self, n->disk, offset, length) : 0;
    for (size_t i = 0; i < n->twin_count; i++) {
        int rc =
            volume_node_each_range(n->twins[i].on, n->twins[i].offset + offset, length, each, self);
        if (rc < 0)
            return rc;
    }
    while (length) {
        const struct volume_segment *s = segment_of(n, offset);
        if (!s)
            return 0;
        uint64_t in = offset - s->at, now = s->length - in < length ? s->length - in : length;
        int rc = each_of_segment(s, in, now, each, self);
        if (rc < 0)
            return rc;
        offset += now;
        length -= now;
    }
    return 0;
}
