/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/enrol_volume/keyslot.h"
#include "agent/enrol_volume/header.h"
#include "agent/enrol_volume/order.h"
#include "agent/enrol_volume/terminal.h"
#include "agent/enrol_volume/unlock.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { TRIES = 3 };

/* One volume and the folder of orders, with the lock held. */
struct enrolment {
    const struct keyslot_options *options;
    struct orders *orders;
    struct header header;
    const char *volume_id;
};

static void at(const struct keyslot_options *options, enum keyslot_step step)
{
    if (options->at)
        options->at(options->self, step);
}

/* ---- what was left half done ---- */

/* The header is read anew: what counts is on the disk. */
static int prove(struct enrolment *e, const Sp__KeyslotOrder *order, const struct sp_secret *key,
                 struct sp_why *why)
{
    struct header again;
    struct header_token t;
    int r = header_open(e->header.device, e->volume_id, &again, why);
    if (r == 0 && (!header_find_token(&again, order->record_id, &t) || !t.assigned ||
                   !header_opens(&again, (int)order->keyslot, key)))
        r = sp_why_set(why, -EIO, "the new keyslot %u of %s does not open with its key",
                       order->keyslot, e->header.device);
    header_close(&again);
    return r;
}

static int finish(struct enrolment *e, const Sp__KeyslotOrder *order, const struct sp_secret *key,
                  const struct header_token *t, struct sp_why *why)
{
    int r = t->assigned ? 0 : header_assign(&e->header, t->number, t->keyslot, why);
    if (r == 0)
        at(e->options, KEYSLOT_ASSIGNED);
    if (r == 0)
        r = prove(e, order, key, why);
    if (r == 0)
        at(e->options, KEYSLOT_PROVED);
    return r;
}

static int take_back(struct enrolment *e, const Sp__KeyslotOrder *order,
                     const struct sp_secret *key, struct sp_why *why)
{
    struct header_token t;
    int r = 0;
    if (!header_find_token(&e->header, order->record_id, &t))
        return 0; /* the token comes first: without it there is no keyslot */
    if (key && header_opens(&e->header, t.keyslot, key))
        r = header_remove_keyslot(&e->header, t.keyslot, why);
    if (r == 0 && header_find_token(&e->header, order->record_id, &t))
        r = header_remove_token(&e->header, t.number, why);
    return r;
}

static int settle_order(void *self, const Sp__KeyslotRequest *request,
                        const Sp__KeyslotOrder *order, struct sp_why *why)
{
    struct enrolment *e = self;
    SP_SECRET struct sp_secret *key = NULL;
    struct header_token t;
    (void)request;
    int r = order_key(e->orders, order, &key, why);
    if (r == -ENOMEM)
        return r;
    bool ours = header_find_token(&e->header, order->record_id, &t);
    bool opens = ours && key && header_opens(&e->header, t.keyslot, key);
    /* With the key lost a keyslot that is there stays, and so does what says so. */
    bool unclear = ours && !key && header_has_keyslot(&e->header, t.keyslot);
    r = unclear ? 0 : opens ? finish(e, order, key, &t, why) : take_back(e, order, key, why);
    if (r == 0)
        sp_log(SP_LOG_INFO,
               opens     ? "finished an escrow keyslot that was half done"
               : unclear ? "an escrow keyslot is half done, and its key cannot be read"
                         : "took back an escrow keyslot that was half done",
               "volume", e->volume_id, "record", order->record_id, NULL);
    return r < 0 || unclear ? r : order_drop(e->orders, order->record_id, ORDER_UNDER_WAY);
}

/* A header that has changed since makes a waiting order void. */
static int check_waiting(void *self, const Sp__KeyslotRequest *request,
                         const Sp__KeyslotOrder *order, struct sp_why *why)
{
    struct enrolment *e = self;
    uint8_t now[32];
    (void)request;
    int r = header_digest(&e->header, now, why);
    if (r == 0 && memcmp(now, order->header_sha256.data, 32) != 0)
        r = order_drop(e->orders, order->record_id, ORDER_WAITING);
    return r;
}

