/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "controller/mover/vault/index.h"
#include "controller/mover/vault/internal.h"
#include "controller/mover/vault/map.h"
#include "fixture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

static struct fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_make(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_free(&f);
    return 0;
}

static void write_and_expect(enum disk_kind kind, uint64_t size)
{
    char point[40];
    struct disk d = {kind, size * 3 + kind, size, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    snprintf(point, sizeof point, "p-%d-%llu", kind, (unsigned long long)size);
    int r = disk_write(f.vault, point, &d, &image, &why);
    if (r < 0)
        fail_msg("%s: %s", point, why.text);
    disk_expect(f.vault, &d, &image);
    free(image.root.data);
}

static void disks_of_any_size_come_back(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1,
                                     511,
                                     65535,
                                     65536,
                                     65537,
                                     3 * 65536 + 1,
                                     256 * 65536ull,
                                     256 * 65536ull + 1,
                                     (20 << 20) + 12345};
    for (size_t i = 0; i < SP_COUNT(sizes); i++)
        for (int kind = DISK_RANDOM; kind <= DISK_ZERO; kind++)
            write_and_expect((enum disk_kind)kind, sizes[i]);
}

static void a_disk_over_several_packs_comes_back_after_reopening(void **state)
{
    (void)state;
    struct disk d = {DISK_MIXED, 7, (150 << 20) + 777, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "p", &d, &image, &why), 0);
    assert_true(object_count(&f, "packs/") >= 2);
    fixture_reopen(&f);
    disk_expect(f.vault, &d, &image);
    free(image.root.data);
}

static void equal_disks_have_equal_roots_and_are_stored_once(void **state)
{
    (void)state;
    struct disk d = {DISK_MIXED, 5, 5 << 20, UINT64_MAX};
    Sp__DiskImage one = SP__DISK_IMAGE__INIT, two = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "one", &d, &one, &why), 0);
    assert_true(one.new_bytes > 0);
    fixture_reopen(&f);
    unsigned packs = object_count(&f, "packs/");
    assert_int_equal(disk_write(f.vault, "two", &d, &two, &why), 0);
    assert_int_equal(two.new_bytes, 0);
    assert_int_equal(two.stored_bytes, one.stored_bytes);
    assert_memory_equal(one.root.data, two.root.data, 32);
    assert_int_equal(object_count(&f, "packs/"), packs);
    /* What it relies on is in its journal before. */
    assert_true(object_count(&f, "journals/two/") >= 2);
    free(one.root.data);
    free(two.root.data);
}

static void a_changed_chunk_costs_itself_and_its_path(void **state)
{
    (void)state;
    struct disk d = {DISK_RANDOM, 9, 64 << 20, UINT64_MAX};
    struct disk changed = d;
    changed.changed_chunk = 300;
    Sp__DiskImage one = SP__DISK_IMAGE__INIT, two = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "one", &d, &one, &why), 0);
    assert_int_equal(disk_write(f.vault, "two", &changed, &two, &why), 0);
    assert_true(two.new_bytes >= VAULT_CHUNK_BYTES);
    assert_true(two.new_bytes < VAULT_CHUNK_BYTES + 3 * MAP_NODE_MAX_BYTES);
    disk_expect(f.vault, &d, &one);
    disk_expect(f.vault, &changed, &two);
    free(one.root.data);
    free(two.root.data);
}

static void repeats_within_a_disk_are_stored_once(void **state)
{
    (void)state;
    struct vault_writer *w = NULL;
    struct sp_why why = {{0}};
    uint8_t *chunk = malloc(VAULT_CHUNK_BYTES);
    memset(chunk, 0x5a, VAULT_CHUNK_BYTES);
    assert_int_equal(vault_writer_new(f.vault, "p", "d", 100 * VAULT_CHUNK_BYTES, &w, &why), 0);
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(vault_writer_chunk(w, i, chunk, VAULT_CHUNK_BYTES, true, &why), 0);
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    assert_int_equal(vault_writer_finish(w, &image, &why), 0);
    assert_int_equal(image.stored_bytes, 100 * VAULT_CHUNK_BYTES);
    assert_true(image.new_bytes < VAULT_CHUNK_BYTES + MAP_NODE_MAX_BYTES + MAP_ROOT_BYTES);
    free(image.root.data);
    vault_writer_free(w);
    free(chunk);
}

