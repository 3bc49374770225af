/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper's side of a prover job: starts one sealpoint-prover, hands it the job, the reader
 * socket and the secret, and waits for its typed answer. The prover is never trusted: its answer is
 * bounded, its time and memory are limited, and it is killed (by pidfd) when it overstays.
 *
 *   prover's descriptors   3 job socket   4 reader socket   5 secret memfd   6 answer memfd
 *
 * Any thread; each call is one process. */
#ifndef SEALPOINT_PROVER_RUN_H
#define SEALPOINT_PROVER_RUN_H

#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/keeper.pb-c.h>

struct prover_nursery; /* nursery.h */

struct prover_options {
    const char *program;            /* path of sealpoint-prover */
    struct prover_nursery *nursery; /* NULL: each job starts a process of its own */
    unsigned time_limit_ms;         /* wall time of a job; 0: 120 s */
    uint64_t memory_bytes;          /* address space; 0: 2 GiB (argon2id of 1 GiB fits) */
};

/* reader_socket stays the caller's; -1 when the job reads no disk. `secret` may be NULL (look). On
 * 0, *ret is new (sp__prover_result__free_unpacked) and *ret_volume_key (may be NULL) is new or
 * NULL. -ETIMEDOUT, -ENOENT (program), -EPROTO (it died or spoke nonsense; why says how). */
int prover_run(const struct prover_options *, const Sp__ProverJob *, int reader_socket,
               const struct sp_secret *secret, Sp__ProverResult **ret,
               struct sp_secret **ret_volume_key, struct sp_why *why);

#endif