/* A token without a keyslot, whose order is gone with the state folder. */
static int remove_stray_tokens(struct enrolment *e, struct sp_why *why)
{
    struct header_token t;
    int r = 0;
    for (int i = 0; r == 0 && i < HEADER_TOKENS; i++)
        if (header_token(&e->header, i, &t) && !t.assigned &&
            !header_has_keyslot(&e->header, t.keyslot))
            r = header_remove_token(&e->header, i, why);
    return r;
}

static int settle(struct enrolment *e, struct sp_why *why)
{
    int r = order_each(e->orders, ORDER_UNDER_WAY, e->volume_id, settle_order, e, why);
    if (r == 0)
        r = remove_stray_tokens(e, why);
    if (r == 0)
        r = order_each(e->orders, ORDER_WAITING, e->volume_id, check_waiting, e, why);
    return r;
}

/* ---- an order ---- */

static int save_header(struct enrolment *e, struct sp_why *why)
{
    SP_FREE char *path = sp_format("%s/%s.header", e->orders->folder, crypt_get_uuid(e->header.cd));
    return path ? header_save(&e->header, path, why) : -ENOMEM;
}

static int add(struct enrolment *e, const Sp__KeyslotOrder *order,
               const struct sp_secret *volume_key, const struct sp_secret *key, struct sp_why *why)
{
    const int keyslot = (int)order->keyslot;
    struct header_token t = {.keyslot = keyslot};
    int r = header_add_token(&e->header, order->machine_id, order->record_id, keyslot, why);
    if (r < 0)
        return r;
    t.number = r;
    at(e->options, KEYSLOT_TOKEN);
    r = header_add_keyslot(&e->header, keyslot, volume_key, key, why);
    if (r < 0)
        return r;
    at(e->options, KEYSLOT_ADDED);
    return finish(e, order, key, &t, why);
}

/* The volume is unlocked; the request is kept under `ending` or not yet at all (NULL). */
static int carry_out(struct enrolment *e, const Sp__KeyslotRequest *request,
                     const Sp__KeyslotOrder *order, const struct sp_secret *volume_key,
                     const struct sp_secret *key, struct sp_why *why)
{
    int r = save_header(e, why);
    if (r < 0)
        return r;
    at(e->options, KEYSLOT_SAVED);
    r = request ? order_keep(e->orders, request, order->record_id, ORDER_UNDER_WAY, why)
                : order_begin(e->orders, order->record_id, why);
    if (r < 0)
        return r;
    at(e->options, KEYSLOT_KEPT);
    r = add(e, order, volume_key, key, why);
    if (r < 0) {
        struct sp_why more = {""};
        if (take_back(e, order, key, &more) < 0)
            return r; /* the next call tries again */
    }
    if (order_drop(e->orders, order->record_id, ORDER_UNDER_WAY) == 0)
        at(e->options, KEYSLOT_DONE);
    return r;
}

/* The header must be the very one that the keeper's order is for. */
static int check_header(struct enrolment *e, const Sp__KeyslotOrder *order, struct sp_why *why)
{
    uint8_t now[32];
    int r = header_digest(&e->header, now, why);
    if (r == 0 && memcmp(now, order->header_sha256.data, 32) != 0)
        r = sp_why_set(why, -ESTALE, "the header of %s has changed since it was asked about",
                       e->header.device);
    if (r == 0 && (order->keyslot >= HEADER_KEYSLOTS ||
                   crypt_keyslot_status(e->header.cd, (int)order->keyslot) != CRYPT_SLOT_INACTIVE))
        r = sp_why_set(why, -EEXIST, "the keyslot %u of %s is not free", order->keyslot,
                       e->header.device);
    return r;
}

struct newest {
    struct enrolment *e;
    const char *record_id;
};

