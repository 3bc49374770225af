/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `sealpoint-agent freeze --test`: one freeze and thaw by hand. */
#ifndef SEALPOINT_AGENT_FREEZE_TEST_H
#define SEALPOINT_AGENT_FREEZE_TEST_H

#include "agent/config.h"
#include <stdio.h>

/* Its runtime folder, in the agent's. */
#define FREEZE_TEST_FOLDER "test"

/* Freezes what a backup would (or only the `count` mount points), thaws, prints a line for each.
 * Beside a running agent: it has a frozen list of its own. */
int freeze_test(const struct agent_config *config, const char *const *mount_points, size_t count,
                unsigned lease_ms, FILE *out, struct sp_why *why);

#endif
