/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Two machines that are switched off, and the escrow systems which are not the keystore.
 *
 *   machine  disk     what is on it            where its key is
 *   web1     system   LUKS2, ext4 in it        the keystore
 *            data     LUKS1, ext4 in it        provider "pruning": keeps the last 10 versions;
 * mirrored db1      db       LUKS1, ext4 in it        provider "strict": keeps all; no copy is
 * allowed
 *
 * The disks are image files; guests_roll_over() changes a volume's keyslot with libcryptsetup, as a
 * guest does, and puts the new passphrase where it belongs. The providers are made up: what is
 * asked of them stays in this process. */
#ifndef SEALPOINT_TESTS_YEARS_GUESTS_H
#define SEALPOINT_TESTS_YEARS_GUESTS_H

#include "controller/keeper/providers/provider.h"
#include "controller/mover/source/source.h"

enum { SYSTEM, DATA, DB, VOLUMES, PRUNED_TO = 10, VERSIONS_MOST = 64 };

struct escrow {                    /* a provider's settings */
    int volume;                    /* the only one that it serves */
    unsigned most, current;        /* versions it keeps (0: all); the newest, from 1 on */
    char *versions[VERSIONS_MOST]; /* by version; NULL: gone */
};

struct guest_volume {
    const char *machine, *disk, *path;
    char volume_id[64], machine_id[37];
    char passphrase[40];   /* the one that opens it now */
    struct escrow *escrow; /* NULL: the keystore */
};
extern struct guest_volume guest_volumes[VOLUMES];

/* Makes the images in the folder, each with its first passphrase, which no escrow has yet. */
void guests_make(const char *folder);
void guests_free(void);
/* A new passphrase; the old one opens no longer. */
void guests_roll_over(struct guest_volume *, const char *passphrase);

extern const struct provider_type escrow_type;
/* A new version; what is too old goes. */
void escrow_put(struct escrow *, const char *passphrase);
void escrow_delete(struct escrow *, unsigned version);
void escrow_free(struct escrow *);

/* The source of all machines: the "hypervisor" reads the image file of a machine that is off. */
const struct source *guests_source(const Sp__SourceConfig *);

#endif
