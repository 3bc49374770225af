/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys on their way in: boxes, generations, pins. */
#include "rig.h"

#include "controller/keeper/records.h"
#include <string.h>

struct importing {
    Sp__KeeperRequest request;
    Sp__ImportKeysRequest ask;
    Sp__ImportKey key, *keys[1];
};

static void fill(struct importing *n, const char *machine, const char *volume, Sp__SealedBox *box)
{
    sp__keeper_request__init(&n->request);
    sp__import_keys_request__init(&n->ask);
    sp__import_key__init(&n->key);
    n->key.machine = (char *)(uintptr_t)machine;
    n->key.volume_id = (char *)(uintptr_t)volume;
    n->key.material = box;
    n->keys[0] = &n->key;
    n->ask.keys = n->keys;
    n->ask.n_keys = 1;
    n->request.kind_case = SP__KEEPER_REQUEST__KIND_IMPORT;
    n->request.import = &n->ask;
}

static void refused(struct rig *r, struct importing *n, const char *text)
{
    ANSWER a = rig_call(r, &n->request);
    assert_int_equal(a->import->n_results, 1);
    assert_null(a->import->results[0]->record);
    if (!strstr(a->import->results[0]->error, text))
        fail_msg("%s", a->import->results[0]->error);
    assert_true(audit_has(r, "key.import.refused", text));
}

static Sp__KeeperResponse *list(struct rig *r, const char *machine, bool all)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ListKeysRequest ask = SP__LIST_KEYS_REQUEST__INIT;
    ask.machine = (char *)(uintptr_t)machine;
    ask.all_generations = all;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEYS;
    request.list_keys = &ask;
    return rig_call(r, &request);
}

#define PASSPHRASE SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE

static void test_generations_are_added_never_replaced(void **state)
{
    struct rig *r = *state;
    char first[37], second[37], again[37];
    import_key(r, MACHINE, VOLUME, "0", "one", first);
    import_key(r, MACHINE, VOLUME, "0", "two", second);
    import_key(r, MACHINE, VOLUME, "0", "two", again);
    assert_string_not_equal(first, second);
    assert_string_equal(second, again);
    ANSWER a = list(r, MACHINE, true);
    assert_int_equal(a->list_keys->n_records, 2);
    assert_int_equal(a->list_keys->records[0]->generation, 1);
    assert_int_equal(a->list_keys->records[0]->state, SP__RECORD_STATE__RECORD_STATE_SUPERSEDED);
    assert_int_equal(a->list_keys->records[1]->generation, 2);
    assert_int_equal(a->list_keys->records[1]->state, SP__RECORD_STATE__RECORD_STATE_ACTIVE);
    ANSWER newest = list(r, "", false);
    assert_int_equal(newest->list_keys->n_records, 1);
    ANSWER none = list(r, OTHER, true);
    assert_int_equal(none->list_keys->n_records, 0);
    /* Both still open. */
    Sp__EscrowRecord *e = NULL;
    struct sp_secret *secret = NULL;
    assert_int_equal(record_load(r->k, first, &e, &secret, NULL), 0);
    assert_memory_equal(sp_secret_data(secret), "one", 3);
    sp_secret_free(secret);
    sp__escrow_record__free_unpacked(e, NULL);
}

static void test_same_secret_says_already_there(void **state)
{
    struct rig *r = *state;
    struct importing n;
    import_key(r, MACHINE, VOLUME, "", "one", NULL);
    Sp__SealedBox *box = seal_key(r, MACHINE, VOLUME, "", PASSPHRASE, "one", NULL);
    fill(&n, MACHINE, VOLUME, box);
    ANSWER a = rig_call(r, &n.request);
    assert_true(a->import->results[0]->already_there);
    assert_int_equal(a->import->results[0]->record->generation, 1);
    sp__sealed_box__free_unpacked(box, NULL);
    /* As another type it is another key. */
    box = seal_key(r, MACHINE, VOLUME, "", SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE, "one", NULL);
    n.key.material = box;
    ANSWER b = rig_call(r, &n.request);
    assert_false(b->import->results[0]->already_there);
    assert_int_equal(b->import->results[0]->record->generation, 2);
    sp__sealed_box__free_unpacked(box, NULL);
}

