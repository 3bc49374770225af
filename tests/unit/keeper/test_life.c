/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What becomes of a record: states, exposure, the long way to destruction. */
#include "point.h"

#include "base/file.h"
#include "controller/keeper/carry.h"
#include "controller/keeper/records.h"
#include <string.h>

#define COMPROMISE "/sealpoint.v1.Keys/Compromise"
#define DESTROY    "/sealpoint.v1.Keys/Destroy"
#define S(x)       SP__RECORD_STATE__RECORD_STATE_##x
#define DAY_MS     (24ull * 3600 * 1000)

static void setup_wait(struct rig *r)
{
    r->options.destroy_wait_ms = DAY_MS;
    rig_reopen(r);
}

static int setup(void **state)
{
    if (rig_setup(state) < 0)
        return -1;
    setup_wait(*state);
    return 0;
}

static Sp__KeeperResponse *show(struct rig *r, const char *record_id)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ShowKeyRequest ask = SP__SHOW_KEY_REQUEST__INIT;
    ask.record_id = (char *)(uintptr_t)record_id;
    request.kind_case = SP__KEEPER_REQUEST__KIND_SHOW_KEY;
    request.show_key = &ask;
    return rig_call(r, &request);
}

static void show_refused(struct rig *r, const char *record_id, int error, const char *text)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ShowKeyRequest ask = SP__SHOW_KEY_REQUEST__INIT;
    ask.record_id = (char *)(uintptr_t)record_id;
    request.kind_case = SP__KEEPER_REQUEST__KIND_SHOW_KEY;
    request.show_key = &ask;
    rig_refused(r, &request, error, text);
}

static Sp__RecordState state_of(struct rig *r, const char *record_id)
{
    ANSWER a = show(r, record_id);
    return a->show_key->record->state;
}

static const Sp__CompromiseKeyRequest *compromise_of(const char *record_id, const char *why)
{
    static Sp__CompromiseKeyRequest ask;
    sp__compromise_key_request__init(&ask);
    ask.record_id = (char *)(uintptr_t)record_id;
    ask.why = (char *)(uintptr_t)why;
    return &ask;
}

static const Sp__DestroyKeyRequest *destroy_of(const char *record_id, const char *why,
                                               bool withdraw)
{
    static Sp__DestroyKeyRequest ask;
    sp__destroy_key_request__init(&ask);
    ask.record_id = (char *)(uintptr_t)record_id;
    ask.why = (char *)(uintptr_t)why;
    ask.withdraw = withdraw;
    return &ask;
}

static Sp__DestroyKeyResponse *destroy(struct rig *r, const char *record_id, bool withdraw)
{
    ANSWER a = execute(r, &r->admin, DESTROY, &destroy_of(record_id, "retired", withdraw)->base);
    Sp__DestroyKeyResponse *d =
        sp__destroy_key_response__unpack(NULL, a->execute->result.len, a->execute->result.data);
    assert_non_null(d);
    return d;
}

/* True when the answer says that it is gone. */
static bool destroy_now(struct rig *r, const char *record_id)
{
    Sp__DestroyKeyResponse *d = destroy(r, record_id, false);
    bool gone = !d->destruction;
    assert_int_equal(gone, d->record->state == S(DESTROYED));
    sp__destroy_key_response__free_unpacked(d, NULL);
    return gone;
}

static void unpin(struct rig *r, const char *point)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__UnpinRequest ask = SP__UNPIN_REQUEST__INIT;
    ask.point_id = (char *)(uintptr_t)point;
    request.kind_case = SP__KEEPER_REQUEST__KIND_UNPIN;
    request.unpin = &ask;
    answer_free(rig_call(r, &request));
}

