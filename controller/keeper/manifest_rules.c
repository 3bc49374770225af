/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/manifest_rules.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/signed_request.h"
#include "controller/keeper/rules.h"
#include <stdbool.h>
#include <string.h>

void judged_clear(struct judged *j)
{
    for (size_t i = 0; i < j->count; i++)
        if (j->statements[i])
            sp__proof_statement__free_unpacked(j->statements[i], NULL);
    free(j->statements);
    if (j->manifest)
        sp__manifest__free_unpacked(j->manifest, NULL);
    memset(j, 0, sizeof(*j));
}

static const Sp__DiskImage *find_disk(const Sp__Manifest *m, const char *disk_id)
{
    for (size_t i = 0; i < m->n_disks; i++)
        if (strcmp(m->disks[i]->disk_id, disk_id) == 0)
            return m->disks[i];
    return NULL;
}

static const Sp__Volume *find_volume(const Sp__Manifest *m, const char *volume_id)
{
    for (size_t i = 0; i < m->n_volumes; i++)
        if (strcmp(m->volumes[i]->volume_id, volume_id) == 0)
            return m->volumes[i];
    return NULL;
}

/* ---- shape ---- */

static int check_state(const Sp__Manifest *m, struct sp_why *why)
{
    switch (m->state_at_seal) {
    case SP__POINT_STATE__POINT_STATE_VALID:
    case SP__POINT_STATE__POINT_STATE_UNPROVEN:
    case SP__POINT_STATE__POINT_STATE_INVALID:
    case SP__POINT_STATE__POINT_STATE_FAILED:
    case SP__POINT_STATE__POINT_STATE_AT_RISK:
        return 0;
    default:
        return sp_why_set(why, -EINVAL, "a point in the state %d is not sealed",
                          (int)m->state_at_seal);
    }
}

static int check_shape(const Sp__Manifest *m, struct sp_why *why)
{
    if (m->format != MANIFEST_FORMAT)
        return sp_why_set(why, -EINVAL, "the manifest has format %u, this keeper signs format %d",
                          m->format, MANIFEST_FORMAT);
    if (m->base.n_unknown_fields > 0)
        return sp_why_set(why, -EINVAL, "the manifest has fields that this keeper does not know");
    if (!sp_uuid_valid(m->machine_id) || !sp_uuid_valid(m->point_id))
        return sp_why_set(why, -EINVAL, "machine or point of the manifest is no id");
    if (m->n_disks == 0)
        return sp_why_set(why, -EINVAL, "the manifest has no disks");
    for (size_t i = 0; i < m->n_disks; i++)
        if (m->disks[i]->root.len != 32 || find_disk(m, m->disks[i]->disk_id) != m->disks[i])
            return sp_why_set(why, -EINVAL, "disk '%.60s' has no root or is there twice",
                              m->disks[i]->disk_id);
    for (size_t i = 0; i < m->n_volumes; i++)
        if (find_volume(m, m->volumes[i]->volume_id) != m->volumes[i])
            return sp_why_set(why, -EINVAL, "volume '%.100s' is there twice",
                              m->volumes[i]->volume_id);
    return check_state(m, why);
}

/* ---- proofs ---- */

static int check_sectors(const Sp__Manifest *m, const Sp__ProofStatement *s, struct sp_why *why)
{
    for (size_t i = 0; i < s->n_sectors; i++) {
        const Sp__SectorEvidence *e = s->sectors[i];
        const Sp__DiskImage *disk = e->on ? find_disk(m, e->on->disk_id) : NULL;
        if (!disk || e->on->offset_bytes > disk->size_bytes ||
            e->on->length_bytes > disk->size_bytes - e->on->offset_bytes)
            return sp_why_set(why, -ESTALE,
                              "the proof of %.100s rests on a disk that the manifest does not have",
                              s->volume_id);
        if (e->disk_root.len != 32 || memcmp(e->disk_root.data, disk->root.data, 32) != 0)
            return sp_why_set(why, -ESTALE,
                              "the proof of %.100s was made on other data than the disk '%.60s' of "
                              "the manifest",
                              s->volume_id, disk->disk_id);
    }
    return 0;
}

