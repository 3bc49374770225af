/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The QEMU source against a real QEMU. */
#include "vm.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#define POINT_1 "11111111-aaaa-4bbb-8ccc-000000000001"
#define POINT_2 "22222222-aaaa-4bbb-8ccc-000000000002"
#define POINT_3 "33333333-aaaa-4bbb-8ccc-000000000003"

static struct vm vm;

static int setup(void **state)
{
    (void)state;
    vm_start(&vm);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vm_stop(&vm);
    return 0;
}

struct open_point {
    struct source_snapshot *snapshot;
    Sp__SnapshotResponse *response;
};

static struct open_point take(const char *point, bool held)
{
    struct open_point p = {0};
    struct sp_why why = {""};
    if (vm_snapshot(&vm, point, held, NULL, NULL, &p.snapshot, &p.response, &why))
        fail_msg("snapshot: %s", why.text);
    return p;
}

static void done(struct open_point *p)
{
    source_for(&vm.config)->close(p->snapshot);
    sp__snapshot_response__free_unpacked(p->response, NULL);
    *p = (struct open_point){0};
}

static void release(const char *point, bool transferred)
{
    struct sp_why why = {""};
    if (vm_release(&vm, point, NULL, transferred, &why))
        fail_msg("release: %s", why.text);
}

/* The range of a disk reads as this byte. */
static void assert_reads(struct source_snapshot *s, uint32_t disk, uint64_t offset, uint32_t length,
                         int byte)
{
    struct sp_why why = {""};
    SP_FREE uint8_t *data = malloc(length);
    if (source_for(&vm.config)->read_at(s, disk, offset, data, length, &why))
        fail_msg("read: %s", why.text);
    for (uint32_t i = 0; i < length; i++) {
        if (data[i] != byte)
            fail_msg("disk %u byte %llu is %#x instead of %#x", disk,
                     (unsigned long long)offset + i, data[i], byte);
    }
}

static void describe_tells_each_disk(void **state)
{
    (void)state;
    const struct source *source = source_for(&vm.config);
    Sp__DescribeRequest rq;
    Sp__DescribeResponse *m = NULL;
    struct sp_why why = {""};
    sp__describe_request__init(&rq);
    rq.source = &vm.config;
    assert_int_equal(source->describe(&rq, &m, &why), 0);
    assert_true(m->running);
    assert_memory_equal(m->version, "QEMU ", 5);
    assert_int_equal(m->n_disks, VM_DISKS + 2);
    unsigned seen = 0;
    for (size_t i = 0; i < m->n_disks; i++) {
        const Sp__SourceDisk *d = m->disks[i];
        if (!strcmp(d->disk_id, "S0")) {
            assert_string_equal(d->source_name, "disk0");
            assert_string_equal(d->format, "raw");
            assert_int_equal(d->size_bytes, VM_DISK_BYTES);
            assert_int_equal(d->logical_sector_bytes, 512);
            assert_memory_equal(d->pci_path, "0000:00:", 8);
            assert_false(d->skipped);
            seen |= 1;
        } else if (!strcmp(d->disk_id, "S1")) {
            assert_string_equal(d->source_name, "n1");
            assert_string_equal(d->format, "qcow2");
            assert_int_equal(d->logical_sector_bytes, 4096);
            seen |= 2;
        } else if (!strcmp(d->disk_id, "scsi0")) {
            assert_string_equal(d->serial, "");
            seen |= 4;
        } else if (!strcmp(d->disk_id, "SEED")) {
            assert_true(d->skipped);
            assert_string_equal(d->skipped_why, "read-only for the guest");
            seen |= 8;
        } else if (!strcmp(d->source_name, "cd")) {
            assert_true(d->skipped);
            assert_string_equal(d->skipped_why, "a CD drive");
            seen |= 16;
        }
    }
    assert_int_equal(seen, 31);
    assert_string_equal(m->definition->source, "qemu");
    assert_non_null(strstr(m->definition->text, "\"query-block\""));
    assert_non_null(strstr(m->definition->text, "disk0"));
    sp__describe_response__free_unpacked(m, NULL);
}

