/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/frame.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/secret.h"
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* ---- waiting ---- */

/* An absolute deadline in monotonic ms; 0: none. */
static uint64_t deadline_of(int timeout_ms)
{
    return timeout_ms > 0 ? sp_clock_monotonic_ms(&sp_clock_system) + (uint64_t)timeout_ms : 0;
}

static int wait_for(int fd, short events, uint64_t deadline_ms)
{
    for (;;) {
        int left = -1;
        if (deadline_ms) {
            uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
            if (now >= deadline_ms)
                return -ETIMEDOUT;
            left = deadline_ms - now > INT32_MAX ? INT32_MAX : (int)(deadline_ms - now);
        }
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, left);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

/* ---- sending ---- */

/* One sendmsg, descriptors on its first byte. Returns the bytes sent. */
static ssize_t send_some(int socket, const void *data, size_t size, const int *fds, size_t fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SP_FRAME_MAX_FDS * sizeof(int))];
    } control = {0};
    struct iovec io = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
    if (fd_count) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
    }
    return sendmsg(socket, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int send_all(int socket, const void *data, size_t size, const int *fds, size_t fd_count,
                    uint64_t deadline_ms)
{
    const char *p = data;
    while (size) {
        ssize_t n = send_some(socket, p, size, fds, fd_count);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            int r = wait_for(socket, POLLOUT, deadline_ms);
            if (r < 0)
                return r;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == ECONNRESET ? -EPIPE : -errno;
        p += n;
        size -= (size_t)n;
        fd_count = 0;
    }
    return 0;
}

int sp_frame_send(int socket, const ProtobufCMessage *message, const int *fds, size_t fd_count,
                  int timeout_ms)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size > SP_FRAME_MAX || fd_count > SP_FRAME_MAX_FDS)
        return -EMSGSIZE;
    /* The message may carry key material: the packed form is wiped whatever it is. */
    uint8_t *frame = malloc(size + 4);
    if (!frame)
        return -ENOMEM;
    sp_put_le32(frame, (uint32_t)size);
    protobuf_c_message_pack(message, frame + 4);
    int r = send_all(socket, frame, size + 4, fds, fd_count, deadline_of(timeout_ms));
    sp_wipe(frame, size + 4);
    free(frame);
    return r;
}

/* ---- receiving ---- */

struct incoming {
    int *fds;
    size_t capacity, count;
    bool refused; /* more descriptors than anybody expects */
};

static void take_descriptors(struct msghdr *m, struct incoming *in)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (in->count < in->capacity) {
                in->fds[in->count++] = fd;
            } else {
                close(fd);
                in->refused = true;
            }
        }
    }
    if (m->msg_flags & MSG_CTRUNC)
        in->refused = true;
}

/* Fills `data`. -ENODATA when the peer closes before the first byte, -EPROTO in the middle. */
static int receive_all(int socket, void *data, size_t size, struct incoming *in,
                       uint64_t deadline_ms)
{
    char *p = data;
    size_t got = 0;
    while (got < size) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(SP_FRAME_MAX_FDS * sizeof(int))];
        } control;
        struct iovec io = {.iov_base = p + got, .iov_len = size - got};
        struct msghdr m = {.msg_iov = &io,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof(control.bytes)};
        ssize_t n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            int r = wait_for(socket, POLLIN, deadline_ms);
            if (r < 0)
                return r;
            continue;
        }
        if (n < 0)
            return errno == ECONNRESET ? (got ? -EPROTO : -ENODATA) : -errno;
        take_descriptors(&m, in);
        if (in->refused)
            return -EPROTO;
        if (n == 0)
            return got ? -EPROTO : -ENODATA;
        got += (size_t)n;
    }
    return 0;
}

/* Fields that this side does not know break the rules: both ends are of one version. */
static bool has_unknown_fields(const ProtobufCMessage *m, unsigned depth)
{
    if (m->n_unknown_fields || depth > 64)
        return true;
    const ProtobufCMessageDescriptor *d = m->descriptor;
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        if (f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        const char *at = (const char *)m + f->offset;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = *(const size_t *)(const void *)((const char *)m + f->quantifier_offset);
            ProtobufCMessage *const *list = *(ProtobufCMessage *const *const *)(const void *)at;
            for (size_t k = 0; k < n; k++) {
                if (has_unknown_fields(list[k], depth + 1))
                    return true;
            }
            continue;
        }
        if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
            *(const uint32_t *)(const void *)((const char *)m + f->quantifier_offset) != f->id)
            continue;
        const ProtobufCMessage *sub = *(ProtobufCMessage *const *)(const void *)at;
        if (sub && has_unknown_fields(sub, depth + 1))
            return true;
    }
    return false;
}

static void wipe_and_free(uint8_t *data, size_t size)
{
    sp_wipe(data, size);
    free(data);
}

