/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Known answers: IEEE 1619-2007 annex B for XTS; for the IV rules an encryptor written on its own.
 * That these are dm-crypt's rules too is shown on real images (tests/integration/prover). */
#include "controller/keeper/prover/cipher.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct sp_secret *key_of(const uint8_t *bytes, size_t size)
{
    struct sp_secret *s = sp_secret_copy(bytes, size);
    assert_non_null(s);
    return s;
}

/* 512 bytes 00 01 … ff 00 01 … ff, keys of the standard, data unit 0: vector 4. */
static void xts_matches_ieee_1619(void **state)
{
    (void)state;
    uint8_t key[32], data[512];
    assert_int_equal(sp_unhex("27182818284590452353602874713526"
                              "31415926535897932384626433832795",
                              key, 32),
                     0);
    assert_int_equal(sp_unhex("27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c"
                              "c78cf7f5e543445f8333d8fa7f56000005279fa5d8b5e4ad40e736ddb4d35412",
                              data, 64),
                     0);
    SP_SECRET struct sp_secret *secret = key_of(key, 32);
    struct cipher_parameters p = {.name = "aes-xts-plain64", .sector_bytes = 512};
    struct sector_cipher *c;
    assert_int_equal(sector_cipher_new(&p, secret, &c, NULL), 0);
    memset(data + 64, 0, sizeof(data) - 64);
    assert_int_equal(sector_cipher_decrypt(c, 0, data, 512), 0);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(data[i], i);
    sector_cipher_free(c);
}

/* ---- the IV rules ---- */

static void encrypt_unit(const EVP_CIPHER *cipher, const uint8_t *key, const uint8_t iv[16],
                         uint8_t *data, int size)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0;
    assert_int_equal(EVP_EncryptInit_ex(ctx, cipher, NULL, key, iv), 1);
    EVP_CIPHER_CTX_set_padding(ctx, 0);
    assert_int_equal(EVP_EncryptUpdate(ctx, data, &n, data, size), 1);
    assert_int_equal(n, size);
    EVP_CIPHER_CTX_free(ctx);
}

struct rule {
    const char *name;
    size_t key_bytes;
    uint32_t sector_bytes;
    uint64_t iv_offset, sector;
    bool large;
    const char *iv; /* of the unit that begins at `sector`; NULL: ESSIV of it as plain64 */
};

static const struct rule rules[] = {
    {"aes-xts-plain64", 64, 512, 0, 5, false, "05000000000000000000000000000000"},
    {"aes-xts-plain64", 32, 512, 0x1000, 5, false, "05100000000000000000000000000000"},
    {"aes-xts-plain64", 64, 4096, 0, 16, false, "10000000000000000000000000000000"},
    {"aes-xts-plain64", 64, 4096, 0, 16, true, "02000000000000000000000000000000"},
    {"aes-xts-plain64", 64, 4096, 8, 16, true, "03000000000000000000000000000000"},
    {"aes-xts-plain64", 64, 512, 0, 0x123456789a, false, "9a785634120000000000000000000000"},
    {"aes-xts-plain", 64, 512, 0, 0x123456789a, false, "9a785634000000000000000000000000"},
    {"aes-cbc-plain64", 16, 512, 0, 0x123456789a, false, "9a785634120000000000000000000000"},
    {"aes-cbc-plain", 24, 1024, 2, 4, false, "06000000000000000000000000000000"},
    {"aes-cbc-essiv:sha256", 32, 512, 0, 7, false, NULL},
    {"aes-cbc-essiv:sha256", 16, 2048, 1, 8, false, NULL},
    {"aes-cbc-essiv:md5", 32, 512, 0, 7, false, NULL},
};

static const EVP_CIPHER *cipher_of(const struct rule *r)
{
    if (strncmp(r->name, "aes-xts", 7) == 0)
        return r->key_bytes == 64 ? EVP_aes_256_xts() : EVP_aes_128_xts();
    return r->key_bytes == 32   ? EVP_aes_256_cbc()
           : r->key_bytes == 24 ? EVP_aes_192_cbc()
                                : EVP_aes_128_cbc();
}

static void iv_of(const struct rule *r, const uint8_t *key, uint8_t iv[16])
{
    if (r->iv) {
        assert_int_equal(sp_unhex(r->iv, iv, 16), 0);
        return;
    }
    uint8_t hash[EVP_MAX_MD_SIZE], zero[16] = {0};
    unsigned size;
    const EVP_MD *md = EVP_get_digestbyname(strchr(r->name, ':') + 1);
    assert_int_equal(EVP_Digest(key, r->key_bytes, hash, &size, md, NULL), 1);
    memset(iv, 0, 16);
    sp_put_le64(iv, r->sector + r->iv_offset);
    encrypt_unit(size == 32 ? EVP_aes_256_cbc() : EVP_aes_128_cbc(), hash, zero, iv, 16);
}

