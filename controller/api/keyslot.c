/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Escrow keyslots (keyslot.proto): Keys.EnrolKeyslot, and what is left when it was cut short. The
 * key passes in a box that only the guest opens.
 *
 *   ask the agent ─▶ settle ─▶ order (keeper) ─▶ agent ─▶ enrolled, or waits for a passphrase
 *                      │                           └ an error, or no answer: settle, now or later
 *                      └ a pending record that the guest knows nothing of: the keeper ends it
 *
 * One at a time for a machine, so that no record is ended whose order is under way. */
#include "controller/api/keyslot.h"
#include "base/log.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The guest unlocks the volume on the way: an argon2id slot takes it many seconds. */
enum { ASK_MS = 30000, ORDER_MS = 240000, KEEPER_MS = 30000 };

struct machine_name {
    struct machine_name *next;
    char id[37];
};

struct keyslots {
    pthread_mutex_t lock;
    pthread_cond_t freed;
    struct machine_name *busy; /* an enrolment or a settling runs */
    struct machine_name *due;  /* to be settled when its agent is there */
    bool listed;               /* `due` has what was left at the last end of this program */
    bool settling;             /* a task of the pool does it */
    atomic_bool stopping;
};

/* ---- one at a time ---- */

static struct machine_name **find(struct machine_name **list, const char *id)
{
    while (*list && strcmp((*list)->id, id) != 0)
        list = &(*list)->next;
    return list;
}

static int add(struct machine_name **list, const char *id)
{
    if (*find(list, id))
        return 0;
    struct machine_name *n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    snprintf(n->id, sizeof(n->id), "%s", id);
    n->next = *list;
    *list = n;
    return 0;
}

static void drop(struct machine_name **list, const char *id)
{
    struct machine_name **at = find(list, id), *gone = *at;
    if (gone) {
        *at = gone->next;
        free(gone);
    }
}

static int begin(struct keyslots *k, const char *machine_id)
{
    pthread_mutex_lock(&k->lock);
    while (*find(&k->busy, machine_id))
        pthread_cond_wait(&k->freed, &k->lock);
    int r = add(&k->busy, machine_id);
    pthread_mutex_unlock(&k->lock);
    return r;
}

static void end(struct keyslots *k, const char *machine_id)
{
    pthread_mutex_lock(&k->lock);
    drop(&k->busy, machine_id);
    pthread_cond_broadcast(&k->freed);
    pthread_mutex_unlock(&k->lock);
}

static void settle_later(struct keyslots *k, const char *machine_id)
{
    pthread_mutex_lock(&k->lock);
    if (add(&k->due, machine_id) < 0)
        k->listed = false; /* the list is asked for again */
    pthread_mutex_unlock(&k->lock);
}

/* ---- agent and keeper ---- */

static int ask_keeper(struct api *api, struct rpc_call *call, Sp__KeeperRequest *request,
                      ProtobufCMessage **ret, struct sp_why *why)
{
    if (call)
        return api_relay(api, call, request, ret, why);
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    int r = api->keeper(api->self, request, KEEPER_MS, &response, why);
    return r < 0 ? r : message_take_answer(response, request->kind_case, ret);
}

/* Without order: only asks. *ret NULL when the agent answers with an error alone. */
static int ask_agent(struct api *api, const char *machine_id, const char *volume_id,
                     const Sp__OrderKeyslotResponse *order, Sp__Answer **ret, struct sp_why *why)
{
    char id[37];
    Sp__EnrolKeyslotCommand enrol = SP__ENROL_KEYSLOT_COMMAND__INIT;
    Sp__Command command = SP__COMMAND__INIT;
    Sp__Answer *answer = NULL;
    int r = sp_uuid_make(id);
    if (r < 0)
        return r;
    enrol.volume_id = (char *)(uintptr_t)volume_id;
    enrol.order = order ? order->order : NULL;
    enrol.keeper_keys = order ? order->keeper_keys : NULL;
    command.operation_id = id;
    command.not_after_ms = ASK_MS;
    command.kind_case = SP__COMMAND__KIND_ENROL_KEYSLOT;
    command.enrol_keyslot = &enrol;
    r = fleet_command(api->fleet, machine_id, &command, order ? ORDER_MS : ASK_MS,
                      &api->keyslots->stopping, &answer, why);
    if (r == 0 && answer->error)
        r = sp_why_set(why, -EREMOTEIO, "%s",
                       message_empty(answer->text) ? strerror(answer->error) : answer->text);
    else if (r == 0 && answer->kind_case != SP__ANSWER__KIND_KEYSLOT)
        r = sp_why_set(why, -EPROTO, "the agent's answer is of another kind");
    if (r == 0)
        *ret = answer;
    else
        message_free(answer);
    return r;
}

