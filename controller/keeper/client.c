/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/keeper_client.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/frame.h"
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

enum { IDLE_MOST = 16, CALL_MS = 30 * 1000, READING_MS = 15 * 60 * 1000 };

struct keeper_client {
    char *path;
    pthread_mutex_t lock;
    int idle[IDLE_MOST];
    size_t idle_count;
    uint64_t next_id;
};

int keeper_client_new(const char *socket_path, struct keeper_client **ret)
{
    struct keeper_client *c = calloc(1, sizeof(*c));
    if (!c || !(c->path = strdup(socket_path))) {
        free(c);
        return -ENOMEM;
    }
    pthread_mutex_init(&c->lock, NULL);
    *ret = c;
    return 0;
}

void keeper_client_free(struct keeper_client *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->idle_count; i++)
        close(c->idle[i]);
    pthread_mutex_destroy(&c->lock);
    free(c->path);
    free(c);
}

/* ---- the pool ---- */

/* Nobody has asked on an idle connection, so anything to read on it is its end. */
static bool is_stale(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) != 0;
}

static int take_connection(struct keeper_client *c, struct sp_why *why)
{
    int fd = -1;
    pthread_mutex_lock(&c->lock);
    while (fd < 0 && c->idle_count > 0) {
        fd = c->idle[--c->idle_count];
        if (is_stale(fd)) {
            close(fd);
            fd = -1;
        }
    }
    pthread_mutex_unlock(&c->lock);
    if (fd >= 0)
        return fd;
    fd = sp_unix_connect(c->path);
    return fd < 0 ? sp_why_set(why, fd, "the keeper does not answer on %s", c->path) : fd;
}

static void give_back(struct keeper_client *c, int fd)
{
    pthread_mutex_lock(&c->lock);
    if (c->idle_count < IDLE_MOST) {
        c->idle[c->idle_count++] = fd;
        fd = -1;
    }
    pthread_mutex_unlock(&c->lock);
    if (fd >= 0)
        close(fd);
}

static uint64_t make_id(struct keeper_client *c)
{
    pthread_mutex_lock(&c->lock);
    uint64_t id = ++c->next_id;
    pthread_mutex_unlock(&c->lock);
    return id;
}

/* ---- one call ---- */

static int send_request(struct keeper_client *c, int connection, Sp__KeeperRequest *request, int fd,
                        int timeout_ms, struct sp_why *why)
{
    request->id = make_id(c);
    int r = sp_frame_send(connection, &request->base, fd >= 0 ? &fd : NULL, fd >= 0 ? 1 : 0,
                          timeout_ms);
    return r < 0 ? sp_why_set(why, r, "the request does not reach the keeper") : 0;
}

/* An answer with an error becomes that error. The connection is whole after 0 and after an error
 * that the keeper told; *ret_whole says so. */
static int receive_answer(int connection, uint64_t id, int timeout_ms, Sp__KeeperResponse **ret,
                          bool *ret_whole, struct sp_why *why)
{
    ProtobufCMessage *message = NULL;
    size_t fds = 0;
    *ret_whole = false;
    int r = sp_frame_receive(connection, &sp__keeper_response__descriptor, NULL, &message, NULL, 0,
                             &fds, timeout_ms);
    if (r == -ETIMEDOUT)
        return sp_why_set(why, r, "the keeper did not answer in time");
    if (r < 0)
        return sp_why_set(why, r, "the keeper ended before it answered");
    Sp__KeeperResponse *response = (Sp__KeeperResponse *)message;
    if (response->id != id) {
        sp__keeper_response__free_unpacked(response, NULL);
        return sp_why_set(why, -EPROTO, "the keeper answered another request");
    }
    *ret_whole = true;
    if (response->error == 0) {
        *ret = response;
        return 0;
    }
    r = sp_why_set(why, response->error > 0 ? -response->error : -EPROTO, "%s", response->text);
    sp__keeper_response__free_unpacked(response, NULL);
    return r;
}

int keeper_call(struct keeper_client *c, Sp__KeeperRequest *request, int fd, int timeout_ms,
                Sp__KeeperResponse **ret, struct sp_why *why)
{
    bool whole;
    if (timeout_ms <= 0)
        timeout_ms = CALL_MS;
    SP_FD int connection = take_connection(c, why);
    if (connection < 0)
        return connection;
    int r = send_request(c, connection, request, fd, timeout_ms, why);
    if (r < 0)
        return r;
    r = receive_answer(connection, request->id, timeout_ms, ret, &whole, why);
    if (whole)
        give_back(c, sp_steal_fd(&connection));
    return r;
}

/* ---- reading ---- */

static int watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* A descriptor that becomes readable when the answer is there or the time is over. */
static int make_cancel(int connection, int timer, int timeout_ms)
{
    struct itimerspec at = {
        .it_value = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000L}};
    SP_FD int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || timerfd_settime(timer, 0, &at, NULL) < 0)
        return -errno;
    int r = watch(epoll, connection);
    if (r == 0)
        r = watch(epoll, timer);
    return r < 0 ? r : sp_steal_fd(&epoll);
}

/* Sends the request with one end of a new socket pair; *ret_reader is ours. */
static int send_with_reader(struct keeper_client *c, int connection, Sp__KeeperRequest *request,
                            int timeout_ms, int *ret_reader, struct sp_why *why)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    int r = send_request(c, connection, request, pair[1], timeout_ms, why);
    close(pair[1]);
    if (r < 0)
        close(pair[0]);
    else
        *ret_reader = pair[0];
    return r;
}

static int left_ms(uint64_t end_ms)
{
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    return now < end_ms ? (int)(end_ms - now) : 1;
}

int keeper_call_reading(struct keeper_client *c, Sp__KeeperRequest *request,
                        int (*read_at)(void *self, uint32_t disk, uint64_t offset, void *out,
                                       uint32_t length),
                        void *self, int timeout_ms, Sp__KeeperResponse **ret, struct sp_why *why)
{
    SP_FD int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    SP_FD int reader = -1;
    bool whole;
    if (timer < 0)
        return -errno;
    if (timeout_ms <= 0)
        timeout_ms = READING_MS;
    uint64_t end = sp_clock_monotonic_ms(&sp_clock_system) + (uint64_t)timeout_ms;
    SP_FD int connection = take_connection(c, why);
    if (connection < 0)
        return connection;
    SP_FD int cancel = make_cancel(connection, timer, timeout_ms);
    int r =
        cancel < 0 ? cancel : send_with_reader(c, connection, request, timeout_ms, &reader, why);
    if (r < 0)
        return r;
    r = sp_pread_serve(reader, cancel, read_at, self);
    /* The reads are over, one way or the other; what they came to is in the answer. A keeper that
     * still reads meets the end of the socket. */
    close(sp_steal_fd(&reader));
    if (r == -ENOMEM)
        return r;
    r = receive_answer(connection, request->id, left_ms(end), ret, &whole, why);
    if (whole)
        give_back(c, sp_steal_fd(&connection));
    return r;
}
