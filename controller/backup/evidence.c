/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From stored disks to evidence. Everything is read through the roots that the manifest will name,
 * so that what is proved is what can be restored. */
#include "base/log.h"
#include "base/signed_request.h"
#include "controller/backup/accounting.h"
#include "controller/backup/run.h"
#include "controller/backup/verdict.h"
#include <string.h>

/* The stored disks of a manifest, open for reading. */
struct opened {
    struct run *run;
    struct vault_reader **readers;
    Sp__LookDisk *disks;
    Sp__LookDisk **list;
    size_t count;
    bool damaged; /* the vault itself gave wrong bytes */
    struct sp_why why;
};

static void close_disks(struct opened *o)
{
    for (size_t i = 0; i < o->count; i++)
        vault_reader_free(o->readers[i]);
    free(o->readers);
    free(o->disks);
    free(o->list);
}

static int open_disks(struct run *run, const Sp__Manifest *m, struct opened *o)
{
    o->run = run;
    o->readers = calloc(m->n_disks + 1, sizeof(*o->readers));
    o->disks = calloc(m->n_disks + 1, sizeof(*o->disks));
    o->list = calloc(m->n_disks + 1, sizeof(*o->list));
    if (!o->readers || !o->disks || !o->list)
        return -ENOMEM;
    for (size_t i = 0; i < m->n_disks; i++) {
        const Sp__DiskImage *disk = m->disks[i];
        if (disk->root.len != 32) {
            sp_why_set(&run->why, -EBADMSG, "the manifest names no root for disk %s",
                       disk->disk_id);
            return run_fail(run, SP__REASON__REASON_TRANSFER_CORRUPT, -EBADMSG);
        }
        int r = vault_reader_new(run->vault, disk->root.data, disk->size_bytes, &o->readers[i],
                                 &run->why);
        if (r < 0)
            return run_fail(run, SP__REASON__REASON_TRANSFER_CORRUPT, r);
        o->count++;
        sp__look_disk__init(&o->disks[i]);
        o->disks[i].disk_id = disk->disk_id;
        o->disks[i].size_bytes = disk->size_bytes;
        o->disks[i].logical_sector_bytes = disk->logical_sector_bytes;
        o->disks[i].disk_root = disk->root;
        o->list[i] = &o->disks[i];
    }
    return 0;
}

static int read_vault(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    struct opened *o = self;
    int r = run_check(o->run);
    if (r < 0)
        return r;
    if (disk >= o->count)
        return -EINVAL;
    r = vault_reader_at(o->readers[disk], offset, out, length, &o->why);
    if (r == -EBADMSG)
        o->damaged = true;
    return r;
}

/* Asks the keeper something that reads disks. Damage in the vault ends the run: it is worse than
 * any answer. */
static int ask(struct opened *o, Sp__KeeperRequest *request, int timeout_ms,
               Sp__KeeperResponse **ret, struct sp_why *why)
{
    int r = keeper_ask(o->run->engine, &o->run->job->cancel, request, read_vault, o, timeout_ms,
                       ret, why);
    if (run_check(o->run) < 0)
        r = -ECANCELED;
    else if (o->damaged)
        r = -EBADMSG;
    if (r < 0 && *ret) {
        message_free(*ret);
        *ret = NULL;
    }
    if (r == -EBADMSG && o->damaged) {
        o->run->why = o->why;
        return run_fail(o->run, SP__REASON__REASON_TRANSFER_CORRUPT, r);
    }
    return r;
}

/* Errors that end the run; all others only leave a question open. */
static bool ends_run(const struct opened *o, int error)
{
    return error == -ECANCELED || error == -ENOMEM || o->damaged;
}

/* ---- look ---- */

static int look(struct opened *o, Sp__Manifest *m, Sp__LookResponse **ret)
{
    Sp__LookRequest look = SP__LOOK_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    struct sp_why why = {0};
    look.machine_id = m->machine_id;
    look.point_id = m->point_id;
    look.disks = o->list;
    look.n_disks = o->count;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LOOK;
    request.look = &look;
    int r = ask(o, &request, RUN_LOOK_TIMEOUT_MS, &response, &why);
    ProtobufCMessage *answer = NULL;
    if (r == 0 && message_take_answer(response, request.kind_case, &answer) == 0) {
        *ret = (Sp__LookResponse *)answer;
        return 0;
    }
    if (r < 0 && ends_run(o, r))
        return r;
    sp_log_error("look failed", r, &why, "point", m->point_id, NULL);
    return finding_add(
        FINDINGS(m), SP__REASON__REASON_ESCROW_UNREACHABLE, (struct finding_about){0},
        "the keeper could not look into the stored disks: %s", *why.text ? why.text : strerror(-r));
}

