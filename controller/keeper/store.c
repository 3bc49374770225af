/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/store.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

enum { SCHEMA_VERSION = 4 };

struct store {
    sqlite3 *db;
};

/* The first column of a table that the journal follows is the key its entries name. */
static const char schema[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE keks(kek_id TEXT PRIMARY KEY, kind TEXT NOT NULL, public_key BLOB NOT NULL,"
    " salt BLOB NOT NULL, log_n INT NOT NULL, nonce BLOB NOT NULL, wrapped BLOB NOT NULL,"
    " root_mac BLOB NOT NULL, created_ms INT NOT NULL) STRICT;"
    "CREATE TABLE wraps(dek_id TEXT NOT NULL, kek_id TEXT NOT NULL, box BLOB NOT NULL,"
    " PRIMARY KEY(dek_id, kek_id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE core(name TEXT PRIMARY KEY, dek_id TEXT NOT NULL, nonce BLOB NOT NULL,"
    " ciphertext BLOB NOT NULL) STRICT;"
    "CREATE TABLE controllers(name TEXT PRIMARY KEY, expires_ms INT NOT NULL) STRICT;"
    "CREATE TABLE users(name TEXT PRIMARY KEY, roles BLOB NOT NULL, revoked INT NOT NULL,"
    " expires_ms INT NOT NULL, created_ms INT NOT NULL, created_by TEXT NOT NULL,"
    " revoked_why TEXT NOT NULL) STRICT;"
    "CREATE TABLE machines(machine_id TEXT PRIMARY KEY, name TEXT NOT NULL, grp TEXT NOT NULL,"
    " revoked INT NOT NULL, pending INT NOT NULL, encryption_key BLOB NOT NULL,"
    " key_id TEXT NOT NULL, old_key_id TEXT NOT NULL, token_id TEXT NOT NULL,"
    " smbios_uuid TEXT NOT NULL, expires_ms INT NOT NULL, created_ms INT NOT NULL, address TEXT "
    "NOT NULL) STRICT;"
    "CREATE INDEX machines_by_name ON machines(name);"
    "CREATE TABLE tokens(token_id TEXT PRIMARY KEY, spec BLOB NOT NULL, used INT NOT NULL,"
    " revoked INT NOT NULL, created_ms INT NOT NULL, created_by TEXT NOT NULL,"
    " dek_id TEXT NOT NULL, nonce BLOB NOT NULL, ciphertext BLOB NOT NULL) STRICT;"
    "CREATE TABLE records(record_id TEXT PRIMARY KEY, provider TEXT NOT NULL,"
    " machine_id TEXT NOT NULL, volume_id TEXT NOT NULL, protector_id TEXT NOT NULL,"
    " generation INT NOT NULL, secret_type INT NOT NULL, state INT NOT NULL,"
    " created_ms INT NOT NULL, created_by TEXT NOT NULL, note TEXT NOT NULL, plain BLOB NOT NULL,"
    " secret_hmac BLOB NOT NULL, version TEXT NOT NULL, epoch INT NOT NULL, dek_id TEXT NOT NULL,"
    " nonce BLOB NOT NULL, ciphertext BLOB NOT NULL,"
    " UNIQUE(machine_id, volume_id, protector_id, provider, generation)) STRICT;"
    "CREATE TABLE pins(point_id TEXT NOT NULL, record_id TEXT NOT NULL, machine_id TEXT NOT NULL,"
    " created_ms INT NOT NULL, PRIMARY KEY(point_id, record_id)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX pins_by_record ON pins(record_id);"
    "CREATE TABLE vault_keys(vault_id TEXT PRIMARY KEY, dek_id TEXT NOT NULL, nonce BLOB NOT NULL,"
    " ciphertext BLOB NOT NULL, created_ms INT NOT NULL) STRICT;"
    "CREATE TABLE carry(carry_id TEXT PRIMARY KEY, record_id TEXT NOT NULL,"
    " fingerprint BLOB NOT NULL, proof_id TEXT NOT NULL, protector_id TEXT NOT NULL,"
    " made_ms INT NOT NULL, dek_id TEXT NOT NULL, nonce BLOB NOT NULL, ciphertext BLOB NOT NULL,"
    " mac BLOB NOT NULL) STRICT;"
    "CREATE INDEX carry_by_record ON carry(record_id);"
    "CREATE TABLE seals(point_id TEXT PRIMARY KEY, machine_id TEXT NOT NULL,"
    " disks_digest BLOB NOT NULL, revision INT NOT NULL, state INT NOT NULL,"
    " manifest_hash BLOB NOT NULL, sealed_ms INT NOT NULL) STRICT;"
    "CREATE TABLE journal(epoch INTEGER PRIMARY KEY, at_ms INT NOT NULL, tbl TEXT NOT NULL,"
    " key TEXT NOT NULL, digest BLOB NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL,"
    " signature BLOB NOT NULL) STRICT;"
    "CREATE INDEX journal_by_key ON journal(tbl, key, epoch);"
    "CREATE TABLE audit(number INTEGER PRIMARY KEY, entry BLOB NOT NULL, hash BLOB NOT NULL)"
    " STRICT;"
    "CREATE INDEX audit_by_hash ON audit(hash);";

/* Version 2, on a fresh file as well. What a record went through is only ever added to, for this
 * program too. */
static const char schema_2[] =
    "CREATE INDEX records_by_hmac ON records(secret_hmac);"
    "CREATE TABLE states(record_id TEXT NOT NULL, number INT NOT NULL, state INT NOT NULL,"
    " at_ms INT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, PRIMARY KEY(record_id, number))"
    " STRICT, WITHOUT ROWID;"
    "CREATE TRIGGER states_stay BEFORE UPDATE ON states BEGIN"
    " SELECT raise(ABORT, 'a state is never overwritten'); END;"
    "CREATE TRIGGER states_are_kept BEFORE DELETE ON states BEGIN"
    " SELECT raise(ABORT, 'a state is never removed'); END;"
    "CREATE TABLE destructions(record_id TEXT PRIMARY KEY, asked_ms INT NOT NULL,"
    " asked_by TEXT NOT NULL, why TEXT NOT NULL, not_before_ms INT NOT NULL) STRICT;";

/* Version 3: records whose provider keeps them without a KEK around. A table of its own: rows of
 * `records` are what older entries of the journal say. */
static const char schema_3[] = "CREATE TABLE unwrapped(record_id TEXT PRIMARY KEY) STRICT;"
                               "PRAGMA user_version=3;";

/* Version 4: what a provider said will soon take a record away, for who has no copy. Not in the
 * journal: every proof says it anew, and nothing is decided by it. */
static const char schema_4[] = "CREATE TABLE warnings(record_id TEXT PRIMARY KEY,"
                               " text TEXT NOT NULL) STRICT;"
                               "PRAGMA user_version=4;";

static int sql_error(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_DONE:
        return 0;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
        return -EUCLEAN;
    case SQLITE_CONSTRAINT:
        return -EEXIST;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return -EACCES;
    case SQLITE_CANTOPEN:
        return -ENOENT;
    case SQLITE_TOOBIG:
        return -EFBIG;
    default:
        return -EIO;
    }
}

static int bind_all(sqlite3_stmt *stmt, const char *types, va_list *ap)
{
    int rc = SQLITE_OK;
    for (int i = 1; *types && rc == SQLITE_OK; types++, i++) {
        if (*types == 's') {
            rc = sqlite3_bind_text(stmt, i, va_arg(*ap, const char *), -1, SQLITE_TRANSIENT);
        } else if (*types == 'i') {
            rc = sqlite3_bind_int64(stmt, i, va_arg(*ap, int64_t));
        } else {
            const void *data = va_arg(*ap, const void *);
            size_t size = va_arg(*ap, size_t);
            /* An empty value is not NULL; SQLite tells them apart by the pointer. */
            rc = sqlite3_bind_blob64(stmt, i, size > 0 ? data : "", size, SQLITE_TRANSIENT);
        }
    }
    return sql_error(rc);
}

static int query_va(struct store *s, sqlite3_stmt **ret, const char *sql, const char *types,
                    va_list *ap)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = sql_error(sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL));
    if (r == 0)
        r = bind_all(stmt, types, ap);
    if (r == 0)
        *ret = sp_steal(stmt);
    return r;
}

