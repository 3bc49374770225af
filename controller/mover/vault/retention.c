/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/retention.h"
#include <time.h>

enum { DAY_MS = 24 * 60 * 60 * 1000 };

static uint64_t day_of(uint64_t unix_ms)
{
    return unix_ms / DAY_MS;
}

/* Weeks begin on Monday, as in ISO 8601; 1970-01-01 was a Thursday. */
static uint64_t week_of(uint64_t unix_ms)
{
    return (day_of(unix_ms) + 3) / 7;
}

static uint64_t month_of(uint64_t unix_ms)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm t = {0};
    gmtime_r(&seconds, &t);
    return (uint64_t)(t.tm_year + 1900) * 12 + (uint64_t)t.tm_mon;
}

static uint64_t year_of(uint64_t unix_ms)
{
    return month_of(unix_ms) / 12;
}

static uint64_t every(uint64_t unix_ms)
{
    (void)unix_ms;
    return 0;
}

static bool newer(const struct retention_point *a, const struct retention_point *b)
{
    if (a->taken_unix_ms != b->taken_unix_ms)
        return a->taken_unix_ms > b->taken_unix_ms;
    return a->sequence > b->sequence;
}

/* The newest point of the kind that is older than `before` (NULL: of all). */
static struct retention_point *next(struct retention_point *points, size_t count, bool valid,
                                    const struct retention_point *before)
{
    struct retention_point *best = NULL;
    for (size_t i = 0; i < count; i++) {
        struct retention_point *p = &points[i];
        if (p->valid == valid && !p->held && (!before || newer(before, p)) &&
            (!best || newer(p, best)))
            best = p;
    }
    return best;
}

/* Keeps the newest point of each of the `most` newest periods that have one; with every(), of each
 * point. */
static void keep_by(struct retention_point *points, size_t count, bool valid,
                    uint64_t (*period)(uint64_t), uint32_t most)
{
    uint64_t last = UINT64_MAX;
    struct retention_point *p = NULL;
    while (most > 0 && (p = next(points, count, valid, p))) {
        uint64_t is = period(p->taken_unix_ms);
        if (period != every && is == last)
            continue;
        last = is;
        p->keep = true;
        most--;
    }
}

static void keep_newest(struct retention_point *points, size_t count, bool only_valid)
{
    struct retention_point *by_time = NULL, *by_number = NULL;
    for (size_t i = 0; i < count; i++) {
        struct retention_point *p = &points[i];
        if (only_valid && !p->valid)
            continue;
        if (!by_time || newer(p, by_time))
            by_time = p;
        if (!by_number || p->sequence > by_number->sequence)
            by_number = p;
    }
    if (by_time)
        by_time->keep = by_number->keep = true;
}

void retention_apply(const Sp__Retention *rules, struct retention_point *points, size_t count)
{
    bool any = rules && (rules->keep_last || rules->keep_daily || rules->keep_weekly ||
                         rules->keep_monthly || rules->keep_yearly);
    for (size_t i = 0; i < count; i++)
        points[i].keep = !any || points[i].held;
    if (!any)
        return;
    for (int valid = 0; valid < 2; valid++) {
        keep_by(points, count, valid, every, rules->keep_last);
        keep_by(points, count, valid, day_of, rules->keep_daily);
        keep_by(points, count, valid, week_of, rules->keep_weekly);
        keep_by(points, count, valid, month_of, rules->keep_monthly);
        keep_by(points, count, valid, year_of, rules->keep_yearly);
    }
    keep_newest(points, count, false);
    keep_newest(points, count, true);
}
