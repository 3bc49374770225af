/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/session.h"
#include "agent/host.h"
#include "agent/message.h"
#include "agent/metadata.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "rpc/methods.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PROTOCOL = 1,
    WELCOME_MS = 30000,
    FIRST_RETRY_MS = 1000,
    MOST_RETRY_MS = 60000,
    HEARTBEAT_MS = 60000,
    SLACK_MS = 10000, /* while it is open, core's only timer is the keepalive */
    LEAST_HEARTBEAT_MS = 500,
    ASKING_TICK_MS = 200,
    COMMAND_TICK_MS = 1000 /* while one is under way there may be a signal to act on */
};

/* The last one where the configuration allows it. */
static const char *const capabilities[] = {"freeze", "inventory", "hooks", "escrow-keyslot"};

enum state { WAITING, CONNECTING, OPEN };

struct session {
    struct session_options options;
    char *controller; /* own copy: options' may lie in an identity that is replaced */
    const struct agent_identity *identity;
    struct commands *commands;
    struct rpc_channel *channel;
    struct rpc_method method;
    struct host_facts host;
    char vm_id[37]; /* from instance metadata; "": the SMBIOS UUID */
    const char *vm_id_source;
    bool vm_id_due; /* the controller does not know it yet */
    struct asking { /* instance metadata, which may be slow: in a thread of its own */
        const struct agent_config *config;
        const char *cloud; /* NULL: nobody is asked */
        pthread_t thread;
        _Atomic bool done; /* then the rest is the loop's */
        int result;
        char vm_id[37];
        struct sp_why why;
    } asking;
    uint8_t epoch[16];
    uint64_t retry_at_ms, connected_at_ms, heartbeat_at_ms;
    unsigned retry_ms, heartbeat_every_ms;
    uint64_t heartbeats;
    unsigned goodbye_ms;

    pthread_mutex_t inventory_order; /* one sends at a time: the newest comes last; before `lock` */

    pthread_mutex_t lock; /* what other threads touch */
    enum state state;
    struct rpc_call *call;
    bool stopping, quarantined;
    Sp__Inventory *inventory;
    uint8_t sent_digest[32];
    bool inventory_due;
    uint64_t inventories;
};

static uint64_t now_ms(void)
{
    return sp_clock_monotonic_ms(&sp_clock_system);
}

/* ---- sending ---- */

/* A reference to the open call, NULL if there is none. */
static struct rpc_call *hold_call(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    struct rpc_call *call = s->state == OPEN ? s->call : NULL;
    if (call)
        rpc_ref(call);
    pthread_mutex_unlock(&s->lock);
    return call;
}

static int send_message(struct session *s, const Sp__AgentMessage *message)
{
    struct rpc_call *call = hold_call(s);
    if (!call)
        return -ENOTCONN;
    int r = rpc_send(call, &message->base);
    rpc_unref(call);
    return r;
}

void session_answer(struct session *s, const Sp__Answer *answer)
{
    Sp__AgentMessage message = SP__AGENT_MESSAGE__INIT;
    message.kind_case = SP__AGENT_MESSAGE__KIND_ANSWER;
    message.answer = (Sp__Answer *)(uintptr_t)answer;
    send_message(s, &message); /* failing: it is kept, and asked for again by its operation id */
}

void session_event(struct session *s, const char *kind, const char *text)
{
    Sp__AgentMessage message = SP__AGENT_MESSAGE__INIT;
    Sp__AgentEvent event = SP__AGENT_EVENT__INIT;
    event.at_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    event.kind = (char *)(uintptr_t)kind;
    event.text = (char *)(uintptr_t)text;
    message.kind_case = SP__AGENT_MESSAGE__KIND_EVENT;
    message.event = &event;
    send_message(s, &message);
}

