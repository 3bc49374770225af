/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A point's claims on records: until they end the records cannot be destroyed. */
#ifndef SEALPOINT_KEEPER_PINS_H
#define SEALPOINT_KEEPER_PINS_H

#include <stdbool.h>

struct keeper;

bool pin_exists(struct keeper *, const char *point_id, const char *record_id);
/* In a transaction. */
int pin_add(struct keeper *, const char *point_id, const char *machine_id, const char *record_id);

#endif
