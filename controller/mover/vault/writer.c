/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/writer.h"
#include "controller/mover/vault/journal.h"
#include <string.h>

/* The children of one level-0 node while they come in. */
struct group {
    struct map_child child[MAP_FAN_OUT];
    uint8_t given[MAP_FAN_OUT];
    unsigned count;
};

struct vault_writer {
    struct vault *vault;
    char point_id[VAULT_ID_MAX + 1];
    uint64_t size_bytes, chunks;
    uint64_t group_count;
    struct vault_coder *plain; /* of vault_writer_chunk() */

    pthread_mutex_t lock; /* of all below, and of the store */
    struct vault_store *store;
    struct vault_coder *coder; /* for map nodes */
    struct vault_reader *base; /* what chunks that are not given are; NULL: zero */
    struct group **groups;     /* NULL: no chunk came, or the node is made */
    struct map_child *nodes;   /* made level-0 nodes */
    bool *closed;              /* the node is made; with a base, others are as there */
    uint64_t passed;           /* groups below are closed */
    uint64_t stored_bytes, new_bytes;
    bool finished;

    pthread_mutex_t relied_lock;
    uint8_t *relied; /* bit for each pack number: named in the journal, or our own */
    size_t relied_bytes;
};

int vault_writer_new(struct vault *v, const char *point_id, const char *disk_id,
                     uint64_t size_bytes, struct vault_writer **ret, struct sp_why *why)
{
    if (!vault_id_valid(point_id))
        return sp_why_set(why, -EINVAL, "'%.70s' cannot be the id of a point", point_id);
    if (size_bytes == 0 || size_bytes > MAP_MAX_DISK_BYTES)
        return sp_why_set(why, -EINVAL, "disk '%.100s' of %llu bytes: a disk is 1 byte to 64 TiB",
                          disk_id ? disk_id : "", (unsigned long long)size_bytes);
    struct vault_writer *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    atomic_fetch_add(&v->shared->writers, 1);
    w->vault = v;
    snprintf(w->point_id, sizeof w->point_id, "%s", point_id);
    w->size_bytes = size_bytes;
    w->chunks = map_chunks(size_bytes);
    w->group_count = (w->chunks + MAP_FAN_OUT - 1) / MAP_FAN_OUT;
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutex_init(&w->relied_lock, NULL);
    w->groups = calloc(w->group_count, sizeof(struct group *));
    w->nodes = calloc(w->group_count, sizeof *w->nodes);
    w->closed = calloc(w->group_count, sizeof *w->closed);
    int r = w->groups && w->nodes && w->closed ? 0 : -ENOMEM;
    if (r == 0)
        r = vault_coder_new(NULL, &w->coder);
    if (r == 0)
        r = vault_coder_new(v->keys, &w->plain);
    if (r == 0)
        r = vault_store_new(v, point_id, &w->store);
    /* From here on packs of this point are protected. */
    if (r == 0)
        r = journal_put(v, point_id, NULL, 0, why);
    if (r < 0) {
        vault_writer_free(w);
        return r;
    }
    *ret = w;
    return 0;
}

void vault_writer_free(struct vault_writer *w)
{
    if (!w)
        return;
    vault_store_free(w->store);
    vault_reader_free(w->base);
    for (uint64_t i = 0; w->groups && i < w->group_count; i++)
        free(w->groups[i]);
    free(w->groups);
    free(w->nodes);
    free(w->closed);
    free(w->relied);
    vault_coder_free(w->coder);
    vault_coder_free(w->plain);
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->relied_lock);
    atomic_fetch_sub(&w->vault->shared->writers, 1);
    free(w);
}

static int find_root(struct vault *v, const char *machine_id, const char *point_id,
                     const Sp__DiskImage *base, struct sp_why *why)
{
    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    int r = vault_get_manifest(v, machine_id, point_id, (struct sp_bytes){0}, &sealed, &m, why);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    r = sp_why_set(why, -ESTALE, "point %s has no such disk", point_id);
    for (size_t i = 0; i < m->n_disks; i++)
        if (!memcmp(m->disks[i]->root.data, base->root.data, VAULT_ADDRESS_BYTES))
            r = 0;
    sp__manifest__free_unpacked(m, NULL);
    sp__signed__free_unpacked(sealed, NULL);
    return r;
}

