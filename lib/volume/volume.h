/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Read-only facts of encrypted volumes and of what holds them, from any bytes that can be read at
 * an offset: a device, an image, a snapshot. Never writes, never trusts an offset, never calls
 * damage "not encrypted". Shared by the agent, the prover and `inspect`.
 *
 *   volume_probe(reader) ── each row of the format table ──▶ one struct volume_facts
 *
 * A format is one file exporting one const descriptor (struct volume_format); to add one, write the
 * file and add a line to the table in probe.c.
 *
 * No function here keeps state; any thread, one reader at a time. */
#ifndef SEALPOINT_VOLUME_H
#define SEALPOINT_VOLUME_H

#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where bytes come from. read_at fills all `length` bytes or fails: 0 or negative errno (-ERANGE
 * past the end). The rest may stay zero; it saves a probe from reading much. */
struct volume_reader {
    int (*read_at)(void *self, uint64_t offset, void *out, uint32_t length);
    void *self;
    uint64_t size_bytes;
    /* What the caller knows: does something that is not encrypted (a file system, a partition
     * table, …) begin at byte 0? */
    enum volume_other { VOLUME_OTHER_ASK = 0, VOLUME_OTHER_NONE, VOLUME_OTHER_THERE } other;
    /* Bytes that may still be read in search of a lost header that is not where one usually is;
     * counted down. NULL: 256 MiB for each probe. */
    uint64_t *search_left;
};
/* A reader over an open file or device. Does not own the fd; self is &fd and must outlive it. */
struct volume_reader volume_reader_of_fd(const int *fd, uint64_t size_bytes);
/* A reader over a window of another one. `store` is filled and must outlive it. */
struct volume_window {
    const struct volume_reader *of;
    uint64_t offset_bytes;
};
struct volume_reader volume_reader_window(struct volume_window *store,
                                          const struct volume_reader *of, uint64_t offset_bytes,
                                          uint64_t length_bytes);
/* A reader that goes on where bytes cannot be read (-EIO): they read as zeros, and their places are
 * kept. For showing what there is; never for a proof. It tries again in pieces of 4 KiB. When
 * `most` pieces are bad, or with any other error, a read fails: the device is dying, or gone.
 * `store` is filled and must outlive it; so must `of`. */
enum { VOLUME_UNREADABLE_PIECE = 4096, VOLUME_UNREADABLE_MOST = 64 };
struct volume_unreadable {
    const struct volume_reader *of;
    size_t count, most;
    uint64_t at[VOLUME_UNREADABLE_MOST]; /* offsets of pieces, ascending */
};
struct volume_reader volume_reader_lenient(struct volume_unreadable *store,
                                           const struct volume_reader *of, size_t most);
/* The next range of them: begins at *next, which it moves on. False: no more. */
bool volume_unreadable_range(const struct volume_unreadable *, size_t *next, uint64_t *ret_offset,
                             uint64_t *ret_length);

/* What one format's probe says. */
enum volume_match {
    VOLUME_NO = 0,  /* not this format */
    VOLUME_YES,     /* this format; facts are filled */
    VOLUME_DAMAGED, /* it was this format: facts->damaged and damage are set */
};

enum { VOLUME_RANGES_MAX = 80 };

/* Pairs of offset and length in bytes, sorted, apart from each other, inside the volume. */
struct volume_ranges {
    uint64_t at[VOLUME_RANGES_MAX][2];
    size_t count;
};

struct volume_format {
    const char *name; /* "luks2" */
    Sp__VolumeKind kind;
    /* Fills *ret_facts (sp__header_facts__init'ed; free_unpacked by the caller) and the ranges of
     * bytes that hold header and key material, to capture and to fingerprint, on YES and DAMAGED.
     * Returns enum volume_match or a negative errno of the reader. */
    int (*probe)(const struct volume_reader *, Sp__HeaderFacts *facts, struct volume_ranges *);
    /* The same ranges, for who has the facts already. 0 or a negative errno. */
    int (*header_ranges)(const struct volume_reader *, const Sp__HeaderFacts *,
                         struct volume_ranges *);
};

/* The table, NULL-terminated. */
extern const struct volume_format *const volume_formats[];

/* Probes for an encrypted volume that begins at byte 0 of the reader. *ret is new
 * (sp__header_facts__free_unpacked), *ret_format the row. 1: found (maybe damaged), 0: none,
 * negative errno: could not read. The fingerprint is set. */
