/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * How a guest gets in, and each way it does not. */
#include "rig.h"

#include "controller/keeper/machines.h"
#include "controller/keeper/tokens.h"
#include <string.h>

static void enrol_refused(struct rig *r, Sp__EnrolRequest *ask, const char *address, int error,
                          const char *text)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    request.enrol = ask;
    request.peer_address = (char *)(uintptr_t)address;
    rig_refused(r, &request, error, text);
    assert_true(audit_has(r, "enrol.refused", text));
}

/* A new guest with this token and name is refused. */
static void guest_refused(struct rig *r, const struct test_token *t, const char *name,
                          const char *address, int error, const char *text)
{
    const uint8_t box[32] = {5};
    EVP_PKEY *key = sp_key_new();
    Sp__EnrolRequest *ask = enrol_request(t, key, box, name);
    enrol_refused(r, ask, address, error, text);
    enrol_free(ask);
    EVP_PKEY_free(key);
}

static void token_free(struct test_token *t)
{
    sp_secret_free(t->secret);
}

static void test_a_token_lets_one_machine_in(void **state)
{
    struct rig *r = *state;
    struct test_token t = make_token(r, token_spec(r));
    struct guest g = enrol_guest(r, &t, "web1");
    struct machine m;
    struct sp_identity id;
    assert_int_equal(machine_load(r->k, g.machine_id, &m), 0);
    assert_string_equal(m.name, "web1");
    assert_false(m.pending || m.revoked);
    assert_memory_equal(m.encryption_key, g.box, 32);
    assert_int_equal(sp_identity_of_certificate(g.certificate, &id), 0);
    assert_string_equal(id.name, g.machine_id);
    assert_true(audit_has(r, "enrol", "web1"));
    guest_refused(r, &t, "web2", "", EKEYREJECTED, "used up: 1 of 1");
    guest_free(&g);
    token_free(&t);
}

static void test_each_wrong_token_has_its_own_text(void **state)
{
    struct rig *r = *state;
    struct test_token t = make_token(r, token_spec(r)), unknown = t;
    strcpy(unknown.id, POINT);
    guest_refused(r, &unknown, "web1", "", EKEYREJECTED, "no such enrolment token");

    struct test_token wrong = t;
    wrong.secret = sp_secret_new(32);
    guest_refused(r, &wrong, "web1", "", EKEYREJECTED, "proof is wrong");
    sp_secret_free(wrong.secret);

    Sp__RevokeTokenRequest revoke = SP__REVOKE_TOKEN_REQUEST__INIT;
    revoke.token_id = t.id;
    answer_free(execute(r, &r->admin, "/sealpoint.v1.Admin/RevokeToken", &revoke.base));
    guest_refused(r, &t, "web1", "", EKEYREJECTED, "revoked");
    token_free(&t);

    t = make_token(r, token_spec(r));
    r->wall_ms += 2 * 3600 * 1000;
    guest_refused(r, &t, "web1", "", EKEYREJECTED, "expired");
    token_free(&t);
}

static void test_proof_binds_csr_and_encryption_key(void **state)
{
    struct rig *r = *state;
    struct test_token t = make_token(r, token_spec(r));
    EVP_PKEY *key = sp_key_new(), *thief = sp_key_new();
    const uint8_t box[32] = {5};
    Sp__EnrolRequest *ask = enrol_request(&t, key, box, "web1");
    free(ask->csr.data);
    ask->csr = csr_of(thief);
    enrol_refused(r, ask, "", EKEYREJECTED, "proof is wrong");
    enrol_free(ask);
    ask = enrol_request(&t, key, box, "web1");
    ask->encryption_key.data[0] ^= 1;
    enrol_refused(r, ask, "", EKEYREJECTED, "proof is wrong");
    enrol_free(ask);
    EVP_PKEY_free(key);
    EVP_PKEY_free(thief);
    token_free(&t);
}

