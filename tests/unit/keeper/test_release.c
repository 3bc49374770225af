/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys on their way out. */
#include "point.h"

#include "base/sealed_box.h"
#include "base/signed_request.h"
#include <string.h>

#define RELEASE "/sealpoint.v1.Keys/Release"

static struct point point;
static Sp__Signed *sealed;
static struct sp_secret *reply;
static uint8_t reply_public[32];

static int setup(void **state)
{
    if (rig_setup(state) < 0)
        return -1;
    point = point_make(*state);
    sealed = seal_point(*state, &point);
    return sp_box_keypair(&reply, reply_public);
}

static int teardown(void **state)
{
    point_free(&point);
    sp__signed__free_unpacked(sealed, NULL);
    sp_secret_free(reply);
    return rig_teardown(state);
}

struct releasing {
    Sp__KeeperRequest request;
    Sp__ReleaseForRequest outer;
    Sp__ReleaseRequest ask;
};

static void fill(struct rig *r, struct releasing *n, const struct person *who)
{
    sp__keeper_request__init(&n->request);
    sp__release_for_request__init(&n->outer);
    sp__release_request__init(&n->ask);
    n->ask.point_id = (char *)(uintptr_t)POINT;
    n->ask.reply_key = (ProtobufCBinaryData){32, reply_public};
    n->ask.why = (char *)(uintptr_t) "restore drill";
    n->outer.request = sign(r, who, RELEASE, &n->ask.base);
    n->outer.manifest = sealed;
    n->request.kind_case = SP__KEEPER_REQUEST__KIND_RELEASE;
    n->request.release = &n->outer;
}

static void resign(struct rig *r, struct releasing *n, const struct person *who)
{
    sp__signed_request__free_unpacked(n->outer.request, NULL);
    n->outer.request = sign(r, who, RELEASE, &n->ask.base);
}

static void clear(struct releasing *n)
{
    sp__signed_request__free_unpacked(n->outer.request, NULL);
}

static void open_key(const Sp__ReleasedKey *key, const char *secret)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *packed = NULL;
    assert_int_equal(sp_release_aad(&aad, POINT, key->volume_id, key->record->record_id), 0);
    assert_int_equal(sp_box_open(reply, aad.data, aad.size, key->material, &packed), 0);
    Sp__KeyMaterial *m =
        sp__key_material__unpack(NULL, sp_secret_size(packed), sp_secret_data(packed));
    assert_int_equal(m->type, SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE);
    assert_int_equal(m->secret.len, strlen(secret));
    assert_memory_equal(m->secret.data, secret, strlen(secret));
    sp__key_material__free_unpacked(m, NULL);
}

static void test_custodian_gets_the_generation_of_the_point(void **state)
{
    struct rig *r = *state;
    struct releasing n;
    import_key(r, MACHINE, VOLUME, "", "a later key", NULL); /* of no matter to this point */
    fill(r, &n, &r->admin);
    ANSWER a = rig_call(r, &n.request);
    assert_int_equal(a->release->n_keys, 1);
    assert_string_equal(a->release->keys[0]->record->record_id, point.record_id);
    assert_string_equal(a->release->keys[0]->volume_id, VOLUME);
    open_key(a->release->keys[0], "open sesame");
    assert_true(audit_has(r, "key.release", "restore drill"));
    assert_true(audit_has(r, "key.release", point.record_id));
    /* Not twice for one signature. */
    rig_refused(r, &n.request, EKEYREJECTED, "used before");
    clear(&n);
}

static void test_an_admin_who_is_no_custodian_gets_nothing(void **state)
{
    struct rig *r = *state;
    struct person p = add_user(r, "boss", SP__ROLE__ROLE_ADMIN, "");
    struct releasing n;
    fill(r, &n, &p);
    rig_refused(r, &n.request, EPERM, "no custodian");
    assert_true(audit_has(r, "key.release.refused", "no custodian"));
    clear(&n);
    person_free(&p);
}

static void test_a_custodian_of_another_group_gets_nothing(void **state)
{
    struct rig *r = *state;
    struct person p = add_user(r, "web-custodian", SP__ROLE__ROLE_CUSTODIAN, "web");
    struct releasing n;
    fill(r, &n, &p);
    rig_refused(r, &n.request, EPERM, "no custodian");
    clear(&n);
    person_free(&p);
}

static void test_unsealed_and_changed_manifests_release_nothing(void **state)
{
    struct rig *r = *state;
    struct releasing n;
    fill(r, &n, &r->admin);
    n.outer.manifest = NULL;
    rig_refused(r, &n.request, EKEYREJECTED, "not sealed");
    resign(r, &n, &r->admin);
    n.outer.manifest = sealed;
    sealed->payload.data[20] ^= 1;
    rig_refused(r, &n.request, EKEYREJECTED, "not sealed");
    sealed->payload.data[20] ^= 1;
    resign(r, &n, &r->admin);
    n.outer.manifest = point.manifest->proofs[0]; /* signed, but no manifest */
    rig_refused(r, &n.request, EKEYREJECTED, "not sealed");
    clear(&n);
}

