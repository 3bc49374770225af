/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * RPC: gRPC core's C API and protobuf-c behind method tables. The only library that includes
 * <grpc/…>, and no gRPC type shows here.
 *
 *   method table ──▶ rpc_server ──▶ N loops, one completion queue and one thread each
 *                                      │ a call lives on the loop that accepted it
 *                                      ▼
 *                        open → message* → half_close → closed      (never two at once)
 *
 * Threads: the handlers of one call run on its loop, serialised, and must not block. rpc_send,
 * rpc_finish, rpc_cancel, rpc_ref and rpc_unref may be called from any thread; everything else
 * where it says so. Status numbers are gRPC's (enum rpc_status). */
#ifndef SEALPOINT_RPC_H
#define SEALPOINT_RPC_H

#include "base/identity.h"
#include "base/why.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum rpc_status {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_ABORTED = 10,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_DATA_LOSS = 15,
    RPC_UNAUTHENTICATED = 16
};
const char *rpc_status_name(int status);
/* The closest status for a negative errno, and back (for clients). */
int rpc_status_of_errno(int error);
int rpc_errno_of_status(int status);

struct rpc_call;
struct rpc_loop;
struct rpc_server;
struct rpc_channel;

enum rpc_method_flags {
    RPC_UNARY = 0,
    RPC_CLIENT_STREAM = 1,
    RPC_SERVER_STREAM = 2,
    RPC_BIDI = RPC_CLIENT_STREAM | RPC_SERVER_STREAM
};

/* What a caller must be. Checked before the first handler runs: the kind of the identity by the
 * library (agent for RPC_AGENT, user for roles), the role through rpc_server_options.authorise.
 * A certificate that has expired meanwhile counts as none. */
enum rpc_permission {
    RPC_ANYONE = 1,   /* no certificate needed: Enrol, health */
    RPC_ANY_IDENTITY, /* any certificate that is not revoked: Renew */
    RPC_AGENT,
    RPC_VIEWER, /* users, by role */
    RPC_OPERATOR,
    RPC_ADMIN,
    RPC_CUSTODIAN
};

/* One row for each method; the same rows serve servers (handlers) and clients (rpc_open). A table
 * ends with a row whose path is NULL. A row without a permission is refused by rpc_server_new(). */
struct rpc_method {
    const char *path; /* "/sealpoint.v1.Fleet/ListMachines" */
    const ProtobufCMessageDescriptor *request, *response;
    unsigned flags;
    enum rpc_permission permission;
    /* Servers: accepted and authorised. */
    void (*open)(struct rpc_call *);
    /* Borrowed while it runs. Without RPC_CLIENT_STREAM a server's is called once at most. */
    void (*message)(struct rpc_call *, const ProtobufCMessage *);
    /* Servers, with RPC_CLIENT_STREAM: the peer sends no more. */
    void (*half_close)(struct rpc_call *);
    /* The last one, exactly once for every call that was opened. Servers: the status that was
     * finished with, or CANCELLED when the peer (deadline, lost connection, oversized message) or
     * rpc_cancel ended it. */
    void (*closed)(struct rpc_call *, int status, const char *detail);
};

/* ---- calls ---- */
void rpc_ref(struct rpc_call *);
void rpc_unref(struct rpc_call *);
/* Queues a copy. 0, -EPIPE (closed or finished), -EAGAIN (send queue full: the peer does not read),
 * -EMSGSIZE, -ENOMEM. The queue is full at max_send_queue messages or four messages' worth of
 * bytes of the largest size. */
int rpc_send(struct rpc_call *, const ProtobufCMessage *);
/* The same for a thread that may wait for room (a worker, never a loop): -EAGAIN only after
 * timeout_ms. */
int rpc_send_wait(struct rpc_call *, const ProtobufCMessage *, unsigned timeout_ms);
/* Server: ends the call with a status after what is queued; a unary answer is rpc_send +
 * rpc_finish, or rpc_reply. No message and no half_close reaches the handlers after it. Client:
 * half-closes; status and detail are ignored. */
int rpc_finish(struct rpc_call *, int status, const char *detail);
int rpc_reply(struct rpc_call *, const ProtobufCMessage *);
/* Finishes with rpc_status_of_errno(error) and why's text. */
int rpc_fail(struct rpc_call *, int error, const struct sp_why *why);
void rpc_cancel(struct rpc_call *);
void *rpc_data(const struct rpc_call *);
/* On the call's loop only. */
void rpc_set_data(struct rpc_call *, void *);
/* How many messages wait to be sent. */
unsigned rpc_queued(struct rpc_call *);
/* Servers: the peer as its certificate says; kind NONE without one. Lives as long as the call. */
const struct sp_identity *rpc_peer(const struct rpc_call *);
/* DER of the peer's certificate; empty without one. */
struct sp_bytes rpc_peer_certificate(const struct rpc_call *);
/* "203.0.113.7:51622" */
const char *rpc_peer_address(const struct rpc_call *);
const struct rpc_method *rpc_method_of(const struct rpc_call *);
/* `self` of rpc_server_options; NULL for clients. */
void *rpc_server_context(const struct rpc_call *);

