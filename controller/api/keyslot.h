/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Escrow keyslots whose enrolment was cut short, by the end of any process: a record that the
 * keeper keeps pending and of which the guest knows nothing is taken back as soon as its agent can
 * be asked. */
#ifndef SEALPOINT_API_KEYSLOT_H
#define SEALPOINT_API_KEYSLOT_H

#include "controller/api/api.h"

/* In Hello, of agents whose configuration allows it. */
#define KEYSLOT_CAPABILITY "escrow-keyslot"

int keyslots_new(struct keyslots **ret);
/* Waits for no agent any more. NULL is fine, as for free. */
void keyslots_stop(struct keyslots *);
void keyslots_free(struct keyslots *);
/* Now and then: asks the agents that are there, on api->streams. */
void keyslots_tick(struct api *);

#endif
