/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/identity.h"

#include "base/cleanup.h"
#include "base/file.h"
#include <ctype.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

SP_DEFINE_CLEANUP(bio, BIO *, BIO_free_all)
SP_DEFINE_CLEANUP(x509, X509 *, X509_free)
SP_DEFINE_CLEANUP(csr, X509_REQ *, X509_REQ_free)
SP_DEFINE_CLEANUP(names, GENERAL_NAMES *, GENERAL_NAMES_free)
SP_DEFINE_CLEANUP(ssl_ctx, SSL_CTX *, SSL_CTX_free)
SP_DEFINE_CLEANUP(store, X509_STORE *, X509_STORE_free)
SP_DEFINE_CLEANUP(store_ctx, X509_STORE_CTX *, X509_STORE_CTX_free)

/* ---- SPIFFE ids ---- */

static const char *const kind_names[] = {
    [SP_IDENTITY_CONTROLLER] = "controller",
    [SP_IDENTITY_AGENT] = "agent",
    [SP_IDENTITY_USER] = "user",
    [SP_IDENTITY_KEEPER] = "keeper",
};

static int take_name(const char *from, size_t length, char *out, size_t size)
{
    if (length == 0 || length >= size || from[0] == '.')
        return -EINVAL;
    for (size_t i = 0; i < length; i++) {
        char c = from[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'))
            return -EINVAL;
        out[i] = c;
    }
    out[length] = 0;
    return 0;
}

int sp_identity_parse(const char *spiffe_id, struct sp_identity *ret)
{
    static const char scheme[] = "spiffe://";
    if (strncmp(spiffe_id, scheme, sizeof(scheme) - 1) != 0)
        return -EINVAL;
    const char *domain = spiffe_id + sizeof(scheme) - 1, *kind = strchr(domain, '/');
    const char *name = kind ? strchr(kind + 1, '/') : NULL;
    if (!name)
        return -EINVAL;
    struct sp_identity id = {0};
    for (size_t k = SP_IDENTITY_CONTROLLER; k < SP_COUNT(kind_names); k++) {
        size_t n = strlen(kind_names[k]);
        if ((size_t)(name - kind - 1) == n && strncmp(kind + 1, kind_names[k], n) == 0)
            id.kind = (enum sp_identity_kind)k;
    }
    if (id.kind == SP_IDENTITY_NONE ||
        take_name(domain, (size_t)(kind - domain), id.domain, sizeof(id.domain)) < 0 ||
        take_name(name + 1, strlen(name + 1), id.name, sizeof(id.name)) < 0)
        return -EINVAL;
    *ret = id;
    return 0;
}

char *sp_identity_text(const struct sp_identity *id, char *out, size_t size)
{
    if (id->kind == SP_IDENTITY_NONE)
        (void)snprintf(out, size, "nobody");
    else
        (void)snprintf(out, size, "spiffe://%s/%s/%s", id->domain, kind_names[id->kind], id->name);
    return out;
}

int sp_identity_of_certificate(X509 *certificate, struct sp_identity *ret)
{
    SP_CLEANUP(names)
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    struct sp_identity found = {0};
    unsigned uris = 0;
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
        if (n->type != GEN_URI)
            continue;
        const char *text = (const char *)ASN1_STRING_get0_data(n->d.uniformResourceIdentifier);
        size_t length = (size_t)ASN1_STRING_length(n->d.uniformResourceIdentifier);
        char uri[320];
        /* An embedded 0 would make two readers see two names. */
        if (length >= sizeof(uri) || memchr(text, 0, length))
            return -EINVAL;
        memcpy(uri, text, length);
        uri[length] = 0;
        if (sp_identity_parse(uri, &found) < 0)
            return -EINVAL;
        uris++;
    }
    if (uris != 1)
        return -EINVAL;
    *ret = found;
    return 0;
}

/* ---- keys ---- */

EVP_PKEY *sp_key_new(void)
{
    return EVP_EC_gen("P-256");
}

int sp_key_save(const char *path, EVP_PKEY *key)
{
    SP_CLEANUP(bio) BIO *bio = BIO_new(BIO_s_secmem());
    if (!bio)
        return -ENOMEM;
    if (!PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL))
        return -EIO;
    char *text;
    long size = BIO_get_mem_data(bio, &text);
    if (size <= 0)
        return -EIO;
    int r = sp_file_replace(path, text, (size_t)size, 0600);
    sp_wipe(text, (size_t)size);
    return r;
}

int sp_key_load(const char *path, EVP_PKEY **ret)
{
    SP_SECRET struct sp_secret *text = NULL;
    int r = sp_secret_read_file(path, 64 << 10, &text);
    if (r < 0)
        return r;
    SP_CLEANUP(bio) BIO *bio = BIO_new_mem_buf(sp_secret_data(text), (int)sp_secret_size(text));
    if (!bio)
        return -ENOMEM;
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)(uintptr_t) "");
    if (!key) {
        ERR_clear_error();
        return -EINVAL;
    }
    *ret = key;
    return 0;
}

