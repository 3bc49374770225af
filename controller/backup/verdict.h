/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What findings and proofs make of a point. Pure functions over messages: no clock, no catalog.
 *
 *   proofs ──▶ findings ─┐
 *   look, inventory ────▶├──▶ policy exceptions ──▶ worst state of what is left
 *   freeze, thaw ──▶ grade ▶┘
 *
 * Unclear answers never read as valid: reasons and verdicts that this program does not know lower a
 * point to `unproven`. */
#ifndef SEALPOINT_BACKUP_VERDICT_H
#define SEALPOINT_BACKUP_VERDICT_H

#include "base/bytes.h"
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>

/* What a reason does to a point when no exception covers it. */
enum verdict_effect {
    VERDICT_NOTE,     /* worth knowing */
    VERDICT_GRADE,    /* lowers the grade, not the state */
    VERDICT_UNPROVEN, /* the evidence is not there */
    VERDICT_INVALID,  /* the evidence says no */
    VERDICT_FAILED    /* no usable data */
};
enum verdict_effect verdict_effect_of(Sp__Reason reason);
/* Whether a policy exception may cover the reason. */
bool verdict_may_allow(Sp__Reason reason);
/* Whether what the reason says may change by itself: worth another `point verify`. */
bool verdict_retried(Sp__Reason reason);

/* The finding that a proof's verdict amounts to; REASON_UNSPECIFIED when it proves the volume
 * (opens the header, and sectors of the snapshot made sense). */
Sp__Reason verdict_of_proof(const Sp__ProofStatement *);

/* Sets allowed_by on each finding that an exception of the policy covers. An exception names the
 * volume; one for content that belongs to no volume names the disk. The keeper judges by the same
 * rule before it signs. -ENOMEM. */
int verdict_apply_policy(const Sp__Policy *, Sp__Finding *const *findings, size_t count);

/* The state of a point with these findings, after verdict_apply_policy(). */
Sp__PointState verdict_state(const Sp__Finding *const *findings, size_t count);

/* The state after a re-proof: `valid` becomes `at_risk` where a key is absent or wrong, stays
 * `valid` where somebody could only not be asked, until `patience_over`, and falls to the plain
 * verdict else. */
Sp__PointState verdict_after_reproof(Sp__PointState before, const Sp__Finding *const *findings,
                                     size_t count, bool patience_over);

#endif
