/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Carry-over: "this record opens this header" was proved before, and the volume key that came out
 * of it is kept wrapped. It holds for one header fingerprint, record, generation, secret and rules
 * version. The sectors are decrypted anew each time. Under the keeper's lock. */
#ifndef SEALPOINT_KEEPER_CARRY_H
#define SEALPOINT_KEEPER_CARRY_H

#include "base/bytes.h"
#include "base/secret.h"
#include <sealpoint/v1/types.pb-c.h>

struct keeper;

struct carry {
    char proof_id[37];
    char protector_id[256];
    struct sp_secret *volume_key;
};
static inline void carry_clear(struct carry *c)
{
    sp_secret_free(c->volume_key);
    c->volume_key = NULL;
}
#define CARRY __attribute__((cleanup(carry_clear)))

/* -ENOENT: nothing is kept; -EBADMSG: what is kept was tampered with. */
int carry_load(struct keeper *, const Sp__EscrowRecord *, struct sp_bytes fingerprint,
               struct carry *ret);
/* In a transaction. */
int carry_keep(struct keeper *, const Sp__EscrowRecord *, struct sp_bytes fingerprint,
               const char *proof_id, const char *protector_id, const struct sp_secret *volume_key);
/* Forgets what is kept for this pair. In a transaction. */
int carry_drop(struct keeper *, const Sp__EscrowRecord *, struct sp_bytes fingerprint);
/* Everything that is kept for a record. In a transaction. */
int carry_drop_record(struct keeper *, const char *record_id);

#endif
