/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/machines.h"

#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/people.h"
#include <string.h>

#define MACHINE_COLUMNS                                                                            \
    "machine_id, name, grp, revoked, pending, encryption_key, key_id, old_key_id, token_id, "      \
    "smbios_uuid, expires_ms, created_ms, address"

static int fill(sqlite3_stmt *stmt, struct machine *m)
{
    struct sp_bytes key = store_blob(stmt, 5);
    memset(m, 0, sizeof(*m));
    if (key.size != sizeof(m->encryption_key))
        return -EUCLEAN;
    snprintf(m->machine_id, sizeof(m->machine_id), "%s", store_text(stmt, 0));
    snprintf(m->name, sizeof(m->name), "%s", store_text(stmt, 1));
    snprintf(m->group, sizeof(m->group), "%s", store_text(stmt, 2));
    m->revoked = store_int(stmt, 3) != 0;
    m->pending = store_int(stmt, 4) != 0;
    memcpy(m->encryption_key, key.data, sizeof(m->encryption_key));
    snprintf(m->key_id, sizeof(m->key_id), "%s", store_text(stmt, 6));
    snprintf(m->old_key_id, sizeof(m->old_key_id), "%s", store_text(stmt, 7));
    snprintf(m->token_id, sizeof(m->token_id), "%s", store_text(stmt, 8));
    snprintf(m->smbios_uuid, sizeof(m->smbios_uuid), "%s", store_text(stmt, 9));
    m->expires_unix_ms = (uint64_t)store_int(stmt, 10);
    m->created_unix_ms = (uint64_t)store_int(stmt, 11);
    snprintf(m->address, sizeof(m->address), "%s", store_text(stmt, 12));
    return 0;
}

static int first_of(int r, sqlite3_stmt *stmt, struct machine *ret)
{
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    return fill(stmt, ret);
}

int machine_load(struct keeper *k, const char *machine_id, struct machine *ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r =
        store_query(k->store, &stmt, "SELECT " MACHINE_COLUMNS " FROM machines WHERE machine_id=?",
                    "s", machine_id);
    return first_of(r, stmt, ret);
}

int machine_by_key(struct keeper *k, const char *token_id, const char *key_id, struct machine *ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT " MACHINE_COLUMNS " FROM machines WHERE token_id=? AND key_id=?",
                        "ss", token_id, key_id);
    return first_of(r, stmt, ret);
}

int machine_by_name(struct keeper *k, const char *name, struct machine *ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT " MACHINE_COLUMNS " FROM machines WHERE name=? AND revoked=0", "s",
                        name);
    return first_of(r, stmt, ret);
}

int machine_save(struct keeper *k, const struct machine *m)
{
    int r = store_run(k->store, "INSERT OR REPLACE INTO machines VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)",
                      "sssiibssssiis", m->machine_id, m->name, m->group, (int64_t)m->revoked,
                      (int64_t)m->pending, m->encryption_key, sizeof(m->encryption_key), m->key_id,
                      m->old_key_id, m->token_id, m->smbios_uuid, (int64_t)m->expires_unix_ms,
                      (int64_t)m->created_unix_ms, m->address);
    return r < 0 ? r : journal_note(k, "machines", m->machine_id);
}

static int load_for(struct keeper *k, const char *machine_id, struct machine *m, struct sp_why *why)
{
    int r = machine_load(k, machine_id, m);
    if (r == -ENOENT)
        sp_why_set(why, r, "no machine with the id '%.60s' has enrolled", machine_id);
    return r;
}

int machine_revoke(struct keeper *k, const char *machine_id, struct sp_why *why)
{
    struct machine m;
    int r = load_for(k, machine_id, &m, why);
    m.revoked = true;
    return r < 0 ? r : machine_save(k, &m);
}

int machine_approve(struct keeper *k, const char *machine_id, struct sp_why *why)
{
    struct machine m;
    int r = load_for(k, machine_id, &m, why);
    if (r == 0 && m.revoked)
        return sp_why_set(why, -ESTALE, "the machine '%.120s' was revoked", m.name);
    if (r == 0 && !m.pending)
        return sp_why_set(why, -ESTALE, "the machine '%.120s' does not wait for approval", m.name);
    m.pending = false;
    return r < 0 ? r : machine_save(k, &m);
}

const char *machine_group(struct keeper *k, const char *machine_id, char out[128])
{
    struct machine m;
    out[0] = 0;
    if (machine_load(k, machine_id, &m) == 0)
        snprintf(out, 128, "%s", m.group);
    return out;
}

/* ---- identities ---- */

static int add_agent(sqlite3_stmt *stmt, Sp__IdentitiesResponse *out)
{
    struct machine m;
    int r = fill(stmt, &m);
    Sp__AgentIdentity *a = MESSAGE_NEW(Sp__AgentIdentity, sp__agent_identity__init);
    if (r == 0)
        r = a ? MESSAGE_ROOM(out->agents, out->n_agents) : -ENOMEM;
    if (r < 0) {
        free(a);
        return r;
    }
    out->agents[out->n_agents++] = a;
    a->revoked = m.revoked;
    a->pending = m.pending;
    a->certificate_expires_unix_ms = m.expires_unix_ms;
    r = message_text(&a->machine_id, m.machine_id);
    if (r == 0)
        r = message_text(&a->machine_name, m.name);
    if (r == 0)
        r = message_text(&a->group, m.group);
    if (r == 0)
        r = message_text(&a->smbios_uuid, m.smbios_uuid);
    return r < 0 ? r
                 : message_bytes(&a->encryption_key, m.encryption_key, sizeof(m.encryption_key));
}

int keeper_identities(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                      Sp__KeeperResponse *out, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_BUFFER struct sp_buffer bundle = {0};
    (void)fd, (void)why;

    Sp__IdentitiesResponse *all =
        MESSAGE_NEW(Sp__IdentitiesResponse, sp__identities_response__init);
    if (!all)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_IDENTITIES;
    out->identities = all;
    all->epoch = journal_epoch_of(k, "users", "machines");
    if (all->epoch == request->identities->known_epoch)
        return 0;
    all->changed = true;
    int r = people_list(k, &all->users, &all->n_users);
    if (r == 0)
        r = store_query(k->store, &stmt,
                        "SELECT " MACHINE_COLUMNS " FROM machines ORDER BY machine_id", "");
    while (r == 0 && (r = store_step(stmt)) == 1)
        r = add_agent(stmt, all);
    if (r == 0)
        r = meta_get(k, "trust_bundle", &bundle);
    return r < 0 ? r : message_bytes(&all->trust_bundle, bundle.data, bundle.size);
}
