/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * grpc.health.v1. Known services are "" and those that the server's tables name; all share one
 * status. */
#include "internal.h"
#include <errno.h>
#include <grpc/health/v1/health.pb-c.h>
#include <string.h>

/* rpc_data of a Watch that has got its first status; its address only. */
static char watching_known;

static bool is_known(const struct rpc_server *s, const char *service)
{
    size_t size = strlen(service);

    if (size == 0)
        return true;
    for (const struct rpc_method **table = s->tables; *table; table++)
        for (const struct rpc_method *m = *table; m->path; m++)
            if (strncmp(m->path + 1, service, size) == 0 && m->path[1 + size] == '/')
                return true;
    return false;
}

static int send_status(struct rpc_call *c, Grpc__Health__V1__HealthCheckResponse__ServingStatus is)
{
    Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    r.status = is;
    return rpc_send(c, &r.base);
}

/* The caller holds health_lock. */
static Grpc__Health__V1__HealthCheckResponse__ServingStatus status_of(const struct rpc_server *s)
{
    return s->healthy ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                      : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
}

static void check(struct rpc_call *c, const ProtobufCMessage *message)
{
    const Grpc__Health__V1__HealthCheckRequest *q = (const void *)message;
    Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    if (!is_known(c->server, q->service)) {
        rpc_finish(c, RPC_NOT_FOUND, "this server has no such service");
        return;
    }
    pthread_mutex_lock(&c->server->health_lock);
    r.status = status_of(c->server);
    pthread_mutex_unlock(&c->server->health_lock);
    rpc_reply(c, &r.base);
}

/* Under the lock, so that no change falls between the first status and being known as a watcher. */
static void watch(struct rpc_call *c, const ProtobufCMessage *message)
{
    const Grpc__Health__V1__HealthCheckRequest *q = (const void *)message;

    if (!is_known(c->server, q->service)) {
        send_status(c, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN);
        return;
    }
    pthread_mutex_lock(&c->server->health_lock);
    send_status(c, status_of(c->server));
    rpc_set_data(c, &watching_known);
    pthread_mutex_unlock(&c->server->health_lock);
}

const struct rpc_method rpc_health_table[] = {
    {.path = "/grpc.health.v1.Health/Check",
     .request = &grpc__health__v1__health_check_request__descriptor,
     .response = &grpc__health__v1__health_check_response__descriptor,
     .flags = RPC_UNARY,
     .permission = RPC_ANYONE,
     .message = check},
    {.path = "/grpc.health.v1.Health/Watch",
     .request = &grpc__health__v1__health_check_request__descriptor,
     .response = &grpc__health__v1__health_check_response__descriptor,
     .flags = RPC_SERVER_STREAM,
     .permission = RPC_ANYONE,
     .message = watch},
    {0}};

static void tell(struct rpc_call *c, void *arg)
{
    const struct rpc_server *s = arg;

    if (c->method && c->method->message == watch && c->data == &watching_known &&
        send_status(c, status_of(s)) == -EAGAIN)
        rpc_finish(c, RPC_RESOURCE_EXHAUSTED, "the watcher does not read");
}

void rpc_server_set_healthy(struct rpc_server *s, bool healthy)
{
    pthread_mutex_lock(&s->health_lock);
    bool changed = s->healthy != healthy;
    s->healthy = healthy;
    if (changed)
        rpc_server_for_each(s, tell, s);
    pthread_mutex_unlock(&s->health_lock);
}
