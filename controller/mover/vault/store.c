/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/store.h"
#include <string.h>

/* A pack that is being put together. */
struct build {
    struct pack_footer footer;
    uint8_t *header; /* on a page, as the blocks are: it is written from where it is */
    struct pack_entry *entries;
    size_t count, entry_room;
    struct sp_bytes *parts; /* the first one is the header */
    size_t part_count, part_room;
    struct vault_block **blocks; /* kept until durable */
    size_t block_count, block_room;
    struct vault_set pending;
    uint32_t offset;            /* of the next chunk */
    struct vault_block *gather; /* where copies go; one of `blocks` */
    size_t gathered;
};

struct store_thread {
    struct vault_store *store;
    pthread_t thread;
    bool started;
    struct build
        *writing; /* under the store's lock; its pending set is read by the adding thread */
};

struct vault_store {
    struct vault *vault;
    char writer[PACK_WRITER_BYTES + 1];
    struct build *open[STORE_PARTS];

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    struct store_thread threads[STORE_THREADS];
    bool stop;
    int error;
    struct sp_why why;
    struct vault_block *free_blocks;
    unsigned block_count;
};

/* ---- blocks ---- */

struct vault_block *vault_store_take(struct vault_store *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->free_blocks && s->block_count >= STORE_MOST_BLOCKS && !s->error)
        pthread_cond_wait(&s->changed, &s->lock);
    struct vault_block *b = s->free_blocks;
    if (s->error) {
        b = NULL;
    } else if (b) {
        s->free_blocks = b->next;
    } else {
        b = calloc(1, sizeof *b);
        if (b && !(b->data = aligned_alloc(4096, VAULT_BLOCK_BYTES))) {
            free(b);
            b = NULL;
        }
        s->block_count += b != NULL;
    }
    if (b)
        b->refs = 1;
    pthread_mutex_unlock(&s->lock);
    return b;
}

static void give_locked(struct vault_store *s, struct vault_block *b)
{
    if (--b->refs > 0)
        return;
    b->next = s->free_blocks;
    s->free_blocks = b;
    pthread_cond_broadcast(&s->changed);
}

void vault_store_give(struct vault_store *s, struct vault_block *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&s->lock);
    give_locked(s, b);
    pthread_mutex_unlock(&s->lock);
}

/* ---- one pack ---- */

static int grow(void *array, size_t *room, size_t need, size_t each)
{
    if (need <= *room)
        return 0;
    size_t more = *room ? *room * 2 : 64;
    void *bigger = realloc(*(void **)array, more * each);
    if (!bigger)
        return -ENOMEM;
    *(void **)array = bigger;
    *room = more;
    return 0;
}

static void build_free(struct vault_store *s, struct build *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < b->block_count; i++)
        give_locked(s, b->blocks[i]);
    pthread_mutex_unlock(&s->lock);
    vault_set_free(&b->pending);
    free(b->header);
    free(b->entries);
    free(b->parts);
    free(b->blocks);
    free(b);
}

static int build_new(struct vault_store *s, struct build **ret)
{
    struct build *b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    int r = sp_random(b->footer.id, sizeof b->footer.id);
    b->header = aligned_alloc(PACK_HEADER_BYTES, PACK_HEADER_BYTES);
    if (!b->header)
        r = -ENOMEM;
    if (r == 0)
        r = grow(&b->parts, &b->part_room, 1, sizeof *b->parts);
    if (r < 0) {
        build_free(s, b);
        return r;
    }
    memcpy(b->footer.vault_id, s->vault->id, sizeof b->footer.vault_id);
    memcpy(b->footer.writer, s->writer, sizeof b->footer.writer);
    pack_header_make(b->header, b->footer.id);
    b->parts[b->part_count++] = (struct sp_bytes){b->header, PACK_HEADER_BYTES};
    b->offset = PACK_HEADER_BYTES;
    *ret = b;
    return 0;
}

/* Bytes that stay where they are until the pack is durable; runs are joined. */
static int add_piece(struct build *b, const uint8_t *data, size_t size)
{
    struct sp_bytes *last = &b->parts[b->part_count - 1];
    if (last->data + last->size == data) {
        last->size += size;
        return 0;
    }
    int r = grow(&b->parts, &b->part_room, b->part_count + 1, sizeof *b->parts);
    if (r == 0)
        b->parts[b->part_count++] = (struct sp_bytes){data, size};
    return r;
}

/* Keeps a block; takes over one reference. */
static int keep_block(struct build *b, struct vault_block *block)
{
    int r = grow(&b->blocks, &b->block_room, b->block_count + 1, sizeof(struct vault_block *));
    if (r == 0)
        b->blocks[b->block_count++] = block;
    return r;
}