static int check_volume(const Sp__Manifest *m, const Sp__ProofStatement *s, struct sp_why *why)
{
    const Sp__Volume *v = find_volume(m, s->volume_id);
    if (!v || v->kind != s->kind)
        return sp_why_set(why, -ESTALE,
                          "the proof of %.100s is about a volume that the manifest does not have",
                          s->volume_id);
    const ProtobufCBinaryData *own = v->header ? &v->header->fingerprint : NULL;
    if (s->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS &&
        v->kind != SP__VOLUME_KIND__VOLUME_KIND_PLAIN && own && own->len == 32 &&
        (s->header_fingerprint.len != 32 || memcmp(own->data, s->header_fingerprint.data, 32) != 0))
        return sp_why_set(why, -ESTALE,
                          "the proof of %.100s is about another header than the manifest's",
                          s->volume_id);
    return 0;
}

static int check_statement(const struct judged *j, size_t index, bool to_seal, struct sp_why *why)
{
    const Sp__Manifest *m = j->manifest;
    const Sp__ProofStatement *s = j->statements[index];
    if (s->format != PROOF_FORMAT || s->rules_version > RULES_VERSION ||
        (to_seal && s->rules_version != RULES_VERSION) || s->base.n_unknown_fields > 0)
        return sp_why_set(why, -ESTALE, "the proof of %.100s was made by other rules than today's",
                          s->volume_id);
    if (strcmp(s->machine_id, m->machine_id) != 0)
        return sp_why_set(why, -ESTALE, "the proof of %.100s is another machine's", s->volume_id);
    if (strcmp(s->point_id, m->point_id) != 0)
        return sp_why_set(why, -ESTALE, "the proof of %.100s is another point's", s->volume_id);
    for (size_t i = 0; i < index; i++)
        if (strcmp(j->statements[i]->volume_id, s->volume_id) == 0)
            return sp_why_set(why, -ESTALE, "volume %.100s has two proofs", s->volume_id);
    int r = check_volume(m, s, why);
    return r < 0 ? r : check_sectors(m, s, why);
}

int manifest_judge(const void *packed, size_t size, EVP_PKEY *sealing_key, bool to_seal,
                   struct judged *ret, struct sp_why *why)
{
    JUDGED struct judged j = {.manifest = sp__manifest__unpack(NULL, size, packed)};
    int r = j.manifest ? check_shape(j.manifest, why)
                       : sp_why_set(why, -EINVAL, "the manifest cannot be read");
    if (r < 0)
        return r;
    j.statements = calloc(j.manifest->n_proofs + 1, sizeof(Sp__ProofStatement *));
    if (!j.statements)
        return -ENOMEM;
    j.count = j.manifest->n_proofs;
    for (size_t i = 0; i < j.count && r == 0; i++) {
        const Sp__Signed *proof = j.manifest->proofs[i];
        if (sp_signed_verify(proof, SP_SIGN_PROOF, sealing_key) < 0)
            return sp_why_set(why, -EKEYREJECTED, "proof %zu is not signed by this keeper", i + 1);
        j.statements[i] =
            sp__proof_statement__unpack(NULL, proof->payload.len, proof->payload.data);
        r = j.statements[i] ? check_statement(&j, i, to_seal, why) : -EINVAL;
    }
    if (r < 0)
        return r;
    *ret = j;
    j = (struct judged){0};
    return 0;
}

/* ---- valid ---- */

const Sp__ProofStatement *manifest_opening(const struct judged *j, const char *volume_id)
{
    for (size_t i = 0; i < j->count; i++) {
        const Sp__ProofStatement *s = j->statements[i];
        if (strcmp(s->volume_id, volume_id) == 0 &&
            s->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS &&
            s->level >= SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT && s->n_sectors > 0 &&
            s->record)
            return s;
    }
    return NULL;
}

