/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Increments from a real QEMU into a vault. Whatever happens to the record of changes, each stored
 * disk must be what the snapshot reads as a whole. */
#include "fixture.h"
#include "proxy.h"
#include "vm.h"

#include "base/cleanup.h"
#include "controller/mover/mover.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCK = 65536 };

static struct fixture f;
static struct vm vm, second_vm;

/* ── One backup ── */

struct backup {
    struct vm *vm;
    char point[37], base[37]; /* base "": ask for none */
    const struct backup *before;
    bool held, failed;
    Sp__SnapshotResponse *taken;
    Sp__TransferResponse *stored;
    uint64_t fleece_used;
};

static struct backup backup_of(struct vm *of, unsigned number, const struct backup *before)
{
    struct backup b = {.vm = of, .before = before};
    snprintf(b.point, sizeof b.point, "%08x-aaaa-4bbb-8ccc-%012x", number, of == &vm ? 1u : 2u);
    if (before)
        snprintf(b.base, sizeof b.base, "%s", before->point);
    return b;
}

static void take(struct backup *b, struct source_snapshot **ret)
{
    Sp__SnapshotRequest rq = SP__SNAPSHOT_REQUEST__INIT;
    struct sp_why why = {""};
    char *bases[2] = {b->base, b->before ? (char *)(uintptr_t)b->before->base : NULL};
    rq.point_id = b->point;
    rq.source = &b->vm->config;
    rq.guest_is_held = b->held;
    rq.base_point_ids = bases;
    rq.n_base_point_ids = !b->base[0] ? 0 : bases[1][0] ? 2 : 1;
    if (source_for(rq.source)->snapshot(&rq, vm_no_journal, NULL, ret, &b->taken, &why))
        fail_msg("snapshot: %s", why.text);
}

static void transfer(struct backup *b, struct source_snapshot *s)
{
    Sp__TransferRequest rq = SP__TRANSFER_REQUEST__INIT;
    Sp__BaseDisk bases[2 * VM_DISKS], *list[2 * VM_DISKS];
    struct sp_why why = {""};
    rq.point_id = b->point;
    rq.vault_id = f.id;
    rq.bases = list;
    for (const struct backup *p = b->before; p && rq.n_bases + VM_DISKS <= 2 * VM_DISKS;
         p = p->before) {
        for (size_t i = 0; p->stored && !p->failed && i < p->stored->n_disks; i++) {
            Sp__BaseDisk *base = list[rq.n_bases] = &bases[rq.n_bases];
            rq.n_bases++;
            sp__base_disk__init(base);
            base->point_id = (char *)(uintptr_t)p->point;
            base->machine_id = "machine";
            base->image = p->stored->disks[i];
        }
    }
    int r = mover_transfer(source_for(&b->vm->config), s, b->taken, &rq, f.vault, NULL, &b->stored,
                           &why);
    if (r < 0)
        fail_msg("transfer: %s", why.text);
}

/* The stored disk is what the snapshot reads as a whole. */
static void compare(const struct backup *b, struct source_snapshot *s)
{
    SP_FREE uint8_t *is = malloc(VM_DISK_BYTES), *should = malloc(VM_DISK_BYTES);
    struct sp_why why = {""};
    assert_int_equal(b->stored->n_disks, VM_DISKS);
    for (uint32_t i = 0; i < VM_DISKS; i++) {
        struct vault_reader *reader = NULL;
        const Sp__DiskImage *image = b->stored->disks[i];
        assert_string_equal(image->disk_id, b->taken->disks[i]->disk_id);
        for (unsigned at = 0; at < VM_DISK_BYTES; at += 256 << 10)
            assert_int_equal(
                source_for(&b->vm->config)->read_at(s, i, at, should + at, 256 << 10, &why), 0);
        assert_int_equal(vault_reader_new(f.vault, image->root.data, VM_DISK_BYTES, &reader, &why),
                         0);
        assert_int_equal(vault_reader_at(reader, 0, is, VM_DISK_BYTES, &why), 0);
        for (unsigned at = 0; at < VM_DISK_BYTES; at += BLOCK) {
            if (memcmp(is + at, should + at, BLOCK) != 0)
                fail_msg("disk %s of point %s: block %u is not what the snapshot has",
                         image->disk_id, b->point, at / BLOCK);
        }
        vault_reader_free(reader);
    }
}

