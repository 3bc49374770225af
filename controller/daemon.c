/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/daemon.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "controller/api/api.h"
#include "controller/api/keyslot.h"
#include "controller/keeper/keeper_client.h"
#include "controller/renew.h"
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

enum {
    STOP_GRACE_MS = 3000,
    REQUEST_THREADS = 8,
    STREAM_THREADS = 6,
    QUEUE_MAX = 4096,
    TICK_S = 2,
    TIDY_EVERY_TICKS = 15,
    RENEW_EVERY_TICKS = 900
};

struct daemon {
    const struct controller_config *config;
    int lock_fd;
    struct catalog *catalog;
    struct keeper_client *keeper;
    struct api api;
    pthread_mutex_t lock; /* server, stopping, trust */
    pthread_cond_t wake;
    struct rpc_server *server;
    int port;
    bool stopping, ticking;
    pthread_t ticker;
    atomic_bool keeper_was_away;
};

/* ---- the keeper ---- */

/* The client's -ENOENT may mean "no such record" or "no such socket": only one of them is a failure
 * of this host. */
static int explain(const struct daemon *d, int r, struct sp_why *why)
{
    if (r == -EPIPE || r == -ECONNRESET)
        return sp_why_set(why, -EHOSTUNREACH, "the keeper ended before it answered");
    if (r == -ECONNREFUSED || (r == -ENOENT && access(d->config->keeper_socket, F_OK) < 0))
        return sp_why_set(why, -EHOSTUNREACH, "the keeper does not run (no answer on %s)",
                          d->config->keeper_socket);
    return r;
}

static int ask(void *self, Sp__KeeperRequest *request, int timeout_ms, Sp__KeeperResponse **ret,
               struct sp_why *why)
{
    struct daemon *d = self;
    return explain(d, keeper_call(d->keeper, request, -1, timeout_ms, ret, why), why);
}

static int ask_reading(void *self, Sp__KeeperRequest *request,
                       int (*read_at)(void *, uint32_t, uint64_t, void *, uint32_t),
                       void *read_self, int timeout_ms, Sp__KeeperResponse **ret,
                       struct sp_why *why)
{
    struct daemon *d = self;
    return explain(
        d, keeper_call_reading(d->keeper, request, read_at, read_self, timeout_ms, ret, why), why);
}

static int ask_identities(void *self, Sp__KeeperRequest *request, Sp__KeeperResponse **ret,
                          struct sp_why *why)
{
    return ask(self, request, 0, ret, why);
}

/* ---- identities ---- */

static void end_if_gone(struct rpc_call *call, void *arg)
{
    struct daemon *d = arg;
    struct sp_why why = {0};
    if (!identities_gone(d->api.identities, rpc_peer(call), &why))
        return;
    api_audit(&d->api, call, "stream.ended", rpc_method_of(call)->path, "%s", why.text);
    rpc_finish(call, RPC_UNAUTHENTICATED, why.text);
}

/* Under lock. */
static void write_trust(struct daemon *d)
{
    struct sp_buffer bundle SP_BUFFER = {0};
    char *path SP_FREE = sp_format("%s/trust.pem", d->config->state);
    char *now SP_FREE = NULL;
    size_t size = 0;
    if (!path || identities_trust(d->api.identities, &bundle) < 0)
        return;
    if (sp_file_read(path, 1 << 20, &now, &size) == 0 && size == bundle.size &&
        memcmp(now, bundle.data, size) == 0)
        return;
    int r = sp_file_replace(path, bundle.data, bundle.size, 0644);
    if (r < 0)
        sp_log_error("trust bundle not written", r, NULL, "path", path, NULL);
}

static void refresh_identities(void *self)
{
    struct daemon *d = self;
    struct sp_why why = {0};
    bool changed = false;
    int r = identities_refresh(d->api.identities, &changed, &why);
    /* Once for each absence, not every two seconds. */
    if (!atomic_exchange(&d->keeper_was_away, r < 0) && r < 0)
        sp_log_error("identities not refreshed", r, &why, NULL);
    if (!changed)
        return;
    pthread_mutex_lock(&d->lock);
    write_trust(d);
    struct rpc_server *server = d->server;
    pthread_mutex_unlock(&d->lock);
    if (server)
        rpc_server_for_each(server, end_if_gone, d);
}

