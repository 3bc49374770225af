/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * BitLocker's keys, from what people keep to what encrypts sectors:
 *
 *   password           UTF-16, SHA-256 twice ──▶ stretched ─┐
 *   recovery password  8 groups / 11, SHA-256 ─▶ stretched ─┼─▶ AES-CCM ─▶ VMK ─▶ AES-CCM ─▶ FVEK
 *   .BEK file          external key ───────────────────────┤
 *   clear key          lies beside the VMK ────────────────┘
 *
 * Each unwrapping is authenticated: a wrong key is known as such. libcryptsetup 2.6.1 is not used:
 * it takes recovery passwords that Windows refuses, refuses some passwords that Windows takes, and
 * does not know the clear key. Source of the format: as fve.h. One thread. */
#ifndef SEALPOINT_PROVER_BITLOCKER_KEY_H
#define SEALPOINT_PROVER_BITLOCKER_KEY_H

#include "base/secret.h"
#include "base/why.h"
#include "controller/keeper/prover/fve.h"

/* As Windows checks it: 8 groups of 6 digits, each divisible by 11 and below 720,896, joined by
 * dashes (spaces and none are taken too; so is one line end). 0 and 16 bytes, or -EINVAL with a
 * sentence that names the group, never its digits. */
int bitlocker_recovery_password(const struct sp_secret *text, struct sp_secret **ret,
                                struct sp_why *why);

/* What stretching begins with, of 32 bytes: of a password (UTF-8; -EILSEQ: it is not), of the 16
 * bytes above. 0 or negative errno. */
int bitlocker_hash_password(const struct sp_secret *utf8, struct sp_secret **ret);
int bitlocker_hash_recovery(const struct sp_secret *bytes, struct sp_secret **ret);

/* The key of 32 bytes in a startup key file; its GUID. 0; -EBADMSG: it is no such file. */
int bitlocker_startup_key(const struct sp_secret *file, char guid[37], struct sp_secret **ret);

/* SHA-256, 2^20 times, of 88 bytes each. 0 or negative errno. */
int bitlocker_stretch(const struct sp_secret *hash, const uint8_t salt[16], struct sp_secret **ret);

/* Opens one AES-CCM entry. 0 and the key inside; -EPERM: another key; -EBADMSG: what opened is no
 * key; -EIO, -ENOMEM. */
int bitlocker_unwrap(const struct fve_entry *wrapped, const struct sp_secret *key,
                     struct sp_secret **ret);

#endif