int sp_csr_make(EVP_PKEY *key, const char *common_name, uint8_t **ret_der, size_t *ret_size)
{
    SP_CLEANUP(csr) X509_REQ *csr = X509_REQ_new();
    if (!csr)
        return -ENOMEM;
    X509_NAME *subject = X509_REQ_get_subject_name(csr);
    /* ub-common-name of RFC 5280 is 64. */
    char name[65];
    (void)snprintf(name, sizeof(name), "%.64s", common_name);
    if (!X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1,
                                    -1, 0) ||
        !X509_REQ_set_pubkey(csr, key) || X509_REQ_sign(csr, key, EVP_sha256()) <= 0)
        return -EIO;
    unsigned char *der = NULL; /* from malloc(): nobody sets another allocator for OpenSSL */
    int size = i2d_X509_REQ(csr, &der);
    if (size <= 0)
        return -EIO;
    *ret_der = der;
    *ret_size = (size_t)size;
    return 0;
}

/* ---- certificates ---- */

int sp_certificate_from_pem(const void *pem, size_t size, X509 **ret)
{
    if (size > INT32_MAX)
        return -EINVAL;
    SP_CLEANUP(bio) BIO *bio = BIO_new_mem_buf(pem, (int)size);
    if (!bio)
        return -ENOMEM;
    X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    if (!certificate) {
        ERR_clear_error();
        return -EINVAL;
    }
    *ret = certificate;
    return 0;
}

char *sp_certificate_fingerprint(X509 *certificate, char out[65])
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    out[0] = 0;
    if (X509_digest(certificate, EVP_sha256(), digest, &size) && size == 32)
        sp_hex(out, digest, 32);
    return out;
}

uint64_t sp_certificate_expires_unix_ms(const X509 *certificate)
{
    struct tm t;
    if (!ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &t))
        return 0;
    time_t seconds = timegm(&t);
    return seconds > 0 ? (uint64_t)seconds * 1000u : 0;
}

/* Every certificate of a PEM text becomes a trust anchor. */
static int store_of_bundle(const void *pem, size_t size, X509_STORE **ret)
{
    SP_CLEANUP(store) X509_STORE *store = X509_STORE_new();
    SP_CLEANUP(bio) BIO *bio = size <= INT32_MAX ? BIO_new_mem_buf(pem, (int)size) : NULL;
    if (!store || !bio)
        return -ENOMEM;
    unsigned count = 0;
    for (;;) {
        SP_CLEANUP(x509) X509 *ca = PEM_read_bio_X509(bio, NULL, NULL, NULL);
        if (!ca)
            break;
        if (!X509_STORE_add_cert(store, ca))
            return -ENOMEM;
        count++;
    }
    ERR_clear_error();
    if (count == 0)
        return -EINVAL;
    *ret = sp_steal(store);
    return 0;
}

int sp_certificate_verify(X509 *leaf, STACK_OF(X509) * chain, const void *bundle_pem,
                          size_t bundle_size, bool as_server, int64_t now_unix_s,
                          struct sp_why *why)
{
    SP_CLEANUP(store) X509_STORE *store = NULL;
    int r = store_of_bundle(bundle_pem, bundle_size, &store);
    if (r < 0)
        return sp_why_set(why, r == -ENOMEM ? r : -EKEYREJECTED,
                          "the trust bundle holds no certificate");
    SP_CLEANUP(store_ctx) X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    if (!ctx || !X509_STORE_CTX_init(ctx, store, leaf, chain))
        return -ENOMEM;
    X509_VERIFY_PARAM *p = X509_STORE_CTX_get0_param(ctx);
    X509_VERIFY_PARAM_set_time(p, (time_t)now_unix_s);
    X509_VERIFY_PARAM_set_purpose(p, as_server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT);
    if (X509_verify_cert(ctx) != 1) {
        int code = X509_STORE_CTX_get_error(ctx);
        ERR_clear_error();
        return sp_why_set(why, -EKEYREJECTED, "the certificate is not accepted: %s",
                          X509_verify_cert_error_string(code));
    }
    return 0;
}

/* ---- finding the CA at enrolment ---- */

static int parse_fingerprint(const char *text, uint8_t out[32])
{
    char hex[65];
    size_t n = 0;
    for (const char *p = text; *p; p++) {
        if (*p == ':' || isspace((unsigned char)*p))
            continue;
        if (n == 64)
            return -EINVAL;
        hex[n++] = *p;
    }
    hex[n] = 0;
    return sp_unhex(hex, out, 32);
}

/* A handshake within the deadline on a connecting BIO. */
static int handshake(BIO *bio, unsigned timeout_ms)
{
    BIO_set_nbio(bio, 1);
    time_t until = time(NULL) + (time_t)(timeout_ms / 1000u) + 1;
    while (BIO_do_handshake(bio) <= 0) {
        if (!BIO_should_retry(bio))
            return -ECONNREFUSED;
        if (BIO_wait(bio, until, 20) <= 0 && time(NULL) >= until)
            return -ETIMEDOUT;
    }
    return 0;
}

