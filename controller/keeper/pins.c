/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/pins.h"

#include "controller/keeper/audit.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/records.h"
#include <string.h>

enum { VOLUMES_MOST = 1024 };

bool pin_exists(struct keeper *k, const char *point_id, const char *record_id)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    return store_query(k->store, &stmt, "SELECT 1 FROM pins WHERE point_id=? AND record_id=?", "ss",
                       point_id, record_id) == 0 &&
           store_step(stmt) == 1;
}

int pin_add(struct keeper *k, const char *point_id, const char *machine_id, const char *record_id)
{
    return store_run(k->store, "INSERT OR IGNORE INTO pins VALUES(?,?,?,?)", "sssi", point_id,
                     record_id, machine_id, (int64_t)keeper_now_ms(k));
}

int pin_check_point(struct keeper *k, const char *point_id, const char *machine_id,
                    struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT 1 FROM pins WHERE point_id=? AND machine_id<>? LIMIT 1", "ss",
                        point_id, machine_id);
    if (r == 0)
        r = store_step(stmt);
    return r == 1 ? sp_why_set(why, -ESTALE, "the point %s is another machine's", point_id) : r;
}

static int pin_volume(struct keeper *k, const Sp__PinRequest *ask, const char *volume_id,
                      Sp__PinResponse *out)
{
    Sp__EscrowRecord **records;
    size_t count;
    int r = records_of(k, ask->machine_id, volume_id, &records, &count);
    for (size_t i = 0; i < count && r == 0; i++) {
        r = pin_add(k, ask->point_id, ask->machine_id, records[i]->record_id);
        if (r == 0)
            r = MESSAGE_ROOM(out->records, out->n_records);
        if (r == 0) {
            out->records[out->n_records++] = records[i];
            records[i] = NULL;
        }
    }
    for (size_t i = 0; i < count; i++)
        if (records[i])
            sp__escrow_record__free_unpacked(records[i], NULL);
    free(records);
    return r;
}

int keeper_pin(struct keeper *k, const Sp__KeeperRequest *request, int fd, Sp__KeeperResponse *out,
               struct sp_why *why)
{
    const Sp__PinRequest *ask = request->pin;
    (void)fd;

    if (!sp_uuid_valid(ask->point_id) || !sp_uuid_valid(ask->machine_id) ||
        ask->n_volume_ids > VOLUMES_MOST)
        return sp_why_set(why, -EINVAL, "point, machine or volumes of the pin are not well formed");
    int r = pin_check_point(k, ask->point_id, ask->machine_id, why);
    if (r < 0)
        return r;
    Sp__PinResponse *all = MESSAGE_NEW(Sp__PinResponse, sp__pin_response__init);
    if (!all)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_PIN;
    out->pin = all;
    r = store_begin(k->store);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ask->n_volume_ids && r == 0; i++)
        r = pin_volume(k, ask, ask->volume_ids[i], all);
    if (r == 0 && all->n_records > 0)
        r = journal_note(k, "pins", ask->point_id);
    return store_end(k->store, r);
}

static bool is_kept(const Sp__UnpinRequest *ask, const char *record_id)
{
    for (size_t i = 0; i < ask->n_keep_record_ids; i++)
        if (strcmp(ask->keep_record_ids[i], record_id) == 0)
            return true;
    return false;
}

/* The pins of a sealed point end with the point: that goes into the audit. */
static bool is_sealed(struct keeper *k, const char *point_id)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    return store_query(k->store, &stmt, "SELECT 1 FROM seals WHERE point_id=?", "s", point_id) ==
               0 &&
           store_step(stmt) == 1;
}

static int unpin(struct keeper *k, const Sp__UnpinRequest *ask, int *ret_removed)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT record_id FROM pins WHERE point_id=?", "s",
                        ask->point_id);
    while (r == 0 && (r = store_step(stmt)) == 1) {
        r = 0;
        if (is_kept(ask, store_text(stmt, 0)))
            continue;
        r = store_run(k->store, "DELETE FROM pins WHERE point_id=? AND record_id=?", "ss",
                      ask->point_id, store_text(stmt, 0));
        ++*ret_removed;
    }
    if (r == 0 && *ret_removed > 0)
        r = journal_note(k, "pins", ask->point_id);
    return r;
}

int keeper_unpin(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                 Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__UnpinRequest *ask = request->unpin;
    int removed = 0;
    (void)fd, (void)why;

    int r = store_begin(k->store);
    if (r < 0)
        return r;
    r = unpin(k, ask, &removed);
    if (r == 0 && removed > 0 && is_sealed(k, ask->point_id))
        r = audit_write(k, keeper_who(request), "point.unpin", ask->point_id,
                        "%d records are no longer pinned by a sealed point", removed);
    r = store_end(k->store, r);
    if (r < 0)
        return r;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_UNPIN;
    out->unpin = MESSAGE_NEW(Sp__Done, sp__done__init);
    return out->unpin ? 0 : -ENOMEM;
}
