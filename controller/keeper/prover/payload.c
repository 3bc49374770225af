/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/payload.h"

#include "base/cleanup.h"
#include <string.h>

static bool is_aligned(const struct payload_piece *p)
{
    uint64_t sectors = p->sector_bytes / 512;
    return !p->cipher || (sectors && p->iv_sector % sectors == 0);
}

/* How much of the piece the volume holds. */
static uint64_t held(const struct payload_piece *p, uint64_t size)
{
    uint64_t left = p->on_bytes < size ? size - p->on_bytes : 0;
    uint64_t length = p->length_bytes < left || p->hidden ? p->length_bytes : left;
    return p->cipher ? length - length % p->sector_bytes : length;
}

int payload_open(struct snapshot *snapshot, const struct payload_piece *pieces, size_t count,
                 struct payload *ret)
{
    uint64_t size = snapshot_reader(snapshot).size_bytes;
    *ret = (struct payload){.snapshot = snapshot};
    for (size_t i = 0; i < count; i++) {
        struct payload_piece p = pieces[i];
        if (!is_aligned(&p))
            return -EINVAL;
        if (ret->count == PAYLOAD_MAX_PIECES)
            return -E2BIG;
        p.length_bytes = held(&p, size);
        if (__builtin_add_overflow(ret->length_bytes, p.length_bytes, &ret->length_bytes))
            return -EINVAL;
        if (p.length_bytes)
            ret->pieces[ret->count++] = p;
        if (p.length_bytes < pieces[i].length_bytes)
            break;
    }
    return ret->length_bytes ? 0 : -ERANGE;
}

/* Whole sectors around what is asked for go through a buffer of this size. Few pages: most proofs
 * read little, and each page that a process touches first costs as much as decrypting some. */
enum { BUFFER_BYTES = 16 << 10 };

/* `in` bytes into one piece, no further than its end and the buffer's. */
static int read_piece(struct payload *p, const struct payload_piece *piece, uint8_t *buffer,
                      uint64_t in, uint8_t *out, uint32_t length)
{
    if (piece->hidden) {
        memset(out, 0, length);
        return 0;
    }
    if (!piece->cipher)
        return snapshot_read_evidence(p->snapshot, piece->on_bytes + in, out, length);
    uint64_t begin = in - in % piece->sector_bytes;
    uint64_t end = in + length + piece->sector_bytes - 1;
    end -= end % piece->sector_bytes;
    int r = snapshot_read_evidence(p->snapshot, piece->on_bytes + begin, buffer,
                                   (uint32_t)(end - begin));
    if (r == 0)
        r = sector_cipher_decrypt(piece->cipher, piece->iv_sector + begin / 512, buffer,
                                  end - begin);
    if (r == 0)
        memcpy(out, buffer + (in - begin), length);
    return r;
}

static int read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    struct payload *p = self;
    if (offset > p->length_bytes || length > p->length_bytes - offset)
        return -ERANGE;
    SP_FREE uint8_t *buffer = malloc(BUFFER_BYTES);
    if (!buffer)
        return -ENOMEM;
    uint8_t *to = out;
    for (size_t i = 0; length && i < p->count; i++) {
        const struct payload_piece *piece = &p->pieces[i];
        if (offset >= piece->length_bytes) {
            offset -= piece->length_bytes;
            continue;
        }
        while (length && offset < piece->length_bytes) {
            uint64_t room = BUFFER_BYTES - offset % BUFFER_BYTES;
            uint64_t left = piece->length_bytes - offset;
            uint32_t part = (uint32_t)(room < left ? room : left);
            part = part < length ? part : length;
            int r = read_piece(p, piece, buffer, offset, to, part);
            if (r < 0)
                return r;
            to += part;
            offset += part;
            length -= part;
        }
        offset = 0;
    }
    return 0;
}

struct volume_reader payload_reader(struct payload *p)
{
    return (struct volume_reader){.read_at = read_at, .self = p, .size_bytes = p->length_bytes};
}
