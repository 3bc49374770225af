/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An escrow keyslot, step by step:
 *
 *   accepted    the order is the keeper's, for this machine, volume and header; its nonce is used
 * up unlocked    by key file, token or passphrase: the volume key is at hand saved       the header
 * as it was, in keyslots/UUID.header kept        the order, in keyslots/RECORD.order: from now on a
 * part of it may be in the header token       names record and keyslot, is assigned to none added
 * the keyslot, with the number that the token names assigned    to the token proved      the header
 * is read anew, and the key opens the keyslot done        the order is dropped
 *
 * Whoever is killed wherever leaves every old keyslot as it was. The next call for the volume looks
 * at what an order that was kept has left:
 *
 *   no token                                        nothing was done: the order is dropped
 *   token, no keyslot of its number                 the token is taken back
 *   token, and the order's key opens the keyslot    assigned, proved
 *   token, and the order's key does not open it     the token is taken back; the keyslot is not
 * ours
 *
 * The order's key lies in the .order file, sealed to this agent.
 */
#ifndef SEALPOINT_ENROL_VOLUME_KEYSLOT_H
#define SEALPOINT_ENROL_VOLUME_KEYSLOT_H

#include "agent/config.h"
#include "base/why.h"
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/keyslot.pb-c.h>

/* What was just done, for tests that end the program there. */
enum keyslot_step {
    KEYSLOT_BEGUN,
    KEYSLOT_ACCEPTED,
    KEYSLOT_UNLOCKED,
    KEYSLOT_SAVED,
    KEYSLOT_KEPT,
    KEYSLOT_TOKEN,
    KEYSLOT_ADDED,
    KEYSLOT_ASSIGNED,
    KEYSLOT_PROVED,
    KEYSLOT_DONE,
    KEYSLOT_STEPS
};

struct keyslot_options {
    const struct agent_config *config;
    void (*at)(void *self, enum keyslot_step); /* NULL: nobody is told */
    void *self;
};

/* Answers a request: finishes or takes back what was left, then tells what there is, or obeys the
 * order. A failure is in the answer. *ret: sp__answer__free_unpacked(). 0 or -ENOMEM. */
int keyslot_serve(const struct keyslot_options *, const Sp__KeyslotRequest *, Sp__Answer **ret);
/* Orders that wait for a passphrase: asks for it on the terminal. `name`: the volume's id or its
 * device; NULL: all. 0, or what failed last. */
int keyslot_typed(const struct keyslot_options *, const char *name, struct sp_why *why);

#endif
