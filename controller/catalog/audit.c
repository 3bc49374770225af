/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * hash(n) = SHA-256(hash(n-1) ‖ packed entry n with an empty hash); the first one follows nothing.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "controller/catalog/sql.h"
#include <string.h>

static int hash_of(const Sp__AuditEntry *entry, struct sp_bytes previous, uint8_t out[32])
{
    Sp__AuditEntry bare = *entry;
    bare.hash = (ProtobufCBinaryData){0, NULL};
    bare.broken = 0;
    uint8_t *packed SP_FREE = NULL;
    size_t size = 0;
    int r = sp_pack(&bare.base, &packed, &size);
    if (r < 0)
        return r;
    struct sp_bytes parts[] = {previous, {packed, size}};
    return sp_sha256(parts, 2, out);
}

struct last {
    uint64_t number;
    uint8_t hash[32];
    bool any;
};

static int row_last(void *arg, sqlite3_stmt *s)
{
    struct last *l = arg;
    int r = 0;
    Sp__AuditEntry *e = sql_message(s, 0, &sp__audit_entry__descriptor, &r);
    if (!e)
        return r;
    l->number = e->number;
    l->any = e->hash.len == sizeof(l->hash);
    if (l->any)
        memcpy(l->hash, e->hash.data, sizeof(l->hash));
    message_free(e);
    return l->any ? 0 : -EUCLEAN;
}

static int last_entry(struct catalog *c, struct last *ret)
{
    *ret = (struct last){0};
    return sql_each(c, row_last, ret, "SELECT body FROM audit ORDER BY number DESC LIMIT 1", "");
}

int catalog_audit(struct catalog *c, const char *who, const char *what, const char *about,
                  const char *text)
{
    int r = sql_begin(c);
    if (r < 0)
        return r;
    struct last last;
    uint8_t hash[32];
    Sp__AuditEntry entry = SP__AUDIT_ENTRY__INIT;
    r = last_entry(c, &last);
    if (r == 0) {
        entry.log = (char *)"controller";
        entry.number = last.number + 1;
        entry.at_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
        entry.who = (char *)(message_empty(who) ? "local" : who);
        entry.what = (char *)what;
        entry.about = (char *)(about ? about : "");
        entry.text = (char *)(text ? text : "");
        if (last.any)
            entry.previous = (ProtobufCBinaryData){32, last.hash};
        r = hash_of(&entry, (struct sp_bytes){last.hash, last.any ? 32 : 0}, hash);
    }
    if (r == 0) {
        entry.hash = (ProtobufCBinaryData){32, hash};
        r = sql_run(c, "INSERT INTO audit (number, at_unix_ms, body) VALUES (?, ?, ?)", "nnm",
                    entry.number, entry.at_unix_ms, &entry.base);
    }
    return sql_end(c, r);
}

struct walk {
    int (*each)(void *, Sp__AuditEntry *);
    void *arg;
    uint64_t since;
    bool verify;
    uint64_t number;
    uint8_t hash[32];
    bool any;
};

/* An entry holds when its number follows, it names its predecessor's hash, and its own is right. */
static int check_entry(struct walk *w, Sp__AuditEntry *e)
{
    uint8_t hash[32];
    struct sp_bytes previous = {w->hash, w->any ? 32 : 0};
    int r = hash_of(e, previous, hash);
    if (r < 0)
        return r;
    e->broken = e->number != w->number + 1 || e->previous.len != previous.size ||
                (previous.size && memcmp(e->previous.data, previous.data, previous.size) != 0) ||
                e->hash.len != 32 || memcmp(e->hash.data, hash, 32) != 0;
    w->number = e->number;
    w->any = e->hash.len == 32;
    if (w->any)
        memcpy(w->hash, e->hash.data, 32);
    return 0;
}

static int row_walk(void *arg, sqlite3_stmt *s)
{
    struct walk *w = arg;
    int r = 0;
    Sp__AuditEntry *e = sql_message(s, 0, &sp__audit_entry__descriptor, &r);
    if (!e)
        return r;
    r = w->verify ? check_entry(w, e) : 0;
    if (r == 0 && e->at_unix_ms >= w->since)
        r = w->each(w->arg, e);
    message_free(e);
    return r;
}

int catalog_audit_each(struct catalog *c, uint64_t since_unix_ms, bool verify,
                       int (*each)(void *, Sp__AuditEntry *), void *arg)
{
    struct walk w = {.each = each, .arg = arg, .since = since_unix_ms, .verify = verify};
    sql_lock(c);
    int r = sql_each(c, row_walk, &w, "SELECT body FROM audit ORDER BY number", "");
    sql_unlock(c);
    return r;
}

int catalog_audit_head(struct catalog *c, uint8_t ret_head[32])
{
    struct last last;
    sql_lock(c);
    int r = last_entry(c, &last);
    sql_unlock(c);
    if (r == 0)
        memcpy(ret_head, last.hash, 32);
    return r;
}