/* ---- server ---- */
struct rpc_server_options {
    const char *address;                                  /* "[::]:9443", "127.0.0.1:0" */
    const char *certificate_path, *key_path, *trust_path; /* PEM, read again when they change */
    unsigned loops;                                       /* 0: one */
    unsigned keepalive_ms, keepalive_timeout_ms;          /* 0: 60 s, 20 s */
    uint32_t max_message_bytes;                           /* 0: 4 MiB */
    uint32_t max_send_queue;                              /* messages a call may queue; 0: 256 */
    uint32_t handshake_timeout_ms; /* 0: 10 s; also for a request without certificate */
    unsigned expected_connections; /* refuse to start if RLIMIT_NOFILE cannot hold them */
    /* Says whether this call may go on, once the kind of identity fits. Runs on the loop, before
     * open, also for RPC_ANYONE (health included). May be NULL when no row asks for a role. 0, or a
     * negative errno with the caller's sentence in why (-EACCES: PERMISSION_DENIED, -EKEYREJECTED:
     * UNAUTHENTICATED). */
    int (*authorise)(void *self, const struct rpc_call *, struct sp_why *why);
    /* May be NULL. A call was refused before authorise, for the kind of its identity or for having
     * none. For the audit; on the loop, must not wait. */
    void (*refused)(void *self, const struct rpc_call *, const struct sp_why *why);
    void *self;
    const char *descriptors_path; /* FileDescriptorSet for reflection; NULL: no reflection */
    /* May be NULL. The process ran out of file descriptors and a listener has died: no new
     * connection will ever be taken, open ones go on. Tell the admin and restart the program. On a
     * loop. */
    void (*listener_lost)(void *self);
};
/* Starts serving tables (NULL-terminated list); grpc.health.v1 and reflection are added. *ret_port:
 * the bound port. */
int rpc_server_new(const struct rpc_server_options *, const struct rpc_method *const *tables,
                   struct rpc_server **ret, int *ret_port, struct sp_why *why);
/* Ends open streams with UNAVAILABLE, lets unary calls finish for at most grace_ms, cancels the
 * rest, joins the loops. Not from a handler. References to calls may outlive the server: they are
 * closed. */
void rpc_server_stop(struct rpc_server *, unsigned grace_ms);
void rpc_server_free(struct rpc_server *);
/* Calls fn, on this thread, for every call that is open and was authorised; each is referenced
 * meanwhile and may close at any moment. Calls of health and reflection are among them: tell them
 * by rpc_method_of. */
void rpc_server_for_each(struct rpc_server *, void (*fn)(struct rpc_call *, void *), void *arg);
/* grpc.health.v1: true SERVING, false NOT_SERVING. */
void rpc_server_set_healthy(struct rpc_server *, bool healthy);
/* Runs fn(arg) on the loop of the call, later, also when the call has closed by then; 0, -ENOMEM,
 * -ESHUTDOWN (the loop has ended). Holds a reference until then. */
int rpc_post(struct rpc_call *, void (*fn)(struct rpc_call *, void *), void *arg);

/* ---- client ---- */

/* A loop runs on a thread of its own (start) or on the caller's (run, until rpc_loop_stop). */
int rpc_loop_new(struct rpc_loop **ret);
int rpc_loop_start(struct rpc_loop *);
void rpc_loop_run(struct rpc_loop *);
/* One ticker: fn runs on the loop every ms. Before start or run. */
void rpc_loop_every(struct rpc_loop *, unsigned ms, void (*fn)(void *), void *arg);
/* The next tick comes within this time. On the loop, or before it runs. */
void rpc_loop_tick_within(struct rpc_loop *, unsigned ms);
/* From any thread, also from a handler; run returns when every call has ended (it cancels none;
 * rpc_open fails from now on). */
void rpc_loop_stop(struct rpc_loop *);
/* Stops, joins. NULL is fine. */
void rpc_loop_free(struct rpc_loop *);

struct rpc_channel_options {
    const char *target;                    /* "host:port" */
    const char *trust_pem;                 /* texts, not paths */
    const char *certificate_pem, *key_pem; /* both NULL: no client certificate */
    unsigned keepalive_ms,
        keepalive_timeout_ms;   /* as the server's; never oftener than half of it */
    uint32_t max_message_bytes; /* 0: 4 MiB */
    /* The server must show a certificate for SP_CONTROLLER_DNS whose SPIFFE id is of this domain
     * (NULL: any) and of kind controller; anything else never gets a byte. */
    const char *domain;
};
int rpc_channel_new(const struct rpc_channel_options *, struct rpc_channel **ret,
                    struct sp_why *why);
void rpc_channel_free(struct rpc_channel *);

/* Starts a call; handlers of the row run on `loop`. deadline_ms 0: none. *ret is a reference of the
 * caller's. 0, -ENOMEM, -ESHUTDOWN. */
int rpc_open(struct rpc_loop *loop, struct rpc_channel *, const struct rpc_method *,
             unsigned deadline_ms, void *data, struct rpc_call **ret);
/* A unary call, waited for on this thread (not on a loop's). 0 with *ret to free with
 * protobuf_c_message_free_unpacked, or a negative errno with the server's sentence in why.
 * *ret_status (may be NULL) gets the gRPC status. */
int rpc_unary(struct rpc_channel *, const struct rpc_method *, const ProtobufCMessage *request,
              unsigned deadline_ms, ProtobufCMessage **ret, int *ret_status, struct sp_why *why);
/* A server stream, waited for on this thread: on_message for each; a negative return cancels and is
 * returned. Otherwise 0 or a negative errno as of rpc_unary. */
int rpc_stream(struct rpc_channel *, const struct rpc_method *, const ProtobufCMessage *request,
               unsigned deadline_ms, int (*on_message)(void *self, const ProtobufCMessage *),
               void *self, int *ret_status, struct sp_why *why);

/* For the process: before the first use and after the last. Counted. Core's own messages go to
 * lib/base/log.h at debug level. */
void rpc_setup(void);
void rpc_teardown(void);

/* For a process that rests: core's own timers (keepalive, handshakes, back-off) may be late by this
 * much, so that its threads wake less often. Deadlines of calls are timers too; ticks of loops are
 * not. 0, as at the start: exact. Only where core is linked statically; else it does nothing. Any
 * thread. */
void rpc_set_slack(unsigned ms);

#endif
