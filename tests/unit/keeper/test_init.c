/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The first minute of a keystore, and what a keeper answers before it and while locked. */
#include "rig.h"

#include "base/file.h"
#include "base/sealed_box.h"
#include <string.h>
#include <sys/stat.h>

static Sp__KeeperRequest status_request(void)
{
    static Sp__KeeperStatusRequest ask;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    sp__keeper_status_request__init(&ask);
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &ask;
    return request;
}

static Sp__KeeperRequest list_request(void)
{
    static Sp__ListKeysRequest ask;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    sp__list_keys_request__init(&ask);
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEYS;
    request.list_keys = &ask;
    return request;
}

static Sp__KeeperRequest nonce_request(void)
{
    static Sp__NonceRequest ask;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    sp__nonce_request__init(&ask);
    request.kind_case = SP__KEEPER_REQUEST__KIND_NONCE;
    request.nonce = &ask;
    return request;
}

static void test_empty_keeper_answers_status_only(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = status_request(), list = list_request();
    ANSWER a = rig_call(r, &request);
    assert_false(a->status->initialised);
    assert_false(a->status->locked);
    assert_int_equal(a->status->epoch, 0);
    rig_refused(r, &list, ENOTCONN, "sealpointd init");
}

static void test_init_makes_everything_once(void **state)
{
    struct rig *r = *state;
    ANSWER a = rig_init(r);
    char fingerprint[65];
    X509 *ca = NULL;
    assert_int_equal(sp_certificate_from_pem(r->bundle, strlen(r->bundle), &ca), 0);
    assert_string_equal(a->init->ca_fingerprint, sp_certificate_fingerprint(ca, fingerprint));
    X509_free(ca);

    Sp__KeeperRequest request = status_request();
    ANSWER s = rig_call(r, &request);
    assert_true(s->status->initialised);
    assert_false(s->status->locked);
    assert_string_equal(s->status->domain, DOMAIN);
    assert_true(s->status->epoch > 0);
    assert_int_equal(s->status->n_kek_kinds, 2);
    assert_int_equal(s->status->n_warnings, 0);
    assert_int_equal(s->status->audit_head.len, 32);

    Sp__InitRequest again = SP__INIT_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_INIT;
    request.init = &again;
    rig_refused(r, &request, EEXIST, DOMAIN);
}

static void test_init_without_kek_leaves_nothing(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__InitRequest ask = SP__INIT_REQUEST__INIT;
    uint8_t key[32] = {9};
    ask.domain = (char[]){DOMAIN};
    ask.controller_name = (char[]){"main"};
    ask.reply_key = (ProtobufCBinaryData){32, key};
    request.kind_case = SP__KEEPER_REQUEST__KIND_INIT;
    request.init = &ask;
    r->options.keks.passphrase_file = NULL;
    rig_reopen(r);
    rig_refused(r, &request, ENOKEY, "kek.passphrase_file");
    r->options.keks.passphrase_file = r->passphrase;
    rig_reopen(r);
    rig_refused(r, &request, EINVAL, "certificate request"); /* no CSR: rolled back again */
    answer_free(rig_init(r));
}

static void test_survives_a_restart(void **state)
{
    struct rig *r = *state;
    char id[37];
    import_key(r, MACHINE, VOLUME, "", "open sesame", id);
    rig_reopen(r);
    Sp__KeeperRequest request = list_request();
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->list_keys->n_records, 1);
    assert_string_equal(a->list_keys->records[0]->record_id, id);
}

static void test_wrong_passphrase_locks(void **state)
{
    struct rig *r = *state;
    import_key(r, MACHINE, VOLUME, "", "open sesame", NULL);
    assert_int_equal(sp_file_replace(r->passphrase, "wrong", 5, 0600), 0);
    rig_reopen(r);
    Sp__KeeperRequest request = status_request(), list = list_request(), nonce = nonce_request();
    ANSWER s = rig_call(r, &request);
    assert_true(s->status->initialised);
    assert_true(s->status->locked);
    assert_true(s->status->n_warnings > 0);
    rig_refused(r, &nonce, ENOKEY, "the passphrase does not open this keystore");
    /* What needs no secret is still answered. */
    answer_free(rig_call(r, &list));
    assert_int_equal(sp_file_replace(r->passphrase, "correct horse", 13, 0600), 0);
    rig_reopen(r);
    answer_free(rig_call(r, &nonce));
}

