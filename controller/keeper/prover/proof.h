/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One secret, one volume of one snapshot: does it open, and is what it opens something?
 *
 *   prover_prove ── row of the table for the volume's kind
 *                     luks.c   header found ▶ secret opens it ▶ payload decrypts ▶ recognised
 *                     plain.c                key from secret  ▶ payload decrypts ▶ is the expected
 *
 * Verdicts (types.proto, ProofVerdict) are kept apart by how far this got:
 *
 *   HEADER_DAMAGED       no header, a damaged one, or that of another volume
 *   NO_USABLE_PROTECTOR  a good header without an active keyslot, and a secret that needs one
 *   WRONG_KEY            the header is good and the secret does not open it; plain: see plain.c
 *   UNCHECKABLE          a cipher, an integrity mode, a conversion or a requirement that cannot be
 *                        computed here; level HEADER when the secret did open the header
 *   NOT_RECOGNISED       opens (or opened before), what decrypts makes no sense; level HEADER
 *   OPENS                all of it; level PLAINTEXT
 *   ERROR                memory, reads, nonsense in the job
 *
 * A kind is one file exporting one const struct proof_kind; to add one, write the file and add a
 * line to the table in proof.c. One thread. */
#ifndef SEALPOINT_PROVER_PROOF_H
#define SEALPOINT_PROVER_PROOF_H

#include "controller/keeper/prover/cipher.h"
#include "controller/keeper/prover/snapshot.h"

/* *ret is new. *ret_volume_key is new or NULL: the key that a header's digest vouched for just now.
 * 0, or a negative errno when there is no finding at all (memory, a job that makes no sense). */
int prover_prove(const Sp__ProverProof *ask, int reader_socket, const struct sp_secret *secret,
                 Sp__ProverFinding **ret, struct sp_secret **ret_volume_key, struct sp_why *why);

/* ---- for the kinds ---- */

struct proof {
    const Sp__ProverProof *ask;
    const struct sp_secret *secret; /* never empty */
    struct snapshot *snapshot;
    Sp__ProverFinding *finding;
    struct sp_secret *volume_key;
    bool parameters_unproved; /* no header vouches for them: look closer at what decrypts */
};

struct proof_kind {
    Sp__VolumeKind kind;
    /* Fills the finding. 0, or negative errno: becomes the verdict ERROR. */
    int (*prove)(struct proof *, struct sp_why *);
};

extern const struct proof_kind proof_luks1, proof_luks2, proof_plain;

/* Sets verdict and text; level stays. 0 or -ENOMEM. */
int proof_end(struct proof *, Sp__ProofVerdict, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* How the key was tried; proof_sectors() adds how the sectors were. 0 or -ENOMEM. */
int proof_method(struct proof *, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Decrypts and looks: sets content and sectors of the finding. 1: recognised. 0: not, `why` says
 * what was seen. -ENOTSUP (cipher) and -ERANGE (nothing there) with a sentence, other errors. */
int proof_sectors(struct proof *, const struct cipher_parameters *, const struct sp_secret *key,
                  uint64_t start_bytes, uint64_t length_bytes, struct sp_why *);

#endif
