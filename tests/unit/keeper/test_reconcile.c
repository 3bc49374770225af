/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An old keystore in place of a newer one. */
#include "point.h"

#include "base/file.h"
#include "controller/keeper/aead.h"
#include "controller/keeper/copy.h"
#include "controller/keeper/journal.h"
#include <string.h>

#define RECONCILE "/sealpoint.v1.Keys/Reconcile"
#define DESTROY   "/sealpoint.v1.Keys/Destroy"

static char *old_file;
static size_t old_size;

static void path_of(struct rig *r, char out[120])
{
    snprintf(out, 120, "%s/keystore.db", r->state);
}

/* As a backup of the host's disk has it. */
static void remember(struct rig *r)
{
    char path[120];
    path_of(r, path);
    rig_close(r);
    free(old_file);
    assert_int_equal(sp_file_read(path, 64 << 20, &old_file, &old_size), 0);
    rig_reopen(r);
}

static void put_back(struct rig *r)
{
    char path[120], wal[130];
    path_of(r, path);
    rig_close(r);
    snprintf(wal, sizeof(wal), "%s-wal", path);
    unlink(wal);
    assert_int_equal(sp_file_replace(path, old_file, old_size, 0600), 0);
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, ""); /* it holds, as it did then */
}

static int teardown(void **state)
{
    free(old_file);
    old_file = NULL;
    return rig_teardown(state);
}

static Sp__WitnessResponse show(struct rig *r, Sp__Signed *manifest, bool pin, bool first)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__WitnessRequest ask = SP__WITNESS_REQUEST__INIT;
    ask.manifest = manifest;
    ask.pin = pin;
    ask.first = first;
    request.kind_case = SP__KEEPER_REQUEST__KIND_WITNESS;
    request.witness = &ask;
    ANSWER a = rig_call(r, &request);
    Sp__WitnessResponse out = SP__WITNESS_RESPONSE__INIT;
    out.sealed = a->witness->sealed;
    out.newer = a->witness->newer;
    return out;
}

static void destroy_refused(struct rig *r, const char *record_id, int error, const char *text)
{
    Sp__DestroyKeyRequest ask = SP__DESTROY_KEY_REQUEST__INIT;
    ask.record_id = (char *)(uintptr_t)record_id;
    ask.why = (char[]){"x"};
    execute_refused(r, &r->admin, DESTROY, &ask.base, error, text);
}

static void destroy_asked(struct rig *r, const char *record_id)
{
    Sp__DestroyKeyRequest ask = SP__DESTROY_KEY_REQUEST__INIT;
    ask.record_id = (char *)(uintptr_t)record_id;
    ask.why = (char[]){"x"};
    answer_free(execute(r, &r->admin, DESTROY, &ask.base));
}

static Sp__ReconcileResponse *reconcile(struct rig *r)
{
    Sp__ReconcileRequest ask = SP__RECONCILE_REQUEST__INIT;
    ANSWER a = execute(r, &r->admin, RECONCILE, &ask.base);
    return sp__reconcile_response__unpack(NULL, a->execute->result.len, a->execute->result.data);
}

static bool status_says(struct rig *r, const char *text)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperStatusRequest ask = SP__KEEPER_STATUS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &ask;
    ANSWER a = rig_call(r, &request);
    for (size_t i = 0; i < a->status->n_warnings; i++)
        if (strstr(a->status->warnings[i], text))
            return true;
    return false;
}

/* The whole story: a key, an old copy of the file, a point that rests on the key, the old file. */
static void test_an_old_keystore_destroys_nothing_until_reconciled(void **state)
{
    struct rig *r = *state;
    char record[37];
    import_key(r, MACHINE, VOLUME, "", "open sesame", record);
    remember(r);
    struct point p = point_make(r); /* the same secret: the same record */
    assert_string_equal(p.record_id, record);
    Sp__Signed *sealed = seal_point(r, &p);
    uint64_t epoch = p.manifest->keystore_epoch;
    put_back(r);

    /* The manifest is shown at the controller's start; the pin of its point is not there. */
    Sp__WitnessResponse w = show(r, sealed, false, false);
    assert_true(w.sealed && w.newer);
    assert_true(status_says(r, "older copy"));
    assert_true(audit_has(r, "keystore.old", "epoch"));
    destroy_refused(r, record, ESTALE, "reconcile");
    rig_reopen(r); /* nor after a restart, nor after it has gone on */
    for (unsigned i = 0; i < 100; i++) {
        char secret[16];
        snprintf(secret, sizeof(secret), "%u", i);
        import_key(r, OTHER, VOLUME, "", secret, NULL);
    }
    assert_true(journal_epoch(r->k) > epoch);
    destroy_refused(r, record, ESTALE, "reconcile");

    /* Without the manifest that gave the alarm it does not end. */
    Sp__ReconcileRequest ask = SP__RECONCILE_REQUEST__INIT;
    execute_refused(r, &r->admin, RECONCILE, &ask.base, ESTALE, "no manifests were shown");
    show(r, NULL, false, true);
    execute_refused(r, &r->admin, RECONCILE, &ask.base, ESTALE, "was not shown");
    show(r, NULL, false, true);
    show(r, sealed, true, false);
    Sp__ReconcileResponse *done = reconcile(r);
    assert_true(done->was_needed);
    assert_int_equal(done->manifests, 1);
    assert_int_equal(done->pins_added, 1);
    assert_int_equal(done->n_missing_records, 0);
    sp__reconcile_response__free_unpacked(done, NULL);
    destroy_refused(r, record, EBUSY, "kept points");
    assert_false(status_says(r, "older copy"));
    assert_true(audit_has(r, "keystore.reconcile", "1 manifests"));
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, "");
    /* What was shown is settled. */
    w = show(r, sealed, false, false);
    assert_false(w.newer);
    assert_false(status_says(r, "older copy"));
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
}

