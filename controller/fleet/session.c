/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sessions: who is let in, who is taken for a copy. */
#include "base/clock.h"
#include "base/log.h"
#include "controller/fleet/internal.h"
#include <string.h>

enum { GOODBYE_RETRY_MS = 2000, HEADER_MAX = 32 << 20, PROBE_GRACE_MS = 1000 };

/* ---- telling, after the lock ---- */

/* What one handler run has to tell, gathered under the lock. */
struct news {
    bool machine;
    const char *audit;
    char text[240];
};

static void tell(struct fleet *f, const char *machine_id, const struct news *n)
{
    const struct fleet_events *e = f->options.events;
    if (e && n->audit)
        e->audit(f->options.events_self, "local", n->audit, machine_id, n->text);
    if (e && n->machine)
        e->machine(f->options.events_self, machine_id);
}

/* ---- sending ---- */

static int say_welcome(struct fleet *f, struct session *s, const struct agent *a)
{
    Sp__Welcome welcome = SP__WELCOME__INIT;
    Sp__ControllerMessage m = SP__CONTROLLER_MESSAGE__INIT;
    welcome.protocol = FLEET_PROTOCOL;
    welcome.fence = s->fence;
    welcome.heartbeat_ms = f->options.heartbeat_ms;
    welcome.controller_name =
        (char *)(f->options.controller_name ? f->options.controller_name : "");
    welcome.quarantined = a->quarantined;
    welcome.quarantine_reason = a->status->quarantine_reason;
    m.kind_case = SP__CONTROLLER_MESSAGE__KIND_WELCOME;
    m.welcome = &welcome;
    return rpc_send(s->call, &m.base);
}

static void say_goodbye(struct session *s, const char *text)
{
    Sp__Goodbye goodbye = SP__GOODBYE__INIT;
    Sp__ControllerMessage m = SP__CONTROLLER_MESSAGE__INIT;
    goodbye.text = (char *)text;
    goodbye.retry_after_ms = GOODBYE_RETRY_MS;
    m.kind_case = SP__CONTROLLER_MESSAGE__KIND_GOODBYE;
    m.goodbye = &goodbye;
    rpc_send(s->call, &m.base);
    rpc_finish(s->call, RPC_ABORTED, text);
}

void fleet_goodbye_all(struct agent *a, const char *text)
{
    for (struct session *s = a->sessions; s; s = s->next)
        say_goodbye(s, text);
}

static int probe(struct fleet *f, struct agent *a)
{
    Sp__StatusCommand status = SP__STATUS_COMMAND__INIT;
    Sp__Command command = SP__COMMAND__INIT;
    Sp__ControllerMessage m = SP__CONTROLLER_MESSAGE__INIT;
    int r = sp_uuid_make(a->probe_id);
    if (r < 0)
        return r;
    command.operation_id = a->probe_id;
    command.fence = a->current->fence;
    command.not_after_ms = f->options.probe_ms;
    command.kind_case = SP__COMMAND__KIND_STATUS;
    command.status = &status;
    m.kind_case = SP__CONTROLLER_MESSAGE__KIND_COMMAND;
    m.command = &command;
    a->probed_at_ms = fleet_now_ms();
    a->probe_until_ms = a->probed_at_ms + f->options.probe_ms;
    return rpc_send(a->current->call, &m.base);
}

/* ---- letting in ---- */

static bool no_uuid(const char *uuid)
{
    return message_empty(uuid) || strspn(uuid, "0-") == strlen(uuid) ||
           strspn(uuid, "fF-") == strlen(uuid);
}

static int describe(struct agent *a, const Sp__Hello *h)
{
    int r = message_set(&a->status->version, h->agent_version);
    if (r == 0)
        r = message_set(&a->status->os, h->os);
    if (r == 0)
        r = message_set(&a->status->kernel, h->kernel);
    if (r == 0)
        r = message_set(&a->status->vm_id, h->vm_id);
    if (r == 0)
        r = message_set(&a->status->vm_id_source, h->vm_id_source);
    a->status->last_seen_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    return r;
}

