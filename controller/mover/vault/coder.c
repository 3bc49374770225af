/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/coder.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "controller/mover/vault/vault.h"
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <string.h>
#include <zstd.h>

enum {
    KEY_BYTES = 32,
    /* Fast rather than small: the vault must not fall behind the disk. */
    ZSTD_LEVEL = 1,
};

static const char info_address[] = "sealpoint address 1";
static const char info_chunk[] = "sealpoint chunk 1";
static const char info_key_id[] = "sealpoint vault key id 1";

struct vault_keys {
    struct sp_secret *address_key;
    struct sp_secret *chunk_prk; /* HKDF's extracted key, expanded for each chunk */
    char id[CODER_KEY_ID_TEXT];
};

static struct sp_bytes bytes_of(const char *text)
{
    return (struct sp_bytes){(const uint8_t *)text, strlen(text)};
}

int vault_keys_new(const struct sp_secret *key, struct vault_keys **ret)
{
    if (sp_secret_size(key) != KEY_BYTES)
        return -EINVAL;
    struct vault_keys *k = calloc(1, sizeof *k);
    if (!k)
        return -ENOMEM;
    k->address_key = sp_secret_new(KEY_BYTES);
    k->chunk_prk = sp_secret_new(KEY_BYTES);
    int r = k->address_key && k->chunk_prk ? 0 : -ENOMEM;
    const uint8_t *raw = sp_secret_data(key);
    if (r == 0)
        r = sp_hkdf_sha256(raw, KEY_BYTES, (struct sp_bytes){NULL, 0}, bytes_of(info_address),
                           sp_secret_data(k->address_key), KEY_BYTES);
    /* RFC 5869: without a salt, the extract step is an HMAC under 32 zero bytes. */
    static const uint8_t no_salt[32];
    if (r == 0)
        r = sp_hmac_sha256(no_salt, sizeof no_salt, &(struct sp_bytes){raw, KEY_BYTES}, 1,
                           sp_secret_data(k->chunk_prk));
    uint8_t id[(CODER_KEY_ID_TEXT - 1) / 2];
    if (r == 0)
        r = sp_hkdf_sha256(raw, KEY_BYTES, (struct sp_bytes){NULL, 0}, bytes_of(info_key_id), id,
                           sizeof id);
    if (r < 0) {
        vault_keys_free(k);
        return r;
    }
    sp_hex(k->id, id, sizeof id);
    *ret = k;
    return 0;
}

void vault_keys_free(struct vault_keys *k)
{
    if (!k)
        return;
    sp_secret_free(k->address_key);
    sp_secret_free(k->chunk_prk);
    free(k);
}

const char *vault_keys_id(const struct vault_keys *k)
{
    return k->id;
}

struct vault_coder {
    EVP_MD *sha256;
    EVP_MD_CTX *digest;
    EVP_MAC_CTX *address_mac, *chunk_mac; /* NULL without keys */
    EVP_CIPHER *gcm;
    EVP_CIPHER_CTX *cipher;
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    struct sp_secret *chunk_key;
    uint8_t scratch[VAULT_CHUNK_BYTES];
    uint8_t stored[PACK_MAX_STORED];
};

