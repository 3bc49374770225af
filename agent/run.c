/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/run.h"
#include "agent/enrol.h"
#include "agent/linux/changes.h"
#include "agent/linux/headers.h"
#include "agent/linux/keyslot.h"
#include "agent/session.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

enum { TICK_MS = 60000, SOON_MS = 1000, RENEW_AGAIN_MS = 600000 };

struct agent {
    const struct agent_config *config;
    struct agent_identity identity;
    int lock;
    struct rpc_loop *loop;
    struct worker *worker;
    struct quiesce *quiesce;
    struct commands *commands;
    struct session *session;
    struct changes *changes;
    struct headers *headers; /* the worker's */
    size_t damaged;          /* headers in the last inventory; the worker's */
    bool settled;            /* what an earlier agent left half done; the worker's */
    _Atomic bool reading;    /* an inventory job is queued */
    _Atomic bool renewing;   /* a renewal job is queued or runs */
    _Atomic bool renewed;    /* the state folder holds a new certificate */
    _Atomic bool ending;     /* a signal came while something was frozen */
    unsigned quiet_ticks;    /* of an agent that ends, since the thaw */
    uint64_t renew_next_ms;
    struct inventory_memory memory; /* of read_settled() */
};

/* ---- jobs ---- */

static void on_changed(void *self);

static size_t damaged_headers(const Sp__Inventory *inventory)
{
    size_t count = 0;
    for (size_t i = 0; i < inventory->n_volumes; i++)
        count += inventory->volumes[i]->header && inventory->volumes[i]->header->damaged;
    return count;
}

/* A header that is being written looks damaged in between. One that was not damaged before is
 * therefore read once more, when its writer has had time to end. */
static int read_settled(struct agent *a, Sp__Inventory **ret, struct sp_why *why)
{
    const struct timespec a_moment = {.tv_nsec = 300000000};
    struct inventory_roots roots = inventory_roots_system;
    roots.memory = &a->memory;
    headers_changed(a->headers); /* or what is written while it reads would be taken for known */
    int r = inventory_read(&roots, ret, why);
    if (r == 0 && damaged_headers(*ret) > a->damaged) {
        sp__inventory__free_unpacked(*ret, NULL);
        *ret = NULL;
        nanosleep(&a_moment, NULL);
        headers_changed(a->headers);
        r = inventory_read(&roots, ret, why);
    }
    if (r == 0)
        a->damaged = damaged_headers(*ret);
    return r;
}

static void read_inventory(void *arg)
{
    struct agent *a = arg;
    atomic_store(&a->reading, false);
    /* The worker must be free for the Thaw; when that is answered, or the freeze has ended by
     * itself, this is asked for again. */
    if (quiesce_is_frozen(a->quiesce))
        return;
    Sp__Inventory *inventory = NULL;
    struct sp_why why = {0};
    int r = read_settled(a, &inventory, &why);
    if (r < 0) {
        sp_log_error("cannot read the inventory", r, &why, NULL);
        return;
    }
    if (!a->settled)
        keyslot_settle(a->config, inventory);
    a->settled = true;
    bool unwatched = changes_watch(a->changes, inventory);
    headers_follow(a->headers, inventory);
    changes_read(a->changes, session_set_inventory(a->session, inventory));
    malloc_trim(0); /* an inventory takes more for a moment than the agent does for months */
    if (unwatched)
        on_changed(a);
}

static void on_changed(void *self)
{
    struct agent *a = self;
    if (!atomic_exchange(&a->reading, true) && worker_push(a->worker, read_inventory, a) < 0)
        atomic_store(&a->reading, false);
}

static void look_at_headers(void *arg)
{
    struct agent *a = arg;
    if (!quiesce_is_frozen(a->quiesce) && headers_changed(a->headers))
        on_changed(a);
}

static void on_look(void *self)
{
    struct agent *a = self;
    worker_push(a->worker, look_at_headers, a); /* failing: the next look is near */
}

