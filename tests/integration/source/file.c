/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The file source on real file systems: XFS and btrfs on loop devices; ext4, which cannot clone. A
 * guest's writes are made to the images as QEMU would. Whatever changed, each stored disk must be
 * what the image was at its snapshot. Root only. */
#include "fixture.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "controller/mover/mover.h"
#include "controller/mover/source/source.h"

#include <fcntl.h>
#include <glob.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { IMAGES = 2, IMAGE_BYTES = 12 << 20, POINTS = 4 };

static struct fixture f;
static char folder[40];
static char paths[IMAGES][64];
static Sp__FileSource file;
static Sp__ImageFile images[IMAGES], *list[IMAGES];
static Sp__SourceConfig config;

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...)
{
    char command[400];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    if (system(command) != 0)
        fail_msg("%s", command);
}

/* ── A file system with two images ── */

static void make_images(void)
{
    sp__file_source__init(&file);
    sp__source_config__init(&config);
    config.kind_case = SP__SOURCE_CONFIG__KIND_FILE;
    config.file = &file;
    file.images = list;
    file.n_images = IMAGES;
    for (size_t i = 0; i < IMAGES; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/mnt/vm-%zu.raw", folder, i);
        list[i] = &images[i];
        sp__image_file__init(&images[i]);
        images[i].path = paths[i];
        run("truncate -s %d %s && head -c 5000000 /dev/urandom | dd of=%s conv=notrunc bs=1M "
            "status=none",
            IMAGE_BYTES, paths[i], paths[i]);
    }
    images[1].serial = "SERIAL-1";
}

static int mount_fs(const char *mkfs, const char *size)
{
    strcpy(folder, "/tmp/sealpoint-fileXXXXXX");
    assert_non_null(mkdtemp(folder));
    run("mkdir %s/mnt && truncate -s %s %s/fs && %s %s/fs >/dev/null 2>&1 && "
        "mount -o loop %s/fs %s/mnt",
        folder, size, folder, mkfs, folder, folder, folder);
    make_images();
    fixture_make(&f);
    return 0;
}

static int on_xfs(void **state)
{
    (void)state;
    return mount_fs("mkfs.xfs -q -f -m reflink=1", "320M");
}

static int on_btrfs(void **state)
{
    (void)state;
    return mount_fs("mkfs.btrfs -q -f", "320M");
}

static int on_ext4(void **state)
{
    (void)state;
    return mount_fs("mkfs.ext4 -q -F", "128M");
}

static int teardown(void **state)
{
    (void)state;
    fixture_free(&f);
    run("umount %s/mnt && rm -r %s", folder, folder);
    return 0;
}

static size_t clones(void)
{
    char pattern[80];
    glob_t g;
    snprintf(pattern, sizeof pattern, "%s/mnt/.sealpoint-*", folder);
    int r = glob(pattern, 0, NULL, &g);
    assert_true(r == 0 || r == GLOB_NOMATCH);
    size_t count = r == 0 ? g.gl_pathc : 0;
    globfree(&g);
    return count;
}

/* ── The guest ── */

/* Some writes, holes and rewrites of what is there already. */
static void guest_writes(unsigned seed)
{
    srand(seed);
    for (size_t i = 0; i < IMAGES; i++) {
        SP_FD int fd = open(paths[i], O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        for (unsigned n = 0; n < 12; n++) {
            uint8_t bytes[16384];
            off_t at = rand() % (IMAGE_BYTES / 4096 - 4) * 4096;
            if (n % 6 == 5) {
                assert_int_equal(
                    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 65536 - 4096), 0);
                continue;
            }
            memset(bytes, rand() % 255 + 1, sizeof bytes);
            uint32_t size = 512u * (unsigned)(rand() % 32 + 1);
            assert_int_equal(sp_pwrite_all(fd, bytes, size, (uint64_t)at), 0);
        }
    }
}

