/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/nonces.h"

#include "base/bytes.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int nonces_init(struct nonces *n)
{
    n->items = calloc(NONCES_MOST, sizeof(*n->items));
    return n->items ? 0 : -ENOMEM;
}

void nonces_free(struct nonces *n)
{
    free(n->items);
    n->items = NULL;
}

static bool is_alive(const struct nonce *n, uint64_t now_ms)
{
    return n->made_ms != 0 && now_ms - n->made_ms < NONCE_VALID_MS;
}

/* A slot for one more of this peer's: its own oldest when it has its share, else a free one. */
static struct nonce *find_slot(struct nonces *n, const uint8_t peer[32], uint64_t now_ms)
{
    struct nonce *unused = NULL, *oldest = NULL;
    size_t own = 0;
    for (size_t i = 0; i < NONCES_MOST; i++) {
        struct nonce *at = &n->items[i];
        if (!is_alive(at, now_ms)) {
            unused = at;
        } else if (memcmp(at->peer, peer, 32) == 0) {
            own++;
            if (!oldest || at->made_ms < oldest->made_ms)
                oldest = at;
        }
    }
    return own >= NONCES_A_PEER ? oldest : unused;
}

int nonces_make(struct nonces *n, const char *peer, uint64_t now_ms, uint8_t out[NONCE_BYTES])
{
    uint8_t digest[32];
    int r = sp_sha256_of(peer, strlen(peer), digest);
    struct nonce *slot = r == 0 ? find_slot(n, digest, now_ms) : NULL;
    if (r < 0 || !slot)
        return r < 0 ? r : -EAGAIN;
    r = sp_random(out, NONCE_BYTES);
    if (r < 0)
        return r;
    memcpy(slot->value, out, NONCE_BYTES);
    memcpy(slot->peer, digest, sizeof(digest));
    slot->made_ms = now_ms > 0 ? now_ms : 1;
    return 0;
}

bool nonces_take(struct nonces *n, const void *value, size_t size, uint64_t now_ms)
{
    if (size != NONCE_BYTES)
        return false;
    for (size_t i = 0; i < NONCES_MOST; i++) {
        struct nonce *at = &n->items[i];
        if (at->made_ms == 0 || !sp_equal_secret(at->value, value, NONCE_BYTES))
            continue;
        bool alive = is_alive(at, now_ms);
        memset(at, 0, sizeof(*at));
        return alive;
    }
    return false;
}
