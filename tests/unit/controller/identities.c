/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Roles × machine groups × permissions, revocation, and a keeper that is away. */
#include "controller/fleet/identities.h"
#include "base/file.h"
#include "build.h"
#include <string.h>

struct scene {
    char *folder, *path;
    struct catalog *catalog;
    struct identities *identities;
    Sp__IdentitiesResponse *table; /* what the keeper says */
    bool away;
};

static int ask(void *self, Sp__KeeperRequest *request, Sp__KeeperResponse **ret, struct sp_why *why)
{
    struct scene *s = self;
    if (s->away)
        return sp_why_set(why, -EHOSTUNREACH, "away");
    assert_int_equal(request->kind_case, SP__KEEPER_REQUEST__KIND_IDENTITIES);
    Sp__KeeperResponse *r = message_new(&sp__keeper_response__descriptor);
    r->kind_case = SP__KEEPER_RESPONSE__KIND_IDENTITIES;
    r->identities = message_copy(s->table);
    r->identities->changed = request->identities->known_epoch != s->table->epoch;
    *ret = r;
    return 0;
}

static void add_user(struct scene *s, const char *name, Sp__Role role, const char *group,
                     bool revoked)
{
    Sp__User *u = message_new(&sp__user__descriptor);
    Sp__RoleBinding *b = message_new(&sp__role_binding__descriptor);
    b->role = role;
    assert_int_equal(message_set(&b->group, group), 0);
    assert_int_equal(message_set(&u->name, name), 0);
    u->revoked = revoked;
    ADD(u, roles, b);
    ADD(s->table, users, u);
}

static void add_agent(struct scene *s, const char *id, const char *name, bool revoked, bool pending)
{
    Sp__AgentIdentity *a = message_new(&sp__agent_identity__descriptor);
    assert_int_equal(message_set(&a->machine_id, id), 0);
    assert_int_equal(message_set(&a->machine_name, name), 0);
    a->revoked = revoked;
    a->pending = pending;
    ADD(s->table, agents, a);
}

static int set_up(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    s->folder = make_folder();
    s->path = sp_format("%s/catalog.db", s->folder);
    assert_int_equal(catalog_open(s->path, &s->catalog, NULL), 0);
    assert_int_equal(identities_new(s->catalog, ask, s, &s->identities), 0);
    s->table = message_new(&sp__identities_response__descriptor);
    s->table->epoch = 1;
    add_user(s, "vera", SP__ROLE__ROLE_VIEWER, "", false);
    add_user(s, "otto", SP__ROLE__ROLE_OPERATOR, "", false);
    add_user(s, "anna", SP__ROLE__ROLE_ADMIN, "", false);
    add_user(s, "cleo", SP__ROLE__ROLE_CUSTODIAN, "", false);
    add_user(s, "webb", SP__ROLE__ROLE_ADMIN, "web", false);
    add_user(s, "odd", (Sp__Role)77, "", false);
    add_user(s, "gone", SP__ROLE__ROLE_ADMIN, "", true);
    add_agent(s, "m1", "web1", false, false);
    add_agent(s, "m2", "web2", true, false);
    add_agent(s, "m3", "web3", false, true);
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *s = *state;
    identities_free(s->identities);
    catalog_close(s->catalog);
    message_free(s->table);
    remove_folder(s->folder);
    free(s->path);
    free(s);
    return 0;
}

static void refresh(struct scene *s)
{
    bool changed = false;
    assert_int_equal(identities_refresh(s->identities, &changed, NULL), 0);
    assert_true(changed);
}

static int check(struct scene *s, enum sp_identity_kind kind, const char *name,
                 enum rpc_permission permission, const char *group, struct sp_why *why)
{
    struct sp_identity id = {.kind = kind, .domain = "d"};
    snprintf(id.name, sizeof(id.name), "%s", name);
    return identities_check(s->identities, &id, permission, group, why);
}

static void roles_give_what_the_design_says(void **state)
{
    struct scene *s = *state;
    static const struct {
        const char *user;
        bool viewer, operator, admin, custodian;
    } matrix[] = {
        {"vera", true, false, false, false}, {"otto", true, true, false, false},
        {"anna", true, true, true, false},   {"cleo", false, false, false, true},
        {"webb", true, true, true, false},   {"odd", false, false, false, false},
    };
    refresh(s);
    for (size_t i = 0; i < SP_COUNT(matrix); i++) {
        const enum rpc_permission asked[] = {RPC_VIEWER, RPC_OPERATOR, RPC_ADMIN, RPC_CUSTODIAN};
        const bool expected[] = {matrix[i].viewer, matrix[i].operator, matrix[i].admin,
                                 matrix[i].custodian};
        for (size_t j = 0; j < SP_COUNT(asked); j++) {
            struct sp_why why = {0};
            int r = check(s, SP_IDENTITY_USER, matrix[i].user, asked[j], NULL, &why);
            assert_int_equal(r, expected[j] ? 0 : -EACCES);
            assert_int_equal(*why.text != '\0', !expected[j]);
        }
        /* No user is an agent. */
        assert_int_equal(check(s, SP_IDENTITY_USER, matrix[i].user, RPC_AGENT, NULL, NULL),
                         -EACCES);
        assert_int_equal(check(s, SP_IDENTITY_USER, matrix[i].user, RPC_ANY_IDENTITY, NULL, NULL),
                         0);
    }
}

