/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/keeper.h"

#include "base/file.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/message.h"
#include "controller/keeper/records.h"
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

enum { PROOFS_AT_ONCE = 2, LOOKS_AT_ONCE = 4, COMPACT_FROM = 20000 };

/* ---- open ---- */

/* Opens a KEK from the configured sources. -ENOKEY: none does; why says the last reason. */
static int open_some_kek(struct keeper *k, struct sp_why *why)
{
    static const char *const kinds[] = {KEK_CREDENTIAL, KEK_KEY_FILE, KEK_PKCS11, KEK_SCRYPT};
    bool any = false;
    for (size_t i = 0; i < SP_COUNT(kinds); i++) {
        SP_SECRET struct sp_secret *material = NULL;
        int r = kek_material(k, kinds[i], &material, why);
        if (r == -ENOENT)
            continue;
        any = true;
        if (r == 0)
            r = kek_open(k, kinds[i], material, why);
        if (r == 0)
            return 0;
    }
    if (!any)
        kek_none_configured(why);
    return -ENOKEY;
}

/* Half of what the machine has. */
static uint64_t memory_for_proofs_kib(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2048 : 0;
}

/* From the outside in: the KEK vouches for the sealing key, that one signed the journal, the
 * journal vouches for every row; only then are keys loaded. */
static void unlock(struct keeper *k)
{
    k->locked = true;
    if (open_some_kek(k, &k->lock_text) < 0) {
        journal_verify(k, &k->damage);
        return;
    }
    if (kek_check_root(k) < 0) {
        sp_why_set(&k->damage, 0, "the keystore's sealing key is not the one its KEK vouches for");
        return;
    }
    if (journal_verify(k, &k->damage) < 0) {
        if (!k->damage.text[0])
            sp_why_set(&k->damage, 0, "the keystore's journal cannot be read");
        return;
    }
    if (core_load(k, &k->damage) < 0)
        return;
    k->locked = false;
    journal_compact(k, COMPACT_FROM); /* when it cannot, it stays long */
}

int keeper_load(struct keeper *k, struct sp_why *why)
{
    SP_BUFFER struct sp_buffer domain = {0}, sealing = {0};
    int r = meta_get(k, "domain", &domain);
    if (r == -ENOENT)
        return 0;
    if (r == 0)
        r = meta_get(k, "sealing_key", &sealing);
    if (r == 0)
        r = kek_load(k);
    if (r < 0)
        return sp_why_set(why, r, "the keystore cannot be read");
    snprintf(k->domain, sizeof(k->domain), "%s", sp_buffer_text(&domain));
    free(k->sealing_der);
    k->sealing_der = sp_steal(sealing.data);
    k->sealing_der_size = sealing.size;
    k->initialised = true;
    unlock(k);
    return 0;
}

static int take_state(struct keeper *k, struct sp_why *why)
{
    SP_FREE char *lock = sp_format("%s/lock", k->options.state);
    SP_FREE char *path = sp_format("%s/keystore.db", k->options.state);
    if (!lock || !path)
        return -ENOMEM;
    int r = sp_make_directories(k->options.state, 0700);
    if (r < 0)
        return sp_why_set(why, r, "cannot make %s", k->options.state);
    k->state_lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (k->state_lock < 0)
        return sp_why_set(why, -errno, "cannot open %s", lock);
    if (flock(k->state_lock, LOCK_EX | LOCK_NB) < 0)
        return sp_why_set(why, -EBUSY, "another keeper uses %s", k->options.state);
    return store_open(path, &k->store, why);
}

int keeper_open(const struct keeper_options *options, struct keeper **ret, struct sp_why *why)
{
    struct keeper *k = calloc(1, sizeof(*k));
    if (!k)
        return -ENOMEM;
    k->options = *options;
    k->clock = options->clock ? options->clock : &sp_clock_system;
    k->state_lock = -1;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->proofs.free, NULL);
    pthread_cond_init(&k->looks.free, NULL);
    k->proofs.most = PROOFS_AT_ONCE;
    k->proofs.memory_kib = memory_for_proofs_kib();
    k->looks.most = LOOKS_AT_ONCE;
    int r = nonces_init(&k->nonces);
    if (r == 0)
        r = take_state(k, why);
    if (r == 0)
        r = keeper_load(k, why);
    if (r < 0) {
        keeper_close(k);
        return r;
    }
    *ret = k;
    return 0;
}

