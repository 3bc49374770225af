/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * BitLocker, from real volumes and from what libbde and cryptsetup have published about the format.
 *
 *   sector 0 ── recognition GUID ── offsets of three FVE metadata copies (64 KiB each)
 *   copy:   0 "-FVE-FS-"   8 u16 size/16   10 u16 version   12,14 u16 state now, next
 *          16 u64 encrypted bytes   32,40,48 u64 offsets of the three copies
 *          64 u32 size of header and entries   80 volume GUID   96 u32 next nonce counter
 *         100 u16 cipher   104 FILETIME created   112 entries: u16 size, type, value, version
 *   size×16: u16 size, u16 version, u32 CRC-32 of all before
 *
 * A volume whose sector 0 is lost is still BitLocker: each copy names all three, so that one good
 * copy is enough. It is looked for through the backup boot sector at the end of the volume, then by
 * its signature where Windows puts the first copy as a rule (from 33 MiB on), then in all of the
 * first 256 MiB; and only when nothing else begins there. The copies may lie at any cluster, but
 * the first one of each volume seen so far lies in that part, mostly at 33 MiB, and to read whole
 * disks for the others would take hours.
 *
 * The copies are read where sector 0 says; where the good ones say that they lie elsewhere, there.
 * Vista's sector 0 knows of one copy only. */
#include "volume/internal.h"
#include <stdio.h>
#include <string.h>

enum {
    SECTOR = 512,
    COPIES = 3,
    COPY_BYTES = 64 << 10,
    BLOCK_BYTES = 64,   /* block header */
    HEADER_BYTES = 112, /* block header and metadata header */
    GUID_AT = 160,
    GUID_AT_TOGO = 424,
    SEARCH_BYTES = 256 << 20,
    SEARCH_STEP = 1 << 20,
    USUAL_AT = 33 << 20, /* the first copy in most volumes */
    USUAL_BYTES = 1 << 20,
    TAIL_BYTES = 64 << 10,  /* holds the backup boot sector, a cluster may follow it */
    SEARCH_CANDIDATES = 64, /* signatures tried; a hostile volume may be full of them */
    ENTRY_VMK = 0x0002,
    ENTRY_DESCRIPTION = 0x0007,
    VALUE_UNICODE = 0x0002,
    VALUE_VMK = 0x0008,
    VMK_BYTES = 36, /* entry header, GUID, FILETIME, two u16 */
    STRETCH_ROUNDS = 1 << 20,
};

static const char signature[8] = {'-', 'F', 'V', 'E', '-', 'F', 'S', '-'};
/* 4967d63b-2e29-4ad8-8399-f6a339e3d001 */
static const uint8_t guid_normal[16] = {0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a,
                                        0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01};
/* 92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8: encrypt on write */
static const uint8_t guid_eow[16] = {0x3b, 0x4d, 0xa8, 0x92, 0x80, 0xdd, 0x0e, 0x4d,
                                     0x9e, 0x4e, 0xb1, 0xe3, 0x28, 0x4e, 0xae, 0xd8};

struct boot {
    bool found;      /* sector 0 says BitLocker */
    bool recognised; /* by a GUID that is known, or it is of the time before them */
    bool eow;
    uint16_t sector_bytes;
    uint64_t offsets[COPIES];
    size_t count;
};

struct copy {
    uint64_t offset;
    bool magic, good;
    uint8_t *data; /* `size` bytes; NULL without magic */
    uint32_t size, used;
    char problem[160];
};

struct volume {
    struct boot boot;
    struct copy copies[COPIES];
    size_t count;
    const struct copy *best;
    bool misled; /* sector 0 names places where the copies are not */
};

static void volume_clear(struct volume *v)
{
    for (size_t i = 0; i < COPIES; i++)
        free(v->copies[i].data);
}

/* ---- sector 0 ---- */

static void boot_from_guid(const uint8_t *at, struct boot *b)
{
    b->eow = memcmp(at, guid_eow, 16) == 0;
    b->recognised = b->eow || memcmp(at, guid_normal, 16) == 0;
    for (size_t i = 0; i < COPIES; i++)
        b->offsets[i] = sp_le64(at + 16 + 8 * i);
    b->count = COPIES;
}

