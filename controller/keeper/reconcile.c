/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/reconcile.h"

#include "base/signed_request.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/manifest_rules.h"
#include "controller/keeper/message.h"
#include "controller/keeper/pins.h"
#include "controller/keeper/records.h"
#include <string.h>

enum { MISSING_MOST = 10000 };

MESSAGE_CLEANUP(record, Sp__EscrowRecord, sp__escrow_record__free_unpacked)

static uint64_t get_number(struct keeper *k, const char *name)
{
    SP_BUFFER struct sp_buffer value = {0};
    return meta_get(k, name, &value) == 0 && value.size == 8 ? sp_le64(value.data) : 0;
}

static int set_number(struct keeper *k, const char *name, uint64_t value)
{
    uint8_t bytes[8];
    sp_put_le64(bytes, value);
    return meta_set(k, name, (struct sp_bytes){bytes, sizeof(bytes)});
}

int reconcile_need(struct keeper *k, uint64_t epoch, const char *reason)
{
    int r = epoch > get_number(k, "seen_epoch") ? set_number(k, "seen_epoch", epoch) : 0;
    return r < 0 ? r
                 : meta_set(k, "reconcile",
                            (struct sp_bytes){(const uint8_t *)reason, strlen(reason)});
}

int reconcile_check(struct keeper *k, struct sp_why *why)
{
    SP_BUFFER struct sp_buffer reason = {0};
    int r = meta_get(k, "reconcile", &reason);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? r
                 : sp_why_set(why, -ESTALE,
                              "%s: nothing is destroyed before 'sealpoint keystore reconcile'",
                              sp_buffer_text(&reason));
}

/* ---- one manifest ---- */

/* Whether a keystore that this one is a past of made the manifest. Those of before the last
 * reconciliation are settled. */
static bool knows_more(struct keeper *k, const Sp__Manifest *m, char *reason, size_t size)
{
    uint64_t own = journal_epoch(k);
    if (m->keystore_epoch > own) {
        snprintf(reason, size,
                 "a manifest knows epoch %llu of this keystore, which is at %llu: it is an older "
                 "copy",
                 (unsigned long long)m->keystore_epoch, (unsigned long long)own);
        return true;
    }
    if (m->keystore_epoch <= get_number(k, "reconciled") || m->keeper_audit_head.len != 32 ||
        audit_knows(k, m->keeper_audit_head.data, m->keeper_audit_head.len))
        return false;
    snprintf(reason, size,
             "a manifest of epoch %llu names an audit that is not this keystore's: it is an older "
             "copy that has gone on",
             (unsigned long long)m->keystore_epoch);
    return true;
}

static int note_newer(struct keeper *k, const Sp__KeeperRequest *request, const Sp__Manifest *m,
                      const char *reason)
{
    /* Said once: every backup shows a manifest. */
    if (reconcile_check(k, NULL) < 0 && m->keystore_epoch <= get_number(k, "seen_epoch"))
        return 0;
    int r = store_begin(k->store);
    if (r < 0)
        return r;
    r = reconcile_need(k, m->keystore_epoch, reason);
    if (r == 0)
        r = audit_write(k, keeper_who(request), "keystore.old", m->point_id, "%s", reason);
    return store_end(k->store, r);
}

static int add_missing(struct reconcile_round *round, const char *record_id)
{
    for (size_t i = 0; i < round->missing_count; i++)
        if (strcmp(round->missing[i], record_id) == 0)
            return 0;
    if (round->missing_count == MISSING_MOST)
        return 0;
    char *copy = strdup(record_id);
    if (!copy || MESSAGE_ROOM(round->missing, round->missing_count) < 0) {
        free(copy);
        return -ENOMEM;
    }
    round->missing[round->missing_count++] = copy;
    return 0;
}

static bool is_there(struct keeper *k, const Sp__ProofStatement *s)
{
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    return record_load(k, s->record->record_id, &e, NULL, NULL) == 0 &&
           e->generation == s->record->generation && strcmp(e->machine_id, s->machine_id) == 0 &&
           e->state != SP__RECORD_STATE__RECORD_STATE_DESTROYED;
}

