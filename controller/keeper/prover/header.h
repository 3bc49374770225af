/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A LUKS header and the keys to it. libcryptsetup never sees the snapshot: it works on a copy of
 * the header in a sealed memfd, so that its repairs (it rewrites a damaged LUKS2 header as soon as
 * it loads one) have nothing to write to. One thread. */
#ifndef SEALPOINT_PROVER_HEADER_H
#define SEALPOINT_PROVER_HEADER_H

#include "base/secret.h"
#include "base/why.h"
#include "volume/volume.h"

struct crypt_device;

/* Loads what libcryptsetup, OpenSSL and glibc open lazily (random device, libgcc_s for threads that
 * end), for the sandbox will refuse it later. No hostile bytes are involved. 0 or negative errno.
 */
int header_warm_up(void);

/* "libcryptsetup 2.6.1" */
extern const char header_library[];

struct header {
    const struct volume_format *format;
    Sp__HeaderFacts *facts;
    int memfd;
    struct crypt_device *cd;
};

/* Finds the header at byte 0 of the reader. 1: found, the facts are set (they may say that it is
 * damaged); 0: none; negative errno. `h` is header_close()d in any case. */
int header_find(const struct volume_reader *, struct header *h);
void header_close(struct header *h);

/* Gives libcryptsetup its copy. 0; -EBADMSG: it calls the header damaged (why says how), -ENOTSUP,
 * other negative errno. */
int header_load(const struct volume_reader *, struct header *h, struct sp_why *why);

/* What a try with one secret found. OPENS here: the header. */
struct header_try {
    Sp__ProofVerdict verdict;
    char protector_id[16]; /* the slot that opened; "" for a volume key */
    struct sp_secret *key; /* the volume key, verified; the caller frees it */
    struct sp_why why;     /* of every verdict but OPENS */
};

/* ---- LUKS2 with several volume keys (re-encryption under way) ---- */

enum { HEADER_DIGESTS = 8 };

/* A digest vouches for one volume key: the key that these keyslots hold and that these segments are
 * under. Bits by number. */
struct header_digest {
    uint32_t number;
    uint64_t segments;
    uint32_t keyslots;
};

/* Loads the header and tells its digests. 0, and ret->verdict is not set; or 0 with a verdict (the
 * header does not load); or negative errno. */
int header_digests(const struct volume_reader *, struct header *h,
                   struct header_digest digests[HEADER_DIGESTS], size_t *ret_count,
                   struct header_try *ret);
/* Tries the passphrase on the digest's keyslots, also on those that no longer count as active. */
int header_try_digest(struct header *h, const struct header_digest *, const struct sp_secret *,
                      struct header_try *ret);

/* Tries a passphrase (or key file, the same to LUKS) on the active slots, or on `protector_id`'s
 * alone, or a volume key on the digest. 0 and *ret, or negative errno when it could not work. */
int header_try(const struct volume_reader *, struct header *h, Sp__SecretType type,
               const struct sp_secret *secret, const char *protector_id, struct header_try *ret);

#endif