static void finish(struct backup *b, struct source_snapshot *s)
{
    Sp__ReleaseSnapshotRequest rq = SP__RELEASE_SNAPSHOT_REQUEST__INIT;
    Sp__ReleaseSnapshotResponse *response = NULL;
    struct sp_why why = {""};
    const struct source *source = source_for(&b->vm->config);
    source->close(s);
    rq.point_id = b->point;
    rq.source = &b->vm->config;
    rq.transferred = !b->failed;
    if (source->release(&rq, &response, &why))
        fail_msg("release: %s", why.text);
    b->fleece_used = response->fleece_used_bytes;
    sp__release_snapshot_response__free_unpacked(response, NULL);
    if (b->failed)
        return;
    Sp__Signed *m =
        manifest_make(&f, "machine", b->point, 1, 0, b->stored->disks, b->stored->n_disks);
    if (vault_put_manifest(f.vault, m, &why))
        fail_msg("manifest: %s", why.text);
    sp__signed__free_unpacked(m, NULL);
    assert_int_equal(vault_end_journal(f.vault, b->point, true), 0);
}

static void back_up(struct backup *b)
{
    struct source_snapshot *s = NULL;
    take(b, &s);
    transfer(b, s);
    if (b->before) /* full copies have tests of their own; comparing takes most of the time here */
        compare(b, s);
    finish(b, s);
}

static void drop(struct backup *b)
{
    if (b->taken)
        sp__snapshot_response__free_unpacked(b->taken, NULL);
    if (b->stored)
        sp__transfer_response__free_unpacked(b->stored, NULL);
}

static const Sp__DiskImage *image_of(const struct backup *b, const char *id)
{
    for (size_t i = 0; i < b->stored->n_disks; i++) {
        if (!strcmp(b->stored->disks[i]->disk_id, id))
            return b->stored->disks[i];
    }
    fail_msg("no disk %s", id);
    return NULL;
}

static void assert_increment(const struct backup *b, const char *id, const char *base)
{
    assert_string_equal(image_of(b, id)->base_point_id, base);
}

static void assert_note(const struct backup *b, const char *id, const char *text)
{
    for (size_t i = 0; i < b->stored->n_notes; i++) {
        const Sp__Finding *n = b->stored->notes[i];
        if (!strcmp(n->disk_id, id) && strstr(n->text, text)) {
            assert_true(n->note);
            assert_int_equal(n->reason, SP__REASON__REASON_COPIED_IN_FULL);
            assert_string_equal(image_of(b, id)->base_point_id, "");
            return;
        }
    }
    fail_msg("no note on %s says '%s'", id, text);
}

/* ── Writes in every gap ── */

static char proxy_path[128];
static atomic_uint gaps;

static void write_at_gap(void)
{
    unsigned n = atomic_fetch_add(&gaps, 1);
    char command[64];
    for (size_t i = 0; i < VM_DISKS; i++) {
        snprintf(command, sizeof command, "write -P %u %u 64k", 1 + n % 255, (3 + n * 3) * BLOCK);
        vm_io(&vm, i, command);
        /* And one place that every gap writes to again. */
        snprintf(command, sizeof command, "write -P %u 50M 4k", 1 + n % 255);
        vm_io(&vm, i, command);
    }
}

/* Relays one connection; the guest writes before each command that changes something, and before
 * its reply comes back. */
static void *proxy(void *arg)
{
    static char buffer[1 << 20];
    SP_FD int client = accept4(*(int *)arg, NULL, NULL, SOCK_CLOEXEC);
    SP_FD int qemu = proxy_connect(vm.source_socket);
    bool told = false;
    for (;;) {
        struct pollfd p[] = {{.fd = client, .events = POLLIN}, {.fd = qemu, .events = POLLIN}};
        assert_true(poll(p, 2, 60000) > 0);
        if (p[0].revents) {
            char peek[4096];
            ssize_t size = recv(client, peek, sizeof peek - 1, MSG_PEEK);
            peek[size > 0 ? size : 0] = 0;
            told = proxy_changes(peek);
            if (told)
                write_at_gap();
            if (!proxy_relay(client, qemu, buffer, sizeof buffer))
                return NULL;
        }
        if (p[1].revents) {
            if (told)
                write_at_gap();
            told = false;
            assert_true(proxy_relay(qemu, client, buffer, sizeof buffer) > 0);
        }
    }
}

