/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The vault: where recovery points are kept. Format: FORMAT.md beside this file. Back ends are rows
 * of a table (one file each: dir.c); the format above them is the same for all.
 *
 *   vault_writer: disk bytes ─▶ 64 KiB chunks ─▶ (dedup) ─▶ packs ─▶ fsync ─▶ Merkle map ─▶ root
 *   vault_put_manifest: only after every pack it rests on is durable
 *
 * Threads: a struct vault may be used by many threads; a writer or reader by one at a time. */
#ifndef SEALPOINT_VAULT_H
#define SEALPOINT_VAULT_H

#include "base/bytes.h"
#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/backup.pb-c.h>
#include <sealpoint/v1/types.pb-c.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VAULT_CHUNK_BYTES = 64 * 1024 };

struct vault;
struct vault_writer;
struct vault_reader;

/* A back end: named objects, written once, whole or not at all. One const row in vault.c's table.
 * Names are relative, of [A-Za-z0-9._/-]. What a killed process left half-written is listed under
 * "tmp/". */
struct vault_backend {
    const char *name; /* "dir" */
    Sp__VaultConfig__KindCase kind;
    /* Keeps other processes out for as long as this one has it open, however often: -EBUSY. */
    int (*open)(const Sp__VaultConfig *, bool create, void **ret_self, struct sp_why *why);
    void (*close)(void *self);
    /* The same for all handles of one place in this process. */
    const void *(*place)(void *self);
    /* Durable when it returns 0; never replaces (-EEXIST). Data is gathered from `parts`. */
    int (*put)(void *self, const char *name, const struct sp_bytes *parts, size_t count,
               struct sp_why *why);
    int (*get)(void *self, const char *name, uint64_t offset, void *out, size_t size);
    int (*size)(void *self, const char *name, uint64_t *ret_bytes);
    int (*list)(void *self, const char *prefix,
                int (*each)(void *arg, const char *name, uint64_t bytes), void *arg);
    int (*remove)(void *self, const char *name);
    int (*space)(void *self, uint64_t *ret_used, uint64_t *ret_free);
};

/* Makes an empty replica: another place for a vault of this id, to be filled by vault_copy(). It is
 * read with the same key. */
int vault_create_replica(const Sp__VaultConfig *, const char *vault_id, struct sp_why *why);
/* Makes an empty vault (directory empty or missing) and says its new id. */
int vault_create(const Sp__VaultConfig *, char ret_vault_id[37], struct sp_why *why);
/* Opens; id must match when not NULL. `key` (32 bytes) is for clear chunks; copied; may be NULL to
 * read structure only. Half-written objects of a killed process are removed only by
 * vault_recover(). */
int vault_open(const Sp__VaultConfig *, const char *vault_id, const struct sp_secret *key,
               struct vault **ret, struct sp_why *why);
void vault_close(struct vault *);
const char *vault_id(const struct vault *);
int vault_space(struct vault *, uint64_t *ret_used, uint64_t *ret_free);
/* After a crash, with no writer open: removes temporary objects and packs that no finished point
 * and no open journal names. */
int vault_recover(struct vault *, struct sp_why *why);

/* ---- write a disk ---- */
/* `point_id` names the journal of chunks this backup relies on. */
int vault_writer_new(struct vault *, const char *point_id, const char *disk_id, uint64_t size_bytes,
                     struct vault_writer **ret, struct sp_why *why);
/* Makes the disk an increment: chunks that are not given are those of `base`, a disk of the same
 * size of a stored point. Before the first chunk. From here on the base's data is kept for this
 * backup, whatever happens to its point. -ESTALE: the point is not in the vault any more, -EBADMSG:
 * its map is damaged; then all chunks are to be given, as if this had not been called. */
int vault_writer_base(struct vault_writer *, const char *machine_id, const char *point_id,
                      const Sp__DiskImage *base, struct sp_why *why);
/* Chunks in any order, each index once; `size` is VAULT_CHUNK_BYTES but for the last. `ciphertext`:
 * stored as it is, not encrypted or compressed. All-zero chunks are not stored. Returns -ENOSPC,
 * -EIO, … with why. */
int vault_writer_chunk(struct vault_writer *, uint64_t index, const void *data, uint32_t size,
                       bool ciphertext, struct sp_why *why);
/* Makes everything durable and fills image->root, stored_bytes, new_bytes. */
int vault_writer_finish(struct vault_writer *, Sp__DiskImage *image, struct sp_why *why);
/* Drops what was not finished. NULL is fine. */
void vault_writer_free(struct vault_writer *);

/* ---- read a disk ---- */
int vault_reader_new(struct vault *, const uint8_t root[32], uint64_t size_bytes,
                     struct vault_reader **ret, struct sp_why *why);
/* Verified against the root; zeroes where nothing is stored. -EBADMSG: a chunk or map node is
 * damaged (why names pack and chunk). */
int vault_reader_at(struct vault_reader *, uint64_t offset, void *out, uint32_t length,
                    struct sp_why *why);
/* The next range that holds data at or after `offset`, in whole chunks: 1, 0 when there is none, or
 * negative errno. */
int vault_reader_next_data(struct vault_reader *, uint64_t offset, uint64_t *ret_offset,
                           uint64_t *ret_length, struct sp_why *why);
