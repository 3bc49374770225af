/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the CA puts into certificates, and what it does not take from a CSR. */
#include "rig.h"

#include "controller/keeper/ca.h"
#include <openssl/x509v3.h>
#include <string.h>

static uint32_t uses(X509 *c)
{
    return X509_get_extended_key_usage(c);
}

static bool has_dns(X509 *c, const char *name)
{
    return X509_check_host(c, name, 0, 0, NULL) == 1;
}

static X509 *issue(struct rig *r, enum sp_identity_kind kind, const char *name, EVP_PKEY *key)
{
    CA_CHAIN struct ca_chain chain = {0};
    struct ca_subject subject = {.kind = kind, .name = name};
    struct sp_why why = {""};
    ProtobufCBinaryData csr = csr_of(key);
    int e = ca_issue(r->k, &subject, csr.data, csr.len, &chain, &why);
    free(csr.data);
    if (e < 0)
        return NULL;
    assert_in_range(chain.expires_unix_ms, r->wall_ms + 29ull * 86400000,
                    r->wall_ms + 31ull * 86400000);
    return first_certificate((ProtobufCBinaryData){chain.size, (uint8_t *)chain.pem});
}

static void test_agents_and_users_are_clients_only(void **state)
{
    struct rig *r = *state;
    EVP_PKEY *key = sp_key_new();
    struct sp_identity id;
    X509 *agent = issue(r, SP_IDENTITY_AGENT, MACHINE, key);
    assert_int_equal(uses(agent), XKU_SSL_CLIENT);
    assert_int_equal(sp_identity_of_certificate(agent, &id), 0);
    assert_int_equal(id.kind, SP_IDENTITY_AGENT);
    assert_string_equal(id.name, MACHINE);
    assert_string_equal(id.domain, DOMAIN);
    assert_int_equal(uses(r->admin.certificate), XKU_SSL_CLIENT);
    assert_false(has_dns(agent, SP_CONTROLLER_DNS));
    assert_false(X509_check_ca(agent));
    /* And nobody takes one for a server. */
    struct sp_why why = {""};
    int64_t now = (int64_t)(r->wall_ms / 1000);
    assert_int_equal(
        sp_certificate_verify(agent, NULL, r->bundle, strlen(r->bundle), false, now, &why), 0);
    assert_true(sp_certificate_verify(agent, NULL, r->bundle, strlen(r->bundle), true, now, &why) <
                0);
    X509_free(agent);
    EVP_PKEY_free(key);
}

static void test_controller_is_both_and_names_its_hosts(void **state)
{
    struct rig *r = *state;
    const uint8_t *at = r->controller_certificate;
    X509 *c = d2i_X509(NULL, &at, (long)r->controller_certificate_size);
    assert_int_equal(uses(c), XKU_SSL_CLIENT | XKU_SSL_SERVER);
    assert_true(has_dns(c, SP_CONTROLLER_DNS));
    assert_true(has_dns(c, "backup.test.example"));
    assert_int_equal(X509_check_ip_asc(c, "192.0.2.7", 0), 1);
    assert_false(has_dns(c, "other.test.example"));
    X509_free(c);
}

static void test_csr_extensions_are_ignored(void **state)
{
    struct rig *r = *state;
    EVP_PKEY *key = sp_key_new();
    X509_REQ *csr = X509_REQ_new();
    STACK_OF(X509_EXTENSION) *wanted = sk_X509_EXTENSION_new_null();
    sk_X509_EXTENSION_push(
        wanted, X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE"));
    sk_X509_EXTENSION_push(wanted, X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name,
                                                       "URI:spiffe://" DOMAIN "/user/root,DNS:"
                                                       "controller.sealpoint.internal"));
    sk_X509_EXTENSION_push(wanted,
                           X509V3_EXT_conf_nid(NULL, NULL, NID_ext_key_usage, "serverAuth"));
    assert_true(X509_REQ_set_pubkey(csr, key) && X509_REQ_add_extensions(csr, wanted) &&
                X509_REQ_sign(csr, key, EVP_sha256()) > 0);
    uint8_t *der = NULL;
    int size = i2d_X509_REQ(csr, &der);
    CA_CHAIN struct ca_chain chain = {0};
    struct ca_subject subject = {.kind = SP_IDENTITY_AGENT, .name = MACHINE};
    struct sp_why why = {""};
    assert_int_equal(ca_issue(r->k, &subject, der, (size_t)size, &chain, &why), 0);
    X509 *c = first_certificate((ProtobufCBinaryData){chain.size, (uint8_t *)chain.pem});
    struct sp_identity id;
    assert_int_equal(sp_identity_of_certificate(c, &id), 0);
    assert_int_equal(id.kind, SP_IDENTITY_AGENT);
    assert_int_equal(uses(c), XKU_SSL_CLIENT);
    assert_false(X509_check_ca(c));
    assert_false(has_dns(c, SP_CONTROLLER_DNS));
    X509_free(c);
    OPENSSL_free(der);
    sk_X509_EXTENSION_pop_free(wanted, X509_EXTENSION_free);
    X509_REQ_free(csr);
    EVP_PKEY_free(key);
}

