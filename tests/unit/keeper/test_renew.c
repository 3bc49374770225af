/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Renewal: the name stays, the key may change, and only who is in good standing renews. */
#include "rig.h"

#include <openssl/x509v3.h>
#include <string.h>

struct renewing {
    Sp__KeeperRequest request;
    Sp__RenewForRequest renew;
    Sp__RenewRequest inner;
    char spiffe[200];
};

static void fill(struct renewing *n, const char *kind, const char *name, X509 *certificate,
                 EVP_PKEY *key)
{
    sp__keeper_request__init(&n->request);
    sp__renew_for_request__init(&n->renew);
    sp__renew_request__init(&n->inner);
    snprintf(n->spiffe, sizeof(n->spiffe), "spiffe://" DOMAIN "/%s/%s", kind, name);
    n->renew.spiffe_id = n->spiffe;
    n->renew.certificate.data = NULL;
    n->renew.certificate.len = (size_t)i2d_X509(certificate, &n->renew.certificate.data);
    n->inner.csr = csr_of(key);
    n->renew.request = &n->inner;
    n->request.kind_case = SP__KEEPER_REQUEST__KIND_RENEW;
    n->request.renew = &n->renew;
}

static void clear(struct renewing *n)
{
    free(n->renew.certificate.data);
    free(n->inner.csr.data);
}

static void test_user_and_controller_renew(void **state)
{
    struct rig *r = *state;
    struct renewing n;
    fill(&n, "user", "root", r->admin.certificate, r->admin.key);
    ANSWER a = rig_call(r, &n.request);
    X509 *c = first_certificate(a->renew->certificate_chain);
    struct sp_identity id;
    assert_int_equal(sp_identity_of_certificate(c, &id), 0);
    assert_string_equal(id.name, "root");
    X509_free(c);
    clear(&n);

    const uint8_t *at = r->controller_certificate;
    X509 *old = d2i_X509(NULL, &at, (long)r->controller_certificate_size);
    fill(&n, "controller", "main", old, r->controller_key);
    ANSWER b = rig_call(r, &n.request);
    c = first_certificate(b->renew->certificate_chain);
    assert_int_equal(X509_check_host(c, "backup.test.example", 0, 0, NULL), 1);
    assert_int_equal(X509_check_host(c, SP_CONTROLLER_DNS, 0, 0, NULL), 1);
    assert_int_equal(X509_check_ip_asc(c, "192.0.2.7", 0), 1);
    X509_free(c);
    X509_free(old);
    clear(&n);
}

static void test_agent_renews_with_a_new_key_and_once_more_with_the_old(void **state)
{
    struct rig *r = *state;
    struct test_token t = make_token(r, token_spec(r));
    struct guest g = enrol_guest(r, &t, "web1");
    EVP_PKEY *key = sp_key_new();
    uint8_t box[32] = {42};
    struct renewing n;
    fill(&n, "agent", g.machine_id, g.certificate, key);
    n.inner.encryption_key = (ProtobufCBinaryData){32, box};
    answer_free(rig_call(r, &n.request));
    /* The answer was lost: the guest still has its old certificate. */
    answer_free(rig_call(r, &n.request));
    clear(&n);
    n.inner.encryption_key.len = 0;

    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__IdentitiesRequest ask = SP__IDENTITIES_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IDENTITIES;
    request.identities = &ask;
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->identities->n_agents, 1);
    assert_memory_equal(a->identities->agents[0]->encryption_key.data, box, 32);
    EVP_PKEY_free(key);
    guest_free(&g);
    sp_secret_free(t.secret);
}

static void test_others_do_not_renew(void **state)
{
    struct rig *r = *state;
    struct person p = add_user(r, "eve", SP__ROLE__ROLE_VIEWER, "");
    struct renewing n;
    /* For somebody else. */
    fill(&n, "user", "root", p.certificate, p.key);
    rig_refused(r, &n.request, EKEYREJECTED, "another identity");
    clear(&n);
    /* Revoked. */
    Sp__RevokeUserRequest ask = SP__REVOKE_USER_REQUEST__INIT;
    ask.name = p.name;
    answer_free(execute(r, &r->admin, "/sealpoint.v1.Admin/RevokeUser", &ask.base));
    fill(&n, "user", "eve", p.certificate, p.key);
    rig_refused(r, &n.request, EKEYREJECTED, "revoked");
    assert_true(audit_has(r, "renew.refused", "revoked"));
    clear(&n);
    /* Too late. */
    fill(&n, "user", "root", r->admin.certificate, r->admin.key);
    r->wall_ms += 31ull * 86400 * 1000;
    rig_refused(r, &n.request, EKEYREJECTED, "");
    clear(&n);
    person_free(&p);
}

static void test_controller_certificate_only_for_the_one_that_is_known(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__IssueControllerRequest ask = SP__ISSUE_CONTROLLER_REQUEST__INIT;
    char *hosts[] = {(char[]){"new.test.example"}};
    ask.controller_name = (char[]){"main"};
    ask.csr = csr_of(r->controller_key);
    ask.hosts = hosts;
    ask.n_hosts = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_ISSUE_CONTROLLER;
    request.issue_controller = &ask;
    ANSWER a = rig_call(r, &request);
    X509 *c = first_certificate(a->issue_controller->certificate_chain);
    assert_int_equal(X509_check_host(c, "new.test.example", 0, 0, NULL), 1);
    X509_free(c);
    ask.controller_name = (char[]){"evil"};
    rig_refused(r, &request, EKEYREJECTED, "evil");
    ask.controller_name = (char[]){"main"};
    hosts[0] = (char[]){"not a host"};
    rig_refused(r, &request, EINVAL, "not a host");
    free(ask.csr.data);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_user_and_controller_renew),
        TEST(test_agent_renews_with_a_new_key_and_once_more_with_the_old),
        TEST(test_others_do_not_renew),
        TEST(test_controller_certificate_only_for_the_one_that_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
