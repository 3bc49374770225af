/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Headers that no tool makes offline: BitLocker metadata from its description, LUKS2 with other
 * JSON. Fields can be changed afterwards and the checksums set right again. */
#ifndef SEALPOINT_TESTS_VOLUME_GENERATE_H
#define SEALPOINT_TESTS_VOLUME_GENERATE_H

#include "support.h"

#define BITLOCKER_GUID "83330ba8-07b7-4ea8-b641-ff7bdf18f6b3"

enum bitlocker_era { BITLOCKER_NORMAL, BITLOCKER_TO_GO, BITLOCKER_VISTA, BITLOCKER_EOW };

struct bitlocker {
    enum bitlocker_era era;
    uint64_t copies[3];
    uint16_t state, next, cipher, sector;
    uint64_t encrypted; /* bytes */
    uint32_t nonce;
    uint16_t protectors[8]; /* types; their GUIDs are all 0x11, 0x22, … */
    size_t protector_count;
    const char *description; /* ASCII */
};

enum { BITLOCKER_BLOCK_MAX = 4096 };
/* One metadata block with its checksum. Returns its bytes, checksum included. */
size_t bitlocker_block(const struct bitlocker *, uint8_t block[BITLOCKER_BLOCK_MAX]);
void bitlocker_boot(const struct bitlocker *, uint8_t sector[512]);
/* Sector 0 and the three copies. */
void bitlocker_put(const struct image *, const struct bitlocker *);
/* After a change: the checksum over what the block says to be its size. */
void bitlocker_fix(uint8_t *block, size_t capacity);

/* A superblock 1.2 of a mirror with one leg, whose data begin at 1 MiB. */
void md_put_mirror(const struct image *, uint64_t data_sectors);
void md_fix(uint8_t *super);

/* Replaces the first `from` in the JSON of both copies of a LUKS2 header by `to`, and sets the
 * checksums right. `header_bytes` is the size of a copy. */
void luks2_edit(const struct image *, uint32_t header_bytes, const char *from, const char *to);
void luks2_fix(uint8_t *copy, uint32_t header_bytes);

#endif