static uint8_t *contents(size_t image)
{
    uint8_t *all = malloc(IMAGE_BYTES);
    SP_FD int fd = open(paths[image], O_RDONLY | O_CLOEXEC);
    assert_int_equal(sp_pread_all(fd, all, IMAGE_BYTES, 0), 0);
    return all;
}

/* ── One point ── */

struct point {
    char id[37];
    uint8_t *was[IMAGES];
    struct source_snapshot *snapshot;
    Sp__SnapshotResponse *taken;
    Sp__TransferResponse *stored;
};

static int no_journal(void *self, const char *journal)
{
    (void)self;
    assert_non_null(strstr(journal, "vm-0.raw"));
    return 0;
}

static int try_snapshot(struct point *p, unsigned number, const struct point *before,
                        struct sp_why *why)
{
    Sp__SnapshotRequest rq = SP__SNAPSHOT_REQUEST__INIT;
    char *bases[1] = {before ? (char *)(uintptr_t)before->id : NULL};
    *p = (struct point){.snapshot = NULL};
    snprintf(p->id, sizeof p->id, "%08x-aaaa-4bbb-8ccc-000000000001", number);
    rq.point_id = p->id;
    rq.source = &config;
    rq.guest_is_held = true;
    rq.base_point_ids = bases;
    rq.n_base_point_ids = before ? 1 : 0;
    return source_for(&config)->snapshot(&rq, no_journal, NULL, &p->snapshot, &p->taken, why);
}

static void take(struct point *p, unsigned number, const struct point *before)
{
    struct sp_why why = {""};
    if (try_snapshot(p, number, before, &why) < 0)
        fail_msg("snapshot %u: %s", number, why.text);
    for (size_t i = 0; i < IMAGES; i++)
        p->was[i] = contents(i);
}

static void transfer(struct point *p, const struct point *before)
{
    Sp__TransferRequest rq = SP__TRANSFER_REQUEST__INIT;
    Sp__BaseDisk bases[IMAGES], *base_list[IMAGES];
    struct sp_why why = {""};
    rq.point_id = p->id;
    rq.vault_id = f.id;
    rq.bases = base_list;
    for (size_t i = 0; before && i < IMAGES; i++) {
        base_list[rq.n_bases++] = &bases[i];
        sp__base_disk__init(&bases[i]);
        bases[i].point_id = (char *)(uintptr_t)before->id;
        bases[i].machine_id = "machine";
        bases[i].image = before->stored->disks[i];
    }
    if (mover_transfer(source_for(&config), p->snapshot, p->taken, &rq, f.vault, NULL, &p->stored,
                       &why) < 0)
        fail_msg("transfer: %s", why.text);
    Sp__Signed *m = manifest_make(&f, "machine", p->id, 1, 0, p->stored->disks, p->stored->n_disks);
    if (vault_put_manifest(f.vault, m, &why) < 0)
        fail_msg("manifest: %s", why.text);
    sp__signed__free_unpacked(m, NULL);
    assert_int_equal(vault_end_journal(f.vault, p->id, true), 0);
}

static void release(struct point *p, bool transferred)
{
    Sp__ReleaseSnapshotRequest rq = SP__RELEASE_SNAPSHOT_REQUEST__INIT;
    Sp__ReleaseSnapshotResponse *response = NULL;
    struct sp_why why = {""};
    if (p->snapshot)
        source_for(&config)->close(p->snapshot);
    p->snapshot = NULL;
    rq.point_id = p->id;
    rq.source = &config;
    rq.transferred = transferred;
    if (p->taken)
        rq.journal = p->taken->journal;
    if (source_for(&config)->release(&rq, &response, &why) < 0)
        fail_msg("release: %s", why.text);
    assert_true(response->nothing_left);
    sp__release_snapshot_response__free_unpacked(response, NULL);
}

static void forget(struct point *p)
{
    for (size_t i = 0; i < IMAGES; i++)
        free(p->was[i]);
    if (p->taken)
        sp__snapshot_response__free_unpacked(p->taken, NULL);
    if (p->stored)
        sp__transfer_response__free_unpacked(p->stored, NULL);
}