static int receive(int socket, const ProtobufCMessageDescriptor *type,
                   ProtobufCAllocator *allocator, ProtobufCMessage **ret, struct incoming *in,
                   int timeout_ms)
{
    uint64_t deadline_ms = deadline_of(timeout_ms);
    uint8_t head[4];
    int r = receive_all(socket, head, sizeof(head), in, deadline_ms);
    if (r < 0)
        return r == -ENODATA ? -EPIPE : r;
    uint32_t size = sp_le32(head);
    if (size > SP_FRAME_MAX)
        return -EPROTO;
    uint8_t *data = malloc(size ? size : 1);
    if (!data)
        return -ENOMEM;
    r = receive_all(socket, data, size, in, deadline_ms);
    if (r < 0) {
        wipe_and_free(data, size);
        return r == -ENODATA ? -EPROTO : r;
    }
    ProtobufCMessage *m = protobuf_c_message_unpack(type, allocator, size, data);
    wipe_and_free(data, size);
    if (!m)
        return -EPROTO;
    if (has_unknown_fields(m, 0)) {
        protobuf_c_message_free_unpacked(m, allocator);
        return -EPROTO;
    }
    *ret = m;
    return 0;
}

int sp_frame_receive(int socket, const ProtobufCMessageDescriptor *type,
                     ProtobufCAllocator *allocator, ProtobufCMessage **ret, int *fds,
                     size_t fd_capacity, size_t *ret_fd_count, int timeout_ms)
{
    struct incoming in = {.fds = fds, .capacity = fd_capacity};
    int r = receive(socket, type, allocator, ret, &in, timeout_ms);
    if (r < 0) {
        for (size_t i = 0; i < in.count; i++)
            close(in.fds[i]);
        return r;
    }
    if (ret_fd_count)
        *ret_fd_count = in.count;
    return 0;
}

/* ---- sockets ---- */

static int unix_address(const char *path, struct sockaddr_un *ret)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(ret->sun_path))
        return -ENAMETOOLONG;
    memcpy(ret->sun_path, path, strlen(path) + 1);
    return 0;
}

int sp_unix_connect(const char *path)
{
    struct sockaddr_un address;
    int r = unix_address(path, &address);
    if (r < 0)
        return r;
    SP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    return sp_steal_fd(&fd);
}

int sp_unix_listen(const char *path, mode_t mode)
{
    struct sockaddr_un address;
    int r = unix_address(path, &address);
    if (r < 0)
        return r;
    SP_FD int probe = sp_unix_connect(path);
    if (probe >= 0)
        return -EADDRINUSE;
    struct stat st;
    if (probe == -ECONNREFUSED && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && unlink(path) < 0)
        return -errno;
    SP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* Nobody can connect before listen(2), so the mode is right by then. */
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, mode) < 0 ||
        listen(fd, SOMAXCONN) < 0)
        return -errno;
    return sp_steal_fd(&fd);
}

int sp_unix_peer(int socket, uid_t *ret_uid, pid_t *ret_pid)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return -errno;
    if (ret_uid)
        *ret_uid = peer.uid;
    if (ret_pid)
        *ret_pid = peer.pid;
    return 0;
}

/* ---- bytes of a snapshot ---- */

int sp_pread_remote(int socket, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    if (length > SP_PREAD_MAX)
        return -EINVAL;
    struct sp_pread_ask ask = {.disk = disk, .length = length, .offset = offset};
    int r = send_all(socket, &ask, sizeof(ask), NULL, 0, 0);
    if (r < 0)
        return r;
    struct sp_pread_answer answer;
    r = sp_read_all(socket, &answer, sizeof(answer));
    if (r < 0)
        return r == -ENODATA ? -EPIPE : r;
    if (answer.error)
        return answer.error < 0 ? answer.error : -EPROTO;
    if (answer.length != length)
        return -EPROTO;
    r = sp_read_all(socket, out, length);
    return r == -ENODATA ? -EPIPE : r;
}

/* 1: an ask was read, 0: the peer closed. */
static int next_ask(int socket, int cancel_fd, struct sp_pread_ask *ask)
{
    size_t got = 0;
    while (got < sizeof(*ask)) {
        struct pollfd p[2] = {{.fd = socket, .events = POLLIN},
                              {.fd = cancel_fd, .events = POLLIN}};
        if (poll(p, cancel_fd >= 0 ? 2 : 1, -1) < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (cancel_fd >= 0 && p[1].revents)
            return -ECANCELED;
        ssize_t n = recv(socket, (char *)ask + got, sizeof(*ask) - got, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0 && errno != ECONNRESET)
            return -errno;
        if (n <= 0)
            return got ? -EPROTO : 0;
        got += (size_t)n;
    }
    return 1;
}

int sp_pread_serve(int socket, int cancel_fd,
                   int (*read_at)(void *self, uint32_t disk, uint64_t offset, void *out,
                                  uint32_t length),
                   void *self)
{
    SP_FREE char *data = malloc(SP_PREAD_MAX);
    if (!data)
        return -ENOMEM;
    for (;;) {
        struct sp_pread_ask ask;
        int r = next_ask(socket, cancel_fd, &ask);
        if (r <= 0)
            return r;
        if (ask.length > SP_PREAD_MAX)
            return -EPROTO;
        r = read_at(self, ask.disk, ask.offset, data, ask.length);
        struct sp_pread_answer answer = {.error = r < 0 ? r : 0, .length = r < 0 ? 0 : ask.length};
        r = send_all(socket, &answer, sizeof(answer), NULL, 0, 0);
        if (r == 0 && answer.length)
            r = send_all(socket, data, answer.length, NULL, 0, 0);
        if (r < 0)
            return r == -EPIPE ? 0 : r; /* it went away while it was answered */
    }
}
