/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A certificate authority for tests, made with OpenSSL in a folder of its own. */
#ifndef SEALPOINT_TESTS_RPC_PKI_H
#define SEALPOINT_TESTS_RPC_PKI_H

#include <openssl/evp.h>
#include <openssl/x509.h>

struct pki {
    char folder[64];
    EVP_PKEY *key;
    X509 *ca;
};

enum {
    PKI_SERVER = 1,  /* serverAuth */
    PKI_CLIENT = 2,  /* clientAuth */
    PKI_NAMED = 4,   /* DNS SP_CONTROLLER_DNS and localhost */
    PKI_EXPIRED = 8, /* since a minute ago */
    PKI_CONTROLLER = PKI_SERVER | PKI_CLIENT | PKI_NAMED
};

/* A folder under /tmp with trust.pem. */
void pki_new(struct pki *pki);
void pki_free(struct pki *pki);
/* STEM.pem and STEM.key; spiffe NULL: no SAN URI. Replaces what is there: first the key. */
void pki_issue(const struct pki *pki, const char *stem, const char *spiffe, unsigned flags);
/* Path of a file in the folder; free(). */
char *pki_path(const struct pki *pki, const char *stem, const char *suffix);
/* Its content; free(). */
char *pki_read(const struct pki *pki, const char *stem, const char *suffix);

#endif
