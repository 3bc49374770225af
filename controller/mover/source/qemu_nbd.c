/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reading a snapshot over NBD. Each disk has a few connections; a caller takes one, waits for its
 * request and gives it back, so that several threads read one disk at the same time. Every wait has
 * a limit: a QEMU that hangs must not hang the backup. */
#include "controller/mover/source/qemu.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
    MAX_CONNECTIONS = 4,
    MAX_REQUEST = 16 << 20,    /* QEMU takes 32 MiB */
    MAX_STATUS = 1 << 30,      /* the range of one block-status request */
    MAX_CACHED_EXTENTS = 4096, /* of one reply */
    WAIT_MS = 60000,
};

/* What is asked of ranges: each an NBD metadata context. */
enum status_kind { STATUS_DATA, STATUS_CHANGED, STATUS_KINDS };

struct extent {
    uint64_t length;
    bool wanted; /* may hold data; was changed */
};

/* The last block-status reply, which usually answers the next question, too. */
struct status_cache {
    uint64_t at;
    size_t count;
    struct extent *extents; /* MAX_CACHED_EXTENTS, made when first needed */
};

struct reader_disk {
    char *export_name;
    char *contexts[STATUS_KINDS]; /* NULL: not exported */
    uint64_t size_bytes;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t given_back;
    struct nbd_handle *idle[MAX_CONNECTIONS];
    unsigned idle_count, open_count, most;
    struct status_cache cache[STATUS_KINDS];
};

struct qemu_reader {
    char *socket_path;
    size_t count;
    atomic_bool broken;
    struct reader_disk disks[];
};

/* ── Sockets ── */

/* The path through a descriptor of its folder: sun_path has 108 bytes, folders may be deeper. */
static int short_address(const char *path, struct sockaddr_un *a, int *ret_folder)
{
    const char *name = strrchr(path, '/');
    SP_FREE char *folder = name ? strndup(path, (size_t)(name - path) + 1) : strdup(".");
    if (!folder)
        return -ENOMEM;
    name = name ? name + 1 : path;
    int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/%s", fd, name);
    if (n < 0 || (size_t)n >= sizeof a->sun_path) {
        close(fd);
        return -ENAMETOOLONG;
    }
    *ret_folder = fd;
    return 0;
}

int qemu_connect(const char *path)
{
    struct sockaddr_un a;
    SP_FD int folder = -1;
    int r = short_address(path, &a, &folder);
    if (r)
        return r;
    SP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
        return -errno;
    return sp_steal_fd(&fd);
}

int qemu_listen(const char *path)
{
    struct sockaddr_un a;
    SP_FD int folder = -1;
    int r = short_address(path, &a, &folder);
    if (r)
        return r;
    SP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    unlink(path);
    /* fchmod before bind decides the mode of the file, whatever the umask of the threads is. */
    if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 64))
        return -errno;
    return sp_steal_fd(&fd);
}

/* ── Connections ── */

static int poll_until(struct nbd_handle *h, uint64_t deadline_ms)
{
    if (sp_clock_monotonic_ms(&sp_clock_system) >= deadline_ms)
        return -ETIMEDOUT;
    return nbd_poll(h, 500) < 0 && nbd_aio_is_dead(h) > 0 ? -ENOTCONN : 0;
}

static int gone(struct sp_why *why, int r)
{
    return sp_why_set(why, -EIO, "the source was lost: QEMU %s",
                      r == -ETIMEDOUT ? "did not answer within 60 s"
                                      : "closed the NBD connection or ended");
}

