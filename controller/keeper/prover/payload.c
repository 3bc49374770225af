/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/payload.h"

#include "base/cleanup.h"
#include <string.h>

int payload_open(struct snapshot *snapshot, struct sector_cipher *cipher, uint32_t sector_bytes,
                 uint64_t start_bytes, uint64_t length_bytes, struct payload *ret)
{
    uint64_t size = snapshot_reader(snapshot).size_bytes;
    if (start_bytes > size)
        return -ERANGE;
    uint64_t left = size - start_bytes;
    uint64_t length = length_bytes && length_bytes < left ? length_bytes : left;
    length -= length % sector_bytes;
    if (!length)
        return -ERANGE;
    *ret = (struct payload){.snapshot = snapshot,
                            .cipher = cipher,
                            .sector_bytes = sector_bytes,
                            .start_bytes = start_bytes,
                            .length_bytes = length};
    return 0;
}

/* Whole sectors around what is asked for go through a buffer of this size. */
enum { PIECE_BYTES = 64 << 10 };

static int read_piece(struct payload *p, uint8_t *piece, uint64_t offset, uint8_t *out,
                      uint32_t length)
{
    uint64_t begin = offset - offset % p->sector_bytes;
    uint64_t end = offset + length + p->sector_bytes - 1;
    end -= end % p->sector_bytes;
    int r =
        snapshot_read_evidence(p->snapshot, p->start_bytes + begin, piece, (uint32_t)(end - begin));
    if (r < 0)
        return r;
    r = sector_cipher_decrypt(p->cipher, begin / 512, piece, end - begin);
    if (r < 0)
        return r;
    memcpy(out, piece + (offset - begin), length);
    return 0;
}

static int read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    struct payload *p = self;
    if (offset > p->length_bytes || length > p->length_bytes - offset)
        return -ERANGE;
    SP_FREE uint8_t *piece = malloc(PIECE_BYTES);
    if (!piece)
        return -ENOMEM;
    uint8_t *to = out;
    while (length) {
        uint32_t in = (uint32_t)(offset % PIECE_BYTES);
        uint32_t part = PIECE_BYTES - in < length ? PIECE_BYTES - in : length;
        int r = read_piece(p, piece, offset, to, part);
        if (r < 0)
            return r;
        to += part;
        offset += part;
        length -= part;
    }
    return 0;
}

struct volume_reader payload_reader(struct payload *p)
{
    return (struct volume_reader){.read_at = read_at, .self = p, .size_bytes = p->length_bytes};
}
