/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/bytes.h"

#include "base/cleanup.h"
#include <ctype.h>
#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/random.h>

/* ---- reading ---- */

struct sp_reader sp_reader_of(const void *data, size_t size)
{
    return (struct sp_reader){.of = {.data = data, .size = data ? size : 0}};
}

bool sp_reader_seek(struct sp_reader *r, size_t at)
{
    if (r->failed || at > r->of.size) {
        r->failed = true;
        return false;
    }
    r->at = at;
    return true;
}

const uint8_t *sp_reader_take(struct sp_reader *r, size_t n)
{
    if (r->failed || n > r->of.size - r->at) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->of.data + r->at;
    r->at += n;
    return p;
}

size_t sp_reader_left(const struct sp_reader *r)
{
    return r->failed ? 0 : r->of.size - r->at;
}

#define READER(name, type, load)                                                                   \
    type sp_reader_##name(struct sp_reader *r)                                                     \
    {                                                                                              \
        const uint8_t *p = sp_reader_take(r, sizeof(type));                                        \
        return p ? load(p) : 0;                                                                    \
    }
#define LOAD_U8(p) (*(p))
READER(u8, uint8_t, LOAD_U8)
READER(le16, uint16_t, sp_le16)
READER(le32, uint32_t, sp_le32)
READER(le64, uint64_t, sp_le64)
READER(be16, uint16_t, sp_be16)
READER(be32, uint32_t, sp_be32)
READER(be64, uint64_t, sp_be64)

#define LOADER(name, type, swap)                                                                   \
    type sp_##name(const void *p)                                                                  \
    {                                                                                              \
        type v;                                                                                    \
        memcpy(&v, p, sizeof(v));                                                                  \
        return swap(v);                                                                            \
    }
LOADER(le16, uint16_t, le16toh)
LOADER(le32, uint32_t, le32toh)
LOADER(le64, uint64_t, le64toh)
LOADER(be16, uint16_t, be16toh)
LOADER(be32, uint32_t, be32toh)
LOADER(be64, uint64_t, be64toh)

void sp_put_le32(void *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof(v));
}

void sp_put_le64(void *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof(v));
}

/* ---- a buffer that grows ---- */

uint8_t *sp_buffer_room(struct sp_buffer *b, size_t more)
{
    size_t need;
    /* One byte beyond, so that sp_buffer_text() can always end the content. */
    if (__builtin_add_overflow(b->size, more, &need) || __builtin_add_overflow(need, 1, &need))
        return NULL;
    if (need > b->capacity) {
        size_t capacity = b->capacity ? b->capacity : 64;
        while (capacity < need) {
            if (__builtin_mul_overflow(capacity, 2, &capacity))
                return NULL;
        }
        uint8_t *data = realloc(b->data, capacity);
        if (!data)
            return NULL;
        b->data = data;
        b->capacity = capacity;
    }
    return b->data + b->size;
}

int sp_buffer_append(struct sp_buffer *b, const void *data, size_t size)
{
    if (b->limit && (size > b->limit || b->size > b->limit - size))
        return -EOVERFLOW;
    uint8_t *to = sp_buffer_room(b, size);
    if (!to)
        return -ENOMEM;
    if (size)
        memcpy(to, data, size);
    b->size += size;
    return 0;
}

int sp_buffer_printf(struct sp_buffer *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0)
        return -ENOMEM;
    int r = sp_buffer_append(b, text, (size_t)length);
    free(text);
    return r;
}

const char *sp_buffer_text(struct sp_buffer *b)
{
    if (!b->data)
        return "";
    b->data[b->size] = 0; /* sp_buffer_room() keeps this byte */
    return (const char *)b->data;
}

void sp_buffer_free(struct sp_buffer *b)
{
    free(b->data);
    *b = (struct sp_buffer){0};
}

/* ---- text forms ---- */

