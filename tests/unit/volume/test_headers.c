/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Headers that cryptsetup makes here, whole, cut and with bits flipped; the fingerprint. */
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UUID1 "11111111-2222-4333-8444-555555555555"
#define UUID2 "66666666-7777-4888-9999-aaaaaaaaaaaa"

static struct image luks1, luks2;

static int make_images(void **state)
{
    (void)state;
    image_empty(&luks1, 8 << 20);
    image_empty(&luks2, 32 << 20);
    tool("key one", "cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations",
         "1000", "--uuid", UUID1, image_path(&luks1), "-", NULL);
    tool("key two", "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", "--label", "data", "--subsystem", "vm", "--uuid",
         UUID2, "--sector-size", "512", image_path(&luks2), "-", NULL);
    return 0;
}

static int drop_images(void **state)
{
    (void)state;
    image_close(&luks1);
    image_close(&luks2);
    return 0;
}

static void test_facts_of_fresh_headers(void **state)
{
    (void)state;
    Sp__HeaderFacts *f = facts_of(&luks1.reader, "luks1");
    assert_string_equal(f->uuid, UUID1);
    assert_int_equal(f->n_protectors, 1);
    assert_int_equal(f->protectors[0]->kdf_iterations, 1000);
    assert_int_equal(f->payload_offset_bytes, 2 << 20);
    assert_false(f->damaged);
    sp__header_facts__free_unpacked(f, NULL);
    f = facts_of(&luks2.reader, "luks2");
    assert_string_equal(f->uuid, UUID2);
    assert_string_equal(f->label, "data");
    assert_string_equal(f->subsystem, "vm");
    assert_int_equal(f->payload_offset_bytes, 16 << 20);
    assert_int_equal(f->n_segments, 1);
    assert_string_equal(f->segments[0]->cipher, "aes-xts-plain64");
    sp__header_facts__free_unpacked(f, NULL);
}

/* An unbound keyslot holds a key that opens nothing. */
static void test_unbound_keyslot_is_not_usable(void **state)
{
    (void)state;
    struct image copy;
    image_empty(&copy, luks2.size);
    image_put_image(&copy, 0, &luks2);
    char path[64];
    snprintf(path, sizeof path, "%s", image_path(&copy));
    tool("other", "cryptsetup", "luksAddKey", "-q", "--unbound", "--key-size", "256", "--key-slot",
         "5", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", path, "-", NULL);
    tool(NULL, "cryptsetup", "config", "--priority", "ignore", "--key-slot", "0", path, NULL);
    Sp__HeaderFacts *f = facts_of(&copy.reader, "luks2");
    assert_int_equal(f->n_protectors, 2);
    assert_true(f->protectors[0]->usable);
    assert_int_equal(f->protectors[0]->priority, 0);
    assert_string_equal(f->protectors[1]->id, "5");
    assert_false(f->protectors[1]->usable);
    assert_int_equal(f->key_bits, 512); /* of the key that opens the data */
    assert_int_equal(f->digest_count, 2);
    sp__header_facts__free_unpacked(f, NULL);
    image_close(&copy);
}

static void fingerprint_of(const struct volume_reader *reader, const char *name, uint8_t out[32])
{
    Sp__HeaderFacts *f = facts_of(reader, name);
    memcpy(out, f->fingerprint.data, 32);
    sp__header_facts__free_unpacked(f, NULL);
}

/* Same bytes, same fingerprint; any bit of header or key material in use changes it; payload and
 * the unused rest of the keyslots area do not. */
static void test_fingerprint(void **state)
{
    (void)state;
    uint8_t before[32], after[32];
    static const struct {
        uint64_t offset;
        bool changes;
    } cases[] = {
        {300, true},             /* padding of the binary header: under the checksum */
        {4096 + 100, true},      /* JSON of the first copy */
        {16384 + 4200, true},    /* JSON of the second */
        {32768 + 77, true},      /* key material of slot 0 */
        {32768 + 258047, true},  /* its last byte */
        {32768 + 258048, false}, /* the first one behind it */
        {8 << 20, false},
        {(16 << 20) + 5, false}, /* payload */
    };
    fingerprint_of(&luks2.reader, "luks2", before);
    fingerprint_of(&luks2.reader, "luks2", after);
    assert_memory_equal(before, after, 32);
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct altered a = {.offsets = {cases[i].offset}, .masks = {4}, .count = 1};
        struct volume_reader reader = altered_reader(&a, &luks2.reader, luks2.size);
        fingerprint_of(&reader, "luks2", after);
        assert_int_equal(memcmp(before, after, 32) != 0, cases[i].changes);
    }
    fingerprint_of(&luks1.reader, "luks1", before);
    for (unsigned at = 4096; at < 4096 + 512 * 250; at += 997) {
        struct altered a = {.offsets = {at}, .masks = {1}, .count = 1};
        struct volume_reader reader = altered_reader(&a, &luks1.reader, luks1.size);
        fingerprint_of(&reader, "luks1", after);
        assert_memory_not_equal(before, after, 32);
    }
}