/* Negotiates on a connected socket. fd becomes the handle's. */
static int negotiate(const struct reader_disk *d, int fd, struct nbd_handle **ret,
                     struct sp_why *why)
{
    SP_FD int own = fd;
    struct nbd_handle *h = nbd_create();
    if (!h)
        return -ENOMEM;
    int r = 0;
    for (size_t i = 0; i < STATUS_KINDS && !r; i++) {
        if (d->contexts[i] && nbd_add_meta_context(h, d->contexts[i]))
            r = sp_why_set(why, -EIO, "NBD: %s", nbd_get_error());
    }
    if (!r && (nbd_set_export_name(h, d->export_name) || nbd_set_pread_initialize(h, false) ||
               nbd_aio_connect_socket(h, own)))
        r = sp_why_set(why, -EIO, "NBD: %s", nbd_get_error());
    else if (!r)
        own = -1;
    uint64_t deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + WAIT_MS;
    while (!r && nbd_aio_is_connecting(h) > 0) {
        r = poll_until(h, deadline_ms);
        if (r)
            r = gone(why, r);
    }
    if (!r && nbd_aio_is_ready(h) <= 0)
        r = sp_why_set(why, -EIO, "the source was lost: QEMU's NBD server did not offer '%s': %s",
                       d->export_name, nbd_get_error() ? nbd_get_error() : "closed");
    if (!r && nbd_get_size(h) != (int64_t)d->size_bytes)
        r = sp_why_set(why, -EIO, "QEMU exports %lld bytes for a disk of %llu",
                       (long long)nbd_get_size(h), (unsigned long long)d->size_bytes);
    if (r) {
        nbd_close(h);
        return r;
    }
    *ret = h;
    return 0;
}

static int take(struct qemu_reader *r, struct reader_disk *d, struct nbd_handle **ret,
                struct sp_why *why)
{
    pthread_mutex_lock(&d->lock);
    while (!d->idle_count && d->open_count && d->open_count >= d->most)
        pthread_cond_wait(&d->given_back, &d->lock);
    if (d->idle_count) {
        *ret = d->idle[--d->idle_count];
        pthread_mutex_unlock(&d->lock);
        return 0;
    }
    bool may_open = d->open_count < d->most;
    d->open_count += may_open;
    pthread_mutex_unlock(&d->lock);
    int error = -ENOTCONN;
    if (may_open) {
        error = qemu_connect(r->socket_path);
        error = error < 0 ? gone(why, error) : negotiate(d, error, ret, why);
        if (error) {
            pthread_mutex_lock(&d->lock);
            d->open_count--;
            pthread_cond_signal(&d->given_back);
            pthread_mutex_unlock(&d->lock);
        }
        return error;
    }
    return gone(why, error);
}

static void give_back(struct reader_disk *d, struct nbd_handle *h)
{
    bool usable = nbd_aio_is_ready(h) > 0 && nbd_aio_in_flight(h) == 0;
    if (!usable)
        nbd_close(h);
    pthread_mutex_lock(&d->lock);
    if (usable)
        d->idle[d->idle_count++] = h;
    else
        d->open_count--;
    pthread_cond_signal(&d->given_back);
    pthread_mutex_unlock(&d->lock);
}

/* ── Requests ── */

/* Waits for a request. 0; -EINVAL: the server refused it, *ret_errno says how; -ENOTCONN,
 * -ETIMEDOUT. */
static int finish(struct nbd_handle *h, int64_t cookie, int *ret_errno)
{
    uint64_t deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + WAIT_MS;
    if (cookie < 0)
        return -ENOTCONN;
    for (;;) {
        int done = nbd_aio_command_completed(h, (uint64_t)cookie);
        if (done > 0)
            return 0;
        if (done < 0) {
            *ret_errno = nbd_get_errno();
            return nbd_aio_is_ready(h) > 0 ? -EINVAL : -ENOTCONN;
        }
        int r = poll_until(h, deadline_ms);
        if (r == -ETIMEDOUT)
            return r;
    }
}

/* The sentence for a failed request, and whether the snapshot is broken for good. QEMU answers
 * reads of a broken snapshot with EACCES, which NBD has no code for and turns into EINVAL; a read
 * error of the disk itself stays EIO. */
static int explain(struct qemu_reader *r, const struct reader_disk *d, uint64_t offset, int error,
                   int server_errno, struct sp_why *why)
{
    if (error != -EINVAL)
        return gone(why, error);
    if (server_errno == EINVAL || server_errno == EPERM || server_errno == EACCES) {
        atomic_store(&r->broken, true);
        return sp_why_set(
            why, -EIO,
            "the snapshot broke: the fleece store had no room for what the guest "
            "overwrote (or was too slow); give it more, or copy when less is written");
    }
    return sp_why_set(why, -EIO, "the disk behind export '%s' cannot be read at byte %llu: %s",
                      d->export_name, (unsigned long long)offset, strerror(server_errno));
}

