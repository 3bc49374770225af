/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/records.h"

#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/life.h"
#include "controller/keeper/message.h"
#include "controller/keeper/wrap.h"
#include <string.h>

MESSAGE_CLEANUP(record, Sp__EscrowRecord, sp__escrow_record__free_unpacked)

#define RECORD_COLUMNS                                                                             \
    "record_id, provider, machine_id, volume_id, protector_id, generation, secret_type, state, "   \
    "created_ms, created_by, note, plain, secret_hmac, version, "                                  \
    "(SELECT count(*) FROM pins WHERE pins.record_id=records.record_id), epoch, "                  \
    "length(ciphertext), "                                                                         \
    "EXISTS(SELECT 1 FROM unwrapped WHERE unwrapped.record_id=records.record_id), "                \
    "(SELECT text FROM warnings WHERE warnings.record_id=records.record_id)"
#define SECRET_COLUMNS RECORD_COLUMNS ", dek_id, nonce, ciphertext"

/* ---- rows ---- */

static int fill_texts(sqlite3_stmt *stmt, Sp__EscrowRecord *e)
{
    struct sp_bytes plain = store_blob(stmt, 11), hmac = store_blob(stmt, 12);
    int r = message_text(&e->record_id, store_text(stmt, 0));
    if (r == 0)
        r = message_text(&e->provider, store_text(stmt, 1));
    if (r == 0)
        r = message_text(&e->machine_id, store_text(stmt, 2));
    if (r == 0)
        r = message_text(&e->volume_id, store_text(stmt, 3));
    if (r == 0)
        r = message_text(&e->protector_id, store_text(stmt, 4));
    if (r == 0)
        r = message_text(&e->created_by, store_text(stmt, 9));
    if (r == 0)
        r = message_text(&e->note, store_text(stmt, 10));
    if (r == 0)
        r = message_text(&e->version, store_text(stmt, 13));
    if (r == 0)
        r = message_text(&e->warning, store_text(stmt, 18));
    if (r == 0)
        r = message_bytes(&e->secret_hmac, hmac.data, hmac.size);
    if (r == 0 && plain.size > 0) {
        e->plain = sp__plain_parameters__unpack(NULL, plain.size, plain.data);
        r = e->plain ? 0 : -EUCLEAN;
    }
    return r;
}

static Sp__RecordHolding holding_of(const Sp__EscrowRecord *e, int64_t ciphertext_bytes)
{
    if (e->state == SP__RECORD_STATE__RECORD_STATE_DESTROYED)
        return SP__RECORD_HOLDING__RECORD_HOLDING_UNSPECIFIED;
    if (strcmp(e->provider, KEYSTORE_PROVIDER) == 0)
        return SP__RECORD_HOLDING__RECORD_HOLDING_KEYSTORE;
    return ciphertext_bytes > 0 ? SP__RECORD_HOLDING__RECORD_HOLDING_MIRRORED
                                : SP__RECORD_HOLDING__RECORD_HOLDING_AT_PROVIDER;
}

static int fill(sqlite3_stmt *stmt, Sp__EscrowRecord **ret)
{
    SP_CLEANUP(record)
    Sp__EscrowRecord *e = MESSAGE_NEW(Sp__EscrowRecord, sp__escrow_record__init);
    if (!e)
        return -ENOMEM;
    e->generation = (uint32_t)store_int(stmt, 5);
    e->secret_type = (Sp__SecretType)store_int(stmt, 6);
    e->state = (Sp__RecordState)store_int(stmt, 7);
    e->created_unix_ms = (uint64_t)store_int(stmt, 8);
    e->pins = (uint32_t)store_int(stmt, 14);
    int r = fill_texts(stmt, e);
    if (r < 0)
        return r;
    e->holding = holding_of(e, store_int(stmt, 16));
    e->unwrapped = store_int(stmt, 17) != 0;
    *ret = sp_steal(e);
    return 0;
}

static int record_aad(struct sp_buffer *out, const Sp__EscrowRecord *e)
{
    char generation[16];
    snprintf(generation, sizeof(generation), "%u", e->generation);
    return aead_bind(out, "sealpoint record 1", e->provider, e->machine_id, e->volume_id,
                     e->protector_id, generation, e->record_id, NULL);
}

/* Columns from 19 on are SECRET_COLUMNS' own. */
static int open_secret(struct keeper *k, sqlite3_stmt *stmt, const Sp__EscrowRecord *e,
                       struct sp_secret **ret)
{
    SP_BUFFER struct sp_buffer aad = {0};
    int r = record_aad(&aad, e);
    return r < 0 ? r
                 : wrap_open(k, store_text(stmt, 19), store_blob(stmt, 20), sp_bytes_of(&aad),
                             store_blob(stmt, 21), ret);
}

int record_load(struct keeper *k, const char *record_id, Sp__EscrowRecord **ret,
                struct sp_secret **ret_secret, uint64_t *ret_epoch)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    int r = store_query(k->store, &stmt, "SELECT " SECRET_COLUMNS " FROM records WHERE record_id=?",
                        "s", record_id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    r = fill(stmt, &e);
    if (r == 0 && ret_secret && e->state == SP__RECORD_STATE__RECORD_STATE_DESTROYED)
        r = -ENODATA;
    if (r == 0 && ret_secret && record_is_reference(e))
        r = -EREMOTE;
    if (r == 0 && ret_secret)
        r = open_secret(k, stmt, e, ret_secret);
    if (r < 0)
        return r;
    if (ret_epoch)
        *ret_epoch = (uint64_t)store_int(stmt, 15);
    *ret = sp_steal(e);
    return 0;
}

/* ---- new ones ---- */

