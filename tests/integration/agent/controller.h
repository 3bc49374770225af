/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The controller's side of the agent's methods, played by the test: a real RPC server with a CA of
 * its own, which issues what agents ask for, keeps what they say, and sends what the test wants. */
#ifndef SEALPOINT_TESTS_AGENT_CONTROLLER_H
#define SEALPOINT_TESTS_AGENT_CONTROLLER_H

#include "../../unit/rpc/pki.h"
#include "rpc/rpc.h"
#include <pthread.h>
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/enrolment.pb-c.h>
#include <stdbool.h>

#define CONTROLLER_DOMAIN "test.example"
#define CONTROLLER_TOKEN                                                                           \
    "sealpoint-token-1:00000000-0000-4000-8000-000000000001:"                                      \
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

struct controller {
    struct pki pki;
    struct rpc_server *server;
    int port;
    char address[64], fingerprint[65];

    pthread_mutex_t lock; /* everything below */
    pthread_cond_t changed;
    struct rpc_call *call; /* the newest session, NULL when it has closed */
    struct message {
        struct message *next;
        Sp__AgentMessage *m;
    } * first;
    unsigned sessions, enrolments, renewals, wrong_proofs;
    long peer_serial;        /* of the certificate of the newest session */
    uint64_t welcomed_fence; /* the one the newest session was told */

    /* What it does; set before. */
    unsigned pending;              /* so many Enrol calls are answered with `pending` */
    long issue_from_s, issue_to_s; /* validity of what it issues, from now */
    uint64_t fence;
    bool quarantine;
};

void controller_start(struct controller *c);
void controller_stop(struct controller *c);

/* Waits for the next message of this kind (others before it are dropped) and takes it; fails the
 * test after a minute. sp__agent_message__free_unpacked(). */
Sp__AgentMessage *controller_expect(struct controller *c, Sp__AgentMessage__KindCase kind);
/* Waits for the Answer to an operation. */
Sp__AgentMessage *controller_answer(struct controller *c, const char *operation_id);
/* Waits until so many sessions have begun. */
void controller_wait_sessions(struct controller *c, unsigned count);
/* Waits until something about it holds. */
void controller_wait(struct controller *c, bool (*holds)(const struct controller *));
void controller_send(struct controller *c, const Sp__Command *command);
/* Ends the newest session. */
void controller_cut(struct controller *c);

#endif