int qemu_reader_read(struct qemu_reader *r, size_t n, uint64_t offset, void *out, uint32_t length,
                     struct sp_why *why)
{
    uint64_t end;
    if (n >= r->count || __builtin_add_overflow(offset, length, &end) ||
        end > r->disks[n].size_bytes)
        return sp_why_set(why, -EINVAL, "a read behind the end of the disk");
    struct reader_disk *d = &r->disks[n];
    struct nbd_handle *h;
    int error = take(r, d, &h, why);
    if (error)
        return error;
    uint8_t *to = out;
    while (!error && length) {
        uint32_t part = length < MAX_REQUEST ? length : MAX_REQUEST;
        int server_errno = 0;
        error =
            finish(h, nbd_aio_pread(h, to, part, offset, NBD_NULL_COMPLETION, 0), &server_errno);
        if (error)
            error = explain(r, d, offset, error, server_errno, why);
        to += part;
        offset += part;
        length -= part;
    }
    give_back(d, h); /* also ends what is in flight, which writes into `out` */
    return error;
}

/* Extents of one request, by kind. */
struct status {
    const struct reader_disk *disk;
    struct status_cache got[STATUS_KINDS];
};

static int on_extents(void *user, const char *context, uint64_t offset, uint32_t *entries,
                      size_t entries_count, int *error)
{
    struct status *s = user;
    (void)error;
    for (size_t kind = 0; kind < STATUS_KINDS; kind++) {
        struct status_cache *to = &s->got[kind];
        if (!s->disk->contexts[kind] || strcmp(context, s->disk->contexts[kind]) != 0)
            continue;
        to->at = offset;
        for (size_t i = 0; i + 1 < entries_count && to->count < MAX_CACHED_EXTENTS; i += 2) {
            /* A hole that is not also zero may hold anything: only ZERO lets us skip. In a bitmap
             * bit 0 is "dirty" (QEMU's docs/interop/nbd.txt). */
            to->extents[to->count++] = (struct extent){
                .length = entries[i],
                .wanted = kind == STATUS_DATA ? !(entries[i + 1] & LIBNBD_STATE_ZERO)
                                              : entries[i + 1] & 1,
            };
        }
    }
    return 0;
}

static int ask_status(struct qemu_reader *r, struct reader_disk *d, uint64_t offset,
                      struct status *s, struct sp_why *why)
{
    struct nbd_handle *h = NULL;
    int error = take(r, d, &h, why);
    if (error)
        return error;
    uint64_t length = d->size_bytes - offset;
    int server_errno = 0;
    nbd_extent_callback callback = {.callback = on_extents, .user_data = s};
    error = finish(h,
                   nbd_aio_block_status(h, length < MAX_STATUS ? length : MAX_STATUS, offset,
                                        callback, NBD_NULL_COMPLETION, 0),
                   &server_errno);
    if (error)
        error = explain(r, d, offset, error, server_errno, why);
    give_back(d, h);
    return error;
}

/* Fetches the status from offset on into the caches of the disk (whose lock is held). */
static int fetch_status(struct qemu_reader *r, struct reader_disk *d, enum status_kind asked,
                        uint64_t offset, struct sp_why *why)
{
    struct status s = {.disk = d};
    int error = 0;
    pthread_mutex_unlock(&d->lock);
    for (size_t kind = 0; kind < STATUS_KINDS; kind++) {
        s.got[kind].extents = malloc(MAX_CACHED_EXTENTS * sizeof *s.got[kind].extents);
        if (!s.got[kind].extents)
            error = -ENOMEM;
    }
    error = error ? error : ask_status(r, d, offset, &s, why);
    if (!error && (!s.got[asked].count || s.got[asked].at != offset))
        error = sp_why_set(why, -EIO, "QEMU's NBD server does not tell which ranges %s",
                           asked == STATUS_DATA ? "hold data" : "were changed");
    pthread_mutex_lock(&d->lock);
    for (size_t kind = 0; kind < STATUS_KINDS; kind++) {
        if (!error && s.got[kind].count) {
            struct status_cache old = d->cache[kind];
            d->cache[kind] = s.got[kind];
            s.got[kind] = old;
        }
        free(s.got[kind].extents);
    }
    return error;
}

/* Looks in a cache: 1 a wanted range at or after *offset; 0 none up to where the cache ends, and
 * *offset is there. */
