/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One prover job at a time on a reader socket, several after another.
 *
 * A prover parses hostile bytes and may be killed in the middle of a read, or be made to ask for
 * more than it takes. So it never gets the controller's socket: each one gets a socket of its own,
 * and a thread here carries whole reads across. What one prover left behind cannot reach the next.
 */
#ifndef SEALPOINT_KEEPER_JOB_H
#define SEALPOINT_KEEPER_JOB_H

#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/keeper.pb-c.h>

struct keeper;
struct keeper_gate;

/* Runs the job through k->options.run, when the gate has room. Without keeper.lock. Outputs as
 * prover_run(); a result that carries an error is turned into that error. */
int job_run(struct keeper *, struct keeper_gate *, const Sp__ProverJob *, int reader_socket,
            const struct sp_secret *secret, Sp__ProverResult **ret,
            struct sp_secret **ret_volume_key, struct sp_why *why);

#endif
