/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The listening side: one acceptor on each loop takes calls and gives them to their method rows.
 *
 * Stopping, in this order: no new calls and GOAWAY (core), streams end with UNAVAILABLE while unary
 * calls may finish, after the grace time everything is cancelled, the loops drain and join, and
 * only then are the server and its queues destroyed. */
#include "base/cleanup.h"
#include "base/log.h"
#include "internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
    MAX_STREAMS_PER_CONNECTION = 256,
    LEAST_PING_INTERVAL_MS = 5000,
    DESCRIPTORS_IN_RESERVE = 256, /* files, sockets of other kinds, connections in handshake */
    TICK_MS = 1000
};

struct rpc_acceptor {
    struct rpc_server *server;
    struct rpc_loop *loop;
    struct rpc_tag tag;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array head;
};

/* ---- accepting ---- */

static const struct rpc_method *find(const struct rpc_server *s, grpc_slice path)
{
    for (const struct rpc_method **table = s->tables; *table; table++)
        for (const struct rpc_method *m = *table; m->path; m++)
            if (grpc_slice_str_cmp(path, m->path) == 0)
                return m;
    return NULL;
}

static bool accept_next(struct rpc_acceptor *a)
{
    a->call = NULL;
    grpc_call_details_init(&a->details);
    grpc_metadata_array_init(&a->head);
    RPC_TAG_IN(&a->tag);
    grpc_call_error error =
        grpc_server_request_call(a->server->server, &a->call, &a->details, &a->head, a->loop->queue,
                                 a->loop->queue, &a->tag);
    if (error == GRPC_CALL_OK)
        return true;
    sp_log(SP_LOG_DEBUG, "accept refused", "error", grpc_call_error_to_string(error), NULL);
    grpc_call_details_destroy(&a->details);
    grpc_metadata_array_destroy(&a->head);
    return false;
}

/* Before the first handler: is there such a method, who calls, may they? */
static void begin(struct rpc_server *s, struct rpc_call *c)
{
    struct sp_why why = {0};

    if (!c->method) {
        rpc_finish(c, RPC_UNIMPLEMENTED, "this server has no such method");
        return;
    }
    int rc = rpc_peer_read(c, &why);
    if (rc == 0 || c->method->permission == RPC_ANYONE) {
        why.text[0] = 0;
        rc = rpc_permitted(s, c, &why);
    }
    if (rc < 0) {
        rpc_fail(c, rc, &why);
        return;
    }
    if (atomic_load(&s->stopping)) {
        rpc_finish(c, RPC_UNAVAILABLE, "the server is stopping");
        return;
    }
    if (c->peer.kind == SP_IDENTITY_NONE && !rpc_anonymous_enter(s, c)) {
        rpc_finish(c, RPC_RESOURCE_EXHAUSTED, "too many callers without a certificate");
        return;
    }
    c->opened = true;
    if (c->method->flags & RPC_CLIENT_STREAM)
        rpc_call_send_head(c); /* the peer may wait for our headers before it sends */
    if (c->method->open)
        c->method->open(c);
    rpc_call_receive(c);
}

static void take(struct rpc_acceptor *a, grpc_call *core, const struct rpc_method *method)
{
    struct rpc_server *s = a->server;
    struct rpc_call *c = rpc_call_new(a->loop, core, method, s->max_message, s->max_queue);

    if (!c) {
        grpc_call_cancel_with_status(core, GRPC_STATUS_RESOURCE_EXHAUSTED, "out of memory", NULL);
        grpc_call_unref(core);
        return;
    }
    c->server = s;
    c->context = s->self;
    if (rpc_loop_add(a->loop, c) < 0) {
        grpc_call_cancel_with_status(core, GRPC_STATUS_UNAVAILABLE, "stopping", NULL);
        rpc_unref(c);
        return;
    }
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
                  .data.recv_close_on_server.cancelled = &c->cancelled};
    if (rpc_call_start(c, &op, 1, &c->on_close))
        begin(s, c);
    else
        rpc_call_abandon(c);
    rpc_unref(c);
}

static void accept_done(void *self, bool ok)
{
    struct rpc_acceptor *a = self;
    grpc_call *call = a->call;
    const struct rpc_method *method = ok ? find(a->server, a->details.method) : NULL;

    grpc_call_details_destroy(&a->details);
    grpc_metadata_array_destroy(&a->head);
    bool more = ok && accept_next(a);
    if (ok)
        take(a, call, method);
    if (!more) /* the server is stopping */
        rpc_loop_leave(a->loop);
}

/* ---- starting ---- */

/* Core's listener dies for good at the first accept() that finds no file descriptor, so there must
 * be enough of them. */
static int check_descriptors(unsigned expected, struct sp_why *why)
{
    struct rlimit limit;
    rlim_t need = (rlim_t)expected + DESCRIPTORS_IN_RESERVE;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    if (limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < need)
        return sp_why_set(why, -EMFILE,
                          "%llu open files are allowed and %u connections need %llu: raise "
                          "RLIMIT_NOFILE (LimitNOFILE= in the unit)",
                          (unsigned long long)limit.rlim_cur, expected, (unsigned long long)need);
    return 0;
}