static Sp__CopyHealth health(const Sp__HeaderFacts *f, size_t copy)
{
    assert_true(copy < f->n_copies);
    return f->copies[copy]->health;
}

/* One broken copy costs nothing but a note; both make it damaged, never "no LUKS". */
static void test_flipped_luks2_copies(void **state)
{
    (void)state;
    for (unsigned at = 6; at < 16384; at += at < 600 ? 7 : 509) {
        if (at >= 448 + 32 && at < 512) /* the unused rest of the checksum's field */
            continue;
        struct altered a = {.offsets = {at, at + 16384}, .masks = {0x10, 0x10}, .count = 1};
        struct volume_reader reader = altered_reader(&a, &luks2.reader, luks2.size);
        Sp__HeaderFacts *f = facts_of(&reader, "luks2");
        assert_false(f->damaged);
        assert_string_equal(f->uuid, UUID2);
        assert_int_equal(health(f, 0), SP__COPY_HEALTH__COPY_HEALTH_DAMAGED);
        assert_int_equal(health(f, 1), SP__COPY_HEALTH__COPY_HEALTH_GOOD);
        sp__header_facts__free_unpacked(f, NULL);
        a.count = 2;
        f = facts_of(&reader, "luks2");
        assert_true(f->damaged);
        assert_true(*f->damage);
        sp__header_facts__free_unpacked(f, NULL);
    }
}

/* A lost magic of the first copy leaves the second; of both, nothing can be told. */
static void test_luks2_magic_lost(void **state)
{
    (void)state;
    struct altered a = {.offsets = {2, 16384 + 2}, .masks = {1, 1}, .count = 1};
    struct volume_reader reader = altered_reader(&a, &luks2.reader, luks2.size);
    Sp__HeaderFacts *f = facts_of(&reader, "luks2");
    assert_false(f->damaged);
    assert_int_equal(health(f, 0), SP__COPY_HEALTH__COPY_HEALTH_ABSENT);
    sp__header_facts__free_unpacked(f, NULL);
    a.count = 2;
    const struct volume_format *format;
    assert_int_equal(volume_probe(&reader, &format, &f), 0);
    /* The second copy alone, and damaged: still said to have been LUKS2. */
    a.offsets[1] = 16384 + 5000;
    f = facts_of(&reader, "luks2");
    assert_true(f->damaged);
    assert_string_equal(f->uuid, UUID2);
    sp__header_facts__free_unpacked(f, NULL);
}

static void test_stale_luks2_copy(void **state)
{
    (void)state;
    struct image copy;
    image_empty(&copy, luks2.size);
    image_put_image(&copy, 0, &luks2);
    uint8_t *old = malloc(16384);
    assert_non_null(old);
    assert_int_equal(volume_read(&luks2.reader, 16384, old, 16384), 0);
    tool(NULL, "cryptsetup", "config", "--label", "newer", image_path(&copy), NULL);
    image_put(&copy, 16384, old, 16384); /* the write of the second copy never arrived */
    free(old);
    Sp__HeaderFacts *f = facts_of(&copy.reader, "luks2");
    assert_string_equal(f->label, "newer");
    assert_int_equal(health(f, 0), SP__COPY_HEALTH__COPY_HEALTH_GOOD);
    assert_int_equal(health(f, 1), SP__COPY_HEALTH__COPY_HEALTH_STALE);
    assert_true(f->copies[0]->sequence > f->copies[1]->sequence);
    sp__header_facts__free_unpacked(f, NULL);
    image_close(&copy);
}

/* LUKS1 has no checksum: whatever flips, it stays LUKS1, and what breaks the rules is damage. */
static void test_flipped_luks1(void **state)
{
    (void)state;
    for (unsigned at = 8; at < 592; at++) {
        struct altered a = {.offsets = {at}, .masks = {0x80}, .count = 1};
        struct volume_reader reader = altered_reader(&a, &luks1.reader, luks1.size);
        Sp__HeaderFacts *f = facts_of(&reader, "luks1");
        sp__header_facts__free_unpacked(f, NULL);
    }
    static const struct {
        unsigned offset;
        const char *damage;
    } cases[] = {
        {108, "impossible key length"},       {208, "neither on nor off"},
        {208 + 40, "key material of slot 0"}, {256 + 40, "key material of slot 1"},
        {208 + 44, "key material of slot 0"},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct altered a = {.offsets = {cases[i].offset}, .masks = {0x80}, .count = 1};
        struct volume_reader reader = altered_reader(&a, &luks1.reader, luks1.size);
        Sp__HeaderFacts *f = facts_of(&reader, "luks1");
        assert_true(f->damaged);
        assert_non_null(strstr(f->damage, cases[i].damage));
        sp__header_facts__free_unpacked(f, NULL);
    }
}

