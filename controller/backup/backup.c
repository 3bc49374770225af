/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"
#include "controller/backup/grade.h"
#include "controller/backup/run.h"
#include <string.h>

void run_close(struct run *run)
{
    if (run->snapshot)
        run->source->close(run->snapshot);
    run->snapshot = NULL;
    match_free(&run->match);
    message_free(run->described);
    message_free(run->taken);
    message_free(run->layout);
    message_free(run->freeze);
    message_free(run->thaw);
    message_free(run->vault_entry);
    for (size_t i = 0; i < run->n_base_ids; i++)
        free(run->base_ids[i]);
    free(run->base_ids);
    catalog_point_free(run->cp);
    run->cp = NULL;
}

int run_check(struct run *run)
{
    return atomic_load(&run->job->cancel) ? -ECANCELED : 0;
}

int run_fail(struct run *run, Sp__Reason reason, int error)
{
    if (!run->reason)
        run->reason = reason;
    return error;
}

int run_enter(struct run *run, Sp__PointState state, const char *step, bool draft)
{
    run->cp->point->state = state;
    int r = catalog_point_save(run->engine->options.catalog, run->cp, draft, step);
    if (r < 0) {
        sp_why_set(&run->why, r, "the catalog cannot be written: %s", strerror(-r));
        return r;
    }
    job_tell(run->job, state, step);
    engine_publish_point(run->engine, run->cp->point);
    return 0;
}

/* ---- leaving nothing behind ---- */

int run_release(struct engine *e, struct catalog_point *cp, struct sp_why *why)
{
    if (!cp->snapshot_held)
        return 0;
    const struct source *source = cp->source ? e->options.source_for(cp->source) : NULL;
    if (!source)
        return sp_why_set(why, -ENOTSUP, "this program does not know the source any more");
    Sp__ReleaseSnapshotRequest request = SP__RELEASE_SNAPSHOT_REQUEST__INIT;
    Sp__ReleaseSnapshotResponse *response = NULL;
    request.point_id = cp->point->point_id;
    request.source = cp->source;
    request.journal = cp->journal ? cp->journal : (char *)protobuf_c_empty_string;
    request.transferred = cp->transferred;
    int r = source->release(&request, &response, why);
    if (r == 0 && response && !response->nothing_left)
        r = sp_why_set(why, -EAGAIN, "the source still holds parts of the snapshot");
    if (r == 0 && response && cp->draft)
        cp->draft->fleece_used_bytes = response->fleece_used_bytes;
    message_free(response);
    if (r < 0)
        return r;
    cp->snapshot_held = false;
    return catalog_point_save(e->options.catalog, cp, false, "snapshot released");
}

static void warn(const char *event, int error, const struct sp_why *why, const struct run *run)
{
    sp_log_error(event, error, why, "point", run->cp->point->point_id, "machine",
                 run->cp->point->machine_name, NULL);
}

void run_clean_failed(struct engine *e, struct catalog_point *cp)
{
    struct sp_why why = {0};
    int r = run_release(e, cp, &why);
    if (r < 0) {
        sp_log_error("snapshot not released yet", r, &why, "point", cp->point->point_id, NULL);
        return;
    }
    struct vault *vault = NULL;
    r = engine_vault(e, cp->point->vault_id, false, &vault, &why);
    if (r == 0)
        r = vault_end_journal(vault, cp->point->point_id, false);
    /* No journal was begun: nothing was written. */
    if (r < 0 && r != -ENOENT) {
        sp_log_error("journal of the vault not ended yet", r, &why, "point", cp->point->point_id,
                     NULL);
        return;
    }
    if (!cp->pinned)
        return;
    r = keeper_unpin(e, &keeper_now_or_later, cp->point->point_id, NULL, 0, &why);
    if (r == 0) {
        cp->pinned = false;
        r = catalog_point_save(e->options.catalog, cp, false, "cleaned up");
    }
    if (r < 0)
        sp_log_error("pins not given back yet", r, &why, "point", cp->point->point_id, NULL);
}

/* ---- the order of things ---- */