static void take_with_writes(struct backup *b, struct source_snapshot **ret)
{
    pthread_t thread;
    int listener = proxy_listen(proxy_path);
    atomic_store(&gaps, 0);
    assert_int_equal(pthread_create(&thread, NULL, proxy, &listener), 0);
    b->vm->qemu.qmp_socket = proxy_path;
    take(b, ret);
    b->vm->qemu.qmp_socket = b->vm->source_socket;
    pthread_join(thread, NULL);
    close(listener);
    unlink(proxy_path);
    assert_in_range(atomic_load(&gaps), 60, 300);
}

static void a_write_at_every_gap_is_in_this_point_or_the_next(void **state)
{
    (void)state;
    struct backup b[4];
    snprintf(proxy_path, sizeof proxy_path, "%s/p.qmp", vm.folder);
    b[0] = backup_of(&vm, 1, NULL);
    back_up(&b[0]);
    for (unsigned n = 1; n < 4; n++) {
        struct source_snapshot *s = NULL;
        b[n] = backup_of(&vm, n + 1, &b[n - 1]);
        b[n].held = n == 2; /* by a freeze, as far as the source is told */
        if (n < 3)
            take_with_writes(&b[n], &s);
        else
            take(&b[n], &s);
        transfer(&b[n], s);
        compare(&b[n], s);
        finish(&b[n], s);
        for (size_t i = 0; i < VM_DISKS; i++)
            assert_string_equal(b[n].stored->disks[i]->base_point_id, b[n - 1].point);
    }
    /* Some of each round's writes fell behind its point: without them in the next, nothing would
     * have been tried. */
    assert_true(image_of(&b[3], "S0")->new_bytes > 0);
    for (unsigned n = 0; n < 4; n++)
        drop(&b[n]);
}

/* ── What an increment costs ── */

static void an_increment_reads_what_changed_and_half_a_percent(void **state)
{
    (void)state;
    struct backup one = backup_of(&vm, 1, NULL), two = backup_of(&vm, 2, &one);
    back_up(&one);
    assert_int_equal(one.stored->n_notes, 0); /* nobody expected more of the first */
    assert_int_equal(one.fleece_used > 0, true);
    assert_true(one.taken->fleece_limit_bytes >= VM_DISKS * (uint64_t)VM_DISK_BYTES);
    for (unsigned i = 0; i < 10; i++) {
        char command[64];
        snprintf(command, sizeof command, "write -P 0x77 %u 4k", (7 + i * 50) * BLOCK);
        vm_io(&vm, 0, command);
    }
    vm_io(&vm, 0, "discard 16M 1M");
    back_up(&two);
    const Sp__DiskImage *image = image_of(&two, "S0");
    assert_increment(&two, "S0", one.point);
    assert_in_range(image->reread_bytes, BLOCK, 7 * BLOCK);
    assert_in_range(image->read_bytes - image->reread_bytes, 10 * BLOCK, 26 * BLOCK * 12 / 10);
    assert_int_equal(image_of(&two, "S3")->read_bytes, image_of(&two, "S3")->reread_bytes);
    assert_memory_equal(image_of(&two, "S3")->root.data, image_of(&one, "S3")->root.data, 32);
    drop(&one);
    drop(&two);
}

/* ── Chains that break ── */

static void after_a_failed_copy_the_next_rests_on_the_last_whole_one(void **state)
{
    (void)state;
    struct source_snapshot *s = NULL;
    struct backup one = backup_of(&vm, 1, NULL), two = backup_of(&vm, 2, &one),
                  three = backup_of(&vm, 3, &two);
    back_up(&one);
    for (size_t i = 0; i < VM_DISKS; i++)
        vm_io(&vm, i, "write -P 0x31 1M 128k");
    two.failed = true;
    take(&two, &s);
    for (size_t i = 0; i < VM_DISKS; i++)
        vm_io(&vm, i, "write -P 0x32 2M 128k");
    finish(&two, s);
    /* The failed one is offered too, as a controller might that does not know. */
    snprintf(two.base, sizeof two.base, "%s", one.point);
    back_up(&three);
    for (size_t i = 0; i < VM_DISKS; i++)
        assert_string_equal(three.stored->disks[i]->base_point_id, one.point);
    assert_in_range(image_of(&three, "S0")->read_bytes, 4 * BLOCK, 12 * BLOCK);
    drop(&one);
    drop(&two);
    drop(&three);
}

