/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who is known, with what roles, and who is revoked: the keeper's table, kept here so that each
 * call can be judged without asking. The last table is in the catalog too, so that a controller
 * that starts while its keeper is away refuses nobody it knew and lets in nobody who was revoked.
 *
 * Roles: admin ⊇ operator ⊇ viewer, each for one group of machines or for all; custodian includes
 * nothing else.
 *
 * Threads: identities_check() and the other lookups never wait for more than a short lock;
 * identities_refresh() waits for the keeper and the disk. */
#ifndef SEALPOINT_FLEET_IDENTITIES_H
#define SEALPOINT_FLEET_IDENTITIES_H

#include "base/identity.h"
#include "base/why.h"
#include "controller/catalog/catalog.h"
#include "rpc/rpc.h"
#include <sealpoint/v1/keeper.pb-c.h>
#include <stdbool.h>

struct identities;

/* Asks the keeper; as keeper_call. */
typedef int identities_ask_fn(void *self, Sp__KeeperRequest *, Sp__KeeperResponse **ret,
                              struct sp_why *why);

int identities_new(struct catalog *, identities_ask_fn *, void *ask_self, struct identities **ret);
void identities_free(struct identities *);

/* Takes over what is newer. *ret_changed: something is; then the machines in the catalog are
 * brought up to date as well. */
int identities_refresh(struct identities *, bool *ret_changed, struct sp_why *why);

/* Whether the caller may use a method. `group` NULL: in any group of machines; "": over all of
 * them. 0; -EACCES (no such role); -EKEYREJECTED (revoked, pending or unknown: the text says
 * which); -EAGAIN (nothing is known yet). */
int identities_check(struct identities *, const struct sp_identity *, enum rpc_permission,
                     const char *group, struct sp_why *why);
/* Whether a live stream of this identity must end; why then says it. */
bool identities_gone(struct identities *, const struct sp_identity *, struct sp_why *why);
/* The CAs that are trusted now, appended; -ENOENT when the keeper never said. */
int identities_trust(struct identities *, struct sp_buffer *out);
/* What the keeper says of a machine's agent, copied; -ENOENT. */
int identities_agent(struct identities *, const char *machine_id, Sp__AgentIdentity **ret);

#endif