static void chunks_may_come_in_any_order_but_once(void **state)
{
    (void)state;
    struct disk d = {DISK_MIXED, 21, 700 * 65536ull + 5, UINT64_MAX};
    Sp__DiskImage forward = SP__DISK_IMAGE__INIT, backward = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "one", &d, &forward, &why), 0);
    struct vault_writer *w = NULL;
    uint8_t *chunk = malloc(VAULT_CHUNK_BYTES);
    uint32_t size;
    assert_int_equal(vault_writer_new(f.vault, "two", "d", d.size, &w, &why), 0);
    for (uint64_t i = disk_chunks(&d); i > 0; i--) {
        disk_chunk(&d, i - 1, chunk, &size);
        bool ciphertext = disk_chunk_is_ciphertext(&d, i - 1);
        assert_int_equal(vault_writer_chunk(w, i - 1, chunk, size, ciphertext, &why), 0);
    }
    disk_chunk(&d, 3, chunk, &size);
    assert_int_equal(vault_writer_chunk(w, 3, chunk, size, true, &why), -EINVAL);
    assert_int_equal(vault_writer_finish(w, &backward, &why), 0);
    assert_memory_equal(forward.root.data, backward.root.data, 32);
    vault_writer_free(w);
    free(chunk);
    free(forward.root.data);
    free(backward.root.data);
}

static void chunks_that_do_not_fit_the_disk_are_refused(void **state)
{
    (void)state;
    struct vault_writer *w = NULL;
    struct sp_why why = {{0}};
    uint8_t *chunk = calloc(1, VAULT_CHUNK_BYTES);
    chunk[0] = 1;
    assert_int_equal(vault_writer_new(f.vault, "../x", "d", 1, &w, &why), -EINVAL);
    assert_int_equal(vault_writer_new(f.vault, "p", "d", 0, &w, &why), -EINVAL);
    assert_int_equal(vault_writer_new(f.vault, "p", "d", 100000, &w, &why), 0);
    assert_int_equal(vault_writer_chunk(w, 0, chunk, 100, true, &why), -EINVAL);
    assert_int_equal(vault_writer_chunk(w, 2, chunk, 100, true, &why), -EINVAL);
    assert_int_equal(vault_writer_chunk(w, 1, chunk, VAULT_CHUNK_BYTES, true, &why), -EINVAL);
    assert_int_equal(vault_writer_chunk(w, 1, chunk, 100000 - 65536, true, &why), 0);
    vault_writer_free(w);
    free(chunk);
}

static void reads_of_any_place_and_length_agree(void **state)
{
    (void)state;
    struct disk d = {DISK_MIXED, 33, (3 << 20) + 99, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "p", &d, &image, &why), 0);
    uint8_t *whole = malloc(d.size + VAULT_CHUNK_BYTES), *part = malloc(d.size);
    for (uint64_t i = 0; i < disk_chunks(&d); i++) {
        uint32_t size;
        disk_chunk(&d, i, whole + i * VAULT_CHUNK_BYTES, &size);
    }
    struct vault_reader *r = NULL;
    assert_int_equal(vault_reader_new(f.vault, image.root.data, d.size, &r, &why), 0);
    uint64_t x = 12345;
    for (int i = 0; i < 300; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t offset = (x >> 20) % d.size;
        uint32_t length = (uint32_t)((x >> 40) % 200000);
        if (length > d.size - offset)
            length = (uint32_t)(d.size - offset);
        assert_int_equal(vault_reader_at(r, offset, part, length, &why), 0);
        assert_memory_equal(part, whole + offset, length);
    }
    assert_int_equal(vault_reader_at(r, d.size, part, 1, &why), -EINVAL);
    assert_int_equal(vault_reader_at(r, UINT64_MAX, part, 1, &why), -EINVAL);
    vault_reader_free(r);
    assert_int_equal(vault_reader_new(f.vault, image.root.data, d.size + 1, &r, &why), -EBADMSG);
    free(whole);
    free(part);
    free(image.root.data);
}

