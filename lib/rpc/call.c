/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One call: its batches, its send queue, its end.
 *
 * Core allows one send and one receive in flight, so messages to send wait in a bounded queue.
 * `closed` comes last: after core has told the status and after the receive that was in flight has
 * come back. */
#include "base/cleanup.h"
#include "base/log.h"
#include "internal.h"
#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/support/alloc.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- life ---- */

static void receive_done(void *self, bool ok);
static void send_done(void *self, bool ok);
static void close_done(void *self, bool ok);

static void start_done(void *self, bool ok)
{
    (void)ok;
    rpc_unref(self);
}

struct rpc_call *rpc_call_new(struct rpc_loop *loop, grpc_call *core,
                              const struct rpc_method *method, uint32_t max_message,
                              uint32_t max_queue)
{
    pthread_condattr_t monotonic;
    struct rpc_call *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    atomic_init(&c->refs, 1);
    atomic_fetch_add(&loop->refs, 1);
    c->loop = loop;
    c->call = core;
    c->method = method;
    c->max_message = max_message;
    c->max_queue = max_queue;
    c->queue_end = &c->queue;
    c->detail = grpc_empty_slice();
    grpc_metadata_array_init(&c->head);
    grpc_metadata_array_init(&c->tail);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&c->room, &monotonic);
    pthread_condattr_destroy(&monotonic);
    c->on_receive = (struct rpc_tag){receive_done, c};
    c->on_send = (struct rpc_tag){send_done, c};
    c->on_close = (struct rpc_tag){close_done, c};
    c->on_start = (struct rpc_tag){start_done, c};
    return c;
}

void rpc_ref(struct rpc_call *c)
{
    atomic_fetch_add(&c->refs, 1);
}

static void out_free(struct rpc_out *out)
{
    grpc_byte_buffer_destroy(out->bytes);
    free(out);
}

void rpc_unref(struct rpc_call *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    for (struct rpc_out *out; (out = c->queue);) {
        c->queue = out->next;
        out_free(out);
    }
    if (c->in)
        grpc_byte_buffer_destroy(c->in);
    grpc_metadata_array_destroy(&c->head);
    grpc_metadata_array_destroy(&c->tail);
    grpc_slice_unref(c->detail);
    grpc_call_unref(c->call);
    pthread_cond_destroy(&c->room);
    pthread_mutex_destroy(&c->lock);
    free(c->finish_detail);
    OPENSSL_free(c->certificate);
    free(c->address);
    rpc_loop_unref(c->loop);
    free(c);
}

bool rpc_call_start(struct rpc_call *c, const grpc_op *ops, size_t count, struct rpc_tag *tag)
{
    rpc_ref(c);
    RPC_TAG_IN(tag);
    grpc_call_error error = grpc_call_start_batch(c->call, ops, count, tag, NULL);
    if (error == GRPC_CALL_OK)
        return true;
    sp_log(SP_LOG_DEBUG, "batch refused", "method", c->method ? c->method->path : NULL, "error",
           grpc_call_error_to_string(error), NULL);
    grpc_call_cancel_with_status(c->call, GRPC_STATUS_INTERNAL, "batch refused", NULL);
    rpc_unref(c);
    return false;
}

/* ---- the end ---- */

static void tell_closed(struct rpc_call *c)
{
    int status = (int)c->status;
    SP_FREE char *detail = NULL;

    if (c->client) {
        char *text = grpc_slice_to_c_string(c->detail);
        c->method->closed(c, status, text);
        gpr_free(text);
        return;
    }
    pthread_mutex_lock(&c->lock);
    status = c->cancelled ? RPC_CANCELLED : c->finish_status;
    if (!c->cancelled)
        detail = sp_steal(c->finish_detail);
    pthread_mutex_unlock(&c->lock);
    c->method->closed(c, status, detail ? detail : "");
}

static void close_if_over(struct rpc_call *c)
{
    if (!c->ended || c->receiving)
        return;
    rpc_anonymous_leave(c);
    pthread_mutex_lock(&c->lock);
    c->closed = true;
    pthread_cond_broadcast(&c->room);
    pthread_mutex_unlock(&c->lock);
    if (c->opened && c->method && c->method->closed)
        tell_closed(c);
    rpc_loop_remove(c->loop, c);
}

