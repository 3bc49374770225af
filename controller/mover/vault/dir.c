/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Vault in a directory. An object is a file of the same name below it; it is written under tmp/,
 * synced, then given its name by a rename that never replaces, and the directory is synced: so an
 * object is whole or not there, whenever the power goes. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/mover/vault/internal.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

enum {
    PAGE_BYTES = 4096,
    DIRECT_FROM_BYTES = 1 << 20, /* smaller objects are not worth it */
    BOUNCE_BYTES = 1 << 20,
    QUEUE_PIECES = 64,
    QUEUE_BYTES = 8 << 20, /* a write call */
    MOST_DEPTH = 4,
};

/* A vault that this process has open, once or more. */
struct owned {
    struct owned *next;
    dev_t device;
    ino_t inode;
    unsigned refs;
    int fd; /* of the directory; holds the flock */
};

static pthread_mutex_t owned_lock = PTHREAD_MUTEX_INITIALIZER;
static struct owned *all_owned; /* under owned_lock */

struct dir {
    struct owned *owned;
    int fd; /* of the vault's directory */
    char *path;
};

static void disown(struct owned *o)
{
    if (!o)
        return;
    pthread_mutex_lock(&owned_lock);
    if (--o->refs == 0) {
        struct owned **at = &all_owned;
        while (*at != o)
            at = &(*at)->next;
        *at = o->next;
        close(o->fd);
        free(o);
    }
    pthread_mutex_unlock(&owned_lock);
}

/* With owned_lock. */
static int own_new(int dirfd, const struct stat *st, struct owned **ret)
{
    struct owned *o = calloc(1, sizeof *o);
    if (!o)
        return -ENOMEM;
    *o = (struct owned){all_owned, st->st_dev, st->st_ino, 0,
                        openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (o->fd < 0 || flock(o->fd, LOCK_EX | LOCK_NB) < 0) {
        int r = errno == EWOULDBLOCK ? -EBUSY : -errno;
        if (o->fd >= 0)
            close(o->fd);
        free(o);
        return r;
    }
    all_owned = o;
    *ret = o;
    return 0;
}

/* Two controllers on one vault would each remove what the other relies on: one process at a time.
 */
static int own(struct dir *d, struct sp_why *why)
{
    struct stat st;
    if (fstat(d->fd, &st) < 0)
        return -errno;
    pthread_mutex_lock(&owned_lock);
    struct owned *o = all_owned;
    while (o && (o->device != st.st_dev || o->inode != st.st_ino))
        o = o->next;
    int r = o ? 0 : own_new(d->fd, &st, &o);
    if (r == 0) {
        o->refs++;
        d->owned = o;
    }
    pthread_mutex_unlock(&owned_lock);
    if (r == -EBUSY)
        return sp_why_set(why, r,
                          "another controller uses the vault in '%s': stop it first, or give this "
                          "one a vault of its own",
                          d->path);
    return r < 0 ? sp_why_set(why, r, "cannot lock the vault in '%s': %s", d->path, strerror(-r))
                 : 0;
}

static const void *dir_place(void *self)
{
    return ((const struct dir *)self)->owned;
}

static void dir_close(void *self)
{
    struct dir *d = self;
    if (!d)
        return;
    disown(d->owned);
    if (d->fd >= 0)
        close(d->fd);
    free(d->path);
    free(d);
}

/* 0 when nothing but what mkfs leaves is in there. */
static int check_empty(int dirfd, const char *path, struct sp_why *why)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    DIR *handle = fdopendir(fd);
    if (!handle) {
        close(fd);
        return -ENOMEM;
    }
    int r = 0;
    for (const struct dirent *e; r == 0 && (e = readdir(handle));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !strcmp(e->d_name, "lost+found"))
            continue;
        r = sp_why_set(why, -ENOTEMPTY,
                       "'%s' is not empty (there is '%s'): a vault is made in an empty or a new "
                       "directory",
                       path, e->d_name);
    }
    closedir(handle);
    return r;
}