static void import_pending(struct rig *r, const char *secret, char out[37])
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ImportKeysRequest ask = SP__IMPORT_KEYS_REQUEST__INIT;
    Sp__ImportKey key = SP__IMPORT_KEY__INIT, *keys[] = {&key};
    key.machine = (char[]){MACHINE};
    key.volume_id = (char[]){VOLUME};
    key.pending = true;
    key.material =
        seal_key(r, MACHINE, VOLUME, "", SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, secret, NULL);
    ask.keys = keys;
    ask.n_keys = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IMPORT;
    request.import = &ask;
    ANSWER a = rig_call(r, &request);
    sp__sealed_box__free_unpacked(key.material, NULL);
    assert_int_equal(a->import->results[0]->record->state, S(PENDING));
    snprintf(out, 37, "%s", a->import->results[0]->record->record_id);
}

/* ---- states ---- */

static void test_every_state_says_who_when_and_why(void **state)
{
    struct rig *r = *state;
    char one[37], two[37];
    uint64_t start = r->wall_ms;
    import_key(r, MACHINE, VOLUME, "", "one", one);
    r->wall_ms += 1000;
    import_key(r, MACHINE, VOLUME, "", "two", two);
    r->wall_ms += 1000;
    answer_free(execute(r, &r->admin, COMPROMISE, &compromise_of(one, "on a stolen laptop")->base));
    rig_reopen(r);
    ANSWER a = show(r, one);
    const Sp__KeyDetail *d = a->show_key;
    static const Sp__RecordState states[] = {S(ACTIVE), S(SUPERSEDED), S(COMPROMISED)};
    assert_int_equal(d->n_history, SP_COUNT(states));
    for (size_t i = 0; i < SP_COUNT(states); i++) {
        assert_int_equal(d->history[i]->state, states[i]);
        assert_int_equal(d->history[i]->at_unix_ms, start + i * 1000);
    }
    assert_non_null(strstr(d->history[1]->why, "generation 2"));
    assert_string_equal(d->history[2]->why, "on a stolen laptop");
    assert_non_null(strstr(d->history[2]->who, "/user/root"));
    assert_int_equal(state_of(r, two), S(ACTIVE));
    assert_true(audit_has(r, "key.compromised", "stolen laptop"));
}

