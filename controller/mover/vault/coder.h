/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One chunk: its address, and its sealed form. FORMAT.md, "Chunks".
 *
 *   raw     address = SHA-256(chunk)                     stored as it is
 *   sealed  address = HMAC-SHA-256(address key, chunk)   stored nonce ‖ AES-256-GCM ‖ tag
 *
 * A struct vault_coder is one thread's set of contexts; struct vault_keys is shared, read-only. */
#ifndef SEALPOINT_VAULT_CODER_H
#define SEALPOINT_VAULT_CODER_H

#include "base/secret.h"
#include "base/why.h"
#include "controller/mover/vault/map.h"
#include "controller/mover/vault/pack.h"

enum { CODER_NONCE_BYTES = 12, CODER_TAG_BYTES = 16, CODER_KEY_ID_TEXT = 33 };

/* Keys made from the vault key. */
struct vault_keys;
/* -EINVAL: the key is not 32 bytes long. */
int vault_keys_new(const struct sp_secret *key, struct vault_keys **ret);
void vault_keys_free(struct vault_keys *);
/* Tells keys apart, tells nothing of the key. */
const char *vault_keys_id(const struct vault_keys *);

struct vault_coder;
/* `keys` may be NULL: then sealed chunks give -ENOKEY. It must outlive the coder. */
int vault_coder_new(const struct vault_keys *keys, struct vault_coder **ret);
void vault_coder_free(struct vault_coder *);

int vault_coder_address(struct vault_coder *, enum map_kind kind, const void *data, size_t size,
                        uint8_t ret_address[VAULT_ADDRESS_BYTES]);

struct coder_sealed {
    uint8_t nonce[CODER_NONCE_BYTES], tag[CODER_TAG_BYTES];
    uint32_t body_size; /* stored size is that plus nonce and tag */
    enum vault_storage storage;
};

/* Seals `size` bytes in place: the body is the first body_size bytes of data afterwards. */
int vault_coder_seal(struct vault_coder *, const uint8_t address[VAULT_ADDRESS_BYTES], void *data,
                     uint32_t size, struct coder_sealed *ret);

/* Takes what a pack holds for `entry` (entry->stored_size bytes, untrusted) back to the chunk,
 * whose entry->plain_size bytes go to out; a raw chunk may lie in out already. Nothing that does
 * not match the address comes out: -EBADMSG. -ENOKEY: sealed, and there is no key. */
int vault_coder_open(struct vault_coder *, const struct pack_entry *entry, const void *stored,
                     void *out, struct sp_why *why);

/* PACK_MAX_STORED bytes for what is read from a pack; the coder's. */
uint8_t *vault_coder_buffer(struct vault_coder *);

/* The kind that a storage belongs to. */
enum map_kind vault_kind_of(uint8_t storage);

#endif
