/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Every row of the design's table of reasons, and what unclear answers may never become. */
#include "controller/backup/verdict.h"
#include "build.h"
#include <string.h>

#define REASON(name) SP__REASON__REASON_##name
#define STATE(name)  SP__POINT_STATE__POINT_STATE_##name

struct expected {
    Sp__Reason reason;
    Sp__PointState state;
    bool may_allow;
};

static const struct expected table[] = {
    {REASON(ESCROW_MISSING), STATE(INVALID), false},
    {REASON(ESCROW_KEY_WRONG), STATE(INVALID), false},
    {REASON(NO_ESCROWABLE_PROTECTOR), STATE(INVALID), false},
    {REASON(HEADER_DAMAGED), STATE(INVALID), false},
    {REASON(HEADER_MISSING), STATE(INVALID), false},
    {REASON(HEADER_CHANGED), STATE(INVALID), false},
    {REASON(PLAINTEXT_NOT_RECOGNISED), STATE(UNPROVEN), true},
    {REASON(UNIDENTIFIED_CONTENT), STATE(UNPROVEN), true},
    {REASON(INVENTORY_MISMATCH), STATE(UNPROVEN), true},
    {REASON(NOT_SEEN_BY_STORAGE), STATE(UNPROVEN), true},
    {REASON(ESCROW_DENIED), STATE(UNPROVEN), false},
    {REASON(ESCROW_UNREACHABLE), STATE(UNPROVEN), false},
    {REASON(ESCROW_EXPIRED), STATE(UNPROVEN), false},
    {REASON(UNCHECKABLE_CIPHER), STATE(UNPROVEN), false},
    {REASON(ESCROW_UNWRAPPED), STATE(INVALID), true},
    {REASON(PROTECTION_SUSPENDED), STATE(INVALID), true},
    {REASON(CONVERSION_IN_PROGRESS), STATE(INVALID), true},
    {REASON(ESCROW_NOT_DURABLE), STATE(UNPROVEN), true},
    {REASON(ESCROW_NOT_PINNABLE), STATE(UNPROVEN), true},
    {REASON(QUIESCE_FAILED), STATE(VALID), false},
    {REASON(LEASE_EXPIRED), STATE(VALID), false},
    {REASON(GRADE_TOO_LOW), STATE(FAILED), false},
    {REASON(DISK_MISSING), STATE(UNPROVEN), false},
    {REASON(SOURCE_LOST), STATE(FAILED), false},
    {REASON(TRANSFER_CORRUPT), STATE(FAILED), false},
    {REASON(VAULT_FULL), STATE(FAILED), false},
    {REASON(AGENT_TOO_OLD), STATE(VALID), false},
    {REASON(IDENTITY_CLONED), STATE(VALID), false},
    {REASON(EPHEMERAL_KEY), STATE(VALID), false},
    {REASON(COPIED_IN_FULL), STATE(VALID), false},
    {REASON(AGENT_ABSENT), STATE(VALID), false},
    {REASON(SNAPSHOT_BROKEN), STATE(FAILED), false},
    {REASON(INTERRUPTED), STATE(FAILED), false},
    {REASON(CANCELLED), STATE(FAILED), false},
};

static Sp__PointState state_of(Sp__Finding *one)
{
    const Sp__Finding *const list[] = {one};
    return verdict_state(list, 1);
}

static void each_reason_leads_where_the_design_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < SP_COUNT(table); i++) {
        Sp__Finding *f = a_finding(table[i].reason, "luks:a", "", 0);
        assert_int_equal(state_of(f), table[i].state);
        assert_int_equal(verdict_may_allow(table[i].reason), table[i].may_allow);
        message_free(f);
    }
}

static void the_table_names_every_reason_of_the_contract(void **state)
{
    (void)state;
    const ProtobufCEnumDescriptor *reasons = &sp__reason__descriptor;
    for (unsigned i = 0; i < reasons->n_values; i++) {
        Sp__Reason reason = (Sp__Reason)reasons->values[i].value;
        bool found = reason == REASON(UNSPECIFIED);
        for (size_t j = 0; j < SP_COUNT(table) && !found; j++)
            found = table[j].reason == reason;
        if (!found)
            fail_msg("%s is in no row", reasons->values[i].name);
    }
}

static void unknown_reasons_are_never_valid(void **state)
{
    (void)state;
    static const int unknown[] = {0, 35, 99, 1000000};
    for (size_t i = 0; i < SP_COUNT(unknown); i++) {
        Sp__Finding *f = a_finding((Sp__Reason)unknown[i], "", "", 0);
        assert_int_equal(state_of(f), STATE(UNPROVEN));
        assert_false(verdict_may_allow((Sp__Reason)unknown[i]));
        message_free(f);
    }
}

