/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/external.h"

#include "controller/keeper/audit.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/life.h"
#include "controller/keeper/machines.h"
#include "controller/keeper/message.h"
#include "controller/keeper/pins.h"
#include "controller/keeper/prove.h"
#include "controller/keeper/records.h"
#include <string.h>

#define V(x) SP__PROOF_VERDICT__PROOF_VERDICT_##x

enum { DESCRIPTION_BYTES = 1024 };

MESSAGE_CLEANUP(record, Sp__EscrowRecord, sp__escrow_record__free_unpacked)

struct asking {
    struct proving *p;
    struct provider_query query;
    Sp__EscrowRecord *const *records; /* of the keystore, tried already */
    size_t count;
};

/* ---- answers ---- */

static Sp__ProofVerdict verdict_of(int error)
{
    switch (error) {
    case -ENOENT:
        return V(NO_RECORD);
    case -EACCES:
        return V(DENIED);
    case -EKEYEXPIRED:
        return V(EXPIRED);
    default:
        return V(UNREACHABLE);
    }
}

static int explain(Sp__ProofStatement *s, const char *text)
{
    if (s->explanation[0])
        free(s->explanation);
    s->explanation = (char *)(uintptr_t)protobuf_c_empty_string;
    return message_text(&s->explanation, text);
}

/* The graver answer stands: "absent" says nothing while another provider could not be asked. */
static int settle(Sp__ProofStatement *s, Sp__ProofVerdict verdict, const char *text)
{
    if (s->verdict != V(UNSPECIFIED) && proving_weight(verdict) <= proving_weight(s->verdict))
        return 0;
    s->verdict = verdict;
    if (s->record)
        sp__escrow_record__free_unpacked(sp_steal(s->record), NULL);
    return explain(s, text);
}

/* What a provider said instead of a key goes into the statement, whatever stands in the end. */
static int note_answer(struct asking *a, const char *provider, int error, const char *reason)
{
    Sp__EscrowRecord none = SP__ESCROW_RECORD__INIT;
    Sp__ProofVerdict verdict = verdict_of(error);
    char text[560];
    if (error == -ENOMEM)
        return error;
    none.provider = (char *)(uintptr_t)provider;
    snprintf(text, sizeof(text), "%s: %s", provider, reason[0] ? reason : strerror(-error));
    int r = proving_note(a->p, &none, verdict, text);
    return r < 0 ? r : settle(a->p->statement, verdict, text);
}

/* ---- one key ---- */

static int make_record(const struct asking *a, const struct provider *from,
                       const struct provider_item *item, const struct sp_secret *secret,
                       Sp__EscrowRecord **ret)
{
    SP_CLEANUP(record)
    Sp__EscrowRecord *e = MESSAGE_NEW(Sp__EscrowRecord, sp__escrow_record__init);
    char base[VOLUME_ID_BYTES], note[DESCRIPTION_BYTES];
    uint8_t hmac[32];
    if (!e)
        return -ENOMEM;
    struct keeper *k = a->p->k;
    e->secret_type = item->secret_type;
    e->unwrapped = item->unwrapped;
    e->state = SP__RECORD_STATE__RECORD_STATE_ACTIVE;
    from->type->describe(from, item, note, sizeof(note));
    pthread_mutex_lock(&k->lock);
    int r = record_hmac(k, e->secret_type, (struct sp_bytes){0}, secret, hmac);
    pthread_mutex_unlock(&k->lock);
    if (r == 0)
        r = message_bytes(&e->secret_hmac, hmac, sizeof(hmac));
    if (r == 0)
        r = message_text(&e->provider, from->name);
    if (r == 0)
        r = message_text(&e->version, item->version);
    if (r == 0)
        r = message_text(&e->protector_id, item->protector_id);
    if (r == 0)
        r = message_text(&e->machine_id, a->query.machine_id);
    if (r == 0)
        r = message_text(&e->volume_id, sp_volume_id_base(a->query.volume->volume_id, base));
    if (r == 0)
        r = message_text(&e->note, note);
    if (r == 0)
        *ret = sp_steal(e);
    return r;
}

static bool same_secret(const Sp__EscrowRecord *a, const Sp__EscrowRecord *b)
{
    return a->secret_hmac.len == 32 && b->secret_hmac.len == 32 &&
           memcmp(a->secret_hmac.data, b->secret_hmac.data, 32) == 0;
}

