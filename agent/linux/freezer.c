/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/freezer.h"
#include "agent/linux/freezer_process.h"
#include "agent/linux/suspend.h"
#include "base/cleanup.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* A freezer that has not answered so long after its deadline is stopped or broken: it is killed,
 * and the agent thaws. */
enum { OVERDUE_MS = 10000, LEFT_OVER_WAIT_S = 30, READY_MS = 30000 };

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct freezer {
    struct freezer_options options;
    int list_fd;
    struct freeze_list *list;
    pthread_t watch;
    bool watching;
    int wake; /* eventfd: look again */

    pthread_mutex_t lock; /* everything below */
    pthread_cond_t changed;
    int socket, pidfd;
    pid_t pid;
    int lock_error;
    bool ready, closing;
    bool active; /* a freeze was begun and has not ended */
    bool held;   /* FROZEN has come for it */
    bool wanted; /* its end was asked for by freezer_thaw() */
    enum freeze_end ended_by;
    char operation_id[64];
    uint32_t count;
    int mounts[FREEZE_LIST_MOST]; /* own fds, to thaw when the freezer is gone */
};

/* ---- starting the process ---- */

/* posix_spawn, not fork: no handler of another library runs in between. */
static int start_process(const struct freezer *f, int socket, pid_t *ret)
{
    static const char *const self[] = {"/proc/self/exe", "freezer", NULL};
    const char *const *argv = f->options.argv ? f->options.argv : self;
    /* Taken high first, so that 3 and 4 overwrite neither source. */
    SP_FD int a = fcntl(socket, F_DUPFD_CLOEXEC, 10);
    SP_FD int b = fcntl(f->list_fd, F_DUPFD_CLOEXEC, 10);
    if (a < 0 || b < 0)
        return -errno;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    int r = -posix_spawn_file_actions_init(&actions);
    if (r < 0)
        return r;
    r = -posix_spawnattr_init(&attributes);
    if (r == 0) {
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
        r = -posix_spawn_file_actions_adddup2(&actions, a, FREEZER_SOCKET_FD);
        if (r == 0)
            r = -posix_spawn_file_actions_adddup2(&actions, b, FREEZER_LIST_FD);
        /* Above all not the agent's end of the socket: it would hide the agent's death. */
        if (r == 0)
            r = -posix_spawn_file_actions_addclosefrom_np(&actions, FREEZER_LIST_FD + 1);
        if (r == 0)
            r = -posix_spawn(ret, argv[0], &actions, &attributes, (char *const *)(uintptr_t)argv,
                             environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

static int start(struct freezer *f, struct sp_why *why)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return sp_why_set(why, -errno, "cannot make a socket pair for the freezer");
    pid_t pid = -1;
    int error = start_process(f, pair[1], &pid);
    close(pair[1]);
    if (error < 0) {
        close(pair[0]);
        return sp_why_set(why, error, "cannot start the freezer");
    }
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        error = -errno;
        close(pair[0]); /* its end of file ends it */
        waitpid(pid, NULL, 0);
        return sp_why_set(why, error, "cannot watch the freezer");
    }
    f->socket = pair[0];
    f->pidfd = pidfd;
    f->pid = pid;
    f->ready = false;
    return 0;
}

/* ---- after the freezer's death ---- */

/* The lowest level first, as the freezer would. Only what it may have frozen. */
static void thaw_by_list(struct freezer *f)
{
    for (uint32_t level = 0; level <= FREEZE_LIST_MOST; level++)
        for (uint32_t i = 0; i < f->count; i++) {
            struct freeze_entry *entry = &f->list->entries[i];
            if (entry->level != level || !freeze_entry_unsettled(entry))
                continue;
            entry->thaw_from_ns = freeze_now_ns();
            int r = entry->kind == FREEZE_KIND_DEVICE ? suspend_release(f->mounts[i], entry->devno)
                                                      : ioctl(f->mounts[i], FITHAW, 0);
            int error = r < 0 ? errno : 0;
            entry->thaw_to_ns = freeze_now_ns();
            entry->thaw_error = error;
            /* What is not settled stays on the list for ExecStopPost. */
            if (freeze_error_settles(error))
                atomic_store(&entry->state, FREEZE_ENTRY_THAWED);
        }
}

/* An open descriptor keeps a file system from being unmounted; it stays only while a thaw may be
 * owed: until the entry is settled, or (all) until the next freeze. */
static void close_mounts(struct freezer *f, bool all)
{
    for (uint32_t i = 0; i < f->count; i++) {
        if (f->mounts[i] < 0 || (!all && freeze_entry_unsettled(&f->list->entries[i])))
            continue;
        close(f->mounts[i]);
        f->mounts[i] = -1;
    }
    if (all)
        f->count = 0;
}

/* With the lock held. Returns true if somebody must be told. */
static bool end_freeze(struct freezer *f, enum freeze_end end)
{
    if (!f->active)
        return false;
    f->active = false;
    f->held = false;
    f->ended_by = end;
    close_mounts(f, false);
    pthread_cond_broadcast(&f->changed);
    return !f->wanted;
}

/* Takes one message. False at the socket's end; when draining, also when nothing waits. */
static bool receive_answer(struct freezer *f, bool draining)
{
    struct freezer_message m;
    ssize_t n = recv(f->socket, &m, sizeof(m), MSG_DONTWAIT);
    if (n != (ssize_t)sizeof(m))
        return n < 0 && errno == EAGAIN && !draining;
    bool told = false;
    pthread_mutex_lock(&f->lock);
    char id[64];
    memcpy(id, f->operation_id, sizeof(id));
    if (m.kind == FREEZER_READY) {
        f->ready = true;
        f->lock_error = (int)m.value;
    } else if (m.kind == FREEZER_FROZEN && f->active) {
        f->held = true;
    } else if (m.kind == FREEZER_ENDED) {
        told = end_freeze(f, (enum freeze_end)m.value);
    }
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    if (told && f->options.on_ended)
        f->options.on_ended(f->options.self, id, (enum freeze_end)m.value);
    return true;
}

static void freezer_died(struct freezer *f)
{
    while (receive_answer(f, true))
        ; /* what it said before */
    siginfo_t info;
    /* The pidfd is readable only when the whole process has ended, FIFREEZE calls included. */
    while (waitid(P_PIDFD, (id_t)f->pidfd, &info, WEXITED) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&f->lock);
    close(f->socket);
    close(f->pidfd);
    f->socket = f->pidfd = -1;
    bool was_ready = f->ready, active = f->active, told = false;
    f->ready = false;
    char id[64];
    memcpy(id, f->operation_id, sizeof(id));
    pthread_mutex_unlock(&f->lock);

    /* Without the lock, since a thaw may take its time: no new freeze begins while this one is
     * active or an entry is unsettled. */
    if (active)
        atomic_store(&f->list->ended_by, FREEZE_END_FREEZER_LOST);
    thaw_by_list(f);

    pthread_mutex_lock(&f->lock);
    if (active) {
        atomic_store(&f->list->phase, FREEZE_PHASE_ENDED);
        told = end_freeze(f, FREEZE_END_FREEZER_LOST);
    }
    /* One that did not even get ready is started again only when it is needed. */
    if (was_ready && !f->closing && f->pidfd < 0)
        start(f, NULL);
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    if (told && f->options.on_ended)
        f->options.on_ended(f->options.self, id, FREEZE_END_FREEZER_LOST);
}

/* ---- the watch thread ---- */

/* Until when the freezer may stay silent: -1 for ever. Kills it when that is over. */
static int overdue_ms(struct freezer *f)
{
    pthread_mutex_lock(&f->lock);
    int ms = -1;
    uint64_t deadline_ns = atomic_load(&f->list->deadline_ns);
    if (f->active && deadline_ns && f->pidfd >= 0) {
        uint64_t until = deadline_ns + OVERDUE_MS * 1000000ull, now = freeze_now_ns();
        if (now >= until)
            syscall(SYS_pidfd_send_signal, f->pidfd, SIGKILL, NULL, 0);
        else
            ms = (int)((until - now) / 1000000) + 1;
    }
    pthread_mutex_unlock(&f->lock);
    return ms;
}

static void *watch_thread(void *arg)
{
    struct freezer *f = arg;
    for (;;) {
        int timeout = overdue_ms(f);
        pthread_mutex_lock(&f->lock);
        struct pollfd polled[] = {{.fd = f->wake, .events = POLLIN},
                                  {.fd = f->socket, .events = POLLIN},
                                  {.fd = f->pidfd, .events = POLLIN}};
        bool over = f->closing && f->pidfd < 0;
        pthread_mutex_unlock(&f->lock);
        if (over)
            return NULL;
        poll(polled, 3, timeout);
        if (polled[0].revents) {
            uint64_t n;
            ssize_t got = read(f->wake, &n, sizeof(n));
            (void)got;
        }
        bool open = !polled[1].revents || receive_answer(f, false);
        if (!open && !polled[2].revents)
            poll(&polled[2], 1, 1000); /* its exit is near */
        if (polled[2].revents)
            freezer_died(f);
    }
}

static void wake_watch(struct freezer *f)
{
    uint64_t one = 1;
    ssize_t written = write(f->wake, &one, sizeof(one));
    (void)written;
}

/* ---- the interface ---- */

static int wait_ready(struct freezer *f, struct sp_why *why)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += READY_MS / 1000;
    int r = 0;
    while (!f->ready && f->pidfd >= 0 && r == 0)
        r = pthread_cond_timedwait(&f->changed, &f->lock, &until);
    return f->ready ? 0 : sp_why_set(why, -EIO, "the freezer did not start");
}

