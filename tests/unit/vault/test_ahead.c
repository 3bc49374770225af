/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A disk read ahead by several threads: the same bytes in the disk's order, from any byte on, up to
 * the first that is damaged and no further. */
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/mover/vault/ahead.h"
#include "controller/mover/vault/pack.h"
#include "fixture.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

static struct fixture f;
static const struct disk disk = {DISK_MIXED, 23, (37 << 20) + 4097, UINT64_MAX};
static Sp__DiskImage image;
static uint8_t *should;

static int setup(void **state)
{
    (void)state;
    fixture_make(&f);
    sp__disk_image__init(&image);
    point_make(&f, "machine", "point", &disk, &image);
    should = calloc(1, disk.size);
    uint8_t *chunk SP_FREE = malloc(VAULT_CHUNK_BYTES);
    for (uint64_t i = 0; i < disk_chunks(&disk); i++) {
        uint32_t size;
        disk_chunk(&disk, i, chunk, &size);
        memcpy(should + i * VAULT_CHUNK_BYTES, chunk, size);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(should);
    free(image.root.data);
    fixture_free(&f);
    return 0;
}

static struct vault_ahead *begin(uint64_t from)
{
    struct vault_ahead *a = NULL;
    struct sp_why why = {{0}};
    assert_int_equal(vault_ahead_new(f.vault, image.root.data, disk.size, from, &a, &why), 0);
    return a;
}

/* Takes all; what is between the pieces must be zero. Returns how it ended, and where. */
static int take_all(struct vault_ahead *a, uint64_t from, uint64_t *ret_end, struct sp_why *why)
{
    uint64_t at = from, offset;
    const uint8_t *data;
    uint32_t length;
    int r;
    while ((r = vault_ahead_next(a, &offset, &data, &length, why)) == 1) {
        assert_true(offset >= at && length > 0 && length <= 1 << 20);
        assert_true(sp_is_zero(should + at, offset - at));
        assert_memory_equal(data, should + offset, length);
        at = offset + length;
    }
    *ret_end = at;
    return r;
}

static void all_of_it_comes_in_order(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    static const uint64_t starts[] = {0, 1, 65536, 5000000, (37 << 20) + 4096};
    for (size_t i = 0; i < SP_COUNT(starts); i++) {
        struct vault_ahead *a = begin(starts[i]);
        uint64_t end;
        assert_int_equal(take_all(a, starts[i], &end, &why), 0);
        assert_true(sp_is_zero(should + end, disk.size - end));
        assert_int_equal(take_all(a, end, &end, &why), 0); /* still at its end */
        vault_ahead_free(a);
    }
    struct vault_ahead *a = begin(disk.size);
    uint64_t end;
    assert_int_equal(take_all(a, disk.size, &end, &why), 0);
    assert_int_equal(end, disk.size);
    vault_ahead_free(a);
}

static void it_may_be_given_up_at_any_time(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    for (unsigned taken = 0; taken < 20; taken++) {
        struct vault_ahead *a = begin(0);
        uint64_t offset;
        const uint8_t *data;
        uint32_t length;
        for (unsigned i = 0; i < taken; i++)
            assert_int_equal(vault_ahead_next(a, &offset, &data, &length, &why), 1);
        vault_ahead_free(a);
    }
    vault_ahead_free(NULL);
}

/* Whatever lies before the damage comes, and right; behind it nothing, however often one asks. */
static void damage_ends_it_at_its_place(void **state)
{
    (void)state;
    char pack[256];
    object_path(&f, "packs/", 0, pack);
    for (uint64_t at = PACK_HEADER_BYTES + 100; at < 16 << 20; at += 5 << 20) {
        SP_FD int fd = open(pack, O_RDWR | O_CLOEXEC);
        uint8_t byte;
        assert_int_equal(sp_pread_all(fd, &byte, 1, at), 0);
        byte ^= 0x10;
        assert_int_equal(sp_pwrite_all(fd, &byte, 1, at), 0);
        fixture_reopen(&f);
        struct vault_ahead *a = begin(0);
        struct sp_why why = {{0}};
        uint64_t end, again;
        assert_int_equal(take_all(a, 0, &end, &why), -EBADMSG);
        assert_true(end < disk.size);
        assert_non_null(strstr(why.text, "damaged"));
        assert_int_equal(take_all(a, end, &again, &why), -EBADMSG);
        assert_int_equal(again, end);
        vault_ahead_free(a);
        byte ^= 0x10;
        assert_int_equal(sp_pwrite_all(fd, &byte, 1, at), 0);
    }
}

static void a_root_that_is_not_there_is_refused(void **state)
{
    (void)state;
    struct vault_ahead *a = NULL;
    struct sp_why why = {{0}};
    uint8_t root[32] = {1, 2, 3};
    assert_int_equal(vault_ahead_new(f.vault, root, disk.size, 0, &a, &why), -EBADMSG);
    assert_null(a);
    assert_true(why.text[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_it_comes_in_order),
        cmocka_unit_test(it_may_be_given_up_at_any_time),
        cmocka_unit_test(damage_ends_it_at_its_place),
        cmocka_unit_test(a_root_that_is_not_there_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
