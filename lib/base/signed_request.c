/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/signed_request.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <string.h>

SP_DEFINE_CLEANUP(md_ctx, EVP_MD_CTX *, EVP_MD_CTX_free)
SP_DEFINE_CLEANUP(x509, X509 *, X509_free)

static void free_signature(Sp__Signature *s)
{
    sp__signature__free_unpacked(s, NULL);
}
static void free_request(Sp__SignedRequest *r)
{
    sp__signed_request__free_unpacked(r, NULL);
}
static void free_signed(Sp__Signed *s)
{
    sp__signed__free_unpacked(s, NULL);
}
SP_DEFINE_CLEANUP(signature, Sp__Signature *, free_signature)
SP_DEFINE_CLEANUP(request, Sp__SignedRequest *, free_request)
SP_DEFINE_CLEANUP(signed, Sp__Signed *, free_signed)

/* ---- small pieces of messages ---- */

static int set_text(char **field, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    *field = copy;
    return 0;
}

static int set_bytes(ProtobufCBinaryData *field, const void *data, size_t size)
{
    field->data = malloc(size ? size : 1);
    if (!field->data)
        return -ENOMEM;
    if (size)
        memcpy(field->data, data, size);
    field->len = size;
    return 0;
}

/* ---- keys ---- */

int sp_public_key_der(EVP_PKEY *key, uint8_t **ret_der, size_t *ret_size)
{
    unsigned char *der = NULL; /* from malloc(): nobody sets another allocator for OpenSSL */
    int size = i2d_PUBKEY(key, &der);
    if (size <= 0)
        return -EIO;
    *ret_der = der;
    *ret_size = (size_t)size;
    return 0;
}

int sp_public_key_from_der(const void *der, size_t size, EVP_PKEY **ret)
{
    const unsigned char *p = der;
    if (size > INT32_MAX)
        return -EINVAL;
    EVP_PKEY *key = d2i_PUBKEY(NULL, &p, (long)size);
    if (!key || p != (const unsigned char *)der + size) {
        EVP_PKEY_free(key);
        ERR_clear_error();
        return -EINVAL;
    }
    *ret = key;
    return 0;
}

int sp_key_id(EVP_PKEY *key, char out[65])
{
    SP_FREE uint8_t *der = NULL;
    size_t size;
    uint8_t digest[32];
    int r = sp_public_key_der(key, &der, &size);
    if (r == 0)
        r = sp_sha256_of(der, size, digest);
    if (r == 0)
        sp_hex(out, digest, sizeof(digest));
    return r;
}

/* ---- signatures ---- */

static const struct {
    int type;
    const char *name;
} algorithms[] = {
    {EVP_PKEY_ED25519, "ed25519"},
    {EVP_PKEY_EC, "ecdsa-p256-sha256"},
};

static const char *algorithm_of(EVP_PKEY *key)
{
    for (size_t i = 0; i < SP_COUNT(algorithms); i++) {
        if (EVP_PKEY_get_base_id(key) == algorithms[i].type)
            return algorithms[i].name;
    }
    return NULL;
}

static const EVP_MD *digest_of(EVP_PKEY *key)
{
    return EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 ? NULL : EVP_sha256();
}

/* context ‖ 0 ‖ data, in one piece: Ed25519 signs in one call. */
static int with_context(const char *context, const void *data, size_t size, struct sp_buffer *out)
{
    int r = sp_buffer_append(out, context, strlen(context) + 1);
    return r < 0 ? r : sp_buffer_append(out, data, size);
}

int sp_sign(EVP_PKEY *key, const char *context, const void *data, size_t size, Sp__Signature **ret)
{
    const char *algorithm = algorithm_of(key);
    if (!algorithm)
        return -ENOTSUP;
    SP_BUFFER struct sp_buffer message = {0};
    int r = with_context(context, data, size, &message);
    if (r < 0)
        return r;
    SP_CLEANUP(md_ctx) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t value[256];
    size_t value_size = sizeof(value);
    if (!ctx || EVP_DigestSignInit(ctx, NULL, digest_of(key), NULL, key) <= 0 ||
        EVP_DigestSign(ctx, value, &value_size, message.data, message.size) <= 0) {
        ERR_clear_error();
        return -EIO;
    }
    char id[65];
    r = sp_key_id(key, id);
    if (r < 0)
        return r;
    SP_CLEANUP(signature) Sp__Signature *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    sp__signature__init(s);
    if (set_text(&s->algorithm, algorithm) < 0 || set_text(&s->key_id, id) < 0 ||
        set_bytes(&s->value, value, value_size) < 0)
        return -ENOMEM;
    *ret = sp_steal(s);
    return 0;
}

int sp_verify(EVP_PKEY *key, const char *context, const void *data, size_t size,
              const Sp__Signature *signature)
{
    const char *algorithm = algorithm_of(key);
    if (!algorithm || strcmp(algorithm, signature->algorithm) != 0)
        return -ENOTSUP;
    SP_BUFFER struct sp_buffer message = {0};
    int r = with_context(context, data, size, &message);
    if (r < 0)
        return r;
    SP_CLEANUP(md_ctx) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx || EVP_DigestVerifyInit(ctx, NULL, digest_of(key), NULL, key) <= 0)
        return -EIO;
    int ok = EVP_DigestVerify(ctx, signature->value.data, signature->value.len, message.data,
                              message.size);
    ERR_clear_error();
    return ok == 1 ? 0 : -EKEYREJECTED;
}