int store_query(struct store *s, sqlite3_stmt **ret, const char *sql, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    int r = query_va(s, ret, sql, types, &ap);
    va_end(ap);
    return r;
}

int store_step(sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt);
    return rc == SQLITE_ROW ? 1 : sql_error(rc);
}

int store_run(struct store *s, const char *sql, const char *types, ...)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    va_list ap;
    va_start(ap, types);
    int r = query_va(s, &stmt, sql, types, &ap);
    va_end(ap);
    while (r == 0 && (r = store_step(stmt)) == 1)
        r = 0;
    return r;
}

int store_begin(struct store *s)
{
    return sql_error(sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL));
}

int store_end(struct store *s, int r)
{
    if (r >= 0) {
        int commit = sql_error(sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL));
        if (commit == 0)
            return r;
        r = commit;
    }
    if (!sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return r;
}

const char *store_text(sqlite3_stmt *stmt, int column)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);
    return text ? text : "";
}

struct sp_bytes store_blob(sqlite3_stmt *stmt, int column)
{
    const void *data = sqlite3_column_blob(stmt, column);
    return (struct sp_bytes){data, data ? (size_t)sqlite3_column_bytes(stmt, column) : 0};
}

int store_chain_head(struct store *s, const char *sql, uint64_t *ret_number, uint8_t ret_hash[32])
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(s, &stmt, sql, "");
    if (r == 0)
        r = store_step(stmt);
    if (r < 0)
        return r;
    *ret_number = 0;
    memset(ret_hash, 0, 32);
    if (r == 1) {
        struct sp_bytes hash = store_blob(stmt, 1);
        if (hash.size != 32)
            return -EUCLEAN;
        *ret_number = (uint64_t)store_int(stmt, 0);
        memcpy(ret_hash, hash.data, 32);
    }
    return 0;
}

