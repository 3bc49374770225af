/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Fills packs and makes them durable on threads of its own.
 *
 *   block (1 MiB, from a bounded pool) ─▶ open pack: list of pieces of blocks ─▶ threads: put,
 * index
 *
 * A chunk is not copied when its block is handed over with it: the pack keeps the block until it is
 * durable. Three packs at most exist at a time, one that fills and two that are written (while one
 * waits for its sync, the disk works on the other), so that a store never holds more than
 * STORE_MOST_BLOCKS blocks.
 *
 * vault_store_take() and _give(): any thread. All else: one thread at a time. */
#ifndef SEALPOINT_VAULT_STORE_H
#define SEALPOINT_VAULT_STORE_H

#include "controller/mover/vault/internal.h"

enum {
    VAULT_BLOCK_BYTES = 1 << 20,
    STORE_MOST_BLOCKS = 232,
    STORE_THREADS = 2,
    STORE_PACK_BYTES = 64 << 20,    /* a pack of data is full at this payload */
    STORE_MAP_PACK_BYTES = 4 << 20, /* map nodes gather up to this, then get a pack of their own */
};

struct vault_block {
    uint8_t *data; /* VAULT_BLOCK_BYTES, on a page */
    unsigned refs; /* the store's */
    struct vault_block *next;
};

enum store_part { STORE_DATA, STORE_MAP, STORE_PARTS };

struct store_chunk {
    uint8_t address[VAULT_ADDRESS_BYTES];
    enum vault_storage storage;
    uint32_t plain_size;
    const uint8_t *body; /* what is stored, without nonce and tag */
    uint32_t body_size;
    const struct coder_sealed *sealed; /* NULL: raw */
};

struct vault_store;
/* `writer`: the point, for the footers. */
int vault_store_new(struct vault *, const char *writer, struct vault_store **ret);
/* Waits for the thread; drops what was not flushed. NULL is fine. */
void vault_store_free(struct vault_store *);

/* A block, with one reference. Waits for one; NULL when the store has failed or memory is short. */
struct vault_block *vault_store_take(struct vault_store *);
void vault_store_give(struct vault_store *, struct vault_block *);

/* Whether a chunk of this address waits in a pack of this store that is not durable yet. */
bool vault_store_pending(struct vault_store *, const uint8_t address[VAULT_ADDRESS_BYTES]);
/* `block`: body lies in it and it will not be written to again; NULL: body is copied. May wait for
 * the disk. */
int vault_store_add(struct vault_store *, enum store_part, const struct store_chunk *,
                    struct vault_block *block, struct sp_why *why);
/* Everything durable and in the index when it returns 0. */
int vault_store_flush(struct vault_store *, struct sp_why *why);
/* The first error of the thread; 0: none. */
int vault_store_error(struct vault_store *, struct sp_why *why);

#endif