/* The design's table: what a policy may allow at all. */
static bool may_be_allowed(Sp__Reason reason)
{
    switch (reason) {
    case SP__REASON__REASON_PLAINTEXT_NOT_RECOGNISED:
    case SP__REASON__REASON_UNIDENTIFIED_CONTENT:
    case SP__REASON__REASON_INVENTORY_MISMATCH:
    case SP__REASON__REASON_NOT_SEEN_BY_STORAGE:
    case SP__REASON__REASON_ESCROW_UNWRAPPED:
    case SP__REASON__REASON_PROTECTION_SUSPENDED:
    case SP__REASON__REASON_CONVERSION_IN_PROGRESS:
    case SP__REASON__REASON_ESCROW_NOT_DURABLE:
    case SP__REASON__REASON_ESCROW_NOT_PINNABLE:
        return true;
    default:
        return false;
    }
}

/* Reasons that lower the grade or are notes: the grade is judged by itself. */
static bool lowers_grade_only(Sp__Reason reason)
{
    switch (reason) {
    case SP__REASON__REASON_QUIESCE_FAILED:
    case SP__REASON__REASON_LEASE_EXPIRED:
    case SP__REASON__REASON_AGENT_TOO_OLD:
    case SP__REASON__REASON_AGENT_ABSENT:
    case SP__REASON__REASON_IDENTITY_CLONED:
    case SP__REASON__REASON_EPHEMERAL_KEY:
        return true;
    default:
        return false;
    }
}

bool manifest_is_excepted(const Sp__Manifest *m, Sp__Reason reason, const char *volume_id)
{
    const Sp__Policy *policy = m->policy;
    for (size_t i = 0; policy && i < policy->n_exceptions; i++) {
        const Sp__Exception *e = policy->exceptions[i];
        if (e->reason == reason && e->allowed_by[0] && may_be_allowed(reason) &&
            strcmp(e->volume_id, volume_id) == 0)
            return true;
    }
    return false;
}

/* An unopened volume counts only as what an exception for it names. */
static bool is_excepted_unopened(const Sp__Manifest *m, const char *volume_id)
{
    return manifest_is_excepted(m, SP__REASON__REASON_PLAINTEXT_NOT_RECOGNISED, volume_id) ||
           manifest_is_excepted(m, SP__REASON__REASON_UNIDENTIFIED_CONTENT, volume_id) ||
           manifest_is_excepted(m, SP__REASON__REASON_CONVERSION_IN_PROGRESS, volume_id);
}

/* BitLocker, suspended, with nothing that escrow could hold: the key in the header was proved, and
 * an admin has accepted that it lies there. */
static bool is_accepted_clear_key(const struct judged *j, const char *volume_id)
{
    for (size_t i = 0; i < j->count; i++) {
        const Sp__ProofStatement *s = j->statements[i];
        if (strcmp(s->volume_id, volume_id) == 0 && !s->record &&
            s->kind == SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER &&
            s->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS &&
            s->level >= SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT && s->n_sectors > 0)
            return manifest_is_excepted(j->manifest, SP__REASON__REASON_PROTECTION_SUSPENDED,
                                        volume_id);
    }
    return false;
}

static bool needs_proof(const Sp__Volume *v)
{
    return v->kind != SP__VOLUME_KIND__VOLUME_KIND_CLEAR && !v->ephemeral;
}

static bool is_excluded(const Sp__Manifest *m, const Sp__Volume *v)
{
    size_t on = 0;
    for (size_t i = 0; i < v->n_extents; i++)
        for (size_t d = 0; m->policy && v->extents[i]->on && d < m->policy->n_excluded_disks; d++)
            if (strcmp(m->policy->excluded_disks[d], v->extents[i]->on->disk_id) == 0) {
                on++;
                break;
            }
    return v->n_extents > 0 && on == v->n_extents;
}

static int check_snapshot_volumes(const struct judged *j, struct sp_why *why)
{
    const Sp__Manifest *m = j->manifest;
    for (size_t i = 0; i < m->n_volumes; i++) {
        const Sp__Volume *v = m->volumes[i];
        if (needs_proof(v) && !manifest_opening(j, v->volume_id) &&
            !is_accepted_clear_key(j, v->volume_id) && !is_excepted_unopened(m, v->volume_id))
            return sp_why_set(why, -ESTALE,
                              "no proof opens the volume %.100s, so the point is not valid",
                              v->volume_id);
    }
    return 0;
}

