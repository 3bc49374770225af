/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who watches jobs and the fleet. A watcher that does not read loses its stream, never holds up
 * what it watches. */
#include "base/clock.h"
#include "controller/api/api.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

struct watcher {
    struct watcher *next;
    struct rpc_call *call; /* a reference */
    char job_id[37];       /* of a job's watcher; else "" */
    char machine_id[128];  /* of a fleet's watcher; "": all */
};

struct watch {
    struct api *api;
    pthread_mutex_t lock; /* list */
    struct watcher *list;
    atomic_uint fleet_watchers;
};

int watch_new(struct api *api, struct watch **ret)
{
    struct watch *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->api = api;
    pthread_mutex_init(&w->lock, NULL);
    *ret = w;
    return 0;
}

static void drop(struct watch *w, struct watcher *x)
{
    if (!*x->job_id)
        atomic_fetch_sub(&w->fleet_watchers, 1);
    rpc_unref(x->call);
    free(x);
}

void watch_free(struct watch *w)
{
    if (!w)
        return;
    while (w->list) {
        struct watcher *x = w->list;
        w->list = x->next;
        drop(w, x);
    }
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static int add(struct watch *w, struct rpc_call *call, const char *job_id, const char *machine_id)
{
    struct watcher *x = calloc(1, sizeof(*x));
    if (!x)
        return -ENOMEM;
    rpc_ref(call);
    x->call = call;
    snprintf(x->job_id, sizeof(x->job_id), "%s", job_id);
    snprintf(x->machine_id, sizeof(x->machine_id), "%s", machine_id);
    if (!*job_id)
        atomic_fetch_add(&w->fleet_watchers, 1);
    pthread_mutex_lock(&w->lock);
    x->next = w->list;
    w->list = x;
    pthread_mutex_unlock(&w->lock);
    return 0;
}

/* The call may have closed before it was added: whoever sends first finds out. */
static void remove_call(struct watch *w, const struct rpc_call *call)
{
    struct watcher *found = NULL;
    pthread_mutex_lock(&w->lock);
    struct watcher **at = &w->list;
    while (*at && (*at)->call != call)
        at = &(*at)->next;
    if (*at) {
        found = *at;
        *at = found->next;
    }
    pthread_mutex_unlock(&w->lock);
    if (found)
        drop(w, found);
}

void watch_closed(struct watch *w, struct rpc_call *call)
{
    if (w)
        remove_call(w, call);
}

/* Under lock. A queue that is full ends the stream: the reader must start anew to be right again.
 */
static bool deliver(struct watcher *x, const ProtobufCMessage *message)
{
    int r = rpc_send(x->call, message);
    if (r < 0 && r != -EPIPE)
        rpc_finish(x->call, RPC_RESOURCE_EXHAUSTED, "the reader is too slow: watch again");
    return r == 0;
}

/* ---- jobs ---- */

static void job_to(struct watcher *x, const Sp__Job *job)
{
    if (deliver(x, &job->base) && job->ended)
        rpc_finish(x->call, RPC_OK, NULL);
}

int watch_job(struct watch *w, struct rpc_call *call, const char *job_id)
{
    Sp__Job *job = NULL;
    struct sp_why why = {0};
    /* Added first and asked then, so that no change falls between. */
    int r = add(w, call, job_id, "");
    if (r == 0)
        r = engine_job(w->api->engine, job_id, &job, &why);
    if (r == 0) {
        pthread_mutex_lock(&w->lock);
        struct watcher *x = w->list;
        while (x && x->call != call)
            x = x->next;
        if (x)
            job_to(x, job);
        pthread_mutex_unlock(&w->lock);
    } else {
        remove_call(w, call);
    }
    message_free(job);
    return r;
}

void watch_on_job(struct watch *w, const Sp__Job *job)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    for (struct watcher *x = w->list; x; x = x->next) {
        if (strcmp(x->job_id, job->job_id) == 0)
            job_to(x, job);
    }
    pthread_mutex_unlock(&w->lock);
}

/* ---- fleet ---- */

static void event_to(struct watch *w, struct watcher *x, const char *machine_id, const char *group,
                     const Sp__FleetEvent *event)
{
    if (*x->job_id || (*x->machine_id && strcmp(x->machine_id, machine_id) != 0) ||
        !api_may_see(w->api, x->call, group))
        return;
    deliver(x, &event->base);
}

