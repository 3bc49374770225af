/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a manifest must say to be signed, as far as it can be judged without the keystore. */
#ifndef SEALPOINT_KEEPER_MANIFEST_RULES_H
#define SEALPOINT_KEEPER_MANIFEST_RULES_H

#include "base/why.h"
#include <openssl/evp.h>
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stddef.h>

/* A manifest and the statements in it, in the order of its proofs. */
struct judged {
    Sp__Manifest *manifest;
    Sp__ProofStatement **statements;
    size_t count;
};
void judged_clear(struct judged *);
#define JUDGED __attribute__((cleanup(judged_clear)))

/* Unpacks it and verifies every proof in it: signed by `sealing_key`, for this machine and point,
 * of a volume of the manifest, read through the roots that it names. `to_seal`: by the rules of
 * today; a release takes proofs of older rules too, since a key that opened then still opens.
 * -EINVAL, -EKEYREJECTED, -ESTALE. */
int manifest_judge(const void *packed, size_t size, EVP_PKEY *sealing_key, bool to_seal,
                   struct judged *ret, struct sp_why *why);

/* Whether state_at_seal may be VALID: each encrypted volume, of the snapshot and of the inventory,
 * opens or is excepted by policy; no finding stands against it; the grade is what the policy asks
 * for. 0 or -ESTALE. */
int manifest_supports_valid(const struct judged *, struct sp_why *why);

/* The policy names an admin who accepts the reason for the volume, and it may be accepted. */
bool manifest_is_excepted(const Sp__Manifest *, Sp__Reason, const char *volume_id);
/* The statement that opens a volume, or NULL. */
const Sp__ProofStatement *manifest_opening(const struct judged *, const char *volume_id);
/* SHA-256 over ids, sizes and roots of the disks. */
int manifest_disks_digest(const Sp__Manifest *, uint8_t out[32]);

#endif