static void no_finding_at_all_is_valid(void **state)
{
    (void)state;
    assert_int_equal(verdict_state(NULL, 0), STATE(VALID));
}

static void the_worst_of_several_counts(void **state)
{
    (void)state;
    for (size_t i = 0; i < SP_COUNT(table); i++) {
        for (size_t j = 0; j < SP_COUNT(table); j++) {
            Sp__Finding *a = a_finding(table[i].reason, "", "", 0);
            Sp__Finding *b = a_finding(table[j].reason, "", "", 0);
            const Sp__Finding *const list[] = {a, b};
            Sp__PointState worst = verdict_state(list, 2);
            static const Sp__PointState order[] = {STATE(VALID), STATE(UNPROVEN), STATE(INVALID),
                                                   STATE(FAILED)};
            Sp__PointState expected = STATE(VALID);
            for (size_t k = 0; k < SP_COUNT(order); k++) {
                if (table[i].state == order[k] || table[j].state == order[k])
                    expected = order[k];
            }
            assert_int_equal(worst, expected);
            message_free(a);
            message_free(b);
        }
    }
}

static Sp__Policy *a_policy(Sp__Reason reason, const char *volume_id)
{
    Sp__Policy *p = message_new(&sp__policy__descriptor);
    Sp__Exception *e = message_new(&sp__exception__descriptor);
    assert_non_null(p);
    assert_non_null(e);
    e->reason = reason;
    assert_int_equal(message_set(&e->volume_id, volume_id), 0);
    assert_int_equal(message_set(&e->allowed_by, "anna"), 0);
    ADD(p, exceptions, e);
    return p;
}

static Sp__PointState with_policy(Sp__Policy *policy, Sp__Finding *f)
{
    assert_int_equal(verdict_apply_policy(policy, &f, 1), 0);
    Sp__PointState state = state_of(f);
    message_free(f);
    message_free(policy);
    return state;
}

static void policy_allows_only_the_rows_that_say_yes(void **state)
{
    (void)state;
    for (size_t i = 0; i < SP_COUNT(table); i++) {
        Sp__PointState now = with_policy(a_policy(table[i].reason, "luks:a"),
                                         a_finding(table[i].reason, "luks:a", "", 0));
        assert_int_equal(now, table[i].may_allow ? STATE(VALID) : table[i].state);
    }
}

static void an_exception_is_for_its_volume_only(void **state)
{
    (void)state;
    Sp__Reason reason = REASON(PLAINTEXT_NOT_RECOGNISED);
    assert_int_equal(with_policy(a_policy(reason, "luks:a"), a_finding(reason, "luks:b", "", 0)),
                     STATE(UNPROVEN));
    assert_int_equal(with_policy(a_policy(reason, ""), a_finding(reason, "luks:a", "", 0)),
                     STATE(UNPROVEN));
    /* One reason's exception is no other's. */
    assert_int_equal(with_policy(a_policy(REASON(INVENTORY_MISMATCH), "luks:a"),
                                 a_finding(reason, "luks:a", "", 0)),
                     STATE(UNPROVEN));
}

static void unidentified_content_is_allowed_by_disk(void **state)
{
    (void)state;
    Sp__Reason reason = REASON(UNIDENTIFIED_CONTENT);
    assert_int_equal(with_policy(a_policy(reason, "data0"), a_finding(reason, "", "data0", 4096)),
                     STATE(VALID));
    assert_int_equal(with_policy(a_policy(reason, "data"), a_finding(reason, "", "data0", 4096)),
                     STATE(UNPROVEN));
}

static void an_exception_that_nobody_signed_counts_for_nothing(void **state)
{
    (void)state;
    Sp__Reason reason = REASON(PLAINTEXT_NOT_RECOGNISED);
    Sp__Policy *p = a_policy(reason, "luks:a");
    assert_int_equal(message_set(&p->exceptions[0]->allowed_by, ""), 0);
    assert_int_equal(with_policy(p, a_finding(reason, "luks:a", "", 0)), STATE(UNPROVEN));
    /* And a finding that claims to be allowed is asked again. */
    Sp__Finding *f = a_finding(reason, "luks:a", "", 0);
    assert_int_equal(message_set(&f->allowed_by, "mallory"), 0);
    assert_int_equal(with_policy(NULL, f), STATE(UNPROVEN));
}

static void notes_lower_nothing(void **state)
{
    (void)state;
    Sp__Finding *f = a_finding(REASON(INVENTORY_MISMATCH), "luks:a", "", 0);
    f->note = 1;
    assert_int_equal(state_of(f), STATE(VALID));
    message_free(f);
}

