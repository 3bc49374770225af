/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `sealpointd init`: the keeper makes CA, controller certificate and the first user's certificate;
 * this writes them where they belong and prints the recovery kit, once. */
#ifndef SEALPOINT_CONTROLLER_INIT_H
#define SEALPOINT_CONTROLLER_INIT_H

#include "base/why.h"
#include "controller/config.h"
#include <sealpoint/v1/keeper.pb-c.h>
#include <stddef.h>

struct init_options {
    const char *domain, *name, *user, *profile; /* domain NULL: the restored keystore's */
    char **hosts;
    size_t host_count;
};

/* Prints kit and CA fingerprint on standard output. Files are there before the keeper is asked, so
 * that a full disk cannot cost the only certificates. */
int init_run(const struct controller_config *, const struct init_options *, struct sp_why *why);

/* `sealpointd attach`: the host burned. From a vault (a directory) and the recovery kit (a file) an
 * empty keeper gets its keystore back, this host a controller's certificate, the user a profile,
 * and the catalog the vault, whose points the daemon takes over at its start. A keeper that has a
 * keystore keeps it: then the kit only admits controller and user. (attach.c) */
int attach_run(const struct controller_config *, const struct init_options *, const char *vault,
               const char *kit, struct sp_why *why);

/* ---- for attach.c ---- */
struct init_material;
/* Checks that nothing is overwritten, makes folders, keys and CSRs, and writes the keys. *ret also
 * on failure; init_material_free(). */
int init_prepare(const struct controller_config *, const struct init_options *,
                 struct init_material **ret, struct sp_why *why);
void init_material_free(struct init_material *);
ProtobufCBinaryData init_controller_csr(const struct init_material *);
ProtobufCBinaryData init_user_csr(const struct init_material *);
/* Certificates, trust, profile; prints the CA's fingerprint. */
int init_write(const struct controller_config *, const struct init_options *,
               const Sp__InitResponse *, struct sp_why *why);
/* A file of the state folder belongs to whoever the folder belongs to. */
int init_own(const char *directory, const char *path);

#endif
