/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The input is a metadata block; sector 0 and the checksum are made around it. */
#include "memory.h"

enum { RAW_BYTES = 96 << 10, COPY_AT = 4096, COPY_BYTES = 64 << 10 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t volume[COPY_AT + COPY_BYTES];
    static const uint8_t guid[16] = {0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a,
                                     0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01};
    struct memory m;
    struct volume_reader raw = memory_reader(&m, data, size, RAW_BYTES);
    raw.other = size % 16 ? VOLUME_OTHER_NONE : VOLUME_OTHER_ASK; /* libblkid costs the most */
    probe_format(&volume_bitlocker, &raw);
    memset(volume, 0, sizeof volume);
    memcpy(volume, "\xeb\x58\x90-FVE-FS-", 11);
    volume[12] = 2;
    memcpy(volume + 160, guid, 16);
    for (int i = 0; i < 3; i++)
        sp_put_le64(volume + 176 + 8 * i, COPY_AT);
    uint8_t *block = volume + COPY_AT;
    memcpy(block, data, size < COPY_BYTES ? size : COPY_BYTES);
    memcpy(block, "-FVE-FS-", 8);
    uint32_t used = sp_le16(block + 8) * 16u;
    if (used >= 16 && used + 8 <= COPY_BYTES)
        sp_put_le32(block + used + 4, volume_crc32(block, used));
    struct volume_reader made = memory_reader(&m, volume, sizeof volume, sizeof volume);
    probe_format(&volume_bitlocker, &made);
    return 0;
}
