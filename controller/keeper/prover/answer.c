/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/answer.h"
#include "base/bytes.h"

#include <string.h>

/* ---- texts: they are signed, logged and shown on terminals ---- */

enum { MAX_TEXT = 4096, MAX_DEPTH = 16 };

static bool text_is_clean(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t size = strnlen(text, MAX_TEXT + 1), n;
    for (size_t at = 0; at < size; at += n) {
        n = sp_utf8_printable(p + at);
        if (!n)
            return false;
    }
    return size <= MAX_TEXT;
}

static bool texts_are_clean(const ProtobufCMessage *m, unsigned depth);

/* One value of a field. */
static bool value_is_clean(const ProtobufCFieldDescriptor *f, const void *at, unsigned depth)
{
    if (f->type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(const char *const *)at;
        return !text || text_is_clean(text);
    }
    const ProtobufCMessage *sub = *(const ProtobufCMessage *const *)at;
    return !sub || texts_are_clean(sub, depth + 1);
}

static bool field_is_clean(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
                           unsigned depth)
{
    const char *base = (const char *)m;
    if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
        return true;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t count = *(const size_t *)(const void *)(base + f->quantifier_offset);
        const void *const *list = *(const void *const *const *)(const void *)(base + f->offset);
        for (size_t i = 0; i < count; i++) {
            if (!value_is_clean(f, &list[i], depth))
                return false;
        }
        return true;
    }
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
        *(const uint32_t *)(const void *)(base + f->quantifier_offset) != f->id)
        return true;
    return value_is_clean(f, base + f->offset, depth);
}

static bool texts_are_clean(const ProtobufCMessage *m, unsigned depth)
{
    if (depth > MAX_DEPTH)
        return false;
    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        if (!field_is_clean(m, &m->descriptor->fields[i], depth))
            return false;
    }
    return true;
}

/* ---- what an answer rests on ---- */

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

static bool is_expected(const Sp__Content *expected, const Sp__Content *found)
{
    return expected && found && expected->uuid[0] && strcmp(expected->uuid, found->uuid) == 0 &&
           strcmp(expected->type, found->type) == 0;
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
    bool plain = ask->volume && ask->volume->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN;
    if (f->has_volume_key && (ask->header_opened_before || plain ||
                              f->level < SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER))
        return false;
    if (plain && opens && !is_expected(ask->expected, f->content))
        return false;
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
    if (!texts_are_clean(&result->base, 0))
        return false;
    if (result->error)
        return result->error > 0 && result->kind_case == SP__PROVER_RESULT__KIND__NOT_SET;
    if (job->kind_case == SP__PROVER_JOB__KIND_LOOK)
        return result->kind_case == SP__PROVER_RESULT__KIND_LOOK &&
               look_fits(job->look, result->look);
    return result->kind_case == SP__PROVER_RESULT__KIND_FINDING &&
           finding_fits(job->proof, result->finding);
}
