/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Manifests as objects: manifests/MACHINE/POINT.REVISION, each a packed Signed. FORMAT.md. */
#ifndef SEALPOINT_VAULT_MANIFEST_H
#define SEALPOINT_VAULT_MANIFEST_H

#include "controller/mover/vault/internal.h"

struct manifest_name {
    char machine_id[VAULT_ID_MAX + 1];
    char point_id[VAULT_ID_MAX + 1];
    uint32_t revision;
};

struct manifest_list {
    struct manifest_name *names; /* by machine, point, revision */
    size_t count, capacity;
};

/* Those of one machine and point when these are not NULL. Free with manifest_list_free(). */
int manifest_list(struct vault *, const char *machine_id, const char *point_id,
                  struct manifest_list *ret);
void manifest_list_free(struct manifest_list *);

/* Into out (VAULT_NAME_MAX). Returns out. */
char *manifest_name_text(const struct manifest_name *, char *out);
/* -EINVAL: not the name of a manifest. */
int manifest_name_parse(const char *name, struct manifest_name *ret);

/* Unpacks and looks at form: format, critical features, ids, sizes, roots. Untrusted bytes.
 * -EBADMSG, -ENOTSUP, -ENOMEM. */
int manifest_parse(const void *data, size_t size, Sp__Signed **ret, Sp__Manifest **ret_manifest,
                   struct sp_why *why);
/* Reads one and checks that it is the one that its name says, of this vault, and signed (unless
 * sealing_key is empty). -EKEYREJECTED: the signature is wrong or missing. */
int manifest_load(struct vault *, const struct manifest_name *, struct sp_bytes sealing_key,
                  Sp__Signed **ret, Sp__Manifest **ret_manifest, struct sp_why *why);

#endif
