/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/cipher.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <openssl/evp.h>
#include <string.h>

enum iv_kind { IV_PLAIN, IV_PLAIN64, IV_ESSIV, IV_BYTES };

/* A cipher name taken apart. */
struct spec {
    bool xts;
    bool elephant; /* a diffuser behind CBC; the key's second half is its own */
    enum iv_kind iv;
    char essiv_hash[16];
};

struct sector_cipher {
    struct spec spec;
    uint32_t sector_bytes;
    uint64_t iv_offset;
    unsigned iv_shift;
    EVP_CIPHER_CTX *data;
    EVP_CIPHER_CTX *iv;    /* ECB, for the IVs that are encrypted: ESSIV, eboiv */
    EVP_CIPHER_CTX *tweak; /* ECB, for the sector keys of the diffuser */
};

/* The IV's word behind "aes-<mode>-". */
static bool parse_iv(const char *text, struct spec *ret)
{
    static const char essiv[] = "essiv:";
    const size_t prefix = sizeof(essiv) - 1;
    if (strcmp(text, "eboiv") == 0 || strcmp(text, "elephant") == 0) {
        ret->iv = IV_BYTES;
        ret->elephant = text[1] == 'l';
        return !ret->xts;
    }
    if (strcmp(text, "plain") == 0) {
        ret->iv = IV_PLAIN;
    } else if (strcmp(text, "plain64") == 0) {
        ret->iv = IV_PLAIN64;
    } else if (strncmp(text, essiv, prefix) == 0 &&
               strlen(text + prefix) < sizeof(ret->essiv_hash)) {
        ret->iv = IV_ESSIV;
        memcpy(ret->essiv_hash, text + prefix, strlen(text + prefix) + 1);
    } else {
        return false;
    }
    return true;
}

static bool parse(const char *name, struct spec *ret)
{
    *ret = (struct spec){0};
    if (strncmp(name, "aes-xts-", 8) == 0)
        ret->xts = true;
    else if (strncmp(name, "aes-cbc-", 8) != 0)
        return false;
    return parse_iv(name + 8, ret);
}

/* NULL: there is no such thing (XTS with 192 bits is not in OpenSSL). */
static const EVP_CIPHER *data_cipher(bool xts, size_t key_bytes)
{
    if (xts)
        return key_bytes == 32 ? EVP_aes_128_xts() : key_bytes == 64 ? EVP_aes_256_xts() : NULL;
    return key_bytes == 16   ? EVP_aes_128_cbc()
           : key_bytes == 24 ? EVP_aes_192_cbc()
           : key_bytes == 32 ? EVP_aes_256_cbc()
                             : NULL;
}

static const EVP_CIPHER *essiv_cipher(int hash_bytes)
{
    return hash_bytes == 16   ? EVP_aes_128_ecb()
           : hash_bytes == 24 ? EVP_aes_192_ecb()
           : hash_bytes == 32 ? EVP_aes_256_ecb()
                              : NULL;
}

static const EVP_CIPHER *ecb_cipher(size_t key_bytes)
{
    return essiv_cipher((int)key_bytes);
}

/* What of the key encrypts data. */
static size_t data_key_bytes(const struct spec *s, size_t key_bytes)
{
    return s->elephant ? key_bytes / 2 : key_bytes;
}

static bool sector_size_fits(uint32_t bytes)
{
    return bytes >= 512 && bytes <= 4096 && (bytes & (bytes - 1)) == 0;
}

static int essiv_size(const struct spec *s)
{
    EVP_MD *md = EVP_MD_fetch(NULL, s->essiv_hash, NULL);
    int size = md ? EVP_MD_get_size(md) : 0;
    EVP_MD_free(md);
    return size;
}

int sector_cipher_check(const struct cipher_parameters *p, size_t key_bytes, struct sp_why *why)
{
    struct spec s;
    if (!parse(p->name, &s))
        return sp_why_set(why, -ENOTSUP, "the cipher %s cannot be computed here", p->name);
    if (!data_cipher(s.xts, data_key_bytes(&s, key_bytes)) || (s.elephant && key_bytes % 2))
        return sp_why_set(why, -ENOTSUP, "%s with a key of %zu bits cannot be computed here",
                          p->name, key_bytes * 8);
    if (s.iv == IV_ESSIV && !essiv_cipher(essiv_size(&s)))
        return sp_why_set(why, -ENOTSUP, "the IV of %s cannot be computed here", p->name);
    if (!sector_size_fits(p->sector_bytes))
        return sp_why_set(why, -ENOTSUP, "dm-crypt knows no sectors of %u bytes", p->sector_bytes);
    return 0;
}

