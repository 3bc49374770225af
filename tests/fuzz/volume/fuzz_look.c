/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The look over one disk (the input, zeros behind) or over two (its halves), by the last byte.
 * Everything that is listed must lie on a disk; MD superblocks at 4 KiB get their checksum.
 *
 * The disks are small, since every place where nothing is recognised is searched for a lost header:
 * a large one costs as much as a thousand of these, so that one input in as many gets it. */
#include "memory.h"

enum { DISK = 96 << 10, MANY = 1 << 10 };

static void fix_md(uint8_t *disk, size_t size)
{
    if (size < 4096 + 512 || sp_le32(disk + 4096) != 0xa92b4efc)
        return;
    uint8_t *s = disk + 4096;
    uint64_t sum = 0;
    sp_put_le32(s + 220, 16);
    for (unsigned i = 0; i < 256 + 32; i += 4)
        sum += i == 216 ? 0 : sp_le32(s + i);
    sp_put_le32(s + 216, (uint32_t)((sum & 0xffffffffu) + (sum >> 32)));
}

static void check_on(const Sp__DiskExtent *on, const struct volume_disk *disks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(on->disk_id, disks[i].disk_id)) {
            uint64_t size = disks[i].reader.size_bytes;
            if (on->offset_bytes > size || on->length_bytes > size - on->offset_bytes)
                abort();
            return;
        }
    abort();
}

static void look(const struct volume_disk *disks, size_t count)
{
    struct volume_look look = {0};
    if (volume_look(disks, count, false, &look) < 0)
        return;
    for (size_t i = 0; i < look.range_count; i++)
        check_on(look.ranges[i]->on, disks, count);
    for (size_t i = 0; i < look.volume_count; i++) {
        const Sp__Volume *v = look.volumes[i];
        for (size_t j = 0; j < v->n_extents; j++)
            check_on(v->extents[j]->on, disks, count);
        struct volume_reader reader;
        void *store;
        if (volume_reader_of_extents(disks, count, v->extents, v->n_extents, &reader, &store) < 0)
            abort();
        volume_reader_free(store);
    }
    volume_look_free(&look);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory m[2];
    struct volume_disk disks[2] = {{.disk_id = "one"}, {.disk_id = "two"}};
    uint8_t *copy = malloc(size + 1);
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    bool two = size && data[size - 1] & 1;
    size_t first = two ? size / 2 : size;
    fix_md(copy, first);
    fix_md(copy + first, size - first);
    disks[0].reader = memory_reader(&m[0], copy, first, DISK);
    disks[1].reader = memory_reader(&m[1], copy + first, size - first, DISK);
    look(disks, two ? 2 : 1);
    if (volume_crc32(data, size) % MANY == 0) {
        disks[0].reader.size_bytes = (uint64_t)1 << 40;
        look(disks, two ? 2 : 1);
    }
    free(copy);
    return 0;
}