static void test_history_cannot_be_rewritten(void **state)
{
    struct rig *r = *state;
    char one[37], path[120];
    sqlite3 *db = NULL;
    import_key(r, MACHINE, VOLUME, "", "one", one);
    rig_close(r);
    snprintf(path, sizeof(path), "%s/keystore.db", r->state);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_not_equal(sqlite3_exec(db, "UPDATE states SET who='x'", NULL, NULL, NULL),
                         SQLITE_OK);
    assert_int_not_equal(sqlite3_exec(db, "DELETE FROM states", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    /* Who takes the triggers away first is found out by the journal. */
    sql(r, "DROP TRIGGER states_stay; UPDATE states SET who='x'");
    rig_reopen(r);
    assert_non_null(strstr(r->k->damage.text, "states"));
}

static void test_a_pending_key_waits_for_its_proof(void **state)
{
    struct rig *r = *state;
    char old[37], next[37];
    import_key(r, MACHINE, VOLUME, "", "old one", old);
    import_pending(r, "new one", next);
    assert_int_equal(state_of(r, old), S(ACTIVE));
    /* A proof that the old one makes leaves both as they are. */
    fake.opens = "old one";
    pin_point(r, POINT, MACHINE, VOLUME);
    sp__proof_statement__free_unpacked(prove(r, (struct proof_options){.root = 0xaa}, NULL), NULL);
    assert_int_equal(state_of(r, next), S(PENDING));
    fake.opens = "new one";
    Sp__ProofStatement *s = prove(r, (struct proof_options){.root = 0xaa}, NULL);
    assert_int_equal(s->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
    sp__proof_statement__free_unpacked(s, NULL);
    assert_int_equal(state_of(r, next), S(ACTIVE));
    assert_int_equal(state_of(r, old), S(SUPERSEDED));
    assert_true(audit_has(r, "key.active", next));
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, "");
}

static void test_a_record_does_not_go_back(void **state)
{
    struct rig *r = *state;
    char one[37];
    import_key(r, MACHINE, VOLUME, "", "one", one);
    execute_refused(r, &r->admin, COMPROMISE, &compromise_of(one, "")->base, EINVAL, "say why");
    answer_free(execute(r, &r->admin, COMPROMISE, &compromise_of(one, "x")->base));
    execute_refused(r, &r->admin, COMPROMISE, &compromise_of(one, "x")->base, ESTALE,
                    "COMPROMISED");
    execute_refused(r, &r->admin, COMPROMISE, &compromise_of(OTHER, "x")->base, ENOENT,
                    "no record");
    /* The same key imported again is still the compromised one. */
    char again[37];
    import_key(r, MACHINE, VOLUME, "", "one", again);
    assert_string_equal(one, again);
    assert_int_equal(state_of(r, one), S(COMPROMISED));
}

static void test_a_compromised_key_shows_all_it_opens(void **state)
{
    struct rig *r = *state;
    char one[37], two[37], elsewhere[37];
    struct point p = point_make(r); /* imports "open sesame" for MACHINE */
    unpin(r, POINT);
    import_key(r, MACHINE, VOLUME, "", "two", two);
    import_key(r, OTHER, VOLUME, "7", "open sesame", elsewhere);
    snprintf(one, sizeof(one), "%s", p.record_id);
    /* One point rests on the key, one on its successor: the header of both had the old keyslot. */
    char *keep_one[] = {one}, *keep_two[] = {two};
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__UnpinRequest ask = SP__UNPIN_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_UNPIN;
    request.unpin = &ask;
    ask.n_keep_record_ids = 1;
    pin_point(r, POINT, MACHINE, VOLUME);
    ask.point_id = (char[]){POINT};
    ask.keep_record_ids = keep_one;
    answer_free(rig_call(r, &request));
    r->wall_ms += 1;
    pin_point(r, POINT_2, MACHINE, VOLUME);
    ask.point_id = (char[]){POINT_2};
    ask.keep_record_ids = keep_two;
    answer_free(rig_call(r, &request));

    ANSWER a = execute(r, &r->admin, COMPROMISE, &compromise_of(one, "leaked")->base);
    Sp__KeyDetail *d =
        sp__key_detail__unpack(NULL, a->execute->result.len, a->execute->result.data);
    assert_int_equal(d->n_points, 2);
    assert_string_equal(d->points[0]->point_id, POINT);
    assert_true(d->points[0]->proved);
    assert_string_equal(d->points[1]->point_id, POINT_2);
    assert_false(d->points[1]->proved);
    assert_int_equal(d->n_volumes, 2);
    assert_string_equal(d->volumes[0]->machine_id, MACHINE);
    assert_string_equal(d->volumes[1]->machine_id, OTHER);
    assert_int_equal(d->n_same_secret, 1);
    assert_string_equal(d->same_secret[0]->record_id, elsewhere);
    sp__key_detail__free_unpacked(d, NULL);
    point_free(&p);
}

static void test_a_record_is_found_by_the_beginning_of_its_id(void **state)
{
    struct rig *r = *state;
    char one[37], prefix[9];
    import_key(r, MACHINE, VOLUME, "", "one", one);
    snprintf(prefix, sizeof(prefix), "%.8s", one);
    ANSWER a = show(r, prefix);
    assert_string_equal(a->show_key->record->record_id, one);
    show_refused(r, "abc", EINVAL, "at least 4");
    show_refused(r, "%%%%%", EINVAL, "no id");
    one[0] = one[0] == 'a' ? 'b' : 'a';
    show_refused(r, one, ENOENT, "no record");
}

/* ---- destruction ---- */

static void test_destruction_takes_two_requests_and_time(void **state)
{
    struct rig *r = *state;
    char one[37];
    import_key(r, MACHINE, VOLUME, "", "one", one);
    Sp__DestroyKeyResponse *d = destroy(r, one, false);
    assert_non_null(d->destruction);
    assert_int_equal(d->destruction->not_before_unix_ms, r->wall_ms + DAY_MS);
    assert_int_equal(d->record->state, S(ACTIVE));
    sp__destroy_key_response__free_unpacked(d, NULL);
    assert_true(audit_has(r, "key.destroy.asked", one));

    r->wall_ms += DAY_MS - 1;
    assert_false(destroy_now(r, one));
    rig_reopen(r); /* the waiting time is in the keystore */
    assert_false(destroy_now(r, one));
    assert_int_equal(state_of(r, one), S(ACTIVE));
    r->wall_ms += 1;
    assert_true(destroy_now(r, one));
    assert_true(audit_has(r, "key.destroy", "retired"));
    execute_refused(r, &r->admin, DESTROY, &destroy_of(one, "again", false)->base, ESTALE,
                    "destroyed already");
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, "");
    ANSWER a = show(r, one);
    assert_int_equal(a->show_key->n_history, 2);
    assert_null(a->show_key->destruction);
}

static void copy_ciphertext(struct rig *r, const char *record_id, uint8_t out[19])
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    assert_int_equal(store_query(r->k->store, &stmt,
                                 "SELECT ciphertext FROM records WHERE record_id=?", "s",
                                 record_id),
                     0);
    assert_int_equal(store_step(stmt), 1);
    struct sp_bytes b = store_blob(stmt, 0);
    assert_int_equal(b.size, 19);
    memcpy(out, b.data, 19);
}

