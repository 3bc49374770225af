/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/journal.h"

#include "base/cleanup.h"
#include "base/signed_request.h"
#include "controller/keeper/aead.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include <openssl/evp.h>
#include <string.h>

MESSAGE_CLEANUP(signature, Sp__Signature, sp__signature__free_unpacked)
SP_DEFINE_CLEANUP(md, EVP_MD_CTX *, EVP_MD_CTX_free)
SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)

/* A followed table: its rows in an order that does not depend on the file, and those of one key. */
struct followed {
    const char *table, *all, *one;
};
#define FOLLOW(table, key, order)                                                                  \
    {                                                                                              \
#table, "SELECT * FROM " #table " ORDER BY " order,                                        \
            "SELECT * FROM " #table " WHERE " key "=? ORDER BY " order                             \
    }
static const struct followed followed[] = {
    FOLLOW(meta, "name", "1"),           FOLLOW(keks, "kek_id", "1"),
    FOLLOW(core, "name", "1"),           FOLLOW(controllers, "name", "1"),
    FOLLOW(users, "name", "1"),          FOLLOW(machines, "machine_id", "1"),
    FOLLOW(tokens, "token_id", "1"),     FOLLOW(records, "record_id", "1"),
    FOLLOW(pins, "point_id", "1, 2"),    FOLLOW(vault_keys, "vault_id", "1"),
    FOLLOW(states, "record_id", "1, 2"), FOLLOW(destructions, "record_id", "1"),
    FOLLOW(unwrapped, "record_id", "1"),
};

static const uint8_t zeroes[32];

/* ---- digest of rows ---- */

static bool add_value(EVP_MD_CTX *md, char type, const void *data, size_t size)
{
    uint8_t head[9] = {(uint8_t)type};
    sp_put_le64(head + 1, size);
    return EVP_DigestUpdate(md, head, sizeof(head)) == 1 &&
           (size == 0 || EVP_DigestUpdate(md, data, size) == 1);
}

static bool add_row(EVP_MD_CTX *md, sqlite3_stmt *stmt)
{
    bool ok = true;
    for (int i = 0; i < sqlite3_column_count(stmt) && ok; i++) {
        uint8_t number[8];
        struct sp_bytes blob;
        switch (sqlite3_column_type(stmt, i)) {
        case SQLITE_INTEGER:
            sp_put_le64(number, (uint64_t)store_int(stmt, i));
            ok = add_value(md, 'i', number, sizeof(number));
            break;
        case SQLITE_TEXT:
            ok = add_value(md, 's', store_text(stmt, i), strlen(store_text(stmt, i)));
            break;
        default:
            blob = store_blob(stmt, i);
            ok = add_value(md, 'b', blob.data, blob.size);
            break;
        }
    }
    return ok && add_value(md, 'r', NULL, 0);
}

/* Digest of what `stmt` gives, zeroes when that is nothing. */
static int digest_rows(sqlite3_stmt *stmt, uint8_t out[32])
{
    SP_CLEANUP(md) EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool any = false;
    int r;

    if (!md || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1)
        return -EIO;
    while ((r = store_step(stmt)) == 1) {
        any = true;
        if (!add_row(md, stmt))
            return -EIO;
    }
    memset(out, 0, 32);
    if (r == 0 && any && EVP_DigestFinal_ex(md, out, NULL) != 1)
        r = -EIO;
    return r;
}

/* ---- entries ---- */

struct entry {
    uint64_t epoch, at_ms;
    const char *table, *key;
    const uint8_t *digest, *previous;
};

static int hash_entry(const struct entry *e, uint8_t out[32])
{
    uint8_t epoch[8], at[8], table[4], key[4];
    sp_put_le64(epoch, e->epoch);
    sp_put_le64(at, e->at_ms);
    sp_put_le32(table, (uint32_t)strlen(e->table));
    sp_put_le32(key, (uint32_t)strlen(e->key));
    struct sp_bytes parts[] = {{e->previous, 32},
                               {epoch, 8},
                               {at, 8},
                               {table, 4},
                               {(const uint8_t *)e->table, strlen(e->table)},
                               {key, 4},
                               {(const uint8_t *)e->key, strlen(e->key)},
                               {e->digest, 32}};
    return sp_sha256(parts, SP_COUNT(parts), out);
}

static int read_head(struct keeper *k, uint64_t *ret_epoch, uint8_t ret_hash[32])
{
    return store_chain_head(k->store, "SELECT epoch, hash FROM journal ORDER BY epoch DESC LIMIT 1",
                            ret_epoch, ret_hash);
}

