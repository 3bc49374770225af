/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/kek_token.h"

#include "base/cleanup.h"
#include "controller/keeper/kek.h"
#include <errno.h>
#include <libp11.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <string.h>

SP_DEFINE_CLEANUP(pkey_ctx, EVP_PKEY_CTX *, EVP_PKEY_CTX_free)

enum { PIN_MOST = 255 };

/* An open token; everything in it is libp11's and goes with it. */
struct token {
    PKCS11_CTX *ctx;
    PKCS11_SLOT *slots, *slot;
    unsigned slot_count;
    bool loaded;
};

static void token_close(struct token *t)
{
    if (t->slot)
        PKCS11_logout(t->slot);
    if (t->slots)
        PKCS11_release_all_slots(t->ctx, t->slots, t->slot_count);
    if (t->loaded)
        PKCS11_CTX_unload(t->ctx);
    if (t->ctx)
        PKCS11_CTX_free(t->ctx);
    ERR_clear_error(); /* nobody else's business */
}
#define TOKEN __attribute__((cleanup(token_close)))

static PKCS11_SLOT *find_slot(const struct token *t, const char *label)
{
    for (unsigned i = 0; i < t->slot_count; i++) {
        PKCS11_TOKEN *token = t->slots[i].token;
        if (token && token->initialized && token->label && strcmp(token->label, label) == 0)
            return &t->slots[i];
    }
    return NULL;
}

static int log_in(PKCS11_SLOT *slot, const struct kek_sources *s, const struct sp_secret *pin,
                  struct sp_why *why)
{
    size_t size = sp_secret_size(pin);
    SP_SECRET struct sp_secret *text = sp_secret_new(size + 1);
    if (!text)
        return -ENOMEM;
    if (size > PIN_MOST)
        return sp_why_set(why, -EINVAL, "a PIN of %zu bytes is none", size);
    memcpy(sp_secret_data(text), sp_secret_data(pin), size);
    sp_secret_data(text)[size] = 0;
    if (PKCS11_login(slot, 0, (const char *)sp_secret_data(text)) < 0)
        return sp_why_set(why, -EACCES, "the token '%s' refuses the PIN in %s", s->pkcs11_token,
                          s->pkcs11_pin_file);
    return 0;
}

static int open_token(const struct kek_sources *s, const struct sp_secret *pin, struct token *t,
                      struct sp_why *why)
{
    t->ctx = PKCS11_CTX_new();
    if (!t->ctx)
        return -ENOMEM;
    if (PKCS11_CTX_load(t->ctx, s->pkcs11_module) < 0)
        return sp_why_set(why, -ENODEV, "the PKCS#11 module %s cannot be loaded", s->pkcs11_module);
    t->loaded = true;
    if (PKCS11_enumerate_slots(t->ctx, &t->slots, &t->slot_count) < 0)
        return sp_why_set(why, -EIO, "the PKCS#11 module %s lists no slots", s->pkcs11_module);
    PKCS11_SLOT *slot = find_slot(t, s->pkcs11_token);
    if (!slot)
        return sp_why_set(why, -ENODEV, "there is no token '%s' in the slots of %s",
                          s->pkcs11_token, s->pkcs11_module);
    int r = log_in(slot, s, pin, why);
    if (r == 0)
        t->slot = slot;
    return r;
}

/* The private key object of that label; OpenSSL decrypts with it on the token, and knows its public
 * half. NULL with the reason in why. */
static EVP_PKEY *find_key(const struct token *t, const struct kek_sources *s, struct sp_why *why)
{
    PKCS11_KEY *keys = NULL, *found = NULL;
    unsigned count = 0;
    if (PKCS11_enumerate_keys(t->slot->token, &keys, &count) == 0)
        for (unsigned i = 0; i < count && !found; i++)
            if (keys[i].label && strcmp(keys[i].label, s->pkcs11_key) == 0)
                found = &keys[i];
    EVP_PKEY *key = found ? PKCS11_get_private_key(found) : NULL;
    if (key && EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA)
        return key;
    EVP_PKEY_free(key);
    sp_why_set(why, -ENODEV, "the token '%s' has no RSA key '%s'", s->pkcs11_token, s->pkcs11_key);
    return NULL;
}

static int set_padding(EVP_PKEY_CTX *ctx)
{
    return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 &&
                   EVP_PKEY_CTX_set_rsa_oaep_md(ctx, EVP_sha1()) == 1
               ? 0
               : -EIO;
}

/* With the public half, in this process: the token is only asked for what it alone can do. */
static int encrypt(EVP_PKEY *on_token, const struct sp_secret *plain, struct sp_buffer *out)
{
    unsigned char *der = NULL;
    int der_size = i2d_PUBKEY(on_token, &der);
    const unsigned char *at = der;
    EVP_PKEY *key = der_size > 0 ? d2i_PUBKEY(NULL, &at, der_size) : NULL;
    OPENSSL_free(der);
    SP_CLEANUP(pkey_ctx) EVP_PKEY_CTX *ctx = key ? EVP_PKEY_CTX_new(key, NULL) : NULL;
    EVP_PKEY_free(key);
    size_t size = 0;
    if (!ctx || EVP_PKEY_encrypt_init(ctx) != 1 || set_padding(ctx) < 0 ||
        EVP_PKEY_encrypt(ctx, NULL, &size, sp_secret_data(plain), sp_secret_size(plain)) != 1)
        return -EIO;
    if (!sp_buffer_room(out, size))
        return -ENOMEM;
    if (EVP_PKEY_encrypt(ctx, out->data, &size, sp_secret_data(plain), sp_secret_size(plain)) != 1)
        return -EIO;
    out->size = size;
    return 0;
}

static int decrypt(EVP_PKEY *key, struct sp_bytes wrapped, struct sp_secret **ret)
{
    size_t size = (size_t)EVP_PKEY_get_size(key);
    SP_SECRET struct sp_secret *out = sp_secret_new(size);
    SP_CLEANUP(pkey_ctx) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
    if (!out)
        return -ENOMEM;
    if (!ctx || EVP_PKEY_decrypt_init(ctx) != 1 || set_padding(ctx) < 0)
        return -EIO;
    if (EVP_PKEY_decrypt(ctx, sp_secret_data(out), &size, wrapped.data, wrapped.size) != 1)
        return -EBADMSG;
    sp_secret_shrink(out, size);
    *ret = sp_steal(out);
    return 0;
}

int kek_token_wrap(const struct kek_sources *s, const struct sp_secret *pin,
                   const struct sp_secret *plain, struct sp_buffer *out, struct sp_why *why)
{
    TOKEN struct token t = {0};
    int r = open_token(s, pin, &t, why);
    EVP_PKEY *key = r == 0 ? find_key(&t, s, why) : NULL;
    if (r == 0)
        r = key ? encrypt(key, plain, out) : -ENODEV;
    EVP_PKEY_free(key); /* before the token goes */
    return r;
}

int kek_token_unwrap(const struct kek_sources *s, const struct sp_secret *pin,
                     struct sp_bytes wrapped, struct sp_secret **ret, struct sp_why *why)
{
    TOKEN struct token t = {0};
    int r = open_token(s, pin, &t, why);
    EVP_PKEY *key = r == 0 ? find_key(&t, s, why) : NULL;
    if (r == 0)
        r = key ? decrypt(key, wrapped, ret) : -ENODEV;
    EVP_PKEY_free(key);
    return r;
}