static void parse_boot(const uint8_t s[SECTOR], struct boot *b)
{
    *b = (struct boot){.sector_bytes = sp_le16(s + 11)};
    if (memcmp(s + 3, signature, 8) == 0) {
        b->found = true;
        if (s[1] == 0x52) { /* Vista: one cluster number instead of three offsets */
            uint64_t cluster = (uint64_t)sp_le16(s + 11) * s[13];
            b->recognised = !volume_mul_overflows(sp_le64(s + 56), cluster, &b->offsets[0]);
            b->count = b->recognised ? 1 : 0;
        } else {
            boot_from_guid(s + GUID_AT, b);
        }
    } else if (memcmp(s + 3, "MSWIN4.1", 8) == 0) {
        /* To Go looks like a FAT volume; only the GUID tells. */
        boot_from_guid(s + GUID_AT_TOGO, b);
        b->found = b->recognised;
    }
    if (!b->found)
        *b = (struct boot){0};
}

static int read_boot(const struct volume_reader *reader, struct boot *b)
{
    uint8_t s[SECTOR];
    *b = (struct boot){0};
    if (reader->size_bytes < sizeof s)
        return 0;
    int rc = volume_read(reader, 0, s, sizeof s);
    if (rc == 0)
        parse_boot(s, b);
    return rc;
}

/* ---- metadata copies ---- */

static void bad(struct copy *c, const char *problem)
{
    snprintf(c->problem, sizeof c->problem, "%s", problem);
}

static void check_copy(struct copy *c)
{
    if (c->size < HEADER_BYTES) {
        bad(c, "cut off by the end of the volume");
        return;
    }
    uint16_t version = sp_le16(c->data + 10);
    uint32_t listed = sp_le32(c->data + BLOCK_BYTES);
    c->used = sp_le16(c->data + 8) * 16u;
    if (version == 1) /* Vista: its size field counts otherwise and there is no checksum */
        c->used = c->size;
    else if (version != 2) {
        bad(c, "unknown version");
        return;
    }
    if (c->used < HEADER_BYTES || (version == 2 && c->used + 8 > c->size)) {
        bad(c, "cut off, or of an impossible size");
        return;
    }
    if (version == 2 && volume_crc32(c->data, c->used) != sp_le32(c->data + c->used + 4)) {
        bad(c, "wrong checksum");
        return;
    }
    if (listed < HEADER_BYTES - BLOCK_BYTES || listed > c->used - BLOCK_BYTES ||
        sp_le32(c->data + BLOCK_BYTES + 8) != HEADER_BYTES - BLOCK_BYTES) {
        bad(c, "the header inside is malformed");
        return;
    }
    c->good = true;
}

static int read_copy(const struct volume_reader *reader, uint64_t offset, struct copy *c)
{
    free(c->data);
    *c = (struct copy){.offset = offset};
    if (offset >= reader->size_bytes || reader->size_bytes - offset < SECTOR) {
        bad(c, "past the end of the volume");
        return 0;
    }
    uint64_t left = reader->size_bytes - offset;
    c->size = left < COPY_BYTES ? (uint32_t)left : COPY_BYTES;
    SP_FREE uint8_t *data = malloc(c->size);
    if (!data)
        return -ENOMEM;
    int rc = volume_read(reader, offset, data, c->size);
    if (rc < 0)
        return rc;
    if (memcmp(data, signature, 8) != 0) {
        bad(c, "no signature");
        return 0;
    }
    c->magic = true;
    c->data = sp_steal(data);
    check_copy(c);
    return 0;
}

/* Every write of a wrapped key takes new nonces, so the copy with the higher counter is newer. */
static uint32_t nonce_of(const struct copy *c)
{
    return sp_le32(c->data + 96);
}

static int read_copies(const struct volume_reader *reader, const uint64_t *offsets, size_t count,
                       struct volume *v)
{
    v->count = count;
    v->best = NULL;
    for (size_t i = 0; i < count; i++) {
        int rc = read_copy(reader, offsets[i], &v->copies[i]);
        if (rc < 0)
            return rc;
    }
    for (size_t i = 0; i < count; i++)
        if (v->copies[i].good && (!v->best || nonce_of(&v->copies[i]) > nonce_of(v->best)))
            v->best = &v->copies[i];
    return 0;
}