static int64_t count_of(struct rig *r, const char *query)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    assert_int_equal(store_query(r->k->store, &stmt, query, ""), 0);
    assert_int_equal(store_step(stmt), 1);
    return store_int(stmt, 0);
}

static void test_what_is_destroyed_is_nowhere(void **state)
{
    struct rig *r = *state;
    char one[37];
    uint8_t ciphertext[19];
    const uint8_t fingerprint[32] = {9};
    Sp__EscrowRecord *e = NULL;
    struct sp_secret *secret = NULL, *volume_key = sp_secret_copy("a volume key", 12);
    int64_t wraps = count_of(r, "SELECT count(*) FROM wraps");
    import_key(r, MACHINE, VOLUME, "", "one", one);
    assert_int_equal(record_load(r->k, one, &e, NULL, NULL), 0);
    assert_int_equal(store_begin(r->k->store), 0);
    assert_int_equal(store_end(r->k->store, carry_keep(r->k, e, (struct sp_bytes){fingerprint, 32},
                                                       POINT, "0", volume_key)),
                     0);
    sp__escrow_record__free_unpacked(e, NULL);
    sp_secret_free(volume_key);
    copy_ciphertext(r, one, ciphertext);
    assert_true(folder_has(r, ciphertext, sizeof(ciphertext)));
    assert_false(destroy_now(r, one));
    r->wall_ms += DAY_MS;
    assert_true(destroy_now(r, one));
    assert_false(folder_has(r, ciphertext, sizeof(ciphertext)));
    assert_int_equal(count_of(r, "SELECT count(*) FROM wraps"), wraps);
    assert_int_equal(count_of(r, "SELECT count(*) FROM carry"), 0);
    assert_int_equal(record_load(r->k, one, &e, &secret, NULL), -ENODATA);
    /* The same secret is a new generation. */
    char again[37];
    import_key(r, MACHINE, VOLUME, "", "one", again);
    assert_string_not_equal(one, again);
}

static void test_a_kept_point_forbids_destruction(void **state)
{
    struct rig *r = *state;
    struct point p = point_make(r);
    sp__signed__free_unpacked(seal_point(r, &p), NULL);
    execute_refused(r, &r->admin, DESTROY, &destroy_of(p.record_id, "x", false)->base, EBUSY,
                    "1 kept points");
    assert_true(audit_has(r, "admin.refused", "kept points"));
    unpin(r, POINT);
    assert_false(destroy_now(r, p.record_id));
    /* A point that comes while it waits holds it, too. */
    pin_point(r, POINT_2, MACHINE, VOLUME);
    r->wall_ms += DAY_MS;
    execute_refused(r, &r->admin, DESTROY, &destroy_of(p.record_id, "x", false)->base, EBUSY,
                    "kept points");
    assert_int_equal(state_of(r, p.record_id), S(ACTIVE));
    point_free(&p);
}

