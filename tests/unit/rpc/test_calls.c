/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Calls of each kind, and their limits. */
#include "base/cleanup.h"
#include "rig.h"
#include <errno.h>
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/fleet.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { LONG_MS = 60000 };

static int start(void **state)
{
    (void)state;
    rig_start(NULL);
    return 0;
}

static void small_messages(struct rpc_server_options *o)
{
    o->max_message_bytes = 64 << 10;
    o->max_send_queue = 16;
}

static int start_small(void **state)
{
    (void)state;
    rig_start(small_messages);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    rig_stop();
    return 0;
}

/* ---- unary ---- */

static void a_unary_call_is_answered_and_knows_its_peer(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct sp_why why = {0};
    int status = -1;
    char *name = NULL;
    (void)state;

    assert_int_equal(rig_ask(channel, "m", LONG_MS, &name, &status, &why), 0);
    assert_string_equal(name, "3/ada m");
    assert_int_equal(status, RPC_OK);
    free(name);
    latch_wait(&rig.closed, 1);
    assert_int_equal(rig.closed_status, RPC_OK);
    rpc_channel_free(channel);
}

static void an_error_carries_its_status_and_sentence(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    assert_int_equal(rig_ask(channel, "fail", LONG_MS, NULL, &status, &why), -ENOENT);
    assert_int_equal(status, RPC_NOT_FOUND);
    assert_string_equal(why.text, "no machine named 'fail': 'sealpoint machine list' shows them");
    latch_wait(&rig.closed, 1);
    assert_int_equal(rig.closed_status, RPC_NOT_FOUND);
    rpc_channel_free(channel);
}

static void ok_without_a_message_is_an_error(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct sp_why why = {0};
    (void)state;

    assert_int_equal(rig_ask(channel, "empty", LONG_MS, NULL, NULL, &why), -EBADMSG);
    rpc_channel_free(channel);
}

static void a_deadline_ends_both_sides(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    assert_int_equal(rig_ask(channel, "m", LONG_MS, NULL, NULL, &why), 0);
    assert_int_equal(rig_ask(channel, "silent", 300, NULL, &status, &why), -ETIMEDOUT);
    assert_int_equal(status, RPC_DEADLINE_EXCEEDED);
    latch_wait(&rig.closed, 2);
    assert_int_equal(rig.closed_status, RPC_CANCELLED);
    rpc_channel_free(channel);
}

static void a_method_that_the_server_lacks_is_unimplemented(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    Sp__StatusRequest q = SP__STATUS_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    assert_int_equal(
        rpc_unary(channel, sp_method("Fleet/GetStatus"), &q.base, LONG_MS, &answer, &status, &why),
        -EOPNOTSUPP);
    assert_int_equal(status, RPC_UNIMPLEMENTED);
    assert_string_equal(why.text, "this server has no such method");
    rpc_channel_free(channel);
}

static void nobody_listening_is_said_with_the_address(void **state)
{
    struct rpc_channel *channel;
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    rpc_server_stop(rig.server, 0);
    channel = rig_channel("user");
    assert_int_equal(rig_ask(channel, "m", LONG_MS, NULL, &status, &why), -EHOSTUNREACH);
    assert_int_equal(status, RPC_UNAVAILABLE);
    assert_non_null(strstr(why.text, rig.target));
    rpc_channel_free(channel);
}

/* ---- sizes ---- */

static void an_oversized_request_never_leaves_the_client(void **state)
{
    struct rpc_channel *channel =
        rig_channel_of(&rig.pki, "user", rig.target, "test.example", 1 << 16);
    struct sp_why why = {0};
    (void)state;

    char *name = malloc(70000);
    memset(name, 'n', 69999);
    name[69999] = 0;
    assert_int_equal(rig_ask(channel, name, LONG_MS, NULL, NULL, &why), -EMSGSIZE);
    free(name);
    rpc_channel_free(channel);
}

static void an_oversized_request_is_refused_by_the_server(void **state)
{
    struct rpc_channel *channel =
        rig_channel_of(&rig.pki, "user", rig.target, "test.example", 1 << 20);
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    char *name = malloc(70000);
    memset(name, 'n', 69999);
    name[69999] = 0;
    assert_int_equal(rig_ask(channel, name, LONG_MS, NULL, &status, &why), -ENOSPC);
    assert_int_equal(status, RPC_RESOURCE_EXHAUSTED);
    latch_wait(&rig.closed, 1);
    assert_int_equal(rig.closed_status, RPC_CANCELLED);
    free(name);
    /* The connection and the server go on. */
    assert_int_equal(rig_ask(channel, "m", LONG_MS, NULL, NULL, &why), 0);
    rpc_channel_free(channel);
}

static void an_oversized_answer_becomes_a_status(void **state)
{
    struct rpc_channel *channel =
        rig_channel_of(&rig.pki, "user", rig.target, "test.example", 1 << 20);
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    assert_int_equal(rig_ask(channel, "big", LONG_MS, NULL, &status, &why), -ENOSPC);
    assert_int_equal(status, RPC_RESOURCE_EXHAUSTED);
    rpc_channel_free(channel);
}

