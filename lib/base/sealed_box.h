/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A secret for the holder of one X25519 key (types.proto, SealedBox). Suite 1:
 *
 *   enc        = ephemeral X25519 public key
 *   shared     = X25519(ephemeral private, recipient public)
 *   key‖nonce  = HKDF-SHA-256(ikm = shared, salt = enc ‖ recipient public,
 *                             info = "sealpoint box 1" ‖ SHA-256(aad)), 32 + 12 bytes
 *   ciphertext = AES-256-GCM(key, nonce, aad, plaintext) with the 16-byte tag at its end
 *
 * The ephemeral key is used once, so the nonce never repeats under a key. The AAD says what the
 * secret is for; a box opened with another AAD than the opener expects fails. */
#ifndef SEALPOINT_BASE_SEALED_BOX_H
#define SEALPOINT_BASE_SEALED_BOX_H

#include "base/secret.h"
#include <sealpoint/v1/types.pb-c.h>

enum { SP_BOX_KEY_BYTES = 32, SP_BOX_SUITE_1 = 1, SP_BOX_MAX_PLAINTEXT = 1 << 20 };

/* A key pair: the private half lives in secret memory. */
int sp_box_keypair(struct sp_secret **ret_private, uint8_t ret_public[SP_BOX_KEY_BYTES]);
int sp_box_public(const struct sp_secret *private_key, uint8_t ret_public[SP_BOX_KEY_BYTES]);
/* Hex SHA-256 of the raw public key; 65 bytes with the 0. */
int sp_box_key_id(const uint8_t public_key[SP_BOX_KEY_BYTES], char out[65]);

/* *ret is a message to free with sp__sealed_box__free_unpacked(). 0, -EINVAL (bad public key),
 * -E2BIG, -ENOMEM, -EIO. */
int sp_box_seal(const uint8_t recipient[SP_BOX_KEY_BYTES], const void *aad, size_t aad_size,
                const void *plaintext, size_t size, Sp__SealedBox **ret);

/* The AAD inside the box must equal the one given. 0, -EBADMSG (tampered, another recipient,
 * another AAD), -ENOTSUP (suite), -ENOMEM. */
int sp_box_open(const struct sp_secret *private_key, const void *aad, size_t aad_size,
                const Sp__SealedBox *box, struct sp_secret **ret_plaintext);

/* What boxes of key material are bound to. Each is "sealpoint import|release|keyslot 1" and the
 * ids, each behind its length (le32), so that no two sets of ids give the same bytes. Into `out`,
 * which is emptied first. */
struct sp_buffer;
int sp_import_aad(struct sp_buffer *out, const char *machine_id, const char *volume_id,
                  const char *protector_id);
int sp_release_aad(struct sp_buffer *out, const char *point_id, const char *volume_id,
                   const char *record_id);
int sp_keyslot_aad(struct sp_buffer *out, const char *machine_id, const char *volume_id,
                   const char *record_id, const char *header_sha256_hex);
int sp_token_aad(struct sp_buffer *out, const char *token_id);
int sp_kit_aad(struct sp_buffer *out, const char *domain);

#endif
