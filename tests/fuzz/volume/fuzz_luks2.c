/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The input is the JSON text, or (first byte odd) the raw volume. In the first case headers around
 * the text are made right, so that the fuzzer need not guess a checksum. */
#include "memory.h"

enum { HEADER = 16384, JSON_AT = 4096, VOLUME = 1 << 20 };

static void put_be64(uint8_t *at, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        at[i] = (uint8_t)v;
}

static void make_copy(uint8_t *at, uint64_t offset, const uint8_t *json, size_t size)
{
    memcpy(at, offset ? "SKUL\xba\xbe\0\2" : "LUKS\xba\xbe\0\2", 8);
    put_be64(at + 8, HEADER);
    put_be64(at + 16, 3);
    memcpy(at + 72, "sha256", 6);
    memcpy(at + 168, "66666666-7777-4888-9999-aaaaaaaaaaaa", 36);
    put_be64(at + 256, offset);
    memcpy(at + JSON_AT, json, size < HEADER - JSON_AT - 1 ? size : HEADER - JSON_AT - 1);
    uint8_t digest[32];
    if (sp_sha256_of(at, HEADER, digest) == 0)
        memcpy(at + 448, digest, 32);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory m;
    if (size == 0)
        return 0;
    if (data[0] & 1 && data[0] != '{') {
        struct volume_reader raw = memory_reader(&m, data + 1, size - 1, VOLUME);
        probe_format(&volume_luks2, &raw);
        return 0;
    }
    static uint8_t both[2 * HEADER];
    memset(both, 0, sizeof both);
    make_copy(both, 0, data, size);
    make_copy(both + HEADER, HEADER, data, size);
    struct volume_reader reader = memory_reader(&m, both, sizeof both, VOLUME);
    probe_format(&volume_luks2, &reader);
    return 0;
}