char *sp_hex(char *out, const void *data, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = data;
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * size] = 0;
    return out;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int sp_unhex(const char *text, void *out, size_t size)
{
    uint8_t *p = out;
    if (strlen(text) != 2 * size)
        return -EINVAL;
    for (size_t i = 0; i < size; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        p[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static const char base64url_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

char *sp_base64url(const void *data, size_t size)
{
    if (size > SIZE_MAX / 2)
        return NULL;
    const uint8_t *p = data;
    char *out = malloc(size / 3 * 4 + 5), *to = out;
    if (!out)
        return NULL;
    for (size_t i = 0; i < size; i += 3) {
        size_t n = size - i < 3 ? size - i : 3;
        uint32_t bits = (uint32_t)p[i] << 16 | (n > 1 ? (uint32_t)p[i + 1] << 8 : 0) |
                        (n > 2 ? (uint32_t)p[i + 2] : 0);
        for (size_t k = 0; k < n + 1; k++)
            *to++ = base64url_digits[bits >> (18 - 6 * k) & 63];
    }
    *to = 0;
    return out;
}

int sp_base64url_decode(const char *text, uint8_t *out, size_t capacity, size_t *ret_size)
{
    size_t length = strlen(text), size = length / 4 * 3;
    if (length % 4 == 1)
        return -EINVAL;
    size += length % 4 ? length % 4 - 1 : 0;
    if (size > capacity)
        return -ENOSPC;
    uint32_t bits = 0;
    unsigned have = 0;
    size_t at = 0;
    for (size_t i = 0; i < length; i++) {
        const char *digit = strchr(base64url_digits, text[i]);
        if (!digit)
            return -EINVAL;
        bits = bits << 6 | (uint32_t)(digit - base64url_digits);
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[at++] = (uint8_t)(bits >> have);
            bits &= (1u << have) - 1;
        }
    }
    if (bits) /* bits that no encoder writes: two texts would mean the same bytes */
        return -EINVAL;
    *ret_size = at;
    return 0;
}

bool sp_is_zero(const void *data, size_t size)
{
    const uint8_t *p = data;
    /* Compared with itself, one byte further: memcmp is as fast as the machine allows. */
    return size == 0 || (p[0] == 0 && memcmp(p, p + 1, size - 1) == 0);
}

bool sp_equal_secret(const void *a, const void *b, size_t size)
{
    return CRYPTO_memcmp(a, b, size) == 0;
}

/* ---- randomness, ids ---- */

int sp_random(void *out, size_t size)
{
    uint8_t *p = out;
    while (size) {
        ssize_t n = TEMP_FAILURE_RETRY(getrandom(p, size, 0));
        if (n < 0)
            return -errno;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

int sp_uuid_make(char out[37])
{
    uint8_t b[16];
    int r = sp_random(b, sizeof(b));
    if (r < 0)
        return r;
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    char hex[33];
    sp_hex(hex, b, sizeof(b));
    (void)snprintf(out, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
                   hex + 20);
    return 0;
}

bool sp_uuid_valid(const char *text)
{
    if (!text || strlen(text) != 36)
        return false;
    for (size_t i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        bool fine = dash ? text[i] == '-'
                         : (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
        if (!fine)
            return false;
    }
    return true;
}

char *sp_volume_id_base(const char *volume_id, char out[VOLUME_ID_BYTES])
{
    enum { UUID = 36 };
    const char *uuid = strchr(volume_id, ':');
    snprintf(out, VOLUME_ID_BYTES, "%s", volume_id);
    if (!uuid || strnlen(++uuid, UUID + 1) != UUID + 1 || uuid[UUID] != '@')
        return out;
    for (size_t i = 0; i < UUID; i++)
        if (uuid[i] != '-' && !isxdigit((unsigned char)uuid[i]))
            return out;
    size_t length = (size_t)(uuid - volume_id) + UUID;
    if (length < VOLUME_ID_BYTES)
        out[length] = '\0';
    return out;
}

bool sp_volume_id_same_base(const char *a, const char *b)
{
    char base_a[VOLUME_ID_BYTES], base_b[VOLUME_ID_BYTES];
    return strcmp(sp_volume_id_base(a, base_a), sp_volume_id_base(b, base_b)) == 0;
}

/* ---- digests ---- */

SP_DEFINE_CLEANUP(md_ctx, EVP_MD_CTX *, EVP_MD_CTX_free)
SP_DEFINE_CLEANUP(mac, EVP_MAC *, EVP_MAC_free)
SP_DEFINE_CLEANUP(mac_ctx, EVP_MAC_CTX *, EVP_MAC_CTX_free)
SP_DEFINE_CLEANUP(kdf, EVP_KDF *, EVP_KDF_free)
SP_DEFINE_CLEANUP(kdf_ctx, EVP_KDF_CTX *, EVP_KDF_CTX_free)

int sp_sha256(const struct sp_bytes *parts, size_t count, uint8_t out[32])
{
    SP_CLEANUP(md_ctx) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx || !EVP_DigestInit_ex(ctx, EVP_sha256(), NULL))
        return -EIO;
    for (size_t i = 0; i < count; i++) {
        if (!EVP_DigestUpdate(ctx, parts[i].data, parts[i].size))
            return -EIO;
    }
    return EVP_DigestFinal_ex(ctx, out, NULL) ? 0 : -EIO;
}

int sp_sha256_of(const void *data, size_t size, uint8_t out[32])
{
    return sp_sha256(&(struct sp_bytes){.data = data, .size = size}, 1, out);
}

int sp_hmac_sha256(const void *key, size_t key_size, const struct sp_bytes *parts, size_t count,
                   uint8_t out[32])
{
    SP_CLEANUP(mac) EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    SP_CLEANUP(mac_ctx) EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
        OSSL_PARAM_construct_end(),
    };
    if (!ctx || !EVP_MAC_init(ctx, key, key_size, params))
        return -EIO;
    for (size_t i = 0; i < count; i++) {
        if (!EVP_MAC_update(ctx, parts[i].data, parts[i].size))
            return -EIO;
    }
    size_t size;
    return EVP_MAC_final(ctx, out, &size, 32) && size == 32 ? 0 : -EIO;
}

int sp_hkdf_sha256(const void *key, size_t key_size, struct sp_bytes salt, struct sp_bytes info,
                   void *out, size_t out_size)
{
    SP_CLEANUP(kdf) EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    SP_CLEANUP(kdf_ctx) EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    if (!ctx)
        return -EIO;
    OSSL_PARAM params[5], *p = params;
    *p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char[]){"SHA256"}, 0);
    *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, key_size);
    if (salt.size)
        *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt.data,
                                                 salt.size);
    if (info.size)
        *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)(uintptr_t)info.data,
                                                 info.size);
    *p = OSSL_PARAM_construct_end();
    return EVP_KDF_derive(ctx, out, out_size, params) > 0 ? 0 : -EIO;
}

