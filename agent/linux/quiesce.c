/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/quiesce.h"
#include "agent/linux/freezer.h"
#include "agent/linux/hooks.h"
#include "agent/linux/plan.h"
#include "agent/message.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* HOLD_MORE_S: for what a hook's lock is held beyond hooks, sync and lease. */
enum { DEFAULT_SYNC_MS = 10000, HOUR_MS = 3600000, HOLD_MORE_S = 30 };

struct quiesce {
    struct quiesce_options options;
    struct freezer *freezer;
    struct hooks_options hooks;
    uint64_t allowance_ms, allowance_at_ns; /* of the rate cap: a bucket that holds one hour */
    struct plan plan;                       /* of the last freeze */
    bool complete;                          /* it was held */
    _Atomic bool closing;                   /* nothing is frozen any more */

    pthread_mutex_t hooks_lock; /* one at a time runs hooks; what is below */
    pthread_cond_t hooks_done;
    unsigned after_threads;     /* that run post-thaw hooks of a freeze that ended by itself */
    struct hooks_results after; /* of the last freeze */
};

/* ---- hooks ---- */

/* Nothing is frozen when this is called, so it may be logged. */
static void log_failed(const struct hooks_results *results, size_t from, const char *phase)
{
    for (size_t i = from; i < results->count; i++) {
        const Sp__HookResult *r = results->at[i];
        if (r->exit_status != 0 || r->timed_out)
            sp_log(SP_LOG_WARNING, "hook failed", "hook", r->name, "phase", phase, "status",
                   SP_LOG_NUMBER(r->exit_status), "timed-out", r->timed_out ? "yes" : "no",
                   "output", r->output, NULL);
    }
}

/* Whoever comes first after the end of the freeze runs them; for the others nothing is left. */
static void run_after(struct quiesce *q)
{
    struct sp_why why = {0};
    pthread_mutex_lock(&q->hooks_lock);
    size_t known = q->after.count;
    int r = hooks_after(&q->hooks, &q->after, &why);
    log_failed(&q->after, known, "post-thaw");
    pthread_mutex_unlock(&q->hooks_lock);
    if (r < 0)
        sp_log_error("cannot run the post-thaw hooks", r, &why, NULL);
}

static void *after_thread(void *arg)
{
    struct quiesce *q = arg;
    run_after(q);
    pthread_mutex_lock(&q->hooks_lock);
    q->after_threads--;
    pthread_cond_broadcast(&q->hooks_done);
    pthread_mutex_unlock(&q->hooks_lock);
    return NULL;
}

/* The freezer's watch thread must not wait for a hook. */
static void run_after_elsewhere(struct quiesce *q)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_mutex_lock(&q->hooks_lock);
    /* Failing: the mark stays, and the next freeze, thaw or start runs them. */
    if (pthread_create(&thread, &attributes, after_thread, q) == 0)
        q->after_threads++;
    pthread_mutex_unlock(&q->hooks_lock);
    pthread_attr_destroy(&attributes);
}

/* Runs the pre-freeze hooks; failing ones are in the results and cost the grade. */
static int run_before(struct quiesce *q, const char *operation_id, const Sp__FreezeCommand *command,
                      uint32_t lease_ms, struct hooks_results *results, struct sp_why *why)
{
    run_after(q); /* of an earlier freeze, should its hooks not have run */
    pthread_mutex_lock(&q->hooks_lock);
    hooks_results_free(&q->after);
    int r = 0;
    if (command->run_hooks) {
        uint64_t hold_ms = (uint64_t)q->hooks.timeout_ms * HOOKS_MOST + DEFAULT_SYNC_MS + lease_ms;
        r = hooks_before(&q->hooks, operation_id, (unsigned)(hold_ms / 1000) + HOLD_MORE_S, results,
                         why);
        log_failed(results, 0, "pre-freeze");
    }
    pthread_mutex_unlock(&q->hooks_lock);
    return r;
}

/* ---- life ---- */

static void ended(void *self, const char *operation_id, enum freeze_end end)
{
    struct quiesce *q = self;
    run_after_elsewhere(q);
    if (q->options.on_ended)
        q->options.on_ended(q->options.self, operation_id, freeze_end_name(end));
}

int quiesce_new(const struct quiesce_options *options, struct quiesce **ret, struct sp_why *why)
{
    struct quiesce *q = calloc(1, sizeof(*q));
    if (!q)
        return -ENOMEM;
    const struct agent_config *config = options->config;
    const char *runtime = options->runtime ? options->runtime : config->runtime;
    q->options = *options;
    q->allowance_ms = HOUR_MS;
    q->allowance_at_ns = freeze_now_ns();
    quiesce_hooks_options(config, runtime, &q->hooks);
    pthread_mutex_init(&q->hooks_lock, NULL);
    pthread_cond_init(&q->hooks_done, NULL);
    struct freezer_options freezer = {
        .runtime = runtime,
        .argv = options->freezer_argv,
        .on_ended = ended,
        .self = q,
    };
    int r = freezer_new(&freezer, &q->freezer, why);
    if (r < 0) {
        quiesce_free(q);
        return r;
    }
    run_after(q); /* of an agent that was killed; what it froze is thawed now */
    *ret = q;
    return 0;
}

