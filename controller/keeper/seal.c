/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The seal: the keeper's signature over a manifest. It signs states that are not valid as well, so
 * that nobody can make a bad point look better later; VALID has to be earned:
 *
 *   1. every proof in it is the keeper's own, for this machine, point and these disk roots
 *   2. the proofs support the state (manifest_rules.c)
 *   3. each record that a proof names is there unchanged, pinned by the point, and in the keystore
 *      copy that the manifest names
 *   4. exceptions were allowed by somebody who is an admin of the machine
 *   5. the audit head in it is one of this keeper's
 *   6. the point was not sealed before over other disks */
#include "base/signed_request.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/machines.h"
#include "controller/keeper/manifest_rules.h"
#include "controller/keeper/message.h"
#include "controller/keeper/people.h"
#include "controller/keeper/pins.h"
#include "controller/keeper/records.h"
#include <string.h>

MESSAGE_CLEANUP(record, Sp__EscrowRecord, sp__escrow_record__free_unpacked)

static int check_record(struct keeper *k, const Sp__Manifest *m, const Sp__ProofStatement *s,
                        struct sp_why *why)
{
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    uint64_t epoch = 0;
    const Sp__EscrowRecord *said = s->record;

    int r = record_load(k, said->record_id, &e, NULL, &epoch);
    if (r < 0)
        return sp_why_set(why, r == -ENOENT ? -ESTALE : r,
                          "the record %s that opens %.100s is no longer in the keystore",
                          said->record_id, s->volume_id);
    if (e->state == SP__RECORD_STATE__RECORD_STATE_DESTROYED || e->generation != said->generation ||
        strcmp(e->machine_id, m->machine_id) != 0 ||
        !sp_volume_id_same_base(e->volume_id, s->volume_id) || e->secret_hmac.len != 32 ||
        said->secret_hmac.len != 32 || memcmp(e->secret_hmac.data, said->secret_hmac.data, 32) != 0)
        return sp_why_set(why, -ESTALE, "the record %s is not the one that was proved",
                          said->record_id);
    if (record_is_reference(e) &&
        !manifest_is_excepted(m, SP__REASON__REASON_ESCROW_NOT_PINNABLE, s->volume_id))
        return sp_why_set(why, -ESTALE,
                          "the key of %.100s is at the provider %s only, which may remove it",
                          s->volume_id, e->provider);
    if (e->unwrapped && !manifest_is_excepted(m, SP__REASON__REASON_ESCROW_UNWRAPPED, s->volume_id))
        return sp_why_set(why, -ESTALE,
                          "the key of %.100s is at the provider %s without a KEK around it",
                          s->volume_id, e->provider);
    if (!pin_exists(k, m->point_id, e->record_id))
        return sp_why_set(why, -ESTALE, "the record %s is not pinned by the point", e->record_id);
    if (epoch > m->keystore_epoch)
        return sp_why_set(why, -ESTALE,
                          "the keystore copy of epoch %llu does not hold the record %s yet",
                          (unsigned long long)m->keystore_epoch, e->record_id);
    return 0;
}

static int check_exceptions(struct keeper *k, const Sp__Manifest *m, struct sp_why *why)
{
    char group[128], prefix[200];
    machine_group(k, m->machine_id, group);
    snprintf(prefix, sizeof(prefix), "spiffe://%s/user/", k->domain);
    for (size_t i = 0; m->policy && i < m->policy->n_exceptions; i++) {
        const char *by = m->policy->exceptions[i]->allowed_by;
        if (strncmp(by, prefix, strlen(prefix)) == 0)
            by += strlen(prefix);
        if (!people_has_role(k, by, SP__ROLE__ROLE_ADMIN, group))
            return sp_why_set(
                why, -ESTALE,
                "an exception was allowed by '%.100s', who is no admin of this machine", by);
    }
    return 0;
}

