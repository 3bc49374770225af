/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * libblkid without a device node. It reads from a file descriptor only, so the places where it
 * looks are copied into a memfd of the volume's size. The file is sparse: a volume of many TiB
 * costs the few MiB that are copied (zeros are left out), and what is a hole reads as zeros.
 *
 * Where libblkid 2.38 looks: signatures lie within the first 1.25 MiB (UDF's volume descriptors are
 * the last), at 2 MiB (VMFS) or within the last 2 MiB (RAID members, nilfs, ZFS labels). Four
 * formats lead elsewhere from their first sector; chase_*() follow them, as far as one structure.
 * A signature out of reach of these makes a volume unrecognised, never falsely recognised. */
#include "base/file.h"
#include "volume/internal.h"
#include <blkid/blkid.h>
#include <string.h>
#include <sys/mman.h>

enum {
    HEAD_BYTES = 1280 << 10,
    TAIL_BYTES = 2 << 20,
    VMFS_AT = 2 << 20,
    CHASE_BYTES = 128 << 10,
    CRAMFS_MAX = 16 << 20, /* its checksum is over all of it */
    STEP = 64 << 10,
    PAGE = 4096,
};

/* Copies one range, cut at the end of the reader; zero pages stay holes. 1: some page was not. */
static int copy_range(const struct volume_reader *reader, int fd, uint64_t offset, uint64_t length)
{
    bool any = false;
    if (offset >= reader->size_bytes)
        return 0;
    if (length > reader->size_bytes - offset)
        length = reader->size_bytes - offset;
    SP_FREE uint8_t *step = malloc(STEP);
    if (!step)
        return -ENOMEM;
    while (length) {
        uint32_t now = length < STEP ? (uint32_t)length : STEP;
        int rc = volume_read(reader, offset, step, now);
        for (uint32_t at = 0; rc == 0 && at < now; at += PAGE) {
            uint32_t part = now - at < PAGE ? now - at : PAGE;
            if (!sp_is_zero(step + at, part)) {
                rc = sp_pwrite_all(fd, step + at, part, offset + at);
                any = true;
            }
        }
        if (rc < 0)
            return rc;
        offset += now;
        length -= now;
    }
    return any;
}

static int chase(const struct volume_reader *reader, int fd, uint64_t number, uint64_t unit,
                 uint64_t first)
{
    uint64_t at;
    if (volume_mul_overflows(number, unit, &at) || volume_add_overflows(at, first, &at))
        return 0;
    return copy_range(reader, fd, at, CHASE_BYTES);
}

/* NTFS: the first records of the $MFT, without which libblkid does not believe it. */
static int chase_ntfs(const struct volume_reader *reader, int fd, const uint8_t *s)
{
    uint64_t cluster = s[13] <= 128 ? s[13] : (uint64_t)1 << ((256 - s[13]) & 63);
    if (volume_mul_overflows(cluster, sp_le16(s + 11), &cluster))
        return 0;
    return chase(reader, fd, sp_le64(s + 48), cluster, 0);
}

/* FAT32 and exFAT: the root directory, which holds the label. */
static int chase_fat32(const struct volume_reader *reader, int fd, const uint8_t *s)
{
    uint64_t sector = sp_le16(s + 11), cluster = sector * s[13];
    uint32_t root = sp_le32(s + 44);
    if (sp_le16(s + 22) || root < 2 || cluster == 0)
        return 0;
    uint64_t data = (sp_le16(s + 14) + (uint64_t)s[16] * sp_le32(s + 36)) * sector;
    return chase(reader, fd, root - 2, cluster, data);
}

static int chase_exfat(const struct volume_reader *reader, int fd, const uint8_t *s)
{
    unsigned sector = s[108], per_cluster = s[109];
    uint32_t root = sp_le32(s + 96);
    if (sector < 9 || sector > 12 || per_cluster > 25 - sector || root < 2)
        return 0;
    uint64_t fat = (uint64_t)sp_le32(s + 80) << sector;
    int rc = copy_range(reader, fd, fat, CHASE_BYTES);
    if (rc < 0)
        return rc;
    return chase(reader, fd, root - 2, (uint64_t)1 << (sector + per_cluster),
                 (uint64_t)sp_le32(s + 88) << sector);
}

/* HFS+ inside an HFS wrapper. */
static int chase_hfs(const struct volume_reader *reader, int fd)
{
    uint8_t s[512];
    int rc = volume_read(reader, 1024, s, sizeof s);
    if (rc < 0)
        return rc == -ERANGE ? 0 : rc;
    if (sp_be16(s) != 0x4244 || (sp_be16(s + 124) != 0x482b && sp_be16(s + 124) != 0x4858))
        return 0;
    return chase(reader, fd, sp_be16(s + 126), sp_be32(s + 20), (uint64_t)sp_be16(s + 28) * 512);
}