int vault_writer_base(struct vault_writer *w, const char *machine_id, const char *point_id,
                      const Sp__DiskImage *base, struct sp_why *why)
{
    struct vault *v = w->vault;
    if (base->root.len != VAULT_ADDRESS_BYTES || base->size_bytes != w->size_bytes)
        return sp_why_set(why, -EINVAL, "the base is a disk of another size");
    /* First the journal, then the look: whoever removes the point's data after the look finds the
     * journal, whoever did before has removed the manifest. */
    int r = journal_put_root(v, w->point_id, base->root.data, why);
    if (r == 0)
        r = find_root(v, machine_id, point_id, base, why);
    struct vault_reader *reader = NULL;
    if (r == 0)
        r = vault_reader_new(v, base->root.data, base->size_bytes, &reader, why);
    if (r < 0)
        return r;
    pthread_mutex_lock(&w->lock);
    w->base = reader;
    w->stored_bytes = base->stored_bytes;
    pthread_mutex_unlock(&w->lock);
    return 0;
}

/* ---- chunks that are there already ---- */

/* With relied_lock: what another thread needs too is waited for. */
static int journal_pack(struct vault_writer *w, uint32_t number, struct sp_why *why)
{
    struct vault *v = w->vault;
    if (number / 8 < w->relied_bytes && (w->relied[number / 8] >> (number % 8) & 1))
        return 0;
    struct vault_pack pack;
    if (!vault_index_pack(v->index, number, &pack))
        return -ENOENT;
    if (number / 8 >= w->relied_bytes) {
        size_t bytes = (size_t)number / 8 + 1024;
        uint8_t *bigger = realloc(w->relied, bytes);
        if (!bigger)
            return -ENOMEM;
        memset(bigger + w->relied_bytes, 0, bytes - w->relied_bytes);
        w->relied = bigger;
        w->relied_bytes = bytes;
    }
    if (strcmp(pack.footer.writer, w->point_id)) {
        int r =
            journal_put(v, w->point_id, (const uint8_t(*)[PACK_ID_BYTES]) & pack.footer.id, 1, why);
        /* Another process may have removed it before it could see the journal. */
        char name[PACK_NAME_BYTES];
        uint64_t bytes;
        if (r == 0)
            r = v->backend->size(v->self, pack_name(name, pack.footer.id), &bytes);
        if (r < 0)
            return r;
    }
    w->relied[number / 8] |= (uint8_t)(1u << (number % 8));
    return 0;
}

/* Whether the vault holds the chunk, durably, and keeps it for this point from now on. */
static int rely(struct vault_writer *w, enum map_kind kind, const uint8_t *address, uint32_t size,
                bool *ret_known, struct sp_why *why)
{
    struct vault *v = w->vault;
    *ret_known = false;
    int r = 0;
    pthread_rwlock_rdlock(&v->shared->sweep);
    for (unsigned nth = 0; !*ret_known; nth++) {
        struct vault_location at;
        r = vault_index_find(v->index, address, nth, &at);
        if (r < 0)
            break;
        if (vault_kind_of(at.entry.storage) != kind || at.entry.plain_size != size)
            continue;
        pthread_mutex_lock(&w->relied_lock);
        r = journal_pack(w, at.pack, why);
        pthread_mutex_unlock(&w->relied_lock);
        *ret_known = r == 0;
        if (r < 0 && r != -ENOENT)
            break;
    }
    pthread_rwlock_unlock(&v->shared->sweep);
    return r == -ENOENT ? 0 : r;
}

/* ---- the map ---- */

