/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/fleet/identities.h"
#include "base/file.h"
#include "base/log.h"
#include "controller/message.h"
#include <pthread.h>
#include <string.h>

static const char stored_key[] = "identities";

struct identities {
    struct catalog *catalog;
    identities_ask_fn *ask;
    void *ask_self;
    pthread_mutex_t refreshing; /* one refresh at a time; before `lock` */
    pthread_rwlock_t lock;      /* table */
    Sp__IdentitiesResponse *table;
};

int identities_new(struct catalog *catalog, identities_ask_fn *ask, void *ask_self,
                   struct identities **ret)
{
    struct identities *i = calloc(1, sizeof(*i));
    struct sp_buffer stored SP_BUFFER = {0};
    if (!i)
        return -ENOMEM;
    i->catalog = catalog;
    i->ask = ask;
    i->ask_self = ask_self;
    pthread_mutex_init(&i->refreshing, NULL);
    pthread_rwlock_init(&i->lock, NULL);
    int r = catalog_get(catalog, stored_key, &stored);
    if (r == 0)
        i->table = sp__identities_response__unpack(NULL, stored.size, stored.data);
    if (r < 0 && r != -ENOENT) {
        identities_free(i);
        return r;
    }
    *ret = i;
    return 0;
}

void identities_free(struct identities *i)
{
    if (!i)
        return;
    message_free(i->table);
    pthread_rwlock_destroy(&i->lock);
    pthread_mutex_destroy(&i->refreshing);
    free(i);
}

/* ---- machines in the catalog follow the keeper's agents ---- */

static int follow(Sp__Machine *m, void *arg)
{
    const Sp__AgentIdentity *a = arg;
    int r = 0;
    if (!m->agent && !(m->agent = message_new(&sp__agent_status__descriptor)))
        return -ENOMEM;
    if (!message_empty(a->group))
        r = message_set(&m->group, a->group);
    if (r == 0 && message_empty(m->agent->smbios_uuid))
        r = message_set(&m->agent->smbios_uuid, a->smbios_uuid);
    m->agent->enrolled = 1;
    m->agent->certificate_expires_unix_ms = a->certificate_expires_unix_ms;
    m->revoked = a->revoked;
    m->pending_approval = a->pending;
    return r;
}

static int any_point(void *arg, uint64_t rowid, Sp__Point *point)
{
    (void)rowid;
    (void)point;
    *(bool *)arg = true;
    return 1;
}

/* A machine that was added by name before its agent enrolled: the agent's id takes its place,
 * unless points were made under the old one. */
static int take_place(struct catalog *c, const char *name, Sp__Machine *added)
{
    Sp__Machine *old = NULL;
    bool points = false;
    int r = catalog_machine_get(c, name, false, &old);
    if (r == 0)
        r = catalog_point_each(c, old->machine_id, 0, any_point, &points);
    bool enrolled = r == 0 && old->agent && old->agent->enrolled;
    if (r == 0 && !points && !enrolled) {
        added->source = old->source;
        old->source = NULL;
        added->policy = old->policy;
        old->policy = NULL;
        r = message_set(&added->vault_id, old->vault_id);
        if (r == 0)
            r = message_set(&added->group, old->group);
        if (r == 0)
            r = catalog_machine_remove(c, old->machine_id);
    } else if (r == 0) {
        r = message_take(&added->name, sp_format("%s-%.8s", name, added->machine_id));
    }
    message_free(old);
    return r;
}

static int add_machine(struct catalog *c, const Sp__AgentIdentity *a)
{
    Sp__Machine *m = message_new(&sp__machine__descriptor);
    int r = m ? message_set(&m->machine_id, a->machine_id) : -ENOMEM;
    if (r == 0)
        r = message_set(&m->name, message_empty(a->machine_name) ? a->machine_id : a->machine_name);
    if (r == 0)
        r = catalog_machine_add(c, m);
    if (r == -EEXIST) {
        r = take_place(c, a->machine_name, m);
        if (r == 0)
            r = catalog_machine_add(c, m);
    }
    message_free(m);
    return r;
}

