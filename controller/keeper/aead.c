/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/aead.h"

#include "base/cleanup.h"
#include <limits.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <string.h>

SP_DEFINE_CLEANUP(cipher_ctx, EVP_CIPHER_CTX *, EVP_CIPHER_CTX_free)

int aead_seal(const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
              struct sp_bytes aad, const void *plain, size_t size, uint8_t *out)
{
    SP_CLEANUP(cipher_ctx) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0;

    if (size > INT_MAX - AEAD_TAG_BYTES || aad.size > INT_MAX)
        return -EOVERFLOW;
    if (!ctx || EVP_EncryptInit_ex2(ctx, EVP_aes_256_gcm(), key, nonce, NULL) != 1 ||
        (aad.size > 0 && EVP_EncryptUpdate(ctx, NULL, &n, aad.data, (int)aad.size) != 1) ||
        (size > 0 && EVP_EncryptUpdate(ctx, out, &n, plain, (int)size) != 1) ||
        EVP_EncryptFinal_ex(ctx, out + size, &n) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES, out + size) != 1)
        return -EIO;
    return 0;
}

int aead_open(const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
              struct sp_bytes aad, const void *cipher, size_t size, uint8_t *out)
{
    SP_CLEANUP(cipher_ctx) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint8_t tag[AEAD_TAG_BYTES], last[AEAD_TAG_BYTES];
    int n = 0;

    if (size < AEAD_TAG_BYTES || size > INT_MAX || aad.size > INT_MAX)
        return -EBADMSG;
    size -= AEAD_TAG_BYTES;
    memcpy(tag, (const uint8_t *)cipher + size, sizeof(tag));
    if (!ctx || EVP_DecryptInit_ex2(ctx, EVP_aes_256_gcm(), key, nonce, NULL) != 1 ||
        (aad.size > 0 && EVP_DecryptUpdate(ctx, NULL, &n, aad.data, (int)aad.size) != 1) ||
        (size > 0 && EVP_DecryptUpdate(ctx, out, &n, cipher, (int)size) != 1) ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_BYTES, tag) != 1)
        return -EIO;
    if (EVP_DecryptFinal_ex(ctx, last, &n) != 1) {
        if (size > 0)
            memset(out, 0, size); /* nobody may use bytes that did not verify */
        return -EBADMSG;
    }
    return 0;
}

static int append_text(struct sp_buffer *out, const char *text)
{
    uint8_t length[4];
    sp_put_le32(length, (uint32_t)strlen(text));
    int r = sp_buffer_append(out, length, sizeof(length));
    return r < 0 ? r : sp_buffer_append(out, text, strlen(text));
}

int aead_bind(struct sp_buffer *out, const char *label, ...)
{
    va_list ap;
    out->size = 0;
    int r = append_text(out, label);

    va_start(ap, label);
    for (const char *text = va_arg(ap, const char *); text && r == 0;
         text = va_arg(ap, const char *))
        r = append_text(out, text);
    va_end(ap);
    return r;
}
