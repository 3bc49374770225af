/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "proxy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

int proxy_listen(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

int proxy_connect(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

size_t proxy_relay(int from, int to, char *out, size_t room)
{
    char control[256];
    struct iovec part = {out, room};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof control};
    ssize_t n = recvmsg(from, &m, MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return 0;
    part.iov_len = (size_t)n;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (!m.msg_controllen)
        m.msg_control = NULL;
    if (to >= 0)
        assert_int_equal(sendmsg(to, &m, MSG_NOSIGNAL), n);
    if (c && c->cmsg_type == SCM_RIGHTS) {
        int fd;
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
        close(fd);
    }
    return (size_t)n;
}

bool proxy_changes(const char *line)
{
    return !strstr(line, "\"query-") && !strstr(line, "\"qom-get\"") &&
           !strstr(line, "\"qmp_capabilities\"") && !strstr(line, "\"x-debug");
}
