/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/recognise.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <stdio.h>
#include <string.h>

/* libblkid names of formats without a UUID whose magic is 8 bytes or longer. */
static const char *const long_magics[] = {"swap", "BitLocker", "iso9660", "udf", "swsuspend"};

static bool has_long_magic(const char *type)
{
    for (size_t i = 0; i < SP_COUNT(long_magics); i++) {
        if (strcmp(type, long_magics[i]) == 0)
            return true;
    }
    return false;
}

static Sp__Content *new_content(const char *type, const char *uuid)
{
    Sp__Content *c = malloc(sizeof(*c));
    if (!c)
        return NULL;
    sp__content__init(c);
    c->type = strdup(type);
    c->uuid = strdup(uuid);
    c->usage = strdup("other");
    if (!c->type || !c->uuid || !c->usage) {
        sp__content__free_unpacked(c, NULL);
        return NULL;
    }
    return c;
}

/* ---- GPT: UEFI specification 2.10, section 5.3 ---- */

/* CRC-32 of IEEE 802.3, reflected; started with 0, so that pieces can be chained. */
static uint32_t crc32(uint32_t crc, const uint8_t *data, size_t size)
{
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0xedb88320) : 0);
    }
    return ~crc;
}

static int table_checksum(const struct volume_reader *r, uint64_t offset, uint32_t size,
                          uint32_t *ret)
{
    uint8_t piece[4096];
    uint32_t crc = 0;
    while (size) {
        uint32_t part = size < sizeof(piece) ? size : (uint32_t)sizeof(piece);
        int e = r->read_at(r->self, offset, piece, part);
        if (e < 0)
            return e;
        crc = crc32(crc, piece, part);
        offset += part;
        size -= part;
    }
    *ret = crc;
    return 0;
}

static void guid_text(const uint8_t *g, char out[37])
{
    snprintf(out, 37, "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", sp_le32(g),
             sp_le16(g + 4), sp_le16(g + 6), g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]);
}

/* 1: a good GPT with sectors of that size. */
static int look_for_gpt(const struct volume_reader *r, uint32_t sector, char guid[37])
{
    enum { HEAD = 92, MAX_TABLE = 1 << 20 };
    uint8_t h[HEAD];
    if (r->size_bytes < UINT64_C(3) * sector)
        return 0;
    int e = r->read_at(r->self, sector, h, HEAD);
    if (e < 0)
        return e;
    if (memcmp(h, "EFI PART", 8) != 0 || sp_le32(h + 12) != HEAD || sp_le64(h + 24) != 1)
        return 0;
    uint32_t stored = sp_le32(h + 16), entries = sp_le32(h + 80), entry_size = sp_le32(h + 84);
    uint64_t table = sp_le64(h + 72);
    sp_put_le32(h + 16, 0);
    if (crc32(0, h, HEAD) != stored || entry_size < 128 || entry_size > 4096 || !entries ||
        entries > MAX_TABLE / entry_size)
        return 0;
    uint64_t offset;
    uint32_t crc, size = entries * entry_size;
    if (__builtin_mul_overflow(table, sector, &offset) || offset > r->size_bytes ||
        size > r->size_bytes - offset)
        return 0;
    e = table_checksum(r, offset, size, &crc);
    if (e < 0)
        return e;
    guid_text(h + 56, guid);
    return crc == sp_le32(h + 88);
}

/* ---- MBR ---- */

struct mbr_entry {
    uint8_t status, type;
    uint32_t first, sectors;
};

static struct mbr_entry mbr_entry(const uint8_t *sector, unsigned i)
{
    const uint8_t *p = sector + 446 + (size_t)16 * i;
    return (struct mbr_entry){p[0], p[4], sp_le32(p + 8), sp_le32(p + 12)};
}

static bool overlap(struct mbr_entry a, struct mbr_entry b)
{
    uint64_t a_end = (uint64_t)a.first + a.sectors, b_end = (uint64_t)b.first + b.sectors;
    return a.sectors && b.sectors && a.first < b_end && b.first < a_end;
}

/* Every entry is empty or lies within the device, clear of sector 0 and of the others. */
static bool mbr_makes_sense(const uint8_t *sector, uint64_t device_sectors)
{
    unsigned used = 0;
    if (sector[510] != 0x55 || sector[511] != 0xaa)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        struct mbr_entry e = mbr_entry(sector, i);
        if (e.status != 0 && e.status != 0x80)
            return false;
        if (!e.type != !e.sectors)
            return false;
        if (!e.type)
            continue;
        used++;
        if (!e.first || (uint64_t)e.first + e.sectors > device_sectors)
            return false;
        for (unsigned k = 0; k < i; k++) {
            if (overlap(e, mbr_entry(sector, k)))
                return false;
        }
    }
    return used > 0;
}