static void test_box_bound_elsewhere_is_refused(void **state)
{
    struct rig *r = *state;
    struct importing n;
    Sp__SealedBox *box = seal_key(r, OTHER, VOLUME, "", PASSPHRASE, "one", NULL);
    fill(&n, MACHINE, VOLUME, box);
    refused(r, &n, "another machine, volume or protector");
    sp__sealed_box__free_unpacked(box, NULL);
    box = seal_key(r, MACHINE, "luks:other", "", PASSPHRASE, "one", NULL);
    n.key.material = box;
    refused(r, &n, "another machine, volume or protector");
    sp__sealed_box__free_unpacked(box, NULL);
    box = seal_key(r, MACHINE, VOLUME, "7", PASSPHRASE, "one", NULL);
    n.key.material = box;
    refused(r, &n, "another machine, volume or protector");
    box->ciphertext.data[0] ^= 1;
    n.key.protector_id = (char *)(uintptr_t) "7";
    refused(r, &n, "does not open");
    box->ciphertext.data[0] ^= 1;
    answer_free(rig_call(r, &n.request)); /* and untouched it is fine */
    sp__sealed_box__free_unpacked(box, NULL);
}

static void test_nonsense_is_refused(void **state)
{
    struct rig *r = *state;
    struct importing n;
    Sp__SealedBox *box = seal_key(r, "web1", VOLUME, "", PASSPHRASE, "one", NULL);
    fill(&n, "web1", VOLUME, box);
    refused(r, &n, "no machine id");
    fill(&n, MACHINE, "", box);
    refused(r, &n, "volume id");
    fill(&n, MACHINE, VOLUME, NULL);
    refused(r, &n, "box");
    sp__sealed_box__free_unpacked(box, NULL);
    box = seal_key(r, MACHINE, VOLUME, "", PASSPHRASE, "", NULL);
    fill(&n, MACHINE, VOLUME, box);
    refused(r, &n, "bytes");
    sp__sealed_box__free_unpacked(box, NULL);
    box = seal_key(r, MACHINE, VOLUME, "", (Sp__SecretType)77, "one", NULL);
    fill(&n, MACHINE, VOLUME, box);
    refused(r, &n, "type");
    sp__sealed_box__free_unpacked(box, NULL);
}

static void test_plain_keys_carry_their_parameters(void **state)
{
    struct rig *r = *state;
    struct importing n;
    Sp__PlainParameters plain = SP__PLAIN_PARAMETERS__INIT;
    const char *volume = "plain:data1+0";
    Sp__SealedBox *box = seal_key(r, MACHINE, volume, "", PASSPHRASE, "one", NULL);
    fill(&n, MACHINE, volume, box);
    refused(r, &n, "cipher");
    sp__sealed_box__free_unpacked(box, NULL);
    plain.cipher = (char *)(uintptr_t) "aes-xts-plain64";
    plain.key_bits = 512;
    plain.hash = (char *)(uintptr_t) "ripemd160";
    box = seal_key(r, MACHINE, volume, "", PASSPHRASE, "one", &plain);
    n.key.material = box;
    ANSWER a = rig_call(r, &n.request);
    assert_string_equal(a->import->results[0]->record->plain->hash, "ripemd160");
    sp__sealed_box__free_unpacked(box, NULL);
}

