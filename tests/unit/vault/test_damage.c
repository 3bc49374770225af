/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Whatever is damaged: an error that names it, or the right data; never other data. */
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/mover/vault/map.h"
#include "controller/mover/vault/pack.h"
#include "fixture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
// cmocka needs the four above first
#include <cmocka.h>

static struct fixture f;
/* 40 chunks; text and random, both kinds of storage. */
static const struct disk small_disk = {DISK_MIXED, 11, 40 * 65536 + 100, UINT64_MAX};
static Sp__DiskImage image;
static char pack[256];

static int setup(void **state)
{
    (void)state;
    fixture_make(&f);
    sp__disk_image__init(&image);
    point_make(&f, "machine", "point", &small_disk, &image);
    assert_int_equal(object_count(&f, "packs/"), 1);
    object_path(&f, "packs/", 0, pack);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(image.root.data);
    fixture_free(&f);
    return 0;
}

/* Reads every chunk: right, or -EBADMSG with a reason. Returns how many failed. */
static unsigned read_all(void)
{
    struct vault_reader *r = NULL;
    struct sp_why why = {{0}};
    int e = vault_reader_new(f.vault, image.root.data, small_disk.size, &r, &why);
    if (e < 0) {
        assert_int_equal(e, -EBADMSG);
        assert_true(strlen(why.text) > 0);
        return (unsigned)disk_chunks(&small_disk);
    }
    unsigned failed = 0;
    uint8_t *is = malloc(VAULT_CHUNK_BYTES), *should = malloc(VAULT_CHUNK_BYTES);
    uint8_t *zero = calloc(1, VAULT_CHUNK_BYTES);
    for (uint64_t i = 0; i < disk_chunks(&small_disk); i++) {
        uint32_t size;
        disk_chunk(&small_disk, i, should, &size);
        memset(is, 0, VAULT_CHUNK_BYTES);
        why.text[0] = 0;
        e = vault_reader_at(r, i * VAULT_CHUNK_BYTES, is, size, &why);
        if (e == 0) {
            assert_memory_equal(is, should, size);
        } else {
            assert_int_equal(e, -EBADMSG);
            assert_non_null(strstr(why.text, "chunk"));
            assert_memory_equal(is, zero, size); /* nothing half-verified leaks out */
            failed++;
        }
    }
    free(is);
    free(should);
    free(zero);
    vault_reader_free(r);
    return failed;
}

static unsigned lines_with(const char *text, const char *part)
{
    unsigned n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++)
        n++;
    return n;
}

static void a_whole_vault_has_no_problems(void **state)
{
    (void)state;
    char *text SP_FREE = check_text(&f, true);
    assert_string_equal(text, "");
    assert_int_equal(read_all(), 0);
    fixture_reopen(&f);
    char *again SP_FREE = check_text(&f, false);
    assert_string_equal(again, "");
}

/* A flip anywhere in the pack: payload, index, footer. */
static void a_flip_anywhere_in_a_pack_is_found_and_named(void **state)
{
    (void)state;
    uint64_t size = file_size(pack), footer = size - PACK_FOOTER_BYTES;
    uint8_t count[4];
    FILE *file = fopen(pack, "re");
    fseek(file, (long)footer + 12, SEEK_SET);
    assert_int_equal(fread(count, 1, 4, file), 4);
    fclose(file);
    uint64_t index = footer - (uint64_t)sp_le32(count) * PACK_ENTRY_BYTES;
    uint64_t x = 1;
    for (unsigned i = 0; i < 120; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t at = x >> 33;
        if (i % 3 == 0)
            at = PACK_HEADER_BYTES + at % (index - PACK_HEADER_BYTES);
        else if (i % 3 == 1)
            at = index + at % (footer - index);
        else
            at = footer + at % PACK_FOOTER_BYTES;
        flip(pack, at, i % 8);
        fixture_reopen(&f);
        unsigned failed = read_all();
        char *text SP_FREE = check_text(&f, true);
        if (failed > 0) {
            if (!strstr(text, "|LOST|point,"))
                fail_msg("flip at %llu: %u chunks failed, check says: %s", (unsigned long long)at,
                         failed, text);
        }
        assert_true(strlen(text) > 0); /* seen, whether it harms or not */
        assert_non_null(strstr(text, "packs/"));
        flip(pack, at, i % 8);
    }
    fixture_reopen(&f);
    assert_int_equal(read_all(), 0);
}

