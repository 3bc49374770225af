/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Secret memory: locked, wiped on free, not in core dumps, not in children. The only type that
 * holds key material; never char *, never formatted, never copied into anything else. One
 * allocation is at least one page, so keep few at a time. Any thread, one owner. */
#ifndef SEALPOINT_BASE_SECRET_H
#define SEALPOINT_BASE_SECRET_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

struct sp_secret; /* opaque */

/* Zero-filled. NULL when memory cannot be had or cannot be locked (errno says which;
 * RLIMIT_MEMLOCK). */
struct sp_secret *sp_secret_new(size_t size);
struct sp_secret *sp_secret_copy(const void *data, size_t size);
/* Bytes stay valid until free. size may be lowered, never raised. */
uint8_t *sp_secret_data(const struct sp_secret *s);
size_t sp_secret_size(const struct sp_secret *s);
void sp_secret_shrink(struct sp_secret *s, size_t size);
/* Wipes, unlocks, unmaps. NULL is fine. */
void sp_secret_free(struct sp_secret *s);
static inline void sp_cleanup_secret(struct sp_secret **s)
{
    sp_secret_free(*s);
}
#define SP_SECRET __attribute__((cleanup(sp_cleanup_secret)))

/* Reads a whole fd (pipe, file, memfd) of at most `most` bytes. 0 or negative errno, -EFBIG if
 * longer. */
int sp_secret_read(int fd, size_t most, struct sp_secret **ret);
int sp_secret_read_file(const char *path, size_t most, struct sp_secret **ret);
/* A sealed memfd (F_SEAL_*) with a copy, for a child. Returns the fd or a negative errno. */
int sp_secret_memfd(const struct sp_secret *s, const char *name);

/* Allocator for protobuf-c messages that carry key material: every block is secret memory. */
extern ProtobufCAllocator sp_secret_allocator;

/* Wipes in a way the compiler keeps. */
void sp_wipe(void *p, size_t size);

/* For a process that handles keys: no core dumps, not dumpable, mlock limit raised as far as
 * allowed. */
int sp_secret_process_setup(void);

#endif
