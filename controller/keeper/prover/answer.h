/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Does a prover's answer fit the job it was given? A prover that was taken over can lie about what
 * it saw; it cannot make the keeper sign what contradicts itself: an OPENS without sectors, sectors
 * of a disk or a root that it was not given, a volume key where none was tried, control characters
 * in a text. */
#ifndef SEALPOINT_PROVER_ANSWER_H
#define SEALPOINT_PROVER_ANSWER_H

#include <sealpoint/v1/keeper.pb-c.h>
#include <stdbool.h>

bool prover_answer_fits(const Sp__ProverJob *, const Sp__ProverResult *);

#endif