static void expect_stored(const struct point *p)
{
    SP_FREE uint8_t *is = malloc(IMAGE_BYTES);
    struct sp_why why = {""};
    for (size_t i = 0; i < IMAGES; i++) {
        struct vault_reader *reader = NULL;
        const Sp__DiskImage *image = p->stored->disks[i];
        assert_int_equal(vault_reader_new(f.vault, image->root.data, IMAGE_BYTES, &reader, &why),
                         0);
        assert_int_equal(vault_reader_at(reader, 0, is, IMAGE_BYTES, &why), 0);
        for (unsigned at = 0; at < IMAGE_BYTES; at += 4096)
            if (memcmp(is + at, p->was[i] + at, 4096) != 0)
                fail_msg("point %s, disk %s: byte %u is not what it was", p->id, image->disk_id,
                         at);
        vault_reader_free(reader);
    }
}

/* ── Tests ── */

/* The guest goes on writing while its point is read; each point is an increment on the one before,
 * and one clone an image stays. */
static void each_point_is_what_the_images_were(void **state)
{
    (void)state;
    struct point points[POINTS];
    for (unsigned n = 0; n < POINTS; n++) {
        const struct point *before = n ? &points[n - 1] : NULL;
        struct point *p = &points[n];
        take(p, n + 1, before);
        assert_string_equal(p->taken->disks[0]->disk_id, "vm-0.raw");
        assert_string_equal(p->taken->disks[1]->disk_id, "SERIAL-1");
        for (size_t i = 0; before && i < IMAGES; i++)
            assert_string_equal(p->taken->disks[i]->base_point_id, before->id);
        guest_writes(100 + n);
        transfer(p, before);
        expect_stored(p);
        for (size_t i = 0; before && i < IMAGES; i++) /* some changed blocks, not the disk */
            assert_true(p->stored->disks[i]->read_bytes < IMAGE_BYTES / 2);
        release(p, true);
        assert_int_equal(clones(), IMAGES);
    }
    for (unsigned n = 0; n < POINTS; n++)
        forget(&points[n]);
}

/* What failed leaves the base of the last that got through, with or without a handle; what changed
 * since then is in the next. */
static void a_failed_point_leaves_the_base(void **state)
{
    (void)state;
    struct point first, failed, killed, next;
    take(&first, 1, NULL);
    transfer(&first, NULL);
    release(&first, true);
    guest_writes(1);
    take(&failed, 2, &first);
    guest_writes(2);
    release(&failed, false);
    assert_int_equal(clones(), IMAGES);
    take(&killed, 3, &first);
    source_for(&config)->close(killed.snapshot);
    killed.snapshot = NULL;
    assert_int_equal(clones(), 2 * IMAGES);
    release(&killed, false);
    release(&killed, false); /* again and again */
    assert_int_equal(clones(), IMAGES);
    guest_writes(3);
    take(&next, 4, &first);
    assert_string_equal(next.taken->disks[0]->base_point_id, first.id);
    transfer(&next, &first);
    expect_stored(&next);
    release(&next, true);
    forget(&first);
    forget(&failed);
    forget(&killed);
    forget(&next);
}

/* Without the clone that a base was, and after the image got another size, the copy is full. */
static void no_base_is_a_full_copy_with_a_reason(void **state)
{
    (void)state;
    struct point first, second;
    take(&first, 1, NULL);
    transfer(&first, NULL);
    release(&first, true);
    run("rm %s/mnt/.sealpoint-%s-vm-0.raw", folder, first.id);
    run("cp --reflink=never %s/mnt/.sealpoint-%s-vm-1.raw %s/x && truncate -s +4096 %s/x && "
        "mv %s/x %s/mnt/.sealpoint-%s-vm-1.raw",
        folder, first.id, folder, folder, folder, folder, first.id);
    take(&second, 2, &first);
    for (size_t i = 0; i < IMAGES; i++) {
        assert_string_equal(second.taken->disks[i]->base_point_id, "");
        assert_non_null(strstr(second.taken->disks[i]->full_why, "no clone of an earlier point"));
    }
    transfer(&second, &first);
    expect_stored(&second);
    release(&second, true);
    assert_int_equal(clones(), IMAGES);
    forget(&first);
    forget(&second);
}