static int append(struct keeper *k, const char *table, const char *key, const uint8_t digest[32])
{
    SP_CLEANUP(signature) Sp__Signature *signature = NULL;
    SP_FREE uint8_t *packed = NULL;
    uint8_t previous[32], hash[32];
    uint64_t epoch = 0;
    size_t size = 0;

    if (!k->sealing_key)
        return -ENOKEY;
    int r = read_head(k, &epoch, previous);
    if (epoch < k->epoch_floor)
        epoch = k->epoch_floor;
    struct entry e = {epoch + 1, keeper_now_ms(k), table, key, digest, previous};
    if (r == 0)
        r = hash_entry(&e, hash);
    if (r == 0)
        r = sp_sign(k->sealing_key, SP_SIGN_JOURNAL, hash, sizeof(hash), &signature);
    if (r == 0)
        r = sp_pack(&signature->base, &packed, &size);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO journal VALUES(?,?,?,?,?,?,?,?)", "iissbbbb",
                      (int64_t)e.epoch, (int64_t)e.at_ms, table, key, digest, (size_t)32, previous,
                      (size_t)32, hash, (size_t)32, packed, size);
    return r;
}

int journal_note(struct keeper *k, const char *table, const char *key)
{
    for (size_t i = 0; i < SP_COUNT(followed); i++) {
        SP_STMT sqlite3_stmt *stmt = NULL;
        uint8_t digest[32];
        if (strcmp(followed[i].table, table) != 0)
            continue;
        int r = store_query(k->store, &stmt, followed[i].one, "s", key);
        if (r == 0)
            r = digest_rows(stmt, digest);
        return r < 0 ? r : append(k, table, key, digest);
    }
    return -EINVAL;
}

void journal_skip(struct keeper *k, uint64_t epoch)
{
    k->epoch_floor = epoch;
}

uint64_t journal_epoch(struct keeper *k)
{
    uint8_t hash[32];
    uint64_t epoch = 0;
    return read_head(k, &epoch, hash) == 0 ? epoch : 0;
}

uint64_t journal_epoch_of(struct keeper *k, const char *table, const char *other)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT max(epoch) FROM journal WHERE tbl IN (?,?)", "ss",
                        table, other);
    if (r == 0)
        r = store_step(stmt);
    return r == 1 ? (uint64_t)store_int(stmt, 0) : 0;
}

/* ---- compaction ---- */

static int count_entries(struct keeper *k, uint64_t *ret_all, uint64_t *ret_keys)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT count(*), (SELECT count(*) FROM (SELECT 1 FROM journal GROUP BY "
                        "tbl, key)) FROM journal",
                        "");
    if (r == 0)
        r = store_step(stmt);
    if (r < 0)
        return r;
    *ret_all = (uint64_t)store_int(stmt, 0);
    *ret_keys = (uint64_t)store_int(stmt, 1);
    return 0;
}

static int note_again(struct keeper *k, const char *table, const char *key)
{
    for (size_t i = 0; i < SP_COUNT(followed); i++) {
        SP_STMT sqlite3_stmt *stmt = NULL;
        if (strcmp(followed[i].table, table) != 0)
            continue;
        int r = store_query(k->store, &stmt, followed[i].one, "s", key);
        if (r == 0)
            r = store_step(stmt);
        return r == 1 ? journal_note(k, table, key) : r; /* of what is gone nothing stays */
    }
    return -EUCLEAN;
}

int journal_compact(struct keeper *k, uint64_t least)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    uint64_t all = 0, keys = 0, cut = journal_epoch(k);

    int r = count_entries(k, &all, &keys);
    if (r < 0 || all < least || all / 4 < keys)
        return r;
    r = store_begin(k->store);
    if (r < 0)
        return r;
    r = store_query(k->store, &stmt,
                    "SELECT DISTINCT tbl, key FROM journal WHERE epoch<=? ORDER BY 1, 2", "i",
                    (int64_t)cut);
    while (r == 0 && (r = store_step(stmt)) == 1) {
        char table[32];
        SP_FREE char *key = strdup(store_text(stmt, 1));
        snprintf(table, sizeof(table), "%s", store_text(stmt, 0));
        r = key ? note_again(k, table, key) : -ENOMEM;
    }
    sqlite3_reset(stmt);
    if (r == 0)
        r = store_run(k->store, "DELETE FROM journal WHERE epoch<=?", "i", (int64_t)cut);
    return store_end(k->store, r);
}

/* ---- verification ---- */

