/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A prover in hostile hands: any bytes as its answer. What passes must carry what its verdict rests
 * on, or this aborts. */
#include "controller/keeper/prover/answer.h"
#include "base/cleanup.h"

static void check(const Sp__ProverJob *job, const Sp__ProverResult *result)
{
    if (!prover_answer_fits(job, result) || result->kind_case != SP__PROVER_RESULT__KIND_FINDING)
        return;
    const Sp__ProverFinding *f = result->finding;
    if (f->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS &&
        (!f->n_sectors || !f->content || f->header_fingerprint.len != 32))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char name[] = "d";
    Sp__ProverResult *result = sp__prover_result__unpack(NULL, size, data);
    if (!result)
        return 0;
    Sp__LookDisk disk = SP__LOOK_DISK__INIT, *disks[] = {&disk};
    disk.disk_id = name;
    disk.size_bytes = 4096;
    Sp__Volume volume = SP__VOLUME__INIT;
    volume.kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    Sp__ProverProof proof = SP__PROVER_PROOF__INIT;
    proof.volume = &volume;
    proof.disks = disks;
    proof.n_disks = 1;
    Sp__LookRequest look = SP__LOOK_REQUEST__INIT;
    look.disks = disks;
    look.n_disks = 1;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_PROOF;
    job.proof = &proof;
    check(&job, result);
    job.kind_case = SP__PROVER_JOB__KIND_LOOK;
    job.look = &look;
    check(&job, result);
    sp__prover_result__free_unpacked(result, NULL);
    return 0;
}