static int pem_text_of(X509 *certificate, char **ret)
{
    SP_CLEANUP(bio) BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || !PEM_write_bio_X509(bio, certificate))
        return -ENOMEM;
    char *text;
    long size = BIO_get_mem_data(bio, &text);
    *ret = size > 0 ? strndup(text, (size_t)size) : NULL;
    return *ret ? 0 : -ENOMEM;
}

/* The certificate with this digest among those shown; must be a CA. */
static int pick_ca(STACK_OF(X509) * shown, const uint8_t wanted[32], char **ret_pem,
                   struct sp_why *why)
{
    char last[65] = "nothing";
    for (int i = 0; i < sk_X509_num(shown); i++) {
        X509 *certificate = sk_X509_value(shown, i);
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned size = 0;
        if (!X509_digest(certificate, EVP_sha256(), digest, &size) || size != 32)
            return -EIO;
        sp_hex(last, digest, 32);
        if (memcmp(digest, wanted, 32) == 0) {
            if (!X509_check_ca(certificate))
                return sp_why_set(why, -EKEYREJECTED,
                                  "the fingerprint is that of a certificate that is not a CA: use "
                                  "the one that 'sealpointd init' printed");
            return pem_text_of(certificate, ret_pem);
        }
    }
    return sp_why_set(why, -EKEYREJECTED,
                      "the server shows another CA (fingerprint %s): check the address and the "
                      "fingerprint, and enrol nothing until they agree",
                      last);
}

int sp_fetch_ca(const char *host_port, const char *fingerprint, unsigned timeout_ms, char **ret_pem,
                struct sp_why *why)
{
    uint8_t wanted[32];
    if (parse_fingerprint(fingerprint, wanted) < 0)
        return sp_why_set(why, -EINVAL, "a CA fingerprint has 64 hexadecimal digits");
    SP_CLEANUP(ssl_ctx) SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) ||
        SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x02h2", 3) != 0)
        return -ENOMEM;
    /* Any chain may show itself: what is trusted is decided below, by the fingerprint alone. */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
    SP_CLEANUP(bio) BIO *bio = BIO_new_ssl_connect(ctx);
    if (!bio)
        return -ENOMEM;
    BIO_set_conn_hostname(bio, host_port);
    SSL *ssl = NULL;
    BIO_get_ssl(bio, &ssl);
    if (!ssl || !SSL_set_tlsext_host_name(ssl, SP_CONTROLLER_DNS))
        return -ENOMEM;
    int r = handshake(bio, timeout_ms);
    ERR_clear_error();
    if (r < 0)
        return sp_why_set(why, r, "no TLS with %s: is the controller running, and is this its port",
                          host_port);
    return pick_ca(SSL_get_peer_cert_chain(ssl), wanted, ret_pem, why);
}

/* ---- tokens ---- */

int sp_enrol_proof(const struct sp_secret *token_secret, const void *csr, size_t csr_size,
                   const uint8_t encryption_key[32], uint8_t out[32])
{
    static const char label[] = "sealpoint enrol 1";
    if (csr_size > UINT32_MAX)
        return -EINVAL;
    uint8_t length[4];
    sp_put_le32(length, (uint32_t)csr_size);
    struct sp_bytes parts[] = {
        {(const uint8_t *)label, sizeof(label) - 1},
        {length, sizeof(length)},
        {csr, csr_size},
        {encryption_key, 32},
    };
    return sp_hmac_sha256(sp_secret_data(token_secret), sp_secret_size(token_secret), parts,
                          SP_COUNT(parts), out);
}

int sp_token_parse(const void *text, size_t size, char ret_id[37], struct sp_secret **ret_secret)
{
    static const char prefix[] = "sealpoint-token-1:";
    enum { PREFIX = sizeof(prefix) - 1, ID = 36, SECRET = 43, WHOLE = PREFIX + ID + 1 + SECRET };
    const char *p = text;
    while (size && isspace((unsigned char)*p)) {
        p++;
        size--;
    }
    while (size && isspace((unsigned char)p[size - 1]))
        size--;
    if (size != WHOLE || memcmp(p, prefix, PREFIX) != 0 || p[PREFIX + ID] != ':')
        return -EINVAL;
    char id[37] = {0};
    memcpy(id, p + PREFIX, ID);
    if (!sp_uuid_valid(id))
        return -EINVAL;
    SP_SECRET struct sp_secret *digits = sp_secret_new(SECRET + 1);
    SP_SECRET struct sp_secret *secret = sp_secret_new(32);
    if (!digits || !secret)
        return -errno;
    memcpy(sp_secret_data(digits), p + PREFIX + ID + 1, SECRET);
    size_t got = 0;
    int r =
        sp_base64url_decode((const char *)sp_secret_data(digits), sp_secret_data(secret), 32, &got);
    if (r < 0 || got != 32)
        return -EINVAL;
    memcpy(ret_id, id, sizeof(id));
    *ret_secret = sp_steal(secret);
    return 0;
}