static int drop_other(void *self, const Sp__KeyslotRequest *request, const Sp__KeyslotOrder *order,
                      struct sp_why *why)
{
    struct newest *n = self;
    (void)request, (void)why;
    return strcmp(order->record_id, n->record_id) == 0
               ? 0
               : order_drop(n->e->orders, order->record_id, ORDER_WAITING);
}

/* Only the newest order for a volume waits. */
static int keep_waiting(struct enrolment *e, const Sp__KeyslotRequest *request,
                        const Sp__KeyslotOrder *order, struct sp_why *why)
{
    struct newest n = {e, order->record_id};
    int r = order_each(e->orders, ORDER_WAITING, e->volume_id, drop_other, &n, why);
    return r < 0 ? r : order_keep(e->orders, request, order->record_id, ORDER_WAITING, why);
}

static int obey(struct enrolment *e, const Sp__KeyslotRequest *request, struct unlock *how,
                struct sp_why *why)
{
    Sp__KeyslotOrder *order = NULL;
    SP_SECRET struct sp_secret *key = NULL, *volume_key = NULL;
    int r = order_check(e->orders, request, &order, why);
    if (r == 0)
        r = order_take_nonce(e->orders, e->volume_id, order->nonce.data, order->nonce.len, why);
    if (r == 0)
        r = order_key(e->orders, order, &key, why);
    if (r == 0)
        r = check_header(e, order, why);
    if (r == 0) {
        at(e->options, KEYSLOT_ACCEPTED);
        struct sp_why not_by_itself = {""};
        r = unlock_by_itself(&e->header, e->options->config->escrow_crypttab, request->mapped_name,
                             how, &volume_key, &not_by_itself);
        if (r == 0) {
            at(e->options, KEYSLOT_UNLOCKED);
            r = carry_out(e, request, order, volume_key, key, why);
        } else
            r = keep_waiting(e, request, order, why);
    }
    if (order)
        sp__keyslot_order__free_unpacked(order, NULL);
    return r;
}

/* ---- answers ---- */

static int add_record(Sp__KeyslotAnswer *a, const char *record_id, uint32_t keyslot,
                      Sp__KeyslotState state)
{
    Sp__KeyslotRecord *record = malloc(sizeof(*record));
    if (!record || message_append(&a->records, &a->n_records, record) < 0) {
        free(record);
        return -ENOMEM;
    }
    sp__keyslot_record__init(record);
    record->keyslot = keyslot;
    record->state = state;
    return message_text(&record->record_id, record_id);
}

static int add_waiting(void *self, const Sp__KeyslotRequest *request, const Sp__KeyslotOrder *order,
                       struct sp_why *why)
{
    (void)request, (void)why;
    return add_record(self, order->record_id, order->keyslot,
                      SP__KEYSLOT_STATE__KEYSLOT_STATE_WAITING);
}

static int list_records(struct enrolment *e, Sp__KeyslotAnswer *a, struct sp_why *why)
{
    struct header_token t;
    int r = 0;
    for (int i = 0; r == 0 && i < HEADER_TOKENS; i++)
        if (header_token(&e->header, i, &t))
            r = add_record(a, t.record_id, (uint32_t)t.keyslot,
                           SP__KEYSLOT_STATE__KEYSLOT_STATE_ENROLLED);
    return r < 0 ? r : order_each(e->orders, ORDER_WAITING, e->volume_id, add_waiting, a, why);
}

static int tell(struct enrolment *e, const Sp__KeyslotRequest *request, Sp__KeyslotAnswer *a,
                struct sp_why *why)
{
    struct unlock how;
    uint8_t bytes[32];
    int keyslot = header_free_keyslot(&e->header, why);
    int r = keyslot < 0 ? keyslot : header_digest(&e->header, bytes, why);
    a->keyslot = (uint32_t)keyslot;
    if (r == 0)
        r = message_bytes(&a->header_sha256, bytes, sizeof(bytes));
    if (r == 0)
        r = order_nonce(e->orders, e->volume_id, bytes, why);
    if (r == 0)
        r = message_bytes(&a->nonce, bytes, sizeof(bytes));
    unlock_find(&e->header, e->options->config->escrow_crypttab, request->mapped_name, &how);
    a->unlock = how.kind;
    return r < 0 ? r : message_text(&a->unlock_with, how.with);
}

