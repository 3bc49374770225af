/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `sealpoint prove`: the prover on images that others made, without agent, controller or keeper.
 *
 *   prove_keys.c   files, folders, CSV ─▶ list of keys
 *   prove_image.c  raw file, qcow2 …, NBD ─▶ disk served to the prover
 *   prove_run.c    look ─▶ each encrypted volume × the keys that can be for it ─▶ verdicts
 *   cmd_prove.c    options, table, JSON, exit code
 *
 * Images are opened for reading only. One thread, but for the one that serves an image. */
#ifndef SEALPOINT_CLI_PROVE_H
#define SEALPOINT_CLI_PROVE_H

#include "controller/cli/cli.h"
#include <sealpoint/v1/keeper.pb-c.h>

/* ---- keys ---- */

struct prove_key {
    char *name;      /* where it came from: "keys/web1.txt", "keys.csv:3" */
    char *volume;    /* id or UUID of the volume it is for; "": any */
    char *protector; /* keyslot or GUID; "": any */
    Sp__SecretType type;
    struct sp_secret *secret;
};
struct prove_keys {
    struct prove_key *items;
    size_t count;
};

/* Adds what a file or a folder (its files, not those of folders in it) holds. sealpoint(1) has the
 * rules. CLI_OK or an exit code, the fault printed. */
int prove_keys_add(struct prove_keys *, const char *path);
void prove_keys_free(struct prove_keys *);

/* ---- images ---- */

struct prove_image;

/* A file (raw, qcow2, vmdk, vhdx, vhd: told by its first bytes) or an NBD URI. */
int prove_image_open(const char *name, struct prove_image **ret, struct sp_why *why);
void prove_image_close(struct prove_image *);
uint64_t prove_image_size(const struct prove_image *);
/* The socket for the prover. It stays the image's. */
int prove_image_socket(const struct prove_image *);

/* ---- verdicts ---- */

struct prove_volume {
    Sp__Volume *volume; /* owned */
    Sp__ProofVerdict verdict;
    Sp__Reason reason; /* 0: opens, nothing to say against it */
    char *key, *protector, *method, *text, *advice;
    Sp__Content *content; /* of what was decrypted */
    size_t tried;
    bool clear; /* not encrypted: no verdict */
};
struct prove_result {
    const char *image;
    char *error; /* NULL: it could be looked at */
    struct prove_volume *volumes;
    size_t count;
};

struct prove_options {
    const char *prover;
    struct prover_nursery *nursery;
    const char *header; /* file of a detached LUKS header, NULL */
    bool all_keys;      /* go on when one has opened */
    struct cli_progress *progress;
};

/* CLI_OK; an image that cannot be read is a result as well. CLI_ERROR: no memory. */
int prove_run(const struct prove_options *, const char *image, const struct prove_keys *,
              struct prove_result *ret);
void prove_result_free(struct prove_result *);

#endif
