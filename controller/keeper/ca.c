/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/ca.h"

#include "base/cleanup.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <openssl/core_names.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

enum {
    LEAF_DAYS = 30,
    ROOT_DAYS = 20 * 365,
    BACKDATE_S = 5 * 60,
    CSR_MOST = 16384,
    HOSTS_MOST = 32
};

SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(x509, X509 *, X509_free)
SP_DEFINE_CLEANUP(x509_req, X509_REQ *, X509_REQ_free)
SP_DEFINE_CLEANUP(bio, BIO *, BIO_free_all)

/* 127 random bits: positive, and nobody guesses the next one. */
static int set_serial(X509 *certificate)
{
    uint8_t bytes[16];
    int r = sp_random(bytes, sizeof(bytes));
    if (r < 0)
        return r;
    bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40);
    BIGNUM *number = BN_bin2bn(bytes, sizeof(bytes), NULL);
    bool ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
    BN_free(number);
    return ok ? 0 : -ENOMEM;
}

static bool set_times(X509 *certificate, const struct keeper *k, int days)
{
    time_t now = (time_t)(keeper_now_ms(k) / 1000);
    return X509_time_adj_ex(X509_getm_notBefore(certificate), 0, -BACKDATE_S, &now) &&
           X509_time_adj_ex(X509_getm_notAfter(certificate), days, 0, &now);
}

static bool set_name(X509_NAME *name, const char *text)
{
    return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)text, -1,
                                      -1, 0) == 1;
}

static bool add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = extension && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return ok;
}

int ca_make_root(struct keeper *k, X509 **ret)
{
    SP_CLEANUP(x509) X509 *root = X509_new();
    char name[160];
    snprintf(name, sizeof(name), "Sealpoint CA %.60s", k->domain); /* a CN has 64 characters */
    name[64] = 0;
    if (!root || X509_set_version(root, X509_VERSION_3) != 1 || set_serial(root) < 0 ||
        !set_times(root, k, ROOT_DAYS) || !set_name(X509_get_subject_name(root), name) ||
        X509_set_issuer_name(root, X509_get_subject_name(root)) != 1 ||
        X509_set_pubkey(root, k->ca_key) != 1 ||
        !add_extension(root, root, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(root, root, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(root, root, NID_subject_key_identifier, "hash") ||
        X509_sign(root, k->ca_key, EVP_sha256()) <= 0)
        return -EIO;
    *ret = sp_steal(root);
    return 0;
}

static int write_pem(X509 *const *certificates, size_t count, char **ret, size_t *ret_size)
{
    SP_CLEANUP(bio) BIO *bio = BIO_new(BIO_s_mem());
    char *data = NULL;
    for (size_t i = 0; i < count; i++)
        if (!bio || PEM_write_bio_X509(bio, certificates[i]) != 1)
            return -ENOMEM;
    long size = BIO_get_mem_data(bio, &data);
    char *copy = size > 0 ? malloc((size_t)size + 1) : NULL;
    if (!copy)
        return -ENOMEM;
    memcpy(copy, data, (size_t)size);
    copy[size] = 0;
    *ret = copy;
    *ret_size = (size_t)size;
    return 0;
}

int ca_to_pem(X509 *certificate, char **ret, size_t *ret_size)
{
    return write_pem(&certificate, 1, ret, ret_size);
}

int ca_check_csr(const void *der, size_t size, EVP_PKEY **ret, struct sp_why *why)
{
    const uint8_t *at = der;
    char group[64] = "";

    if (size == 0 || size > CSR_MOST)
        return sp_why_set(why, -EINVAL, "the certificate request is %s",
                          size ? "too long" : "empty");
    SP_CLEANUP(x509_req) X509_REQ *csr = d2i_X509_REQ(NULL, &at, (long)size);
    if (!csr || at != (const uint8_t *)der + size)
        return sp_why_set(why, -EINVAL, "the certificate request is no PKCS #10 in DER");
    SP_CLEANUP(pkey) EVP_PKEY *key = X509_REQ_get_pubkey(csr);
    if (!key || EVP_PKEY_get_base_id(key) != EVP_PKEY_EC ||
        EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group),
                                       NULL) != 1 ||
        strcmp(group, "prime256v1") != 0)
        return sp_why_set(why, -EINVAL, "the certificate request's key is not ECDSA P-256");
    if (X509_REQ_verify(csr, key) != 1)
        return sp_why_set(why, -EINVAL,
                          "the certificate request is not signed by the key that it names");
    *ret = sp_steal(key);
    return 0;
}