void keeper_close(struct keeper *k)
{
    if (!k)
        return;
    core_forget(k);
    kek_forget(&k->keks);
    reconcile_forget(&k->round);
    nonces_free(&k->nonces);
    free(k->sealing_der);
    store_close(k->store);
    if (k->state_lock >= 0)
        close(k->state_lock);
    pthread_mutex_destroy(&k->lock);
    pthread_cond_destroy(&k->proofs.free);
    pthread_cond_destroy(&k->looks.free);
    free(k);
}

/* ---- dispatch ---- */

enum {
    WHEN_EMPTY = 1,   /* before init */
    WHEN_LOCKED = 2,  /* needs no secret */
    WHEN_DAMAGED = 4, /* grants nothing: may be answered from a keystore that does not hold */
    OWN_LOCK = 8,     /* takes keeper.lock itself */
    WITH_FD = 16,
};

struct method {
    const char *name;
    unsigned flags;
    keeper_handler *handler;
};

#define METHOD(KIND) [SP__KEEPER_REQUEST__KIND_##KIND]
static const struct method methods[] = {
    METHOD(STATUS) = {"status", WHEN_EMPTY | WHEN_LOCKED | WHEN_DAMAGED, keeper_status},
    METHOD(INIT) = {"init", WHEN_EMPTY | WHEN_LOCKED, keeper_init},
    METHOD(ISSUE_CONTROLLER) = {"issue controller", 0, keeper_issue_controller},
    METHOD(ENROL) = {"enrol", 0, keeper_enrol},
    METHOD(RENEW) = {"renew", 0, keeper_renew},
    METHOD(IDENTITIES) = {"identities", WHEN_LOCKED, keeper_identities},
    METHOD(NONCE) = {"nonce", 0, keeper_nonce},
    METHOD(EXECUTE) = {"execute", 0, keeper_execute},
    METHOD(RELEASE) = {"release", 0, keeper_release},
    METHOD(IMPORT) = {"import", 0, keeper_import},
    METHOD(LIST_KEYS) = {"list keys", WHEN_LOCKED | WHEN_DAMAGED, keeper_list_keys},
    METHOD(KEYS) = {"keys", WHEN_LOCKED, keeper_keys},
    METHOD(PIN) = {"pin", 0, keeper_pin},
    METHOD(UNPIN) = {"unpin", 0, keeper_unpin},
    METHOD(LOOK) = {"look", WHEN_EMPTY | WHEN_LOCKED | WHEN_DAMAGED | OWN_LOCK | WITH_FD,
                    keeper_look},
    METHOD(PROVE) = {"prove", OWN_LOCK | WITH_FD, keeper_prove},
    METHOD(SEAL) = {"seal", 0, keeper_seal},
    METHOD(KEYSTORE_COPY) = {"keystore copy", 0, keeper_keystore_copy},
    METHOD(VAULT_KEY) = {"vault key", 0, keeper_vault_key},
    METHOD(AUDIT) = {"audit", WHEN_EMPTY | WHEN_LOCKED | WHEN_DAMAGED, keeper_audit},
    METHOD(LIST_TOKENS) = {"list tokens", WHEN_LOCKED | WHEN_DAMAGED, keeper_list_tokens},
    METHOD(CHECK) = {"check", WHEN_LOCKED | WHEN_DAMAGED, keeper_check},
    METHOD(AUDIT_NOTE) = {"audit note", WHEN_EMPTY | WHEN_LOCKED | WHEN_DAMAGED, keeper_audit_note},
    METHOD(SHOW_KEY) = {"show key", WHEN_LOCKED | WHEN_DAMAGED, keeper_show_key},
    METHOD(LIST_KEKS) = {"list KEKs", WHEN_LOCKED | WHEN_DAMAGED, keeper_list_keks},
    METHOD(WITNESS) = {"witness", 0, keeper_witness},
    METHOD(LIST_PROVIDERS) = {"list providers", WHEN_LOCKED | WHEN_DAMAGED, keeper_list_providers},
    METHOD(TEST_PROVIDER) = {"test provider", WHEN_LOCKED | WHEN_DAMAGED | OWN_LOCK,
                             keeper_test_provider},
    METHOD(ORDER_KEYSLOT) = {"order keyslot", 0, keeper_order_keyslot},
    METHOD(END_KEYSLOT) = {"end keyslot", 0, keeper_end_keyslot},
    METHOD(RESTORE) = {"restore", WHEN_EMPTY | WITH_FD, keeper_restore},
};

