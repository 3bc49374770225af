/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Somebody can write to the keystore's file. */
#include "rig.h"

#include "controller/keeper/journal.h"
#include "controller/keeper/records.h"
#include <string.h>

static struct person viewer;

static int setup(void **state)
{
    if (rig_setup(state) < 0)
        return -1;
    viewer = add_user(*state, "eve", SP__ROLE__ROLE_VIEWER, "");
    import_key(*state, MACHINE, VOLUME, "", "one", NULL);
    import_key(*state, OTHER, VOLUME, "", "two", NULL);
    pin_point(*state, POINT, MACHINE, VOLUME);
    return 0;
}

static int teardown(void **state)
{
    person_free(&viewer);
    return rig_teardown(state);
}

/* After the change nothing is granted any more, and status and check say what is wrong. */
static void changed(struct rig *r, const char *statement, const char *text)
{
    Sp__KeeperRequest nonce = SP__KEEPER_REQUEST__INIT, status = SP__KEEPER_REQUEST__INIT,
                      check = SP__KEEPER_REQUEST__INIT;
    Sp__NonceRequest nonce_ask = SP__NONCE_REQUEST__INIT;
    Sp__KeeperStatusRequest status_ask = SP__KEEPER_STATUS_REQUEST__INIT;
    Sp__CheckKeystoreRequest check_ask = SP__CHECK_KEYSTORE_REQUEST__INIT;
    nonce.kind_case = SP__KEEPER_REQUEST__KIND_NONCE;
    nonce.nonce = &nonce_ask;
    status.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    status.status = &status_ask;
    check.kind_case = SP__KEEPER_REQUEST__KIND_CHECK;
    check.check = &check_ask;
    rig_close(r);
    sql(r, statement);
    rig_reopen(r);
    rig_refused(r, &nonce, EUCLEAN, text);
    ANSWER s = rig_call(r, &status);
    assert_true(s->status->n_warnings > 0);
    ANSWER c = rig_call(r, &check);
    assert_true(c->check->n_problems > 0);
}

static void test_untouched_it_holds(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest check = SP__KEEPER_REQUEST__INIT;
    Sp__CheckKeystoreRequest ask = SP__CHECK_KEYSTORE_REQUEST__INIT;
    check.kind_case = SP__KEEPER_REQUEST__KIND_CHECK;
    check.check = &ask;
    rig_reopen(r);
    ANSWER a = rig_call(r, &check);
    if (a->check->n_problems > 0)
        fail_msg("%s", a->check->problems[0]);
    assert_int_equal(a->check->records, 2);
    assert_int_equal(a->check->pins, 1);
}

/* Roles as a packed User: one binding of role 3. */
static void test_a_viewer_made_admin(void **state)
{
    changed(*state, "UPDATE users SET roles=x'12020803' WHERE name='eve'", "users 'eve'");
}

static void test_an_invented_user(void **state)
{
    changed(*state, "INSERT INTO users VALUES('mallory',x'12020803',0,0,0,'','')", "mallory");
}

static void test_a_revocation_undone(void **state)
{
    struct rig *r = *state;
    Sp__RevokeUserRequest ask = SP__REVOKE_USER_REQUEST__INIT;
    ask.name = viewer.name;
    answer_free(execute(r, &r->admin, "/sealpoint.v1.Admin/RevokeUser", &ask.base));
    changed(r, "UPDATE users SET revoked=0, revoked_why='' WHERE name='eve'", "eve");
}

static void test_records_swapped(void **state)
{
    changed(*state,
            "UPDATE records SET machine_id='x' WHERE machine_id='" MACHINE "';"
            "UPDATE records SET machine_id='" MACHINE "' WHERE machine_id='" OTHER "';"
            "UPDATE records SET machine_id='" OTHER "' WHERE machine_id='x'",
            "records");
}

static void test_a_record_removed(void **state)
{
    changed(*state, "DELETE FROM records WHERE machine_id='" MACHINE "'", "records");
}

static void test_a_pin_removed(void **state)
{
    changed(*state, "DELETE FROM pins", "pins");
}

static void test_a_kek_replaced(void **state)
{
    changed(*state, "UPDATE keks SET public_key=zeroblob(32) WHERE kind='recovery-kit'", "keks");
}

static void test_the_journal_cut_off(void **state)
{
    changed(*state, "DELETE FROM journal WHERE epoch=(SELECT max(epoch) FROM journal)", "pins");
}

static void test_the_journal_edited(void **state)
{
    changed(*state, "UPDATE journal SET digest=zeroblob(32) WHERE tbl='users' AND key='eve'",
            "journal");
}

static void test_the_journal_signed_by_nobody(void **state)
{
    changed(*state, "UPDATE journal SET signature=x'' WHERE epoch=(SELECT max(epoch) FROM journal)",
            "not signed");
}

