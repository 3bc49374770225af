/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "pki.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/identity.h"
#include <dirent.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Tests stand or fall with this: what fails here ends the program. */
#define MUST(x)                                                                                    \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "pki: %s:%d: %s\n", __FILE__, __LINE__, #x);                           \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

char *pki_path(const struct pki *pki, const char *stem, const char *suffix)
{
    char *path = sp_format("%s/%s%s", pki->folder, stem, suffix);
    MUST(path);
    return path;
}

char *pki_read(const struct pki *pki, const char *stem, const char *suffix)
{
    SP_FREE char *path = pki_path(pki, stem, suffix);
    char *text = NULL;
    MUST(sp_file_read(path, 1 << 20, &text, NULL) == 0);
    return text;
}

static void extend(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    MUST(extension && X509_add_ext(certificate, extension, -1));
    X509_EXTENSION_free(extension);
}

static X509 *certify(EVP_PKEY *subject_key, const char *name, X509 *issuer, long from_s, long to_s)
{
    static long serial = 1;
    X509 *c = X509_new();
    MUST(c && X509_set_version(c, X509_VERSION_3));
    MUST(ASN1_INTEGER_set(X509_get_serialNumber(c), (long)getpid() * 1000 + serial++));
    MUST(X509_gmtime_adj(X509_getm_notBefore(c), from_s));
    MUST(X509_gmtime_adj(X509_getm_notAfter(c), to_s));
    X509_NAME *subject = X509_get_subject_name(c);
    MUST(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1,
                                    -1, 0));
    MUST(X509_set_issuer_name(c, issuer ? X509_get_subject_name(issuer) : subject));
    MUST(X509_set_pubkey(c, subject_key));
    return c;
}

static void save(const char *path, X509 *certificate)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *text;
    MUST(bio && PEM_write_bio_X509(bio, certificate));
    long size = BIO_get_mem_data(bio, &text);
    MUST(sp_file_replace(path, text, (size_t)size, 0644) == 0);
    BIO_free(bio);
}

void pki_new(struct pki *pki)
{
    strcpy(pki->folder, "/tmp/sealpoint-rpc-XXXXXX");
    MUST(mkdtemp(pki->folder));
    pki->key = sp_key_new();
    MUST(pki->key);
    pki->ca = certify(pki->key, "Sealpoint test CA", NULL, -3600, 86400);
    extend(pki->ca, pki->ca, NID_basic_constraints, "critical,CA:TRUE");
    extend(pki->ca, pki->ca, NID_key_usage, "critical,keyCertSign,cRLSign");
    extend(pki->ca, pki->ca, NID_subject_key_identifier, "hash");
    MUST(X509_sign(pki->ca, pki->key, EVP_sha256()));
    SP_FREE char *path = pki_path(pki, "trust", ".pem");
    save(path, pki->ca);
}

void pki_issue(const struct pki *pki, const char *stem, const char *spiffe, unsigned flags)
{
    SP_FREE char *key_path = pki_path(pki, stem, ".key");
    SP_FREE char *path = pki_path(pki, stem, ".pem");
    EVP_PKEY *key = sp_key_new();
    bool expired = flags & PKI_EXPIRED;

    MUST(key);
    X509 *c = certify(key, stem, pki->ca, -3600, expired ? -60 : 86400);
    SP_FREE char *san =
        sp_format("%s%s%s%s", spiffe ? "URI:" : "", spiffe ? spiffe : "",
                  spiffe && (flags & PKI_NAMED) ? "," : "",
                  flags & PKI_NAMED ? "DNS:" SP_CONTROLLER_DNS ",DNS:localhost" : "");
    MUST(san);
    extend(c, pki->ca, NID_basic_constraints, "critical,CA:FALSE");
    /* Or OpenSSL takes the first of two CAs with one name, and that may be the wrong one. */
    extend(c, pki->ca, NID_authority_key_identifier, "keyid");
    if (*san)
        extend(c, pki->ca, NID_subject_alt_name, san);
    if ((flags & PKI_SERVER) && (flags & PKI_CLIENT))
        extend(c, pki->ca, NID_ext_key_usage, "serverAuth,clientAuth");
    else
        extend(c, pki->ca, NID_ext_key_usage, flags & PKI_SERVER ? "serverAuth" : "clientAuth");
    MUST(X509_sign(c, pki->key, EVP_sha256()));
    MUST(sp_key_save(key_path, key) == 0);
    save(path, c);
    X509_free(c);
    EVP_PKEY_free(key);
}

void pki_free(struct pki *pki)
{
    DIR *folder = opendir(pki->folder);
    for (struct dirent *e; folder && (e = readdir(folder));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(folder), e->d_name, 0);
    if (folder)
        closedir(folder);
    rmdir(pki->folder);
    X509_free(pki->ca);
    EVP_PKEY_free(pki->key);
}
