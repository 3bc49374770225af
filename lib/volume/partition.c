/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Partition tables: GPT (UEFI specification 2.10, section 5; both copies with their checksums) and
 * MBR with extended partitions. As in the kernel, a GPT counts when the MBR is protective or gone:
 * a foreign MBR over an old GPT means that the GPT is dead. */
#include "volume/internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    MBR_BYTES = 512,
    MBR_ENTRIES_AT = 446,
    MBR_ENTRY_BYTES = 16,
    EBR_MAX = 128,
    GPT_HEADER_BYTES = 92,
    GPT_ENTRIES_MAX = 1024,
    GPT_ENTRY_MAX = 4096,
    GPT_NAME_AT = 56,
    GPT_NAME_UNITS = 36,
    OWN_MAX = EBR_MAX + 8,
    BOOT_CODE_MAX = 16 << 20,
};

static const uint8_t guid_bios_boot[16] = {0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6f, 0x6e,
                                           0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49};
static const uint8_t guid_prep[16] = {0x38, 0x2d, 0x1a, 0x9e, 0x12, 0xc6, 0x16, 0x43,
                                      0xaa, 0x26, 0x8b, 0x49, 0x52, 0x1e, 0x5a, 0x8b};

void volume_table_free(struct volume_table *t)
{
    if (!t)
        return;
    free(t->partitions);
    free(t->own);
    free(t);
}

__attribute__((format(printf, 2, 3))) static void note(struct volume_table *t, const char *format,
                                                       ...)
{
    if (*t->problem)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(t->problem, sizeof t->problem, format, args);
    va_end(args);
}

static int add_own(struct volume_table *t, uint64_t offset, uint64_t length)
{
    if (t->own_count == OWN_MAX)
        return 0;
    if (!t->own && !(t->own = calloc(OWN_MAX, sizeof t->own[0])))
        return -ENOMEM;
    t->own[t->own_count][0] = offset;
    t->own[t->own_count++][1] = length;
    return 0;
}

/* What lies past the end is cut; what begins there is left out. */
static int add_partition(struct volume_table *t, uint64_t size, const struct volume_partition *p)
{
    if (p->length == 0)
        return 0;
    if (p->offset >= size) {
        note(t, "partition %u begins past the end of the disk", p->number);
        return 0;
    }
    struct volume_partition *grown = realloc(t->partitions, (t->count + 1) * sizeof *t->partitions);
    if (!grown)
        return -ENOMEM;
    t->partitions = grown;
    grown[t->count] = *p;
    if (p->length > size - p->offset) {
        note(t, "partition %u reaches past the end of the disk", p->number);
        grown[t->count].length = size - p->offset;
    }
    t->count++;
    return 0;
}

/* ---- MBR ---- */

static bool is_extended(uint8_t type)
{
    return type == 0x05 || type == 0x0f || type == 0x85;
}

struct mbr_entry {
    uint8_t status, type;
    uint64_t start, count; /* sectors */
};

static struct mbr_entry mbr_entry_at(const uint8_t *sector, unsigned i)
{
    const uint8_t *e = sector + MBR_ENTRIES_AT + i * MBR_ENTRY_BYTES;
    return (struct mbr_entry){
        .status = e[0], .type = e[4], .start = sp_le32(e + 8), .count = sp_le32(e + 12)};
}

/* Sector 0 of a FAT volume ends in 55aa as well; a table's entries have a proper status, begin
 * behind it and do not overlap. */
static bool mbr_is_table(const uint8_t *sector)
{
    unsigned used = 0;
    if (sector[510] != 0x55 || sector[511] != 0xaa)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        struct mbr_entry a = mbr_entry_at(sector, i);
        if (a.status != 0 && a.status != 0x80)
            return false;
        if (a.type == 0)
            continue;
        if (a.start == 0 || a.count == 0)
            return false;
        used++;
        for (unsigned j = 0; j < i; j++) {
            struct mbr_entry b = mbr_entry_at(sector, j);
            if (b.type && a.start < b.start + b.count && b.start < a.start + a.count)
                return false;
        }
    }
    return used > 0;
}

static bool mbr_is_protective(const uint8_t *sector)
{
    if (sector[510] != 0x55 || sector[511] != 0xaa)
        return false;
    for (unsigned i = 0; i < 4; i++)
        if (mbr_entry_at(sector, i).type == 0xee)
            return true;
    return false;
}

