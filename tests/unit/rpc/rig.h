/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A server on a free port with certificates of its own CA, and what its handlers saw.
 *
 *   Fleet/GetMachine   machine "fail": NOT_FOUND with a sentence; "silent": no answer, ever;
 *                      "empty": OK without a message; "big": an answer of 200,000 bytes; else the
 *                      answer's name is "PEER-KIND/PEER-NAME " and the machine asked for
 *   Fleet/Watch        machine "N": N events and OK; "flood": rpc_send until it refuses;
 *                      "hold": one event, then open until somebody ends it
 *   AgentLink/Session  Hello → Welcome with the peer's name; Heartbeat n → Command with fence n;
 *                      half-close → OK
 *   Enrolment/Enrol    → machine_id "enrolled"; Enrolment/Renew → empty
 *   Admin/ListTokens   one row for admins */
#ifndef SEALPOINT_TESTS_RPC_RIG_H
#define SEALPOINT_TESTS_RPC_RIG_H

#include "pki.h"
#include "rpc/methods.h"
#include <pthread.h>
#include <stdatomic.h>

/* A counter that threads raise and a test waits for. */
struct latch {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned value;
};
void latch_raise(struct latch *latch);
/* Waits until it is at least `value`; fails the test after a minute. */
void latch_wait(struct latch *latch, unsigned value);
unsigned latch_value(struct latch *latch);

struct rig {
    struct pki pki;
    struct rpc_server *server;
    int port;
    char target[64];
    struct latch opened, closed, held, flooded;
    int flood_result;
    unsigned flood_sent;
    atomic_int closed_status; /* of the last call that closed */
    int deny;                 /* what authorise says of users */
};

extern struct rig rig;

/* change may be NULL; it gets the options before the server starts. */
void rig_start(void (*change)(struct rpc_server_options *));
void rig_stop(void);
/* Another server on the same port, with the same certificates. */
void rig_restart(void);
/* Stems in the rig's folder: "user", "agent", "controller", …; NULL: no certificate. */
struct rpc_channel *rig_channel(const char *stem);
struct rpc_channel *rig_channel_of(const struct pki *pki, const char *stem, const char *target,
                                   const char *domain, uint32_t max_message_bytes);
/* GetMachine over a channel: 0 or negative errno; *ret_name to free(). */
int rig_ask(struct rpc_channel *channel, const char *machine, unsigned deadline_ms, char **ret_name,
            int *ret_status, struct sp_why *why);

#endif
