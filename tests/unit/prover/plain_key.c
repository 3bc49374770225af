/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys of plain dm-crypt, compared with those that libcryptsetup makes of the same passphrase. */
#include "controller/keeper/prover/plain.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <libcryptsetup.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define PASSPHRASE SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE
#define KEY_FILE   SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE
#define RAW_KEY    SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY

static int make(const char *hash, uint32_t bits, Sp__SecretType type, const char *secret,
                struct sp_secret **ret)
{
    Sp__PlainParameters p = SP__PLAIN_PARAMETERS__INIT;
    p.hash = (char *)(uintptr_t)hash;
    p.key_bits = bits;
    SP_SECRET struct sp_secret *s = sp_secret_copy(secret, strlen(secret));
    assert_non_null(s);
    struct sp_why why = {0};
    int r = plain_key(&p, type, s, ret, &why);
    assert_true(r == 0 || why.text[0]);
    return r;
}

/* libcryptsetup's, through a plain context on a file that is never mapped. */
static void reference(const char *hash, size_t bytes, const char *secret, char *out)
{
    char path[32];
    SP_FD int fd = memfd_create("plain", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    struct crypt_device *cd;
    struct crypt_params_plain p = {.hash = hash, .sector_size = 512};
    assert_int_equal(crypt_init(&cd, path), 0);
    assert_int_equal(crypt_format(cd, CRYPT_PLAIN, "aes", "xts-plain64", NULL, NULL, bytes, &p), 0);
    size_t size = bytes;
    assert_true(crypt_volume_key_get(cd, CRYPT_ANY_SLOT, out, &size, secret, strlen(secret)) >= 0);
    assert_int_equal(size, bytes);
    crypt_free(cd);
}

static void passphrases_hash_as_in_cryptsetup(void **state)
{
    (void)state;
    static const struct {
        const char *hash;
        uint32_t bits;
    } cases[] = {{"ripemd160", 256}, {"sha256", 256},    {"sha256", 512},       {"sha512", 512},
                 {"sha1", 256},      {"ripemd160", 512}, {"ripemd160:20", 256}, {"sha256:16", 256},
                 {"plain:8", 256},   {"sha512", 128}};
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        char expected[64];
        SP_SECRET struct sp_secret *key = NULL;
        reference(cases[i].hash, cases[i].bits / 8, "a long enough passphrase", expected);
        assert_int_equal(
            make(cases[i].hash, cases[i].bits, PASSPHRASE, "a long enough passphrase", &key), 0);
        assert_int_equal(sp_secret_size(key), cases[i].bits / 8);
        assert_memory_equal(sp_secret_data(key), expected, cases[i].bits / 8);
    }
}

static void without_a_hash_the_passphrase_is_the_key(void **state)
{
    (void)state;
    SP_SECRET struct sp_secret *key = NULL;
    assert_int_equal(make("", 128, PASSPHRASE, "abc", &key), 0);
    assert_memory_equal(sp_secret_data(key), "abc\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
}

static void key_files_are_cut_not_hashed(void **state)
{
    (void)state;
    SP_SECRET struct sp_secret *key = NULL, *other = NULL;
    assert_int_equal(make("sha256", 128, KEY_FILE, "0123456789abcdefgh", &key), 0);
    assert_memory_equal(sp_secret_data(key), "0123456789abcdef", 16);
    assert_int_equal(make("sha256", 256, KEY_FILE, "too short", &other), -EKEYREJECTED);
}

static void what_makes_no_key_is_refused(void **state)
{
    (void)state;
    struct sp_secret *key = NULL;
    assert_int_equal(make("", 128, RAW_KEY, "0123456789abcdefgh", &key), -EKEYREJECTED);
    assert_int_equal(make("nonsense", 256, PASSPHRASE, "x", &key), -ENOTSUP);
    assert_int_equal(make("sha256:", 256, PASSPHRASE, "x", &key), -EINVAL);
    assert_int_equal(make("sha256:33", 256, PASSPHRASE, "x", &key), -EINVAL);
    assert_int_equal(make("sha256:1x", 256, PASSPHRASE, "x", &key), -EINVAL);
    assert_int_equal(make("plain", 256, PASSPHRASE, "short", &key), -EKEYREJECTED);
    assert_int_equal(make("sha256", 255, PASSPHRASE, "x", &key), -EINVAL);
    assert_int_equal(make("sha256", 8192, PASSPHRASE, "x", &key), -EINVAL);
    assert_int_equal(make("", 256, SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY, "x", &key),
                     -EKEYREJECTED);
    assert_null(key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passphrases_hash_as_in_cryptsetup),
        cmocka_unit_test(without_a_hash_the_passphrase_is_the_key),
        cmocka_unit_test(key_files_are_cut_not_hashed),
        cmocka_unit_test(what_makes_no_key_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