static void test_requests_out_of_shape_are_refused(void **state)
{
    struct rig *r = *state;
    struct test_token t = make_token(r, token_spec(r));
    EVP_PKEY *key = sp_key_new();
    const uint8_t box[32] = {5};
    Sp__EnrolRequest *ask = enrol_request(&t, key, box, "web 1\n");
    enrol_refused(r, ask, "", EINVAL, "printable");
    enrol_free(ask);
    ask = enrol_request(&t, key, box, OTHER); /* looks like another machine's id */
    enrol_refused(r, ask, "", EINVAL, "is no id");
    enrol_free(ask);
    ask = enrol_request(&t, key, box, "web1");
    ask->token_proof.len = 31;
    enrol_refused(r, ask, "", EKEYREJECTED, "no proof");
    ask->token_proof.len = 32;
    ask->encryption_key.len = 16;
    enrol_refused(r, ask, "", EINVAL, "32 bytes");
    enrol_free(ask);
    /* A bad CSR with a right proof. */
    ask = enrol_request(&t, key, box, "web1");
    ask->csr.data[ask->csr.len - 1] ^= 1;
    assert_int_equal(
        sp_enrol_proof(t.secret, ask->csr.data, ask->csr.len, box, ask->token_proof.data), 0);
    enrol_refused(r, ask, "", EINVAL, "certificate request");
    enrol_free(ask);
    /* No use was counted. */
    struct guest g = enrol_guest(r, &t, "web1");
    guest_free(&g);
    EVP_PKEY_free(key);
    token_free(&t);
}

static void test_name_pattern_and_network_bind(void **state)
{
    struct rig *r = *state;
    Sp__TokenSpec *spec = token_spec(r);
    spec->machine_name = (char *)(uintptr_t) "web1";
    struct test_token t = make_token(r, spec);
    guest_refused(r, &t, "web2", "", ESTALE, "for the machine 'web1', not for 'web2'");
    token_free(&t);

    spec = token_spec(r);
    spec->group = (char *)(uintptr_t) "web";
    spec->count = 10;
    spec->name_pattern = (char *)(uintptr_t) "web*";
    spec->network = (char *)(uintptr_t) "10.1.0.0/16";
    t = make_token(r, spec);
    guest_refused(r, &t, "db1", "10.1.2.3:4711", ESTALE, "named 'web*'");
    guest_refused(r, &t, "web1", "10.2.2.3:4711", ESTALE, "10.1.0.0/16");
    guest_refused(r, &t, "web1", "", ESTALE, "(unknown)");
    token_free(&t);
}

static void test_networks(void **state)
{
    (void)state;
    static const struct {
        const char *network, *address;
        int holds;
    } rows[] = {
        {"10.0.0.0/8", "10.255.0.1", 1},
        {"10.0.0.0/8", "ipv4:10.255.0.1:55", 1},
        {"10.0.0.0/8", "11.0.0.1:9", 0},
        {"192.0.2.7", "192.0.2.7:1", 1},
        {"192.0.2.7/32", "192.0.2.6", 0},
        {"192.0.2.0/25", "192.0.2.127", 1},
        {"192.0.2.0/25", "192.0.2.128", 0},
        {"0.0.0.0/0", "203.0.113.9", 1},
        {"0.0.0.0/0", "::1", 0},
        {"0.0.0.0/0", "", 0},
        {"2001:db8::/32", "[2001:db8:1::7]:443", 1},
        {"2001:db8::/32", "ipv6:%5B2001:db8:1::7%5D:443", 1},
        {"2001:db8::/32", "2001:db9::7", 0},
        {"10.0.0.0/8", "[::ffff:10.1.1.1]:3", 1},
        {"10.0.0.0/33", "10.0.0.1", -EINVAL},
        {"10.0.0.0/", "10.0.0.1", -EINVAL},
        {"10.0.0.0/-1", "10.0.0.1", -EINVAL},
        {"banana", "10.0.0.1", -EINVAL},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++)
        if (token_network_holds(rows[i].network, rows[i].address) != rows[i].holds)
            fail_msg("%s in %s", rows[i].address, rows[i].network);
}

static void test_approval_queue(void **state)
{
    struct rig *r = *state;
    Sp__TokenSpec *spec = token_spec(r);
    spec->group = (char *)(uintptr_t) "web";
    spec->count = 2;
    spec->needs_approval = true;
    struct test_token t = make_token(r, spec);
    struct guest g = enrol_guest(r, &t, "web1");
    assert_null(g.certificate);
    assert_true(audit_has(r, "enrol.pending", "web1"));

    /* Asking again changes nothing and counts nothing. */
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    request.enrol = enrol_request(&t, g.key, g.box, "web1");
    ANSWER again = rig_call(r, &request);
    assert_true(again->enrol->pending);
    assert_int_equal(again->enrol->certificate_chain.len, 0);
    assert_string_equal(again->enrol->machine_id, g.machine_id);

    Sp__ApproveMachineRequest approve = SP__APPROVE_MACHINE_REQUEST__INIT;
    approve.machine_id = g.machine_id;
    answer_free(execute(r, &r->admin, "/sealpoint.v1.Admin/ApproveMachine", &approve.base));
    execute_refused(r, &r->admin, "/sealpoint.v1.Admin/ApproveMachine", &approve.base, ESTALE,
                    "does not wait");
    r->wall_ms += 2 * 3600 * 1000; /* approval may take longer than the token lives */
    ANSWER in = rig_call(r, &request);
    assert_false(in->enrol->pending);
    assert_string_equal(in->enrol->machine_id, g.machine_id);
    assert_true(in->enrol->certificate_chain.len > 0);
    enrol_free(request.enrol);
    guest_free(&g);
    token_free(&t);
}