/* `was`: what the base has in this place; nothing is to be done for a node that is the same. */
static int emit_node(struct vault_writer *w, const void *data, size_t size,
                     const struct map_child *was, struct map_child *ret, struct sp_why *why)
{
    struct store_chunk c = {.storage = VAULT_STORED_RAW,
                            .plain_size = (uint32_t)size,
                            .body = data,
                            .body_size = (uint32_t)size};
    int r = vault_coder_address(w->coder, MAP_RAW, data, size, c.address);
    bool known =
        r == 0 && was && was->kind == MAP_RAW && !memcmp(was->address, c.address, sizeof c.address);
    if (r == 0 && !known)
        known = vault_store_pending(w->store, c.address);
    if (r == 0 && !known)
        r = rely(w, MAP_RAW, c.address, c.plain_size, &known, why);
    if (r == 0 && !known) {
        r = vault_store_add(w->store, STORE_MAP, &c, NULL, why);
        w->new_bytes += size;
    }
    if (r == 0) {
        ret->kind = MAP_RAW;
        memcpy(ret->address, c.address, sizeof c.address);
    }
    return r;
}

static int emit_children(struct vault_writer *w, unsigned level, uint64_t number,
                         const struct map_child *children, size_t count, struct map_child *ret,
                         struct sp_why *why)
{
    struct map_node node = {.level = level};
    struct map_child was = {0};
    uint8_t bytes[MAP_NODE_MAX_BYTES];
    memcpy(node.child, children, count * sizeof *children);
    size_t size = map_node_make(&node, bytes);
    struct map_child made = {0};
    int r = w->base ? vault_reader_child(w->base, level, number, &was, why) : 0;
    if (r == 0 && size)
        r = emit_node(w, bytes, size, &was, &made, why);
    if (r == 0)
        *ret = made;
    return r;
}

static int close_group(struct vault_writer *w, uint64_t g, struct sp_why *why)
{
    struct group *group = w->groups[g];
    if (w->closed[g] || (w->base && !group))
        return 0;
    int r = group ? emit_children(w, 0, g, group->child, MAP_FAN_OUT, &w->nodes[g], why) : 0;
    if (r < 0)
        return r;
    free(group);
    w->groups[g] = NULL;
    w->closed[g] = true;
    return 0;
}

static uint64_t chunks_in_group(const struct vault_writer *w, uint64_t g)
{
    uint64_t left = w->chunks - g * MAP_FAN_OUT;
    return left < MAP_FAN_OUT ? left : MAP_FAN_OUT;
}

/* A group begins as the base has it. */
static int open_group(struct vault_writer *w, uint64_t g, struct sp_why *why)
{
    const struct map_node *was = NULL;
    int r = w->base ? vault_reader_node(w->base, 0, g, &was, why) : 0;
    if (r < 0)
        return r;
    struct group *group = calloc(1, sizeof *group);
    if (!group)
        return -ENOMEM;
    if (was)
        memcpy(group->child, was->child, sizeof group->child);
    w->groups[g] = group;
    return 0;
}

static int set_child(struct vault_writer *w, const struct writer_chunk *c, struct sp_why *why)
{
    uint64_t g = c->index / MAP_FAN_OUT;
    unsigned slot = (unsigned)(c->index % MAP_FAN_OUT);
    int r = !w->closed[g] && !w->groups[g] ? open_group(w, g, why) : 0;
    if (r < 0)
        return r;
    struct group *group = w->groups[g];
    if (w->closed[g] || group->given[slot])
        return sp_why_set(why, -EINVAL, "chunk %llu was given twice", (unsigned long long)c->index);
    group->given[slot] = 1;
    group->count++;
    if (group->child[slot].kind != MAP_ABSENT)
        w->stored_bytes -= c->size < w->stored_bytes ? c->size : w->stored_bytes;
    group->child[slot] = (struct map_child){0};
    if (c->state != WRITER_ZERO) {
        group->child[slot].kind = (uint8_t)c->kind;
        memcpy(group->child[slot].address, c->address, VAULT_ADDRESS_BYTES);
        w->stored_bytes += c->size;
    }
    return group->count == chunks_in_group(w, g) ? close_group(w, g, why) : 0;
}

int vault_writer_passed(struct vault_writer *w, uint64_t index, struct sp_why *why)
{
    int r = 0;
    pthread_mutex_lock(&w->lock);
    for (uint64_t end = index / MAP_FAN_OUT;
         r == 0 && w->passed < end && w->passed < w->group_count; w->passed++)
        r = close_group(w, w->passed, why);
    pthread_mutex_unlock(&w->lock);
    return r;
}