/* BitLocker: where the metadata are, without which libblkid does not believe sector 0. */
static int chase_bitlocker(const struct volume_reader *reader, int fd, const uint8_t *s)
{
    bool to_go = memcmp(s + 3, "MSWIN4.1", 8) == 0;
    return copy_range(reader, fd, sp_le64(s + (to_go ? 440 : 176)), PAGE);
}

static int chase_all(const struct volume_reader *reader, int fd)
{
    uint8_t s[512];
    int rc = volume_read(reader, 0, s, sizeof s);
    if (rc < 0)
        return rc == -ERANGE ? 0 : rc;
    if (memcmp(s + 3, "-FVE-FS-", 8) == 0 || memcmp(s + 3, "MSWIN4.1", 8) == 0) {
        rc = chase_bitlocker(reader, fd, s);
        if (rc < 0)
            return rc;
    }
    if (memcmp(s + 3, "NTFS    ", 8) == 0)
        return chase_ntfs(reader, fd, s);
    if (memcmp(s + 3, "EXFAT   ", 8) == 0)
        return chase_exfat(reader, fd, s);
    if (sp_le32(s) == 0x28cd3d45) {
        uint32_t size = sp_le32(s + 4);
        return copy_range(reader, fd, 0, size < CRAMFS_MAX ? size : CRAMFS_MAX);
    }
    if (s[510] == 0x55 && s[511] == 0xaa && memcmp(s + 82, "FAT32", 5) == 0)
        return chase_fat32(reader, fd, s);
    return chase_hfs(reader, fd);
}

/* 1: something but zeros is there to be looked at. */
static int copy_places(const struct volume_reader *reader, int fd)
{
    uint64_t size = reader->size_bytes, tail = size > TAIL_BYTES ? size - TAIL_BYTES : 0;
    const uint64_t places[][2] = {{0, HEAD_BYTES}, {VMFS_AT, STEP}, {tail, TAIL_BYTES}};
    bool any = false;
    if (ftruncate(fd, (off_t)size) < 0)
        return -errno;
    for (size_t i = 0; i < SP_COUNT(places); i++) {
        int rc = copy_range(reader, fd, places[i][0], places[i][1]);
        if (rc < 0)
            return rc;
        any |= rc > 0;
    }
    int rc = any ? chase_all(reader, fd) : 0;
    return rc < 0 ? rc : any;
}

static const char *value_of(blkid_probe probe, const char *name, size_t *size)
{
    const char *value = NULL;
    size_t length = 0;
    if (blkid_probe_lookup_value(probe, name, &value, &length) < 0)
        value = NULL;
    *size = value ? length : 0;
    return value;
}

static int take(blkid_probe probe, const char *name, char **field)
{
    size_t size;
    const char *value = value_of(probe, name, &size);
    return volume_set_text(field, value, size);
}

/* Fills `content`; 1 found, 0 nothing, -EEXIST ambiguous. */
static int run(int fd, bool blind, Sp__Content *content)
{
    blkid_probe probe = blkid_new_probe();
    if (!probe)
        return -ENOMEM;
    char *const encrypted[] = {(char[]){"crypto_LUKS"}, (char[]){"BitLocker"}, NULL};
    int rc = -EIO;
    if (blkid_probe_set_device(probe, fd, 0, 0) < 0 ||
        blkid_probe_enable_superblocks(probe, 1) < 0 ||
        blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
                                                     BLKID_SUBLKS_LABEL | BLKID_SUBLKS_USAGE |
                                                     BLKID_SUBLKS_MAGIC) < 0)
        goto out;
    if (blind &&
        blkid_probe_filter_superblocks_type(probe, BLKID_FLTR_NOTIN, (char **)encrypted) < 0)
        goto out;
    switch (blkid_do_safeprobe(probe)) {
    case 0:
        rc = 1;
        break;
    case 1:
        rc = 0;
        break;
    case -2:
        rc = -EEXIST;
        break;
    default:
        break;
    }
    if (rc == 1 &&
        (take(probe, "TYPE", &content->type) < 0 || take(probe, "UUID", &content->uuid) < 0 ||
         take(probe, "LABEL", &content->label) < 0 || take(probe, "USAGE", &content->usage) < 0))
        rc = -ENOMEM;
out:
    blkid_free_probe(probe);
    return rc;
}