static void broadcast(struct watch *w, const char *machine_id, const char *group,
                      Sp__FleetEvent *event)
{
    event->at_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    pthread_mutex_lock(&w->lock);
    for (struct watcher *x = w->list; x; x = x->next)
        event_to(w, x, machine_id, group, event);
    pthread_mutex_unlock(&w->lock);
}

/* An event waits on a worker for the machine's present state. */
struct pending_event {
    struct watch *watch;
    char machine_id[128];
    Sp__PointEvent *point;
    Sp__VolumeEvent *volume;
};

static void tell_machine(void *arg)
{
    struct pending_event *p = arg;
    Sp__Machine *m = NULL;
    Sp__FleetEvent event = SP__FLEET_EVENT__INIT;
    int r = catalog_machine_get(p->watch->api->catalog, p->machine_id, false, &m);
    if (r == 0 && p->point) {
        event.kind_case = SP__FLEET_EVENT__KIND_POINT;
        event.point = p->point;
        broadcast(p->watch, p->machine_id, m->group, &event);
    } else if (r == 0 && p->volume) {
        event.kind_case = SP__FLEET_EVENT__KIND_VOLUME;
        event.volume = p->volume;
        broadcast(p->watch, p->machine_id, m->group, &event);
    }
    if (r == 0 && !p->volume && api_fill_machine(p->watch->api, m) == 0) {
        event.kind_case = SP__FLEET_EVENT__KIND_MACHINE;
        event.machine = m;
        broadcast(p->watch, p->machine_id, m->group, &event);
    }
    message_free(m);
    message_free(p->point);
    message_free(p->volume);
    free(p);
}

/* Takes point and volume. */
static void later(struct watch *w, const char *machine_id, Sp__PointEvent *point,
                  Sp__VolumeEvent *volume)
{
    struct pending_event *p = calloc(1, sizeof(*p));
    if (p) {
        p->watch = w;
        snprintf(p->machine_id, sizeof(p->machine_id), "%s", machine_id);
        p->point = point;
        p->volume = volume;
        if (pool_submit(w->api->requests, tell_machine, p) == 0)
            return;
    }
    message_free(point);
    message_free(volume);
    free(p);
}

static bool nobody(struct watch *w)
{
    return !w || atomic_load(&w->fleet_watchers) == 0;
}

void watch_on_machine(struct watch *w, const char *machine_id)
{
    if (!nobody(w))
        later(w, machine_id, NULL, NULL);
}

void watch_on_point(struct watch *w, const char *machine_id, const char *point_id,
                    Sp__PointState state)
{
    if (nobody(w))
        return;
    Sp__PointEvent *event = message_new(&sp__point_event__descriptor);
    int r = event ? message_set(&event->machine_id, machine_id) : -ENOMEM;
    if (r == 0)
        r = message_set(&event->point_id, point_id);
    if (r < 0) {
        message_free(event);
        return;
    }
    event->state = state;
    later(w, machine_id, event, NULL);
}

void watch_on_volume(struct watch *w, const Sp__VolumeEvent *event)
{
    if (nobody(w))
        return;
    Sp__VolumeEvent *copy = message_copy(event);
    if (copy)
        later(w, event->machine_id, NULL, copy);
}

struct all {
    struct watch *watch;
    struct rpc_call *call;
    const char *machine_id;
    Sp__Machine **machines;
    size_t count;
};

static int gather(void *arg, Sp__Machine *m)
{
    struct all *a = arg;
    if ((*a->machine_id && strcmp(a->machine_id, m->machine_id) != 0) ||
        !api_may_see(a->watch->api, a->call, m->group))
        return 0;
    return message_append(&a->machines, &a->count, message_copy(m));
}

int watch_fleet(struct watch *w, struct rpc_call *call, const char *machine_id)
{
    struct all all = {.watch = w, .call = call, .machine_id = machine_id};
    int r = add(w, call, "", machine_id);
    if (r == 0)
        r = catalog_machine_each(w->api->catalog, gather, &all);
    for (size_t i = 0; i < all.count; i++) {
        Sp__FleetEvent event = SP__FLEET_EVENT__INIT;
        event.at_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
        event.kind_case = SP__FLEET_EVENT__KIND_MACHINE;
        event.machine = all.machines[i];
        if (r == 0)
            r = api_fill_machine(w->api, all.machines[i]);
        if (r == 0)
            r = api_send(call, &event.base);
        message_free(all.machines[i]);
    }
    free(all.machines);
    if (r < 0)
        remove_call(w, call);
    return r;
}
