/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One-time numbers for signed requests, in memory only: after a restart every older one is unknown,
 * so nothing signed before can be played again. Bounded for each peer and in all; a peer that asks
 * for more loses its own oldest. Under the keeper's lock. */
#ifndef SEALPOINT_KEEPER_NONCES_H
#define SEALPOINT_KEEPER_NONCES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NONCE_BYTES = 32, NONCE_VALID_MS = 5 * 60 * 1000, NONCES_MOST = 4096, NONCES_A_PEER = 64 };

struct nonce {
    uint8_t value[NONCE_BYTES];
    uint8_t peer[32]; /* SHA-256 of its name */
    uint64_t made_ms; /* monotonic; 0: free slot */
};

struct nonces {
    struct nonce *items;
};

int nonces_init(struct nonces *);
void nonces_free(struct nonces *);
/* 0; -EAGAIN: the table is full of live ones. */
int nonces_make(struct nonces *, const char *peer, uint64_t now_ms, uint8_t out[NONCE_BYTES]);
/* True once for each nonce that is still alive. */
bool nonces_take(struct nonces *, const void *value, size_t size, uint64_t now_ms);

#endif