/* The keystore has this very secret and tried it where it would be tried now. */
static bool was_tried(const struct asking *a, const Sp__EscrowRecord *e)
{
    for (size_t i = 0; i < a->count; i++) {
        const Sp__EscrowRecord *x = a->records[i];
        if (!record_is_reference(x) && same_secret(x, e) &&
            (!x->protector_id[0] || strcmp(x->protector_id, e->protector_id) == 0))
            return true;
    }
    return false;
}

/* 1: opens. */
static int try_item(struct asking *a, const struct provider *from, const struct provider_item *item)
{
    SP_SECRET struct sp_secret *secret = NULL;
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    provider_stage stage = 0;
    struct sp_why why = {""};
    int r = from->type->fetch(from, item, &secret, &stage, &why);
    if (r < 0)
        return note_answer(a, from->name, r, why.text);
    r = make_record(a, from, item, secret, &e);
    if (r < 0 || was_tried(a, e))
        return r;
    r = proving_try(a->p, e, secret);
    if (r != 1)
        return r;
    a->p->from = from;
    a->p->fetched = sp_steal(secret);
    a->p->warned = item->warning && !from->mirror;
    r = a->p->warned ? explain(a->p->statement, item->warning) : 0;
    return r < 0 ? r : 1;
}

/* ---- one provider ---- */

/* What this very point was proved with: the provider may have other versions by now. */
static int ask_again(struct asking *a, const struct provider *from)
{
    PROVIDER_ITEMS struct provider_items found = {0};
    int r = 0;
    for (size_t i = 0; i < a->count && r == 0; i++) {
        const Sp__EscrowRecord *e = a->records[i];
        if (!record_is_reference(e) || strcmp(e->provider, from->name) != 0)
            continue;
        pthread_mutex_lock(&a->p->k->lock);
        bool own = pin_exists(a->p->k, a->p->ask->point_id, e->record_id);
        pthread_mutex_unlock(&a->p->k->lock);
        r = own ? from->type->recall(from, e, &found) : 0;
    }
    for (size_t i = 0; i < found.count && r == 0; i++)
        r = try_item(a, from, &found.items[i]);
    return r;
}

static int ask(struct asking *a, const struct provider *from)
{
    PROVIDER_ITEMS struct provider_items found = {0};
    provider_stage stage = 0;
    struct sp_why why = {""};
    int r = a->p->ask->reproof && from->type->recall ? ask_again(a, from) : 0;
    if (r != 0)
        return r;
    r = from->type->lookup(from, &a->query, &found, &stage, &why);
    if (r == 0 && found.count == 0)
        r = sp_why_set(&why, -EPROTO, "it found keys and named none");
    if (r < 0)
        return note_answer(a, from->name, r, why.text);
    for (size_t i = 0; i < found.count && r == 0; i++)
        r = try_item(a, from, &found.items[i]);
    return r;
}

/* A reference whose provider is gone from keeper.conf is a key that nobody can look for. */
static int note_orphans(struct asking *a)
{
    int r = 0;
    for (size_t i = 0; i < a->count && r == 0; i++) {
        const Sp__EscrowRecord *e = a->records[i];
        if (record_is_reference(e) && !providers_find(a->p->k->options.providers, e->provider))
            r = note_answer(a, e->provider, -EHOSTUNREACH,
                            "a key is said to be there, and keeper.conf has no such provider any "
                            "more");
    }
    return r;
}

/* ---- one that is bare at its provider ---- */

/* A later copy of the same secret, made when a KEK was around it. 1: it is the record now. */
static int use_wrapped_copy(struct asking *a)
{
    Sp__EscrowRecord **opened = &a->p->statement->record;
    for (size_t i = 0; i < a->count; i++) {
        const Sp__EscrowRecord *x = a->records[i];
        if (x->unwrapped || record_is_reference(x) || !same_secret(x, *opened) ||
            strcmp(x->provider, (*opened)->provider) != 0)
            continue;
        Sp__EscrowRecord *copy = (Sp__EscrowRecord *)sp_message_copy(&x->base);
        if (!copy)
            return -ENOMEM;
        sp__escrow_record__free_unpacked(*opened, NULL);
        *opened = copy;
        return 1;
    }
    return 0;
}

