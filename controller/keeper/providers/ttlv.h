/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TTLV, the encoding of KMIP messages (KMIP Specification 1.2, 9.1): items of
 *
 *     tag 3 bytes | type 1 byte | length 4 bytes | value, padded with zeros to a multiple of 8
 *
 * big-endian; the value of a structure is items.
 *
 * Reading allocates nothing: ttlv_check() goes over a whole message once, with bounds on size and
 * depth, and what it let pass is walked without another doubt. It takes only what a writer could
 * have made: no byte behind the end, no padding but zeros, no second spelling of a value. A message
 * that passes equals what writing its items again gives.
 *
 * Writing goes to memory of the caller, which may be secret, and never past its end. */
#ifndef SEALPOINT_KEEPER_TTLV_H
#define SEALPOINT_KEEPER_TTLV_H

#include "base/bytes.h"

enum ttlv_type {
    TTLV_STRUCTURE = 1,
    TTLV_INTEGER = 2,
    TTLV_LONG_INTEGER = 3,
    TTLV_BIG_INTEGER = 4,
    TTLV_ENUMERATION = 5,
    TTLV_BOOLEAN = 6,
    TTLV_TEXT = 7,
    TTLV_BYTES = 8,
    TTLV_DATE_TIME = 9,
    TTLV_INTERVAL = 10
};

enum { TTLV_HEADER_BYTES = 8, TTLV_DEPTH_MOST = 16 };

struct ttlv_item {
    uint32_t tag;
    enum ttlv_type type;
    struct sp_bytes value; /* without padding; of the message */
};

/* ---- reading ---- */

/* The one item that `message` is, all within it checked. -EBADMSG: not TTLV; -E2BIG: structures in
 * more than TTLV_DEPTH_MOST others. */
int ttlv_check(struct sp_bytes message, struct ttlv_item *ret);
/* What a first header says is to come, header included; 0: it is no header. For a stream. */
size_t ttlv_size_said(const uint8_t header[TTLV_HEADER_BYTES], uint32_t tag);

/* The next item of a structure's value that passed; false: no more. */
bool ttlv_next(struct sp_bytes *rest, struct ttlv_item *ret);
/* The one item of this tag directly in the structure `in`. -ENOENT: none; -EBADMSG: `in` is no
 * structure, or the tag is there with another type or more than once. */
int ttlv_find(const struct ttlv_item *in, uint32_t tag, enum ttlv_type, struct ttlv_item *ret);
/* Of an integer, enumeration or interval; of a long integer, boolean or date. */
uint32_t ttlv_u32(const struct ttlv_item *);
uint64_t ttlv_u64(const struct ttlv_item *);
/* Of a text: equal. */
bool ttlv_text_is(const struct ttlv_item *, const char *text);

/* ---- writing ---- */

/* Zero-initialise but for `data` and `capacity`. Once something does not fit, `failed` is set and
 * stays. */
struct ttlv_writer {
    uint8_t *data;
    size_t size, capacity;
    size_t open[TTLV_DEPTH_MOST]; /* where open structures begin */
    unsigned depth;
    bool failed;
};
void ttlv_begin(struct ttlv_writer *, uint32_t tag);
void ttlv_end(struct ttlv_writer *);
/* Integer, enumeration, interval. */
void ttlv_put_u32(struct ttlv_writer *, uint32_t tag, enum ttlv_type, uint32_t value);
/* Long integer, boolean, date. */
void ttlv_put_u64(struct ttlv_writer *, uint32_t tag, enum ttlv_type, uint64_t value);
/* Text, bytes, big integer. */
void ttlv_put(struct ttlv_writer *, uint32_t tag, enum ttlv_type, const void *value, size_t size);
void ttlv_put_text(struct ttlv_writer *, uint32_t tag, const char *text);
/* Everything fitted, and every structure was ended. */
bool ttlv_done(const struct ttlv_writer *);

#endif
