/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Images that are cut, changed or cannot be read, made of one good image of each format: what was
 * an encrypted volume is never called none, and nothing breaks. */
#include "generate.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB  ((uint64_t)1 << 20)
#define UUID "66666666-7777-4888-9999-aaaaaaaaaaaa"

enum { STEP = 4096, LUKS2_HEADER = 16384, LUKS2_AREAS = 2 * LUKS2_HEADER + 258048 };

static struct image luks1, luks2, bitlocker, pv, md;

static const struct bitlocker of_bitlocker = {.era = BITLOCKER_NORMAL,
                                              .copies = {64 << 10, 192 << 10, 320 << 10},
                                              .state = 4,
                                              .next = 4,
                                              .cipher = 0x8005,
                                              .sector = 512,
                                              .encrypted = 8 * MIB,
                                              .nonce = 7,
                                              .protectors = {0x0800, 0x0100},
                                              .protector_count = 2,
                                              .description = "HOST C: 1/1/2020"};

static int make_images(void **state)
{
    (void)state;
    char line[600];
    const char *source = getenv("SEALPOINT_SOURCE");
    image_empty(&luks1, 4 * MIB);
    image_empty(&luks2, 18 * MIB);
    image_empty(&bitlocker, 8 * MIB);
    image_empty(&pv, 64 * MIB);
    image_empty(&md, 8 * MIB);
    tool("key", "cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations",
         "1000", "--uuid", UUID, "-s", "256", image_path(&luks1), "-", NULL);
    tool("key", "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", "--uuid", UUID, image_path(&luks2), "-", NULL);
    bitlocker_put(&bitlocker, &of_bitlocker);
    snprintf(line, sizeof line, "xz -dc '%s/tests/unit/volume/lvm2-pv1.img.xz' > '%s'",
             source ? source : ".", image_path(&pv));
    tool(NULL, "sh", "-c", line, NULL);
    assert_int_equal(ftruncate(pv.fd, (off_t)pv.size), 0);
    md_put_mirror(&md, 6 * 2048);
    image_put_image(&md, MIB, &luks1);
    return 0;
}

static int drop_images(void **state)
{
    (void)state;
    image_close(&luks1);
    image_close(&luks2);
    image_close(&bitlocker);
    image_close(&pv);
    image_close(&md);
    return 0;
}

static bool is_long(void)
{
    return getenv("SEALPOINT_LONG") != NULL;
}

static void look_and_forget(const struct volume_reader *reader)
{
    const struct volume_disk disk = {
        .disk_id = "disk", .reader = *reader, .logical_sector_bytes = 512};
    struct volume_look look;
    assert_int_equal(volume_look(&disk, 1, false, &look), 0);
    for (size_t i = 0; i < look.range_count; i++) {
        const Sp__DiskExtent *on = look.ranges[i]->on;
        assert_true(on->offset_bytes <= reader->size_bytes);
        assert_true(on->length_bytes <= reader->size_bytes - on->offset_bytes);
    }
    volume_look_free(&look);
}

/* ---- cut at every 4 KiB ---- */

static void cut(const struct image *image, const char *format, uint64_t end, uint64_t whole_from)
{
    for (uint64_t size = STEP; size <= end; size += STEP) {
        struct altered a = {.count = 0};
        struct volume_reader reader = altered_reader(&a, &image->reader, size);
        Sp__HeaderFacts *f = facts_of(&reader, format);
        assert_int_equal(f->damaged, size < whole_from);
        assert_int_equal(*f->damage != 0, f->damaged);
        sp__header_facts__free_unpacked(f, NULL);
        if (size % (32 * STEP) == 0)
            look_and_forget(&reader);
    }
}

static void test_cut_at_every_4_kib(void **state)
{
    (void)state;
    cut(&luks1, "luks1", 1 * MIB, 4096 + 128000);
    cut(&luks2, "luks2", LUKS2_AREAS + 8 * STEP, LUKS2_AREAS);
    cut(&bitlocker, "bitlocker", 400 << 10, (64 << 10) + STEP); /* one good copy is enough */
    for (uint64_t size = STEP; size <= 2 * MIB; size += is_long() || size < 65536 ? STEP : 131072) {
        struct altered a = {.count = 0};
        struct volume_reader reader = altered_reader(&a, &pv.reader, size);
        look_and_forget(&reader);
        reader = altered_reader(&a, &md.reader, size);
        look_and_forget(&reader);
    }
}

/* ---- reads that fail ---- */

struct failing {
    const struct volume_reader *of;
    uint64_t from, to; /* a read of any of these bytes fails */
};

static int failing_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct failing *f = self;
    if (offset < f->to && offset + length > f->from)
        return -EIO;
    return volume_read(f->of, offset, out, length);
}

