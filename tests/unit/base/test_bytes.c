/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "test.h"
#include <sealpoint/v1/types.pb-c.h>

static void reader_stops_at_the_end(void **state)
{
    (void)state;
    const uint8_t data[] = {1, 2, 3, 4, 5};
    struct sp_reader r = sp_reader_of(data, sizeof(data));
    assert_int_equal(sp_reader_le32(&r), 0x04030201);
    assert_int_equal(sp_reader_left(&r), 1);
    assert_int_equal(sp_reader_le16(&r), 0);
    assert_true(r.failed);
    assert_int_equal(sp_reader_u8(&r), 0); /* and stays failed */
    assert_int_equal(sp_reader_left(&r), 0);
    r = sp_reader_of(data, sizeof(data));
    assert_true(sp_reader_seek(&r, 5));
    assert_false(sp_reader_seek(&r, 6));
    r = sp_reader_of(data, sizeof(data));
    assert_null(sp_reader_take(&r, SIZE_MAX));
}

static void numbers_in_both_orders(void **state)
{
    (void)state;
    const uint8_t d[] = {0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88};
    assert_int_equal(sp_be16(d), 0x1122);
    assert_int_equal(sp_be32(d), 0x11223344);
    assert_true(sp_be64(d) == 0x1122334455667788ull);
    assert_true(sp_le64(d) == 0x8877665544332211ull);
    uint8_t back[8];
    sp_put_le64(back, 0x8877665544332211ull);
    assert_memory_equal(back, d, 8);
}

static void buffer_grows_and_keeps_its_limit(void **state)
{
    (void)state;
    SP_BUFFER struct sp_buffer b = {.limit = 1000};
    assert_string_equal(sp_buffer_text(&b), "");
    for (int i = 0; i < 100; i++)
        assert_int_equal(sp_buffer_printf(&b, "%04d ", i), 0);
    assert_int_equal(b.size, 500);
    assert_memory_equal(sp_buffer_text(&b) + 495, "0099 ", 6);
    char big[501] = {0};
    assert_int_equal(sp_buffer_append(&b, big, sizeof(big)), -EOVERFLOW);
    assert_int_equal(b.size, 500);
}

static void text_forms_are_strict(void **state)
{
    (void)state;
    uint8_t out[4];
    assert_int_equal(sp_unhex("00ffA0b1", out, 4), 0);
    assert_memory_equal(out, ((uint8_t[]){0, 0xff, 0xa0, 0xb1}), 4);
    assert_int_equal(sp_unhex("00ffA0b", out, 4), -EINVAL);
    assert_int_equal(sp_unhex("00ffA0b1c2", out, 4), -EINVAL);
    assert_int_equal(sp_unhex("00ffA0g1", out, 4), -EINVAL);
    for (size_t n = 0; n <= 32; n++) {
        uint8_t data[32], back[32];
        size_t size;
        assert_int_equal(sp_random(data, sizeof(data)), 0);
        char *text = sp_base64url(data, n);
        assert_non_null(text);
        assert_null(strpbrk(text, "+/="));
        assert_int_equal(sp_base64url_decode(text, back, n, &size), 0);
        assert_int_equal(size, n);
        assert_memory_equal(back, data, n);
        if (n)
            assert_int_equal(sp_base64url_decode(text, back, n - 1, &size), -ENOSPC);
        free(text);
    }
    size_t size;
    assert_int_equal(sp_base64url_decode("AB", out, 4, &size), -EINVAL); /* stray bits */
    assert_int_equal(sp_base64url_decode("A", out, 4, &size), -EINVAL);
    assert_int_equal(sp_base64url_decode("AA==", out, 4, &size), -EINVAL);
}

