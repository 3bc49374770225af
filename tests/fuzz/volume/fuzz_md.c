/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The input is an MD superblock (and what follows it): as it is, and with magic, place and checksum
 * set right for each of the three places where one may lie. */
#include "memory.h"

enum { DISK = 1 << 20, SUPER = 4096, MAX_DEV = 16 };

static void read_md(const uint8_t *disk, size_t size)
{
    struct memory m;
    struct volume_md md;
    struct volume_reader reader = memory_reader(&m, disk, size, size);
    if (volume_md_read(&reader, &md) != 1)
        return;
    if (md.own_count > SP_COUNT(md.own) || !memchr(md.name, 0, sizeof md.name) ||
        !memchr(md.uuid, 0, sizeof md.uuid) || md.role >= 0xff00)
        abort();
    if (!volume_md_level_name(md.level))
        abort();
    struct volume_disk disks[1] = {{.disk_id = "one", .reader = reader}};
    struct volume_look look;
    if (volume_look(disks, 1, true, &look) == 0)
        volume_look_free(&look);
}

static void put(uint8_t *disk, uint64_t at, const uint8_t *data, size_t size)
{
    uint8_t *s = disk + at;
    uint64_t sum = 0;
    memcpy(s, data, size < SUPER ? size : SUPER);
    sp_put_le32(s, 0xa92b4efc);
    sp_put_le32(s + 4, 1);
    sp_put_le64(s + 144, at / 512);
    sp_put_le32(s + 220, MAX_DEV);
    for (unsigned i = 0; i < 256 + 2 * MAX_DEV; i += 4)
        sum += i == 216 ? 0 : sp_le32(s + i);
    sp_put_le32(s + 216, (uint32_t)((sum & 0xffffffffu) + (sum >> 32)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t places[] = {0, 4096, DISK - 8192};
    static uint8_t disk[DISK];
    read_md(data, size);
    for (size_t i = 0; i < SP_COUNT(places); i++) {
        memset(disk, 0, sizeof disk);
        put(disk, places[i], data, size);
        read_md(disk, sizeof disk);
    }
    return 0;
}
