/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A set of addresses. Zero-initialise; vault_set_free() in the end. One thread. */
#ifndef SEALPOINT_VAULT_SET_H
#define SEALPOINT_VAULT_SET_H

#include "controller/mover/vault/pack.h"

struct vault_set {
    uint8_t (*slots)[VAULT_ADDRESS_BYTES];
    uint8_t *used;
    size_t capacity, count;
};

bool vault_set_has(const struct vault_set *, const uint8_t address[VAULT_ADDRESS_BYTES]);
/* 1: added, 0: was there, -ENOMEM. */
int vault_set_add(struct vault_set *, const uint8_t address[VAULT_ADDRESS_BYTES]);
void vault_set_clear(struct vault_set *);
void vault_set_free(struct vault_set *);

#endif
