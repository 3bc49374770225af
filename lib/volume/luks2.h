/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Between luks2.c (binary header, two copies) and luks2_json.c (the metadata inside). */
#ifndef SEALPOINT_VOLUME_LUKS2_H
#define SEALPOINT_VOLUME_LUKS2_H

#include "volume/internal.h"
#include <json-c/json.h>

enum {
    LUKS2_KEYSLOTS = 32,
    LUKS2_TOKENS = 32,
    LUKS2_SEGMENTS = 64,
    LUKS2_BINARY_BYTES = 4096,
    LUKS2_JWE_BYTES = 16384
};

/* Holds the metadata against the rules of the format. 0, or -EBADMSG with a sentence in `problem`.
 * header_bytes is the size of one copy. */
int luks2_json_check(struct json_object *root, uint64_t header_bytes, char problem[200]);
/* Facts from metadata that luks2_json_check() accepted; volume_bytes is the size of the volume, for
 * the progress of a conversion. 0 or -ENOMEM. */
int luks2_json_facts(struct json_object *root, uint64_t volume_bytes, Sp__HeaderFacts *facts);
/* The area of each keyslot, at most LUKS2_KEYSLOTS pairs. Returns their number. */
size_t luks2_json_areas(struct json_object *root, uint64_t (*ranges)[2]);
/* End of the furthest keyslot area, 0 without keyslots. */
uint64_t luks2_json_areas_end(struct json_object *root);

#endif