/* What is due, unless nobody may hear it. */
static Sp__Inventory *take_due_inventory(struct session *s)
{
    Sp__Inventory *inventory = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->state == OPEN && !s->quarantined && s->inventory && s->inventory_due) {
        inventory = (Sp__Inventory *)sp_message_copy(&s->inventory->base);
        s->inventory_due = !inventory;
    }
    if (inventory) {
        inventory->sequence = ++s->inventories;
        memcpy(s->sent_digest, s->inventory->digest.data, 32);
    }
    pthread_mutex_unlock(&s->lock);
    return inventory;
}

static void send_inventory(struct session *s)
{
    pthread_mutex_lock(&s->inventory_order);
    Sp__Inventory *inventory = take_due_inventory(s);
    if (inventory) {
        Sp__AgentMessage message = SP__AGENT_MESSAGE__INIT;
        message.kind_case = SP__AGENT_MESSAGE__KIND_INVENTORY;
        message.inventory = inventory;
        if (send_message(s, &message) < 0) {
            pthread_mutex_lock(&s->lock);
            s->inventory_due = true;
            pthread_mutex_unlock(&s->lock);
        }
        sp__inventory__free_unpacked(inventory, NULL);
    }
    pthread_mutex_unlock(&s->inventory_order);
}

bool session_set_inventory(struct session *s, Sp__Inventory *inventory)
{
    pthread_mutex_lock(&s->lock);
    Sp__Inventory *old = s->inventory;
    bool new = !old || memcmp(old->digest.data, inventory->digest.data, 32) != 0;
    s->inventory = inventory;
    /* It may have gone back to what was sent before anything else was. */
    s->inventory_due |= memcmp(s->sent_digest, inventory->digest.data, 32) != 0;
    pthread_mutex_unlock(&s->lock);
    sp__inventory__free_unpacked(old, NULL);
    send_inventory(s);
    return new;
}

static Sp__FreezeState *freeze_state(struct session *s)
{
    Sp__FreezeState *state = malloc(sizeof(*state));
    if (!state)
        return NULL;
    sp__freeze_state__init(state);
    quiesce_state(s->options.quiesce, state);
    return state;
}

static void send_heartbeat(struct session *s)
{
    Sp__AgentMessage message = SP__AGENT_MESSAGE__INIT;
    Sp__Heartbeat heartbeat = SP__HEARTBEAT__INIT;
    heartbeat.sequence = ++s->heartbeats;
    heartbeat.boottime_ms = inventory_boottime_ms();
    heartbeat.rss_bytes = host_rss_bytes();
    heartbeat.freeze = freeze_state(s);
    if (s->vm_id_due) {
        heartbeat.vm_id = s->vm_id;
        heartbeat.vm_id_source = (char *)(uintptr_t)s->vm_id_source;
    }
    message.kind_case = SP__AGENT_MESSAGE__KIND_HEARTBEAT;
    message.heartbeat = &heartbeat;
    if (send_message(s, &message) == 0)
        s->vm_id_due = false;
    if (heartbeat.freeze)
        sp__freeze_state__free_unpacked(heartbeat.freeze, NULL);
    s->heartbeat_at_ms = now_ms() + s->heartbeat_every_ms;
    rpc_loop_tick_within(s->options.loop, s->heartbeat_every_ms);
}

