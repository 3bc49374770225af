/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/sandbox.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/prover/descriptors.h"
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* ---- limits ---- */

static int lower(int what, uint64_t to)
{
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)what, &limit) < 0)
        return -errno;
    if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max > to)
        limit.rlim_max = to;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit((__rlimit_resource_t)what, &limit) < 0 ? -errno : 0;
}

static int limit_process(void)
{
    enum { DESCRIPTORS = 32 };
    int r = lower(RLIMIT_CORE, 0);
    return r < 0 ? r : lower(RLIMIT_NOFILE, DESCRIPTORS);
}

/* No bound on file sizes: the files are sparse memfds as long as the volume. Nothing else can be
 * written to: Landlock and the user see to that. */
static int limit_job(const struct sandbox_limits *limits)
{
    int r = lower(RLIMIT_CPU, limits->cpu_seconds);
#ifndef PROVER_UNDER_ASAN
    if (r == 0)
        r = lower(RLIMIT_AS, limits->memory_bytes);
#endif
    return r;
}

/* ---- namespaces and user ---- */

/* Best effort: containers and units may forbid namespaces, and no socket can be made anyway. */
static void leave_namespaces(void)
{
    const int flags = CLONE_NEWNET | CLONE_NEWIPC;
    if (unshare(flags) < 0)
        (void)!unshare(flags | CLONE_NEWUSER);
}

static int drop_user(void)
{
    enum { NOBODY = 65534 };
    if (geteuid() == 0 || getuid() == 0) {
        if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
            setresuid(NOBODY, NOBODY, NOBODY) < 0)
            return -errno;
        if (setuid(0) == 0)
            return -EPERM;
    }
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    if (syscall(SYS_capset, &head, none) < 0)
        return -errno;
    /* Undone by a change of user. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return -errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

/* ---- Landlock ---- */

/* The kernel's struct as of version 6, and the bits by the version that brought them: the headers
 * of Debian 12 know version 3. */
struct ruleset {
    uint64_t fs, net, scoped;
};

static size_t describe(int version, struct ruleset *ret)
{
    /* 1: 13 rights; 2: refer; 3: truncate; 5: ioctl on devices. 4: TCP bind and connect. 6:
     * abstract sockets and signals of others. */
    unsigned rights = version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13;
    *ret = (struct ruleset){.fs = (UINT64_C(1) << rights) - 1};
    if (version >= 4)
        ret->net = 3;
    if (version >= 6)
        ret->scoped = 3;
    return version >= 6 ? sizeof(*ret) : version >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
}

/* 1: entered, 0: the kernel has none. */
static int enter_landlock(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0)
        return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
    struct ruleset nothing;
    size_t size = describe((int)version, &nothing);
    SP_FD int fd = (int)syscall(SYS_landlock_create_ruleset, &nothing, size, 0);
    if (fd < 0)
        return -errno;
    return syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 1;
}

/* ---- seccomp ---- */