static int list_records(struct api *api, struct rpc_call *call, const char *machine_id,
                        bool pending, Sp__ListKeysResponse **ret, struct sp_why *why)
{
    Sp__ListKeysRequest list = SP__LIST_KEYS_REQUEST__INIT;
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    list.machine = (char *)(uintptr_t)machine_id;
    list.all_generations = true;
    list.pending_keyslots = pending;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEYS;
    ask.list_keys = &list;
    return ask_keeper(api, call, &ask, (ProtobufCMessage **)ret, why);
}

static const Sp__KeyslotRecord *guest_has(const Sp__KeyslotAnswer *k, const char *record_id)
{
    for (size_t i = 0; i < k->n_records; i++)
        if (strcmp(k->records[i]->record_id, record_id) == 0)
            return k->records[i];
    return NULL;
}

static int end_record(struct api *api, struct rpc_call *call, const Sp__EscrowRecord *e,
                      struct sp_why *why)
{
    Sp__EndKeyslotRequest end_keyslot = SP__END_KEYSLOT_REQUEST__INIT;
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    Sp__Done *done = NULL;
    end_keyslot.record_id = e->record_id;
    end_keyslot.why = (char *)"the guest has no such keyslot";
    ask.kind_case = SP__KEEPER_REQUEST__KIND_END_KEYSLOT;
    ask.end_keyslot = &end_keyslot;
    int r = ask_keeper(api, call, &ask, (ProtobufCMessage **)&done, why);
    if (r == 0)
        api_audit(api, call, "keyslot.end", e->machine_id, "volume %.120s record %s: taken back",
                  e->volume_id, e->record_id);
    message_free(done);
    return r;
}

/* What the keeper waits for and the guest knows nothing of is ended. A record that a point under
 * way has pinned waits until that is over. */
static int settle(struct api *api, struct rpc_call *call, const char *machine_id,
                  const char *volume_id, const Sp__KeyslotAnswer *guest, struct sp_why *why)
{
    Sp__ListKeysResponse *pending = NULL;
    bool later = false;
    int r = list_records(api, call, machine_id, true, &pending, why);
    for (size_t i = 0; r == 0 && i < pending->n_records; i++) {
        const Sp__EscrowRecord *e = pending->records[i];
        if (strcmp(e->volume_id, volume_id) != 0 || guest_has(guest, e->record_id))
            continue;
        r = end_record(api, call, e, why);
        if (r == -EBUSY || r == -ESTALE) {
            later |= r == -EBUSY;
            r = 0;
        }
    }
    message_free(pending);
    if (later)
        settle_later(api->keyslots, machine_id);
    return r;
}

/* ---- settling by itself ---- */

/* True: nothing of the machine is left to be settled. */
static bool settle_machine(struct api *api, const char *machine_id)
{
    Sp__ListKeysResponse *pending = NULL;
    struct sp_why why = {""};
    if (begin(api->keyslots, machine_id) < 0)
        return false;
    int r = list_records(api, NULL, machine_id, true, &pending, &why);
    for (size_t i = 0; r == 0 && i < pending->n_records; i++) {
        Sp__Answer *answer = NULL;
        const char *volume_id = pending->records[i]->volume_id;
        r = ask_agent(api, machine_id, volume_id, NULL, &answer, &why);
        if (r == 0)
            r = settle(api, NULL, machine_id, volume_id, answer->keyslot, &why);
        message_free(answer);
    }
    message_free(pending);
    end(api->keyslots, machine_id);
    if (r < 0)
        sp_log_error("escrow keyslots not settled yet", r, &why, "machine", machine_id, NULL);
    return r == 0;
}

