/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/breed.h"

#include "base/cleanup.h"
#include "controller/keeper/prover/descriptors.h"
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

struct ask {
    struct nursery_ask what;
    int fds[PROVER_FD_COUNT];
    size_t fd_count;
};

static void close_all(struct ask *a)
{
    while (a->fd_count)
        close(a->fds[--a->fd_count]);
}

/* 1: an ask, 0: the keeper has gone. */
static int receive(struct ask *ret)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * PROVER_FD_COUNT)];
        struct cmsghdr align;
    } room = {{0}};
    struct iovec part = {&ret->what, sizeof(ret->what)};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = room.bytes,
                       .msg_controllen = sizeof(room.bytes)};
    ssize_t n;
    do
        n = recvmsg(PROVER_FD_JOB, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n < 0 ? -errno : 0;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_type == SCM_RIGHTS) {
        ret->fd_count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(ret->fds, CMSG_DATA(c), ret->fd_count * sizeof(int));
    }
    return n == (ssize_t)sizeof(ret->what) && ret->fd_count == PROVER_FD_COUNT ? 1 : -EPROTO;
}

static int answer(int error, int pidfd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } room = {{0}};
    struct nursery_answer a = {.error = error};
    struct iovec part = {&a, sizeof(a)};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    if (!error) {
        m.msg_control = room.bytes;
        m.msg_controllen = sizeof(room.bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &pidfd, sizeof(int));
    }
    return sendmsg(PROVER_FD_JOB, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* As the keeper would have spawned it. What came has numbers behind these: they are all taken. */
static int take_places(struct ask *a)
{
    for (int i = 0; i < PROVER_FD_COUNT; i++) {
        if (dup2(a->fds[i], PROVER_FD_JOB + i) < 0)
            return -errno;
    }
    close_all(a);
    return 0;
}

/* A fork() whose child is the keeper's own, to wait for and to kill. glibc has none such; this
 * process has one thread and holds no lock. With CLONE_PARENT the signal at the end is that of the
 * nursery itself. */
static pid_t clone_sibling(int *ret_pidfd)
{
    return (pid_t)syscall(SYS_clone, CLONE_PARENT | CLONE_PIDFD, NULL, ret_pidfd, NULL, 0);
}

static int serve(const struct sandbox *s, struct ask *a,
                 int (*work)(const struct sandbox *, const struct sandbox_limits *))
{
    SP_FD int pidfd = -1;
    pid_t pid = clone_sibling(&pidfd);
    if (pid < 0)
        return answer(-errno, -1);
    if (pid == 0) {
        struct sandbox_limits limits = {.memory_bytes = a->what.memory_bytes,
                                        .cpu_seconds = a->what.cpu_seconds};
        pidfd = -1;
        _exit(take_places(a) < 0 ? 1 : work(s, &limits));
    }
    return answer(0, pidfd);
}

int prover_breed(const struct sandbox *s,
                 int (*work)(const struct sandbox *, const struct sandbox_limits *))
{
    for (;;) {
        struct ask a = {.fd_count = 0};
        int r = receive(&a);
        if (r == 1)
            r = serve(s, &a, work);
        else if (r == 0)
            return 0;
        close_all(&a);
        if (r < 0)
            return r;
    }
}