/* ---- data ---- */

int vault_writer_coder(struct vault_writer *w, struct vault_coder **ret)
{
    return vault_coder_new(w->vault->keys, ret);
}

struct vault_block *vault_writer_take(struct vault_writer *w)
{
    return vault_store_take(w->store);
}

void vault_writer_give(struct vault_writer *w, struct vault_block *block)
{
    vault_store_give(w->store, block);
}

int vault_writer_error(struct vault_writer *w, struct sp_why *why)
{
    return vault_store_error(w->store, why);
}

static bool all_zero(const uint8_t *data, size_t size)
{
    /* memcmp against itself, shifted: as fast as memory. */
    return data[0] == 0 && !memcmp(data, data + 1, size - 1);
}

int vault_writer_prepare(struct vault_writer *w, struct vault_coder *coder, struct writer_chunk *c,
                         struct sp_why *why)
{
    uint64_t last = w->chunks - 1;
    uint32_t size =
        c->index < last ? VAULT_CHUNK_BYTES : (uint32_t)(w->size_bytes - last * VAULT_CHUNK_BYTES);
    if (c->index > last || c->size != size)
        return sp_why_set(why, -EINVAL, "chunk %llu of %u bytes does not fit the disk",
                          (unsigned long long)c->index, c->size);
    if (all_zero(c->data, c->size)) {
        c->state = WRITER_ZERO;
        return 0;
    }
    c->kind = c->ciphertext ? MAP_RAW : MAP_SEALED;
    int r = c->ciphertext ? 0 : vault_record_key(w->vault, why);
    if (r == 0)
        r = vault_coder_address(coder, c->kind, c->data, c->size, c->address);
    bool known = false;
    if (r == 0)
        r = rely(w, c->kind, c->address, c->size, &known, why);
    if (r == 0 && !known && !c->ciphertext)
        r = vault_coder_seal(coder, c->address, c->data, c->size, &c->sealed);
    c->state = known ? WRITER_KNOWN : WRITER_NEW;
    return r;
}

static uint32_t body_size(const struct writer_chunk *c)
{
    if (c->state != WRITER_NEW)
        return 0;
    return c->ciphertext ? c->size : c->sealed.body_size;
}

static int place_one(struct vault_writer *w, const struct writer_chunk *c,
                     struct vault_block *block, struct sp_why *why)
{
    if (c->state == WRITER_NEW) {
        /* Its twin may have come since it was prepared. */
        bool known = vault_store_pending(w->store, c->address);
        int r = known ? 0 : rely(w, c->kind, c->address, c->size, &known, why);
        if (r < 0)
            return r;
        if (!known) {
            struct store_chunk s = {.storage = c->ciphertext ? VAULT_STORED_RAW : c->sealed.storage,
                                    .plain_size = c->size,
                                    .body = c->data,
                                    .body_size = body_size(c),
                                    .sealed = c->ciphertext ? NULL : &c->sealed};
            memcpy(s.address, c->address, sizeof s.address);
            r = vault_store_add(w->store, STORE_DATA, &s, block, why);
            if (r < 0)
                return r;
            w->new_bytes += s.body_size + (s.sealed ? CODER_NONCE_BYTES + CODER_TAG_BYTES : 0u);
        }
    }
    return set_child(w, c, why);
}

int vault_writer_place(struct vault_writer *w, const struct writer_chunk *chunks, size_t count,
                       struct vault_block *block, struct sp_why *why)
{
    /* A block is kept whole or not: one with little in it is cheaper to copy from. This bound is
     * what keeps a pack within the store's blocks. */
    uint64_t used = 0;
    for (size_t i = 0; i < count; i++)
        used += body_size(&chunks[i]);
    if (used < VAULT_BLOCK_BYTES / 16 * 15)
        block = NULL;
    int r = 0;
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = place_one(w, &chunks[i], block, why);
    pthread_mutex_unlock(&w->lock);
    return r;
}

