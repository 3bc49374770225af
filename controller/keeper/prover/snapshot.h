/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bytes of one volume as they lie in the snapshot, each read once.
 *
 *   header parser ─┐
 *   libcryptsetup ─┼─▶ snapshot: blocks of 64 KiB, kept ─▶ extents ─▶ disks ─▶ reader socket
 *   decryption   ──┘
 *
 * Whoever serves the bytes is not trusted to answer twice alike: the header that is fingerprinted,
 * the header that the key opens and the sectors whose hash becomes evidence must be the same bytes.
 * So every block is asked for once and served from memory afterwards. One thread. */
#ifndef SEALPOINT_PROVER_SNAPSHOT_H
#define SEALPOINT_PROVER_SNAPSHOT_H

#include "controller/keeper/prover/disks.h"

enum { SNAPSHOT_BLOCK_BYTES = 64 << 10 };

/* More than any one proof reads: two LUKS2 headers of 4 MiB, 32 keyslots, the places where
 * libblkid looks. */
#define SNAPSHOT_MAX_BYTES (UINT64_C(320) << 20)

struct snapshot;

/* `extents` in volume order and without a hole, as the look makes them; they and `disks` must
 * outlive it. 0, -ENOMEM; -EINVAL: extents that overlap, leave a hole or name no disk of the job.
 */
int snapshot_open(const struct prover_disks *disks, Sp__VolumeExtent *const *extents,
                  size_t extent_count, struct snapshot **ret);
void snapshot_close(struct snapshot *);

/* Its read_at gives -EFBIG past SNAPSHOT_MAX_BYTES in all. */
struct volume_reader snapshot_reader(struct snapshot *);

/* As the reader, and the blocks become evidence. */
int snapshot_read_evidence(struct snapshot *, uint64_t offset, void *out, uint32_t length);

/* What was read as evidence at and behind `from_bytes`, as pieces of disks with the hash of what
 * was read there. *ret and each entry are new. 0 or negative errno. */
int snapshot_evidence(const struct snapshot *, uint64_t from_bytes, Sp__SectorEvidence ***ret,
                      size_t *ret_count);

#endif