/* An error, or the right answer without the bytes: never "nothing is here". */
static void fail_reads(const struct image *image, const char *name, uint64_t end)
{
    size_t errors = 0;
    for (uint64_t at = 0; at < end; at += STEP) {
        struct failing failing = {.of = &image->reader, .from = at, .to = at + STEP};
        const struct volume_reader reader = {
            .read_at = failing_read_at, .self = &failing, .size_bytes = image->size};
        const struct volume_format *format = NULL;
        Sp__HeaderFacts *f = NULL;
        int rc = volume_probe(&reader, &format, &f);
        if (rc == 1) {
            assert_string_equal(format->name, name);
            sp__header_facts__free_unpacked(f, NULL);
        } else {
            assert_int_equal(rc, -EIO);
            errors++;
        }
        const struct volume_disk disk = {.disk_id = "disk", .reader = reader};
        struct volume_look look;
        rc = at % (16 * STEP) == 0 ? volume_look(&disk, 1, false, &look) : -EIO;
        if (rc == 0)
            volume_look_free(&look);
        else
            assert_int_equal(rc, -EIO);
    }
    assert_true(errors > 0);
}

static void test_reads_that_fail(void **state)
{
    (void)state;
    fail_reads(&luks1, "luks1", 256 << 10);
    fail_reads(&luks2, "luks2", LUKS2_AREAS + 8 * STEP);
    fail_reads(&bitlocker, "bitlocker", 512 << 10);
}

/* The same with a reader that goes on: what the rest shows is told, and where it is bad. Only LUKS1
 * has nothing else than its first bytes. */
static void go_on(const struct image *image, const char *name, uint64_t from, uint64_t end)
{
    for (uint64_t at = from; at < end; at += STEP) {
        struct failing failing = {.of = &image->reader, .from = at + 512, .to = at + 1024};
        const struct volume_reader strict = {
            .read_at = failing_read_at, .self = &failing, .size_bytes = image->size};
        struct volume_unreadable unreadable;
        const struct volume_reader reader =
            volume_reader_lenient(&unreadable, &strict, VOLUME_UNREADABLE_MOST);
        sp__header_facts__free_unpacked(facts_of(&reader, name), NULL);
        uint64_t offset = 0, length = 0;
        size_t next = 0;
        if (!volume_unreadable_range(&unreadable, &next, &offset, &length))
            continue; /* nobody asked for it */
        assert_int_equal(offset, at);
        assert_int_equal(length, STEP);
        assert_false(volume_unreadable_range(&unreadable, &next, &offset, &length));
        look_and_forget(&reader);
    }
}

static void test_reads_that_fail_here_and_there(void **state)
{
    (void)state;
    go_on(&luks1, "luks1", STEP, 256 << 10);
    go_on(&luks2, "luks2", 0, 128 << 10);
    go_on(&bitlocker, "bitlocker", 0, 512 << 10);
}

/* A dying device is given up; what is not EIO is nothing to go on after. */
static void test_too_many_reads_that_fail(void **state)
{
    (void)state;
    uint8_t byte;
    struct failing failing = {.of = &luks2.reader, .to = luks2.size};
    const struct volume_reader strict = {
        .read_at = failing_read_at, .self = &failing, .size_bytes = luks2.size};
    struct volume_unreadable unreadable;
    const struct volume_reader reader = volume_reader_lenient(&unreadable, &strict, 3);
    const uint64_t places[] = {9 * STEP, 3 * STEP, 4 * STEP + 7};
    for (size_t i = 0; i < SP_COUNT(places); i++) {
        byte = 7;
        assert_int_equal(volume_read(&reader, places[i], &byte, 1), 0);
        assert_int_equal(byte, 0);
    }
    assert_int_equal(volume_read(&reader, 5 * STEP, &byte, 1), -EIO);
    assert_int_equal(volume_read(&reader, 3 * STEP, &byte, 1), 0); /* known */
    assert_int_equal(volume_read(&reader, luks2.size, &byte, 1), -ERANGE);
    uint64_t offset = 0, length = 0;
    size_t next = 0;
    assert_true(volume_unreadable_range(&unreadable, &next, &offset, &length));
    assert_int_equal(offset, 3 * STEP);
    assert_int_equal(length, 2 * STEP);
    assert_true(volume_unreadable_range(&unreadable, &next, &offset, &length));
    assert_int_equal(offset, 9 * STEP);
    assert_false(volume_unreadable_range(&unreadable, &next, &offset, &length));
}

/* ---- every field at its extremes ---- */

