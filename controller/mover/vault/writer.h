/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The mover's way into a vault: blocks of many chunks, prepared on many threads at once, without a
 * copy. vault_writer_chunk() is the plain way, built on this.
 *
 *   each thread:  take block ─▶ read into it ─▶ prepare each chunk (hash, look up, seal) ─▶ place
 *
 * Before vault_writer_finish() no other call may be running. */
#ifndef SEALPOINT_VAULT_WRITER_H
#define SEALPOINT_VAULT_WRITER_H

#include "controller/mover/vault/store.h"

enum writer_state { WRITER_ZERO, WRITER_KNOWN, WRITER_NEW };

struct writer_chunk {
    uint64_t index;
    uint8_t *data; /* within the block; sealed in place */
    uint32_t size;
    bool ciphertext;
    /* Set by vault_writer_prepare(). */
    enum writer_state state;
    enum map_kind kind;
    uint8_t address[VAULT_ADDRESS_BYTES];
    struct coder_sealed sealed;
};

/* A coder for one thread. */
int vault_writer_coder(struct vault_writer *, struct vault_coder **ret);
/* VAULT_BLOCK_BYTES; waits while the disk is behind. NULL: failed, vault_writer_error() says why.
 */
struct vault_block *vault_writer_take(struct vault_writer *);
/* Gives the caller's reference back; after vault_writer_place() as well. */
void vault_writer_give(struct vault_writer *, struct vault_block *);
int vault_writer_prepare(struct vault_writer *, struct vault_coder *, struct writer_chunk *,
                         struct sp_why *why);
/* Places prepared chunks; the block must not be written to afterwards. */
int vault_writer_place(struct vault_writer *, const struct writer_chunk *, size_t count,
                       struct vault_block *, struct sp_why *why);
/* No chunk below `index` will come any more: the map's nodes below can be made, memory freed. */
int vault_writer_passed(struct vault_writer *, uint64_t index, struct sp_why *why);
int vault_writer_error(struct vault_writer *, struct sp_why *why);

#endif
