/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a proof needs of BitLocker's metadata and lib/volume's facts do not hold: wrapped keys, and
 * where the first sectors went. The block was judged by lib/volume (checksum, shape); here are its
 * entries, each bounded by what holds it. Sources: libbde's format description ("BitLocker Drive
 * Encryption (BDE) format specification", J. Metz) and real volumes.
 *
 *   entry        0 u16 size, 2 u16 type, 4 u16 value, 6 u16 version, 8 the value
 *   VMK          0 GUID, 16 FILETIME, 24 u16, 26 u16 protector code, 28 entries
 *   stretch key  0 u32 method, 4 salt of 16 bytes, 20 entries
 *   key          0 u32 method, 4 the key
 *   AES-CCM      0 nonce of 12 bytes, 12 tag of 16 bytes, 28 the wrapped entry
 *   external key 0 GUID, 16 FILETIME, 24 entries
 *   place        0 u64 offset, 8 u64 size
 *
 * No secrets here. One thread. */
#ifndef SEALPOINT_PROVER_FVE_H
#define SEALPOINT_PROVER_FVE_H

#include "base/why.h"
#include "volume/volume.h"

enum {
    FVE_TYPE_VMK = 0x0002,
    FVE_TYPE_FVEK = 0x0003,
    FVE_TYPE_STARTUP_KEY = 0x0006,
    FVE_TYPE_FIRST_SECTORS = 0x000f,
    FVE_VALUE_KEY = 0x0001,
    FVE_VALUE_STRETCH = 0x0003,
    FVE_VALUE_WRAPPED = 0x0005,
    FVE_VALUE_VMK = 0x0008,
    FVE_VALUE_EXTERNAL_KEY = 0x0009,
    FVE_VALUE_PLACE = 0x000f,
};

struct fve_entry {
    uint16_t type, value;
    const uint8_t *data; /* behind the entry's header */
    uint32_t size;
};

/* A list of entries; advances. */
struct fve_list {
    const uint8_t *at, *end;
};
/* false at the end, or where the list breaks off. */
bool fve_next(struct fve_list *, struct fve_entry *ret);
/* The entries that lie `offset` bytes into the value. Empty when it is shorter. */
struct fve_list fve_inner(const struct fve_entry *, uint32_t offset);

struct fve {
    uint8_t *data; /* owned: one metadata block */
    uint32_t size;
    struct fve_list entries;
    uint64_t encrypted_bytes;          /* from the start of the volume, in a conversion */
    uint64_t first_offset, first_size; /* where the first sectors lie, how many bytes */
    uint64_t blocks[3];                /* the metadata blocks, all on the volume */
};

/* The block that lib/volume's facts call good. 0; -ENOTSUP: of Windows Vista; -EBADMSG: none is
 * good, or it names places that make no sense; errors of the reader. Free with fve_close(). */
int fve_open(const struct volume_reader *, const Sp__HeaderFacts *, struct fve *ret,
             struct sp_why *why);
void fve_close(struct fve *);

struct fve_protector {
    char guid[37];
    uint16_t code; /* 0 clear key, 0x0200 startup key, 0x0800 recovery password, 0x2000 password */
    struct fve_list entries;
};
/* Next VMK of the list; false at the end. */
bool fve_next_protector(struct fve_list *, struct fve_protector *ret);

void fve_guid_text(const uint8_t *guid, char out[37]);

#endif
