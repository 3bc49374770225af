/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/file.h"

#include "base/cleanup.h"
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

char *sp_format(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int r = vasprintf(&text, format, args);
    va_end(args);
    return r < 0 ? NULL : text;
}

/* read(2) until the end of the file or `most` + 1 bytes, so that a longer file shows. */
static int read_to_end(int fd, size_t most, char **ret_data, size_t *ret_size)
{
    size_t capacity = most < 4096 ? most + 1 : 4096, size = 0;
    SP_FREE char *data = malloc(capacity + 1);
    if (!data)
        return -ENOMEM;
    for (;;) {
        ssize_t n = TEMP_FAILURE_RETRY(read(fd, data + size, capacity - size));
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        size += (size_t)n;
        if (size > most)
            return -EFBIG;
        if (size == capacity) {
            capacity = capacity > (most + 1) / 2 ? most + 1 : capacity * 2;
            char *more = realloc(data, capacity + 1);
            if (!more)
                return -ENOMEM;
            data = more;
        }
    }
    data[size] = 0;
    if (ret_size)
        *ret_size = size;
    *ret_data = sp_steal(data);
    return 0;
}

int sp_file_read_at(int dirfd, const char *path, size_t most, char **ret_data, size_t *ret_size)
{
    if (most > SSIZE_MAX / 2)
        return -EINVAL;
    SP_FD int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    return read_to_end(fd, most, ret_data, ret_size);
}

int sp_file_read(const char *path, size_t most, char **ret_data, size_t *ret_size)
{
    return sp_file_read_at(AT_FDCWD, path, most, ret_data, ret_size);
}

int sp_write_all(int fd, const void *data, size_t size)
{
    const char *p = data;
    while (size) {
        ssize_t n = TEMP_FAILURE_RETRY(write(fd, p, size));
        if (n < 0)
            return -errno;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

int sp_pwrite_all(int fd, const void *data, size_t size, uint64_t offset)
{
    const char *p = data;
    while (size) {
        ssize_t n = TEMP_FAILURE_RETRY(pwrite(fd, p, size, (off_t)offset));
        if (n < 0)
            return -errno;
        p += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

int sp_read_all(int fd, void *data, size_t size)
{
    char *p = data;
    while (size) {
        ssize_t n = TEMP_FAILURE_RETRY(read(fd, p, size));
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

int sp_pread_all(int fd, void *data, size_t size, uint64_t offset)
{
    char *p = data;
    while (size) {
        ssize_t n = TEMP_FAILURE_RETRY(pread(fd, p, size, (off_t)offset));
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        p += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

int sp_fsync_directory(const char *path)
{
    SP_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return fsync(fd) < 0 ? -errno : 0;
}

/* The directory part of a path: "." or "/" where there is none. */
static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int sp_file_replace(const char *path, const void *data, size_t size, mode_t mode)
{
    SP_FREE char *directory = directory_of(path);
    SP_FREE char *temporary = sp_format("%s.XXXXXX", path);
    if (!directory || !temporary)
        return -ENOMEM;
    SP_FD int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = fchmod(fd, mode) < 0 ? -errno : 0;
    if (r == 0)
        r = sp_write_all(fd, data, size);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlink(temporary);
        return r;
    }
    return sp_fsync_directory(directory);
}

int sp_make_directories(const char *path, mode_t mode)
{
    SP_FREE char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        if (mkdir(copy, mode) < 0 && errno != EEXIST)
            return -errno;
        *p = '/';
    }
    if (mkdir(copy, mode) < 0 && errno != EEXIST)
        return -errno;
    struct stat st;
    if (stat(copy, &st) < 0)
        return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}
