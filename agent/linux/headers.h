/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The last resort for a header that was written past every device node which the agent watches (in
 * a container's /dev, by the hypervisor): a few blocks of each known header, read now and then and
 * compared with what they were.
 *
 * One thread at a time. Blocks for as long as a disk does. */
#ifndef SEALPOINT_AGENT_HEADERS_H
#define SEALPOINT_AGENT_HEADERS_H

#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>

struct headers;

/* NULL on -ENOMEM. */
struct headers *headers_new(void);
void headers_free(struct headers *h);
/* The headers to look at from now on: those of the inventory's encrypted volumes. What is known of
 * them already stays known. */
void headers_follow(struct headers *h, const Sp__Inventory *inventory);
/* True if one is not what it was at the last call. Devices that cannot be read, or would block
 * (suspended), are as they were. */
bool headers_changed(struct headers *h);

#endif