static void close_done(void *self, bool ok)
{
    struct rpc_call *c = self;
    (void)ok; /* always true */
    c->ended = true;
    close_if_over(c);
    rpc_unref(c);
}

void rpc_call_abandon(struct rpc_call *c)
{
    c->ended = true;
    c->receiving = false;
    c->cancelled = 1;
    c->status = GRPC_STATUS_INTERNAL;
    close_if_over(c);
}

void rpc_cancel(struct rpc_call *c)
{
    grpc_call_cancel(c->call, NULL);
}

/* ---- receiving ---- */

bool rpc_call_start_receive(struct rpc_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->in};
    return rpc_call_start(c, &op, 1, &c->on_receive);
}

void rpc_call_receive(struct rpc_call *c)
{
    c->receiving = true;
    if (!rpc_call_start_receive(c))
        c->receiving = false;
}

void rpc_call_receive_failed(struct rpc_call *c)
{
    c->receiving = false;
    close_if_over(c);
}

static bool is_finished(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    bool finished = c->finish_asked;
    pthread_mutex_unlock(&c->lock);
    return finished;
}

/* What a server has finished is over for its handlers: the peer's rest is read and dropped. */
static void take_message(struct rpc_call *c, grpc_byte_buffer *in)
{
    const struct rpc_method *m = c->method;

    c->received++;
    if (!c->client && is_finished(c))
        return;
    ProtobufCMessage *message = rpc_decode(c->client ? m->response : m->request, in);
    if (!message) {
        if (c->client)
            grpc_call_cancel_with_status(c->call, GRPC_STATUS_INTERNAL,
                                         "the server sent bytes that are no such message", NULL);
        else
            rpc_finish(c, RPC_INVALID_ARGUMENT, "these bytes are no such message");
        return;
    }
    if (m->message)
        m->message(c, message);
    protobuf_c_message_free_unpacked(message, NULL);
}

/* No message: a half-close, or the call has failed. An oversized message looks the same but for
 * grpc_call_failed_before_recv_message(). */
static void take_end(struct rpc_call *c)
{
    if (c->client || grpc_call_failed_before_recv_message(c->call) || is_finished(c))
        return;
    if (!(c->method->flags & RPC_CLIENT_STREAM))
        rpc_finish(c, RPC_INVALID_ARGUMENT, "no request message");
    else if (c->method->half_close)
        c->method->half_close(c);
}

static void receive_done(void *self, bool ok)
{
    struct rpc_call *c = self;
    grpc_byte_buffer *in = sp_steal(c->in);

    (void)ok;
    rpc_anonymous_leave(c);
    if (in)
        take_message(c, in);
    else
        take_end(c);
    if (in && (c->client || (c->method->flags & RPC_CLIENT_STREAM)))
        rpc_call_receive(c);
    else
        c->receiving = false;
    if (in)
        grpc_byte_buffer_destroy(in);
    close_if_over(c);
    rpc_unref(c);
}

/* ---- sending ---- */

/* Puts the next thing on the wire; the caller holds the lock. A closed call starts nothing: its
 * loop's queue may be gone. */
static void pump(struct rpc_call *c)
{
    grpc_op ops[3] = {0};
    size_t n = 0;
    grpc_slice detail = grpc_empty_slice();
    struct rpc_out *out = c->queue;

    if (c->sending || c->closed || c->broken || c->finish_sent)
        return;
    if (!c->head_sent)
        ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (out) {
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = out->bytes;
    }
    if (c->finish_asked && (!out || !out->next)) {
        if (c->client) {
            ops[n++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        } else {
            if (c->finish_detail)
                detail = grpc_slice_from_copied_string(c->finish_detail);
            ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
            ops[n].data.send_status_from_server.status = (grpc_status_code)c->finish_status;
            ops[n++].data.send_status_from_server.status_details = &detail;
        }
        c->finish_sent = true;
    }
    if (n > 0) {
        c->head_sent = true;
        c->sending = rpc_call_start(c, ops, n, &c->on_send);
        c->broken = !c->sending;
    }
    if (out) { /* core has taken the slices; the buffer object stays ours */
        c->queue = out->next;
        if (!c->queue)
            c->queue_end = &c->queue;
        c->queued--;
        c->queued_bytes -= out->size;
        out_free(out);
        pthread_cond_broadcast(&c->room);
    }
    grpc_slice_unref(detail);
}

static void send_done(void *self, bool ok)
{
    struct rpc_call *c = self;

    pthread_mutex_lock(&c->lock);
    c->sending = false;
    if (!ok) {
        c->broken = true;
        pthread_cond_broadcast(&c->room);
    } else if (c->queue || c->finish_asked) {
        pump(c);
    }
    pthread_mutex_unlock(&c->lock);
    rpc_unref(c);
}

void rpc_call_send_head(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->head_sent)
        pump(c);
    pthread_mutex_unlock(&c->lock);
}