static int add_copy(struct vault_store *s, struct build *b, const void *data, size_t size)
{
    if (!b->gather || b->gathered + size > VAULT_BLOCK_BYTES) {
        struct vault_block *block = vault_store_take(s);
        if (!block) {
            int r = vault_store_error(s, NULL);
            return r < 0 ? r : -ENOMEM;
        }
        int r = keep_block(b, block);
        if (r < 0) {
            vault_store_give(s, block);
            return r;
        }
        b->gather = block;
        b->gathered = 0;
    }
    uint8_t *at = b->gather->data + b->gathered;
    memcpy(at, data, size);
    int r = add_piece(b, at, size);
    if (r == 0)
        b->gathered += size;
    return r;
}

static int add_kept(struct vault_store *s, struct build *b, const uint8_t *data, size_t size,
                    struct vault_block *block)
{
    /* One reference a pack: chunks of a block come one after the other, the gather block may lie
     * between. */
    bool kept = false;
    for (size_t i = b->block_count; i > 0 && i + 3 > b->block_count && !kept; i--)
        kept = b->blocks[i - 1] == block;
    if (!kept) {
        pthread_mutex_lock(&s->lock);
        block->refs++;
        pthread_mutex_unlock(&s->lock);
        int r = keep_block(b, block);
        if (r < 0) {
            vault_store_give(s, block);
            return r;
        }
    }
    return add_piece(b, data, size);
}

static int build_add(struct vault_store *s, struct build *b, const struct store_chunk *c,
                     struct vault_block *block)
{
    int r = grow(&b->entries, &b->entry_room, b->count + 1, sizeof *b->entries);
    if (r == 0)
        r = vault_set_add(&b->pending, c->address);
    if (r >= 0)
        r = c->sealed ? add_copy(s, b, c->sealed->nonce, CODER_NONCE_BYTES) : 0;
    if (r == 0)
        r = block ? add_kept(s, b, c->body, c->body_size, block)
                  : add_copy(s, b, c->body, c->body_size);
    if (r == 0 && c->sealed)
        r = add_copy(s, b, c->sealed->tag, CODER_TAG_BYTES);
    if (r < 0)
        return r;
    struct pack_entry *e = &b->entries[b->count++];
    *e = (struct pack_entry){.offset = b->offset,
                             .stored_size = c->body_size,
                             .plain_size = c->plain_size,
                             .storage = (uint8_t)c->storage};
    if (c->sealed)
        e->stored_size += CODER_NONCE_BYTES + CODER_TAG_BYTES;
    memcpy(e->address, c->address, VAULT_ADDRESS_BYTES);
    b->offset += e->stored_size;
    return 0;
}

static int write_pack(struct vault_store *s, struct build *b, struct sp_why *why)
{
    struct sp_buffer tail SP_BUFFER = {0};
    char name[PACK_NAME_BYTES];
    b->footer.count = (uint32_t)b->count;
    b->footer.index_offset = b->offset;
    int r = pack_tail_make(&b->footer, b->entries, &tail);
    if (r == 0)
        r = grow(&b->parts, &b->part_room, b->part_count + 1, sizeof *b->parts);
    if (r < 0)
        return r;
    b->parts[b->part_count++] = (struct sp_bytes){tail.data, tail.size};
    const struct vault *v = s->vault;
    r = v->backend->put(v->self, pack_name(name, b->footer.id), b->parts, b->part_count, why);
    b->part_count--;
    memcpy(b->footer.checksum, tail.data + tail.size - 32, 32);
    /* Known to everybody only now that it is durable. */
    return r < 0 ? r : vault_index_add(v->index, &b->footer, tail.data, b->offset + tail.size);
}

/* ---- the thread ---- */

static void *run(void *arg)
{
    struct store_thread *me = arg;
    struct vault_store *s = me->store;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!me->writing && !s->stop)
            pthread_cond_wait(&s->changed, &s->lock);
        if (!me->writing)
            break;
        struct build *b = me->writing;
        int r = s->error;
        pthread_mutex_unlock(&s->lock);
        struct sp_why why = {{0}};
        if (r == 0)
            r = write_pack(s, b, &why);
        pthread_mutex_lock(&s->lock);
        if (r < 0 && !s->error) {
            s->error = r;
            s->why = why;
        }
        me->writing = NULL;
        pthread_mutex_unlock(&s->lock);
        build_free(s, b);
        pthread_mutex_lock(&s->lock);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* With lock. */
static unsigned count_writing(const struct vault_store *s)
{
    unsigned n = 0;
    for (size_t i = 0; i < STORE_THREADS; i++)
        n += s->threads[i].writing != NULL;
    return n;
}