static int search_cache(const struct reader_disk *d, const struct status_cache *cache,
                        uint64_t *offset, uint64_t *ret_offset, uint64_t *ret_length)
{
    uint64_t at = cache->at;
    for (size_t i = 0; i < cache->count; i++) {
        uint64_t end = at + cache->extents[i].length;
        end = end < d->size_bytes ? end : d->size_bytes;
        if (end > *offset && at <= *offset) {
            if (cache->extents[i].wanted) {
                *ret_offset = *offset;
                *ret_length = end - *offset;
                return 1;
            }
            *offset = end;
        }
        at = end;
    }
    return 0;
}

static int next_range(struct qemu_reader *r, size_t n, enum status_kind kind, uint64_t offset,
                      uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    if (n >= r->count || !r->disks[n].contexts[kind])
        return sp_why_set(why, -EINVAL, "nothing is known of changes of this disk");
    struct reader_disk *d = &r->disks[n];
    int result = 0;
    pthread_mutex_lock(&d->lock);
    while (!result && offset < d->size_bytes) {
        uint64_t before = offset;
        result = search_cache(d, &d->cache[kind], &offset, ret_offset, ret_length);
        if (!result && offset == before)
            result = fetch_status(r, d, kind, offset, why);
    }
    pthread_mutex_unlock(&d->lock);
    return result;
}

int qemu_reader_next_data(struct qemu_reader *r, size_t n, uint64_t offset, uint64_t *ret_offset,
                          uint64_t *ret_length, struct sp_why *why)
{
    return next_range(r, n, STATUS_DATA, offset, ret_offset, ret_length, why);
}

int qemu_reader_next_changed(struct qemu_reader *r, size_t n, uint64_t offset, uint64_t *ret_offset,
                             uint64_t *ret_length, struct sp_why *why)
{
    return next_range(r, n, STATUS_CHANGED, offset, ret_offset, ret_length, why);
}

bool qemu_reader_broken(const struct qemu_reader *r)
{
    return atomic_load(&r->broken);
}

/* ── Life ── */

int qemu_reader_new(const char *socket_path, size_t disks, struct qemu_reader **ret)
{
    struct qemu_reader *r = calloc(1, sizeof *r + disks * sizeof r->disks[0]);
    if (!r || !(r->socket_path = strdup(socket_path))) {
        free(r);
        return -ENOMEM;
    }
    r->count = disks;
    for (size_t i = 0; i < disks; i++) {
        pthread_mutex_init(&r->disks[i].lock, NULL);
        pthread_cond_init(&r->disks[i].given_back, NULL);
    }
    *ret = r;
    return 0;
}

int qemu_reader_disk(struct qemu_reader *r, size_t n, const struct qemu_export *export,
                     unsigned held, qemu_hold_fn *hold, void *self, struct sp_why *why)
{
    struct reader_disk *d = &r->disks[n];
    d->size_bytes = export->size_bytes;
    d->most = MAX_CONNECTIONS;
    d->export_name = strdup(export->name);
    d->contexts[STATUS_DATA] = strdup(LIBNBD_CONTEXT_BASE_ALLOCATION);
    if (export->bitmap)
        d->contexts[STATUS_CHANGED] = sp_format("qemu:dirty-bitmap:%s", export->bitmap);
    if (!d->export_name || !d->contexts[STATUS_DATA] ||
        (export->bitmap && !d->contexts[STATUS_CHANGED]))
        return -ENOMEM;
    for (unsigned i = 0; i < held; i++) {
        SP_FD int fd = qemu_connect(r->socket_path);
        if (fd < 0)
            return gone(why, fd);
        int error = hold(self, n, i, fd);
        error = error ? error : negotiate(d, sp_steal_fd(&fd), &d->idle[d->idle_count], why);
        if (error)
            return error;
        d->idle_count++;
        d->open_count++;
        d->most = 0; /* none but these */
    }
    return 0;
}

void qemu_reader_free(struct qemu_reader *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->count; i++) {
        struct reader_disk *d = &r->disks[i];
        for (unsigned j = 0; j < d->idle_count; j++)
            nbd_close(d->idle[j]);
        pthread_mutex_destroy(&d->lock);
        pthread_cond_destroy(&d->given_back);
        free(d->export_name);
        for (size_t kind = 0; kind < STATUS_KINDS; kind++) {
            free(d->contexts[kind]);
            free(d->cache[kind].extents);
        }
    }
    free(r->socket_path);
    free(r);
}
