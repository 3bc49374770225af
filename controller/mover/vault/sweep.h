/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which packs somebody needs (sweep.c says why this is safe). */
#ifndef SEALPOINT_VAULT_SWEEP_H
#define SEALPOINT_VAULT_SWEEP_H

#include "controller/mover/vault/internal.h"

/* By pack number, 1: a manifest or an open journal needs it; to free(). Packs beyond *ret_count
 * came later. -EBADMSG: damage keeps it from being known. */
int sweep_needed(struct vault *, uint8_t **ret_needed, uint32_t *ret_count);

#endif
