/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What counts as content that makes sense, and what chance alone does not. */
#include "controller/keeper/prover/recognise.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* protobuf-c has no const. */
#define TEXT(s) ((char *)(uintptr_t)(s))

enum { SIZE = 4 << 20 };

static uint8_t *disk;

static int read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    (void)self;
    if (offset > SIZE || length > SIZE - offset)
        return -ERANGE;
    memcpy(out, disk + offset, length);
    return 0;
}

static const struct volume_reader reader = {.read_at = read_at, .size_bytes = SIZE};

static int fresh(void **state)
{
    (void)state;
    free(disk);
    disk = calloc(1, SIZE);
    return disk ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    free(disk);
    return 0;
}

/* ---- tables ---- */

static uint32_t crc32(const uint8_t *data, size_t size)
{
    uint32_t crc = UINT32_MAX;
    while (size--) {
        crc ^= *data++;
        for (int i = 0; i < 8; i++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    return ~crc;
}

static void make_gpt(uint32_t sector)
{
    uint8_t *h = disk + sector, *entries = disk + 2 * sector;
    sp_unhex("a2a0d0ebe5b9334487c068b6b72699c7", entries, 16);
    entries[32] = 64;
    entries[40] = 128;
    memcpy(h, "EFI PART\0\0\1\0", 12);
    sp_put_le32(h + 12, 92);
    sp_put_le64(h + 24, 1);
    sp_unhex("00112233445566778899aabbccddeeff", h + 56, 16);
    sp_put_le64(h + 72, 2);
    sp_put_le32(h + 80, 128);
    sp_put_le32(h + 84, 128);
    sp_put_le32(h + 88, crc32(entries, 128 * 128));
    sp_put_le32(h + 16, 0);
    sp_put_le32(h + 16, crc32(h, 92));
}

static int table(char *ret_type, char *ret_uuid)
{
    Sp__Content *c = NULL;
    int r = prover_recognise_table(&reader, &c);
    if (r == 1) {
        strcpy(ret_type, c->type);
        strcpy(ret_uuid, c->uuid);
        sp__content__free_unpacked(c, NULL);
    } else {
        assert_null(c);
    }
    return r;
}

static void gpt_with_good_checksums_counts(void **state)
{
    char type[16], uuid[40];
    static const uint32_t sectors[] = {512, 4096};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(fresh(state), 0);
        make_gpt(sectors[i]);
        assert_int_equal(table(type, uuid), 1);
        assert_string_equal(type, "gpt");
        assert_string_equal(uuid, "33221100-5544-7766-8899-aabbccddeeff");
    }
}

static void gpt_with_a_flipped_bit_does_not(void **state)
{
    (void)state;
    char type[16], uuid[40];
    static const uint32_t places[] = {512 + 8, 512 + 60, 512 + 92 - 1, 1024 + 32, 1024 + 16383};
    for (size_t i = 0; i < SP_COUNT(places); i++) {
        memset(disk, 0, SIZE);
        make_gpt(512);
        disk[places[i]] ^= 1;
        assert_int_equal(table(type, uuid), 0);
    }
}

static void put_entry(unsigned i, uint8_t status, uint8_t type, uint32_t first, uint32_t sectors)
{
    uint8_t *e = disk + 446 + 16 * i;
    e[0] = status;
    e[4] = type;
    sp_put_le32(e + 8, first);
    sp_put_le32(e + 12, sectors);
    disk[510] = 0x55;
    disk[511] = 0xaa;
}

static void mbr_counts_when_every_entry_makes_sense(void **state)
{
    (void)state;
    char type[16], uuid[40];
    sp_put_le32(disk + 440, 0x1234abcd);
    put_entry(0, 0x80, 0x83, 2048, 2048);
    assert_int_equal(table(type, uuid), 1);
    assert_string_equal(type, "dos");
    assert_string_equal(uuid, "1234abcd");
    put_entry(1, 0, 0x83, 4096, 4096);
    assert_int_equal(table(type, uuid), 1);
    put_entry(1, 1, 0x83, 4096, 4096); /* status */
    assert_int_equal(table(type, uuid), 0);
    put_entry(1, 0, 0x83, 4095, 4096); /* overlaps */
    assert_int_equal(table(type, uuid), 0);
    put_entry(1, 0, 0x83, 4096, 4097); /* reaches past the end */
    assert_int_equal(table(type, uuid), 0);
    put_entry(1, 0, 0, 4096, 4096); /* no type */
    assert_int_equal(table(type, uuid), 0);
    put_entry(1, 0, 0, 0, 0);
    put_entry(0, 0, 0, 0, 0); /* nothing at all but the signature */
    assert_int_equal(table(type, uuid), 0);
}

/* ---- content ---- */

static int recognise(const char *expected_type, char *ret_type, struct sp_why *why)
{
    Sp__Content expected = SP__CONTENT__INIT, *c = NULL;
    expected.type = (char *)(uintptr_t)expected_type;
    int r = prover_recognise(&reader, &expected, &c, why);
    ret_type[0] = 0;
    if (r == 1) {
        snprintf(ret_type, 16, "%s", c->type);
        sp__content__free_unpacked(c, NULL);
    }
    return r;
}

static void swap_counts_without_a_uuid(void **state)
{
    (void)state;
    char type[16];
    memcpy(disk + 4086, "SWAPSPACE2", 10);
    sp_put_le32(disk + 1024, 1);
    sp_put_le32(disk + 1028, 1023);
    assert_int_equal(recognise("", type, NULL), 1);
    assert_string_equal(type, "swap");
}

/* A format with a magic of two bytes and no UUID. */
static void a_short_magic_counts_only_when_expected(void **state)
{
    (void)state;
    char type[16];
    struct sp_why why = {0};
    uint8_t *s = disk + 1024; /* minix, version 1 */
    s[0] = 32;                /* inodes */
    sp_put_le32(s + 2, 1024); /* zones, inode map blocks */
    s[4] = 1;
    s[6] = 1;
    s[8] = 5;
    sp_put_le32(s + 12, 268966912);
    s[16] = 0x7f;
    s[17] = 0x13;
    s[18] = 1;
    assert_int_equal(recognise("minix", type, NULL), 1);
    assert_string_equal(type, "minix");
    assert_int_equal(recognise("ext4", type, &why), 0);
    assert_non_null(strstr(why.text, "minix"));
}

static void noise_and_zeros_are_nothing(void **state)
{
    (void)state;
    char type[16];
    struct sp_why why = {0};
    assert_int_equal(recognise("", type, &why), 0);
    assert_true(why.text[0]);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(sp_random(disk, SIZE), 0);
        assert_int_equal(recognise("", type, NULL), 0);
    }
}

