/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "generate.h"
#include <stdlib.h>
#include <string.h>

static void put16(uint8_t *at, uint64_t v)
{
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

/* ---- BitLocker ---- */

static const uint8_t guid_normal[16] = {0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a,
                                        0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01};
static const uint8_t guid_eow[16] = {0x3b, 0x4d, 0xa8, 0x92, 0x80, 0xdd, 0x0e, 0x4d,
                                     0x9e, 0x4e, 0xb1, 0xe3, 0x28, 0x4e, 0xae, 0xd8};
static const uint8_t guid_volume[16] = {0xa8, 0x0b, 0x33, 0x83, 0xb7, 0x07, 0xa8, 0x4e,
                                        0xb6, 0x41, 0xff, 0x7b, 0xdf, 0x18, 0xf6, 0xb3};
#define FILETIME_2020 132223104000000000u /* 2020-01-01, in 100 ns since 1601 */

void bitlocker_boot(const struct bitlocker *b, uint8_t s[512])
{
    bool to_go = b->era == BITLOCKER_TO_GO;
    memset(s, 0, 512);
    memcpy(s, b->era == BITLOCKER_VISTA ? "\xeb\x52\x90" : "\xeb\x58\x90", 3);
    memcpy(s + 3, to_go ? "MSWIN4.1" : "-FVE-FS-", 8);
    put16(s + 11, b->sector);
    s[13] = 8;
    if (b->era == BITLOCKER_VISTA) {
        sp_put_le64(s + 56, b->copies[0] / 8 / b->sector);
    } else {
        uint8_t *at = s + (to_go ? 424 : 160);
        memcpy(at, b->era == BITLOCKER_EOW ? guid_eow : guid_normal, 16);
        for (size_t i = 0; i < 3; i++)
            sp_put_le64(at + 16 + 8 * i, b->copies[i]);
    }
    s[510] = 0x55;
    s[511] = 0xaa;
}

void bitlocker_fix(uint8_t *block, size_t capacity)
{
    uint32_t used = sp_le16(block + 8) * 16u;
    if (used + 8 <= capacity)
        sp_put_le32(block + used + 4, volume_crc32(block, used));
}

size_t bitlocker_block(const struct bitlocker *b, uint8_t block[BITLOCKER_BLOCK_MAX])
{
    uint8_t *at = block + 112;
    memset(block, 0, BITLOCKER_BLOCK_MAX);
    memcpy(block, "-FVE-FS-", 8);
    put16(block + 10, b->era == BITLOCKER_VISTA ? 1 : 2);
    put16(block + 12, b->state);
    put16(block + 14, b->next);
    sp_put_le64(block + 16, b->encrypted);
    for (size_t i = 0; i < 3; i++)
        sp_put_le64(block + 32 + 8 * i, b->copies[i]);
    sp_put_le32(block + 68, 1);
    sp_put_le32(block + 72, 48);
    memcpy(block + 80, guid_volume, 16);
    sp_put_le32(block + 96, b->nonce);
    put16(block + 100, b->cipher);
    sp_put_le64(block + 104, FILETIME_2020);
    for (size_t i = 0; i < b->protector_count; i++, at += 36) {
        put16(at, 36);
        put16(at + 2, 2); /* a wrapped key */
        put16(at + 4, 8);
        put16(at + 6, 1);
        memset(at + 8, (int)(0x11 * (i + 1)), 16);
        sp_put_le64(at + 24, FILETIME_2020);
        put16(at + 34, b->protectors[i]);
    }
    if (b->description) {
        size_t length = strlen(b->description);
        put16(at, 8 + 2 * length + 2);
        put16(at + 2, 7);
        put16(at + 4, 2);
        put16(at + 6, 1);
        for (size_t i = 0; i < length; i++)
            at[8 + 2 * i] = (uint8_t)b->description[i];
        at += 8 + 2 * length + 2;
    }
    size_t size = (size_t)(at - block);
    sp_put_le32(block + 64, (uint32_t)size - 64);
    size = (size + 15) / 16 * 16;
    put16(block + 8, size / 16);
    put16(block + size, 8);
    put16(block + size + 2, 1);
    bitlocker_fix(block, BITLOCKER_BLOCK_MAX);
    return size + 8;
}

void bitlocker_put(const struct image *image, const struct bitlocker *b)
{
    uint8_t boot[512], block[BITLOCKER_BLOCK_MAX];
    bitlocker_boot(b, boot);
    image_put(image, 0, boot, sizeof boot);
    bitlocker_block(b, block);
    for (size_t i = 0; i < 3; i++)
        image_put(image, b->copies[i], block, sizeof block);
}

/* ---- MD ---- */

void md_fix(uint8_t *s)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < 256 + 32; i += 4)
        sum += i == 216 ? 0 : sp_le32(s + i);
    sp_put_le32(s + 216, (uint32_t)((sum & 0xffffffffu) + (sum >> 32)));
}

void md_put_mirror(const struct image *image, uint64_t data_sectors)
{
    uint8_t s[4096] = {0};
    sp_put_le32(s, 0xa92b4efc);
    sp_put_le32(s + 4, 1);
    memset(s + 16, 0x5a, 16);
    sp_put_le32(s + 72, 1);
    sp_put_le64(s + 80, data_sectors);
    sp_put_le32(s + 92, 1);
    sp_put_le64(s + 128, 2048);
    sp_put_le64(s + 136, data_sectors);
    sp_put_le64(s + 144, 8);
    sp_put_le64(s + 200, 3);
    sp_put_le32(s + 220, 16);
    md_fix(s);
    image_put(image, 4096, s, sizeof s);
}

/* ---- LUKS2 ---- */

void luks2_fix(uint8_t *copy, uint32_t header_bytes)
{
    uint8_t digest[32];
    memset(copy + 448, 0, 64);
    assert_int_equal(sp_sha256_of(copy, header_bytes, digest), 0);
    memcpy(copy + 448, digest, 32);
}

void luks2_edit(const struct image *image, uint32_t header_bytes, const char *from, const char *to)
{
    uint8_t *copy = malloc(header_bytes);
    assert_non_null(copy);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(volume_read(&image->reader, i * header_bytes, copy, header_bytes), 0);
        char *json = (char *)copy + 4096, *at = strstr(json, from);
        if (!at)
            fail_msg("no '%s' in %s", from, json);
        size_t tail = strlen(at + strlen(from)) + 1;
        assert_true((size_t)(at - json) + strlen(to) + tail < header_bytes - 4096);
        memmove(at + strlen(to), at + strlen(from), tail);
        memcpy(at, to, strlen(to));
        size_t end = strlen(json);
        memset(json + end, 0, header_bytes - 4096 - end);
        luks2_fix(copy, header_bytes);
        image_put(image, i * header_bytes, copy, header_bytes);
    }
    free(copy);
}
