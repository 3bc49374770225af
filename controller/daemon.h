/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * sealpointd, put together: catalog, keeper client, identities, fleet, engine, API, RPC server, and
 * one thread for what is due now and then. */
#ifndef SEALPOINT_CONTROLLER_DAEMON_H
#define SEALPOINT_CONTROLLER_DAEMON_H

#include "base/why.h"
#include "controller/config.h"

struct daemon;

/* Recovers what a killed process left, then serves. The bound port is in `<state>/port`. */
int daemon_start(const struct controller_config *, struct daemon **ret, struct sp_why *why);
int daemon_port(const struct daemon *);
/* Jobs first (guests are thawed, snapshots released), then the streams, then the rest. */
void daemon_stop(struct daemon *);

#endif
