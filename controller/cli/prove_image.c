/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/file.h"
#include "base/frame.h"
#include "controller/cli/prove.h"

#include <fcntl.h>
#include <libnbd.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct prove_image {
    int fd; /* of a raw image, -1 */
    struct nbd_handle *nbd;
    uint64_t size_bytes;
    int near, far;
    pthread_t thread;
};

/* ---- serving ---- */

static int read_at(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    const struct prove_image *i = self;
    if (disk != 0 || offset > i->size_bytes || length > i->size_bytes - offset)
        return -ERANGE;
    if (!i->nbd)
        return sp_pread_all(i->fd, out, length, offset);
    return nbd_pread(i->nbd, out, length, offset, 0) < 0 ? -EIO : 0;
}

static void *serve(void *self)
{
    struct prove_image *i = self;
    sp_pread_serve(i->far, -1, read_at, i);
    return NULL;
}

static int start(struct prove_image *i)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    i->far = pair[1]; /* the thread's, from its first moment on */
    int e = pthread_create(&i->thread, NULL, serve, i);
    if (e) {
        close(pair[0]);
        close(pair[1]);
        return -e;
    }
    i->near = pair[0];
    return 0;
}

/* ---- opening ---- */

static bool is_uri(const char *name)
{
    return strncmp(name, "nbd", 3) == 0 && strstr(name, "://");
}

/* What the first bytes (or, of a VHD, the last) say; qemu's own guess is not asked for, since the
 * beginning of a raw image belongs to the guest. NULL: raw. */
static const char *format_of(int fd, uint64_t size)
{
    static const struct {
        const char *magic, *format;
    } formats[] = {
        {"QFI\xfb", "qcow2"}, {"KDMV", "vmdk"}, {"vhdxfile", "vhdx"}, {"conectix", "vpc"}};
    char head[8] = "", tail[8] = "";
    if (size < 512 || sp_pread_all(fd, head, sizeof(head), 0) < 0 ||
        sp_pread_all(fd, tail, sizeof(tail), size - 512) < 0)
        return NULL;
    for (size_t i = 0; i < SP_COUNT(formats); i++) {
        if (memcmp(head, formats[i].magic, strlen(formats[i].magic)) == 0)
            return formats[i].format;
    }
    return memcmp(tail, "conectix", 8) == 0 ? "vpc" : NULL;
}

/* libnbd's sentence tells of its own calls first: what the server said comes behind. */
static int nbd_failed(const char *what, struct sp_why *why)
{
    const char *text = nbd_get_error();
    return sp_why_set(why, -EIO, "%s: %s", what, text ? text : "unknown error");
}

static int connect_nbd(struct prove_image *i, const char *name, const char *format,
                       struct sp_why *why)
{
    i->nbd = nbd_create();
    if (!i->nbd)
        return -ENOMEM;
    if (!format) {
        if (nbd_set_uri_allow_local_file(i->nbd, true) < 0 || nbd_connect_uri(i->nbd, name) < 0)
            return nbd_failed("cannot connect", why);
    } else {
        SP_FREE char *word = sp_format("--format=%s", format);
        if (!word)
            return -ENOMEM;
        char *argv[] = {(char[]){"qemu-nbd"}, (char[]){"--read-only"}, word,
                        (char[]){"--"},       CLI_TEXT(name),          NULL};
        if (nbd_connect_systemd_socket_activation(i->nbd, argv) < 0)
            return nbd_failed("qemu-nbd (package qemu-utils) cannot serve it", why);
    }
    int64_t size = nbd_get_size(i->nbd);
    if (size < 0)
        return nbd_failed("its size is not known", why);
    i->size_bytes = (uint64_t)size;
    return 0;
}

static int size_of(int fd, uint64_t *ret, struct sp_why *why)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode))
        return ioctl(fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
    return S_ISREG(st.st_mode) ? 0 : sp_why_set(why, -EINVAL, "it is neither a file nor a device");
}

static int open_file(struct prove_image *i, const char *name, struct sp_why *why)
{
    i->fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (i->fd < 0)
        return sp_why_set(why, -errno, "%s", strerror(errno));
    int r = size_of(i->fd, &i->size_bytes, why);
    const char *format = r == 0 ? format_of(i->fd, i->size_bytes) : NULL;
    return format ? connect_nbd(i, name, format, why) : r;
}

int prove_image_open(const char *name, struct prove_image **ret, struct sp_why *why)
{
    struct prove_image *i = calloc(1, sizeof(*i));
    if (!i)
        return -ENOMEM;
    i->fd = i->near = i->far = -1;
    int r = is_uri(name) ? connect_nbd(i, name, NULL, why) : open_file(i, name, why);
    if (r == 0)
        r = start(i);
    if (r < 0) {
        prove_image_close(i);
        return r;
    }
    *ret = i;
    return 0;
}

void prove_image_close(struct prove_image *i)
{
    if (!i)
        return;
    if (i->near >= 0) {
        close(i->near);
        pthread_join(i->thread, NULL);
        close(i->far);
    }
    nbd_close(i->nbd);
    if (i->fd >= 0)
        close(i->fd);
    free(i);
}

uint64_t prove_image_size(const struct prove_image *i)
{
    return i->size_bytes;
}

int prove_image_socket(const struct prove_image *i)
{
    return i->near;
}