static void end(struct agent *a)
{
    session_stop(a->session);
    rpc_loop_stop(a->loop);
}

/* A freeze goes on until its Thaw or its deadline, so that the snapshot under way stays good; a
 * second signal ends it. */
static void on_signal(void *self, int number)
{
    struct agent *a = self;
    (void)number;
    if (!quiesce_is_frozen(a->quiesce) || atomic_exchange(&a->ending, true))
        end(a);
}

static void renew(void *arg)
{
    struct agent *a = arg;
    struct sp_why why = {0};
    struct agent_identity identity;
    int r = agent_identity_load(a->config->state, &identity, &why);
    if (r == 0)
        r = agent_renew(a->config, &identity, &why);
    agent_identity_free(&identity);
    if (r < 0)
        sp_log_error("cannot renew the certificate", r, &why, NULL);
    else
        atomic_store(&a->renewed, true);
    atomic_store(&a->renewing, false);
}

/* ---- the loop ---- */

static void use_renewed(struct agent *a)
{
    struct agent_identity old = a->identity; /* the session borrows a->identity itself */
    struct sp_why why = {0};
    int r = agent_identity_load(a->config->state, &a->identity, &why);
    if (r == 0)
        r = session_use_identity(a->session, &a->identity, &why);
    if (r < 0) {
        sp_log_error("cannot use the new certificate", r, &why, NULL);
        agent_identity_free(&a->identity);
        a->identity = old;
        return;
    }
    agent_identity_free(&old);
    char until[24];
    sp_log(SP_LOG_INFO, "certificate renewed", "valid-until",
           sp_time_text(a->identity.expires_ms, until), NULL);
}

/* Ends an agent that waits for the thaw: one tick after the last answer, so that it gets out. */
static void end_when_thawed(struct agent *a)
{
    bool quiet = !quiesce_is_frozen(a->quiesce) && !commands_busy(a->commands);
    a->quiet_ticks = quiet ? a->quiet_ticks + 1 : 0;
    if (a->quiet_ticks > 1)
        end(a);
}

static void tick(void *arg)
{
    struct agent *a = arg;
    session_tick(a->session);
    if (atomic_load(&a->ending))
        end_when_thawed(a);
    if (quiesce_is_frozen(a->quiesce) || commands_busy(a->commands) || atomic_load(&a->ending))
        rpc_loop_tick_within(a->loop, SOON_MS);
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    if (atomic_load(&a->renewed)) {
        rpc_loop_tick_within(a->loop, SOON_MS);
        /* A freeze is ended through the stream that began it. */
        if (!quiesce_is_frozen(a->quiesce)) {
            atomic_store(&a->renewed, false);
            use_renewed(a);
        }
        return;
    }
    if (atomic_load(&a->renewing))
        rpc_loop_tick_within(a->loop, SOON_MS);
    if (now < a->renew_next_ms ||
        sp_clock_system.wall_ms(sp_clock_system.self) < agent_identity_renew_at_ms(&a->identity))
        return;
    a->renew_next_ms = now + RENEW_AGAIN_MS;
    if (!atomic_exchange(&a->renewing, true) && worker_push(a->worker, renew, a) < 0)
        atomic_store(&a->renewing, false);
    rpc_loop_tick_within(a->loop, SOON_MS);
}

static void on_answer(void *self, const Sp__Answer *answer)
{
    struct agent *a = self;
    session_answer(a->session, answer);
    if (answer->kind_case == SP__ANSWER__KIND_THAW)
        on_changed(a);
}

static void on_freeze_ended(void *self, const char *operation_id, const char *ended_by)
{
    struct agent *a = self;
    sp_log(SP_LOG_WARNING, "freeze ended", "operation", operation_id, "by", ended_by, NULL);
    SP_FREE char *text = sp_format("operation %s: ended by %s", operation_id, ended_by);
    if (a->session && text)
        session_event(a->session, "freeze-ended", text);
    on_changed(a);
}

/* ---- start and end ---- */