static void test_a_lost_answer_is_given_again(void **state)
{
    struct rig *r = *state;
    struct test_token t = make_token(r, token_spec(r));
    struct guest g = enrol_guest(r, &t, "web1");
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    request.enrol = enrol_request(&t, g.key, g.box, "web1");
    ANSWER again = rig_call(r, &request);
    assert_string_equal(again->enrol->machine_id, g.machine_id);
    /* But not when the token is long over: that would be a way around expiry. */
    r->wall_ms += 40ull * 86400 * 1000;
    rig_refused(r, &request, EKEYREJECTED, "new token for its id");
    enrol_free(request.enrol);
    guest_free(&g);
    token_free(&t);
}

static void test_taken_name_is_refused_and_the_way_back_works(void **state)
{
    struct rig *r = *state;
    struct test_token t = make_token(r, token_spec(r));
    struct guest g = enrol_guest(r, &t, "web1");
    struct test_token other = make_token(r, token_spec(r));
    guest_refused(r, &other, "web1", "", EEXIST, g.machine_id);

    Sp__TokenSpec *spec = token_spec(r);
    spec->machine_id = g.machine_id;
    struct test_token back = make_token(r, spec);
    struct guest again = enrol_guest(r, &back, "web1");
    assert_string_equal(again.machine_id, g.machine_id);
    /* The old key no longer renews. */
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__RenewForRequest renew = SP__RENEW_FOR_REQUEST__INIT;
    Sp__RenewRequest inner = SP__RENEW_REQUEST__INIT;
    char spiffe[200];
    snprintf(spiffe, sizeof(spiffe), "spiffe://" DOMAIN "/agent/%s", g.machine_id);
    renew.spiffe_id = spiffe;
    int size = i2d_X509(g.certificate, &renew.certificate.data);
    renew.certificate.len = (size_t)size;
    inner.csr = csr_of(g.key);
    renew.request = &inner;
    request.kind_case = SP__KEEPER_REQUEST__KIND_RENEW;
    request.renew = &renew;
    rig_refused(r, &request, EKEYREJECTED, "another key");
    free(inner.csr.data);
    free(renew.certificate.data);
    guest_free(&again);
    guest_free(&g);
    token_free(&t);
    token_free(&other);
    token_free(&back);
}

static void test_revoked_machine_stays_out(void **state)
{
    struct rig *r = *state;
    Sp__TokenSpec *spec = token_spec(r);
    spec->count = 5;
    struct test_token t = make_token(r, spec);
    struct guest g = enrol_guest(r, &t, "web1");
    Sp__RevokeMachineRequest ask = SP__REVOKE_MACHINE_REQUEST__INIT;
    ask.machine_id = g.machine_id;
    ask.why = (char *)(uintptr_t) "stolen";
    answer_free(execute(r, &r->admin, "/sealpoint.v1.Admin/RevokeMachine", &ask.base));
    assert_true(audit_has(r, "machine.revoke", "stolen"));
    Sp__EnrolRequest *again = enrol_request(&t, g.key, g.box, "web1");
    enrol_refused(r, again, "", EKEYREJECTED, "revoked");
    enrol_free(again);
    /* Its name is free for a new machine. */
    struct guest fresh = enrol_guest(r, &t, "web1");
    assert_string_not_equal(fresh.machine_id, g.machine_id);
    ask.machine_id = (char[]){OTHER};
    execute_refused(r, &r->admin, "/sealpoint.v1.Admin/RevokeMachine", &ask.base, ENOENT, OTHER);
    guest_free(&fresh);
    guest_free(&g);
    token_free(&t);
}