/* ---- agents, as the engine wants them ---- */

static enum engine_agent_state agent_wait(void *self, const char *machine_id, unsigned timeout_ms,
                                          const atomic_bool *cancel)
{
    struct daemon *d = self;
    switch (fleet_wait(d->api.fleet, machine_id, timeout_ms, cancel)) {
    case FLEET_PRESENT:
        return ENGINE_AGENT_PRESENT;
    case FLEET_QUARANTINED:
        return ENGINE_AGENT_QUARANTINED;
    case FLEET_ABSENT:
        break;
    }
    return ENGINE_AGENT_ABSENT;
}

static bool agent_can(void *self, const char *machine_id, const char *capability)
{
    struct daemon *d = self;
    return fleet_can(d->api.fleet, machine_id, capability);
}

static int agent_command(void *self, const char *machine_id, Sp__Command *command,
                         unsigned timeout_ms, const atomic_bool *cancel, Sp__Answer **ret,
                         struct sp_why *why)
{
    struct daemon *d = self;
    return fleet_command(d->api.fleet, machine_id, command, timeout_ms, cancel, ret, why);
}

static int agent_header(void *self, const char *machine_id, const char *volume_id,
                        unsigned timeout_ms, const atomic_bool *cancel, struct sp_buffer *out,
                        struct sp_why *why)
{
    struct daemon *d = self;
    return fleet_header(d->api.fleet, machine_id, volume_id, timeout_ms, cancel, out, why);
}

/* ---- events ---- */

static void on_job(void *self, const Sp__Job *job)
{
    struct daemon *d = self;
    watch_on_job(d->api.watch, job);
}

static void on_point(void *self, const char *machine_id, const char *point_id, Sp__PointState state)
{
    struct daemon *d = self;
    watch_on_point(d->api.watch, machine_id, point_id, state);
}

static void on_machine(void *self, const char *machine_id)
{
    struct daemon *d = self;
    watch_on_machine(d->api.watch, machine_id);
}

static void on_volume(void *self, const Sp__VolumeEvent *event)
{
    struct daemon *d = self;
    watch_on_volume(d->api.watch, event);
}

static void on_audit(void *self, const char *who, const char *what, const char *about,
                     const char *text)
{
    struct daemon *d = self;
    (void)who;
    /* An agent that is refused tries again, for ever. */
    if (strcmp(what, "agent.refused") == 0 && !refusals_admit(d->api.refusals, about))
        return;
    api_audit(&d->api, NULL, what, about, "%s", text);
}

static const struct engine_keeper engine_keeper = {ask, ask_reading};
static const struct engine_agents engine_agents = {agent_wait, agent_can, agent_command,
                                                   agent_header};
static const struct engine_events engine_events = {on_job, on_point};
static const struct fleet_events fleet_events = {on_machine, on_volume, on_audit};

/* ---- now and then ---- */

static void renew(struct daemon *d)
{
    struct sp_why why = {0};
    bool renewed = false;
    uint64_t now = sp_clock_system.wall_ms(sp_clock_system.self);
    int r = renew_if_due(d->config->state, d->keeper, now, &renewed, &why);
    if (r < 0)
        sp_log_error("own certificate not renewed", r, &why, NULL);
    if (renewed)
        api_audit(&d->api, NULL, "certificate.renewed", "controller", "%s", "");
}

static bool wait_tick(struct daemon *d)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += TICK_S;
    pthread_mutex_lock(&d->lock);
    int r = 0;
    while (!d->stopping && r == 0)
        r = pthread_cond_timedwait(&d->wake, &d->lock, &until);
    bool go_on = !d->stopping;
    pthread_mutex_unlock(&d->lock);
    return go_on;
}

