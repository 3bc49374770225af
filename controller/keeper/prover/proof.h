/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One secret, one volume of one snapshot: does it open, and is what it opens something?
 *
 *   prover_prove ── row of the table for the volume's kind
 *                     luks.c   header found ▶ secret opens it ▶ payload decrypts ▶ recognised
 *                     bitlocker.c  the same
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
#include "controller/keeper/prover/payload.h"
#include "controller/keeper/prover/snapshot.h"

/* `secret` may be NULL where the volume itself holds a key in the clear (BitLocker, suspended).
 * *ret is new. *ret_volume_key is new or NULL: the key that a header's digest vouched for just now.
 * 0, or a negative errno when there is no finding at all (memory, a job that makes no sense). */
int prover_prove(const Sp__ProverProof *ask, int reader_socket, const struct sp_secret *secret,
                 Sp__ProverFinding **ret, struct sp_secret **ret_volume_key, struct sp_why *why);

/* ---- for the kinds ---- */

struct proof {
    const Sp__ProverProof *ask;
    const struct sp_secret *secret; /* NULL: none; never empty */
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

extern const struct proof_kind proof_luks1, proof_luks2, proof_bitlocker, proof_plain;

/* Sets verdict and text; level stays. 0 or -ENOMEM. */
int proof_end(struct proof *, Sp__ProofVerdict, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* How the key was tried; proof_sectors() adds how the sectors were. 0 or -ENOMEM. */
int proof_method(struct proof *, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Is this the header that was meant: whole, of the kind and of the volume that were asked for?
 * Keeps its fingerprint. *ret_good false: the finding says why not. 0 or -ENOMEM. */
int proof_check_header(struct proof *, const struct volume_format *, const Sp__HeaderFacts *,
                       bool *ret_good);

/* A header opened: notes protector ("" for none), level and the key, which is taken over. 0 or
 * -ENOMEM. */
int proof_opened(struct proof *, const char *protector_id, struct sp_secret **volume_key);

/* Looks at what the payload decrypts to, in method's words with `cipher`: sets content and sectors
 * of the finding. 1: recognised. 0: not, `why` says what was seen. -ERANGE (nothing there), -EINVAL
 * with a sentence, other errors. */
int proof_payload(struct proof *, const struct payload_piece *, size_t count, const char *cipher,
                  struct sp_why *);

/* The same for all from `start_bytes` on under one key; length_bytes 0: up to the end. Also
 * -ENOTSUP (cipher) with a sentence. */
int proof_sectors(struct proof *, const struct cipher_parameters *, const struct sp_secret *key,
                  uint64_t start_bytes, uint64_t length_bytes, struct sp_why *);

/* The verdict over a header that opened: from what proof_payload() or an earlier -ENOTSUP said. 0
 * or negative errno, which becomes ERROR. */
int proof_end_opened(struct proof *, int seen, const struct sp_why *);

#endif
