/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Escrow keyslots, the agent's side: it carries orders to sealpoint-enrol-volume, over a socket,
 * and changes nothing itself. Blocking. */
#ifndef SEALPOINT_AGENT_KEYSLOT_H
#define SEALPOINT_AGENT_KEYSLOT_H

#include "agent/config.h"
#include "agent/inventory.h"
#include <sealpoint/v1/agent_link.pb-c.h>

/* One command; with or without order. *ret: new, also when it failed there. */
int keyslot_command(const struct agent_config *, const struct inventory_roots *,
                    const Sp__EnrolKeyslotCommand *, Sp__KeyslotAnswer **ret, struct sp_why *why);
/* Has finished or taken back what was left half done when agent or guest ended; nobody is asked
 * when nothing was. */
void keyslot_settle(const struct agent_config *, const Sp__Inventory *);

#endif