int volume_probe(const struct volume_reader *, const struct volume_format **ret_format,
                 Sp__HeaderFacts **ret);

/* What is wrong with a volume, by its header; `each` is called for each fault with a sentence for
 * the admin: HEADER_DAMAGED (a note while another copy is good), CONVERSION_IN_PROGRESS,
 * PROTECTION_SUSPENDED, NO_ESCROWABLE_PROTECTOR. Ends at the first negative return and returns it.
 */
int volume_each_fault(const Sp__HeaderFacts *,
                      int (*each)(void *self, Sp__Reason, bool is_note, const char *text),
                      void *self);

/* SHA-256 over what could change a verdict: see fingerprint.c for the argument. */
int volume_fingerprint(const struct volume_format *, const struct volume_reader *,
                       const Sp__HeaderFacts *, uint8_t out[32]);

/* Stable id (types.proto, Volume.volume_id). Encrypted with a header: kind and uuid; plain and
 * clear without a uuid: the disk and the offset on it. Into out of at least 200 bytes, returns out.
 */
char *volume_id_text(Sp__VolumeKind kind, const char *uuid, const char *disk_id,
                     uint64_t offset_bytes, char *out, size_t size);

/* libblkid on a reader: type, uuid, label, usage of what begins at byte 0 (superblocks only). *ret
 * is new; NULL when nothing is there or it is ambiguous (*ret_ambiguous). 0 or negative errno.
 * Works on a copy of the first bytes and of the places where libblkid looks, in a sparse memfd as
 * long as the volume (RLIMIT_FSIZE must allow that), so no device node is needed. */
int volume_content(const struct volume_reader *, Sp__Content **ret, bool *ret_ambiguous);

/* What a range that nothing recognises looks like, by at most 65 blocks spread over it: zeros,
 * random bytes (as encrypted data without a header is, but not it alone), or neither. 0 or the
 * reader's errno. */
enum volume_looks { VOLUME_LOOKS_EMPTY, VOLUME_LOOKS_RANDOM, VOLUME_LOOKS_OTHER };
int volume_sample(const struct volume_reader *, uint64_t offset_bytes, uint64_t length_bytes,
                  enum volume_looks *ret);

/* ---- the look: everything on a set of disks ----
 *
 *   disk ─▶ partition table ─▶ partition ─▶ encrypted volume │ LVM2 PV │ MD member │ file system │
 * unknown LV, array ─▶ the same again (depth is bounded)
 */
struct volume_disk {
    const char *disk_id;
    struct volume_reader reader;
    uint32_t logical_sector_bytes;
};

/* Finds volumes, clear content, tables and gaps on all disks together (an LV may lie on several).
 * *ret_volumes, *ret_ranges, *ret_findings are arrays of new messages and the array itself, to free
 * with volume_look_free(). Ranges say what is accounted for; a range that the look can vouch for
 * nothing about is not listed. layout_only leaves header bytes out.
 *
 * Headers: each volume has one CapturedHeader for each range of header_ranges(): header copies and
 * the key material in use, not the unused rest of a keyslots area. Damaged headers are kept too.
 * Extents: a volume striped in small pieces has its first 16384 extents only; size_bytes is whole.
 * Findings: those of volume_each_fault(), INVENTORY_MISMATCH (the same UUID twice),
 * UNIDENTIFIED_CONTENT (a note that explains what could not be followed; whether bytes are left
 * over is for the caller to see). 0 or negative errno: nothing is left to free then. */
struct volume_look {
    Sp__Volume **volumes;
    size_t volume_count;
    Sp__RangeUse **ranges;
    size_t range_count;
    Sp__CapturedHeader **headers;
    size_t header_count;
    Sp__Finding **findings;
    size_t finding_count;
};
int volume_look(const struct volume_disk *disks, size_t disk_count, bool layout_only,
                struct volume_look *ret);
void volume_look_free(struct volume_look *);

/* A reader over the extents of a volume (header included). `store` is opaque, free with
 * volume_reader_free(). */
int volume_reader_of_extents(const struct volume_disk *disks, size_t disk_count,
                             Sp__VolumeExtent *const *extents, size_t extent_count,
                             struct volume_reader *ret, void **ret_store);
void volume_reader_free(void *store);

#endif
