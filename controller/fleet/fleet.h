/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The fleet: live sessions of agents, and what is asked of them.
 *
 *   Hello ─▶ same machine, no other session ──────────────────────▶ Welcome(fence)
 *         ─▶ other session, same epoch (a reconnect) ─▶ old ends ──▶ Welcome(fence)
 *         ─▶ other session, other epoch ─▶ old one is probed ─▶ silent or closed ─▶ Welcome(fence)
 *         │                                                  └▶ answers: two guests ─┐
 *         ─▶ other SMBIOS UUID, or a mark that is not the remembered one ────────────┤
 *                                                                                    ▼
 *                                             Welcome(quarantined), IDENTITY_CLONED, no commands
 *
 * The fence of a session is (start count of this controller << 32 | counter): it only ever rises.
 *
 * Threads: fleet_session_* run on RPC loops and never block; fleet_command and fleet_header wait
 * and belong on workers. One thread of the fleet's own writes to the catalog and ends contests. */
#ifndef SEALPOINT_FLEET_FLEET_H
#define SEALPOINT_FLEET_FLEET_H

#include "base/why.h"
#include "controller/catalog/catalog.h"
#include "rpc/rpc.h"
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/fleet.pb-c.h>
#include <stdatomic.h>
#include <stdbool.h>

struct fleet;

/* Told of every change, from whatever thread makes it, no lock held; must not block. */
struct fleet_events {
    void (*machine)(void *self, const char *machine_id);
    void (*volume)(void *self, const Sp__VolumeEvent *);
    /* For the audit: what happened to which machine. */
    void (*audit)(void *self, const char *who, const char *what, const char *about,
                  const char *text);
};

struct fleet_options {
    struct catalog *catalog;
    const struct fleet_events *events;
    void *events_self;
    const char *controller_name;
    unsigned heartbeat_ms; /* 0: 20 s */
    unsigned probe_ms;     /* how long an old session may take to show that it lives; 0: 4 s */
};

/* Starts the fleet's thread and raises the start count in the catalog. */
int fleet_new(const struct fleet_options *, struct fleet **ret, struct sp_why *why);
/* No session may be open any more. */
void fleet_free(struct fleet *);

/* ---- on RPC loops: the handlers of AgentLink.Session ---- */
void fleet_session_open(struct fleet *, struct rpc_call *);
void fleet_session_message(struct fleet *, struct rpc_call *, const Sp__AgentMessage *);
void fleet_session_closed(struct fleet *, struct rpc_call *);

/* ---- for workers ---- */
enum fleet_presence { FLEET_ABSENT, FLEET_PRESENT, FLEET_QUARANTINED };
/* Waits at most timeout_ms for the machine's agent; *cancel ends the wait. */
enum fleet_presence fleet_wait(struct fleet *, const char *machine_id, unsigned timeout_ms,
                               const atomic_bool *cancel);
bool fleet_can(struct fleet *, const char *machine_id, const char *capability);
/* Sends a command and waits for its answer. operation_id is the caller's; the fence is filled in.
 * When the link breaks and the same process of the agent comes back in time, the command is sent
 * again: it knows it by its id. 0 with *ret (to free), -ENOTCONN, -ECONNRESET (the agent was
 * started anew), -ETIMEDOUT, -ECANCELED, -EKEYREJECTED (quarantined). */
int fleet_command(struct fleet *, const char *machine_id, Sp__Command *, unsigned timeout_ms,
                  const atomic_bool *cancel, Sp__Answer **ret, struct sp_why *why);
/* The detached header of a volume, in parts; at most 32 MiB. */
int fleet_header(struct fleet *, const char *machine_id, const char *volume_id, unsigned timeout_ms,
                 const atomic_bool *cancel, struct sp_buffer *out, struct sp_why *why);

/* ---- for the API ---- */
/* Puts what is known of the live session into machine->agent. */
int fleet_fill(struct fleet *, Sp__Machine *);
unsigned fleet_connected(struct fleet *);
/* Lets the identity back: forgets mark and SMBIOS UUID, so that the next guest that connects is the
 * one, and ends what is connected, so that it comes again. Durable when it returns. */
int fleet_release(struct fleet *, const char *machine_id, struct sp_why *why);
/* The agent got a new certificate, or enrolled anew: its mark will be another one. */
int fleet_forget_mark(struct fleet *, const char *machine_id, bool also_smbios);

#endif
