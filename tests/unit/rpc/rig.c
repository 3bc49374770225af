/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "rig.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <sealpoint/v1/admin.pb-c.h>
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/enrolment.pb-c.h>
#include <sealpoint/v1/fleet.pb-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct rig rig;

#define LATCH                                                                                      \
    {                                                                                              \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0                                     \
    }

void latch_raise(struct latch *latch)
{
    pthread_mutex_lock(&latch->lock);
    latch->value++;
    pthread_cond_broadcast(&latch->changed);
    pthread_mutex_unlock(&latch->lock);
}

void latch_wait(struct latch *latch, unsigned value)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&latch->lock);
    while (latch->value < value)
        if (pthread_cond_timedwait(&latch->changed, &latch->lock, &until) == ETIMEDOUT) {
            fprintf(stderr, "waited a minute for %u, there are %u\n", value, latch->value);
            abort();
        }
    pthread_mutex_unlock(&latch->lock);
}

unsigned latch_value(struct latch *latch)
{
    pthread_mutex_lock(&latch->lock);
    unsigned value = latch->value;
    pthread_mutex_unlock(&latch->lock);
    return value;
}

/* ---- the handlers ---- */

static void on_open(struct rpc_call *c)
{
    (void)c;
    latch_raise(&rig.opened);
}

static void on_closed(struct rpc_call *c, int status, const char *detail)
{
    (void)c, (void)detail;
    rig.closed_status = status;
    latch_raise(&rig.closed);
}

static void get_machine(struct rpc_call *c, const ProtobufCMessage *message)
{
    const Sp__GetMachineRequest *q = (const void *)message;
    Sp__Machine answer = SP__MACHINE__INIT;
    struct sp_why why = {0};
    SP_FREE char *name = NULL;

    if (strcmp(q->machine, "fail") == 0) {
        rpc_fail(c,
                 sp_why_set(&why, -ENOENT,
                            "no machine named 'fail': 'sealpoint machine list' "
                            "shows them"),
                 &why);
    } else if (strcmp(q->machine, "silent") == 0) {
        latch_raise(&rig.held);
    } else if (strcmp(q->machine, "empty") == 0) {
        rpc_finish(c, RPC_OK, NULL);
    } else {
        size_t size = strcmp(q->machine, "big") == 0 ? 200000 : strlen(q->machine) + 200;
        name = calloc(1, size + 1);
        if (strcmp(q->machine, "big") == 0)
            memset(name, 'x', size);
        else
            snprintf(name, size, "%d/%s %s", (int)rpc_peer(c)->kind, rpc_peer(c)->name, q->machine);
        answer.name = name;
        rpc_reply(c, &answer.base);
    }
}

static int send_event(struct rpc_call *c, unsigned number)
{
    Sp__FleetEvent event = SP__FLEET_EVENT__INIT;
    event.at_unix_ms = number;
    return rpc_send(c, &event.base);
}

static void *watch_worker(void *arg)
{
    struct rpc_call *c = arg;
    Sp__FleetEvent event = SP__FLEET_EVENT__INIT;
    unsigned count = (unsigned)(uintptr_t)rpc_data(c);

    for (unsigned i = 0; i < count; i++) {
        event.at_unix_ms = i + 1;
        if (rpc_send_wait(c, &event.base, 60000) < 0)
            break;
    }
    rpc_finish(c, RPC_OK, NULL);
    rpc_unref(c);
    return NULL;
}

static void watch(struct rpc_call *c, const ProtobufCMessage *message)
{
    const Sp__WatchRequest *q = (const void *)message;
    pthread_t thread;

    if (strcmp(q->machine, "hold") == 0) {
        send_event(c, 1);
        latch_raise(&rig.held);
    } else if (strcmp(q->machine, "flood") == 0) {
        int rc;
        while ((rc = send_event(c, rig.flood_sent + 1)) == 0)
            rig.flood_sent++;
        rig.flood_result = rc;
        latch_raise(&rig.flooded);
    } else {
        rpc_set_data(c, (void *)(uintptr_t)strtoul(q->machine, NULL, 10));
        rpc_ref(c);
        if (pthread_create(&thread, NULL, watch_worker, c) != 0)
            abort();
        pthread_detach(thread);
    }
}

static void session(struct rpc_call *c, const ProtobufCMessage *message)
{
    const Sp__AgentMessage *q = (const void *)message;
    Sp__ControllerMessage answer = SP__CONTROLLER_MESSAGE__INIT;
    Sp__Welcome welcome = SP__WELCOME__INIT;
    Sp__Command command = SP__COMMAND__INIT;

    if (q->kind_case == SP__AGENT_MESSAGE__KIND_HELLO) {
        welcome.controller_name = (char *)rpc_peer(c)->name;
        answer.kind_case = SP__CONTROLLER_MESSAGE__KIND_WELCOME;
        answer.welcome = &welcome;
    } else {
        command.fence = q->heartbeat ? q->heartbeat->sequence : 0;
        answer.kind_case = SP__CONTROLLER_MESSAGE__KIND_COMMAND;
        answer.command = &command;
    }
    rpc_send(c, &answer.base);
}

static void session_half_close(struct rpc_call *c)
{
    rpc_finish(c, RPC_OK, NULL);
}

static void enrol(struct rpc_call *c, const ProtobufCMessage *message)
{
    Sp__EnrolResponse answer = SP__ENROL_RESPONSE__INIT;
    (void)message;
    answer.machine_id = (char *)"enrolled";
    rpc_reply(c, &answer.base);
}