int prover_recognise_table(const struct volume_reader *r, Sp__Content **ret)
{
    char id[37];
    static const uint32_t sizes[] = {512, 4096};
    for (size_t i = 0; i < SP_COUNT(sizes); i++) {
        int e = look_for_gpt(r, sizes[i], id);
        if (e < 0)
            return e;
        if (e)
            return (*ret = new_content("gpt", id)) ? 1 : -ENOMEM;
    }
    uint8_t sector[512];
    if (r->size_bytes < sizeof(sector))
        return 0;
    int e = r->read_at(r->self, 0, sector, sizeof(sector));
    if (e < 0)
        return e;
    if (!mbr_makes_sense(sector, r->size_bytes / 512))
        return 0;
    snprintf(id, sizeof(id), "%08x", sp_le32(sector + 440));
    return (*ret = new_content("dos", id)) ? 1 : -ENOMEM;
}

/* ---- structure behind a superblock ---- */

/* Groups times inodes of a group are all inodes: ties the first 8 bytes to the rest. */
bool prover_ext_counts_fit(const uint8_t *s, uint64_t device_bytes)
{
    uint64_t inodes = sp_le32(s), blocks = sp_le32(s + 4), reserved = sp_le32(s + 8);
    uint64_t first = sp_le32(s + 0x14), per_group = sp_le32(s + 0x20);
    uint64_t inodes_per_group = sp_le32(s + 0x28), free_blocks = sp_le32(s + 12), size;
    uint32_t shift = sp_le32(s + 0x18);
    if (sp_le32(s + 0x60) & 0x80) { /* 64bit */
        blocks |= (uint64_t)sp_le32(s + 0x150) << 32;
        reserved |= (uint64_t)sp_le32(s + 0x154) << 32;
        free_blocks |= (uint64_t)sp_le32(s + 0x158) << 32;
    }
    if (shift > 6 || !per_group || blocks <= first || reserved > blocks || free_blocks > blocks ||
        __builtin_mul_overflow(blocks, UINT64_C(1024) << shift, &size) || size > device_bytes)
        return false;
    uint64_t groups = (blocks - first + per_group - 1) / per_group;
    return groups <= UINT32_MAX && groups * inodes_per_group == inodes;
}

static int ext_holds_together(const struct volume_reader *r)
{
    uint8_t s[1024];
    int e = r->read_at(r->self, 1024, s, sizeof(s));
    return e < 0 ? e : prover_ext_counts_fit(s, r->size_bytes);
}

static int xfs_holds_together(const struct volume_reader *r)
{
    uint8_t s[104], magic[4];
    int e = r->read_at(r->self, 0, s, sizeof(s));
    if (e < 0)
        return e;
    uint32_t sector = sp_be16(s + 102);
    e = r->read_at(r->self, sector, magic, sizeof(magic));
    return e < 0 ? e : memcmp(magic, "XAGF", 4) == 0;
}

int prover_holds_together(const struct volume_reader *r, const Sp__Content *c, struct sp_why *why)
{
    int e = strncmp(c->type, "ext", 3) == 0 && strlen(c->type) == 4 ? ext_holds_together(r)
            : strcmp(c->type, "xfs") == 0                           ? xfs_holds_together(r)
                                                                    : 1;
    if (e == 0)
        sp_why_set(why, 0,
                   "what decrypts has the superblock of %s, but parts of it are noise, as with a "
                   "wrong IV or sector size",
                   c->type);
    return e;
}

/* ---- all of it ---- */

bool prover_same_content(const Sp__Content *a, const Sp__Content *b)
{
    return a && b && a->type[0] && a->uuid[0] && strcmp(a->type, b->type) == 0 &&
           strcmp(a->uuid, b->uuid) == 0;
}

static bool trustworthy(const Sp__Content *c, const Sp__Content *expected)
{
    return c->uuid[0] || has_long_magic(c->type) ||
           (expected && expected->type[0] && strcmp(c->type, expected->type) == 0);
}

int prover_recognise(const struct volume_reader *r, const Sp__Content *expected, Sp__Content **ret,
                     struct sp_why *why)
{
    bool ambiguous = false;
    Sp__Content *found = NULL;
    int e = volume_content(r, &found, &ambiguous);
    if (e < 0)
        return e;
    if (found && trustworthy(found, expected)) {
        *ret = found;
        return 1;
    }
    e = prover_recognise_table(r, ret);
    if (e == 0 && found)
        sp_why_set(why, 0, "what decrypts looks like %s without a UUID, which chance makes too",
                   found->type);
    else if (e == 0)
        sp_why_set(why, 0, "%s",
                   ambiguous ? "what decrypts carries signatures of several formats"
                             : "what decrypts is no file system, volume or table that is known");
    if (found)
        sp__content__free_unpacked(found, NULL);
    return e;
}
