/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Calls that a thread waits for: a loop of their own, run on that thread until the call is over. */
#include "base/clock.h"
#include "internal.h"
#include <errno.h>
#include <string.h>

struct wait {
    struct rpc_loop *loop;
    bool one; /* unary: keep the message */
    ProtobufCMessage *answer;
    int (*on_message)(void *self, const ProtobufCMessage *);
    void *self;
    int stopped; /* what on_message said, if negative */
    int status;
    char detail[400];
};

static void take_message(struct rpc_call *c, const ProtobufCMessage *message)
{
    struct wait *w = rpc_data(c);

    if (w->one) {
        if (!w->answer)
            w->answer = sp_message_copy(message);
    } else if (w->stopped == 0) {
        w->stopped = w->on_message(w->self, message);
        if (w->stopped < 0)
            rpc_cancel(c);
        else
            w->stopped = 0;
    }
}

static void take_closed(struct rpc_call *c, int status, const char *detail)
{
    struct wait *w = rpc_data(c);

    w->status = status;
    strncat(w->detail, detail, sizeof w->detail - 1);
    rpc_loop_stop(w->loop);
}

static bool has_expired(const struct rpc_channel *channel)
{
    return channel->expires_unix_ms > 0 &&
           channel->expires_unix_ms <= sp_clock_system.wall_ms(sp_clock_system.self);
}

/* The sentence for the person. Core's text for a refused handshake says nothing: the pin knows why
 * the server was refused, and the commonest cause of the other way round is known here too. */
static int explain(struct rpc_channel *channel, const struct wait *w, struct sp_why *why)
{
    struct sp_why refusal = {0};
    char when[24];
    int error = rpc_errno_of_status(w->status);

    if (w->status == RPC_UNAVAILABLE)
        rpc_channel_refusal(channel, &refusal);
    if (refusal.text[0])
        return sp_why_set(why, -EKEYREJECTED, "%s: %s", channel->target, refusal.text);
    if (w->status == RPC_UNAVAILABLE && has_expired(channel))
        return sp_why_set(why, -EKEYREJECTED,
                          "the controller at %s does not talk to this client, whose certificate "
                          "expired on %s",
                          channel->target, sp_time_text(channel->expires_unix_ms, when));
    if (w->status == RPC_UNAVAILABLE)
        return sp_why_set(why, error, "cannot talk to the controller at %s: %s", channel->target,
                          w->detail);
    if (w->status == RPC_DEADLINE_EXCEEDED)
        return sp_why_set(why, error, "the controller at %s did not answer in time",
                          channel->target);
    return sp_why_set(why, error, "%s", w->detail[0] ? w->detail : rpc_status_name(w->status));
}

/* Runs the whole call; 0 when it was made, whatever its status. */
static int run(struct rpc_channel *channel, const struct rpc_method *method,
               const ProtobufCMessage *request, unsigned deadline_ms, struct wait *w)
{
    struct rpc_method row = *method;
    struct rpc_call *call = NULL;

    row.open = NULL;
    row.message = take_message;
    row.half_close = NULL;
    row.closed = take_closed;
    int rc = rpc_loop_new(&w->loop);
    if (rc < 0)
        return rc;
    rc = rpc_open(w->loop, channel, &row, deadline_ms, w, &call);
    if (rc == 0) {
        int sent = rpc_send(call, request);
        if (sent < 0 && sent != -EPIPE) { /* -EPIPE: it has failed already, the status says why */
            rpc_cancel(call);
            rc = sent;
        }
        rpc_finish(call, RPC_OK, NULL);
        rpc_loop_run(w->loop);
        rpc_unref(call);
    }
    rpc_loop_free(w->loop);
    return rc;
}

int rpc_unary(struct rpc_channel *channel, const struct rpc_method *method,
              const ProtobufCMessage *request, unsigned deadline_ms, ProtobufCMessage **ret,
              int *ret_status, struct sp_why *why)
{
    struct wait w = {.one = true};

    int rc = run(channel, method, request, deadline_ms, &w);
    if (rc < 0)
        return rc == -EMSGSIZE ? sp_why_set(why, rc, "the request is too large") : rc;
    if (ret_status)
        *ret_status = w.status;
    if (w.status == RPC_OK && w.answer) {
        *ret = w.answer;
        return 0;
    }
    if (w.answer)
        protobuf_c_message_free_unpacked(w.answer, NULL);
    if (w.status == RPC_OK)
        return sp_why_set(why, -EBADMSG, "the controller answered %s with no message",
                          method->path);
    return explain(channel, &w, why);
}

int rpc_stream(struct rpc_channel *channel, const struct rpc_method *method,
               const ProtobufCMessage *request, unsigned deadline_ms,
               int (*on_message)(void *self, const ProtobufCMessage *), void *self, int *ret_status,
               struct sp_why *why)
{
    struct wait w = {.on_message = on_message, .self = self};

    int rc = run(channel, method, request, deadline_ms, &w);
    if (rc < 0)
        return rc == -EMSGSIZE ? sp_why_set(why, rc, "the request is too large") : rc;
    if (ret_status)
        *ret_status = w.status;
    if (w.stopped < 0)
        return w.stopped;
    return w.status == RPC_OK ? 0 : explain(channel, &w, why);
}
