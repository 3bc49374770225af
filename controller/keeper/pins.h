/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A point's claims on records: until they end the records cannot be destroyed. */
#ifndef SEALPOINT_KEEPER_PINS_H
#define SEALPOINT_KEEPER_PINS_H

#include "base/why.h"
#include <stdbool.h>

struct keeper;

bool pin_exists(struct keeper *, const char *point_id, const char *record_id);
/* A point belongs to one machine: another's pins under the same id would be a forged claim. 0 or
 * -ESTALE. */
int pin_check_point(struct keeper *, const char *point_id, const char *machine_id, struct sp_why *);
/* In a transaction. */
int pin_add(struct keeper *, const char *point_id, const char *machine_id, const char *record_id);

#endif
