/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Files: bounded reads, whole writes, durable replacement. EINTR is handled in here. */
#ifndef SEALPOINT_BASE_FILE_H
#define SEALPOINT_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A whole file of at most `most` bytes, with a 0 behind it (not counted). -EFBIG if longer. Works
 * for /proc and /sys files, whose size is not known before. ret_size may be NULL. */
int sp_file_read(const char *path, size_t most, char **ret_data, size_t *ret_size);
int sp_file_read_at(int dirfd, const char *path, size_t most, char **ret_data, size_t *ret_size);

/* Writes a temporary file beside `path`, fsyncs it, renames it over `path`, fsyncs the directory.
 * After 0 the new content is durable; after an error the old one is whole. */
int sp_file_replace(const char *path, const void *data, size_t size, mode_t mode);

/* All of it, or a negative errno (-EPIPE, -ENOSPC, …; -ENODATA when a read meets the end early). */
int sp_write_all(int fd, const void *data, size_t size);
int sp_pwrite_all(int fd, const void *data, size_t size, uint64_t offset);
int sp_read_all(int fd, void *data, size_t size);
int sp_pread_all(int fd, void *data, size_t size, uint64_t offset);

/* mkdir -p; existing directories are fine, their mode is left alone. */
int sp_make_directories(const char *path, mode_t mode);
int sp_fsync_directory(const char *path);

/* printf into new memory, NULL on -ENOMEM. */
char *sp_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