static const uint64_t extremes[] = {0,
                                    1,
                                    2,
                                    0x7f,
                                    0x80,
                                    0xff,
                                    0x7fff,
                                    0x8000,
                                    0xffff,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    0x7fffffffffffffff,
                                    0x8000000000000000,
                                    0xffffffffffffffff,
                                    0xfffffffffffffe00};

struct patched {
    const struct volume_reader *of;
    uint64_t at[3]; /* the same bytes at up to three places */
    const uint8_t *bytes;
    uint32_t size;
    size_t count;
};

static int patched_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct patched *p = self;
    int rc = volume_read(p->of, offset, out, length);
    for (size_t i = 0; rc == 0 && i < p->count; i++) {
        uint64_t from = p->at[i] > offset ? p->at[i] : offset;
        uint64_t to = p->at[i] + p->size < offset + length ? p->at[i] + p->size : offset + length;
        if (from < to)
            memcpy((uint8_t *)out + (from - offset), p->bytes + (from - p->at[i]), to - from);
    }
    return rc;
}

static struct volume_reader patched_reader(struct patched *p, uint64_t size)
{
    return (struct volume_reader){.read_at = patched_read_at, .self = p, .size_bytes = size};
}

static void put_number(uint8_t *at, unsigned width, bool big_endian, uint64_t value)
{
    for (unsigned i = 0; i < width; i++)
        at[big_endian ? width - 1 - i : i] = (uint8_t)(value >> (8 * i));
}

/* Each field of `width` bytes in [from, to) takes each extreme; `fix` sets the checksum right. */
static void each_extreme(uint8_t *header, size_t from, size_t to, unsigned width, bool big_endian,
                         void (*fix)(uint8_t *header), void (*check)(void *self), void *self)
{
    for (size_t at = from; at + width <= to; at += width)
        for (size_t i = 0; i < SP_COUNT(extremes); i++) {
            uint8_t kept[8];
            if (!is_long() && i % 3 != 0) /* a third of them, the greatest among them */
                continue;
            if (width < 8 && i && extremes[i] >> (8 * width) && extremes[i] != 0xffffffffffffffff)
                continue;
            memcpy(kept, header + at, width);
            put_number(header + at, width, big_endian, extremes[i]);
            if (fix)
                fix(header);
            check(self);
            memcpy(header + at, kept, width);
        }
    if (fix)
        fix(header);
}

struct subject {
    struct volume_reader reader;
    size_t probes;
};

/* It had a magic and still has: it is found, or (a version of its own) nothing is read wrongly. */
static void check_probe(void *self)
{
    struct subject *s = self;
    const struct volume_format *format;
    Sp__HeaderFacts *f = NULL;
    int rc = volume_probe(&s->reader, &format, &f);
    assert_true(rc == 0 || rc == 1);
    if (rc == 1)
        sp__header_facts__free_unpacked(f, NULL);
    s->probes++;
}

static void check_found(void *self)
{
    struct subject *s = self;
    const struct volume_format *format;
    Sp__HeaderFacts *f = NULL;
    assert_int_equal(volume_probe(&s->reader, &format, &f), 1);
    sp__header_facts__free_unpacked(f, NULL);
    if (s->probes++ % 512 == 0)
        look_and_forget(&s->reader);
}

static void check_look(void *self)
{
    struct subject *s = self;
    struct volume_md found;
    int rc = volume_md_read(&s->reader, &found);
    assert_true(rc == 0 || rc == 1);
    if (s->probes++ % (is_long() ? 1 : 32) == 0)
        look_and_forget(&s->reader);
}

static void test_luks1_fields(void **state)
{
    (void)state;
    uint8_t header[592];
    assert_int_equal(volume_read(&luks1.reader, 0, header, sizeof header), 0);
    struct patched p = {.of = &luks1.reader, .bytes = header, .size = sizeof header, .count = 1};
    struct subject s = {.reader = patched_reader(&p, luks1.size)};
    each_extreme(header, 6, 8, 2, true, NULL, check_probe, &s); /* the version */
    each_extreme(header, 8, 104, 1, true, NULL, check_found, &s);
    each_extreme(header, 104, 592, 4, true, NULL, check_found, &s);
    assert_true(s.probes > 500);
}

static void fix_luks2(uint8_t *copy)
{
    luks2_fix(copy, LUKS2_HEADER);
}