static void the_point_in_time_holds_while_the_guest_writes(void **state)
{
    (void)state;
    SP_FREE char *before = vm_state(&vm, false);
    struct open_point p = take(POINT_1, false);
    assert_true(p.response->held_by_source);
    assert_int_equal(p.response->n_disks, VM_DISKS);
    char status[32];
    vm_status(&vm, status);
    assert_string_equal(status, "running");
    for (size_t i = 0; i < VM_DISKS; i++) {
        vm_io(&vm, i, "write -P 0xee 1M 4M");
        vm_io(&vm, i, "write -P 0xdd 40M 1M");
        vm_io(&vm, i, "write -P 0xcc 65536 4096");
    }
    for (uint32_t i = 0; i < VM_DISKS; i++) {
        /* query-block lists the disks in its own order: the response says which is which. */
        const char *id = p.response->disks[i]->disk_id;
        int number = !strcmp(id, "scsi0") ? 2 : id[1] - '0';
        assert_reads(p.snapshot, i, 0, VM_PATTERN_BYTES, 0x10 + number);
        assert_reads(p.snapshot, i, VM_PATTERN_BYTES, VM_DISK_BYTES - VM_PATTERN_BYTES, 0);
    }
    assert_false(source_for(&vm.config)->broken(p.snapshot));
    done(&p);
    release(POINT_1, false);
    SP_FREE char *after = vm_state(&vm, false);
    assert_string_equal(before, after);
    /* The guest's writes are where they belong. */
    p = take(POINT_2, true);
    assert_false(p.response->held_by_source);
    for (uint32_t i = 0; i < VM_DISKS; i++) {
        assert_reads(p.snapshot, i, 1 << 20, 4 << 20, 0xee);
        assert_reads(p.snapshot, i, 40 << 20, 1 << 20, 0xdd);
    }
    done(&p);
    release(POINT_2, true);
    release(POINT_2, true); /* again */
    release(POINT_1, false);
    SP_FREE char *last = vm_state(&vm, false);
    assert_string_equal(before, last);
}

static void next_data_skips_what_was_never_written(void **state)
{
    (void)state;
    struct open_point p = take(POINT_1, false);
    const struct source *source = source_for(&vm.config);
    struct sp_why why = {""};
    for (uint32_t i = 0; i < VM_DISKS; i++) {
        uint64_t at = 0, offset, length, sum = 0;
        int r;
        vm_io(&vm, i, "write -P 0xee 50M 1M"); /* after the point: not its data */
        while ((r = source->next_data(p.snapshot, i, at, &offset, &length, &why)) > 0) {
            assert_true(offset >= at && length > 0 && offset + length <= VM_DISK_BYTES);
            sum += length;
            at = offset + length;
        }
        if (r)
            fail_msg("next_data: %s", why.text);
        assert_in_range(sum, VM_PATTERN_BYTES, VM_PATTERN_BYTES + (1 << 20));
    }
    uint8_t byte;
    assert_int_equal(source->read_at(p.snapshot, 0, VM_DISK_BYTES, &byte, 1, &why), -EINVAL);
    assert_int_equal(source->read_at(p.snapshot, VM_DISKS, 0, &byte, 1, &why), -EINVAL);
    done(&p);
    release(POINT_1, false);
}

static void a_full_fleece_breaks_the_point_and_not_the_guest(void **state)
{
    (void)state;
    SP_FREE char *before = vm_state(&vm, false);
    vm.qemu.fleece_limit_bytes = 4 << 20;
    struct open_point p = take(POINT_1, false);
    const struct source *source = source_for(&vm.config);
    struct sp_why why = {""};
    uint8_t data[4096];
    assert_int_equal(source->read_at(p.snapshot, 0, 0, data, sizeof data, &why), 0);
    for (size_t i = 0; i < VM_DISKS; i++) {
        for (unsigned at = 0; at < 16; at++) {
            char command[64];
            snprintf(command, sizeof command, "write -P 0xee %uM 1M", at);
            vm_io(&vm, i, command);
        }
    }
    char status[32];
    vm_status(&vm, status);
    assert_string_equal(status, "running");
    for (uint32_t i = 0; i < VM_DISKS; i++) {
        assert_int_equal(source->read_at(p.snapshot, i, 0, data, sizeof data, &why), -EIO);
        assert_non_null(strstr(why.text, "fleece"));
    }
    assert_true(source->broken(p.snapshot));
    done(&p);
    release(POINT_1, false);
    SP_FREE char *after = vm_state(&vm, false);
    assert_string_equal(before, after);
    vm.qemu.fleece_limit_bytes = 0;
    p = take(POINT_2, false); /* the guest's own writes all arrived */
    for (uint32_t i = 0; i < VM_DISKS; i++)
        assert_reads(p.snapshot, i, 0, 16 << 20, 0xee);
    done(&p);
    release(POINT_2, false);
}