static void a_client_refuses_an_oversized_answer(void **state)
{
    struct rpc_channel *channel =
        rig_channel_of(&rig.pki, "user", rig.target, "test.example", 1 << 16);
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    assert_int_equal(rig_ask(channel, "big", LONG_MS, NULL, &status, &why), -ENOSPC);
    assert_int_equal(status, RPC_RESOURCE_EXHAUSTED);
    rpc_channel_free(channel);
}

/* ---- streams ---- */

struct seen {
    unsigned count, stop_at;
    uint64_t last;
};

static int take_event(void *self, const ProtobufCMessage *message)
{
    struct seen *seen = self;
    const Sp__FleetEvent *event = (const void *)message;

    assert_true(event->at_unix_ms == seen->last + 1);
    seen->last = event->at_unix_ms;
    return ++seen->count == seen->stop_at ? -ECANCELED : 0;
}

static int stream(struct rpc_channel *channel, const char *what, unsigned deadline_ms,
                  struct seen *seen, int *ret_status)
{
    Sp__WatchRequest q = SP__WATCH_REQUEST__INIT;
    struct sp_why why = {0};
    q.machine = (char *)what;
    return rpc_stream(channel, sp_method("Fleet/Watch"), &q.base, deadline_ms, take_event, seen,
                      ret_status, &why);
}

static void a_server_stream_brings_every_message_in_order(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct seen seen = {0};
    int status = -1;
    (void)state;

    assert_int_equal(stream(channel, "5000", LONG_MS, &seen, &status), 0);
    assert_int_equal(seen.count, 5000);
    assert_int_equal(status, RPC_OK);
    rpc_channel_free(channel);
}

static void a_reader_that_stops_cancels_the_stream(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct seen seen = {.stop_at = 3};
    (void)state;

    assert_int_equal(stream(channel, "100000000", LONG_MS, &seen, NULL), -ECANCELED);
    assert_int_equal(seen.count, 3);
    latch_wait(&rig.closed, 1); /* its worker was told by -EPIPE */
    rpc_channel_free(channel);
}

/* A client that opens a stream and does not read. */
static void ignore_closed(struct rpc_call *c, int status, const char *detail)
{
    (void)detail;
    *(int *)rpc_data(c) = status;
}

static void hold_first(struct rpc_call *c, const ProtobufCMessage *message)
{
    (void)c, (void)message;
    latch_wait(&rig.flooded, 1); /* the loop reads no further meanwhile */
}

static void a_full_send_queue_says_so(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct rpc_method row = *sp_method("Fleet/Watch");
    Sp__WatchRequest q = SP__WATCH_REQUEST__INIT;
    struct rpc_loop *loop = NULL;
    struct rpc_call *call = NULL;
    int status = -1;
    (void)state;

    q.machine = (char *)"flood";
    row.message = hold_first;
    row.closed = ignore_closed;
    assert_int_equal(rpc_loop_new(&loop), 0);
    assert_int_equal(rpc_loop_start(loop), 0);
    assert_int_equal(rpc_open(loop, channel, &row, 0, &status, &call), 0);
    assert_int_equal(rpc_send(call, &q.base), 0);
    latch_wait(&rig.flooded, 1);
    assert_int_equal(rig.flood_result, -EAGAIN);
    assert_true(rig.flood_sent >= 16);
    rpc_cancel(call);
    rpc_unref(call);
    rpc_loop_free(loop);
    assert_int_equal(status, RPC_CANCELLED);
    latch_wait(&rig.closed, 1);
    rpc_channel_free(channel);
}

/* ---- both ways ---- */

enum { BEATS = 500 };

struct agent {
    struct rpc_loop *loop;
    unsigned answers, half_closes;
    uint64_t next;
    int status;
    bool welcomed;
};

static void agent_message(struct rpc_call *c, const ProtobufCMessage *message)
{
    struct agent *a = rpc_data(c);
    const Sp__ControllerMessage *m = (const void *)message;

    if (m->kind_case == SP__CONTROLLER_MESSAGE__KIND_WELCOME) {
        assert_string_equal(m->welcome->controller_name, "m-1");
        a->welcomed = true;
        return;
    }
    assert_true(m->command->fence == ++a->next);
    if (++a->answers == BEATS)
        rpc_finish(c, RPC_OK, NULL);
}

static void agent_half_close(struct rpc_call *c)
{
    ((struct agent *)rpc_data(c))->half_closes++;
}

static void agent_closed(struct rpc_call *c, int status, const char *detail)
{
    struct agent *a = rpc_data(c);
    (void)detail;
    assert_int_equal(rpc_send(c, &(Sp__AgentMessage)SP__AGENT_MESSAGE__INIT.base), -EPIPE);
    a->status = status;
    rpc_loop_stop(a->loop);
}

