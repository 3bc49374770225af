/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A vault that runs full: the backup fails with -ENOSPC, what was there stays whole, what was begun
 * goes away, and with room again the next backup succeeds. The full file system is a tmpfs in a
 * mount namespace of our own (a user namespace when not root). */
#include "base/cleanup.h"
#include "fixture.h"
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
// cmocka needs the four above first
#include <cmocka.h>

static struct fixture f;

static void fill_until_full(uint64_t size)
{
    struct disk big = {DISK_RANDOM, 1, size, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "too-big", &big, &image, &why), -ENOSPC);
    assert_non_null(strstr(why.text, "is full"));
    assert_null(image.root.data);
}

static void a_full_vault_fails_the_backup_and_nothing_else(void **state)
{
    (void)state;
    struct disk kept = {DISK_MIXED, 2, 10 << 20, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT, again = SP__DISK_IMAGE__INIT;
    uint64_t used, left, after;
    point_make(&f, "machine", "kept", &kept, &image);
    assert_int_equal(vault_space(f.vault, &used, &left), 0);
    assert_true(used > 0 && left > 0);
    fill_until_full(200 << 20);
    assert_int_equal(object_count(&f, "tmp/"), 0);
    assert_int_equal(vault_end_journal(f.vault, "too-big", false), 0);
    assert_int_equal(vault_space(f.vault, &after, &left), 0);
    assert_int_equal(after, used); /* all of it is given back */
    char *text SP_FREE = check_text(&f, true);
    assert_string_equal(text, "");
    disk_expect(f.vault, &kept, &image);
    struct disk small = {DISK_RANDOM, 3, 5 << 20, UINT64_MAX};
    point_make(&f, "machine", "small", &small, &again);
    disk_expect(f.vault, &small, &again);
    free(image.root.data);
    free(again.root.data);
}

/* Not one byte of room: even the journal cannot be written. */
static void with_no_room_at_all_a_backup_does_not_start(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/ballast", f.dir);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    static char block[1 << 20];
    size_t size = sizeof block;
    while (size > 0)
        if (write(fd, block, size) <= 0)
            size /= 2;
    close(fd);
    struct disk d = {DISK_RANDOM, 3, 5 << 20, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "p", &d, &image, &why), -ENOSPC);
    assert_int_equal(unlink(path), 0);
    point_make(&f, "machine", "p", &d, &image);
    disk_expect(f.vault, &d, &image);
    free(image.root.data);
}

/* Another error than a full disk: a limit on the size of files. */
static void a_write_that_fails_leaves_no_pack(void **state)
{
    (void)state;
    struct rlimit old, small = {1 << 20, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    struct disk d = {DISK_RANDOM, 3, 5 << 20, UINT64_MAX};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    struct sp_why why = {{0}};
    assert_int_equal(disk_write(f.vault, "p", &d, &image, &why), -EFBIG);
    assert_non_null(strstr(why.text, "cannot write 'packs/"));
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(object_count(&f, "packs/"), 0);
    assert_int_equal(object_count(&f, "tmp/"), 0);
    point_make(&f, "machine", "p", &d, &image);
    disk_expect(f.vault, &d, &image);
    free(image.root.data);
}

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return good;
}

static bool own_tmp(void)
{
    char map[64];
    uid_t uid = geteuid();
    if (uid != 0) {
        if (unshare(CLONE_NEWUSER) < 0)
            return false;
        snprintf(map, sizeof map, "0 %u 1", uid);
        if (!write_text("/proc/self/uid_map", map))
            return false;
    }
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("tmpfs", "/tmp", "tmpfs", 0, "size=100M") == 0;
}

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

int main(void)
{
    if (!own_tmp()) {
        fprintf(stderr, "no mount namespace can be had here: %s\n", strerror(errno));
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_full_vault_fails_the_backup_and_nothing_else, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(with_no_room_at_all_a_backup_does_not_start, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_write_that_fails_leaves_no_pack, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
