/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The pack: many chunks in one object, their index behind them. FORMAT.md, "Packs". Pure functions
 * over bytes; everything parsed is untrusted. */
#ifndef SEALPOINT_VAULT_PACK_H
#define SEALPOINT_VAULT_PACK_H

#include "base/bytes.h"
#include "base/why.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    VAULT_FORMAT = 1,
    VAULT_ADDRESS_BYTES = 32,
    PACK_ID_BYTES = 16,
    PACK_HEADER_BYTES = 4096, /* whole pages, so that 64 KiB chunks lie on pages too */
    PACK_ENTRY_BYTES = 48,
    PACK_FOOTER_BYTES = 256,
    PACK_WRITER_BYTES = 64,
    PACK_MAX_ENTRIES = 32768,
    PACK_MAX_BYTES = 1 << 30,
    PACK_MAX_INDEX_BYTES = PACK_MAX_ENTRIES * PACK_ENTRY_BYTES,
    PACK_MAX_STORED = 64 * 1024 + 28, /* nonce and tag of a sealed chunk */
};

/* How a chunk lies in a pack. */
enum vault_storage {
    VAULT_STORED_RAW = 1,         /* as it is; address = SHA-256 */
    VAULT_STORED_SEALED = 2,      /* nonce ‖ AES-256-GCM ‖ tag; address = HMAC-SHA-256 */
    VAULT_STORED_SEALED_ZSTD = 3, /* the same, of a zstd frame */
};

struct pack_entry {
    uint8_t address[VAULT_ADDRESS_BYTES];
    uint32_t offset; /* from the start of the pack */
    uint32_t stored_size;
    uint32_t plain_size;
    uint8_t storage; /* enum vault_storage */
};

/* What a footer says. */
struct pack_footer {
    uint8_t id[PACK_ID_BYTES];
    char vault_id[37];
    char writer[PACK_WRITER_BYTES + 1]; /* the point that wrote it */
    uint32_t count;
    uint64_t index_offset;
    uint8_t checksum[32];
};

/* The header depends on the id alone. */
void pack_header_make(uint8_t out[PACK_HEADER_BYTES], const uint8_t id[PACK_ID_BYTES]);

/* Sorts the entries by address, appends index and footer to out. 0, -ENOMEM, -EINVAL. */
int pack_tail_make(const struct pack_footer *footer, struct pack_entry *entries,
                   struct sp_buffer *out);

/* The last PACK_FOOTER_BYTES of an object of `pack_bytes` bytes. -EBADMSG: no footer, or the
 * numbers in it do not fit the object. The checksum is pack_index_verify()'s business. */
int pack_footer_parse(const uint8_t footer[PACK_FOOTER_BYTES], uint64_t pack_bytes,
                      struct pack_footer *ret, struct sp_why *why);

/* Whether index and footer are what was written. -EBADMSG. */
int pack_index_verify(const struct pack_footer *footer, const uint8_t raw[PACK_FOOTER_BYTES],
                      const void *index, size_t index_size, struct sp_why *why);

/* Entry `number` of an index. -EBADMSG when it points outside of the pack's payload. */
int pack_entry_parse(const struct pack_footer *footer, const void *index, uint32_t number,
                     struct pack_entry *ret);

/* "packs/ab/ab….pack"; 64 bytes are enough. */
enum { PACK_NAME_BYTES = 64 };
char *pack_name(char out[PACK_NAME_BYTES], const uint8_t id[PACK_ID_BYTES]);
/* -EINVAL: not the name of a pack. */
int pack_name_parse(const char *name, uint8_t ret_id[PACK_ID_BYTES]);

#endif
