/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "vm.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

static void run(char *const line[])
{
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        execvp(line[0], line);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void make_image(char *path, size_t n, bool qcow2)
{
    SP_FREE uint8_t *pattern = malloc(VM_PATTERN_BYTES);
    memset(pattern, 0x10 + (int)n, VM_PATTERN_BYTES);
    SP_FREE char *raw = sp_format("%s.raw", path);
    SP_FD int fd = open(qcow2 ? raw : path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, VM_DISK_BYTES) == 0);
    assert_int_equal(sp_pwrite_all(fd, pattern, VM_PATTERN_BYTES, 0), 0);
    if (qcow2) {
        char *line[] = {"qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path, NULL};
        run(line);
        unlink(raw);
    }
}

static char *arg(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *arg(const char *format, ...)
{
    va_list ap;
    char *text = NULL;
    va_start(ap, format);
    assert_true(vasprintf(&text, format, ap) >= 0);
    va_end(ap);
    return text;
}

static void run_qemu(const struct vm *vm)
{
    const char *f = vm->folder;
    char *line[] = {
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-machine",
        "q35",
        "-m",
        "64M",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-name",
        "test",
        "-object",
        "iothread,id=io0",
        "-qmp",
        arg("unix:%s,server=on,wait=off", vm->source_socket),
        "-qmp",
        arg("unix:%s,server=on,wait=off", vm->test_socket),
        "-blockdev",
        arg("driver=raw,node-name=n0,file.driver=file,file.filename=%s/d0", f),
        "-device",
        "virtio-blk-pci,id=disk0,drive=n0,serial=S0",
        "-blockdev",
        arg("driver=qcow2,node-name=n1,file.driver=file,file.filename=%s/d1", f),
        "-device",
        "virtio-blk-pci,drive=n1,serial=S1,logical_block_size=4096,physical_block_size=4096",
        "-device",
        "virtio-scsi-pci,id=sc0",
        "-blockdev",
        arg("driver=raw,node-name=n2,file.driver=file,file.filename=%s/d2", f),
        "-device",
        "scsi-hd,bus=sc0.0,id=scsi0,drive=n2",
        "-blockdev",
        arg("driver=raw,node-name=n3,file.driver=file,file.filename=%s/d3", f),
        "-device",
        "virtio-blk-pci,id=disk3,drive=n3,serial=S3,iothread=io0",
        "-drive",
        "if=none,id=cd0,media=cdrom",
        "-device",
        "ide-cd,drive=cd0,id=cd,bus=ide.0",
        "-blockdev",
        arg("driver=raw,node-name=ro,read-only=on,file.driver=file,file.read-only=on,"
            "file.filename=%s/d4",
            f),
        "-device",
        "virtio-blk-pci,id=seed,drive=ro,serial=SEED",
        NULL,
    };
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 1); /* what qemu-io says */
    execvp(line[0], line);
    _exit(127);
}

/* QEMU on the images that are there. */
static void launch(struct vm *vm)
{
    pid_t parent = getpid();
    vm->pid = fork();
    if (vm->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        run_qemu(vm);
    }
    assert_true(vm->pid > 0);
    struct sp_why why = {""};
    int r = -ENOENT;
    for (unsigned i = 0; i < 400 && (r == -ENOENT || r == -ECONNREFUSED); i++) {
        r = qmp_open(vm->test_socket, 0, &vm->qmp, &why);
        nanosleep(&(struct timespec){.tv_nsec = 25000000}, NULL);
    }
    if (r)
        fail_msg("QEMU did not start: %s", why.text);
}

void vm_start(struct vm *vm)
{
    *vm = (struct vm){0};
    snprintf(vm->folder, sizeof vm->folder, "/tmp/spsXXXXXX");
    assert_non_null(mkdtemp(vm->folder));
    snprintf(vm->source_socket, sizeof vm->source_socket, "%s/s.qmp", vm->folder);
    snprintf(vm->test_socket, sizeof vm->test_socket, "%s/t.qmp", vm->folder);
    for (size_t i = 0; i <= VM_DISKS; i++) {
        SP_FREE char *path = arg("%s/d%zu", vm->folder, i);
        make_image(path, i, i == 1);
    }
    launch(vm);
    sp__qemu_source__init(&vm->qemu);
    vm->qemu.qmp_socket = vm->source_socket;
    vm->qemu.fleece_directory = vm->folder;
    sp__source_config__init(&vm->config);
    vm->config.kind_case = SP__SOURCE_CONFIG__KIND_QEMU;
    vm->config.qemu = &vm->qemu;
}

void vm_restart(struct vm *vm, bool killed)
{
    if (killed)
        kill(vm->pid, SIGKILL);
    else
        (void)qmp_call(vm->qmp, "quit", NULL, NULL, NULL);
    waitpid(vm->pid, NULL, 0);
    qmp_close(vm->qmp);
    vm->qmp = NULL;
    unlink(vm->source_socket);
    unlink(vm->test_socket);
    launch(vm);
}

void vm_stop(struct vm *vm)
{
    qmp_close(vm->qmp);
    vm->qmp = NULL;
    if (vm->pid > 0) {
        kill(vm->pid, SIGKILL);
        waitpid(vm->pid, NULL, 0);
        vm->pid = 0;
    }
    for (size_t i = 0; i <= VM_DISKS; i++) {
        SP_FREE char *path = arg("%s/d%zu", vm->folder, i);
        unlink(path);
    }
    unlink(vm->source_socket);
    unlink(vm->test_socket);
    /* Not rm -r: what the source left behind fails the test here. */
    if (vm->folder[0] && rmdir(vm->folder))
        fail_msg("something is left in %s: %s", vm->folder, strerror(errno));
}

const char *vm_device(size_t n)
{
    static const char *const devices[VM_DISKS] = {
        "/machine/peripheral/disk0/virtio-backend",
        "/machine/peripheral-anon/device[0]/virtio-backend",
        "scsi0",
        "/machine/peripheral/disk3/virtio-backend",
    };
    return devices[n];
}

static json_object *ask(struct vm *vm, const char *command, json_object *arguments)
{
    struct sp_why why = {""};
    json_object *value = NULL;
    if (qmp_call(vm->qmp, command, arguments, &value, &why))
        fail_msg("%s: %s", command, why.text);
    return value;
}

void vm_io(struct vm *vm, size_t n, const char *command)
{
    SP_FREE char *line = arg("qemu-io -d %s \"%s\"", vm_device(n), command);
    QMP_JSON json_object *said =
        ask(vm, "human-monitor-command", qmp_object("command-line=s", line));
    /* Output of qemu-io goes to QEMU's standard output; what is returned is an error. */
    assert_string_equal(json_object_get_string(said), "");
}

void vm_status(struct vm *vm, char out[32])
{
    QMP_JSON json_object *status = ask(vm, "query-status", NULL);
    snprintf(out, 32, "%s", qmp_string(status, "status"));
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char *vm_bitmaps(struct vm *vm, const char *node)
{
    QMP_JSON json_object *nodes = ask(vm, "query-named-block-nodes", NULL);
    char *names[16];
    size_t count = 0;
    for (size_t i = 0; i < qmp_length(nodes); i++) {
        if (strcmp(qmp_string(qmp_at(nodes, i), "node-name"), node) != 0)
            continue;
        json_object *bitmaps = qmp_get_array(qmp_at(nodes, i), "dirty-bitmaps");
        for (size_t j = 0; j < qmp_length(bitmaps) && count < SP_COUNT(names); j++) {
            json_object *b = qmp_at(bitmaps, j);
            if (!qmp_string(b, "name"))
                continue; /* a filter's own */
            names[count++] = arg("%s:%d:%llu", qmp_string(b, "name"), qmp_flag(b, "recording"),
                                 (unsigned long long)qmp_number(b, "count"));
        }
    }
    qsort(names, count, sizeof names[0], by_text);
    SP_BUFFER struct sp_buffer out = {0};
    for (size_t i = 0; i < count; i++) {
        sp_buffer_printf(&out, "%s%s", i ? " " : "", names[i]);
        free(names[i]);
    }
    char *text = strdup(sp_buffer_text(&out));
    assert_non_null(text);
    return text;
}

char *vm_state(struct vm *vm, bool with_bitmaps)
{
    SP_BUFFER struct sp_buffer out = {0};
    char *names[64];
    size_t count = 0;
    QMP_JSON json_object *nodes = ask(vm, "query-named-block-nodes", NULL);
    for (size_t i = 0; i < qmp_length(nodes) && count < SP_COUNT(names); i++) {
        const char *name = qmp_string(qmp_at(nodes, i), "node-name");
        SP_FREE char *bitmaps = with_bitmaps ? vm_bitmaps(vm, name) : NULL;
        names[count++] = arg("node %s %s", name, bitmaps ? bitmaps : "");
    }
    QMP_JSON json_object *devices = ask(vm, "query-block", NULL);
    for (size_t i = 0; i < qmp_length(devices) && count < SP_COUNT(names); i++) {
        const char *node = qmp_string(qmp_get_object(qmp_at(devices, i), "inserted"), "node-name");
        names[count++] =
            arg("device %s %s", qmp_string(qmp_at(devices, i), "qdev"), node ? node : "-");
    }
    qsort(names, count, sizeof names[0], by_text);
    for (size_t i = 0; i < count; i++) {
        sp_buffer_printf(&out, "%s\n", names[i]);
        free(names[i]);
    }
    static const char *const lists[] = {"query-block-exports", "query-block-jobs", "query-fdsets"};
    for (size_t i = 0; i < SP_COUNT(lists); i++) {
        QMP_JSON json_object *list = ask(vm, lists[i], NULL);
        sp_buffer_printf(&out, "%s %s\n", lists[i], json_object_to_json_string(list));
    }
    char status[32];
    vm_status(vm, status);
    sp_buffer_printf(&out, "%s\n", status);
    char *text = strdup(sp_buffer_text(&out));
    assert_non_null(text);
    return text;
}

int vm_no_journal(void *self, const char *journal)
{
    (void)self;
    (void)journal;
    return 0;
}

int vm_snapshot(struct vm *vm, const char *point, bool held, source_journal_fn *journal, void *self,
                struct source_snapshot **ret, Sp__SnapshotResponse **ret_response,
                struct sp_why *why)
{
    Sp__SnapshotRequest rq;
    sp__snapshot_request__init(&rq);
    rq.point_id = (char *)(uintptr_t)point;
    rq.source = &vm->config;
    rq.guest_is_held = held;
    return source_for(&vm->config)
        ->snapshot(&rq, journal ? journal : vm_no_journal, self, ret, ret_response, why);
}

int vm_release(struct vm *vm, const char *point, const char *journal, bool transferred,
               struct sp_why *why)
{
    Sp__ReleaseSnapshotRequest rq;
    Sp__ReleaseSnapshotResponse *response = NULL;
    sp__release_snapshot_request__init(&rq);
    rq.point_id = (char *)(uintptr_t)point;
    rq.source = &vm->config;
    rq.transferred = transferred;
    if (journal)
        rq.journal = (char *)(uintptr_t)journal;
    int r = source_for(&vm->config)->release(&rq, &response, why);
    if (!r) {
        assert_true(response->nothing_left);
        sp__release_snapshot_response__free_unpacked(response, NULL);
    }
    return r;
}
