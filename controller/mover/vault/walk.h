/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Visits everything that a disk rests on: root record, map nodes, chunks, in this order, from the
 * start of the disk to its end. */
#ifndef SEALPOINT_VAULT_WALK_H
#define SEALPOINT_VAULT_WALK_H

#include "controller/mover/vault/internal.h"

/* Where in a map. level: MAP_MAX_HEIGHT is the root record, WALK_CHUNK a chunk of data. */
enum { WALK_CHUNK = -1 };

struct walk_place {
    int level;
    enum map_kind kind;
    const uint8_t *address;
    uint64_t first_chunk;
    uint64_t size_bytes; /* of the disk; 0 at the root record, when it is not known yet */
};

struct vault_walk {
    /* 0: go on below; 1: not below here; negative: stop with that. */
    int (*enter)(void *arg, const struct walk_place *);
    /* After all below, if it was entered and readable. May be NULL. */
    int (*leave)(void *arg, const struct walk_place *);
    /* A root or node cannot be read (-EBADMSG, -EIO, …): 0: go on beside it, negative: stop. NULL:
     * stop. */
    int (*lost)(void *arg, const struct walk_place *, int error, const struct sp_why *);
    void *arg;
};

/* size_bytes 0: whatever the root says. */
int vault_walk_root(struct vault *, struct vault_coder *, const uint8_t root[VAULT_ADDRESS_BYTES],
                    uint64_t size_bytes, const struct vault_walk *, struct sp_why *why);

#endif
