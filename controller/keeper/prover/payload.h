/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The payload of a volume, decrypted on the way: a reader over the snapshot whose every read is
 * evidence. One thread. */
#ifndef SEALPOINT_PROVER_PAYLOAD_H
#define SEALPOINT_PROVER_PAYLOAD_H

#include "controller/keeper/prover/cipher.h"
#include "controller/keeper/prover/snapshot.h"

struct payload {
    struct snapshot *snapshot;
    struct sector_cipher *cipher;
    uint32_t sector_bytes;
    uint64_t start_bytes;  /* on the volume */
    uint64_t length_bytes; /* whole sectors */
};

/* Nothing is owned. length_bytes 0: up to the end of the volume; it is cut there in any case (of a
 * finely striped volume only the first extents are known). 0; -ERANGE: not one sector is left. */
int payload_open(struct snapshot *, struct sector_cipher *, uint32_t sector_bytes,
                 uint64_t start_bytes, uint64_t length_bytes, struct payload *ret);

/* `p` must outlive it. */
struct volume_reader payload_reader(struct payload *p);

#endif
