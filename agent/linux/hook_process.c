/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/hook_process.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* From SIGTERM to SIGKILL when the time is over. */
enum { GRACE_MS = 2000 };

int hook_user_find(const char *name, struct hook_user *ret, struct sp_why *why)
{
    struct passwd entry, *found = NULL;
    char room[4096];
    bool own = !name || !*name;
    int error = own ? getpwuid_r(geteuid(), &entry, room, sizeof(room), &found)
                    : getpwnam_r(name, &entry, room, sizeof(room), &found);
    *ret = (struct hook_user){.name = "root", .home = "/", .uid = geteuid(), .gid = getegid()};
    if (!found)
        return own ? 0
                   : sp_why_set(why, error ? -error : -ENOENT, "there is no user '%s' to run as",
                                name);
    snprintf(ret->name, sizeof(ret->name), "%s", entry.pw_name);
    snprintf(ret->home, sizeof(ret->home), "%s", entry.pw_dir);
    ret->uid = entry.pw_uid;
    ret->gid = entry.pw_gid;
    ret->other = entry.pw_uid != geteuid();
    ret->group_count = HOOK_GROUPS_MOST;
    if (getgrouplist(entry.pw_name, entry.pw_gid, ret->groups, &ret->group_count) < 0)
        return sp_why_set(why, -E2BIG, "user '%s' is in too many groups", entry.pw_name);
    return 0;
}

/* ---- the child ---- */

struct start {
    const struct hook_process *process;
    char *argv[3], *envp[8];
    int output, null;
};

/* Between _Fork() and exec only system calls: this process has threads, and a lock of any library
 * may be held. The C library's setuid() is for all threads; the system call is for this one. */
static void child(const struct start *start)
{
    const struct hook_user *user = start->process->user;
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    bool ok = setsid() >= 0 && dup2(start->null, 0) >= 0 && dup2(start->output, 1) >= 0 &&
              dup2(start->output, 2) >= 0 && chdir(start->process->folder) == 0;
    syscall(SYS_close_range, 3u, ~0u, 0u);
    umask(077);
    if (user->other)
        ok = ok && syscall(SYS_setgroups, (size_t)user->group_count, user->groups) == 0 &&
             syscall(SYS_setresgid, user->gid, user->gid, user->gid) == 0 &&
             syscall(SYS_setresuid, user->uid, user->uid, user->uid) == 0;
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* nobody is left to read what it says */
    if (ok)
        execve(start->argv[0], start->argv, start->envp);
    dprintf(1, "cannot be started: %s\n", strerrorname_np(errno));
    _exit(HOOK_CANNOT_RUN);
}

/* ---- the parent ---- */

/* Takes what has been written; what does not fit is dropped. */
static void take_output(int fd, struct hook_outcome *outcome)
{
    char room[4096];
    for (ssize_t n; (n = read(fd, room, sizeof(room))) > 0;) {
        size_t used = strlen(outcome->output), most = sizeof(outcome->output) - 1 - used;
        size_t take = (size_t)n < most ? (size_t)n : most;
        for (size_t i = 0; i < take; i++) /* it travels as text */
            outcome->output[used + i] =
                (unsigned char)room[i] >= 0x80 || room[i] == 0 ? '?' : room[i];
        outcome->output[used + take] = 0;
    }
}

static uint64_t now_ms(void)
{
    return sp_clock_monotonic_ms(&sp_clock_system);
}

/* Waits for the program's end, not for the pipe's: what it left in the background may hold that.
 * False when the time was over before. */
static bool wait_end(int pidfd, int output, uint64_t until_ms, struct hook_outcome *outcome)
{
    bool open = true;
    for (;;) {
        uint64_t now = now_ms();
        struct pollfd polled[] = {{.fd = pidfd, .events = POLLIN},
                                  {.fd = open ? output : -1, .events = POLLIN}};
        poll(polled, 2, now < until_ms ? (int)(until_ms - now) : 0);
        if (polled[1].revents) {
            take_output(output, outcome);
            open = !(polled[1].revents & POLLHUP);
        }
        if (polled[0].revents) {
            take_output(output, outcome);
            return true;
        }
        if (now >= until_ms)
            return false;
    }
}

/* To the hook's process group, as its user: that takes no capability to signal the processes of
 * others. Of this thread, as in child(), and of its effective id alone, so that the user cannot
 * signal this process. */
static void signal_group(const struct hook_user *user, pid_t group, int number)
{
    uid_t own = geteuid(), same = (uid_t)-1;
    if (user->other)
        syscall(SYS_setresuid, same, user->uid, same);
    kill(-group, number);
    if (user->other)
        syscall(SYS_setresuid, same, own, same);
}

static void wait_for(const struct hook_user *user, pid_t pid, int output, unsigned timeout_ms,
                     struct hook_outcome *outcome)
{
    SP_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    bool ended = pidfd >= 0 && wait_end(pidfd, output, now_ms() + timeout_ms, outcome);
    if (!ended) {
        outcome->timed_out = true;
        signal_group(user, pid, SIGTERM);
        if (pidfd >= 0)
            wait_end(pidfd, output, now_ms() + GRACE_MS, outcome);
        signal_group(user, pid, SIGKILL); /* the group, also when its leader has ended */
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    take_output(output, outcome);
    outcome->exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int fill_environment(const struct hook_process *p, char **envp)
{
    int n = 0;
    envp[n++] = strdup("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    envp[n++] = strdup("LANG=C.UTF-8");
    envp[n++] = sp_format("HOME=%s", p->user->home);
    envp[n++] = sp_format("USER=%s", p->user->name);
    envp[n++] = sp_format("SEALPOINT_OPERATION=%s", p->operation_id);
    envp[n++] = sp_format("SEALPOINT_HOLD_SECONDS=%u", p->hold_seconds);
    bool whole = true;
    for (int i = 0; i < n; i++)
        whole = whole && envp[i];
    return whole ? 0 : -ENOMEM;
}

int hook_run(const struct hook_process *process, struct hook_outcome *ret, struct sp_why *why)
{
    *ret = (struct hook_outcome){.exit_status = HOOK_CANNOT_RUN};
    struct start start = {
        .process = process,
        .argv = {(char *)(uintptr_t)process->path, (char *)(uintptr_t)process->phase, NULL}};
    int ends[2];
    int r = fill_environment(process, start.envp);
    start.null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (r == 0 && (start.null < 0 || pipe2(ends, O_CLOEXEC) < 0))
        r = sp_why_set(why, -errno, "cannot make a pipe");
    if (r == 0) {
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        start.output = ends[1];
        pid_t pid = _Fork();
        if (pid == 0)
            child(&start);
        int error = errno;
        close(ends[1]);
        if (pid < 0)
            r = sp_why_set(why, -error, "cannot start a process");
        else
            wait_for(process->user, pid, ends[0], process->timeout_ms, ret);
        close(ends[0]);
    }
    if (start.null >= 0)
        close(start.null);
    for (size_t i = 0; i < SP_COUNT(start.envp); i++)
        free(start.envp[i]);
    return r;
}
