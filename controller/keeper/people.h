/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Users and their roles, controllers, and who may do what. Under the keeper's lock. */
#ifndef SEALPOINT_KEEPER_PEOPLE_H
#define SEALPOINT_KEEPER_PEOPLE_H

#include "base/why.h"
#include <sealpoint/v1/admin.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct keeper;
struct ca_chain;

/* Adds a user and issues the first certificate. In a transaction. -EEXIST: the name is taken, for
 * good: a revoked name is never given out again, since certificates of it may still be around. */
int people_add(struct keeper *, const Sp__AddUserRequest *, const char *by, struct ca_chain *ret,
               struct sp_why *why);
/* In a transaction. -ENOENT; -EPERM: the last admin. */
int people_revoke(struct keeper *, const char *name, const char *reason, struct sp_why *why);
/* Known and not revoked: 0; else -EKEYREJECTED. */
int people_check(struct keeper *, const char *name, struct sp_why *why);
/* Whether the user (who need not be in good standing) has the role for machines of `group`. NULL:
 * only an unbounded role will do. */
bool people_has_role(struct keeper *, const char *name, Sp__Role role, const char *group);
bool people_known(struct keeper *, const char *name);
int people_set_expiry(struct keeper *, const char *name, uint64_t expires_unix_ms);
/* All, sorted by name. */
int people_list(struct keeper *, Sp__User ***ret, size_t *ret_count);

int controllers_add(struct keeper *, const char *name, uint64_t expires_unix_ms);
int controllers_check(struct keeper *, const char *name, struct sp_why *why);

#endif