static EVP_MAC_CTX *mac_new(const struct sp_secret *key)
{
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
    EVP_MAC_free(hmac);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
        OSSL_PARAM_construct_end()};
    if (ctx && EVP_MAC_init(ctx, sp_secret_data(key), sp_secret_size(key), params) != 1) {
        EVP_MAC_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

int vault_coder_new(const struct vault_keys *keys, struct vault_coder **ret)
{
    struct vault_coder *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    c->digest = EVP_MD_CTX_new();
    bool good = c->sha256 && c->digest;
    if (keys) {
        c->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
        c->cipher = EVP_CIPHER_CTX_new();
        c->address_mac = mac_new(keys->address_key);
        c->chunk_mac = mac_new(keys->chunk_prk);
        c->compress = ZSTD_createCCtx();
        c->decompress = ZSTD_createDCtx();
        c->chunk_key = sp_secret_new(KEY_BYTES);
        good =
            good && c->gcm && c->cipher && c->address_mac && c->chunk_mac && c->compress &&
            c->decompress && c->chunk_key &&
            !ZSTD_isError(ZSTD_CCtx_setParameter(c->compress, ZSTD_c_compressionLevel, ZSTD_LEVEL));
    }
    if (!good) {
        vault_coder_free(c);
        return -ENOMEM;
    }
    *ret = c;
    return 0;
}

void vault_coder_free(struct vault_coder *c)
{
    if (!c)
        return;
    EVP_MD_free(c->sha256);
    EVP_MD_CTX_free(c->digest);
    EVP_MAC_CTX_free(c->address_mac);
    EVP_MAC_CTX_free(c->chunk_mac);
    EVP_CIPHER_free(c->gcm);
    EVP_CIPHER_CTX_free(c->cipher);
    ZSTD_freeCCtx(c->compress);
    ZSTD_freeDCtx(c->decompress);
    sp_secret_free(c->chunk_key);
    sp_wipe(c->scratch, sizeof c->scratch); /* may have held plaintext of the guest */
    free(c);
}

static int mac_of(EVP_MAC_CTX *ctx, const void *a, size_t a_size, const void *b, size_t b_size,
                  uint8_t out[32])
{
    size_t size = 0;
    if (EVP_MAC_init(ctx, NULL, 0, NULL) != 1 || EVP_MAC_update(ctx, a, a_size) != 1 ||
        (b_size && EVP_MAC_update(ctx, b, b_size) != 1) ||
        EVP_MAC_final(ctx, out, &size, 32) != 1 || size != 32)
        return -EIO;
    return 0;
}

int vault_coder_address(struct vault_coder *c, enum map_kind kind, const void *data, size_t size,
                        uint8_t ret_address[VAULT_ADDRESS_BYTES])
{
    if (kind == MAP_SEALED)
        return c->address_mac ? mac_of(c->address_mac, data, size, NULL, 0, ret_address) : -ENOKEY;
    if (EVP_DigestInit_ex2(c->digest, c->sha256, NULL) != 1 ||
        EVP_DigestUpdate(c->digest, data, size) != 1 ||
        EVP_DigestFinal_ex(c->digest, ret_address, NULL) != 1)
        return -EIO;
    return 0;
}

/* HKDF-Expand for 32 bytes is one block: HMAC(prk, info ‖ 1), with info = label ‖ address. */
static int derive_chunk_key(struct vault_coder *c, const uint8_t address[VAULT_ADDRESS_BYTES])
{
    uint8_t rest[VAULT_ADDRESS_BYTES + 1];
    memcpy(rest, address, VAULT_ADDRESS_BYTES);
    rest[VAULT_ADDRESS_BYTES] = 1;
    return mac_of(c->chunk_mac, info_chunk, strlen(info_chunk), rest, sizeof rest,
                  sp_secret_data(c->chunk_key));
}

enum { AAD_BYTES = VAULT_ADDRESS_BYTES + 4 + 1 };

static void make_aad(uint8_t out[AAD_BYTES], const uint8_t address[VAULT_ADDRESS_BYTES],
                     uint8_t storage)
{
    memcpy(out, address, VAULT_ADDRESS_BYTES);
    sp_put_le32(out + VAULT_ADDRESS_BYTES, VAULT_FORMAT);
    out[VAULT_ADDRESS_BYTES + 4] = storage;
}

int vault_coder_seal(struct vault_coder *c, const uint8_t address[VAULT_ADDRESS_BYTES], void *data,
                     uint32_t size, struct coder_sealed *ret)
{
    if (!c->cipher)
        return -ENOKEY;
    if (size == 0 || size > VAULT_CHUNK_BYTES)
        return -EINVAL;
    struct coder_sealed sealed = {.body_size = size, .storage = VAULT_STORED_SEALED};
    const void *body = data;
    /* "When it helps": by a sixteenth at least, else zstd gives up for want of room. */
    size_t packed = ZSTD_compress2(c->compress, c->scratch, size - size / 16, data, size);
    if (!ZSTD_isError(packed) && packed > 0 && packed < size) {
        body = c->scratch;
        sealed.body_size = (uint32_t)packed;
        sealed.storage = VAULT_STORED_SEALED_ZSTD;
    }
    /* The key belongs to the address alone. Two versions of zstd may give two bodies for it, so the
     * nonce is random: no key and nonce is ever used for two texts. */
    int r = sp_random(sealed.nonce, sizeof sealed.nonce);
    if (r == 0)
        r = derive_chunk_key(c, address);
    if (r < 0)
        return r;
    uint8_t aad[AAD_BYTES];
    make_aad(aad, address, (uint8_t)sealed.storage);
    int n = 0;
    bool good =
        EVP_EncryptInit_ex2(c->cipher, c->gcm, sp_secret_data(c->chunk_key), sealed.nonce, NULL) ==
            1 &&
        EVP_EncryptUpdate(c->cipher, NULL, &n, aad, sizeof aad) == 1 &&
        EVP_EncryptUpdate(c->cipher, data, &n, body, (int)sealed.body_size) == 1 &&
        n == (int)sealed.body_size &&
        EVP_EncryptFinal_ex(c->cipher, (uint8_t *)data + n, &n) == 1 &&
        EVP_CIPHER_CTX_ctrl(c->cipher, EVP_CTRL_AEAD_GET_TAG, CODER_TAG_BYTES, sealed.tag) == 1;
    if (!good)
        return -EIO;
    *ret = sealed;
    return 0;
}

static int open_sealed(struct vault_coder *c, const struct pack_entry *entry, const uint8_t *stored,
                       uint8_t *out)
{
    if (!c->cipher)
        return -ENOKEY;
    uint32_t body_size = entry->stored_size - CODER_NONCE_BYTES - CODER_TAG_BYTES;
    bool packed = entry->storage == VAULT_STORED_SEALED_ZSTD;
    if (body_size > VAULT_CHUNK_BYTES)
        return -EBADMSG;
    int r = derive_chunk_key(c, entry->address);
    if (r < 0)
        return r;
    uint8_t aad[AAD_BYTES], tag[CODER_TAG_BYTES];
    make_aad(aad, entry->address, entry->storage);
    memcpy(tag, stored + CODER_NONCE_BYTES + body_size, sizeof tag);
    uint8_t *body = packed ? c->scratch : out;
    int n = 0;
    if (EVP_DecryptInit_ex2(c->cipher, c->gcm, sp_secret_data(c->chunk_key), stored, NULL) != 1 ||
        EVP_DecryptUpdate(c->cipher, NULL, &n, aad, sizeof aad) != 1 ||
        EVP_DecryptUpdate(c->cipher, body, &n, stored + CODER_NONCE_BYTES, (int)body_size) != 1 ||
        EVP_CIPHER_CTX_ctrl(c->cipher, EVP_CTRL_AEAD_SET_TAG, sizeof tag, tag) != 1)
        return -EIO;
    if (EVP_DecryptFinal_ex(c->cipher, body + n, &n) != 1)
        return -EBADMSG;
    if (!packed)
        return 0;
    size_t size = ZSTD_decompressDCtx(c->decompress, out, entry->plain_size, body, body_size);
    return ZSTD_isError(size) || size != entry->plain_size ? -EBADMSG : 0;
}

int vault_coder_open(struct vault_coder *c, const struct pack_entry *entry, const void *stored,
                     void *out, struct sp_why *why)
{
    enum map_kind kind = vault_kind_of(entry->storage);
    int r = 0;
    if (kind == MAP_ABSENT || entry->plain_size > VAULT_CHUNK_BYTES)
        r = -EBADMSG;
    else if (kind == MAP_RAW && stored != out)
        memcpy(out, stored, entry->plain_size);
    else if (kind == MAP_SEALED)
        r = open_sealed(c, entry, stored, out);
    uint8_t address[VAULT_ADDRESS_BYTES];
    if (r == 0)
        r = vault_coder_address(c, kind, out, entry->plain_size, address);
    if (r == 0 && memcmp(address, entry->address, sizeof address))
        r = -EBADMSG;
    if (r < 0)
        sp_wipe(out, entry->plain_size <= VAULT_CHUNK_BYTES ? entry->plain_size : 0);
    if (r == -EBADMSG)
        return sp_why_set(why, r, "its bytes do not match its %s",
                          kind == MAP_RAW ? "hash" : "seal");
    if (r == -ENOKEY)
        return sp_why_set(why, r, "it is sealed, and the vault was opened without its key");
    return r;
}

uint8_t *vault_coder_buffer(struct vault_coder *c)
{
    return c->stored;
}

enum map_kind vault_kind_of(uint8_t storage)
{
    switch (storage) {
    case VAULT_STORED_RAW:
        return MAP_RAW;
    case VAULT_STORED_SEALED:
    case VAULT_STORED_SEALED_ZSTD:
        return MAP_SEALED;
    default:
        return MAP_ABSENT;
    }
}
