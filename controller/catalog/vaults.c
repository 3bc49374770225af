/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "controller/catalog/sql.h"

int catalog_vault_add(struct catalog *c, const Sp__Vault *vault)
{
    sql_lock(c);
    int r = sql_run(c, "INSERT INTO vault (vault_id, name, body) VALUES (?, ?, ?)", "ttm",
                    vault->vault_id, vault->name, &vault->base);
    sql_unlock(c);
    return r;
}

struct find {
    Sp__Vault *vault;
    unsigned count;
};

static int row_vault(void *arg, sqlite3_stmt *s)
{
    struct find *f = arg;
    int r = 0;
    f->count++;
    message_free(f->vault);
    f->vault = sql_message(s, 0, &sp__vault__descriptor, &r);
    return r;
}

int catalog_vault_get(struct catalog *c, const char *vault, Sp__Vault **ret)
{
    struct find f = {0};
    bool only = message_empty(vault);
    sql_lock(c);
    int r = only ? sql_each(c, row_vault, &f, "SELECT body FROM vault LIMIT 2", "")
                 : sql_each(c, row_vault, &f,
                            "SELECT body FROM vault WHERE vault_id = ?1 OR name = ?1 "
                            "ORDER BY vault_id = ?1 LIMIT 2",
                            "t", vault);
    sql_unlock(c);
    if (r == 0)
        r = f.count == 0 ? -ENOENT : only && f.count > 1 ? -ENOTUNIQ : 0;
    if (r < 0) {
        message_free(f.vault);
        return r;
    }
    *ret = f.vault;
    return 0;
}

struct walk {
    int (*each)(void *, Sp__Vault *);
    void *arg;
};

static int row_walk(void *arg, sqlite3_stmt *s)
{
    struct walk *w = arg;
    int r = 0;
    Sp__Vault *v = sql_message(s, 0, &sp__vault__descriptor, &r);
    if (!v)
        return r;
    r = w->each(w->arg, v);
    message_free(v);
    return r;
}

int catalog_vault_each(struct catalog *c, int (*each)(void *, Sp__Vault *), void *arg)
{
    struct walk w = {each, arg};
    sql_lock(c);
    int r = sql_each(c, row_walk, &w, "SELECT body FROM vault ORDER BY name", "");
    sql_unlock(c);
    return r;
}
