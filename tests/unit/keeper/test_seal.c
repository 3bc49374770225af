/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A manifest that earned its seal, and each way in which it did not. */
#include "point.h"

#include "base/signed_request.h"
#include <string.h>

static struct point point;

static int setup(void **state)
{
    if (rig_setup(state) < 0)
        return -1;
    point = point_make(*state);
    return 0;
}

static int teardown(void **state)
{
    point_free(&point);
    return rig_teardown(state);
}

static void test_valid_point_is_sealed(void **state)
{
    struct rig *r = *state;
    Sp__Signed *sealed = seal_point(r, &point);
    assert_int_equal(sp_signed_verify(sealed, SP_SIGN_MANIFEST, r->sealing), 0);
    assert_true(sp_signed_verify(sealed, SP_SIGN_PROOF, r->sealing) < 0);
    sealed->payload.data[sealed->payload.len / 2] ^= 1;
    assert_true(sp_signed_verify(sealed, SP_SIGN_MANIFEST, r->sealing) < 0);
    sp__signed__free_unpacked(sealed, NULL);
    assert_true(audit_has(r, "seal", "VALID"));
    /* The same again is the same again: the controller may have died before it was stored. */
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
}

static void test_other_machine_or_point_is_refused(void **state)
{
    struct rig *r = *state;
    set_text(&point.manifest->machine_id, OTHER);
    seal_refused(r, &point, ESTALE, "another machine");
    set_text(&point.manifest->machine_id, MACHINE);
    set_text(&point.manifest->point_id, POINT_2);
    seal_refused(r, &point, ESTALE, "another point");
}

static void test_wrong_root_is_refused(void **state)
{
    struct rig *r = *state;
    point.manifest->disks[0]->root.data[31] ^= 1;
    seal_refused(r, &point, ESTALE, "other data");
    point.manifest->disks[0]->root.data[31] ^= 1;
    set_text(&point.manifest->disks[0]->disk_id, "data1");
    seal_refused(r, &point, ESTALE, "does not have");
}

