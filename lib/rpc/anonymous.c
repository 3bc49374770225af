/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Callers without a certificate. Anybody who reaches the port is one, and while core waits for a
 * request it keeps up to a whole message for it. So few of them may be in that state at once, and
 * not for long. */
#include "base/clock.h"
#include "internal.h"

enum { MOST_WAITING = 64 };

bool rpc_anonymous_enter(struct rpc_server *s, struct rpc_call *c)
{
    if (atomic_fetch_add(&s->anonymous, 1) >= MOST_WAITING) {
        atomic_fetch_sub(&s->anonymous, 1);
        return false;
    }
    c->waiting_since_ms = sp_clock_monotonic_ms(&sp_clock_system);
    atomic_store(&c->waiting, true);
    return true;
}

void rpc_anonymous_leave(struct rpc_call *c)
{
    if (atomic_exchange(&c->waiting, false))
        atomic_fetch_sub(&c->server->anonymous, 1);
}

static void end_if_late(struct rpc_call *c, void *arg)
{
    const struct rpc_server *s = arg;

    if (atomic_load(&c->waiting) &&
        sp_clock_monotonic_ms(&sp_clock_system) - c->waiting_since_ms >= s->handshake_timeout_ms)
        rpc_finish(c, RPC_DEADLINE_EXCEEDED, "no request came in time");
}

void rpc_anonymous_tick(struct rpc_server *s)
{
    if (atomic_load(&s->anonymous) > 0)
        rpc_server_for_each(s, end_if_late, s);
}
