/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/clock.h"
#include "controller/catalog/sql.h"
#include <string.h>

struct catalog_point *catalog_point_new(void)
{
    struct catalog_point *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->point = message_new(&sp__point__descriptor);
    p->draft = message_new(&sp__manifest__descriptor);
    if (!p->point || !p->draft) {
        catalog_point_free(p);
        return NULL;
    }
    return p;
}

void catalog_point_free(struct catalog_point *p)
{
    if (!p)
        return;
    message_free(p->point);
    message_free(p->source);
    message_free(p->draft);
    free(p->journal);
    free(p);
}

static int write_findings(struct catalog *c, const Sp__Point *point)
{
    int r = sql_run(c, "DELETE FROM finding WHERE point_id = ?", "t", point->point_id);
    for (size_t i = 0; i < point->n_findings && r == 0; i++)
        r = sql_run(c, "INSERT INTO finding (point_id, number, body) VALUES (?, ?, ?)", "tnm",
                    point->point_id, (uint64_t)i, &point->findings[i]->base);
    return r;
}

static int write_step(struct catalog *c, const Sp__Point *point, const char *step)
{
    return sql_run(c, "INSERT INTO step (point_id, at_unix_ms, state, step) VALUES (?, ?, ?, ?)",
                   "tnnt", point->point_id, sp_clock_system.wall_ms(sp_clock_system.self),
                   (uint64_t)point->state, step);
}

static int write_point(struct catalog *c, const struct catalog_point *p)
{
    /* Findings have rows of their own. */
    Sp__Point bare = *p->point;
    bare.n_findings = 0;
    bare.findings = NULL;
    struct sp_bytes hash = {p->stored ? p->manifest_sha256 : NULL, 32};
    return sql_run(c,
                   "UPDATE point SET state = ?2, sequence = ?3, body = ?4, source = ?5,"
                   " freeze_operation = ?6, snapshot_held = ?7, transferred = ?8, pinned = ?9,"
                   " stored = ?10, revision = ?11, manifest_sha256 = ?12 WHERE point_id = ?1",
                   "tnnmmtnnnnnb", bare.point_id, (uint64_t)bare.state, bare.sequence, &bare.base,
                   p->source ? &p->source->base : NULL, p->freeze_operation,
                   (uint64_t)p->snapshot_held, (uint64_t)p->transferred, (uint64_t)p->pinned,
                   (uint64_t)p->stored, (uint64_t)p->revision, hash);
}

int catalog_point_save(struct catalog *c, const struct catalog_point *p, bool draft,
                       const char *step)
{
    int r = sql_begin(c);
    if (r < 0)
        return r;
    r = write_point(c, p);
    if (r == 0 && sqlite3_changes(sql_handle(c)) == 0)
        r = -ENOENT;
    if (r == 0)
        r = write_findings(c, p->point);
    if (r == 0 && draft)
        r = sql_run(c, "UPDATE point SET draft = ?2 WHERE point_id = ?1", "tm", p->point->point_id,
                    p->draft ? &p->draft->base : NULL);
    if (r == 0 && step)
        r = write_step(c, p->point, step);
    return sql_end(c, r);
}

int catalog_point_add(struct catalog *c, const struct catalog_point *p)
{
    int r = sql_begin(c);
    if (r < 0)
        return r;
    r = sql_run(c,
                "INSERT INTO point (point_id, machine_id, state, sequence, body) "
                "VALUES (?, ?, ?, ?, ?)",
                "ttnnm", p->point->point_id, p->point->machine_id, (uint64_t)p->point->state,
                p->point->sequence, &p->point->base);
    if (r == 0)
        r = catalog_point_save(c, p, true, "requested");
    return sql_end(c, r);
}

int catalog_point_journal(struct catalog *c, const char *point_id, const char *journal)
{
    sql_lock(c);
    int r = sql_run(c, "UPDATE point SET journal = ?2, snapshot_held = 1 WHERE point_id = ?1", "tt",
                    point_id, journal);
    if (r == 0 && sqlite3_changes(sql_handle(c)) == 0)
        r = -ENOENT;
    sql_unlock(c);
    return r;
}

static int row_finding(void *arg, sqlite3_stmt *s)
{
    Sp__Point *point = arg;
    int r = 0;
    void *finding = sql_message(s, 0, &sp__finding__descriptor, &r);
    return finding ? message_append(&point->findings, &point->n_findings, finding) : r;
}

static int read_findings(struct catalog *c, Sp__Point *point)
{
    return sql_each(c, row_finding, point,
                    "SELECT body FROM finding WHERE point_id = ? ORDER BY number", "t",
                    point->point_id);
}

