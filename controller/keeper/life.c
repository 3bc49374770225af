/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/life.h"

#include "controller/keeper/audit.h"
#include "controller/keeper/carry.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/reconcile.h"
#include "controller/keeper/records.h"
#include "controller/keeper/wrap.h"
#include <string.h>

#define S(x) SP__RECORD_STATE__RECORD_STATE_##x

static const uint64_t destroy_wait_ms = 3ull * 24 * 3600 * 1000;

MESSAGE_CLEANUP(record, Sp__EscrowRecord, sp__escrow_record__free_unpacked)
MESSAGE_CLEANUP(destruction, Sp__PendingDestruction, sp__pending_destruction__free_unpacked)

static const char *state_name(Sp__RecordState state)
{
    return sp_enum_name(&sp__record_state__descriptor, (int)state, "RECORD_STATE_");
}

/* ---- steps ---- */

static bool may_become(Sp__RecordState from, Sp__RecordState to)
{
    switch (to) {
    case S(ACTIVE):
        return from == S(PENDING);
    case S(SUPERSEDED):
        return from == S(ACTIVE);
    case S(COMPROMISED):
        return from == S(PENDING) || from == S(ACTIVE) || from == S(SUPERSEDED);
    case S(DESTROYED):
        return from != S(DESTROYED);
    default:
        return false;
    }
}

static int add_step(struct keeper *k, const char *record_id, Sp__RecordState state, const char *who,
                    const char *reason)
{
    int r = store_run(k->store,
                      "INSERT INTO states SELECT ?1, 1+(SELECT count(*) FROM states WHERE "
                      "record_id=?1), ?2, ?3, ?4, ?5",
                      "siiss", record_id, (int64_t)state, (int64_t)keeper_now_ms(k), who, reason);
    return r < 0 ? r : journal_note(k, "states", record_id);
}

int life_begin(struct keeper *k, const char *record_id, Sp__RecordState state, const char *who,
               const char *reason)
{
    return add_step(k, record_id, state, who, reason);
}

int life_become(struct keeper *k, const char *record_id, Sp__RecordState to, const char *who,
                const char *reason, struct sp_why *why)
{
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    int r = record_load(k, record_id, &e, NULL, NULL);
    if (r < 0)
        return sp_why_set(why, r, "there is no record %.60s", record_id);
    if (!may_become(e->state, to))
        return sp_why_set(why, -ESTALE, "the record %s is %s: it cannot become %s", e->record_id,
                          state_name(e->state), state_name(to));
    r = store_run(k->store, "UPDATE records SET state=? WHERE record_id=?", "is", (int64_t)to,
                  record_id);
    if (r == 0)
        r = journal_note(k, "records", record_id);
    return r < 0 ? r : add_step(k, record_id, to, who, reason);
}

/* The next active generation that a newer one takes the place of; 1: there is one. */
static int next_older(struct keeper *k, const Sp__EscrowRecord *by, char out[37])
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT record_id FROM records WHERE machine_id=? AND volume_id=? AND "
                        "protector_id=? AND provider=? AND generation<? AND state=? LIMIT 1",
                        "ssssii", by->machine_id, by->volume_id, by->protector_id, by->provider,
                        (int64_t)by->generation, (int64_t)S(ACTIVE));
    if (r == 0)
        r = store_step(stmt);
    if (r == 1)
        snprintf(out, 37, "%s", store_text(stmt, 0));
    return r;
}

int life_supersede(struct keeper *k, const Sp__EscrowRecord *by, const char *who)
{
    char older[37], reason[80];
    int r;
    snprintf(reason, sizeof(reason), "generation %u is in its place", by->generation);
    while ((r = next_older(k, by, older)) == 1)
        if ((r = life_become(k, older, S(SUPERSEDED), who, reason, NULL)) < 0)
            break;
    return r;
}