static int send_hello(struct session *s, struct rpc_call *call)
{
    Sp__AgentMessage message = SP__AGENT_MESSAGE__INIT;
    Sp__Hello hello = SP__HELLO__INIT;
    hello.protocol_min = hello.protocol_max = PROTOCOL;
    hello.agent_version = (char *)(uintptr_t)SEALPOINT_VERSION;
    hello.capabilities = (char **)(uintptr_t)capabilities;
    hello.n_capabilities =
        sizeof(capabilities) / sizeof(capabilities[0]) - !s->options.config->escrow_enrol;
    hello.machine_id = s->identity->machine;
    hello.machine_name = s->options.config->name;
    hello.smbios_uuid = s->host.smbios_uuid;
    hello.vm_generation_id = s->host.vm_generation_id;
    hello.vm_id = s->vm_id[0] ? s->vm_id : s->host.smbios_uuid;
    hello.vm_id_source = (char *)(uintptr_t)s->vm_id_source;
    s->vm_id_due = false;
    hello.boot_id = s->host.boot_id;
    hello.session_epoch = (ProtobufCBinaryData){.len = sizeof(s->epoch), .data = s->epoch};
    hello.os = s->host.os;
    hello.kernel = s->host.kernel;
    hello.max_lease_ms = (uint32_t)s->options.config->max_lease_ms;
    hello.freeze = freeze_state(s);
    hello.session_started_boottime_ms = inventory_boottime_ms();
    if (s->identity->mark)
        hello.identity_mark = s->identity->mark;
    message.kind_case = SP__AGENT_MESSAGE__KIND_HELLO;
    message.hello = &hello;
    int r = rpc_send(call, &message.base);
    if (hello.freeze)
        sp__freeze_state__free_unpacked(hello.freeze, NULL);
    return r;
}

/* ---- waiting ---- */

static unsigned jittered(unsigned ms)
{
    uint32_t random = 0;
    if (sp_random(&random, sizeof(random)) < 0)
        return ms;
    return ms / 2 + (unsigned)((uint64_t)ms * random >> 32);
}

static void wait_for_retry(struct session *s)
{
    unsigned ms = jittered(s->retry_ms);
    s->retry_ms *= 2;
    if (s->retry_ms > s->options.most_retry_ms)
        s->retry_ms = s->options.most_retry_ms;
    if (s->goodbye_ms)
        ms = s->goodbye_ms / 2 + jittered(s->goodbye_ms / 2);
    s->goodbye_ms = 0;
    s->retry_at_ms = now_ms() + ms;
    rpc_loop_tick_within(s->options.loop, ms);
}

/* ---- receiving ---- */

static void drop(struct session *s, const char *text)
{
    sp_log(SP_LOG_WARNING, "session refused", "why", text, NULL);
    rpc_cancel(s->call);
}

static void welcome(struct session *s, const Sp__Welcome *m)
{
    if (s->state == OPEN) {
        drop(s, "a second Welcome");
        return;
    }
    if (m->protocol != PROTOCOL) {
        drop(s, "the controller speaks no protocol that this agent knows");
        return;
    }
    if (s->commands && commands_set_fence(s->commands, m->fence) < 0) {
        drop(s, "an older controller: its fence is behind the one seen before");
        return;
    }
    if (s->commands)
        commands_set_quarantined(s->commands, m->quarantined);
    s->heartbeat_every_ms = m->heartbeat_ms ? m->heartbeat_ms : HEARTBEAT_MS;
    if (s->heartbeat_every_ms < LEAST_HEARTBEAT_MS)
        s->heartbeat_every_ms = LEAST_HEARTBEAT_MS;
    s->retry_ms = s->options.first_retry_ms;
    rpc_set_slack(SLACK_MS);
    pthread_mutex_lock(&s->lock);
    s->state = OPEN;
    s->quarantined = m->quarantined;
    s->inventory_due = true;
    s->inventories = 0;
    pthread_mutex_unlock(&s->lock);
    if (m->quarantined)
        sp_log(SP_LOG_WARNING, "connected, quarantined", "controller", m->controller_name, "why",
               m->quarantine_reason, NULL);
    else
        sp_log(SP_LOG_INFO, "connected", "controller", m->controller_name, "fence",
               SP_LOG_NUMBER(m->fence), NULL);
    send_heartbeat(s);
    send_inventory(s);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct session *s = rpc_data(call);
    const Sp__ControllerMessage *m = (const Sp__ControllerMessage *)message;
    switch (m->kind_case) {
    case SP__CONTROLLER_MESSAGE__KIND_WELCOME:
        welcome(s, m->welcome);
        break;
    case SP__CONTROLLER_MESSAGE__KIND_COMMAND:
        if (s->state != OPEN)
            drop(s, "a command before Welcome");
        else if (s->commands) {
            commands_receive(s->commands, m->command);
            rpc_loop_tick_within(s->options.loop, COMMAND_TICK_MS);
        }
        break;
    case SP__CONTROLLER_MESSAGE__KIND_GOODBYE:
        sp_log(SP_LOG_INFO, "controller says goodbye", "text", m->goodbye->text, NULL);
        s->goodbye_ms = m->goodbye->retry_after_ms;
        rpc_finish(call, RPC_OK, NULL);
        break;
    default:
        break; /* a later controller's message */
    }
}