/* 1: the very secret that opened, and a KEK is around it by now. */
static int try_wrapped(struct asking *a, const struct provider *from,
                       const struct provider_item *item)
{
    SP_SECRET struct sp_secret *secret = NULL;
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    Sp__EscrowRecord **opened = &a->p->statement->record;
    provider_stage stage = 0;
    struct sp_why why = {""};
    if (item->unwrapped || from->type->fetch(from, item, &secret, &stage, &why) < 0)
        return 0;
    int r = make_record(a, from, item, secret, &e);
    if (r < 0 || !same_secret(*opened, e))
        return r;
    sp__escrow_record__free_unpacked(*opened, NULL);
    *opened = sp_steal(e);
    sp_secret_free(a->p->fetched);
    a->p->from = from;
    a->p->fetched = sp_steal(secret);
    return 1;
}

/* What opened lay bare when it was copied. That may have been put right since: asked there, and
 * whatever the answer, the volume opens. */
static int look_for_wrapped(struct asking *a)
{
    PROVIDER_ITEMS struct provider_items found = {0};
    const struct provider *from =
        providers_find(a->p->k->options.providers, a->p->statement->record->provider);
    provider_stage stage = 0;
    struct sp_why why = {""};
    int r = use_wrapped_copy(a);
    if (r != 0 || !from || from->type->lookup(from, &a->query, &found, &stage, &why) < 0)
        return r;
    for (size_t i = 0; i < found.count && r == 0; i++)
        r = try_wrapped(a, from, &found.items[i]);
    return r;
}

static bool opened_bare(const struct proving *p)
{
    return p->statement->verdict == V(OPENS) && p->statement->record &&
           p->statement->record->unwrapped;
}

/* Other keys tell nothing when the header is gone, or when one has opened it. */
static bool is_settled(Sp__ProofVerdict verdict)
{
    return proving_weight(verdict) >= proving_weight(V(UNCHECKABLE));
}

int external_prove(struct proving *p, Sp__EscrowRecord *const *records, size_t count)
{
    const struct providers *all = p->k->options.providers;
    struct machine m = {.name = ""};
    struct asking a = {.p = p, .records = records, .count = count};
    if (is_settled(p->statement->verdict) && !opened_bare(p))
        return 0;
    a.query = (struct provider_query){.machine_id = p->ask->machine_id, .volume = p->ask->volume};
    /* The name that the keeper certified counts more than what the controller says. */
    pthread_mutex_lock(&p->k->lock);
    bool enrolled = machine_load(p->k, p->ask->machine_id, &m) == 0;
    pthread_mutex_unlock(&p->k->lock);
    a.query.machine_name = enrolled ? m.name : p->ask->machine_name;
    int r = opened_bare(p) ? look_for_wrapped(&a) : 0;
    if (is_settled(p->statement->verdict))
        return r < 0 ? r : 0;
    for (size_t i = 0; i < providers_count(all) && r == 0; i++)
        if (providers_at(all, i)->type->serves(providers_at(all, i), p->ask->volume))
            r = ask(&a, providers_at(all, i));
    if (r == 0)
        r = note_orphans(&a);
    return r < 0 ? r : 0;
}

/* ---- keeping ---- */

/* The record that holds this very secret already, as wanted; "" when none does. */
static int find_same(struct keeper *k, const Sp__EscrowRecord *e, bool copy, char ret_id[37],
                     uint32_t *ret_newest)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    ret_id[0] = 0;
    *ret_newest = 0;
    int r = store_query(k->store, &stmt,
                        "SELECT generation, record_id, secret_hmac, length(ciphertext), state, "
                        "version, EXISTS(SELECT 1 FROM unwrapped u WHERE u.record_id=r.record_id) "
                        "FROM records r WHERE machine_id=? AND volume_id=? AND protector_id=? AND "
                        "provider=? ORDER BY generation DESC",
                        "ssss", e->machine_id, e->volume_id, e->protector_id, e->provider);
    while (r == 0 && (r = store_step(stmt)) == 1) {
        struct sp_bytes hmac = store_blob(stmt, 2);
        r = 0;
        if (!*ret_newest)
            *ret_newest = (uint32_t)store_int(stmt, 0);
        if (store_int(stmt, 4) == SP__RECORD_STATE__RECORD_STATE_DESTROYED || hmac.size != 32 ||
            memcmp(hmac.data, e->secret_hmac.data, 32) != 0 || (copy && store_int(stmt, 3) == 0) ||
            (store_int(stmt, 6) != 0) != e->unwrapped)
            continue;
        /* A copy is the same whatever it was copied from; a reference is to that version alone. */
        if (!copy && strcmp(store_text(stmt, 5), e->version) != 0)
            continue;
        snprintf(ret_id, 37, "%s", store_text(stmt, 1));
        break;
    }
    return r;
}