static int check_valid(struct keeper *k, const struct judged *j, struct sp_why *why)
{
    const Sp__Manifest *m = j->manifest;
    int r = manifest_supports_valid(j, why);
    if (r == 0)
        r = check_exceptions(k, m, why);
    for (size_t i = 0; i < j->count && r == 0; i++)
        if (j->statements[i]->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
            r = j->statements[i]->record ? check_record(k, m, j->statements[i], why) : -EINVAL;
    if (r < 0)
        return r;
    if (!m->keystore_copy[0])
        return sp_why_set(why, -ESTALE, "the manifest names no keystore copy in the vault");
    if (!audit_knows(k, m->keeper_audit_head.data, m->keeper_audit_head.len))
        return sp_why_set(why, -ESTALE, "the manifest's audit head is not one of this keeper's");
    return 0;
}

/* A manifest that knows more than this keystore does is of a keystore that was rolled back. */
static int check_epoch(struct keeper *k, const Sp__Manifest *m, struct sp_why *why)
{
    uint64_t own = journal_epoch(k);
    if (m->keystore_epoch <= own)
        return 0;
    return sp_why_set(why, -ESTALE,
                      "the manifest knows epoch %llu of the keystore, which is at %llu",
                      (unsigned long long)m->keystore_epoch, (unsigned long long)own);
}

static int check_earlier(struct keeper *k, const Sp__Manifest *m, const uint8_t digest[32],
                         struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT machine_id, disks_digest, revision FROM seals WHERE point_id=?",
                        "s", m->point_id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r;
    struct sp_bytes disks = store_blob(stmt, 1);
    if (strcmp(store_text(stmt, 0), m->machine_id) != 0)
        return sp_why_set(why, -ESTALE, "the point %s was sealed for another machine", m->point_id);
    if (disks.size != 32 || memcmp(disks.data, digest, 32) != 0)
        return sp_why_set(why, -ESTALE, "the point %s was sealed over other disks", m->point_id);
    if (store_int(stmt, 2) > (int64_t)m->revision)
        return sp_why_set(why, -ESTALE, "the point %s has a later revision", m->point_id);
    return 0;
}

static int check_manifest(struct keeper *k, const struct judged *j, uint8_t disks[32],
                          struct sp_why *why)
{
    int r = manifest_disks_digest(j->manifest, disks);
    if (r == 0)
        r = check_epoch(k, j->manifest, why);
    if (r == 0)
        r = check_earlier(k, j->manifest, disks, why);
    if (r == 0 && j->manifest->state_at_seal == SP__POINT_STATE__POINT_STATE_VALID)
        r = check_valid(k, j, why);
    return r;
}

/* The signature, once the seal is in the keystore and the audit. */
static int seal(struct keeper *k, const Sp__KeeperRequest *request, const struct judged *j,
                const uint8_t disks[32], Sp__SealResponse *out)
{
    const Sp__Manifest *m = j->manifest;
    const Sp__SealRequest *ask = request->seal;
    uint8_t hash[32];

    int r = sp_sha256_of(ask->manifest.data, ask->manifest.len, hash);
    if (r == 0)
        r = sp_signed_make(k->sealing_key, SP_SIGN_MANIFEST, ask->manifest.data, ask->manifest.len,
                           &out->manifest);
    if (r == 0)
        r = store_begin(k->store);
    if (r < 0)
        return r;
    r = store_run(k->store, "INSERT OR REPLACE INTO seals VALUES(?,?,?,?,?,?,?)", "ssbiibi",
                  m->point_id, m->machine_id, disks, (size_t)32, (int64_t)m->revision,
                  (int64_t)m->state_at_seal, hash, sizeof(hash), (int64_t)keeper_now_ms(k));
    if (r == 0)
        r = audit_write(
            k, keeper_who(request), "seal", m->point_id, "machine %s, %s, %zu proofs, manifest %s",
            m->machine_id,
            sp_enum_name(&sp__point_state__descriptor, (int)m->state_at_seal, "POINT_STATE_"),
            j->count, SP_HEX32(hash));
    return store_end(k->store, r);
}

int keeper_seal(struct keeper *k, const Sp__KeeperRequest *request, int fd, Sp__KeeperResponse *out,
                struct sp_why *why)
{
    const Sp__SealRequest *ask = request->seal;
    JUDGED struct judged j = {0};
    uint8_t disks[32];
    (void)fd;

    int r = manifest_judge(ask->manifest.data, ask->manifest.len, k->sealing_key, true, &j, why);
    if (r == 0)
        r = check_manifest(k, &j, disks, why);
    if (r < 0) {
        audit_write(k, keeper_who(request), "seal.refused",
                    j.manifest ? j.manifest->point_id : NULL, "%s",
                    why->text[0] ? why->text : strerror(-r));
        return r;
    }
    out->seal = MESSAGE_NEW(Sp__SealResponse, sp__seal_response__init);
    if (!out->seal)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_SEAL;
    return seal(k, request, &j, disks, out->seal);
}
