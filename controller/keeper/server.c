/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/server.h"

#include "base/cleanup.h"
#include "base/frame.h"
#include "base/log.h"
#include "base/secret.h"
#include "controller/keeper/keeper.h"
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

enum { ANSWER_MS = 60 * 1000 };

struct server;

struct connection {
    struct server *server;
    pthread_t thread;
    int fd;
    bool used, ended;
};

struct server {
    struct keeper *keeper;
    struct server_options options;
    pthread_mutex_t lock; /* connections[]; a leaf: nothing is locked under it */
    struct connection connections[SERVER_CONNECTIONS];
    int ended_fd; /* a connection has ended */
};

/* ---- one connection ---- */

static int answer(struct connection *c, const Sp__KeeperRequest *request, int fd)
{
    Sp__KeeperResponse *response = NULL;
    int r = keeper_handle(c->server->keeper, request, fd, &response);
    if (r < 0)
        return r;
    r = sp_frame_send(c->fd, &response->base, NULL, 0, ANSWER_MS);
    if (response->kind_case == SP__KEEPER_RESPONSE__KIND_VAULT_KEY)
        sp_wipe(response->vault_key->key.data, response->vault_key->key.len);
    sp__keeper_response__free_unpacked(response, NULL);
    return r;
}

static int serve_one(struct connection *c)
{
    ProtobufCMessage *message = NULL;
    SP_FD int fd = -1;
    size_t fds = 0;
    int r =
        sp_frame_receive(c->fd, &sp__keeper_request__descriptor, NULL, &message, &fd, 1, &fds, 0);
    if (r < 0)
        return r;
    if (fds == 0)
        fd = -1;
    r = answer(c, (const Sp__KeeperRequest *)message, fd);
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}

static void *connection_main(void *self)
{
    struct connection *c = self;
    struct server *s = c->server;
    int r;
    while ((r = serve_one(c)) == 0)
        ;
    if (r != -EPIPE && r != -ECONNRESET)
        sp_log_error("connection ended", r, NULL, NULL);
    pthread_mutex_lock(&s->lock);
    c->ended = true;
    pthread_mutex_unlock(&s->lock);
    uint64_t one = 1;
    ssize_t n = write(s->ended_fd, &one, sizeof(one));
    (void)n; /* the counter cannot overflow before it is read */
    return NULL;
}

/* ---- all of them ---- */

static void reap(struct server *s)
{
    for (size_t i = 0; i < SERVER_CONNECTIONS; i++) {
        struct connection *c = &s->connections[i];
        pthread_mutex_lock(&s->lock);
        bool over = c->used && c->ended;
        pthread_mutex_unlock(&s->lock);
        if (!over)
            continue;
        pthread_join(c->thread, NULL);
        close(c->fd);
        c->used = false;
    }
}

static struct connection *free_slot(struct server *s)
{
    for (size_t i = 0; i < SERVER_CONNECTIONS; i++)
        if (!s->connections[i].used)
            return &s->connections[i];
    return NULL;
}

static bool is_allowed(const struct server *s, int fd)
{
    uid_t uid;
    pid_t pid;
    if (sp_unix_peer(fd, &uid, &pid) < 0)
        return false;
    if (uid == 0 || uid == s->options.allowed_user)
        return true;
    sp_log(SP_LOG_WARNING, "peer refused", "uid", SP_LOG_NUMBER(uid), "pid", SP_LOG_NUMBER(pid),
           NULL);
    return false;
}

static void accept_one(struct server *s, struct connection *slot)
{
    SP_FD int fd = accept4(s->options.listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0 || !is_allowed(s, fd))
        return;
    *slot = (struct connection){.server = s, .fd = fd, .used = true};
    int r = pthread_create(&slot->thread, NULL, connection_main, slot);
    if (r != 0) {
        slot->used = false;
        sp_log_error("no thread for a connection", -r, NULL, NULL);
        return;
    }
    sp_steal_fd(&fd);
}

/* How many are left when the time is over. */
static int stop_all(struct server *s)
{
    struct timespec end;
    int left = 0;
    clock_gettime(CLOCK_REALTIME, &end); /* the clock that pthread_timedjoin_np() knows */
    end.tv_sec += SERVER_END_S;
    for (size_t i = 0; i < SERVER_CONNECTIONS; i++)
        if (s->connections[i].used)
            shutdown(s->connections[i].fd, SHUT_RD); /* answers under way still leave */
    for (size_t i = 0; i < SERVER_CONNECTIONS; i++) {
        struct connection *c = &s->connections[i];
        if (!c->used)
            continue;
        if (pthread_timedjoin_np(c->thread, NULL, &end) != 0) {
            left++;
            continue;
        }
        close(c->fd);
        c->used = false;
    }
    return left;
}

static int serve(struct server *s)
{
    for (;;) {
        struct connection *slot = free_slot(s);
        /* Without a free slot the next peers wait in the listener's queue. */
        struct pollfd fds[] = {{.fd = s->options.stop_fd, .events = POLLIN},
                               {.fd = s->ended_fd, .events = POLLIN},
                               {.fd = slot ? s->options.listener : -1, .events = POLLIN}};
        if (poll(fds, SP_COUNT(fds), -1) < 0 && errno != EINTR)
            return -errno;
        if (fds[0].revents)
            return 0;
        if (fds[1].revents) {
            uint64_t n;
            if (read(s->ended_fd, &n, sizeof(n)) == sizeof(n))
                reap(s);
        }
        if (slot && fds[2].revents)
            accept_one(s, slot);
    }
}

int server_run(struct keeper *k, const struct server_options *options)
{
    struct server *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->keeper = k;
    s->options = *options;
    pthread_mutex_init(&s->lock, NULL);
    s->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = s->ended_fd < 0 ? -errno : serve(s);
    if (stop_all(s) > 0)
        return r < 0 ? r : 1; /* their threads still use `s` */
    if (s->ended_fd >= 0)
        close(s->ended_fd);
    pthread_mutex_destroy(&s->lock);
    free(s);
    return r;
}
