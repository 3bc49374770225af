/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/sealed_box.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <openssl/evp.h>
#include <string.h>

enum { TAG_BYTES = 16, KEY_BYTES = 32, NONCE_BYTES = 12, AAD_MAX = 1 << 16 };

SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(pkey_ctx, EVP_PKEY_CTX *, EVP_PKEY_CTX_free)
SP_DEFINE_CLEANUP(cipher_ctx, EVP_CIPHER_CTX *, EVP_CIPHER_CTX_free)

static void free_box(Sp__SealedBox *box)
{
    sp__sealed_box__free_unpacked(box, NULL);
}
SP_DEFINE_CLEANUP(box, Sp__SealedBox *, free_box)

static EVP_PKEY *private_of(const struct sp_secret *private_key)
{
    if (sp_secret_size(private_key) != SP_BOX_KEY_BYTES)
        return NULL;
    return EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, sp_secret_data(private_key),
                                        SP_BOX_KEY_BYTES);
}

int sp_box_public(const struct sp_secret *private_key, uint8_t ret_public[SP_BOX_KEY_BYTES])
{
    SP_CLEANUP(pkey) EVP_PKEY *key = private_of(private_key);
    size_t size = SP_BOX_KEY_BYTES;
    if (!key)
        return -EINVAL;
    return EVP_PKEY_get_raw_public_key(key, ret_public, &size) ? 0 : -EIO;
}

int sp_box_keypair(struct sp_secret **ret_private, uint8_t ret_public[SP_BOX_KEY_BYTES])
{
    SP_SECRET struct sp_secret *key = sp_secret_new(SP_BOX_KEY_BYTES);
    if (!key)
        return -errno;
    int r = sp_random(sp_secret_data(key), SP_BOX_KEY_BYTES);
    if (r == 0)
        r = sp_box_public(key, ret_public);
    if (r == 0)
        *ret_private = sp_steal(key);
    return r;
}

int sp_box_key_id(const uint8_t public_key[SP_BOX_KEY_BYTES], char out[65])
{
    uint8_t digest[32];
    int r = sp_sha256_of(public_key, SP_BOX_KEY_BYTES, digest);
    if (r == 0)
        sp_hex(out, digest, sizeof(digest));
    return r;
}

/* key ‖ nonce as the header says. -EINVAL when the peer's point gives a zero secret. */
static int derive(const struct sp_secret *mine, const uint8_t peer[32], const uint8_t enc[32],
                  const uint8_t recipient[32], const void *aad, size_t aad_size,
                  struct sp_secret **ret)
{
    SP_CLEANUP(pkey) EVP_PKEY *own = private_of(mine);
    SP_CLEANUP(pkey)
    EVP_PKEY *other = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, peer, 32);
    SP_CLEANUP(pkey_ctx) EVP_PKEY_CTX *ctx = own ? EVP_PKEY_CTX_new(own, NULL) : NULL;
    SP_SECRET struct sp_secret *shared = sp_secret_new(32);
    SP_SECRET struct sp_secret *out = sp_secret_new(KEY_BYTES + NONCE_BYTES);
    if (!shared || !out)
        return -ENOMEM;
    size_t size = 32;
    if (!ctx || !other || EVP_PKEY_derive_init(ctx) <= 0 ||
        EVP_PKEY_derive_set_peer(ctx, other) <= 0 ||
        EVP_PKEY_derive(ctx, sp_secret_data(shared), &size) <= 0 || size != 32)
        return -EINVAL;
    static const char label[] = "sealpoint box 1";
    uint8_t salt[64], info[sizeof(label) - 1 + 32];
    memcpy(salt, enc, 32);
    memcpy(salt + 32, recipient, 32);
    memcpy(info, label, sizeof(label) - 1);
    int r = sp_sha256_of(aad, aad_size, info + sizeof(label) - 1);
    if (r == 0)
        r = sp_hkdf_sha256(sp_secret_data(shared), 32, (struct sp_bytes){salt, sizeof(salt)},
                           (struct sp_bytes){info, sizeof(info)}, sp_secret_data(out),
                           KEY_BYTES + NONCE_BYTES);
    if (r == 0)
        *ret = sp_steal(out);
    return r;
}

static int set_bytes(ProtobufCBinaryData *field, const void *data, size_t size)
{
    field->data = malloc(size ? size : 1);
    if (!field->data)
        return -ENOMEM;
    if (size && data)
        memcpy(field->data, data, size);
    field->len = size;
    return 0;
}

static int encrypt(const struct sp_secret *key, const void *aad, size_t aad_size,
                   const void *plaintext, size_t size, uint8_t *out)
{
    SP_CLEANUP(cipher_ctx) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    const uint8_t *k = sp_secret_data(key);
    int n = 0;
    if (!ctx || !EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, k, k + KEY_BYTES) ||
        (aad_size && !EVP_EncryptUpdate(ctx, NULL, &n, aad, (int)aad_size)) ||
        (size && !EVP_EncryptUpdate(ctx, out, &n, plaintext, (int)size)) ||
        !EVP_EncryptFinal_ex(ctx, out + size, &n) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, out + size))
        return -EIO;
    return 0;
}

