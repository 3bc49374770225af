/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * LUKS1 (on-disk format specification 1.2.3) and LUKS2 (LUKS2 on-disk format specification 1.1). */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "controller/keeper/prover/header.h"
#include "controller/keeper/prover/proof.h"
#include <string.h>

/* ---- where the header is read from ---- */

static int read_memory(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct sp_bytes *b = self;
    if (offset > b->size || length > b->size - offset)
        return -ERANGE;
    memcpy(out, b->data + offset, length);
    return 0;
}

static bool is_detached(const struct proof *p)
{
    return p->ask->header && p->ask->header->bytes.len;
}

/* ---- is it the header that was meant? ---- */

static int check_found(struct proof *p, const struct header *h, bool *ret_good)
{
    const Sp__HeaderFacts *f = h->facts;
    const Sp__Volume *v = p->ask->volume;
    char id[200];
    *ret_good = false;
    if (f->damaged)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED, "%s",
                         f->damage[0] ? f->damage : "no good copy of the header is left");
    if (h->format->kind != v->kind)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED,
                         "the snapshot holds a header of %s where another kind was",
                         h->format->name);
    const Sp__DiskExtent *first = v->extents[0]->on;
    volume_id_text(h->format->kind, f->uuid, first->disk_id, first->offset_bytes, id, sizeof(id));
    if (v->volume_id[0] && strcmp(id, v->volume_id) != 0)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED,
                         "the header is of the volume %s", id);
    *ret_good = true;
    return 0;
}

static int keep_fingerprint(struct proof *p, const Sp__HeaderFacts *f)
{
    ProtobufCBinaryData *to = &p->finding->header_fingerprint;
    if (!f->fingerprint.len)
        return 0;
    to->data = malloc(f->fingerprint.len);
    if (!to->data)
        return -ENOMEM;
    memcpy(to->data, f->fingerprint.data, f->fingerprint.len);
    to->len = f->fingerprint.len;
    return 0;
}

/* ---- the payload ---- */

static bool is_backup(const Sp__Segment *s)
{
    for (size_t i = 0; i < s->n_flags; i++) {
        if (strncmp(s->flags[i], "backup", 6) == 0)
            return true;
    }
    return false;
}

/* LUKS2's one data segment; NULL when there is none or there are several. */
static const Sp__Segment *data_segment(const Sp__HeaderFacts *f)
{
    const Sp__Segment *found = NULL;
    for (size_t i = 0; i < f->n_segments; i++) {
        if (is_backup(f->segments[i]))
            continue;
        if (found)
            return NULL;
        found = f->segments[i];
    }
    return found;
}

struct place {
    struct cipher_parameters cipher;
    uint64_t start_bytes, length_bytes;
};

/* How the payload is encrypted; -ENOTSUP with a sentence when it is not all under one key that
 * dm-crypt alone uses. */
static int find_payload(const Sp__HeaderFacts *f, struct place *ret, struct sp_why *why)
{
    if (f->conversion_in_progress)
        return sp_why_set(why, -ENOTSUP,
                          "re-encryption is under way (%u %%), so the data are under two keys: "
                          "prove again when it has ended",
                          f->conversion_percent);
    if (f->n_requirements)
        return sp_why_set(why, -ENOTSUP, "the header requires '%s', which is not known here",
                          f->requirements[0]);
    *ret = (struct place){.cipher = {.name = f->cipher,
                                     .sector_bytes = f->sector_bytes ? f->sector_bytes : 512,
                                     .iv_offset_sectors = f->iv_offset_sectors},
                          .start_bytes = f->payload_offset_bytes,
                          .length_bytes = f->payload_length_bytes};
    const char *integrity = f->integrity;
    if (f->version == 2) {
        const Sp__Segment *s = data_segment(f);
        if (!s || strcmp(s->type, "crypt") != 0)
            return sp_why_set(why, -ENOTSUP, "the header tells of no single encrypted segment");
        ret->cipher = (struct cipher_parameters){.name = s->cipher,
                                                 .sector_bytes = s->sector_bytes,
                                                 .iv_offset_sectors = s->iv_offset_sectors};
        ret->start_bytes = s->offset_bytes;
        ret->length_bytes = s->length_bytes;
        integrity = s->integrity[0] ? s->integrity : integrity;
    }
    if (integrity[0])
        return sp_why_set(why, -ENOTSUP,
                          "the data carry authentication tags (%s), which need dm-integrity",
                          integrity);
    return 0;
}

/* What the guest has mapped is no condition here, where a digest vouches for the key, but worth a
 * word. */
