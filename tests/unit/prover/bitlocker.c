/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * BitLocker's keys before any volume: what is typed, what is stretched, what is unwrapped. That
 * these are Windows's rules is shown on real images (tests/integration/prover). */
#include "controller/keeper/prover/bitlocker_key.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct sp_secret *text(const char *s)
{
    struct sp_secret *secret = sp_secret_copy(s, strlen(s));
    assert_non_null(secret);
    return secret;
}

static int parse(const char *s, uint8_t out[16], struct sp_why *why)
{
    SP_SECRET struct sp_secret *in = text(s), *bytes = NULL;
    int r = bitlocker_recovery_password(in, &bytes, why);
    if (r == 0) {
        assert_int_equal(sp_secret_size(bytes), 16);
        memcpy(out, sp_secret_data(bytes), 16);
    }
    return r;
}

static void recovery_passwords_are_checked_strictly(void **state)
{
    (void)state;
    uint8_t out[16];
    struct sp_why why = {0};
    static const uint8_t least[16] = {0, 0, 1, 0, 0xff, 0xff};
    assert_int_equal(parse("000000-000011-720885-000000-000000-000000-000000-000000", out, &why),
                     0);
    assert_memory_equal(out, least, 16);
    assert_int_equal(
        parse("000000 000011 720885 000000 000000 000000 000000 000000\r\n", out, &why), 0);
    assert_int_equal(parse("000000000011720885000000000000000000000000000000", out, &why), 0);
    static const struct {
        const char *text, *said;
    } bad[] = {
        {"000000-000012-000000-000000-000000-000000-000000-000000", "group 2"}, /* not by 11 */
        {"000000-000000-720896-000000-000000-000000-000000-000000", "group 3"}, /* 11 * 65536 */
        {"000000-000000-000000-000000-000000-000000-000000-999999", "group 8"},
        {"00000a-000000-000000-000000-000000-000000-000000-000000", "group 1"},
        {"000000_000000-000000-000000-000000-000000-000000-000000", "group 1"},
        {"000000-000000-000000-000000-000000-000000-000000", "group 2"}, /* 48 characters */
        {"000000-000000-000000-000000-000000-000000-000000-0000000", "8 groups"},
        {"", "8 groups"},
    };
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        assert_int_equal(parse(bad[i].text, out, &why), -EINVAL);
        assert_non_null(strstr(why.text, bad[i].said));
        assert_null(strstr(why.text, "999999")); /* a digit of a secret is said nowhere */
    }
}

static int hashed(const char *utf8, char hex[65])
{
    SP_SECRET struct sp_secret *in = sp_secret_copy(utf8, strlen(utf8)), *out = NULL;
    int r = bitlocker_hash_password(in, &out);
    if (r == 0)
        sp_hex(hex, sp_secret_data(out), sp_secret_size(out));
    return r;
}

/* Known answers: printf '%s' P | iconv -t UTF-16LE | sha256sum, and its bytes once more. */
static void passwords_are_utf16(void **state)
{
    (void)state;
    char hex[65];
    assert_int_equal(hashed("a", hex), 0);
    assert_string_equal(hex, "9c4e7963773a593a20d3857f3d326d84b8cca27b8455611c53702f46a8374502");
    assert_int_equal(hashed("\xc2\xa3\xf0\x9f\x94\x91", hex), 0); /* a pound sign, a key emoji */
    assert_string_equal(hex, "f90e205e1cf93a7ecd8f7ee74a163cadef2e3b38707338f4137a2dc1d117b976");
    assert_int_equal(hashed("\xa3", hex), -EILSEQ);         /* Latin-1 */
    assert_int_equal(hashed("\xc0\xaf", hex), -EILSEQ);     /* overlong */
    assert_int_equal(hashed("\xed\xa0\x80", hex), -EILSEQ); /* half a pair */
    assert_int_equal(hashed("a\xe2\x82", hex), -EILSEQ);    /* cut off */
}

static void a_damaged_startup_key_is_none(void **state)
{
    (void)state;
    uint8_t file[156] = {156, 0, 0, 0, 1, 0, 0, 0, 48, 0, 0, 0, 156};
    char guid[37];
    uint8_t *entry = file + 48, *key = entry + 8 + 24;
    entry[0] = 108, entry[2] = 6, entry[4] = 9;
    key[0] = 44, key[4] = 1;
    memset(key + 12, 0x5a, 32);
    for (int broken = 0; broken < 6; broken++) {
        uint8_t copy[156];
        memcpy(copy, file, sizeof(copy));
        static const struct {
            size_t at;
            uint8_t value;
        } changes[] = {{0, 156}, {0, 200}, {8, 200}, {48, 200}, {50, 7}, {80, 43}};
        copy[changes[broken].at] = changes[broken].value;
        SP_SECRET struct sp_secret *in = sp_secret_copy(copy, sizeof(copy)), *out = NULL;
        int r = bitlocker_startup_key(in, guid, &out);
        assert_int_equal(r, broken ? -EBADMSG : 0);
        assert_true((out != NULL) == (broken == 0));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recovery_passwords_are_checked_strictly),
        cmocka_unit_test(passwords_are_utf16),
        cmocka_unit_test(a_damaged_startup_key_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
