/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a person signed, and everything that is not that. */
#include "rig.h"

#include "base/signed_request.h"
#include <string.h>

#define REVOKE_MACHINE "/sealpoint.v1.Admin/RevokeMachine"
#define REVOKE_USER    "/sealpoint.v1.Admin/RevokeUser"

static Sp__RevokeUserRequest *revoke_of(const char *name)
{
    static Sp__RevokeUserRequest ask;
    sp__revoke_user_request__init(&ask);
    ask.name = (char *)(uintptr_t)name;
    ask.why = (char *)(uintptr_t) "left";
    return &ask;
}

static void refused(struct rig *r, Sp__SignedRequest *request, int error, const char *text)
{
    Sp__KeeperRequest outer = SP__KEEPER_REQUEST__INIT;
    Sp__SignedCall call = SP__SIGNED_CALL__INIT;
    call.request = request;
    outer.kind_case = SP__KEEPER_REQUEST__KIND_EXECUTE;
    outer.execute = &call;
    rig_refused(r, &outer, error, text);
    sp__signed_request__free_unpacked(request, NULL);
}

static void test_a_replay_is_refused(void **state)
{
    struct rig *r = *state;
    struct person viewer = add_user(r, "v", SP__ROLE__ROLE_VIEWER, "");
    Sp__KeeperRequest outer = SP__KEEPER_REQUEST__INIT;
    Sp__SignedCall call = SP__SIGNED_CALL__INIT;
    call.request = sign(r, &r->admin, REVOKE_USER, &revoke_of("v")->base);
    outer.kind_case = SP__KEEPER_REQUEST__KIND_EXECUTE;
    outer.execute = &call;
    answer_free(rig_call(r, &outer));
    rig_refused(r, &outer, EKEYREJECTED, "used before");
    /* Nor after a restart, which forgets every nonce. */
    rig_reopen(r);
    rig_refused(r, &outer, EKEYREJECTED, "used before");
    sp__signed_request__free_unpacked(call.request, NULL);
    assert_true(audit_has(r, "admin.refused", "used before"));
    person_free(&viewer);
}

static void test_expired_and_too_long_are_refused(void **state)
{
    struct rig *r = *state;
    Sp__SignedRequest *late = sign(r, &r->admin, REVOKE_USER, &revoke_of("x")->base);
    r->wall_ms += 120000;
    refused(r, late, EKEYREJECTED, "expired");

    Sp__SignedRequest *out = NULL;
    uint8_t nonce[32];
    nonce_of(r, nonce);
    assert_int_equal(sp_request_sign(REVOKE_USER, "", 0, nonce, 32, r->wall_ms + 86400000,
                                     r->admin.key, r->admin.certificate, &out),
                     0);
    refused(r, out, EKEYREJECTED, "too long");
}

static void test_old_nonce_is_refused(void **state)
{
    struct rig *r = *state;
    Sp__SignedRequest *request = sign(r, &r->admin, REVOKE_USER, &revoke_of("x")->base);
    r->monotonic_ns += 6ull * 60 * 1000000000;
    refused(r, request, EKEYREJECTED, "too old");
}

static void test_changed_arguments_are_refused(void **state)
{
    struct rig *r = *state;
    Sp__SignedRequest *request = sign(r, &r->admin, REVOKE_USER, &revoke_of("x")->base);
    request->arguments.data[request->arguments.len - 1] ^= 1;
    refused(r, request, EKEYREJECTED, "");
}

static void test_method_is_part_of_the_signature(void **state)
{
    struct rig *r = *state;
    Sp__SignedRequest *request = sign(r, &r->admin, REVOKE_USER, &revoke_of("x")->base);
    free(request->method);
    request->method = strdup(REVOKE_MACHINE);
    refused(r, request, EKEYREJECTED, "");
    request = sign(r, &r->admin, "/sealpoint.v1.Admin/MakeCoffee", &revoke_of("x")->base);
    refused(r, request, EOPNOTSUPP, "MakeCoffee");
}

static void test_unsigned_is_refused(void **state)
{
    struct rig *r = *state;
    Sp__SignedRequest *request = sign(r, &r->admin, REVOKE_USER, &revoke_of("x")->base);
    for (size_t i = 0; i < request->n_approvals; i++)
        sp__approval__free_unpacked(request->approvals[i], NULL);
    request->n_approvals = 0;
    refused(r, request, EKEYREJECTED, "not signed");
}

static void test_a_forged_signature_does_not_use_the_nonce_up(void **state)
{
    struct rig *r = *state;
    struct person viewer = add_user(r, "v", SP__ROLE__ROLE_VIEWER, "");
    Sp__KeeperRequest outer = SP__KEEPER_REQUEST__INIT;
    Sp__SignedCall call = SP__SIGNED_CALL__INIT;
    call.request = sign(r, &r->admin, REVOKE_USER, &revoke_of("v")->base);
    outer.kind_case = SP__KEEPER_REQUEST__KIND_EXECUTE;
    outer.execute = &call;
    uint8_t *byte = &call.request->approvals[0]->signature->value.data[12];
    *byte ^= 1;
    rig_refused(r, &outer, EKEYREJECTED, "");
    *byte ^= 1;
    answer_free(rig_call(r, &outer));
    sp__signed_request__free_unpacked(call.request, NULL);
    person_free(&viewer);
}