enum compare_age evidence_age(const Sp__Manifest *m)
{
    const Sp__Finding *const *f = (const Sp__Finding *const *)m->findings;
    if (!m->inventory)
        return COMPARE_NONE;
    if (m->grade == SP__GRADE__GRADE_OFFLINE)
        return COMPARE_OFFLINE;
    if (finding_has(f, m->n_findings, SP__REASON__REASON_AGENT_ABSENT, NULL) ||
        finding_has(f, m->n_findings, SP__REASON__REASON_AGENT_TOO_OLD, NULL) ||
        finding_has(f, m->n_findings, SP__REASON__REASON_IDENTITY_CLONED, NULL))
        return COMPARE_STALE;
    return COMPARE_NOW;
}

/* ---- prove ---- */

static int repin(struct run *run, const Sp__Manifest *m)
{
    const char **ids SP_FREE = calloc(m->n_volumes + 1, sizeof(*ids));
    size_t count = 0;
    if (!ids)
        return -ENOMEM;
    for (size_t i = 0; i < m->n_volumes; i++) {
        if (compare_needs_proof(m->volumes[i]))
            ids[count++] = m->volumes[i]->volume_id;
    }
    struct sp_why why = {0};
    int r = count ? keeper_pin(run->engine, &run->job->cancel, m->machine_id, m->point_id, ids,
                               count, &why)
                  : 0;
    if (r < 0)
        sp_log_error("records not pinned", r, &why, "point", m->point_id, NULL);
    return 0;
}

static Sp__CapturedHeader *guest_header(const Sp__Manifest *m, const Sp__Volume *v)
{
    for (size_t i = 0; v->header && v->header->detached && i < m->n_headers; i++) {
        if (m->headers[i]->from_guest && strcmp(m->headers[i]->volume_id, v->volume_id) == 0)
            return m->headers[i];
    }
    return NULL;
}

Sp__ProofStatement *engine_statement(struct engine *e, const Sp__Signed *proof,
                                     const char *machine_id, const char *point_id,
                                     struct sp_why *why)
{
    struct sp_bytes der;
    EVP_PKEY *key = NULL;
    int r = engine_sealing_key(e, &der, why);
    if (r == 0)
        r = sp_public_key_from_der(der.data, der.size, &key);
    if (r == 0)
        r = sp_signed_verify(proof, SP_SIGN_PROOF, key);
    EVP_PKEY_free(key);
    Sp__ProofStatement *s SP_CLEANUP(statement) =
        r == 0 ? sp__proof_statement__unpack(NULL, proof->payload.len, proof->payload.data) : NULL;
    if (!s || s->format != 1 || strcmp(s->machine_id, machine_id) != 0 ||
        strcmp(s->point_id, point_id) != 0) {
        if (why && !*why->text)
            sp_why_set(why, -EKEYREJECTED, "a proof is not the keeper's, or not about this point");
        return NULL;
    }
    return sp_steal(s);
}

/* Words for the admin: what the verdict means here, and what to do. The finding itself names the
 * volume. */
static const struct words {
    Sp__Reason reason;
    const char *says, *advice;
    bool explained; /* the prover's explanation adds something */
} words[] = {
    {SP__REASON__REASON_ESCROW_MISSING, "no key is in escrow",
     "import one ('sealpoint key import'), then 'sealpoint point verify'", false},
    {SP__REASON__REASON_ESCROW_KEY_WRONG, "no key in escrow opens it",
     "import the right one ('sealpoint key import'), then 'sealpoint point verify'", false},
    {SP__REASON__REASON_NO_ESCROWABLE_PROTECTOR, "nothing that unlocks it can be in escrow",
     "add a passphrase or recovery key", false},
    {SP__REASON__REASON_HEADER_DAMAGED, "the header in the snapshot is damaged", "", true},
    {SP__REASON__REASON_PLAINTEXT_NOT_RECOGNISED,
     "the key fits, but what it decrypts is nothing known", "", true},
    {SP__REASON__REASON_ESCROW_DENIED, "a provider does not show whether it has the key",
     "'sealpoint escrow test' says what it lacks", true},
    {SP__REASON__REASON_ESCROW_EXPIRED, "the key has expired or is disabled at its provider",
     "enable it there, then 'sealpoint point verify'", true},
    {SP__REASON__REASON_UNCHECKABLE_CIPHER, "this host cannot compute its cipher", "", true},
};

static const struct words *words_for(Sp__Reason reason)
{
    static const struct words unclear = {0, "the keeper could not tell",
                                         "'sealpoint point verify' asks again", true};
    for (size_t i = 0; i < SP_COUNT(words); i++) {
        if (words[i].reason == reason)
            return &words[i];
    }
    return &unclear;
}