static int content_of(const struct volume_reader *reader, bool blind, Sp__Content **ret,
                      bool *ret_ambiguous)
{
    *ret = NULL;
    *ret_ambiguous = false;
    if (reader->size_bytes < 512)
        return 0;
    SP_FD int fd = memfd_create("volume", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = copy_places(reader, fd);
    if (rc <= 0)
        return rc;
    SP_CLEANUP(volume_content) Sp__Content *content = malloc(sizeof *content);
    if (!content)
        return -ENOMEM;
    sp__content__init(content);
    rc = run(fd, blind, content);
    if (rc == -EEXIST) {
        *ret_ambiguous = true;
        return 0;
    }
    if (rc == 1 && *content->type)
        *ret = sp_steal(content);
    return rc < 0 ? rc : 0;
}

int volume_content(const struct volume_reader *reader, Sp__Content **ret, bool *ret_ambiguous)
{
    return content_of(reader, false, ret, ret_ambiguous);
}

int volume_content_clear(const struct volume_reader *reader, Sp__Content **ret, bool *ret_ambiguous)
{
    return content_of(reader, true, ret, ret_ambiguous);
}

int volume_holds_something_else(const struct volume_reader *reader)
{
    if (reader->other != VOLUME_OTHER_ASK)
        return reader->other == VOLUME_OTHER_THERE;
    struct volume_table *table = NULL;
    int rc = volume_table_read(reader, 0, &table);
    if (rc < 0)
        return rc;
    bool has_partitions = rc == 1 && (table->count || table->damaged);
    volume_table_free(table);
    if (has_partitions)
        return 1;
    SP_CLEANUP(volume_content) Sp__Content *content = NULL;
    bool ambiguous;
    rc = volume_content_clear(reader, &content, &ambiguous);
    if (rc < 0)
        return rc;
    return content || ambiguous;
}

/* ---- how far content reaches ---- */

static uint64_t size_ext(const struct volume_reader *reader)
{
    uint8_t s[0x160];
    if (volume_read(reader, 1024, s, sizeof s) < 0 || sp_le32(s + 0x18) > 6)
        return 0;
    uint64_t blocks = sp_le32(s + 4), size;
    if (sp_le32(s + 0x60) & 0x80) /* 64bit */
        blocks |= (uint64_t)sp_le32(s + 0x150) << 32;
    return volume_mul_overflows(blocks, (uint64_t)1024 << sp_le32(s + 0x18), &size) ? 0 : size;
}

static uint64_t size_xfs(const struct volume_reader *reader)
{
    uint8_t s[16];
    uint64_t size;
    if (volume_read(reader, 0, s, sizeof s) < 0)
        return 0;
    return volume_mul_overflows(sp_be64(s + 8), sp_be32(s + 4), &size) ? 0 : size;
}

static uint64_t size_btrfs(const struct volume_reader *reader)
{
    uint8_t s[8]; /* dev_item.total_bytes: of this device, the file system may span several */
    return volume_read(reader, 0x10000 + 0xd1, s, sizeof s) < 0 ? 0 : sp_le64(s);
}

static uint64_t size_ntfs(const struct volume_reader *reader)
{
    uint8_t s[48];
    uint64_t size, sectors;
    if (volume_read(reader, 0, s, sizeof s) < 0 ||
        /* the backup boot sector follows the volume */
        volume_add_overflows(sp_le64(s + 40), 1, &sectors) ||
        volume_mul_overflows(sectors, sp_le16(s + 11), &size))
        return 0;
    return size;
}

static uint64_t size_vfat(const struct volume_reader *reader)
{
    uint8_t s[48];
    if (volume_read(reader, 0, s, sizeof s) < 0)
        return 0;
    uint32_t sectors = sp_le16(s + 19) ? sp_le16(s + 19) : sp_le32(s + 32);
    return (uint64_t)sectors * sp_le16(s + 11);
}

static uint64_t size_exfat(const struct volume_reader *reader)
{
    uint8_t s[112];
    uint64_t size;
    if (volume_read(reader, 0, s, sizeof s) < 0 || s[108] < 9 || s[108] > 12 ||
        volume_mul_overflows(sp_le64(s + 72), (uint64_t)1 << s[108], &size))
        return 0;
    return size;
}

/* The page size is where the signature was found. */
static uint64_t size_swap(const struct volume_reader *reader)
{
    static const uint32_t pages[] = {4096, 8192, 16384, 32768, 65536};
    for (size_t i = 0; i < SP_COUNT(pages); i++) {
        char magic[10];
        uint8_t head[12];
        if (volume_read(reader, pages[i] - 10, magic, sizeof magic) < 0)
            return 0;
        if (memcmp(magic, "SWAPSPACE2", 10) != 0)
            continue;
        if (volume_read(reader, 1024, head, sizeof head) < 0 || sp_le32(head) != 1)
            return 0;
        return ((uint64_t)sp_le32(head + 4) + 1) * pages[i];
    }
    return 0;
}

uint64_t volume_content_size(const struct volume_reader *reader, const char *type)
{
    static const struct {
        const char *type;
        uint64_t (*size)(const struct volume_reader *);
    } rows[] = {
        {"ext2", size_ext},    {"ext3", size_ext},    {"ext4", size_ext},  {"ext4dev", size_ext},
        {"xfs", size_xfs},     {"btrfs", size_btrfs}, {"ntfs", size_ntfs}, {"vfat", size_vfat},
        {"exfat", size_exfat}, {"swap", size_swap},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        if (strcmp(rows[i].type, type) != 0)
            continue;
        uint64_t size = rows[i].size(reader);
        return size < reader->size_bytes ? size : reader->size_bytes;
    }
    return 0;
}
