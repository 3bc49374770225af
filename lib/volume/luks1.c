/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * LUKS1 (LUKS On-Disk Format Specification 1.2.3). One header, big endian, no checksum: what it
 * says is held against the rules of the format instead, the same ones libcryptsetup refuses by. */
#include "volume/internal.h"
#include <stdio.h>
#include <string.h>

enum {
    MAGIC_AT = 0,          /* "LUKS" 0xba 0xbe; 0xde 0xad while an offline re-encryption runs */
    VERSION_AT = 6,        /* u16 */
    CIPHER_NAME_AT = 8,    /* 32 */
    CIPHER_MODE_AT = 40,   /* 32 */
    HASH_AT = 72,          /* 32 */
    PAYLOAD_AT = 104,      /* u32, sectors; 0: detached */
    KEY_BYTES_AT = 108,    /* u32 */
    UUID_AT = 168,         /* 40 */
    SLOTS_AT = 208,        /* 8 × 48 */
    HEADER_BYTES = 592,    /*  */
    SLOT_BYTES = 48,       /*  */
    SLOT_ITERATIONS = 4,   /* u32, in a slot; at 0 its state */
    SLOT_OFFSET = 40,      /* u32, sectors */
    SLOT_STRIPES = 44,     /* u32 */
    SLOTS = 8,             /*  */
    SECTOR = 512,          /*  */
    HEADER_CAPTURE = 4096, /* header with the padding before the first slot */
    KEY_BYTES_MAX = 512,
};
#define SLOT_ACTIVE   0x00ac71f3u
#define SLOT_DISABLED 0x0000deadu

static const uint8_t magic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};
static const uint8_t magic_unusable[6] = {'L', 'U', 'K', 'S', 0xde, 0xad};

struct slot {
    uint32_t state, iterations;
    uint64_t offset, length; /* of the key material, bytes */
};

/* The anti-forensic splitter spreads the key over `stripes` copies, in whole sectors. */
static struct slot slot_at(const uint8_t *header, unsigned number)
{
    const uint8_t *s = header + SLOTS_AT + (size_t)number * SLOT_BYTES;
    uint64_t bytes = (uint64_t)sp_be32(header + KEY_BYTES_AT) * sp_be32(s + SLOT_STRIPES);
    return (struct slot){.state = sp_be32(s),
                         .iterations = sp_be32(s + SLOT_ITERATIONS),
                         .offset = (uint64_t)sp_be32(s + SLOT_OFFSET) * SECTOR,
                         .length = bytes / SECTOR * SECTOR + (bytes % SECTOR ? SECTOR : 0)};
}

static bool has_end(const uint8_t *text, size_t size)
{
    return text[0] && memchr(text, 0, size);
}

static int check_fields(const uint8_t *h, Sp__HeaderFacts *facts)
{
    if (!has_end(h + CIPHER_NAME_AT, 32) || !has_end(h + CIPHER_MODE_AT, 32) ||
        !has_end(h + HASH_AT, 32))
        return volume_set_damage(facts, "cipher or hash name is empty or has no end");
    if (!memchr(h + UUID_AT, 0, 40))
        return volume_set_damage(facts, "the UUID has no end");
    uint32_t key_bytes = sp_be32(h + KEY_BYTES_AT);
    if (key_bytes == 0 || key_bytes > KEY_BYTES_MAX)
        return volume_set_damage(facts, "impossible key length of %u bytes", key_bytes);
    return 0;
}

/* Where one slot may not lie. A detached header has no payload to run into. */
static int check_slot(const struct slot *s, unsigned number, uint64_t payload, uint64_t size,
                      Sp__HeaderFacts *facts)
{
    uint64_t end = s->offset + s->length; /* both below 2^42 */
    if (s->state != SLOT_ACTIVE && s->state != SLOT_DISABLED)
        return volume_set_damage(facts, "keyslot %u is neither on nor off (state %08x)", number,
                                 s->state);
    if (s->offset < HEADER_BYTES)
        return volume_set_damage(facts, "key material of slot %u lies on the header", number);
    if (payload && end > payload)
        return volume_set_damage(facts, "key material of slot %u reaches into the payload", number);
    if (s->state == SLOT_ACTIVE && end > size)
        return volume_set_damage(facts, "key material of slot %u lies past the end of the volume",
                                 number);
    return 0;
}

