/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One proof under way: what prove.c and external.c share. One thread; no lock is held. */
#ifndef SEALPOINT_KEEPER_PROVE_H
#define SEALPOINT_KEEPER_PROVE_H

#include "controller/keeper/keeper.h"

struct proving {
    struct keeper *k;
    const Sp__ProveRequest *ask;
    int reader;
    Sp__ProofStatement *statement;
    struct sp_secret *volume_key; /* to keep for the next time */
    const struct provider *from;  /* what opened was fetched there; NULL: from the keystore */
    struct sp_secret *fetched;    /* the secret of statement->record then */
    bool warned;                  /* the statement's explanation tells what will take it away */
};

/* Which verdict stands when several records were tried: the higher. Wrong is said only when every
 * record was really tried: one that could not be checked or fetched leaves the question open. */
int proving_weight(Sp__ProofVerdict);
/* The whole proof with one secret (NULL: it cannot be had); takes over what stands. 1: opens; 0: it
 * does not; negative: out of memory. */
int proving_try(struct proving *, const Sp__EscrowRecord *, const struct sp_secret *);
/* One more line of the statement's attempts. */
int proving_note(struct proving *, const Sp__EscrowRecord *, Sp__ProofVerdict, const char *text);

#endif
