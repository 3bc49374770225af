/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Linux MD superblocks (linux/raid/md_p.h): 1.0 at the end, 1.1 at 0, 1.2 at 4 KiB, little endian
 * with a checksum; 0.90 at the end is named only. A superblock counts only where it says that it
 * lies: the last partition of a disk must not lend its own to the whole disk. */
#include "volume/internal.h"
#include <stdio.h>
#include <string.h>

enum {
    SECTOR = 512,
    SUPER_BYTES = 4096,
    FIXED_BYTES = 256, /* then 2 bytes for each device */
    MAX_DEV = (SUPER_BYTES - FIXED_BYTES) / 2,
    ROLE_LAST = 0xff00, /* above: spare, faulty, journal */
    FEATURE_BITMAP = 1,
    FEATURE_RECOVERY = 2,
    FEATURE_RESHAPE = 4,
    FEATURE_BAD_BLOCKS = 8,
    BITMAP_MAX = 64 << 20,
};
#define MD_MAGIC     0xa92b4efcu
#define BITMAP_MAGIC 0x6d746962u

const char *volume_md_level_name(int32_t level)
{
    switch (level) {
    case -1:
        return "linear";
    case 0:
        return "raid0";
    case 1:
        return "raid1";
    case 4:
        return "raid4";
    case 5:
        return "raid5";
    case 6:
        return "raid6";
    case 10:
        return "raid10";
    default:
        return "unknown level";
    }
}

/* Sum of 32-bit words, the checksum's own as zero, carries added in (as in the kernel). */
static uint32_t checksum(const uint8_t *s, uint32_t max_dev)
{
    uint64_t sum = 0;
    size_t size = FIXED_BYTES + (size_t)max_dev * 2, at = 0;
    for (; at + 4 <= size; at += 4)
        sum += at == 216 ? 0 : sp_le32(s + at);
    if (at + 2 == size)
        sum += sp_le16(s + at);
    return (uint32_t)((sum & 0xffffffffu) + (sum >> 32));
}

static void add_own(struct volume_md *md, uint64_t offset, uint64_t length)
{
    if (md->own_count < SP_COUNT(md->own) && length) {
        md->own[md->own_count][0] = offset;
        md->own[md->own_count++][1] = length;
    }
}

/* The write-intent bitmap: a header of 256 bytes, then one bit for each chunk. */
static int own_bitmap(const struct volume_reader *reader, uint64_t at, struct volume_md *md)
{
    uint8_t b[256];
    int rc = volume_read(reader, at, b, sizeof b);
    if (rc < 0)
        return rc == -ERANGE ? 0 : rc;
    uint32_t chunk = sp_le32(b + 52);
    if (sp_le32(b) != BITMAP_MAGIC || chunk < SECTOR)
        return 0;
    uint64_t bits = sp_le64(b + 40) / (chunk / SECTOR) + 1;
    uint64_t bytes = sizeof b + bits / 8 + 1;
    if (bytes > BITMAP_MAX)
        return 0;
    add_own(md, at, (bytes + SUPER_BYTES - 1) / SUPER_BYTES * SUPER_BYTES);
    return 0;
}

/* Offset of a companion, signed and in sectors, from the superblock. */
static bool beside(uint64_t super, int32_t sectors, uint64_t *ret)
{
    int64_t distance = (int64_t)sectors * SECTOR;
    if (distance < 0 && (uint64_t)-distance > super)
        return false;
    *ret = distance < 0 ? super - (uint64_t)-distance : super + (uint64_t)distance;
    return true;
}