/* "machine add web1", keys imported for it, then its agent comes. */
static void test_a_machine_added_by_hand_keeps_its_id(void **state)
{
    struct rig *r = *state;
    Sp__TokenSpec *spec = token_spec(r);
    spec->count = 5;
    struct test_token t = make_token(r, spec);
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    EVP_PKEY *key = sp_key_new(), *other = sp_key_new();
    const uint8_t box[32] = {5};
    request.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    request.known_machine_id = (char[]){OTHER};
    request.enrol = enrol_request(&t, key, box, "web1");
    ANSWER a = rig_call(r, &request);
    assert_string_equal(a->enrol->machine_id, OTHER);
    enrol_free(request.enrol);
    /* Whose id it is by now nobody else gets, whatever the controller says. */
    request.enrol = enrol_request(&t, other, box, "web2");
    ANSWER b = rig_call(r, &request);
    assert_string_not_equal(b->enrol->machine_id, OTHER);
    enrol_free(request.enrol);
    /* Nor does a word that is no id become one. */
    EVP_PKEY *third = sp_key_new();
    request.known_machine_id = (char *)(uintptr_t) "web3";
    request.enrol = enrol_request(&t, third, box, "web3");
    ANSWER c = rig_call(r, &request);
    assert_true(sp_uuid_valid(c->enrol->machine_id));
    enrol_free(request.enrol);
    EVP_PKEY_free(key);
    EVP_PKEY_free(other);
    EVP_PKEY_free(third);
    token_free(&t);
}

static void test_token_specs_that_make_no_sense(void **state)
{
    struct rig *r = *state;
    static const char create[] = "/sealpoint.v1.Admin/CreateToken";
    Sp__TokenSpec *spec = token_spec(r);
    spec->expires_unix_ms = r->wall_ms;
    execute_refused(r, &r->admin, create, &spec->base, EINVAL, "expires");
    spec = token_spec(r);
    spec->network = (char *)(uintptr_t) "10.0.0.0/40";
    execute_refused(r, &r->admin, create, &spec->base, EINVAL, "network");
    spec = token_spec(r);
    spec->machine_name = (char *)(uintptr_t) "web1";
    spec->count = 2;
    execute_refused(r, &r->admin, create, &spec->base, EINVAL, "one machine");
    spec = token_spec(r);
    spec->reply_key.len = 31;
    execute_refused(r, &r->admin, create, &spec->base, EINVAL, "32 bytes");
}

static void test_tokens_are_listed_without_their_secret(void **state)
{
    struct rig *r = *state;
    Sp__TokenSpec *spec = token_spec(r);
    spec->count = 3;
    spec->group = (char *)(uintptr_t) "web";
    struct test_token t = make_token(r, spec);
    struct guest g = enrol_guest(r, &t, "web1");
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ListTokensRequest ask = SP__LIST_TOKENS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_TOKENS;
    request.list_tokens = &ask;
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->list_tokens->n_tokens, 1);
    assert_string_equal(a->list_tokens->tokens[0]->token_id, t.id);
    assert_int_equal(a->list_tokens->tokens[0]->used, 1);
    assert_int_equal(a->list_tokens->tokens[0]->count, 3);
    assert_non_null(strstr(a->list_tokens->tokens[0]->created_by, "/user/root"));
    assert_false(folder_has(r, sp_secret_data(t.secret), 32));
    guest_free(&g);
    token_free(&t);
}

static void test_refusals_do_not_fill_the_audit(void **state)
{
    struct rig *r = *state;
    struct test_token t = {.id = POINT, .secret = sp_secret_new(32)};
    const uint8_t box[32] = {5};
    EVP_PKEY *key = sp_key_new();
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    request.enrol = enrol_request(&t, key, box, "web1");
    for (int i = 0; i < 200; i++)
        rig_refused(r, &request, EKEYREJECTED, "no such");
    r->monotonic_ns += 61ull * 1000000000;
    rig_refused(r, &request, EKEYREJECTED, "no such");
    assert_true(audit_has(r, "enrol.refused", "and 80 refusals before that"));
    enrol_free(request.enrol);
    EVP_PKEY_free(key);
    token_free(&t);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_token_lets_one_machine_in),
        TEST(test_each_wrong_token_has_its_own_text),
        TEST(test_proof_binds_csr_and_encryption_key),
        TEST(test_requests_out_of_shape_are_refused),
        TEST(test_name_pattern_and_network_bind),
        cmocka_unit_test(test_networks),
        TEST(test_approval_queue),
        TEST(test_a_lost_answer_is_given_again),
        TEST(test_taken_name_is_refused_and_the_way_back_works),
        TEST(test_revoked_machine_stays_out),
        TEST(test_a_machine_added_by_hand_keeps_its_id),
        TEST(test_token_specs_that_make_no_sense),
        TEST(test_refusals_do_not_fill_the_audit),
        TEST(test_tokens_are_listed_without_their_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