int vault_writer_chunk(struct vault_writer *w, uint64_t index, const void *data, uint32_t size,
                       bool ciphertext, struct sp_why *why)
{
    if (size == 0 || size > VAULT_CHUNK_BYTES)
        return sp_why_set(why, -EINVAL, "a chunk of %u bytes", size);
    struct vault_block *block = vault_writer_take(w);
    if (!block) {
        int r = vault_writer_error(w, why);
        return r < 0 ? r : -ENOMEM;
    }
    memcpy(block->data, data, size); /* sealing is done in place */
    struct writer_chunk c = {
        .index = index, .data = block->data, .size = size, .ciphertext = ciphertext};
    int r = vault_writer_prepare(w, w->plain, &c, why);
    if (r == 0)
        r = vault_writer_place(w, &c, 1, block, why);
    vault_writer_give(w, block);
    return r;
}

/* ---- finish ---- */

/* Whether a node of level 0 below this one was made. */
static bool touched(const struct vault_writer *w, unsigned level, uint64_t number)
{
    uint64_t span = map_span(level), first = number * span;
    for (uint64_t g = first; g < w->group_count && g - first < span; g++)
        if (w->closed[g])
            return true;
    return false;
}

/* Depth is bounded by MAP_MAX_HEIGHT. */
static int build(struct vault_writer *w, unsigned level, uint64_t number, struct map_child *ret,
                 struct sp_why *why)
{
    if (w->base && !touched(w, level, number))
        return vault_reader_child(w->base, level, number, ret, why);
    if (level == 0) {
        *ret = w->nodes[number];
        return 0;
    }
    struct map_child children[MAP_FAN_OUT] = {0};
    int r = 0;
    for (uint64_t s = 0; r == 0 && s < MAP_FAN_OUT; s++) {
        uint64_t below = number * MAP_FAN_OUT + s;
        if (below * map_span(level - 1) >= w->group_count)
            break;
        r = build(w, level - 1, below, &children[s], why);
    }
    return r < 0 ? r : emit_children(w, level, number, children, MAP_FAN_OUT, ret, why);
}

static int build_root(struct vault_writer *w, uint8_t ret[VAULT_ADDRESS_BYTES], struct sp_why *why)
{
    int r = 0;
    for (uint64_t g = 0; r == 0 && g < w->group_count; g++)
        r = close_group(w, g, why);
    struct map_root root = {.size_bytes = w->size_bytes, .height = map_height(w->size_bytes)};
    if (r == 0)
        r = build(w, root.height - 1, 0, &root.top, why);
    uint8_t bytes[MAP_ROOT_BYTES];
    map_root_make(&root, bytes);
    struct map_child child;
    if (r == 0)
        r = emit_node(w, bytes, sizeof bytes, NULL, &child, why);
    if (r == 0)
        memcpy(ret, child.address, VAULT_ADDRESS_BYTES);
    return r;
}

int vault_writer_finish(struct vault_writer *w, Sp__DiskImage *image, struct sp_why *why)
{
    uint8_t root[VAULT_ADDRESS_BYTES];
    pthread_mutex_lock(&w->lock);
    int r = w->finished ? sp_why_set(why, -EINVAL, "the disk is finished already") : 0;
    if (r == 0)
        r = build_root(w, root, why);
    if (r == 0)
        r = vault_store_flush(w->store, why);
    w->finished = w->finished || r == 0;
    pthread_mutex_unlock(&w->lock);
    if (r < 0)
        return r;
    uint8_t *copy = malloc(sizeof root);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, root, sizeof root);
    pthread_mutex_lock(&w->vault->lock);
    /* Only spares vault_put_manifest() a walk. */
    (void)vault_set_add(&w->vault->durable_roots, root);
    pthread_mutex_unlock(&w->vault->lock);
    free(image->root.data);
    image->root = (ProtobufCBinaryData){.len = sizeof root, .data = copy};
    image->size_bytes = w->size_bytes;
    image->stored_bytes = w->stored_bytes;
    image->new_bytes = w->new_bytes;
    return 0;
}
