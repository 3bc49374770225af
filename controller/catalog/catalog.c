/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/catalog/catalog.h"
#include "base/cleanup.h"
#include "controller/catalog/sql.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

struct catalog {
    sqlite3 *db;
    pthread_mutex_t lock; /* recursive: guards db and depth */
    unsigned depth;       /* of transactions */
    bool doomed;          /* an inner part failed: the outermost rolls back */
};

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE machine (machine_id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    "  body BLOB NOT NULL, inventory BLOB, mark TEXT NOT NULL DEFAULT '') STRICT;"
    "CREATE TABLE vault (vault_id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    "  body BLOB NOT NULL) STRICT;"
    "CREATE TABLE point (number INTEGER PRIMARY KEY AUTOINCREMENT, point_id TEXT NOT NULL UNIQUE,"
    "  machine_id TEXT NOT NULL, state INTEGER NOT NULL, sequence INTEGER NOT NULL,"
    "  body BLOB NOT NULL, source BLOB, draft BLOB, journal TEXT,"
    "  freeze_operation TEXT NOT NULL DEFAULT '', snapshot_held INTEGER NOT NULL DEFAULT 0,"
    "  transferred INTEGER NOT NULL DEFAULT 0, pinned INTEGER NOT NULL DEFAULT 0,"
    "  stored INTEGER NOT NULL DEFAULT 0, revision INTEGER NOT NULL DEFAULT 0,"
    "  manifest_sha256 BLOB) STRICT;"
    "CREATE INDEX point_of_machine ON point (machine_id, number);"
    "CREATE INDEX point_held ON point (number) WHERE snapshot_held OR state < 7;"
    "CREATE TABLE step (number INTEGER PRIMARY KEY AUTOINCREMENT, point_id TEXT NOT NULL,"
    "  at_unix_ms INTEGER NOT NULL, state INTEGER NOT NULL, step TEXT NOT NULL) STRICT;"
    "CREATE INDEX step_of_point ON step (point_id, number);"
    "CREATE TABLE finding (point_id TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL,"
    "  PRIMARY KEY (point_id, number)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE job (job_id TEXT PRIMARY KEY, ended INTEGER NOT NULL, started INTEGER NOT NULL,"
    "  body BLOB NOT NULL) STRICT;"
    "CREATE INDEX job_unended ON job (started) WHERE ended = 0;"
    "CREATE TABLE audit (number INTEGER PRIMARY KEY, at_unix_ms INTEGER NOT NULL,"
    "  body BLOB NOT NULL) STRICT;"
    "PRAGMA user_version = 1;"
    "COMMIT;";

/* What came later and older programs need not know of. */
static const char additions[] =
    "CREATE TABLE IF NOT EXISTS event (number INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  machine_id TEXT NOT NULL, body BLOB NOT NULL) STRICT;"
    "CREATE INDEX IF NOT EXISTS event_of_machine ON event (machine_id, number);";

/* SQLite's codes as errno: what an admin can act on stays apart. */
static int error_of(sqlite3 *db, int code)
{
    switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_DONE:
    case SQLITE_ROW:
        return 0;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_CONSTRAINT:
        return -EEXIST;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EUCLEAN;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return -EACCES;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    default:
        return db && sqlite3_system_errno(db) > 0 ? -sqlite3_system_errno(db) : -EIO;
    }
}

void sql_lock(struct catalog *c)
{
    pthread_mutex_lock(&c->lock);
}

void sql_unlock(struct catalog *c)
{
    pthread_mutex_unlock(&c->lock);
}

sqlite3 *sql_handle(struct catalog *c)
{
    return c->db;
}

static int bind_message(sqlite3_stmt *s, int at, const ProtobufCMessage *message)
{
    if (!message)
        return sqlite3_bind_null(s, at);
    uint8_t *data = NULL;
    size_t size = 0;
    int r = sp_pack(message, &data, &size);
    if (r < 0)
        return SQLITE_NOMEM;
    /* A message of defaults packs to nothing, which is not the same as NULL. */
    if (size == 0) {
        free(data);
        return sqlite3_bind_zeroblob(s, at, 0);
    }
    return sqlite3_bind_blob64(s, at, data, size, free);
}