static int sync_machines(struct catalog *c, const Sp__IdentitiesResponse *table)
{
    for (size_t i = 0; i < table->n_agents; i++) {
        Sp__AgentIdentity *a = table->agents[i];
        int r = catalog_machine_change(c, a->machine_id, follow, a, NULL);
        if (r == -ENOENT) {
            r = add_machine(c, a);
            if (r == 0)
                r = catalog_machine_change(c, a->machine_id, follow, a, NULL);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- refresh ---- */

static uint64_t known_epoch(struct identities *i)
{
    pthread_rwlock_rdlock(&i->lock);
    uint64_t epoch = i->table ? i->table->epoch : 0;
    pthread_rwlock_unlock(&i->lock);
    return epoch;
}

static int store(struct identities *i, const Sp__IdentitiesResponse *table)
{
    uint8_t *packed SP_FREE = NULL;
    size_t size = 0;
    int r = sp_pack(&table->base, &packed, &size);
    return r < 0 ? r : catalog_set(i->catalog, stored_key, packed, size);
}

static int refresh(struct identities *i, bool *ret_changed, struct sp_why *why)
{
    Sp__IdentitiesRequest identities = SP__IDENTITIES_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    identities.known_epoch = known_epoch(i);
    request.kind_case = SP__KEEPER_REQUEST__KIND_IDENTITIES;
    request.identities = &identities;
    int r = i->ask(i->ask_self, &request, &response, why);
    if (r < 0)
        return r;
    if (response->kind_case != SP__KEEPER_RESPONSE__KIND_IDENTITIES)
        return -EPROTO;
    Sp__IdentitiesResponse *table = response->identities;
    *ret_changed = table->changed;
    if (!table->changed)
        return 0;
    response->identities = NULL;
    response->kind_case = SP__KEEPER_RESPONSE__KIND__NOT_SET;
    /* In force at once; a catalog that cannot be written only costs the memory of it. */
    pthread_rwlock_wrlock(&i->lock);
    Sp__IdentitiesResponse *old = i->table;
    i->table = table;
    pthread_rwlock_unlock(&i->lock);
    message_free(old);
    r = store(i, table);
    return r < 0 ? r : sync_machines(i->catalog, table);
}

int identities_refresh(struct identities *i, bool *ret_changed, struct sp_why *why)
{
    *ret_changed = false;
    pthread_mutex_lock(&i->refreshing);
    int r = refresh(i, ret_changed, why);
    pthread_mutex_unlock(&i->refreshing);
    return r;
}

/* ---- lookups ---- */

static const Sp__User *find_user(const Sp__IdentitiesResponse *t, const char *name)
{
    for (size_t i = 0; i < t->n_users; i++) {
        if (strcmp(t->users[i]->name, name) == 0)
            return t->users[i];
    }
    return NULL;
}

static const Sp__AgentIdentity *find_agent(const Sp__IdentitiesResponse *t, const char *machine_id)
{
    for (size_t i = 0; i < t->n_agents; i++) {
        if (strcmp(t->agents[i]->machine_id, machine_id) == 0)
            return t->agents[i];
    }
    return NULL;
}

static bool role_gives(Sp__Role role, enum rpc_permission permission)
{
    switch ((int)role) {
    case SP__ROLE__ROLE_VIEWER:
        return permission == RPC_VIEWER;
    case SP__ROLE__ROLE_OPERATOR:
        return permission == RPC_VIEWER || permission == RPC_OPERATOR;
    case SP__ROLE__ROLE_ADMIN:
        return permission == RPC_VIEWER || permission == RPC_OPERATOR || permission == RPC_ADMIN;
    case SP__ROLE__ROLE_CUSTODIAN:
        return permission == RPC_CUSTODIAN;
    default:
        return false;
    }
}

static const char *permission_name(enum rpc_permission permission)
{
    switch (permission) {
    case RPC_VIEWER:
        return "viewer";
    case RPC_OPERATOR:
        return "operator";
    case RPC_ADMIN:
        return "admin";
    case RPC_CUSTODIAN:
        return "custodian";
    default:
        return "nobody's";
    }
}

static int known(const Sp__IdentitiesResponse *t, const struct sp_identity *id, struct sp_why *why)
{
    if (id->kind == SP_IDENTITY_USER) {
        const Sp__User *user = find_user(t, id->name);
        if (!user)
            return sp_why_set(why, -EKEYREJECTED, "there is no user '%s' here", id->name);
        if (user->revoked)
            return sp_why_set(why, -EKEYREJECTED, "user '%s' was revoked", id->name);
        return 0;
    }
    if (id->kind == SP_IDENTITY_AGENT) {
        const Sp__AgentIdentity *agent = find_agent(t, id->name);
        if (!agent)
            return sp_why_set(why, -EKEYREJECTED, "machine %s is not enrolled here", id->name);
        if (agent->revoked)
            return sp_why_set(why, -EKEYREJECTED,
                              "machine '%s' (%s) was revoked: it must enrol again",
                              agent->machine_name, id->name);
        if (agent->pending)
            return sp_why_set(why, -EKEYREJECTED,
                              "machine '%s' (%s) waits for an operator's approval",
                              agent->machine_name, id->name);
        return 0;
    }
    return sp_why_set(why, -EACCES, "identities of this kind call nothing here");
}

static int check(const Sp__IdentitiesResponse *t, const struct sp_identity *id,
                 enum rpc_permission permission, const char *group, struct sp_why *why)
{
    int r = known(t, id, why);
    if (r < 0 || permission == RPC_ANY_IDENTITY)
        return r;
    if (permission == RPC_AGENT)
        return id->kind == SP_IDENTITY_AGENT
                   ? 0
                   : sp_why_set(why, -EACCES, "only agents may call this");
    if (id->kind != SP_IDENTITY_USER)
        return sp_why_set(why, -EACCES, "agents may not call this");
    const Sp__User *user = find_user(t, id->name);
    for (size_t i = 0; i < user->n_roles; i++) {
        const Sp__RoleBinding *role = user->roles[i];
        bool covers = !group || message_empty(role->group) || strcmp(role->group, group) == 0;
        if (covers && role_gives(role->role, permission))
            return 0;
    }
    return sp_why_set(why, -EACCES, "user '%s' is not %s%s%s%s", id->name,
                      permission_name(permission), group ? " of " : " here",
                      !group   ? ""
                      : *group ? "machine group "
                               : "all machines",
                      group ? group : "");
}

int identities_check(struct identities *i, const struct sp_identity *id,
                     enum rpc_permission permission, const char *group, struct sp_why *why)
{
    if (permission == RPC_ANYONE)
        return 0;
    pthread_rwlock_rdlock(&i->lock);
    int r = i->table ? check(i->table, id, permission, group, why)
                     : sp_why_set(why, -EAGAIN,
                                  "the controller does not know its users yet: the keeper has not "
                                  "answered");
    pthread_rwlock_unlock(&i->lock);
    return r;
}

bool identities_gone(struct identities *i, const struct sp_identity *id, struct sp_why *why)
{
    if (id->kind != SP_IDENTITY_USER && id->kind != SP_IDENTITY_AGENT)
        return false;
    pthread_rwlock_rdlock(&i->lock);
    bool gone = i->table && known(i->table, id, why) < 0;
    pthread_rwlock_unlock(&i->lock);
    return gone;
}

int identities_trust(struct identities *i, struct sp_buffer *out)
{
    pthread_rwlock_rdlock(&i->lock);
    int r = i->table && i->table->trust_bundle.len > 0
                ? sp_buffer_append(out, i->table->trust_bundle.data, i->table->trust_bundle.len)
                : -ENOENT;
    pthread_rwlock_unlock(&i->lock);
    return r;
}

int identities_agent(struct identities *i, const char *machine_id, Sp__AgentIdentity **ret)
{
    pthread_rwlock_rdlock(&i->lock);
    const Sp__AgentIdentity *agent = i->table ? find_agent(i->table, machine_id) : NULL;
    Sp__AgentIdentity *copy = agent ? message_copy(agent) : NULL;
    pthread_rwlock_unlock(&i->lock);
    if (agent && !copy)
        return -ENOMEM;
    if (!agent)
        return -ENOENT;
    *ret = copy;
    return 0;
}
