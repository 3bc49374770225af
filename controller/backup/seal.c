/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Order of the end: keystore copy → signature → manifest durable in the vault → journal of chunks
 * ended → state in the catalog → pins that nothing rests on given back. A kill between any two is
 * met by recover.c: the manifest in the vault decides. */
#include "base/log.h"
#include "controller/backup/run.h"
#include "controller/backup/verdict.h"
#include <string.h>

static const Sp__Finding *const *findings_of(const Sp__Manifest *m)
{
    return (const Sp__Finding *const *)m->findings;
}

static Sp__PointState judge(const struct run *run, const Sp__Manifest *m, bool reproof)
{
    return reproof ? verdict_after_reproof(run->cp->point->state, findings_of(m), m->n_findings,
                                           reproof_patience_over(run->engine, run->cp->point))
                   : verdict_state(findings_of(m), m->n_findings);
}

/* The keystore as it is now, in the vault: without it the host may not burn. */
static int copy_keystore(struct run *run, Sp__Manifest *m)
{
    struct sp_why why = {0};
    char name[128] = "";
    uint64_t epoch = 0;
    int r = keeper_copy_to(run->engine, run->vault, name, &epoch, &why);
    if (r == -ENOSPC || r == -ENOMEM || r == -EDQUOT) {
        run->why = why;
        return r == -ENOMEM ? r : run_fail(run, SP__REASON__REASON_VAULT_FULL, -ENOSPC);
    }
    if (r < 0)
        return finding_add(FINDINGS(m), SP__REASON__REASON_ESCROW_NOT_DURABLE,
                           (struct finding_about){0},
                           "no copy of the keystore could be put in the vault: %s",
                           *why.text ? why.text : strerror(-r));
    m->keystore_epoch = epoch;
    return message_set(&m->keystore_copy, name);
}

static int audit_heads(struct run *run, Sp__Manifest *m)
{
    uint8_t head[32];
    Sp__KeeperResponse *status SP_CLEANUP(keeper_response) = NULL;
    int r = catalog_audit_head(run->engine->options.catalog, head);
    if (r == 0)
        r = message_set_bytes(&m->controller_audit_head, head, sizeof(head));
    if (r < 0)
        return r;
    /* A keeper that does not answer will not seal either. */
    if (keeper_status(run->engine, &status, NULL) == 0 && status->status->audit_head.len > 0)
        r = message_set_bytes(&m->keeper_audit_head, status->status->audit_head.data,
                              status->status->audit_head.len);
    return r;
}

static int place_in_chain(struct run *run, Sp__Manifest *m)
{
    uint64_t sequence = 0;
    uint8_t previous[32];
    bool has_previous = false;
    int r = catalog_point_chain(run->engine->options.catalog, m->machine_id, &sequence, previous,
                                &has_previous);
    if (r < 0)
        return r;
    m->sequence = sequence;
    return has_previous ? message_set_bytes(&m->previous_manifest_sha256, previous, 32) : 0;
}

static int unsigned_copy(const Sp__Manifest *m, Sp__Signed **ret)
{
    Sp__Signed *bare = message_new(&sp__signed__descriptor);
    if (!bare)
        return -ENOMEM;
    int r = sp_pack(&m->base, &bare->payload.data, &bare->payload.len);
    if (r < 0) {
        message_free(bare);
        return r;
    }
    *ret = bare;
    return 0;
}

/* The keeper's signature; without it the point is stored all the same, and is not valid. */
static int sign(struct run *run, Sp__Manifest *m, bool reproof, Sp__Signed **ret)
{
    struct sp_why why = {0};
    m->state_at_seal = judge(run, m, reproof);
    int r = keeper_seal(run->engine, m, ret, &why);
    if (r == 0 || r == -ENOMEM)
        return r;
    sp_log_error("manifest not sealed", r, &why, "point", m->point_id, "state",
                 sp_enum_name(&sp__point_state__descriptor, (int)m->state_at_seal, "POINT_STATE_"),
                 NULL);
    r = finding_add(FINDINGS(m), SP__REASON__REASON_ESCROW_UNREACHABLE, (struct finding_about){0},
                    "the keeper did not seal the point: %s", *why.text ? why.text : strerror(-r));
    if (r < 0)
        return r;
    Sp__PointState state = verdict_state(findings_of(m), m->n_findings);
    m->state_at_seal = state == SP__POINT_STATE__POINT_STATE_INVALID
                           ? state
                           : SP__POINT_STATE__POINT_STATE_UNPROVEN;
    /* A keeper that refused `valid` may still sign that the point is not. */
    return keeper_seal(run->engine, m, ret, NULL) == 0 ? 0 : unsigned_copy(m, ret);
}