static void test_luks2_fields(void **state)
{
    (void)state;
    static uint8_t first[LUKS2_HEADER];
    assert_int_equal(volume_read(&luks2.reader, 0, first, sizeof first), 0);
    struct patched p = {.of = &luks2.reader, .bytes = first, .size = sizeof first, .count = 1};
    struct subject s = {.reader = patched_reader(&p, luks2.size)};
    each_extreme(first, 6, 8, 2, true, fix_luks2, check_probe, &s);
    each_extreme(first, 8, 24, 8, true, fix_luks2, check_found, &s);
    each_extreme(first, 24, 256, 8, true, fix_luks2, check_found, &s);
    each_extreme(first, 256, 512, 8, true, NULL, check_found, &s); /* the checksum itself, too */
    assert_true(s.probes > 200);
}

/* Every number of the JSON, in both copies alike. */
static void test_luks2_json_numbers(void **state)
{
    (void)state;
    static const char *const values[] = {"0",
                                         "1",
                                         "-1",
                                         "511",
                                         "2147483648",
                                         "4294967296",
                                         "9223372036854775807",
                                         "9223372036854775808",
                                         "18446744073709551615",
                                         "99999999999999999999",
                                         "1e400",
                                         ""};
    static char json[LUKS2_HEADER - 4096];
    assert_int_equal(volume_read(&luks2.reader, 4096, json, sizeof json), 0);
    size_t numbers = 0;
    for (const char *at = json; (at = strpbrk(at, "0123456789"));) {
        size_t digits = strspn(at, "0123456789");
        bool alone = strchr(":\"[,", at[-1]) && strchr("\"},]", at[digits]);
        for (size_t i = 0; alone && i < SP_COUNT(values); i++) {
            static uint8_t both[2 * LUKS2_HEADER];
            assert_int_equal(volume_read(&luks2.reader, 0, both, sizeof both), 0);
            for (uint8_t *copy = both; copy < both + sizeof both; copy += LUKS2_HEADER) {
                snprintf((char *)copy + 4096, LUKS2_HEADER - 4096, "%.*s%s%s", (int)(at - json),
                         json, values[i], at + digits);
                fix_luks2(copy);
            }
            struct patched p = {
                .of = &luks2.reader, .bytes = both, .size = sizeof both, .count = 1};
            struct subject s = {.reader = patched_reader(&p, luks2.size), .probes = 1};
            check_found(&s);
        }
        numbers += alone;
        at += digits;
    }
    assert_true(numbers > 10);
}

static void fix_block(uint8_t *block)
{
    bitlocker_fix(block, BITLOCKER_BLOCK_MAX);
}

static void test_bitlocker_fields(void **state)
{
    (void)state;
    uint8_t block[BITLOCKER_BLOCK_MAX], boot[512];
    size_t used = bitlocker_block(&of_bitlocker, block);
    struct patched p = {.of = &bitlocker.reader, .bytes = block, .size = sizeof block, .count = 3};
    memcpy(p.at, of_bitlocker.copies, sizeof p.at);
    struct subject s = {.reader = patched_reader(&p, bitlocker.size)};
    each_extreme(block, 0, used, 2, false, fix_block, check_found, &s);
    each_extreme(block, 16, used, 8, false, fix_block, check_found, &s);
    bitlocker_boot(&of_bitlocker, boot);
    p = (struct patched){.of = &bitlocker.reader, .bytes = boot, .size = sizeof boot, .count = 1};
    each_extreme(boot, 0, 512, 2, false, NULL, check_found, &s);
    each_extreme(boot, 160, 200, 8, false, NULL, check_found, &s);
    bitlocker_boot(&(struct bitlocker){.era = BITLOCKER_VISTA, .copies = {64 << 10}, .sector = 512},
                   boot);
    each_extreme(boot, 8, 64, 8, false, NULL, check_probe, &s);
    assert_true(s.probes > 500);
}

static void test_md_fields(void **state)
{
    (void)state;
    uint8_t super[4096];
    assert_int_equal(volume_read(&md.reader, 4096, super, sizeof super), 0);
    struct patched p = {
        .of = &md.reader, .at = {4096}, .bytes = super, .size = sizeof super, .count = 1};
    struct subject s = {.reader = patched_reader(&p, md.size)};
    each_extreme(super, 8, 288, 4, false, md_fix, check_look, &s);
    each_extreme(super, 80, 208, 8, false, md_fix, check_look, &s);
    assert_true(s.probes > 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_at_every_4_kib),
        cmocka_unit_test(test_reads_that_fail),
        cmocka_unit_test(test_reads_that_fail_here_and_there),
        cmocka_unit_test(test_too_many_reads_that_fail),
        cmocka_unit_test(test_luks1_fields),
        cmocka_unit_test(test_luks2_fields),
        cmocka_unit_test(test_luks2_json_numbers),
        cmocka_unit_test(test_bitlocker_fields),
        cmocka_unit_test(test_md_fields),
    };
    return cmocka_run_group_tests_name("volume-bad-input", tests, make_images, drop_images);
}