static void uuids(void **state)
{
    (void)state;
    char a[37], b[37];
    assert_int_equal(sp_uuid_make(a), 0);
    assert_int_equal(sp_uuid_make(b), 0);
    assert_true(sp_uuid_valid(a));
    assert_string_not_equal(a, b);
    assert_int_equal(a[14], '4');
    assert_false(sp_uuid_valid(NULL));
    assert_false(sp_uuid_valid("12A3a118-7039-4575-a649-3f559d8d87ee"));
    assert_false(sp_uuid_valid("12a3a118-7039-4575-a649-3f559d8d87e"));
    assert_false(sp_uuid_valid("12a3a118070394575-a649-3f559d8d87ee"));
}

/* FIPS 180-2, RFC 4231 case 2, RFC 5869 case 1. */
static void digests_of_the_standards(void **state)
{
    (void)state;
    uint8_t out[42];
    assert_int_equal(sp_sha256_of("abc", 3, out), 0);
    assert_string_equal(SP_HEX32(out),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    struct sp_bytes parts[] = {{(const uint8_t *)"what do ya ", 11},
                               {(const uint8_t *)"want for nothing?", 17}};
    assert_int_equal(sp_hmac_sha256("Jefe", 4, parts, 2, out), 0);
    assert_string_equal(SP_HEX32(out),
                        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    uint8_t key[22], salt[13], info[10];
    memset(key, 0x0b, sizeof(key));
    for (uint8_t i = 0; i < sizeof(salt); i++)
        salt[i] = i;
    for (uint8_t i = 0; i < sizeof(info); i++)
        info[i] = (uint8_t)(0xf0 + i);
    assert_int_equal(sp_hkdf_sha256(key, sizeof(key), (struct sp_bytes){salt, sizeof(salt)},
                                    (struct sp_bytes){info, sizeof(info)}, out, 42),
                     0);
    char hex[85];
    assert_string_equal(sp_hex(hex, out, 42),
                        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208"
                        "d5b887185865");
}

static void zeroes(void **state)
{
    (void)state;
    uint8_t data[4097] = {0};
    assert_true(sp_is_zero(data, 0));
    assert_true(sp_is_zero(data, sizeof(data)));
    for (size_t i = 0; i < sizeof(data); i += 1024) {
        data[i] = 1;
        assert_false(sp_is_zero(data, sizeof(data)));
        data[i] = 0;
    }
}

static void messages_and_names(void **state)
{
    (void)state;
    Sp__Content content = SP__CONTENT__INIT;
    content.type = (char[]){"ext4"};
    Sp__Content *copy = (Sp__Content *)sp_message_copy(&content.base);
    assert_non_null(copy);
    assert_string_equal(copy->type, "ext4");
    sp__content__free_unpacked(copy, NULL);
    assert_string_equal(sp_enum_name(&sp__point_state__descriptor, 7, "POINT_STATE_"), "VALID");
    assert_string_equal(sp_enum_name(&sp__point_state__descriptor, 99, "POINT_STATE_"), "UNKNOWN");
}

static void volume_ids_of_clones(void **state)
{
    (void)state;
    static const char id[] = "luks:11111111-2222-4333-8444-555555555abc";
    static const char *const as_they_are[] = {
        "", ":", "luks:", "plain:data0+0", "plain:a@b+0", "clear:DEAD-BEEF", "luks:disk@1+0",
        /* Not a place behind a UUID: a disk whose name happens to look so. */
        "plain:zzzzzzzz-2222-4333-8444-555555555abc@x+0", id};
    char out[VOLUME_ID_BYTES], clone[100];
    for (size_t i = 0; i < SP_COUNT(as_they_are); i++)
        assert_string_equal(sp_volume_id_base(as_they_are[i], out), as_they_are[i]);
    snprintf(clone, sizeof(clone), "%s@data1+1048576", id);
    assert_string_equal(sp_volume_id_base(clone, out), id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reader_stops_at_the_end),
        cmocka_unit_test(numbers_in_both_orders),
        cmocka_unit_test(buffer_grows_and_keeps_its_limit),
        cmocka_unit_test(text_forms_are_strict),
        cmocka_unit_test(uuids),
        cmocka_unit_test(digests_of_the_standards),
        cmocka_unit_test(zeroes),
        cmocka_unit_test(messages_and_names),
        cmocka_unit_test(volume_ids_of_clones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
