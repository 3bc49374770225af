/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory m;
    struct volume_reader whole = memory_reader(&m, data, size, size);
    probe_format(&volume_luks1, &whole);
    struct memory m2;
    struct volume_reader large = memory_reader(&m2, data, size, (uint64_t)64 << 20);
    probe_format(&volume_luks1, &large);
    return 0;
}