/* What the guest said it has must be in the snapshot too. Plain volumes have no id of their own
 * that both sides know, so they are counted. */
static int check_inventory(const Sp__Manifest *m, struct sp_why *why)
{
    size_t guest = 0, snapshot = 0;
    for (size_t i = 0; m->inventory && i < m->inventory->n_volumes; i++) {
        const Sp__Volume *v = m->inventory->volumes[i];
        if (!needs_proof(v) || is_excluded(m, v) ||
            manifest_is_excepted(m, SP__REASON__REASON_NOT_SEEN_BY_STORAGE, v->volume_id) ||
            manifest_is_excepted(m, SP__REASON__REASON_INVENTORY_MISMATCH, v->volume_id))
            continue;
        if (v->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN) {
            guest++;
            continue;
        }
        const Sp__Volume *own = find_volume(m, v->volume_id);
        if (!own || own->kind != v->kind)
            return sp_why_set(why, -ESTALE,
                              "the guest has the volume %.100s, and the manifest does not",
                              v->volume_id);
    }
    for (size_t i = 0; i < m->n_volumes; i++)
        snapshot += m->volumes[i]->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN;
    if (guest > snapshot)
        return sp_why_set(why, -ESTALE,
                          "the guest has %zu plain dm-crypt volumes, the manifest %zu", guest,
                          snapshot);
    return 0;
}

static int check_findings(const Sp__Manifest *m, struct sp_why *why)
{
    for (size_t i = 0; i < m->n_findings; i++) {
        const Sp__Finding *f = m->findings[i];
        if (f->note || lowers_grade_only(f->reason) ||
            manifest_is_excepted(m, f->reason, *f->volume_id ? f->volume_id : f->disk_id))
            continue;
        return sp_why_set(why, -ESTALE, "the finding %s of %.80s stands against a valid point",
                          sp_enum_name(&sp__reason__descriptor, (int)f->reason, "REASON_"),
                          f->volume_id[0] ? f->volume_id : "the point");
    }
    return 0;
}

/* An offline point is as good as a frozen one. */
static int rank(Sp__Grade grade)
{
    switch (grade) {
    case SP__GRADE__GRADE_CRASH:
        return 1;
    case SP__GRADE__GRADE_FILESYSTEM:
    case SP__GRADE__GRADE_OFFLINE:
        return 2;
    case SP__GRADE__GRADE_APPLICATION:
        return 3;
    default:
        return 0;
    }
}

int manifest_supports_valid(const struct judged *j, struct sp_why *why)
{
    const Sp__Manifest *m = j->manifest;
    Sp__Grade least = m->policy ? m->policy->minimum_grade : SP__GRADE__GRADE_UNSPECIFIED;

    if (rank(m->grade) == 0 || rank(m->grade) < rank(least))
        return sp_why_set(why, -ESTALE, "the grade %s is below what the policy asks for",
                          sp_enum_name(&sp__grade__descriptor, (int)m->grade, "GRADE_"));
    int r = check_snapshot_volumes(j, why);
    if (r == 0)
        r = check_inventory(m, why);
    return r < 0 ? r : check_findings(m, why);
}

int manifest_disks_digest(const Sp__Manifest *m, uint8_t out[32])
{
    SP_BUFFER struct sp_buffer all = {0};
    int r = 0;
    for (size_t i = 0; i < m->n_disks && r == 0; i++) {
        const Sp__DiskImage *d = m->disks[i];
        uint8_t head[12];
        sp_put_le32(head, (uint32_t)strlen(d->disk_id));
        sp_put_le64(head + 4, d->size_bytes);
        r = sp_buffer_append(&all, head, sizeof(head));
        if (r == 0)
            r = sp_buffer_append(&all, d->disk_id, strlen(d->disk_id));
        if (r == 0)
            r = sp_buffer_append(&all, d->root.data, d->root.len);
    }
    return r < 0 ? r : sp_sha256_of(all.data, all.size, out);
}