static void test_one_bad_key_does_not_stop_the_others(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ImportKeysRequest ask = SP__IMPORT_KEYS_REQUEST__INIT;
    Sp__ImportKey keys[3], *all[3];
    for (int i = 0; i < 3; i++) {
        sp__import_key__init(&keys[i]);
        keys[i].machine = (char *)(uintptr_t)MACHINE;
        keys[i].volume_id = (char *)(uintptr_t)VOLUME;
        keys[i].protector_id = (char *)(uintptr_t)(const char *[]){"0", "1", "2"}[i];
        keys[i].material = seal_key(r, i == 1 ? OTHER : MACHINE, VOLUME, keys[i].protector_id,
                                    PASSPHRASE, "same", NULL);
        all[i] = &keys[i];
    }
    ask.keys = all;
    ask.n_keys = 3;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IMPORT;
    request.import = &ask;
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->import->n_results, 3);
    assert_non_null(a->import->results[0]->record);
    assert_null(a->import->results[1]->record);
    assert_non_null(a->import->results[2]->record);
    /* Equal secrets compare equal. */
    assert_memory_equal(a->import->results[0]->record->secret_hmac.data,
                        a->import->results[2]->record->secret_hmac.data, 32);
    for (int i = 0; i < 3; i++)
        sp__sealed_box__free_unpacked(keys[i].material, NULL);
}

/* ---- pins ---- */

static uint32_t pins_of(struct rig *r, const char *record_id)
{
    ANSWER a = list(r, "", true);
    for (size_t i = 0; i < a->list_keys->n_records; i++)
        if (strcmp(a->list_keys->records[i]->record_id, record_id) == 0)
            return a->list_keys->records[i]->pins;
    return 99;
}

static void unpin(struct rig *r, const char *point, char *keep)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__UnpinRequest ask = SP__UNPIN_REQUEST__INIT;
    ask.point_id = (char *)(uintptr_t)point;
    ask.keep_record_ids = &keep;
    ask.n_keep_record_ids = keep ? 1 : 0;
    request.kind_case = SP__KEEPER_REQUEST__KIND_UNPIN;
    request.unpin = &ask;
    answer_free(rig_call(r, &request));
}

static void test_pins_hold_every_generation_until_unpinned(void **state)
{
    struct rig *r = *state;
    char one[37], two[37], other[37];
    import_key(r, MACHINE, VOLUME, "", "one", one);
    import_key(r, MACHINE, VOLUME, "", "two", two);
    import_key(r, OTHER, VOLUME, "", "one", other);
    pin_point(r, POINT, MACHINE, VOLUME);
    pin_point(r, POINT, MACHINE, VOLUME); /* again is nothing new */
    pin_point(r, POINT_2, MACHINE, VOLUME);
    assert_int_equal(pins_of(r, one), 2);
    assert_int_equal(pins_of(r, two), 2);
    assert_int_equal(pins_of(r, other), 0); /* same volume, another machine */
    unpin(r, POINT, two);
    rig_reopen(r); /* durable, and the journal agrees */
    assert_int_equal(pins_of(r, one), 1);
    assert_int_equal(pins_of(r, two), 2);
    unpin(r, POINT, NULL);
    unpin(r, POINT_2, NULL);
    assert_int_equal(pins_of(r, two), 0);
    rig_reopen(r);
    ANSWER a = list(r, "", true);
    assert_int_equal(a->list_keys->n_records, 3);
}

static void test_a_point_is_one_machines(void **state)
{
    struct rig *r = *state;
    import_key(r, MACHINE, VOLUME, "", "one", NULL);
    import_key(r, OTHER, VOLUME, "", "one", NULL);
    pin_point(r, POINT, MACHINE, VOLUME);
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__PinRequest ask = SP__PIN_REQUEST__INIT;
    ask.machine_id = (char[]){OTHER};
    ask.point_id = (char[]){POINT};
    request.kind_case = SP__KEEPER_REQUEST__KIND_PIN;
    request.pin = &ask;
    rig_refused(r, &request, ESTALE, "another machine");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_generations_are_added_never_replaced),
        TEST(test_same_secret_says_already_there),
        TEST(test_box_bound_elsewhere_is_refused),
        TEST(test_nonsense_is_refused),
        TEST(test_plain_keys_carry_their_parameters),
        TEST(test_one_bad_key_does_not_stop_the_others),
        TEST(test_pins_hold_every_generation_until_unpinned),
        TEST(test_a_point_is_one_machines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
