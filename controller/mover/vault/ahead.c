/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/ahead.h"

#include "base/cleanup.h"
#include "base/secret.h"
#include <pthread.h>
#include <string.h>

enum { THREADS = 3, BLOCKS = 8, BLOCK_BYTES = 1 << 20 };

struct ahead_block {
    uint64_t offset;
    uint32_t length;
    bool ready;
    int error;
    struct sp_why why;
    uint8_t *data;
};

struct vault_ahead {
    struct vault *vault;
    uint64_t size_bytes;
    uint8_t root[32];
    struct vault_reader *map; /* where data lies; with lock */
    pthread_t threads[THREADS];
    unsigned started;

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    uint64_t at, data_end;   /* everything below `at` is claimed */
    uint64_t claimed, taken; /* blocks; block n is in place n % BLOCKS */
    bool holding;            /* the taker has block taken - 1 */
    bool ended, closing;     /* no more pieces; nobody takes any more */
    struct ahead_block blocks[BLOCKS];
};

/* ---- reading ---- */

/* The next piece goes into `b`. 1; 0: there is none; negative errno. With lock. */
static int next_piece(struct vault_ahead *a, struct ahead_block *b, struct sp_why *why)
{
    uint64_t length;
    if (a->at >= a->data_end) {
        uint64_t offset;
        int r = vault_reader_next_data(a->map, a->at, &offset, &length, why);
        if (r <= 0)
            return r;
        a->at = offset < a->at ? a->at : offset;
        a->data_end = offset + length;
    }
    length = a->data_end - a->at;
    b->offset = a->at;
    b->length = length < BLOCK_BYTES ? (uint32_t)length : BLOCK_BYTES;
    a->at += b->length;
    return 1;
}

/* A free block with the piece to read into it; NULL: there is nothing left to do. The end, and a
 * map that cannot be read, go to the taker in a block of their own. With lock. */
static struct ahead_block *claim(struct vault_ahead *a)
{
    while (!a->ended && !a->closing && a->claimed - a->taken + a->holding == BLOCKS)
        pthread_cond_wait(&a->changed, &a->lock);
    if (a->ended || a->closing)
        return NULL;
    struct ahead_block *b = &a->blocks[a->claimed++ % BLOCKS];
    b->ready = false;
    b->why.text[0] = 0;
    b->error = next_piece(a, b, &b->why);
    if (b->error == 1)
        return b;
    b->length = 0;
    b->ready = a->ended = true;
    pthread_cond_broadcast(&a->changed);
    return NULL;
}

static void read_all(struct vault_ahead *a, struct vault_reader *reader, int error,
                     const struct sp_why *why)
{
    pthread_mutex_lock(&a->lock);
    for (struct ahead_block *b; (b = claim(a));) {
        pthread_mutex_unlock(&a->lock);
        b->error = error;
        if (error)
            b->why = *why;
        else
            b->error = vault_reader_at(reader, b->offset, b->data, b->length, &b->why);
        pthread_mutex_lock(&a->lock);
        b->ready = true;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
}

static void *read_main(void *self)
{
    struct vault_ahead *a = self;
    struct vault_reader *reader = NULL;
    struct sp_why why = {""};
    int r = vault_reader_new(a->vault, a->root, a->size_bytes, &reader, &why);
    read_all(a, reader, r, &why);
    vault_reader_free(reader);
    return NULL;
}

/* ---- taking ---- */

int vault_ahead_next(struct vault_ahead *a, uint64_t *ret_offset, const uint8_t **ret_data,
                     uint32_t *ret_length, struct sp_why *why)
{
    pthread_mutex_lock(&a->lock);
    const struct ahead_block *b = &a->blocks[a->taken % BLOCKS];
    a->holding = false;
    pthread_cond_broadcast(&a->changed);
    while (a->taken == a->claimed || !b->ready)
        pthread_cond_wait(&a->changed, &a->lock);
    int r = b->error < 0 ? b->error : b->length > 0;
    if (r == 1) {
        *ret_offset = b->offset;
        *ret_data = b->data;
        *ret_length = b->length;
        a->taken++;
        a->holding = true;
    } else if (r < 0) {
        (void)sp_why_set(why, r, "%s", b->why.text); /* the block stays: asked again, said again */
    }
    pthread_mutex_unlock(&a->lock);
    return r;
}

static int start(struct vault_ahead *a, struct sp_why *why)
{
    int r = vault_reader_new(a->vault, a->root, a->size_bytes, &a->map, why);
    for (unsigned i = 0; r == 0 && i < BLOCKS; i++)
        if (!(a->blocks[i].data = malloc(BLOCK_BYTES)))
            r = -ENOMEM;
    while (r == 0 && a->started < THREADS) {
        r = -pthread_create(&a->threads[a->started], NULL, read_main, a);
        a->started += r == 0;
    }
    return a->started ? 0 : r; /* fewer do as well */
}

int vault_ahead_new(struct vault *v, const uint8_t root[32], uint64_t size_bytes,
                    uint64_t from_bytes, struct vault_ahead **ret, struct sp_why *why)
{
    struct vault_ahead *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->vault = v;
    a->size_bytes = size_bytes;
    a->at = a->data_end = from_bytes;
    memcpy(a->root, root, sizeof(a->root));
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    int r = start(a, why);
    if (r < 0) {
        vault_ahead_free(a);
        return r;
    }
    *ret = a;
    return 0;
}

void vault_ahead_free(struct vault_ahead *a)
{
    if (!a)
        return;
    pthread_mutex_lock(&a->lock);
    a->closing = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    for (unsigned i = 0; i < a->started; i++)
        pthread_join(a->threads[i], NULL);
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (a->blocks[i].data)
            sp_wipe(a->blocks[i].data, BLOCK_BYTES); /* plaintext of clear volumes */
        free(a->blocks[i].data);
    }
    vault_reader_free(a->map);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
    free(a);
}