static int act(struct enrolment *e, const Sp__KeyslotRequest *request, Sp__KeyslotAnswer *a,
               struct sp_why *why)
{
    struct unlock how = {0};
    int r = header_open(request->device, request->volume_id, &e->header, why);
    if (r == 0) /* also where it is not allowed any more: what was begun is not left half done */
        r = settle(e, why);
    if (r == 0 && request->order && !e->options->config->escrow_enrol)
        r = sp_why_set(why, -EPERM,
                       "this agent's configuration does not allow it: '[escrow] enrol = on'");
    else if (r == 0 && request->order) {
        r = obey(e, request, &how, why);
        a->unlock = how.kind;
        if (r == 0)
            r = message_text(&a->unlock_with, how.with);
    } else if (r == 0)
        r = tell(e, request, a, why);
    if (r == 0)
        r = list_records(e, a, why);
    header_close(&e->header);
    return r;
}

int keyslot_serve(const struct keyslot_options *options, const Sp__KeyslotRequest *request,
                  Sp__Answer **ret)
{
    struct orders orders;
    struct sp_why why = {""};
    Sp__Answer *answer = malloc(sizeof(*answer));
    Sp__KeyslotAnswer *a = malloc(sizeof(*a));
    if (!answer || !a) {
        free(answer);
        free(a);
        return -ENOMEM;
    }
    sp__answer__init(answer);
    sp__keyslot_answer__init(a);
    answer->kind_case = SP__ANSWER__KIND_KEYSLOT;
    answer->keyslot = a;
    at(options, KEYSLOT_BEGUN);
    struct enrolment e = {.options = options, .orders = &orders, .volume_id = request->volume_id};
    int r = orders_open(options->config, &orders, &why);
    if (r == 0)
        r = orders_lock(&orders, &why);
    if (r == 0)
        r = act(&e, request, a, &why);
    orders_close(&orders);
    if (r < 0) {
        answer->error = -r;
        r = message_text(&answer->text, sp_why_told(&why, r).text);
        sp__keyslot_answer__free_unpacked(a, NULL);
        answer->keyslot = NULL;
        answer->kind_case = SP__ANSWER__KIND__NOT_SET;
    }
    if (r < 0)
        sp__answer__free_unpacked(answer, NULL);
    else
        *ret = answer;
    return r;
}

/* ---- typed ---- */

struct typing {
    const struct keyslot_options *options;
    struct orders *orders;
    const char *name;
    unsigned found;
};

/* The device may have another name than when the order came. */
static char *find_device(const struct typing *t, const Sp__KeyslotRequest *request)
{
    SP_FREE char *uuid = strdup(request->volume_id + strlen("luks:"));
    if (!uuid)
        return NULL;
    uuid[strcspn(uuid, "@")] = 0;
    SP_FREE char *link = sp_format("/dev/disk/by-uuid/%s", uuid);
    const char *candidates[] = {t->name, request->device, link};
    for (size_t i = 0; i < SP_COUNT(candidates); i++) {
        struct header h;
        struct sp_why why = {""};
        int r = candidates[i] && candidates[i][0] == '/'
                    ? header_open(candidates[i], request->volume_id, &h, &why)
                    : -ENOENT;
        if (candidates[i] && candidates[i][0] == '/')
            header_close(&h);
        if (r == 0)
            return strdup(candidates[i]);
    }
    return NULL;
}