static int read_manifest(struct engine *e, struct catalog_point *cp, const Sp__Signed *sealed,
                         const Sp__Manifest *m)
{
    Sp__Point *point = cp->point;
    int r = sp_sha256_of(sealed->payload.data, sealed->payload.len, cp->manifest_sha256);
    if (r < 0)
        return r;
    cp->stored = true;
    cp->transferred = true;
    cp->revision = m->revision;
    point->sequence = m->sequence;
    point->grade = m->grade;
    point->taken_unix_ms = m->taken_unix_ms;
    /* Without a signature it can say what it wants. */
    point->state =
        sealed->n_signatures > 0 || m->state_at_seal == SP__POINT_STATE__POINT_STATE_INVALID
            ? m->state_at_seal
            : SP__POINT_STATE__POINT_STATE_UNPROVEN;
    point->size_bytes = point->stored_bytes = point->new_bytes = 0;
    for (size_t i = 0; i < m->n_disks; i++) {
        point->size_bytes += m->disks[i]->size_bytes;
        point->stored_bytes += m->disks[i]->stored_bytes;
        point->new_bytes += m->disks[i]->new_bytes;
    }
    point->volumes = point->volumes_proved = 0;
    for (size_t i = 0; i < m->n_volumes; i++)
        point->volumes += compare_needs_proof(m->volumes[i]);
    for (size_t i = 0; i < m->n_proofs; i++) {
        Sp__ProofStatement *s SP_CLEANUP(statement) =
            engine_statement(e, m->proofs[i], m->machine_id, m->point_id, NULL);
        if (!s || verdict_of_proof(s) != SP__REASON__REASON_UNSPECIFIED)
            continue;
        point->volumes_proved++;
        if (s->made_unix_ms > point->last_proved_unix_ms)
            point->last_proved_unix_ms = s->made_unix_ms;
    }
    finding_clear(FINDINGS(point));
    return finding_copy(FINDINGS(point), m->findings, m->n_findings);
}

int seal_unpin(struct engine *e, const Sp__Manifest *m)
{
    char **keep = NULL;
    size_t count = 0;
    int r = 0;
    for (size_t i = 0; i < m->n_proofs && r == 0; i++) {
        Sp__ProofStatement *s SP_CLEANUP(statement) =
            engine_statement(e, m->proofs[i], m->machine_id, m->point_id, NULL);
        if (s && s->record && verdict_of_proof(s) == SP__REASON__REASON_UNSPECIFIED)
            r = message_append_text(&keep, &count, s->record->record_id);
    }
    /* Rather too many pins than one too few. */
    if (r == 0)
        r = count > 0 || m->n_proofs == 0 ? keeper_unpin(e, NULL, m->point_id, keep, count, NULL)
                                          : -ENODATA;
    for (size_t i = 0; i < count; i++)
        free(keep[i]);
    free(keep);
    return r;
}

/* The stored manifest is the truth; the catalog follows. */
static int settle(struct engine *e, struct catalog_point *cp, struct vault *vault,
                  const Sp__Signed *sealed, const Sp__Manifest *m)
{
    int r = vault_end_journal(vault, m->point_id, true);
    if (r == -ENOENT) /* a revision, or ended before a kill */
        r = 0;
    if (r == 0)
        r = read_manifest(e, cp, sealed, m);
    /* From here on the manifest in the vault says it all. */
    if (r == 0) {
        message_free(cp->draft);
        cp->draft = message_new(&sp__manifest__descriptor);
        r = cp->draft ? catalog_point_save(e->options.catalog, cp, true, "sealed") : -ENOMEM;
    }
    if (r < 0)
        return r;
    engine_publish_point(e, cp->point);
    /* What is not valid yet may become so with any of the pinned records. */
    if (cp->point->state == SP__POINT_STATE__POINT_STATE_VALID && cp->pinned &&
        seal_unpin(e, m) == 0) {
        cp->pinned = false;
        (void)catalog_point_save(e->options.catalog, cp, false, NULL);
    }
    return 0;
}

int seal_adopt(struct engine *e, struct catalog_point *cp, const Sp__Signed *sealed,
               const Sp__Manifest *m)
{
    struct vault *vault = NULL;
    int r = engine_vault(e, cp->point->vault_id, false, &vault, NULL);
    return r < 0 ? r : settle(e, cp, vault, sealed, m);
}

static int store(struct run *run, const Sp__Signed *sealed)
{
    int r = vault_put_manifest(run->vault, sealed, &run->why);
    if (r == -ENOSPC || r == -EDQUOT)
        return run_fail(run, SP__REASON__REASON_VAULT_FULL, r);
    return r < 0 ? run_fail(run, SP__REASON__REASON_TRANSFER_CORRUPT, r) : 0;
}

int seal_point(struct run *run, Sp__Manifest *m, bool reproof)
{
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    job_tell(run->job, 0, "sealing");
    int r = message_set(&m->made_by, "sealpointd " SEALPOINT_VERSION);
    if (r == 0 && !reproof)
        r = place_in_chain(run, m);
    if (r == 0 && !reproof)
        r = keep_lock(run, m);
    if (r == 0)
        r = copy_keystore(run, m);
    if (r == 0)
        r = audit_heads(run, m);
    if (r == 0)
        r = verdict_apply_policy(m->policy, m->findings, m->n_findings);
    if (r == 0)
        r = run_check(run);
    if (r == 0)
        r = sign(run, m, reproof, &sealed);
    if (r == 0)
        r = store(run, sealed);
    if (r < 0)
        return r;
    run->stored = true;
    return settle(run->engine, run->cp, run->vault, sealed, m);
}
