/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of lib/volume share; nobody outside includes it.
 *
 * Every byte that comes through a reader is hostile: sizes and offsets are checked before they are
 * used, sums are overflow-checked, and every text is made clean before it goes into a message. */
#ifndef SEALPOINT_VOLUME_INTERNAL_H
#define SEALPOINT_VOLUME_INTERNAL_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include "volume/volume.h"

enum {
    /* Most header bytes of one volume that are captured (the bound on a manifest). */
    VOLUME_CAPTURE_MAX = 32 << 20,
    /* A hole in a layout this small is alignment or boot code, not a place for a volume. */
    VOLUME_GAP_MAX = 2 << 20,
};

extern const struct volume_format volume_luks1;
extern const struct volume_format volume_luks2;
extern const struct volume_format volume_bitlocker;

/* ---- reader.c ---- */

/* Checks the range against the reader's size, then reads. 0, -ERANGE or the reader's errno. */
int volume_read(const struct volume_reader *, uint64_t offset, void *out, uint32_t length);

/* ---- facts.c: building messages ---- */

/* A copy of at most `most` bytes up to the first 0, valid UTF-8 without control characters (others
 * become '?'), since protobuf strings of any other reader must parse. 0 or -ENOMEM; the old value
 * is freed. */
int volume_set_text(char **field, const void *text, size_t most);
__attribute__((format(printf, 2, 3))) int volume_set_format(char **field, const char *format, ...);
/* Appends `item` to a repeated field. 0 or -ENOMEM (the item stays the caller's). */
int volume_append(void *array_field, size_t *count, void *item);
#define VOLUME_APPEND(message, field, item)                                                        \
    volume_append(&(message)->field, &(message)->n_##field, (item))
/* Marks facts as damaged with a reason; the first reason stays. 0 or -ENOMEM. */
__attribute__((format(printf, 2, 3))) int volume_set_damage(Sp__HeaderFacts *, const char *format,
                                                            ...);
/* Adds a copy entry. */
int volume_add_copy(Sp__HeaderFacts *, uint64_t offset, Sp__CopyHealth, uint64_t sequence,
                    const char *problem);
Sp__Protector *volume_add_protector(Sp__HeaderFacts *, const char *id, Sp__ProtectorType);
/* Sorts pairs (offset, length), clips them to `size`, joins those that touch. New count. */
size_t volume_join_ranges(uint64_t (*ranges)[2], size_t count, uint64_t size);

/* ---- fingerprint.c ---- */

/* volume_fingerprint() where the ranges are known. */
int volume_fingerprint_ranges(const struct volume_format *, const struct volume_reader *,
                              const Sp__HeaderFacts *, const struct volume_ranges *,
                              uint8_t out[32]);

/* CRC-32 of the reflected polynomial 0xedb88320, without the inversions that zip puts around it. */
uint32_t volume_crc32_raw(uint32_t crc, const void *data, size_t size);
/* As zip, GPT and BitLocker have it. */
static inline uint32_t volume_crc32(const void *data, size_t size)
{
    return ~volume_crc32_raw(0xffffffffu, data, size);
}
/* A little-endian GUID as text. */
void volume_guid_text(const uint8_t guid[16], char out[37]);
/* Sixteen bytes in order, as RFC 4122 text. */
void volume_uuid_text(const uint8_t uuid[16], char out[37]);

static inline bool volume_add_overflows(uint64_t a, uint64_t b, uint64_t *sum)
{
    return __builtin_add_overflow(a, b, sum);
}
static inline bool volume_mul_overflows(uint64_t a, uint64_t b, uint64_t *product)
{
    return __builtin_mul_overflow(a, b, product);
}

/* ---- content.c ---- */

/* As volume_content(), but blind for LUKS and BitLocker, whose own probes know better. */
int volume_content_clear(const struct volume_reader *, Sp__Content **ret, bool *ret_ambiguous);
/* How far the file system or swap area reaches by its own superblock; 0: it does not say. */
uint64_t volume_content_size(const struct volume_reader *, const char *type);
/* Whether something other than an encrypted volume begins here: a recognised superblock (ambiguous
 * ones too) or a partition table. 1, 0 or negative errno. */
int volume_holds_something_else(const struct volume_reader *);

/* ---- partition.c ---- */

struct volume_partition {
    uint64_t offset, length;
    uint32_t number;
    uint8_t type_guid[16]; /* GPT */
    uint8_t type;          /* MBR */
    char name[112];        /* GPT, clean */
};
struct volume_table {
    const char *kind; /* "gpt" or "dos" */
    char uuid[37];
    struct volume_partition *partitions;
    size_t count;
    uint64_t (*own)[2]; /* ranges of the table itself: headers, entries, EBRs */
    size_t own_count;
    char problem[200]; /* one copy is damaged, or it breaks its own rules; empty: none */
    bool damaged;      /* there was a table; none of its copies is good */
};
/* 1: found (`damaged` may be set), 0: none, or negative errno. sector_bytes 0: 512, then 4096. */
int volume_table_read(const struct volume_reader *, uint32_t sector_bytes,
                      struct volume_table **ret);
void volume_table_free(struct volume_table *);
static inline void sp_cleanup_volume_table(struct volume_table **t)
{
    volume_table_free(*t);
}
/* A partition whose type is made for boot code, small enough to be believed. */
bool volume_partition_is_boot_code(const struct volume_partition *);

/* ---- lvm2.c ---- */

enum { VOLUME_LVM_ID = 32, VOLUME_LVM_AREAS = 16 };

/* A physical volume: its label and the newest good copy of the group's metadata on it. */
struct volume_pv {
    char id[VOLUME_LVM_ID + 1];
    uint64_t label_offset, size;
    uint64_t data[VOLUME_LVM_AREAS][2];
    size_t data_count;
    uint64_t areas[VOLUME_LVM_AREAS][2]; /* metadata areas */
    size_t area_count;
    char *text; /* NULL: no area, or none is good */
    size_t text_size;
    char problem[200];
};
int volume_pv_read(const struct volume_reader *, struct volume_pv **ret); /* 1, 0, errno */
void volume_pv_free(struct volume_pv *);
static inline void sp_cleanup_volume_pv(struct volume_pv **p)
{
    volume_pv_free(*p);
}

struct volume_stripe {
    char *on;        /* name of a PV or an LV */
    uint64_t extent; /* first extent on it */
};
struct volume_lv_segment {
    uint64_t start, count; /* extents */
    char *type;
    uint64_t stripe_bytes;
    struct volume_stripe *stripes;
    size_t stripe_count;
};
struct volume_lv {
    char *name, *id;
    bool visible;
    struct volume_lv_segment *segments;
    size_t segment_count;
};
struct volume_vg_pv {
    char *name;
    char id[VOLUME_LVM_ID + 1];
    uint64_t start_bytes, extent_count; /* of its first extent */
};
struct volume_vg {
    char *name, *id;
    uint64_t sequence, extent_bytes;
    struct volume_vg_pv *pvs;
    size_t pv_count;
    struct volume_lv *lvs;
    size_t lv_count;
};
/* Parses metadata text. 0, -EBADMSG (breaks the grammar or its own rules), -ENOMEM. */
int volume_vg_parse(const char *text, size_t size, struct volume_vg **ret);
void volume_vg_free(struct volume_vg *);
static inline void sp_cleanup_volume_vg(struct volume_vg **v)
{
    volume_vg_free(*v);
}

/* ---- md.c ---- */

struct volume_md {
    char uuid[37];
    char name[33];
    uint32_t major, minor; /* 0.90, 1.0, 1.1, 1.2 */
    int32_t level;         /* -1 linear, 0, 1, 4, 5, 6, 10 */
    uint32_t raid_disks;
    int32_t role; /* in the array, -1: spare, faulty, journal */
    uint64_t events;
    uint64_t data_offset, data_size; /* of this member */
    uint64_t used_size;              /* of every member, 0: as much as there is */
    uint64_t chunk_bytes;
    uint32_t layout;
    bool in_sync;   /* not recovering, not reshaping */
    bool reshaping; /* the layout on disk is in between */
    uint64_t own[4][2];
    size_t own_count; /* superblock, bitmap, bad block log */
};
/* 1, 0 or errno. */
int volume_md_read(const struct volume_reader *, struct volume_md *ret);
const char *volume_md_level_name(int32_t level);

/* ---- node.c: a tree of what lies on what ---- */

/* A thing with bytes: a disk, or something made of pieces of others. Segments lie one behind the
 * other; a segment of several legs is striped over them. Twins hold the same bytes (mirror legs).
 */
struct volume_node;
struct volume_leg {
    struct volume_node *on;
    uint64_t offset;
};
struct volume_segment {
    uint64_t at, length;
    uint64_t stripe_bytes; /* with more than one leg */
    struct volume_leg *legs;
    size_t leg_count;
};
struct volume_node {
    struct volume_reader reader;    /* reads through the tree */
    const struct volume_disk *disk; /* a disk; else NULL and segments */
    struct volume_segment *segments;
    size_t segment_count;
    struct volume_leg *twins; /* the same bytes again, of the whole node */
    size_t twin_count;
    unsigned depth; /* above its disks */
};
struct volume_node *volume_node_of_disk(const struct volume_disk *);
/* A node without segments; add them in order. Free with volume_node_free(), which leaves what it
 * lies on alone. */
struct volume_node *volume_node_new(void);
/* Adds a segment over `count` legs. -EINVAL if a leg is too short, -E2BIG if too deep. */
int volume_node_add(struct volume_node *, uint64_t length, uint64_t stripe_bytes,
                    const struct volume_leg *legs, size_t count);
int volume_node_add_twin(struct volume_node *, const struct volume_leg *);
struct volume_node *volume_node_window(struct volume_node *of, uint64_t offset, uint64_t length);
void volume_node_free(struct volume_node *);
/* Where a byte lies and how many from there lie together. */
int volume_node_map(const struct volume_node *, uint64_t offset, const struct volume_disk **disk,
                    uint64_t *disk_offset, uint64_t *run);
/* The extents of a whole node, at most `most` (a finely striped volume has its first ones only).
 */
int volume_node_extents(const struct volume_node *, size_t most, Sp__Volume *into);
/* Calls back for each disk range that holds bytes of the range, twins included; one call for each
 * leg of a stripe, not for each chunk. */
int volume_node_each_range(const struct volume_node *, uint64_t offset, uint64_t length,
                           int (*each)(void *self, const struct volume_disk *, uint64_t offset,
                                       uint64_t length),
                           void *self);

static inline void sp_cleanup_volume_facts(Sp__HeaderFacts **facts)
{
    if (*facts)
        sp__header_facts__free_unpacked(*facts, NULL);
}
static inline void sp_cleanup_volume_content(Sp__Content **content)
{
    if (*content)
        sp__content__free_unpacked(*content, NULL);
}

#endif
