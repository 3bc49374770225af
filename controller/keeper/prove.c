/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A proof: do the records in escrow open this volume in this snapshot?
 *
 *   records of this machine and volume ─▶ each: carried over? ─▶ prover (sectors only) ─┐ opens
 *                                              │ no, or did not open                    ├──▶
 * statement, └────────────▶ prover (header, sectors) ─┘    signed
 *                                                     └ nothing opens: external.c asks the
 * providers
 *
 * Nothing but OPENS at plaintext level supports a valid point. A carried-over verdict that does not
 * open is never the last word: the whole proof is made again. */
#include "controller/keeper/prove.h"
#include "base/signed_request.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/carry.h"
#include "controller/keeper/external.h"
#include "controller/keeper/job.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/life.h"
#include "controller/keeper/message.h"
#include "controller/keeper/records.h"
#include "controller/keeper/rules.h"
#include <string.h>

enum { ATTEMPTS_MOST = 32 };

MESSAGE_CLEANUP(result, Sp__ProverResult, sp__prover_result__free_unpacked)
MESSAGE_CLEANUP(statement, Sp__ProofStatement, sp__proof_statement__free_unpacked)
MESSAGE_CLEANUP(record, Sp__EscrowRecord, sp__escrow_record__free_unpacked)

/* ---- which verdict stands, when several records were tried ---- */

/* Higher stands. Wrong is said only when every record was really tried: one that could not be
 * checked leaves the question open. */
int proving_weight(Sp__ProofVerdict verdict)
{
    switch (verdict) {
    case SP__PROOF_VERDICT__PROOF_VERDICT_OPENS:
        return 10;
    case SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED:
        return 9;
    case SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED:
        return 8;
    case SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE:
        return 7;
    case SP__PROOF_VERDICT__PROOF_VERDICT_ERROR:
        return 6;
    case SP__PROOF_VERDICT__PROOF_VERDICT_DENIED:
        return 5;
    case SP__PROOF_VERDICT__PROOF_VERDICT_EXPIRED:
        return 4;
    case SP__PROOF_VERDICT__PROOF_VERDICT_UNREACHABLE:
        return 3;
    case SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR:
        return 2;
    case SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY:
        return 1;
    default:
        return 0;
    }
}

/* ---- evidence ---- */

static const Sp__LookDisk *find_disk(const Sp__ProveRequest *ask, const char *disk_id)
{
    for (size_t i = 0; i < ask->n_disks; i++)
        if (strcmp(ask->disks[i]->disk_id, disk_id) == 0)
            return ask->disks[i];
    return NULL;
}

/* The root that bytes were read through is what the request said, never what the prover says. */
static int set_roots(const Sp__ProveRequest *ask, Sp__ProverFinding *f)
{
    for (size_t i = 0; i < f->n_sectors; i++) {
        Sp__SectorEvidence *s = f->sectors[i];
        const Sp__LookDisk *disk = s->on ? find_disk(ask, s->on->disk_id) : NULL;
        if (!disk || s->sha256.len != 32 || s->on->offset_bytes > disk->size_bytes ||
            s->on->length_bytes > disk->size_bytes - s->on->offset_bytes)
            return -EPROTO;
        free(s->disk_root.data);
        int r = message_bytes(&s->disk_root, disk->disk_root.data, disk->disk_root.len);
        if (r < 0)
            return r;
    }
    return 0;
}

static bool same_text(const char *a, const char *b)
{
    return a[0] && strcmp(a, b) == 0;
}