int life_proved(struct keeper *k, const Sp__EscrowRecord *proved)
{
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    int r = record_load(k, proved->record_id, &e, NULL, NULL);
    if (r == 0 && e->state == S(DESTROYED))
        r = -ENODATA;
    if (r < 0 || e->state != S(PENDING))
        return r;
    r = life_become(k, e->record_id, S(ACTIVE), "keeper", "a proof opened the volume with it",
                    NULL);
    if (r == 0)
        r = life_supersede(k, e, "keeper");
    return r < 0 ? r
                 : audit_write(k, "keeper", "key.active", e->record_id,
                               "machine %s volume %.100s generation %u opened the volume",
                               e->machine_id, e->volume_id, e->generation);
}

/* ---- the end ---- */

static int load_destruction(struct keeper *k, const char *record_id, Sp__PendingDestruction **ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT asked_by, asked_ms, not_before_ms, why FROM destructions WHERE "
                        "record_id=?",
                        "s", record_id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    SP_CLEANUP(destruction)
    Sp__PendingDestruction *d = MESSAGE_NEW(Sp__PendingDestruction, sp__pending_destruction__init);
    if (!d)
        return -ENOMEM;
    d->asked_unix_ms = (uint64_t)store_int(stmt, 1);
    d->not_before_unix_ms = (uint64_t)store_int(stmt, 2);
    r = message_text(&d->asked_by, store_text(stmt, 0));
    if (r == 0)
        r = message_text(&d->why, store_text(stmt, 3));
    if (r == 0)
        *ret = sp_steal(d);
    return r;
}

static int ask_destruction(struct keeper *k, const char *record_id, const char *who,
                           const char *reason)
{
    uint64_t now = keeper_now_ms(k);
    uint64_t wait = k->options.destroy_wait_ms ? k->options.destroy_wait_ms : destroy_wait_ms;
    int r = store_run(k->store, "INSERT INTO destructions VALUES(?,?,?,?,?)", "sissi", record_id,
                      (int64_t)now, who, reason, (int64_t)(now + wait));
    return r < 0 ? r : journal_note(k, "destructions", record_id);
}

static int drop_destruction(struct keeper *k, const char *record_id)
{
    int r = store_run(k->store, "DELETE FROM destructions WHERE record_id=?", "s", record_id);
    return r < 0 ? r : journal_note(k, "destructions", record_id);
}

/* The secret, everything derived from it, and every way to it. */
static int erase(struct keeper *k, const char *record_id)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT dek_id FROM records WHERE record_id=?", "s",
                        record_id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    r = wrap_drop(k, store_text(stmt, 0));
    sqlite3_reset(stmt);
    if (r == 0)
        r = carry_drop_record(k, record_id);
    if (r == 0)
        r = store_run(k->store,
                      "UPDATE records SET dek_id='', nonce=x'', ciphertext=x'', secret_hmac=x'' "
                      "WHERE record_id=?",
                      "s", record_id);
    return r;
}

static int check_destroy(struct keeper *k, const Sp__EscrowRecord *e, struct sp_why *why)
{
    if (e->state == S(DESTROYED))
        return sp_why_set(why, -ESTALE, "the record %s is destroyed already", e->record_id);
    if (e->pins > 0)
        return sp_why_set(why, -EBUSY,
                          "%u kept points rest on the record %s: it can go when they are gone",
                          e->pins, e->record_id);
    return reconcile_check(k, why);
}

int life_destroy(struct keeper *k, const char *record_id, const char *who, const char *reason,
                 Sp__PendingDestruction **ret, struct sp_why *why)
{
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    SP_CLEANUP(destruction) Sp__PendingDestruction *d = NULL;
    int r = record_load(k, record_id, &e, NULL, NULL);
    if (r < 0)
        return sp_why_set(why, r, "there is no record %.60s", record_id);
    r = check_destroy(k, e, why);
    if (r == 0)
        r = load_destruction(k, record_id, &d);
    if (r == -ENOENT) {
        r = ask_destruction(k, record_id, who, reason);
        return r < 0 ? r : load_destruction(k, record_id, ret);
    }
    if (r < 0)
        return r;
    if (keeper_now_ms(k) < d->not_before_unix_ms) {
        *ret = sp_steal(d);
        return 0;
    }
    r = erase(k, record_id);
    if (r == 0)
        r = life_become(k, record_id, S(DESTROYED), who, reason, why);
    return r < 0 ? r : drop_destruction(k, record_id);
}