static int copy_tables(struct rpc_server *s, const struct rpc_method *const *tables)
{
    size_t count = 0, n = 0;

    while (tables[count])
        count++;
    s->tables = calloc(count + 3, sizeof(struct rpc_method *));
    if (!s->tables)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        s->tables[n++] = tables[i];
    s->tables[n++] = rpc_health_table;
    if (s->descriptors)
        s->tables[n++] = rpc_reflection_table;
    return 0;
}

static int create(struct rpc_server *s, const struct rpc_server_options *o)
{
    int keepalive = (int)(o->keepalive_ms ? o->keepalive_ms : RPC_DEFAULT_KEEPALIVE_MS);
    int timeout =
        (int)(o->keepalive_timeout_ms ? o->keepalive_timeout_ms : RPC_DEFAULT_KEEPALIVE_TIMEOUT_MS);
    /* A client that pings oftener gets GOAWAY too_many_pings. */
    int least_ping =
        keepalive / 2 < LEAST_PING_INTERVAL_MS ? keepalive / 2 : LEAST_PING_INTERVAL_MS;
    grpc_arg args[] = {
        /* Or a second server binds the same port unseen. */
        rpc_int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
        rpc_int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)s->max_message),
        rpc_int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, MAX_STREAMS_PER_CONNECTION),
        rpc_int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive),
        rpc_int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, timeout),
        rpc_int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        rpc_int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, least_ping),
        rpc_int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        rpc_int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, (int)s->handshake_timeout_ms),
        /* A compressed message may grow a thousandfold before its size is looked at. */
        rpc_int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        rpc_int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        rpc_int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
    };
    grpc_channel_args all = {SP_COUNT(args), args};

    s->server = grpc_server_create(&all, NULL);
    return s->server ? 0 : -ENOMEM;
}

static int listen_on(struct rpc_server *s, const char *address, int *ret_port, struct sp_why *why)
{
    grpc_server_credentials *credentials = rpc_certificate_credentials(s->certificate);
    if (!credentials)
        return -ENOMEM;
    int port = grpc_server_add_http2_port(s->server, address, credentials);
    grpc_server_credentials_release(credentials);
    if (port <= 0)
        return sp_why_set(why, -EADDRINUSE,
                          "cannot listen on %s: not an address of this host, or in use", address);
    *ret_port = port;
    return 0;
}

static void tick(void *self)
{
    struct rpc_server *s = self;
    unsigned failures = rpc_accept_failures();

    rpc_anonymous_tick(s);
    if (failures == s->accept_failures_seen || !s->listener_lost)
        return;
    s->accept_failures_seen = failures;
    s->listener_lost(s->self);
}

static int make_loops(struct rpc_server *s)
{
    s->loops = calloc(s->loop_count, sizeof(struct rpc_loop *));
    s->acceptors = calloc(s->loop_count, sizeof *s->acceptors);
    if (!s->loops || !s->acceptors)
        return -ENOMEM;
    for (unsigned i = 0; i < s->loop_count; i++) {
        int rc = rpc_loop_new(&s->loops[i]);
        if (rc < 0)
            return rc;
        grpc_server_register_completion_queue(s->server, s->loops[i]->queue, NULL);
    }
    rpc_loop_every(s->loops[0], TICK_MS, tick, s);
    return 0;
}

/* Every loop's thread runs before the first call is asked for: what cannot start has nothing to
 * undo. */
static int start(struct rpc_server *s)
{
    grpc_server_start(s->server);
    s->started = true;
    for (unsigned i = 0; i < s->loop_count; i++) {
        int rc = rpc_loop_start(s->loops[i]);
        if (rc < 0)
            return rc;
    }
    for (unsigned i = 0; i < s->loop_count; i++) {
        struct rpc_acceptor *a = &s->acceptors[i];
        *a = (struct rpc_acceptor){.server = s, .loop = s->loops[i], .tag = {accept_done, a}};
        rpc_loop_enter(a->loop);
        if (!accept_next(a)) {
            rpc_loop_leave(a->loop);
            return -EIO;
        }
    }
    return 0;
}