static int end_opened(struct proof *p)
{
    const Sp__Content *found = p->finding->content, *expected = p->ask->expected;
    bool differs =
        expected && expected->type[0] &&
        (strcmp(found->type, expected->type) != 0 || strcmp(found->uuid, expected->uuid) != 0);
    return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS, "opens; inside is %s%s%s%s%s",
                     found->type, found->uuid[0] ? " " : "", found->uuid,
                     differs ? ", while the guest had mapped " : "", differs ? expected->type : "");
}

static int look_inside(struct proof *p, const Sp__HeaderFacts *f, const struct sp_secret *key)
{
    struct place at = {0};
    struct sp_why why = {0};
    int r = find_payload(f, &at, &why);
    if (r == 0)
        r = proof_sectors(p, &at.cipher, key, at.start_bytes, at.length_bytes, &why);
    if (r == -ENOTSUP)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE,
                         "the key opens the header; %s", why.text);
    if (r == 0 || r == -ERANGE)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED,
                         "the key opens the header; %s", why.text);
    if (r < 0)
        return r;
    p->finding->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT;
    return end_opened(p);
}

/* ---- the key ---- */

static const char *secret_word(Sp__SecretType type)
{
    return type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY ? "volume key"
           : type == SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE ? "key file"
                                                           : "passphrase";
}

/* Carry-over: the secret is the volume key that this header's digest vouched for earlier. */
static int prove_carried(struct proof *p, const Sp__HeaderFacts *f)
{
    if (f->key_bits && sp_secret_size(p->secret) * 8 != f->key_bits)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                         "the volume key kept from the earlier proof does not fit this header");
    p->finding->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER;
    int r = proof_method(p, "header proved before, volume key kept");
    return r < 0 ? r : look_inside(p, f, p->secret);
}

static int keep_opened(struct proof *p, struct header_try *t)
{
    p->finding->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER;
    p->volume_key = sp_steal(t->key);
    if (t->protector_id[0]) {
        p->finding->protector_id = strdup(t->protector_id);
        if (!p->finding->protector_id) {
            p->finding->protector_id = (char *)protobuf_c_empty_string;
            return -ENOMEM;
        }
    }
    return proof_method(p, "%s %s%s%s", header_library, secret_word(p->ask->secret_type),
                        t->protector_id[0] ? ", keyslot " : "", t->protector_id);
}

static int prove_new(struct proof *p, const struct volume_reader *reader, struct header *h,
                     struct sp_why *why)
{
    struct header_try t;
    int r = header_try(reader, h, p->ask->secret_type, p->secret, p->ask->protector_id, &t);
    if (r < 0)
        return sp_why_set(why, r, "the header could not be worked on");
    if (t.verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS) {
        r = keep_opened(p, &t);
        return r < 0 ? r : look_inside(p, h->facts, p->volume_key);
    }
    r = proof_method(p, "%s %s", header_library, secret_word(p->ask->secret_type));
    return r < 0 ? r : proof_end(p, t.verdict, "%s", t.why.text);
}

/* ---- all of it ---- */

static int prove_header(struct proof *p, const struct volume_reader *reader, struct header *h,
                        struct sp_why *why)
{
    int r = header_find(reader, h);
    if (r < 0)
        return sp_why_set(why, r, "the header could not be read");
    if (r == 0)
        return proof_end(
            p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED, "there is no LUKS header %s",
            is_detached(p) ? "in what the guest handed over" : "where the volume begins");
    r = keep_fingerprint(p, h->facts);
    if (r < 0)
        return r;
    bool good;
    r = check_found(p, h, &good);
    if (r < 0 || !good)
        return r;
    return p->ask->header_opened_before ? prove_carried(p, h->facts) : prove_new(p, reader, h, why);
}

static int prove(struct proof *p, struct sp_why *why)
{
    if (p->ask->secret_type == SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                         "a startup key is BitLocker's and opens no LUKS volume");
    struct sp_bytes bytes = {0};
    struct volume_reader reader = snapshot_reader(p->snapshot);
    if (is_detached(p)) {
        if (p->ask->header->volume_offset_bytes)
            return sp_why_set(why, -EINVAL, "a detached header that does not begin at byte 0");
        bytes = (struct sp_bytes){p->ask->header->bytes.data, p->ask->header->bytes.len};
        reader = (struct volume_reader){
            .read_at = read_memory, .self = &bytes, .size_bytes = bytes.size};
    }
    struct header h;
    int r = prove_header(p, &reader, &h, why);
    header_close(&h);
    return r;
}

const struct proof_kind proof_luks1 = {SP__VOLUME_KIND__VOLUME_KIND_LUKS1, prove};
const struct proof_kind proof_luks2 = {SP__VOLUME_KIND__VOLUME_KIND_LUKS2, prove};