static int lock_runtime(struct agent *a, struct sp_why *why)
{
    int r = sp_make_directories(a->config->runtime, 0700);
    if (r < 0)
        return sp_why_set(why, r, "cannot make '%s'", a->config->runtime);
    SP_FREE char *path = sp_format("%s/agent.lock", a->config->runtime);
    if (!path)
        return -ENOMEM;
    a->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (a->lock < 0)
        return sp_why_set(why, -errno, "cannot open '%s'", path);
    if (flock(a->lock, LOCK_EX | LOCK_NB) < 0)
        return sp_why_set(why, -EBUSY, "another agent runs with '%s'", a->config->runtime);
    return 0;
}

static int start(struct agent *a, struct sp_why *why)
{
    int r = agent_identity_load(a->config->state, &a->identity, why);
    if (r == 0)
        r = lock_runtime(a, why);
    if (r == 0) {
        /* The freezer before gRPC: it shall not inherit what that opens. */
        struct quiesce_options quiesce = {.config = a->config,
                                          .roots = &inventory_roots_system,
                                          .on_ended = on_freeze_ended,
                                          .self = a};
        r = quiesce_new(&quiesce, &a->quiesce, why);
    }
    if (r == 0 && quiesce_lock_error(a->quiesce))
        sp_log(SP_LOG_WARNING, "the freezer could not lock its memory", "error",
               strerror(quiesce_lock_error(a->quiesce)), NULL);
    if (r == 0)
        r = worker_new(&a->worker);
    if (r == 0)
        r = rpc_loop_new(&a->loop);
    if (r == 0) {
        struct session_options session = {.config = a->config,
                                          .loop = a->loop,
                                          .quiesce = a->quiesce,
                                          .controller = agent_controller(a->config, &a->identity)};
        r = session_new(&session, &a->identity, &a->session, why);
    }
    if (r == 0) {
        struct commands_options commands = {.config = a->config,
                                            .worker = a->worker,
                                            .quiesce = a->quiesce,
                                            .roots = &inventory_roots_system,
                                            .answer = on_answer,
                                            .self = a};
        r = commands_new(&commands, &a->commands);
    }
    if (r < 0)
        return r;
    session_set_commands(a->session, a->commands);
    a->headers = headers_new();
    struct changes_options changes = {
        .changed = on_changed, .look = on_look, .ended = on_signal, .self = a};
    r = a->headers ? changes_new(&changes, &a->changes) : -ENOMEM;
    if (r == 0)
        on_changed(a);
    return r;
}

static void finish(struct agent *a)
{
    changes_stop(a->changes); /* it gives work to the worker, which looks at it in turn */
    if (a->quiesce)
        quiesce_abort(a->quiesce, false); /* or the worker might wait out a lease */
    worker_stop(a->worker);
    changes_free(a->changes);
    headers_free(a->headers);
    quiesce_free(a->quiesce); /* its thread gives work to the worker, too, until now */
    a->quiesce = NULL;
    worker_free(a->worker);
    session_free(a->session);
    commands_free(a->commands);
    rpc_loop_free(a->loop);
    agent_identity_free(&a->identity);
    if (a->lock >= 0)
        close(a->lock);
}

int agent_run(const struct agent_config *config, struct sp_why *why)
{
    struct agent a = {.config = config, .lock = -1};
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    mallopt(M_ARENA_MAX, 1); /* a dozen threads that rest need no heap each */
    rpc_setup();
    int r = start(&a, why);
    if (r == 0) {
        sp_log(SP_LOG_INFO, "agent started", "version", SEALPOINT_VERSION, "machine",
               a.identity.machine, "controller", agent_controller(config, &a.identity), NULL);
        rpc_loop_every(a.loop, TICK_MS, tick, &a);
        tick(&a); /* dials at once */
        rpc_loop_run(a.loop);
        sp_log(SP_LOG_INFO, "agent ends", NULL);
    }
    finish(&a);
    rpc_teardown();
    return r;
}