/* The key of ESSIV is a hash of the volume key: as secret as that one. */
static int start_essiv(struct sector_cipher *c, const struct sp_secret *key)
{
    int size = essiv_size(&c->spec);
    SP_SECRET struct sp_secret *hash = sp_secret_new(EVP_MAX_MD_SIZE);
    EVP_MD *md = EVP_MD_fetch(NULL, c->spec.essiv_hash, NULL);
    c->iv = EVP_CIPHER_CTX_new();
    int r = -ENOMEM;
    if (hash && md && c->iv) {
        int ok = EVP_Digest(sp_secret_data(key), sp_secret_size(key), sp_secret_data(hash), NULL,
                            md, NULL) &&
                 EVP_EncryptInit_ex2(c->iv, essiv_cipher(size), sp_secret_data(hash), NULL, NULL) &&
                 EVP_CIPHER_CTX_set_padding(c->iv, 0);
        r = ok ? 0 : -EIO;
    }
    EVP_MD_free(md);
    return r;
}

static int start_ecb(EVP_CIPHER_CTX **ret, const uint8_t *key, size_t size)
{
    *ret = EVP_CIPHER_CTX_new();
    if (!*ret)
        return -ENOMEM;
    return EVP_EncryptInit_ex2(*ret, ecb_cipher(size), key, NULL, NULL) &&
                   EVP_CIPHER_CTX_set_padding(*ret, 0)
               ? 0
               : -EIO;
}

static int start_bytes(struct sector_cipher *c, const struct sp_secret *key, size_t size)
{
    int r = start_ecb(&c->iv, sp_secret_data(key), size);
    if (r == 0 && c->spec.elephant)
        r = start_ecb(&c->tweak, sp_secret_data(key) + size, size);
    return r;
}

static int start(struct sector_cipher *c, const struct sp_secret *key)
{
    size_t size = data_key_bytes(&c->spec, sp_secret_size(key));
    c->data = EVP_CIPHER_CTX_new();
    if (!c->data)
        return -ENOMEM;
    if (!EVP_DecryptInit_ex2(c->data, data_cipher(c->spec.xts, size), sp_secret_data(key), NULL,
                             NULL) ||
        !EVP_CIPHER_CTX_set_padding(c->data, 0))
        return -EIO;
    return c->spec.iv == IV_ESSIV   ? start_essiv(c, key)
           : c->spec.iv == IV_BYTES ? start_bytes(c, key, size)
                                    : 0;
}

int sector_cipher_new(const struct cipher_parameters *p, const struct sp_secret *key,
                      struct sector_cipher **ret, struct sp_why *why)
{
    int r = sector_cipher_check(p, sp_secret_size(key), why);
    if (r < 0)
        return r;
    struct sector_cipher *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->sector_bytes = p->sector_bytes;
    c->iv_offset = p->iv_offset_sectors;
    c->iv_shift = p->iv_large_sectors ? (unsigned)__builtin_ctz(p->sector_bytes) - 9u : 0;
    parse(p->name, &c->spec);
    r = start(c, key);
    if (r < 0) {
        sector_cipher_free(c);
        return sp_why_set(why, r, "the cipher %s could not be started", p->name);
    }
    *ret = c;
    return 0;
}

void sector_cipher_free(struct sector_cipher *c)
{
    if (!c)
        return;
    EVP_CIPHER_CTX_free(c->data); /* wipes */
    EVP_CIPHER_CTX_free(c->iv);
    EVP_CIPHER_CTX_free(c->tweak);
    free(c);
}

