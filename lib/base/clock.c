/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static uint64_t system_monotonic_ns(void *self)
{
    (void)self;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t system_wall_ms(void *self)
{
    (void)self;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

const struct sp_clock sp_clock_system = {
    .monotonic_ns = system_monotonic_ns,
    .wall_ms = system_wall_ms,
};

char *sp_time_text(uint64_t unix_ms, char out[24])
{
    time_t seconds = (time_t)(unix_ms / 1000u);
    struct tm t;
    if (!gmtime_r(&seconds, &t) || strftime(out, 24, "%Y-%m-%d %H:%M:%SZ", &t) == 0)
        (void)snprintf(out, 24, "?");
    return out;
}