static int load(struct run *run)
{
    struct engine *e = run->engine;
    int r = catalog_point_get(e->options.catalog, run->job->view->point_id, &run->cp);
    if (r == 0)
        r = catalog_vault_get(e->options.catalog, run->cp->point->vault_id, &run->vault_entry);
    if (r < 0)
        return sp_why_set(&run->why, r, "the point is not in the catalog: %s", strerror(-r));
    run->source = run->cp->source ? e->options.source_for(run->cp->source) : NULL;
    if (!run->source && !run->cp->transferred)
        return sp_why_set(&run->why, -ENOTSUP, "the machine's source is not known");
    r = engine_vault(e, run->cp->point->vault_id, true, &run->vault, &run->why);
    return r < 0 ? run_fail(run, SP__REASON__REASON_ESCROW_UNREACHABLE, r) : 0;
}

static int capture(struct run *run)
{
    int r = capture_preflight(run);
    if (r == 0)
        r = capture_snapshot(run);
    if (r == 0)
        r = capture_transfer(run);
    return r;
}

/* From here on the data is safe: what fails lowers the verdict, and a restart goes on here. */
static int prove_and_seal(struct run *run)
{
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    int r = run_enter(run, SP__POINT_STATE__POINT_STATE_LOOKING, "looking into the stored disks",
                      false);
    if (r < 0)
        return r;
    if (run->cp->snapshot_held) {
        struct sp_why why = {0};
        if (run->snapshot)
            run->source->close(sp_steal(run->snapshot));
        int released = run_release(run->engine, run->cp, &why);
        if (released < 0)
            warn("snapshot not released yet", released, &why, run);
    }
    m = message_copy(run->cp->draft);
    if (!m)
        return -ENOMEM;
    r = evidence_collect(run, m, false);
    if (r == 0)
        r = seal_point(run, m, false);
    return r;
}

static void fail(struct run *run, int error)
{
    struct catalog_point *cp = run->cp;
    bool stopping = atomic_load(&run->engine->stopping);
    Sp__Reason reason = run->reason;
    if (error == -ECANCELED)
        reason = stopping ? SP__REASON__REASON_INTERRUPTED : SP__REASON__REASON_CANCELLED;
    else if (error == -ENOSPC && !reason)
        reason = SP__REASON__REASON_VAULT_FULL;
    else if (!reason)
        reason = SP__REASON__REASON_INTERRUPTED;
    const char *text = run->why.text;
    if (error == -ECANCELED)
        text = stopping ? "the controller was stopped" : "an operator cancelled the job";
    else if (!*text)
        text = strerror(-error);
    warn("backup failed", error, &run->why, run);
    cp->point->state = SP__POINT_STATE__POINT_STATE_FAILED;
    cp->point->sequence = 0;
    finding_clear(FINDINGS(cp->point));
    int r = finding_copy(FINDINGS(cp->point), cp->draft->findings, cp->draft->n_findings);
    if (r == 0)
        r = finding_add(FINDINGS(cp->point), reason, (struct finding_about){0}, "%s", text);
    if (r == 0)
        r = catalog_point_save(run->engine->options.catalog, cp, false, "failed");
    /* A catalog that cannot be written keeps the old state: the next start ends the point. */
    if (r < 0)
        warn("failure not saved", r, NULL, run);
    engine_publish_point(run->engine, cp->point);
    if (run->snapshot)
        run->source->close(sp_steal(run->snapshot));
    run_clean_failed(run->engine, cp);
}

/* Stopped while nothing but evidence was missing: the next start goes on, with the same job. */
static bool goes_on_later(const struct run *run, int error)
{
    return error == -ECANCELED && atomic_load(&run->engine->stopping) && run->cp->transferred;
}

void backup_work(void *arg)
{
    struct job *job = arg;
    struct run run = {.engine = job->engine, .job = job};
    int r = load(&run);
    if (r == 0)
        r = run_check(&run);
    if (r == 0 && !run.cp->transferred)
        r = capture(&run);
    if (r == 0)
        r = prove_and_seal(&run);
    bool later = r < 0 && run.cp && goes_on_later(&run, r);
    if (r < 0 && run.stored)
        /* The next start finds the manifest in the vault and believes it. */
        warn("point is sealed, the catalog does not know yet", r, &run.why, &run);
    else if (r < 0 && run.cp && !later)
        fail(&run, r);
    if (!later)
        job_end(job, run.cp ? run.cp->point : NULL);
    run_close(&run);
    job_remove(job);
}
