/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The rules that proofs are made and judged by. A seal accepts proofs of these rules only, and a
 * carried-over header verdict counts under the rules that it was made by only: raise the number
 * whenever a proof that counted before should not count any more. */
#ifndef SEALPOINT_KEEPER_RULES_H
#define SEALPOINT_KEEPER_RULES_H

enum { RULES_VERSION = 1, PROOF_FORMAT = 1, MANIFEST_FORMAT = 1 };

#endif
