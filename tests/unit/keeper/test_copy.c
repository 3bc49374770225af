/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The host burnt: vault and recovery kit on an empty machine. */
#include "point.h"

#include "base/file.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/copy.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/records.h"
#include <string.h>

static Sp__KeeperResponse *make_copy(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeystoreCopyRequest ask = SP__KEYSTORE_COPY_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_KEYSTORE_COPY;
    request.keystore_copy = &ask;
    return rig_call(r, &request);
}

/* An empty host of its own, with another passphrase. */
struct host {
    char folder[64], state[80], passphrase[80];
    struct keeper_options options;
};

static struct host *empty_host(struct rig *r)
{
    static struct host h;
    snprintf(h.folder, sizeof(h.folder), "%.40s-new", r->folder);
    assert_int_equal(sp_make_directories(h.folder, 0700), 0);
    snprintf(h.state, sizeof(h.state), "%s/state", h.folder);
    snprintf(h.passphrase, sizeof(h.passphrase), "%s/passphrase", h.folder);
    assert_int_equal(sp_file_replace(h.passphrase, "another one", 11, 0600), 0);
    h.options = r->options;
    h.options.state = h.state;
    h.options.keks.passphrase_file = h.passphrase;
    return &h;
}

static void remove_host(const struct host *h)
{
    static const char *const names[] = {"state/keystore.db",
                                        "state/keystore.db-wal",
                                        "state/keystore.db-shm",
                                        "state/lock",
                                        "state",
                                        "passphrase"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        char path[160];
        snprintf(path, sizeof(path), "%s/%s", h->folder, names[i]);
        remove(path);
    }
    assert_int_equal(remove(h->folder), 0); /* nothing else was left behind */
}

static void test_vault_and_kit_restore_everything(void **state)
{
    struct rig *r = *state;
    struct point p = point_make(r);
    Sp__Signed *sealed = seal_point(r, &p);
    ANSWER copy = make_copy(r);
    uint64_t epoch = journal_epoch(r->k);
    struct host *h = empty_host(r);
    struct sp_why why = {""};
    assert_int_equal(copy->keystore_copy->epoch, epoch);
    struct sp_bytes bytes = {copy->keystore_copy->copy.data, copy->keystore_copy->copy.len};
    if (copy_restore(&h->options, r->kit, bytes, &why) < 0)
        fail_msg("%s", why.text);

    struct keeper *old = r->k;
    r->k = NULL;
    assert_int_equal(keeper_open(&h->options, &r->k, &why), 0);
    assert_false(r->k->locked);
    assert_string_equal(r->k->damage.text, "");
    assert_true(journal_epoch(r->k) > epoch);
    Sp__EscrowRecord *e = NULL;
    struct sp_secret *secret = NULL;
    assert_int_equal(record_load(r->k, p.record_id, &e, &secret, NULL), 0);
    assert_memory_equal(sp_secret_data(secret), "open sesame", 11);
    sp_secret_free(secret);
    sp__escrow_record__free_unpacked(e, NULL);
    /* It signs with the same key, and what was sealed before still counts. */
    sp__signed__free_unpacked(seal_point(r, &p), NULL);
    assert_true(audit_has(r, "keystore.restore", "recovery kit"));
    assert_true(audit_has(r, "init", DOMAIN));
    Sp__KeeperRequest check = SP__KEEPER_REQUEST__INIT;
    Sp__CheckKeystoreRequest ask = SP__CHECK_KEYSTORE_REQUEST__INIT;
    check.kind_case = SP__KEEPER_REQUEST__KIND_CHECK;
    check.check = &ask;
    ANSWER a = rig_call(r, &check);
    if (a->check->n_problems > 0)
        fail_msg("%s", a->check->problems[0]);
    assert_int_equal(a->check->records, 1);

    /* A keystore is never overwritten. */
    keeper_close(r->k);
    assert_int_equal(copy_restore(&h->options, r->kit, bytes, &why), -EEXIST);
    r->k = old;
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
    remove_host(h);
}

/* The audit grows with every proof, and a copy goes into the vault with every seal. */
static void test_a_copy_takes_the_last_of_the_audit_along(void **state)
{
    struct rig *r = *state;
    struct host *h = empty_host(r);
    struct sp_why why = {""};
    for (int i = 0; i < 2500; i++)
        assert_int_equal(audit_write(r->k, "somebody", "noise", NULL, "entry %d", i), 0);
    ANSWER copy = make_copy(r);
    struct sp_bytes bytes = {copy->keystore_copy->copy.data, copy->keystore_copy->copy.len};
    assert_int_equal(copy_restore(&h->options, r->kit, bytes, &why), 0);
    struct keeper *old = r->k, *k = NULL;
    assert_int_equal(keeper_open(&h->options, &k, &why), 0);
    if (audit_verify(k, &why) < 0)
        fail_msg("%s", why.text);
    r->k = k;
    assert_true(audit_has(r, "noise", "entry 1600")); /* which looks for broken ones, too */
    assert_false(audit_has(r, "init", ""));
    r->k = old;
    /* Nobody else shortens it. */
    keeper_close(k);
    strcpy(r->state, h->state);
    sql(r, "DELETE FROM audit WHERE number<(SELECT max(number) FROM audit)-10");
    assert_int_equal(keeper_open(&h->options, &k, &why), 0);
    assert_int_equal(audit_verify(k, &why), -EUCLEAN);
    keeper_close(k);
    remove_host(h);
}

