/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * AES-256-GCM for what lies in the keystore, and the bytes that a ciphertext is bound to. Any
 * thread. */
#ifndef SEALPOINT_KEEPER_AEAD_H
#define SEALPOINT_KEEPER_AEAD_H

#include "base/bytes.h"
#include <stddef.h>
#include <stdint.h>

enum { AEAD_KEY_BYTES = 32, AEAD_NONCE_BYTES = 12, AEAD_TAG_BYTES = 16 };

/* `out` takes size + AEAD_TAG_BYTES. A pair of key and nonce is used once; the caller sees to it.
 * 0, -EOVERFLOW (2 GiB and more), -EIO (the library failed). */
int aead_seal(const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
              struct sp_bytes aad, const void *plain, size_t size, uint8_t *out);

/* `out` takes size - AEAD_TAG_BYTES. 0, -EBADMSG (another key, nonce or AAD; tampered), -EIO. */
int aead_open(const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
              struct sp_bytes aad, const void *cipher, size_t size, uint8_t *out);

/* `label` and the texts behind it, each behind its length (le32), so that no two lists give the
 * same bytes. The list ends with NULL; `out` is emptied first. 0 or -ENOMEM. */
int aead_bind(struct sp_buffer *out, const char *label, ...) __attribute__((sentinel));

static inline struct sp_bytes sp_bytes_of(const struct sp_buffer *b)
{
    return (struct sp_bytes){b->data, b->size};
}

#endif