/* The session is the one from now on; what tells copies apart is remembered. */
static void accept(struct fleet *f, struct agent *a, struct session *s, struct news *n)
{
    a->current = s;
    a->contender = NULL;
    s->fence = ++f->fence;
    if (!no_uuid(s->smbios))
        message_set(&a->status->smbios_uuid, s->smbios);
    if (*s->mark)
        memcpy(a->mark, s->mark, sizeof(a->mark));
    fleet_dirty(f, a);
    if (say_welcome(f, s, a) < 0)
        rpc_cancel(s->call);
    n->machine = true;
    sp_log(SP_LOG_INFO, "agent connected", "machine", a->machine_id, "address",
           rpc_peer_address(s->call), NULL);
}

/* Nobody is obeyed any more until an operator decides. Sessions that were welcomed before come
 * again to hear it. */
static void quarantine(struct fleet *f, struct agent *a, struct session *newcomer,
                       const char *reason, struct news *n)
{
    a->quarantined = true;
    a->status->quarantined = 1;
    message_set(&a->status->quarantine_reason, reason);
    if (a->current)
        say_goodbye(a->current, "IDENTITY_CLONED: a second guest speaks with this identity");
    a->current = NULL;
    if (a->contender)
        f->contests--;
    a->contender = NULL;
    newcomer->fence = ++f->fence;
    if (say_welcome(f, newcomer, a) < 0)
        rpc_cancel(newcomer->call);
    fleet_dirty(f, a);
    n->machine = true;
    n->audit = "agent.quarantined";
    snprintf(n->text, sizeof(n->text), "%s (address %s)", reason, rpc_peer_address(newcomer->call));
    sp_log(SP_LOG_WARNING, "machine quarantined", "machine", a->machine_id, "why", reason,
           "address", rpc_peer_address(newcomer->call), NULL);
}

static bool same_epoch(const struct session *a, const struct session *b)
{
    return a->epoch_size == b->epoch_size && a->epoch_size > 0 &&
           memcmp(a->epoch, b->epoch, a->epoch_size) == 0;
}

static void let_in(struct fleet *f, struct agent *a, struct session *s, struct news *n)
{
    if (a->quarantined) {
        s->fence = ++f->fence;
        if (say_welcome(f, s, a) < 0)
            rpc_cancel(s->call);
        n->machine = true;
        return;
    }
    if (!no_uuid(s->smbios) && !no_uuid(a->status->smbios_uuid) &&
        strcasecmp(s->smbios, a->status->smbios_uuid) != 0) {
        quarantine(f, a, s, "IDENTITY_CLONED: the SMBIOS UUID is not that of the enrolled guest",
                   n);
        return;
    }
    if (*a->mark && strcmp(s->mark, a->mark) != 0) {
        quarantine(
            f, a, s,
            "IDENTITY_CLONED: its state folder is an older or another copy than the one seen "
            "before",
            n);
        return;
    }
    if (a->contender) {
        quarantine(f, a, s, "IDENTITY_CLONED: three guests connect at once", n);
        return;
    }
    if (a->current && !same_epoch(a->current, s)) {
        /* A guest that was reset looks like this too, until its old connection is found dead. */
        a->contender = s;
        f->contests++;
        if (probe(f, a) < 0)
            a->probe_until_ms = fleet_now_ms();
        return;
    }
    if (a->current)
        rpc_cancel(a->current->call);
    accept(f, a, s, n);
}

static int read_hello(struct session *s, const Sp__Hello *h)
{
    s->epoch_size = h->session_epoch.len < FLEET_EPOCH_MAX ? h->session_epoch.len : FLEET_EPOCH_MAX;
    if (s->epoch_size)
        memcpy(s->epoch, h->session_epoch.data, s->epoch_size);
    snprintf(s->smbios, sizeof(s->smbios), "%s", h->smbios_uuid);
    snprintf(s->mark, sizeof(s->mark), "%s", h->identity_mark);
    int r = 0;
    for (size_t i = 0; i < h->n_capabilities && i < 64 && r == 0; i++)
        r = message_append_text(&s->capabilities, &s->capability_count, h->capabilities[i]);
    return r;
}

