/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A running job, held at its first read of the snapshot: that is the moment at which hostile bytes
 * begin, and the sandbox must stand. Seen from outside, in /proc. All of it twice: a process of its
 * own, and one out of a nursery. */
#include "rig.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "base/frame.h"
#include "controller/keeper/prover/nursery.h"
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

/* ---- a reader that holds the first ask until it is told ---- */

struct gate {
    int socket;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool asked, open;
};

static int held_read(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    (void)disk;
    (void)offset;
    struct gate *g = self;
    pthread_mutex_lock(&g->lock);
    g->asked = true;
    pthread_cond_broadcast(&g->changed);
    while (!g->open)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
    memset(out, 0, length);
    return 0;
}

static void *serve(void *self)
{
    struct gate *g = self;
    sp_pread_serve(g->socket, -1, held_read, g);
    return NULL;
}

static void let_go(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* ---- a job on it ---- */

static struct prover_nursery *nursery; /* NULL: each job starts its own process */

struct held {
    struct gate gate;
    int near;
    pthread_t server, runner;
    int error;
    struct sp_why why;
    Sp__ProverResult *result;
};

static void *run_look(void *self)
{
    struct held *h = self;
    Sp__LookDisk disk = SP__LOOK_DISK__INIT, *disks[] = {&disk};
    disk.disk_id = (char[]){"disk0"};
    disk.size_bytes = 1 << 20;
    disk.logical_sector_bytes = 512;
    Sp__LookRequest look = SP__LOOK_REQUEST__INIT;
    look.disks = disks;
    look.n_disks = 1;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_LOOK;
    job.look = &look;
    struct prover_options options = {.program = rig_prover(), .nursery = nursery};
    h->error = prover_run(&options, &job, h->near, NULL, &h->result, NULL, &h->why);
    return NULL;
}

static void begin(struct held *h)
{
    int pair[2];
    *h = (struct held){
        .gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    h->near = pair[0];
    h->gate.socket = pair[1];
    assert_int_equal(pthread_create(&h->server, NULL, serve, &h->gate), 0);
    assert_int_equal(pthread_create(&h->runner, NULL, run_look, h), 0);
    pthread_mutex_lock(&h->gate.lock);
    while (!h->gate.asked)
        pthread_cond_wait(&h->gate.changed, &h->gate.lock);
    pthread_mutex_unlock(&h->gate.lock);
}

static void finish(struct held *h)
{
    let_go(&h->gate);
    pthread_join(h->runner, NULL);
    close(h->near);
    pthread_join(h->server, NULL);
    close(h->gate.socket);
}

/* ---- what /proc says ---- */

/* "Uid:\t0\t…" → "0\t…" up to the end of its line; "" when there is none. */
static void field(const char *text, const char *name, char *out, size_t size)
{
    const char *at = strstr(text, name);
    out[0] = 0;
    if (!at)
        return;
    at += strlen(name);
    at += strspn(at, " \t");
    snprintf(out, size, "%.*s", (int)strcspn(at, "\n"), at);
}

static char *status_of(pid_t pid)
{
    SP_FREE char *path = sp_format("/proc/%d/status", (int)pid);
    char *text = NULL;
    return sp_file_read(path, 64 << 10, &text, NULL) < 0 ? NULL : text;
}

/* The one child of this process that bears the prover's name. */
static pid_t find_prover(void)
{
    DIR *d = opendir("/proc");
    assert_non_null(d);
    pid_t found = 0;
    for (struct dirent *e; (e = readdir(d));) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        SP_FREE char *status = pid > 0 ? status_of(pid) : NULL;
        char parent[16], name[32], seccomp[8];
        if (!status)
            continue;
        field(status, "PPid:", parent, sizeof(parent));
        field(status, "Name:", name, sizeof(name));
        field(status, "Seccomp:", seccomp, sizeof(seccomp));
        /* A nursery is a child as well; it has no job, so nothing hostile, and no filter. */
        if (strtol(parent, NULL, 10) == getpid() && strcmp(name, "sealpoint-prove") == 0 &&
            seccomp[0] == '2')
            found = pid;
    }
    closedir(d);
    assert_true(found > 0);
    return found;
}

static void assert_field(const char *status, const char *name, const char *value)
{
    char found[64];
    field(status, name, found, sizeof(found));
    if (strcmp(found, value) != 0)
        print_error("%s %s\n", name, found);
    assert_string_equal(found, value);
}

/* Out of a nursery, by its command line. */
static bool is_bred(pid_t pid)
{
    SP_FREE char *path = sp_format("/proc/%d/cmdline", (int)pid);
    SP_FREE char *text = NULL;
    size_t size = 0;
    assert_int_equal(sp_file_read(path, 4096, &text, &size), 0);
    return size > strlen(text) + 1 && strcmp(text + strlen(text) + 1, "nursery") == 0;
}

static void the_sandbox_stands_before_the_first_read(void **state)
{
    (void)state;
    struct held h;
    begin(&h);
    pid_t pid = find_prover();
    SP_FREE char *status = status_of(pid);
    assert_non_null(status);
    assert_true(is_bred(pid) == (nursery != NULL));
    assert_field(status, "NoNewPrivs:", "1");
    assert_field(status, "Seccomp:", "2");
    assert_field(status, "CapPrm:", "0000000000000000");
    assert_field(status, "CapEff:", "0000000000000000");
    assert_field(status, "CapInh:", "0000000000000000");
    assert_field(status, "CapAmb:", "0000000000000000");
    if (getuid() == 0) {
        assert_field(status, "Uid:", "65534\t65534\t65534\t65534");
        assert_field(status, "Gid:", "65534\t65534\t65534\t65534");
        assert_field(status, "Groups:", "");
    }
    finish(&h);
    assert_int_equal(h.error, 0);
    sp__prover_result__free_unpacked(h.result, NULL);
}

static void limits_are_set(void **state)
{
    (void)state;
    struct held h;
    begin(&h);
    SP_FREE char *path = sp_format("/proc/%d/limits", (int)find_prover());
    char *limits, line[128];
    assert_int_equal(sp_file_read(path, 64 << 10, &limits, NULL), 0);
    field(limits, "Max core file size", line, sizeof(line));
    assert_int_equal(strtol(line, NULL, 10), 0);
    field(limits, "Max open files", line, sizeof(line));
    assert_int_equal(strtol(line, NULL, 10), 32);
    field(limits, "Max cpu time", line, sizeof(line));
    assert_int_equal(strtol(line, NULL, 10), 120 * 4 + 4);
    free(limits);
    finish(&h);
    sp__prover_result__free_unpacked(h.result, NULL);
}

static void it_holds_no_file_and_no_other_socket(void **state)
{
    (void)state;
    struct held h;
    begin(&h);
    SP_FREE char *path = sp_format("/proc/%d/fd", (int)find_prover());
    DIR *d = opendir(path);
    unsigned sockets = 0;
    if (!d) { /* its descriptors are root's to see */
        assert_int_equal(errno, EACCES);
        assert_int_not_equal(getuid(), 0);
    }
    for (struct dirent *e; d && (e = readdir(d));) {
        char target[256];
        if (e->d_name[0] == '.')
            continue;
        ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
        assert_true(n > 0);
        target[n] = 0;
        long fd = strtol(e->d_name, NULL, 10);
        bool is_socket = strncmp(target, "socket:", 7) == 0;
        sockets += is_socket && fd > 2;
        bool is_random = strcmp(target, "/dev/urandom") == 0 || strcmp(target, "/dev/random") == 0;
        if (fd > 2 && !is_socket)
            print_message("descriptor %ld is %s\n", fd, target);
        assert_true(fd <= 2 || is_socket || strstr(target, "/memfd:") == target || is_random);
    }
    if (d) {
        closedir(d);
        assert_int_equal(sockets, 2); /* the job's and the reader's */
    }
    finish(&h);
    sp__prover_result__free_unpacked(h.result, NULL);
}

static void a_killed_prover_is_an_error(void **state)
{
    (void)state;
    struct held h;
    begin(&h);
    pid_t pid = find_prover();
    assert_int_equal(kill(pid, SIGKILL), 0); /* ours, and not reaped while we hold its reader */
    finish(&h);
    assert_int_equal(h.error, -EPROTO);
    assert_non_null(strstr(h.why.text, "signal 9"));
    assert_null(h.result);
}

static void a_job_leaves_no_trace_in_the_next(void **state)
{
    (void)state;
    struct held first, second;
    begin(&first);
    pid_t one = find_prover();
    finish(&first);
    assert_int_equal(first.error, 0);
    begin(&second);
    pid_t two = find_prover();
    finish(&second);
    assert_int_equal(second.error, 0);
    assert_int_not_equal(one, two);
    assert_int_equal(kill(one, 0), -1); /* waited for: it is gone */
    sp__prover_result__free_unpacked(first.result, NULL);
    sp__prover_result__free_unpacked(second.result, NULL);
}

/* After a prover that died the nursery is another one; jobs go on meanwhile. */
static void a_nursery_is_replaced_after_a_crash(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        a_killed_prover_is_an_error(state);
        a_job_leaves_no_trace_in_the_next(state);
    }
}

