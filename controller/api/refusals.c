/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/api/refusals.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MINUTE_MS = 60 * 1000 };

struct source {
    char name[80]; /* "": the slot is free */
    uint64_t since_ms;
    unsigned written, counted;
};

struct refusals {
    const struct sp_clock *clock;
    pthread_mutex_t lock;
    struct source sources[REFUSALS_SOURCES];
    struct source others; /* who found no slot */
    uint64_t since_ms;    /* of the minute of all */
    unsigned written;     /* in it */
};

int refusals_new(const struct sp_clock *clock, struct refusals **ret)
{
    struct refusals *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->clock = clock;
    r->since_ms = sp_clock_monotonic_ms(clock);
    pthread_mutex_init(&r->lock, NULL);
    *ret = r;
    return 0;
}

void refusals_free(struct refusals *r)
{
    if (!r)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static bool is_over(const struct source *s, uint64_t now)
{
    return now - s->since_ms >= MINUTE_MS;
}

/* A slot whose minute is over, and of which all is told, is anybody's. */
static struct source *slot_for(struct refusals *r, const char *name, uint64_t now)
{
    struct source *free_slot = NULL;
    for (size_t i = 0; i < REFUSALS_SOURCES; i++) {
        struct source *s = &r->sources[i];
        if (strncmp(s->name, name, sizeof(s->name) - 1) == 0 && *s->name)
            return s;
        if (!free_slot && (!*s->name || (is_over(s, now) && s->counted == 0)))
            free_slot = s;
    }
    if (!free_slot)
        return &r->others;
    *free_slot = (struct source){.since_ms = now};
    snprintf(free_slot->name, sizeof(free_slot->name), "%s", name);
    return free_slot;
}

bool refusals_admit(struct refusals *r, const char *source)
{
    uint64_t now = sp_clock_monotonic_ms(r->clock);
    pthread_mutex_lock(&r->lock);
    if (now - r->since_ms >= MINUTE_MS) {
        r->since_ms = now;
        r->written = 0;
    }
    struct source *s = slot_for(r, *source ? source : "?", now);
    /* What was counted is told before a new minute begins. */
    if (is_over(s, now) && s->counted == 0) {
        s->since_ms = now;
        s->written = 0;
    }
    bool admit = s->written < REFUSALS_OF_ONE && r->written < REFUSALS_OF_ALL;
    if (admit) {
        s->written++;
        r->written++;
    } else if (s->counted < UINT32_MAX) {
        s->counted++;
    }
    pthread_mutex_unlock(&r->lock);
    return admit;
}

static bool take(struct refusals *r, struct source *s, bool all, struct source *ret)
{
    pthread_mutex_lock(&r->lock);
    bool due = s->counted > 0 && (all || is_over(s, sp_clock_monotonic_ms(r->clock)));
    if (due) {
        *ret = *s;
        /* A new minute: whoever goes on is written again, a few times. */
        s->since_ms = sp_clock_monotonic_ms(r->clock);
        s->written = s->counted = 0;
    }
    pthread_mutex_unlock(&r->lock);
    return due;
}

void refusals_tell(struct refusals *r, bool all,
                   void (*each)(void *arg, const char *source, unsigned count), void *arg)
{
    struct source told;
    for (size_t i = 0; i <= REFUSALS_SOURCES; i++) {
        struct source *s = i < REFUSALS_SOURCES ? &r->sources[i] : &r->others;
        if (take(r, s, all, &told))
            each(arg, told.name, told.counted);
    }
}

const char *refusals_source(const char *address, char out[80])
{
    char bare[INET6_ADDRSTRLEN + 1] = "";
    uint8_t ip[16];
    snprintf(out, 80, "%s", address);
    if (strncmp(address, "ipv4:", 5) == 0 || strncmp(address, "ipv6:", 5) == 0)
        address += 5;
    const char *open = *address == '['                   ? address + 1
                       : strncmp(address, "%5B", 3) == 0 ? address + 3
                                                         : NULL;
    size_t length = open ? strcspn(open, "]%") : strcspn(address, ":");
    if (length >= sizeof(bare))
        return out;
    memcpy(bare, open ? open : address, length);
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (inet_pton(AF_INET, bare, ip) == 1) {
        snprintf(out, 80, "%s", bare);
    } else if (open && inet_pton(AF_INET6, bare, ip) == 1) {
        bool is_v4 = memcmp(ip, mapped, sizeof(mapped)) == 0;
        if (!is_v4)
            memset(ip + 8, 0, 8);
        inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? ip + 12 : ip, bare, sizeof(bare));
        snprintf(out, 80, is_v4 ? "%s" : "%s/64", bare);
    }
    return out;
}
