/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the sandbox lets a process do, each tried in a child of its own. */
#include "controller/keeper/prover/sandbox.h"

#include "base/cleanup.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { SETUP_FAILED = 90 };

/* The child's exit status: 0 when `act` returned what it should. */
static int in_sandbox(int (*act)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct sandbox_limits limits = {.memory_bytes = UINT64_C(1) << 40, .cpu_seconds = 20};
        bool landlock;
        struct sp_why why;
        if (sandbox_enter(&limits, &landlock, &why) < 0)
            _exit(SETUP_FAILED);
        _exit(act());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void assert_good(int (*act)(void))
{
    int status = in_sandbox(act);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void assert_killed(int (*act)(void))
{
    int status = in_sandbox(act);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

static int open_files(void)
{
    static const char *const paths[] = {"/etc/passwd", "/dev/null", "/proc/self/maps", "/", "/tmp"};
    for (size_t i = 0; i < SP_COUNT(paths); i++) {
        if (open(paths[i], O_RDONLY) >= 0)
            return 1 + (int)i;
    }
    return open("/tmp/sealpoint-sandbox-test", O_WRONLY | O_CREAT, 0600) >= 0 ? 20 : 0;
}

/* Files are refused by Landlock alone; where the kernel lacks it, /etc/passwd can be read. */
static void no_file_can_be_opened(void **state)
{
    (void)state;
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 0 &&
        (errno == ENOSYS || errno == EOPNOTSUPP)) {
        print_message("this kernel has no Landlock: nothing to show here\n");
        return;
    }
    assert_good(open_files);
}

static int make_files(void)
{
    if (open("/tmp/sealpoint-sandbox-test", O_WRONLY | O_CREAT, 0600) >= 0)
        return 1;
    if (open("/tmp", O_TMPFILE | O_WRONLY, 0600) >= 0)
        return 2;
    if (mkdir("/tmp/sealpoint-sandbox-test", 0700) == 0)
        return 3;
    if (unlink("/tmp/sealpoint-sandbox-test") == 0 || errno != EPERM)
        return 4;
    return 0;
}

static void nothing_can_be_made(void **state)
{
    (void)state;
    assert_good(make_files);
}

static int use_memfd(void)
{
    char path[32], byte = 'x';
    int fd = memfd_create("test", MFD_CLOEXEC);
    if (fd < 0 || write(fd, &byte, 1) != 1 || ftruncate(fd, INT64_C(1) << 40) < 0)
        return 1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY | O_CLOEXEC);
    if (again < 0)
        return 2;
    return pread(again, &byte, 1, 0) == 1 && byte == 'x' ? 0 : 3;
}

static void memfds_can_be_opened_again(void **state)
{
    (void)state;
    assert_good(use_memfd);
}

static int make_sockets(void)
{
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_ALG, AF_PACKET};
    int pair[2];
    for (size_t i = 0; i < SP_COUNT(families); i++) {
        if (socket(families[i], SOCK_STREAM, 0) >= 0)
            return 1 + (int)i;
    }
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 ? 20 : 0;
}

static void no_socket_can_be_made(void **state)
{
    (void)state;
    assert_good(make_sockets);
}

static void *thread_body(void *unused)
{
    return unused;
}

static int make_thread_and_process(void)
{
    pthread_t t;
    if (pthread_create(&t, NULL, thread_body, NULL) || pthread_join(t, NULL))
        return 1;
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) >= 0 ? 2 : 0;
}

static void threads_but_no_processes(void **state)
{
    (void)state;
    assert_good(make_thread_and_process);
}

static int map_code(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return 1;
    if (mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0)
        return 2;
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED
               ? 3
               : 0;
}

static void no_new_code(void **state)
{
    (void)state;
    assert_good(map_code);
}

static int regain(void)
{
    if (getuid() == 0 || geteuid() == 0 || setuid(0) == 0)
        return 1;
    if (kill(getppid(), 0) == 0)
        return 2;
    struct rlimit {
        unsigned long cur, max;
    } limit = {1024, 1024};
    return syscall(SYS_prlimit64, 0, 7 /* NOFILE */, &limit, NULL) == 0 ? 3 : 0;
}

static void nothing_comes_back(void **state)
{
    (void)state;
    assert_good(regain);
}

static int run_program(void)
{
    char *argv[] = {(char[]){"true"}, NULL}, *none[] = {NULL};
    return execve("/bin/true", argv, none);
}

static int trace_parent(void)
{
    return (int)ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
}

static int connect_somewhere(void)
{
    struct sockaddr address = {.sa_family = AF_UNIX};
    return connect(0, &address, sizeof(address));
}

static int leave_again(void)
{
    return unshare(CLONE_NEWUSER);
}

static void attacks_end_the_process(void **state)
{
    (void)state;
    assert_killed(run_program);
    assert_killed(trace_parent);
    assert_killed(connect_somewhere);
    assert_killed(leave_again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_file_can_be_opened),      cmocka_unit_test(nothing_can_be_made),
        cmocka_unit_test(memfds_can_be_opened_again), cmocka_unit_test(no_socket_can_be_made),
        cmocka_unit_test(threads_but_no_processes),   cmocka_unit_test(no_new_code),
        cmocka_unit_test(nothing_comes_back),         cmocka_unit_test(attacks_end_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
