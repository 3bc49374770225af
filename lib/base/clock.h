/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Time, replaceable in tests. Order and deadlines use the monotonic clock; the wall clock is for
 * people and certificates. */
#ifndef SEALPOINT_BASE_CLOCK_H
#define SEALPOINT_BASE_CLOCK_H

#include <stdint.h>

struct sp_clock {
    uint64_t (*monotonic_ns)(void *self);
    uint64_t (*wall_ms)(void *self);
    void *self;
};

extern const struct sp_clock sp_clock_system;

static inline uint64_t sp_clock_monotonic_ms(const struct sp_clock *c)
{
    return c->monotonic_ns(c->self) / 1000000u;
}

/* "2026-03-01 14:05:09Z"; 21 bytes with the 0. Returns out. */
char *sp_time_text(uint64_t unix_ms, char out[24]);

#endif
