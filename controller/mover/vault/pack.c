/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/pack.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char header_magic[8] = "SPPACK01";
static const char footer_magic[8] = "SPPKEND1";

/* Offsets in the footer. */
enum {
    F_MAGIC = 0,
    F_FORMAT = 8,
    F_COUNT = 12,
    F_INDEX = 16,
    F_ID = 24,
    F_VAULT = 40,
    F_WRITER = 80,
    F_CHECKSUM = 224,
};

void pack_header_make(uint8_t out[PACK_HEADER_BYTES], const uint8_t id[PACK_ID_BYTES])
{
    memset(out, 0, PACK_HEADER_BYTES);
    memcpy(out, header_magic, sizeof header_magic);
    sp_put_le32(out + 8, VAULT_FORMAT);
    sp_put_le32(out + 12, PACK_HEADER_BYTES);
    memcpy(out + 16, id, PACK_ID_BYTES);
}

static int by_address(const void *a, const void *b)
{
    const struct pack_entry *x = a, *y = b;
    int c = memcmp(x->address, y->address, VAULT_ADDRESS_BYTES);
    return c ? c : (x->offset > y->offset) - (x->offset < y->offset);
}

static int checksum(const void *index, size_t index_size, const uint8_t *footer, uint8_t out[32])
{
    const struct sp_bytes parts[] = {{index, index_size}, {footer, F_CHECKSUM}};
    return sp_sha256(parts, 2, out);
}

int pack_tail_make(const struct pack_footer *footer, struct pack_entry *entries,
                   struct sp_buffer *out)
{
    if (footer->count > PACK_MAX_ENTRIES || footer->index_offset > PACK_MAX_BYTES)
        return -EINVAL;
    size_t index_size = (size_t)footer->count * PACK_ENTRY_BYTES;
    uint8_t *index = sp_buffer_room(out, index_size + PACK_FOOTER_BYTES);
    if (!index)
        return -ENOMEM;
    memset(index, 0, index_size + PACK_FOOTER_BYTES);
    if (footer->count > 0)
        qsort(entries, footer->count, sizeof *entries, by_address);
    for (uint32_t i = 0; i < footer->count; i++) {
        uint8_t *at = index + (size_t)i * PACK_ENTRY_BYTES;
        memcpy(at, entries[i].address, VAULT_ADDRESS_BYTES);
        sp_put_le32(at + 32, entries[i].offset);
        sp_put_le32(at + 36, entries[i].stored_size);
        sp_put_le32(at + 40, entries[i].plain_size);
        at[44] = entries[i].storage;
    }
    uint8_t *f = index + index_size;
    memcpy(f + F_MAGIC, footer_magic, sizeof footer_magic);
    sp_put_le32(f + F_FORMAT, VAULT_FORMAT);
    sp_put_le32(f + F_COUNT, footer->count);
    sp_put_le64(f + F_INDEX, footer->index_offset);
    memcpy(f + F_ID, footer->id, PACK_ID_BYTES);
    memcpy(f + F_VAULT, footer->vault_id, strnlen(footer->vault_id, 36));
    memcpy(f + F_WRITER, footer->writer, strnlen(footer->writer, PACK_WRITER_BYTES));
    int r = checksum(index, index_size, f, f + F_CHECKSUM);
    if (r < 0)
        return r;
    out->size += index_size + PACK_FOOTER_BYTES;
    return 0;
}

