/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Ends: a server that stops with calls open, calls that outlive it, posting to loops, health. */
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

struct client {
    struct rpc_loop *loop;
    struct rpc_channel *channel;
    struct rpc_call *call;
    struct latch messages, closed;
    int status;
    char detail[80];
};

static void on_message(struct rpc_call *c, const ProtobufCMessage *message)
{
    (void)message;
    latch_raise(&((struct client *)rpc_data(c))->messages);
}

static void on_closed(struct rpc_call *c, int status, const char *detail)
{
    struct client *client = rpc_data(c);
    client->status = status;
    snprintf(client->detail, sizeof client->detail, "%s", detail);
    latch_raise(&client->closed);
}

static void client_open(struct client *client, const char *stem, const struct rpc_method *method)
{
    static struct rpc_method rows[8];
    static unsigned next;
    struct rpc_method *row = &rows[next++ % SP_COUNT(rows)];

    *client = (struct client){.status = -1};
    pthread_mutex_init(&client->messages.lock, NULL);
    pthread_cond_init(&client->messages.changed, NULL);
    pthread_mutex_init(&client->closed.lock, NULL);
    pthread_cond_init(&client->closed.changed, NULL);
    *row = *method;
    row->message = on_message;
    row->closed = on_closed;
    client->channel = rig_channel(stem);
    assert_int_equal(rpc_loop_new(&client->loop), 0);
    assert_int_equal(rpc_loop_start(client->loop), 0);
    assert_int_equal(rpc_open(client->loop, client->channel, row, 0, client, &client->call), 0);
}

static void client_close(struct client *client)
{
    rpc_unref(client->call);
    rpc_loop_free(client->loop);
    rpc_channel_free(client->channel);
}

static void open_watch(struct client *client, const char *what)
{
    Sp__WatchRequest q = SP__WATCH_REQUEST__INIT;
    q.machine = (char *)what;
    client_open(client, "user", sp_method("Fleet/Watch"));
    assert_int_equal(rpc_send(client->call, &q.base), 0);
    rpc_finish(client->call, RPC_OK, NULL);
}