static void groups_bound_what_a_role_reaches(void **state)
{
    struct scene *s = *state;
    refresh(s);
    assert_int_equal(check(s, SP_IDENTITY_USER, "webb", RPC_ADMIN, "web", NULL), 0);
    assert_int_equal(check(s, SP_IDENTITY_USER, "webb", RPC_ADMIN, "db", NULL), -EACCES);
    assert_int_equal(check(s, SP_IDENTITY_USER, "webb", RPC_VIEWER, "", NULL), -EACCES);
    assert_int_equal(check(s, SP_IDENTITY_USER, "anna", RPC_ADMIN, "db", NULL), 0);
    assert_int_equal(check(s, SP_IDENTITY_USER, "anna", RPC_ADMIN, "", NULL), 0);
}

static void the_refused_are_told_why(void **state)
{
    struct scene *s = *state;
    static const struct {
        enum sp_identity_kind kind;
        const char *name, *word;
    } refused[] = {
        {SP_IDENTITY_USER, "gone", "revoked"},     {SP_IDENTITY_USER, "nobody", "no user"},
        {SP_IDENTITY_AGENT, "m2", "revoked"},      {SP_IDENTITY_AGENT, "m3", "approval"},
        {SP_IDENTITY_AGENT, "m9", "not enrolled"},
    };
    refresh(s);
    for (size_t i = 0; i < SP_COUNT(refused); i++) {
        struct sp_why why = {0};
        struct sp_identity id = {.kind = refused[i].kind};
        snprintf(id.name, sizeof(id.name), "%s", refused[i].name);
        assert_int_equal(check(s, refused[i].kind, refused[i].name, RPC_ANY_IDENTITY, NULL, &why),
                         -EKEYREJECTED);
        assert_non_null(strstr(why.text, refused[i].word));
        assert_true(identities_gone(s->identities, &id, NULL));
    }
    assert_int_equal(check(s, SP_IDENTITY_AGENT, "m1", RPC_AGENT, NULL, NULL), 0);
    assert_int_equal(check(s, SP_IDENTITY_AGENT, "m1", RPC_VIEWER, NULL, NULL), -EACCES);
    assert_int_equal(check(s, SP_IDENTITY_CONTROLLER, "c", RPC_VIEWER, NULL, NULL), -EACCES);
    assert_int_equal(check(s, SP_IDENTITY_NONE, "", RPC_ANYONE, NULL, NULL), 0);
}

static void revocation_takes_effect_at_the_next_refresh(void **state)
{
    struct scene *s = *state;
    bool changed = true;
    refresh(s);
    assert_int_equal(identities_refresh(s->identities, &changed, NULL), 0);
    assert_false(changed);
    s->table->users[2]->revoked = 1;
    s->table->epoch = 2;
    refresh(s);
    assert_int_equal(check(s, SP_IDENTITY_USER, "anna", RPC_VIEWER, NULL, NULL), -EKEYREJECTED);
}

static void nothing_is_allowed_before_the_keeper_spoke(void **state)
{
    struct scene *s = *state;
    bool changed;
    s->away = true;
    assert_int_equal(identities_refresh(s->identities, &changed, NULL), -EHOSTUNREACH);
    assert_int_equal(check(s, SP_IDENTITY_USER, "anna", RPC_VIEWER, NULL, NULL), -EAGAIN);
}

static void the_last_table_outlives_a_restart(void **state)
{
    struct scene *s = *state;
    refresh(s);
    s->away = true;
    identities_free(s->identities);
    assert_int_equal(identities_new(s->catalog, ask, s, &s->identities), 0);
    assert_int_equal(check(s, SP_IDENTITY_USER, "anna", RPC_ADMIN, NULL, NULL), 0);
    assert_int_equal(check(s, SP_IDENTITY_USER, "gone", RPC_VIEWER, NULL, NULL), -EKEYREJECTED);
}

static void enrolled_machines_appear_in_the_catalog(void **state)
{
    struct scene *s = *state;
    Sp__Machine *m = NULL;
    refresh(s);
    assert_int_equal(catalog_machine_get(s->catalog, "web1", false, &m), 0);
    assert_true(m->agent->enrolled);
    message_free(m);
    assert_int_equal(catalog_machine_get(s->catalog, "web2", false, &m), 0);
    assert_true(m->revoked);
    message_free(m);
    assert_int_equal(catalog_machine_get(s->catalog, "web3", false, &m), 0);
    assert_true(m->pending_approval);
    message_free(m);
}

static void an_agent_takes_the_place_of_a_machine_added_by_name(void **state)
{
    struct scene *s = *state;
    Sp__Machine added = SP__MACHINE__INIT, *m = NULL;
    Sp__SourceConfig source = SP__SOURCE_CONFIG__INIT;
    Sp__QemuSource qemu = SP__QEMU_SOURCE__INIT;
    added.machine_id = (char *)"old-id";
    added.name = (char *)"web1";
    qemu.qmp_socket = (char *)"/q";
    source.kind_case = SP__SOURCE_CONFIG__KIND_QEMU;
    source.qemu = &qemu;
    added.source = &source;
    assert_int_equal(catalog_machine_add(s->catalog, &added), 0);
    refresh(s);
    assert_int_equal(catalog_machine_get(s->catalog, "web1", false, &m), 0);
    assert_string_equal(m->machine_id, "m1");
    assert_string_equal(m->source->qemu->qmp_socket, "/q");
    message_free(m);
    assert_int_equal(catalog_machine_get(s->catalog, "old-id", false, &m), -ENOENT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(roles_give_what_the_design_says),
        T(groups_bound_what_a_role_reaches),
        T(the_refused_are_told_why),
        T(revocation_takes_effect_at_the_next_refresh),
        T(nothing_is_allowed_before_the_keeper_spoke),
        T(the_last_table_outlives_a_restart),
        T(enrolled_machines_appear_in_the_catalog),
        T(an_agent_takes_the_place_of_a_machine_added_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