static int add_record(struct proving *p, const Sp__EscrowRecord *e, uint32_t generation,
                      char record_id[37])
{
    struct keeper *k = p->k;
    const bool mirror = p->from->mirror;
    SP_CLEANUP(record) Sp__EscrowRecord *added = NULL;
    const struct record_new n = {.provider = e->provider,
                                 .machine_id = e->machine_id,
                                 .volume_id = e->volume_id,
                                 .protector_id = e->protector_id,
                                 .version = e->version,
                                 .note = e->note,
                                 .by = "keeper",
                                 .generation = generation,
                                 .type = e->secret_type,
                                 .state = SP__RECORD_STATE__RECORD_STATE_ACTIVE,
                                 .secret = mirror ? p->fetched : NULL,
                                 .hmac = e->secret_hmac.data,
                                 .unwrapped = e->unwrapped};
    int r = sp_uuid_make(record_id);
    if (r == 0)
        r = record_insert(k, &n, record_id);
    if (r == 0)
        r = record_load(k, record_id, &added, NULL, NULL);
    if (r == 0)
        r = life_supersede(k, added, "keeper");
    return r < 0 ? r
                 : audit_write(k, "keeper", mirror ? "key.mirror" : "key.reference", record_id,
                               "machine %s volume %.100s generation %u of provider %s, version "
                               "%.80s",
                               e->machine_id, e->volume_id, generation, e->provider, e->version);
}

/* A forged point pins nothing; the seal then refuses the proof. */
static int pin(struct proving *p, const char *record_id)
{
    const Sp__ProveRequest *ask = p->ask;
    int r = pin_check_point(p->k, ask->point_id, ask->machine_id, NULL);
    if (r == -ESTALE)
        return 0;
    if (r == 0)
        r = pin_add(p->k, ask->point_id, ask->machine_id, record_id);
    return r < 0 ? r : journal_note(p->k, "pins", ask->point_id);
}

/* Of the last answer only: what was put right since is not warned of any more. */
static int keep_warning(struct proving *p, const char *record_id)
{
    struct store *store = p->k->store;
    const char *text = p->warned ? p->statement->explanation : "";
    int r = store_run(store, "DELETE FROM warnings WHERE record_id=?", "s", record_id);
    if (r == 0 && p->warned)
        r = store_run(store, "INSERT INTO warnings VALUES(?,?)", "ss", record_id, text);
    return r < 0 || !p->warned ? r
                               : audit_write(p->k, "keeper", "key.warning", record_id, "%s", text);
}

/* The attempt that opened was noted before the record had an id. */
static int name_attempt(Sp__ProofStatement *s)
{
    Sp__RecordAttempt *last = s->attempts[s->n_attempts - 1];
    if (last->record_id[0])
        return 0;
    last->generation = s->record->generation;
    return message_text(&last->record_id, s->record->record_id);
}

int external_keep(struct proving *p, bool *keep)
{
    Sp__ProofStatement *s = p->statement;
    SP_CLEANUP(record) Sp__EscrowRecord *e = sp_steal(s->record);
    char record_id[37];
    uint32_t newest = 0;
    int r = find_same(p->k, e, p->from->mirror, record_id, &newest);
    if (r == 0 && !record_id[0])
        r = add_record(p, e, newest + 1, record_id);
    if (r == 0)
        r = pin(p, record_id);
    if (r == 0)
        r = keep_warning(p, record_id);
    if (r == 0)
        r = record_load(p->k, record_id, &s->record, NULL, NULL);
    if (r < 0)
        return r;
    *keep = *keep && !record_is_reference(s->record);
    return name_attempt(s);
}