static int set_up(struct rpc_server *s, const struct rpc_server_options *o,
                  const struct rpc_method *const *tables, int *ret_port, struct sp_why *why)
{
    s->loop_count = o->loops ? o->loops : 1;
    s->max_message = o->max_message_bytes ? o->max_message_bytes : RPC_DEFAULT_MAX_MESSAGE;
    s->max_queue = o->max_send_queue ? o->max_send_queue : RPC_DEFAULT_MAX_QUEUE;
    s->handshake_timeout_ms =
        o->handshake_timeout_ms ? o->handshake_timeout_ms : RPC_DEFAULT_HANDSHAKE_TIMEOUT_MS;
    s->authorise = o->authorise;
    s->refused = o->refused;
    s->listener_lost = o->listener_lost;
    s->self = o->self;
    s->accept_failures_seen = rpc_accept_failures();

    int rc = rpc_check_tables(tables, o->authorise != NULL, why);
    if (rc == 0)
        rc = check_descriptors(o->expected_connections, why);
    if (rc == 0)
        rc = rpc_certificate_new(o->certificate_path, o->key_path, o->trust_path, &s->certificate,
                                 why);
    if (rc == 0 && o->descriptors_path)
        rc = rpc_descriptors_load(o->descriptors_path, &s->descriptors, why);
    if (rc == 0)
        rc = copy_tables(s, tables);
    if (rc == 0)
        rc = create(s, o);
    if (rc == 0)
        rc = make_loops(s);
    if (rc == 0)
        rc = listen_on(s, o->address, ret_port, why);
    return rc == 0 ? start(s) : rc;
}

int rpc_server_new(const struct rpc_server_options *o, const struct rpc_method *const *tables,
                   struct rpc_server **ret, int *ret_port, struct sp_why *why)
{
    int port = 0;
    struct rpc_server *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    rpc_setup();
    pthread_mutex_init(&s->health_lock, NULL);
    s->healthy = true;
    int rc = set_up(s, o, tables, &port, why);
    if (rc < 0) {
        rpc_server_free(s);
        return rc;
    }
    if (ret_port)
        *ret_port = port;
    *ret = s;
    return 0;
}

/* ---- stopping ---- */

static void for_each(struct rpc_server *s, bool only_opened, void (*fn)(struct rpc_call *, void *),
                     void *arg)
{
    for (unsigned i = 0; s->loops && i < s->loop_count; i++) {
        struct rpc_call **calls;
        size_t count;
        if (!s->loops[i] || rpc_loop_calls(s->loops[i], &calls, &count) < 0)
            continue;
        for (size_t k = 0; k < count; k++) {
            if (!only_opened || atomic_load(&calls[k]->opened))
                fn(calls[k], arg);
            rpc_unref(calls[k]);
        }
        free(calls);
    }
}

void rpc_server_for_each(struct rpc_server *s, void (*fn)(struct rpc_call *, void *), void *arg)
{
    for_each(s, true, fn, arg);
}

static void end_stream(struct rpc_call *c, void *arg)
{
    (void)arg;
    if (c->method && c->method->flags != RPC_UNARY)
        rpc_finish(c, RPC_UNAVAILABLE, "the server is stopping");
}

/* Core's shutdown is told on a queue of its own, so that this thread can wait with a deadline. */
static void shut_down(struct rpc_server *s, unsigned grace_ms)
{
    grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
    gpr_timespec until =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(grace_ms, GPR_TIMESPAN));
    gpr_timespec never = gpr_inf_future(GPR_CLOCK_MONOTONIC);

    grpc_server_shutdown_and_notify(s->server, queue, s);
    /* Also what is being accepted right now: it was added to its loop before it looked whether the
     * server is stopping. */
    for_each(s, false, end_stream, NULL);
    if (grpc_completion_queue_next(queue, until, NULL).type == GRPC_QUEUE_TIMEOUT) {
        grpc_server_cancel_all_calls(s->server);
        grpc_completion_queue_next(queue, never, NULL);
    }
    grpc_completion_queue_shutdown(queue);
    while (grpc_completion_queue_next(queue, never, NULL).type != GRPC_QUEUE_SHUTDOWN)
        continue;
    grpc_completion_queue_destroy(queue);
}

void rpc_server_stop(struct rpc_server *s, unsigned grace_ms)
{
    if (s->stopped)
        return;
    s->stopped = true;
    atomic_store(&s->stopping, true);
    if (s->server && s->started)
        shut_down(s, grace_ms);
    for (unsigned i = 0; s->loops && i < s->loop_count; i++)
        if (s->loops[i])
            rpc_loop_stop(s->loops[i]);
    for (unsigned i = 0; s->loops && i < s->loop_count; i++)
        if (s->loops[i])
            rpc_loop_join(s->loops[i]);
}

void rpc_server_free(struct rpc_server *s)
{
    if (!s)
        return;
    rpc_server_stop(s, 0);
    if (s->server) {
        if (!s->started) { /* core wants a shutdown even of a server that never started */
            s->started = true;
            shut_down(s, 0);
        }
        grpc_server_destroy(s->server);
    }
    for (unsigned i = 0; s->loops && i < s->loop_count; i++)
        rpc_loop_free(s->loops[i]);
    free(s->loops);
    free(s->acceptors);
    free(s->tables);
    rpc_descriptors_free(s->descriptors);
    rpc_certificate_free(s->certificate);
    pthread_mutex_destroy(&s->health_lock);
    free(s);
    rpc_teardown();
}
