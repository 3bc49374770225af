/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A TCP connection to a provider's server, with a deadline, and what to do where there is none. */
#ifndef SEALPOINT_KEEPER_TCP_H
#define SEALPOINT_KEEPER_TCP_H

#include "base/why.h"
#include <stdint.h>

/* `port`: a number or a service; `service`: what should listen there ("LDAP"); the deadline is of
 * the monotonic clock. A socket that does not block, or a negative errno, with why. */
int tcp_connect(const char *host, const char *port, const char *service, uint64_t deadline_ms,
                struct sp_why *);
/* Of the deadline; 0: it is over. */
uint64_t tcp_left_ms(uint64_t deadline_ms);
/* -ETIMEDOUT */
int tcp_too_late(struct sp_why *);

#endif
