/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A FileDescriptorSet and a symbol asked of it: the symbol up to the first 0, the set after it. */
#include "rpc/internal.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rpc_descriptors *d = NULL;
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;

    if (!end)
        return 0;
    const char *symbol = (const char *)data;
    if (rpc_descriptors_parse(end + 1, size - (size_t)(end + 1 - data), &d) < 0)
        return 0;
    rpc_descriptors_by_symbol(d, symbol);
    rpc_descriptors_by_name(d, symbol);
    rpc_descriptors_free(d);
    return 0;
}
