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

/* ---- the payload ---- */

static bool has_flag(const Sp__Segment *s, const char *flag)
{
    for (size_t i = 0; i < s->n_flags; i++) {
        if (strncmp(s->flags[i], flag, strlen(flag)) == 0)
            return true;
    }
    return false;
}

/* Keys by what they are for: one for all, or one for each digest while re-encryption is under way.
 */
struct keys {
    const struct sp_secret *one;
    struct header_digest digests[HEADER_DIGESTS];
    struct sp_secret *of[HEADER_DIGESTS]; /* owned */
    size_t count;
};

static void keys_close(struct keys *k)
{
    for (size_t i = 0; i < k->count; i++)
        sp_secret_free(k->of[i]);
}

static const struct sp_secret *key_of(const struct keys *k, const Sp__Segment *s)
{
    for (size_t i = 0; i < k->count; i++) {
        if (s->number < 64 && k->digests[i].segments >> s->number & 1)
            return k->of[i];
    }
    return k->one;
}

/* Is the segment payload that a key can be tried on? The rest of a volume in conversion is left
 * out: parts that are not encrypted (any more, or yet), and the small zone being worked on, of
 * which only a repair can tell under which key it is. */
static bool is_readable(const Sp__Segment *s)
{
    return strcmp(s->type, "crypt") == 0 && !has_flag(s, "in-reencryption");
}

struct layout {
    struct payload_piece pieces[PAYLOAD_MAX_PIECES];
    size_t count;
    const char *cipher;
};

static void layout_close(struct layout *l)
{
    for (size_t i = 0; i < l->count; i++)
        sector_cipher_free(l->pieces[i].cipher);
}

static int add_piece(struct proof *p, struct layout *l, const struct cipher_parameters *cipher,
                     const struct sp_secret *key, uint64_t start_bytes, uint64_t length_bytes,
                     struct sp_why *why)
{
    if (l->count == PAYLOAD_MAX_PIECES)
        return sp_why_set(why, -ENOTSUP, "the payload has more segments than can be followed here");
    uint64_t size = snapshot_reader(p->snapshot).size_bytes;
    struct payload_piece *piece = &l->pieces[l->count];
    *piece = (struct payload_piece){.length_bytes = length_bytes,
                                    .on_bytes = start_bytes,
                                    .sector_bytes = cipher->sector_bytes};
    if (!length_bytes)
        piece->length_bytes = start_bytes < size ? size - start_bytes : 0;
    piece->hidden = !key;
    int r = key ? sector_cipher_new(cipher, key, &piece->cipher, why) : 0;
    if (r < 0)
        return r;
    if (key)
        l->cipher = cipher->name;
    l->count++;
    return 0;
}

static int add_segment(struct proof *p, struct layout *l, const Sp__Segment *s,
                       const struct keys *keys, struct sp_why *why)
{
    const char *integrity = s->integrity;
    bool readable = is_readable(s);
    if (!readable && (strcmp(s->type, "crypt") != 0 && strcmp(s->type, "linear") != 0))
        return sp_why_set(why, -ENOTSUP, "segment %u is of the type '%s', which is not known here",
                          s->number, s->type);
    if (integrity[0])
        return sp_why_set(why, -ENOTSUP,
                          "the data carry authentication tags (%s), which need dm-integrity",
                          integrity);
    struct cipher_parameters cipher = {.name = s->cipher,
                                       .sector_bytes = s->sector_bytes ? s->sector_bytes : 512,
                                       .iv_offset_sectors = s->iv_offset_sectors};
    return add_piece(p, l, &cipher, readable ? key_of(keys, s) : NULL, s->offset_bytes,
                     s->length_bytes, why);
}

/* LUKS2's data segments in the order of their numbers, which is that of the payload. */
static int add_segments(struct proof *p, const Sp__HeaderFacts *f, const struct keys *keys,
                        struct layout *l, struct sp_why *why)
{
    for (uint32_t number = 0; number < 64; number++) {
        for (size_t i = 0; i < f->n_segments; i++) {
            const Sp__Segment *s = f->segments[i];
            if (s->number != number || has_flag(s, "backup"))
                continue;
            int r = add_segment(p, l, s, keys, why);
            if (r < 0)
                return r;
        }
    }
    if (!l->count || !l->pieces[0].cipher)
        return sp_why_set(why, -ENOTSUP, "the header tells of no encrypted segment %s",
                          l->count ? "where the payload begins" : "at all");
    return 0;
}

/* How the payload is encrypted; -ENOTSUP with a sentence when it cannot be read here. */
static int lay_out(struct proof *p, const Sp__HeaderFacts *f, const struct keys *keys,
                   struct layout *l, struct sp_why *why)
{
    if (f->version == 2)
        return add_segments(p, f, keys, l, why);
    struct cipher_parameters cipher = {.name = f->cipher,
                                       .sector_bytes = f->sector_bytes ? f->sector_bytes : 512,
                                       .iv_offset_sectors = f->iv_offset_sectors};
    return add_piece(p, l, &cipher, keys->one, f->payload_offset_bytes, f->payload_length_bytes,
                     why);
}