static void a_full_fleece_folder_breaks_the_point_and_not_the_guest(void **state)
{
    (void)state;
    SP_FREE char *small = NULL;
    assert_true(asprintf(&small, "%s/small", vm.folder) > 0);
    assert_int_equal(mkdir(small, 0700), 0);
    if (mount("tmpfs", small, "tmpfs", 0, "size=6m")) {
        rmdir(small);
        fail_msg("run it as root: it mounts a small file system");
    }
    vm.qemu.fleece_directory = small;
    struct open_point p = take(POINT_1, false);
    const struct source *source = source_for(&vm.config);
    struct sp_why why = {""};
    uint8_t data[4096];
    for (unsigned at = 0; at < 16; at++) {
        char command[64];
        snprintf(command, sizeof command, "write -P 0xee %uM 1M", at);
        vm_io(&vm, 0, command);
    }
    char status[32];
    vm_status(&vm, status);
    assert_string_equal(status, "running");
    int failed = 0;
    for (uint32_t i = 0; i < VM_DISKS; i++)
        failed += source->read_at(p.snapshot, i, 0, data, sizeof data, &why) != 0;
    assert_int_equal(failed, 1); /* the disk that was written to */
    assert_true(source->broken(p.snapshot));
    done(&p);
    release(POINT_1, false);
    vm.qemu.fleece_directory = vm.folder;
    assert_int_equal(umount(small), 0); /* nothing of QEMU's holds it */
    rmdir(small);
}

static void bitmaps_keep_the_base_of_the_last_full_copy(void **state)
{
    (void)state;
    /* The first full copy. */
    struct open_point p = take(POINT_1, false);
    done(&p);
    release(POINT_1, true);
    for (size_t i = 0; i < VM_DISKS; i++) {
        char node[3] = {'n', (char)('0' + i), 0};
        SP_FREE char *now = vm_bitmaps(&vm, node);
        assert_string_equal(now, "sealpoint-11111111aaaa4bbb8ccc:1:0");
        vm_io(&vm, i, "write -P 0xee 1M 64k");
    }
    /* A copy that fails: what changed since counts for the base. */
    p = take(POINT_2, false);
    for (size_t i = 0; i < VM_DISKS; i++) {
        char node[3] = {'n', (char)('0' + i), 0};
        vm_io(&vm, i, "write -P 0xdd 2M 64k");
        SP_FREE char *now = vm_bitmaps(&vm, node);
        assert_string_equal(now, "sealpoint-11111111aaaa4bbb8ccc:0:65536 "
                                 "sealpoint-22222222aaaa4bbb8ccc:1:65536");
    }
    done(&p);
    release(POINT_2, false);
    for (size_t i = 0; i < VM_DISKS; i++) {
        char node[3] = {'n', (char)('0' + i), 0};
        SP_FREE char *now = vm_bitmaps(&vm, node);
        assert_string_equal(now, "sealpoint-11111111aaaa4bbb8ccc:1:131072");
    }
    /* The next one that succeeds is the base; a late release of an older point changes nothing. */
    p = take(POINT_3, false);
    vm_io(&vm, 0, "write -P 0xcc 3M 128k");
    done(&p);
    release(POINT_3, true);
    release(POINT_1, true);
    release(POINT_2, false);
    SP_FREE char *now = vm_bitmaps(&vm, "n0");
    assert_string_equal(now, "sealpoint-33333333aaaa4bbb8ccc:1:131072");
}

static void a_second_point_at_the_same_time_is_refused(void **state)
{
    (void)state;
    struct open_point p = take(POINT_1, false);
    struct source_snapshot *s = NULL;
    Sp__SnapshotResponse *m = NULL;
    struct sp_why why = {""};
    assert_int_equal(vm_snapshot(&vm, POINT_2, false, NULL, NULL, &s, &m, &why), -EBUSY);
    assert_non_null(strstr(why.text, "release"));
    assert_reads(p.snapshot, 0, 0, 4096, 0x10 + (p.response->disks[0]->disk_id[1] - '0'));
    done(&p);
    release(POINT_1, false);
}

static void describe_sees_through_the_filters(void **state)
{
    (void)state;
    struct open_point p = take(POINT_1, false);
    Sp__DescribeRequest rq;
    Sp__DescribeResponse *m = NULL;
    struct sp_why why = {""};
    sp__describe_request__init(&rq);
    rq.source = &vm.config;
    assert_int_equal(source_for(&vm.config)->describe(&rq, &m, &why), 0);
    for (size_t i = 0; i < m->n_disks; i++)
        assert_string_not_equal(m->disks[i]->format, "copy-before-write");
    sp__describe_response__free_unpacked(m, NULL);
    done(&p);
    release(POINT_1, false);
}

static void a_guest_that_was_paused_stays_paused(void **state)
{
    (void)state;
    SP_FREE char *before = vm_state(&vm, false);
    assert_int_equal(qmp_call(vm.qmp, "stop", NULL, NULL, NULL), 0);
    struct open_point p = take(POINT_1, false);
    assert_false(p.response->held_by_source);
    done(&p);
    release(POINT_1, false);
    char status[32];
    vm_status(&vm, status);
    assert_string_equal(status, "paused");
    assert_int_equal(qmp_call(vm.qmp, "cont", NULL, NULL, NULL), 0);
    /* A QEMU that is paused keeps descriptor sets until it runs and is asked something. */
    release(POINT_1, false);
    SP_FREE char *after = vm_state(&vm, false);
    assert_string_equal(before, after);
}

