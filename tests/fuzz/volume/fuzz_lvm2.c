/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The metadata text, and the label and area around it with right checksums. */
#include "memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct volume_vg *vg = NULL;
    if (volume_vg_parse((const char *)data, size, &vg) == 0) {
        if (!vg->name || !vg->id || vg->extent_bytes == 0)
            abort();
        volume_vg_free(vg);
    }
    static uint8_t volume[64 << 10];
    struct memory m;
    memset(volume, 0, sizeof volume);
    uint8_t *label = volume + 512, *area = volume + 4096;
    memcpy(label, "LABELONE", 8);
    sp_put_le64(label + 8, 1);
    sp_put_le32(label + 20, 32);
    memcpy(label + 24, "LVM2 001", 8);
    memcpy(label + 32, data, size < 300 ? size : 300); /* ids and lists from the input */
    sp_put_le32(label + 16, volume_crc32_raw(0xf597a6cf, label + 20, 492));
    size_t text = size < 32768 ? size : 32768;
    memcpy(area + 4, " LVM2 x[5A%r0N*>", 16);
    sp_put_le32(area + 20, 1);
    sp_put_le64(area + 24, 4096);
    sp_put_le64(area + 32, sizeof volume - 4096);
    sp_put_le64(area + 40, 512);
    sp_put_le64(area + 48, text);
    memcpy(area + 512, data, text);
    sp_put_le32(area + 56, volume_crc32_raw(0xf597a6cf, area + 512, text));
    sp_put_le32(area, volume_crc32_raw(0xf597a6cf, area + 4, 508));
    struct volume_reader reader = memory_reader(&m, volume, sizeof volume, sizeof volume);
    struct volume_pv *pv = NULL;
    if (volume_pv_read(&reader, &pv) == 1)
        volume_pv_free(pv);
    return 0;
}
