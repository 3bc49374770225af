/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Marks on points: legal holds and soft deletions. Objects "holds/MACHINE/POINT" and
 * "deleted/MACHINE/POINT", see FORMAT.md. */
#ifndef SEALPOINT_VAULT_KEEP_H
#define SEALPOINT_VAULT_KEEP_H

#include "controller/mover/vault/internal.h"

/* Removes for good the points whose soft deletion is `grace_ms` old at now_unix_ms and that nothing
 * holds; counts them. With dry_run only counts. */
int keep_purge(struct vault *, uint64_t now_unix_ms, uint64_t grace_ms, bool dry_run,
               uint64_t *ret_points, struct sp_why *why);

#endif