/* The places of all copies, as a good one knows them. False if it does not even know its own. */
static bool offsets_by_copy(const struct copy *c, uint64_t offsets[COPIES])
{
    bool knows = false;
    for (size_t i = 0; i < COPIES; i++) {
        offsets[i] = sp_le64(c->data + 32 + 8 * i);
        knows |= offsets[i] == c->offset;
    }
    return knows;
}

/* The copies by the boot sector, then by what the best of them says. */
static int read_copies_by_boot(const struct volume_reader *reader, const struct boot *b,
                               struct volume *v)
{
    uint64_t own[COPIES];
    int rc = read_copies(reader, b->offsets, b->count, v);
    if (rc < 0 || !v->best || !offsets_by_copy(v->best, own) ||
        (b->count == COPIES && !memcmp(own, b->offsets, sizeof own)))
        return rc;
    v->misled = b->count == COPIES;
    return read_copies(reader, own, COPIES, v);
}

/* A good copy that knows its own place leads to the others. 1: found. */
static int try_candidate(const struct volume_reader *reader, uint64_t offset, struct volume *v)
{
    struct copy c = {0};
    uint64_t offsets[COPIES];
    int rc = read_copy(reader, offset, &c);
    bool knows = rc == 0 && c.good && offsets_by_copy(&c, offsets);
    free(c.data);
    if (rc < 0 || !knows)
        return rc;
    rc = read_copies(reader, offsets, COPIES, v);
    return rc < 0 ? rc : v->best != NULL;
}

/* The backup boot sector: the last sector of the volume, or one a little before the end of what
 * holds it. */
static int try_backup(const struct volume_reader *reader, struct volume *v)
{
    uint64_t size = reader->size_bytes / SECTOR * SECTOR;
    uint32_t length = size < TAIL_BYTES ? (uint32_t)size : TAIL_BYTES;
    SP_FREE uint8_t *tail = malloc(length);
    if (!tail)
        return -ENOMEM;
    int rc = volume_read(reader, size - length, tail, length);
    for (uint32_t at = length; rc == 0 && !v->best && at >= SECTOR; at -= SECTOR) {
        struct boot b;
        parse_boot(tail + at - SECTOR, &b);
        if (!b.found || !b.recognised)
            continue;
        rc = read_copies_by_boot(reader, &b, v);
        if (v->best && !v->boot.found) {
            v->boot = b;
            v->boot.found = false; /* sector 0 is lost all the same */
        }
    }
    return rc;
}

