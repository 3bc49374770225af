/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What changed in a guest between two inventories, as events.
 *
 * A volume is the same one when its id is, on the same device if several have that id. A disk is
 * the same one when its serial number is, or its name where it has none. */
#ifndef SEALPOINT_FLEET_DIFFERENCE_H
#define SEALPOINT_FLEET_DIFFERENCE_H

#include <sealpoint/v1/fleet.pb-c.h>
#include <stddef.h>

/* The changes from `before` to `after`, disks first; none of what moves by itself (percentages).
 * Each event names the machine and `at_unix_ms`. 0 with *ret (an array of *count messages, free()
 * and message_free()), or -ENOMEM. */
int difference(const char *machine_id, uint64_t at_unix_ms, const Sp__Inventory *before,
               const Sp__Inventory *after, Sp__VolumeEvent ***ret, size_t *count);
/* An event without before and after. NULL on -ENOMEM. */
Sp__VolumeEvent *difference_event(const char *machine_id, uint64_t at_unix_ms, const char *kind,
                                  const char *subject, const char *text);

#endif
