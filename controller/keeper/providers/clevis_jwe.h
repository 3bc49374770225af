/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The JWE of a clevis token (RFC 7516, compact form; the header's member "clevis" is described in
 * clevis-encrypt-tang(1) and clevis-encrypt-sss(1)), and what opens it. No network here, so that
 * all of it can be fuzzed: the header of a snapshot and the answers of servers are untrusted.
 *
 *     tang   one server's key, by McCallum-Relyea: the client blinds its ephemeral key, the server
 *            multiplies by its own, the client takes the blinding away. The server learns nothing
 *     sss    `threshold` of the shares (Shamir, over a prime field) give the key; shares are JWEs
 *     tpm2   bound to the machine's TPM: nobody else opens it
 *
 * Only what clevis writes is taken: ECDH-ES or dir, A256GCM, no compression. */
#ifndef SEALPOINT_KEEPER_CLEVIS_JWE_H
#define SEALPOINT_KEEPER_CLEVIS_JWE_H

#include "base/cleanup.h"
#include "base/secret.h"
#include "base/why.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_t; /* jansson's; not included here, since its names clash with json-c's */

enum {
    CLEVIS_JWE_MOST = 16384,
    CLEVIS_DEPTH_MOST = 4, /* of sss in sss */
    CLEVIS_PINS_MOST = 16, /* of one token, all depths together */
    CLEVIS_URL_BYTES = 256,
    CLEVIS_KID_BYTES = 44, /* thumbprint, SHA-256 (or SHA-1), base64url */
    CLEVIS_NAME_BYTES = 16,
    CLEVIS_PARTS = 5,
    CLEVIS_PRIME_MOST = 64
};

enum clevis_kind { CLEVIS_TANG, CLEVIS_SSS, CLEVIS_TPM2, CLEVIS_OTHER };

struct clevis_pin {
    enum clevis_kind kind;
    char name[CLEVIS_NAME_BYTES]; /* as the header calls it */
    char *parts[CLEVIS_PARTS];    /* protected, encrypted key, IV, ciphertext, tag */

    char url[CLEVIS_URL_BYTES]; /* tang: see clevis_url() */
    char kid[CLEVIS_KID_BYTES];
    struct json_t *epk,
        *server; /* public keys of one curve; the server's is the one that kid names */

    uint8_t prime[CLEVIS_PRIME_MOST]; /* sss */
    size_t prime_bytes;
    struct clevis_pin *shares;
    unsigned count, threshold;
};

/* Before the first thread, and before anything else here: json texts are wiped when they are freed.
 */
void clevis_setup(void);

/* -EPROTO with a sentence: no such JWE. */
int clevis_parse(const void *jwe, size_t size, struct clevis_pin **ret, struct sp_why *);
void clevis_free(struct clevis_pin *);
SP_DEFINE_CLEANUP(clevis, struct clevis_pin *, clevis_free)

/* One spelling of an address: with its scheme (http:// when it has none, as clevis takes it), lower
 * case up to the path, without the scheme's own port and without slashes at its end. -EINVAL: no
 * http or https, not printable ASCII, or with a user, query or fragment. */
int clevis_url(const char *text, char out[CLEVIS_URL_BYTES]);

/* The question to a tang server, and the ephemeral key that its answer is for. -EPROTO. */
struct clevis_question {
    struct sp_secret *body; /* what is sent; not secret itself */
    struct json_t *ephemeral;
};
int clevis_ask(const struct clevis_pin *, struct clevis_question *ret, struct sp_why *);
void clevis_question_free(struct clevis_question *);
#define CLEVIS_QUESTION __attribute__((cleanup(clevis_question_free)))
/* What the JWE holds, with the server's answer. -EPROTO: an answer that is none. */
int clevis_open_tang(const struct clevis_pin *, const struct clevis_question *, const void *answer,
                     size_t size, struct sp_secret **ret, struct sp_why *);
/* The same with `threshold` shares, each what its JWE holds. */
int clevis_open_sss(const struct clevis_pin *, struct sp_secret *const *shares,
                    struct sp_secret **ret, struct sp_why *);

/* An advertisement (JWS over a JWK set), signed by every signing key in it. *ret_has: it offers the
 * exchange key of this thumbprint; kid NULL: any. -EPROTO. */
int clevis_advertisement(const void *jws, size_t size, const char *kid, bool *ret_has,
                         struct sp_why *);

#endif
