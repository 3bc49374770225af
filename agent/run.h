/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The agent as a service: everything together, until SIGTERM or SIGINT.
 *
 *   main thread: RPC loop ── session ── commands ──▶ worker thread: freeze, thaw, inventory,
 * renewal changes thread: uevents, mounts, signals          watch thread: the freezer's life */
#ifndef SEALPOINT_AGENT_RUN_H
#define SEALPOINT_AGENT_RUN_H

#include "agent/config.h"

/* 0 after a signal; negative errno with why when it could not start. Call before other threads. */
int agent_run(const struct agent_config *config, struct sp_why *why);

#endif