static void next_data_tells_exactly_the_chunks_that_are_not_zero(void **state)
{
    (void)state;
    /* 3 GiB with three chunks: the map has absent subtrees on every level. */
    uint64_t size = (3ull << 30) + 4567, last = size / VAULT_CHUNK_BYTES;
    uint64_t places[] = {5, 256 * 70 + 255, last};
    struct vault_writer *w = NULL;
    struct sp_why why = {{0}};
    uint8_t *chunk = malloc(VAULT_CHUNK_BYTES);
    memset(chunk, 7, VAULT_CHUNK_BYTES);
    assert_int_equal(vault_writer_new(f.vault, "p", "d", size, &w, &why), 0);
    for (size_t i = 0; i < SP_COUNT(places); i++) {
        uint32_t n = places[i] == last ? 4567 : VAULT_CHUNK_BYTES;
        assert_int_equal(vault_writer_chunk(w, places[i], chunk, n, true, &why), 0);
    }
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    assert_int_equal(vault_writer_finish(w, &image, &why), 0);
    vault_writer_free(w);
    struct vault_reader *r = NULL;
    assert_int_equal(vault_reader_new(f.vault, image.root.data, size, &r, &why), 0);
    uint64_t at = 0, offset, length;
    for (size_t i = 0; i < SP_COUNT(places); i++) {
        assert_int_equal(vault_reader_next_data(r, at, &offset, &length, &why), 1);
        assert_int_equal(offset, places[i] * VAULT_CHUNK_BYTES);
        assert_int_equal(length, places[i] == last ? 4567 : VAULT_CHUNK_BYTES);
        at = offset + length;
    }
    assert_int_equal(vault_reader_next_data(r, at, &offset, &length, &why), 0);
    vault_reader_free(r);
    free(image.root.data);
    free(chunk);
}

static void clear_text_does_not_reach_the_directory_and_is_compressed(void **state)
{
    (void)state;
    struct disk d = {DISK_TEXT, 1, 4 << 20, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "p", &d, &image, &why), 0);
    assert_true(image.new_bytes < image.stored_bytes / 4);
    char path[256];
    object_path(&f, "packs/", 0, path);
    FILE *file = fopen(path, "re");
    size_t size = (size_t)file_size(path);
    char *bytes = malloc(size);
    assert_int_equal(fread(bytes, 1, size, file), size);
    assert_null(memmem(bytes, size, "quick brown", 11));
    fclose(file);
    free(bytes);
    free(image.root.data);
}

static void without_its_key_structure_is_read_and_clear_data_is_not(void **state)
{
    (void)state;
    struct disk d = {DISK_TEXT, 1, 1 << 20, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "p", &d, &image, &why), 0);
    struct vault *v = NULL;
    assert_int_equal(vault_open(&f.config, f.id, NULL, &v, &why), 0);
    struct vault_reader *r = NULL;
    uint64_t offset, length;
    uint8_t byte;
    assert_int_equal(vault_reader_new(v, image.root.data, d.size, &r, &why), 0);
    assert_int_equal(vault_reader_next_data(r, 0, &offset, &length, &why), 1);
    assert_int_equal(vault_reader_at(r, 0, &byte, 1, &why), -ENOKEY);
    vault_reader_free(r);
    struct vault_writer *w = NULL;
    assert_int_equal(vault_writer_new(v, "q", "d", 100, &w, &why), 0);
    assert_int_equal(vault_writer_chunk(w, 0, why.text, 100, false, &why), -ENOKEY);
    vault_writer_free(w);
    vault_close(v);
    free(image.root.data);
}

