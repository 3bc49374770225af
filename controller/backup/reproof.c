/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys are lost long after a backup: kept points are proved again for as long as they are kept. One
 * at a time and not oftener than the rate allows, while a worker is free. The one that was tried
 * longest ago comes first, so that none waits for those which cannot be proved any more. */
#include "base/clock.h"
#include "base/log.h"
#include "controller/backup/run.h"
#include <string.h>

enum { AGAIN_MS = 24 * 3600 * 1000 }; /* what did not prove well: is it better by now? */

static bool is_kept(const Sp__Point *p)
{
    return (p->state == SP__POINT_STATE__POINT_STATE_VALID ||
            p->state == SP__POINT_STATE__POINT_STATE_AT_RISK) &&
           p->volumes > 0 && !p->deleted_unix_ms;
}

/* When somebody last saw whether its keys fit. A time to come was written by a wrong clock. */
static uint64_t tried(const Sp__Point *p, uint64_t now)
{
    uint64_t at = p->last_tried_unix_ms > p->last_proved_unix_ms ? p->last_tried_unix_ms
                                                                 : p->last_proved_unix_ms;
    return at > now ? 0 : at;
}

static bool is_due(const struct engine *e, const Sp__Point *p, uint64_t now)
{
    bool well = p->state == SP__POINT_STATE__POINT_STATE_VALID &&
                p->last_proved_unix_ms >= p->last_tried_unix_ms;
    uint64_t after = e->options.reproof_after_ms;
    if (!well && after > AGAIN_MS)
        after = AGAIN_MS;
    return now - tried(p, now) >= after;
}

struct choice {
    const struct engine *engine;
    uint64_t now, at;
    char point_id[37];
};

static int choose(void *arg, uint64_t rowid, Sp__Point *p)
{
    struct choice *c = arg;
    (void)rowid;
    uint64_t at = tried(p, c->now);
    if (is_kept(p) && is_due(c->engine, p, c->now) && (!*c->point_id || at < c->at)) {
        c->at = at;
        snprintf(c->point_id, sizeof(c->point_id), "%s", p->point_id);
    }
    return 0;
}

/* Whether the rate allows one more. */
static bool has_turn(struct engine *e)
{
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    return now >= e->reproof_not_before_ms;
}

static void take_turn(struct engine *e)
{
    e->reproof_not_before_ms =
        sp_clock_monotonic_ms(&sp_clock_system) + 3600 * 1000 / e->options.reproofs_per_hour;
}

bool reproof_patience_over(const struct engine *e, const Sp__Point *p)
{
    uint64_t now = engine_now_ms();
    return e->options.reproof_after_ms && p->last_proved_unix_ms < now &&
           now - p->last_proved_unix_ms >=
               e->options.reproof_after_ms + e->options.unreachable_most_ms;
}

void engine_reproof(struct engine *e)
{
    struct choice c = {.engine = e, .now = engine_now_ms()};
    Sp__KeeperResponse *status SP_CLEANUP(keeper_response) = NULL;
    if (!e->options.reproof_after_ms || !background_has_room(e))
        return;
    pthread_mutex_lock(&e->tidy_lock);
    int r = has_turn(e) ? catalog_point_each(e->options.catalog, NULL, 0, choose, &c) : 0;
    if (*c.point_id)
        take_turn(e);
    pthread_mutex_unlock(&e->tidy_lock);
    /* A locked keeper would only make every point look unreachable. */
    if (r < 0 || !*c.point_id || keeper_status(e, &status, NULL) < 0 || status->status->locked)
        return;
    (void)background_verify(e, c.point_id); /* it has said why not */
}
