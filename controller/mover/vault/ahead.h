/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a disk of the vault holds, from its beginning to its end, read and verified by a few threads
 * while whoever takes it is busy with what came before:
 *
 *   threads: claim the next piece of data ─▶ read, open, verify ─▶ ring of blocks ─▶ the taker,
 *                                                                  in the disk's order
 *
 * Memory is the ring's, whatever the disk's size. One taker. */
#ifndef SEALPOINT_VAULT_AHEAD_H
#define SEALPOINT_VAULT_AHEAD_H

#include "controller/mover/vault/vault.h"

struct vault_ahead;

/* Starts to read at `from_bytes`. The vault must outlive it. As vault_reader_new(). */
int vault_ahead_new(struct vault *, const uint8_t root[32], uint64_t size_bytes,
                    uint64_t from_bytes, struct vault_ahead **ret, struct sp_why *why);
/* The next piece, of at most 1 MiB; what lies between two pieces is zero. *ret_data is good until
 * the next call. 1; 0 at the end; negative errno as vault_reader_at(), then nothing more comes. */
int vault_ahead_next(struct vault_ahead *, uint64_t *ret_offset, const uint8_t **ret_data,
                     uint32_t *ret_length, struct sp_why *why);
/* Waits for the threads; NULL is fine. */
void vault_ahead_free(struct vault_ahead *);

#endif
