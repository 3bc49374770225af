/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The prover's side of nursery.h. One thread. */
#ifndef SEALPOINT_PROVER_BREED_H
#define SEALPOINT_PROVER_BREED_H

#include "controller/keeper/prover/sandbox.h"

/* Answers asks until the keeper closes the socket. In each new process, with a job's descriptors in
 * their places, calls `work` and exits with what it returns. 0 or negative errno. */
int prover_breed(const struct sandbox *,
                 int (*work)(const struct sandbox *, const struct sandbox_limits *));

#endif