/* Reading and writing what is open, memory, threads that end, time. */
static const int allowed[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(fcntl),
    SCMP_SYS(dup),
    SCMP_SYS(fstat),
    SCMP_SYS(stat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(lstat),
    SCMP_SYS(statx),
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fadvise64),
    SCMP_SYS(memfd_create),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(brk),
    SCMP_SYS(madvise),
    SCMP_SYS(mlock),
    SCMP_SYS(mlock2),
    SCMP_SYS(munlock),
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(getppid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(sched_getparam),
    SCMP_SYS(sched_getscheduler),
    SCMP_SYS(getrandom),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(getrusage),
    SCMP_SYS(sysinfo),
    SCMP_SYS(uname),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

/* Never asked for by any library in here: only an attacker's code does. The rest is refused with
 * EPERM, since libcryptsetup and libdevmapper feel their way (keyrings, semaphores, ioctls). */
static const int deadly[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(kexec_load),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(connect),
    SCMP_SYS(bind),
    SCMP_SYS(listen),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
};

static int add_lists(scmp_filter_ctx filter)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < SP_COUNT(allowed); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    for (size_t i = 0; r == 0 && i < SP_COUNT(deadly); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
    return r;
}

static int add_conditions(scmp_filter_ctx filter)
{
    /* Nothing is made or emptied by opening. */
    const uint64_t makes = O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);
    const uint64_t thread = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND;
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, makes, 0));
    /* No new code. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* Threads, no processes. clone3's flags lie in memory, where no filter sees them: without it
     * glibc uses clone. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    /* As a kernel without that family says it. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 0);
    /* Limits are read, not set. No signal to anybody: abort() ends by its trap. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2,
                             SCMP_A0(SCMP_CMP_EQ, 0, 0), SCMP_A2(SCMP_CMP_EQ, 0, 0));
    return r;
}

/* libseccomp writes to descriptors only. */
static int export_filter(scmp_filter_ctx filter, struct sandbox *ret)
{
    SP_FD int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = seccomp_export_bpf(filter, fd);
    off_t size = lseek(fd, 0, SEEK_END);
    if (r < 0 || size <= 0)
        return r < 0 ? r : -EIO;
    void *bytes = malloc((size_t)size);
    if (!bytes)
        return -ENOMEM;
    r = sp_pread_all(fd, bytes, (size_t)size, 0);
    if (r < 0) {
        free(bytes);
        return r;
    }
    ret->filter = bytes;
    ret->filter_bytes = (size_t)size;
    return 0;
}

static int compile_filter(struct sandbox *ret)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!filter)
        return -ENOMEM;
    int r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    /* A tree, not a list: sector reads are many. */
    if (r == 0)
        r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (r == 0)
        r = add_lists(filter);
    if (r == 0)
        r = add_conditions(filter);
    if (r == 0)
        r = export_filter(filter, ret);
    seccomp_release(filter);
    return r;
}

static int enter_seccomp(const struct sandbox *s)
{
    struct sock_fprog program = {
        .len = (unsigned short)(s->filter_bytes / sizeof(struct sock_filter)), .filter = s->filter};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}

/* ---- all of it ---- */

int sandbox_enter_maker(struct sandbox *ret, struct sp_why *why)
{
    *ret = (struct sandbox){.landlock = false};
    int r = limit_process();
    if (r < 0)
        return sp_why_set(why, r, "sandbox: limits could not be set");
    leave_namespaces();
    r = drop_user();
    if (r < 0)
        return sp_why_set(why, r, "sandbox: privileges could not be dropped");
    r = compile_filter(ret); /* needs a memfd, no file; before Landlock all the same */
    if (r < 0)
        return sp_why_set(why, r, "sandbox: the seccomp filter could not be made");
    int landlock = enter_landlock();
    if (landlock < 0)
        return sp_why_set(why, landlock, "sandbox: Landlock refused");
    ret->landlock = landlock == 1;
    return 0;
}

int sandbox_enter_job(const struct sandbox *s, const struct sandbox_limits *limits,
                      struct sp_why *why)
{
    int r = limit_job(limits);
    if (r < 0)
        return sp_why_set(why, r, "sandbox: limits could not be set");
    /* Ends with the keeper's thread; not inherited over fork(), undone by a change of user. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return -errno;
    r = enter_seccomp(s);
    return r < 0 ? sp_why_set(why, r, "sandbox: seccomp refused") : 0;
}

void sandbox_free(struct sandbox *s)
{
    free(s->filter);
    s->filter = NULL;
}

int sandbox_enter(const struct sandbox_limits *limits, bool *ret_landlock, struct sp_why *why)
{
    struct sandbox s;
    int r = sandbox_enter_maker(&s, why);
    if (r == 0)
        r = sandbox_enter_job(&s, limits, why);
    *ret_landlock = s.landlock;
    sandbox_free(&s);
    return r;
}
