/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A stored point, looked at and proved anew. The disks are the same; a manifest revision stands
 * beside the earlier ones. Until it is durable nothing about the point changes. */
#include "base/log.h"
#include "controller/backup/run.h"
#include "controller/backup/verdict.h"
#include <string.h>

/* Findings about the moment of the snapshot stay; those that this job collects anew go. */
static bool of_capture(const Sp__Finding *f)
{
    return verdict_effect_of(f->reason) == VERDICT_GRADE ||
           f->reason == SP__REASON__REASON_DISK_MISSING;
}

static void drop_findings(Sp__Manifest *m)
{
    size_t kept = 0;
    for (size_t i = 0; i < m->n_findings; i++) {
        if (of_capture(m->findings[i]))
            m->findings[kept++] = m->findings[i];
        else
            message_free(m->findings[i]);
    }
    m->n_findings = kept;
}

#define DROP(items, count)                                                                         \
    do {                                                                                           \
        for (size_t i_ = 0; i_ < (count); i_++)                                                    \
            message_free((items)[i_]);                                                             \
        (count) = 0;                                                                               \
    } while (0)

static void drop_seen_headers(Sp__Manifest *m)
{
    size_t kept = 0;
    for (size_t i = 0; i < m->n_headers; i++) {
        if (m->headers[i]->from_guest)
            m->headers[kept++] = m->headers[i];
        else
            message_free(m->headers[i]);
    }
    m->n_headers = kept;
}

/* What the manifest rests on from the capture, without the old evidence. The machine's policy of
 * today applies: an exception that an admin added since is why many verify. */
static int strip(struct engine *e, Sp__Manifest *m)
{
    drop_findings(m);
    drop_seen_headers(m);
    DROP(m->volumes, m->n_volumes);
    DROP(m->ranges, m->n_ranges);
    DROP(m->proofs, m->n_proofs);
    m->revision++;
    Sp__Machine *machine = NULL;
    int r = catalog_machine_get(e->options.catalog, m->machine_id, false, &machine);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    message_free(m->policy);
    m->policy = machine->policy;
    machine->policy = NULL;
    message_free(machine);
    return 0;
}

static int load(struct run *run, Sp__Manifest **ret)
{
    struct engine *e = run->engine;
    struct sp_bytes none = {0};
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    int r = catalog_point_get(e->options.catalog, run->job->view->point_id, &run->cp);
    if (r == 0) {
        run->cp->point->last_tried_unix_ms = engine_now_ms();
        r = catalog_point_save(e->options.catalog, run->cp, false, NULL);
    }
    if (r == 0)
        r = engine_vault(e, run->cp->point->vault_id, true, &run->vault, &run->why);
    if (r == 0)
        r = vault_get_manifest(run->vault, run->cp->point->machine_id, run->cp->point->point_id,
                               none, &sealed, ret, &run->why);
    return r < 0 ? r : strip(e, *ret);
}

/* The vault lost or changed bytes of the point: it cannot be called good any longer. */
static void mark_damaged(struct run *run)
{
    Sp__Point *point = run->cp->point;
    point->state = point->state == SP__POINT_STATE__POINT_STATE_VALID ||
                           point->state == SP__POINT_STATE__POINT_STATE_AT_RISK
                       ? SP__POINT_STATE__POINT_STATE_AT_RISK
                       : SP__POINT_STATE__POINT_STATE_UNPROVEN;
    int r = finding_add(FINDINGS(point), SP__REASON__REASON_TRANSFER_CORRUPT,
                        (struct finding_about){0}, "%s", run->why.text);
    if (r == 0)
        r = catalog_point_save(run->engine->options.catalog, run->cp, false, "damaged");
    if (r < 0)
        sp_log_error("damage not saved", r, NULL, "point", point->point_id, NULL);
    engine_publish_point(run->engine, point);
}

void verify_work(void *arg)
{
    struct job *job = arg;
    struct run run = {.engine = job->engine, .job = job};
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    job_tell(job, SP__POINT_STATE__POINT_STATE_LOOKING, "looking into the stored disks");
    int r = load(&run, &m);
    if (r == 0)
        r = evidence_collect(&run, m, true);
    if (r == 0)
        r = seal_point(&run, m, true);
    if (r < 0 && run.cp) {
        sp_log_error("verification failed", r, &run.why, "point", run.cp->point->point_id, NULL);
        if (run.reason == SP__REASON__REASON_TRANSFER_CORRUPT)
            mark_damaged(&run);
        else if (finding_add(FINDINGS(run.cp->point),
                             r == -ECANCELED ? SP__REASON__REASON_CANCELLED
                                             : SP__REASON__REASON_INTERRUPTED,
                             (struct finding_about){.note = true},
                             "this verification did not end: %s",
                             *run.why.text ? run.why.text : strerror(-r)) < 0)
            sp_log(SP_LOG_ERROR, "out of memory", NULL);
    }
    job_end(job, run.cp ? run.cp->point : NULL);
    run_close(&run);
    job_remove(job);
}
