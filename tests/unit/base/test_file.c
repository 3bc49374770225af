/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/file.h"
#include "test.h"
#include <fcntl.h>
#include <sys/stat.h>

static void reads_are_bounded(void **state)
{
    SP_FREE char *path = sp_format("%s/f", (char *)*state);
    char data[10000];
    memset(data, 'x', sizeof(data));
    assert_int_equal(sp_file_replace(path, data, sizeof(data), 0640), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    for (size_t most = 9998; most <= 10002; most++) {
        SP_FREE char *got = NULL;
        size_t size = 0;
        int r = sp_file_read(path, most, &got, &size);
        if (most < sizeof(data)) {
            assert_int_equal(r, -EFBIG);
            continue;
        }
        assert_int_equal(r, 0);
        assert_int_equal(size, sizeof(data));
        assert_int_equal(got[size], 0);
    }
    SP_FREE char *proc = NULL;
    size_t size = 0;
    assert_int_equal(sp_file_read("/proc/self/status", 1 << 20, &proc, &size), 0);
    assert_true(size > 100);
}

static void a_failed_replacement_leaves_the_old_one(void **state)
{
    SP_FREE char *path = sp_format("%s/f", (char *)*state);
    SP_FREE char *odd = sp_format("%s/d", (char *)*state);
    assert_int_equal(sp_file_replace(path, "old", 3, 0600), 0);
    assert_int_equal(mkdir(odd, 0700), 0);
    assert_int_equal(sp_file_replace(odd, "new", 3, 0600), -EISDIR);
    SP_FREE char *got = NULL;
    assert_int_equal(sp_file_read(path, 10, &got, NULL), 0);
    assert_string_equal(got, "old");
    SP_FREE char *nowhere = sp_format("%s/no/f", (char *)*state);
    assert_int_equal(sp_file_replace(nowhere, "x", 1, 0600), -ENOENT);
}

static void directories(void **state)
{
    SP_FREE char *deep = sp_format("%s/a/b/c", (char *)*state);
    SP_FREE char *file = sp_format("%s/file", (char *)*state);
    assert_int_equal(sp_make_directories(deep, 0700), 0);
    assert_int_equal(sp_make_directories(deep, 0700), 0);
    assert_int_equal(sp_file_replace(file, "x", 1, 0600), 0);
    assert_int_equal(sp_make_directories(file, 0700), -ENOTDIR);
}

static void short_reads_are_errors(void **state)
{
    SP_FREE char *path = sp_format("%s/f", (char *)*state);
    assert_int_equal(sp_file_replace(path, "12345", 5, 0600), 0);
    SP_FD int fd = open(path, O_RDWR | O_CLOEXEC);
    char out[6];
    assert_int_equal(sp_pread_all(fd, out, 3, 2), 0);
    assert_memory_equal(out, "345", 3);
    assert_int_equal(sp_pread_all(fd, out, 4, 2), -ENODATA);
    assert_int_equal(sp_pwrite_all(fd, "ab", 2, 1), 0);
    assert_int_equal(sp_read_all(fd, out, 5), 0);
    assert_memory_equal(out, "1ab45", 5);
    assert_int_equal(sp_read_all(fd, out, 1), -ENODATA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_are_bounded, test_folder_setup, test_folder_teardown),
        cmocka_unit_test_setup_teardown(a_failed_replacement_leaves_the_old_one, test_folder_setup,
                                        test_folder_teardown),
        cmocka_unit_test_setup_teardown(directories, test_folder_setup, test_folder_teardown),
        cmocka_unit_test_setup_teardown(short_reads_are_errors, test_folder_setup,
                                        test_folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
