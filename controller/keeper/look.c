/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a snapshot holds. No key is involved, so a locked keeper looks, too: the data of a backup
 * taken then can be proved later. */
#include "controller/keeper/job.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include <string.h>

int keeper_look(struct keeper *k, const Sp__KeeperRequest *request, int fd, Sp__KeeperResponse *out,
                struct sp_why *why)
{
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    Sp__ProverResult *result = NULL;

    job.kind_case = SP__PROVER_JOB__KIND_LOOK;
    job.look = request->look;
    int r = job_run(k, &k->looks, &job, fd, NULL, &result, NULL, why);
    if (r < 0)
        return r;
    if (result->kind_case == SP__PROVER_RESULT__KIND_LOOK) {
        out->kind_case = SP__KEEPER_RESPONSE__KIND_LOOK;
        out->look = sp_steal(result->look);
        result->kind_case = SP__PROVER_RESULT__KIND__NOT_SET;
    } else {
        r = sp_why_set(why, -EPROTO, "the prover answered something else than a look");
    }
    sp__prover_result__free_unpacked(result, NULL);
    return r;
}
