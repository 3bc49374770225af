/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Does decrypted content make sense? libblkid alone is not enough of a judge: it recognises about
 * one in 30,000 random MiB as something (formats with magics of two bytes), and it says nothing
 * about a partition table. So:
 *
 *   - something with a UUID counts: finding one means a long magic or a checksum;
 *   - without a UUID only formats whose magic is 8 bytes or longer count, and what is of the
 *     very type that the guest had mapped;
 *   - a GPT whose header and table checksums fit counts ("gpt", its disk GUID), and an MBR whose
 *     entries all make sense ("dos", its disk signature). */
#ifndef SEALPOINT_PROVER_RECOGNISE_H
#define SEALPOINT_PROVER_RECOGNISE_H

#include "base/why.h"
#include "volume/volume.h"

/* 1: recognised, *ret is new. 0: not, `why` says what was seen instead. Negative errno of the
 * reader. `expected` may be NULL. */
int prover_recognise(const struct volume_reader *, const Sp__Content *expected, Sp__Content **ret,
                     struct sp_why *why);

/* From a few sectors, for the commonest types; as above, without a sentence: 0 says that libblkid
 * has to look. (NTFS comes without its label.) */
int prover_glance(const struct volume_reader *, Sp__Content **ret);

/* Does an ext2/3/4 superblock of 1024 bytes agree with itself and with the device's size? */
bool prover_ext_counts_fit(const uint8_t *superblock, uint64_t device_bytes);

/* The partition table alone; as above. */
int prover_recognise_table(const struct volume_reader *, Sp__Content **ret);

/* Superblocks hide a wrong IV: with CBC it garbles 16 bytes of each sector, with XTS a wrong sector
 * size leaves the first 512 bytes of each right, and libblkid may look at neither. So where the
 * parameters are somebody's word and not a header's: does what it found hold together? ext2/3/4:
 * the counts in the first 16 bytes of the superblock fit the rest; XFS: the sector behind the
 * superblock is the header of a group. 1 (also for types without such a rule), 0: it does not, with
 * a sentence; negative errno. */
int prover_holds_together(const struct volume_reader *, const Sp__Content *, struct sp_why *);

/* Type and UUID are the same, and there is a UUID. */
bool prover_same_content(const Sp__Content *a, const Sp__Content *b);

#endif