void quiesce_free(struct quiesce *q)
{
    if (!q)
        return;
    freezer_free(q->freezer);
    pthread_mutex_lock(&q->hooks_lock);
    while (q->after_threads)
        pthread_cond_wait(&q->hooks_done, &q->hooks_lock);
    pthread_mutex_unlock(&q->hooks_lock);
    run_after(q);
    hooks_results_free(&q->after);
    plan_drop(&q->plan);
    pthread_mutex_destroy(&q->hooks_lock);
    pthread_cond_destroy(&q->hooks_done);
    free(q);
}

void quiesce_hooks_options(const struct agent_config *config, const char *runtime,
                           struct hooks_options *ret)
{
    *ret = (struct hooks_options){.folder = config->hooks_folder,
                                  .run_as = config->hooks_run_as,
                                  .runtime = runtime,
                                  .timeout_ms = (unsigned)config->hooks_timeout_ms};
}

void quiesce_abort(struct quiesce *q, bool commanded)
{
    if (!commanded)
        atomic_store(&q->closing, true);
    freezer_abort(q->freezer, commanded ? FREEZE_END_COMMAND : FREEZE_END_AGENT_LOST);
}

int quiesce_lock_error(struct quiesce *q)
{
    return freezer_lock_error(q->freezer);
}

bool quiesce_is_frozen(struct quiesce *q)
{
    struct freezer_status status;
    freezer_state(q->freezer, &status);
    return status.frozen;
}

int quiesce_state(struct quiesce *q, Sp__FreezeState *state)
{
    struct freezer_status status;
    freezer_state(q->freezer, &status);
    state->frozen = status.frozen;
    state->remaining_ms = status.remaining_ms;
    int r = message_text(&state->operation_id, status.operation_id);
    return r == 0 ? message_text(&state->last_ended_by, freeze_end_name(status.last_ended_by)) : r;
}

/* ---- freeze ---- */

/* A freeze costs its share of an hour. */
static int take_allowance(struct quiesce *q, struct sp_why *why)
{
    uint64_t now = freeze_now_ns(), cost = HOUR_MS / q->options.config->most_per_hour;
    q->allowance_ms += (now - q->allowance_at_ns) / 1000000;
    q->allowance_at_ns = now;
    if (q->allowance_ms > HOUR_MS)
        q->allowance_ms = HOUR_MS;
    if (q->allowance_ms < cost)
        return sp_why_set(why, -EDQUOT,
                          "this guest allows %llu freezes an hour (freeze.most_per_hour)",
                          (unsigned long long)q->options.config->most_per_hour);
    q->allowance_ms -= cost;
    return 0;
}

static uint64_t boottime_us_of(uint64_t monotonic_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    uint64_t boot = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    return monotonic_ns ? boot - (freeze_now_ns() - monotonic_ns) / 1000 : boot;
}

static uint32_t lease_of(const struct agent_config *config, uint32_t asked_ms)
{
    uint64_t lease = asked_ms ? asked_ms : config->default_lease_ms;
    return (uint32_t)(lease > config->max_lease_ms ? config->max_lease_ms : lease);
}

/* What a freeze needs on its way. */
struct freezing {
    const char *operation_id;
    const Sp__FreezeCommand *command;
    struct inventory_roots roots;
    char *crypttab;
    Sp__Inventory *before;
    struct freezer_report *report;
    Sp__FreezeAnswer *answer;
};

/* crypttab lies on a file system that may be frozen when it is read again. */
static void read_crypttab(struct freezing *f)
{
    if (f->roots.crypttab_text || !f->roots.crypttab)
        return;
    if (sp_file_read(f->roots.crypttab, 1 << 20, &f->crypttab, NULL) < 0)
        f->crypttab = strdup("");
    f->roots.crypttab_text = f->crypttab;
}

/* All that comes before the first FIFREEZE. */
static int prepare(struct quiesce *q, struct freezing *f, struct sp_why *why)
{
    struct hooks_results hooks = {0};
    int r = run_before(q, f->operation_id, f->command, f->answer->lease_ms, &hooks, why);
    f->answer->hooks = hooks.at;
    f->answer->n_hooks = hooks.count;
    if (r < 0)
        return r;
    read_crypttab(f);
    r = inventory_read(&f->roots, &f->before, why);
    if (r == 0)
        r = plan_make(&q->plan, q->options.config, &f->roots, f->command, f->before);
    unsigned budget_ms = f->command->sync_budget_ms;
    if (r == 0)
        r = plan_sync(&q->plan, budget_ms ? budget_ms : DEFAULT_SYNC_MS, &f->answer->sync_us);
    if (r == 0 && atomic_load(&q->closing))
        r = sp_why_set(why, -ECANCELED, "the agent ends");
    return r;
}

