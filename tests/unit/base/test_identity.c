/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/identity.h"
#include "certificates.h"
#include <sys/stat.h>

static void spiffe_ids_are_strict(void **state)
{
    (void)state;
    struct sp_identity id;
    char text[320];
    assert_int_equal(sp_identity_parse("spiffe://example.com/agent/12ab-3", &id), 0);
    assert_int_equal(id.kind, SP_IDENTITY_AGENT);
    assert_string_equal(id.domain, "example.com");
    assert_string_equal(id.name, "12ab-3");
    assert_string_equal(sp_identity_text(&id, text, sizeof(text)),
                        "spiffe://example.com/agent/12ab-3");
    static const char *const bad[] = {
        "spiffe://example.com/agent/",
        "spiffe://example.com/agent",
        "spiffe:///agent/x",
        "spiffe://example.com/root/x",
        "spiffe://example.com/agent/x/y",
        "spiffe://example.com/agent/X",
        "spiffe://example.com/agent/..",
        "SPIFFE://example.com/agent/x",
        "spiffe://example.com/agents/x",
        "spiffe://example.com/user/a b",
        "",
    };
    for (size_t i = 0; i < SP_COUNT(bad); i++)
        assert_int_equal(sp_identity_parse(bad[i], &id), -EINVAL);
}

static void a_certificate_has_one_identity(void **state)
{
    (void)state;
    static const struct {
        const char *san;
        int result;
    } cases[] = {
        {"URI:spiffe://d/user/alice", 0},
        {"URI:spiffe://d/user/alice,DNS:x", 0},
        {"URI:spiffe://d/user/alice,URI:spiffe://d/controller/c", -EINVAL},
        {"URI:http://d/user/alice", -EINVAL},
        {"DNS:spiffe", -EINVAL},
        {NULL, -EINVAL},
    };
    EVP_PKEY *key = sp_key_new();
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        X509 *c = test_certificate(key, NULL, NULL, cases[i].san, "clientAuth", 0, 100);
        struct sp_identity id;
        assert_int_equal(sp_identity_of_certificate(c, &id), cases[i].result);
        X509_free(c);
    }
    EVP_PKEY_free(key);
}

static void chains(void **state)
{
    (void)state;
    EVP_PKEY *ca_key = sp_key_new(), *key = sp_key_new();
    X509 *ca = test_certificate(ca_key, NULL, NULL, NULL, NULL, -10, 1000);
    X509 *other = test_certificate(key, NULL, NULL, NULL, NULL, -10, 1000);
    X509 *leaf =
        test_certificate(key, ca, ca_key, "URI:spiffe://d/agent/a", "clientAuth", -10, 100);
    char *bundle = test_pem(ca), *wrong = test_pem(other);
    SP_FREE char *both = sp_format("%s%s", wrong, bundle);
    int64_t now = time(NULL);
    struct sp_why why = {0};
    assert_int_equal(sp_certificate_verify(leaf, NULL, bundle, strlen(bundle), false, now, &why),
                     0);
    assert_int_equal(sp_certificate_verify(leaf, NULL, both, strlen(both), false, now, &why), 0);
    /* An agent's certificate is no server's. */
    assert_int_equal(sp_certificate_verify(leaf, NULL, bundle, strlen(bundle), true, now, &why),
                     -EKEYREJECTED);
    assert_int_equal(sp_certificate_verify(leaf, NULL, wrong, strlen(wrong), false, now, &why),
                     -EKEYREJECTED);
    assert_int_equal(
        sp_certificate_verify(leaf, NULL, bundle, strlen(bundle), false, now + 200, &why),
        -EKEYREJECTED);
    assert_non_null(strstr(why.text, "expired"));
    assert_int_equal(sp_certificate_verify(leaf, NULL, "", 0, false, now, &why), -EKEYREJECTED);
    assert_true(sp_certificate_expires_unix_ms(leaf) / 1000 >= (uint64_t)now + 98);
    X509_free(ca);
    X509_free(other);
    X509_free(leaf);
    free(bundle);
    free(wrong);
    EVP_PKEY_free(key);
    EVP_PKEY_free(ca_key);
}

static void keys_come_back_from_files(void **state)
{
    SP_FREE char *path = sp_format("%s/k", (char *)*state);
    EVP_PKEY *key = sp_key_new(), *back = NULL;
    assert_int_equal(sp_key_save(path, key), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(sp_key_load(path, &back), 0);
    assert_int_equal(EVP_PKEY_eq(key, back), 1);
    EVP_PKEY_free(key);
    EVP_PKEY_free(back);
    assert_int_equal(sp_file_replace(path, "nonsense", 8, 0600), 0);
    assert_int_equal(sp_key_load(path, &back), -EINVAL);
}

static void token_files(void **state)
{
    (void)state;
    static const char good[] = "  sealpoint-token-1:12a3a118-7039-4575-a649-3f559d8d87ee:"
                               "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n";
    char id[37];
    SP_SECRET struct sp_secret *secret = NULL;
    assert_int_equal(sp_token_parse(good, strlen(good), id, &secret), 0);
    assert_string_equal(id, "12a3a118-7039-4575-a649-3f559d8d87ee");
    for (uint8_t i = 0; i < 32; i++)
        assert_int_equal(sp_secret_data(secret)[i], i);
    char broken[sizeof(good)];
    for (size_t cut = 0; cut < strlen(good) - 1; cut++) {
        struct sp_secret *none = NULL;
        assert_int_equal(sp_token_parse(good, cut, id, &none), -EINVAL);
    }
    memcpy(broken, good, sizeof(good));
    broken[20] = 'X';
    struct sp_secret *none = NULL;
    assert_int_equal(sp_token_parse(broken, strlen(broken), id, &none), -EINVAL);
    uint8_t key[32] = {1}, a[32], b[32];
    assert_int_equal(sp_enrol_proof(secret, "csr", 3, key, a), 0);
    key[0] = 2;
    assert_int_equal(sp_enrol_proof(secret, "csr", 3, key, b), 0);
    assert_memory_not_equal(a, b, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spiffe_ids_are_strict),
        cmocka_unit_test(a_certificate_has_one_identity),
        cmocka_unit_test(chains),
        cmocka_unit_test_setup_teardown(keys_come_back_from_files, test_folder_setup,
                                        test_folder_teardown),
        cmocka_unit_test(token_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