int record_hmac(struct keeper *k, Sp__SecretType type, struct sp_bytes plain,
                const struct sp_secret *secret, uint8_t out[32])
{
    uint8_t number[4], size[4];
    sp_put_le32(number, (uint32_t)type);
    sp_put_le32(size, (uint32_t)plain.size);
    struct sp_bytes parts[] = {
        {number, 4}, {size, 4}, plain, {sp_secret_data(secret), sp_secret_size(secret)}};
    return sp_hmac_sha256(sp_secret_data(k->mac_key), 32, parts, SP_COUNT(parts), out);
}

int record_insert(struct keeper *k, const struct record_new *n, const char *record_id)
{
    SP_BUFFER struct sp_buffer aad = {0};
    WRAPPED struct wrapped w = {0};
    char number[16];
    int r = 0;

    snprintf(number, sizeof(number), "%u", n->generation);
    if (n->secret)
        r = aead_bind(&aad, "sealpoint record 1", n->provider, n->machine_id, n->volume_id,
                      n->protector_id, number, record_id, NULL);
    if (r == 0 && n->secret)
        r = wrap_seal(k, sp_bytes_of(&aad), n->secret, &w);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO records VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                      "sssssiiiissbbsisbb", record_id, n->provider, n->machine_id, n->volume_id,
                      n->protector_id, (int64_t)n->generation, (int64_t)n->type, (int64_t)n->state,
                      (int64_t)keeper_now_ms(k), n->by, n->note, n->plain.data, n->plain.size,
                      n->hmac, (size_t)32, n->version, (int64_t)(journal_epoch(k) + 1), w.dek_id,
                      w.nonce, n->secret ? sizeof(w.nonce) : 0, w.ciphertext.data,
                      w.ciphertext.size);
    if (r == 0)
        r = journal_note(k, "records", record_id);
    if (r == 0 && n->unwrapped)
        r = store_run(k->store, "INSERT INTO unwrapped VALUES(?)", "s", record_id);
    if (r == 0 && n->unwrapped)
        r = journal_note(k, "unwrapped", record_id);
    return r < 0 ? r : life_begin(k, record_id, n->state, n->by, n->note);
}

void records_free(Sp__EscrowRecord **records, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sp__escrow_record__free_unpacked(records[i], NULL);
    free(records);
}

/* Appends every row to the array, which stays the caller's on failure too. */
static int collect(sqlite3_stmt *stmt, Sp__EscrowRecord ***array, size_t *count)
{
    int r;
    while ((r = store_step(stmt)) == 1) {
        SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
        r = fill(stmt, &e);
        if (r == 0)
            r = MESSAGE_ROOM(*array, *count);
        if (r < 0)
            return r;
        (*array)[(*count)++] = sp_steal(e);
    }
    return r;
}

int records_of(struct keeper *k, const char *machine_id, const char *volume_id,
               Sp__EscrowRecord ***ret, size_t *ret_count)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    char base[VOLUME_ID_BYTES];
    *ret = NULL;
    *ret_count = 0;
    /* A clone's key may be under its own id or, the same as before, under the original's. */
    int r = store_query(k->store, &stmt,
                        "SELECT " RECORD_COLUMNS " FROM records WHERE machine_id=? AND "
                        "(volume_id=? OR volume_id=?) AND state<>? "
                        "ORDER BY created_ms DESC, generation DESC",
                        "sssi", machine_id, volume_id, sp_volume_id_base(volume_id, base),
                        (int64_t)SP__RECORD_STATE__RECORD_STATE_DESTROYED);
    if (r == 0)
        r = collect(stmt, ret, ret_count);
    if (r < 0) {
        records_free(*ret, *ret_count);
        *ret = NULL;
        *ret_count = 0;
    }
    return r;
}

int records_verify(struct keeper *k, uint32_t *ret_count, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    *ret_count = 0;
    int r = store_query(k->store, &stmt, "SELECT " SECRET_COLUMNS " FROM records", "");
    while (r == 0 && (r = store_step(stmt)) == 1) {
        SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
        SP_SECRET struct sp_secret *secret = NULL;
        ++*ret_count;
        r = fill(stmt, &e);
        if (r == 0 && !k->locked && e->state != SP__RECORD_STATE__RECORD_STATE_DESTROYED &&
            !record_is_reference(e))
            r = open_secret(k, stmt, e, &secret);
        if (r < 0)
            return sp_why_set(why, -EBADMSG, "record %.60s does not open: %s", store_text(stmt, 0),
                              strerror(-r));
    }
    return r;
}

/* ---- list ---- */

int keeper_list_keys(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                     Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__ListKeysRequest *ask = request->list_keys;
    SP_STMT sqlite3_stmt *stmt = NULL;
    (void)fd, (void)why;

    Sp__ListKeysResponse *list = MESSAGE_NEW(Sp__ListKeysResponse, sp__list_keys_response__init);
    if (!list)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_LIST_KEYS;
    out->list_keys = list;
    int r = store_query(
        k->store, &stmt,
        "SELECT " RECORD_COLUMNS " FROM records WHERE (?1='' OR machine_id=?1) AND (?2 OR "
        "generation=(SELECT max(generation) FROM records AS o WHERE "
        "o.machine_id=records.machine_id "
        "AND o.volume_id=records.volume_id AND o.protector_id=records.protector_id AND "
        "o.provider=records.provider)) AND (NOT ?3 OR (state=?4 AND version=?5)) "
        "ORDER BY machine_id, volume_id, protector_id, generation",
        "siiis", ask->machine, (int64_t)ask->all_generations, (int64_t)ask->pending_keyslots,
        (int64_t)SP__RECORD_STATE__RECORD_STATE_PENDING, RECORD_KEYSLOT);
    return r < 0 ? r : collect(stmt, &list->records, &list->n_records);
}