/* The freeze as such, and the facts of it. */
static int hold(struct quiesce *q, struct freezing *f, struct sp_why *why)
{
    struct freezer_target targets[FREEZE_LIST_MOST];
    uint32_t count = plan_targets(&q->plan, q->options.roots->sys, targets);
    int r = freezer_freeze(q->freezer, f->operation_id, targets, count, f->answer->lease_ms,
                           f->report, why);
    plan_close(&q->plan); /* the freezer has its own */
    if (r < 0 && r != -ETIME)
        return r;
    q->complete = r == 0;
    plan_take(&q->plan, f->report);
    f->answer->window_started_boottime_us = boottime_us_of(f->report->first_freeze_ns);
    if (f->report->last_freeze_ns > f->report->first_freeze_ns)
        f->answer->freeze_us = (f->report->last_freeze_ns - f->report->first_freeze_ns) / 1000;
    int made = plan_results(&q->plan, NULL, &f->answer->results, &f->answer->n_results);
    if (r == 0 && made == 0) {
        /* Again, now that nothing changes: this one describes the snapshot. */
        uint64_t from = freeze_now_ns();
        made = inventory_read_again(&f->roots, f->before, &f->answer->inventory, NULL);
        f->answer->inventory_us = (freeze_now_ns() - from) / 1000;
    }
    if (r == 0 && made < 0)
        freezer_thaw(q->freezer, f->operation_id, f->report, NULL); /* nobody would learn of it */
    const char *blocked = r == -ETIME ? plan_blocked(&q->plan) : NULL;
    if (blocked)
        sp_why_set(why, r, "'%s' did not freeze before the freeze was ended: %s", blocked,
                   freeze_end_name(f->report->ended_by));
    return r == 0 ? made : r;
}

int quiesce_freeze(struct quiesce *q, const char *operation_id, const Sp__FreezeCommand *command,
                   Sp__FreezeAnswer **ret, struct sp_why *why)
{
    struct freezer_status status;
    freezer_state(q->freezer, &status);
    if (status.frozen)
        return sp_why_set(why, -EBUSY, "frozen already by operation %s", status.operation_id);
    int r = take_allowance(q, why);
    if (r < 0)
        return r;
    struct freezing f = {.operation_id = operation_id,
                         .command = command,
                         .roots = *q->options.roots,
                         .report = calloc(1, sizeof(*f.report)),
                         .answer = malloc(sizeof(*f.answer))};
    r = f.report && f.answer ? 0 : -ENOMEM;
    if (f.answer)
        sp__freeze_answer__init(f.answer);
    if (r == 0) {
        f.answer->lease_ms = lease_of(q->options.config, command->lease_ms);
        r = prepare(q, &f, why);
        if (r == 0)
            r = hold(q, &f, why);
        if (r < 0)
            run_after(q);
    }
    free(f.report);
    free(f.crypttab);
    sp__inventory__free_unpacked(f.before, NULL);
    if (r == 0 || r == -ETIME)
        *ret = f.answer;
    else
        sp__freeze_answer__free_unpacked(f.answer, NULL);
    return r;
}

/* ---- thaw ---- */

/* The post-thaw hooks, and what they said. */
static void take_after(struct quiesce *q, Sp__ThawAnswer *answer)
{
    run_after(q);
    pthread_mutex_lock(&q->hooks_lock);
    answer->hooks = q->after.at;
    answer->n_hooks = q->after.count;
    q->after = (struct hooks_results){0};
    pthread_mutex_unlock(&q->hooks_lock);
}

int quiesce_thaw(struct quiesce *q, const char *freeze_operation_id, Sp__ThawAnswer **ret,
                 struct sp_why *why)
{
    struct freezer_status status;
    freezer_state(q->freezer, &status);
    if (status.frozen && strcmp(status.operation_id, freeze_operation_id) == 0)
        plan_settle(&q->plan, q->options.roots->sys);
    struct freezer_report *report = calloc(1, sizeof(*report));
    Sp__ThawAnswer *answer = malloc(sizeof(*answer));
    int r = report && answer ? 0 : -ENOMEM;
    if (answer)
        sp__thaw_answer__init(answer);
    if (r == 0)
        r = freezer_thaw(q->freezer, freeze_operation_id, report, why);
    if (r == 0) {
        take_after(q, answer);
        answer->all_thawed_on_command = q->complete && report->ended_by == FREEZE_END_COMMAND &&
                                        plan_all_thawed(&q->plan, report);
        if (report->last_thaw_ns > report->first_freeze_ns && report->first_freeze_ns)
            answer->window_us = (report->last_thaw_ns - report->first_freeze_ns) / 1000;
        r = message_text(&answer->ended_by, freeze_end_name(report->ended_by));
    }
    if (r == 0)
        r = plan_results(&q->plan, report, &answer->results, &answer->n_results);
    free(report);
    if (r < 0) {
        sp__thaw_answer__free_unpacked(answer, NULL);
        return r;
    }
    *ret = answer;
    return 0;
}
