/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/snapshot.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <openssl/evp.h>
#include <string.h>
#include <sys/mman.h>

struct block {
    uint64_t number;
    uint32_t length; /* shorter at the end of the volume only */
    bool evidence;
    uint8_t *data;
};

/* Blocks lie in mappings of this many: few changes of the address space, which cost a short proof
 * more than what it reads. */
enum { ROOM_BLOCKS = 64, AHEAD_BLOCKS = 4 };

struct snapshot {
    const struct prover_disks *disks;
    Sp__VolumeExtent *const *extents;
    size_t extent_count;
    struct volume_reader of;
    void *of_store;
    struct block *blocks; /* by number */
    size_t count;
    uint8_t *rooms[SNAPSHOT_MAX_BYTES / SNAPSHOT_BLOCK_BYTES / ROOM_BLOCKS];
};

/* Laid end to end from byte 0, each inside its disk. */
static int check_extents(const struct prover_disks *disks, Sp__VolumeExtent *const *extents,
                         size_t count)
{
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const Sp__VolumeExtent *e = extents[i];
        if (!e->on || e->volume_offset_bytes != at || !e->on->length_bytes)
            return -EINVAL;
        const Sp__LookDisk *disk = prover_disks_find(disks, e->on->disk_id);
        if (!disk || e->on->offset_bytes > disk->size_bytes ||
            e->on->length_bytes > disk->size_bytes - e->on->offset_bytes ||
            __builtin_add_overflow(at, e->on->length_bytes, &at) || at > INT64_MAX)
            return -EINVAL;
    }
    return count ? 0 : -EINVAL;
}

int snapshot_open(const struct prover_disks *disks, Sp__VolumeExtent *const *extents,
                  size_t extent_count, struct snapshot **ret)
{
    int r = check_extents(disks, extents, extent_count);
    if (r < 0)
        return r;
    struct snapshot *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    *s = (struct snapshot){.disks = disks, .extents = extents, .extent_count = extent_count};
    r = volume_reader_of_extents(disks->disks, disks->count, extents, extent_count, &s->of,
                                 &s->of_store);
    if (r < 0) {
        free(s);
        return r;
    }
    *ret = s;
    return 0;
}

static const size_t room_bytes = (size_t)ROOM_BLOCKS * SNAPSHOT_BLOCK_BYTES;

/* Where the next blocks go. All their pages come at once: a fault for each is what a proof would
 * spend most of its time on. */
static int place(struct snapshot *s, size_t blocks, uint8_t **ret)
{
    uint8_t **room = &s->rooms[s->count / ROOM_BLOCKS];
    if (!*room) {
        struct block *grown = reallocarray(s->blocks, s->count + ROOM_BLOCKS, sizeof(*s->blocks));
        if (!grown)
            return -ENOMEM;
        s->blocks = grown;
        void *p =
            mmap(NULL, room_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return -ENOMEM;
        *room = p;
    }
    *ret = *room + s->count % ROOM_BLOCKS * SNAPSHOT_BLOCK_BYTES;
    /* Else they come one by one. */
    (void)madvise(*ret, blocks * SNAPSHOT_BLOCK_BYTES, MADV_POPULATE_WRITE);
    return 0;
}

void snapshot_close(struct snapshot *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < SP_COUNT(s->rooms) && s->rooms[i]; i++)
        munmap(s->rooms[i], room_bytes);
    free(s->blocks);
    volume_reader_free(s->of_store);
    free(s);
}

