/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/answer.h"

#include <string.h>

static bool disk_has(Sp__LookDisk *const *disks, size_t count, const Sp__DiskExtent *e,
                     const ProtobufCBinaryData *root)
{
    for (size_t i = 0; e && i < count; i++) {
        if (strcmp(disks[i]->disk_id, e->disk_id) != 0)
            continue;
        const ProtobufCBinaryData *own = &disks[i]->disk_root;
        return e->offset_bytes <= disks[i]->size_bytes &&
               e->length_bytes <= disks[i]->size_bytes - e->offset_bytes &&
               (!root || (root->len == own->len &&
                          (!root->len || memcmp(root->data, own->data, root->len) == 0)));
    }
    return false;
}

/* What a verdict rests on has to be there. */
static bool finding_fits(const Sp__ProverProof *ask, const Sp__ProverFinding *f)
{
    bool opens = f->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    for (size_t i = 0; i < f->n_sectors; i++) {
        const Sp__SectorEvidence *s = f->sectors[i];
        if (s->sha256.len != 32 || !s->on || !s->on->length_bytes ||
            !disk_has(ask->disks, ask->n_disks, s->on, &s->disk_root))
            return false;
    }
    if (f->verdict <= SP__PROOF_VERDICT__PROOF_VERDICT_UNSPECIFIED ||
        f->verdict > SP__PROOF_VERDICT__PROOF_VERDICT_ERROR ||
        f->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD)
        return false;
    if (f->header_fingerprint.len && f->header_fingerprint.len != 32)
        return false;
    if (opens != (f->level == SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT) ||
        f->level > SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT)
        return false;
    if (f->has_volume_key && ask->header_opened_before)
        return false;
    bool plain = ask->volume && ask->volume->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN;
    return !opens || (f->n_sectors && f->content && f->content->type[0] &&
                      (plain || f->header_fingerprint.len == 32));
}

static bool look_fits(const Sp__LookRequest *ask, const Sp__LookResponse *look)
{
    for (size_t i = 0; i < look->n_ranges; i++) {
        if (!disk_has(ask->disks, ask->n_disks, look->ranges[i]->on, NULL))
            return false;
    }
    for (size_t i = 0; i < look->n_volumes; i++) {
        const Sp__Volume *v = look->volumes[i];
        for (size_t k = 0; k < v->n_extents; k++) {
            if (!disk_has(ask->disks, ask->n_disks, v->extents[k]->on, NULL))
                return false;
        }
    }
    return !ask->layout_only || !look->n_headers;
}

bool prover_answer_fits(const Sp__ProverJob *job, const Sp__ProverResult *result)
{
    if (result->error)
        return result->error > 0 && result->kind_case == SP__PROVER_RESULT__KIND__NOT_SET;
    if (job->kind_case == SP__PROVER_JOB__KIND_LOOK)
        return result->kind_case == SP__PROVER_RESULT__KIND_LOOK &&
               look_fits(job->look, result->look);
    return result->kind_case == SP__PROVER_RESULT__KIND_FINDING &&
           finding_fits(job->proof, result->finding);
}
