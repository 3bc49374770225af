/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A secret in the keystore: AES-256-GCM under a DEK of its own, the DEK sealed to every KEK. */
#ifndef SEALPOINT_KEEPER_WRAP_H
#define SEALPOINT_KEEPER_WRAP_H

#include "base/bytes.h"
#include "base/secret.h"
#include "controller/keeper/aead.h"

struct keeper;

struct wrapped {
    char dek_id[37];
    uint8_t nonce[AEAD_NONCE_BYTES];
    struct sp_buffer ciphertext;
};

/* Encrypts under a new DEK and writes the DEK's wraps, in the caller's transaction. */
int wrap_seal(struct keeper *, struct sp_bytes aad, const struct sp_secret *plain,
              struct wrapped *out);
/* -ENOKEY: no KEK is open, or the DEK is not wrapped for it; -EBADMSG: tampered or moved. */
int wrap_open(struct keeper *, const char *dek_id, struct sp_bytes nonce, struct sp_bytes aad,
              struct sp_bytes ciphertext, struct sp_secret **ret);
/* Wraps every DEK for KEK `index` too. In a transaction. ret_count may be NULL. */
int wrap_all_for(struct keeper *, size_t index, uint64_t *ret_count);
/* Removes the wraps of one DEK. */
int wrap_drop(struct keeper *, const char *dek_id);

static inline void sp_cleanup_wrapped(struct wrapped *w)
{
    sp_buffer_free(&w->ciphertext);
}
#define WRAPPED __attribute__((cleanup(sp_cleanup_wrapped)))

#endif
