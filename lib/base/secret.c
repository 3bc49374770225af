/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/secret.h"

#include "base/cleanup.h"
#include "base/file.h"
#include <fcntl.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* The head lies in the locked mapping itself, so that a secret leaves nothing elsewhere. */
struct sp_secret {
    size_t size;
    size_t mapped;
    _Alignas(16) uint8_t data[];
};

void sp_wipe(void *p, size_t size)
{
    if (p && size)
        OPENSSL_cleanse(p, size);
}

struct sp_secret *sp_secret_new(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped;
    if (__builtin_add_overflow(size, sizeof(struct sp_secret) + page - 1, &mapped)) {
        errno = ENOMEM;
        return NULL;
    }
    mapped -= mapped % page;
    struct sp_secret *s =
        mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        return NULL;
    /* mlock2: sanitizers turn mlock into nothing, and then no test would see that it is missing. */
    if (mlock2(s, mapped, 0) < 0 || madvise(s, mapped, MADV_DONTDUMP) < 0 ||
        madvise(s, mapped, MADV_DONTFORK) < 0) {
        int saved = errno;
        munmap(s, mapped);
        errno = saved;
        return NULL;
    }
    s->size = size;
    s->mapped = mapped;
    return s;
}

struct sp_secret *sp_secret_copy(const void *data, size_t size)
{
    struct sp_secret *s = sp_secret_new(size);
    if (s && size)
        memcpy(s->data, data, size);
    return s;
}

uint8_t *sp_secret_data(const struct sp_secret *s)
{
    return ((struct sp_secret *)(uintptr_t)s)->data;
}

size_t sp_secret_size(const struct sp_secret *s)
{
    return s->size;
}

void sp_secret_shrink(struct sp_secret *s, size_t size)
{
    if (size < s->size) {
        sp_wipe(s->data + size, s->size - size);
        s->size = size;
    }
}

void sp_secret_free(struct sp_secret *s)
{
    if (!s)
        return;
    size_t mapped = s->mapped;
    sp_wipe(s, mapped);
    munmap(s, mapped); /* unlocks */
}

int sp_secret_read(int fd, size_t most, struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *s = sp_secret_new(most + 1);
    if (!s)
        return -errno;
    size_t size = 0;
    while (size < most + 1) {
        ssize_t n = TEMP_FAILURE_RETRY(read(fd, s->data + size, most + 1 - size));
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        size += (size_t)n;
    }
    if (size > most)
        return -EFBIG;
    sp_secret_shrink(s, size);
    *ret = sp_steal(s);
    return 0;
}

int sp_secret_read_file(const char *path, size_t most, struct sp_secret **ret)
{
    SP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    return sp_secret_read(fd, most, ret);
}

int sp_secret_memfd(const struct sp_secret *s, const char *name)
{
    SP_FD int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int r = sp_write_all(fd, s->data, s->size);
    if (r < 0)
        return r;
    if (lseek(fd, 0, SEEK_SET) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        return -errno;
    return sp_steal_fd(&fd);
}

static void *secret_alloc(void *self, size_t size)
{
    (void)self;
    struct sp_secret *s = sp_secret_new(size);
    return s ? s->data : NULL;
}

static void secret_release(void *self, void *p)
{
    (void)self;
    if (p)
        sp_secret_free((struct sp_secret *)((uint8_t *)p - offsetof(struct sp_secret, data)));
}

ProtobufCAllocator sp_secret_allocator = {.alloc = secret_alloc, .free = secret_release};

int sp_secret_process_setup(void)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return -errno;
    struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &none) < 0)
        return -errno;
    struct rlimit lock;
    if (getrlimit(RLIMIT_MEMLOCK, &lock) < 0)
        return -errno;
    lock.rlim_cur = lock.rlim_max;
    return setrlimit(RLIMIT_MEMLOCK, &lock) < 0 ? -errno : 0;
}