static void test_serials_are_random(void **state)
{
    struct rig *r = *state;
    EVP_PKEY *key = sp_key_new();
    X509 *a = issue(r, SP_IDENTITY_AGENT, MACHINE, key);
    X509 *b = issue(r, SP_IDENTITY_AGENT, MACHINE, key);
    assert_int_not_equal(ASN1_INTEGER_cmp(X509_get0_serialNumber(a), X509_get0_serialNumber(b)), 0);
    BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(a), NULL);
    assert_int_equal(BN_num_bits(n), 127);
    BN_free(n);
    X509_free(a);
    X509_free(b);
    EVP_PKEY_free(key);
}

static void test_bad_csrs_are_refused(void **state)
{
    (void)state;
    struct sp_why why = {""};
    EVP_PKEY *out = NULL, *key = sp_key_new();
    ProtobufCBinaryData csr = csr_of(key);
    assert_int_equal(ca_check_csr(csr.data, 0, &out, &why), -EINVAL);
    assert_int_equal(ca_check_csr(csr.data, csr.len - 1, &out, &why), -EINVAL);
    csr.data[csr.len - 1] ^= 1; /* the signature */
    assert_int_equal(ca_check_csr(csr.data, csr.len, &out, &why), -EINVAL);
    free(csr.data);
    EVP_PKEY_free(key);
    /* Another curve. */
    key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-384");
    csr = csr_of(key);
    assert_int_equal(ca_check_csr(csr.data, csr.len, &out, &why), -EINVAL);
    assert_non_null(strstr(why.text, "P-256"));
    free(csr.data);
    EVP_PKEY_free(key);
    assert_null(out);
}

static void test_names_that_could_be_read_two_ways_are_refused(void **state)
{
    struct rig *r = *state;
    EVP_PKEY *key = sp_key_new();
    static const char *const bad[] = {"", "a/b", "root/../x", "UPPER", "a b", "a\nb"};
    for (size_t i = 0; i < SP_COUNT(bad); i++)
        assert_null(issue(r, SP_IDENTITY_USER, bad[i], key));
    EVP_PKEY_free(key);
}

static void test_own_certificates_verify_and_strangers_do_not(void **state)
{
    struct rig *r = *state, *stranger = NULL;
    struct sp_identity id;
    struct sp_why why = {""};
    assert_int_equal(
        ca_verify(r->k, r->controller_certificate, r->controller_certificate_size, &id, NULL, &why),
        0);
    assert_string_equal(id.name, "main");
    r->wall_ms += 31ull * 86400000;
    assert_int_equal(
        ca_verify(r->k, r->controller_certificate, r->controller_certificate_size, &id, NULL, &why),
        -EKEYREJECTED);
    r->wall_ms -= 31ull * 86400000;
    void *other = NULL;
    rig_setup(&other);
    stranger = other;
    assert_int_equal(ca_verify(r->k, stranger->controller_certificate,
                               stranger->controller_certificate_size, &id, NULL, &why),
                     -EKEYREJECTED);
    rig_teardown(&other);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_agents_and_users_are_clients_only),
        TEST(test_controller_is_both_and_names_its_hosts),
        TEST(test_csr_extensions_are_ignored),
        TEST(test_serials_are_random),
        TEST(test_bad_csrs_are_refused),
        TEST(test_names_that_could_be_read_two_ways_are_refused),
        TEST(test_own_certificates_verify_and_strangers_do_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