static void renew(struct rpc_call *c, const ProtobufCMessage *message)
{
    Sp__RenewResponse answer = SP__RENEW_RESPONSE__INIT;
    (void)message;
    rpc_reply(c, &answer.base);
}

static void list_tokens(struct rpc_call *c, const ProtobufCMessage *message)
{
    Sp__ListTokensResponse answer = SP__LIST_TOKENS_RESPONSE__INIT;
    (void)message;
    rpc_reply(c, &answer.base);
}

/* Users whose name starts with "admin" are admins, all others viewers; rig.deny refuses users. */
static int authorise(void *self, const struct rpc_call *c, struct sp_why *why)
{
    const struct sp_identity *who = rpc_peer(c);

    if (self != &rig)
        return sp_why_set(why, -EIO, "not my context");
    if (rig.deny < 0 && who->kind == SP_IDENTITY_USER)
        return sp_why_set(why, rig.deny, "user %s is revoked", who->name);
    if (rpc_method_of(c)->permission >= RPC_OPERATOR && strncmp(who->name, "admin", 5) != 0)
        return sp_why_set(why, -EACCES, "%s is a viewer", who->name);
    return 0;
}

/* ---- start and stop ---- */

static struct rpc_method table[8];
static const struct rpc_method *const tables[] = {table, NULL};

/* On rig.target. */
static void serve(void (*change)(struct rpc_server_options *))
{
    struct sp_why why = {0};
    SP_FREE char *certificate = pki_path(&rig.pki, "controller", ".pem");
    SP_FREE char *key = pki_path(&rig.pki, "controller", ".key");
    SP_FREE char *trust = pki_path(&rig.pki, "trust", ".pem");
    struct rpc_server_options o = {.address = rig.target,
                                   .certificate_path = certificate,
                                   .key_path = key,
                                   .trust_path = trust,
                                   .loops = 2,
                                   .authorise = authorise,
                                   .self = &rig};
    if (change)
        change(&o);
    if (rpc_server_new(&o, tables, &rig.server, &rig.port, &why) < 0) {
        fprintf(stderr, "rig: %s\n", why.text);
        abort();
    }
    snprintf(rig.target, sizeof rig.target, "127.0.0.1:%d", rig.port);
}

void rig_start(void (*change)(struct rpc_server_options *))
{
    rig = (struct rig){.opened = LATCH, .closed = LATCH, .held = LATCH, .flooded = LATCH};
    pki_new(&rig.pki);
    pki_issue(&rig.pki, "controller", "spiffe://test.example/controller/one", PKI_CONTROLLER);
    pki_issue(&rig.pki, "user", "spiffe://test.example/user/ada", PKI_CLIENT);
    pki_issue(&rig.pki, "admin", "spiffe://test.example/user/admin-grace", PKI_CLIENT);
    pki_issue(&rig.pki, "agent", "spiffe://test.example/agent/m-1", PKI_CLIENT);
    table[0] = rpc_bind("Fleet/GetMachine", on_open, get_machine, NULL, on_closed);
    table[1] = rpc_bind("Fleet/Watch", on_open, watch, NULL, on_closed);
    table[2] = rpc_bind("AgentLink/Session", on_open, session, session_half_close, on_closed);
    table[3] = rpc_bind("Enrolment/Enrol", on_open, enrol, NULL, on_closed);
    table[4] = rpc_bind("Enrolment/Renew", on_open, renew, NULL, on_closed);
    table[5] = rpc_bind("Admin/ListTokens", on_open, list_tokens, NULL, on_closed);
    strcpy(rig.target, "127.0.0.1:0");
    serve(change);
}

void rig_restart(void)
{
    rpc_server_stop(rig.server, 0);
    rpc_server_free(rig.server);
    serve(NULL);
}

void rig_stop(void)
{
    rpc_server_stop(rig.server, 0);
    rpc_server_free(rig.server);
    pki_free(&rig.pki);
}

struct rpc_channel *rig_channel_of(const struct pki *pki, const char *stem, const char *target,
                                   const char *domain, uint32_t max_message_bytes)
{
    SP_FREE char *trust = pki_read(pki, "trust", ".pem");
    SP_FREE char *certificate = stem ? pki_read(pki, stem, ".pem") : NULL;
    SP_FREE char *key = stem ? pki_read(pki, stem, ".key") : NULL;
    struct rpc_channel_options o = {.target = target,
                                    .trust_pem = trust,
                                    .certificate_pem = certificate,
                                    .key_pem = key,
                                    .max_message_bytes = max_message_bytes,
                                    .domain = domain};
    struct rpc_channel *channel = NULL;
    if (rpc_channel_new(&o, &channel, NULL) < 0)
        abort();
    return channel;
}

struct rpc_channel *rig_channel(const char *stem)
{
    return rig_channel_of(&rig.pki, stem, rig.target, "test.example", 0);
}

int rig_ask(struct rpc_channel *channel, const char *machine, unsigned deadline_ms, char **ret_name,
            int *ret_status, struct sp_why *why)
{
    Sp__GetMachineRequest q = SP__GET_MACHINE_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;

    q.machine = (char *)machine;
    int rc = rpc_unary(channel, sp_method("Fleet/GetMachine"), &q.base, deadline_ms, &answer,
                       ret_status, why);
    if (rc < 0)
        return rc;
    if (ret_name)
        *ret_name = strdup(((Sp__Machine *)answer)->name);
    protobuf_c_message_free_unpacked(answer, NULL);
    return 0;
}
