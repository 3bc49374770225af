/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of lib/rpc share. gRPC core's types stay behind this header.
 *
 *   rpc_loop    a completion queue and the thread that drains it; knows its open calls
 *   rpc_call    a grpc_call, its send queue, and the tags of its four kinds of batch
 *   rpc_server  a grpc_server, one acceptor on each of its loops
 *
 * Why a loop counts what is open on it: starting a batch on a queue that has finished its shutdown
 * aborts the process. So a queue is shut down only when nothing is open on it any more, under the
 * loop's lock, and nothing is started on it after that.
 *
 * Lock order: health → loop → call. No handler runs with any of them held. */
#ifndef SEALPOINT_RPC_INTERNAL_H
#define SEALPOINT_RPC_INTERNAL_H

#include "rpc/rpc.h"
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
    RPC_DEFAULT_KEEPALIVE_MS = 60000,
    RPC_DEFAULT_KEEPALIVE_TIMEOUT_MS = 20000,
    RPC_DEFAULT_MAX_MESSAGE = 4 << 20,
    RPC_DEFAULT_MAX_QUEUE = 256,
    RPC_DEFAULT_HANDSHAKE_TIMEOUT_MS = 10000,
    /* A call may queue this many messages of the largest size, whatever their number. */
    RPC_QUEUE_LARGEST = 4
};

/* Core's libraries are not built for ThreadSanitizer: tell it that what happened before a tag went
 * in happened before it came out. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RPC_TSAN 1
#endif
#endif
#if defined(RPC_TSAN) || defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *);
void __tsan_release(void *);
#define RPC_TAG_IN(tag)  __tsan_release(tag)
#define RPC_TAG_OUT(tag) __tsan_acquire(tag)
#else
#define RPC_TAG_IN(tag)  ((void)(tag))
#define RPC_TAG_OUT(tag) ((void)(tag))
#endif

/* What a completion queue hands back: a function and its object. */
struct rpc_tag {
    void (*done)(void *self, bool ok);
    void *self;
};

struct rpc_loop {
    atomic_uint refs;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool threaded;
    unsigned tick_ms;
    void (*tick)(void *);
    void *tick_arg;
    gpr_timespec tick_at;   /* on the loop only, once it runs */
    pthread_mutex_t lock;   /* guards what follows */
    struct rpc_call *calls; /* open ones, each with a reference */
    unsigned open;          /* calls and acceptors */
    bool stopping, shut;
};

struct rpc_out {
    struct rpc_out *next;
    grpc_byte_buffer *bytes;
    size_t size;
};

struct rpc_call {
    atomic_uint refs;
    bool client;
    atomic_bool opened; /* accepted and authorised: `closed` will be called */
    grpc_call *call;
    struct rpc_loop *loop;     /* a reference */
    struct rpc_server *server; /* for handlers only: it may be gone when the call has closed */
    void *context;
    const struct rpc_method *method;
    void *data;
    struct sp_identity peer;
    uint8_t *certificate;
    size_t certificate_size;
    char *address;
    struct rpc_tag on_receive, on_send, on_close, on_start;

    /* Has no certificate and has not sent its request (anonymous.c). */
    atomic_bool waiting;
    uint64_t waiting_since_ms;

    struct rpc_call *next, **at; /* in loop->calls, under the loop's lock */

    /* Only the loop touches these. */
    grpc_byte_buffer *in;
    uint64_t received;
    bool receiving; /* a receive is under way, or about to be */
    bool ended;     /* core has told the status */
    int cancelled;
    grpc_status_code status;
    grpc_slice detail;
    grpc_metadata_array head, tail;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t room;  /* signalled when the queue shrinks or the call ends */
    struct rpc_out *queue, **queue_end;
    uint32_t queued, max_queue;
    size_t queued_bytes, max_message;
    bool sending, head_sent, finish_asked, finish_sent, broken, closed;
    int finish_status;
    char *finish_detail;
};

struct rpc_descriptors;
struct rpc_certificate;
struct rpc_acceptor;

struct rpc_server {
    grpc_server *server;
    struct rpc_certificate *certificate;
    struct rpc_descriptors *descriptors; /* NULL: no reflection */
    const struct rpc_method **tables;
    int (*authorise)(void *self, const struct rpc_call *, struct sp_why *why);
    void (*refused)(void *self, const struct rpc_call *, const struct sp_why *why);
    void (*listener_lost)(void *self);
    void *self;
    struct rpc_loop **loops;
    struct rpc_acceptor *acceptors;
    unsigned loop_count;
    uint32_t max_message, max_queue;
    unsigned accept_failures_seen;
    uint32_t handshake_timeout_ms;
    atomic_uint anonymous; /* calls that wait, see anonymous.c */
    bool started, stopped;
    atomic_bool stopping;
    pthread_mutex_t health_lock;
    bool healthy; /* under health_lock */
};

