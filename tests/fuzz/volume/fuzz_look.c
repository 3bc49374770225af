/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The look over one disk (the input, zeros behind) or over two (its halves). Everything that is
 * listed must lie on a disk; MD superblocks at 4 KiB get their checksum. */
#include "memory.h"

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
    size_t half = size / 2;
    fix_md(copy, half);
    fix_md(copy + half, size - half);
    disks[0].reader = memory_reader(&m[0], copy, half, 4 << 20);
    disks[1].reader = memory_reader(&m[1], copy + half, size - half, 4 << 20);
    look(disks, 2);
    /* A large disk costs a search; every other input is enough. */
    if (size && copy[size - 1] & 1) {
        disks[0].reader = memory_reader(&m[0], copy, size, (uint64_t)1 << 40);
        look(disks, 1);
    }
    free(copy);
    return 0;
}