/* A key that opens, and that lies bare where it is kept. */
static int judge_wrapping(Sp__Manifest *m, const Sp__ProofStatement *s, struct finding_about about)
{
    const Sp__Reason reason = SP__REASON__REASON_ESCROW_UNWRAPPED;
    if (!s->record || !s->record->unwrapped ||
        finding_stands(m->findings, m->n_findings, reason, about.volume_id))
        return 0;
    return finding_add(
        FINDINGS(m), reason, about,
        "the key opens it, and lies at the provider %s without a KEK around it: wrap "
        "it there, then 'sealpoint point verify'",
        s->record->provider);
}

/* A key that opens, and that its provider may take away behind our back. */
static int judge_holding(Sp__Manifest *m, const Sp__ProofStatement *s, struct finding_about about)
{
    const Sp__Reason reason = SP__REASON__REASON_ESCROW_NOT_PINNABLE;
    if (!s->record || s->record->holding != SP__RECORD_HOLDING__RECORD_HOLDING_AT_PROVIDER ||
        finding_stands(m->findings, m->n_findings, reason, about.volume_id))
        return 0;
    return finding_add(
        FINDINGS(m), reason, about,
        "the key is at the provider %s only, which may remove it%s%s%s: with 'mirror = yes' "
        "in keeper.conf 'sealpoint point verify' keeps a copy",
        s->record->provider, *s->record->warning ? " (" : "", s->record->warning,
        *s->record->warning ? ")" : "");
}

/* A provider said that it has none, and what to do about it. */
static bool was_asked_for(const Sp__ProofStatement *s)
{
    bool any = false;
    for (size_t i = 0; i < s->n_attempts && !any; i++)
        any = !message_empty(s->attempts[i]->provider);
    return any;
}

static int judge_proof(Sp__Manifest *m, const Sp__Volume *v, const Sp__ProofStatement *s)
{
    struct finding_about about = {.volume_id = v->volume_id};
    if (strcmp(s->volume_id, v->volume_id) != 0)
        return finding_add(FINDINGS(m), SP__REASON__REASON_ESCROW_UNREACHABLE, about,
                           "the keeper answered about another volume");
    Sp__Reason reason = verdict_of_proof(s);
    if (reason == SP__REASON__REASON_UNSPECIFIED) {
        int r = judge_wrapping(m, s, about);
        return r < 0 ? r : judge_holding(m, s, about);
    }
    /* The look may have seen already that the header is damaged, or that nothing unlocks it. */
    if (finding_stands(m->findings, m->n_findings, reason, v->volume_id))
        return 0;
    const struct words *w = words_for(reason);
    /* Of plain dm-crypt only the content says that a key is wrong: which one it should have been
     * helps. */
    bool explained = !message_empty(s->explanation) &&
                     (reason == SP__REASON__REASON_ESCROW_MISSING
                          ? was_asked_for(s)
                          : w->explained || v->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN);
    return finding_add(FINDINGS(m), reason, about, "%s%s%s%s%s%s", w->says, explained ? " (" : "",
                       explained ? s->explanation : "", explained ? ")" : "",
                       *w->advice ? ": " : "", w->advice);
}

static int prove(struct opened *o, Sp__Manifest *m, Sp__Volume *v, bool reproof)
{
    Sp__ProveRequest prove = SP__PROVE_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    struct sp_why why = {0};
    struct finding_about about = {.volume_id = v->volume_id};
    const Sp__Volume *guest = compare_find(m->inventory, v);
    prove.machine_id = m->machine_id;
    prove.machine_name = m->machine_name;
    prove.point_id = m->point_id;
    prove.disks = o->list;
    prove.n_disks = o->count;
    prove.volume = v;
    prove.header = guest_header(m, v);
    prove.expected = guest ? guest->content : NULL;
    prove.allow_carry_over = !reproof && v->kind != SP__VOLUME_KIND__VOLUME_KIND_PLAIN;
    prove.reproof = reproof;
    request.kind_case = SP__KEEPER_REQUEST__KIND_PROVE;
    request.prove = &prove;
    int r = ask(o, &request, RUN_PROVE_TIMEOUT_MS, &response, &why);
    if (r < 0 && ends_run(o, r))
        return r;
    if (r < 0)
        return finding_add(FINDINGS(m), SP__REASON__REASON_ESCROW_UNREACHABLE, about,
                           "the keeper could not be asked: %s",
                           *why.text ? why.text : strerror(-r));
    if (response->kind_case != SP__KEEPER_RESPONSE__KIND_PROVE || !response->prove->statement)
        return finding_add(FINDINGS(m), SP__REASON__REASON_ESCROW_UNREACHABLE, about,
                           "the keeper's answer made no sense");
    Sp__ProofStatement *s SP_CLEANUP(statement) = engine_statement(
        o->run->engine, response->prove->statement, m->machine_id, m->point_id, &why);
    if (!s)
        return finding_add(FINDINGS(m), SP__REASON__REASON_ESCROW_UNREACHABLE, about, "%s",
                           why.text);
    r = judge_proof(m, v, s);
    if (r < 0)
        return r;
    Sp__Signed *statement = response->prove->statement;
    response->prove->statement = NULL;
    return message_append(&m->proofs, &m->n_proofs, statement);
}

