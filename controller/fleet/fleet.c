/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/fleet/fleet.h"
#include "base/clock.h"
#include "base/log.h"
#include "controller/fleet/internal.h"
#include <string.h>
#include <time.h>

enum { TICK_MS = 250, SEEN_EVERY_MS = 300000 };

uint64_t fleet_now_ms(void)
{
    return sp_clock_monotonic_ms(&sp_clock_system);
}

/* ---- the table of agents ---- */

static size_t bucket_of(const char *machine_id)
{
    uint32_t hash = 2166136261u;
    for (const char *p = machine_id; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 16777619u;
    return hash % FLEET_BUCKETS;
}

struct agent *fleet_find(struct fleet *f, const char *machine_id)
{
    struct agent *a = f->buckets[bucket_of(machine_id)];
    while (a && strcmp(a->machine_id, machine_id) != 0)
        a = a->next;
    return a;
}

struct agent *fleet_agent(struct fleet *f, const char *machine_id)
{
    struct agent *a = fleet_find(f, machine_id);
    if (a)
        return a;
    a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->status = message_new(&sp__agent_status__descriptor);
    if (!a->status) {
        free(a);
        return NULL;
    }
    snprintf(a->machine_id, sizeof(a->machine_id), "%s", machine_id);
    size_t bucket = bucket_of(machine_id);
    a->next = f->buckets[bucket];
    f->buckets[bucket] = a;
    return a;
}

static void free_agent(struct agent *a)
{
    message_free(a->status);
    message_free(a->unsaved_inventory);
    fleet_free_events(&a->unsaved_events);
    free(a);
}

void fleet_dirty(struct fleet *f, struct agent *a)
{
    if (!a->dirty) {
        a->dirty = true;
        a->next_dirty = f->dirty;
        f->dirty = a;
    }
    pthread_cond_broadcast(&f->changed);
}

/* ---- the fleet's thread: catalog and contests ---- */

struct saving {
    Sp__AgentStatus *status;
    Sp__Inventory *inventory;
    struct agent_events events;
    char machine_id[128];
    char mark[FLEET_MARK_MAX];
};

static int put_status(Sp__Machine *m, void *arg)
{
    struct saving *s = arg;
    /* What the keeper says of the certificate stays. */
    bool enrolled = m->agent && m->agent->enrolled;
    uint64_t expires = m->agent ? m->agent->certificate_expires_unix_ms : 0;
    message_free(m->agent);
    m->agent = s->status;
    s->status = NULL;
    m->agent->enrolled = enrolled;
    m->agent->certificate_expires_unix_ms = expires;
    m->agent->connected = 0;
    return 0;
}

static void save(struct fleet *f, struct saving *s)
{
    int r = catalog_machine_change(f->options.catalog, s->machine_id, put_status, s, NULL);
    if (r == 0)
        r = catalog_machine_set_mark(f->options.catalog, s->machine_id, s->mark);
    if (r == 0)
        r = fleet_save_events(f, s->machine_id, s->inventory, &s->events);
    if (r < 0)
        sp_log_error("machine not saved", r, NULL, "machine", s->machine_id, NULL);
    message_free(s->status);
    message_free(s->inventory);
    fleet_free_events(&s->events);
}

/* Takes the next agent that has something to save; false when there is none. */
static bool take_dirty(struct fleet *f, struct saving *s)
{
    struct agent *a = f->dirty;
    if (!a)
        return false;
    f->dirty = a->next_dirty;
    a->dirty = false;
    *s = (struct saving){.status = message_copy(a->status),
                         .inventory = a->unsaved_inventory,
                         .events = a->unsaved_events};
    a->unsaved_inventory = NULL;
    a->unsaved_events = (struct agent_events){0};
    memcpy(s->machine_id, a->machine_id, sizeof(s->machine_id));
    memcpy(s->mark, a->mark, sizeof(s->mark));
    return s->status != NULL;
}

static void wait_tick(struct fleet *f)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&f->changed, &f->lock, &until);
}

