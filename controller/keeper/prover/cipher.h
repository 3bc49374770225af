/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sectors as dm-crypt encrypts them, computed with OpenSSL. The words are those of dm-crypt's
 * table (Documentation/admin-guide/device-mapper/dm-crypt.rst): "aes-xts-plain64",
 * "aes-cbc-essiv:sha256".
 *
 *   IV number of a sector = sector (in 512 bytes, from the start of the payload) + IV offset,
 *                           divided by the sector size in 512 bytes only with iv_large_sectors
 *   plain    its low 32 bits, little endian, zeros behind
 *   plain64  all 64 bits
 *   essiv    AES-ECB(key = hash(volume key), plain64's block)
 *   eboiv    AES-ECB(key = volume key, the sector's place in bytes): BitLocker's CBC
 *   elephant eboiv, and BitLocker's diffuser behind it; the key is AES key and diffuser key
 *
 * One thread for one object. */
#ifndef SEALPOINT_PROVER_CIPHER_H
#define SEALPOINT_PROVER_CIPHER_H

#include "base/secret.h"
#include "base/why.h"
#include <stdbool.h>
#include <stdint.h>

struct cipher_parameters {
    const char *name; /* of dm-crypt */
    uint32_t sector_bytes;
    uint64_t iv_offset_sectors; /* of 512 bytes */
    bool iv_large_sectors;
};

struct sector_cipher;

/* Has OpenSSL look up now what it looks up at first use, so that a nursery's provers need not. */
void sector_cipher_warm_up(void);

/* Can this host compute it with a key of so many bytes? 0, or -ENOTSUP with a sentence. */
int sector_cipher_check(const struct cipher_parameters *, size_t key_bytes, struct sp_why *);

/* 0, -ENOTSUP as above, -ENOMEM, -EIO (the library failed). The key is not kept. */
int sector_cipher_new(const struct cipher_parameters *, const struct sp_secret *key,
                      struct sector_cipher **ret, struct sp_why *);
void sector_cipher_free(struct sector_cipher *);

/* In place; `sector` (of 512 bytes) is where `data` begins in the payload; whole cipher sectors.
 * 0, -EINVAL (alignment), -EIO. */
int sector_cipher_decrypt(struct sector_cipher *, uint64_t sector, uint8_t *data, size_t size);

#endif