static void test_another_point_and_unknown_volumes_are_refused(void **state)
{
    struct rig *r = *state;
    struct releasing n;
    fill(r, &n, &r->admin);
    n.ask.point_id = (char[]){POINT_2};
    resign(r, &n, &r->admin);
    rig_refused(r, &n.request, EINVAL, "another point");
    n.ask.point_id = (char[]){POINT};
    n.ask.volume_id = (char *)(uintptr_t) "luks:none";
    resign(r, &n, &r->admin);
    rig_refused(r, &n.request, ENOENT, "luks:none");
    n.ask.volume_id = (char *)(uintptr_t)VOLUME;
    n.ask.reply_key.len = 5;
    resign(r, &n, &r->admin);
    rig_refused(r, &n.request, EINVAL, "32 bytes");
    n.ask.reply_key.len = 32;
    resign(r, &n, &r->admin);
    answer_free(rig_call(r, &n.request));
    clear(&n);
}

static void test_the_controller_cannot_change_who_gets_the_answer(void **state)
{
    struct rig *r = *state;
    struct releasing n;
    fill(r, &n, &r->admin);
    Sp__ReleaseRequest evil = n.ask;
    uint8_t key[32] = {6};
    evil.reply_key.data = key;
    free(n.outer.request->arguments.data);
    assert_int_equal(
        sp_pack(&evil.base, &n.outer.request->arguments.data, &n.outer.request->arguments.len), 0);
    rig_refused(r, &n.request, EKEYREJECTED, "");
    clear(&n);
}

static void test_invalid_points_release_what_was_proved(void **state)
{
    struct rig *r = *state;
    struct releasing n;
    point.manifest->state_at_seal = SP__POINT_STATE__POINT_STATE_UNPROVEN;
    sp__signed__free_unpacked(sealed, NULL);
    sealed = seal_point(r, &point);
    fill(r, &n, &r->admin);
    ANSWER a = rig_call(r, &n.request);
    open_key(a->release->keys[0], "open sesame");
    clear(&n);
}

#define VOLUME_B "luks:88888888-8888-4888-8888-888888888888"
#define CLONE    VOLUME "@data0+33554432"

static void seal_again(struct rig *r)
{
    Sp__Signed *fresh = seal_point(r, &point);
    sp__signed__free_unpacked(sealed, NULL);
    sealed = fresh;
}

static void test_one_bad_record_does_not_hold_back_the_others(void **state)
{
    struct rig *r = *state;
    struct releasing n;
    char bad[37];
    import_key(r, MACHINE, VOLUME_B, "", "open sesame", bad);
    pin_point(r, POINT, MACHINE, VOLUME_B);
    point_add_volume(r, &point, VOLUME_B);
    seal_again(r);
    sql(r, "UPDATE records SET ciphertext=zeroblob(64) WHERE volume_id='" VOLUME_B "'");

    fill(r, &n, &r->admin);
    ANSWER a = rig_call(r, &n.request);
    assert_int_equal(a->release->n_keys, 1);
    assert_string_equal(a->release->keys[0]->volume_id, VOLUME);
    open_key(a->release->keys[0], "open sesame");
    assert_int_equal(a->release->n_failures, 1);
    assert_string_equal(a->release->failures[0]->volume_id, VOLUME_B);
    assert_string_equal(a->release->failures[0]->record_id, bad);
    assert_non_null(strstr(a->release->failures[0]->text, "does not open"));
    assert_true(audit_has(r, "key.release.refused", VOLUME_B));

    /* Asked for by name, it is an error of the call. */
    n.ask.volume_id = (char *)(uintptr_t)VOLUME_B;
    resign(r, &n, &r->admin);
    rig_refused(r, &n.request, EBADMSG, "does not open");
    /* And so it is when none is left. */
    sql(r, "UPDATE records SET ciphertext=zeroblob(64)");
    n.ask.volume_id = (char *)(uintptr_t) "";
    resign(r, &n, &r->admin);
    rig_refused(r, &n.request, EBADMSG, "does not open");
    clear(&n);
}

/* A cloned disk beside the original: one UUID, two volumes, the key in escrow once. */
static void test_a_clone_is_opened_by_the_originals_key(void **state)
{
    struct rig *r = *state;
    struct releasing n;
    point_add_volume(r, &point, CLONE);
    seal_again(r);
    fill(r, &n, &r->admin);
    ANSWER a = rig_call(r, &n.request);
    assert_int_equal(a->release->n_keys, 2);
    assert_string_equal(a->release->keys[1]->volume_id, CLONE);
    assert_string_equal(a->release->keys[1]->record->record_id, point.record_id);
    open_key(a->release->keys[0], "open sesame");
    open_key(a->release->keys[1], "open sesame");
    clear(&n);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_custodian_gets_the_generation_of_the_point),
        TEST(test_an_admin_who_is_no_custodian_gets_nothing),
        TEST(test_a_custodian_of_another_group_gets_nothing),
        TEST(test_unsealed_and_changed_manifests_release_nothing),
        TEST(test_another_point_and_unknown_volumes_are_refused),
        TEST(test_the_controller_cannot_change_who_gets_the_answer),
        TEST(test_one_bad_record_does_not_hold_back_the_others),
        TEST(test_a_clone_is_opened_by_the_originals_key),
        TEST(test_invalid_points_release_what_was_proved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
