/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/proof.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/prover/payload.h"
#include "controller/keeper/prover/recognise.h"
#include <stdarg.h>
#include <string.h>

static const struct proof_kind *const kinds[] = {&proof_luks1, &proof_luks2, &proof_plain};

/* ---- for the kinds ---- */

static int set_text(char **field, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
static int set_text(char **field, const char *format, va_list args)
{
    char *text;
    if (vasprintf(&text, format, args) < 0)
        return -ENOMEM;
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
    enum { BEGINNING = 64 << 10 };
    uint32_t size = reader->size_bytes < BEGINNING ? (uint32_t)reader->size_bytes : BEGINNING;
    SP_FREE void *bytes = malloc(size);
    return bytes ? reader->read_at(reader->self, 0, bytes, size) : -ENOMEM;
}

/* The method tells of what was done, so the cipher joins it only now. */
static int note_cipher(struct proof *p, const char *name)
{
    SP_FREE char *before = strdup(p->finding->method);
    return before ? proof_method(p, "%s; OpenSSL 3 %s", before, name) : -ENOMEM;
}

static int recognise(struct proof *p, const struct volume_reader *reader, struct sp_why *why)
{
    int r = prover_recognise(reader, p->ask->expected, &p->finding->content, why);
    if (r == 1 && p->parameters_unproved)
        r = prover_holds_together(reader, p->finding->content, why);
    if (r != 1 && p->finding->content) {
        sp__content__free_unpacked(p->finding->content, NULL);
        p->finding->content = NULL;
    }
    return r;
}

static int decrypt_and_look(struct proof *p, struct payload *payload, struct sp_why *why)
{
    struct volume_reader reader = payload_reader(payload);
    int r = read_beginning(&reader);
    if (r == 0)
        r = recognise(p, &reader, why);
    if (r < 0)
        return r;
    int e = snapshot_evidence(p->snapshot, payload->start_bytes, &p->finding->sectors,
                              &p->finding->n_sectors);
    return e < 0 ? e : r;
}

int proof_sectors(struct proof *p, const struct cipher_parameters *parameters,
                  const struct sp_secret *key, uint64_t start_bytes, uint64_t length_bytes,
                  struct sp_why *why)
{
    struct sector_cipher *cipher;
    int r = sector_cipher_new(parameters, key, &cipher, why);
    if (r < 0)
        return r;
    struct payload payload;
    r = payload_open(p->snapshot, cipher, parameters->sector_bytes, start_bytes, length_bytes,
                     &payload);
    if (r < 0)
        sp_why_set(why, r, "the snapshot ends before the payload begins");
    else
        r = decrypt_and_look(p, &payload, why);
    sector_cipher_free(cipher);
    int e = r >= 0 ? note_cipher(p, parameters->name) : 0;
    return e < 0 ? e : r;
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
    if (!ask->volume || !secret || !sp_secret_size(secret))
        return sp_why_set(why, -EINVAL, "a proof needs a volume and a secret");
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