static void a_stream_both_ways_ends_with_half_close(void **state)
{
    struct rpc_channel *channel = rig_channel("agent");
    struct rpc_method row = *sp_method("AgentLink/Session");
    Sp__AgentMessage m = SP__AGENT_MESSAGE__INIT;
    Sp__Hello hello = SP__HELLO__INIT;
    Sp__Heartbeat beat = SP__HEARTBEAT__INIT;
    struct agent a = {.status = -1};
    struct rpc_call *call = NULL;
    (void)state;

    row.message = agent_message;
    row.half_close = agent_half_close;
    row.closed = agent_closed;
    assert_int_equal(rpc_loop_new(&a.loop), 0);
    assert_int_equal(rpc_open(a.loop, channel, &row, 0, &a, &call), 0);
    m.kind_case = SP__AGENT_MESSAGE__KIND_HELLO;
    m.hello = &hello;
    assert_int_equal(rpc_send(call, &m.base), 0);
    assert_int_equal(rpc_loop_start(a.loop), 0);
    m.kind_case = SP__AGENT_MESSAGE__KIND_HEARTBEAT;
    m.heartbeat = &beat;
    for (unsigned i = 1; i <= BEATS; i++) {
        beat.sequence = i;
        assert_int_equal(rpc_send_wait(call, &m.base, LONG_MS), 0);
    }
    rpc_loop_free(a.loop); /* waits for the call's end */
    assert_true(a.welcomed);
    assert_int_equal(a.answers, BEATS);
    assert_int_equal(a.half_closes, 0);
    assert_int_equal(a.status, RPC_OK);
    assert_int_equal(rpc_send(call, &m.base), -EPIPE);
    assert_int_equal(rpc_finish(call, RPC_OK, NULL), -EPIPE);
    rpc_unref(call);
    latch_wait(&rig.closed, 1);
    assert_int_equal(rig.closed_status, RPC_OK);
    rpc_channel_free(channel);
}

static void a_call_on_a_stopped_loop_is_refused(void **state)
{
    struct rpc_channel *channel = rig_channel("agent");
    struct rpc_loop *loop = NULL;
    struct rpc_call *call = NULL;
    (void)state;

    assert_int_equal(rpc_loop_new(&loop), 0);
    rpc_loop_stop(loop);
    assert_int_equal(rpc_open(loop, channel, sp_method("AgentLink/Session"), 0, NULL, &call),
                     -ESHUTDOWN);
    rpc_loop_free(loop);
    rpc_channel_free(channel);
}

/* Bytes that are no such message: the same path with another row's message. */
static void undecodable_bytes_are_an_invalid_argument(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    Sp__FleetEvent lie = SP__FLEET_EVENT__INIT; /* field 1 is a number, not a string */
    ProtobufCMessage *answer = NULL;
    struct rpc_method row = *sp_method("Fleet/GetMachine");
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    lie.at_unix_ms = 7;
    row.request = &sp__fleet_event__descriptor;
    assert_int_equal(rpc_unary(channel, &row, &lie.base, LONG_MS, &answer, &status, &why), -EINVAL);
    assert_int_equal(status, RPC_INVALID_ARGUMENT);
    rpc_channel_free(channel);
}

static void ticks(void *arg)
{
    latch_raise(arg);
}

static void a_loop_ticks(void **state)
{
    static struct latch latch = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    struct rpc_loop *loop = NULL;
    (void)state;

    assert_int_equal(rpc_loop_new(&loop), 0);
    rpc_loop_every(loop, 5, ticks, &latch);
    assert_int_equal(rpc_loop_start(loop), 0);
    latch_wait(&latch, 3);
    rpc_loop_free(loop);
}

#define WITH(test, setup) cmocka_unit_test_setup_teardown(test, setup, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(a_unary_call_is_answered_and_knows_its_peer, start),
        WITH(an_error_carries_its_status_and_sentence, start),
        WITH(ok_without_a_message_is_an_error, start),
        WITH(a_deadline_ends_both_sides, start),
        WITH(a_method_that_the_server_lacks_is_unimplemented, start),
        WITH(nobody_listening_is_said_with_the_address, start),
        WITH(an_oversized_request_never_leaves_the_client, start),
        WITH(an_oversized_request_is_refused_by_the_server, start_small),
        WITH(an_oversized_answer_becomes_a_status, start_small),
        WITH(a_client_refuses_an_oversized_answer, start),
        WITH(a_server_stream_brings_every_message_in_order, start_small),
        WITH(a_reader_that_stops_cancels_the_stream, start),
        WITH(a_full_send_queue_says_so, start_small),
        WITH(a_stream_both_ways_ends_with_half_close, start),
        WITH(a_call_on_a_stopped_loop_is_refused, start),
        WITH(undecodable_bytes_are_an_invalid_argument, start),
        cmocka_unit_test(a_loop_ticks),
    };
    rpc_setup();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rpc_teardown();
    return failed;
}
