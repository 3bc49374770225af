/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/signed_request.h"
#include "certificates.h"
#include <sealpoint/v1/types.pb-c.h>

struct people {
    EVP_PKEY *ca_key, *key;
    X509 *ca, *user, *agent;
    char *bundle;
};

static void make_people(struct people *p)
{
    p->ca_key = sp_key_new();
    p->key = sp_key_new();
    p->ca = test_certificate(p->ca_key, NULL, NULL, NULL, NULL, -10, 1000);
    p->user = test_certificate(p->key, p->ca, p->ca_key, "URI:spiffe://d/user/alice", "clientAuth",
                               -10, 500);
    p->agent = test_certificate(p->key, p->ca, p->ca_key, "URI:spiffe://d/agent/a", "clientAuth",
                                -10, 500);
    p->bundle = test_pem(p->ca);
}

static void free_people(struct people *p)
{
    EVP_PKEY_free(p->ca_key);
    EVP_PKEY_free(p->key);
    X509_free(p->ca);
    X509_free(p->user);
    X509_free(p->agent);
    free(p->bundle);
}

static int check(const struct people *p, const Sp__SignedRequest *r, struct sp_identity *who)
{
    struct sp_why why = {0};
    return sp_request_verify(r, 0, p->bundle, strlen(p->bundle), time(NULL), who, &why);
}

static void every_part_is_signed(void **state)
{
    (void)state;
    struct people p;
    make_people(&p);
    Sp__SignedRequest *r = NULL;
    struct sp_identity who;
    assert_int_equal(sp_request_sign("/s/M", "args", 4, "nonce", 5, 77, p.key, p.user, &r), 0);
    assert_int_equal(check(&p, r, &who), 0);
    assert_string_equal(who.name, "alice");
    r->method[1] = 'x';
    assert_int_equal(check(&p, r, &who), -EKEYREJECTED);
    r->method[1] = 's';
    r->arguments.data[0] ^= 1;
    assert_int_equal(check(&p, r, &who), -EKEYREJECTED);
    r->arguments.data[0] ^= 1;
    r->nonce.data[0] ^= 1;
    assert_int_equal(check(&p, r, &who), -EKEYREJECTED);
    r->nonce.data[0] ^= 1;
    r->expires_unix_ms++;
    assert_int_equal(check(&p, r, &who), -EKEYREJECTED);
    r->expires_unix_ms--;
    assert_int_equal(check(&p, r, &who), 0);
    struct sp_why why = {0};
    assert_int_equal(sp_request_verify(r, 1, p.bundle, strlen(p.bundle), time(NULL), &who, &why),
                     -EINVAL);
    sp__signed_request__free_unpacked(r, NULL);
    free_people(&p);
}

static void only_users_sign(void **state)
{
    (void)state;
    struct people p, strangers;
    make_people(&p);
    make_people(&strangers);
    Sp__SignedRequest *r = NULL;
    struct sp_identity who;
    assert_int_equal(sp_request_sign("/s/M", "", 0, "n", 1, 7, p.key, p.agent, &r), 0);
    assert_int_equal(check(&p, r, &who), -EKEYREJECTED);
    sp__signed_request__free_unpacked(r, NULL);
    assert_int_equal(sp_request_sign("/s/M", "", 0, "n", 1, 7, strangers.key, strangers.user, &r),
                     0);
    assert_int_equal(check(&p, r, &who), -EKEYREJECTED);
    /* Somebody else's certificate with one's own signature. */
    sp__signed_request__free_unpacked(r, NULL);
    assert_int_equal(sp_request_sign("/s/M", "", 0, "n", 1, 7, strangers.key, p.user, &r), 0);
    assert_int_equal(check(&p, r, &who), -EKEYREJECTED);
    sp__signed_request__free_unpacked(r, NULL);
    free_people(&p);
    free_people(&strangers);
}

static void signatures_keep_to_their_context(void **state)
{
    (void)state;
    EVP_PKEY *keys[] = {sp_key_new(), EVP_PKEY_Q_keygen(NULL, NULL, "ED25519")};
    for (size_t i = 0; i < 2; i++) {
        Sp__Signed *s = NULL;
        assert_int_equal(sp_signed_make(keys[i], SP_SIGN_PROOF, "payload", 7, &s), 0);
        assert_int_equal(sp_signed_verify(s, SP_SIGN_PROOF, keys[i]), 0);
        assert_int_equal(sp_signed_verify(s, SP_SIGN_MANIFEST, keys[i]), -EKEYREJECTED);
        assert_int_equal(sp_signed_verify(s, SP_SIGN_PROOF, keys[1 - i]), -EKEYREJECTED);
        s->payload.data[6] ^= 1;
        assert_int_equal(sp_signed_verify(s, SP_SIGN_PROOF, keys[i]), -EKEYREJECTED);
        sp__signed__free_unpacked(s, NULL);
        uint8_t *der = NULL;
        size_t size = 0;
        EVP_PKEY *back = NULL;
        assert_int_equal(sp_public_key_der(keys[i], &der, &size), 0);
        assert_int_equal(sp_public_key_from_der(der, size, &back), 0);
        assert_int_equal(EVP_PKEY_eq(back, keys[i]), 1);
        EVP_PKEY_free(back);
        back = NULL;
        assert_int_equal(sp_public_key_from_der(der, size - 1, &back), -EINVAL);
        free(der);
    }
    Sp__Signed none = SP__SIGNED__INIT;
    assert_int_equal(sp_signed_verify(&none, SP_SIGN_PROOF, keys[0]), -EKEYREJECTED);
    EVP_PKEY_free(keys[0]);
    EVP_PKEY_free(keys[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_is_signed),
        cmocka_unit_test(only_users_sign),
        cmocka_unit_test(signatures_keep_to_their_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