static void on_closed(struct rpc_call *call, int status, const char *detail)
{
    struct session *s = rpc_data(call);
    rpc_set_slack(0);
    pthread_mutex_lock(&s->lock);
    bool was_open = s->state == OPEN, stopping = s->stopping;
    s->state = WAITING;
    struct rpc_call *mine = s->call;
    s->call = NULL;
    pthread_mutex_unlock(&s->lock);
    if (mine)
        rpc_unref(mine);
    if (stopping)
        return;
    wait_for_retry(s);
    sp_log(SP_LOG_WARNING, was_open ? "disconnected" : "cannot connect", "controller",
           s->options.controller, "status", rpc_status_name(status), "detail", detail,
           "next-try-ms", SP_LOG_NUMBER(s->retry_at_ms - now_ms()), NULL);
}

/* ---- dialling ---- */

static void dial(struct session *s)
{
    struct rpc_call *call = NULL;
    s->connected_at_ms = now_ms();
    rpc_loop_tick_within(s->options.loop, WELCOME_MS + 1);
    pthread_mutex_lock(&s->lock);
    bool stopping = s->stopping;
    if (!stopping)
        s->state = CONNECTING;
    pthread_mutex_unlock(&s->lock);
    if (stopping)
        return;
    int r = rpc_open(s->options.loop, s->channel, &s->method, 0, s, &call);
    if (r < 0) {
        pthread_mutex_lock(&s->lock);
        s->state = WAITING;
        pthread_mutex_unlock(&s->lock);
        wait_for_retry(s);
        sp_log_error("cannot dial", r, NULL, NULL);
        return;
    }
    pthread_mutex_lock(&s->lock);
    s->call = call;
    pthread_mutex_unlock(&s->lock);
    send_hello(s, call);
}

/* Every tick asks for the next one: another may have come before the one that was asked for. */
static void tick_at(struct session *s, uint64_t at_ms)
{
    uint64_t now = now_ms();
    rpc_loop_tick_within(s->options.loop, at_ms > now ? (unsigned)(at_ms - now) : 0);
}

/* ---- which guest this is, by its cloud ---- */

static void *ask_metadata(void *arg)
{
    struct asking *a = arg;
    a->result = metadata_vm_id(a->config, a->cloud, a->vm_id, &a->why);
    atomic_store(&a->done, true);
    return NULL;
}

/* A guest that learns its id no other way is known by the one of its firmware. */
static void begin_asking(struct session *s)
{
    struct asking *a = &s->asking;
    s->vm_id_source = s->host.smbios_uuid[0] ? "smbios" : "";
    a->config = s->options.config;
    a->cloud = metadata_cloud(a->config);
    int error = a->cloud ? pthread_create(&a->thread, NULL, ask_metadata, a) : 0;
    if (error) {
        sp_log_error("cannot ask for instance metadata", -error, NULL, NULL);
        a->cloud = NULL;
    }
}

static void end_asking(struct session *s)
{
    struct asking *a = &s->asking;
    if (!a->cloud)
        return;
    pthread_join(a->thread, NULL);
    if (a->result == 0) {
        memcpy(s->vm_id, a->vm_id, sizeof(s->vm_id));
        s->vm_id_source = a->cloud;
        s->vm_id_due = true;
        sp_log(SP_LOG_INFO, "instance metadata", "source", s->vm_id_source, "id", s->vm_id, NULL);
    } else
        sp_log_error("no instance metadata: the SMBIOS UUID will do", a->result, &a->why, NULL);
    a->cloud = NULL;
}

