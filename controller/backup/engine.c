/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/engine.h"
#include "base/clock.h"
#include "base/log.h"
#include "controller/backup/run.h"
#include <string.h>

enum { QUEUE_MAX = 1024, PROGRESS_EVERY_NS = 100 * 1000 * 1000, MAKES_WAY_S = 30 };

uint64_t engine_now_ms(void)
{
    return sp_clock_system.wall_ms(sp_clock_system.self);
}

static int keep_text(const char *text, char **own, const char **option)
{
    *own = text ? strdup(text) : NULL;
    *option = *own;
    return text && !*own ? -ENOMEM : 0;
}

int engine_new(const struct engine_options *options, struct engine **ret)
{
    struct engine *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->options = *options;
    if (!e->options.source_for)
        e->options.source_for = source_for;
    if (!e->options.agent_wait_ms)
        e->options.agent_wait_ms = 10000;
    if (!e->options.keeper_wait_ms)
        e->options.keeper_wait_ms = 30000;
    if (!e->options.parallel)
        e->options.parallel = 2;
    if (!e->options.reproofs_per_hour)
        e->options.reproofs_per_hour = 1;
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->tidy_lock, NULL);
    pthread_cond_init(&e->job_gone, NULL);
    /* The caller's texts need not live as long as the engine. */
    int r = keep_text(options->trust_path, &e->trust_path, &e->options.trust_path);
    if (r == 0)
        r = keep_text(options->fleece_directory, &e->fleece_directory,
                      &e->options.fleece_directory);
    if (r == 0)
        r = pool_new("job", e->options.parallel, QUEUE_MAX, &e->pool);
    if (r < 0) {
        engine_free(e);
        return r;
    }
    *ret = e;
    return 0;
}

void engine_stop(struct engine *e)
{
    atomic_store(&e->stopping, true);
    pthread_mutex_lock(&e->lock);
    for (struct job *j = e->jobs; j; j = j->next)
        atomic_store(&j->cancel, true);
    pthread_mutex_unlock(&e->lock);
    if (e->pool)
        pool_stop(e->pool);
}

