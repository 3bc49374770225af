/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The key of plain dm-crypt, made of a secret as `cryptsetup open --type plain` makes it. */
#ifndef SEALPOINT_PROVER_PLAIN_H
#define SEALPOINT_PROVER_PLAIN_H

#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/types.pb-c.h>

/* 0 and a new key; -EKEYREJECTED: no key can be made of this secret (too short, wrong size),
 * -ENOTSUP: a hash that this host lacks, -EINVAL: parameters that make no sense; each with a
 * sentence. */
int plain_key(const Sp__PlainParameters *, Sp__SecretType, const struct sp_secret *secret,
              struct sp_secret **ret, struct sp_why *);

#endif
