/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The mover: asks a source for a point in time, copies it into a vault. Holds no guest key. Its
 * requests and answers are the messages of node.proto; today they are passed by call.
 *
 * Calls block; each on a worker thread. */
#ifndef SEALPOINT_MOVER_H
#define SEALPOINT_MOVER_H

#include "controller/mover/source/source.h"
#include "controller/mover/vault/vault.h"
#include <stdatomic.h>

struct mover_transfer_hooks {
    void (*progress)(void *self, const Sp__TransferProgress *);
    const atomic_bool *cancel; /* may be NULL; -ECANCELED once true */
    void *self;
};

/* Copies every disk of an open snapshot into the vault: read → hash → store in parallel, memory
 * bounded. *ret to free with sp__transfer_response__free_unpacked(). -ENOSPC vault full, -EIO
 * source lost or snapshot broken, -ECANCELED. */
int mover_transfer(const struct source *, struct source_snapshot *, const Sp__SnapshotResponse *,
                   const Sp__TransferRequest *, struct vault *, const struct mover_transfer_hooks *,
                   Sp__TransferResponse **ret, struct sp_why *why);

#endif
