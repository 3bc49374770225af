/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * After a start. For each unfinished point:
 *
 *   its manifest is in the vault        → take over what it says
 *   data not wholly in the vault        → failed (INTERRUPTED); release, drop chunks, unpin
 *   data whole, evidence missing        → back to work, with the same job
 *   snapshot held by the source         → release, again and again until it is gone
 */
#include "base/log.h"
#include "controller/backup/run.h"
#include <string.h>

struct ids {
    char (*at)[37];
    size_t count;
};

static int collect(void *arg, const char *point_id)
{
    struct ids *ids = arg;
    char(*larger)[37] = reallocarray(ids->at, ids->count + 1, sizeof(*larger));
    if (!larger)
        return -ENOMEM;
    ids->at = larger;
    snprintf(ids->at[ids->count++], 37, "%s", point_id);
    return 0;
}

static bool is_unfinished(const struct catalog_point *cp)
{
    return cp->point->state < SP__POINT_STATE__POINT_STATE_VALID;
}

/* A kill after the manifest was stored and before the catalog said so. */
static bool adopt_stored(struct engine *e, struct catalog_point *cp)
{
    struct vault *vault = NULL;
    struct sp_bytes none = {0};
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    if (!cp->transferred || engine_vault(e, cp->point->vault_id, false, &vault, NULL) < 0)
        return false;
    int r = vault_get_manifest(vault, cp->point->machine_id, cp->point->point_id, none, &sealed, &m,
                               NULL);
    if (r == 0)
        r = seal_adopt(e, cp, sealed, m);
    if (r == 0)
        sp_log(SP_LOG_INFO, "point found sealed", "point", cp->point->point_id, NULL);
    return r == 0;
}

static int interrupt(struct engine *e, struct catalog_point *cp)
{
    Sp__Point *point = cp->point;
    Sp__PointState was = point->state;
    point->state = SP__POINT_STATE__POINT_STATE_FAILED;
    point->sequence = 0;
    finding_clear(FINDINGS(point));
    int r = finding_copy(FINDINGS(point), cp->draft->findings, cp->draft->n_findings);
    if (r == 0)
        r = finding_add(FINDINGS(point), SP__REASON__REASON_INTERRUPTED, (struct finding_about){0},
                        "the controller ended in state %s: back up again",
                        sp_enum_name(&sp__point_state__descriptor, (int)was, "POINT_STATE_"));
    /* Whatever was begun is cleaned up as for every failed point. */
    cp->pinned = true;
    if (r == 0)
        r = catalog_point_save(e->options.catalog, cp, false, "interrupted");
    sp_log(SP_LOG_WARNING, "point was interrupted", "point", point->point_id, "state",
           sp_enum_name(&sp__point_state__descriptor, (int)was, "POINT_STATE_"), NULL);
    return r;
}

struct search {
    const char *point_id;
    Sp__Job *found;
};

static int match_job(void *arg, Sp__Job *job)
{
    struct search *s = arg;
    if (strcmp(job->point_id, s->point_id) != 0 || strcmp(job->kind, "backup") != 0)
        return 0;
    s->found = message_copy(job);
    return s->found ? 1 : -ENOMEM;
}

static int resume(struct engine *e, const struct catalog_point *cp)
{
    struct search s = {.point_id = cp->point->point_id};
    struct job *job = NULL;
    int r = catalog_job_unended(e->options.catalog, match_job, &s);
    if (r == 0 && !s.found)
        r = -ENOENT;
    if (r == 0)
        r = job_add(e, s.found, false, &job, NULL);
    if (r < 0)
        return r;
    job->resumed = true;
    sp_log(SP_LOG_INFO, "point goes on", "point", cp->point->point_id, "state",
           sp_enum_name(&sp__point_state__descriptor, (int)cp->point->state, "POINT_STATE_"), NULL);
    r = pool_submit(e->pool, backup_work, job);
    if (r < 0)
        job_remove(job);
    return r;
}

static void tidy_point(struct engine *e, const char *point_id, bool first, struct ids *to_resume)
{
    struct catalog_point *cp CATALOG_POINT = NULL;
    struct sp_why why = {0};
    int r = catalog_point_get(e->options.catalog, point_id, &cp);
    if (r < 0) {
        sp_log_error("point not read", r, NULL, "point", point_id, NULL);
        return;
    }
    if (is_unfinished(cp)) {
        /* Later on a job is at it. */
        if (!first)
            return;
        if (!adopt_stored(e, cp)) {
            r = cp->transferred ? collect(to_resume, point_id) : interrupt(e, cp);
            if (r < 0)
                sp_log_error("point not recovered", r, NULL, "point", point_id, NULL);
        }
    }
    if (cp->point->state == SP__POINT_STATE__POINT_STATE_FAILED) {
        run_clean_failed(e, cp);
        return;
    }
    r = run_release(e, cp, &why);
    if (r < 0)
        sp_log_error("snapshot not released yet", r, &why, "point", point_id, NULL);
}