static void test_locked_keeper_says_who_is_known(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__IdentitiesRequest ask = SP__IDENTITIES_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IDENTITIES;
    request.identities = &ask;
    r->options.keks.passphrase_file = NULL;
    rig_reopen(r);
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->identities->n_users, 1);
    assert_true(a->identities->trust_bundle.len > 0);
}

static void test_passphrase_file_that_others_read_is_refused(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest nonce = nonce_request();
    chmod(r->passphrase, 0644);
    rig_reopen(r);
    rig_refused(r, &nonce, ENOKEY, "others may read");
    r->options.keks.insecure = true;
    rig_reopen(r);
    answer_free(rig_call(r, &nonce));
}

static void test_passphrase_file_beside_the_keystore_is_refused(void **state)
{
    struct rig *r = *state;
    char inside[120];
    Sp__KeeperRequest nonce = nonce_request();
    snprintf(inside, sizeof(inside), "%s/passphrase", r->state);
    assert_int_equal(sp_file_replace(inside, "correct horse", 13, 0600), 0);
    r->options.keks.passphrase_file = inside;
    rig_reopen(r);
    rig_refused(r, &nonce, ENOKEY, "beside the keystore");
    r->options.keks.insecure = true;
    rig_reopen(r);
    answer_free(rig_call(r, &nonce));
    r->options.keks.passphrase_file = r->passphrase;
}

static void test_credential_opens(void **state)
{
    struct rig *r = *state;
    char path[120];
    snprintf(path, sizeof(path), "%s/kek", r->folder);
    assert_int_equal(sp_file_replace(path, "from systemd", 12, 0400), 0);
    setenv("CREDENTIALS_DIRECTORY", r->folder, 1);
    r->options.keks.passphrase_file = NULL;
    r->options.keks.credential = "kek";
    rig_reopen(r);
    answer_free(rig_init(r));
    rig_reopen(r);
    Sp__KeeperRequest nonce = nonce_request();
    answer_free(rig_call(r, &nonce));
    unsetenv("CREDENTIALS_DIRECTORY");
    rig_reopen(r);
    rig_refused(r, &nonce, ENOKEY, "credentials");
}

static void test_second_keeper_on_the_same_state_is_refused(void **state)
{
    struct rig *r = *state;
    struct keeper *second = NULL;
    struct sp_why why = {""};
    assert_int_equal(keeper_open(&r->options, &second, &why), -EBUSY);
    assert_non_null(strstr(why.text, "another keeper"));
}

static void test_nothing_secret_lies_in_the_file(void **state)
{
    struct rig *r = *state;
    import_key(r, MACHINE, VOLUME, "", "open sesame in the clear", NULL);
    assert_false(folder_has(r, "open sesame in the clear", 24));
    assert_false(folder_has(r, "correct horse", 13));
    assert_false(folder_has(r, sp_secret_data(r->kit), 32));
    assert_false(folder_has(r, sp_secret_data(r->k->box_private), 32));
    assert_false(folder_has(r, sp_secret_data(r->k->mac_key), 32));
    assert_true(folder_has(r, VOLUME, strlen(VOLUME))); /* the search itself works */
}

static void test_unknown_request_and_stray_descriptor_are_refused(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest nothing = SP__KEEPER_REQUEST__INIT, status = status_request();
    Sp__KeeperRequest prove = SP__KEEPER_REQUEST__INIT;
    Sp__ProveRequest ask = SP__PROVE_REQUEST__INIT;
    rig_refused(r, &nothing, EOPNOTSUPP, "does not know");
    rig_refused_fd(r, &status, 0, EINVAL, "without");
    prove.kind_case = SP__KEEPER_REQUEST__KIND_PROVE;
    prove.prove = &ask;
    rig_refused(r, &prove, EINVAL, "with a descriptor");
}

#define TEST(f)       cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
#define TEST_EMPTY(f) cmocka_unit_test_setup_teardown(f, rig_setup_empty, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_EMPTY(test_empty_keeper_answers_status_only),
        TEST_EMPTY(test_init_makes_everything_once),
        TEST_EMPTY(test_init_without_kek_leaves_nothing),
        TEST(test_survives_a_restart),
        TEST(test_wrong_passphrase_locks),
        TEST(test_locked_keeper_says_who_is_known),
        TEST(test_passphrase_file_that_others_read_is_refused),
        TEST(test_passphrase_file_beside_the_keystore_is_refused),
        TEST_EMPTY(test_credential_opens),
        TEST(test_second_keeper_on_the_same_state_is_refused),
        TEST(test_nothing_secret_lies_in_the_file),
        TEST(test_unknown_request_and_stray_descriptor_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