static void hello(struct fleet *f, struct rpc_call *call, struct session *s, const Sp__Hello *h)
{
    const struct sp_identity *peer = rpc_peer(call);
    struct news n = {0};
    if (strcmp(h->machine_id, peer->name) != 0) {
        n.audit = "agent.refused";
        snprintf(n.text, sizeof(n.text), "spoke for machine %.64s (address %s)", h->machine_id,
                 rpc_peer_address(call));
        tell(f, peer->name, &n);
        rpc_finish(call, RPC_PERMISSION_DENIED,
                   "the certificate is of another machine than the one the agent speaks for");
        return;
    }
    if (h->protocol_min > FLEET_PROTOCOL || h->protocol_max < FLEET_PROTOCOL) {
        rpc_finish(call, RPC_FAILED_PRECONDITION,
                   "AGENT_TOO_OLD: agent and controller share no protocol: update the agent");
        return;
    }
    pthread_mutex_lock(&f->lock);
    struct agent *a = fleet_agent(f, peer->name);
    int r = a ? read_hello(s, h) : -ENOMEM;
    if (r == 0)
        r = describe(a, h);
    if (r == 0) {
        s->agent = a;
        s->next = a->sessions;
        a->sessions = s;
        let_in(f, a, s, &n);
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    if (r < 0)
        rpc_fail(call, r, NULL);
    else
        tell(f, peer->name, &n);
}

/* A contest ends for the newcomer when the old session is gone or silent. */
static void newcomer_wins(struct fleet *f, struct agent *a, struct news *n)
{
    struct session *s = a->contender;
    struct session *old = a->current;
    f->contests--;
    if (old)
        rpc_cancel(old->call);
    accept(f, a, s, n);
    pthread_cond_broadcast(&f->changed);
}

bool fleet_end_contests(struct fleet *f)
{
    uint64_t now = fleet_now_ms();
    for (size_t i = 0; f->contests > 0 && i < FLEET_BUCKETS; i++) {
        for (struct agent *a = f->buckets[i]; a; a = a->next) {
            if (!a->contender || now < a->probe_until_ms)
                continue;
            struct news n = {0};
            newcomer_wins(f, a, &n);
            pthread_mutex_unlock(&f->lock);
            tell(f, a->machine_id, &n);
            pthread_mutex_lock(&f->lock);
            return true;
        }
    }
    return false;
}

/* ---- what sessions say ---- */

static struct pending *find_pending(struct agent *a, const char *operation_id)
{
    struct pending *p = a->pending;
    while (p && strcmp(p->operation_id, operation_id) != 0)
        p = p->next;
    return p;
}

static void answer(struct fleet *f, struct agent *a, const Sp__Answer *said)
{
    struct pending *p = find_pending(a, said->operation_id);
    if (!p || p->answer)
        return;
    p->answer = message_copy(said);
    if (!p->answer)
        p->error = -ENOMEM;
    pthread_cond_broadcast(&f->changed);
}

static void header_part(struct fleet *f, struct agent *a, const Sp__HeaderPart *part)
{
    struct pending *p = find_pending(a, part->operation_id);
    if (!p || !p->header || p->header_done || p->error)
        return;
    if (part->offset_bytes != p->header->size || part->bytes.len > HEADER_MAX - p->header->size)
        p->error = -EPROTO;
    else if (part->bytes.len)
        p->error = sp_buffer_append(p->header, part->bytes.data, part->bytes.len);
    p->header_done = part->last;
    if (p->header_done || p->error)
        pthread_cond_broadcast(&f->changed);
}

static void heartbeat(struct fleet *f, struct agent *a, const Sp__Heartbeat *h, struct news *n)
{
    a->status->last_seen_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    a->status->rss_bytes = h->rss_bytes;
    if (!message_empty(h->vm_id) && message_set(&a->status->vm_id, h->vm_id) == 0 &&
        message_set(&a->status->vm_id_source, h->vm_id_source) == 0) {
        fleet_dirty(f, a);
        n->machine = true;
    }
    if (!h->freeze)
        return;
    if (!a->status->freeze)
        a->status->freeze = message_new(&sp__freeze_state_summary__descriptor);
    if (a->status->freeze) {
        a->status->freeze->frozen = h->freeze->frozen;
        a->status->freeze->remaining_ms = h->freeze->remaining_ms;
    }
}

static void inventory(struct fleet *f, struct agent *a, const Sp__Inventory *said, struct news *n)
{
    Sp__Inventory *copy = message_copy(said);
    if (!copy)
        return;
    message_free(a->unsaved_inventory);
    a->unsaved_inventory = copy;
    fleet_dirty(f, a);
    n->machine = true;
}

/* The old session of a contest shows that it lives: two guests. */
static bool old_one_lives(const struct agent *a, const struct session *s, const Sp__AgentMessage *m)
{
    if (!a->contender || s != a->current)
        return false;
    if (m->kind_case == SP__AGENT_MESSAGE__KIND_ANSWER)
        return strcmp(m->answer->operation_id, a->probe_id) == 0;
    /* What was on its way when the newcomer came proves nothing. */
    return fleet_now_ms() > a->probed_at_ms + PROBE_GRACE_MS;
}

static void current_says(struct fleet *f, struct agent *a, const Sp__AgentMessage *m,
                         struct news *n)
{
    switch (m->kind_case) {
    case SP__AGENT_MESSAGE__KIND_HEARTBEAT:
        heartbeat(f, a, m->heartbeat, n);
        break;
    case SP__AGENT_MESSAGE__KIND_INVENTORY:
        inventory(f, a, m->inventory, n);
        break;
    case SP__AGENT_MESSAGE__KIND_ANSWER:
        answer(f, a, m->answer);
        break;
    case SP__AGENT_MESSAGE__KIND_HEADER_PART:
        header_part(f, a, m->header_part);
        break;
    case SP__AGENT_MESSAGE__KIND_EVENT:
        fleet_keep_event(f, a, m->event);
        break;
    default:
        break; /* a later agent's message means nothing here */
    }
}

void fleet_session_message(struct fleet *f, struct rpc_call *call, const Sp__AgentMessage *m)
{
    struct session *s = rpc_data(call);
    if (!s)
        return;
    if (!s->agent) {
        if (m->kind_case == SP__AGENT_MESSAGE__KIND_HELLO)
            hello(f, call, s, m->hello);
        else
            rpc_finish(call, RPC_INVALID_ARGUMENT, "the first message must be Hello");
        return;
    }
    if (m->kind_case == SP__AGENT_MESSAGE__KIND_HELLO) {
        rpc_finish(call, RPC_INVALID_ARGUMENT, "Hello comes once");
        return;
    }
    struct news n = {0};
    struct agent *a = s->agent;
    pthread_mutex_lock(&f->lock);
    bool current = s == a->current;
    if (old_one_lives(a, s, m))
        quarantine(f, a, a->contender,
                   "IDENTITY_CLONED: two guests are connected with this identity at once", &n);
    else if (current)
        current_says(f, a, m, &n);
    pthread_mutex_unlock(&f->lock);
    tell(f, a->machine_id, &n);
}

/* ---- life ---- */

void fleet_session_open(struct fleet *f, struct rpc_call *call)
{
    (void)f;
    struct session *s = calloc(1, sizeof(*s));
    if (!s) {
        rpc_fail(call, -ENOMEM, NULL);
        return;
    }
    s->call = call;
    rpc_set_data(call, s);
}

static void leave(struct fleet *f, struct agent *a, struct session *s, struct news *n)
{
    struct session **at = &a->sessions;
    while (*at && *at != s)
        at = &(*at)->next;
    if (*at)
        *at = s->next;
    if (a->contender == s) {
        a->contender = NULL;
        f->contests--;
    }
    if (a->current == s) {
        a->current = NULL;
        a->status->last_seen_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
        fleet_dirty(f, a);
        n->machine = true;
        sp_log(SP_LOG_INFO, "agent disconnected", "machine", a->machine_id, NULL);
        if (a->contender)
            newcomer_wins(f, a, n);
    }
    pthread_cond_broadcast(&f->changed);
}

void fleet_session_closed(struct fleet *f, struct rpc_call *call)
{
    struct session *s = rpc_data(call);
    if (!s)
        return;
    rpc_set_data(call, NULL);
    struct agent *a = s->agent;
    struct news n = {0};
    if (a) {
        pthread_mutex_lock(&f->lock);
        leave(f, a, s, &n);
        pthread_mutex_unlock(&f->lock);
        tell(f, a->machine_id, &n);
    }
    for (size_t i = 0; i < s->capability_count; i++)
        free(s->capabilities[i]);
    free(s->capabilities);
    free(s);
}
