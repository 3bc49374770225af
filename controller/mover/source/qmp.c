/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/source/qmp.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

struct qmp {
    int fd;
    int failed; /* negative errno once the connection is of no use */
    unsigned timeout_ms;
    uint32_t version;
    uint64_t last_id;
    char error_class[64];
    struct sp_buffer in; /* bytes read and not yet used */
    size_t used, searched;
};

/* ── Fields ── */

static json_object *field(json_object *o, const char *key, enum json_type type)
{
    json_object *v = NULL;
    if (!o || !json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v))
        return NULL;
    return json_object_is_type(v, type) ? v : NULL;
}

const char *qmp_string(json_object *o, const char *key)
{
    json_object *v = field(o, key, json_type_string);
    /* A 0 inside would make two different names equal. */
    if (!v || strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v))
        return NULL;
    return json_object_get_string(v);
}

uint64_t qmp_number(json_object *o, const char *key)
{
    json_object *v = field(o, key, json_type_int);
    int64_t n = v ? json_object_get_int64(v) : 0;
    return n > 0 ? (uint64_t)n : 0;
}

bool qmp_flag(json_object *o, const char *key)
{
    json_object *v = field(o, key, json_type_boolean);
    return v && json_object_get_boolean(v);
}

json_object *qmp_get_object(json_object *o, const char *key)
{
    return field(o, key, json_type_object);
}

json_object *qmp_get_array(json_object *o, const char *key)
{
    return field(o, key, json_type_array);
}

size_t qmp_length(json_object *array)
{
    return array && json_object_is_type(array, json_type_array) ? json_object_array_length(array)
                                                                : 0;
}

json_object *qmp_at(json_object *array, size_t i)
{
    return i < qmp_length(array) ? json_object_array_get_idx(array, i) : NULL;
}

static json_object *object_from(const char *keys, va_list ap)
{
    json_object *o = json_object_new_object();
    bool whole = o;
    while (*keys) {
        size_t n = strcspn(keys, "=");
        char key[32];
        char type = '\0';
        if (keys[n])
            type = keys[n + 1];
        json_object *v = NULL;
        if (type == 's')
            v = json_object_new_string(va_arg(ap, const char *));
        else if (type == 'n')
            v = json_object_new_int64(va_arg(ap, int64_t));
        else if (type == 'b')
            v = json_object_new_boolean(va_arg(ap, int));
        else if (type == 'o')
            v = va_arg(ap, json_object *);
        if (n >= sizeof key || !v || !whole) {
            whole = false;
            json_object_put(v);
        } else {
            memcpy(key, keys, n);
            key[n] = 0;
            if (json_object_object_add(o, key, v)) {
                whole = false;
                json_object_put(v);
            }
        }
        keys += n + (type ? 2 : 0);
        keys += *keys == ',';
    }
    if (whole)
        return o;
    json_object_put(o);
    return NULL;
}

json_object *qmp_object(const char *keys, ...)
{
    va_list ap;
    va_start(ap, keys);
    json_object *o = object_from(keys, ap);
    va_end(ap);
    return o;
}

/* ── Messages ── */

int qmp_parse(const char *line, size_t size, struct qmp_message *ret, struct sp_why *why)
{
    if (size > QMP_MAX_LINE || size > INT_MAX)
        return sp_why_set(why, -EPROTO, "QEMU sent a line of more than %d bytes", QMP_MAX_LINE);
    struct json_tokener *t = json_tokener_new_ex(QMP_MAX_DEPTH);
    if (!t)
        return -ENOMEM;
    json_object *whole = json_tokener_parse_ex(t, line, (int)size);
    enum json_tokener_error error = json_tokener_get_error(t);
    size_t end = json_tokener_get_parse_end(t);
    json_tokener_free(t);
    while (end < size && strchr(" \r\t\n", line[end]) && line[end])
        end++;
    struct qmp_message m = {.whole = whole};
    if (error != json_tokener_success || end != size ||
        !json_object_is_type(whole, json_type_object)) {
        json_object_put(whole);
        return sp_why_set(why, -EPROTO, "QEMU sent what is not one JSON object (%s)",
                          error != json_tokener_success ? json_tokener_error_desc(error)
                                                        : "more behind it, or another type");
    }
    m.id = qmp_number(whole, "id");
    if ((m.value = qmp_get_object(whole, "QMP")))
        m.kind = QMP_GREETING;
    else if (json_object_object_get_ex(whole, "return", &m.value))
        m.kind = QMP_RETURN;
    else if ((m.value = qmp_get_object(whole, "error")))
        m.kind = QMP_ERROR;
    else if (qmp_string(whole, "event")) {
        m.kind = QMP_EVENT;
        m.value = whole;
    } else {
        json_object_put(whole);
        return sp_why_set(why, -EPROTO, "QEMU sent an object that is no greeting, reply or event");
    }
    *ret = m;
    return 0;
}