/* ---- for the admin ---- */

static int fill_provider(struct keeper *k, const struct provider *from, Sp__EscrowProvider *out)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT count(*) FROM records WHERE provider=?", "s",
                        from->name);
    if (r == 0)
        r = store_step(stmt);
    if (r < 0)
        return r;
    out->records = (uint32_t)store_int(stmt, 0);
    out->mirror = from->mirror;
    r = message_text(&out->name, from->name);
    return r < 0 ? r : message_text(&out->type, from->type->name);
}

int keeper_list_providers(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                          Sp__KeeperResponse *out, struct sp_why *why)
{
    const struct providers *all = k->options.providers;
    (void)request, (void)fd, (void)why;
    Sp__ListProvidersResponse *list =
        MESSAGE_NEW(Sp__ListProvidersResponse, sp__list_providers_response__init);
    if (!list)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_LIST_PROVIDERS;
    out->list_providers = list;
    int r = 0;
    for (size_t i = 0; i < providers_count(all) && r == 0; i++) {
        Sp__EscrowProvider *p = MESSAGE_NEW(Sp__EscrowProvider, sp__escrow_provider__init);
        r = p ? MESSAGE_ROOM(list->providers, list->n_providers) : -ENOMEM;
        if (r < 0) {
            free(p);
            break;
        }
        list->providers[list->n_providers++] = p;
        r = fill_provider(k, providers_at(all, i), p);
    }
    return r;
}

static int add_step(Sp__TestProviderResponse *t, provider_stage stage, bool good, const char *text)
{
    Sp__ProviderStep *s = MESSAGE_NEW(Sp__ProviderStep, sp__provider_step__init);
    int r = s ? MESSAGE_ROOM(t->steps, t->n_steps) : -ENOMEM;
    if (r < 0) {
        free(s);
        return r;
    }
    t->steps[t->n_steps++] = s;
    s->stage = stage;
    s->good = good;
    return good ? 0 : message_text(&s->text, text);
}

/* Every stage before the one that the canary came to is good. */
static int test(const struct provider *from, bool make, Sp__TestProviderResponse *t)
{
    struct sp_why why = {""};
    provider_stage reached = SP__PROVIDER_STAGE__PROVIDER_STAGE_CONNECTION;
    int e = make ? from->type->make_canary(from, &reached, &why) : 0, r = 0;
    if (e == 0)
        e = from->type->canary(from, &reached, &why);
    if (e == -ENOMEM)
        return e;
    if (e == 0)
        reached = SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY;
    for (int stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CONNECTION; stage <= (int)reached && r == 0;
         stage++)
        r = add_step(t, (provider_stage)stage, e == 0 || stage < (int)reached,
                     why.text[0] ? why.text : strerror(-e));
    t->good = e == 0;
    return r;
}

int keeper_test_provider(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                         Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__TestProviderRequest *ask = request->test_provider;
    const struct provider *from = providers_find(k->options.providers, ask->name);
    (void)fd;
    if (!from)
        return sp_why_set(
            why, -ENOENT,
            "keeper.conf has no provider '%.40s': 'sealpoint escrow list' shows those "
            "it has",
            ask->name);
    if (ask->make_canary && !from->type->make_canary)
        return sp_why_set(why, -EOPNOTSUPP,
                          "a canary at a provider of type %s is made there, by whoever puts the "
                          "keys there: sealpoint-keeper(8), PROVIDERS",
                          from->type->name);
    Sp__TestProviderResponse *t =
        MESSAGE_NEW(Sp__TestProviderResponse, sp__test_provider_response__init);
    if (!t)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_TEST_PROVIDER;
    out->test_provider = t;
    t->provider = MESSAGE_NEW(Sp__EscrowProvider, sp__escrow_provider__init);
    if (!t->provider)
        return -ENOMEM;
    int r = test(from, ask->make_canary, t);
    pthread_mutex_lock(&k->lock);
    if (r == 0)
        r = fill_provider(k, from, t->provider);
    if (r == 0)
        r = audit_write(k, keeper_who(request), "provider.test", from->name, "%s%s",
                        ask->make_canary ? "makes a canary: " : "",
                        t->good ? "answers" : t->steps[t->n_steps - 1]->text);
    pthread_mutex_unlock(&k->lock);
    return r;
}