static int check_slots(const uint8_t *h, uint64_t size, Sp__HeaderFacts *facts)
{
    uint64_t payload = (uint64_t)sp_be32(h + PAYLOAD_AT) * SECTOR;
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot a = slot_at(h, i);
        int rc = check_slot(&a, i, payload, size, facts);
        for (unsigned j = 0; rc == 0 && j < i; j++) {
            struct slot b = slot_at(h, j);
            if (a.offset < b.offset + b.length && b.offset < a.offset + a.length)
                rc = volume_set_damage(facts, "key material of slots %u and %u overlaps", j, i);
        }
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int add_slots(const uint8_t *h, Sp__HeaderFacts *facts)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot s = slot_at(h, i);
        if (s.state != SLOT_ACTIVE)
            continue;
        char id[12];
        snprintf(id, sizeof id, "%u", i);
        Sp__Protector *p =
            volume_add_protector(facts, id, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_LUKS_KEYSLOT);
        if (!p)
            return -ENOMEM;
        p->kdf_iterations = s.iterations;
        p->key_bits = facts->key_bits;
        p->priority = 1;
        if (volume_set_text(&p->kdf, "pbkdf2", 8) < 0 ||
            volume_set_text(&p->hash, h + HASH_AT, 32) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int fill(const uint8_t *h, Sp__HeaderFacts *facts)
{
    facts->version = 1;
    facts->sector_bytes = SECTOR;
    facts->payload_offset_bytes = (uint64_t)sp_be32(h + PAYLOAD_AT) * SECTOR;
    facts->detached = facts->payload_offset_bytes == 0;
    facts->digest_count = 1;
    uint32_t key_bytes = sp_be32(h + KEY_BYTES_AT);
    facts->key_bits = key_bytes <= KEY_BYTES_MAX ? key_bytes * 8 : 0;
    if (volume_set_format(&facts->cipher, "%.32s-%.32s", (const char *)h + CIPHER_NAME_AT,
                          (const char *)h + CIPHER_MODE_AT) < 0 ||
        volume_set_text(&facts->hash, h + HASH_AT, 32) < 0 ||
        volume_set_text(&facts->uuid, h + UUID_AT, 40) < 0)
        return -ENOMEM;
    return add_slots(h, facts);
}

static void header_ranges(const struct volume_reader *reader, const uint8_t *h,
                          struct volume_ranges *ret)
{
    *ret = (struct volume_ranges){.at = {{0, HEADER_CAPTURE}}, .count = 1};
    bool sane = reader->size_bytes >= HEADER_BYTES && sp_be32(h + KEY_BYTES_AT) <= KEY_BYTES_MAX;
    for (unsigned i = 0; sane && i < SLOTS; i++) {
        struct slot s = slot_at(h, i);
        /* A damaged header may claim anything; no true slot is larger than this. */
        if (s.state != SLOT_ACTIVE || s.length > VOLUME_CAPTURE_MAX)
            continue;
        ret->at[ret->count][0] = s.offset;
        ret->at[ret->count++][1] = s.length;
    }
    ret->count = volume_join_ranges(ret->at, ret->count, reader->size_bytes);
}

static int luks1_probe(const struct volume_reader *reader, Sp__HeaderFacts *facts,
                       struct volume_ranges *ranges)
{
    uint8_t h[HEADER_BYTES] = {0};
    if (reader->size_bytes < VERSION_AT + 2)
        return VOLUME_NO;
    uint32_t there = reader->size_bytes < sizeof h ? (uint32_t)reader->size_bytes : sizeof h;
    int rc = volume_read(reader, 0, h, there);
    if (rc < 0)
        return rc;
    bool unusable = memcmp(h, magic_unusable, sizeof magic) == 0;
    if ((memcmp(h, magic, sizeof magic) != 0 && !unusable) || sp_be16(h + VERSION_AT) != 1)
        return VOLUME_NO;
    if ((rc = fill(h, facts)) < 0)
        return rc;
    if (there < sizeof h)
        rc = volume_set_damage(facts, "the header is cut off");
    else if (unusable) {
        facts->conversion_in_progress = true;
        rc = volume_set_damage(facts, "an offline re-encryption was interrupted: the header is "
                                      "marked unusable until it is finished");
    } else if ((rc = check_fields(h, facts)) == 0)
        rc = check_slots(h, reader->size_bytes, facts);
    if (rc < 0)
        return rc;
    rc = volume_add_copy(facts, 0,
                         facts->damaged ? SP__COPY_HEALTH__COPY_HEALTH_DAMAGED
                                        : SP__COPY_HEALTH__COPY_HEALTH_GOOD,
                         0, facts->damage);
    if (rc < 0)
        return rc;
    header_ranges(reader, h, ranges);
    return facts->damaged ? VOLUME_DAMAGED : VOLUME_YES;
}

static int luks1_header_ranges(const struct volume_reader *reader, const Sp__HeaderFacts *facts,
                               struct volume_ranges *ret)
{
    (void)facts;
    uint8_t h[HEADER_BYTES];
    int rc = reader->size_bytes < sizeof h ? 0 : volume_read(reader, 0, h, sizeof h);
    if (rc == 0)
        header_ranges(reader, h, ret);
    return rc;
}

const struct volume_format volume_luks1 = {
    .name = "luks1",
    .kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS1,
    .probe = luks1_probe,
    .header_ranges = luks1_header_ranges,
};