int life_take_back(struct keeper *k, const Sp__EscrowRecord *e, const char *who, const char *reason,
                   struct sp_why *why)
{
    if (e->state != S(PENDING))
        return sp_why_set(why, -ESTALE, "the record %s is %s, not pending", e->record_id,
                          state_name(e->state));
    int r = check_destroy(k, e, why);
    if (r == 0)
        r = erase(k, e->record_id);
    return r < 0 ? r : life_become(k, e->record_id, S(DESTROYED), who, reason, why);
}

int life_withdraw(struct keeper *k, const char *record_id, struct sp_why *why)
{
    SP_CLEANUP(destruction) Sp__PendingDestruction *d = NULL;
    int r = load_destruction(k, record_id, &d);
    if (r == -ENOENT)
        return sp_why_set(why, r, "nobody asked for the destruction of the record %.60s",
                          record_id);
    return r < 0 ? r : drop_destruction(k, record_id);
}

/* ---- what is known of a record ---- */

static int find_prefix(struct keeper *k, const char *prefix, char out[37], struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    size_t length = strlen(prefix);
    if (length < 4 || length > 36 || strspn(prefix, "0123456789abcdef-") != length)
        return sp_why_set(why, -EINVAL, "'%.60s' is no id of a record: at least 4 of its digits",
                          prefix);
    int r = store_query(k->store, &stmt,
                        "SELECT record_id FROM records WHERE record_id>=?1 AND "
                        "record_id<?1||'g' LIMIT 2",
                        "s", prefix);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : sp_why_set(why, -ENOENT, "there is no record '%s'", prefix);
    snprintf(out, 37, "%s", store_text(stmt, 0));
    r = store_step(stmt);
    return r == 1 ? sp_why_set(why, -ENOTUNIQ, "several records begin with '%s'", prefix) : r;
}

static int add_history(struct keeper *k, Sp__KeyDetail *d)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT state, at_ms, who, why FROM states WHERE record_id=? ORDER BY "
                        "number",
                        "s", d->record->record_id);
    while (r == 0 && (r = store_step(stmt)) == 1) {
        Sp__KeyStateChange *c = MESSAGE_NEW(Sp__KeyStateChange, sp__key_state_change__init);
        r = c ? MESSAGE_ROOM(d->history, d->n_history) : -ENOMEM;
        if (r < 0) {
            free(c);
            break;
        }
        d->history[d->n_history++] = c;
        c->state = (Sp__RecordState)store_int(stmt, 0);
        c->at_unix_ms = (uint64_t)store_int(stmt, 1);
        r = message_text(&c->who, store_text(stmt, 2));
        if (r == 0)
            r = message_text(&c->why, store_text(stmt, 3));
    }
    return r;
}

static int add_same(struct keeper *k, Sp__KeyDetail *d)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    if (d->record->secret_hmac.len == 0)
        return 0;
    int r = store_query(k->store, &stmt,
                        "SELECT record_id FROM records WHERE secret_hmac=? AND record_id<>? "
                        "ORDER BY machine_id, volume_id, generation",
                        "bs", d->record->secret_hmac.data, d->record->secret_hmac.len,
                        d->record->record_id);
    while (r == 0 && (r = store_step(stmt)) == 1) {
        SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
        r = record_load(k, store_text(stmt, 0), &e, NULL, NULL);
        if (r == 0)
            r = MESSAGE_ROOM(d->same_secret, d->n_same_secret);
        if (r == 0)
            d->same_secret[d->n_same_secret++] = sp_steal(e);
    }
    return r;
}