/* A pin of a record that is gone stays, too: `keystore check` names it until the record is back. */
static int pin_proofs(struct keeper *k, const struct judged *j, uint32_t *ret_added)
{
    const Sp__Manifest *m = j->manifest;
    int r = 0;
    for (size_t i = 0; i < j->count && r == 0; i++) {
        const Sp__ProofStatement *s = j->statements[i];
        if (s->verdict != SP__PROOF_VERDICT__PROOF_VERDICT_OPENS || !s->record)
            continue;
        if (!is_there(k, s))
            r = add_missing(&k->round, s->record->record_id);
        if (r == 0 && !pin_exists(k, m->point_id, s->record->record_id)) {
            r = pin_add(k, m->point_id, m->machine_id, s->record->record_id);
            ++*ret_added;
        }
    }
    return r == 0 && *ret_added > 0 ? journal_note(k, "pins", m->point_id) : r;
}

static int pin_again(struct keeper *k, const struct judged *j)
{
    uint32_t added = 0;
    int r = store_begin(k->store);
    if (r < 0)
        return r;
    r = store_end(k->store, pin_proofs(k, j, &added));
    if (r == 0) {
        k->round.manifests++;
        k->round.pins_added += added;
        if (j->manifest->keystore_epoch > k->round.newest_epoch)
            k->round.newest_epoch = j->manifest->keystore_epoch;
    }
    return r;
}

static int show(struct keeper *k, const Sp__KeeperRequest *request, const Sp__Signed *sealed,
                Sp__WitnessResponse *out, struct sp_why *why)
{
    JUDGED struct judged j = {0};
    char reason[200];
    /* Anybody can write an unsigned manifest: what it says is no evidence. */
    if (sp_signed_verify(sealed, SP_SIGN_MANIFEST, k->sealing_key) < 0)
        return 0;
    int r =
        manifest_judge(sealed->payload.data, sealed->payload.len, k->sealing_key, false, &j, why);
    if (r < 0)
        return r;
    out->sealed = true;
    out->newer = knows_more(k, j.manifest, reason, sizeof(reason));
    if (out->newer)
        r = note_newer(k, request, j.manifest, reason);
    return r == 0 && request->witness->pin ? pin_again(k, &j) : r;
}

int keeper_witness(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                   Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__WitnessRequest *ask = request->witness;
    (void)fd;

    out->witness = MESSAGE_NEW(Sp__WitnessResponse, sp__witness_response__init);
    if (!out->witness)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_WITNESS;
    if (ask->first) {
        reconcile_forget(&k->round);
        k->round.begun = true;
    }
    if (ask->pin && !k->round.begun)
        return sp_why_set(why, -ESTALE, "reconciling begins anew: the keeper was restarted");
    return ask->manifest ? show(k, request, ask->manifest, out->witness, why) : 0;
}

/* ---- the end of a round ---- */

static int clear_need(struct keeper *k)
{
    static const char *const names[] = {"reconcile", "seen_epoch"};
    int r = 0;
    for (size_t i = 0; i < SP_COUNT(names) && r == 0; i++) {
        r = store_run(k->store, "DELETE FROM meta WHERE name=?", "s", names[i]);
        if (r == 0)
            r = journal_note(k, "meta", names[i]);
    }
    return r;
}

int reconcile_finish(struct keeper *k, Sp__ReconcileResponse **ret, struct sp_why *why)
{
    struct reconcile_round *round = &k->round;
    uint64_t seen = get_number(k, "seen_epoch");

    if (!round->begun)
        return sp_why_set(why, -ESTALE, "no manifests were shown to the keeper: try again");
    if (round->newest_epoch < seen)
        return sp_why_set(why, -ESTALE,
                          "the manifest that knows epoch %llu was not shown, only up to %llu: add "
                          "the vault that holds it first",
                          (unsigned long long)seen, (unsigned long long)round->newest_epoch);
    Sp__ReconcileResponse *out = MESSAGE_NEW(Sp__ReconcileResponse, sp__reconcile_response__init);
    if (!out)
        return -ENOMEM;
    out->was_needed = reconcile_check(k, NULL) < 0;
    out->manifests = round->manifests;
    out->pins_added = round->pins_added;
    out->missing_records = sp_steal(round->missing);
    out->n_missing_records = round->missing_count;
    round->missing_count = 0;
    *ret = out;
    /* Epochs of the lost future are not used a second time. */
    if (out->was_needed)
        journal_skip(k, round->newest_epoch);
    int r = out->was_needed ? clear_need(k) : 0;
    if (r == 0 && out->was_needed)
        r = set_number(k, "reconciled", journal_epoch(k) + 1);
    round->begun = false;
    return r;
}

void reconcile_forget(struct reconcile_round *round)
{
    for (size_t i = 0; i < round->missing_count; i++)
        free(round->missing[i]);
    free(round->missing);
    *round = (struct reconcile_round){0};
}
