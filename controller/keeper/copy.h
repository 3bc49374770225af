/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keystore's copy in the vault: with the recovery kit it makes an empty host whole.
 *
 *   "sealpoint keystore copy 1\n" ‖ le64 epoch ‖ le32 size ‖ SealedBox ‖ le64 size ‖ ciphertext
 *   ‖ Signature
 *
 * SealedBox: 32 random bytes, the file key, to the kit's X25519 key, AAD: all before it
 * ciphertext: AES-256-GCM of the SQLite file under the file key, nonce 0 (the key is used once),
 *             AAD: all before it
 * Signature: by the sealing key over SHA-256 of all before it, context "sealpoint keystore copy 1"
 *
 * The box could be made by anybody who knows the kit's public half. What vouches for the copy is
 * the signature, and for the signing key the kit itself: the kit's KEK in the copy carries a MAC
 * over that key which only the kit can make (kek.h). */
#ifndef SEALPOINT_KEEPER_COPY_H
#define SEALPOINT_KEEPER_COPY_H

#include "base/bytes.h"
#include "base/secret.h"
#include "base/why.h"
#include <stdbool.h>

struct keeper;
struct keeper_options;

/* The file, to the recovery kit; `whole`: with the audit from its first entry on. -EMSGSIZE: it no
 * longer fits into one answer. */
int copy_make(struct keeper *, bool whole, struct sp_buffer *out, uint64_t *ret_epoch,
              struct sp_why *why);
/* The kit in the text that `sealpointd init` printed. -EINVAL. */
int copy_parse_kit(const struct sp_secret *text, struct sp_secret **ret, struct sp_why *why);
/* Makes the keystore of options->state from a copy, with the KEKs that are configured now. -EEXIST:
 * there is one; -EKEYREJECTED: another kit; -EBADMSG: damaged or forged. After an error there is
 * still none. */
int copy_restore(const struct keeper_options *, const struct sp_secret *kit, struct sp_bytes copy,
                 struct sp_why *why);
/* The same for a keeper that is open on an empty state; it is initialised then. */
int copy_restore_into(struct keeper *, const struct sp_secret *kit, struct sp_bytes copy,
                      struct sp_why *why);

#endif