static void proofs_become_reasons(void **state)
{
    (void)state;
    static const struct {
        int verdict, level;
        Sp__Reason reason;
    } proofs[] = {
        {SP__PROOF_VERDICT__PROOF_VERDICT_OPENS, SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT,
         REASON(UNSPECIFIED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_OPENS, SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_BOOTED,
         REASON(UNSPECIFIED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_OPENS, SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER,
         REASON(PLAINTEXT_NOT_RECOGNISED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_OPENS, SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_UNSPECIFIED,
         REASON(PLAINTEXT_NOT_RECOGNISED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_OPENS, 77, REASON(PLAINTEXT_NOT_RECOGNISED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY, 2, REASON(ESCROW_KEY_WRONG)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED, 2, REASON(HEADER_DAMAGED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED, 2, REASON(PLAINTEXT_NOT_RECOGNISED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE, 2, REASON(UNCHECKABLE_CIPHER)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD, 2, REASON(ESCROW_MISSING)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR, 2, REASON(NO_ESCROWABLE_PROTECTOR)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_DENIED, 2, REASON(ESCROW_DENIED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_EXPIRED, 2, REASON(ESCROW_EXPIRED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_UNREACHABLE, 2, REASON(ESCROW_UNREACHABLE)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_KEEPER_LOCKED, 2, REASON(ESCROW_UNREACHABLE)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_ERROR, 2, REASON(ESCROW_UNREACHABLE)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_UNSPECIFIED, 2, REASON(ESCROW_UNREACHABLE)},
        {99, 4, REASON(ESCROW_UNREACHABLE)},
    };
    for (size_t i = 0; i < SP_COUNT(proofs); i++) {
        Sp__ProofStatement s = SP__PROOF_STATEMENT__INIT;
        s.verdict = (Sp__ProofVerdict)proofs[i].verdict;
        s.level = (Sp__EvidenceLevel)proofs[i].level;
        assert_int_equal(verdict_of_proof(&s), proofs[i].reason);
    }
}

static void reproof_goes_to_at_risk_and_back(void **state)
{
    (void)state;
    static const struct {
        Sp__PointState before;
        Sp__Reason reason;
        Sp__PointState after;
    } cases[] = {
        {STATE(VALID), REASON(ESCROW_MISSING), STATE(AT_RISK)},
        {STATE(VALID), REASON(ESCROW_KEY_WRONG), STATE(AT_RISK)},
        {STATE(VALID), REASON(ESCROW_UNREACHABLE), STATE(VALID)},
        {STATE(AT_RISK), REASON(ESCROW_UNREACHABLE), STATE(AT_RISK)},
        {STATE(AT_RISK), REASON(EPHEMERAL_KEY), STATE(VALID)},
        {STATE(UNPROVEN), REASON(ESCROW_MISSING), STATE(INVALID)},
        {STATE(UNPROVEN), REASON(ESCROW_UNREACHABLE), STATE(UNPROVEN)},
        {STATE(INVALID), REASON(EPHEMERAL_KEY), STATE(VALID)},
        {STATE(VALID), REASON(UNIDENTIFIED_CONTENT), STATE(AT_RISK)},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        Sp__Finding *f = a_finding(cases[i].reason, "luks:a", "", 0);
        const Sp__Finding *const list[] = {f};
        assert_int_equal(verdict_after_reproof(cases[i].before, list, 1, false), cases[i].after);
        Sp__PointState late = verdict_after_reproof(cases[i].before, list, 1, true);
        bool excused = cases[i].before == STATE(VALID) && cases[i].after == STATE(VALID);
        assert_int_equal(late, excused && cases[i].reason == REASON(ESCROW_UNREACHABLE)
                                   ? STATE(AT_RISK)
                                   : cases[i].after);
        message_free(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_reason_leads_where_the_design_says),
        cmocka_unit_test(the_table_names_every_reason_of_the_contract),
        cmocka_unit_test(unknown_reasons_are_never_valid),
        cmocka_unit_test(no_finding_at_all_is_valid),
        cmocka_unit_test(the_worst_of_several_counts),
        cmocka_unit_test(policy_allows_only_the_rows_that_say_yes),
        cmocka_unit_test(an_exception_is_for_its_volume_only),
        cmocka_unit_test(unidentified_content_is_allowed_by_disk),
        cmocka_unit_test(an_exception_that_nobody_signed_counts_for_nothing),
        cmocka_unit_test(notes_lower_nothing),
        cmocka_unit_test(proofs_become_reasons),
        cmocka_unit_test(reproof_goes_to_at_risk_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