/* Waits until at most `most` packs are being written. */
static int wait_for(struct vault_store *s, unsigned most, struct sp_why *why)
{
    pthread_mutex_lock(&s->lock);
    while (count_writing(s) > most)
        pthread_cond_wait(&s->changed, &s->lock);
    int r = s->error;
    if (r < 0 && why)
        *why = s->why;
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int hand_over(struct vault_store *s, enum store_part part, struct sp_why *why)
{
    if (!s->open[part] || s->open[part]->count == 0)
        return vault_store_error(s, why);
    int r = wait_for(s, STORE_THREADS - 1, why);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < STORE_THREADS && s->open[part]; i++)
        if (!s->threads[i].writing)
            s->threads[i].writing = sp_steal(s->open[part]);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

int vault_store_error(struct vault_store *s, struct sp_why *why)
{
    pthread_mutex_lock(&s->lock);
    int r = s->error;
    if (r < 0 && why)
        *why = s->why;
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* ---- life and use ---- */

int vault_store_new(struct vault *v, const char *writer, struct vault_store **ret)
{
    struct vault_store *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->vault = v;
    snprintf(s->writer, sizeof s->writer, "%s", writer);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    for (size_t i = 0; i < STORE_THREADS; i++) {
        struct store_thread *t = &s->threads[i];
        t->store = s;
        int r = pthread_create(&t->thread, NULL, run, t);
        t->started = r == 0;
        if (r != 0) {
            vault_store_free(s);
            return -r;
        }
    }
    *ret = s;
    return 0;
}

void vault_store_free(struct vault_store *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < STORE_THREADS; i++)
        if (s->threads[i].started)
            pthread_join(s->threads[i].thread, NULL);
    for (size_t i = 0; i < STORE_PARTS; i++)
        build_free(s, s->open[i]);
    for (struct vault_block *b = s->free_blocks, *next; b; b = next) {
        next = b->next;
        /* Plaintext of clear volumes may have gone through it. */
        sp_wipe(b->data, VAULT_BLOCK_BYTES);
        free(b->data);
        free(b);
    }
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

bool vault_store_pending(struct vault_store *s, const uint8_t address[VAULT_ADDRESS_BYTES])
{
    for (size_t i = 0; i < STORE_PARTS; i++)
        if (s->open[i] && vault_set_has(&s->open[i]->pending, address))
            return true;
    pthread_mutex_lock(&s->lock);
    bool has = false;
    for (size_t i = 0; i < STORE_THREADS && !has; i++)
        has = s->threads[i].writing && vault_set_has(&s->threads[i].writing->pending, address);
    pthread_mutex_unlock(&s->lock);
    return has;
}

int vault_store_add(struct vault_store *s, enum store_part part, const struct store_chunk *c,
                    struct vault_block *block, struct sp_why *why)
{
    int r = vault_store_error(s, why);
    if (r == 0 && !s->open[part])
        r = build_new(s, &s->open[part]);
    if (r == 0)
        r = build_add(s, s->open[part], c, block);
    if (r < 0) {
        int earlier = vault_store_error(s, why);
        return earlier ? earlier : r;
    }
    const struct build *b = s->open[part];
    uint32_t most = part == STORE_DATA ? STORE_PACK_BYTES : STORE_MAP_PACK_BYTES;
    if (b->offset - PACK_HEADER_BYTES >= most || b->count >= PACK_MAX_ENTRIES)
        r = hand_over(s, part, why);
    return r;
}

/* The last map nodes go behind the last data, so that a small backup is one pack and one sync. */
static int join_map(struct vault_store *s)
{
    struct build *data = s->open[STORE_DATA], *map = s->open[STORE_MAP];
    if (!data || !map || data->count + map->count > PACK_MAX_ENTRIES)
        return 0;
    int r = 0;
    uint32_t shift = data->offset - PACK_HEADER_BYTES;
    for (size_t i = 0; r == 0 && i < map->count; i++) {
        r = grow(&data->entries, &data->entry_room, data->count + 1, sizeof *data->entries);
        if (r == 0)
            r = vault_set_add(&data->pending, map->entries[i].address) < 0 ? -ENOMEM : 0;
        if (r == 0) {
            data->entries[data->count] = map->entries[i];
            data->entries[data->count++].offset += shift;
        }
    }
    for (size_t i = 1; r == 0 && i < map->part_count; i++)
        r = add_piece(data, map->parts[i].data, map->parts[i].size);
    for (size_t i = 0; r == 0 && i < map->block_count; i++) {
        r = keep_block(data, map->blocks[i]);
        if (r == 0)
            continue;
        memmove(map->blocks, map->blocks + i, (map->block_count - i) * sizeof(void *));
        map->block_count -= i;
    }
    if (r < 0)
        return r;
    map->block_count = 0;
    data->offset += map->offset - PACK_HEADER_BYTES;
    build_free(s, sp_steal(s->open[STORE_MAP]));
    return 0;
}

int vault_store_flush(struct vault_store *s, struct sp_why *why)
{
    int r = join_map(s);
    if (r < 0) {
        pthread_mutex_lock(&s->lock);
        s->error = s->error ? s->error : r; /* the packs are half joined: never write them */
        pthread_mutex_unlock(&s->lock);
    }
    for (size_t i = 0; r == 0 && i < STORE_PARTS; i++)
        r = hand_over(s, (enum store_part)i, why);
    return r < 0 ? r : wait_for(s, 0, why);
}
