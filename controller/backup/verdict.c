/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/verdict.h"
#include "base/cleanup.h"
#include "controller/message.h"
#include <string.h>

struct rule {
    Sp__Reason reason;
    enum verdict_effect effect;
    bool may_allow;
    bool retried;
};

/* The table of the design ("States, reasons, grades"), row by row. */
static const struct rule rules[] = {
    {SP__REASON__REASON_ESCROW_MISSING, VERDICT_INVALID, false, false},
    {SP__REASON__REASON_ESCROW_KEY_WRONG, VERDICT_INVALID, false, false},
    {SP__REASON__REASON_NO_ESCROWABLE_PROTECTOR, VERDICT_INVALID, false, false},
    {SP__REASON__REASON_HEADER_DAMAGED, VERDICT_INVALID, false, false},
    {SP__REASON__REASON_HEADER_MISSING, VERDICT_INVALID, false, false},
    {SP__REASON__REASON_HEADER_CHANGED, VERDICT_INVALID, false, false},

    {SP__REASON__REASON_PLAINTEXT_NOT_RECOGNISED, VERDICT_UNPROVEN, true, false},
    {SP__REASON__REASON_UNIDENTIFIED_CONTENT, VERDICT_UNPROVEN, true, false},
    {SP__REASON__REASON_INVENTORY_MISMATCH, VERDICT_UNPROVEN, true, false},
    {SP__REASON__REASON_NOT_SEEN_BY_STORAGE, VERDICT_UNPROVEN, true, false},

    {SP__REASON__REASON_ESCROW_DENIED, VERDICT_UNPROVEN, false, true},
    {SP__REASON__REASON_ESCROW_UNREACHABLE, VERDICT_UNPROVEN, false, true},
    {SP__REASON__REASON_ESCROW_EXPIRED, VERDICT_UNPROVEN, false, true},
    {SP__REASON__REASON_UNCHECKABLE_CIPHER, VERDICT_UNPROVEN, false, true},

    {SP__REASON__REASON_ESCROW_UNWRAPPED, VERDICT_INVALID, true, false},
    {SP__REASON__REASON_PROTECTION_SUSPENDED, VERDICT_INVALID, true, false},
    {SP__REASON__REASON_CONVERSION_IN_PROGRESS, VERDICT_INVALID, true, false},

    {SP__REASON__REASON_ESCROW_NOT_DURABLE, VERDICT_UNPROVEN, true, false},
    {SP__REASON__REASON_ESCROW_NOT_PINNABLE, VERDICT_UNPROVEN, true, false},

    {SP__REASON__REASON_QUIESCE_FAILED, VERDICT_GRADE, false, false},
    {SP__REASON__REASON_LEASE_EXPIRED, VERDICT_GRADE, false, false},
    {SP__REASON__REASON_AGENT_TOO_OLD, VERDICT_GRADE, false, false},
    {SP__REASON__REASON_IDENTITY_CLONED, VERDICT_GRADE, false, false},
    {SP__REASON__REASON_AGENT_ABSENT, VERDICT_GRADE, false, false},
    {SP__REASON__REASON_DISK_MISSING, VERDICT_UNPROVEN, false, false},
    {SP__REASON__REASON_GRADE_TOO_LOW, VERDICT_FAILED, false, false},
    {SP__REASON__REASON_SOURCE_LOST, VERDICT_FAILED, false, false},
    {SP__REASON__REASON_TRANSFER_CORRUPT, VERDICT_FAILED, false, false},
    {SP__REASON__REASON_VAULT_FULL, VERDICT_FAILED, false, false},
    {SP__REASON__REASON_SNAPSHOT_BROKEN, VERDICT_FAILED, false, false},
    {SP__REASON__REASON_INTERRUPTED, VERDICT_FAILED, false, false},
    {SP__REASON__REASON_CANCELLED, VERDICT_FAILED, false, false},

    {SP__REASON__REASON_EPHEMERAL_KEY, VERDICT_NOTE, false, false},
    {SP__REASON__REASON_COPIED_IN_FULL, VERDICT_NOTE, false, false},
};

static const struct rule *rule_of(Sp__Reason reason)
{
    for (size_t i = 0; i < SP_COUNT(rules); i++) {
        if (rules[i].reason == reason)
            return &rules[i];
    }
    return NULL;
}

enum verdict_effect verdict_effect_of(Sp__Reason reason)
{
    const struct rule *rule = rule_of(reason);
    return rule ? rule->effect : VERDICT_UNPROVEN;
}

bool verdict_may_allow(Sp__Reason reason)
{
    const struct rule *rule = rule_of(reason);
    return rule && rule->may_allow;
}