static void a_wrong_key_is_told_from_damage(void **state)
{
    (void)state;
    struct disk d = {DISK_TEXT, 1, 1 << 20, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "p", &d, &image, &why), 0);
    free(image.root.data);
    uint8_t other[32] = {9};
    struct sp_secret *key SP_SECRET = sp_secret_copy(other, sizeof other);
    struct vault *v = NULL;
    assert_int_equal(vault_open(&f.config, f.id, key, &v, &why), -EKEYREJECTED);
    assert_int_equal(vault_open(&f.config, "00000000-0000-4000-8000-000000000000", f.key, &v, &why),
                     -EINVAL);
    struct sp_secret *short_key SP_SECRET = sp_secret_copy(other, 16);
    assert_int_equal(vault_open(&f.config, f.id, short_key, &v, &why), -EINVAL);
}

static void a_vault_is_only_made_where_nothing_is(void **state)
{
    (void)state;
    char id[37];
    struct sp_why why = {{0}};
    assert_int_equal(vault_create(&f.config, id, &why), -ENOTEMPTY);
    Sp__DirectoryVault nowhere = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    struct vault *v = NULL;
    assert_int_equal(vault_open(&config, NULL, NULL, &v, &why), -EINVAL);
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &nowhere;
    nowhere.path = "relative";
    assert_int_equal(vault_create(&config, id, &why), -EINVAL);
    nowhere.path = "/nonexistent/vault";
    assert_int_equal(vault_open(&config, NULL, NULL, &v, &why), -ENOENT);
    nowhere.path = "/proc";
    assert_int_equal(vault_open(&config, NULL, NULL, &v, &why), -ENOENT);
}

/* Past the table's limit chunks are searched pack by pack. */
static void an_index_past_its_limit_still_finds_everything(void **state)
{
    (void)state;
    struct disk d = {DISK_RANDOM, 77, 10 << 20, UINT64_MAX};
    for (int i = 0; i < 3; i++) {
        Sp__DiskImage image = SP__DISK_IMAGE__INIT;
        struct sp_why why = {{0}};
        d.seed = 77 + (uint64_t)i;
        assert_int_equal(disk_write(f.vault, "p", &d, &image, &why), 0);
        free(image.root.data);
    }
    struct vault_index *small = NULL;
    struct sp_why why = {{0}};
    assert_int_equal(vault_index_new(f.vault->backend, f.vault->self, 256, &small), 0);
    assert_int_equal(vault_index_refresh(small, &why), 0);
    uint32_t entries = 0;
    for (uint32_t p = 0; p < vault_index_count(small); p++) {
        struct vault_pack pack;
        assert_true(vault_index_pack(small, p, &pack));
        for (uint32_t i = 0; i < pack.footer.count; i++, entries++) {
            struct pack_entry e;
            struct vault_location at;
            assert_int_equal(vault_index_entry(small, p, i, &e), 0);
            assert_int_equal(vault_index_find(small, e.address, 0, &at), 0);
            assert_memory_equal(at.entry.address, e.address, 32);
        }
    }
    assert_true(entries > 450);
    uint8_t nowhere[32] = {1, 2, 3};
    struct vault_location at;
    assert_int_equal(vault_index_find(small, nowhere, 0, &at), -ENOENT);
    vault_index_free(small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        TEST(disks_of_any_size_come_back),
        TEST(a_disk_over_several_packs_comes_back_after_reopening),
        TEST(equal_disks_have_equal_roots_and_are_stored_once),
        TEST(a_changed_chunk_costs_itself_and_its_path),
        TEST(repeats_within_a_disk_are_stored_once),
        TEST(chunks_may_come_in_any_order_but_once),
        TEST(chunks_that_do_not_fit_the_disk_are_refused),
        TEST(reads_of_any_place_and_length_agree),
        TEST(next_data_tells_exactly_the_chunks_that_are_not_zero),
        TEST(clear_text_does_not_reach_the_directory_and_is_compressed),
        TEST(without_its_key_structure_is_read_and_clear_data_is_not),
        TEST(a_wrong_key_is_told_from_damage),
        TEST(a_vault_is_only_made_where_nothing_is),
        TEST(an_index_past_its_limit_still_finds_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
