/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/internal.h"
#include <string.h>

enum { CACHED_CHUNKS = 8 };

/* ---- one chunk ---- */

static int fetch_at(struct vault *v, struct vault_coder *coder, const struct vault_location *at,
                    void *out, struct sp_why *why)
{
    struct vault_pack pack;
    char name[PACK_NAME_BYTES];
    if (!vault_index_pack(v->index, at->pack, &pack))
        return sp_why_set(why, -EBADMSG, "its pack was removed");
    pack_name(name, pack.footer.id);
    void *stored = vault_kind_of(at->entry.storage) == MAP_RAW ? out : vault_coder_buffer(coder);
    struct sp_why detail = {{0}};
    int r = v->backend->get(v->self, name, at->entry.offset, stored, at->entry.stored_size);
    if (r == -ENODATA)
        r = sp_why_set(&detail, -EBADMSG, "the pack is cut short");
    else if (r == -ENOENT)
        r = sp_why_set(&detail, -EBADMSG, "the pack is missing");
    else if (r < 0)
        (void)sp_why_set(&detail, r, "it cannot be read: %s", strerror(-r));
    else
        r = vault_coder_open(coder, &at->entry, stored, out, &detail);
    if (r == 0)
        return 0;
    memset(out, 0, at->entry.plain_size); /* nothing unverified gets out */
    return sp_why_set(why, r, "chunk %.16s at byte %u of %s is %s: %s", SP_HEX32(at->entry.address),
                      at->entry.offset, name, r == -EBADMSG ? "damaged" : "not readable",
                      detail.text[0] ? detail.text : strerror(-r));
}

/* All places of a chunk in turn; the first error is told. */
static int fetch_known(struct vault *v, struct vault_coder *coder, enum map_kind kind,
                       const uint8_t *address, void *out, uint32_t *ret_size, struct sp_why *why)
{
    int first = -ENOENT;
    for (unsigned nth = 0;; nth++) {
        struct vault_location at;
        int r = vault_index_find(v->index, address, nth, &at);
        if (r < 0)
            return r == -ENOENT ? first : r;
        if (vault_kind_of(at.entry.storage) != kind)
            continue;
        struct sp_why detail = {{0}};
        r = fetch_at(v, coder, &at, out, &detail);
        if (r == 0) {
            *ret_size = at.entry.plain_size;
            return 0;
        }
        if (first == -ENOENT) {
            first = r;
            if (why)
                *why = detail;
        }
    }
}

int vault_fetch(struct vault *v, struct vault_coder *coder, enum map_kind kind,
                const uint8_t address[VAULT_ADDRESS_BYTES], void *out, uint32_t *ret_size,
                struct sp_why *why)
{
    int r = fetch_known(v, coder, kind, address, out, ret_size, why);
    if (r == -ENOENT || r == -EBADMSG) {
        /* Somebody may have written it since the packs were listed, or moved it to another one. */
        int first = r;
        r = vault_index_refresh(v->index, why);
        if (r == 0)
            r = fetch_known(v, coder, kind, address, out, ret_size, why);
        r = r == -ENOENT ? first : r;
    }
    if (r == -ENOENT)
        return sp_why_set(why, -EBADMSG,
                          "chunk %.16s is in no pack of the vault: a pack is missing or its index "
                          "is damaged",
                          SP_HEX32(address));
    return r;
}

/* A fetch of something smaller than a chunk, into its own memory. */
int vault_fetch_node(struct vault *v, struct vault_coder *coder,
                     const uint8_t address[VAULT_ADDRESS_BYTES], unsigned level,
                     struct map_node *ret, struct sp_why *why)
{
    uint8_t *bytes SP_FREE = malloc(VAULT_CHUNK_BYTES);
    uint32_t size = 0;
    if (!bytes)
        return -ENOMEM;
    int r = vault_fetch(v, coder, MAP_RAW, address, bytes, &size, why);
    if (r < 0)
        return sp_why_prefix(why, r, "map node of level %u", level);
    return map_node_parse(bytes, size, level, ret, why);
}

int vault_fetch_root(struct vault *v, struct vault_coder *coder,
                     const uint8_t address[VAULT_ADDRESS_BYTES], struct map_root *ret,
                     struct sp_why *why)
{
    uint8_t *bytes SP_FREE = malloc(VAULT_CHUNK_BYTES);
    uint32_t size = 0;
    if (!bytes)
        return -ENOMEM;
    int r = vault_fetch(v, coder, MAP_RAW, address, bytes, &size, why);
    if (r < 0)
        return sp_why_prefix(why, r, "root of a disk map");
    return map_root_parse(bytes, size, ret, why);
}

/* ---- a disk ---- */

struct cached_chunk {
    uint64_t index;
    uint64_t used; /* 0: empty */
    uint8_t *data;
};