/* ---- names ---- */

static bool is_dns_name(const char *host)
{
    size_t length = strlen(host);
    if (length == 0 || length > 253)
        return false;
    for (const char *c = host; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '.' && *c != '_')
            return false;
    return true;
}

static int add_name(GENERAL_NAMES *names, int type, const void *data, size_t size)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_STRING *value =
        type == GEN_IPADD ? (ASN1_STRING *)ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();
    if (!name || !value || ASN1_STRING_set(value, data, (int)size) != 1 ||
        sk_GENERAL_NAME_push(names, name) <= 0) {
        GENERAL_NAME_free(name);
        ASN1_STRING_free(value);
        return -ENOMEM;
    }
    GENERAL_NAME_set0_value(name, type, value);
    return 0;
}

static int add_host(GENERAL_NAMES *names, const char *host, struct sp_why *why)
{
    uint8_t address[16];
    if (inet_pton(AF_INET, host, address) == 1)
        return add_name(names, GEN_IPADD, address, 4);
    if (inet_pton(AF_INET6, host, address) == 1)
        return add_name(names, GEN_IPADD, address, 16);
    if (!is_dns_name(host))
        return sp_why_set(why, -EINVAL, "'%.100s' is neither a DNS name nor an address", host);
    return add_name(names, GEN_DNS, host, strlen(host));
}

static int add_san(X509 *leaf, struct keeper *k, const struct ca_subject *s, struct sp_why *why)
{
    struct sp_identity id = {.kind = s->kind}, parsed;
    char text[320];
    snprintf(id.domain, sizeof(id.domain), "%s", k->domain);
    snprintf(id.name, sizeof(id.name), "%s", s->name);
    sp_identity_text(&id, text, sizeof(text));
    if (sp_identity_parse(text, &parsed) < 0)
        return sp_why_set(why, -EINVAL, "'%.100s' is no name for an identity: use a-z 0-9 . _ -",
                          s->name);
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    int r = names ? add_name(names, GEN_URI, text, strlen(text)) : -ENOMEM;
    if (r == 0 && s->kind == SP_IDENTITY_CONTROLLER)
        r = add_name(names, GEN_DNS, SP_CONTROLLER_DNS, strlen(SP_CONTROLLER_DNS));
    if (s->host_count > HOSTS_MOST)
        r = sp_why_set(why, -EINVAL, "more than %d host names", HOSTS_MOST);
    for (size_t i = 0; i < s->host_count && r == 0; i++)
        r = add_host(names, s->hosts[i], why);
    if (r == 0 && X509_add1_ext_i2d(leaf, NID_subject_alt_name, names, 0, 0) != 1)
        r = -EIO;
    GENERAL_NAMES_free(names);
    return r;
}

/* ---- leaves ---- */