static void a_nursery_that_cannot_start_is_no_hindrance(void **state)
{
    (void)state;
    struct prover_nursery *none;
    assert_int_equal(prover_nursery_open("/nonexistent/sealpoint-prover", &none), 0);
    struct prover_nursery *kept = nursery;
    nursery = none;
    a_job_leaves_no_trace_in_the_next(state);
    nursery = kept;
    prover_nursery_close(none);
}

static int open_nursery(void **state)
{
    (void)state;
    return prover_nursery_open(rig_prover(), &nursery);
}

static int close_nursery(void **state)
{
    (void)state;
    prover_nursery_close(nursery);
    nursery = NULL;
    return 0;
}

int main(void)
{
    const struct CMUnitTest alone[] = {
        cmocka_unit_test(the_sandbox_stands_before_the_first_read),
        cmocka_unit_test(limits_are_set),
        cmocka_unit_test(it_holds_no_file_and_no_other_socket),
        cmocka_unit_test(a_killed_prover_is_an_error),
        cmocka_unit_test(a_job_leaves_no_trace_in_the_next),
        cmocka_unit_test(a_nursery_that_cannot_start_is_no_hindrance),
    };
    const struct CMUnitTest bred[] = {
        cmocka_unit_test(the_sandbox_stands_before_the_first_read),
        cmocka_unit_test(limits_are_set),
        cmocka_unit_test(it_holds_no_file_and_no_other_socket),
        cmocka_unit_test(a_killed_prover_is_an_error),
        cmocka_unit_test(a_nursery_is_replaced_after_a_crash),
    };
    int failed = cmocka_run_group_tests(alone, NULL, NULL);
    return failed + cmocka_run_group_tests(bred, open_nursery, close_nursery);
}