static void look_for_metadata(struct session *s)
{
    if (s->asking.cloud && atomic_load(&s->asking.done))
        end_asking(s);
    if (s->asking.cloud)
        rpc_loop_tick_within(s->options.loop, ASKING_TICK_MS);
}

/* ---- ticks ---- */

void session_tick(struct session *s)
{
    uint64_t now = now_ms();
    look_for_metadata(s);
    switch (s->state) {
    case WAITING:
        if (now >= s->retry_at_ms)
            dial(s);
        else
            tick_at(s, s->retry_at_ms);
        break;
    case CONNECTING:
        if (now - s->connected_at_ms > WELCOME_MS && s->call)
            rpc_cancel(s->call);
        else
            tick_at(s, s->connected_at_ms + WELCOME_MS + 1);
        break;
    case OPEN:
        if (now >= s->heartbeat_at_ms || s->vm_id_due)
            send_heartbeat(s);
        else
            tick_at(s, s->heartbeat_at_ms);
        send_inventory(s); /* one that found no room in the queue */
        break;
    }
}

/* ---- life ---- */

static int make_channel(struct session *s, const struct agent_identity *identity,
                        struct sp_why *why)
{
    struct rpc_channel_options options = {
        .target = s->options.controller,
        .trust_pem = identity->trust_pem,
        .certificate_pem = identity->certificate_pem,
        .key_pem = identity->key_pem,
        .domain = identity->domain,
    };
    struct rpc_channel *channel = NULL;
    int r = rpc_channel_new(&options, &channel, why);
    if (r < 0)
        return r;
    if (s->channel)
        rpc_channel_free(s->channel);
    s->channel = channel;
    s->identity = identity;
    return 0;
}

int session_new(const struct session_options *options, const struct agent_identity *identity,
                struct session **ret, struct sp_why *why)
{
    struct session *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->options = *options;
    s->options.controller = s->controller = strdup(options->controller);
    if (!s->options.first_retry_ms)
        s->options.first_retry_ms = FIRST_RETRY_MS;
    if (!s->options.most_retry_ms)
        s->options.most_retry_ms = MOST_RETRY_MS;
    s->retry_ms = s->options.first_retry_ms;
    s->method = rpc_bind("AgentLink/Session", NULL, on_message, NULL, on_closed);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->inventory_order, NULL);
    host_read(&s->host);
    begin_asking(s);
    int r = s->controller ? sp_random(s->epoch, sizeof(s->epoch)) : -ENOMEM;
    if (r == 0)
        r = make_channel(s, identity, why);
    if (r < 0) {
        session_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    end_asking(s);
    if (s->call)
        rpc_unref(s->call);
    if (s->channel)
        rpc_channel_free(s->channel);
    sp__inventory__free_unpacked(s->inventory, NULL);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->inventory_order);
    free(s->controller);
    free(s);
}

void session_set_commands(struct session *s, struct commands *commands)
{
    s->commands = commands;
}

int session_use_identity(struct session *s, const struct agent_identity *identity,
                         struct sp_why *why)
{
    int r = make_channel(s, identity, why);
    if (r < 0)
        return r;
    s->retry_ms = s->options.first_retry_ms;
    if (s->call)
        rpc_cancel(s->call); /* on_closed dials again */
    return 0;
}

void session_stop(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    struct rpc_call *call = s->call;
    if (call)
        rpc_ref(call);
    pthread_mutex_unlock(&s->lock);
    if (call) {
        rpc_cancel(call);
        rpc_unref(call);
    }
}

bool session_is_open(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    bool open = s->state == OPEN;
    pthread_mutex_unlock(&s->lock);
    return open;
}