void engine_tidy(struct engine *e)
{
    struct ids ids = {0};
    pthread_mutex_lock(&e->tidy_lock);
    int r = catalog_point_unfinished(e->options.catalog, collect, &ids);
    for (size_t i = 0; r == 0 && i < ids.count; i++) {
        /* A point whose job is still running is that job's own affair. */
        bool busy = false;
        pthread_mutex_lock(&e->lock);
        for (const struct job *j = e->jobs; j && !busy; j = j->next)
            busy = strcmp(j->view->point_id, ids.at[i]) == 0;
        pthread_mutex_unlock(&e->lock);
        if (!busy)
            tidy_point(e, ids.at[i], false, NULL);
    }
    free(ids.at);
    pthread_mutex_unlock(&e->tidy_lock);
}

/* Jobs without a point that goes on: they ended with the process. */
struct ended {
    struct catalog *catalog;
    Sp__Job **jobs;
    size_t count;
};

static int gather_job(void *arg, Sp__Job *job)
{
    struct ended *e = arg;
    return message_append(&e->jobs, &e->count, message_copy(job));
}

static bool is_running(struct engine *e, const char *job_id)
{
    pthread_mutex_lock(&e->lock);
    bool running = false;
    for (const struct job *j = e->jobs; j && !running; j = j->next)
        running = strcmp(j->view->job_id, job_id) == 0;
    pthread_mutex_unlock(&e->lock);
    return running;
}

static int end_job(struct engine *e, Sp__Job *job)
{
    struct catalog_point *cp CATALOG_POINT = NULL;
    job->ended = 1;
    job->ended_unix_ms = engine_now_ms();
    finding_clear(FINDINGS(job));
    int r = message_set(&job->step, "");
    if (r == 0 && catalog_point_get(e->options.catalog, job->point_id, &cp) == 0) {
        job->state = cp->point->state;
        job->grade = cp->point->grade;
        r = finding_copy(FINDINGS(job), cp->point->findings, cp->point->n_findings);
    }
    return r < 0 ? r : catalog_job_save(e->options.catalog, job);
}

static int end_lost_jobs(struct engine *e)
{
    struct ended ended = {.catalog = e->options.catalog};
    int r = catalog_job_unended(e->options.catalog, gather_job, &ended);
    for (size_t i = 0; i < ended.count; i++) {
        if (r == 0 && !is_running(e, ended.jobs[i]->job_id))
            r = end_job(e, ended.jobs[i]);
        message_free(ended.jobs[i]);
    }
    free(ended.jobs);
    return r;
}

/* The list first: opening a vault asks the catalog again. */
static int gather_vault(void *arg, Sp__Vault *vault)
{
    return collect(arg, vault->vault_id);
}

static void tidy_vaults(struct engine *e)
{
    struct ids ids = {0};
    struct sp_why why = {0};
    int r = catalog_vault_each(e->options.catalog, gather_vault, &ids);
    for (size_t i = 0; r == 0 && i < ids.count; i++) {
        struct vault *vault = NULL;
        int v = engine_vault(e, ids.at[i], false, &vault, &why);
        if (v == 0)
            v = vault_recover(vault, &why);
        /* A catalog that is older than the vault (restored, say) learns what it missed. */
        if (v == 0)
            v = vaults_adopt(e, vault, ids.at[i], ids.at[i]);
        if (v == 0)
            witness_vault(e, ids.at[i]);
        /* A vault that is away may come back; its points are safe as they are. */
        if (v < 0)
            sp_log_error("vault not tidied", v, &why, "vault", ids.at[i], NULL);
    }
    free(ids.at);
}

int engine_recover(struct engine *e, struct sp_why *why)
{
    struct ids ids = {0}, to_resume = {0};
    int r = catalog_point_unfinished(e->options.catalog, collect, &ids);
    for (size_t i = 0; r == 0 && i < ids.count; i++)
        tidy_point(e, ids.at[i], true, &to_resume);
    if (r == 0)
        tidy_vaults(e);
    for (size_t i = 0; r == 0 && i < to_resume.count; i++) {
        struct catalog_point *cp CATALOG_POINT = NULL;
        r = catalog_point_get(e->options.catalog, to_resume.at[i], &cp);
        if (r == 0 && resume(e, cp) < 0)
            r = interrupt(e, cp);
    }
    if (r == 0)
        r = end_lost_jobs(e);
    free(ids.at);
    free(to_resume.at);
    return r < 0 ? sp_why_set(why, r, "unfinished points cannot be recovered: %s", strerror(-r))
                 : 0;
}
