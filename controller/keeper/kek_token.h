/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A KEK on a PKCS#11 token (a smart card, an HSM): the private half of its X25519 pair is encrypted
 * to an RSA pair of the token, RSA-OAEP with SHA-1 and MGF1-SHA-1, which is what every token can do
 * (PKCS #11 v2.40, 2.1.8) and where OAEP does not rest on the hash being free of collisions. The
 * RSA private key never leaves the token; a session lasts for one call.
 *
 * Any thread, one at a time. Errors of both: -ENODEV no module, token or key of that name;
 * -EACCES the token refuses the PIN; -EIO it fails otherwise. */
#ifndef SEALPOINT_KEEPER_KEK_TOKEN_H
#define SEALPOINT_KEEPER_KEK_TOKEN_H

#include "base/bytes.h"
#include "base/secret.h"
#include "base/why.h"

struct kek_sources;

int kek_token_wrap(const struct kek_sources *, const struct sp_secret *pin,
                   const struct sp_secret *plain, struct sp_buffer *out, struct sp_why *why);
/* -EBADMSG: the token does not open it: another key, or tampered with. */
int kek_token_unwrap(const struct kek_sources *, const struct sp_secret *pin,
                     struct sp_bytes wrapped, struct sp_secret **ret, struct sp_why *why);

#endif