static void iv_rules_hold(void **state)
{
    (void)state;
    for (size_t i = 0; i < SP_COUNT(rules); i++) {
        const struct rule *r = &rules[i];
        uint8_t key[64], iv[16], plain[8192], data[8192];
        assert_int_equal(sp_random(key, sizeof(key)), 0);
        assert_int_equal(sp_random(plain, sizeof(plain)), 0);
        memcpy(data, plain, sizeof(data));
        iv_of(r, key, iv);
        encrypt_unit(cipher_of(r), key, iv, data, (int)r->sector_bytes);
        SP_SECRET struct sp_secret *secret = key_of(key, r->key_bytes);
        struct cipher_parameters p = {r->name, r->sector_bytes, r->iv_offset, r->large};
        struct sector_cipher *c;
        assert_int_equal(sector_cipher_new(&p, secret, &c, NULL), 0);
        assert_int_equal(sector_cipher_decrypt(c, r->sector, data, r->sector_bytes), 0);
        assert_memory_equal(data, plain, r->sector_bytes);
        sector_cipher_free(c);
    }
}

/* Several sectors in one call are what they are one by one. */
static void sectors_count_up(void **state)
{
    (void)state;
    uint8_t key[64], one[4096], all[4096];
    assert_int_equal(sp_random(key, sizeof(key)), 0);
    assert_int_equal(sp_random(all, sizeof(all)), 0);
    memcpy(one, all, sizeof(one));
    SP_SECRET struct sp_secret *secret = key_of(key, 32);
    struct cipher_parameters p = {.name = "aes-cbc-essiv:sha256", .sector_bytes = 512};
    struct sector_cipher *c;
    assert_int_equal(sector_cipher_new(&p, secret, &c, NULL), 0);
    assert_int_equal(sector_cipher_decrypt(c, 100, all, sizeof(all)), 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(sector_cipher_decrypt(c, 100 + i, one + 512 * i, 512), 0);
    assert_memory_equal(one, all, sizeof(all));
    sector_cipher_free(c);
}

static void what_cannot_be_computed_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t key_bytes;
        uint32_t sector_bytes;
    } bad[] = {{"serpent-xts-plain64", 64, 512},
               {"aes-lrw-benbi", 32, 512},
               {"aes-xts-plain64", 48, 512},
               {"aes-xts-plain64be", 64, 512},
               {"aes-xts-essiv:", 64, 512},
               {"aes-cbc-essiv:sha1", 32, 512},
               {"aes-cbc-essiv:nonsense", 32, 512},
               {"aes-cbc-tcw", 32, 512},
               {"aes-xts-plain64", 64, 513},
               {"aes-xts-plain64", 64, 8192},
               {"aes-xts-plain64", 64, 0},
               {"aes-gcm-random", 32, 512},
               {"aes-xts-", 64, 512},
               {"", 64, 512},
               {"aes-cbc-essiv:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 32, 512}};
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        struct cipher_parameters p = {.name = bad[i].name, .sector_bytes = bad[i].sector_bytes};
        struct sp_why why = {0};
        assert_int_equal(sector_cipher_check(&p, bad[i].key_bytes, &why), -ENOTSUP);
        assert_true(why.text[0]);
        SP_SECRET struct sp_secret *key = sp_secret_new(bad[i].key_bytes);
        struct sector_cipher *c = NULL;
        assert_int_equal(sector_cipher_new(&p, key, &c, NULL), -ENOTSUP);
        assert_null(c);
    }
}

static void half_sectors_are_refused(void **state)
{
    (void)state;
    uint8_t data[4096] = {0};
    SP_SECRET struct sp_secret *key = sp_secret_new(64);
    sp_secret_data(key)[0] = 1;
    struct cipher_parameters p = {.name = "aes-xts-plain64", .sector_bytes = 4096};
    struct sector_cipher *c;
    assert_int_equal(sector_cipher_new(&p, key, &c, NULL), 0);
    assert_int_equal(sector_cipher_decrypt(c, 0, data, 512), -EINVAL);
    assert_int_equal(sector_cipher_decrypt(c, 1, data, 4096), -EINVAL);
    sector_cipher_free(c);
    sector_cipher_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(xts_matches_ieee_1619),
        cmocka_unit_test(iv_rules_hold),
        cmocka_unit_test(sectors_count_up),
        cmocka_unit_test(what_cannot_be_computed_is_named),
        cmocka_unit_test(half_sectors_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