static void expect_refusal(const char *text)
{
    struct point p;
    struct sp_why why = {""};
    assert_true(try_snapshot(&p, 77, NULL, &why) < 0);
    if (!strstr(why.text, text))
        fail_msg("'%s' does not say '%s'", why.text, text);
    assert_null(p.snapshot);
    assert_int_equal(clones(), 0);
}

static void what_cannot_be_cloned_is_refused(void **state)
{
    (void)state;
    run("printf 'QFI\\373' | dd of=%s conv=notrunc status=none", paths[1]);
    expect_refusal("begins as a qcow2 image does");
    run("printf 'abcd' | dd of=%s conv=notrunc status=none && truncate -s +1 %s", paths[1],
        paths[1]);
    expect_refusal("not a whole number of sectors");
    run("rm %s", paths[1]);
    expect_refusal("cannot be opened: No such file");
    run("mkdir %s", paths[1]);
    expect_refusal("is not a file");
    run("rmdir %s && truncate -s %d %s", paths[1], IMAGE_BYTES, paths[1]);
    run("fallocate -l $(($(stat -f -c '%%a * %%S' %s/mnt) * 97 / 100)) %s/mnt/full", folder,
        folder);
    expect_refusal("is fuller than 95 %");
    run("rm %s/mnt/full && sync -f %s/mnt", folder, folder);
}

static void a_file_system_that_cannot_clone_is_named(void **state)
{
    (void)state;
    expect_refusal("cannot clone it: an XFS with reflink or a btrfs can");
}

static void disks_are_described_and_chosen(void **state)
{
    (void)state;
    Sp__DescribeRequest ask = SP__DESCRIBE_REQUEST__INIT;
    Sp__DescribeResponse *d = NULL;
    struct sp_why why = {""};
    ask.source = &config;
    assert_int_equal(source_for(&config)->describe(&ask, &d, &why), 0);
    assert_int_equal(d->n_disks, IMAGES);
    assert_int_equal(d->disks[1]->size_bytes, IMAGE_BYTES);
    assert_string_equal(d->disks[1]->file, paths[1]);
    sp__describe_response__free_unpacked(d, NULL);
    Sp__SnapshotRequest rq = SP__SNAPSHOT_REQUEST__INIT;
    struct source_snapshot *s = NULL;
    Sp__SnapshotResponse *taken = NULL;
    char *wanted[] = {(char[]){"SERIAL-1"}, (char[]){"nobody"}};
    rq.point_id = (char[]){"00000009-aaaa-4bbb-8ccc-000000000001"};
    rq.source = &config;
    rq.disk_ids = wanted;
    rq.n_disk_ids = 2;
    assert_int_equal(source_for(&config)->snapshot(&rq, no_journal, NULL, &s, &taken, &why),
                     -ENOENT);
    assert_int_equal(clones(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_point_is_what_the_images_were, on_xfs, teardown),
        cmocka_unit_test_setup_teardown(each_point_is_what_the_images_were, on_btrfs, teardown),
        cmocka_unit_test_setup_teardown(a_failed_point_leaves_the_base, on_xfs, teardown),
        cmocka_unit_test_setup_teardown(a_failed_point_leaves_the_base, on_btrfs, teardown),
        cmocka_unit_test_setup_teardown(no_base_is_a_full_copy_with_a_reason, on_xfs, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_cloned_is_refused, on_xfs, teardown),
        cmocka_unit_test_setup_teardown(a_file_system_that_cannot_clone_is_named, on_ext4,
                                        teardown),
        cmocka_unit_test_setup_teardown(disks_are_described_and_chosen, on_xfs, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
