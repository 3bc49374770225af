/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the keeper does because a person signed it. */
#ifndef SEALPOINT_KEEPER_EXECUTE_H
#define SEALPOINT_KEEPER_EXECUTE_H

#include "base/identity.h"
#include "base/why.h"
#include <sealpoint/v1/types.pb-c.h>

struct keeper;

/* Checks a request from the outside in: shape, expiry, every approval's signature and certificate,
 * the users' standing, and last the nonce, which is used up by it. *ret is who asked.
 * -EKEYREJECTED, -EINVAL. Roles are the caller's business. */
int execute_check(struct keeper *, const Sp__SignedRequest *, const char *method,
                  struct sp_identity *ret, struct sp_why *why);

#endif
