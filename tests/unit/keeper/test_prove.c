/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which records are tried, what stands when several are, and when a verdict is carried over. */
#include "rig.h"

#include <string.h>
#include <sys/socket.h>

#define V(x) SP__PROOF_VERDICT__PROOF_VERDICT_##x

static void free_statement(Sp__ProofStatement **s)
{
    sp__proof_statement__free_unpacked(*s, NULL);
}
#define STATEMENT __attribute__((cleanup(free_statement))) Sp__ProofStatement *

static void test_no_record(void **state)
{
    struct rig *r = *state;
    STATEMENT s = prove(r, (struct proof_options){.root = 1}, NULL);
    assert_int_equal(s->verdict, V(NO_RECORD));
    assert_int_equal(fake.jobs, 0);
    assert_null(s->record);
}

static void test_right_key_opens_and_the_statement_says_what(void **state)
{
    struct rig *r = *state;
    char id[37];
    uint8_t root[32];
    memset(root, 0x21, sizeof(root));
    fake.opens = "right";
    import_key(r, MACHINE, VOLUME, "3", "right", id);
    STATEMENT s = prove(r, (struct proof_options){.root = 0x21}, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_int_equal(s->level, SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT);
    assert_string_equal(s->machine_id, MACHINE);
    assert_string_equal(s->point_id, POINT);
    assert_string_equal(s->volume_id, VOLUME);
    assert_string_equal(s->record->record_id, id);
    assert_int_equal(s->record->generation, 1);
    assert_int_equal(s->record->secret_hmac.len, 32);
    assert_memory_equal(s->header_fingerprint.data, fake.fingerprint, 32);
    assert_int_equal(s->n_sectors, 1);
    assert_memory_equal(s->sectors[0]->disk_root.data, root, 32);
    assert_int_equal(s->n_attempts, 1);
    assert_true(s->keystore_epoch > 0);
    assert_string_equal(s->carried_from_proof_id, "");
    assert_string_equal(fake.last_protector, "3");
    assert_true(audit_has(r, "proof", id));
}

static void test_only_records_of_this_machine_and_volume_are_tried(void **state)
{
    struct rig *r = *state;
    fake.opens = "right";
    import_key(r, OTHER, VOLUME, "", "right", NULL);
    import_key(r, MACHINE, "luks:another", "", "right", NULL);
    STATEMENT s = prove(r, (struct proof_options){.root = 1}, NULL);
    assert_int_equal(s->verdict, V(NO_RECORD));
    assert_int_equal(fake.jobs, 0);
}

static void test_every_generation_is_tried_newest_first(void **state)
{
    struct rig *r = *state;
    char old[37];
    fake.opens = "old";
    import_key(r, MACHINE, VOLUME, "", "old", old);
    r->wall_ms += 1000;
    import_key(r, MACHINE, VOLUME, "", "new", NULL);
    STATEMENT s = prove(r, (struct proof_options){.root = 1}, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_string_equal(s->record->record_id, old);
    assert_int_equal(s->n_attempts, 2);
    assert_int_equal(s->attempts[0]->verdict, V(WRONG_KEY));
    assert_int_equal(s->attempts[0]->generation, 2);
    assert_int_equal(s->attempts[1]->verdict, V(OPENS));
}

static void test_wrong_key(void **state)
{
    struct rig *r = *state;
    fake.opens = "right";
    import_key(r, MACHINE, VOLUME, "", "wrong", NULL);
    STATEMENT s = prove(r, (struct proof_options){.root = 1}, NULL);
    assert_int_equal(s->verdict, V(WRONG_KEY));
    assert_int_equal(s->level, 0);
}

static void test_wrong_is_not_said_when_one_could_not_be_tried(void **state)
{
    struct rig *r = *state;
    import_key(r, MACHINE, VOLUME, "", "wrong", NULL);
    fake.error = -ETIMEDOUT;
    STATEMENT s = prove(r, (struct proof_options){.root = 1}, NULL);
    assert_int_equal(s->verdict, V(ERROR));
    assert_non_null(strstr(s->attempts[0]->text, "made-up prover fails"));
}

static void test_damaged_header_ends_the_trying(void **state)
{
    struct rig *r = *state;
    import_key(r, MACHINE, VOLUME, "0", "a", NULL);
    import_key(r, MACHINE, VOLUME, "1", "b", NULL);
    fake.otherwise = V(HEADER_DAMAGED);
    STATEMENT s = prove(r, (struct proof_options){.root = 1}, NULL);
    assert_int_equal(s->verdict, V(HEADER_DAMAGED));
    assert_int_equal(fake.jobs, 1);
}

static void test_too_many_wrong_records_are_no_verdict(void **state)
{
    struct rig *r = *state;
    char secret[20];
    for (int i = 0; i < 33; i++) {
        snprintf(secret, sizeof(secret), "wrong%d", i);
        import_key(r, MACHINE, VOLUME, "", secret, NULL);
    }
    STATEMENT s = prove(r, (struct proof_options){.root = 1}, NULL);
    assert_int_equal(s->verdict, V(ERROR));
    assert_int_equal(fake.jobs, 32);
}

/* BitLocker, suspended, with a TPM only: there is no record to speak of, and the keeper lives on.
 */
static void test_key_in_the_clear_needs_no_record(void **state)
{
    struct rig *r = *state;
    STATEMENT s = prove(r,
                        (struct proof_options){.root = 1,
                                               .kind = SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER,
                                               .only = SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM,
                                               .suspended = true},
                        NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_null(s->record);
    assert_true(audit_has(r, "proof", "none"));
}

/* ---- plain ---- */

static void import_plain(struct rig *r, const char *volume)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ImportKeysRequest ask = SP__IMPORT_KEYS_REQUEST__INIT;
    Sp__ImportKey key = SP__IMPORT_KEY__INIT, *keys[] = {&key};
    Sp__PlainParameters plain = SP__PLAIN_PARAMETERS__INIT;
    plain.cipher = (char[]){"aes-xts-plain64"};
    plain.key_bits = 512;
    key.machine = (char[]){MACHINE};
    key.volume_id = (char *)(uintptr_t)volume;
    key.material =
        seal_key(r, MACHINE, volume, "", SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, "right", &plain);
    ask.keys = keys;
    ask.n_keys = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IMPORT;
    request.import = &ask;
    ANSWER a = rig_call(r, &request);
    assert_string_equal(a->import->results[0]->error, "");
    sp__sealed_box__free_unpacked(key.material, NULL);
}

static void test_plain_needs_the_very_content_of_the_guest(void **state)
{
    struct rig *r = *state;
    struct proof_options o = {.root = 1,
                              .volume = "plain:data0+0",
                              .kind = SP__VOLUME_KIND__VOLUME_KIND_PLAIN,
                              .carry = true};
    import_plain(r, o.volume);
    fake.opens = "right";
    fake.volume_key = "the volume key";
    fake.content_uuid = "u-1";
    STATEMENT none = prove(r, o, NULL);
    assert_int_equal(none->verdict, V(NOT_RECOGNISED));
    o.expected_type = "ext4";
    o.expected_uuid = "u-2";
    STATEMENT other = prove(r, o, NULL);
    assert_int_equal(other->verdict, V(NOT_RECOGNISED));
    o.expected_type = "xfs";
    o.expected_uuid = "u-1";
    STATEMENT type = prove(r, o, NULL);
    assert_int_equal(type->verdict, V(NOT_RECOGNISED));
    o.expected_type = "ext4";
    STATEMENT same = prove(r, o, NULL);
    assert_int_equal(same->verdict, V(OPENS));
    /* And is never carried over. */
    STATEMENT again = prove(r, o, NULL);
    assert_int_equal(again->verdict, V(OPENS));
    assert_int_equal(fake.carried_jobs, 0);
}

/* ---- carry-over ---- */

static void prepare_carry(struct rig *r, struct proof_options o)
{
    fake.opens = "right";
    fake.volume_key = "the volume key";
    import_key(r, MACHINE, VOLUME, "", "right", NULL);
    STATEMENT s = prove(r, o, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_int_equal(fake.carried_jobs, 0);
    assert_int_equal(fake.jobs, 1);
}

static const struct proof_options carry = {.root = 1, .carry = true};

static void test_carried_over_for_the_same_header(void **state)
{
    struct rig *r = *state;
    prepare_carry(r, carry);
    rig_reopen(r);
    STATEMENT s = prove(r, carry, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_int_equal(fake.carried_jobs, 1);
    assert_int_equal(fake.jobs, 2);
    assert_string_equal(fake.last_secret, "the volume key");
    assert_string_not_equal(s->carried_from_proof_id, "");
    assert_non_null(s->record);
    assert_string_equal(s->protector_id, "0");
    assert_false(folder_has(r, "the volume key", 14));
}

static void test_not_carried_when_not_allowed_or_in_a_reproof(void **state)
{
    struct rig *r = *state;
    prepare_carry(r, carry);
    STATEMENT a = prove(r, (struct proof_options){.root = 1}, NULL);
    STATEMENT b = prove(r, (struct proof_options){.root = 1, .carry = true, .reproof = true}, NULL);
    assert_int_equal(a->verdict, V(OPENS));
    assert_int_equal(b->verdict, V(OPENS));
    assert_int_equal(fake.carried_jobs, 0);
    assert_string_equal(a->carried_from_proof_id, "");
}

static void test_not_carried_for_another_header_or_record(void **state)
{
    struct rig *r = *state;
    prepare_carry(r, carry);
    fake.fingerprint[0] ^= 1;
    STATEMENT a = prove(r, carry, NULL);
    assert_int_equal(a->verdict, V(OPENS));
    assert_int_equal(fake.carried_jobs, 0);
    fake.fingerprint[0] ^= 1;
    /* A machine with the same header, a clone, has to prove by itself. */
    import_key(r, OTHER, VOLUME, "", "right", NULL);
    STATEMENT b =
        prove(r, (struct proof_options){.root = 1, .carry = true, .machine = OTHER}, NULL);
    assert_int_equal(b->verdict, V(OPENS));
    assert_int_equal(fake.carried_jobs, 0);
}

static void test_overwritten_payload_is_found_through_carry_over_too(void **state)
{
    struct rig *r = *state;
    prepare_carry(r, carry);
    fake.carried = fake.otherwise = V(NOT_RECOGNISED);
    fake.opens = "nothing opens";
    STATEMENT s = prove(r, carry, NULL);
    assert_int_equal(s->verdict, V(NOT_RECOGNISED));
    assert_int_equal(fake.carried_jobs, 1);
    assert_string_equal(s->carried_from_proof_id, "");
}

static void test_tampered_carry_is_not_believed(void **state)
{
    struct rig *r = *state;
    prepare_carry(r, carry);
    rig_close(r);
    sql(r, "UPDATE carry SET proof_id='11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa'");
    struct sp_why why = {""};
    assert_int_equal(rig_open(r, &why), 0);
    STATEMENT s = prove(r, carry, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_int_equal(fake.carried_jobs, 0);
    assert_string_equal(s->carried_from_proof_id, "");
}

/* ---- the reader ---- */

static void test_one_prover_cannot_disturb_the_reads_of_the_next(void **state)
{
    struct rig *r = *state;
    fake.reads = fake.leaves_a_read = true;
    fake.opens = "old";
    import_key(r, MACHINE, VOLUME, "0", "new", NULL);
    import_key(r, MACHINE, VOLUME, "1", "old", NULL);
    import_key(r, MACHINE, VOLUME, "2", "newer", NULL);
    STATEMENT s = prove(r, (struct proof_options){.root = 1}, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    for (size_t i = 0; i < sizeof(fake.seen); i++)
        assert_int_equal(fake.seen[i], i);
}

static void test_look_passes_through_even_when_locked(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__LookRequest ask = SP__LOOK_REQUEST__INIT;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    request.kind_case = SP__KEEPER_REQUEST__KIND_LOOK;
    request.look = &ask;
    r->options.keks.passphrase_file = NULL;
    rig_reopen(r);
    ANSWER a = rig_call_fd(r, &request, pair[1]);
    assert_int_equal(a->kind_case, SP__KEEPER_RESPONSE__KIND_LOOK);
    assert_int_equal(fake.looks, 1);
    fake.error = -ETIMEDOUT;
    rig_refused_fd(r, &request, pair[1], ETIMEDOUT, "made-up");
    Sp__ProveRequest prove_ask = SP__PROVE_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_PROVE;
    request.prove = &prove_ask;
    rig_refused_fd(r, &request, pair[1], ENOKEY, "locked");
    close(pair[0]);
    close(pair[1]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_no_record),
        TEST(test_right_key_opens_and_the_statement_says_what),
        TEST(test_only_records_of_this_machine_and_volume_are_tried),
        TEST(test_every_generation_is_tried_newest_first),
        TEST(test_wrong_key),
        TEST(test_wrong_is_not_said_when_one_could_not_be_tried),
        TEST(test_damaged_header_ends_the_trying),
        TEST(test_too_many_wrong_records_are_no_verdict),
        TEST(test_key_in_the_clear_needs_no_record),
        TEST(test_plain_needs_the_very_content_of_the_guest),
        TEST(test_carried_over_for_the_same_header),
        TEST(test_not_carried_when_not_allowed_or_in_a_reproof),
        TEST(test_not_carried_for_another_header_or_record),
        TEST(test_overwritten_payload_is_found_through_carry_over_too),
        TEST(test_tampered_carry_is_not_believed),
        TEST(test_one_prover_cannot_disturb_the_reads_of_the_next),
        TEST(test_look_passes_through_even_when_locked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