static bool list_due(struct api *api)
{
    struct keyslots *k = api->keyslots;
    Sp__ListKeysResponse *pending = NULL;
    if (list_records(api, NULL, "", true, &pending, NULL) < 0)
        return false;
    for (size_t i = 0; i < pending->n_records; i++)
        settle_later(k, pending->records[i]->machine_id);
    message_free(pending);
    return true;
}

/* The next machine that is due and whose agent is there; taken off the list. */
static bool next_due(struct api *api, const char *after, char out[37])
{
    struct keyslots *k = api->keyslots;
    bool found = false;
    pthread_mutex_lock(&k->lock);
    struct machine_name *m = *after ? *find(&k->due, after) : k->due;
    for (m = m && *after ? m->next : m; m && !found; m = m->next)
        if (fleet_can(api->fleet, m->id, KEYSLOT_CAPABILITY)) {
            memcpy(out, m->id, sizeof(m->id));
            found = true;
        }
    pthread_mutex_unlock(&k->lock);
    return found;
}

static void settle_due(void *arg)
{
    struct api *api = arg;
    struct keyslots *k = api->keyslots;
    char last[37] = "", id[37];
    pthread_mutex_lock(&k->lock);
    bool listed = k->listed;
    k->listed = true;
    pthread_mutex_unlock(&k->lock);
    if (!listed && !list_due(api)) {
        pthread_mutex_lock(&k->lock);
        k->listed = false;
        pthread_mutex_unlock(&k->lock);
    }
    while (!atomic_load(&k->stopping) && next_due(api, last, id)) {
        bool settled = settle_machine(api, id);
        memcpy(last, id, sizeof(last));
        pthread_mutex_lock(&k->lock);
        if (settled) {
            drop(&k->due, id);
            last[0] = 0;
        }
        pthread_mutex_unlock(&k->lock);
    }
    pthread_mutex_lock(&k->lock);
    k->settling = false;
    pthread_mutex_unlock(&k->lock);
}

void keyslots_tick(struct api *api)
{
    struct keyslots *k = api->keyslots;
    pthread_mutex_lock(&k->lock);
    bool start = !k->settling && (k->due || !k->listed);
    k->settling |= start;
    pthread_mutex_unlock(&k->lock);
    if (start && pool_submit(api->streams, settle_due, api) < 0) {
        pthread_mutex_lock(&k->lock);
        k->settling = false;
        pthread_mutex_unlock(&k->lock);
    }
}

int keyslots_new(struct keyslots **ret)
{
    struct keyslots *k = calloc(1, sizeof(*k));
    if (!k)
        return -ENOMEM;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->freed, NULL);
    *ret = k;
    return 0;
}

void keyslots_stop(struct keyslots *k)
{
    if (k)
        atomic_store(&k->stopping, true);
}