static int unlock_typed(struct enrolment *e, struct sp_secret **ret, struct sp_why *why)
{
    int r = -EPERM;
    for (unsigned i = 0; r == -EPERM && i < TRIES; i++) {
        SP_SECRET struct sp_secret *passphrase = NULL;
        SP_FREE char *prompt = sp_format("Passphrase of %s", e->header.device);
        if (r == -EPERM && i > 0)
            terminal_say("%s", why->text);
        r = prompt ? terminal_ask(prompt, &passphrase, why) : -ENOMEM;
        if (r == 0)
            r = unlock_by_passphrase(&e->header, passphrase, ret, why);
    }
    return r;
}

/* The passphrase is asked for without the lock: the agent has its own to do. */
static int type_one(void *self, const Sp__KeyslotRequest *request, const Sp__KeyslotOrder *order,
                    struct sp_why *why)
{
    struct typing *t = self;
    struct enrolment e = {
        .options = t->options, .orders = t->orders, .volume_id = request->volume_id};
    SP_SECRET struct sp_secret *volume_key = NULL, *key = NULL;
    SP_FREE char *device = find_device(t, request);
    if (t->name && strcmp(t->name, request->volume_id) != 0 &&
        (!device || strcmp(t->name, device) != 0))
        return 0;
    t->found++;
    if (!device)
        return sp_why_set(why, -ENOENT, "cannot find the volume %s: give its device",
                          request->volume_id);
    int r = header_open(device, request->volume_id, &e.header, why);
    if (r == 0)
        r = check_header(&e, order, why);
    if (r == 0) {
        terminal_say("%s: a recovery key of the keeper goes into keyslot %u; the other keyslots "
                     "stay as they are.",
                     device, order->keyslot);
        r = unlock_typed(&e, &volume_key, why);
    }
    if (r == 0)
        r = orders_lock(t->orders, why);
    if (r == 0)
        r = check_header(&e, order, why); /* again: time has gone by */
    if (r == 0)
        r = order_key(t->orders, order, &key, why);
    if (r == 0)
        r = carry_out(&e, NULL, order, volume_key, key, why);
    if (r == -ESTALE) /* it is void: the backup host asks anew */
        order_drop(t->orders, order->record_id, ORDER_WAITING);
    orders_unlock(t->orders);
    header_close(&e.header);
    if (r == 0)
        terminal_say(
            "%s: keyslot %u holds the recovery key. It counts once a backup has proved it.", device,
            order->keyslot);
    return r;
}

/* Of one that was killed here or in the agent's name. */
static int settle_one(void *self, const Sp__KeyslotRequest *request, const Sp__KeyslotOrder *order,
                      struct sp_why *why)
{
    struct typing *t = self;
    struct enrolment e = {
        .options = t->options, .orders = t->orders, .volume_id = request->volume_id};
    SP_FREE char *device = find_device(t, request);
    if (!device)
        return 0;
    int r = header_open(device, request->volume_id, &e.header, why);
    if (r == 0)
        r = settle_order(&e, request, order, why);
    header_close(&e.header);
    return r;
}

int keyslot_typed(const struct keyslot_options *options, const char *name, struct sp_why *why)
{
    struct orders orders;
    struct typing t = {.options = options, .orders = &orders, .name = name};
    int r = orders_open(options->config, &orders, why);
    if (r == 0 && !options->config->escrow_enrol)
        r = sp_why_set(why, -EPERM,
                       "this agent's configuration does not allow it: '[escrow] enrol = on'");
    if (r == 0)
        r = orders_lock(&orders, why);
    if (r == 0)
        r = order_each(&orders, ORDER_UNDER_WAY, NULL, settle_one, &t, why);
    orders_unlock(&orders);
    if (r == 0)
        r = order_each(&orders, ORDER_WAITING, NULL, type_one, &t, why);
    if (r == 0 && t.found == 0)
        r = sp_why_set(why, -ENOENT,
                       "no order waits for a passphrase%s%s: 'sealpoint key enrol MACHINE VOLUME' "
                       "on the backup host makes one",
                       name ? " for " : "", name ? name : "");
    orders_close(&orders);
    return r;
}
