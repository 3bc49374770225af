/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/people.h"

#include "controller/keeper/ca.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include <string.h>

enum { ROLES_MOST = 64 };

MESSAGE_CLEANUP(user, Sp__User, sp__user__free_unpacked)

static int check_roles(const Sp__AddUserRequest *ask, struct sp_why *why)
{
    if (ask->n_roles == 0 || ask->n_roles > ROLES_MOST)
        return sp_why_set(why, -EINVAL, "a user has 1 to %d roles", ROLES_MOST);
    for (size_t i = 0; i < ask->n_roles; i++)
        if (ask->roles[i]->role < SP__ROLE__ROLE_VIEWER ||
            ask->roles[i]->role > SP__ROLE__ROLE_CUSTODIAN)
            return sp_why_set(why, -EINVAL, "a role is not known to this keeper");
    return 0;
}

/* The roles as a packed User that holds nothing else. */
static int pack_roles(const Sp__AddUserRequest *ask, uint8_t **ret, size_t *ret_size)
{
    Sp__User user = SP__USER__INIT;
    user.roles = ask->roles;
    user.n_roles = ask->n_roles;
    return sp_pack(&user.base, ret, ret_size);
}

int people_add(struct keeper *k, const Sp__AddUserRequest *ask, const char *by,
               struct ca_chain *ret, struct sp_why *why)
{
    SP_FREE uint8_t *roles = NULL;
    size_t roles_size = 0;
    struct ca_subject subject = {.kind = SP_IDENTITY_USER, .name = ask->name};

    if (people_known(k, ask->name))
        return sp_why_set(why, -EEXIST,
                          "a user named '%.100s' exists or existed: names are never given out "
                          "twice",
                          ask->name);
    int r = check_roles(ask, why);
    if (r == 0)
        r = ca_issue(k, &subject, ask->csr.data, ask->csr.len, ret, why);
    if (r == 0)
        r = pack_roles(ask, &roles, &roles_size);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO users VALUES(?,?,0,?,?,?,'')", "sbiis", ask->name,
                      roles, roles_size, (int64_t)ret->expires_unix_ms, (int64_t)keeper_now_ms(k),
                      by);
    return r < 0 ? r : journal_note(k, "users", ask->name);
}

bool people_known(struct keeper *k, const char *name)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    return store_query(k->store, &stmt, "SELECT 1 FROM users WHERE name=?", "s", name) == 0 &&
           store_step(stmt) == 1;
}

int people_check(struct keeper *k, const char *name, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT revoked FROM users WHERE name=?", "s", name);
    if (r == 0)
        r = store_step(stmt);
    if (r < 0)
        return r;
    if (r == 0)
        return sp_why_set(why, -EKEYREJECTED, "there is no user named '%.100s'", name);
    if (store_int(stmt, 0))
        return sp_why_set(why, -EKEYREJECTED, "the user '%.100s' was revoked", name);
    return 0;
}

static int load_user(sqlite3_stmt *stmt, Sp__User **ret)
{
    struct sp_bytes roles = store_blob(stmt, 1);
    SP_CLEANUP(user) Sp__User *user = sp__user__unpack(NULL, roles.size, roles.data);
    if (!user)
        return -EUCLEAN;
    int r = message_text(&user->name, store_text(stmt, 0));
    user->revoked = store_int(stmt, 2) != 0;
    user->certificate_expires_unix_ms = (uint64_t)store_int(stmt, 3);
    if (r == 0)
        *ret = sp_steal(user);
    return r;
}

#define USER_COLUMNS "name, roles, revoked, expires_ms"

static bool binding_covers(const Sp__RoleBinding *b, Sp__Role role, const char *group)
{
    /* An admin includes operator and viewer, an operator viewer; a custodian nothing else. */
    bool ranked = b->role != SP__ROLE__ROLE_CUSTODIAN && role != SP__ROLE__ROLE_CUSTODIAN;
    if (ranked ? b->role < role : b->role != role)
        return false;
    return b->group[0] == 0 || (group && strcmp(b->group, group) == 0);
}

bool people_has_role(struct keeper *k, const char *name, Sp__Role role, const char *group)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_CLEANUP(user) Sp__User *user = NULL;
    if (store_query(k->store, &stmt, "SELECT " USER_COLUMNS " FROM users WHERE name=?", "s", name) <
            0 ||
        store_step(stmt) != 1 || load_user(stmt, &user) < 0)
        return false;
    for (size_t i = 0; i < user->n_roles; i++)
        if (binding_covers(user->roles[i], role, group))
            return true;
    return false;
}

/* Another admin over everything who is not revoked. */
static bool other_admin_stays(struct keeper *k, const char *name)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    if (store_query(k->store, &stmt, "SELECT name FROM users WHERE revoked=0 AND name<>?", "s",
                    name) < 0)
        return false;
    while (store_step(stmt) == 1)
        if (people_has_role(k, store_text(stmt, 0), SP__ROLE__ROLE_ADMIN, NULL))
            return true;
    return false;
}

int people_revoke(struct keeper *k, const char *name, const char *reason, struct sp_why *why)
{
    if (!people_known(k, name))
        return sp_why_set(why, -ENOENT, "there is no user named '%.100s'", name);
    if (people_has_role(k, name, SP__ROLE__ROLE_ADMIN, NULL) && !other_admin_stays(k, name))
        return sp_why_set(why, -EPERM,
                          "'%.100s' is the last admin: add another one before revoking this one",
                          name);
    int r = store_run(k->store, "UPDATE users SET revoked=1, revoked_why=? WHERE name=?", "ss",
                      reason, name);
    return r < 0 ? r : journal_note(k, "users", name);
}

int people_set_expiry(struct keeper *k, const char *name, uint64_t expires_unix_ms)
{
    int r = store_run(k->store, "UPDATE users SET expires_ms=? WHERE name=?", "is",
                      (int64_t)expires_unix_ms, name);
    return r < 0 ? r : journal_note(k, "users", name);
}

int people_list(struct keeper *k, Sp__User ***ret, size_t *ret_count)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT " USER_COLUMNS " FROM users ORDER BY name", "");
    while (r == 0 && (r = store_step(stmt)) == 1) {
        SP_CLEANUP(user) Sp__User *user = NULL;
        r = load_user(stmt, &user);
        if (r == 0)
            r = MESSAGE_ROOM(*ret, *ret_count);
        if (r == 0)
            (*ret)[(*ret_count)++] = sp_steal(user);
    }
    return r;
}

int controllers_add(struct keeper *k, const char *name, uint64_t expires_unix_ms)
{
    int r = store_run(k->store, "INSERT OR REPLACE INTO controllers VALUES(?,?)", "si", name,
                      (int64_t)expires_unix_ms);
    return r < 0 ? r : journal_note(k, "controllers", name);
}

int controllers_check(struct keeper *k, const char *name, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT 1 FROM controllers WHERE name=?", "s", name);
    if (r == 0)
        r = store_step(stmt);
    if (r == 0)
        r = sp_why_set(why, -EKEYREJECTED, "there is no controller named '%.100s'", name);
    return r < 0 ? r : 0;
}