/* Index of the first block whose number is not below `number`. */
static size_t find(const struct snapshot *s, uint64_t number)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->blocks[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* How many blocks to ask for where `number` is missing: keyslots are read from end to end, so what
 * follows a block comes with those behind it, as far as one room goes. */
static size_t ahead(const struct snapshot *s, uint64_t number, size_t at)
{
    size_t most = ROOM_BLOCKS - s->count % ROOM_BLOCKS;
    uint64_t free =
        (s->of.size_bytes - number * SNAPSHOT_BLOCK_BYTES - 1) / SNAPSHOT_BLOCK_BYTES + 1;
    if (at == 0 || s->blocks[at - 1].number + 1 != number)
        return 1;
    if (at < s->count && s->blocks[at].number - number < free)
        free = s->blocks[at].number - number;
    most = most < AHEAD_BLOCKS ? most : AHEAD_BLOCKS;
    return free < most ? (size_t)free : most;
}

/* `blocks` of them, of which the last may be shorter. */
static int fetch_blocks(struct snapshot *s, uint64_t number, size_t at, size_t blocks)
{
    uint8_t *data;
    int r = place(s, blocks, &data);
    if (r < 0)
        return r;
    uint64_t offset = number * SNAPSHOT_BLOCK_BYTES;
    uint64_t left = s->of.size_bytes - offset;
    uint64_t length = blocks * SNAPSHOT_BLOCK_BYTES;
    r = s->of.read_at(s->of.self, offset, data, (uint32_t)(left < length ? left : length));
    if (r < 0)
        return r;
    memmove(s->blocks + at + blocks, s->blocks + at, (s->count - at) * sizeof(*s->blocks));
    for (size_t i = 0; i < blocks; i++, left -= SNAPSHOT_BLOCK_BYTES)
        s->blocks[at + i] = (struct block){
            .number = number + i,
            .length = left < SNAPSHOT_BLOCK_BYTES ? (uint32_t)left : SNAPSHOT_BLOCK_BYTES,
            .data = data + i * SNAPSHOT_BLOCK_BYTES};
    s->count += blocks;
    return 0;
}

static int fetch(struct snapshot *s, uint64_t number, size_t at)
{
    if (s->count == SP_COUNT(s->rooms) * ROOM_BLOCKS)
        return -EFBIG;
    size_t blocks = ahead(s, number, at);
    int r = fetch_blocks(s, number, at, blocks);
    /* What cannot be read may lie where nobody asked. */
    return r < 0 && blocks > 1 ? fetch_blocks(s, number, at, 1) : r;
}

static int read_blocks(struct snapshot *s, uint64_t offset, void *out, uint32_t length,
                       bool evidence)
{
    if (offset > s->of.size_bytes || length > s->of.size_bytes - offset)
        return -ERANGE;
    uint8_t *to = out;
    while (length) {
        uint64_t number = offset / SNAPSHOT_BLOCK_BYTES;
        size_t at = find(s, number);
        if (at == s->count || s->blocks[at].number != number) {
            int r = fetch(s, number, at);
            if (r < 0)
                return r;
        }
        struct block *b = &s->blocks[at];
        uint32_t in = (uint32_t)(offset % SNAPSHOT_BLOCK_BYTES);
        uint32_t part = b->length - in < length ? b->length - in : length;
        memcpy(to, b->data + in, part);
        b->evidence = b->evidence || evidence;
        to += part;
        offset += part;
        length -= part;
    }
    return 0;
}

static int read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    return read_blocks(self, offset, out, length, false);
}

struct volume_reader snapshot_reader(struct snapshot *s)
{
    return (struct volume_reader){.read_at = read_at, .self = s, .size_bytes = s->of.size_bytes};
}

int snapshot_read_evidence(struct snapshot *s, uint64_t offset, void *out, uint32_t length)
{
    return read_blocks(s, offset, out, length, true);
}

/* ---- evidence ---- */

struct evidence_list {
    Sp__SectorEvidence **items;
    size_t count, capacity;
};

static void free_list(struct evidence_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        sp__sector_evidence__free_unpacked(l->items[i], NULL);
    free(l->items);
}

