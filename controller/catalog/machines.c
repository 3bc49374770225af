/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "controller/catalog/sql.h"
#include <string.h>

/* The inventory has a column of its own: it is large and changes by itself. */
static int write_body(struct catalog *c, const Sp__Machine *machine, const char *sql)
{
    Sp__Machine without = *machine;
    without.inventory = NULL;
    return sql_run(c, sql, "ttm", machine->machine_id, machine->name, &without.base);
}

int catalog_machine_add(struct catalog *c, const Sp__Machine *machine)
{
    sql_lock(c);
    int r = write_body(c, machine, "INSERT INTO machine (machine_id, name, body) VALUES (?, ?, ?)");
    sql_unlock(c);
    return r;
}

struct find {
    bool inventory;
    Sp__Machine *machine;
};

static int row_machine(void *arg, sqlite3_stmt *s)
{
    struct find *f = arg;
    int r = 0;
    Sp__Machine *m = sql_message(s, 0, &sp__machine__descriptor, &r);
    if (!m)
        return r;
    if (f->inventory && sqlite3_column_type(s, 1) != SQLITE_NULL)
        m->inventory = sql_message(s, 1, &sp__inventory__descriptor, &r);
    f->machine = m;
    return r < 0 ? r : 1;
}

int catalog_machine_get(struct catalog *c, const char *machine, bool inventory, Sp__Machine **ret)
{
    struct find f = {.inventory = inventory};
    sql_lock(c);
    /* An id wins over a name that looks like it. */
    int r = sql_each(c, row_machine, &f,
                     "SELECT body, inventory FROM machine WHERE machine_id = ?1 OR name = ?1 "
                     "ORDER BY machine_id = ?1 DESC LIMIT 1",
                     "t", machine);
    sql_unlock(c);
    if (r == 0 && !f.machine)
        r = -ENOENT;
    if (r < 0) {
        message_free(f.machine);
        return r;
    }
    *ret = f.machine;
    return 0;
}

int catalog_machine_change(struct catalog *c, const char *machine,
                           int (*change)(Sp__Machine *, void *), void *arg, Sp__Machine **ret)
{
    Sp__Machine *m = NULL;
    int r = sql_begin(c);
    if (r < 0)
        return r;
    r = catalog_machine_get(c, machine, false, &m);
    if (r == 0)
        r = change(m, arg);
    if (r >= 0)
        r = write_body(c, m, "UPDATE machine SET name = ?2, body = ?3 WHERE machine_id = ?1");
    r = sql_end(c, r);
    if (r == 0 && ret)
        *ret = sp_steal(m);
    message_free(m);
    return r;
}

struct walk {
    int (*each)(void *, Sp__Machine *);
    void *arg;
};

static int row_walk(void *arg, sqlite3_stmt *s)
{
    struct walk *w = arg;
    int r = 0;
    Sp__Machine *m = sql_message(s, 0, &sp__machine__descriptor, &r);
    if (!m)
        return r;
    r = w->each(w->arg, m);
    message_free(m);
    return r;
}

int catalog_machine_each(struct catalog *c, int (*each)(void *, Sp__Machine *), void *arg)
{
    struct walk w = {each, arg};
    sql_lock(c);
    int r = sql_each(c, row_walk, &w, "SELECT body FROM machine ORDER BY name", "");
    sql_unlock(c);
    return r;
}

/* An UPDATE that met no row is an id nobody knows. */
static int changed(struct catalog *c, int r)
{
    return r == 0 && sqlite3_changes(sql_handle(c)) == 0 ? -ENOENT : r;
}

int catalog_machine_set_inventory(struct catalog *c, const char *machine_id,
                                  const Sp__Inventory *inventory)
{
    sql_lock(c);
    int r = changed(c, sql_run(c, "UPDATE machine SET inventory = ?2 WHERE machine_id = ?1", "tm",
                               machine_id, &inventory->base));
    sql_unlock(c);
    return r;
}

struct mark {
    char *out;
    size_t size;
    bool found;
};

static int row_mark(void *arg, sqlite3_stmt *s)
{
    struct mark *m = arg;
    snprintf(m->out, m->size, "%s", sql_text(s, 0));
    m->found = true;
    return 0;
}

int catalog_machine_mark(struct catalog *c, const char *machine_id, char *ret_mark, size_t size)
{
    struct mark m = {ret_mark, size, false};
    sql_lock(c);
    int r =
        sql_each(c, row_mark, &m, "SELECT mark FROM machine WHERE machine_id = ?", "t", machine_id);
    sql_unlock(c);
    return r < 0 ? r : m.found ? 0 : -ENOENT;
}

int catalog_machine_set_mark(struct catalog *c, const char *machine_id, const char *mark)
{
    sql_lock(c);
    int r = changed(c, sql_run(c, "UPDATE machine SET mark = ?2 WHERE machine_id = ?1", "tt",
                               machine_id, mark ? mark : ""));
    sql_unlock(c);
    return r;
}

int catalog_machine_remove(struct catalog *c, const char *machine_id)
{
    sql_lock(c);
    int r = changed(c, sql_run(c, "DELETE FROM machine WHERE machine_id = ?", "t", machine_id));
    sql_unlock(c);
    return r;
}