static void a_flip_in_one_chunk_loses_that_chunk_alone(void **state)
{
    (void)state;
    flip(pack, PACK_HEADER_BYTES + 10, 3);
    fixture_reopen(&f);
    assert_int_equal(read_all(), 1);
    char *structure SP_FREE = check_text(&f, false);
    assert_string_equal(structure, ""); /* only reading the data can tell */
    char *text SP_FREE = check_text(&f, true);
    assert_int_equal(lines_with(text, "\n"), 1);
    assert_non_null(strstr(text, "1 of "));
    assert_non_null(strstr(text, "the first at byte 4096|LOST|point,"));
}

static void a_flip_in_the_index_loses_at_most_its_entry(void **state)
{
    (void)state;
    uint64_t footer = file_size(pack) - PACK_FOOTER_BYTES;
    flip(pack, footer - PACK_ENTRY_BYTES + 3, 0); /* the address of the last entry */
    fixture_reopen(&f);
    assert_true(read_all() <= disk_chunks(&small_disk));
    char *text SP_FREE = check_text(&f, false);
    assert_non_null(strstr(text, "its index is damaged"));
    assert_non_null(strstr(text, "|LOST|point,"));
}

static void a_cut_pack_is_named_with_the_points_it_held(void **state)
{
    (void)state;
    uint64_t size = file_size(pack);
    for (uint64_t left = size; left > 0; left = left * 2 / 3) {
        assert_int_equal(chmod(pack, 0600), 0);
        assert_int_equal(truncate(pack, (off_t)(left - 1)), 0);
        fixture_reopen(&f);
        assert_int_equal(read_all(), disk_chunks(&small_disk));
        char *text SP_FREE = check_text(&f, false);
        assert_non_null(strstr(text, "packs/"));
        assert_true(lines_with(text, "|LOST|point,") >= 2); /* the pack, and the disk */
    }
}

static void a_missing_pack_is_told_as_loss_of_its_points(void **state)
{
    (void)state;
    /* While it is open: the index knows the pack, the object is gone. */
    assert_int_equal(unlink(pack), 0);
    assert_int_equal(read_all(), disk_chunks(&small_disk));
    fixture_reopen(&f);
    assert_int_equal(read_all(), disk_chunks(&small_disk));
    char *text SP_FREE = check_text(&f, true);
    assert_non_null(strstr(text, "disk 'disk0' is lost"));
    assert_non_null(strstr(text, "|LOST|point,"));
}

static void swapped_packs_lose_nothing_and_are_told(void **state)
{
    (void)state;
    struct disk other = {DISK_RANDOM, 99, 10 * 65536, UINT64_MAX};
    Sp__DiskImage second = SP__DISK_IMAGE__INIT;
    point_make(&f, "machine", "other", &other, &second);
    char one[256], two[256], aside[300];
    object_path(&f, "packs/", 0, one);
    object_path(&f, "packs/", 1, two);
    snprintf(aside, sizeof aside, "%s/aside", f.dir);
    assert_int_equal(rename(one, aside), 0);
    assert_int_equal(rename(two, one), 0);
    assert_int_equal(rename(aside, two), 0);
    fixture_reopen(&f);
    /* What is found is found by its hash, wherever it lies. */
    assert_int_equal(read_all(), 0);
    disk_expect(f.vault, &other, &second);
    char *text SP_FREE = check_text(&f, true);
    assert_int_equal(lines_with(text, "it says that it is another pack"), 2);
    assert_int_equal(lines_with(text, "|LOST|"), 0);
    free(second.root.data);
}

/* Two copies of a chunk: when one is damaged, the other serves. */
static void a_second_copy_of_a_chunk_serves_when_the_first_is_damaged(void **state)
{
    (void)state;
    char copy[300];
    /* Two writers at once that do not see each other's chunks until they are durable. */
    struct vault_writer *a = NULL, *b = NULL;
    struct sp_why why = {{0}};
    uint8_t *chunk = malloc(VAULT_CHUNK_BYTES);
    memset(chunk, 0x77, VAULT_CHUNK_BYTES);
    assert_int_equal(vault_writer_new(f.vault, "a", "d", VAULT_CHUNK_BYTES, &a, &why), 0);
    assert_int_equal(vault_writer_new(f.vault, "b", "d", VAULT_CHUNK_BYTES, &b, &why), 0);
    assert_int_equal(vault_writer_chunk(a, 0, chunk, VAULT_CHUNK_BYTES, true, &why), 0);
    assert_int_equal(vault_writer_chunk(b, 0, chunk, VAULT_CHUNK_BYTES, true, &why), 0);
    Sp__DiskImage one = SP__DISK_IMAGE__INIT, two = SP__DISK_IMAGE__INIT;
    assert_int_equal(vault_writer_finish(a, &one, &why), 0);
    assert_int_equal(vault_writer_finish(b, &two, &why), 0);
    vault_writer_free(a);
    vault_writer_free(b);
    assert_int_equal(object_count(&f, "packs/"), 3);
    for (unsigned i = 0; i < 3; i++) {
        object_path(&f, "packs/", i, copy);
        if (strcmp(copy, pack) == 0)
            continue;
        flip(copy, PACK_HEADER_BYTES + 5, 5);
        fixture_reopen(&f);
        struct vault_reader *r = NULL;
        uint8_t *out = malloc(VAULT_CHUNK_BYTES);
        assert_int_equal(vault_reader_new(f.vault, one.root.data, VAULT_CHUNK_BYTES, &r, &why), 0);
        assert_int_equal(vault_reader_at(r, 0, out, VAULT_CHUNK_BYTES, &why), 0);
        assert_memory_equal(out, chunk, VAULT_CHUNK_BYTES);
        vault_reader_free(r);
        free(out);
        flip(copy, PACK_HEADER_BYTES + 5, 5);
    }
    free(chunk);
    free(one.root.data);
    free(two.root.data);
}