struct vault_reader {
    struct vault *vault;
    struct vault_coder *coder;
    struct map_root root;
    /* The path walked last: node of each level and which one of its level it is. */
    struct map_node *path[MAP_MAX_HEIGHT];
    uint64_t path_number[MAP_MAX_HEIGHT];
    bool path_valid[MAP_MAX_HEIGHT];
    struct cached_chunk cache[CACHED_CHUNKS];
    uint64_t clock;
};

int vault_reader_new(struct vault *v, const uint8_t root[32], uint64_t size_bytes,
                     struct vault_reader **ret, struct sp_why *why)
{
    struct vault_reader *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->vault = v;
    int r = vault_coder_new(v->keys, &d->coder);
    if (r == 0)
        r = vault_fetch_root(v, d->coder, root, &d->root, why);
    if (r == 0 && d->root.size_bytes != size_bytes)
        r = sp_why_set(why, -EBADMSG, "the map is of a disk of %llu bytes, not %llu",
                       (unsigned long long)d->root.size_bytes, (unsigned long long)size_bytes);
    for (unsigned i = 0; r == 0 && i < d->root.height; i++)
        if (!(d->path[i] = malloc(sizeof *d->path[i])))
            r = -ENOMEM;
    for (unsigned i = 0; r == 0 && i < CACHED_CHUNKS; i++)
        if (!(d->cache[i].data = malloc(VAULT_CHUNK_BYTES)))
            r = -ENOMEM;
    if (r < 0) {
        vault_reader_free(d);
        return r;
    }
    *ret = d;
    return 0;
}

void vault_reader_free(struct vault_reader *d)
{
    if (!d)
        return;
    for (unsigned i = 0; i < MAP_MAX_HEIGHT; i++)
        free(d->path[i]);
    for (unsigned i = 0; i < CACHED_CHUNKS; i++) {
        if (d->cache[i].data)
            sp_wipe(d->cache[i].data, VAULT_CHUNK_BYTES); /* plaintext of clear volumes */
        free(d->cache[i].data);
    }
    vault_coder_free(d->coder);
    free(d);
}

/* The node of `level` over chunk `index` into path[level]: 1, 0 when all below it is zero. */
static int load_path(struct vault_reader *d, uint64_t index, unsigned level, struct sp_why *why)
{
    uint64_t number = index / map_span(level + 1);
    if (d->path_valid[level] && d->path_number[level] == number)
        return 1;
    struct map_child child = d->root.top;
    if (level + 1 < d->root.height) {
        int r = load_path(d, index, level + 1, why);
        if (r <= 0)
            return r;
        child = d->path[level + 1]->child[number % MAP_FAN_OUT];
    }
    if (child.kind == MAP_ABSENT)
        return 0;
    d->path_valid[level] = false;
    int r = vault_fetch_node(d->vault, d->coder, child.address, level, d->path[level], why);
    if (r < 0)
        return r;
    d->path_number[level] = number;
    d->path_valid[level] = true;
    return 1;
}

int vault_reader_node(struct vault_reader *d, unsigned level, uint64_t number,
                      const struct map_node **ret, struct sp_why *why)
{
    int r = load_path(d, number * map_span(level + 1), level, why);
    if (r >= 0)
        *ret = r > 0 ? d->path[level] : NULL;
    return r < 0 ? r : 0;
}

int vault_reader_child(struct vault_reader *d, unsigned level, uint64_t number,
                       struct map_child *ret, struct sp_why *why)
{
    const struct map_node *above;
    if (level + 1 >= d->root.height) {
        *ret = d->root.top;
        return 0;
    }
    int r = vault_reader_node(d, level + 1, number / MAP_FAN_OUT, &above, why);
    if (r == 0)
        *ret = above ? above->child[number % MAP_FAN_OUT] : (struct map_child){0};
    return r;
}

static uint32_t chunk_size(const struct vault_reader *d, uint64_t index)
{
    uint64_t left = d->root.size_bytes - index * VAULT_CHUNK_BYTES;
    return left < VAULT_CHUNK_BYTES ? (uint32_t)left : VAULT_CHUNK_BYTES;
}

static int fetch_chunk(struct vault_reader *d, uint64_t index, const struct map_child *child,
                       void *out, struct sp_why *why)
{
    uint32_t size = 0;
    int r = vault_fetch(d->vault, d->coder, (enum map_kind)child->kind, child->address, out, &size,
                        why);
    if (r == 0 && size != chunk_size(d, index)) {
        memset(out, 0, size);
        r = sp_why_set(why, -EBADMSG, "a chunk of %u bytes where one of %u belongs", size,
                       chunk_size(d, index));
    }
    if (r < 0)
        return sp_why_prefix(why, r, "disk bytes %llu to %llu",
                             (unsigned long long)index * VAULT_CHUNK_BYTES,
                             (unsigned long long)index * VAULT_CHUNK_BYTES + chunk_size(d, index));
    return 0;
}

static int child_of(struct vault_reader *d, uint64_t index, struct map_child *ret,
                    struct sp_why *why)
{
    int r = load_path(d, index, 0, why);
    if (r >= 0)
        *ret = r > 0 ? d->path[0]->child[index % MAP_FAN_OUT] : (struct map_child){0};
    return r < 0 ? r : 0;
}