int sp_box_seal(const uint8_t recipient[SP_BOX_KEY_BYTES], const void *aad, size_t aad_size,
                const void *plaintext, size_t size, Sp__SealedBox **ret)
{
    if (size > SP_BOX_MAX_PLAINTEXT || aad_size > AAD_MAX)
        return -E2BIG;
    SP_SECRET struct sp_secret *ephemeral = NULL;
    SP_SECRET struct sp_secret *key = NULL;
    uint8_t enc[32];
    char id[65];
    int r = sp_box_keypair(&ephemeral, enc);
    if (r == 0)
        r = derive(ephemeral, recipient, enc, recipient, aad, aad_size, &key);
    if (r == 0)
        r = sp_box_key_id(recipient, id);
    if (r < 0)
        return r;
    SP_CLEANUP(box) Sp__SealedBox *box = calloc(1, sizeof(*box));
    if (!box)
        return -ENOMEM;
    sp__sealed_box__init(box);
    box->suite = SP_BOX_SUITE_1;
    box->recipient_key_id = strdup(id);
    if (!box->recipient_key_id) {
        box->recipient_key_id = (char *)(uintptr_t)protobuf_c_empty_string;
        return -ENOMEM;
    }
    if (set_bytes(&box->enc, enc, sizeof(enc)) < 0 || set_bytes(&box->aad, aad, aad_size) < 0 ||
        set_bytes(&box->ciphertext, NULL, size + TAG_BYTES) < 0)
        return -ENOMEM;
    r = encrypt(key, aad, aad_size, plaintext, size, box->ciphertext.data);
    if (r == 0)
        *ret = sp_steal(box);
    return r;
}

static int decrypt(const struct sp_secret *key, const Sp__SealedBox *box, struct sp_secret *out)
{
    SP_CLEANUP(cipher_ctx) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    const uint8_t *k = sp_secret_data(key);
    size_t size = box->ciphertext.len - TAG_BYTES;
    int n = 0;
    if (!ctx || !EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, k, k + KEY_BYTES) ||
        (box->aad.len && !EVP_DecryptUpdate(ctx, NULL, &n, box->aad.data, (int)box->aad.len)) ||
        (size &&
         !EVP_DecryptUpdate(ctx, sp_secret_data(out), &n, box->ciphertext.data, (int)size)) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, box->ciphertext.data + size) ||
        EVP_DecryptFinal_ex(ctx, sp_secret_data(out) + size, &n) <= 0)
        return -EBADMSG;
    return 0;
}

int sp_box_open(const struct sp_secret *private_key, const void *aad, size_t aad_size,
                const Sp__SealedBox *box, struct sp_secret **ret_plaintext)
{
    if (box->suite != SP_BOX_SUITE_1)
        return -ENOTSUP;
    if (box->enc.len != 32 || box->ciphertext.len < TAG_BYTES ||
        box->ciphertext.len > SP_BOX_MAX_PLAINTEXT + TAG_BYTES || box->aad.len != aad_size ||
        (aad_size && memcmp(box->aad.data, aad, aad_size) != 0))
        return -EBADMSG;
    uint8_t recipient[32];
    int r = sp_box_public(private_key, recipient);
    if (r < 0)
        return r;
    SP_SECRET struct sp_secret *key = NULL;
    r = derive(private_key, box->enc.data, box->enc.data, recipient, aad, aad_size, &key);
    if (r < 0)
        return r == -EINVAL ? -EBADMSG : r;
    SP_SECRET struct sp_secret *out = sp_secret_new(box->ciphertext.len - TAG_BYTES);
    if (!out)
        return -ENOMEM;
    r = decrypt(key, box, out);
    if (r == 0)
        *ret_plaintext = sp_steal(out);
    return r;
}

/* ---- what boxes are bound to ---- */

static int bind(struct sp_buffer *out, const char *label, const char *const *ids, size_t count)
{
    out->size = 0;
    int r = sp_buffer_append(out, label, strlen(label));
    for (size_t i = 0; r == 0 && i < count; i++) {
        uint8_t length[4];
        size_t n = strlen(ids[i]);
        if (n > UINT16_MAX)
            return -EINVAL;
        sp_put_le32(length, (uint32_t)n);
        r = sp_buffer_append(out, length, sizeof(length));
        if (r == 0)
            r = sp_buffer_append(out, ids[i], n);
    }
    return r;
}

int sp_import_aad(struct sp_buffer *out, const char *machine_id, const char *volume_id,
                  const char *protector_id)
{
    return bind(out, "sealpoint import 1",
                (const char *const[]){machine_id, volume_id, protector_id}, 3);
}

int sp_release_aad(struct sp_buffer *out, const char *point_id, const char *volume_id,
                   const char *record_id)
{
    return bind(out, "sealpoint release 1", (const char *const[]){point_id, volume_id, record_id},
                3);
}

int sp_keyslot_aad(struct sp_buffer *out, const char *machine_id, const char *volume_id,
                   const char *record_id, const char *header_sha256_hex)
{
    return bind(out, "sealpoint keyslot 1",
                (const char *const[]){machine_id, volume_id, record_id, header_sha256_hex}, 4);
}

int sp_token_aad(struct sp_buffer *out, const char *token_id)
{
    return bind(out, "sealpoint token 1", (const char *const[]){token_id}, 1);
}

int sp_kit_aad(struct sp_buffer *out, const char *domain)
{
    return bind(out, "sealpoint kit 1", (const char *const[]){domain}, 1);
}
