/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Provers that need no start: a process that has everything loaded and the first half of its
 * sandbox on (sandbox.h) waits, and clones itself for each job. What a start costs (loading
 * libraries, a network namespace, compiling a filter: some 50 ms) is paid once.
 *
 *   keeper ── nursery_ask, 4 descriptors ──▶ nursery ── clone ──▶ prover: one job, then the end
 *          ◀── nursery_answer, a pidfd ─────┘         (a child of the keeper, not of the nursery)
 *
 * The nursery itself reads nothing but the asks: no snapshot, no secret (the descriptors of a
 * secret pass through it unread). So each prover starts as clean as a fresh one. They share the
 * nursery's layout in memory; to make nothing of it, a nursery is replaced when a prover of it was
 * ended by a signal, and after some hundreds of jobs.
 *
 * Any thread. */
#ifndef SEALPOINT_PROVER_NURSERY_H
#define SEALPOINT_PROVER_NURSERY_H

#include "controller/keeper/prover/descriptors.h"

struct prover_nursery;

/* `program`: sealpoint-prover. 0 or negative errno; that the program cannot be started shows at the
 * first job only. */
int prover_nursery_open(const char *program, struct prover_nursery **ret);
/* No job may run any more. */
void prover_nursery_close(struct prover_nursery *);

/* A new prover on the descriptors, which stay the caller's. 0 and its pidfd; -EAGAIN: there is no
 * nursery right now, nothing was given away; -ETIMEDOUT, -EPROTO: it did not answer well, and is
 * being replaced. */
int prover_nursery_make(struct prover_nursery *, const struct nursery_ask *,
                        const int fds[PROVER_FD_COUNT], int timeout_ms, int *ret_pidfd);
/* A prover was ended by a signal: no other is to share its layout. */
void prover_nursery_renew(struct prover_nursery *);

#endif
