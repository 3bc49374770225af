/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Escrow records: generations of guests' keys, never overwritten. The AAD of each ciphertext binds
 * it to provider, machine, volume, protector, generation and record id, so that a row moved to
 * another place does not open. Under the keeper's lock. */
#ifndef SEALPOINT_KEEPER_RECORDS_H
#define SEALPOINT_KEEPER_RECORDS_H

#include "base/bytes.h"
#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stddef.h>

struct keeper;

#define KEYSTORE_PROVIDER "keystore"
/* EscrowRecord.version of keys that the keeper made for a keyslot (keyslot.c). */
#define RECORD_KEYSLOT "escrow-keyslot"

/* The record (new, sp__escrow_record__free_unpacked) and, if not NULL, its secret and the epoch it
 * came with. -ENOENT; -EBADMSG: the row was tampered with; -ENODATA: the secret was destroyed;
 * -EREMOTE: it is at its provider only. */
int record_load(struct keeper *, const char *record_id, Sp__EscrowRecord **ret,
                struct sp_secret **ret_secret, uint64_t *ret_epoch);
/* Records of one volume that are not destroyed, newest first; array and items are the caller's. */
int records_of(struct keeper *, const char *machine_id, const char *volume_id,
               Sp__EscrowRecord ***ret, size_t *ret_count);
void records_free(Sp__EscrowRecord **, size_t count);
/* The secret is at its provider only. */
static inline bool record_is_reference(const Sp__EscrowRecord *e)
{
    return e->holding == SP__RECORD_HOLDING__RECORD_HOLDING_AT_PROVIDER;
}

/* Equal secrets of equal use compare equal; only this keeper can compute it. `plain`: packed
 * PlainParameters, or nothing. */
int record_hmac(struct keeper *, Sp__SecretType, struct sp_bytes plain,
                const struct sp_secret *secret, uint8_t out[32]);
/* A generation to come. `secret` NULL: a reference to what is at its provider. */
struct record_new {
    const char *provider, *machine_id, *volume_id, *protector_id, *version, *note, *by;
    uint32_t generation;
    Sp__SecretType type;
    Sp__RecordState state;
    struct sp_bytes plain;
    const struct sp_secret *secret;
    const uint8_t *hmac; /* 32 bytes */
    bool unwrapped;      /* its provider keeps it without a KEK around it */
};
/* In a transaction, journaled, with its first state. */
int record_insert(struct keeper *, const struct record_new *, const char *record_id);
/* Every record opens with the open KEK; the first that does not is in why. 0 or -EBADMSG. */
int records_verify(struct keeper *, uint32_t *ret_count, struct sp_why *why);

#endif
