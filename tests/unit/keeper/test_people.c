/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Users, and the table of identities that the controller takes. */
#include "rig.h"

#include "controller/keeper/people.h"
#include <string.h>

#define REVOKE_USER "/sealpoint.v1.Admin/RevokeUser"

static Sp__KeeperResponse *identities(struct rig *r, uint64_t known)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__IdentitiesRequest ask = SP__IDENTITIES_REQUEST__INIT;
    ask.known_epoch = known;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IDENTITIES;
    request.identities = &ask;
    return rig_call(r, &request);
}

static void revoke_user(struct rig *r, const char *name, int error, const char *text)
{
    Sp__RevokeUserRequest ask = SP__REVOKE_USER_REQUEST__INIT;
    ask.name = (char *)(uintptr_t)name;
    if (error)
        execute_refused(r, &r->admin, REVOKE_USER, &ask.base, error, text);
    else
        answer_free(execute(r, &r->admin, REVOKE_USER, &ask.base));
}

static void test_identities_change_only_when_people_or_machines_do(void **state)
{
    struct rig *r = *state;
    ANSWER a = identities(r, 0);
    assert_true(a->identities->changed);
    assert_int_equal(a->identities->n_users, 1);
    assert_string_equal(a->identities->users[0]->name, "root");
    assert_int_equal(a->identities->users[0]->n_roles, 2);
    assert_int_equal(a->identities->users[0]->roles[0]->role, SP__ROLE__ROLE_ADMIN);
    assert_int_equal(a->identities->users[0]->roles[1]->role, SP__ROLE__ROLE_CUSTODIAN);
    import_key(r, MACHINE, VOLUME, "", "x", NULL);
    ANSWER same = identities(r, a->identities->epoch);
    assert_false(same->identities->changed);
    struct person p = add_user(r, "eve", SP__ROLE__ROLE_VIEWER, "web");
    ANSWER more = identities(r, a->identities->epoch);
    assert_true(more->identities->changed);
    assert_true(more->identities->epoch > a->identities->epoch);
    assert_int_equal(more->identities->n_users, 2);
    assert_string_equal(more->identities->users[0]->roles[0]->group, "web");
    revoke_user(r, "eve", 0, "");
    ANSWER gone = identities(r, more->identities->epoch);
    assert_true(gone->identities->users[0]->revoked);
    person_free(&p);
}

static void test_roles_include_what_the_contract_says(void **state)
{
    struct rig *r = *state;
    struct person p = add_user(r, "op", SP__ROLE__ROLE_OPERATOR, "web");
    struct person c = add_user(r, "cust", SP__ROLE__ROLE_CUSTODIAN, "");
    assert_true(people_has_role(r->k, "op", SP__ROLE__ROLE_VIEWER, "web"));
    assert_true(people_has_role(r->k, "op", SP__ROLE__ROLE_OPERATOR, "web"));
    assert_false(people_has_role(r->k, "op", SP__ROLE__ROLE_OPERATOR, "db"));
    assert_false(people_has_role(r->k, "op", SP__ROLE__ROLE_OPERATOR, NULL));
    assert_false(people_has_role(r->k, "op", SP__ROLE__ROLE_ADMIN, "web"));
    assert_false(people_has_role(r->k, "op", SP__ROLE__ROLE_CUSTODIAN, "web"));
    assert_true(people_has_role(r->k, "cust", SP__ROLE__ROLE_CUSTODIAN, "web"));
    assert_false(people_has_role(r->k, "cust", SP__ROLE__ROLE_VIEWER, "web"));
    assert_true(people_has_role(r->k, "root", SP__ROLE__ROLE_VIEWER, NULL));
    assert_false(people_has_role(r->k, "nobody", SP__ROLE__ROLE_VIEWER, NULL));
    person_free(&p);
    person_free(&c);
}

static void test_names_are_never_given_out_twice(void **state)
{
    struct rig *r = *state;
    struct person p = add_user(r, "eve", SP__ROLE__ROLE_VIEWER, "");
    Sp__AddUserRequest ask = SP__ADD_USER_REQUEST__INIT;
    Sp__RoleBinding binding = SP__ROLE_BINDING__INIT, *bindings[] = {&binding};
    binding.role = SP__ROLE__ROLE_VIEWER;
    ask.name = p.name;
    ask.roles = bindings;
    ask.n_roles = 1;
    ask.csr = csr_of(p.key);
    execute_refused(r, &r->admin, "/sealpoint.v1.Admin/AddUser", &ask.base, EEXIST, "twice");
    revoke_user(r, "eve", 0, "");
    execute_refused(r, &r->admin, "/sealpoint.v1.Admin/AddUser", &ask.base, EEXIST, "twice");
    ask.name = (char[]){"mallory"};
    binding.role = (Sp__Role)17;
    execute_refused(r, &r->admin, "/sealpoint.v1.Admin/AddUser", &ask.base, EINVAL, "role");
    ask.n_roles = 0;
    execute_refused(r, &r->admin, "/sealpoint.v1.Admin/AddUser", &ask.base, EINVAL, "roles");
    free(ask.csr.data);
    person_free(&p);
}

static void test_the_last_admin_stays(void **state)
{
    struct rig *r = *state;
    struct person group = add_user(r, "web-admin", SP__ROLE__ROLE_ADMIN, "web");
    revoke_user(r, "root", EPERM, "last admin");
    revoke_user(r, "nobody", ENOENT, "nobody");
    struct person second = add_user(r, "second", SP__ROLE__ROLE_ADMIN, "");
    revoke_user(r, "root", 0, "");
    person_free(&group);
    person_free(&second);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_identities_change_only_when_people_or_machines_do),
        TEST(test_roles_include_what_the_contract_says),
        TEST(test_names_are_never_given_out_twice),
        TEST(test_the_last_admin_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