/* What the prover says is judged here once more, by rules that need no secret. */
static void judge(const struct proving *p, Sp__ProverFinding *f)
{
    const Sp__Content *expected = p->ask->expected, *found = f->content;
    bool plain = p->ask->volume->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN;
    if (f->verdict != SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
        return;
    bool holds = found && found->type[0] && f->n_sectors > 0 &&
                 f->level >= SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT;
    /* No digest vouches for a plain key: the content must be the very one that the guest had. */
    if (holds && plain)
        holds = expected && same_text(expected->type, found->type) &&
                strcmp(expected->uuid, found->uuid) == 0;
    if (!holds)
        f->verdict = SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED;
}

/* Takes what the finding says over into the statement. */
static int take(struct proving *p, const Sp__EscrowRecord *e, Sp__ProverFinding *f,
                const char *carried_from)
{
    Sp__ProofStatement *s = p->statement;
    Sp__EscrowRecord *record = e ? (Sp__EscrowRecord *)sp_message_copy(&e->base) : NULL;
    if (e && !record)
        return -ENOMEM;
    if (s->record)
        sp__escrow_record__free_unpacked(s->record, NULL);
    s->record = record;
    s->verdict = f->verdict;
    s->level = f->level;
#define MOVE(field)                                                                                \
    do {                                                                                           \
        __typeof__(s->field) moved_ = s->field;                                                    \
        s->field = f->field;                                                                       \
        f->field = moved_;                                                                         \
    } while (0)
    MOVE(protector_id);
    MOVE(header_fingerprint);
    MOVE(content);
    MOVE(sectors);
    MOVE(n_sectors);
    MOVE(method);
#undef MOVE
    char *text = s->explanation;
    s->explanation = f->text;
    f->text = text;
    if (s->carried_from_proof_id[0])
        free(s->carried_from_proof_id);
    s->carried_from_proof_id = (char *)(uintptr_t)protobuf_c_empty_string;
    return message_text(&s->carried_from_proof_id, carried_from);
}

int proving_note(struct proving *p, const Sp__EscrowRecord *e, Sp__ProofVerdict verdict,
                 const char *text)
{
    Sp__ProofStatement *s = p->statement;
    Sp__RecordAttempt *a = MESSAGE_NEW(Sp__RecordAttempt, sp__record_attempt__init);
    int r = a ? MESSAGE_ROOM(s->attempts, s->n_attempts) : -ENOMEM;
    if (r < 0) {
        free(a);
        return r;
    }
    s->attempts[s->n_attempts++] = a;
    a->generation = e->generation;
    a->verdict = verdict;
    r = message_text(&a->record_id, e->record_id);
    if (r == 0 && strcmp(e->provider, KEYSTORE_PROVIDER) != 0)
        r = message_text(&a->provider, e->provider);
    return r < 0 ? r : message_text(&a->text, text);
}

/* ---- one record ---- */

static int run_prover(struct proving *p, const Sp__EscrowRecord *e, Sp__SecretType type,
                      const struct sp_secret *secret, bool opened_before, Sp__ProverResult **ret,
                      struct sp_secret **ret_volume_key, struct sp_why *why)
{
    Sp__ProverProof proof = SP__PROVER_PROOF__INIT;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;

    /* The prover compares with the id that the header gives: a clone's is the original's. */
    char base[VOLUME_ID_BYTES];
    Sp__Volume volume = *p->ask->volume;
    volume.volume_id = sp_volume_id_base(volume.volume_id, base);
    proof.volume = &volume;
    proof.disks = p->ask->disks;
    proof.n_disks = p->ask->n_disks;
    proof.header = p->ask->header;
    proof.secret_type = type;
    if (e) {
        proof.plain = e->plain;
        proof.protector_id = e->protector_id;
    }
    proof.expected = p->ask->expected;
    proof.header_opened_before = opened_before;
    job.kind_case = SP__PROVER_JOB__KIND_PROOF;
    job.proof = &proof;
    /* What was proved before takes no key derivation, and does not wait for those that do. */
    struct keeper_gate *gate = opened_before ? &p->k->looks : &p->k->proofs;
    int r = job_run(p->k, gate, &job, p->reader, secret, ret, ret_volume_key, why);
    if (r == 0 && (*ret)->kind_case != SP__PROVER_RESULT__KIND_FINDING)
        r = sp_why_set(why, -EPROTO, "the prover answered something else than a finding");
    if (r == 0 && set_roots(p->ask, (*ret)->finding) < 0)
        r = sp_why_set(why, -EPROTO, "the prover's evidence is not on the disks it was given");
    return r;
}

/* Through the kept volume key. 1: opens, and the statement is filled; 0: nothing is kept or it did
 * not open, so the whole proof is due. */
static int try_carried(struct proving *p, const Sp__EscrowRecord *e)
{
    SP_CLEANUP(result) Sp__ProverResult *result = NULL;
    CARRY struct carry carry = {0};
    struct sp_why why = {""};
    struct sp_bytes fingerprint = {0};

    if (p->ask->volume->header)
        fingerprint = message_view(p->ask->volume->header->fingerprint);
    if (!p->ask->allow_carry_over || p->ask->reproof || fingerprint.size != 32 ||
        p->ask->volume->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN)
        return 0;
    pthread_mutex_lock(&p->k->lock);
    int r = carry_load(p->k, e, fingerprint, &carry);
    pthread_mutex_unlock(&p->k->lock);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    r = run_prover(p, e, SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY, carry.volume_key, true, &result,
                   NULL, &why);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    Sp__ProverFinding *f = result->finding;
    judge(p, f);
    /* The controller named the fingerprint; the prover computed it from the snapshot. */
    if (f->header_fingerprint.len != 32 ||
        memcmp(f->header_fingerprint.data, fingerprint.data, 32) != 0)
        return 0;
    r = proving_note(p, e, f->verdict, "header verdict carried over, sectors decrypted anew");
    if (r < 0 || f->verdict != SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
        return r;
    if (!f->protector_id[0] && (r = message_text(&f->protector_id, carry.protector_id)) < 0)
        return r;
    r = take(p, e, f, carry.proof_id);
    return r < 0 ? r : 1;
}

static int load_secret(struct proving *p, const Sp__EscrowRecord *e, struct sp_secret **ret)
{
    SP_CLEANUP(record) Sp__EscrowRecord *again = NULL;
    pthread_mutex_lock(&p->k->lock);
    int r = record_load(p->k, e->record_id, &again, ret, NULL);
    pthread_mutex_unlock(&p->k->lock);
    return r;
}

int proving_try(struct proving *p, const Sp__EscrowRecord *e, const struct sp_secret *secret)
{
    SP_CLEANUP(result) Sp__ProverResult *result = NULL;
    SP_SECRET struct sp_secret *volume_key = NULL;
    struct sp_why why = {""};

    int r = secret ? run_prover(p, e, e->secret_type, secret, false, &result, &volume_key, &why)
                   : sp_why_set(&why, -EBADMSG, "the record does not open in the keystore");
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        if (proving_weight(SP__PROOF_VERDICT__PROOF_VERDICT_ERROR) >
            proving_weight(p->statement->verdict))
            p->statement->verdict = SP__PROOF_VERDICT__PROOF_VERDICT_ERROR;
        return proving_note(p, e, SP__PROOF_VERDICT__PROOF_VERDICT_ERROR,
                            why.text[0] ? why.text : strerror(-r));
    }
    Sp__ProverFinding *f = result->finding;
    judge(p, f);
    bool opens = f->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    r = proving_note(p, e, f->verdict, f->text);
    if (r == 0 && proving_weight(f->verdict) > proving_weight(p->statement->verdict))
        r = take(p, e, f, "");
    if (r == 0 && opens)
        p->volume_key = sp_steal(volume_key);
    return r < 0 ? r : opens;
}

/* The whole proof with one record. 1: opens; 0: it does not; negative: out of memory. */
static int try_record(struct proving *p, const Sp__EscrowRecord *e)
{
    SP_SECRET struct sp_secret *secret = NULL;
    if (record_is_reference(e))
        return 0; /* what is at its provider is fetched there, every time */
    int r = load_secret(p, e, &secret);
    return r == -ENOMEM ? r : proving_try(p, e, secret);
}

/* ---- all records ---- */

static int try_all(struct proving *p, Sp__EscrowRecord *const *records, size_t count)
{
    size_t most = count < ATTEMPTS_MOST ? count : ATTEMPTS_MOST;
    int r = 0;
    /* What opened before is tried first: a wrong key costs as many seconds as the right one. */
    for (size_t i = 0; i < most && r == 0; i++)
        r = try_carried(p, records[i]);
    for (size_t i = 0; i < most && r == 0; i++) {
        r = try_record(p, records[i]);
        /* With the header gone, other keys for it tell nothing. */
        if (p->statement->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED)
            break;
    }
    /* Wrong is said only when nothing was left out. */
    if (r == 0 && most < count &&
        p->statement->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY)
        p->statement->verdict = SP__PROOF_VERDICT__PROOF_VERDICT_ERROR;
    return r < 0 ? r : 0;
}

/* ---- no record: a BitLocker key that lies in the clear ---- */

/* A suspended volume opens without any escrow. That is proved too, with no record: evidence that
 * the data can be had, while the finding PROTECTION_SUSPENDED says at what price. Only where the
 * volume has nothing that escrow could hold: it must not hide that a key is missing or wrong. 1:
 * opens, 0: not, or there is no such key. */
static int try_clear_key(struct proving *p)
{
    SP_CLEANUP(result) Sp__ProverResult *result = NULL;
    SP_SECRET struct sp_secret *volume_key = NULL; /* not kept: it belongs to no record */
    const Sp__HeaderFacts *header = p->ask->volume->header;
    struct sp_why why = {""};
    if (p->ask->volume->kind != SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER || !header ||
        !header->protection_suspended)
        return 0;
    int r = run_prover(p, NULL, SP__SECRET_TYPE__SECRET_TYPE_UNSPECIFIED, NULL, false, &result,
                       &volume_key, &why);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    judge(p, result->finding);
    if (result->finding->verdict != SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
        return 0;
    r = take(p, NULL, result->finding, "");
    return r < 0 ? r : 1;
}

static bool can_be_held(Sp__ProtectorType type)
{
    switch (type) {
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_CLEAR_KEY:
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM:
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM_PIN:
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM_STARTUP_KEY:
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_SMART_CARD:
        return false;
    default:
        return true;
    }
}

static bool has_usable_protector(const Sp__Volume *v)
{
    if (!v->header || v->header->n_protectors == 0)
        return true; /* not known: nothing is claimed */
    for (size_t i = 0; i < v->header->n_protectors; i++) {
        const Sp__Protector *x = v->header->protectors[i];
        if (x->usable && can_be_held(x->type))
            return true;
    }
    return false;
}

static int without_records(struct proving *p)
{
    Sp__ProofStatement *s = p->statement;
    if (s->verdict != SP__PROOF_VERDICT__PROOF_VERDICT_UNSPECIFIED)
        return 0; /* a provider's answer stands */
    if (!has_usable_protector(p->ask->volume)) {
        s->verdict = SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR;
        return message_text(&s->explanation, "the volume has no protector that escrow could hold");
    }
    s->verdict = SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD;
    return s->explanation[0]
               ? 0
               : message_text(&s->explanation, "the keystore holds no key for this volume");
}

static const char *explain(Sp__ProofVerdict verdict)
{
    switch (verdict) {
    case SP__PROOF_VERDICT__PROOF_VERDICT_OPENS:
        return "the record opens the volume and its content is recognised";
    case SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY:
        return "none of the records opens the volume";
    case SP__PROOF_VERDICT__PROOF_VERDICT_ERROR:
        return "a record could not be tried";
    default:
        return "";
    }
}

/* ---- statement ---- */

static int statement_new(const Sp__ProveRequest *ask, Sp__ProofStatement **ret)
{
    SP_CLEANUP(statement)
    Sp__ProofStatement *s = MESSAGE_NEW(Sp__ProofStatement, sp__proof_statement__init);
    char proof_id[37];
    if (!s)
        return -ENOMEM;
    s->format = PROOF_FORMAT;
    s->rules_version = RULES_VERSION;
    s->kind = ask->volume->kind;
    int r = sp_uuid_make(proof_id);
    if (r == 0)
        r = message_text(&s->proof_id, proof_id);
    if (r == 0)
        r = message_text(&s->machine_id, ask->machine_id);
    if (r == 0)
        r = message_text(&s->point_id, ask->point_id);
    if (r == 0)
        r = message_text(&s->volume_id, ask->volume->volume_id);
    if (r == 0)
        *ret = sp_steal(s);
    return r;
}

/* Keeps the volume key, writes the audit and signs. With keeper.lock. */
static int finish(struct proving *p, const Sp__KeeperRequest *request, Sp__Signed **ret)
{
    struct keeper *k = p->k;
    Sp__ProofStatement *s = p->statement;
    SP_FREE uint8_t *packed = NULL;
    size_t size = 0;
    bool keep = p->volume_key && s->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS &&
                s->kind != SP__VOLUME_KIND__VOLUME_KIND_PLAIN && s->header_fingerprint.len == 32;

    s->made_unix_ms = keeper_now_ms(k);
    int r = s->explanation[0] ? 0 : message_text(&s->explanation, explain(s->verdict));
    if (r == 0)
        r = store_begin(k->store);
    if (r < 0)
        return r;
    if (p->from)
        r = external_keep(p, &keep);
    if (r == 0 && s->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS && s->record)
        r = life_proved(k, s->record);
    if (r == -ENODATA) { /* destroyed meanwhile: nothing of it is kept, no seal takes the proof */
        keep = false;
        r = 0;
    }
    if (r == 0 && keep)
        r = carry_keep(k, s->record, message_view(s->header_fingerprint), s->proof_id,
                       s->protector_id, p->volume_key);
    if (r == 0)
        r = audit_write(
            k, keeper_who(request), "proof", s->proof_id, "point %s volume %.100s: %s%s, record %s",
            s->point_id, s->volume_id,
            sp_enum_name(&sp__proof_verdict__descriptor, (int)s->verdict, "PROOF_VERDICT_"),
            s->carried_from_proof_id[0] ? " (carried over)" : "",
            s->record ? s->record->record_id : "none");
    r = store_end(k->store, r);
    s->keystore_epoch = journal_epoch(k);
    if (r == 0)
        r = sp_pack(&s->base, &packed, &size);
    return r < 0 ? r : sp_signed_make(k->sealing_key, SP_SIGN_PROOF, packed, size, ret);
}

static int check_request(const Sp__ProveRequest *ask, struct sp_why *why)
{
    if (!sp_uuid_valid(ask->machine_id) || !sp_uuid_valid(ask->point_id))
        return sp_why_set(why, -EINVAL, "machine or point of the proof is no id");
    if (!ask->volume || !ask->volume->volume_id[0])
        return sp_why_set(why, -EINVAL, "the proof names no volume");
    for (size_t i = 0; i < ask->n_disks; i++)
        if (ask->disks[i]->disk_root.len != 0 && ask->disks[i]->disk_root.len != 32)
            return sp_why_set(why, -EINVAL, "the root of disk '%.60s' is not 32 bytes",
                              ask->disks[i]->disk_id);
    return 0;
}

int keeper_prove(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                 Sp__KeeperResponse *out, struct sp_why *why)
{
    SP_CLEANUP(statement) Sp__ProofStatement *statement = NULL;
    Sp__EscrowRecord **records = NULL;
    size_t count = 0;

    int r = check_request(request->prove, why);
    if (r == 0)
        r = statement_new(request->prove, &statement);
    if (r < 0)
        return r;
    struct proving p = {.k = k, .ask = request->prove, .reader = fd, .statement = statement};
    pthread_mutex_lock(&k->lock);
    r = records_of(k, p.ask->machine_id, p.ask->volume->volume_id, &records, &count);
    pthread_mutex_unlock(&k->lock);
    if (r == 0 && count > 0)
        r = try_all(&p, records, count);
    if (r == 0)
        r = external_prove(&p, records, count);
    if (r == 0)
        r = without_records(&p);
    if (r == 0 && statement->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR)
        r = try_clear_key(&p);
    r = r < 0 ? r : 0;
    records_free(records, count);
    if (r == 0) {
        out->prove = MESSAGE_NEW(Sp__ProveResponse, sp__prove_response__init);
        out->kind_case = SP__KEEPER_RESPONSE__KIND_PROVE;
        pthread_mutex_lock(&k->lock);
        r = out->prove ? finish(&p, request, &out->prove->statement) : -ENOMEM;
        pthread_mutex_unlock(&k->lock);
    }
    sp_secret_free(p.volume_key);
    sp_secret_free(p.fetched);
    return r;
}