static int fill_leaf(struct keeper *k, X509 *leaf, const struct ca_subject *s, EVP_PKEY *key,
                     struct sp_why *why)
{
    char name[65];
    const char *use = s->kind == SP_IDENTITY_CONTROLLER ? "serverAuth,clientAuth" : "clientAuth";
    snprintf(name, sizeof(name), "%s", s->name);
    if (X509_set_version(leaf, X509_VERSION_3) != 1 || set_serial(leaf) < 0 ||
        !set_times(leaf, k, LEAF_DAYS) || !set_name(X509_get_subject_name(leaf), name) ||
        X509_set_issuer_name(leaf, X509_get_subject_name(k->ca)) != 1 ||
        X509_set_pubkey(leaf, key) != 1 ||
        !add_extension(leaf, k->ca, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(leaf, k->ca, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(leaf, k->ca, NID_ext_key_usage, use) ||
        !add_extension(leaf, k->ca, NID_subject_key_identifier, "hash") ||
        !add_extension(leaf, k->ca, NID_authority_key_identifier, "keyid:always"))
        return -EIO;
    return add_san(leaf, k, s, why);
}

int ca_issue(struct keeper *k, const struct ca_subject *s, const void *csr, size_t csr_size,
             struct ca_chain *ret, struct sp_why *why)
{
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    SP_CLEANUP(x509) X509 *leaf = X509_new();

    int r = ca_check_csr(csr, csr_size, &key, why);
    if (r == 0)
        r = leaf ? fill_leaf(k, leaf, s, key, why) : -ENOMEM;
    if (r == 0 && X509_sign(leaf, k->ca_key, EVP_sha256()) <= 0)
        r = -EIO;
    if (r < 0)
        return r == -EINVAL ? r : sp_why_set(why, r, "the certificate cannot be made");
    ret->expires_unix_ms = sp_certificate_expires_unix_ms(leaf);
    return write_pem((X509 *[]){leaf, k->ca}, 2, &ret->pem, &ret->size);
}

int ca_verify(struct keeper *k, const void *der, size_t size, struct sp_identity *ret,
              X509 **ret_certificate, struct sp_why *why)
{
    const uint8_t *at = der;
    SP_CLEANUP(x509)
    X509 *certificate = size > 0 && size < 65536 ? d2i_X509(NULL, &at, (long)size) : NULL;
    SP_FREE char *pem = NULL;
    size_t pem_size = 0;

    if (!certificate)
        return sp_why_set(why, -EINVAL, "the certificate cannot be read");
    int r = ca_to_pem(k->ca, &pem, &pem_size);
    if (r == 0)
        r = sp_certificate_verify(certificate, NULL, pem, pem_size, false,
                                  (int64_t)(keeper_now_ms(k) / 1000), why);
    if (r == 0)
        r = sp_identity_of_certificate(certificate, ret);
    if (r == 0 && strcmp(ret->domain, k->domain) != 0)
        r = sp_why_set(why, -EKEYREJECTED, "the certificate is for the domain '%s'", ret->domain);
    if (r == 0 && ret_certificate)
        *ret_certificate = sp_steal(certificate);
    return r;
}

static char *host_text(const GENERAL_NAME *name)
{
    int type = 0;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &type);
    char text[INET6_ADDRSTRLEN];
    if (type == GEN_DNS) {
        const char *dns = (const char *)ASN1_STRING_get0_data(value);
        return strcmp(dns, SP_CONTROLLER_DNS) == 0 ? NULL : strdup(dns);
    }
    if (type != GEN_IPADD)
        return NULL;
    int family = ASN1_STRING_length(value) == 4 ? AF_INET : AF_INET6;
    return inet_ntop(family, ASN1_STRING_get0_data(value), text, sizeof(text)) ? strdup(text)
                                                                               : NULL;
}

int ca_hosts_of(X509 *certificate, char ***ret, size_t *ret_count)
{
    char **hosts = NULL;
    size_t count = 0;
    int r = 0;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);

    for (int i = 0; i < sk_GENERAL_NAME_num(names) && r == 0; i++) {
        char *text = host_text(sk_GENERAL_NAME_value(names, i));
        if (!text)
            continue;
        r = MESSAGE_ROOM(hosts, count);
        if (r == 0)
            hosts[count++] = text;
        else
            free(text);
    }
    GENERAL_NAMES_free(names);
    *ret = hosts;
    *ret_count = count;
    return r;
}
