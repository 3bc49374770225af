/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The agent's identity in its state folder:
 *
 *     agent.key  agent.pem   TLS key and certificate chain, leaf first
 *     trust.pem              every CA that is trusted
 *     box.key                X25519 private key, 32 bytes, for SealedBoxes to this agent
 *     keeper-ca.pem          the CA of the fingerprint that was given at enrolment
 *     identity               machine, domain, controller, mark; written last: it is there =
 * enrolled
 *
 * A renewal writes agent.key.next, then agent.pem.next (durable), then renames both; a load after a
 * crash in between finishes what was durable and forgets the rest. */
#ifndef SEALPOINT_AGENT_IDENTITY_H
#define SEALPOINT_AGENT_IDENTITY_H

#include "base/identity.h"
#include "base/secret.h"
#include "base/why.h"
#include <stdint.h>

/* In the state folder: the CA that enrolment checked by its fingerprint, which no renewal changes,
 * for what only the keeper may order; orders for escrow keyslots (enrol_volume/order.h). */
#define AGENT_KEEPER_CA "keeper-ca.pem"
#define AGENT_KEYSLOTS  "keyslots"

struct agent_identity {
    char *machine, *domain, *controller, *mark;
    char *key_pem, *certificate_pem, *trust_pem;
    uint64_t not_before_ms, expires_ms; /* of the certificate, wall clock */
};

/* -ENOENT: not enrolled. agent_identity_free() in either case. */
int agent_identity_load(const char *state, struct agent_identity *identity, struct sp_why *why);
/* Wipes the key. */
void agent_identity_free(struct agent_identity *identity);
/* When to renew: two thirds of the certificate's life. */
uint64_t agent_identity_renew_at_ms(const struct agent_identity *identity);

/* The TLS key to enrol with, made once, so that an enrolment that waits for approval can be asked
 * for again. `again`: the old identity stays in use until the new one is stored. EVP_PKEY_free().
 */
int agent_identity_key(const char *state, bool again, EVP_PKEY **ret, struct sp_why *why);
/* Public half of box.key, which is made if missing. */
int agent_identity_box(const char *state, uint8_t ret_public[32], struct sp_why *why);

/* Checks an issued chain: an agent certificate for `key`, valid under `trust` now. The identity in
 * it goes to *ret. */
int agent_identity_check(EVP_PKEY *key, const char *chain_pem, const char *trust_pem,
                         struct sp_identity *ret, struct sp_why *why);

/* Stores an enrolment; the identity file last. */
int agent_identity_store(const char *state, bool again, const char *controller,
                         const struct sp_identity *id, const char *chain_pem, const char *trust_pem,
                         struct sp_why *why);

/* A renewal: a new key, and what came back for it. */
int agent_identity_begin_renewal(const char *state, EVP_PKEY **ret, struct sp_why *why);
int agent_identity_end_renewal(const char *state, const char *chain_pem, const char *trust_pem,
                               struct sp_why *why);

#endif
