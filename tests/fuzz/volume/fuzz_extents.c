/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The extents of a volume, as a peer may send them: three numbers of eight bytes for each. What is
 * accepted is read over its whole length, which must not leave the disks. */
#include "memory.h"

enum { EXTENTS = 64, DISK = 64 << 10 };

static int guarded_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    (void)self;
    if (offset > DISK || length > DISK - offset)
        abort();
    memset(out, 0x5a, length);
    return 0;
}

static void read_all(const struct volume_reader *reader)
{
    uint8_t bytes[4096];
    uint64_t end = reader->size_bytes < 4 * DISK ? reader->size_bytes : 4 * DISK;
    for (uint64_t at = 0; at < end; at += 1000)
        (void)volume_read(reader, at, bytes,
                          end - at < sizeof bytes ? (uint32_t)(end - at) : sizeof bytes);
    if (volume_read(reader, reader->size_bytes, bytes, 1) == 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char ids[][4] = {"one", "two", "no"};
    struct volume_disk disks[2];
    for (size_t i = 0; i < 2; i++)
        disks[i] = (struct volume_disk){.disk_id = ids[i],
                                        .reader = {.read_at = guarded_read_at, .size_bytes = DISK}};
    Sp__DiskExtent on[EXTENTS];
    Sp__VolumeExtent extents[EXTENTS], *list[EXTENTS];
    size_t count = 0;
    for (; count < EXTENTS && (count + 1) * 24 <= size; count++) {
        const uint8_t *at = data + count * 24;
        sp__disk_extent__init(&on[count]);
        sp__volume_extent__init(&extents[count]);
        on[count].disk_id = ids[at[0] % 3];
        extents[count].on = at[1] == 0xff ? NULL : &on[count];
        extents[count].volume_offset_bytes = sp_le64(at) >> 16;
        on[count].offset_bytes = sp_le64(at + 8);
        on[count].length_bytes = sp_le64(at + 16);
        list[count] = &extents[count];
    }
    struct volume_reader reader;
    void *store = NULL;
    if (volume_reader_of_extents(disks, 2, list, count, &reader, &store) == 0) {
        read_all(&reader);
        volume_reader_free(store);
    }
    return 0;
}