void keyslots_free(struct keyslots *k)
{
    if (!k)
        return;
    while (k->due)
        drop(&k->due, k->due->id);
    pthread_cond_destroy(&k->freed);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

/* ---- Keys.EnrolKeyslot ---- */

struct enrolling {
    struct api *api;
    struct rpc_call *call;
    const Sp__EnrolKeyslotRequest *ask;
    const Sp__Machine *machine;
    Sp__EnrolKeyslotResponse *out;
    struct sp_why *why;
};

static int tell(struct enrolling *e, Sp__KeyslotOutcome outcome, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int tell(struct enrolling *e, Sp__KeyslotOutcome outcome, const char *format, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    e->out->outcome = outcome;
    return message_set(&e->out->text, text);
}
#define TELL(e, outcome, ...) tell(e, SP__KEYSLOT_OUTCOME__KEYSLOT_OUTCOME_##outcome, __VA_ARGS__)

static const Sp__Volume *find_volume(const Sp__Machine *m, const char *volume_id)
{
    for (size_t i = 0; m->inventory && i < m->inventory->n_volumes; i++)
        if (strcmp(m->inventory->volumes[i]->volume_id, volume_id) == 0)
            return m->inventory->volumes[i];
    return NULL;
}

/* Why the volume cannot have an escrow keyslot; NULL: it can. */
static const char *unsupported(const Sp__Volume *v)
{
    if (v->ephemeral)
        return "its key is a new random one at every boot";
    switch (v->kind) {
    case SP__VOLUME_KIND__VOLUME_KIND_LUKS2:
        break;
    case SP__VOLUME_KIND__VOLUME_KIND_LUKS1:
        return "LUKS1 has no tokens to name the record: 'cryptsetup convert --type luks2' while it "
               "is closed, or 'sealpoint key import' a key that it has";
    case SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER:
        return "BitLocker has its own recovery password: 'sealpoint key import' it, or let the "
               "keeper read it from Active Directory";
    case SP__VOLUME_KIND__VOLUME_KIND_PLAIN:
        return "plain dm-crypt has no header: 'sealpoint key import' its key";
    default:
        return "it is not LUKS2";
    }
    if (v->header && v->header->detached)
        return "its header lies on another device: 'sealpoint key import' a key that it has";
    if (v->header && v->header->damaged)
        return "its header is damaged: repair it first";
    if (v->header && v->header->conversion_in_progress)
        return "it is being re-encrypted: wait until that is done";
    return NULL;
}

/* The escrow keyslot that the volume has already, of a record that is of use. */
static int find_enrolled(struct enrolling *e, const Sp__KeyslotAnswer *guest, bool *ret)
{
    Sp__ListKeysResponse *list = NULL;
    int r = list_records(e->api, e->call, e->machine->machine_id, false, &list, e->why);
    *ret = false;
    for (size_t i = 0; r == 0 && i < list->n_records && !*ret; i++) {
        Sp__EscrowRecord *record = list->records[i];
        const Sp__KeyslotRecord *has = guest_has(guest, record->record_id);
        if (!has || record->state == SP__RECORD_STATE__RECORD_STATE_COMPROMISED ||
            record->state == SP__RECORD_STATE__RECORD_STATE_DESTROYED)
            continue;
        *ret = true;
        e->out->record = message_copy(record);
        r = !e->out->record ? -ENOMEM
            : has->state == SP__KEYSLOT_STATE__KEYSLOT_STATE_WAITING
                ? TELL(e, NEEDS_PASSPHRASE,
                       "waits for a passphrase: type it in the guest: sealpoint-agent enrol-volume")
                : TELL(e, ALREADY, "keyslot %u is the record's", has->keyslot);
    }
    message_free(list);
    return r;
}

static int tell_dry(struct enrolling *e, const Sp__KeyslotAnswer *guest)
{
    switch (guest->unlock) {
    case SP__KEYSLOT_UNLOCK__KEYSLOT_UNLOCK_KEY_FILE:
        return TELL(e, WOULD_ENROL, "by crypttab's key file %.200s", guest->unlock_with);
    case SP__KEYSLOT_UNLOCK__KEYSLOT_UNLOCK_TOKEN:
        return TELL(e, WOULD_ENROL, "by its token of type %.100s", guest->unlock_with);
    case SP__KEYSLOT_UNLOCK__KEYSLOT_UNLOCK_PASSPHRASE:
        return TELL(e, NEEDS_PASSPHRASE,
                    "no key file and no token: a passphrase must be typed in the guest");
    default:
        return TELL(e, FAILED, "the agent does not say how it would unlock the volume");
    }
}

static int get_order(struct enrolling *e, const Sp__KeyslotAnswer *guest,
                     Sp__OrderKeyslotResponse **ret)
{
    Sp__OrderKeyslotRequest order = SP__ORDER_KEYSLOT_REQUEST__INIT;
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    order.machine_id = e->machine->machine_id;
    order.volume_id = e->ask->volume_id;
    order.keyslot = guest->keyslot;
    order.header_sha256 = guest->header_sha256;
    order.nonce = guest->nonce;
    order.why = e->ask->why;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_ORDER_KEYSLOT;
    ask.order_keyslot = &order;
    return ask_keeper(e->api, e->call, &ask, (ProtobufCMessage **)ret, e->why);
}

static int carry_out(struct enrolling *e, Sp__OrderKeyslotResponse *order)
{
    Sp__Answer *answer = NULL;
    const char *machine_id = e->machine->machine_id;
    struct sp_why why = {""};
    int r = ask_agent(e->api, machine_id, e->ask->volume_id, order, &answer, &why);
    if (r < 0) {
        /* Whatever came of it in the guest, asking it tells. */
        settle_later(e->api->keyslots, machine_id);
        return TELL(e, FAILED, "%s%s", why.text[0] ? why.text : strerror(-r),
                    r == -EREMOTEIO ? ""
                                    : ": what it did will be known when it is connected again");
    }
    const Sp__KeyslotRecord *has = guest_has(answer->keyslot, order->record->record_id);
    e->out->record = order->record;
    order->record = NULL;
    if (has && has->state == SP__KEYSLOT_STATE__KEYSLOT_STATE_ENROLLED)
        r = TELL(e, ENROLLED, "keyslot %u, unlocked by %.200s; the next backup proves it",
                 has->keyslot,
                 message_empty(answer->keyslot->unlock_with) ? "a passphrase"
                                                             : answer->keyslot->unlock_with);
    else if (has)
        r = TELL(e, NEEDS_PASSPHRASE,
                 "type a passphrase in the guest: sealpoint-agent "
                 "enrol-volume");
    else
        r = TELL(e, FAILED, "the agent did not keep the order");
    message_free(answer);
    return r;
}

/* With the machine to itself. */
static int enrol_alone(struct enrolling *e)
{
    Sp__Answer *answer = NULL;
    Sp__OrderKeyslotResponse *order = NULL;
    bool enrolled = false;
    const char *machine_id = e->machine->machine_id;
    int r = ask_agent(e->api, machine_id, e->ask->volume_id, NULL, &answer, e->why);
    if (r < 0)
        return TELL(e, FAILED, "%s", e->why->text[0] ? e->why->text : strerror(-r));
    r = settle(e->api, e->call, machine_id, e->ask->volume_id, answer->keyslot, e->why);
    if (r == 0)
        r = find_enrolled(e, answer->keyslot, &enrolled);
    if (r == 0 && !enrolled && e->ask->dry_run)
        r = tell_dry(e, answer->keyslot);
    else if (r == 0 && !enrolled) {
        r = get_order(e, answer->keyslot, &order);
        if (r == 0)
            r = carry_out(e, order);
        else if (r != -EPERM && r != -EINVAL) /* it may have made the record all the same */
            settle_later(e->api->keyslots, machine_id);
    }
    message_free(order);
    message_free(answer);
    return r;
}

static int enrol(struct enrolling *e)
{
    const Sp__Volume *v = find_volume(e->machine, e->ask->volume_id);
    const char *machine_id = e->machine->machine_id, *reason;
    if (!v)
        return sp_why_set(e->why, -ENOENT, "%s has no volume '%s'", e->machine->name,
                          e->ask->volume_id);
    if ((reason = unsupported(v)))
        return TELL(e, NOT_SUPPORTED, "%s", reason);
    switch (fleet_wait(e->api->fleet, machine_id, 0, NULL)) {
    case FLEET_ABSENT:
        return TELL(e, NOT_CONNECTED, "its agent is not connected");
    case FLEET_QUARANTINED:
        return TELL(e, NOT_CONNECTED, "its identity is in quarantine (IDENTITY_CLONED)");
    default:
        break;
    }
    if (!fleet_can(e->api->fleet, machine_id, KEYSLOT_CAPABILITY))
        return TELL(e, NOT_ALLOWED,
                    "the agent's configuration does not allow it: '[escrow] enrol = on' in the "
                    "guest's agent.conf");
    int r = begin(e->api->keyslots, machine_id);
    if (r == 0) {
        r = enrol_alone(e);
        end(e->api->keyslots, machine_id);
    }
    return r;
}

int api_enrol_keyslot(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                      ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__Machine *m = NULL;
    struct enrolling e = {.api = api, .call = call, .ask = (const void *)request, .why = why};
    int r = api_machine(api, call, e.ask->machine, true, &m, why);
    if (r < 0)
        return r;
    e.machine = m;
    e.out = message_new(&sp__enrol_keyslot_response__descriptor);
    r = e.out ? message_set(&e.out->volume_id, e.ask->volume_id) : -ENOMEM;
    if (r == 0)
        r = enrol(&e);
    if (r == 0 && !e.ask->dry_run)
        api_audit(api, call, "keyslot.enrol", m->machine_id, "volume %.120s: %.300s",
                  e.ask->volume_id, e.out->text);
    if (r == 0)
        *ret = &e.out->base;
    else
        message_free(e.out);
    message_free(m);
    return r;
}
