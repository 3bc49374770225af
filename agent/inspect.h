/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `sealpoint-agent inspect`: what the agent sees, for people and as JSON. Reads only. */
#ifndef SEALPOINT_AGENT_INSPECT_H
#define SEALPOINT_AGENT_INSPECT_H

#include "base/why.h"
#include "volume/volume.h"
#include <stdbool.h>
#include <stdio.h>

/* The whole guest. */
int inspect_guest(bool json, FILE *out, struct sp_why *why);
/* Devices and raw images, each as a disk (partitions, LVM, …) with everything in it. One that
 * cannot be read gets a line on `errors` (and an "error" in JSON) and the others are shown all the
 * same. 0 or the negative errno of the first that failed. */
int inspect_paths(char *const *paths, size_t count, bool json, FILE *out, FILE *errors);

/* For people. Control characters in names and labels become '?', in the message itself. */
void inspect_print(Sp__Inventory *inventory, FILE *out);
void inspect_print_look(const struct volume_look *look, FILE *out);

/* Control characters become '?', which a terminal does not obey and a line does not end at. */
void inspect_clean(char *text);

#endif
