/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A record's life. Every step is added to the table `states` with who, when and why.
 *
 *   pending ─▶ active ─▶ superseded         each of the three ─▶ compromised
 *                                           each of the four  ─▶ destroyed
 *
 * A pending record is tried by proofs as any other; it takes the place of the active one once it
 * has opened the volume. A compromised one stays usable: points rest on it, and a volume that only
 * it opens is still opened. Destruction takes the secret away, not the record: it is asked for, a
 * waiting time goes by, and it is asked for again; never while a point pins the record, and never
 * by a keystore that may be older than what the vaults know.
 *
 * Under the keeper's lock, changes in a transaction of the caller. */
#ifndef SEALPOINT_KEEPER_LIFE_H
#define SEALPOINT_KEEPER_LIFE_H

#include "base/why.h"
#include <sealpoint/v1/keys.pb-c.h>
#include <stdbool.h>

struct keeper;

/* The first state of a record that was just inserted with it. */
int life_begin(struct keeper *, const char *record_id, Sp__RecordState, const char *who,
               const char *reason);
/* The next one. -ESTALE: not from where the record is; -ENOENT. */
int life_become(struct keeper *, const char *record_id, Sp__RecordState to, const char *who,
                const char *reason, struct sp_why *why);
/* Active generations of the record's protector that are older than it become superseded. */
int life_supersede(struct keeper *, const Sp__EscrowRecord *by, const char *who);
/* A proof opened a volume with the record: if it was pending it is active now. -ENODATA: it was
 * destroyed meanwhile. */
int life_proved(struct keeper *, const Sp__EscrowRecord *);

/* Starts the waiting time, or destroys once it is over: then *ret is NULL, else new
 * (sp__pending_destruction__free_unpacked). -EBUSY: pinned; -ESTALE: destroyed already, or the
 * keystore is to be reconciled first. */
int life_destroy(struct keeper *, const char *record_id, const char *who, const char *reason,
                 Sp__PendingDestruction **ret, struct sp_why *why);
/* Destroys a pending record at once: its key never opened anything. Errors as life_destroy(). */
int life_take_back(struct keeper *, const Sp__EscrowRecord *, const char *who, const char *reason,
                   struct sp_why *why);
/* -ENOENT: nobody asked for it. */
int life_withdraw(struct keeper *, const char *record_id, struct sp_why *why);

/* The record with its history and what it still opens. `prefix`: the beginning of its id. -ENOENT;
 * -ENOTUNIQ: of several. */
int life_detail(struct keeper *, const char *prefix, Sp__KeyDetail **ret, struct sp_why *why);

#endif
