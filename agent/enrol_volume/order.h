/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Orders for escrow keyslots (keyslot.proto) in the agent's state folder:
 *
 *     keyslots/lock            held while a header is changed
 *     keyslots/ID.nonce        what the next order for the volume must name; ID: of the volume's id
 *     keyslots/RECORD.waiting  accepted, waits for a passphrase
 *     keyslots/RECORD.order    under way: the header may hold a part of it
 *     keyslots/UUID.header     the header as it was before the last order
 *
 * An order is a packed KeyslotRequest; the key in it stays sealed to box.key. One process at a
 * time: order_lock(). */
#ifndef SEALPOINT_ENROL_VOLUME_ORDER_H
#define SEALPOINT_ENROL_VOLUME_ORDER_H

#include "agent/config.h"
#include "agent/identity.h"
#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/keyslot.pb-c.h>
#include <stdbool.h>

#define ORDER_WAITING   ".waiting"
#define ORDER_UNDER_WAY ".order"

struct orders {
    const struct agent_config *config;
    struct agent_identity identity;
    char *folder;
    int lock; /* fd; -1: not held */
};

/* -ENOENT: not enrolled. orders_close() in either case. */
int orders_open(const struct agent_config *config, struct orders *, struct sp_why *why);
void orders_close(struct orders *);
/* Waits for another process that changes a header. */
int orders_lock(struct orders *, struct sp_why *why);
void orders_unlock(struct orders *);

/* A new nonce for the volume; earlier ones count no more. */
int order_nonce(struct orders *, const char *volume_id, uint8_t out[32], struct sp_why *why);
/* Whether this is the volume's nonce, which is used up. -ESTALE. */
int order_take_nonce(struct orders *, const char *volume_id, const void *nonce, size_t size,
                     struct sp_why *why);

/* What the keeper signed for this machine: the CA that was pinned at enrolment vouches for the
 * keeper's key, that one signed the order. *ret: sp__keyslot_order__free_unpacked(). -EKEYREJECTED.
 */
int order_check(struct orders *, const Sp__KeyslotRequest *, Sp__KeyslotOrder **ret,
                struct sp_why *why);
/* The key in it, 32 bytes. -EKEYREJECTED: the box is not for this agent, or for something else. */
int order_key(struct orders *, const Sp__KeyslotOrder *, struct sp_secret **ret,
              struct sp_why *why);

/* Durable when it returns. */
int order_keep(struct orders *, const Sp__KeyslotRequest *, const char *record_id,
               const char *ending, struct sp_why *why);
/* A waiting order begins: from now on it is under way. */
int order_begin(struct orders *, const char *record_id, struct sp_why *why);
/* Missing is fine. */
int order_drop(struct orders *, const char *record_id, const char *ending);
/* Every order with this ending that is for the volume (NULL: any), checked again. `each` returns 0
 * to go on. A file that is no order of ours is passed over. */
int order_each(struct orders *, const char *ending, const char *volume_id,
               int (*each)(void *self, const Sp__KeyslotRequest *, const Sp__KeyslotOrder *,
                           struct sp_why *why),
               void *self, struct sp_why *why);

#endif