int sp_signed_make(EVP_PKEY *key, const char *context, const void *payload, size_t size,
                   Sp__Signed **ret)
{
    SP_CLEANUP(signed) Sp__Signed *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    sp__signed__init(s);
    s->signatures = calloc(1, sizeof(*s->signatures));
    if (!s->signatures || set_bytes(&s->payload, payload, size) < 0)
        return -ENOMEM;
    int r = sp_sign(key, context, payload, size, &s->signatures[0]);
    if (r < 0)
        return r;
    s->n_signatures = 1;
    *ret = sp_steal(s);
    return 0;
}

int sp_signed_verify(const Sp__Signed *message, const char *context, EVP_PKEY *key)
{
    char id[65];
    int r = sp_key_id(key, id);
    if (r < 0)
        return r;
    r = -EKEYREJECTED; /* no signature of this key */
    for (size_t i = 0; i < message->n_signatures; i++) {
        if (strcmp(message->signatures[i]->key_id, id) != 0)
            continue;
        r = sp_verify(key, context, message->payload.data, message->payload.len,
                      message->signatures[i]);
        if (r == 0)
            return 0;
    }
    return r;
}

/* ---- requests ---- */

static int signed_bytes(const Sp__SignedRequest *request, struct sp_buffer *out)
{
    uint8_t digest[32], number[8];
    int r = sp_sha256_of(request->arguments.data, request->arguments.len, digest);
    size_t method = strlen(request->method);
    if (r < 0 || method > UINT16_MAX || request->nonce.len > UINT16_MAX)
        return r < 0 ? r : -EINVAL;
    sp_put_le32(number, (uint32_t)method);
    if ((r = sp_buffer_append(out, number, 4)) < 0 ||
        (r = sp_buffer_append(out, request->method, method)) < 0 ||
        (r = sp_buffer_append(out, digest, sizeof(digest))) < 0)
        return r;
    sp_put_le32(number, (uint32_t)request->nonce.len);
    if ((r = sp_buffer_append(out, number, 4)) < 0 ||
        (r = sp_buffer_append(out, request->nonce.data, request->nonce.len)) < 0)
        return r;
    sp_put_le64(number, request->expires_unix_ms);
    return sp_buffer_append(out, number, 8);
}

#define SIGN_REQUEST "sealpoint request 1"

static int add_approval(Sp__SignedRequest *request, EVP_PKEY *key, X509 *certificate)
{
    SP_BUFFER struct sp_buffer bytes = {0};
    int r = signed_bytes(request, &bytes);
    if (r < 0)
        return r;
    Sp__Approval *a = calloc(1, sizeof(*a));
    request->approvals = calloc(1, sizeof(Sp__Approval *));
    if (!a || !request->approvals) {
        free(a);
        return -ENOMEM;
    }
    sp__approval__init(a);
    request->approvals[0] = a;
    request->n_approvals = 1;
    unsigned char *der = NULL;
    int size = i2d_X509(certificate, &der);
    if (size <= 0)
        return -EIO;
    r = set_bytes(&a->certificate, der, (size_t)size);
    OPENSSL_free(der);
    return r < 0 ? r : sp_sign(key, SIGN_REQUEST, bytes.data, bytes.size, &a->signature);
}

int sp_request_sign(const char *method, const void *arguments, size_t arguments_size,
                    const void *nonce, size_t nonce_size, uint64_t expires_unix_ms, EVP_PKEY *key,
                    X509 *certificate, Sp__SignedRequest **ret)
{
    SP_CLEANUP(request) Sp__SignedRequest *request = calloc(1, sizeof(*request));
    if (!request)
        return -ENOMEM;
    sp__signed_request__init(request);
    request->expires_unix_ms = expires_unix_ms;
    if (set_text(&request->method, method) < 0 ||
        set_bytes(&request->arguments, arguments, arguments_size) < 0 ||
        set_bytes(&request->nonce, nonce, nonce_size) < 0)
        return -ENOMEM;
    int r = add_approval(request, key, certificate);
    if (r == 0)
        *ret = sp_steal(request);
    return r;
}

int sp_request_verify(const Sp__SignedRequest *request, size_t index, const void *bundle_pem,
                      size_t bundle_size, int64_t now_unix_s, struct sp_identity *ret_signer,
                      struct sp_why *why)
{
    if (index >= request->n_approvals || !request->approvals[index]->signature)
        return sp_why_set(why, -EINVAL, "the request carries no signature");
    const Sp__Approval *a = request->approvals[index];
    const unsigned char *der = a->certificate.data;
    SP_CLEANUP(x509)
    X509 *certificate =
        a->certificate.len <= INT32_MAX ? d2i_X509(NULL, &der, (long)a->certificate.len) : NULL;
    if (!certificate || der != a->certificate.data + a->certificate.len) {
        ERR_clear_error();
        return sp_why_set(why, -EINVAL, "the signer's certificate cannot be read");
    }
    int r =
        sp_certificate_verify(certificate, NULL, bundle_pem, bundle_size, false, now_unix_s, why);
    if (r < 0)
        return r;
    struct sp_identity signer;
    if (sp_identity_of_certificate(certificate, &signer) < 0 || signer.kind != SP_IDENTITY_USER)
        return sp_why_set(why, -EKEYREJECTED, "the signer's certificate is not a user's");
    SP_BUFFER struct sp_buffer bytes = {0};
    r = signed_bytes(request, &bytes);
    if (r == 0)
        r = sp_verify(X509_get0_pubkey(certificate), SIGN_REQUEST, bytes.data, bytes.size,
                      a->signature);
    if (r < 0)
        return sp_why_set(why, r == -ENOMEM ? r : -EKEYREJECTED,
                          "the signature does not fit the request");
    *ret_signer = signer;
    return 0;
}