static int prove_all(struct opened *o, Sp__Manifest *m, bool reproof)
{
    size_t total = 0, done = 0;
    for (size_t i = 0; i < m->n_volumes; i++)
        total += compare_needs_proof(m->volumes[i]);
    int r = 0;
    for (size_t i = 0; i < m->n_volumes && r == 0; i++) {
        Sp__Volume *v = m->volumes[i];
        if (!compare_needs_proof(v))
            continue;
        char step[200];
        snprintf(step, sizeof(step), "proving volume %zu of %zu: %.100s", ++done, total,
                 v->volume_id);
        job_tell(o->run->job, 0, step);
        r = run_check(o->run);
        /* The finding that its header is missing says it all. */
        if (r == 0 && v->header && v->header->detached && !guest_header(m, v))
            continue;
        if (r == 0)
            r = prove(o, m, v, reproof);
    }
    return r;
}

/* ---- account ---- */

struct account {
    struct opened *opened;
    uint32_t disk;
};

static int account_read(void *self, uint64_t offset, void *out, uint32_t length, struct sp_why *why)
{
    struct account *a = self;
    int r = read_vault(a->opened, a->disk, offset, out, length);
    if (r < 0 && why && r != -ECANCELED)
        *why = a->opened->why;
    return r;
}

static int account_next(void *self, uint64_t offset, uint64_t *ret_offset, uint64_t *ret_length,
                        struct sp_why *why)
{
    struct account *a = self;
    return vault_reader_next_data(a->opened->readers[a->disk], offset, ret_offset, ret_length, why);
}

/* What is known of a disk: the look's ranges, and every volume (those that only the guest knows
 * have a proof or a finding of their own). */
static int uses_of(const Sp__Manifest *m, const char *disk_id, struct ranges *uses)
{
    int r = accounting_add_uses(uses, disk_id, m->ranges, m->n_ranges);
    for (size_t i = 0; i < m->n_volumes && r == 0; i++) {
        if (m->volumes[i]->kind != SP__VOLUME_KIND__VOLUME_KIND_UNKNOWN)
            r = accounting_add_volume(uses, disk_id, m->volumes[i]);
    }
    ranges_settle(uses);
    return r;
}

static int account_disk(struct opened *o, Sp__Manifest *m, size_t i)
{
    struct ranges uses RANGES = {0};
    struct ranges left RANGES = {0};
    struct account a = {o, (uint32_t)i};
    struct accounting_disk disk = {.disk_id = m->disks[i]->disk_id,
                                   .size_bytes = m->disks[i]->size_bytes,
                                   .read_at = account_read,
                                   .next_data = account_next,
                                   .self = &a};
    int r = uses_of(m, disk.disk_id, &uses);
    if (r == 0) {
        r = accounting_left(&disk, &uses, &left, &o->run->why);
        if (r < 0 && r != -ECANCELED && r != -ENOMEM)
            return run_fail(o->run, SP__REASON__REASON_TRANSFER_CORRUPT, r);
    }
    if (r == 0)
        r = accounting_report(disk.disk_id, &left, FINDINGS(m));
    return r < 0 ? r : accounting_keep(disk.disk_id, &left, m);
}

int evidence_collect(struct run *run, Sp__Manifest *m, bool reproof)
{
    struct opened o = {0};
    Sp__LookResponse *seen = NULL;
    int r = open_disks(run, m, &o);
    if (r == 0)
        r = run_check(run);
    if (r == 0)
        r = look(&o, m, &seen);
    if (r == 0 && seen)
        r = compare(evidence_age(m), seen, m);
    if (r == 0 && seen)
        r = repin(run, m);
    if (r == 0 && !reproof)
        r = run_enter(run, SP__POINT_STATE__POINT_STATE_PROVING, "proving", false);
    if (r == 0)
        r = prove_all(&o, m, reproof);
    if (r == 0 && seen) {
        job_tell(run->job, 0, "accounting for every stored range");
        for (size_t i = 0; i < m->n_disks && r == 0; i++)
            r = account_disk(&o, m, i);
    }
    message_free(seen);
    close_disks(&o);
    return r;
}
