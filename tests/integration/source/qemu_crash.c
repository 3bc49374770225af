/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * kill -9 of the process that takes a snapshot, or releases one, after every command that changes
 * QEMU and after every entry of the journal. Release must then leave QEMU as it was. The process
 * talks to QEMU through a proxy in here, which holds back the reply to command N and kills. */
#include "proxy.h"
#include "vm.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

#define POINT "12345678-aaaa-4bbb-8ccc-00000000000a"
#define BASE  "99999999-aaaa-4bbb-8ccc-00000000000b"

static struct vm vm;
static char journal_path[128], proxy_path[128];
static unsigned kill_at_entry; /* 0: never */

static int keep_journal(void *self, const char *journal)
{
    (void)self;
    int r = sp_file_replace(journal_path, journal, strlen(journal), 0600);
    if (!r && kill_at_entry && --kill_at_entry == 0)
        raise(SIGKILL);
    return r;
}

/* ── The process under test ── */

enum work { SNAPSHOT, RELEASE };

static pid_t start_child(enum work work, bool through_proxy)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid)
        return pid;
    struct sp_why why = {""};
    if (through_proxy)
        vm.qemu.qmp_socket = proxy_path;
    struct source_snapshot *s = NULL;
    Sp__SnapshotResponse *m = NULL;
    int r = work == SNAPSHOT ? vm_snapshot(&vm, POINT, false, keep_journal, NULL, &s, &m, &why)
                             : vm_release(&vm, POINT, NULL, true, &why);
    if (r)
        fprintf(stderr, "child: %s\n", why.text);
    /* Not exit(): the open connections must end as they would with a kill. */
    _exit(r ? 1 : 0);
}

/* ── The proxy ── */

/* Relays between the child and QEMU; holds back the reply to the n-th command that changes
 * something and kills the child then. False: the child ended before that. */
static bool proxy(int listener, pid_t child, unsigned n)
{
    SP_FD int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    SP_FD int qemu = proxy_connect(vm.source_socket);
    static char buffer[1 << 20];
    bool last = false;
    for (;;) {
        struct pollfd p[] = {{.fd = client, .events = POLLIN}, {.fd = qemu, .events = POLLIN}};
        assert_true(poll(p, 2, 60000) > 0);
        if (p[0].revents) { /* a command is one line, sent at once */
            size_t size = proxy_relay(client, qemu, buffer, sizeof buffer - 1);
            if (!size)
                return false;
            buffer[size] = 0;
            last = proxy_changes(buffer) && --n == 0;
        }
        if (p[1].revents) {
            size_t size = proxy_relay(qemu, last ? -1 : client, buffer, sizeof buffer - 1);
            buffer[size] = 0;
            if (last && (strstr(buffer, "\"return\"") || strstr(buffer, "\"error\""))) {
                kill(child, SIGKILL);
                return true;
            }
            assert_true(size > 0);
        }
    }
}

/* ── Tests ── */

static void assert_released(const char *before, const char *what, unsigned n)
{
    struct sp_why why = {""};
    SP_FREE char *journal = NULL;
    sp_file_read(journal_path, 1 << 20, &journal, NULL);
    for (unsigned i = 0; i < 2; i++) { /* again and again */
        if (vm_release(&vm, POINT, journal, false, &why))
            fail_msg("after %s %u: release: %s", what, n, why.text);
        SP_FREE char *after = vm_state(&vm, true);
        if (strcmp(before, after) != 0)
            fail_msg("after %s %u QEMU was left as\n%s\ninstead of\n%s", what, n, after, before);
    }
    for (size_t i = 0; i < VM_DISKS; i++)
        vm_io(&vm, i, "write -P 0x5a 0 64k"); /* the guest's disks work */
    unlink(journal_path);
}

static void killed_after_each_command_of_a_snapshot(void **state)
{
    (void)state;
    SP_FREE char *before = vm_state(&vm, true);
    SP_FD int listener = proxy_listen(proxy_path);
    bool killed = true;
    unsigned n = 0;
    while (killed) {
        pid_t child = start_child(SNAPSHOT, true);
        int status;
        killed = proxy(listener, child, ++n);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!killed)
            assert_int_equal(status, 0); /* it came through: every command was tried */
        assert_released(before, "command", n);
    }
    assert_in_range(n, 30, 200);
    unlink(proxy_path);
}

static void killed_after_each_entry_of_the_journal(void **state)
{
    (void)state;
    SP_FREE char *before = vm_state(&vm, true);
    unsigned n = 0;
    int status;
    do {
        kill_at_entry = ++n;
        pid_t child = start_child(SNAPSHOT, false);
        assert_int_equal(waitpid(child, &status, 0), child);
        kill_at_entry = 0;
        assert_released(before, "journal entry", n);
    } while (WIFSIGNALED(status));
    assert_int_equal(status, 0);
    assert_in_range(n, 5, 20);
}