static void a_damaged_descriptor_is_refused(void **state)
{
    (void)state;
    char path[300];
    struct vault *v = NULL;
    struct sp_why why = {{0}};
    snprintf(path, sizeof path, "%s/vault.json", f.dir);
    static const struct {
        const char *text;
        int error;
    } rows[] = {
        {"", -EBADMSG},
        {"[]", -EBADMSG},
        {"{\"format\":\"other\"}", -EBADMSG},
        {"{\"format\":\"sealpoint-vault\",\"version\":2}", -ENOTSUP},
        {"{\"format\":\"sealpoint-vault\",\"version\":1,\"id\":\"x\"}", -EBADMSG},
        {"{\"format\":\"sealpoint-vault\",\"version\":1,"
         "\"id\":\"00000000-0000-4000-8000-000000000000\",\"chunk_bytes\":65536,\"fan_out\":256,"
         "\"critical_features\":[\"from-the-future\"]}",
         -ENOTSUP},
        {"{\"format\":\"sealpoint-vault\",\"version\":1,"
         "\"id\":\"00000000-0000-4000-8000-000000000000\",\"chunk_bytes\":4096,\"fan_out\":256}",
         -EBADMSG},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        assert_int_equal(sp_file_replace(path, rows[i].text, strlen(rows[i].text), 0600), 0);
        why.text[0] = 0;
        assert_int_equal(vault_open(&f.config, NULL, f.key, &v, &why), rows[i].error);
        assert_true(strlen(why.text) > 0);
    }
}

static void foreign_and_left_over_objects_are_untidy_not_lost(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/tmp/half", f.dir);
    assert_int_equal(sp_file_replace(path, "x", 1, 0600), 0);
    snprintf(path, sizeof path, "%s/README", f.dir);
    assert_int_equal(sp_file_replace(path, "x", 1, 0600), 0);
    struct disk d = {DISK_RANDOM, 5, 65536, UINT64_MAX};
    Sp__DiskImage orphan = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "orphan", &d, &orphan, &why), 0);
    free(orphan.root.data);
    char *open_journal SP_FREE = check_text(&f, true);
    assert_null(strstr(open_journal, "hold nothing")); /* its backup has not ended */
    assert_non_null(strstr(open_journal, "1 temporary objects"));
    assert_non_null(strstr(open_journal, "'README'"));
    assert_null(strstr(open_journal, "LOST"));
    assert_int_equal(vault_end_journal(f.vault, "orphan", true), 0);
    char *ended SP_FREE = check_text(&f, true);
    assert_non_null(strstr(ended, "1 packs of "));
    assert_int_equal(vault_recover(f.vault, &why), 0);
    char *tidy SP_FREE = check_text(&f, true);
    assert_int_equal(lines_with(tidy, "\n"), 1); /* README is not ours to remove */
    assert_int_equal(read_all(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        TEST(a_whole_vault_has_no_problems),
        TEST(a_flip_anywhere_in_a_pack_is_found_and_named),
        TEST(a_flip_in_one_chunk_loses_that_chunk_alone),
        TEST(a_flip_in_the_index_loses_at_most_its_entry),
        TEST(a_cut_pack_is_named_with_the_points_it_held),
        TEST(a_missing_pack_is_told_as_loss_of_its_points),
        TEST(swapped_packs_lose_nothing_and_are_told),
        TEST(a_second_copy_of_a_chunk_serves_when_the_first_is_damaged),
        TEST(a_damaged_descriptor_is_refused),
        TEST(foreign_and_left_over_objects_are_untidy_not_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
