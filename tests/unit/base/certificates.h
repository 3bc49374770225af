/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Certificates made by a test: a CA and leaves with SPIFFE ids. */
#ifndef SEALPOINT_TEST_CERTIFICATES_H
#define SEALPOINT_TEST_CERTIFICATES_H

#include "base/identity.h"
#include "test.h"
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <time.h>

/* A certificate of `key`, signed by issuer (NULL: itself). san: "URI:…" or NULL; usage: extended
 * key usage or NULL for a CA. Times are seconds from now. */
static inline X509 *test_certificate(EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
                                     const char *san, const char *usage, long from, long until)
{
    X509 *c = X509_new();
    assert_non_null(c);
    assert_true(X509_set_version(c, 2));
    ASN1_INTEGER_set(X509_get_serialNumber(c), 1 + rand() % 1000000); // NOLINT
    X509_gmtime_adj(X509_getm_notBefore(c), from);
    X509_gmtime_adj(X509_getm_notAfter(c), until);
    char name[32];
    (void)snprintf(name, sizeof(name), "%s %d", usage ? "leaf" : "test CA", rand()); // NOLINT
    X509_NAME_add_entry_by_txt(X509_get_subject_name(c), "CN", MBSTRING_ASC,
                               (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(c, X509_get_subject_name(issuer ? issuer : c));
    X509_set_pubkey(c, key);
    const struct {
        int nid;
        const char *value;
    } extensions[] = {
        {NID_basic_constraints, usage ? "critical,CA:FALSE" : "critical,CA:TRUE"},
        {NID_ext_key_usage, usage},
        {NID_subject_alt_name, san},
    };
    for (size_t i = 0; i < 3; i++) {
        if (!extensions[i].value)
            continue;
        X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, extensions[i].nid, extensions[i].value);
        assert_non_null(e);
        X509_add_ext(c, e, -1);
        X509_EXTENSION_free(e);
    }
    assert_true(X509_sign(c, issuer ? issuer_key : key, EVP_sha256()) > 0);
    return c;
}

/* PEM text to free(). */
static inline char *test_pem(X509 *c)
{
    BIO *bio = BIO_new(BIO_s_mem());
    assert_true(PEM_write_bio_X509(bio, c));
    char *data;
    long size = BIO_get_mem_data(bio, &data);
    char *text = strndup(data, (size_t)size);
    BIO_free(bio);
    return text;
}

#endif
