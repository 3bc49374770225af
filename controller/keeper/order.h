/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One method that a person signed for, while it runs: execute.c checked signature and nonce and
 * holds the transaction; the method checks the role, acts, and says what the audit is to hold. */
#ifndef SEALPOINT_KEEPER_ORDER_H
#define SEALPOINT_KEEPER_ORDER_H

#include "base/identity.h"
#include "base/why.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

struct keeper;

struct order {
    struct keeper *k;
    const struct sp_identity *who;
    char who_text[320];
    const ProtobufCMessage *arguments;
    struct sp_why *why;
    /* Filled by the method. */
    const char *what; /* NULL: as the table of methods has it */
    char about[160], text[400];
    bool erased; /* a secret: no older page of the file may keep it */
    ProtobufCMessage *result;
};

/* -EPERM unless the signer is an admin of the group; NULL or "": of all machines. */
int order_admin(struct order *, const char *group);
int order_admin_of(struct order *, const char *machine_id);
/* The result is a Done. */
int order_done(struct order *);

/* keys and keystore (order.c) */
int order_compromise(struct order *);
int order_destroy(struct order *);
int order_add_kek(struct order *);
int order_remove_kek(struct order *);
int order_export(struct order *);
int order_reconcile(struct order *);

#endif