void vault_reader_free(struct vault_reader *);
/* Whether `data` is what the disk holds as chunk `index`, by its address alone: nothing but the map
 * is read. 1, 0: it is not, or negative errno. */
int vault_reader_compare(struct vault_reader *, uint64_t index, const void *data, uint32_t size,
                         struct sp_why *why);
/* Whether the chunk is stored (else it is zero): 1, 0 or negative errno. */
int vault_reader_stored(struct vault_reader *, uint64_t index, struct sp_why *why);

/* ---- manifests and keystore copies ---- */
/* The signed manifest of a point; revision > 0 adds one beside the earlier. Every root in it must
 * be durable here, else -ESTALE. */
int vault_put_manifest(struct vault *, const Sp__Signed *manifest, struct sp_why *why);
/* The newest revision that unpacks, names this point and (if sealing_key, DER, is not empty)
 * verifies. */
int vault_get_manifest(struct vault *, const char *machine_id, const char *point_id,
                       struct sp_bytes sealing_key, Sp__Signed **ret, Sp__Manifest **ret_manifest,
                       struct sp_why *why);
int vault_list_manifests(struct vault *,
                         int (*each)(void *arg, const char *machine_id, const char *point_id),
                         void *arg);
int vault_put_keystore_copy(struct vault *, uint64_t epoch, const void *data, size_t size,
                            char ret_name[128], struct sp_why *why);
/* Ends a backup's journal: `kept` after its manifest is durable, else its new chunks may go. */
int vault_end_journal(struct vault *, const char *point_id, bool kept);

/* ---- what keeps and removes points ---- */

enum vault_mark_kind { VAULT_HOLD, VAULT_DELETION };
struct vault_mark {
    uint64_t unix_ms; /* of a clock that does not jump: see the caller of vault_gc() */
    char who[128], why[512];
};
/* Legal hold: until it is taken away, nothing removes the point. -ENOENT no such point, -EEXIST. */
int vault_hold(struct vault *, const char *machine_id, const char *point_id,
               const struct vault_mark *, struct sp_why *why);
/* Soft deletion: vault_gc() removes the point VAULT_GRACE_MS later. -EPERM, with why: it is held,
 * locked, the machine's newest copy or its last valid point. */
int vault_delete_point(struct vault *, const char *machine_id, const char *point_id,
                       const struct vault_mark *, struct sp_why *why);
/* Takes a mark away. -ENOENT. */
int vault_unmark(struct vault *, enum vault_mark_kind, const char *machine_id,
                 const char *point_id);
/* -ENOENT: it has none. */
int vault_get_mark(struct vault *, enum vault_mark_kind, const char *machine_id,
                   const char *point_id, struct vault_mark *ret);

#define VAULT_GRACE_MS (UINT64_C(14) * 24 * 3600 * 1000)

struct vault_gc {
    uint64_t now_unix_ms; /* of a clock that never runs ahead of the time that has passed */
    uint64_t grace_ms;    /* of soft deletions; VAULT_GRACE_MS but for tests */
    bool dry_run;
    const atomic_bool *cancel; /* may be NULL */
};
struct vault_gc_done {
    uint64_t points_removed;
    uint64_t packs_removed, bytes_freed;   /* repacked ones included */
    uint64_t packs_repacked, bytes_copied; /* packs of which little was needed, and what was */
};
/* Removes deleted points whose time has come, packs that nobody needs, and packs of which less than
 * half is needed (what is, is copied first). Beside running backups; a crash loses nothing.
 * -EBADMSG: damage keeps what is needed from being known, then no pack is removed. */
int vault_gc(struct vault *, const struct vault_gc *, struct vault_gc_done *ret,
             struct sp_why *why);

/* ---- a second vault ---- */

struct vault_copied {
    uint64_t points, points_there; /* copied; in the replica already */
    uint64_t chunks, bytes;        /* written */
};
/* Brings every point that is not deleted (of one machine, unless NULL), with holds and keystore
 * copies, into a replica. Only what the replica lacks is read and written; nothing is removed
 * there. Chunks move as they lie: no key is needed. A point that cannot be copied is named in why
 * and does not keep others: -EBADMSG in the end. `each` is told before every point (negative:
 * stop); may be NULL. -EINVAL: `to` is not a replica of `from`. */
int vault_copy(struct vault *from, struct vault *to, const char *machine_id,
               int (*each)(void *arg, const char *point_id, const struct vault_copied *), void *arg,
               struct vault_copied *ret, struct sp_why *why);

struct vault_scrub {
    uint64_t bytes_per_second; /* 0: as fast as it goes */
    struct vault *replica;     /* to heal from; may be NULL */
    int (*each)(void *arg, const Sp__CheckProgress *);
    void *arg;
};
/* Reads every chunk. A problem is told for each pack with damage: what, which points it harms, and
 * whether all of it was healed (then nothing is lost). A sealed chunk can be read, and healed, only
 * with the key. 0: it ran to the end; what `each` returned when negative. */
int vault_scrub(struct vault *, const struct vault_scrub *, struct sp_why *why);

/* ---- check ---- */
/* Reads everything (or the structure only) and reports each problem. 0: ran to the end (problems or
 * none). */
int vault_check(struct vault *, bool read_data, struct sp_bytes sealing_key,
                int (*on_progress)(void *arg, const Sp__CheckProgress *), void *arg,
                struct sp_why *why);

#endif