/* body, source, draft, journal, freeze_operation, snapshot_held, transferred, pinned, stored,
 * revision, manifest_sha256 */
static int fill_point(struct catalog_point *p, sqlite3_stmt *s)
{
    int r = 0;
    p->point = sql_message(s, 0, &sp__point__descriptor, &r);
    if (r == 0 && sqlite3_column_type(s, 1) != SQLITE_NULL)
        p->source = sql_message(s, 1, &sp__source_config__descriptor, &r);
    if (r == 0)
        p->draft = sqlite3_column_type(s, 2) != SQLITE_NULL
                       ? sql_message(s, 2, &sp__manifest__descriptor, &r)
                       : message_new(&sp__manifest__descriptor);
    if (r == 0 && sqlite3_column_type(s, 3) != SQLITE_NULL)
        p->journal = strdup(sql_text(s, 3));
    snprintf(p->freeze_operation, sizeof(p->freeze_operation), "%s", sql_text(s, 4));
    p->snapshot_held = sql_number(s, 5) != 0;
    p->transferred = sql_number(s, 6) != 0;
    p->pinned = sql_number(s, 7) != 0;
    p->stored = sql_number(s, 8) != 0;
    p->revision = (uint32_t)sql_number(s, 9);
    struct sp_bytes hash = sql_bytes(s, 10);
    if (hash.size == sizeof(p->manifest_sha256))
        memcpy(p->manifest_sha256, hash.data, hash.size);
    return r;
}

static int row_point(void *arg, sqlite3_stmt *s)
{
    struct catalog_point *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    *(struct catalog_point **)arg = p;
    int r = fill_point(p, s);
    return r < 0 ? r : 1;
}

int catalog_point_get(struct catalog *c, const char *point_id, struct catalog_point **ret)
{
    struct catalog_point *p CATALOG_POINT = NULL;
    sql_lock(c);
    int r = sql_each(c, row_point, &p,
                     "SELECT body, source, draft, journal, freeze_operation, snapshot_held,"
                     " transferred, pinned, stored, revision, manifest_sha256 FROM point"
                     " WHERE point_id = ?",
                     "t", point_id);
    if (r == 0)
        r = p ? read_findings(c, p->point) : -ENOENT;
    sql_unlock(c);
    if (r == 0)
        *ret = sp_steal(p);
    return r;
}

struct find {
    char id[37];
    unsigned count;
};

static int row_find(void *arg, sqlite3_stmt *s)
{
    struct find *f = arg;
    f->count++;
    snprintf(f->id, sizeof(f->id), "%s", sql_text(s, 0));
    return 0;
}

int catalog_point_find(struct catalog *c, const char *beginning, char ret_point_id[37])
{
    struct find f = {0};
    size_t length = strlen(beginning);
    if (length < 8 || length > 36 || strspn(beginning, "0123456789abcdef-") != length)
        return -ENOENT;
    sql_lock(c);
    int r = sql_each(c, row_find, &f,
                     "SELECT point_id FROM point WHERE substr(point_id, 1, ?2) = ?1 LIMIT 2", "tn",
                     beginning, (uint64_t)length);
    sql_unlock(c);
    if (r == 0)
        r = f.count == 0 ? -ENOENT : f.count > 1 ? -ENOTUNIQ : 0;
    if (r == 0)
        memcpy(ret_point_id, f.id, sizeof(f.id));
    return r;
}

struct walk {
    struct catalog *catalog;
    int (*each)(void *, uint64_t, Sp__Point *);
    void *arg;
};

static int row_walk(void *arg, sqlite3_stmt *s)
{
    struct walk *w = arg;
    int r = 0;
    Sp__Point *point = sql_message(s, 1, &sp__point__descriptor, &r);
    if (!point)
        return r;
    r = read_findings(w->catalog, point);
    if (r == 0)
        r = w->each(w->arg, sql_number(s, 0), point);
    message_free(point);
    return r;
}

int catalog_point_each(struct catalog *c, const char *machine_id, uint64_t before,
                       int (*each)(void *, uint64_t, Sp__Point *), void *arg)
{
    struct walk w = {c, each, arg};
    uint64_t below = before ? before : INT64_MAX;
    sql_lock(c);
    int r = machine_id
                ? sql_each(c, row_walk, &w,
                           "SELECT number, body FROM point WHERE number < ? AND machine_id = ? "
                           "ORDER BY number DESC",
                           "nt", below, machine_id)
                : sql_each(c, row_walk, &w,
                           "SELECT number, body FROM point WHERE number < ? ORDER BY number DESC",
                           "n", below);
    sql_unlock(c);
    return r;
}

