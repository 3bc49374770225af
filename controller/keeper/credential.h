/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Passwords that an admin hands to the keeper: systemd credentials, and files with one line. */
#ifndef SEALPOINT_KEEPER_CREDENTIAL_H
#define SEALPOINT_KEEPER_CREDENTIAL_H

#include "base/secret.h"
#include "base/why.h"
#include <stddef.h>

/* The systemd credential `name`, without a newline at its end. -EACCES: systemd handed over none;
 * -EINVAL: no name of one, or it is empty. */
int credential_read(const char *name, size_t most, struct sp_secret **ret, struct sp_why *why);
/* An editor's newline is not part of a passphrase. Returns the size that is left. */
size_t credential_trim(struct sp_secret *);

#endif
