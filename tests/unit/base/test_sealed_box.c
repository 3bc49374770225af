/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/bytes.h"
#include "base/sealed_box.h"
#include "test.h"

static void only_its_holder_opens_it(void **state)
{
    (void)state;
    SP_SECRET struct sp_secret *mine = NULL;
    SP_SECRET struct sp_secret *other = NULL;
    uint8_t key[32], other_key[32];
    assert_int_equal(sp_box_keypair(&mine, key), 0);
    assert_int_equal(sp_box_keypair(&other, other_key), 0);
    Sp__SealedBox *box = NULL;
    assert_int_equal(sp_box_seal(key, "for m1", 6, "secret", 6, &box), 0);
    char id[65];
    assert_int_equal(sp_box_key_id(key, id), 0);
    assert_string_equal(box->recipient_key_id, id);
    assert_null(memmem(box->ciphertext.data, box->ciphertext.len, "secret", 6));
    SP_SECRET struct sp_secret *plain = NULL;
    assert_int_equal(sp_box_open(mine, "for m1", 6, box, &plain), 0);
    assert_int_equal(sp_secret_size(plain), 6);
    assert_memory_equal(sp_secret_data(plain), "secret", 6);
    SP_SECRET struct sp_secret *none = NULL;
    assert_int_equal(sp_box_open(other, "for m1", 6, box, &none), -EBADMSG);
    assert_int_equal(sp_box_open(mine, "for m2", 6, box, &none), -EBADMSG);
    box->suite = 2;
    assert_int_equal(sp_box_open(mine, "for m1", 6, box, &none), -ENOTSUP);
    assert_null(none);
    sp__sealed_box__free_unpacked(box, NULL);
}

static void every_changed_byte_is_noticed(void **state)
{
    (void)state;
    SP_SECRET struct sp_secret *mine = NULL;
    uint8_t key[32];
    assert_int_equal(sp_box_keypair(&mine, key), 0);
    Sp__SealedBox *box = NULL;
    assert_int_equal(sp_box_seal(key, NULL, 0, "s", 1, &box), 0);
    ProtobufCBinaryData *fields[] = {&box->enc, &box->ciphertext};
    for (size_t f = 0; f < 2; f++) {
        for (size_t i = 0; i < fields[f]->len; i++) {
            /* The top bit of an X25519 key is ignored by RFC 7748, but salts the key here. */
            fields[f]->data[i] ^= 0x80;
            struct sp_secret *plain = NULL;
            assert_int_equal(sp_box_open(mine, NULL, 0, box, &plain), -EBADMSG);
            fields[f]->data[i] ^= 0x80;
        }
    }
    memset(box->enc.data, 0, 32); /* a point of small order */
    struct sp_secret *plain = NULL;
    assert_int_equal(sp_box_open(mine, NULL, 0, box, &plain), -EBADMSG);
    box->ciphertext.len = 15;
    assert_int_equal(sp_box_open(mine, NULL, 0, box, &plain), -EBADMSG);
    sp__sealed_box__free_unpacked(box, NULL);
}

static void sizes(void **state)
{
    (void)state;
    SP_SECRET struct sp_secret *mine = NULL;
    uint8_t key[32];
    assert_int_equal(sp_box_keypair(&mine, key), 0);
    Sp__SealedBox *box = NULL;
    assert_int_equal(sp_box_seal(key, NULL, 0, "", 0, &box), 0);
    SP_SECRET struct sp_secret *plain = NULL;
    assert_int_equal(sp_box_open(mine, NULL, 0, box, &plain), 0);
    assert_int_equal(sp_secret_size(plain), 0);
    sp__sealed_box__free_unpacked(box, NULL);
    assert_int_equal(sp_box_seal(key, NULL, 0, "", SP_BOX_MAX_PLAINTEXT + 1, &box), -E2BIG);
    uint8_t zero[32] = {0};
    assert_int_equal(sp_box_seal(zero, NULL, 0, "x", 1, &box), -EINVAL);
}

static void bindings_never_meet(void **state)
{
    (void)state;
    SP_BUFFER struct sp_buffer a = {0}, b = {0};
    assert_int_equal(sp_import_aad(&a, "m", "ab", "c"), 0);
    assert_int_equal(sp_import_aad(&b, "m", "a", "bc"), 0);
    assert_false(a.size == b.size && memcmp(a.data, b.data, a.size) == 0);
    assert_int_equal(sp_release_aad(&b, "m", "ab", "c"), 0);
    assert_false(a.size == b.size && memcmp(a.data, b.data, a.size) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_its_holder_opens_it),
        cmocka_unit_test(every_changed_byte_is_noticed),
        cmocka_unit_test(sizes),
        cmocka_unit_test(bindings_never_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