static int copy_root(Sp__SectorEvidence *e, const Sp__LookDisk *disk)
{
    if (!disk->disk_root.len)
        return 0;
    e->disk_root.data = malloc(disk->disk_root.len);
    if (!e->disk_root.data)
        return -ENOMEM;
    e->disk_root.len = disk->disk_root.len;
    memcpy(e->disk_root.data, disk->disk_root.data, disk->disk_root.len);
    return 0;
}

static Sp__SectorEvidence *new_evidence(const Sp__LookDisk *disk, uint64_t offset, uint64_t length)
{
    Sp__SectorEvidence *e = malloc(sizeof(*e));
    if (!e)
        return NULL;
    sp__sector_evidence__init(e);
    e->sha256.data = malloc(32);
    e->on = malloc(sizeof(*e->on));
    if (e->on)
        sp__disk_extent__init(e->on);
    if (!e->sha256.data || !e->on || !(e->on->disk_id = strdup(disk->disk_id)) ||
        copy_root(e, disk) < 0) {
        sp__sector_evidence__free_unpacked(e, NULL);
        return NULL;
    }
    e->sha256.len = 32;
    e->on->offset_bytes = offset;
    e->on->length_bytes = length;
    return e;
}

/* Hash of [from, to) of the volume, which lies in blocks that are all there. */
static int hash(const struct snapshot *s, uint64_t from, uint64_t to, uint8_t out[32])
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL);
    for (size_t i = find(s, from / SNAPSHOT_BLOCK_BYTES); ok && from < to; i++) {
        const struct block *b = &s->blocks[i];
        uint32_t in = (uint32_t)(from % SNAPSHOT_BLOCK_BYTES);
        uint64_t part = b->length - in < to - from ? b->length - in : to - from;
        ok = EVP_DigestUpdate(md, b->data + in, part);
        from += part;
    }
    ok = ok && EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);
    return ok ? 0 : -EIO;
}

static int append(const struct snapshot *s, struct evidence_list *l, const Sp__VolumeExtent *on,
                  uint64_t from, uint64_t to)
{
    if (l->count == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 16;
        Sp__SectorEvidence **grown = reallocarray(l->items, capacity, sizeof(Sp__SectorEvidence *));
        if (!grown)
            return -ENOMEM;
        l->items = grown;
        l->capacity = capacity;
    }
    const Sp__LookDisk *disk = prover_disks_find(s->disks, on->on->disk_id);
    Sp__SectorEvidence *e =
        new_evidence(disk, on->on->offset_bytes + (from - on->volume_offset_bytes), to - from);
    if (!e)
        return -ENOMEM;
    l->items[l->count++] = e;
    return hash(s, from, to, e->sha256.data);
}

/* A run of blocks lies on one extent or several. */
static int append_run(const struct snapshot *s, struct evidence_list *l, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < s->extent_count; i++) {
        const Sp__VolumeExtent *e = s->extents[i];
        uint64_t begin = e->volume_offset_bytes, end = begin + e->on->length_bytes;
        uint64_t a = from > begin ? from : begin, b = to < end ? to : end;
        if (a < b) {
            int r = append(s, l, e, a, b);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int snapshot_evidence(const struct snapshot *s, uint64_t from_bytes, Sp__SectorEvidence ***ret,
                      size_t *ret_count)
{
    struct evidence_list l = {0};
    for (size_t i = 0; i < s->count;) {
        const struct block *b = &s->blocks[i];
        uint64_t from = b->number * SNAPSHOT_BLOCK_BYTES, to = from + b->length;
        i++;
        if (!b->evidence)
            continue;
        while (i < s->count && s->blocks[i].evidence &&
               s->blocks[i].number * SNAPSHOT_BLOCK_BYTES == to)
            to += s->blocks[i++].length;
        if (from < from_bytes)
            from = from_bytes;
        int r = from < to ? append_run(s, &l, from, to) : 0;
        if (r < 0) {
            free_list(&l);
            return r;
        }
    }
    *ret = l.items;
    *ret_count = l.count;
    return 0;
}
