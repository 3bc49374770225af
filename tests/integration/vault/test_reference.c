/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What restore_reference.py (written from FORMAT.md) makes of a vault is what the program makes of
 * it. */
#include "base/cleanup.h"
#include "fixture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
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

static int restore(const char *point, const char *out)
{
    char command[1024], key[65];
    const char *source = getenv("SEALPOINT_SOURCE");
    snprintf(command, sizeof command,
             "python3 %s/tests/integration/vault/restore_reference.py %s machine %s disk0 %s --key "
             "%s",
             source ? source : ".", f.dir, point, out,
             sp_hex(key, sp_secret_data(f.key), sp_secret_size(f.key)));
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void compare(const struct disk *d, const Sp__DiskImage *image, const char *path)
{
    assert_int_equal(file_size(path), d->size);
    struct vault_reader *r = NULL;
    struct sp_why why = {{0}};
    assert_int_equal(vault_reader_new(f.vault, image->root.data, d->size, &r, &why), 0);
    FILE *file SP_FILE = fopen(path, "re");
    uint8_t *a SP_FREE = malloc(VAULT_CHUNK_BYTES), *b SP_FREE = malloc(VAULT_CHUNK_BYTES);
    for (uint64_t at = 0; at < d->size; at += VAULT_CHUNK_BYTES) {
        uint32_t n =
            d->size - at < VAULT_CHUNK_BYTES ? (uint32_t)(d->size - at) : VAULT_CHUNK_BYTES;
        assert_int_equal(vault_reader_at(r, at, a, n, &why), 0);
        assert_int_equal(fread(b, 1, n, file), n);
        assert_memory_equal(a, b, n);
    }
    vault_reader_free(r);
}

static void the_reference_restorer_agrees(void **state)
{
    (void)state;
    static const struct disk disks[] = {
        {DISK_RANDOM, 1, 1, UINT64_MAX},
        {DISK_RANDOM, 2, (70 << 20) + 4711, UINT64_MAX}, /* two packs, ciphertext alone */
        {DISK_TEXT, 3, (2 << 20) + 1, UINT64_MAX},       /* sealed and compressed */
        {DISK_MIXED, 4, (30 << 20) + 9, UINT64_MAX},
        {DISK_ZERO, 5, 10 << 20, UINT64_MAX},
        {DISK_ZERO, 6, 5ull << 30, 70000}, /* three levels, one chunk */
    };
    char out[300];
    snprintf(out, sizeof out, "%s.out", f.dir);
    for (size_t i = 0; i < SP_COUNT(disks); i++) {
        char point[16];
        Sp__DiskImage image = SP__DISK_IMAGE__INIT;
        snprintf(point, sizeof point, "point-%zu", i);
        if (i < 5) {
            point_make(&f, "machine", point, &disks[i], &image);
        } else { /* only the chunk that is there */
            struct vault_writer *w = NULL;
            struct sp_why why = {{0}};
            uint8_t chunk[VAULT_CHUNK_BYTES];
            uint32_t size;
            disk_chunk(&disks[i], 70000, chunk, &size);
            assert_int_equal(vault_writer_new(f.vault, point, "disk0", disks[i].size, &w, &why), 0);
            assert_int_equal(vault_writer_chunk(w, 70000, chunk, size, false, &why), 0);
            assert_int_equal(vault_writer_finish(w, &image, &why), 0);
            vault_writer_free(w);
            image.disk_id = (char[]){"disk0"};
            Sp__DiskImage *images[] = {&image};
            Sp__Signed *m = manifest_make(&f, "machine", point, 1, 0, images, 1);
            assert_int_equal(vault_put_manifest(f.vault, m, &why), 0);
            sp__signed__free_unpacked(m, NULL);
        }
        assert_int_equal(restore(point, out), 0);
        if (i < 5)
            compare(&disks[i], &image, out);
        else
            assert_int_equal(file_size(out), disks[i].size);
        free(image.root.data);
        unlink(out);
    }
}

static void the_reference_restorer_notices_damage_too(void **state)
{
    (void)state;
    static const struct disk d = {DISK_RANDOM, 2, 1 << 20, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    char out[300], pack[256];
    snprintf(out, sizeof out, "%s.out", f.dir);
    point_make(&f, "machine", "point", &d, &image);
    object_path(&f, "packs/", 0, pack);
    flip(pack, 5000, 1);
    assert_int_equal(restore("point", out), 1);
    unlink(out);
    free(image.root.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_reference_restorer_agrees, setup, teardown),
        cmocka_unit_test_setup_teardown(the_reference_restorer_notices_damage_too, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