struct ids {
    int (*each)(void *, const char *);
    void *arg;
};

static int row_id(void *arg, sqlite3_stmt *s)
{
    struct ids *i = arg;
    return i->each(i->arg, sql_text(s, 0));
}

int catalog_point_unfinished(struct catalog *c, int (*each)(void *, const char *), void *arg)
{
    struct ids i = {each, arg};
    sql_lock(c);
    /* A failed point may still have pins or a snapshot: its job was killed while it cleaned up. */
    int r = sql_each(c, row_id, &i,
                     "SELECT point_id FROM point WHERE state < ?1 OR snapshot_held != 0"
                     " OR (state = ?2 AND pinned != 0) ORDER BY number",
                     "nn", (uint64_t)SP__POINT_STATE__POINT_STATE_VALID,
                     (uint64_t)SP__POINT_STATE__POINT_STATE_FAILED);
    sql_unlock(c);
    return r;
}

struct chain {
    uint64_t sequence;
    uint8_t hash[32];
    bool any;
};

static int row_chain(void *arg, sqlite3_stmt *s)
{
    struct chain *chain = arg;
    struct sp_bytes hash = sql_bytes(s, 1);
    chain->sequence = sql_number(s, 0);
    chain->any = hash.size == sizeof(chain->hash);
    if (chain->any)
        memcpy(chain->hash, hash.data, sizeof(chain->hash));
    return chain->any ? 0 : -EUCLEAN;
}

int catalog_point_chain(struct catalog *c, const char *machine_id, uint64_t *ret_sequence,
                        uint8_t ret_previous[32], bool *ret_has_previous)
{
    struct chain chain = {0};
    sql_lock(c);
    int r = sql_each(c, row_chain, &chain,
                     "SELECT sequence, manifest_sha256 FROM point WHERE machine_id = ? AND stored "
                     "ORDER BY sequence DESC LIMIT 1",
                     "t", machine_id);
    sql_unlock(c);
    if (r < 0)
        return r;
    *ret_sequence = chain.sequence + 1;
    memcpy(ret_previous, chain.hash, 32);
    *ret_has_previous = chain.any;
    return 0;
}

struct steps {
    int (*each)(void *, uint64_t, Sp__PointState, const char *);
    void *arg;
};

static int row_step(void *arg, sqlite3_stmt *s)
{
    struct steps *w = arg;
    return w->each(w->arg, sql_number(s, 0), (Sp__PointState)sql_number(s, 1), sql_text(s, 2));
}

int catalog_point_steps(struct catalog *c, const char *point_id,
                        int (*each)(void *, uint64_t, Sp__PointState, const char *), void *arg)
{
    struct steps w = {each, arg};
    sql_lock(c);
    int r = sql_each(c, row_step, &w,
                     "SELECT at_unix_ms, state, step FROM step WHERE point_id = ? ORDER BY number",
                     "t", point_id);
    sql_unlock(c);
    return r;
}

struct last {
    char id[37];
    Sp__PointState state;
    uint64_t taken;
};

static int row_last(void *arg, sqlite3_stmt *s)
{
    struct last *l = arg;
    int r = 0;
    Sp__Point *point = sql_message(s, 0, &sp__point__descriptor, &r);
    if (!point)
        return r;
    snprintf(l->id, sizeof(l->id), "%s", point->point_id);
    l->state = point->state;
    l->taken = point->taken_unix_ms;
    message_free(point);
    return 0;
}

int catalog_point_last(struct catalog *c, const char *machine_id, char ret_point_id[37],
                       Sp__PointState *ret_state, uint64_t *ret_last_valid_unix_ms)
{
    struct last newest = {0}, valid = {0};
    sql_lock(c);
    int r = sql_each(c, row_last, &newest,
                     "SELECT body FROM point WHERE machine_id = ? ORDER BY number DESC LIMIT 1",
                     "t", machine_id);
    if (r == 0)
        r = sql_each(c, row_last, &valid,
                     "SELECT body FROM point WHERE machine_id = ? AND state = ? "
                     "ORDER BY number DESC LIMIT 1",
                     "tn", machine_id, (uint64_t)SP__POINT_STATE__POINT_STATE_VALID);
    sql_unlock(c);
    if (r < 0)
        return r;
    memcpy(ret_point_id, newest.id, sizeof(newest.id));
    *ret_state = newest.state;
    *ret_last_valid_unix_ms = valid.taken;
    return 0;
}