/* By signature in [from, end). 1: found. */
static int search(const struct volume_reader *reader, uint64_t from, uint64_t end, struct volume *v)
{
    unsigned tried = 0;
    if (from >= end)
        return 0;
    uint64_t most = end - from < SEARCH_STEP ? end - from : SEARCH_STEP;
    SP_FREE uint8_t *step = malloc(most);
    if (!step)
        return -ENOMEM;
    for (uint64_t at = from; at < end; at += SEARCH_STEP) {
        uint32_t now = end - at < SEARCH_STEP ? (uint32_t)(end - at) : SEARCH_STEP;
        int rc = volume_read(reader, at, step, now);
        if (rc < 0)
            return rc;
        for (uint32_t in = 0; in + SECTOR <= now; in += SECTOR) {
            if (memcmp(step + in, signature, 8) != 0)
                continue;
            rc = try_candidate(reader, at + in, v);
            if (rc != 0 || ++tried == SEARCH_CANDIDATES)
                return rc;
        }
    }
    return 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int find_copies(const struct volume_reader *reader, struct volume *v)
{
    uint64_t size = reader->size_bytes, all = SEARCH_BYTES;
    uint64_t *left = reader->search_left ? reader->search_left : &all;
    int rc = try_backup(reader, v);
    if (rc == 0 && !v->best)
        rc = search(reader, USUAL_AT, least(size, USUAL_AT + USUAL_BYTES), v);
    if (rc == 0 && !v->best) {
        uint64_t end = least(size, least(*left, SEARCH_BYTES));
        *left -= end;
        rc = search(reader, 0, end, v);
    }
    return rc < 0 ? rc : 0;
}

/* ---- facts ---- */

static uint64_t unix_ms_of(uint64_t filetime)
{
    uint64_t ms = filetime / 10000;
    return ms > 11644473600000u ? ms - 11644473600000u : 0;
}

/* UTF-16, little endian, up to a 0; what is no pair becomes '?'. */
static int set_utf16(char **field, const uint8_t *text, size_t size)
{
    char out[1024];
    size_t at = 0;
    for (size_t i = 0; i + 2 <= size && at + 5 < sizeof out; i += 2) {
        uint32_t c = sp_le16(text + i);
        if (c == 0)
            break;
        if (c >= 0xd800 && c < 0xdc00 && i + 4 <= size) {
            uint32_t low = sp_le16(text + i + 2);
            if (low >= 0xdc00 && low < 0xe000) {
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
                i += 2;
            }
        }
        if (c >= 0xd800 && c < 0xe000)
            c = '?';
        if (c < 0x80) {
            out[at++] = (char)c;
        } else if (c < 0x800) {
            out[at++] = (char)(0xc0 | c >> 6);
            out[at++] = (char)(0x80 | (c & 63));
        } else if (c < 0x10000) {
            out[at++] = (char)(0xe0 | c >> 12);
            out[at++] = (char)(0x80 | (c >> 6 & 63));
            out[at++] = (char)(0x80 | (c & 63));
        } else {
            out[at++] = (char)(0xf0 | c >> 18);
            out[at++] = (char)(0x80 | (c >> 12 & 63));
            out[at++] = (char)(0x80 | (c >> 6 & 63));
            out[at++] = (char)(0x80 | (c & 63));
        }
    }
    return volume_set_text(field, out, at);
}

static Sp__ProtectorType protector_type(uint16_t code)
{
    switch (code) {
    case 0x0000:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_CLEAR_KEY;
    case 0x0100:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM;
    case 0x0200:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_STARTUP_KEY;
    case 0x0300:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM_STARTUP_KEY;
    case 0x0500:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM_PIN;
    case 0x0800:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD;
    case 0x1000:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_SMART_CARD;
    case 0x2000:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_PASSWORD;
    default:
        return SP__PROTECTOR_TYPE__PROTECTOR_TYPE_UNSPECIFIED;
    }
}

/* Next entry of [at, end); false at the end or when the list breaks. */
static bool next_entry(const uint8_t *data, uint32_t *at, uint32_t end, const uint8_t **entry,
                       uint32_t *size)
{
    if (*at > end || end - *at < 8)
        return false;
    *entry = data + *at;
    *size = sp_le16(*entry);
    if (*size < 8 || *size > end - *at)
        return false;
    *at += *size;
    return true;
}

static int add_vmk(const uint8_t *entry, uint32_t size, Sp__HeaderFacts *facts)
{
    if (size < VMK_BYTES)
        return 0;
    char guid[37];
    volume_guid_text(entry + 8, guid);
    Sp__Protector *p = volume_add_protector(facts, guid, protector_type(sp_le16(entry + 34)));
    if (!p)
        return -ENOMEM;
    p->created_unix_ms = unix_ms_of(sp_le64(entry + 24));
    if (p->type == SP__PROTECTOR_TYPE__PROTECTOR_TYPE_CLEAR_KEY)
        facts->protection_suspended = true;
    if (p->type == SP__PROTECTOR_TYPE__PROTECTOR_TYPE_PASSWORD ||
        p->type == SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD) {
        p->kdf_iterations = STRETCH_ROUNDS;
        if (volume_set_text(&p->kdf, "bitlocker", 16) < 0)
            return -ENOMEM;
    }
    uint32_t at = VMK_BYTES, inner_size;
    const uint8_t *inner;
    while (next_entry(entry, &at, size, &inner, &inner_size))
        if (sp_le16(inner + 4) == VALUE_UNICODE)
            return set_utf16(&p->description, inner + 8, inner_size - 8);
    return 0;
}

static int add_entries(const struct copy *c, bool only_description, Sp__HeaderFacts *facts)
{
    uint32_t at = HEADER_BYTES, listed = sp_le32(c->data + BLOCK_BYTES), size;
    uint32_t end = listed < c->size - BLOCK_BYTES ? BLOCK_BYTES + listed : c->size;
    const uint8_t *entry;
    while (next_entry(c->data, &at, end, &entry, &size)) {
        uint16_t type = sp_le16(entry + 2), value = sp_le16(entry + 4);
        int rc = 0;
        if (type == ENTRY_VMK && value == VALUE_VMK && !only_description)
            rc = add_vmk(entry, size, facts);
        else if (type == ENTRY_DESCRIPTION && value == VALUE_UNICODE)
            rc = set_utf16(&facts->description, entry + 8, size - 8);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int set_cipher(uint16_t code, Sp__HeaderFacts *facts)
{
    static const struct {
        uint16_t code;
        uint16_t bits;
        const char *name;
    } ciphers[] = {
        {0x8000, 128, "aes-cbc-elephant"}, {0x8001, 256, "aes-cbc-elephant"},
        {0x8002, 128, "aes-cbc-eboiv"},    {0x8003, 256, "aes-cbc-eboiv"},
        {0x8004, 128, "aes-xts-plain64"},  {0x8005, 256, "aes-xts-plain64"},
    };
    for (size_t i = 0; i < SP_COUNT(ciphers); i++)
        if (ciphers[i].code == code) {
            facts->key_bits = ciphers[i].bits;
            return volume_set_text(&facts->cipher, ciphers[i].name, 32);
        }
    return code ? volume_set_format(&facts->cipher, "unknown-%04x", code) : 0;
}

static int set_state(const struct volume *v, uint64_t volume_bytes, Sp__HeaderFacts *facts)
{
    static const char *const names[] = {"",       "decrypted", "switching",
                                        "paused", "encrypted", "switching"};
    uint16_t now = sp_le16(v->best->data + 12), next = sp_le16(v->best->data + 14);
    const char *name = now < SP_COUNT(names) && *names[now] ? names[now] : "unknown";
    /* An encrypt-on-write volume says "encrypted" as well. */
    bool eow = v->boot.eow && now != 1;
    if (eow && now == 4)
        name = "encrypt-on-write";
    facts->conversion_in_progress = eow || now != next || (now != 1 && now != 4);
    /* How much is encrypted; on an encrypt-on-write volume it says how much will be. */
    uint64_t done = sp_le64(v->best->data + 16);
    if (!eow && volume_bytes && done <= volume_bytes)
        facts->conversion_percent = (uint32_t)((double)done * 100 / (double)volume_bytes);
    return volume_set_text(&facts->state, name, 32);
}

static int add_copies(const struct volume *v, Sp__HeaderFacts *facts)
{
    for (size_t i = 0; i < v->count; i++) {
        const struct copy *c = &v->copies[i];
        Sp__CopyHealth health = SP__COPY_HEALTH__COPY_HEALTH_ABSENT;
        const char *problem = c->problem;
        if (c->good && nonce_of(c) < nonce_of(v->best)) {
            health = SP__COPY_HEALTH__COPY_HEALTH_STALE;
            problem = "older than another copy";
        } else if (c->good) {
            health = SP__COPY_HEALTH__COPY_HEALTH_GOOD;
        } else if (c->magic) {
            health = SP__COPY_HEALTH__COPY_HEALTH_DAMAGED;
        }
        uint64_t version = c->magic && c->size >= HEADER_BYTES ? sp_le16(c->data + 10) : 0;
        if (volume_add_copy(facts, c->offset, health, version, problem) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int fill(const struct volume *v, uint64_t volume_bytes, Sp__HeaderFacts *facts)
{
    char guid[37];
    const uint8_t *d = v->best->data;
    facts->version = sp_le16(d + 10);
    facts->sector_bytes = v->boot.sector_bytes; /* of a lost sector 0: of its backup, else 0 */
    facts->created_unix_ms = unix_ms_of(sp_le64(d + 104));
    volume_guid_text(d + 80, guid);
    if (volume_set_text(&facts->uuid, guid, sizeof guid) < 0 ||
        set_cipher(sp_le16(d + 100), facts) < 0 || set_state(v, volume_bytes, facts) < 0 ||
        add_entries(v->best, false, facts) < 0 || add_copies(v, facts) < 0)
        return -ENOMEM;
    if (!v->boot.found)
        return volume_set_damage(facts, "sector 0 is lost, the metadata copies are not: rebuild it "
                                        "from them (repair-bde) before anything can open it");
    if (!v->boot.recognised)
        return volume_set_damage(facts, "sector 0 has an unknown recognition GUID");
    if (v->misled)
        return volume_set_damage(facts, "sector 0 names places where the metadata copies are not: "
                                        "rebuild it from them (repair-bde)");
    return 0;
}

/* Sector 0 says BitLocker, but no copy is good. What a bad copy says about itself is better than
 * no name at all. */
static int fill_damaged(const struct volume *v, Sp__HeaderFacts *facts)
{
    facts->sector_bytes = v->boot.sector_bytes;
    for (size_t i = 0; i < v->count; i++) {
        const struct copy *c = &v->copies[i];
        if (!c->magic || c->size < HEADER_BYTES || sp_is_zero(c->data + 80, 16))
            continue;
        char guid[37];
        volume_guid_text(c->data + 80, guid);
        facts->version = sp_le16(c->data + 10);
        if (volume_set_text(&facts->uuid, guid, sizeof guid) < 0 || add_entries(c, true, facts) < 0)
            return -ENOMEM;
        break;
    }
    if (add_copies(v, facts) < 0)
        return -ENOMEM;
    return volume_set_damage(facts, "no copy of the BitLocker metadata is good%s%s",
                             v->count ? ": the first: " : "", v->count ? v->copies[0].problem : "");
}

static int probe_volume(const struct volume_reader *reader, struct volume *v,
                        Sp__HeaderFacts *facts)
{
    int rc = read_boot(reader, &v->boot);
    if (rc < 0)
        return rc;
    if (v->boot.found && (rc = read_copies_by_boot(reader, &v->boot, v)) < 0)
        return rc;
    if (!v->boot.found) {
        rc = volume_holds_something_else(reader);
        if (rc != 0)
            return rc < 0 ? rc : VOLUME_NO;
    }
    if (!v->best) {
        if ((rc = find_copies(reader, v)) < 0)
            return rc;
        v->misled = v->best != NULL;
    }
    if (!v->best && !v->boot.found)
        return VOLUME_NO;
    rc = v->best ? fill(v, reader->size_bytes, facts) : fill_damaged(v, facts);
    if (rc < 0)
        return rc;
    return facts->damaged ? VOLUME_DAMAGED : VOLUME_YES;
}

static int bitlocker_header_ranges(const struct volume_reader *reader, const Sp__HeaderFacts *facts,
                                   struct volume_ranges *ret)
{
    if (facts->n_copies + 1 > VOLUME_RANGES_MAX)
        return -ENOSPC;
    *ret = (struct volume_ranges){.at = {{0, SECTOR}}, .count = 1};
    for (size_t i = 0; i < facts->n_copies; i++) {
        ret->at[ret->count][0] = facts->copies[i]->offset_bytes;
        ret->at[ret->count++][1] = COPY_BYTES;
    }
    ret->count = volume_join_ranges(ret->at, ret->count, reader->size_bytes);
    return 0;
}

static int bitlocker_probe(const struct volume_reader *reader, Sp__HeaderFacts *facts,
                           struct volume_ranges *ranges)
{
    struct volume v = {0};
    int match = probe_volume(reader, &v, facts);
    volume_clear(&v);
    int rc = match > VOLUME_NO ? bitlocker_header_ranges(reader, facts, ranges) : 0;
    return rc < 0 ? rc : match;
}

const struct volume_format volume_bitlocker = {
    .name = "bitlocker",
    .kind = SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER,
    .probe = bitlocker_probe,
    .header_ranges = bitlocker_header_ranges,
};