static void test_the_sealing_key_replaced(void **state)
{
    changed(*state, "UPDATE meta SET value=zeroblob(44) WHERE name='sealing_key'", "sealing key");
}

static void check_holds(struct rig *r)
{
    struct sp_why why = {""};
    if (journal_verify(r->k, &why) < 0)
        fail_msg("%s", why.text);
}

static void test_a_compacted_journal_holds_and_still_finds_everything(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__UnpinRequest ask = SP__UNPIN_REQUEST__INIT;
    char keep[37];
    ask.point_id = (char[]){POINT_2};
    request.kind_case = SP__KEEPER_REQUEST__KIND_UNPIN;
    request.unpin = &ask;
    for (int i = 0; i < 100; i++) {
        pin_point(r, POINT_2, MACHINE, VOLUME);
        answer_free(rig_call(r, &request));
    }
    uint64_t epoch = journal_epoch(r->k);
    assert_int_equal(journal_compact(r->k, 100000), 0);
    assert_int_equal(journal_epoch(r->k), epoch); /* short enough */
    assert_int_equal(journal_compact(r->k, 100), 0);
    assert_true(journal_epoch(r->k) > epoch); /* epochs never go back */
    check_holds(r);
    rig_reopen(r);
    check_holds(r);
    import_key(r, MACHINE, VOLUME, "", "after it", keep);
    rig_reopen(r);
    check_holds(r);
    /* The pins that were taken back are gone for good: their rows do not come back. */
    changed(r,
            "INSERT INTO pins SELECT '" POINT_2 "', record_id, machine_id, 0 FROM pins WHERE "
            "point_id='" POINT "'",
            POINT_2);
}

static void test_the_front_of_the_journal_cut_off(void **state)
{
    changed(*state, "DELETE FROM journal WHERE epoch<10", "is not what the journal says");
}

/* Even a row that the journal were to vouch for opens only where it belongs. */
static void test_ciphertext_moved_to_another_record_does_not_open(void **state)
{
    struct rig *r = *state;
    rig_close(r);
    sql(r, "CREATE TEMP TABLE a AS SELECT * FROM records WHERE machine_id='" OTHER "';"
           "UPDATE records SET dek_id=(SELECT dek_id FROM a), nonce=(SELECT nonce FROM a),"
           " ciphertext=(SELECT ciphertext FROM a) WHERE machine_id='" MACHINE "'");
    rig_reopen(r);
    Sp__EscrowRecord **records = NULL, *e = NULL;
    struct sp_secret *secret = NULL;
    size_t count = 0;
    assert_int_equal(records_of(r->k, MACHINE, VOLUME, &records, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(record_load(r->k, records[0]->record_id, &e, &secret, NULL), -EBADMSG);
    records_free(records, count);
}

static void test_a_locked_keeper_sees_it_too(void **state)
{
    struct rig *r = *state;
    r->options.keks.passphrase_file = NULL;
    changed(r, "DELETE FROM pins", "pins");
}

static void test_a_file_that_is_no_keystore(void **state)
{
    struct rig *r = *state;
    struct sp_why why = {""};
    rig_close(r);
    char path[120];
    snprintf(path, sizeof(path), "%s/keystore.db", r->state);
    FILE *f = fopen(path, "r+");
    assert_int_equal(fwrite("nonsense", 8, 1, f), 1);
    fclose(f);
    assert_int_equal(rig_open(r, &why), -EUCLEAN);
}

static void test_a_newer_schema_is_not_touched(void **state)
{
    struct rig *r = *state;
    struct sp_why why = {""};
    rig_close(r);
    sql(r, "PRAGMA user_version=99");
    assert_int_equal(rig_open(r, &why), -EPROTONOSUPPORT);
    assert_non_null(strstr(why.text, "99"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_untouched_it_holds),
        TEST(test_a_viewer_made_admin),
        TEST(test_an_invented_user),
        TEST(test_a_revocation_undone),
        TEST(test_records_swapped),
        TEST(test_a_record_removed),
        TEST(test_a_pin_removed),
        TEST(test_a_kek_replaced),
        TEST(test_the_journal_cut_off),
        TEST(test_the_journal_edited),
        TEST(test_the_journal_signed_by_nobody),
        TEST(test_the_sealing_key_replaced),
        TEST(test_a_compacted_journal_holds_and_still_finds_everything),
        TEST(test_the_front_of_the_journal_cut_off),
        TEST(test_ciphertext_moved_to_another_record_does_not_open),
        TEST(test_a_locked_keeper_sees_it_too),
        TEST(test_a_file_that_is_no_keystore),
        TEST(test_a_newer_schema_is_not_touched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