static void a_restart_keeps_the_record_of_qcow2_only(void **state)
{
    (void)state;
    struct backup b[4];
    b[0] = backup_of(&vm, 1, NULL);
    back_up(&b[0]);
    vm_io(&vm, 1, "write -P 0x41 1M 128k");
    vm_restart(&vm, false);
    vm_io(&vm, 1, "write -P 0x42 2M 128k");
    b[1] = backup_of(&vm, 2, &b[0]);
    back_up(&b[1]);
    assert_increment(&b[1], "S1", b[0].point);
    assert_note(&b[1], "S0", "restarted");
    assert_note(&b[1], "scsi0", "restarted");
    /* From here on all have a record again. */
    b[2] = backup_of(&vm, 3, &b[1]);
    back_up(&b[2]);
    assert_increment(&b[2], "S0", b[1].point);
    assert_increment(&b[2], "S1", b[1].point);
    /* A QEMU that died has not saved what it knew: the record that it found is out of date. */
    vm_restart(&vm, false);
    vm_io(&vm, 1, "write -P 0x43 3M 128k");
    vm_restart(&vm, true);
    b[3] = backup_of(&vm, 4, &b[2]);
    back_up(&b[3]);
    assert_note(&b[3], "S1", "without saving");
    assert_note(&b[3], "S0", "restarted");
    for (unsigned n = 0; n < 4; n++)
        drop(&b[n]);
}

static void a_change_that_was_not_recorded_is_found(void **state)
{
    (void)state;
    struct backup one = backup_of(&vm, 1, NULL), two = backup_of(&vm, 2, &one);
    back_up(&one);
    vm_io(&vm, 2, "write -P 0x99 0 32M");
    char tag[21], bitmap[40];
    snprintf(tag, sizeof tag, "%.8s%.4s%.4s%.4s", one.point, one.point + 9, one.point + 14,
             one.point + 19);
    snprintf(bitmap, sizeof bitmap, "sealpoint-%s", tag);
    struct sp_why why = {""};
    if (qmp_call(vm.qmp, "block-dirty-bitmap-clear", qmp_object("node=s,name=s", "n2", bitmap),
                 NULL, &why))
        fail_msg("%s", why.text);
    back_up(&two);
    assert_note(&two, "scsi0", "cannot be trusted");
    assert_note(&two, "S0", "disk 'scsi0'"); /* nor the others' */
    drop(&one);
    drop(&two);
}

static void a_base_that_left_the_vault_is_not_missed(void **state)
{
    (void)state;
    struct backup one = backup_of(&vm, 1, NULL), two = backup_of(&vm, 2, &one);
    back_up(&one);
    vm_io(&vm, 0, "write -P 0x51 1M 64k");
    char path[256];
    object_path(&f, "manifests/", 0, path);
    assert_int_equal(unlink(path), 0);
    back_up(&two);
    assert_note(&two, "S0", "cannot be built on");
    drop(&one);
    drop(&two);
}

/* ── Several machines ── */

static void *two_backups(void *arg)
{
    struct backup *b = arg;
    back_up(&b[0]);
    back_up(&b[1]);
    return NULL;
}

static void machines_are_copied_side_by_side(void **state)
{
    (void)state;
    struct backup a[2], b[2];
    pthread_t threads[2];
    vm_start(&second_vm);
    a[0] = backup_of(&vm, 1, NULL);
    a[1] = backup_of(&vm, 2, &a[0]);
    b[0] = backup_of(&second_vm, 1, NULL);
    b[1] = backup_of(&second_vm, 2, &b[0]);
    assert_int_equal(pthread_create(&threads[0], NULL, two_backups, a), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, two_backups, b), 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    assert_increment(&a[1], "S0", a[0].point);
    assert_increment(&b[1], "S0", b[0].point);
    for (unsigned n = 0; n < 2; n++) {
        drop(&a[n]);
        drop(&b[n]);
    }
    vm_stop(&second_vm);
}

static int setup(void **state)
{
    (void)state;
    fixture_make(&f);
    vm_start(&vm);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vm_stop(&vm);
    fixture_free(&f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        TEST(a_write_at_every_gap_is_in_this_point_or_the_next),
        TEST(an_increment_reads_what_changed_and_half_a_percent),
        TEST(after_a_failed_copy_the_next_rests_on_the_last_whole_one),
        TEST(a_restart_keeps_the_record_of_qcow2_only),
        TEST(a_change_that_was_not_recorded_is_found),
        TEST(a_base_that_left_the_vault_is_not_missed),
        TEST(machines_are_copied_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