static void *work(void *arg)
{
    struct fleet *f = arg;
    pthread_mutex_lock(&f->lock);
    while (!f->stopping || f->dirty) {
        struct saving s;
        if (take_dirty(f, &s)) {
            pthread_mutex_unlock(&f->lock);
            save(f, &s);
            pthread_mutex_lock(&f->lock);
        } else if (!fleet_end_contests(f)) {
            wait_tick(f);
        }
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* ---- life ---- */

struct load {
    struct fleet *fleet;
};

static int load_machine(void *arg, Sp__Machine *m)
{
    struct load *l = arg;
    struct agent *a = fleet_agent(l->fleet, m->machine_id);
    if (!a)
        return -ENOMEM;
    if (m->agent) {
        message_free(a->status);
        a->status = message_copy(m->agent);
        if (!a->status)
            return -ENOMEM;
        a->status->connected = 0;
        a->quarantined = m->agent->quarantined;
    }
    return catalog_machine_mark(l->fleet->options.catalog, m->machine_id, a->mark, sizeof(a->mark));
}

int fleet_new(const struct fleet_options *options, struct fleet **ret, struct sp_why *why)
{
    struct fleet *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->options = *options;
    if (!f->options.heartbeat_ms)
        f->options.heartbeat_ms = 20000;
    if (!f->options.probe_ms)
        f->options.probe_ms = 4000;
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&f->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    uint64_t starts = 0;
    struct load load = {f};
    int r = catalog_count_up(options->catalog, "starts", &starts);
    if (r == 0)
        r = catalog_machine_each(options->catalog, load_machine, &load);
    f->fence = starts << 32;
    if (r == 0)
        r = -pthread_create(&f->thread, NULL, work, f);
    f->running = r == 0;
    if (r < 0) {
        fleet_free(f);
        return sp_why_set(why, r, "the fleet cannot be loaded: %s", strerror(-r));
    }
    *ret = f;
    return 0;
}

void fleet_free(struct fleet *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    if (f->running)
        pthread_join(f->thread, NULL);
    for (size_t i = 0; i < FLEET_BUCKETS; i++) {
        while (f->buckets[i]) {
            struct agent *a = f->buckets[i];
            f->buckets[i] = a->next;
            free_agent(a);
        }
    }
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* ---- for the API ---- */

int fleet_fill(struct fleet *f, Sp__Machine *m)
{
    pthread_mutex_lock(&f->lock);
    const struct agent *a = fleet_find(f, m->machine_id);
    Sp__AgentStatus *status = a ? message_copy(a->status) : NULL;
    bool connected = a && a->current;
    pthread_mutex_unlock(&f->lock);
    if (!a)
        return 0;
    if (!status)
        return -ENOMEM;
    status->connected = connected;
    if (m->agent) {
        status->enrolled = m->agent->enrolled;
        status->certificate_expires_unix_ms = m->agent->certificate_expires_unix_ms;
    }
    message_free(m->agent);
    m->agent = status;
    return 0;
}

unsigned fleet_connected(struct fleet *f)
{
    unsigned count = 0;
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < FLEET_BUCKETS; i++) {
        for (const struct agent *a = f->buckets[i]; a; a = a->next)
            count += a->current != NULL;
    }
    pthread_mutex_unlock(&f->lock);
    return count;
}

static int forget_smbios(Sp__Machine *m, void *arg)
{
    (void)arg;
    if (!m->agent)
        return 0;
    m->agent->quarantined = 0;
    int r = message_set(&m->agent->quarantine_reason, "");
    return r < 0 ? r : message_set(&m->agent->smbios_uuid, "");
}

int fleet_forget_mark(struct fleet *f, const char *machine_id, bool also_smbios)
{
    pthread_mutex_lock(&f->lock);
    struct agent *a = fleet_find(f, machine_id);
    if (a) {
        a->mark[0] = '\0';
        if (also_smbios)
            message_set(&a->status->smbios_uuid, "");
    }
    pthread_mutex_unlock(&f->lock);
    return catalog_machine_set_mark(f->options.catalog, machine_id, "");
}

int fleet_release(struct fleet *f, const char *machine_id, struct sp_why *why)
{
    /* On disk first: a restart in between must not bring the quarantine back. */
    int r = catalog_machine_change(f->options.catalog, machine_id, forget_smbios, NULL, NULL);
    if (r == 0)
        r = catalog_machine_set_mark(f->options.catalog, machine_id, "");
    if (r < 0)
        return sp_why_set(why, r, "the quarantine cannot be lifted: %s", strerror(-r));
    pthread_mutex_lock(&f->lock);
    struct agent *a = fleet_find(f, machine_id);
    if (a) {
        a->quarantined = false;
        a->mark[0] = '\0';
        a->status->quarantined = 0;
        message_set(&a->status->quarantine_reason, "");
        message_set(&a->status->smbios_uuid, "");
        fleet_goodbye_all(a, "the quarantine was lifted: connect again");
    }
    pthread_mutex_unlock(&f->lock);
    return 0;
}
