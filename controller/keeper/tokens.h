/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Enrolment tokens. The secret is kept wrapped, since the guest proves that it knows the token by
 * an HMAC under it and never sends it. Under the keeper's lock. */
#ifndef SEALPOINT_KEEPER_TOKENS_H
#define SEALPOINT_KEEPER_TOKENS_H

#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/admin.pb-c.h>
#include <sealpoint/v1/enrolment.pb-c.h>
#include <stdbool.h>

struct keeper;

struct token {
    char token_id[37];
    Sp__TokenSpec *spec;
    uint32_t used;
    bool revoked;
    struct sp_secret *secret;
};
void token_clear(struct token *);
#define TOKEN __attribute__((cleanup(token_clear)))

/* In a transaction. The answer holds the token sealed to spec->reply_key. */
int token_create(struct keeper *, const Sp__TokenSpec *, const char *by,
                 Sp__CreateTokenResponse *out, struct sp_why *why);
/* -ENOENT. With the secret only when asked for. */
int token_load(struct keeper *, const char *token_id, bool with_secret, struct token *ret);
/* Both in a transaction. */
int token_revoke(struct keeper *, const char *token_id);
int token_count_use(struct keeper *, const char *token_id);
/* Whether a machine of this name, from this address, may use it now. -EKEYREJECTED, -ESTALE; each
 * with its own sentence. */
int token_check(struct keeper *, const struct token *, const char *machine_name,
                const char *address, struct sp_why *why);
/* "10.0.0.0/8", "2001:db8::/32" or one address. -EINVAL. Addresses may carry a port, brackets or
 * gRPC's "ipv4:". */
int token_network_holds(const char *network, const char *address);

#endif