void engine_free(struct engine *e)
{
    if (!e)
        return;
    engine_stop(e);
    pool_free(e->pool);
    while (e->jobs)
        job_remove(e->jobs);
    while (e->vaults) {
        struct open_vault *v = e->vaults;
        e->vaults = v->next;
        vault_close(v->vault);
        free(v);
    }
    retry_forget(e);
    free(e->sealing_key);
    free(e->trust_path);
    free(e->fleece_directory);
    pthread_cond_destroy(&e->job_gone);
    pthread_mutex_destroy(&e->tidy_lock);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

/* ---- the list of jobs ---- */

static struct job *find_job(struct engine *e, const char *job_id)
{
    for (struct job *j = e->jobs; j; j = j->next) {
        if (strcmp(j->view->job_id, job_id) == 0)
            return j;
    }
    return NULL;
}

/* Under lock. */
static struct job *job_of_machine(struct engine *e, const char *machine_id)
{
    struct job *j = e->jobs;
    while (j && strcmp(j->view->machine_id, machine_id) != 0)
        j = j->next;
    return j;
}

/* The job that stays in the way of a new one, NULL: none. Under lock. */
static struct job *in_the_way(struct engine *e, const char *machine_id, bool background)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += MAKES_WAY_S;
    struct job *other;
    while ((other = job_of_machine(e, machine_id)) && other->background && !background) {
        atomic_store(&other->cancel, true);
        if (pthread_cond_clockwait(&e->job_gone, &e->lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT)
            return job_of_machine(e, machine_id);
    }
    return other;
}

int job_add(struct engine *e, Sp__Job *view, bool background, struct job **ret, struct sp_why *why)
{
    struct job *job = calloc(1, sizeof(*job));
    if (!job) {
        message_free(view);
        return -ENOMEM;
    }
    job->engine = e;
    job->view = view;
    job->background = background;
    pthread_mutex_lock(&e->lock);
    const struct job *other = in_the_way(e, view->machine_id, background);
    int r = 0;
    if (other) {
        r = sp_why_set(why, -EBUSY, "job %s (%s) runs for machine %s: wait for it or cancel it",
                       other->view->job_id, other->view->kind, view->machine_name);
    } else {
        job->next = e->jobs;
        e->jobs = job;
    }
    pthread_mutex_unlock(&e->lock);
    if (r < 0) {
        message_free(view);
        free(job);
        return r;
    }
    *ret = job;
    return 0;
}

/* Under lock. */
static void unlink_job(struct engine *e, struct job *job)
{
    struct job **at = &e->jobs;
    while (*at && *at != job)
        at = &(*at)->next;
    if (*at)
        *at = job->next;
    pthread_cond_broadcast(&e->job_gone);
}

void job_remove(struct job *job)
{
    struct engine *e = job->engine;
    pthread_mutex_lock(&e->lock);
    unlink_job(e, job);
    pthread_mutex_unlock(&e->lock);
    message_free(job->view);
    free(job);
}

static void publish(struct job *job)
{
    const struct engine *e = job->engine;
    if (e->options.events && e->options.events->job)
        e->options.events->job(e->options.events_self, job->view);
}

void job_tell(struct job *job, Sp__PointState state, const char *step)
{
    struct engine *e = job->engine;
    pthread_mutex_lock(&e->lock);
    if (state)
        job->view->state = state;
    if (step && message_set(&job->view->step, step) < 0)
        message_set(&job->view->step, "");
    publish(job);
    int r = catalog_job_save(e->options.catalog, job->view);
    pthread_mutex_unlock(&e->lock);
    if (r < 0)
        sp_log_error("job not saved", r, NULL, "job", job->view->job_id, NULL);
}

void job_progress(struct job *job, uint64_t done, uint64_t total, const char *step)
{
    uint64_t now = sp_clock_system.monotonic_ns(sp_clock_system.self);
    if (done != total && now - job->published_ns < PROGRESS_EVERY_NS)
        return;
    job->published_ns = now;
    pthread_mutex_lock(&job->engine->lock);
    job->view->done_bytes = done;
    job->view->total_bytes = total;
    if (step && message_set(&job->view->step, step) < 0)
        message_set(&job->view->step, "");
    publish(job);
    pthread_mutex_unlock(&job->engine->lock);
}

void job_end(struct job *job, const Sp__Point *point)
{
    struct engine *e = job->engine;
    pthread_mutex_lock(&e->lock);
    Sp__Job *view = job->view;
    finding_clear(FINDINGS(view));
    if (point) {
        view->state = point->state;
        view->grade = point->grade;
        if (finding_copy(FINDINGS(view), point->findings, point->n_findings) < 0)
            finding_clear(FINDINGS(view));
    }
    view->ended = 1;
    view->ended_unix_ms = engine_now_ms();
    message_set(&view->step, "");
    int r = catalog_job_save(e->options.catalog, view);
    /* Whoever hears that it ended may start the next one at once. */
    unlink_job(e, job);
    publish(job);
    pthread_mutex_unlock(&e->lock);
    sp_log(SP_LOG_INFO, "job ended", "job", view->job_id, "kind", view->kind, "machine",
           view->machine_name, "point", view->point_id, "state",
           sp_enum_name(&sp__point_state__descriptor, (int)view->state, "POINT_STATE_"), "grade",
           sp_enum_name(&sp__grade__descriptor, (int)view->grade, "GRADE_"), NULL);
    if (r < 0)
        sp_log_error("job not saved", r, NULL, "job", view->job_id, NULL);
}

void engine_publish_point(struct engine *e, const Sp__Point *point)
{
    if (e->options.events && e->options.events->point)
        e->options.events->point(e->options.events_self, point->machine_id, point->point_id,
                                 point->state);
}

unsigned engine_running(struct engine *e)
{
    unsigned count = 0;
    pthread_mutex_lock(&e->lock);
    for (const struct job *j = e->jobs; j; j = j->next)
        count++;
    pthread_mutex_unlock(&e->lock);
    return count;
}

int engine_job(struct engine *e, const char *job_id, Sp__Job **ret, struct sp_why *why)
{
    pthread_mutex_lock(&e->lock);
    const struct job *job = find_job(e, job_id);
    Sp__Job *copy = job ? message_copy(job->view) : NULL;
    pthread_mutex_unlock(&e->lock);
    if (job) {
        *ret = copy;
        return copy ? 0 : -ENOMEM;
    }
    int r = catalog_job_get(e->options.catalog, job_id, ret);
    return r == -ENOENT ? sp_why_set(why, r, "no job has the id %s", job_id) : r;
}

int engine_cancel(struct engine *e, const char *job_id, Sp__Job **ret, struct sp_why *why)
{
    pthread_mutex_lock(&e->lock);
    struct job *job = find_job(e, job_id);
    if (job)
        atomic_store(&job->cancel, true);
    pthread_mutex_unlock(&e->lock);
    int r = engine_job(e, job_id, ret, why);
    return r;
}

/* ---- starting ---- */

static Sp__Job *new_view(const char *kind, const Sp__Machine *machine, const char *point_id)
{
    Sp__Job *view = message_new(&sp__job__descriptor);
    char id[37];
    int r = view ? sp_uuid_make(id) : -ENOMEM;
    if (r == 0)
        r = message_set(&view->job_id, id);
    if (r == 0)
        r = message_set(&view->kind, kind);
    if (r == 0)
        r = message_set(&view->machine_id, machine->machine_id);
    if (r == 0)
        r = message_set(&view->machine_name, machine->name);
    if (r == 0)
        r = message_set(&view->point_id, point_id);
    if (r == 0)
        r = message_set(&view->step, "waiting for a worker");
    if (r < 0) {
        message_free(view);
        return NULL;
    }
    view->state = SP__POINT_STATE__POINT_STATE_REQUESTED;
    view->started_unix_ms = engine_now_ms();
    return view;
}

static int find_machine(struct engine *e, const char *name, Sp__Machine **ret, struct sp_why *why)
{
    int r = catalog_machine_get(e->options.catalog, name, false, ret);
    return r == -ENOENT
               ? sp_why_set(why, r, "no machine '%s': 'sealpoint machine list' shows them", name)
               : r;
}

/* A source that names no room for what the guest overwrites gets the controller's. */
static int give_fleece(struct engine *e, Sp__SourceConfig *source)
{
    if (source->kind_case != SP__SOURCE_CONFIG__KIND_QEMU || !e->options.fleece_directory ||
        !message_empty(source->qemu->fleece_directory))
        return 0;
    return message_set(&source->qemu->fleece_directory, e->options.fleece_directory);
}

static struct catalog_point *new_point(struct engine *e, const Sp__Machine *machine,
                                       const char *vault_id)
{
    struct catalog_point *cp = catalog_point_new();
    char id[37];
    int r = cp ? sp_uuid_make(id) : -ENOMEM;
    if (r == 0)
        r = message_set(&cp->point->point_id, id);
    if (r == 0)
        r = message_set(&cp->point->machine_id, machine->machine_id);
    if (r == 0)
        r = message_set(&cp->point->machine_name, machine->name);
    if (r == 0)
        r = message_set(&cp->point->vault_id, vault_id);
    if (r == 0 && !(cp->source = message_copy(machine->source)))
        r = -ENOMEM;
    if (r == 0)
        r = give_fleece(e, cp->source);
    if (r == 0 && machine->policy && !(cp->draft->policy = message_copy(machine->policy)))
        r = -ENOMEM;
    if (r < 0) {
        catalog_point_free(cp);
        return NULL;
    }
    cp->point->state = SP__POINT_STATE__POINT_STATE_REQUESTED;
    cp->point->taken_unix_ms = engine_now_ms();
    return cp;
}

/* Hands a registered job to the workers and the caller a copy of its view. */
static int launch(struct engine *e, struct job *job, void (*work)(void *), Sp__Job **ret,
                  struct sp_why *why)
{
    pthread_mutex_lock(&e->lock);
    Sp__Job *copy = message_copy(job->view);
    pthread_mutex_unlock(&e->lock);
    int r = copy ? catalog_job_save(e->options.catalog, copy) : -ENOMEM;
    if (r == 0)
        r = pool_submit(e->pool, work, job);
    if (r == -EAGAIN)
        sp_why_set(why, r, "too many jobs wait already: try again later");
    if (r == -ESHUTDOWN)
        sp_why_set(why, r, "the controller is stopping");
    if (r < 0) {
        message_free(copy);
        return r;
    }
    *ret = copy;
    return 0;
}

/* What a backup needs before it can even be asked for. */
static int usable(struct engine *e, const Sp__Machine *machine, Sp__Vault **ret_vault,
                  struct sp_why *why)
{
    if (machine->revoked)
        return sp_why_set(why, -EINVAL, "machine %s was revoked", machine->name);
    if (!machine->source || !e->options.source_for(machine->source))
        return sp_why_set(why, -EINVAL,
                          "machine %s has no source: say where its disks are with 'sealpoint "
                          "machine set-source'",
                          machine->name);
    int r = catalog_vault_get(e->options.catalog, machine->vault_id, ret_vault);
    if (r == -ENOENT)
        return sp_why_set(why, -EINVAL, "there is no vault: add one with 'sealpoint vault add'");
    if (r == -ENOTUNIQ)
        return sp_why_set(why, -EINVAL,
                          "there are several vaults and machine %s names none: say which with "
                          "'sealpoint machine set-source'",
                          machine->name);
    return r;
}

int engine_start_backup(struct engine *e, const char *name, bool allow_no_agent, Sp__Job **ret,
                        struct sp_why *why)
{
    Sp__Machine *machine = NULL;
    Sp__Vault *vault = NULL;
    struct catalog_point *cp CATALOG_POINT = NULL;
    struct job *job = NULL;
    int r = find_machine(e, name, &machine, why);
    if (r == 0)
        r = usable(e, machine, &vault, why);
    if (r == 0) {
        cp = new_point(e, machine, vault->vault_id);
        Sp__Job *view = cp ? new_view("backup", machine, cp->point->point_id) : NULL;
        r = view ? job_add(e, view, false, &job, why) : -ENOMEM;
    }
    if (r == 0) {
        job->allow_no_agent = allow_no_agent;
        r = catalog_point_add(e->options.catalog, cp);
        if (r == 0)
            r = launch(e, job, backup_work, ret, why);
        if (r < 0) {
            cp->point->state = SP__POINT_STATE__POINT_STATE_FAILED;
            (void)catalog_point_save(e->options.catalog, cp, false, "not started");
            job_end(job, cp->point);
            job_remove(job);
        }
    }
    message_free(vault);
    message_free(machine);
    return r;
}

static int start_verify(struct engine *e, const char *id, bool background, Sp__Job **ret,
                        struct sp_why *why)
{
    struct catalog_point *cp CATALOG_POINT = NULL;
    Sp__Machine *machine = NULL;
    struct job *job = NULL;
    int r = catalog_point_get(e->options.catalog, id, &cp);
    if (r < 0)
        return r;
    if (!cp->stored)
        return sp_why_set(why, -EINVAL, "point %s has no stored data to verify", id);
    r = find_machine(e, cp->point->machine_id, &machine, why);
    if (r == 0) {
        Sp__Job *view = new_view("verify", machine, id);
        r = view ? job_add(e, view, background, &job, why) : -ENOMEM;
    }
    if (r == 0) {
        r = launch(e, job, verify_work, ret, why);
        if (r < 0) {
            job_end(job, NULL);
            job_remove(job);
        }
    }
    message_free(machine);
    return r;
}

int engine_start_verify(struct engine *e, const char *point, Sp__Job **ret, struct sp_why *why)
{
    char id[37];
    int r = catalog_point_find(e->options.catalog, point, id);
    if (r == -ENOENT)
        return sp_why_set(why, r, "no point '%.60s': 'sealpoint point list' shows them", point);
    if (r == -ENOTUNIQ)
        return sp_why_set(why, -EINVAL, "several points begin with '%.60s': give more of the id",
                          point);
    return r < 0 ? r : start_verify(e, id, false, ret, why);
}

bool background_has_room(struct engine *e)
{
    unsigned count = 0;
    bool background = false;
    pthread_mutex_lock(&e->lock);
    for (const struct job *j = e->jobs; j; j = j->next) {
        count++;
        background = background || j->background;
    }
    pthread_mutex_unlock(&e->lock);
    return count < e->options.parallel && !background && !atomic_load(&e->stopping);
}

int background_verify(struct engine *e, const char *point_id)
{
    Sp__Job *job = NULL;
    struct sp_why why = {0};
    int r = start_verify(e, point_id, true, &job, &why);
    if (r < 0)
        sp_log_error("point not verified again", r, &why, "point", point_id, NULL);
    else
        sp_log(SP_LOG_INFO, "point is verified again", "point", point_id, NULL);
    message_free(job);
    return r;
}
