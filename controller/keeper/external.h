/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys that are not in the keystore: the providers are asked when nothing in it opens a volume.
 *
 *   lookup ─▶ items ─▶ fetch ─▶ prover ─▶ opens: kept ─┬▶ mirror: a copy, wrapped, a generation of
 *      │                                               │  its own, pinned by the point
 *      │ absent, denied, expired, unreachable          └▶ no mirror: a reference, at its mercy
 *      └▶ the gravest answer stands: absent only when every provider clearly said so
 *
 * A copy of what lay bare at its provider (ESCROW_UNWRAPPED) opens, and its provider is asked all
 * the same, whether a KEK is around it by now. */
#ifndef SEALPOINT_KEEPER_EXTERNAL_H
#define SEALPOINT_KEEPER_EXTERNAL_H

#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stddef.h>

struct proving;

/* After the records of the keystore; asks nobody when they settled it. Without the lock. */
int external_prove(struct proving *, Sp__EscrowRecord *const *records, size_t count);
/* What a provider's key opened: the record is written, pinned, and put into the statement. *keep is
 * cleared when nothing that derives from the key may stay here. In a transaction, under the lock.
 */
int external_keep(struct proving *, bool *keep);

#endif