static void test_wrong_kit_opens_nothing(void **state)
{
    struct rig *r = *state;
    ANSWER copy = make_copy(r);
    struct host *h = empty_host(r);
    struct sp_why why = {""};
    struct sp_bytes bytes = {copy->keystore_copy->copy.data, copy->keystore_copy->copy.len};
    sp_secret_data(r->kit)[3] ^= 1;
    assert_int_equal(copy_restore(&h->options, r->kit, bytes, &why), -EKEYREJECTED);
    assert_non_null(strstr(why.text, "recovery kit"));
    remove(h->passphrase);
    remove(h->folder);
}

static void test_changed_copies_are_refused(void **state)
{
    struct rig *r = *state;
    ANSWER copy = make_copy(r);
    struct host *h = empty_host(r);
    ProtobufCBinaryData *c = &copy->keystore_copy->copy;
    const size_t places[] = {0, 20, 30, 60, c->len / 2, c->len - 40, c->len - 1};
    for (size_t i = 0; i < SP_COUNT(places); i++) {
        struct sp_why why = {""};
        c->data[places[i]] ^= 1;
        assert_true(copy_restore(&h->options, r->kit, (struct sp_bytes){c->data, c->len}, &why) <
                    0);
        c->data[places[i]] ^= 1;
    }
    for (size_t size = 0; size < c->len; size += c->len / 7) {
        struct sp_why why = {""};
        assert_true(copy_restore(&h->options, r->kit, (struct sp_bytes){c->data, size}, &why) < 0);
    }
    /* After all this the host is still empty, and the whole copy still goes in. */
    struct sp_why why = {""};
    assert_int_equal(copy_restore(&h->options, r->kit, (struct sp_bytes){c->data, c->len}, &why),
                     0);
    remove_host(h);
}

/* Somebody who knows the kit's public half can make a box; they cannot make a keystore that the kit
 * vouches for. */
static void test_a_copy_of_another_keystore_is_refused(void **state)
{
    struct rig *r = *state;
    void *other = NULL;
    rig_setup(&other);
    struct rig *stranger = other;
    struct host *h = empty_host(r);
    struct sp_why why = {""};
    SP_BUFFER struct sp_buffer copy = {0};
    uint64_t epoch;
    for (size_t i = 0; i < stranger->k->keks.count; i++)
        if (strcmp(stranger->k->keks.items[i].kind, KEK_KIT) == 0)
            for (size_t j = 0; j < r->k->keks.count; j++)
                if (strcmp(r->k->keks.items[j].kind, KEK_KIT) == 0)
                    memcpy(stranger->k->keks.items[i].public_key, r->k->keks.items[j].public_key,
                           32);
    assert_int_equal(copy_make(stranger->k, false, &copy, &epoch, &why), 0);
    assert_true(copy_restore(&h->options, r->kit, (struct sp_bytes){copy.data, copy.size}, &why) <
                0);
    rig_teardown(&other);
    char path[120];
    snprintf(path, sizeof(path), "%s/keystore.db", h->state);
    struct keeper *k = NULL;
    assert_int_equal(keeper_open(&h->options, &k, &why), 0);
    assert_false(k->initialised);
    keeper_close(k);
    remove_host(h);
}

static void test_kit_text(void **state)
{
    struct rig *r = *state;
    char text[128];
    char *encoded = sp_base64url(sp_secret_data(r->kit), 32);
    struct sp_why why = {""};
    static const char *const bad[] = {"", "sealpoint-kit-1:", "sealpoint-kit-1:AAAA",
                                      "sealpoint-kit-2:AAAA", "hello"};
    SP_SECRET struct sp_secret *kit = NULL;
    snprintf(text, sizeof(text), "  sealpoint-kit-1:%s\n", encoded);
    SP_SECRET struct sp_secret *whole = sp_secret_copy(text, strlen(text));
    assert_int_equal(copy_parse_kit(whole, &kit, &why), 0);
    assert_memory_equal(sp_secret_data(kit), sp_secret_data(r->kit), 32);
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        SP_SECRET struct sp_secret *line = sp_secret_copy(bad[i], strlen(bad[i]) + 1);
        SP_SECRET struct sp_secret *none = NULL;
        assert_int_equal(copy_parse_kit(line, &none, &why), -EINVAL);
    }
    free(encoded);
}

static void test_vault_key_is_made_once_and_goes_along(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__VaultKeyRequest ask = SP__VAULT_KEY_REQUEST__INIT;
    ask.vault_id = (char[]){VAULT};
    request.kind_case = SP__KEEPER_REQUEST__KIND_VAULT_KEY;
    request.vault_key = &ask;
    rig_refused(r, &request, ENOENT, "not in the keystore");
    ask.create = true;
    ANSWER a = rig_call(r, &request);
    ANSWER b = rig_call(r, &request);
    assert_int_equal(a->vault_key->key.len, 32);
    assert_memory_equal(a->vault_key->key.data, b->vault_key->key.data, 32);
    assert_false(folder_has(r, a->vault_key->key.data, 32));
    rig_reopen(r);
    ask.create = false;
    ANSWER c = rig_call(r, &request);
    assert_memory_equal(a->vault_key->key.data, c->vault_key->key.data, 32);
    ask.vault_id = (char[]){"../etc"};
    rig_refused(r, &request, EINVAL, "vault id");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_vault_and_kit_restore_everything),
        TEST(test_a_copy_takes_the_last_of_the_audit_along),
        TEST(test_wrong_kit_opens_nothing),
        TEST(test_changed_copies_are_refused),
        TEST(test_a_copy_of_another_keystore_is_refused),
        TEST(test_kit_text),
        TEST(test_vault_key_is_made_once_and_goes_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
