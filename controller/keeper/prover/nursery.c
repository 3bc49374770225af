/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper's side. A thread of its own starts the nursery: provers ask to be killed when the
 * thread that their parent started them in ends, so that thread has to stay. */
#include "controller/keeper/prover/nursery.h"

#include "base/cleanup.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

enum { JOBS_MOST = 500, RETRY_SECONDS = 5 };

struct prover_nursery {
    char *program;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    int control; /* -1: none */
    pid_t pid;
    unsigned jobs;
    bool renew, closing, tried;
};

/* ---- the process ---- */

static int set_actions(posix_spawn_file_actions_t *actions, int control)
{
    int e = 0;
    for (int fd = 0; !e && fd < PROVER_FD_JOB; fd++) {
#ifdef PROVER_UNDER_ASAN
        if (fd == STDERR_FILENO)
            break;
#endif
        e = posix_spawn_file_actions_addopen(actions, fd, "/dev/null", O_RDWR, 0);
    }
    if (!e)
        e = posix_spawn_file_actions_adddup2(actions, control, PROVER_FD_JOB);
    /* Taken, so that nothing which a library opens lies where the jobs' descriptors go. */
    for (int fd = PROVER_FD_JOB + 1; !e && fd < PROVER_FD_JOB + PROVER_FD_COUNT; fd++)
        e = posix_spawn_file_actions_addopen(actions, fd, "/dev/null", O_RDWR, 0);
    if (!e)
        e = posix_spawn_file_actions_addclosefrom_np(actions, PROVER_FD_JOB + PROVER_FD_COUNT);
    return -e;
}

static int spawn_with(struct prover_nursery *n, const posix_spawn_file_actions_t *actions)
{
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int e = posix_spawnattr_init(&attributes);
    if (e)
        return -e;
    e = posix_spawnattr_setsigmask(&attributes, &none);
    if (!e)
        e = posix_spawnattr_setsigdefault(&attributes, &all);
    if (!e)
        e = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                      POSIX_SPAWN_SETSID);
    char *argv[] = {(char[]){"sealpoint-prover"}, (char[]){"nursery"}, NULL};
    /* What its provers would resolve one by one, each anew, is resolved once. Their first
     * allocations come from one place, not from what the warm-up left here and there: each page
     * that a prover writes to is a copy. */
    char *environment[] = {(char[]){"LD_BIND_NOW=1"},
                           (char[]){"GLIBC_TUNABLES=glibc.malloc.tcache_count=0"}, NULL};
    if (!e)
        e = posix_spawn(&n->pid, n->program, actions, &attributes, argv, environment);
    posix_spawnattr_destroy(&attributes);
    return -e;
}

static int start(struct prover_nursery *n)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    /* Above the numbers of the child, so that no dup2() there is one onto itself. */
    SP_FD int theirs = fcntl(pair[1], F_DUPFD_CLOEXEC, 16);
    close(pair[1]);
    posix_spawn_file_actions_t actions;
    int r = theirs < 0 ? -errno : -posix_spawn_file_actions_init(&actions);
    if (r == 0) {
        r = set_actions(&actions, theirs);
        if (r == 0)
            r = spawn_with(n, &actions);
        posix_spawn_file_actions_destroy(&actions);
    }
    if (r < 0) {
        close(pair[0]);
        return r;
    }
    n->control = pair[0];
    n->jobs = 0;
    n->renew = false;
    return 0;
}

/* It holds nothing that could be lost; its provers go on. */
static void stop(struct prover_nursery *n)
{
    if (n->control < 0)
        return;
    close(n->control);
    n->control = -1;
    kill(n->pid, SIGKILL);
    while (waitpid(n->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static void *keep(void *self)
{
    struct prover_nursery *n = self;
    pthread_mutex_lock(&n->lock);
    while (!n->closing) {
        if (n->renew)
            stop(n);
        bool there = n->control >= 0 || start(n) == 0;
        n->tried = true;
        pthread_cond_broadcast(&n->changed);
        if (there) {
            pthread_cond_wait(&n->changed, &n->lock);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += RETRY_SECONDS;
        pthread_cond_clockwait(&n->changed, &n->lock, CLOCK_MONOTONIC, &until);
    }
    stop(n);
    pthread_mutex_unlock(&n->lock);
    return NULL;
}

int prover_nursery_open(const char *program, struct prover_nursery **ret)
{
    struct prover_nursery *n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->program = strdup(program);
    n->control = -1;
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->changed, NULL);
    int r = n->program ? -pthread_create(&n->thread, NULL, keep, n) : -ENOMEM;
    if (r < 0) {
        free(n->program);
        free(n);
        return r;
    }
    pthread_mutex_lock(&n->lock);
    while (!n->tried)
        pthread_cond_wait(&n->changed, &n->lock);
    pthread_mutex_unlock(&n->lock);
    *ret = n;
    return 0;
}

void prover_nursery_close(struct prover_nursery *n)
{
    if (!n)
        return;
    pthread_mutex_lock(&n->lock);
    n->closing = true;
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->lock);
    pthread_join(n->thread, NULL);
    pthread_mutex_destroy(&n->lock);
    pthread_cond_destroy(&n->changed);
    free(n->program);
    free(n);
}

/* ---- asking ---- */

static void renew(struct prover_nursery *n)
{
    n->renew = true;
    pthread_cond_broadcast(&n->changed);
}

void prover_nursery_renew(struct prover_nursery *n)
{
    pthread_mutex_lock(&n->lock);
    renew(n);
    pthread_mutex_unlock(&n->lock);
}

static int send_ask(int control, const struct nursery_ask *ask, const int fds[PROVER_FD_COUNT])
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * PROVER_FD_COUNT)];
        struct cmsghdr align;
    } room = {{0}};
    struct iovec part = {(void *)(uintptr_t)ask, sizeof(*ask)};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = room.bytes,
                       .msg_controllen = sizeof(room.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * PROVER_FD_COUNT);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * PROVER_FD_COUNT);
    ssize_t sent;
    do
        sent = sendmsg(control, &m, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)sizeof(*ask) ? 0 : -EAGAIN;
}

static int receive_answer(int control, int timeout_ms, int *ret_pidfd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } room = {{0}};
    struct nursery_answer answer;
    struct iovec part = {&answer, sizeof(answer)};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = room.bytes,
                       .msg_controllen = sizeof(room.bytes)};
    struct pollfd p = {.fd = control, .events = POLLIN};
    if (poll(&p, 1, timeout_ms) <= 0)
        return -ETIMEDOUT;
    if (recvmsg(control, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != (ssize_t)sizeof(answer))
        return -EPROTO;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (answer.error)
        return answer.error < 0 ? answer.error : -EPROTO;
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return -EPROTO;
    memcpy(ret_pidfd, CMSG_DATA(c), sizeof(int));
    return 0;
}

int prover_nursery_make(struct prover_nursery *n, const struct nursery_ask *ask,
                        const int fds[PROVER_FD_COUNT], int timeout_ms, int *ret_pidfd)
{
    pthread_mutex_lock(&n->lock);
    int r = n->control < 0 || n->renew ? -EAGAIN : send_ask(n->control, ask, fds);
    bool asked = r == 0;
    if (asked)
        r = receive_answer(n->control, timeout_ms, ret_pidfd);
    if ((asked && r < 0) || (!asked && n->control >= 0) || ++n->jobs >= JOBS_MOST)
        renew(n);
    pthread_mutex_unlock(&n->lock);
    return r;
}