static int fill(const struct volume_reader *reader, uint64_t super, uint32_t minor,
                const uint8_t *s, struct volume_md *md)
{
    uint32_t features = sp_le32(s + 8), max_dev = sp_le32(s + 220), device = sp_le32(s + 160);
    uint64_t at;
    *md = (struct volume_md){.major = 1, .minor = minor};
    volume_uuid_text(s + 16, md->uuid);
    memcpy(md->name, s + 32, 32);
    for (char *c = md->name; *c; c++)
        if (*c < 0x20 || *c == 0x7f)
            *c = '?';
    md->level = (int32_t)sp_le32(s + 72);
    md->layout = sp_le32(s + 76);
    md->raid_disks = sp_le32(s + 92);
    md->events = sp_le64(s + 200);
    md->chunk_bytes = (uint64_t)sp_le32(s + 88) * SECTOR;
    if (volume_mul_overflows(sp_le64(s + 80), SECTOR, &md->used_size) ||
        volume_mul_overflows(sp_le64(s + 128), SECTOR, &md->data_offset) ||
        volume_mul_overflows(sp_le64(s + 136), SECTOR, &md->data_size))
        return 0;
    uint16_t role = device < max_dev ? sp_le16(s + FIXED_BYTES + (size_t)2 * device) : 0xffff;
    md->role = role < ROLE_LAST && role < md->raid_disks ? role : -1;
    md->in_sync = md->role >= 0 && !(features & (FEATURE_RECOVERY | FEATURE_RESHAPE));
    md->reshaping = features & FEATURE_RESHAPE;
    add_own(md, super, SUPER_BYTES);
    if (features & FEATURE_BAD_BLOCKS && beside(super, (int32_t)sp_le32(s + 188), &at))
        add_own(md, at, (uint64_t)sp_le16(s + 186) * SECTOR);
    if (features & FEATURE_BITMAP && beside(super, (int32_t)sp_le32(s + 96), &at)) {
        int rc = own_bitmap(reader, at, md);
        if (rc < 0)
            return rc;
    }
    return 1;
}

static int try_at(const struct volume_reader *reader, uint64_t super, uint32_t minor,
                  struct volume_md *md)
{
    uint8_t s[SUPER_BYTES] = {0};
    uint64_t left = reader->size_bytes > super ? reader->size_bytes - super : 0;
    if (left < FIXED_BYTES)
        return 0;
    int rc = volume_read(reader, super, s, left < sizeof s ? (uint32_t)left : sizeof s);
    if (rc < 0)
        return rc;
    uint32_t max_dev = sp_le32(s + 220);
    if (sp_le32(s) != MD_MAGIC || sp_le32(s + 4) != 1 || max_dev > MAX_DEV ||
        sp_le64(s + 144) != super / SECTOR || checksum(s, max_dev) != sp_le32(s + 216))
        return 0;
    return fill(reader, super, minor, s, md);
}

/* The last 64 KiB-aligned 64 KiB; byte order is the host's that made it, only ours is tried. */
static int try_090(const struct volume_reader *reader, struct volume_md *md)
{
    uint8_t s[SUPER_BYTES];
    uint64_t at = (reader->size_bytes & ~(uint64_t)0xffff) - 0x10000;
    if (reader->size_bytes < 0x20000)
        return 0;
    int rc = volume_read(reader, at, s, sizeof s);
    if (rc < 0)
        return rc;
    if (sp_le32(s) != MD_MAGIC || sp_le32(s + 4) != 0 || sp_le32(s + 8) != 90)
        return 0;
    *md = (struct volume_md){.major = 0, .minor = 90, .role = -1};
    uint8_t uuid[16];
    memcpy(uuid, s + 20, 4); /* the other three words lie apart */
    memcpy(uuid + 4, s + 52, 12);
    volume_uuid_text(uuid, md->uuid);
    md->level = (int32_t)sp_le32(s + 28);
    md->raid_disks = sp_le32(s + 40);
    add_own(md, at, SUPER_BYTES);
    return 1;
}

int volume_md_read(const struct volume_reader *reader, struct volume_md *ret)
{
    uint64_t sectors = reader->size_bytes / SECTOR;
    int rc = try_at(reader, 0, 1, ret);
    if (rc == 0)
        rc = try_at(reader, 8 * SECTOR, 2, ret);
    if (rc == 0 && sectors > 16)
        rc = try_at(reader, ((sectors - 16) & ~(uint64_t)7) * SECTOR, 0, ret);
    return rc == 0 ? try_090(reader, ret) : rc;
}