static void test_proof_read_from_the_source_does_not_seal(void **state)
{
    struct rig *r = *state;
    sp__signed__free_unpacked(point.manifest->proofs[0], NULL);
    Sp__ProofStatement *s = prove(r, (struct proof_options){0}, &point.manifest->proofs[0]);
    assert_int_equal(s->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
    sp__proof_statement__free_unpacked(s, NULL);
    seal_refused(r, &point, ESTALE, "other data");
}

static void test_foreign_and_changed_proofs_are_refused(void **state)
{
    struct rig *r = *state;
    Sp__Signed *proof = point.manifest->proofs[0];
    proof->payload.data[10] ^= 1;
    seal_refused(r, &point, EKEYREJECTED, "not signed by this keeper");
    proof->payload.data[10] ^= 1;

    void *other = NULL;
    rig_setup(&other);
    struct rig *stranger = other;
    fake.opens = "open sesame";
    import_key(stranger, MACHINE, VOLUME, "", "open sesame", NULL);
    Sp__Signed *foreign = NULL;
    Sp__ProofStatement *s = prove(stranger, (struct proof_options){.root = 0xaa}, &foreign);
    sp__proof_statement__free_unpacked(s, NULL);
    point.manifest->proofs[0] = foreign;
    seal_refused(r, &point, EKEYREJECTED, "not signed by this keeper");
    point.manifest->proofs[0] = proof;
    sp__signed__free_unpacked(foreign, NULL);
    rig_teardown(&other);

    /* A signature of the keeper over something else is no proof. */
    Sp__Signed *sealed = seal_point(r, &point);
    point.manifest->proofs[0] = sealed;
    seal_refused(r, &point, EKEYREJECTED, "not signed by this keeper");
    point.manifest->proofs[0] = proof;
    sp__signed__free_unpacked(sealed, NULL);
}

static void test_a_volume_without_proof_is_not_valid(void **state)
{
    struct rig *r = *state;
    Sp__Manifest *m = point.manifest;
    Sp__Volume *v = (Sp__Volume *)sp_message_copy(&m->volumes[0]->base);
    set_text(&v->volume_id, "luks:second");
    m->volumes = realloc(m->volumes, 2 * sizeof(*m->volumes));
    m->volumes[m->n_volumes++] = v;
    seal_refused(r, &point, ESTALE, "luks:second");
    /* Not valid may be said of it. */
    m->state_at_seal = SP__POINT_STATE__POINT_STATE_INVALID;
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
    /* Swap with a random key needs none. */
    m->state_at_seal = SP__POINT_STATE__POINT_STATE_VALID;
    v->ephemeral = true;
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
}

static void test_a_proof_that_does_not_open_is_not_valid(void **state)
{
    struct rig *r = *state;
    sp__signed__free_unpacked(point.manifest->proofs[0], NULL);
    fake.opens = "something else";
    Sp__ProofStatement *s =
        prove(r, (struct proof_options){.root = 0xaa}, &point.manifest->proofs[0]);
    assert_int_equal(s->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY);
    sp__proof_statement__free_unpacked(s, NULL);
    seal_refused(r, &point, ESTALE, "no proof opens");
    point.manifest->state_at_seal = SP__POINT_STATE__POINT_STATE_INVALID;
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
}

static void test_unknown_and_unfinished_states_are_refused(void **state)
{
    struct rig *r = *state;
    static const int states[] = {0, SP__POINT_STATE__POINT_STATE_PROVING,
                                 SP__POINT_STATE__POINT_STATE_EXPIRED, 77};
    for (size_t i = 0; i < SP_COUNT(states); i++) {
        point.manifest->state_at_seal = (Sp__PointState)states[i];
        seal_refused(r, &point, EINVAL, "not sealed");
    }
}

static void test_kind_and_header_must_be_those_of_the_proof(void **state)
{
    struct rig *r = *state;
    Sp__Volume *v = point.manifest->volumes[0];
    v->kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS1;
    seal_refused(r, &point, ESTALE, "does not have");
    v->kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    v->header->fingerprint.data[0] ^= 1;
    seal_refused(r, &point, ESTALE, "another header");
    /* A volume that is called clear needs no proof; but then the proof is of nothing. */
    v->header->fingerprint.data[0] ^= 1;
    v->kind = SP__VOLUME_KIND__VOLUME_KIND_CLEAR;
    seal_refused(r, &point, ESTALE, "does not have");
}

static Sp__Finding *add_finding(Sp__Manifest *m, Sp__Reason reason, const char *volume)
{
    Sp__Finding *f = malloc(sizeof(*f));
    sp__finding__init(f);
    f->reason = reason;
    f->volume_id = strdup(volume);
    m->findings = realloc(m->findings, (m->n_findings + 1) * sizeof(*m->findings));
    m->findings[m->n_findings++] = f;
    return f;
}

static Sp__Exception *add_exception(Sp__Manifest *m, Sp__Reason reason, const char *volume,
                                    const char *by)
{
    Sp__Exception *e = malloc(sizeof(*e));
    sp__exception__init(e);
    e->reason = reason;
    e->volume_id = strdup(volume);
    e->allowed_by = strdup(by);
    if (!m->policy) {
        m->policy = malloc(sizeof(*m->policy));
        sp__policy__init(m->policy);
    }
    m->policy->exceptions = realloc(m->policy->exceptions,
                                    (m->policy->n_exceptions + 1) * sizeof(*m->policy->exceptions));
    m->policy->exceptions[m->policy->n_exceptions++] = e;
    return e;
}

static void test_findings_stand_unless_an_admin_allowed_them(void **state)
{
    struct rig *r = *state;
    Sp__Manifest *m = point.manifest;
    const Sp__Reason reason = SP__REASON__REASON_UNIDENTIFIED_CONTENT;
    Sp__Finding *f = add_finding(m, reason, "");
    seal_refused(r, &point, ESTALE, "UNIDENTIFIED_CONTENT");
    set_text(&f->allowed_by, "root"); /* a word in the finding is no exception */
    seal_refused(r, &point, ESTALE, "UNIDENTIFIED_CONTENT");
    Sp__Exception *e = add_exception(m, reason, "", "nobody");
    seal_refused(r, &point, ESTALE, "nobody");
    set_text(&e->allowed_by, "spiffe://" DOMAIN "/user/root");
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
    set_text(&e->allowed_by, "root");
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
    set_text(&e->volume_id, "luks:other");
    seal_refused(r, &point, ESTALE, "UNIDENTIFIED_CONTENT");
    f->note = true;
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
}

static void test_some_reasons_nobody_can_allow(void **state)
{
    struct rig *r = *state;
    add_finding(point.manifest, SP__REASON__REASON_ESCROW_MISSING, VOLUME);
    add_exception(point.manifest, SP__REASON__REASON_ESCROW_MISSING, VOLUME, "root");
    seal_refused(r, &point, ESTALE, "ESCROW_MISSING");
}

static void test_an_unknown_reason_stands(void **state)
{
    struct rig *r = *state;
    add_finding(point.manifest, (Sp__Reason)4711, VOLUME);
    seal_refused(r, &point, ESTALE, "UNKNOWN");
}

static void test_an_allowed_volume_needs_no_proof(void **state)
{
    struct rig *r = *state;
    Sp__Manifest *m = point.manifest;
    sp__signed__free_unpacked(m->proofs[0], NULL);
    m->n_proofs = 0;
    seal_refused(r, &point, ESTALE, "no proof opens");
    add_exception(m, SP__REASON__REASON_PLAINTEXT_NOT_RECOGNISED, VOLUME, "root");
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
}

static void test_what_the_guest_has_must_be_in_the_snapshot(void **state)
{
    struct rig *r = *state;
    Sp__Manifest *m = point.manifest;
    m->inventory = malloc(sizeof(*m->inventory));
    sp__inventory__init(m->inventory);
    m->inventory->volumes = malloc(sizeof(*m->inventory->volumes));
    m->inventory->n_volumes = 1;
    Sp__Volume *v = m->inventory->volumes[0] = (Sp__Volume *)sp_message_copy(&m->volumes[0]->base);
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
    set_text(&v->volume_id, "luks:elsewhere");
    seal_refused(r, &point, ESTALE, "luks:elsewhere");
    v->kind = SP__VOLUME_KIND__VOLUME_KIND_PLAIN;
    seal_refused(r, &point, ESTALE, "plain dm-crypt");
    add_exception(m, SP__REASON__REASON_NOT_SEEN_BY_STORAGE, "luks:elsewhere", "root");
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
}

static void test_grade_below_policy_is_not_valid(void **state)
{
    struct rig *r = *state;
    Sp__Manifest *m = point.manifest;
    m->policy = malloc(sizeof(*m->policy));
    sp__policy__init(m->policy);
    m->policy->minimum_grade = SP__GRADE__GRADE_FILESYSTEM;
    m->grade = SP__GRADE__GRADE_CRASH;
    seal_refused(r, &point, ESTALE, "CRASH");
    m->grade = SP__GRADE__GRADE_OFFLINE;
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
    m->policy->minimum_grade = SP__GRADE__GRADE_UNSPECIFIED;
    m->grade = SP__GRADE__GRADE_NONE;
    seal_refused(r, &point, ESTALE, "NONE");
}

static void test_record_must_be_pinned_and_in_the_named_copy(void **state)
{
    struct rig *r = *state;
    uint64_t epoch = point.manifest->keystore_epoch;
    point.manifest->keystore_epoch = 1;
    seal_refused(r, &point, ESTALE, "does not hold the record");
    point.manifest->keystore_epoch = epoch;
    set_text(&point.manifest->keystore_copy, "");
    seal_refused(r, &point, ESTALE, "no keystore copy");
    set_text(&point.manifest->keystore_copy, "keystore/1");
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__UnpinRequest ask = SP__UNPIN_REQUEST__INIT;
    ask.point_id = (char[]){POINT};
    request.kind_case = SP__KEEPER_REQUEST__KIND_UNPIN;
    request.unpin = &ask;
    answer_free(rig_call(r, &request));
    seal_refused(r, &point, ESTALE, "not pinned");
}

static void test_audit_head_must_be_known(void **state)
{
    struct rig *r = *state;
    point.manifest->keeper_audit_head.data[0] ^= 1;
    seal_refused(r, &point, ESTALE, "audit head");
}

static void test_a_manifest_that_knows_a_later_epoch_is_refused(void **state)
{
    struct rig *r = *state;
    point.manifest->keystore_epoch += 1000;
    seal_refused(r, &point, ESTALE, "which is at");
}

static void test_a_sealed_point_keeps_its_disks(void **state)
{
    struct rig *r = *state;
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
    point.manifest->revision = 1;
    sp__signed__free_unpacked(seal_point(r, &point), NULL);
    point.manifest->revision = 0;
    seal_refused(r, &point, ESTALE, "later revision");
    point.manifest->revision = 2;
    point.manifest->disks[0]->size_bytes += 512;
    seal_refused(r, &point, ESTALE, "other disks");
}

static void test_nonsense_is_refused(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__SealRequest ask = SP__SEAL_REQUEST__INIT;
    uint8_t noise[16];
    memset(noise, 0xff, sizeof(noise));
    request.kind_case = SP__KEEPER_REQUEST__KIND_SEAL;
    request.seal = &ask;
    rig_refused(r, &request, EINVAL, "format 0");
    ask.manifest = (ProtobufCBinaryData){sizeof(noise), noise};
    rig_refused(r, &request, EINVAL, "cannot be read");
    point.manifest->format = 2;
    seal_refused(r, &point, EINVAL, "format 2");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_valid_point_is_sealed),
        TEST(test_other_machine_or_point_is_refused),
        TEST(test_wrong_root_is_refused),
        TEST(test_proof_read_from_the_source_does_not_seal),
        TEST(test_foreign_and_changed_proofs_are_refused),
        TEST(test_a_volume_without_proof_is_not_valid),
        TEST(test_a_proof_that_does_not_open_is_not_valid),
        TEST(test_unknown_and_unfinished_states_are_refused),
        TEST(test_kind_and_header_must_be_those_of_the_proof),
        TEST(test_findings_stand_unless_an_admin_allowed_them),
        TEST(test_some_reasons_nobody_can_allow),
        TEST(test_an_unknown_reason_stands),
        TEST(test_an_allowed_volume_needs_no_proof),
        TEST(test_what_the_guest_has_must_be_in_the_snapshot),
        TEST(test_grade_below_policy_is_not_valid),
        TEST(test_record_must_be_pinned_and_in_the_named_copy),
        TEST(test_audit_head_must_be_known),
        TEST(test_a_manifest_that_knows_a_later_epoch_is_refused),
        TEST(test_a_sealed_point_keeps_its_disks),
        TEST(test_nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