int vault_reader_stored(struct vault_reader *d, uint64_t index, struct sp_why *why)
{
    struct map_child child;
    int r = child_of(d, index, &child, why);
    return r < 0 ? r : child.kind != MAP_ABSENT;
}

int vault_reader_compare(struct vault_reader *d, uint64_t index, const void *data, uint32_t size,
                         struct sp_why *why)
{
    struct map_child child;
    uint8_t address[VAULT_ADDRESS_BYTES];
    int r = child_of(d, index, &child, why);
    if (r < 0)
        return r;
    if (child.kind == MAP_ABSENT)
        return sp_is_zero(data, size);
    r = vault_coder_address(d->coder, (enum map_kind)child.kind, data, size, address);
    return r < 0 ? r : !memcmp(address, child.address, sizeof address);
}

/* The chunk in the cache. */
static int cached_chunk(struct vault_reader *d, uint64_t index, const struct map_child *child,
                        const uint8_t **ret, struct sp_why *why)
{
    struct cached_chunk *oldest = &d->cache[0];
    for (unsigned i = 0; i < CACHED_CHUNKS; i++) {
        if (d->cache[i].used && d->cache[i].index == index) {
            d->cache[i].used = ++d->clock;
            *ret = d->cache[i].data;
            return 0;
        }
        if (d->cache[i].used < oldest->used)
            oldest = &d->cache[i];
    }
    oldest->used = 0;
    int r = fetch_chunk(d, index, child, oldest->data, why);
    if (r < 0)
        return r;
    oldest->index = index;
    oldest->used = ++d->clock;
    *ret = oldest->data;
    return 0;
}

int vault_reader_at(struct vault_reader *d, uint64_t offset, void *out, uint32_t length,
                    struct sp_why *why)
{
    if (offset > d->root.size_bytes || length > d->root.size_bytes - offset)
        return sp_why_set(why, -EINVAL, "a read of %u bytes at %llu leaves the disk", length,
                          (unsigned long long)offset);
    uint8_t *to = out;
    while (length > 0) {
        uint64_t index = offset / VAULT_CHUNK_BYTES;
        uint32_t within = (uint32_t)(offset % VAULT_CHUNK_BYTES);
        uint32_t here = chunk_size(d, index) - within;
        if (here > length)
            here = length;
        struct map_child child;
        int r = child_of(d, index, &child, why);
        if (r < 0)
            return r;
        if (child.kind == MAP_ABSENT) {
            memset(to, 0, here);
        } else if (here == chunk_size(d, index)) {
            r = fetch_chunk(d, index, &child, to, why);
        } else {
            const uint8_t *chunk;
            r = cached_chunk(d, index, &child, &chunk, why);
            if (r == 0)
                memcpy(to, chunk + within, here);
        }
        if (r < 0)
            return r;
        to += here;
        offset += here;
        length -= here;
    }
    return 0;
}

/* The first chunk from `index` on that is (or is not) stored, by whole absent subtrees. *ret is the
 * number of chunks when there is none. */
static int seek_chunk(struct vault_reader *d, uint64_t index, uint64_t *ret, struct sp_why *why)
{
    uint64_t chunks = map_chunks(d->root.size_bytes);
    while (index < chunks) {
        unsigned level = d->root.height;
        bool descend = d->root.top.kind != MAP_ABSENT;
        if (!descend)
            break;
        while (descend && level > 0) {
            level--;
            int r = load_path(d, index, level, why);
            if (r < 0)
                return r;
            uint64_t slot = index / map_span(level) % MAP_FAN_OUT;
            descend = r > 0 && d->path[level]->child[slot].kind != MAP_ABSENT;
        }
        if (descend) {
            *ret = index;
            return 0;
        }
        index = (index / map_span(level) + 1) * map_span(level);
    }
    *ret = chunks;
    return 0;
}

int vault_reader_next_data(struct vault_reader *d, uint64_t offset, uint64_t *ret_offset,
                           uint64_t *ret_length, struct sp_why *why)
{
    uint64_t chunks = map_chunks(d->root.size_bytes), first;
    if (offset >= d->root.size_bytes)
        return 0;
    int r = seek_chunk(d, offset / VAULT_CHUNK_BYTES, &first, why);
    if (r < 0 || first >= chunks)
        return r;
    /* To the end of its node at most: a range is a hint, not a promise to be the longest. */
    r = load_path(d, first, 0, why);
    if (r < 0)
        return r;
    uint64_t end = first;
    while (end < chunks && end / MAP_FAN_OUT == first / MAP_FAN_OUT &&
           d->path[0]->child[end % MAP_FAN_OUT].kind != MAP_ABSENT)
        end++;
    *ret_offset = first * VAULT_CHUNK_BYTES;
    uint64_t stop = end * VAULT_CHUNK_BYTES;
    *ret_length = (stop < d->root.size_bytes ? stop : d->root.size_bytes) - *ret_offset;
    return 1;
}