static void *tick(void *arg)
{
    struct daemon *d = arg;
    for (uint64_t n = 1; wait_tick(d); n++) {
        refresh_identities(d);
        api_tell_refusals(&d->api, false);
        keyslots_tick(&d->api);
        if (n % TIDY_EVERY_TICKS == 0) {
            engine_tidy(d->api.engine);
            engine_retry(d->api.engine);
            engine_reproof(d->api.engine);
        }
        if (n % RENEW_EVERY_TICKS == 0)
            renew(d);
    }
    return NULL;
}

/* ---- start ---- */

static int prepare_state(struct daemon *d, struct sp_why *why)
{
    const struct controller_config *c = d->config;
    int r = sp_make_directories(c->state, 0700);
    if (r == 0)
        r = sp_make_directories(c->fleece, 0700);
    if (r < 0)
        return sp_why_set(why, r, "the state folder %s cannot be made: %s", c->state, strerror(-r));
    char *path SP_FREE = sp_format("%s/lock", c->state);
    if (!path)
        return -ENOMEM;
    d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->lock_fd < 0)
        return sp_why_set(why, -errno, "cannot open %s: %s", path, strerror(errno));
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return sp_why_set(why, -EBUSY, "another sealpointd works on %s", c->state);
    return 0;
}

/* gRPC's listener never recovers from running out of descriptors. */
static void raise_limits(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int start_parts(struct daemon *d, struct sp_why *why)
{
    const struct controller_config *c = d->config;
    struct api *api = &d->api;
    char *catalog_path SP_FREE = sp_format("%s/catalog.db", c->state);
    if (!catalog_path)
        return -ENOMEM;
    int r = catalog_open(catalog_path, &d->catalog, why);
    if (r == 0)
        r = keeper_client_new(c->keeper_socket, &d->keeper);
    api->catalog = d->catalog;
    api->keeper = ask;
    api->identities_changed = refresh_identities;
    api->self = d;
    if (r == 0)
        r = pool_new("request", REQUEST_THREADS, QUEUE_MAX, &api->requests);
    if (r == 0)
        r = pool_new("stream", STREAM_THREADS, QUEUE_MAX, &api->streams);
    if (r == 0)
        r = pool_new("audit", 1, QUEUE_MAX, &api->audits);
    if (r == 0)
        r = refusals_new(&sp_clock_system, &api->refusals);
    if (r == 0)
        r = watch_new(api, &api->watch);
    if (r == 0)
        r = keyslots_new(&api->keyslots);
    if (r == 0)
        r = identities_new(d->catalog, ask_identities, d, &api->identities);
    if (r == 0)
        refresh_identities(d);
    return r;
}

static int start_fleet(struct daemon *d, struct sp_why *why)
{
    struct fleet_options options = {.catalog = d->catalog,
                                    .events = &fleet_events,
                                    .events_self = d,
                                    .controller_name = "sealpointd",
                                    .heartbeat_ms = (unsigned)d->config->heartbeat_ms};
    return fleet_new(&options, &d->api.fleet, why);
}

static int start_engine(struct daemon *d, const char *trust, struct sp_why *why)
{
    struct engine_options options = {.catalog = d->catalog,
                                     .keeper = &engine_keeper,
                                     .keeper_self = d,
                                     .agents = &engine_agents,
                                     .agents_self = d,
                                     .events = &engine_events,
                                     .events_self = d,
                                     .trust_path = trust,
                                     .fleece_directory = d->config->fleece,
                                     .parallel = (unsigned)d->config->jobs,
                                     .reproof_after_ms = d->config->reproof_after_ms,
                                     .reproofs_per_hour = (unsigned)d->config->reproofs_per_hour,
                                     .unreachable_most_ms = d->config->unreachable_most_ms,
                                     .agent_wait_ms = (unsigned)d->config->agent_wait_ms};
    int r = engine_new(&options, &d->api.engine);
    return r < 0 ? r : engine_recover(d->api.engine, why);
}

static int write_port(struct daemon *d, struct sp_why *why)
{
    char *path SP_FREE = sp_format("%s/port", d->config->state);
    char *text SP_FREE = sp_format("%d\n", d->port);
    int r = path && text ? sp_file_replace(path, text, strlen(text), 0644) : -ENOMEM;
    return r < 0 ? sp_why_set(why, r, "cannot write %s: %s", path, strerror(-r)) : 0;
}

static int start_server(struct daemon *d, const char *certificate, const char *key,
                        const char *trust, struct sp_why *why)
{
    const struct controller_config *c = d->config;
    struct rpc_server_options options = {
        .address = c->listen,
        .certificate_path = certificate,
        .key_path = key,
        .trust_path = trust,
        .loops = (unsigned)c->loops,
        .expected_connections = (unsigned)c->connections,
        .authorise = api_authorise,
        .refused = api_note_refusal,
        .self = &d->api,
        .descriptors_path = access(c->descriptors, R_OK) == 0 ? c->descriptors : NULL};
    struct rpc_server *server = NULL;
    int r = rpc_server_new(&options, api_tables(), &server, &d->port, why);
    if (r < 0)
        return r;
    pthread_mutex_lock(&d->lock);
    d->server = server;
    pthread_mutex_unlock(&d->lock);
    return write_port(d, why);
}

static int start(struct daemon *d, struct sp_why *why)
{
    const char *state = d->config->state;
    char *certificate SP_FREE = sp_format("%s/controller.pem", state);
    char *key SP_FREE = sp_format("%s/controller.key", state);
    char *trust SP_FREE = sp_format("%s/trust.pem", state);
    if (!certificate || !key || !trust)
        return -ENOMEM;
    int r = prepare_state(d, why);
    if (r == 0 && access(certificate, F_OK) < 0)
        r = sp_why_set(why, -ENOENT, "%s is missing: run 'sealpointd init' first", certificate);
    if (r == 0)
        r = start_parts(d, why);
    if (r == 0) {
        renew(d);
        r = start_fleet(d, why);
    }
    if (r == 0)
        r = start_engine(d, trust, why);
    if (r == 0)
        r = start_server(d, certificate, key, trust, why);
    if (r == 0) {
        r = -pthread_create(&d->ticker, NULL, tick, d);
        d->ticking = r == 0;
    }
    return r;
}

int daemon_start(const struct controller_config *config, struct daemon **ret, struct sp_why *why)
{
    struct daemon *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->config = config;
    d->lock_fd = -1;
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&d->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    raise_limits();
    rpc_setup();
    int r = start(d, why);
    if (r < 0) {
        if (!*why->text)
            sp_why_set(why, r, "%s", strerror(-r));
        daemon_stop(d);
        return r;
    }
    api_audit(&d->api, NULL, "controller.started", "", "version %s", SEALPOINT_VERSION);
    *ret = d;
    return 0;
}

int daemon_port(const struct daemon *d)
{
    return d->port;
}

/* ---- stop ---- */

void daemon_stop(struct daemon *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->stopping = true;
    pthread_cond_broadcast(&d->wake);
    pthread_mutex_unlock(&d->lock);
    if (d->ticking)
        pthread_join(d->ticker, NULL);
    /* Streams of agents are still there: what is frozen gets its thaw. */
    if (d->api.engine)
        engine_stop(d->api.engine);
    keyslots_stop(d->api.keyslots);
    if (d->server)
        rpc_server_stop(d->server, STOP_GRACE_MS);
    if (d->api.streams)
        pool_stop(d->api.streams);
    if (d->api.requests)
        pool_stop(d->api.requests);
    fleet_free(d->api.fleet);
    keyslots_free(d->api.keyslots);
    watch_free(d->api.watch);
    rpc_server_free(d->server);
    pool_free(d->api.streams);
    pool_free(d->api.requests);
    if (d->api.refusals && d->api.audits)
        api_tell_refusals(&d->api, true);
    pool_free(d->api.audits);
    refusals_free(d->api.refusals);
    engine_free(d->api.engine);
    identities_free(d->api.identities);
    keeper_client_free(d->keeper);
    catalog_close(d->catalog);
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    rpc_teardown();
    pthread_cond_destroy(&d->wake);
    pthread_mutex_destroy(&d->lock);
    free(d);
}