/* ---- protobuf ---- */

int sp_pack(const ProtobufCMessage *message, uint8_t **ret_data, size_t *ret_size)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *data = malloc(size ? size : 1);
    if (!data)
        return -ENOMEM;
    protobuf_c_message_pack(message, data);
    *ret_data = data;
    *ret_size = size;
    return 0;
}

ProtobufCMessage *sp_message_copy(const ProtobufCMessage *message)
{
    SP_FREE uint8_t *data = NULL;
    size_t size;
    if (!message || sp_pack(message, &data, &size) < 0)
        return NULL;
    return protobuf_c_message_unpack(message->descriptor, NULL, size, data);
}

const char *sp_enum_name(const ProtobufCEnumDescriptor *of, int value, const char *prefix)
{
    const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(of, value);
    if (!v)
        return "UNKNOWN";
    size_t n = strlen(prefix);
    return strncmp(v->name, prefix, n) == 0 ? v->name + n : v->name;
}

size_t sp_utf8_printable(const unsigned char *p)
{
    if (p[0] < 0x80)
        return p[0] >= 0x20 && p[0] != 0x7f;
    size_t more = p[0] >= 0xf0 && p[0] < 0xf5 ? 3 : p[0] >= 0xe0 && p[0] < 0xf0 ? 2 : 1;
    if (p[0] < 0xc2 || p[0] >= 0xf5)
        return 0;
    uint32_t c = p[0] & (0x3fu >> more);
    for (size_t i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0xa0, 0x800, 0x10000}; /* C1 controls are below 0xa0 */
    return c >= least[more] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff) ? more + 1 : 0;
}