static int serialize(sqlite3 *db, uint8_t **ret, size_t *ret_size)
{
    sqlite3_int64 size = 0;
    uint8_t *data = sqlite3_serialize(db, "main", &size, 0);
    if (!data)
        return -ENOMEM;
    *ret = data;
    *ret_size = (size_t)size;
    return 0;
}

int store_copy(struct store *s, const char *sql, uint8_t **ret, size_t *ret_size)
{
    /* Where the file says by which journal it is read and written; 2 is WAL, 1 is not. */
    enum { WRITE_VERSION = 18, READ_VERSION = 19, HEADER = 100 };
    sqlite3 *memory = NULL;
    uint8_t *data = NULL;
    size_t size = 0;

    int r = serialize(s->db, &data, &size);
    if (r == 0 && size < HEADER) {
        sqlite3_free(data);
        r = -EUCLEAN;
    }
    if (r < 0)
        return r;
    data[WRITE_VERSION] = data[READ_VERSION] = 1; /* a database in memory has no WAL */
    r = sql_error(sqlite3_open_v2(":memory:", &memory,
                                  SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                                  NULL));
    if (r == 0) /* takes the bytes over, whatever it returns */
        r = sql_error(
            sqlite3_deserialize(memory, "main", data, (sqlite3_int64)size, (sqlite3_int64)size,
                                SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE));
    else
        sqlite3_free(data);
    if (r == 0)
        r = sql_error(sqlite3_exec(memory, sql, NULL, NULL, NULL));
    if (r == 0)
        r = sql_error(sqlite3_exec(memory, "VACUUM", NULL, NULL, NULL));
    if (r == 0)
        r = serialize(memory, ret, ret_size);
    sqlite3_close(memory);
    return r;
}

int store_integrity(struct store *s, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(s, &stmt, "PRAGMA integrity_check(1)", "");
    if (r == 0)
        r = store_step(stmt);
    if (r == 1 && strcmp(store_text(stmt, 0), "ok") == 0)
        return 0;
    return sp_why_set(why, -EUCLEAN, "the keystore's file is damaged: %s",
                      r == 1 ? store_text(stmt, 0) : "it cannot be read");
}

int store_forget(struct store *s)
{
    return sql_error(
        sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL));
}

static int set_up(struct store *s, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = sql_error(sqlite3_exec(s->db,
                                   "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                                   "PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON;"
                                   "PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF;"
                                   "PRAGMA cell_size_check=ON",
                                   NULL, NULL, NULL));
    if (r == 0)
        r = store_query(s, &stmt, "PRAGMA user_version", "");
    if (r == 0)
        r = store_step(stmt);
    if (r < 0)
        return sp_why_set(why, r, "the keystore cannot be read: %s", sqlite3_errmsg(s->db));
    int64_t version = r == 1 ? store_int(stmt, 0) : -1;
    if (version == SCHEMA_VERSION)
        return 0;
    if (version < 0 || version > SCHEMA_VERSION)
        return sp_why_set(why, -EPROTONOSUPPORT,
                          "the keystore has schema version %lld, this program knows %d",
                          (long long)version, SCHEMA_VERSION);
    sqlite3_reset(stmt);
    r = store_begin(s);
    if (r == 0 && version == 0)
        r = sql_error(sqlite3_exec(s->db, schema, NULL, NULL, NULL));
    if (r == 0 && version < 2)
        r = sql_error(sqlite3_exec(s->db, schema_2, NULL, NULL, NULL));
    if (r == 0 && version < 3)
        r = sql_error(sqlite3_exec(s->db, schema_3, NULL, NULL, NULL));
    if (r == 0)
        r = sql_error(sqlite3_exec(s->db, schema_4, NULL, NULL, NULL));
    r = store_end(s, r);
    return r < 0 ? sp_why_set(why, r, "the keystore cannot be made: %s", sqlite3_errmsg(s->db)) : 0;
}

int store_open(const char *path, struct store **ret, struct sp_why *why)
{
    SP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return sp_why_set(why, -errno, "cannot open %s", path);
    if (fchmod(fd, 0600) < 0)
        return sp_why_set(why, -errno, "cannot set the mode of %s", path);
    close(sp_steal_fd(&fd)); /* now: a close after SQLite's open would drop SQLite's locks */
    struct store *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    int r =
        sql_error(sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL));
    if (r == 0) {
        sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        sqlite3_extended_result_codes(s->db, 1);
        sqlite3_busy_timeout(s->db, 5000); /* somebody reads it with sqlite3(1) */
        r = set_up(s, why);
    } else {
        sp_why_set(why, r, "cannot open the keystore %s", path);
    }
    if (r < 0) {
        store_close(s);
        return r;
    }
    *ret = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    sqlite3_close(s->db);
    free(s);
}
