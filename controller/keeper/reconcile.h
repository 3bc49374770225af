/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An old keystore in place of a newer one. Its file holds, its journal is signed; what it lacks are
 * the newest keys and pins. So manifests are shown to the keeper (the controller does it at its
 * start and before a seal): one with the keeper's own seal that names a later epoch, or an audit
 * head that is not in this keystore's audit, was made by a keystore that this one is a past of.
 * From then on, as after every restore from a copy, nothing is destroyed until all manifests of all
 * vaults were shown and their points pin their records again. An admin ends that with a signed
 * request, which is refused when the manifest that gave the alarm was not among those shown.
 *
 * The controller can keep manifests back. Then the alarm is missed, and what is left is what holds
 * anyway: two signed requests with a waiting time between them. */
#ifndef SEALPOINT_KEEPER_RECONCILE_H
#define SEALPOINT_KEEPER_RECONCILE_H

#include "base/why.h"
#include <sealpoint/v1/keys.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

struct keeper;

/* One round of showing manifests; ends with the process. */
struct reconcile_round {
    bool begun;
    uint32_t manifests, pins_added;
    uint64_t newest_epoch;
    char **missing; /* record ids */
    size_t missing_count;
};

/* Destruction is refused from now on; `epoch`: the newest that was seen, 0: none. In a transaction.
 */
int reconcile_need(struct keeper *, uint64_t epoch, const char *reason);
/* 0, or -ESTALE when the keystore is to be reconciled first. */
int reconcile_check(struct keeper *, struct sp_why *why);
/* Ends the round. In a transaction; *ret is new. */
int reconcile_finish(struct keeper *, Sp__ReconcileResponse **ret, struct sp_why *why);
void reconcile_forget(struct reconcile_round *);

#endif