static int may_run(const struct keeper *k, const struct method *m, int fd, struct sp_why *why)
{
    if ((fd >= 0) != !!(m->flags & WITH_FD))
        return sp_why_set(why, -EINVAL, "%s comes %s a descriptor", m->name,
                          m->flags & WITH_FD ? "with" : "without");
    if (!k->initialised && !(m->flags & WHEN_EMPTY))
        return sp_why_set(why, -ENOTCONN, "the keystore is empty: 'sealpointd init' fills it");
    if (k->damage.text[0] && !(m->flags & WHEN_DAMAGED))
        return sp_why_set(why, -EUCLEAN,
                          "the keystore was changed by something other than the keeper, or is "
                          "damaged: %.240s; restore a copy with the recovery kit",
                          k->damage.text);
    if (k->initialised && k->locked && !(m->flags & WHEN_LOCKED))
        return sp_why_set(why, -ENOKEY, "the keeper is locked: %.360s", k->lock_text.text);
    return 0;
}

static int run(struct keeper *k, const Sp__KeeperRequest *request, int fd, Sp__KeeperResponse *out,
               struct sp_why *why)
{
    size_t kind = (size_t)request->kind_case;
    if (kind >= SP_COUNT(methods) || !methods[kind].handler)
        return sp_why_set(why, -EOPNOTSUPP, "the keeper does not know this request");
    const struct method *m = &methods[kind];
    pthread_mutex_lock(&k->lock);
    int r = may_run(k, m, fd, why);
    if (r == 0 && m->flags & OWN_LOCK) {
        pthread_mutex_unlock(&k->lock);
        return m->handler(k, request, fd, out, why);
    }
    if (r == 0)
        r = m->handler(k, request, fd, out, why);
    pthread_mutex_unlock(&k->lock);
    return r;
}

int keeper_handle(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                  Sp__KeeperResponse **ret)
{
    struct sp_why why = {""};
    Sp__KeeperResponse *out = MESSAGE_NEW(Sp__KeeperResponse, sp__keeper_response__init);
    if (!out)
        return -ENOMEM;
    int r = run(k, request, fd, out, &why);
    if (r < 0) {
        /* Nothing of an answer that failed half way may leave. */
        sp__keeper_response__free_unpacked(out, NULL);
        out = MESSAGE_NEW(Sp__KeeperResponse, sp__keeper_response__init);
        if (!out)
            return -ENOMEM;
        out->error = -r;
        if (message_text(&out->text, why.text[0] ? why.text : strerror(-r)) < 0) {
            sp__keeper_response__free_unpacked(out, NULL);
            return -ENOMEM;
        }
    }
    out->id = request->id;
    *ret = out;
    return 0;
}

/* ---- status ---- */

static int add_text(char ***array, size_t *count, const char *text)
{
    char *copy = strdup(text);
    if (!copy || MESSAGE_ROOM(*array, *count) < 0) {
        free(copy);
        return -ENOMEM;
    }
    (*array)[(*count)++] = copy;
    return 0;
}

/* Kept points rest on keys that somebody else may take away. */
static int warn_of_references(struct keeper *k, Sp__KeeperStatusResponse *s)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    char text[200];
    int r = store_query(k->store, &stmt,
                        "SELECT count(DISTINCT records.record_id) FROM records JOIN pins USING "
                        "(record_id) WHERE provider<>? AND state<>? AND length(ciphertext)=0",
                        "si", KEYSTORE_PROVIDER, (int64_t)SP__RECORD_STATE__RECORD_STATE_DESTROYED);
    if (r == 0)
        r = store_step(stmt);
    if (r < 0 || store_int(stmt, 0) == 0)
        return r < 0 ? r : 0;
    snprintf(
        text, sizeof(text),
        "keys at their providers' mercy, which kept points rest on: %lld; with 'mirror = yes' in "
        "keeper.conf the next proof keeps copies",
        (long long)store_int(stmt, 0));
    return add_text(&s->warnings, &s->n_warnings, text);
}