static int bind_all(sqlite3_stmt *s, const char *types, va_list args)
{
    int r = SQLITE_OK;
    for (int i = 0; types[i] && r == SQLITE_OK; i++) {
        if (types[i] == 't') {
            const char *text = va_arg(args, const char *);
            r = text ? sqlite3_bind_text(s, i + 1, text, -1, SQLITE_TRANSIENT)
                     : sqlite3_bind_null(s, i + 1);
        } else if (types[i] == 'n') {
            r = sqlite3_bind_int64(s, i + 1, (sqlite3_int64)va_arg(args, uint64_t));
        } else if (types[i] == 'b') {
            struct sp_bytes b = va_arg(args, struct sp_bytes);
            r = b.data ? sqlite3_bind_blob64(s, i + 1, b.data, b.size, SQLITE_TRANSIENT)
                       : sqlite3_bind_null(s, i + 1);
        } else {
            r = bind_message(s, i + 1, va_arg(args, const ProtobufCMessage *));
        }
    }
    return r;
}

static int execute(struct catalog *c, int (*row)(void *, sqlite3_stmt *), void *arg,
                   const char *sql, const char *types, va_list args)
{
    sqlite3_stmt *s = NULL;
    int code = sqlite3_prepare_v2(c->db, sql, -1, &s, NULL);
    if (code == SQLITE_OK)
        code = bind_all(s, types, args);
    int r = 0;
    if (code == SQLITE_OK) {
        while (r == 0 && (code = sqlite3_step(s)) == SQLITE_ROW)
            r = row ? row(arg, s) : 0;
    }
    if (r == 0)
        r = error_of(c->db, code);
    sqlite3_finalize(s);
    return r > 0 ? 0 : r;
}

int sql_run(struct catalog *c, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    int r = execute(c, NULL, NULL, sql, types, args);
    va_end(args);
    return r;
}

int sql_each(struct catalog *c, int (*row)(void *, sqlite3_stmt *), void *arg, const char *sql,
             const char *types, ...)
{
    va_list args;
    va_start(args, types);
    int r = execute(c, row, arg, sql, types, args);
    va_end(args);
    return r;
}

int sql_begin(struct catalog *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->depth == 0) {
        c->doomed = false;
        int r = sql_run(c, "BEGIN IMMEDIATE", "");
        if (r < 0) {
            pthread_mutex_unlock(&c->lock);
            return r;
        }
    }
    c->depth++;
    return 0;
}

int sql_end(struct catalog *c, int result)
{
    if (result < 0)
        c->doomed = true;
    if (--c->depth == 0) {
        int r = c->doomed ? 0 : sql_run(c, "COMMIT", "");
        /* Some errors roll back by themselves; a second ROLLBACK only says so. */
        if ((c->doomed || r < 0) && !sqlite3_get_autocommit(c->db))
            sql_run(c, "ROLLBACK", "");
        if (r < 0)
            result = r;
        else if (c->doomed && result >= 0)
            result = -EIO;
    }
    pthread_mutex_unlock(&c->lock);
    return result;
}

const char *sql_text(sqlite3_stmt *s, int column)
{
    const unsigned char *text = sqlite3_column_text(s, column);
    return text ? (const char *)text : "";
}

uint64_t sql_number(sqlite3_stmt *s, int column)
{
    return (uint64_t)sqlite3_column_int64(s, column);
}

struct sp_bytes sql_bytes(sqlite3_stmt *s, int column)
{
    const void *data = sqlite3_column_blob(s, column);
    return (struct sp_bytes){data, data ? (size_t)sqlite3_column_bytes(s, column) : 0};
}

void *sql_message(sqlite3_stmt *s, int column, const ProtobufCMessageDescriptor *type, int *error)
{
    if (sqlite3_column_type(s, column) == SQLITE_NULL) {
        *error = -ENOENT;
        return NULL;
    }
    struct sp_bytes b = sql_bytes(s, column);
    void *message = protobuf_c_message_unpack(type, NULL, b.size, b.data ? b.data : (uint8_t *)"");
    *error = message ? 0 : -EUCLEAN;
    return message;
}

static int row_number(void *arg, sqlite3_stmt *s)
{
    *(uint64_t *)arg = sql_number(s, 0);
    return 0;
}

static int row_text(void *arg, sqlite3_stmt *s)
{
    snprintf(arg, 32, "%s", sql_text(s, 0));
    return 0;
}