int pack_footer_parse(const uint8_t footer[PACK_FOOTER_BYTES], uint64_t pack_bytes,
                      struct pack_footer *ret, struct sp_why *why)
{
    if (pack_bytes < PACK_HEADER_BYTES + PACK_FOOTER_BYTES || pack_bytes > PACK_MAX_BYTES)
        return sp_why_set(why, -EBADMSG, "no pack is %llu bytes long",
                          (unsigned long long)pack_bytes);
    if (memcmp(footer + F_MAGIC, footer_magic, sizeof footer_magic))
        return sp_why_set(why, -EBADMSG,
                          "it does not end as a pack does: cut short or overwritten");
    uint32_t format = sp_le32(footer + F_FORMAT);
    if (format != VAULT_FORMAT)
        return sp_why_set(why, -EBADMSG, "it is of format %u, which this program does not know",
                          format);
    struct pack_footer f = {.count = sp_le32(footer + F_COUNT),
                            .index_offset = sp_le64(footer + F_INDEX)};
    /* Two numbers that say the same: one wrong bit in either is seen here. */
    if (f.count > PACK_MAX_ENTRIES || f.index_offset < PACK_HEADER_BYTES ||
        f.index_offset > pack_bytes ||
        f.index_offset + (uint64_t)f.count * PACK_ENTRY_BYTES + PACK_FOOTER_BYTES != pack_bytes)
        return sp_why_set(why, -EBADMSG, "its index does not fit: %u entries at %llu of %llu bytes",
                          f.count, (unsigned long long)f.index_offset,
                          (unsigned long long)pack_bytes);
    memcpy(f.id, footer + F_ID, PACK_ID_BYTES);
    memcpy(f.vault_id, footer + F_VAULT, 36);
    memcpy(f.writer, footer + F_WRITER, PACK_WRITER_BYTES);
    memcpy(f.checksum, footer + F_CHECKSUM, sizeof f.checksum);
    *ret = f;
    return 0;
}

int pack_index_verify(const struct pack_footer *footer, const uint8_t raw[PACK_FOOTER_BYTES],
                      const void *index, size_t index_size, struct sp_why *why)
{
    uint8_t sum[32];
    int r = checksum(index, index_size, raw, sum);
    if (r < 0)
        return r;
    if (memcmp(sum, footer->checksum, sizeof sum))
        return sp_why_set(why, -EBADMSG, "its index is damaged (checksum differs)");
    return 0;
}

int pack_entry_parse(const struct pack_footer *footer, const void *index, uint32_t number,
                     struct pack_entry *ret)
{
    if (number >= footer->count)
        return -EBADMSG;
    const uint8_t *at = (const uint8_t *)index + (size_t)number * PACK_ENTRY_BYTES;
    struct pack_entry e = {.offset = sp_le32(at + 32),
                           .stored_size = sp_le32(at + 36),
                           .plain_size = sp_le32(at + 40),
                           .storage = at[44]};
    memcpy(e.address, at, VAULT_ADDRESS_BYTES);
    bool sizes;
    switch (e.storage) {
    case VAULT_STORED_RAW:
        sizes = e.stored_size == e.plain_size;
        break;
    case VAULT_STORED_SEALED:
        sizes = e.stored_size == e.plain_size + 28;
        break;
    case VAULT_STORED_SEALED_ZSTD:
        sizes = e.stored_size > 28 && e.stored_size < e.plain_size + 28;
        break;
    default:
        sizes = false;
    }
    if (!sizes || e.plain_size == 0 || e.plain_size > PACK_MAX_STORED - 28 ||
        e.offset < PACK_HEADER_BYTES || (uint64_t)e.offset + e.stored_size > footer->index_offset)
        return -EBADMSG;
    *ret = e;
    return 0;
}

char *pack_name(char out[PACK_NAME_BYTES], const uint8_t id[PACK_ID_BYTES])
{
    char hex[2 * PACK_ID_BYTES + 1];
    sp_hex(hex, id, PACK_ID_BYTES);
    snprintf(out, PACK_NAME_BYTES, "packs/%.2s/%s.pack", hex, hex);
    return out;
}

int pack_name_parse(const char *name, uint8_t ret_id[PACK_ID_BYTES])
{
    char hex[2 * PACK_ID_BYTES + 1], again[PACK_NAME_BYTES];
    uint8_t id[PACK_ID_BYTES];
    if (strlen(name) != 6 + 3 + 2 * PACK_ID_BYTES + 5)
        return -EINVAL;
    memcpy(hex, name + 9, 2 * PACK_ID_BYTES);
    hex[2 * PACK_ID_BYTES] = 0;
    if (sp_unhex(hex, id, sizeof id) < 0 || strcmp(pack_name(again, id), name))
        return -EINVAL;
    memcpy(ret_id, id, sizeof id);
    return 0;
}
