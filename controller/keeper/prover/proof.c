/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/proof.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/prover/recognise.h"
#include <stdarg.h>
#include <string.h>

static const struct proof_kind *const kinds[] = {&proof_luks1, &proof_luks2, &proof_bitlocker,
                                                 &proof_plain};

/* ---- for the kinds ---- */

/* libcryptsetup's sentences quote the header, where anything can stand. */
static void make_printable(char *text)
{
    for (size_t n; *text; text += n) {
        n = sp_utf8_printable((const unsigned char *)text);
        if (!n) {
            *text = '?';
            n = 1;
        }
    }
}

static int set_text(char **field, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
static int set_text(char **field, const char *format, va_list args)
{
    char *text;
    if (vasprintf(&text, format, args) < 0)
        return -ENOMEM;
    make_printable(text);
    if (*field != protobuf_c_empty_string)
        free(*field);
    *field = text;
    return 0;
}

int proof_end(struct proof *p, Sp__ProofVerdict verdict, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    p->finding->verdict = verdict;
    int r = set_text(&p->finding->text, format, args);
    va_end(args);
    return r;
}

int proof_method(struct proof *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int r = set_text(&p->finding->method, format, args);
    va_end(args);
    return r;
}

/* What decided is evidence in any case: the beginning, and where libblkid went. */
static int read_beginning(const struct volume_reader *reader)
{
    enum { BEGINNING = 64 << 10, STEP = 4 << 10 };
    uint32_t size = reader->size_bytes < BEGINNING ? (uint32_t)reader->size_bytes : BEGINNING;
    uint8_t bytes[STEP];
    int r = 0;
    for (uint32_t at = 0; r == 0 && at < size; at += STEP)
        r = reader->read_at(reader->self, at, bytes, size - at < STEP ? size - at : STEP);
    return r;
}

/* The method tells of what was done, so the cipher joins it only now. */
static int note_cipher(struct proof *p, const char *name)
{
    SP_FREE char *before = strdup(p->finding->method);
    return before ? proof_method(p, "%s; OpenSSL 3 %s", before, name) : -ENOMEM;
}

static int recognise(struct proof *p, const struct volume_reader *reader, struct sp_why *why)
{
    /* A proof that is made anew for every backup; the first one had libblkid's full look. */
    int r = p->ask->header_opened_before ? prover_glance(reader, &p->finding->content) : 0;
    if (r == 0)
        r = prover_recognise(reader, p->ask->expected, &p->finding->content, why);
    if (r == 1 && p->parameters_unproved)
        r = prover_holds_together(reader, p->finding->content, why);
    if (r != 1 && p->finding->content) {
        sp__content__free_unpacked(p->finding->content, NULL);
        p->finding->content = NULL;
    }
    return r;
}

static uint64_t first_byte(const struct payload *p)
{
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < p->count; i++) {
        if (p->pieces[i].cipher && p->pieces[i].on_bytes < first)
            first = p->pieces[i].on_bytes;
    }
    return first;
}

static int decrypt_and_look(struct proof *p, struct payload *payload, struct sp_why *why)
{
    struct volume_reader reader = payload_reader(payload);
    int r = read_beginning(&reader);
    if (r == 0)
        r = recognise(p, &reader, why);
    if (r < 0)
        return r;
    int e = snapshot_evidence(p->snapshot, first_byte(payload), &p->finding->sectors,
                              &p->finding->n_sectors);
    return e < 0 ? e : r;
}

int proof_payload(struct proof *p, const struct payload_piece *pieces, size_t count,
                  const char *cipher, struct sp_why *why)
{
    struct payload payload;
    int r = payload_open(p->snapshot, pieces, count, &payload);
    if (r == -ERANGE)
        return sp_why_set(why, r, "the snapshot ends before the payload begins");
    if (r == -EINVAL || r == -E2BIG)
        return sp_why_set(why, -EINVAL,
                          "the header lays the payload out in a way that makes no "
                          "sense");
    if (r == 0)
        r = decrypt_and_look(p, &payload, why);
    int e = r >= 0 ? note_cipher(p, cipher) : 0;
    return e < 0 ? e : r;
}

int proof_sectors(struct proof *p, const struct cipher_parameters *parameters,
                  const struct sp_secret *key, uint64_t start_bytes, uint64_t length_bytes,
                  struct sp_why *why)
{
    struct payload_piece piece = {.length_bytes = length_bytes,
                                  .on_bytes = start_bytes,
                                  .sector_bytes = parameters->sector_bytes};
    uint64_t size = snapshot_reader(p->snapshot).size_bytes;
    if (!length_bytes)
        piece.length_bytes = start_bytes < size ? size - start_bytes : 0;
    int r = sector_cipher_new(parameters, key, &piece.cipher, why);
    if (r < 0)
        return r;
    r = proof_payload(p, &piece, 1, parameters->name, why);
    sector_cipher_free(piece.cipher);
    return r;
}