bool verdict_retried(Sp__Reason reason)
{
    const struct rule *rule = rule_of(reason);
    return rule && rule->retried;
}

Sp__Reason verdict_of_proof(const Sp__ProofStatement *proof)
{
    switch ((int)proof->verdict) {
    case SP__PROOF_VERDICT__PROOF_VERDICT_OPENS:
        /* Levels above `plaintext` include it; one that is not known does not count. */
        return proof->level >= SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT &&
                       proof->level <= SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_BOOTED
                   ? SP__REASON__REASON_UNSPECIFIED
                   : SP__REASON__REASON_PLAINTEXT_NOT_RECOGNISED;
    case SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY:
        return SP__REASON__REASON_ESCROW_KEY_WRONG;
    case SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED:
        return SP__REASON__REASON_HEADER_DAMAGED;
    case SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED:
        return SP__REASON__REASON_PLAINTEXT_NOT_RECOGNISED;
    case SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE:
        return SP__REASON__REASON_UNCHECKABLE_CIPHER;
    case SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD:
        return SP__REASON__REASON_ESCROW_MISSING;
    case SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR:
        return SP__REASON__REASON_NO_ESCROWABLE_PROTECTOR;
    case SP__PROOF_VERDICT__PROOF_VERDICT_DENIED:
        return SP__REASON__REASON_ESCROW_DENIED;
    case SP__PROOF_VERDICT__PROOF_VERDICT_EXPIRED:
        return SP__REASON__REASON_ESCROW_EXPIRED;
    default:
        /* ERROR, UNREACHABLE, KEEPER_LOCKED, and what a newer keeper may say: nobody could tell. */
        return SP__REASON__REASON_ESCROW_UNREACHABLE;
    }
}

static bool covers(const Sp__Exception *e, const Sp__Finding *f)
{
    if (e->reason != f->reason || message_empty(e->allowed_by) || !verdict_may_allow(f->reason))
        return false;
    /* Without a volume or place an exception would allow what nobody has seen yet. */
    if (message_empty(e->volume_id))
        return false;
    return strcmp(e->volume_id, message_empty(f->volume_id) ? f->disk_id : f->volume_id) == 0;
}

int verdict_apply_policy(const Sp__Policy *policy, Sp__Finding *const *findings, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int r = message_set(&findings[i]->allowed_by, "");
        for (size_t j = 0; policy && j < policy->n_exceptions && r == 0; j++) {
            if (covers(policy->exceptions[j], findings[i]))
                r = message_set(&findings[i]->allowed_by, policy->exceptions[j]->allowed_by);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static enum verdict_effect worst_of(const Sp__Finding *const *findings, size_t count)
{
    enum verdict_effect worst = VERDICT_NOTE;
    for (size_t i = 0; i < count; i++) {
        if (findings[i]->note ||
            (!message_empty(findings[i]->allowed_by) && verdict_may_allow(findings[i]->reason)))
            continue;
        enum verdict_effect effect = verdict_effect_of(findings[i]->reason);
        if (effect > worst)
            worst = effect;
    }
    return worst;
}

Sp__PointState verdict_state(const Sp__Finding *const *findings, size_t count)
{
    switch (worst_of(findings, count)) {
    case VERDICT_FAILED:
        return SP__POINT_STATE__POINT_STATE_FAILED;
    case VERDICT_INVALID:
        return SP__POINT_STATE__POINT_STATE_INVALID;
    case VERDICT_UNPROVEN:
        return SP__POINT_STATE__POINT_STATE_UNPROVEN;
    case VERDICT_GRADE:
    case VERDICT_NOTE:
        break;
    }
    return SP__POINT_STATE__POINT_STATE_VALID;
}

/* Nothing but answers that somebody could not give just now. */
static bool only_unreachable(const Sp__Finding *const *findings, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (findings[i]->note || !message_empty(findings[i]->allowed_by))
            continue;
        enum verdict_effect effect = verdict_effect_of(findings[i]->reason);
        if (effect >= VERDICT_UNPROVEN &&
            findings[i]->reason != SP__REASON__REASON_ESCROW_UNREACHABLE)
            return false;
    }
    return true;
}

Sp__PointState verdict_after_reproof(Sp__PointState before, const Sp__Finding *const *findings,
                                     size_t count, bool patience_over)
{
    Sp__PointState now = verdict_state(findings, count);
    bool was_good = before == SP__POINT_STATE__POINT_STATE_VALID ||
                    before == SP__POINT_STATE__POINT_STATE_AT_RISK;
    if (!was_good || now == SP__POINT_STATE__POINT_STATE_VALID)
        return now;
    if (!patience_over && only_unreachable(findings, count))
        return before;
    return SP__POINT_STATE__POINT_STATE_AT_RISK;
}
