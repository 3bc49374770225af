/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Machines that enrolled. Under the keeper's lock. */
#ifndef SEALPOINT_KEEPER_MACHINES_H
#define SEALPOINT_KEEPER_MACHINES_H

#include "base/why.h"
#include <sealpoint/v1/keeper.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

struct keeper;

struct machine {
    char machine_id[37];
    char name[128], group[128];
    bool revoked, pending;
    uint8_t encryption_key[32];
    char key_id[65];     /* of the key in its certificate */
    char old_key_id[65]; /* before the last renewal, whose answer may have been lost; may be "" */
    char token_id[37];
    char smbios_uuid[64], address[80];
    uint64_t expires_unix_ms, created_unix_ms;
};

/* -ENOENT. */
int machine_load(struct keeper *, const char *machine_id, struct machine *ret);
/* The one that enrolled with this token and this key. -ENOENT. */
int machine_by_key(struct keeper *, const char *token_id, const char *key_id, struct machine *ret);
/* A machine of this name that is not revoked. -ENOENT. */
int machine_by_name(struct keeper *, const char *name, struct machine *ret);
/* Writes the row, new or not. In a transaction. */
int machine_save(struct keeper *, const struct machine *);
int machine_revoke(struct keeper *, const char *machine_id, struct sp_why *why);
int machine_approve(struct keeper *, const char *machine_id, struct sp_why *why);
/* Group of a machine, "" when it never enrolled. Into out of 128 bytes. */
const char *machine_group(struct keeper *, const char *machine_id, char out[128]);

#endif