static int prepare(struct freezer *f, struct sp_why *why)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    int r = freeze_list_thaw_left_over(f->options.runtime, LEFT_OVER_WAIT_S, NULL, why);
    if (r < 0)
        return r;
    f->wake = eventfd(0, EFD_CLOEXEC);
    if (f->wake < 0)
        return -errno;
    r = freeze_list_create(f->options.runtime, &f->list_fd, &f->list, why);
    if (r < 0)
        return r;
    r = start(f, why);
    if (r < 0)
        return r;
    pthread_attr_t stack;
    pthread_attr_init(&stack);
    pthread_attr_setstacksize(&stack, 128 * 1024);
    r = -pthread_create(&f->watch, &stack, watch_thread, f);
    pthread_attr_destroy(&stack);
    if (r < 0)
        return r;
    f->watching = true;
    pthread_mutex_lock(&f->lock);
    r = wait_ready(f, why);
    pthread_mutex_unlock(&f->lock);
    return r;
}

int freezer_new(const struct freezer_options *options, struct freezer **ret, struct sp_why *why)
{
    struct freezer *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->options = *options;
    f->socket = f->pidfd = f->list_fd = f->wake = -1;
    int r = prepare(f, why);
    if (r < 0) {
        freezer_free(f);
        return r;
    }
    *ret = f;
    return 0;
}

