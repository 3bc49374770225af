/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Where each chunk is: an index in memory over the indexes of all packs. Eight bytes a chunk (about
 * 170 MB for 1 TiB of different data); the full entries stay in the packs and are read through a
 * small cache. Past its limit the table takes no more: then what is newer is searched pack by pack,
 * slower but right. Any thread. */
#ifndef SEALPOINT_VAULT_INDEX_H
#define SEALPOINT_VAULT_INDEX_H

#include "controller/mover/vault/pack.h"

struct vault_backend;
struct vault_index;

enum { INDEX_MOST_SLOTS = 1 << 27 }; /* 1 GiB of table: some 6 TiB of different data */

struct vault_location {
    uint32_t pack;   /* number within the index, never used again for another pack */
    uint32_t number; /* of the entry within the pack */
    struct pack_entry entry;
};

/* What is known of a pack. */
struct vault_pack {
    uint32_t number;
    uint64_t bytes;
    struct pack_footer footer; /* zero but for id when `lost` */
    bool index_damaged;        /* entries are used, since each chunk proves itself */
    bool lost;                 /* no footer: nothing in it can be found */
    bool removed;
    char problem[160]; /* a sentence when damaged or lost */
};

/* `most_slots`: a power of two, at most INDEX_MOST_SLOTS; 0 for that. */
int vault_index_new(const struct vault_backend *, void *backend_self, size_t most_slots,
                    struct vault_index **ret);
void vault_index_free(struct vault_index *);

/* Looks at the list of packs: learns those that are new, forgets those that are gone. Damaged packs
 * are remembered as such. */
int vault_index_refresh(struct vault_index *, struct sp_why *why);
/* The nth place (from 0) where a chunk of this address lies. -ENOENT: no more. */
int vault_index_find(struct vault_index *, const uint8_t address[VAULT_ADDRESS_BYTES], unsigned nth,
                     struct vault_location *ret);
/* A pack that has just become durable; `index` are its raw entries. */
int vault_index_add(struct vault_index *, const struct pack_footer *footer, const void *index,
                    uint64_t pack_bytes);
/* Forgets a pack, before its object is removed. */
void vault_index_forget(struct vault_index *, uint32_t pack);

/* Packs have the numbers 0 … count-1; false for one that was removed. */
uint32_t vault_index_count(struct vault_index *);
bool vault_index_pack(struct vault_index *, uint32_t number, struct vault_pack *ret);
/* -ENOENT. */
int vault_index_pack_by_id(struct vault_index *, const uint8_t id[PACK_ID_BYTES],
                           uint32_t *ret_number);
/* Entry `number` of a pack. -EBADMSG: it makes no sense. */
int vault_index_entry(struct vault_index *, uint32_t pack, uint32_t number, struct pack_entry *ret);

#endif
