/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The agent's one stream to its controller.
 *
 *   WAITING ──(jittered delay)──▶ CONNECTING ──Welcome──▶ OPEN ──(closed, Goodbye)──▶ WAITING
 *                                     │ Hello is sent      │ quarantined: heartbeats only
 *                                     └──(closed, no Welcome in time)──▶ WAITING
 *
 * The delay doubles from 1 s to 60 s, each is multiplied by a random 0.5 to 1.5, and starts over
 * after a Welcome. Everything runs on the RPC loop's thread, but for what says otherwise. */
#ifndef SEALPOINT_AGENT_SESSION_H
#define SEALPOINT_AGENT_SESSION_H

#include "agent/commands.h"
#include "agent/identity.h"
#include "rpc/rpc.h"

struct session;

struct session_options {
    const struct agent_config *config;
    struct rpc_loop *loop;
    struct quiesce *quiesce;
    const char *controller;                 /* host:port */
    unsigned first_retry_ms, most_retry_ms; /* 0: 1 s, 60 s */
};
/* `identity` is borrowed until session_use_identity() or free. */
int session_new(const struct session_options *options, const struct agent_identity *identity,
                struct session **ret, struct sp_why *why);
/* After the loop has ended. */
void session_free(struct session *s);
/* Commands go here; before the first tick. */
void session_set_commands(struct session *s, struct commands *commands);

/* Does what is due. On the loop; asks it for the next tick (rpc_loop_tick_within()). */
void session_tick(struct session *s);
/* Another certificate: ends the stream and dials again with it. On the loop. */
int session_use_identity(struct session *s, const struct agent_identity *identity,
                         struct sp_why *why);

/* ---- any thread ---- */
/* Sends an answer if the session is open. */
void session_answer(struct session *s, const Sp__Answer *answer);
void session_event(struct session *s, const char *kind, const char *text);
/* The newest inventory; sent at once when its digest is new to the controller. Takes it. True if it
 * says something else than the one before. */
bool session_set_inventory(struct session *s, Sp__Inventory *inventory);
/* Ends the stream for good. */
void session_stop(struct session *s);
bool session_is_open(struct session *s);

#endif