void freezer_free(struct freezer *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->closing = true;
    if (f->socket >= 0)
        shutdown(f->socket, SHUT_WR); /* the freezer sees the end: thaws and exits */
    pthread_mutex_unlock(&f->lock);
    if (f->watching) {
        wake_watch(f);
        pthread_join(f->watch, NULL);
    } else if (f->pidfd >= 0) {
        freezer_died(f);
    }
    close_mounts(f, true);
    freeze_list_unmap(f->list);
    if (f->list_fd >= 0)
        close(f->list_fd);
    if (f->wake >= 0)
        close(f->wake);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    free(f);
}

static int send_message(struct freezer *f, enum freezer_kind kind, uint32_t value, int fd)
{
    struct freezer_message m = {.kind = kind, .value = value};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = &m, .iov_len = sizeof(m)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(f->socket, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static void fill_report(const struct freezer *f, struct freezer_report *report)
{
    *report = (struct freezer_report){.ended_by = f->ended_by, .count = f->count};
    for (uint32_t i = 0; i < f->count; i++) {
        const struct freeze_entry *e = &f->list->entries[i];
        report->outcomes[i] = (struct freezer_outcome){
            .state = atomic_load(&e->state),
            .freeze_error = e->freeze_error,
            .thaw_error = e->thaw_error,
            .freeze_us = e->freeze_to_ns ? (e->freeze_to_ns - e->freeze_from_ns) / 1000 : 0,
            .thaw_us = e->thaw_to_ns ? (e->thaw_to_ns - e->thaw_from_ns) / 1000 : 0,
        };
        if (e->freeze_from_ns &&
            (!report->first_freeze_ns || e->freeze_from_ns < report->first_freeze_ns))
            report->first_freeze_ns = e->freeze_from_ns;
        if (e->freeze_to_ns > report->last_freeze_ns)
            report->last_freeze_ns = e->freeze_to_ns;
        if (e->thaw_to_ns > report->last_thaw_ns)
            report->last_thaw_ns = e->thaw_to_ns;
    }
}

/* Nothing of an earlier freeze may still be under way. */
static int check_idle(struct freezer *f, struct sp_why *why)
{
    if (f->active)
        return sp_why_set(why, -EBUSY, "frozen already by operation %s", f->operation_id);
    for (uint32_t i = 0; i < f->count; i++)
        if (freeze_entry_unsettled(&f->list->entries[i]))
            return sp_why_set(why, -EBUSY, "'%s' still hangs in an earlier freeze",
                              f->list->entries[i].mount_point);
    return 0;
}

/* Writes the list and hands over the mounts. */
static int hand_over(struct freezer *f, const char *operation_id,
                     const struct freezer_target *targets, uint32_t count)
{
    close_mounts(f, true);
    atomic_store(&f->list->deadline_ns, 0);
    atomic_store(&f->list->ended_by, FREEZE_END_NONE);
    atomic_store(&f->list->phase, FREEZE_PHASE_IDLE);
    snprintf(f->operation_id, sizeof(f->operation_id), "%s", operation_id);
    memcpy(f->list->operation_id, f->operation_id, sizeof(f->operation_id));
    for (uint32_t i = 0; i < count; i++) {
        struct freeze_entry *e = &f->list->entries[i];
        *e = (struct freeze_entry){.level = targets[i].level, .kind = targets[i].kind};
        snprintf(e->devno, sizeof(e->devno), "%s", targets[i].devno);
        snprintf(e->mount_point, sizeof(e->mount_point), "%s", targets[i].mount_point);
        int fd = fcntl(targets[i].fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return -errno;
        f->mounts[f->count++] = fd;
        atomic_store(&f->list->count, f->count);
    }
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = send_message(f, FREEZER_ADD, i, f->mounts[i]);
    return r;
}

/* A freezer that got part of the list starts afresh. */
static void discard_process(struct freezer *f)
{
    if (f->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, f->pidfd, SIGKILL, NULL, 0);
    f->ready = false;
}

int freezer_freeze(struct freezer *f, const char *operation_id,
                   const struct freezer_target *targets, uint32_t count, uint32_t lease_ms,
                   struct freezer_report *report, struct sp_why *why)
{
    if (count > FREEZE_LIST_MOST)
        return sp_why_set(why, -E2BIG, "%u file systems are more than the %d that can be frozen",
                          count, FREEZE_LIST_MOST);
    pthread_mutex_lock(&f->lock);
    int r = check_idle(f, why);
    if (r == 0 && f->pidfd < 0) {
        r = start(f, why);
        wake_watch(f);
    }
    if (r == 0)
        r = wait_ready(f, why);
    if (r == 0) {
        r = hand_over(f, operation_id, targets, count);
        if (r == 0) {
            f->active = true;
            f->held = f->wanted = false;
            f->ended_by = FREEZE_END_NONE;
            /* A first guess, for overdue_ms(); the freezer writes the real one. */
            atomic_store(&f->list->deadline_ns, freeze_now_ns() + lease_ms * 1000000ull);
            r = send_message(f, FREEZER_FREEZE, lease_ms, -1);
            wake_watch(f);
        }
        if (r < 0) {
            f->active = false;
            discard_process(f);
            sp_why_set(why, r = -EIO, "the freezer is gone");
        }
    }
    while (r == 0 && f->active && !f->held)
        pthread_cond_wait(&f->changed, &f->lock);
    if (r == 0) {
        fill_report(f, report);
        if (!f->held)
            r = sp_why_set(why, -ETIME, "the freeze was ended before it was complete: %s",
                           freeze_end_name(f->ended_by));
    }
    pthread_mutex_unlock(&f->lock);
    return r;
}

int freezer_thaw(struct freezer *f, const char *operation_id, struct freezer_report *report,
                 struct sp_why *why)
{
    pthread_mutex_lock(&f->lock);
    int r = 0;
    if (!f->operation_id[0] || strcmp(f->operation_id, operation_id) != 0)
        r = sp_why_set(why, -ENOENT, "operation %s froze nothing here", operation_id);
    if (r == 0 && f->active) {
        f->wanted = true;
        if (f->socket >= 0)
            send_message(f, FREEZER_THAW, FREEZE_END_COMMAND,
                         -1); /* failing: it is dead, and the watch thaws */
        while (f->active)
            pthread_cond_wait(&f->changed, &f->lock);
    }
    if (r == 0)
        fill_report(f, report);
    pthread_mutex_unlock(&f->lock);
    return r;
}

void freezer_abort(struct freezer *f, enum freeze_end as)
{
    pthread_mutex_lock(&f->lock);
    if (f->active && f->socket >= 0)
        send_message(f, FREEZER_THAW, as, -1);
    pthread_mutex_unlock(&f->lock);
}

void freezer_state(struct freezer *f, struct freezer_status *ret)
{
    pthread_mutex_lock(&f->lock);
    *ret = (struct freezer_status){.frozen = f->active, .last_ended_by = f->ended_by};
    memcpy(ret->operation_id, f->operation_id, sizeof(ret->operation_id));
    uint64_t deadline = atomic_load(&f->list->deadline_ns), now = freeze_now_ns();
    if (f->active && deadline > now)
        ret->remaining_ms = (uint32_t)((deadline - now) / 1000000);
    pthread_mutex_unlock(&f->lock);
}

int freezer_pid(struct freezer *f)
{
    pthread_mutex_lock(&f->lock);
    int pid = f->pidfd >= 0 ? f->pid : -1;
    pthread_mutex_unlock(&f->lock);
    return pid;
}

int freezer_lock_error(struct freezer *f)
{
    pthread_mutex_lock(&f->lock);
    int error = f->lock_error;
    pthread_mutex_unlock(&f->lock);
    return error;
}
