/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Requests that a person signs with the key of their own certificate (types.proto, SignedRequest),
 * and detached signatures over bytes.
 *
 * Signed bytes of a request: "sealpoint request 1" ‖ 0 ‖ le32 length ‖ method ‖ SHA-256(arguments)
 * ‖ le32 length ‖ nonce ‖ le64 expires_unix_ms. Every approval signs the same bytes. */
#ifndef SEALPOINT_BASE_SIGNED_REQUEST_H
#define SEALPOINT_BASE_SIGNED_REQUEST_H

#include "base/identity.h"
#include <sealpoint/v1/types.pb-c.h>

/* Makes a request with the first approval. Free with sp__signed_request__free_unpacked(). */
int sp_request_sign(const char *method, const void *arguments, size_t arguments_size,
                    const void *nonce, size_t nonce_size, uint64_t expires_unix_ms, EVP_PKEY *key,
                    X509 *certificate, Sp__SignedRequest **ret);

/* Checks the signature of approval `index` and that its certificate chains to the bundle as a
 * client certificate at now. Nonce, expiry and role are the caller's business. 0, -EKEYREJECTED,
 * -EINVAL. */
int sp_request_verify(const Sp__SignedRequest *request, size_t index, const void *bundle_pem,
                      size_t bundle_size, int64_t now_unix_s, struct sp_identity *ret_signer,
                      struct sp_why *why);

/* A signature over `context` ‖ 0 ‖ bytes with an Ed25519 or P-256 key; contexts keep signatures of
 * one kind from passing for another. *ret is to be freed with sp__signature__free_unpacked(). */
int sp_sign(EVP_PKEY *key, const char *context, const void *data, size_t size, Sp__Signature **ret);
/* 0 or -EKEYREJECTED; -ENOTSUP for an algorithm not known. */
int sp_verify(EVP_PKEY *key, const char *context, const void *data, size_t size,
              const Sp__Signature *signature);
/* Contexts. */
#define SP_SIGN_PROOF       "sealpoint proof 1"
#define SP_SIGN_MANIFEST    "sealpoint manifest 1"
#define SP_SIGN_KEEPER_KEYS "sealpoint keeper keys 1"
#define SP_SIGN_JOURNAL     "sealpoint keystore journal 1"
#define SP_SIGN_KEYSLOT     "sealpoint keyslot order 1"

/* Hex SHA-256 of the SubjectPublicKeyInfo; 65 bytes. */
int sp_key_id(EVP_PKEY *key, char out[65]);
/* DER SubjectPublicKeyInfo, to free(). */
int sp_public_key_der(EVP_PKEY *key, uint8_t **ret_der, size_t *ret_size);
int sp_public_key_from_der(const void *der, size_t size, EVP_PKEY **ret);

/* A Signed message (payload and signatures) with one signature; verify one against a key. */
int sp_signed_make(EVP_PKEY *key, const char *context, const void *payload, size_t size,
                   Sp__Signed **ret);
int sp_signed_verify(const Sp__Signed *message, const char *context, EVP_PKEY *key);

#endif
