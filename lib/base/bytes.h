/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bounds-checked reading of untrusted bytes, a growing buffer, hexadecimal, UUIDs, SHA-256. */
#ifndef SEALPOINT_BASE_BYTES_H
#define SEALPOINT_BASE_BYTES_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A view of bytes that somebody else owns. */
struct sp_bytes {
    const uint8_t *data;
    size_t size;
};

/* A cursor over a view. Once a read would leave the view, `failed` is set, every later read gives 0
 * and the caller tests `failed` once at the end. */
struct sp_reader {
    struct sp_bytes of;
    size_t at;
    bool failed;
};

struct sp_reader sp_reader_of(const void *data, size_t size);
bool sp_reader_seek(struct sp_reader *r, size_t at);
/* Pointer to the next n bytes, or NULL (and failed). */
const uint8_t *sp_reader_take(struct sp_reader *r, size_t n);
uint8_t sp_reader_u8(struct sp_reader *r);
uint16_t sp_reader_le16(struct sp_reader *r);
uint32_t sp_reader_le32(struct sp_reader *r);
uint64_t sp_reader_le64(struct sp_reader *r);
uint16_t sp_reader_be16(struct sp_reader *r);
uint32_t sp_reader_be32(struct sp_reader *r);
uint64_t sp_reader_be64(struct sp_reader *r);
size_t sp_reader_left(const struct sp_reader *r);

/* Unaligned loads and stores where the bounds are known. */
uint16_t sp_le16(const void *p);
uint32_t sp_le32(const void *p);
uint64_t sp_le64(const void *p);
uint16_t sp_be16(const void *p);
uint32_t sp_be32(const void *p);
uint64_t sp_be64(const void *p);
void sp_put_le32(void *p, uint32_t v);
void sp_put_le64(void *p, uint64_t v);

/* A buffer that grows. Zero-initialise; sp_buffer_free() in the end. Every append returns 0 or
 * -ENOMEM
 * (-EOVERFLOW past `limit` when that is not 0) and leaves the content as it was on failure. */
struct sp_buffer {
    uint8_t *data;
    size_t size, capacity, limit;
};
int sp_buffer_append(struct sp_buffer *b, const void *data, size_t size);
int sp_buffer_printf(struct sp_buffer *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Makes room for `more` bytes and returns where they go, NULL on -ENOMEM; then raise `size`
 * yourself. */
uint8_t *sp_buffer_room(struct sp_buffer *b, size_t more);
/* The content as a string: a 0 is kept behind it. "" for an empty buffer. */
const char *sp_buffer_text(struct sp_buffer *b);
void sp_buffer_free(struct sp_buffer *b);
#define SP_BUFFER __attribute__((cleanup(sp_buffer_free)))

/* out must hold 2 × size + 1. Returns out. */
char *sp_hex(char *out, const void *data, size_t size);
#define SP_HEX32(p) (sp_hex((char[65]){0}, (p), 32))
/* Strict: exactly `size` bytes, lower or upper case; -EINVAL otherwise. */
int sp_unhex(const char *text, void *out, size_t size);
/* base64url without padding (RFC 4648 section 5). The encoder returns a string to free(), NULL on
 * -ENOMEM; the decoder is strict, -EINVAL or -ENOSPC. */
char *sp_base64url(const void *data, size_t size);
int sp_base64url_decode(const char *text, uint8_t *out, size_t capacity, size_t *ret_size);

bool sp_is_zero(const void *data, size_t size);
/* Same content, in time that does not depend on it. */
bool sp_equal_secret(const void *a, const void *b, size_t size);

/* 37 bytes with the 0. Random (version 4), from the kernel; 0 or a negative errno. */
int sp_uuid_make(char out[37]);
bool sp_uuid_valid(const char *text);
/* Two volumes of one UUID (a cloned disk) are told apart by their place: the first one found is
 * "luks:<uuid>", another one "luks:<uuid>@<disk>+<offset>". Gives "luks:<uuid>", under which the
 * keys of both may be in escrow; any other id as it is. Returns out. */
enum { VOLUME_ID_BYTES = 512 };
char *sp_volume_id_base(const char *volume_id, char out[VOLUME_ID_BYTES]);
bool sp_volume_id_same_base(const char *a, const char *b);

int sp_random(void *out, size_t size);

/* SHA-256 of the concatenation of `count` views. 0 or -EIO (the library failed). */
int sp_sha256(const struct sp_bytes *parts, size_t count, uint8_t out[32]);
int sp_sha256_of(const void *data, size_t size, uint8_t out[32]);
int sp_hmac_sha256(const void *key, size_t key_size, const struct sp_bytes *parts, size_t count,
                   uint8_t out[32]);
/* RFC 5869; extract with salt (may be empty), expand with info. */
int sp_hkdf_sha256(const void *key, size_t key_size, struct sp_bytes salt, struct sp_bytes info,
                   void *out, size_t out_size);

/* protobuf-c: a message as bytes to free(); -ENOMEM. */
int sp_pack(const ProtobufCMessage *message, uint8_t **ret_data, size_t *ret_size);
/* Deep copy through pack and unpack; NULL of NULL, and on -ENOMEM. */
ProtobufCMessage *sp_message_copy(const ProtobufCMessage *message);
/* Name of an enum value without its prefix: (PointState, 7, "POINT_STATE_") gives "VALID";
 * "UNKNOWN" for values this program does not know. */
const char *sp_enum_name(const ProtobufCEnumDescriptor *of, int value, const char *prefix);

/* Bytes of the well-formed UTF-8 character at p (zero-terminated text) that is no control
 * character; 0: it is not one. */
size_t sp_utf8_printable(const unsigned char *p);

#endif