static int start(void **state)
{
    (void)state;
    rig_start(NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    rig_stop();
    return 0;
}

static void stopping_ends_streams_with_unavailable(void **state)
{
    struct client watcher, agent;
    Sp__AgentMessage hello = SP__AGENT_MESSAGE__INIT;
    (void)state;

    open_watch(&watcher, "hold");
    client_open(&agent, "agent", sp_method("AgentLink/Session"));
    assert_int_equal(rpc_send(agent.call, &hello.base), 0);
    latch_wait(&watcher.messages, 1);
    latch_wait(&agent.messages, 1);
    rpc_server_stop(rig.server, LONG_MS);
    assert_int_equal(latch_value(&rig.closed), 2); /* before stop returned */
    assert_int_equal(rig.closed_status, RPC_UNAVAILABLE);
    latch_wait(&watcher.closed, 1);
    latch_wait(&agent.closed, 1);
    assert_int_equal(watcher.status, RPC_UNAVAILABLE);
    assert_int_equal(agent.status, RPC_UNAVAILABLE);
    assert_string_equal(agent.detail, "the server is stopping");
    client_close(&watcher);
    client_close(&agent);
}

/* Ends the calls that wait for an answer. */
static void answer(struct rpc_call *c, void *arg)
{
    Sp__Machine m = SP__MACHINE__INIT;
    (void)arg;
    rpc_reply(c, &m.base);
}

static void *answer_soon(void *arg)
{
    (void)arg;
    rpc_server_for_each(rig.server, answer, NULL);
    return NULL;
}

static void open_silent(struct client *client)
{
    Sp__GetMachineRequest q = SP__GET_MACHINE_REQUEST__INIT;
    q.machine = (char *)"silent";
    client_open(client, "user", sp_method("Fleet/GetMachine"));
    assert_int_equal(rpc_send(client->call, &q.base), 0);
    rpc_finish(client->call, RPC_OK, NULL);
    latch_wait(&rig.held, 1);
}

static void stopping_lets_a_unary_call_finish(void **state)
{
    struct client client;
    pthread_t thread;
    (void)state;

    open_silent(&client);
    assert_int_equal(pthread_create(&thread, NULL, answer_soon, NULL), 0);
    rpc_server_stop(rig.server, LONG_MS);
    pthread_join(thread, NULL);
    latch_wait(&client.closed, 1);
    assert_int_equal(client.status, RPC_OK);
    assert_int_equal(rig.closed_status, RPC_OK);
    client_close(&client);
}

static void stopping_cancels_what_outstays_the_grace_time(void **state)
{
    struct client client;
    (void)state;

    open_silent(&client);
    rpc_server_stop(rig.server, 50);
    assert_int_equal(rig.closed_status, RPC_CANCELLED);
    latch_wait(&client.closed, 1);
    assert_int_not_equal(client.status, RPC_OK);
    client_close(&client);
}

static void keep(struct rpc_call *c, void *arg)
{
    struct rpc_call **kept = arg;
    if (!*kept) {
        rpc_ref(c);
        *kept = c;
    }
}

static void never(struct rpc_call *c, void *arg)
{
    (void)c, (void)arg;
    fail_msg("ran on a loop that has ended");
}

static void a_reference_may_outlive_the_server(void **state)
{
    struct client client;
    struct rpc_call *kept = NULL;
    Sp__FleetEvent event = SP__FLEET_EVENT__INIT;
    (void)state;

    rig_start(NULL);
    open_watch(&client, "hold");
    latch_wait(&client.messages, 1);
    rpc_server_for_each(rig.server, keep, &kept);
    assert_non_null(kept);
    assert_string_equal(rpc_peer(kept)->name, "ada");
    assert_true(strncmp(rpc_peer_address(kept), "127.0.0.1:", 10) == 0);
    assert_true(rpc_peer_certificate(kept).size > 100);
    assert_ptr_equal(rpc_server_context(kept), &rig);
    rig_stop();
    assert_int_equal(rpc_send(kept, &event.base), -EPIPE);
    assert_int_equal(rpc_send_wait(kept, &event.base, LONG_MS), -EPIPE);
    assert_int_equal(rpc_finish(kept, RPC_OK, NULL), -EPIPE);
    assert_int_equal(rpc_post(kept, never, NULL), -ESHUTDOWN);
    assert_int_equal(rpc_queued(kept), 0);
    assert_string_equal(rpc_peer(kept)->name, "ada");
    rpc_cancel(kept);
    rpc_unref(kept);
    client_close(&client);
}

/* ---- posting ---- */

struct posted {
    struct latch done;
    pthread_t thread;
};

static void remember_thread(struct rpc_call *c, void *arg)
{
    struct posted *p = arg;
    (void)c;
    p->thread = pthread_self();
    latch_raise(&p->done);
}

static void post_twice(struct rpc_call *c, void *arg)
{
    assert_int_equal(rpc_post(c, remember_thread, arg), 0);
    assert_int_equal(rpc_post(c, remember_thread, arg), 0);
}

static void posted_functions_run_on_the_loop(void **state)
{
    struct posted p = {{PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}, 0};
    struct client client;
    (void)state;

    open_watch(&client, "hold");
    latch_wait(&client.messages, 1);
    rpc_server_for_each(rig.server, post_twice, &p);
    latch_wait(&p.done, 2);
    assert_false(pthread_equal(p.thread, pthread_self()));
    rpc_cancel(client.call);
    latch_wait(&client.closed, 1);
    client_close(&client);
}

static void cancel(struct rpc_call *c, void *arg)
{
    (void)arg;
    rpc_cancel(c);
}

static void a_server_can_cancel_a_stream(void **state)
{
    struct client client;
    (void)state;

    open_watch(&client, "hold");
    latch_wait(&client.messages, 1);
    rpc_server_for_each(rig.server, cancel, NULL);
    latch_wait(&rig.closed, 1);
    assert_int_equal(rig.closed_status, RPC_CANCELLED);
    latch_wait(&client.closed, 1);
    assert_int_equal(client.status, RPC_CANCELLED);
    client_close(&client);
}

/* A client that goes away, as a killed agent does. */
static void a_lost_client_closes_its_calls(void **state)
{
    struct client client;
    (void)state;

    open_watch(&client, "hold");
    latch_wait(&client.messages, 1);
    rpc_cancel(client.call);
    latch_wait(&client.closed, 1);
    client_close(&client);
    latch_wait(&rig.closed, 1);
    assert_int_equal(rig.closed_status, RPC_CANCELLED);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(stopping_ends_streams_with_unavailable),
        WITH(stopping_lets_a_unary_call_finish),
        WITH(stopping_cancels_what_outstays_the_grace_time),
        cmocka_unit_test(a_reference_may_outlive_the_server),
        WITH(posted_functions_run_on_the_loop),
        WITH(a_server_can_cancel_a_stream),
        WITH(a_lost_client_closes_its_calls),
    };
    rpc_setup();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rpc_teardown();
    return failed;
}
