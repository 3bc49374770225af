/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Calls of a client. */
#include "internal.h"
#include <errno.h>
#include <stdlib.h>

static gpr_timespec deadline_after(unsigned ms)
{
    if (ms == 0)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

/* Core has refused the first receive and the call is cancelled; on the loop, as all that decides
 * about the end. */
static void receive_failed(struct rpc_call *c, void *arg)
{
    (void)arg;
    rpc_call_receive_failed(c);
}

/* The receive comes last: until it has come back the call cannot close, so nothing here is started
 * on a queue that is gone. */
static void begin(struct rpc_call *c)
{
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                      .data.recv_status_on_client = {.trailing_metadata = &c->tail,
                                                     .status = &c->status,
                                                     .status_details = &c->detail}};
    grpc_op head = {.op = GRPC_OP_RECV_INITIAL_METADATA,
                    .data.recv_initial_metadata.recv_initial_metadata = &c->head};

    c->receiving = true;
    if (!rpc_call_start(c, &status, 1, &c->on_close)) {
        rpc_call_abandon(c);
        return;
    }
    rpc_call_start(c, &head, 1, &c->on_start);
    rpc_call_send_head(c);
    if (!rpc_call_start_receive(c))
        rpc_post(c, receive_failed, NULL);
}

int rpc_open(struct rpc_loop *loop, struct rpc_channel *channel, const struct rpc_method *method,
             unsigned deadline_ms, void *data, struct rpc_call **ret)
{
    grpc_slice path = grpc_slice_from_static_string(method->path);
    grpc_call *core =
        grpc_channel_create_call(channel->channel, NULL, GRPC_PROPAGATE_DEFAULTS, loop->queue, path,
                                 NULL, deadline_after(deadline_ms), NULL);
    grpc_slice_unref(path);
    if (!core)
        return -ENOMEM;
    struct rpc_call *c =
        rpc_call_new(loop, core, method, channel->max_message, RPC_DEFAULT_MAX_QUEUE);
    if (!c) {
        grpc_call_unref(core);
        return -ENOMEM;
    }
    c->client = true;
    c->opened = true;
    c->data = data;
    int rc = rpc_loop_add(loop, c);
    if (rc < 0) {
        rpc_unref(c);
        return rc;
    }
    *ret = c; /* before a handler can run on another thread */
    begin(c);
    return 0;
}