static void killed_after_each_command_of_a_release(void **state)
{
    (void)state;
    SP_FD int listener = proxy_listen(proxy_path);
    struct sp_why why = {""};
    bool killed = true;
    unsigned n = 0;
    SP_FREE char *before = vm_state(&vm, false);
    while (killed) {
        pid_t child = start_child(SNAPSHOT, false);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        child = start_child(RELEASE, true);
        killed = proxy(listener, child, ++n);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!killed)
            assert_int_equal(status, 0);
        if (vm_release(&vm, POINT, NULL, true, &why))
            fail_msg("after command %u of release: %s", n, why.text);
        SP_FREE char *after = vm_state(&vm, false);
        if (strcmp(before, after) != 0)
            fail_msg("after command %u of release QEMU was left as\n%s", n, after);
        for (size_t i = 0; i < VM_DISKS; i++) {
            char node[3] = {'n', (char)('0' + i), 0};
            SP_FREE char *bitmaps = vm_bitmaps(&vm, node);
            assert_string_equal(bitmaps, "sealpoint-12345678aaaa4bbb8ccc:1:0");
        }
        /* For the next round, as if the point had failed. */
        assert_int_equal(vm_release(&vm, POINT, NULL, false, &why), 0);
    }
    assert_in_range(n, 15, 200);
    unlink(proxy_path);
    unlink(journal_path);
}

/* Reads all disks for ever; says so after the first round. */
static void read_for_ever(int tell)
{
    struct sp_why why = {""};
    struct source_snapshot *s = NULL;
    Sp__SnapshotResponse *m = NULL;
    static uint8_t data[1 << 20];
    if (vm_snapshot(&vm, POINT, false, keep_journal, NULL, &s, &m, &why))
        _exit(1);
    for (unsigned round = 0;; round++) {
        for (uint32_t i = 0; i < VM_DISKS; i++) {
            if (source_for(&vm.config)->read_at(s, i, 0, data, sizeof data, &why))
                _exit(1);
        }
        if (round == 0 && write(tell, "r", 1) != 1)
            _exit(1);
    }
}

static void killed_while_reading(void **state)
{
    (void)state;
    SP_FREE char *before = vm_state(&vm, true);
    for (unsigned n = 1; n <= 10; n++) {
        int tell[2];
        char byte;
        assert_int_equal(pipe(tell), 0);
        pid_t child = fork();
        if (child == 0)
            read_for_ever(tell[1]);
        close(tell[1]);
        assert_int_equal(read(tell[0], &byte, 1), 1);
        close(tell[0]);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        for (size_t i = 0; i < VM_DISKS; i++)
            vm_io(&vm, i, "write -P 0x77 8M 1M"); /* QEMU lives on before anybody releases */
        struct sp_why why = {""};
        assert_int_equal(vm_release(&vm, POINT, NULL, false, &why), 0);
        for (size_t i = 0; i < VM_DISKS; i++)
            vm_io(&vm, i, "write -P 0x5a 0 64k");
    }
    /* What was written counts for the base; all else is as before. */
    assert_int_equal(vm_release(&vm, BASE, NULL, false, &(struct sp_why){""}), 0);
    SP_FREE char *after = vm_state(&vm, false);
    assert_null(strstr(after, "sealpoint"));
    assert_null(strstr(after, "spc-"));
    assert_non_null(strstr(before, "sealpoint-99999999"));
    unlink(journal_path);
}

static int refuse(void *self, const char *journal)
{
    (void)journal;
    unsigned *left = self;
    return *left && --*left == 0 ? -ENOSPC : 0;
}

static void a_journal_that_cannot_be_written_stops_the_snapshot(void **state)
{
    (void)state;
    SP_FREE char *before = vm_state(&vm, true);
    unsigned n = 0;
    int r;
    struct source_snapshot *s = NULL;
    Sp__SnapshotResponse *m = NULL;
    do {
        struct sp_why why = {""};
        unsigned left = ++n;
        r = vm_snapshot(&vm, POINT, false, refuse, &left, &s, &m, &why);
        if (!r)
            break;
        assert_int_equal(r, -ENOSPC);
        assert_non_null(strstr(why.text, "recorded"));
        SP_FREE char *after = vm_state(&vm, true);
        assert_string_equal(before, after); /* undone already, nobody has to release */
    } while (n < 20);
    assert_int_equal(n, 6);
    source_for(&vm.config)->close(s);
    sp__snapshot_response__free_unpacked(m, NULL);
    assert_released(before, "snapshot", 0);
}

static int setup(void **state)
{
    (void)state;
    vm_start(&vm);
    snprintf(journal_path, sizeof journal_path, "%s/journal", vm.folder);
    snprintf(proxy_path, sizeof proxy_path, "%s/p.qmp", vm.folder);
    return 0;
}

/* With the bitmap of an older point there, whose content must survive. */
static int setup_with_base(void **state)
{
    struct sp_why why = {""};
    struct source_snapshot *s = NULL;
    Sp__SnapshotResponse *m = NULL;
    setup(state);
    assert_int_equal(vm_snapshot(&vm, BASE, false, NULL, NULL, &s, &m, &why), 0);
    source_for(&vm.config)->close(s);
    sp__snapshot_response__free_unpacked(m, NULL);
    assert_int_equal(vm_release(&vm, BASE, NULL, true, &why), 0);
    for (size_t i = 0; i < VM_DISKS; i++)
        vm_io(&vm, i, "write -P 0x5a 0 64k");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vm_stop(&vm);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(killed_after_each_entry_of_the_journal, setup_with_base,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_journal_that_cannot_be_written_stops_the_snapshot,
                                        setup_with_base, teardown),
        cmocka_unit_test_setup_teardown(killed_while_reading, setup_with_base, teardown),
        cmocka_unit_test_setup_teardown(killed_after_each_command_of_a_snapshot, setup_with_base,
                                        teardown),
        cmocka_unit_test_setup_teardown(killed_after_each_command_of_a_release, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