/* loop.c */
void rpc_loop_unref(struct rpc_loop *loop);
/* One more thing is open on the loop; -ESHUTDOWN when it is stopping. */
int rpc_loop_enter(struct rpc_loop *loop);
void rpc_loop_leave(struct rpc_loop *loop);
/* The same for a call, which the loop refers to until rpc_loop_remove(). */
int rpc_loop_add(struct rpc_loop *loop, struct rpc_call *call);
void rpc_loop_remove(struct rpc_loop *loop, struct rpc_call *call);
/* References to all open calls, to free() and unref; -ENOMEM. */
int rpc_loop_calls(struct rpc_loop *loop, struct rpc_call ***ret, size_t *ret_count);
void rpc_loop_join(struct rpc_loop *loop);

/* message.c */
grpc_byte_buffer *rpc_encode(const ProtobufCMessage *message, size_t size);
ProtobufCMessage *rpc_decode(const ProtobufCMessageDescriptor *of, grpc_byte_buffer *bytes);

/* call.c */
struct rpc_call *rpc_call_new(struct rpc_loop *loop, grpc_call *core,
                              const struct rpc_method *method, uint32_t max_message,
                              uint32_t max_queue);
/* Starts a batch that holds a reference to its call; false: core refused, the call is cancelled. */
bool rpc_call_start(struct rpc_call *call, const grpc_op *ops, size_t count, struct rpc_tag *tag);
/* On the loop; when core refuses, `receiving` is false afterwards. */
void rpc_call_receive(struct rpc_call *call);
/* The same in two steps, for a call that is not yet known to its loop: `receiving` is true
 * already. */
bool rpc_call_start_receive(struct rpc_call *call);
void rpc_call_receive_failed(struct rpc_call *call);
/* Sends the headers now, not with the first message. */
void rpc_call_send_head(struct rpc_call *call);
/* A call that core will never end (its closing batch could not be started). */
void rpc_call_abandon(struct rpc_call *call);

/* peer.c: address and identity of an accepted call's peer. 0, or -EKEYREJECTED with the reason: it
 * showed a certificate that does not count. */
int rpc_peer_read(struct rpc_call *call, struct sp_why *why);

/* permission.c */
int rpc_permitted(const struct rpc_server *server, const struct rpc_call *call, struct sp_why *why);
/* Every row has a path, messages and a permission that this server can check. */
int rpc_check_tables(const struct rpc_method *const *tables, bool has_authorise,
                     struct sp_why *why);

/* anonymous.c: false: there are too many of them. leave() is for every call; a second one does
 * nothing. */
bool rpc_anonymous_enter(struct rpc_server *server, struct rpc_call *call);
void rpc_anonymous_leave(struct rpc_call *call);
void rpc_anonymous_tick(struct rpc_server *server);

/* certificate.c */
int rpc_certificate_new(const char *certificate_path, const char *key_path, const char *trust_path,
                        struct rpc_certificate **ret, struct sp_why *why);
grpc_server_credentials *rpc_certificate_credentials(struct rpc_certificate *certificate);
void rpc_certificate_free(struct rpc_certificate *certificate);

/* channel.c */
struct rpc_channel {
    grpc_channel *channel;
    struct rpc_pin *pin;
    char *target;
    uint32_t max_message;
    uint64_t expires_unix_ms; /* of the client's certificate; 0: none */
};
/* Why the server was last refused; empty text: it was not. */
void rpc_channel_refusal(struct rpc_channel *channel, struct sp_why *ret);

/* descriptors.c: files of a FileDescriptorSet, with those of the standard services. */
int rpc_descriptors_load(const char *path, struct rpc_descriptors **ret, struct sp_why *why);
int rpc_descriptors_parse(const void *data, size_t size, struct rpc_descriptors **ret);
void rpc_descriptors_free(struct rpc_descriptors *descriptors);
/* The packed FileDescriptorProto; size 0: there is none. */
struct sp_bytes rpc_descriptors_by_name(const struct rpc_descriptors *descriptors,
                                        const char *file_name);
struct sp_bytes rpc_descriptors_by_symbol(const struct rpc_descriptors *descriptors,
                                          const char *symbol);

/* health.c, reflection.c */
extern const struct rpc_method rpc_health_table[];
extern const struct rpc_method rpc_reflection_table[];

/* setup.c: how often a listener has died (accept failed for want of file descriptors). */
unsigned rpc_accept_failures(void);

static inline grpc_arg rpc_int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

#endif