static int verify_entry(sqlite3_stmt *stmt, uint64_t last_epoch, const uint8_t previous[32],
                        uint8_t ret_hash[32])
{
    struct sp_bytes digest = store_blob(stmt, 4), before = store_blob(stmt, 5),
                    hash = store_blob(stmt, 6);
    struct entry e = {(uint64_t)store_int(stmt, 0),
                      (uint64_t)store_int(stmt, 1),
                      store_text(stmt, 2),
                      store_text(stmt, 3),
                      digest.data,
                      before.data};
    if (digest.size != 32 || before.size != 32 || hash.size != 32 || e.epoch <= last_epoch ||
        memcmp(before.data, previous, 32) != 0)
        return -EUCLEAN;
    int r = hash_entry(&e, ret_hash);
    if (r == 0 && memcmp(ret_hash, hash.data, 32) != 0)
        r = -EUCLEAN;
    return r;
}

static int verify_signature(struct keeper *k, struct sp_bytes packed, const uint8_t hash[32])
{
    SP_CLEANUP(signature)
    Sp__Signature *signature = sp__signature__unpack(NULL, packed.size, packed.data);
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    if (!signature || sp_public_key_from_der(k->sealing_der, k->sealing_der_size, &key) < 0)
        return -EUCLEAN;
    return sp_verify(key, SP_SIGN_JOURNAL, hash, 32, signature) == 0 ? 0 : -EUCLEAN;
}

/* Every hash is computed anew; then one signature, the newest, vouches for the whole chain. */
static int verify_chain(struct keeper *k, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_BUFFER struct sp_buffer signature = {0};
    uint8_t previous[32] = {0}, hash[32] = {0};
    uint64_t epoch = 0;

    int r = store_query(k->store, &stmt, "SELECT * FROM journal ORDER BY epoch", "");
    while (r == 0 && (r = store_step(stmt)) == 1) {
        struct sp_bytes before = store_blob(stmt, 5);
        if (epoch == 0 && store_int(stmt, 0) > 1 && before.size == 32) {
            epoch = (uint64_t)store_int(stmt, 0) - 1; /* the front was compacted away */
            memcpy(previous, before.data, 32);
        }
        r = verify_entry(stmt, epoch, previous, hash);
        epoch = (uint64_t)store_int(stmt, 0);
        if (r < 0)
            return sp_why_set(why, r, "the keystore's journal does not hold at epoch %llu",
                              (unsigned long long)epoch);
        memcpy(previous, hash, 32);
        struct sp_bytes packed = store_blob(stmt, 7);
        signature.size = 0;
        r = sp_buffer_append(&signature, packed.data, packed.size);
    }
    if (r < 0 || epoch == 0)
        return sp_why_set(why, r < 0 ? r : -EUCLEAN, "the keystore's journal cannot be read");
    if (verify_signature(k, sp_bytes_of(&signature), hash) < 0)
        return sp_why_set(why, -EUCLEAN,
                          "the keystore's journal is not signed by its own sealing key");
    return 0;
}

static int verify_key(struct keeper *k, const struct followed *f, const char *key,
                      struct sp_why *why)
{
    SP_STMT sqlite3_stmt *rows = NULL, *stmt = NULL;
    uint8_t digest[32];
    int r = store_query(k->store, &rows, f->one, "s", key);
    if (r == 0)
        r = digest_rows(rows, digest);
    if (r == 0)
        r = store_query(k->store, &stmt,
                        "SELECT digest FROM journal WHERE tbl=? AND key=? ORDER BY epoch DESC "
                        "LIMIT 1",
                        "ss", f->table, key);
    if (r == 0)
        r = store_step(stmt);
    if (r < 0)
        return r;
    struct sp_bytes stored = r == 1 ? store_blob(stmt, 0) : (struct sp_bytes){zeroes, 32};
    if (stored.size == 32 && memcmp(stored.data, digest, 32) == 0)
        return 0;
    return sp_why_set(why, -EUCLEAN, "%s '%.100s' is not what the journal says", f->table, key);
}

/* Each key that is in the table or in the journal. */
static int verify_table(struct keeper *k, const struct followed *f, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_FREE char *column = strdup(strstr(f->one, "WHERE ") + 6);
    if (!column)
        return -ENOMEM;
    column[strcspn(column, "=")] = 0;
    char sql[160];
    snprintf(sql, sizeof(sql), "SELECT %s FROM %s UNION SELECT key FROM journal WHERE tbl=?",
             column, f->table);
    int r = store_query(k->store, &stmt, sql, "s", f->table);
    while (r == 0 && (r = store_step(stmt)) == 1)
        r = verify_key(k, f, store_text(stmt, 0), why);
    return r;
}

int journal_verify(struct keeper *k, struct sp_why *why)
{
    int r = verify_chain(k, why);
    for (size_t i = 0; i < SP_COUNT(followed) && r == 0; i++)
        r = verify_table(k, &followed[i], why);
    return r;
}