static void test_viewer_operator_and_custodian_are_no_admins(void **state)
{
    struct rig *r = *state;
    static const struct {
        const char *name;
        Sp__Role role;
    } rows[] = {{"viewer", SP__ROLE__ROLE_VIEWER},
                {"operator", SP__ROLE__ROLE_OPERATOR},
                {"custodian", SP__ROLE__ROLE_CUSTODIAN}};
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        struct person p = add_user(r, rows[i].name, rows[i].role, "");
        Sp__RevokeMachineRequest machine = SP__REVOKE_MACHINE_REQUEST__INIT;
        Sp__RevokeTokenRequest token = SP__REVOKE_TOKEN_REQUEST__INIT;
        Sp__ApproveMachineRequest approve = SP__APPROVE_MACHINE_REQUEST__INIT;
        Sp__AddUserRequest user = SP__ADD_USER_REQUEST__INIT;
        machine.machine_id = approve.machine_id = (char[]){MACHINE};
        execute_refused(r, &p, REVOKE_USER, &revoke_of("root")->base, EPERM, rows[i].name);
        execute_refused(r, &p, REVOKE_MACHINE, &machine.base, EPERM, rows[i].name);
        execute_refused(r, &p, "/sealpoint.v1.Admin/ApproveMachine", &approve.base, EPERM,
                        rows[i].name);
        execute_refused(r, &p, "/sealpoint.v1.Admin/AddUser", &user.base, EPERM, rows[i].name);
        execute_refused(r, &p, "/sealpoint.v1.Admin/RevokeToken", &token.base, EPERM, rows[i].name);
        execute_refused(r, &p, "/sealpoint.v1.Admin/CreateToken", &token_spec(r)->base, EPERM,
                        rows[i].name);
        assert_true(audit_has(r, "admin.refused", rows[i].name));
        person_free(&p);
    }
}

static void test_group_admin_stays_in_the_group(void **state)
{
    struct rig *r = *state;
    struct person p = add_user(r, "web-admin", SP__ROLE__ROLE_ADMIN, "web");
    Sp__TokenSpec *spec = token_spec(r);
    spec->group = (char *)(uintptr_t) "web";
    answer_free(execute(r, &p, "/sealpoint.v1.Admin/CreateToken", &spec->base));
    spec = token_spec(r);
    spec->group = (char *)(uintptr_t) "db";
    execute_refused(r, &p, "/sealpoint.v1.Admin/CreateToken", &spec->base, EPERM, "db");
    spec = token_spec(r);
    execute_refused(r, &p, "/sealpoint.v1.Admin/CreateToken", &spec->base, EPERM, "all machines");
    execute_refused(r, &p, REVOKE_USER, &revoke_of("root")->base, EPERM, "all machines");
    person_free(&p);
}

static void test_strangers_and_agents_sign_nothing(void **state)
{
    struct rig *r = *state;
    void *other = NULL;
    rig_setup(&other);
    struct rig *stranger = other;
    struct person p = {.key = stranger->admin.key, .certificate = stranger->admin.certificate};
    execute_refused(r, &p, REVOKE_USER, &revoke_of("root")->base, EKEYREJECTED, "");
    rig_teardown(&other);

    struct test_token t = make_token(r, token_spec(r));
    struct guest g = enrol_guest(r, &t, "web1");
    struct person agent = {.key = g.key, .certificate = g.certificate};
    execute_refused(r, &agent, REVOKE_USER, &revoke_of("root")->base, EKEYREJECTED, "not a user's");
    guest_free(&g);
    sp_secret_free(t.secret);

    /* The right certificate with another key. */
    struct person thief = {.key = sp_key_new(), .certificate = r->admin.certificate};
    Sp__SignedRequest *request = NULL;
    uint8_t nonce[32];
    nonce_of(r, nonce);
    int e = sp_request_sign(REVOKE_USER, "", 0, nonce, 32, r->wall_ms + 60000, thief.key,
                            thief.certificate, &request);
    if (e == 0)
        refused(r, request, EKEYREJECTED, "");
    EVP_PKEY_free(thief.key);
}

static void test_revoked_user_signs_nothing(void **state)
{
    struct rig *r = *state;
    struct person p = add_user(r, "second", SP__ROLE__ROLE_ADMIN, "");
    answer_free(execute(r, &r->admin, REVOKE_USER, &revoke_of("second")->base));
    execute_refused(r, &p, REVOKE_USER, &revoke_of("root")->base, EKEYREJECTED, "revoked");
    person_free(&p);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_replay_is_refused),
        TEST(test_expired_and_too_long_are_refused),
        TEST(test_old_nonce_is_refused),
        TEST(test_changed_arguments_are_refused),
        TEST(test_method_is_part_of_the_signature),
        TEST(test_unsigned_is_refused),
        TEST(test_a_forged_signature_does_not_use_the_nonce_up),
        TEST(test_viewer_operator_and_custodian_are_no_admins),
        TEST(test_group_admin_stays_in_the_group),
        TEST(test_strangers_and_agents_sign_nothing),
        TEST(test_revoked_user_signs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
