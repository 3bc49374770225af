/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * How many refusals reach the audit. Anybody who reaches the port can be refused as often as they
 * like, and each entry is a durable write: of one source the first REFUSALS_OF_ONE in a minute are
 * written one by one, of all sources together the first REFUSALS_OF_ALL; the rest are counted, and
 * a minute later one entry says how many there were.
 *
 * Threads: any. The clock must be monotonic. */
#ifndef SEALPOINT_API_REFUSALS_H
#define SEALPOINT_API_REFUSALS_H

#include "base/clock.h"
#include <stdbool.h>

enum { REFUSALS_OF_ONE = 10, REFUSALS_OF_ALL = 60, REFUSALS_SOURCES = 32 };

struct refusals;

/* The clock must outlive it. -ENOMEM. */
int refusals_new(const struct sp_clock *, struct refusals **ret);
void refusals_free(struct refusals *);
/* Whether this refusal is to be written now; it is counted if not. `source`: who or from where. */
bool refusals_admit(struct refusals *, const char *source);
/* Tells `each` of every source whose minute is over and that had some counted; the source is "" for
 * those too many to tell apart. With `all` the minute need not be over. Call now and then. */
void refusals_tell(struct refusals *, bool all,
                   void (*each)(void *arg, const char *source, unsigned count), void *arg);
/* "ipv4:192.0.2.7:4711", "[2001:db8::7]:4711" without the port: a client has a new one each time.
 * Of an IPv6 address the first 64 bits stand for all of its network: one host can have any of them.
 */
const char *refusals_source(const char *address, char out[80]);

#endif