static int prepare(struct catalog *c, const char *path, struct sp_why *why)
{
    char mode[32] = "";
    int r = sql_each(c, row_text, mode, "PRAGMA journal_mode = WAL", "");
    if (r < 0 || strcmp(mode, "wal") != 0)
        return sp_why_set(why, r < 0 ? r : -EIO, "the catalog %s cannot be opened for writing: %s",
                          path, sqlite3_errmsg(c->db));
    static const char *const pragmas[] = {"PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON",
                                          "PRAGMA secure_delete = ON"};
    for (size_t i = 0; i < SP_COUNT(pragmas) && r == 0; i++)
        r = sql_run(c, pragmas[i], "");
    uint64_t version = 0;
    if (r == 0)
        r = sql_each(c, row_number, &version, "PRAGMA user_version", "");
    if (r == 0 && version > CATALOG_SCHEMA_VERSION)
        return sp_why_set(why, -EPROTO,
                          "the catalog %s was written by a newer sealpointd (schema %llu, this one "
                          "knows %d): install the newer version",
                          path, (unsigned long long)version, CATALOG_SCHEMA_VERSION);
    if (r == 0 && version == 0)
        r = error_of(c->db, sqlite3_exec(c->db, schema, NULL, NULL, NULL));
    if (r == 0)
        r = error_of(c->db, sqlite3_exec(c->db, additions, NULL, NULL, NULL));
    char check[32] = "";
    if (r == 0)
        r = sql_each(c, row_text, check, "PRAGMA quick_check(1)", "");
    if (r == 0 && strcmp(check, "ok") != 0)
        r = -EUCLEAN;
    return r == 0 ? 0
                  : sp_why_set(why, r, "the catalog %s is not usable: %s", path,
                               r == -EUCLEAN ? "it is damaged; restore it, or rebuild it from the "
                                               "vaults (sealpoint vault add)"
                                             : sqlite3_errmsg(c->db));
}

int catalog_open(const char *path, struct catalog **ret, struct sp_why *why)
{
    /* SQLite would make the file with the umask's mode. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return sp_why_set(why, -errno, "cannot open the catalog %s: %s", path, strerror(errno));
    close(fd);
    struct catalog *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&c->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    int code = sqlite3_open_v2(path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL);
    int r = error_of(c->db, code);
    if (r < 0)
        sp_why_set(why, r, "cannot open the catalog %s: %s", path, sqlite3_errstr(code));
    if (r == 0) {
        sqlite3_busy_timeout(c->db, 5000);
        r = prepare(c, path, why);
    }
    if (r < 0) {
        catalog_close(c);
        return r;
    }
    *ret = c;
    return 0;
}

void catalog_close(struct catalog *c)
{
    if (!c)
        return;
    sqlite3_close_v2(c->db);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

int catalog_set(struct catalog *c, const char *key, const void *value, size_t size)
{
    struct sp_bytes b = {size ? value : "", size};
    sql_lock(c);
    int r = sql_run(c, "INSERT OR REPLACE INTO kv (key, value) VALUES (?, ?)", "tb", key, b);
    sql_unlock(c);
    return r;
}

struct get {
    struct sp_buffer *out;
    bool found;
};

static int row_value(void *arg, sqlite3_stmt *s)
{
    struct get *g = arg;
    struct sp_bytes b = sql_bytes(s, 0);
    g->found = true;
    return b.size ? sp_buffer_append(g->out, b.data, b.size) : 0;
}

int catalog_get(struct catalog *c, const char *key, struct sp_buffer *out)
{
    struct get g = {.out = out};
    sql_lock(c);
    int r = sql_each(c, row_value, &g, "SELECT value FROM kv WHERE key = ?", "t", key);
    sql_unlock(c);
    return r < 0 ? r : g.found ? 0 : -ENOENT;
}

int catalog_count_up(struct catalog *c, const char *key, uint64_t *ret)
{
    struct sp_buffer old SP_BUFFER = {0};
    int r = sql_begin(c);
    if (r < 0)
        return r;
    uint64_t value = 0;
    uint8_t stored[8];
    r = catalog_get(c, key, &old);
    if (r == 0 && old.size == sizeof(stored))
        value = sp_le64(old.data);
    if (r == 0 || r == -ENOENT) {
        sp_put_le64(stored, ++value);
        r = catalog_set(c, key, stored, sizeof(stored));
    }
    r = sql_end(c, r);
    if (r == 0)
        *ret = value;
    return r;
}
