/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The payload of a volume, decrypted on the way: a reader over the snapshot whose every read is
 * evidence. A payload is laid out in pieces: LUKS2 has one for each segment, BitLocker keeps the
 * first sectors elsewhere and hides its own metadata.
 *
 *   payload    [ piece 0 │ piece 1 (zeros) │ piece 2 … ]     in order, no hole
 *   volume        on_bytes, under its own cipher and IV
 *
 * One thread. */
#ifndef SEALPOINT_PROVER_PAYLOAD_H
#define SEALPOINT_PROVER_PAYLOAD_H

#include "controller/keeper/prover/cipher.h"
#include "controller/keeper/prover/snapshot.h"

struct payload_piece {
    uint64_t length_bytes;
    uint64_t on_bytes;  /* where it lies on the volume */
    uint64_t iv_sector; /* of its first sector, in 512 bytes, before the cipher's IV offset */
    struct sector_cipher *cipher; /* NULL: not encrypted */
    bool hidden;                  /* reads as zeros, whatever lies there; without cipher */
    uint32_t sector_bytes;
};

enum { PAYLOAD_MAX_PIECES = 80 };

struct payload {
    struct snapshot *snapshot;
    struct payload_piece pieces[PAYLOAD_MAX_PIECES];
    size_t count;
    uint64_t length_bytes;
};

/* Copies the pieces; nothing else is owned. It ends where the volume does (of a finely striped
 * volume only the first extents are known), in whole sectors. 0; -ERANGE: not one sector is left;
 * -EINVAL: pieces that begin between two sectors; -E2BIG. */
int payload_open(struct snapshot *, const struct payload_piece *, size_t count,
                 struct payload *ret);

/* `p` must outlive it. */
struct volume_reader payload_reader(struct payload *p);

#endif