/* ---- headers ---- */

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

int proof_check_header(struct proof *p, const struct volume_format *format,
                       const Sp__HeaderFacts *f, bool *ret_good)
{
    const Sp__Volume *v = p->ask->volume;
    char id[200];
    *ret_good = false;
    int r = keep_fingerprint(p, f);
    if (r < 0)
        return r;
    if (f->damaged)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED, "%s",
                         f->damage[0] ? f->damage : "no good copy of the header is left");
    if (format->kind != v->kind)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED,
                         "the snapshot holds a header of %s where another kind was", format->name);
    const Sp__DiskExtent *first = v->extents[0]->on;
    volume_id_text(format->kind, f->uuid, first->disk_id, first->offset_bytes, id, sizeof(id));
    if (v->volume_id[0] && strcmp(id, v->volume_id) != 0)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED,
                         "the header is of the volume %s", id);
    *ret_good = true;
    return 0;
}

int proof_opened(struct proof *p, const char *protector_id, struct sp_secret **volume_key)
{
    p->finding->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER;
    p->volume_key = sp_steal(*volume_key);
    if (!protector_id[0])
        return 0;
    char *id = strdup(protector_id);
    if (!id)
        return -ENOMEM;
    p->finding->protector_id = id;
    return 0;
}

/* What the guest has mapped is no condition where a header vouches for the key, but worth a word.
 */
static int end_recognised(struct proof *p)
{
    const Sp__Content *found = p->finding->content, *expected = p->ask->expected;
    bool differs =
        expected && expected->type[0] &&
        (strcmp(found->type, expected->type) != 0 || strcmp(found->uuid, expected->uuid) != 0);
    p->finding->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT;
    return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS, "opens; inside is %s%s%s%s%s",
                     found->type, found->uuid[0] ? " " : "", found->uuid,
                     differs ? ", while the guest had mapped " : "", differs ? expected->type : "");
}

int proof_end_opened(struct proof *p, int seen, const struct sp_why *why)
{
    if (seen == 1)
        return end_recognised(p);
    if (seen == -ENOTSUP)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE,
                         "the key opens the header; %s", why->text);
    if (seen == 0 || seen == -ERANGE)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED,
                         "the key opens the header; %s", why->text);
    return seen;
}

/* ---- the job ---- */

static const struct proof_kind *kind_of(Sp__VolumeKind kind)
{
    for (size_t i = 0; i < SP_COUNT(kinds); i++) {
        if (kinds[i]->kind == kind)
            return kinds[i];
    }
    return NULL;
}

/* A kind's failure is a finding too: the keeper signs what was tried. */
static int run(struct proof *p)
{
    const struct proof_kind *kind = kind_of(p->ask->volume->kind);
    if (!kind)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE,
                         "this prover knows no way to open a volume of this kind");
    struct sp_why why = {0};
    int r = kind->prove(p, &why);
    if (r >= 0 || r == -ENOMEM)
        return r;
    return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_ERROR, "%s%s%s", why.text,
                     why.text[0] ? ": " : "", strerror(-r));
}

static int prove_on(const Sp__ProverProof *ask, struct prover_disks *disks, struct proof *p,
                    struct sp_why *why)
{
    int r = snapshot_open(disks, ask->volume->extents, ask->volume->n_extents, &p->snapshot);
    if (r == -EINVAL)
        return sp_why_set(why, r, "the extents of %s make no sense on these disks",
                          ask->volume->volume_id);
    if (r < 0)
        return r;
    r = run(p);
    snapshot_close(p->snapshot);
    return r;
}

int prover_prove(const Sp__ProverProof *ask, int reader_socket, const struct sp_secret *secret,
                 Sp__ProverFinding **ret, struct sp_secret **ret_volume_key, struct sp_why *why)
{
    if (!ask->volume || (secret && !sp_secret_size(secret)))
        return sp_why_set(why, -EINVAL, "a proof needs a volume, and a secret that is not empty");
    if (!secret && ask->volume->kind != SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER)
        return sp_why_set(why, -EINVAL, "a proof needs a secret");
    struct prover_disks disks;
    int r = prover_disks_open(reader_socket, ask->disks, ask->n_disks, &disks);
    if (r < 0)
        return r;
    struct proof p = {.ask = ask, .secret = secret, .finding = malloc(sizeof(*p.finding))};
    if (p.finding) {
        sp__prover_finding__init(p.finding);
        r = prove_on(ask, &disks, &p, why);
    } else {
        r = -ENOMEM;
    }
    prover_disks_close(&disks);
    if (r < 0) {
        if (p.finding)
            sp__prover_finding__free_unpacked(p.finding, NULL);
        sp_secret_free(p.volume_key);
        return r;
    }
    p.finding->has_volume_key = p.volume_key != NULL;
    *ret = p.finding;
    *ret_volume_key = p.volume_key;
    return 0;
}
