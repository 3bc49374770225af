/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/run.h"
#include "controller/backup/verdict.h"
#include <string.h>

static bool proved(struct engine *e, const Sp__Manifest *m, const Sp__Volume *v)
{
    for (size_t i = 0; i < m->n_proofs; i++) {
        Sp__ProofStatement *s SP_CLEANUP(statement) =
            engine_statement(e, m->proofs[i], m->machine_id, m->point_id, NULL);
        if (s && strcmp(s->volume_id, v->volume_id) == 0 &&
            verdict_of_proof(s) == SP__REASON__REASON_UNSPECIFIED)
            return true;
    }
    return false;
}

/* An admin's exception stands in the sealed policy, not only in the finding. */
static bool excepted(const Sp__Manifest *m, const Sp__Volume *v)
{
    for (size_t i = 0; m->policy && i < m->policy->n_exceptions; i++) {
        const Sp__Exception *x = m->policy->exceptions[i];
        if (strcmp(x->volume_id, v->volume_id) == 0 && verdict_may_allow(x->reason) &&
            finding_has((const Sp__Finding *const *)m->findings, m->n_findings, x->reason,
                        v->volume_id))
            return true;
    }
    return false;
}

bool engine_manifest_holds(struct engine *e, const Sp__Manifest *m, bool sealed)
{
    if (!sealed || m->state_at_seal != SP__POINT_STATE__POINT_STATE_VALID)
        return false;
    for (size_t i = 0; i < m->n_volumes; i++) {
        if (compare_needs_proof(m->volumes[i]) && !proved(e, m, m->volumes[i]) &&
            !excepted(m, m->volumes[i]))
            return false;
    }
    return true;
}
