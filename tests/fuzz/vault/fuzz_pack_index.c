/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A pack as a file says it is: footer and index, each entry. What is accepted must lie within. */
#include "controller/mover/vault/pack.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Input: le32 size of the pack, then its last bytes. */
    if (size < 4 + PACK_FOOTER_BYTES)
        return 0;
    uint64_t pack_bytes = sp_le32(data);
    const uint8_t *tail = data + 4;
    size_t tail_size = size - 4;
    const uint8_t *raw = tail + tail_size - PACK_FOOTER_BYTES;
    struct pack_footer f;
    struct sp_why why;
    if (pack_footer_parse(raw, pack_bytes, &f, &why) < 0)
        return 0;
    size_t index_size = (size_t)f.count * PACK_ENTRY_BYTES;
    if (f.count > PACK_MAX_ENTRIES || f.index_offset + index_size + PACK_FOOTER_BYTES != pack_bytes)
        abort();
    if (strlen(f.writer) > PACK_WRITER_BYTES || strlen(f.vault_id) > 36)
        abort();
    if (index_size + PACK_FOOTER_BYTES > tail_size)
        return 0;
    /* In memory of its own, so that the sanitizer sees a read past its end. */
    uint8_t *index = malloc(index_size ? index_size : 1);
    if (!index)
        return 0;
    memcpy(index, raw - index_size, index_size);
    (void)pack_index_verify(&f, raw, index, index_size, &why);
    for (uint32_t i = 0; i <= f.count; i++) {
        struct pack_entry e;
        if (pack_entry_parse(&f, index, i, &e) < 0)
            continue;
        if (i >= f.count || e.plain_size == 0 || e.plain_size > 65536 ||
            e.stored_size > PACK_MAX_STORED || e.offset < PACK_HEADER_BYTES ||
            (uint64_t)e.offset + e.stored_size > f.index_offset)
            abort();
    }
    free(index);
    return 0;
}