/* The caller holds the lock. One message always fits, however large. */
static int has_room(const struct rpc_call *c, size_t size)
{
    if (c->closed || c->broken || c->finish_asked)
        return -EPIPE;
    if (c->queued >= c->max_queue)
        return -EAGAIN;
    if (c->queued > 0 && c->queued_bytes + size > RPC_QUEUE_LARGEST * c->max_message)
        return -EAGAIN;
    return 0;
}

/* until NULL: does not wait. */
static int send_until(struct rpc_call *c, const ProtobufCMessage *message,
                      const struct timespec *until)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    struct rpc_out *out = NULL;
    int rc;

    if (size > c->max_message)
        return -EMSGSIZE;
    out = calloc(1, sizeof *out);
    if (!out)
        return -ENOMEM;
    out->size = size;
    out->bytes = rpc_encode(message, size);
    pthread_mutex_lock(&c->lock);
    while ((rc = has_room(c, size)) == -EAGAIN && until) {
        if (pthread_cond_timedwait(&c->room, &c->lock, until) == ETIMEDOUT) {
            rc = has_room(c, size);
            break;
        }
    }
    if (rc == 0) {
        *c->queue_end = out;
        c->queue_end = &out->next;
        c->queued++;
        c->queued_bytes += size;
        pump(c);
    }
    pthread_mutex_unlock(&c->lock);
    if (rc < 0)
        out_free(out);
    return rc;
}

int rpc_send(struct rpc_call *c, const ProtobufCMessage *message)
{
    return send_until(c, message, NULL);
}

int rpc_send_wait(struct rpc_call *c, const ProtobufCMessage *message, unsigned timeout_ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return send_until(c, message, &until);
}

int rpc_finish(struct rpc_call *c, int status, const char *detail)
{
    SP_FREE char *copy = detail ? strdup(detail) : NULL;
    int rc = 0;

    pthread_mutex_lock(&c->lock);
    if (c->closed || c->finish_asked) {
        rc = -EPIPE;
    } else {
        c->finish_asked = true;
        c->finish_status = status;
        c->finish_detail = sp_steal(copy);
        pthread_cond_broadcast(&c->room);
        pump(c);
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

int rpc_reply(struct rpc_call *c, const ProtobufCMessage *message)
{
    int rc = rpc_send(c, message);
    if (rc == -EMSGSIZE)
        rpc_finish(c, RPC_RESOURCE_EXHAUSTED, "the answer is larger than a message may be");
    else if (rc < 0)
        rpc_finish(c, rpc_status_of_errno(rc), "the answer could not be sent");
    else
        rc = rpc_finish(c, RPC_OK, NULL);
    return rc;
}

int rpc_fail(struct rpc_call *c, int error, const struct sp_why *why)
{
    bool has_text = why && why->text[0];
    return rpc_finish(c, rpc_status_of_errno(error), has_text ? why->text : strerror(-error));
}

/* ---- what a handler may ask ---- */

void *rpc_data(const struct rpc_call *c)
{
    return c->data;
}

void rpc_set_data(struct rpc_call *c, void *data)
{
    c->data = data;
}

unsigned rpc_queued(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    unsigned queued = c->queued;
    pthread_mutex_unlock(&c->lock);
    return queued;
}

const struct sp_identity *rpc_peer(const struct rpc_call *c)
{
    return &c->peer;
}

struct sp_bytes rpc_peer_certificate(const struct rpc_call *c)
{
    return (struct sp_bytes){c->certificate, c->certificate_size};
}

const char *rpc_peer_address(const struct rpc_call *c)
{
    return c->address ? c->address : "";
}

const struct rpc_method *rpc_method_of(const struct rpc_call *c)
{
    return c->method;
}

void *rpc_server_context(const struct rpc_call *c)
{
    return c->context;
}
