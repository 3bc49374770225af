/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/ttlv.h"

#include <errno.h>
#include <string.h>

enum { ALIGNMENT = 8, TAG_STANDARD = 0x42, TAG_EXTENSION = 0x54 };

static size_t padded(size_t size)
{
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* ---- reading ---- */

static bool length_fits_type(enum ttlv_type type, uint32_t length)
{
    switch (type) {
    case TTLV_INTEGER:
    case TTLV_ENUMERATION:
    case TTLV_INTERVAL:
        return length == 4;
    case TTLV_LONG_INTEGER:
    case TTLV_BOOLEAN:
    case TTLV_DATE_TIME:
        return length == 8;
    case TTLV_STRUCTURE:
        return length % ALIGNMENT == 0;
    case TTLV_BIG_INTEGER:
        return length > 0 && length % ALIGNMENT == 0;
    case TTLV_TEXT:
    case TTLV_BYTES:
        return true;
    }
    return false;
}

/* One item off the front of `rest`; what is in a structure is not looked at. */
static bool take(struct sp_bytes *rest, struct ttlv_item *ret)
{
    struct sp_reader r = sp_reader_of(rest->data, rest->size);
    uint32_t head = sp_reader_be32(&r), length = sp_reader_be32(&r);
    struct ttlv_item item = {.tag = head >> 8, .type = (enum ttlv_type)(head & 0xff)};
    uint32_t space = item.tag >> 16;
    if (r.failed || (space != TAG_STANDARD && space != TAG_EXTENSION) ||
        !length_fits_type(item.type, length))
        return false;
    item.value = (struct sp_bytes){sp_reader_take(&r, length), length};
    const size_t padding = padded(length) - length;
    const uint8_t *zeros = sp_reader_take(&r, padding);
    if (r.failed || (padding > 0 && !sp_is_zero(zeros, padding)))
        return false;
    if (item.type == TTLV_BOOLEAN && sp_be64(item.value.data) > 1)
        return false;
    if (item.type == TTLV_TEXT && length > 0 && memchr(item.value.data, 0, length))
        return false;
    *rest = (struct sp_bytes){rest->data + r.at, rest->size - r.at};
    *ret = item;
    return true;
}

int ttlv_check(struct sp_bytes message, struct ttlv_item *ret)
{
    struct sp_bytes open[TTLV_DEPTH_MOST];
    struct sp_bytes rest = message;
    struct ttlv_item item;
    unsigned depth = 0;
    if (!take(&rest, ret) || rest.size != 0)
        return -EBADMSG;
    if (ret->type == TTLV_STRUCTURE)
        open[depth++] = ret->value;
    while (depth > 0) {
        struct sp_bytes *top = &open[depth - 1];
        if (top->size == 0) {
            depth--;
            continue;
        }
        if (!take(top, &item))
            return -EBADMSG;
        if (item.type != TTLV_STRUCTURE)
            continue;
        if (depth == TTLV_DEPTH_MOST)
            return -E2BIG;
        open[depth++] = item.value;
    }
    return 0;
}

size_t ttlv_size_said(const uint8_t header[TTLV_HEADER_BYTES], uint32_t tag)
{
    uint32_t head = sp_be32(header), length = sp_be32(header + 4);
    if (head != (tag << 8 | TTLV_STRUCTURE) || length % ALIGNMENT != 0)
        return 0;
    return (size_t)length + TTLV_HEADER_BYTES;
}

bool ttlv_next(struct sp_bytes *rest, struct ttlv_item *ret)
{
    return rest->size > 0 && take(rest, ret);
}

int ttlv_find(const struct ttlv_item *in, uint32_t tag, enum ttlv_type type, struct ttlv_item *ret)
{
    struct sp_bytes rest = in->value;
    struct ttlv_item item, found;
    unsigned count = 0;
    if (in->type != TTLV_STRUCTURE)
        return -EBADMSG;
    while (ttlv_next(&rest, &item)) {
        if (item.tag != tag)
            continue;
        if (item.type != type || count++ > 0)
            return -EBADMSG;
        found = item;
    }
    if (count == 0)
        return -ENOENT;
    *ret = found;
    return 0;
}

uint32_t ttlv_u32(const struct ttlv_item *item)
{
    return sp_be32(item->value.data);
}

uint64_t ttlv_u64(const struct ttlv_item *item)
{
    return sp_be64(item->value.data);
}

bool ttlv_text_is(const struct ttlv_item *item, const char *text)
{
    return item->value.size == strlen(text) && memcmp(item->value.data, text, strlen(text)) == 0;
}

/* ---- writing ---- */

static void put_be32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* Where `size` bytes of value go, header before and zeros behind; NULL: no room. */
static uint8_t *room(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, size_t size)
{
    if (w->failed || size > UINT32_MAX - ALIGNMENT ||
        w->capacity - w->size < TTLV_HEADER_BYTES + padded(size)) {
        w->failed = true;
        return NULL;
    }
    uint8_t *at = w->data + w->size;
    put_be32(at, tag << 8 | (uint32_t)type);
    put_be32(at + 4, (uint32_t)size);
    memset(at + TTLV_HEADER_BYTES + size, 0, padded(size) - size);
    w->size += TTLV_HEADER_BYTES + padded(size);
    return at + TTLV_HEADER_BYTES;
}

void ttlv_begin(struct ttlv_writer *w, uint32_t tag)
{
    if (w->depth == TTLV_DEPTH_MOST)
        w->failed = true;
    const size_t begin = w->size;
    if (room(w, tag, TTLV_STRUCTURE, 0))
        w->open[w->depth++] = begin;
}

void ttlv_end(struct ttlv_writer *w)
{
    if (w->failed || w->depth == 0) {
        w->failed = true;
        return;
    }
    const size_t begin = w->open[--w->depth];
    put_be32(w->data + begin + 4, (uint32_t)(w->size - begin - TTLV_HEADER_BYTES));
}

void ttlv_put(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, const void *value,
              size_t size)
{
    uint8_t *at = room(w, tag, type, size);
    if (at && size > 0)
        memcpy(at, value, size);
}

void ttlv_put_u32(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, uint32_t value)
{
    uint8_t bytes[4];
    put_be32(bytes, value);
    ttlv_put(w, tag, type, bytes, sizeof(bytes));
}

void ttlv_put_u64(struct ttlv_writer *w, uint32_t tag, enum ttlv_type type, uint64_t value)
{
    uint8_t bytes[8];
    put_be32(bytes, (uint32_t)(value >> 32));
    put_be32(bytes + 4, (uint32_t)value);
    ttlv_put(w, tag, type, bytes, sizeof(bytes));
}

void ttlv_put_text(struct ttlv_writer *w, uint32_t tag, const char *text)
{
    ttlv_put(w, tag, TTLV_TEXT, text, strlen(text));
}

bool ttlv_done(const struct ttlv_writer *w)
{
    return !w->failed && w->depth == 0;
}
