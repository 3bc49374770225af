/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys, certificate requests and certificates, as far as both sides need them. Identities are
 * SPIFFE ids in the SAN URI: spiffe://<domain>/{controller,agent,user,keeper}/<name>. Keys are
 * ECDSA P-256: gRPC's TLS and every foreign client take them. The CA itself lives in the keeper. */
#ifndef SEALPOINT_BASE_IDENTITY_H
#define SEALPOINT_BASE_IDENTITY_H

#include "base/bytes.h"
#include "base/secret.h"
#include "base/why.h"
#include <openssl/evp.h>
#include <openssl/x509.h>

/* A DNS name that every controller certificate carries besides its own, so that an agent can name
 * the peer that it expects whatever address it dialled. */
#define SP_CONTROLLER_DNS "controller.sealpoint.internal"

enum sp_identity_kind {
    SP_IDENTITY_NONE,
    SP_IDENTITY_CONTROLLER,
    SP_IDENTITY_AGENT,
    SP_IDENTITY_USER,
    SP_IDENTITY_KEEPER
};

struct sp_identity {
    enum sp_identity_kind kind;
    char domain[128];
    char name[128]; /* machine id, user name, … */
};

/* Strict: exactly the form above, names of [a-z0-9._-], -EINVAL otherwise. */
int sp_identity_parse(const char *spiffe_id, struct sp_identity *ret);
/* Into out (at least 320 bytes). Returns out. */
char *sp_identity_text(const struct sp_identity *id, char *out, size_t size);
/* The one SPIFFE id of a certificate; -EINVAL when there is none or more than one. */
int sp_identity_of_certificate(X509 *certificate, struct sp_identity *ret);

/* A new P-256 key, free with EVP_PKEY_free(); NULL when the library fails. */
EVP_PKEY *sp_key_new(void);
/* Writes PKCS #8 PEM, mode 0600, durable. */
int sp_key_save(const char *path, EVP_PKEY *key);
int sp_key_load(const char *path, EVP_PKEY **ret);
/* A CSR with this key and CN (ignored by the CA, for people). DER to free(). */
int sp_csr_make(EVP_PKEY *key, const char *common_name, uint8_t **ret_der, size_t *ret_size);

/* The first certificate of a PEM text. */
int sp_certificate_from_pem(const void *pem, size_t size, X509 **ret);
/* Hex SHA-256 over the DER; 65 bytes. Returns out. */
char *sp_certificate_fingerprint(X509 *certificate, char out[65]);
/* Verifies the chain PEM against the bundle PEM at `now` (seconds), for client or server use. 0, or
 * -EKEYREJECTED with the library's reason in why. */
int sp_certificate_verify(X509 *leaf, STACK_OF(X509) * chain, const void *bundle_pem,
                          size_t bundle_size, bool as_server, int64_t now_unix_s,
                          struct sp_why *why);
/* notAfter in ms since the epoch, 0 on nonsense. */
uint64_t sp_certificate_expires_unix_ms(const X509 *certificate);

/* Connects to host:port with TLS, takes the chain the server shows, and returns the certificate in
 * it whose fingerprint is `fingerprint` (64 hex digits, colons and case ignored) as PEM to free().
 * The handshake is accepted only so far as to look; nothing is sent. -EKEYREJECTED: the server
 * showed no such CA; why says what it showed. */
int sp_fetch_ca(const char *host_port, const char *fingerprint, unsigned timeout_ms, char **ret_pem,
                struct sp_why *why);

/* The token's proof in EnrolRequest: HMAC-SHA-256(secret, "sealpoint enrol 1" ‖ le32 len ‖ csr ‖
 * encryption key). */
int sp_enrol_proof(const struct sp_secret *token_secret, const void *csr, size_t csr_size,
                   const uint8_t encryption_key[32], uint8_t out[32]);
/* The text of a token file: "sealpoint-token-1:<uuid>:<base64url of 32 bytes>", white space around
 * it is fine. */
int sp_token_parse(const void *text, size_t size, char ret_id[37], struct sp_secret **ret_secret);

#endif