/* By numbers alone an old keystore that has gone on looks new. */
static void test_an_old_keystore_that_went_on_is_noticed_by_its_audit(void **state)
{
    struct rig *r = *state;
    remember(r);
    struct point p = point_make(r);
    Sp__Signed *sealed = seal_point(r, &p);
    put_back(r);
    while (journal_epoch(r->k) <= p.manifest->keystore_epoch) {
        char secret[24];
        snprintf(secret, sizeof(secret), "%llu", (unsigned long long)journal_epoch(r->k));
        import_key(r, OTHER, VOLUME, "", secret, NULL);
    }
    Sp__WitnessResponse w = show(r, sealed, false, false);
    assert_true(w.newer);
    assert_true(status_says(r, "gone on"));
    /* The record came after the copy: it is missing, and said to be. */
    show(r, NULL, false, true);
    show(r, sealed, true, false);
    Sp__ReconcileResponse *done = reconcile(r);
    assert_int_equal(done->n_missing_records, 1);
    assert_string_equal(done->missing_records[0], p.record_id);
    sp__reconcile_response__free_unpacked(done, NULL);
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
}

static void test_epochs_are_not_used_twice(void **state)
{
    struct rig *r = *state;
    remember(r);
    struct point p = point_make(r);
    for (unsigned i = 0; i < 30; i++) {
        char secret[16];
        snprintf(secret, sizeof(secret), "%u", i);
        import_key(r, OTHER, VOLUME, "", secret, NULL);
    }
    p.manifest->keystore_epoch = journal_epoch(r->k);
    Sp__Signed *sealed = seal_point(r, &p);
    put_back(r);
    show(r, sealed, false, true);
    show(r, sealed, true, false);
    sp__reconcile_response__free_unpacked(reconcile(r), NULL);
    assert_true(journal_epoch(r->k) > p.manifest->keystore_epoch);
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, "");
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
}

static void test_what_the_keeper_did_not_seal_is_no_evidence(void **state)
{
    struct rig *r = *state;
    struct point p = point_make(r);
    Sp__Signed *sealed = seal_point(r, &p);
    assert_false(show(r, sealed, false, false).newer);
    sealed->payload.data[sealed->payload.len - 1] ^= 1;
    Sp__WitnessResponse w = show(r, sealed, false, true);
    assert_false(w.sealed || w.newer);
    w = show(r, sealed, true, false);
    assert_false(w.sealed);
    Sp__ReconcileResponse *done = reconcile(r);
    assert_int_equal(done->manifests, 0);
    assert_false(done->was_needed);
    sp__reconcile_response__free_unpacked(done, NULL);
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
}

static void test_pins_that_were_lost_come_back(void **state)
{
    struct rig *r = *state;
    struct point p = point_make(r);
    Sp__Signed *sealed = seal_point(r, &p);
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__UnpinRequest unpin = SP__UNPIN_REQUEST__INIT;
    unpin.point_id = (char[]){POINT};
    request.kind_case = SP__KEEPER_REQUEST__KIND_UNPIN;
    request.unpin = &unpin;
    answer_free(rig_call(r, &request));
    show(r, NULL, false, true);
    show(r, sealed, true, false);
    show(r, sealed, true, false); /* twice is once */
    Sp__ReconcileResponse *done = reconcile(r);
    assert_int_equal(done->pins_added, 1);
    sp__reconcile_response__free_unpacked(done, NULL);
    destroy_refused(r, p.record_id, EBUSY, "kept points");
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
}

static void test_a_restored_copy_is_to_be_reconciled(void **state)
{
    struct rig *r = *state;
    char record[37];
    SP_BUFFER struct sp_buffer copy = {0};
    uint64_t epoch;
    struct sp_why why = {""};
    import_key(r, MACHINE, VOLUME, "", "one", record);
    assert_int_equal(copy_make(r->k, true, &copy, &epoch, &why), 0);
    rig_close(r);
    char path[120];
    path_of(r, path);
    unlink(path);
    if (copy_restore(&r->options, r->kit, sp_bytes_of(&copy), &why) < 0)
        fail_msg("%s", why.text);
    rig_reopen(r);
    destroy_refused(r, record, ESTALE, "restored from a copy");
    show(r, NULL, false, true);
    sp__reconcile_response__free_unpacked(reconcile(r), NULL);
    destroy_asked(r, record);
}

static void test_only_an_admin_of_all_reconciles(void **state)
{
    struct rig *r = *state;
    struct person web = add_user(r, "web", SP__ROLE__ROLE_ADMIN, "web");
    Sp__ReconcileRequest ask = SP__RECONCILE_REQUEST__INIT;
    show(r, NULL, false, true);
    execute_refused(r, &web, RECONCILE, &ask.base, EPERM, "web");
    person_free(&web);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_an_old_keystore_destroys_nothing_until_reconciled),
        TEST(test_an_old_keystore_that_went_on_is_noticed_by_its_audit),
        TEST(test_epochs_are_not_used_twice),
        TEST(test_what_the_keeper_did_not_seal_is_no_evidence),
        TEST(test_pins_that_were_lost_come_back),
        TEST(test_a_restored_copy_is_to_be_reconciled),
        TEST(test_only_an_admin_of_all_reconciles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