static int look_inside(struct proof *p, const Sp__HeaderFacts *f, const struct keys *keys)
{
    struct layout l = {.count = 0};
    struct sp_why why = {0};
    int r = 0;
    if (f->n_requirements && !f->conversion_in_progress)
        r = sp_why_set(&why, -ENOTSUP, "the header requires '%s', which is not known here",
                       f->requirements[0]);
    if (r == 0)
        r = lay_out(p, f, keys, &l, &why);
    if (r == 0)
        r = proof_payload(p, l.pieces, l.count, l.cipher, &why);
    layout_close(&l);
    return proof_end_opened(p, r, &why);
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
    if (f->conversion_in_progress)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE,
                         "re-encryption is under way: no kept key stands for both keys");
    if (f->key_bits && sp_secret_size(p->secret) * 8 != f->key_bits)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                         "the volume key kept from the earlier proof does not fit this header");
    p->finding->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER;
    int r = proof_method(p, "header proved before, volume key kept");
    struct keys keys = {.one = p->secret};
    return r < 0 ? r : look_inside(p, f, &keys);
}

static int note_slot(struct proof *p, const char *slot)
{
    return proof_method(p, "%s %s%s%s", header_library, secret_word(p->ask->secret_type),
                        slot[0] ? ", keyslot " : "", slot);
}

static int prove_new(struct proof *p, const struct volume_reader *reader, struct header *h,
                     struct sp_why *why)
{
    struct header_try t;
    int r = header_try(reader, h, p->ask->secret_type, p->secret, p->ask->protector_id, &t);
    if (r < 0)
        return sp_why_set(why, r, "the header could not be worked on");
    r = note_slot(p, t.verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS ? t.protector_id : "");
    if (r == 0 && t.verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS) {
        r = proof_opened(p, t.protector_id, &t.key);
        struct keys keys = {.one = p->volume_key};
        return r < 0 ? r : look_inside(p, h->facts, &keys);
    }
    return r < 0 ? r : proof_end(p, t.verdict, "%s", t.why.text);
}

/* ---- re-encryption under way: old key and new key, each with its own digest ---- */

static bool is_needed(const Sp__HeaderFacts *f, const struct header_digest *d)
{
    for (size_t i = 0; i < f->n_segments; i++) {
        const Sp__Segment *s = f->segments[i];
        if (!has_flag(s, "backup") && is_readable(s) && s->number < 64 &&
            d->segments >> s->number & 1)
            return true;
    }
    return false;
}

/* Every key that the data are under, from the one secret. The slot of a record counts for neither:
 * re-encryption gives the new key slots of its own. */
static int open_digests(struct proof *p, struct header *h, struct keys *keys,
                        struct header_try *last)
{
    size_t needed = 0, opened = 0;
    for (size_t i = 0; i < keys->count; i++) {
        if (!is_needed(h->facts, &keys->digests[i]))
            continue;
        needed++;
        int r = header_try_digest(h, &keys->digests[i], p->secret, last);
        if (r < 0)
            return r;
        if (last->verdict != SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
            break;
        opened++;
        keys->of[i] = sp_steal(last->key);
    }
    if (opened == needed && needed)
        return 0;
    if (opened) {
        last->verdict = SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE;
        sp_why_set(&last->why, 0,
                   "re-encryption is under way, and the secret opens one of its two keys only: "
                   "prove again when it has ended");
    } else if (!needed) {
        last->verdict = SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE;
        sp_why_set(&last->why, 0, "re-encryption is under way, and no digest tells of its keys");
    }
    return 0;
}

static int prove_converting(struct proof *p, const struct volume_reader *reader, struct header *h)
{
    if (p->ask->secret_type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE,
                         "re-encryption is under way (%u %%): no one volume key opens the data",
                         h->facts->conversion_percent);
    struct keys keys = {.count = 0};
    struct header_try t = {0};
    int r = header_digests(reader, h, keys.digests, &keys.count, &t);
    if (r == 0 && t.verdict == SP__PROOF_VERDICT__PROOF_VERDICT_UNSPECIFIED)
        r = open_digests(p, h, &keys, &t);
    bool opens = t.verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    struct sp_secret *none = NULL;
    if (r == 0)
        r = note_slot(p, opens ? t.protector_id : "");
    if (r == 0 && opens)
        r = proof_opened(p, t.protector_id, &none);
    if (r == 0)
        r = opens ? look_inside(p, h->facts, &keys) : proof_end(p, t.verdict, "%s", t.why.text);
    size_t opened = 0;
    for (size_t i = 0; i < keys.count; i++)
        opened += keys.of[i] != NULL;
    if (r == 0 && p->finding->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
        r = proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS,
                      "opens, with all %zu keys of a re-encryption under way (%u %%); inside is %s "
                      "%s",
                      opened, h->facts->conversion_percent, p->finding->content->type,
                      p->finding->content->uuid);
    keys_close(&keys);
    return r;
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
    bool good;
    r = proof_check_header(p, h->format, h->facts, &good);
    if (r < 0 || !good)
        return r;
    return p->ask->header_opened_before       ? prove_carried(p, h->facts)
           : h->facts->conversion_in_progress ? prove_converting(p, reader, h)
                                              : prove_new(p, reader, h, why);
}

static int prove(struct proof *p, struct sp_why *why)
{
    if (p->ask->secret_type == SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY ||
        p->ask->secret_type == SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                         "a %s is BitLocker's and opens no LUKS volume",
                         p->ask->secret_type == SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY
                             ? "startup key"
                             : "recovery password");
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
