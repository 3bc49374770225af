/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The volume key of a LUKS2 volume, by what the guest opens it with: crypttab's key file, a token
 * that libcryptsetup has a plugin for (TPM2), a clevis token, or a passphrase. */
#ifndef SEALPOINT_ENROL_VOLUME_UNLOCK_H
#define SEALPOINT_ENROL_VOLUME_UNLOCK_H

#include "agent/enrol_volume/header.h"
#include <sealpoint/v1/keyslot.pb-c.h>

struct unlock {
    Sp__KeyslotUnlock kind;
    char with[256];          /* path of the key file, type of the token */
    uint64_t offset, length; /* of the key in its file; length 0: to its end */
    int keyslot;             /* crypttab's key-slot=, else CRYPT_ANY_SLOT */
};

/* How it would be tried first; nothing is opened. mapped_name may be "". */
void unlock_find(const struct header *, const char *crypttab, const char *mapped_name,
                 struct unlock *ret);
/* By key file, then by token. *ret: the volume key; `how`: by what. -EPERM: by nothing that is
 * there without a person. */
int unlock_by_itself(const struct header *, const char *crypttab, const char *mapped_name,
                     struct unlock *how, struct sp_secret **ret, struct sp_why *why);
/* -EPERM: it opens no keyslot. */
int unlock_by_passphrase(const struct header *, const struct sp_secret *passphrase,
                         struct sp_secret **ret, struct sp_why *why);

#endif