/* The chain of EBRs: each holds one logical partition and a link, relative to the whole. */
static int read_logical(const struct volume_reader *reader, const struct mbr_entry *extended,
                        uint32_t sector_bytes, struct volume_table *t)
{
    uint64_t at = extended->start, end = extended->start + extended->count, last = 0;
    for (uint32_t number = 5; number < 5 + EBR_MAX; number++) {
        uint8_t s[MBR_BYTES];
        int rc = volume_read(reader, at * sector_bytes, s, sizeof s);
        if (rc == -ERANGE || (rc == 0 && (s[510] != 0x55 || s[511] != 0xaa))) {
            note(t, "the chain of logical partitions breaks before partition %u", number);
            return 0;
        }
        if (rc < 0)
            return rc;
        if ((rc = add_own(t, at * sector_bytes, sector_bytes)) < 0)
            return rc;
        struct mbr_entry data = mbr_entry_at(s, 0), link = mbr_entry_at(s, 1);
        struct volume_partition p = {.offset = (at + data.start) * sector_bytes,
                                     .length = data.count * sector_bytes,
                                     .number = number,
                                     .type = data.type};
        if (data.type && data.start && (rc = add_partition(t, reader->size_bytes, &p)) < 0)
            return rc;
        if (!is_extended(link.type) || link.count == 0)
            return 0;
        last = at;
        at = extended->start + link.start;
        if (at <= last || at >= end) { /* only ever forward: no loop */
            note(t, "the chain of logical partitions leads astray behind partition %u", number);
            return 0;
        }
    }
    note(t, "more logical partitions than anybody makes");
    return 0;
}

static int read_mbr(const struct volume_reader *reader, const uint8_t *sector,
                    uint32_t sector_bytes, struct volume_table *t)
{
    t->kind = "dos";
    snprintf(t->uuid, sizeof t->uuid, "%08x", sp_le32(sector + 440));
    int rc = add_own(t, 0, MBR_BYTES);
    for (unsigned i = 0; rc == 0 && i < 4; i++) {
        struct mbr_entry e = mbr_entry_at(sector, i);
        struct volume_partition p = {.offset = e.start * sector_bytes,
                                     .length = e.count * sector_bytes,
                                     .number = i + 1,
                                     .type = e.type};
        if (e.type && is_extended(e.type))
            rc = read_logical(reader, &e, sector_bytes, t);
        else if (e.type)
            rc = add_partition(t, reader->size_bytes, &p);
    }
    return rc;
}

/* ---- GPT ---- */

struct gpt {
    bool magic, good;
    uint64_t lba, alternate, first, last, entries;
    uint32_t count, entry_bytes;
    uint8_t guid[16];
    uint8_t *table; /* of good ones */
};

/* One copy. What is wrong with it shows as !good; only errors of reading are returned. */
static int read_gpt(const struct volume_reader *reader, uint64_t lba, uint32_t sector_bytes,
                    struct gpt *g)
{
    uint8_t h[512];
    uint64_t at, sectors = reader->size_bytes / sector_bytes;
    *g = (struct gpt){.lba = lba};
    if (lba >= sectors)
        return 0;
    int rc = volume_read(reader, lba * sector_bytes, h, sizeof h);
    if (rc < 0)
        return rc;
    g->magic = memcmp(h, "EFI PART", 8) == 0;
    uint32_t size = sp_le32(h + 12), crc = sp_le32(h + 16);
    if (!g->magic || size < GPT_HEADER_BYTES || size > sizeof h)
        return 0;
    memset(h + 16, 0, 4);
    if (volume_crc32(h, size) != crc || sp_le64(h + 24) != lba)
        return 0;
    g->alternate = sp_le64(h + 32);
    g->first = sp_le64(h + 40);
    g->last = sp_le64(h + 48);
    memcpy(g->guid, h + 56, 16);
    g->entries = sp_le64(h + 72);
    g->count = sp_le32(h + 80);
    g->entry_bytes = sp_le32(h + 84);
    if (g->count == 0 || g->count > GPT_ENTRIES_MAX || g->entry_bytes < 128 ||
        g->entry_bytes > GPT_ENTRY_MAX || g->entry_bytes % 128 || g->entries >= sectors ||
        volume_mul_overflows(g->entries, sector_bytes, &at))
        return 0;
    uint32_t bytes = g->count * g->entry_bytes;
    SP_FREE uint8_t *table = malloc(bytes);
    if (!table)
        return -ENOMEM;
    rc = volume_read(reader, at, table, bytes);
    if (rc < 0)
        return rc == -ERANGE ? 0 : rc;
    g->good = volume_crc32(table, bytes) == sp_le32(h + 88);
    if (g->good)
        g->table = sp_steal(table);
    return 0;
}