static void a_table_counts_where_libblkid_sees_nothing(void **state)
{
    (void)state;
    char type[16];
    make_gpt(512);
    assert_int_equal(recognise("", type, NULL), 1);
    assert_string_equal(type, "gpt");
}

/* ---- structure ---- */

static void ext_counts_must_fit(void **state)
{
    (void)state;
    Sp__Content c = SP__CONTENT__INIT;
    c.type = TEXT("ext4");
    uint8_t *s = disk + 1024;
    sp_put_le32(s, 1024);        /* inodes */
    sp_put_le32(s + 4, 4096);    /* blocks of 1 KiB */
    sp_put_le32(s + 0x14, 1);    /* first block */
    sp_put_le32(s + 0x20, 8192); /* of a group */
    sp_put_le32(s + 0x28, 1024); /* inodes of a group */
    assert_int_equal(prover_holds_together(&reader, &c, NULL), 1);
    for (unsigned i = 0; i < 16; i++) { /* each of the 16 bytes that a wrong IV of CBC garbles */
        struct sp_why why = {0};
        uint8_t kept = s[i];
        s[i] ^= 0x80;
        int r = prover_holds_together(&reader, &c, &why);
        /* a hundred reserved or free blocks more are no contradiction */
        assert_int_equal(r, i == 8 || i == 12);
        s[i] = kept;
    }
    c.type = TEXT("vfat");
    assert_int_equal(prover_holds_together(&reader, &c, NULL), 1);
}

static void xfs_needs_its_group_header(void **state)
{
    (void)state;
    Sp__Content c = SP__CONTENT__INIT;
    c.type = TEXT("xfs");
    memcpy(disk, "XFSB", 4);
    disk[102] = 2; /* sectors of 512 */
    struct sp_why why = {0};
    assert_int_equal(prover_holds_together(&reader, &c, &why), 0);
    assert_non_null(strstr(why.text, "xfs"));
    memcpy(disk + 512, "XAGF", 4);
    assert_int_equal(prover_holds_together(&reader, &c, NULL), 1);
}

static void content_is_the_same_only_with_a_uuid(void **state)
{
    (void)state;
    Sp__Content a = SP__CONTENT__INIT, b = SP__CONTENT__INIT;
    a.type = b.type = TEXT("ext4");
    assert_false(prover_same_content(&a, &b));
    a.uuid = TEXT("1");
    b.uuid = TEXT("2");
    assert_false(prover_same_content(&a, &b));
    b.uuid = a.uuid;
    assert_true(prover_same_content(&a, &b));
    b.type = TEXT("xfs");
    assert_false(prover_same_content(&a, &b));
    assert_false(prover_same_content(&a, NULL));
}

#define CASE(f) cmocka_unit_test_setup(f, fresh)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(gpt_with_good_checksums_counts),
        CASE(gpt_with_a_flipped_bit_does_not),
        CASE(mbr_counts_when_every_entry_makes_sense),
        CASE(swap_counts_without_a_uuid),
        CASE(a_short_magic_counts_only_when_expected),
        CASE(noise_and_zeros_are_nothing),
        CASE(a_table_counts_where_libblkid_sees_nothing),
        CASE(ext_counts_must_fit),
        CASE(xfs_needs_its_group_header),
        CASE(content_is_the_same_only_with_a_uuid),
    };
    return cmocka_run_group_tests(tests, NULL, end);
}
