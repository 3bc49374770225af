/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The input as sectors 0 to n of a disk; also with the checksums of a GPT set right. */
#include "memory.h"

static void read_table(const uint8_t *data, size_t size, uint64_t disk_bytes)
{
    struct memory m;
    struct volume_reader reader = memory_reader(&m, data, size, disk_bytes);
    struct volume_table *t = NULL;
    if (volume_table_read(&reader, 0, &t) != 1)
        return;
    for (size_t i = 0; i < t->count; i++)
        if (t->partitions[i].offset >= disk_bytes ||
            t->partitions[i].length > disk_bytes - t->partitions[i].offset)
            abort();
    volume_table_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_table(data, size, size);
    read_table(data, size, (uint64_t)1 << 42);
    if (size < 1024 || size > 1 << 20)
        return 0;
    uint8_t *copy = calloc(1, size + 512);
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    uint8_t *h = copy + 512;
    uint64_t entries = sp_le64(h + 72);
    uint64_t bytes = (uint64_t)sp_le32(h + 80) * sp_le32(h + 84);
    memcpy(h, "EFI PART", 8);
    sp_put_le64(h + 24, 1);
    sp_put_le32(h + 12, 92);
    if (entries < size / 512 && bytes <= size - entries * 512)
        sp_put_le32(h + 88, volume_crc32(copy + entries * 512, bytes));
    memset(h + 16, 0, 4);
    sp_put_le32(h + 16, volume_crc32(h, 92));
    read_table(copy, size, (uint64_t)1 << 42);
    free(copy);
    return 0;
}
