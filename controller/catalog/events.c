/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "controller/catalog/sql.h"

enum { KEPT_EACH = 5000 };

static int add(struct catalog *c, const char *machine_id, Sp__VolumeEvent *event)
{
    int r = sql_run(c, "INSERT INTO event (machine_id, body) VALUES (?, ?)", "tm", machine_id,
                    &event->base);
    if (r == 0)
        event->event_id = (uint64_t)sqlite3_last_insert_rowid(sql_handle(c));
    return r;
}

int catalog_events_add(struct catalog *c, const char *machine_id, const Sp__Inventory *inventory,
                       Sp__VolumeEvent *const *events, size_t count)
{
    int r = sql_begin(c);
    if (r < 0)
        return r;
    if (inventory)
        r = catalog_machine_set_inventory(c, machine_id, inventory);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add(c, machine_id, events[i]);
    if (r == 0 && count)
        r = sql_run(c,
                    "DELETE FROM event WHERE machine_id = ?1 AND number <= (SELECT number FROM "
                    "event WHERE machine_id = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                    "tn", machine_id, (uint64_t)KEPT_EACH);
    return sql_end(c, r);
}

struct walk {
    int (*each)(void *, Sp__VolumeEvent *);
    void *arg;
};

static int row_event(void *arg, sqlite3_stmt *s)
{
    struct walk *w = arg;
    int r = 0;
    Sp__VolumeEvent *event = sql_message(s, 1, &sp__volume_event__descriptor, &r);
    if (!event)
        return r;
    event->event_id = sql_number(s, 0);
    r = w->each(w->arg, event);
    message_free(event);
    return r;
}

int catalog_event_each(struct catalog *c, const char *machine_id, uint64_t before,
                       int (*each)(void *, Sp__VolumeEvent *), void *arg)
{
    struct walk w = {each, arg};
    sql_lock(c);
    int r = sql_each(c, row_event, &w,
                     "SELECT number, body FROM event WHERE machine_id = ? AND number < ? "
                     "ORDER BY number DESC",
                     "tn", machine_id, before ? before : (uint64_t)INT64_MAX);
    sql_unlock(c);
    return r;
}
