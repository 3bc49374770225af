/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The controller's own certificate renews itself: the keeper, which holds the CA, issues a new one
 * for the same key, name and hosts. The RPC server reads the file again when it changed. */
#ifndef SEALPOINT_CONTROLLER_RENEW_H
#define SEALPOINT_CONTROLLER_RENEW_H

#include "base/why.h"
#include "controller/keeper/keeper_client.h"
#include <stdbool.h>
#include <stdint.h>

/* Renews when less than a third of 30 days is left. *ret_renewed: it was. -ENOENT: `sealpointd
 * init` was never run. */
int renew_if_due(const char *state, struct keeper_client *, uint64_t now_unix_ms, bool *ret_renewed,
                 struct sp_why *why);

#endif
