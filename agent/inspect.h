/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `sealpoint-agent inspect`: what the agent sees, for people and as JSON. Reads only. */
#ifndef SEALPOINT_AGENT_INSPECT_H
#define SEALPOINT_AGENT_INSPECT_H

#include "base/why.h"
#include <stdbool.h>
#include <stdio.h>

/* The whole guest. */
int inspect_guest(bool json, FILE *out, struct sp_why *why);
/* One device or raw image: as a disk (partitions, LVM, …) and everything in it. */
int inspect_path(const char *path, bool json, FILE *out, struct sp_why *why);

#endif
