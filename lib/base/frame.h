/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Typed messages between our own processes over SOCK_STREAM unix sockets: le32 length, then a
 * packed protobuf message; file descriptors ride on the first byte (SCM_RIGHTS). A frame that is
 * too long, cannot be unpacked, has unknown fields or brings descriptors nobody expects ends the
 * conversation (-EPROTO). */
#ifndef SEALPOINT_BASE_FRAME_H
#define SEALPOINT_BASE_FRAME_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { SP_FRAME_MAX = 64 << 20, SP_FRAME_MAX_FDS = 4 };

/* Sends one message; fds stay the caller's. 0 or negative errno; -EMSGSIZE. Blocking; with
 * `timeout_ms` > 0 -ETIMEDOUT, after which the socket is of no use. */
int sp_frame_send(int socket, const ProtobufCMessage *message, const int *fds, size_t fd_count,
                  int timeout_ms);

/* Receives one message into *ret (free with protobuf_c_message_free_unpacked(, allocator)).
 * Descriptors come with O_CLOEXEC; *ret_fd_count of at most fd_capacity. -EPIPE: the peer closed
 * between frames; -EPROTO: broke the rules. allocator may be NULL; &sp_secret_allocator for
 * messages with key material. */
int sp_frame_receive(int socket, const ProtobufCMessageDescriptor *type,
                     ProtobufCAllocator *allocator, ProtobufCMessage **ret, int *fds,
                     size_t fd_capacity, size_t *ret_fd_count, int timeout_ms);

/* A listening unix socket (mode, O_CLOEXEC); a stale one that nobody listens on is replaced. fd or
 * negative errno
 * (-EADDRINUSE: somebody listens). */
int sp_unix_listen(const char *path, mode_t mode);
int sp_unix_connect(const char *path);
/* uid and pid of the peer (SO_PEERCRED). */
int sp_unix_peer(int socket, uid_t *ret_uid, pid_t *ret_pid);

/* ---- bytes of a snapshot, for a prover that may open nothing itself ----
 *
 * The reading side sends struct sp_pread_ask, the serving side answers struct sp_pread_answer and,
 * when its error is 0, `length` bytes. Both are little endian on one host. */
struct sp_pread_ask {
    uint32_t disk;   /* index into the request's list of disks */
    uint32_t length; /* at most SP_PREAD_MAX */
    uint64_t offset;
};
struct sp_pread_answer {
    int32_t error; /* 0 or negative errno */
    uint32_t length;
};
enum { SP_PREAD_MAX = 4 << 20 };

/* The reading side: 0 or negative errno. Not for two threads at once. */
int sp_pread_remote(int socket, uint32_t disk, uint64_t offset, void *out, uint32_t length);

/* The serving side: answers until the peer closes. `read_at` returns 0 or a negative errno. Returns
 * 0 at the peer's end, negative errno when it broke the rules or `cancel_fd` (-1: none) became
 * readable (-ECANCELED). */
int sp_pread_serve(int socket, int cancel_fd,
                   int (*read_at)(void *self, uint32_t disk, uint64_t offset, void *out,
                                  uint32_t length),
                   void *self);

#endif