static void only_the_disks_asked_for(void **state)
{
    (void)state;
    char *ids[] = {"S1"}, *unknown[] = {"S1", "nothing"}, *cd[] = {"SEED"};
    Sp__SnapshotRequest rq;
    struct source_snapshot *s = NULL;
    Sp__SnapshotResponse *m = NULL;
    struct sp_why why = {""};
    sp__snapshot_request__init(&rq);
    rq.point_id = POINT_1;
    rq.source = &vm.config;
    rq.disk_ids = unknown;
    rq.n_disk_ids = 2;
    const struct source *source = source_for(&vm.config);
    assert_int_equal(source->snapshot(&rq, vm_no_journal, NULL, &s, &m, &why), -ENOENT);
    rq.disk_ids = cd;
    rq.n_disk_ids = 1;
    assert_int_equal(source->snapshot(&rq, vm_no_journal, NULL, &s, &m, &why), -EINVAL);
    assert_non_null(strstr(why.text, "read-only"));
    rq.disk_ids = ids;
    assert_int_equal(source->snapshot(&rq, vm_no_journal, NULL, &s, &m, &why), 0);
    assert_int_equal(m->n_disks, 1);
    assert_string_equal(m->disks[0]->disk_id, "S1");
    assert_reads(s, 0, 0, 4096, 0x11);
    struct open_point p = {s, m};
    done(&p);
    release(POINT_1, false);
}

static void an_nbd_server_of_somebody_else_is_left_alone(void **state)
{
    (void)state;
    struct sp_why why = {""};
    SP_FREE char *path = NULL;
    assert_true(asprintf(&path, "%s/other.nbd", vm.folder) > 0);
    json_object *address = qmp_object("type=s,data=o", "unix", qmp_object("path=s", path));
    assert_int_equal(
        qmp_call(vm.qmp, "nbd-server-start", qmp_object("addr=o", address), NULL, &why), 0);
    SP_FREE char *before = vm_state(&vm, true);
    struct source_snapshot *s = NULL;
    Sp__SnapshotResponse *m = NULL;
    assert_int_equal(vm_snapshot(&vm, POINT_1, false, NULL, NULL, &s, &m, &why), -EREMOTEIO);
    assert_non_null(strstr(why.text, "NBD"));
    SP_FREE char *after = vm_state(&vm, true);
    assert_string_equal(before, after);
    release(POINT_1, false);
    assert_int_equal(qmp_call(vm.qmp, "nbd-server-stop", NULL, NULL, &why), 0); /* still there */
    unlink(path);
}

static void a_qemu_that_ends_is_a_lost_source(void **state)
{
    (void)state;
    struct open_point p = take(POINT_1, false);
    kill(vm.pid, SIGKILL);
    waitpid(vm.pid, NULL, 0);
    vm.pid = 0;
    const struct source *source = source_for(&vm.config);
    struct sp_why why = {""};
    uint8_t data[4096];
    uint64_t offset, length;
    for (uint32_t i = 0; i < VM_DISKS; i++) {
        assert_int_equal(source->read_at(p.snapshot, i, 0, data, sizeof data, &why), -EIO);
        assert_non_null(strstr(why.text, "source was lost"));
        assert_int_equal(source->next_data(p.snapshot, i, 0, &offset, &length, &why), -EIO);
    }
    assert_false(source->broken(p.snapshot));
    done(&p);
    release(POINT_1, false);
    Sp__DescribeRequest rq;
    Sp__DescribeResponse *m = NULL;
    sp__describe_request__init(&rq);
    rq.source = &vm.config;
    assert_true(source->describe(&rq, &m, &why) < 0);
    assert_non_null(strstr(why.text, "no QEMU serves"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(describe_tells_each_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(the_point_in_time_holds_while_the_guest_writes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(next_data_skips_what_was_never_written, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_fleece_breaks_the_point_and_not_the_guest, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_full_fleece_folder_breaks_the_point_and_not_the_guest,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(bitmaps_keep_the_base_of_the_last_full_copy, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_second_point_at_the_same_time_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(describe_sees_through_the_filters, setup, teardown),
        cmocka_unit_test_setup_teardown(a_guest_that_was_paused_stays_paused, setup, teardown),
        cmocka_unit_test_setup_teardown(only_the_disks_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(an_nbd_server_of_somebody_else_is_left_alone, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_qemu_that_ends_is_a_lost_source, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
