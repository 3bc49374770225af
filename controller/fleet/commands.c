/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands to agents, waited for on workers. */
#include "controller/fleet/internal.h"
#include <string.h>
#include <time.h>

enum { CANCEL_POLL_MS = 100 };

/* Waits for a change, at most until `until_ms`, and looks at *cancel now and then. */
static void wait_change(struct fleet *f, uint64_t until_ms)
{
    uint64_t now = fleet_now_ms();
    uint64_t next = now + CANCEL_POLL_MS < until_ms ? now + CANCEL_POLL_MS : until_ms;
    struct timespec at = {.tv_sec = (time_t)(next / 1000),
                          .tv_nsec = (long)(next % 1000) * 1000000L};
    pthread_cond_timedwait(&f->changed, &f->lock, &at);
}

static bool cancelled(const atomic_bool *cancel)
{
    return cancel && atomic_load(cancel);
}

static enum fleet_presence presence(const struct agent *a)
{
    if (!a)
        return FLEET_ABSENT;
    return a->quarantined ? FLEET_QUARANTINED : a->current ? FLEET_PRESENT : FLEET_ABSENT;
}

enum fleet_presence fleet_wait(struct fleet *f, const char *machine_id, unsigned timeout_ms,
                               const atomic_bool *cancel)
{
    uint64_t until = fleet_now_ms() + timeout_ms;
    pthread_mutex_lock(&f->lock);
    enum fleet_presence is;
    while ((is = presence(fleet_find(f, machine_id))) == FLEET_ABSENT && fleet_now_ms() < until &&
           !cancelled(cancel))
        wait_change(f, until);
    pthread_mutex_unlock(&f->lock);
    return is;
}

bool fleet_can(struct fleet *f, const char *machine_id, const char *capability)
{
    bool can = false;
    pthread_mutex_lock(&f->lock);
    const struct agent *a = fleet_find(f, machine_id);
    for (size_t i = 0; a && a->current && i < a->current->capability_count && !can; i++)
        can = strcmp(a->current->capabilities[i], capability) == 0;
    pthread_mutex_unlock(&f->lock);
    return can;
}

static int send_on(struct session *s, Sp__Command *command)
{
    Sp__ControllerMessage m = SP__CONTROLLER_MESSAGE__INIT;
    command->fence = s->fence;
    m.kind_case = SP__CONTROLLER_MESSAGE__KIND_COMMAND;
    m.command = command;
    return rpc_send(s->call, &m.base);
}

static bool done(const struct pending *p)
{
    return p->error || p->answer || p->header_done;
}

/* A process that has just started does not know what the one before it was asked: to it a command
 * that is sent again would be a new one. */
static bool same_process(const struct pending *p, const struct session *s)
{
    return p->sent_fence == 0 ||
           (p->epoch_size == s->epoch_size && memcmp(p->epoch, s->epoch, s->epoch_size) == 0);
}

static void send_to(struct pending *p, struct session *s, Sp__Command *command)
{
    if (p->header)
        p->header->size = 0;
    if (send_on(s, command) < 0)
        return;
    p->sent_fence = s->fence;
    p->epoch_size = s->epoch_size;
    memcpy(p->epoch, s->epoch, s->epoch_size);
}

/* Sends, waits, and sends again on a session that took the place of the one it was sent on. */
static int await(struct fleet *f, struct agent *a, struct pending *p, Sp__Command *command,
                 uint64_t until, const atomic_bool *cancel)
{
    while (!done(p)) {
        if (cancelled(cancel))
            return -ECANCELED;
        if (a->quarantined)
            return -EKEYREJECTED;
        if (fleet_now_ms() >= until)
            return a->current ? -ETIMEDOUT : -ENOTCONN;
        if (a->current && p->sent_fence != a->current->fence) {
            if (!same_process(p, a->current))
                return -ECONNRESET;
            send_to(p, a->current, command);
        }
        wait_change(f, until);
    }
    return p->error;
}

static int explain(int error, const struct pending *p, struct sp_why *why)
{
    switch (-error) {
    case ENOTCONN:
        return sp_why_set(why, error, "the agent is not connected");
    case ETIMEDOUT:
        return sp_why_set(why, error, "the agent did not answer in time");
    case ECONNRESET:
        return sp_why_set(why, error, "the agent was started anew before it answered");
    case EKEYREJECTED:
        return sp_why_set(why, error, "the machine's identity is in quarantine (IDENTITY_CLONED)");
    case ECANCELED:
        return error;
    default:
        return sp_why_set(why, error, "the agent's answer is broken%s",
                          p->header ? ": the header's parts do not follow each other" : "");
    }
}

static int run(struct fleet *f, const char *machine_id, Sp__Command *command, unsigned timeout_ms,
               const atomic_bool *cancel, struct pending *p, struct sp_why *why)
{
    uint64_t until = fleet_now_ms() + timeout_ms;
    p->operation_id = command->operation_id;
    pthread_mutex_lock(&f->lock);
    struct agent *a = fleet_agent(f, machine_id);
    int r = a ? 0 : -ENOMEM;
    if (a && !a->current)
        r = a->quarantined ? -EKEYREJECTED : -ENOTCONN;
    if (r == 0) {
        p->next = a->pending;
        a->pending = p;
        r = await(f, a, p, command, until, cancel);
        struct pending **at = &a->pending;
        while (*at != p)
            at = &(*at)->next;
        *at = p->next;
    }
    pthread_mutex_unlock(&f->lock);
    return r < 0 ? explain(r, p, why) : 0;
}

int fleet_command(struct fleet *f, const char *machine_id, Sp__Command *command,
                  unsigned timeout_ms, const atomic_bool *cancel, Sp__Answer **ret,
                  struct sp_why *why)
{
    struct pending p = {0};
    int r = run(f, machine_id, command, timeout_ms, cancel, &p, why);
    if (r == 0)
        *ret = p.answer;
    else
        message_free(p.answer);
    return r;
}

int fleet_header(struct fleet *f, const char *machine_id, const char *volume_id,
                 unsigned timeout_ms, const atomic_bool *cancel, struct sp_buffer *out,
                 struct sp_why *why)
{
    char id[37];
    Sp__SendHeaderCommand send = SP__SEND_HEADER_COMMAND__INIT;
    Sp__Command command = SP__COMMAND__INIT;
    struct pending p = {.header = out};
    int r = sp_uuid_make(id);
    if (r < 0)
        return r;
    send.volume_id = (char *)volume_id;
    command.operation_id = id;
    command.kind_case = SP__COMMAND__KIND_SEND_HEADER;
    command.send_header = &send;
    r = run(f, machine_id, &command, timeout_ms, cancel, &p, why);
    /* An answer instead of parts says why there are none. */
    if (r == 0 && !p.header_done)
        r = sp_why_set(why, p.answer && p.answer->error ? -ENODATA : -EPROTO,
                       "the agent has no such header: %s", p.answer ? p.answer->text : "");
    message_free(p.answer);
    return r;
}