static void gpt_name(const uint8_t *entry, char out[112])
{
    /* Latin letters are enough for a name that only people read. */
    size_t at = 0;
    for (size_t i = 0; i < GPT_NAME_UNITS; i++) {
        uint16_t c = sp_le16(entry + GPT_NAME_AT + 2 * i);
        if (c == 0)
            break;
        out[at++] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    out[at] = 0;
}

static int gpt_partitions(const struct volume_reader *reader, const struct gpt *g,
                          uint32_t sector_bytes, struct volume_table *t)
{
    for (uint32_t i = 0; i < g->count; i++) {
        const uint8_t *e = g->table + (size_t)i * g->entry_bytes;
        uint64_t first = sp_le64(e + 32), last = sp_le64(e + 40), length;
        if (sp_is_zero(e, 16))
            continue;
        struct volume_partition p = {.number = i + 1};
        if (last < first || volume_mul_overflows(first, sector_bytes, &p.offset) ||
            volume_mul_overflows(last - first + 1, sector_bytes, &length)) {
            note(t, "partition %u has an impossible range", i + 1);
            continue;
        }
        p.length = length;
        memcpy(p.type_guid, e, 16);
        gpt_name(e, p.name);
        int rc = add_partition(t, reader->size_bytes, &p);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int gpt_own(const struct gpt *g, uint32_t sector_bytes, struct volume_table *t)
{
    int rc = add_own(t, g->lba * sector_bytes, sector_bytes);
    if (rc < 0 || !g->good)
        return rc;
    return add_own(t, g->entries * sector_bytes, (uint64_t)g->count * g->entry_bytes);
}

static int use_gpt(const struct volume_reader *reader, const struct gpt *first,
                   const struct gpt *second, uint32_t sector_bytes, struct volume_table *t)
{
    const struct gpt *best = first->good ? first : second->good ? second : NULL;
    t->kind = "gpt";
    int rc = add_own(t, 0, MBR_BYTES);
    if (rc == 0)
        rc = gpt_own(first, sector_bytes, t);
    if (rc == 0 && second->magic)
        rc = gpt_own(second, sector_bytes, t);
    if (rc < 0)
        return rc;
    if (!best) {
        t->damaged = true;
        note(t, "neither copy of the GPT is good");
        return 0;
    }
    if (!first->good || !second->good)
        note(t, "the %s copy of the GPT is damaged", first->good ? "second" : "first");
    else if (memcmp(first->guid, second->guid, 16) || first->count != second->count ||
             first->entry_bytes != second->entry_bytes ||
             memcmp(first->table, second->table, (size_t)first->count * first->entry_bytes))
        note(t, "the two copies of the GPT differ; the first is used");
    volume_guid_text(best->guid, t->uuid);
    return gpt_partitions(reader, best, sector_bytes, t);
}

/* 1 found, 0 none, negative errno. */
static int try_gpt(const struct volume_reader *reader, uint32_t sector_bytes,
                   struct volume_table *t)
{
    struct gpt first = {0}, second = {0};
    uint64_t sectors = reader->size_bytes / sector_bytes;
    if (sectors < 3)
        return 0;
    int rc = read_gpt(reader, 1, sector_bytes, &first);
    /* On a disk that has grown the second copy is where the first says, not at the end. */
    if (rc == 0)
        rc = read_gpt(reader, first.good ? first.alternate : sectors - 1, sector_bytes, &second);
    if (rc == 0 && first.good && !second.good && first.alternate != sectors - 1)
        rc = read_gpt(reader, sectors - 1, sector_bytes, &second);
    bool any = first.good || second.good || first.magic;
    if (rc == 0 && any)
        rc = use_gpt(reader, &first, &second, sector_bytes, t);
    free(first.table);
    free(second.table);
    return rc < 0 ? rc : any;
}

static int read_table(const struct volume_reader *reader, uint32_t sector_bytes,
                      struct volume_table *t)
{
    uint8_t sector[MBR_BYTES];
    if (reader->size_bytes < 2 * MBR_BYTES)
        return 0;
    int rc = volume_read(reader, 0, sector, sizeof sector);
    if (rc < 0)
        return rc;
    bool protective = mbr_is_protective(sector), table = mbr_is_table(sector);
    if (protective || !table) {
        rc = sector_bytes ? try_gpt(reader, sector_bytes, t) : try_gpt(reader, 512, t);
        if (rc == 0 && !sector_bytes)
            rc = try_gpt(reader, 4096, t);
        if (rc != 0)
            return rc;
    }
    if (!table)
        return 0;
    if (protective) { /* says GPT, and there is none */
        t->kind = "gpt";
        t->damaged = true;
        note(t, "the MBR is protective, but no GPT is there");
        return add_own(t, 0, MBR_BYTES) < 0 ? -ENOMEM : 1;
    }
    rc = read_mbr(reader, sector, sector_bytes ? sector_bytes : 512, t);
    return rc < 0 ? rc : 1;
}

int volume_table_read(const struct volume_reader *reader, uint32_t sector_bytes,
                      struct volume_table **ret)
{
    SP_CLEANUP(volume_table) struct volume_table *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    if (sector_bytes &&
        (sector_bytes < 512 || sector_bytes > 65536 || (sector_bytes & (sector_bytes - 1))))
        return -EINVAL;
    int rc = read_table(reader, sector_bytes, t);
    if (rc == 1)
        *ret = sp_steal(t);
    return rc;
}

bool volume_partition_is_boot_code(const struct volume_partition *p)
{
    if (p->length > BOOT_CODE_MAX)
        return false;
    return memcmp(p->type_guid, guid_bios_boot, 16) == 0 ||
           memcmp(p->type_guid, guid_prep, 16) == 0 || p->type == 0x41;
}
