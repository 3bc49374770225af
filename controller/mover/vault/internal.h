/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of the vault share and nobody else sees.
 *
 *   vault.c   descriptor, open, close      pack.c  map.c   formats (pure)
 *   dir.c     back end                     coder.c         one chunk: hash, seal
 *   index.c   where each chunk is          store.c         fills packs, writes them on a thread
 *   writer.c  disk → chunks → map          reader.c        map → chunks → disk
 *   walk.c    every chunk of a map         journal.c       what unfinished backups rely on
 *   sweep.c   removes what nobody needs    manifest.c  check.c
 *
 * Lock order: shared tidy, shared sweep, then writer, then store, then index. */
#ifndef SEALPOINT_VAULT_INTERNAL_H
#define SEALPOINT_VAULT_INTERNAL_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include "controller/mover/vault/coder.h"
#include "controller/mover/vault/index.h"
#include "controller/mover/vault/set.h"
#include "controller/mover/vault/vault.h"
#include <pthread.h>
#include <stdatomic.h>

enum {
    VAULT_NAME_MAX = 256,
    VAULT_ID_MAX = 64,               /* of a machine or point, as part of a name */
    VAULT_MANIFEST_MAX = 64 << 20,   /* bytes */
    VAULT_DESCRIPTOR_MAX = 64 << 10, /* bytes */
};

extern const struct vault_backend vault_dir;

/* What all handles of one place in this process share; nobody else has it open. */
struct vault_shared {
    struct vault_shared *next;
    const void *place;
    unsigned refs;
    /* Shared: from looking a chunk up until its pack is journaled, and while a manifest is
     * checked and put. Exclusive: while packs are removed. */
    pthread_rwlock_t sweep;
    pthread_mutex_t tidy; /* one gc, recovery or removal at a time; before `sweep` */
    atomic_uint writers;
};

struct vault {
    const struct vault_backend *backend;
    void *self; /* of the back end */
    char id[37];
    struct vault_keys *keys; /* NULL: opened without key */
    struct vault_index *index;
    struct vault_shared *shared;
    pthread_mutex_t lock;
    bool key_recorded;              /* under lock: keys/<id> is durable */
    struct vault_set durable_roots; /* under lock: roots that this process made durable */
};

/* A part of a name that comes from outside: 1 … VAULT_ID_MAX of [A-Za-z0-9_-], and dots but not
 * first. */
bool vault_id_valid(const char *text);
/* The same for a whole object name, with slashes between its parts. */
bool vault_name_valid(const char *name);

/* A whole object of at most `most` bytes, to free(). -EFBIG. */
int vault_get_whole(struct vault *, const char *name, size_t most, uint8_t **ret_data,
                    size_t *ret_size);
/* Makes the id of the key durable before the first chunk is sealed with it. -ENOKEY: no key. */
int vault_record_key(struct vault *, struct sp_why *why);

/* ---- reader.c ---- */
/* One chunk of the given kind into out (VAULT_CHUNK_BYTES), from the first of its places that is
 * whole. -EBADMSG: none is, why names the pack. */
int vault_fetch(struct vault *, struct vault_coder *, enum map_kind kind,
                const uint8_t address[VAULT_ADDRESS_BYTES], void *out, uint32_t *ret_size,
                struct sp_why *why);
int vault_fetch_node(struct vault *, struct vault_coder *,
                     const uint8_t address[VAULT_ADDRESS_BYTES], unsigned level,
                     struct map_node *ret, struct sp_why *why);
/* The node `number` of its level, or NULL where all below is zero; valid until the next call. */
int vault_reader_node(struct vault_reader *, unsigned level, uint64_t number,
                      const struct map_node **ret, struct sp_why *why);
/* What names that node in the level above. */
int vault_reader_child(struct vault_reader *, unsigned level, uint64_t number,
                       struct map_child *ret, struct sp_why *why);
int vault_fetch_root(struct vault *, struct vault_coder *,
                     const uint8_t address[VAULT_ADDRESS_BYTES], struct map_root *ret,
                     struct sp_why *why);

#endif
