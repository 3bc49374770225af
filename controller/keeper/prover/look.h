/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a set of disks holds: lib/volume's look, in the terms of the keeper's answer. */
#ifndef SEALPOINT_PROVER_LOOK_H
#define SEALPOINT_PROVER_LOOK_H

#include "base/why.h"
#include <sealpoint/v1/keeper.pb-c.h>

/* *ret is new. 0 or negative errno. */
int prover_look(const Sp__LookRequest *, int reader_socket, Sp__LookResponse **ret,
                struct sp_why *);

#endif