static void test_destruction_can_be_withdrawn(void **state)
{
    struct rig *r = *state;
    char one[37];
    import_key(r, MACHINE, VOLUME, "", "one", one);
    execute_refused(r, &r->admin, DESTROY, &destroy_of(one, "", true)->base, ENOENT,
                    "nobody asked");
    execute_refused(r, &r->admin, DESTROY, &destroy_of(one, "", false)->base, EINVAL, "say why");
    assert_false(destroy_now(r, one));
    sp__destroy_key_response__free_unpacked(destroy(r, one, true), NULL);
    r->wall_ms += DAY_MS;
    assert_false(destroy_now(r, one)); /* it begins anew */
    assert_true(audit_has(r, "key.destroy.withdrawn", one));
}

static void test_only_admins_of_the_machine_may(void **state)
{
    struct rig *r = *state;
    char one[37];
    import_key(r, MACHINE, VOLUME, "", "one", one);
    struct person keys = add_user(r, "keys", SP__ROLE__ROLE_CUSTODIAN, "");
    struct person web = add_user(r, "web", SP__ROLE__ROLE_ADMIN, "web");
    const struct person *people[] = {&keys, &web};
    for (size_t i = 0; i < SP_COUNT(people); i++) {
        execute_refused(r, people[i], DESTROY, &destroy_of(one, "x", false)->base, EPERM,
                        people[i]->name);
        execute_refused(r, people[i], COMPROMISE, &compromise_of(one, "x")->base, EPERM,
                        people[i]->name);
        execute_refused(r, people[i], DESTROY, &destroy_of(OTHER, "x", false)->base, EPERM,
                        people[i]->name); /* nor learn what exists */
        assert_true(audit_has(r, "admin.refused", people[i]->name));
    }
    person_free(&keys);
    person_free(&web);
}

static void taken_over(struct rig *r, const char *older)
{
    char one[37], two[37];
    import_key(r, MACHINE, VOLUME, "", "one", one);
    rig_close(r);
    sql(r, older);
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, "");
    import_key(r, MACHINE, VOLUME, "", "two", two);
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, "");
}

static void test_a_keystore_of_the_third_schema_is_taken_over(void **state)
{
    taken_over(*state, "DROP TABLE warnings; PRAGMA user_version=3");
}

static void test_a_keystore_of_the_second_schema_is_taken_over(void **state)
{
    taken_over(*state, "DROP TABLE warnings; DROP TABLE unwrapped; PRAGMA user_version=2");
}

static void test_a_keystore_of_the_first_schema_is_taken_over(void **state)
{
    struct rig *r = *state;
    char one[37];
    rig_close(r);
    /* The tables of version 2 were never journaled on it, so they are simply not there. */
    sql(r, "DROP TABLE states; DROP TABLE destructions; DROP TABLE unwrapped; "
           "DROP TABLE warnings; DROP INDEX records_by_hmac; PRAGMA user_version=1");
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, "");
    import_key(r, MACHINE, VOLUME, "", "one", one);
    assert_false(destroy_now(r, one));
    rig_reopen(r);
    assert_string_equal(r->k->damage.text, "");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_state_says_who_when_and_why),
        TEST(test_history_cannot_be_rewritten),
        TEST(test_a_pending_key_waits_for_its_proof),
        TEST(test_a_record_does_not_go_back),
        TEST(test_a_compromised_key_shows_all_it_opens),
        TEST(test_a_record_is_found_by_the_beginning_of_its_id),
        TEST(test_destruction_takes_two_requests_and_time),
        TEST(test_what_is_destroyed_is_nowhere),
        TEST(test_a_kept_point_forbids_destruction),
        TEST(test_destruction_can_be_withdrawn),
        TEST(test_only_admins_of_the_machine_may),
        TEST(test_a_keystore_of_the_third_schema_is_taken_over),
        TEST(test_a_keystore_of_the_second_schema_is_taken_over),
        TEST(test_a_keystore_of_the_first_schema_is_taken_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