static int dir_open(const Sp__VaultConfig *config, bool create, void **ret_self, struct sp_why *why)
{
    const char *path = config->directory ? config->directory->path : NULL;
    if (!path || path[0] != '/')
        return sp_why_set(why, -EINVAL, "the directory of a vault must be an absolute path");
    if (create) {
        int r = sp_make_directories(path, 0700);
        if (r < 0)
            return sp_why_set(why, r, "cannot make the directory '%s': %s", path, strerror(-r));
    }
    struct dir *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    int r;
    d->path = strdup(path);
    d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!d->path) {
        r = -ENOMEM;
        goto out;
    }
    if (d->fd < 0) {
        r = sp_why_set(why, -errno, "cannot open the vault's directory '%s': %s", path,
                       strerror(errno));
        goto out;
    }
    if (create && (r = check_empty(d->fd, path, why)) < 0)
        goto out;
    if ((r = own(d, why)) < 0)
        goto out;
    *ret_self = d;
    return 0;
out:
    dir_close(d);
    return r;
}

/* Opens the directory that holds `name`, making it (durably) if asked to. *ret_leaf points into
 * name. */
static int open_parent(struct dir *d, const char *name, bool make, const char **ret_leaf)
{
    int at = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
    if (at < 0)
        return -errno;
    const char *rest = name;
    for (const char *slash; (slash = strchr(rest, '/')); rest = slash + 1) {
        char part[NAME_MAX + 1];
        size_t length = (size_t)(slash - rest);
        if (length == 0 || length > NAME_MAX) {
            close(at);
            return -EINVAL;
        }
        memcpy(part, rest, length);
        part[length] = 0;
        if (make && mkdirat(at, part, 0700) == 0) {
            if (fsync(at) < 0) {
                int r = -errno;
                close(at);
                return r;
            }
        } else if (make && errno != EEXIST) {
            int r = -errno;
            close(at);
            return r;
        }
        int next = openat(at, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        int r = next < 0 ? -errno : 0;
        close(at);
        if (r < 0)
            return r;
        at = next;
    }
    *ret_leaf = rest;
    return at;
}

/* ---- writing ---- */

/* Bytes on their way into a file. Big objects go past the page cache (O_DIRECT): it halves the work
 * of the processor, the disk is busy from the first byte on, and the sync at the end finds nothing
 * to wait for. What lies on pages is written from where it is; the rest goes through `bounce`. */
struct writing {
    int fd;
    bool direct;
    uint64_t at;    /* in the file, of the first byte that is not written */
    uint64_t total; /* bytes given */
    struct iovec queued[QUEUE_PIECES];
    size_t queue_count, queue_bytes;
    uint8_t *bounce; /* BOUNCE_BYTES, on a page */
    size_t bounce_start, bounce_end;
};

static int write_queue(struct writing *w)
{
    struct iovec *piece = w->queued;
    size_t count = w->queue_count;
    while (w->queue_bytes > 0) {
        ssize_t got = pwritev(w->fd, piece, (int)count, (off_t)w->at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EIO;
        w->at += (uint64_t)got;
        w->queue_bytes -= (size_t)got;
        for (size_t left = (size_t)got; left > 0;) {
            size_t take = left < piece->iov_len ? left : piece->iov_len;
            piece->iov_base = (uint8_t *)piece->iov_base + take;
            piece->iov_len -= take;
            left -= take;
            if (piece->iov_len == 0) {
                piece++;
                count--;
            }
        }
    }
    w->queue_count = 0;
    return 0;
}

static int queue_piece(struct writing *w, const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    w->queued[w->queue_count++] = (struct iovec){(void *)(uintptr_t)data, size};
    w->queue_bytes += size;
    return w->queue_count == QUEUE_PIECES || w->queue_bytes >= QUEUE_BYTES ? write_queue(w) : 0;
}

/* Queues what the bounce buffer holds in whole pages (or all of it), and starts it anew when it is
 * full. */
static int queue_bounce(struct writing *w, bool all)
{
    size_t size = w->bounce_end - w->bounce_start;
    if (!all)
        size -= size % PAGE_BYTES;
    int r = queue_piece(w, w->bounce + w->bounce_start, size);
    w->bounce_start += size;
    if (r == 0 && w->bounce_end == BOUNCE_BYTES) {
        r = write_queue(w);
        w->bounce_start = w->bounce_end = 0;
    }
    return r;
}

static int add_copied(struct writing *w, const uint8_t *data, size_t size)
{
    int r = 0;
    while (r == 0 && size > 0) {
        size_t room = BOUNCE_BYTES - w->bounce_end, take = size < room ? size : room;
        memcpy(w->bounce + w->bounce_end, data, take);
        w->bounce_end += take;
        data += take;
        size -= take;
        if (w->bounce_end == BOUNCE_BYTES)
            r = queue_bounce(w, false);
    }
    return r;
}

static int add_part(struct writing *w, const struct sp_bytes *part)
{
    w->total += part->size;
    if (!w->direct)
        return queue_piece(w, part->data, part->size);
    bool aligned = (w->bounce_end - w->bounce_start) % PAGE_BYTES == 0 &&
                   (uintptr_t)part->data % PAGE_BYTES == 0;
    size_t straight = aligned ? part->size - part->size % PAGE_BYTES : 0;
    int r = 0;
    if (straight > 0)
        r = queue_bounce(w, false);
    if (r == 0)
        r = queue_piece(w, part->data, straight);
    return r < 0 ? r : add_copied(w, part->data + straight, part->size - straight);
}

static int write_parts(struct writing *w, const struct sp_bytes *parts, size_t count)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_part(w, &parts[i]);
    if (r == 0 && w->direct) {
        /* The last page is written whole and cut afterwards. */
        static const uint8_t zeroes[PAGE_BYTES];
        size_t over = w->total % PAGE_BYTES;
        r = add_copied(w, zeroes, over ? PAGE_BYTES - over : 0);
        if (r == 0)
            r = queue_bounce(w, true);
    }
    if (r == 0)
        r = write_queue(w);
    if (r == 0 && w->at != w->total && ftruncate(w->fd, (off_t)w->total) < 0)
        r = -errno;
    return r;
}

static int write_file(int dirfd, const char *leaf, const struct sp_bytes *parts, size_t count)
{
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += parts[i].size;
    struct writing *w SP_FREE = calloc(1, sizeof *w);
    uint8_t *bounce SP_FREE = NULL;
    if (!w)
        return -ENOMEM;
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    SP_FD int fd = -1;
    if (total >= DIRECT_FROM_BYTES && (bounce = aligned_alloc(PAGE_BYTES, BOUNCE_BYTES)))
        fd = openat(dirfd, leaf, flags | O_DIRECT, 0400);
    w->direct = fd >= 0;
    if (fd < 0) {
        (void)unlinkat(dirfd, leaf, 0); /* a file system without O_DIRECT may leave one */
        fd = openat(dirfd, leaf, flags, 0400);
    }
    if (fd < 0)
        return -errno;
    w->fd = fd;
    w->bounce = bounce;
    int r = write_parts(w, parts, count);
    return r == 0 && fdatasync(fd) < 0 ? -errno : r;
}

/* Gives tmp/<temporary> its name; never replaces. */
static int publish(struct dir *d, int tmp, const char *temporary, const char *name)
{
    const char *leaf = NULL;
    SP_FD int parent = open_parent(d, name, true, &leaf);
    if (parent < 0)
        return parent;
    if (renameat2(tmp, temporary, parent, leaf, RENAME_NOREPLACE) < 0) {
        /* Some network file systems know no such rename; a link does not replace either. */
        if (errno != EINVAL && errno != ENOSYS)
            return -errno;
        if (linkat(tmp, temporary, parent, leaf, 0) < 0)
            return -errno;
        if (unlinkat(tmp, temporary, 0) < 0)
            return -errno;
    }
    return fsync(parent) < 0 ? -errno : 0;
}

static int dir_put(void *self, const char *name, const struct sp_bytes *parts, size_t count,
                   struct sp_why *why)
{
    struct dir *d = self;
    uint8_t random[16];
    char temporary[40];
    int r = sp_random(random, sizeof random);
    if (r < 0)
        return r;
    sp_hex(temporary, random, sizeof random);

    const char *leaf = NULL;
    SP_FD int tmp = open_parent(d, "tmp/x", true, &leaf);
    if (tmp < 0)
        return sp_why_set(why, tmp, "cannot open tmp/ in the vault '%s': %s", d->path,
                          strerror(-tmp));
    r = write_file(tmp, temporary, parts, count);
    if (r == 0)
        r = publish(d, tmp, temporary, name);
    if (r < 0) {
        /* It is not durable, hence not there. After a failed sync the name may exist already. */
        (void)unlinkat(tmp, temporary, 0);
        if (r == -EEXIST)
            return sp_why_set(why, r, "'%s' is in the vault '%s' already", name, d->path);
        if (r == -ENOSPC || r == -EDQUOT)
            return sp_why_set(why, -ENOSPC, "the vault '%s' is full: no room for '%s'", d->path,
                              name);
        return sp_why_set(why, r, "cannot write '%s' to the vault '%s': %s", name, d->path,
                          strerror(-r));
    }
    return 0;
}

static int open_object(struct dir *d, const char *name)
{
    const char *leaf = NULL;
    SP_FD int parent = open_parent(d, name, false, &leaf);
    if (parent < 0)
        return parent == -ENOTDIR ? -ENOENT : parent;
    int fd = openat(parent, leaf, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

static int dir_get(void *self, const char *name, uint64_t offset, void *out, size_t size)
{
    SP_FD int fd = open_object(self, name);
    if (fd < 0)
        return fd;
    return sp_pread_all(fd, out, size, offset);
}

static int dir_size(void *self, const char *name, uint64_t *ret_bytes)
{
    SP_FD int fd = open_object(self, name);
    if (fd < 0)
        return fd;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

struct listing {
    const char *prefix;
    int (*each)(void *arg, const char *name, uint64_t bytes);
    void *arg;
};

static int list_below(int dirfd, const char *path, int depth, const struct listing *l);

static int list_one(int dirfd, const char *path, const char *leaf, int depth,
                    const struct listing *l)
{
    char name[VAULT_NAME_MAX];
    int n = snprintf(name, sizeof name, "%s%s", path, leaf);
    if (n < 0 || (size_t)n + 1 >= sizeof name)
        return 0; /* longer than any name of ours */
    struct stat st;
    if (fstatat(dirfd, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    size_t prefix = strlen(l->prefix);
    if (S_ISREG(st.st_mode))
        return strncmp(name, l->prefix, prefix) ? 0 : l->each(l->arg, name, (uint64_t)st.st_size);
    if (!S_ISDIR(st.st_mode) || depth >= MOST_DEPTH)
        return 0;
    name[n] = '/';
    name[n + 1] = 0;
    size_t common = strlen(name) < prefix ? strlen(name) : prefix;
    if (strncmp(name, l->prefix, common))
        return 0;
    int fd = openat(dirfd, leaf, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    return list_below(fd, name, depth + 1, l);
}

/* Takes dirfd. */
static int list_below(int dirfd, const char *path, int depth, const struct listing *l)
{
    DIR *handle = fdopendir(dirfd);
    if (!handle) {
        close(dirfd);
        return -ENOMEM;
    }
    int r = 0;
    for (const struct dirent *e; r == 0;) {
        errno = 0;
        e = readdir(handle);
        if (!e) {
            r = errno ? -errno : 0;
            break;
        }
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, "lost+found"))
            r = list_one(dirfd, path, e->d_name, depth, l);
    }
    closedir(handle);
    return r;
}

static int dir_list(void *self, const char *prefix,
                    int (*each)(void *arg, const char *name, uint64_t bytes), void *arg)
{
    struct dir *d = self;
    int fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return list_below(fd, "", 0, &(struct listing){prefix, each, arg});
}

static int dir_remove(void *self, const char *name)
{
    const char *leaf = NULL;
    SP_FD int parent = open_parent(self, name, false, &leaf);
    if (parent < 0)
        return parent;
    if (unlinkat(parent, leaf, 0) < 0)
        return -errno;
    return fsync(parent) < 0 ? -errno : 0;
}

static int add_bytes(void *arg, const char *name, uint64_t bytes)
{
    (void)name;
    *(uint64_t *)arg += bytes;
    return 0;
}

static int dir_space(void *self, uint64_t *ret_used, uint64_t *ret_free)
{
    struct dir *d = self;
    struct statvfs st;
    if (fstatvfs(d->fd, &st) < 0)
        return -errno;
    uint64_t used = 0;
    int r = dir_list(self, "", add_bytes, &used);
    if (r < 0)
        return r;
    *ret_used = used;
    *ret_free = (uint64_t)st.f_bavail * st.f_frsize;
    return 0;
}

const struct vault_backend vault_dir = {
    .name = "dir",
    .kind = SP__VAULT_CONFIG__KIND_DIRECTORY,
    .open = dir_open,
    .close = dir_close,
    .place = dir_place,
    .put = dir_put,
    .get = dir_get,
    .size = dir_size,
    .list = dir_list,
    .remove = dir_remove,
    .space = dir_space,
};