static int add_point(Sp__KeyDetail *d, sqlite3_stmt *stmt, const Sp__EscrowRecord *e)
{
    Sp__ExposedPoint *p = MESSAGE_NEW(Sp__ExposedPoint, sp__exposed_point__init);
    int r = p ? MESSAGE_ROOM(d->points, d->n_points) : -ENOMEM;
    if (r < 0) {
        free(p);
        return r;
    }
    d->points[d->n_points++] = p;
    p->proved = store_int(stmt, 1) != 0;
    r = message_text(&p->point_id, store_text(stmt, 0));
    if (r == 0)
        r = message_text(&p->machine_id, e->machine_id);
    return r < 0 ? r : message_text(&p->volume_id, e->volume_id);
}

/* Every kept point of the volume, whichever record it rests on: the keyslot of an older or newer
 * key stands in the same header, and leads to the same volume key. */
static int add_volume(struct keeper *k, Sp__KeyDetail *d, const Sp__EscrowRecord *e)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    for (size_t i = 0; i < d->n_volumes; i++)
        if (strcmp(d->volumes[i]->machine_id, e->machine_id) == 0 &&
            strcmp(d->volumes[i]->volume_id, e->volume_id) == 0)
            return 0;
    Sp__ExposedVolume *v = MESSAGE_NEW(Sp__ExposedVolume, sp__exposed_volume__init);
    int r = v ? MESSAGE_ROOM(d->volumes, d->n_volumes) : -ENOMEM;
    if (r < 0) {
        free(v);
        return r;
    }
    d->volumes[d->n_volumes++] = v;
    r = message_text(&v->machine_id, e->machine_id);
    if (r == 0)
        r = message_text(&v->volume_id, e->volume_id);
    if (r == 0)
        r = store_query(k->store, &stmt,
                        "SELECT p.point_id, max(r.secret_hmac=?3) FROM records r JOIN pins p ON "
                        "p.record_id=r.record_id WHERE r.machine_id=?1 AND r.volume_id=?2 GROUP "
                        "BY p.point_id ORDER BY min(p.created_ms), p.point_id",
                        "ssb", e->machine_id, e->volume_id, d->record->secret_hmac.data,
                        d->record->secret_hmac.len);
    while (r == 0 && (r = store_step(stmt)) == 1)
        r = add_point(d, stmt, e);
    return r;
}

static int fill_detail(struct keeper *k, Sp__KeyDetail *d)
{
    int r = add_history(k, d);
    if (r == 0)
        r = add_same(k, d);
    if (r == 0 && d->record->state != S(DESTROYED))
        r = add_volume(k, d, d->record);
    for (size_t i = 0; i < d->n_same_secret && r == 0; i++)
        r = add_volume(k, d, d->same_secret[i]);
    if (r == 0) {
        r = load_destruction(k, d->record->record_id, &d->destruction);
        r = r == -ENOENT ? 0 : r;
    }
    return r;
}

int life_detail(struct keeper *k, const char *prefix, Sp__KeyDetail **ret, struct sp_why *why)
{
    char record_id[37];
    int r = find_prefix(k, prefix, record_id, why);
    if (r < 0)
        return r;
    Sp__KeyDetail *d = MESSAGE_NEW(Sp__KeyDetail, sp__key_detail__init);
    r = d ? record_load(k, record_id, &d->record, NULL, NULL) : -ENOMEM;
    if (r == 0)
        r = fill_detail(k, d);
    if (r == 0)
        *ret = d;
    else if (d)
        sp__key_detail__free_unpacked(d, NULL);
    return r;
}

int keeper_show_key(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                    Sp__KeeperResponse *out, struct sp_why *why)
{
    (void)fd;
    int r = life_detail(k, request->show_key->record_id, &out->show_key, why);
    if (r == 0)
        out->kind_case = SP__KEEPER_RESPONSE__KIND_SHOW_KEY;
    return r;
}
