/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Points that are unproven only because somebody could not be asked (the keeper was away or locked)
 * are verified again by themselves: one at a time, each less and less often. */
#include "base/clock.h"
#include "base/log.h"
#include "controller/backup/run.h"
#include "controller/backup/verdict.h"
#include <string.h>

enum { RETRY_FIRST_MS = 60 * 1000, RETRY_MOST_MS = 6 * 3600 * 1000 };

struct attempt {
    struct attempt *next;
    char point_id[37];
    uint64_t not_before_ms;
    unsigned delay_ms;
};

void retry_forget(struct engine *e)
{
    while (e->attempts) {
        struct attempt *a = e->attempts;
        e->attempts = a->next;
        free(a);
    }
}

/* Whether its time has come; then the next time is later. */
static bool due(struct engine *e, const char *point_id)
{
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    struct attempt *a = e->attempts;
    while (a && strcmp(a->point_id, point_id) != 0)
        a = a->next;
    if (!a) {
        a = calloc(1, sizeof(*a));
        if (!a)
            return false;
        snprintf(a->point_id, sizeof(a->point_id), "%s", point_id);
        a->delay_ms = RETRY_FIRST_MS;
        a->next = e->attempts;
        e->attempts = a;
    } else if (now < a->not_before_ms) {
        return false;
    } else if (a->delay_ms < RETRY_MOST_MS) {
        a->delay_ms *= 2;
    }
    a->not_before_ms = now + a->delay_ms;
    return true;
}

/* What this host cannot compute it will not be able to compute in an hour either. */
static bool worth_it(const Sp__Point *point)
{
    for (size_t i = 0; i < point->n_findings; i++) {
        const Sp__Finding *f = point->findings[i];
        if (!f->note && verdict_retried(f->reason) &&
            f->reason != SP__REASON__REASON_UNCHECKABLE_CIPHER)
            return true;
    }
    return false;
}

struct choice {
    struct engine *engine;
    char point_id[37];
};

static int choose(void *arg, uint64_t rowid, Sp__Point *point)
{
    struct choice *c = arg;
    (void)rowid;
    if (point->state != SP__POINT_STATE__POINT_STATE_UNPROVEN || !worth_it(point) ||
        !due(c->engine, point->point_id))
        return 0;
    snprintf(c->point_id, sizeof(c->point_id), "%s", point->point_id);
    return 1;
}

void engine_retry(struct engine *e)
{
    struct choice c = {.engine = e};
    Sp__KeeperResponse *status SP_CLEANUP(keeper_response) = NULL;
    if (!background_has_room(e) || keeper_status(e, &status, NULL) < 0 || status->status->locked)
        return;
    pthread_mutex_lock(&e->tidy_lock);
    int r = catalog_point_each(e->options.catalog, NULL, 0, choose, &c);
    pthread_mutex_unlock(&e->tidy_lock);
    if (r >= 0 && *c.point_id)
        (void)background_verify(e, c.point_id); /* it has said why not */
}
