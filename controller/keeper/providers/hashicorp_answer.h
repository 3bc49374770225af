/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What HashiCorp Vault answers (KV version 2), apart from how it is asked. Untrusted. */
#ifndef SEALPOINT_KEEPER_HASHICORP_ANSWER_H
#define SEALPOINT_KEEPER_HASHICORP_ANSWER_H

#include "controller/keeper/providers/provider.h"
#include <json-c/json.h>

/* The versions at `path` that can be read, newest first; warned of where max_versions will soon
 * remove them. `data` of metadata's answer. -EKEYEXPIRED, -ENOENT: none can; -EPROTO. */
int hashicorp_versions(json_object *data, const char *path, Sp__SecretType,
                       struct provider_items *out, struct sp_why *);
/* The field of the very version that was asked for; json-c's copy is wiped. -EPROTO. */
int hashicorp_secret(json_object *data, const char *field, const char *version,
                     struct sp_secret **ret, struct sp_why *);

#endif