/* Before it happens: afterwards the points are lost. */
static int warn_of_ends(struct keeper *k, Sp__KeeperStatusResponse *s)
{
    enum { SHOWN_MOST = 5 };
    SP_STMT sqlite3_stmt *stmt = NULL;
    char text[600];
    int r = store_query(
        k->store, &stmt,
        "SELECT record_id, provider, text, (SELECT count(*) FROM pins WHERE "
        "pins.record_id=r.record_id) AS kept, count(*) OVER () FROM records r JOIN warnings USING "
        "(record_id) WHERE kept>0 AND state<>? AND length(ciphertext)=0 ORDER BY kept DESC, 1 "
        "LIMIT ?",
        "ii", (int64_t)SP__RECORD_STATE__RECORD_STATE_DESTROYED, (int64_t)SHOWN_MOST);
    int64_t all = 0, shown = 0;
    while (r == 0 && (r = store_step(stmt)) == 1) {
        all = store_int(stmt, 4);
        shown++;
        snprintf(text, sizeof(text), "key %s at %s (kept points that rest on it: %lld): %.400s",
                 store_text(stmt, 0), store_text(stmt, 1), (long long)store_int(stmt, 3),
                 store_text(stmt, 2));
        r = add_text(&s->warnings, &s->n_warnings, text);
    }
    if (r < 0 || all <= shown)
        return r;
    snprintf(text, sizeof(text),
             "and %lld more keys that their providers will soon remove: 'sealpoint key list' marks "
             "them",
             (long long)(all - shown));
    return add_text(&s->warnings, &s->n_warnings, text);
}

static int add_warnings(struct keeper *k, Sp__KeeperStatusResponse *s)
{
    int r = 0;
    struct sp_why why = {""};
    char text[600];
    if (k->damage.text[0])
        r = add_text(&s->warnings, &s->n_warnings, k->damage.text);
    if (r == 0 && k->initialised && k->locked && k->lock_text.text[0]) {
        snprintf(text, sizeof(text), "locked: %s", k->lock_text.text);
        r = add_text(&s->warnings, &s->n_warnings, text);
    }
    if (r == 0 && reconcile_check(k, &why) < 0)
        r = add_text(&s->warnings, &s->n_warnings, why.text);
    if (r == 0)
        r = warn_of_references(k, s);
    if (r == 0)
        r = warn_of_ends(k, s);
    if (r == 0 && kek_is_insecure(k))
        r = add_text(&s->warnings, &s->n_warnings,
                     "insecure: the keystore's passphrase lies beside it, or others can read it "
                     "(kek.insecure): whoever copies the host's disk has every key");
    return r;
}

int keeper_status(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                  Sp__KeeperResponse *out, struct sp_why *why)
{
    uint8_t head[32];
    (void)request, (void)fd, (void)why;

    Sp__KeeperStatusResponse *s =
        MESSAGE_NEW(Sp__KeeperStatusResponse, sp__keeper_status_response__init);
    if (!s)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_STATUS;
    out->status = s;
    s->initialised = k->initialised;
    s->locked = k->initialised && k->locked;
    s->epoch = journal_epoch(k);
    int r = audit_head(k, head);
    if (r == 0)
        r = message_bytes(&s->audit_head, head, sizeof(head));
    for (size_t i = 0; i < k->keks.count && r == 0; i++)
        r = add_text(&s->kek_kinds, &s->n_kek_kinds, k->keks.items[i].kind);
    if (r == 0)
        r = add_warnings(k, s);
    if (r == 0)
        r = message_text(&s->version, SEALPOINT_VERSION);
    return r < 0 ? r : message_text(&s->domain, k->domain);
}

int keeper_keys(struct keeper *k, const Sp__KeeperRequest *request, int fd, Sp__KeeperResponse *out,
                struct sp_why *why)
{
    SP_BUFFER struct sp_buffer packed = {0};
    (void)request, (void)fd, (void)why;

    int r = meta_get(k, "keeper_keys", &packed);
    if (r < 0)
        return r;
    out->keys = MESSAGE_NEW(Sp__KeeperKeysResponse, sp__keeper_keys_response__init);
    if (!out->keys)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_KEYS;
    out->keys->keys = sp__signed__unpack(NULL, packed.size, packed.data);
    return out->keys->keys ? 0 : -EUCLEAN;
}

int keeper_nonce(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                 Sp__KeeperResponse *out, struct sp_why *why)
{
    uint8_t nonce[NONCE_BYTES];
    (void)fd;

    int r = nonces_make(&k->nonces, keeper_who(request), sp_clock_monotonic_ms(k->clock), nonce);
    if (r < 0)
        return sp_why_set(why, r, "too many requests wait to be signed: try again in a minute");
    out->nonce = MESSAGE_NEW(Sp__NonceResponse, sp__nonce_response__init);
    if (!out->nonce)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_NONCE;
    out->nonce->valid_ms = NONCE_VALID_MS;
    return message_bytes(&out->nonce->nonce, nonce, sizeof(nonce));
}