/* ── Connection ── */

static int lost(struct qmp *q, int error)
{
    if (!q->failed)
        q->failed = error;
    return q->failed;
}

static int wait_for(struct qmp *q, short events, uint64_t deadline_ms)
{
    for (;;) {
        uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
        if (now >= deadline_ms)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = q->fd, .events = events};
        int n = poll(&p, 1, (int)(deadline_ms - now));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

/* The next line into *ret_line, valid until the next call. */
static int read_line(struct qmp *q, uint64_t deadline_ms, const char **ret_line, size_t *ret_size,
                     struct sp_why *why)
{
    sp_buffer_text(&q->in);
    if (q->used) { /* drop what was used */
        memmove(q->in.data, q->in.data + q->used, q->in.size - q->used);
        q->in.size -= q->used;
        q->used = q->searched = 0;
    }
    for (;;) {
        uint8_t *nl = q->in.size > q->searched
                          ? memchr(q->in.data + q->searched, '\n', q->in.size - q->searched)
                          : NULL;
        if (nl) {
            *ret_line = (const char *)q->in.data;
            *ret_size = (size_t)(nl - q->in.data);
            q->used = *ret_size + 1;
            return 0;
        }
        q->searched = q->in.size;
        if (q->in.size > QMP_MAX_LINE)
            return sp_why_set(why, lost(q, -EPROTO), "QEMU sent a line of more than %d bytes",
                              QMP_MAX_LINE);
        int r = wait_for(q, POLLIN, deadline_ms);
        if (r)
            return sp_why_set(why, lost(q, r), "QEMU did not answer within %u s",
                              q->timeout_ms / 1000);
        uint8_t *room = sp_buffer_room(&q->in, 65536);
        if (!room)
            return lost(q, -ENOMEM);
        ssize_t n = recv(q->fd, room, 65536, 0);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return sp_why_set(why, lost(q, -ECONNRESET), "QEMU closed the QMP connection");
        if (n > 0)
            q->in.size += (size_t)n;
    }
}

static int send_all(struct qmp *q, uint8_t *data, size_t size, int fd, uint64_t deadline_ms,
                    struct sp_why *why)
{
    while (size) {
        union {
            struct cmsghdr header;
            char space[CMSG_SPACE(sizeof(int))];
        } control = {0};
        struct iovec part = {.iov_base = data, .iov_len = size};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
        if (fd >= 0) {
            m.msg_control = &control;
            m.msg_controllen = sizeof control.space;
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(c), &fd, sizeof fd);
        }
        ssize_t n = sendmsg(q->fd, &m, MSG_NOSIGNAL);
        if (n > 0) {
            fd = -1;
            data += n;
            size -= (size_t)n;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        int r = n < 0 && errno != EAGAIN ? -errno : wait_for(q, POLLOUT, deadline_ms);
        if (r == -ETIMEDOUT)
            return sp_why_set(why, lost(q, r), "QEMU did not take a command within %u s",
                              q->timeout_ms / 1000);
        if (r)
            return sp_why_set(why, lost(q, -ECONNRESET), "QEMU closed the QMP connection");
    }
    return 0;
}

static int read_reply(struct qmp *q, uint64_t id, const char *command, uint64_t deadline_ms,
                      json_object **ret, struct sp_why *why)
{
    for (;;) {
        const char *line;
        size_t size;
        int r = read_line(q, deadline_ms, &line, &size, why);
        if (r)
            return r;
        struct qmp_message m = {0};
        r = qmp_parse(line, size, &m, why);
        if (r)
            return lost(q, r);
        QMP_JSON json_object *whole = m.whole;
        if (m.kind == QMP_EVENT)
            continue;
        if (m.kind == QMP_GREETING || m.id != id)
            return sp_why_set(why, lost(q, -EPROTO),
                              "QEMU answered '%s' with the reply to something else", command);
        if (m.kind == QMP_ERROR) {
            const char *class = qmp_string(m.value, "class"), *text = qmp_string(m.value, "desc");
            snprintf(q->error_class, sizeof q->error_class, "%s", class ? class : "");
            return sp_why_set(why, -EREMOTEIO, "QEMU refused '%s': %s", command,
                              text ? text : "no reason given");
        }
        if (ret)
            *ret = json_object_get(m.value);
        return 0;
    }
}

int qmp_call_fd(struct qmp *q, const char *command, json_object *arguments, int fd,
                json_object **ret, struct sp_why *why)
{
    QMP_JSON json_object *with = arguments;
    q->error_class[0] = 0;
    if (q->failed)
        return sp_why_set(why, q->failed, "the QMP connection was lost before '%s'", command);
    uint64_t id = ++q->last_id;
    QMP_JSON json_object *m = qmp_object("execute=s,id=n", command, (int64_t)id);
    if (!m || (with && json_object_object_add(m, "arguments", json_object_get(with))))
        return -ENOMEM;
    size_t size;
    const char *text = json_object_to_json_string_length(m, JSON_C_TO_STRING_PLAIN, &size);
    if (!text)
        return -ENOMEM;
    SP_BUFFER struct sp_buffer line = {0};
    int r = sp_buffer_append(&line, text, size);
    r = r ? r : sp_buffer_append(&line, "\n", 1);
    if (r)
        return r;
    uint64_t deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + q->timeout_ms;
    r = send_all(q, line.data, line.size, fd, deadline_ms, why);
    return r ? r : read_reply(q, id, command, deadline_ms, ret, why);
}

int qmp_call(struct qmp *q, const char *command, json_object *arguments, json_object **ret,
             struct sp_why *why)
{
    return qmp_call_fd(q, command, arguments, -1, ret, why);
}

bool qmp_refused_as(const struct qmp *q, const char *error_class)
{
    return !strcmp(q->error_class, error_class);
}

uint32_t qmp_version(const struct qmp *q)
{
    return q->version;
}

static int greet(struct qmp *q, struct sp_why *why)
{
    const char *line;
    size_t size;
    uint64_t deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + q->timeout_ms;
    int r = read_line(q, deadline_ms, &line, &size, why);
    if (r == -ETIMEDOUT)
        return sp_why_set(
            why, r,
            "no QMP greeting within %u s: another program may hold this socket, which "
            "serves one at a time; give QEMU a second '-qmp' for Sealpoint",
            q->timeout_ms / 1000);
    if (r)
        return r;
    struct qmp_message m = {0};
    r = qmp_parse(line, size, &m, why);
    if (r)
        return r;
    QMP_JSON json_object *whole = m.whole;
    if (m.kind != QMP_GREETING)
        return sp_why_set(why, -EPROTO, "what answers there does not greet as QMP does");
    json_object *v = qmp_get_object(qmp_get_object(m.value, "version"), "qemu");
    uint64_t major = qmp_number(v, "major"), minor = qmp_number(v, "minor"),
             micro = qmp_number(v, "micro");
    if (!major || major > 999 || minor > 999 || micro > 999)
        return sp_why_set(why, -EPROTO, "the QMP greeting has no version of QEMU");
    q->version = (uint32_t)(major * 1000000 + minor * 1000 + micro);
    return qmp_call(q, "qmp_capabilities", NULL, NULL, why);
}

int qmp_open_fd(int fd, unsigned timeout_ms, struct qmp **ret, struct sp_why *why)
{
    QMP_CLOSE struct qmp *q = calloc(1, sizeof *q);
    if (!q) {
        close(fd);
        return -ENOMEM;
    }
    q->fd = fd;
    q->timeout_ms = timeout_ms ? timeout_ms : QMP_TIMEOUT_MS;
    if (fcntl(q->fd, F_SETFL, O_NONBLOCK))
        return -errno;
    int r = greet(q, why);
    if (r)
        return r;
    *ret = sp_steal(q);
    return 0;
}

int qmp_open(const char *path, unsigned timeout_ms, struct qmp **ret, struct sp_why *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return sp_why_set(why, -ENAMETOOLONG, "the path of the QMP socket '%s' is too long", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    SP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int r = connect(fd, (struct sockaddr *)&address, sizeof address) ? -errno : 0;
    if (r == -EACCES)
        return sp_why_set(why, r,
                          "this user may not connect to the QMP socket '%s': sealpointd needs a "
                          "group that may write to it, see sealpointd(8)",
                          path);
    if (r)
        return sp_why_set(why, r, "no QEMU serves the QMP socket '%s': %s", path, strerror(-r));
    r = qmp_open_fd(sp_steal_fd(&fd), timeout_ms, ret, why);
    return r ? sp_why_prefix(why, r, "%s", path) : 0;
}

void qmp_close(struct qmp *q)
{
    if (!q)
        return;
    close(q->fd);
    sp_buffer_free(&q->in);
    free(q);
}