/* Whatever is cut off, a begun header is found and said to be damaged while key material lacks. */
static void test_cut_off(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {8,      100,    511,    591,     592,     4095,
                                     4096,   16383,  16384,  32767,   32768,   100000,
                                     200000, 290815, 290816, 1 << 20, 3 << 20, 16 << 20};
    for (size_t i = 0; i < SP_COUNT(sizes); i++) {
        struct altered a = {.count = 0};
        if (sizes[i] <= luks1.size) {
            struct volume_reader reader = altered_reader(&a, &luks1.reader, sizes[i]);
            Sp__HeaderFacts *f = facts_of(&reader, "luks1");
            assert_int_equal(f->damaged, sizes[i] < 4096 + 4000 * f->key_bits / 8);
            sp__header_facts__free_unpacked(f, NULL);
        }
        struct volume_reader reader = altered_reader(&a, &luks2.reader, sizes[i]);
        Sp__HeaderFacts *f = facts_of(&reader, "luks2");
        assert_int_equal(f->damaged, sizes[i] < 32768 + 258048);
        sp__header_facts__free_unpacked(f, NULL);
    }
    for (uint64_t size = 0; size < 6; size++) {
        struct altered a = {.count = 0};
        struct volume_reader reader = altered_reader(&a, &luks2.reader, size);
        const struct volume_format *format;
        Sp__HeaderFacts *f;
        assert_int_equal(volume_probe(&reader, &format, &f), 0);
    }
}

static int failing_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    (void)self, (void)offset, (void)out, (void)length;
    return -EIO;
}

static void test_a_read_error_is_not_an_answer(void **state)
{
    (void)state;
    const struct volume_disk disk = {
        .disk_id = "disk", .reader = {.read_at = failing_read_at, .size_bytes = 64 << 20}};
    const struct volume_format *format;
    Sp__HeaderFacts *f;
    struct volume_look look;
    Sp__Content *content;
    bool ambiguous;
    assert_int_equal(volume_probe(&disk.reader, &format, &f), -EIO);
    assert_int_equal(volume_look(&disk, 1, false, &look), -EIO);
    assert_int_equal(volume_content(&disk.reader, &content, &ambiguous), -EIO);
}

static void test_text_is_always_clean(void **state)
{
    (void)state;
    char *text = NULL;
    assert_int_equal(volume_set_text(&text, "a\xff\x01z\xc3\xa4\xed\xa0\x80\xf0\x9f\x98\x80", 99),
                     0);
    assert_string_equal(text, "a??z\xc3\xa4???\xf0\x9f\x98\x80");
    assert_int_equal(volume_set_text(&text, "abcdef", 3), 0);
    assert_string_equal(text, "abc");
    assert_int_equal(volume_set_text(&text, "\xe2\x82", 2), 0); /* cut in the middle */
    assert_string_equal(text, "??");
    free(text);
}

static void test_ids(void **state)
{
    (void)state;
    char out[200];
    const struct {
        Sp__VolumeKind kind;
        const char *uuid, *id;
    } cases[] = {
        {SP__VOLUME_KIND__VOLUME_KIND_LUKS1, UUID1, "luks:" UUID1},
        {SP__VOLUME_KIND__VOLUME_KIND_LUKS2, UUID2, "luks:" UUID2},
        {SP__VOLUME_KIND__VOLUME_KIND_LUKS2, "../../etc/passwd", "luks:vda+4096"},
        {SP__VOLUME_KIND__VOLUME_KIND_LUKS2, NULL, "luks:vda+4096"},
        {SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER, UUID1, "bitlocker:" UUID1},
        {SP__VOLUME_KIND__VOLUME_KIND_PLAIN, UUID1, "plain:vda+4096"},
        {SP__VOLUME_KIND__VOLUME_KIND_CLEAR, "DEAD-BABE", "clear:DEAD-BABE"},
        {SP__VOLUME_KIND__VOLUME_KIND_CLEAR, "", "clear:vda+4096"},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++)
        assert_string_equal(
            volume_id_text(cases[i].kind, cases[i].uuid, "vda", 4096, out, sizeof out),
            cases[i].id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts_of_fresh_headers),
        cmocka_unit_test(test_unbound_keyslot_is_not_usable),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_flipped_luks2_copies),
        cmocka_unit_test(test_luks2_magic_lost),
        cmocka_unit_test(test_stale_luks2_copy),
        cmocka_unit_test(test_flipped_luks1),
        cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_a_read_error_is_not_an_answer),
        cmocka_unit_test(test_text_is_always_clean),
        cmocka_unit_test(test_ids),
    };
    return cmocka_run_group_tests_name("volume-headers", tests, make_images, drop_images);
}