void sector_cipher_warm_up(void)
{
    static const struct {
        const char *name;
        size_t key_bytes;
    } all[] = {{"aes-xts-plain64", 32},      {"aes-xts-plain64", 64},  {"aes-cbc-essiv:sha256", 16},
               {"aes-cbc-essiv:sha256", 32}, {"aes-cbc-elephant", 32}, {"aes-cbc-elephant", 64}};
    uint8_t block[512] = {0};
    for (size_t i = 0; i < SP_COUNT(all); i++) {
        struct cipher_parameters p = {.name = all[i].name, .sector_bytes = sizeof(block)};
        struct sector_cipher *c = NULL;
        SP_SECRET struct sp_secret *key = sp_secret_new(all[i].key_bytes);
        if (!key)
            continue;
        for (size_t n = 0; n < all[i].key_bytes; n++) /* XTS wants two halves that differ */
            sp_secret_data(key)[n] = (uint8_t)n;
        if (sector_cipher_new(&p, key, &c, NULL) == 0)
            (void)sector_cipher_decrypt(c, 0, block, sizeof(block));
        sector_cipher_free(c);
    }
    (void)EVP_Digest(block, sizeof(block), block, NULL, EVP_sha256(), NULL);
}

static int encrypt_block(EVP_CIPHER_CTX *ecb, const uint8_t in[16], uint8_t out[16])
{
    int size = 0;
    return EVP_EncryptUpdate(ecb, out, &size, in, 16) && size == 16 ? 0 : -EIO;
}

static int make_iv(struct sector_cipher *c, uint64_t sector, uint8_t iv[16])
{
    uint64_t number = (sector + c->iv_offset) >> c->iv_shift;
    uint8_t block[16] = {0};
    memset(iv, 0, 16);
    if (c->spec.iv == IV_PLAIN)
        sp_put_le32(iv, (uint32_t)number);
    else if (c->spec.iv == IV_PLAIN64)
        sp_put_le64(iv, number);
    else if (c->spec.iv == IV_ESSIV)
        sp_put_le64(block, number);
    else
        sp_put_le64(block, (sector + c->iv_offset) * 512);
    return c->spec.iv == IV_ESSIV || c->spec.iv == IV_BYTES ? encrypt_block(c->iv, block, iv) : 0;
}

/* ---- the Elephant diffuser: N. Ferguson, "AES-CBC + Elephant diffuser", Microsoft 2006 ---- */

enum { WORDS_MOST = 4096 / 4 };

static uint32_t rotate(uint32_t v, unsigned by)
{
    return by ? v << by | v >> (32 - by) : v;
}

/* Its two halves undone; the paper's words, forwards in place. */
static void undo_diffusers(uint32_t *d, size_t n)
{
    static const unsigned a[4] = {9, 0, 13, 0}, b[4] = {0, 10, 0, 25};
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < n; i++)
            d[i] += d[(i + 2) % n] ^ rotate(d[(i + 5) % n], b[i % 4]);
    }
    for (int round = 0; round < 5; round++) {
        for (size_t i = 0; i < n; i++)
            d[i] += d[(i + n - 2) % n] ^ rotate(d[(i + n - 5) % n], a[i % 4]);
    }
}

static int undo_elephant(struct sector_cipher *c, uint64_t sector, uint8_t *data)
{
    uint8_t block[16] = {0}, key[32];
    uint32_t words[WORDS_MOST];
    size_t n = c->sector_bytes / 4;
    sp_put_le64(block, (sector + c->iv_offset) * 512);
    int r = encrypt_block(c->tweak, block, key);
    block[15] = 0x80;
    if (r == 0)
        r = encrypt_block(c->tweak, block, key + 16);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        words[i] = sp_le32(data + 4 * i);
    undo_diffusers(words, n);
    for (size_t i = 0; i < n; i++)
        sp_put_le32(data + 4 * i, words[i] ^ sp_le32(key + 4 * i % 32));
    return 0;
}

int sector_cipher_decrypt(struct sector_cipher *c, uint64_t sector, uint8_t *data, size_t size)
{
    if (size % c->sector_bytes || sector % (c->sector_bytes / 512))
        return -EINVAL;
    for (; size; size -= c->sector_bytes, data += c->sector_bytes) {
        uint8_t iv[16];
        int n = 0, r = make_iv(c, sector, iv);
        if (r < 0)
            return r;
        if (!EVP_DecryptInit_ex2(c->data, NULL, NULL, iv, NULL) ||
            !EVP_DecryptUpdate(c->data, data, &n, data, (int)c->sector_bytes) ||
            n != (int)c->sector_bytes)
            return -EIO;
        if (c->spec.elephant && (r = undo_elephant(c, sector, data)) < 0)
            return r;
        sector += c->sector_bytes / 512;
    }
    return 0;
}
