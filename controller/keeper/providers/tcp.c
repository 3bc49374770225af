/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/tcp.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

uint64_t tcp_left_ms(uint64_t deadline_ms)
{
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    return now < deadline_ms ? deadline_ms - now : 0;
}

int tcp_too_late(struct sp_why *why)
{
    return sp_why_set(
        why, -ETIMEDOUT,
        "no answer in time: the server is overloaded or a firewall drops the packets; "
        "'timeout' in keeper.conf says how long is waited");
}

static int connect_one(const struct addrinfo *a, uint64_t deadline_ms)
{
    SP_FD int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = 0;
    socklen_t size = sizeof(error);
    if (fd < 0)
        return -errno;
    if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (errno != EINPROGRESS)
            return -errno;
        int n = poll(&p, 1, (int)tcp_left_ms(deadline_ms));
        if (n <= 0)
            return n < 0 ? -errno : -ETIMEDOUT;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
            return -errno;
        if (error)
            return -error;
    }
    return sp_steal_fd(&fd);
}

static int no_connection(int error, const char *host, const char *port, const char *service,
                         struct sp_why *why)
{
    switch (error) {
    case -ECONNREFUSED:
        return sp_why_set(why, error, "nothing listens on %.100s port %s: is %s running there?",
                          host, port, service);
    case -ETIMEDOUT:
        return tcp_too_late(why);
    case -ENETUNREACH:
    case -EAFNOSUPPORT:
    case -EPERM:
        return sp_why_set(why, error,
                          "this host, or the keeper's unit, has no network to %.100s: "
                          "sealpoint-keeper(8), PROVIDERS, says how to give the keeper one",
                          host);
    default:
        return sp_why_set(why, error, "cannot connect to %.100s port %s: %s", host, port,
                          strerror(-error));
    }
}

int tcp_connect(const char *host, const char *port, const char *service, uint64_t deadline_ms,
                struct sp_why *why)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *list = NULL;
    int e = getaddrinfo(host, port, &hints, &list);
    if (e != 0)
        return sp_why_set(
            why, -EHOSTUNREACH,
            "the name %.100s of keeper.conf cannot be resolved: %s; if the name is "
            "right, the keeper may lack a network, see sealpoint-keeper(8), PROVIDERS",
            host, gai_strerror(e));
    int fd = -EHOSTUNREACH;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = connect_one(a, deadline_ms);
    freeaddrinfo(list);
    return fd < 0 ? no_connection(fd, host, port, service, why) : fd;
}
