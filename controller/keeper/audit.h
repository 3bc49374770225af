/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper's audit: hash = SHA-256(previous hash ‖ packed AuditEntry with empty hash). Its head
 * goes into every manifest. Never a secret in it. */
#ifndef SEALPOINT_KEEPER_AUDIT_H
#define SEALPOINT_KEEPER_AUDIT_H

#include "base/why.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct keeper;

/* One entry; durable with the transaction that is open, or by itself. `about` may be NULL. 0 or a
 * negative errno: what must be audited must not happen then. */
int audit_write(struct keeper *, const char *who, const char *what, const char *about,
                const char *format, ...) __attribute__((format(printf, 5, 6)));
/* 32 zero bytes on an empty log. */
int audit_head(struct keeper *, uint8_t out[32]);
/* Whether an entry has this hash. */
bool audit_knows(struct keeper *, const void *hash, size_t size);
/* The log begins with the entry that is its first now: after a restore, since a copy of the
 * keystore takes only the last entries along. Kept in the journal, so that nobody else can cut it.
 * In a transaction. */
int audit_set_base(struct keeper *);
/* The whole chain. 0, or -EUCLEAN with the first number that does not hold. */
int audit_verify(struct keeper *, struct sp_why *why);

#endif
