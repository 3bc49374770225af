/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * LUKS2 (LUKS2 On-Disk Format Specification 1.1.1): a binary header with a checksum and JSON behind
 * it, twice: at 0 and at the size of one header. The good copy with the higher seqid counts.
 *
 * When the first copy is gone, the second is looked for where it can be; but it is believed only
 * when nothing else begins on the volume: a PV, a file system or a table written over the start
 * leaves the second copy of a dead header behind. */
#include "volume/luks2.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

enum {
    MAGIC_AT = 0,       /* "LUKS" or "SKUL", 0xba 0xbe */
    VERSION_AT = 6,     /* u16 */
    SIZE_AT = 8,        /* u64, binary header and JSON */
    SEQID_AT = 16,      /* u64 */
    LABEL_AT = 24,      /* 48 */
    ALGORITHM_AT = 72,  /* 32 */
    UUID_AT = 168,      /* 40 */
    SUBSYSTEM_AT = 208, /* 48 */
    OFFSET_AT = 256,    /* u64, where this copy lies */
    CHECKSUM_AT = 448,  /* 64 */
    CHECKSUM_BYTES = 64,
    JSON_DEPTH = 32,
};

static const uint8_t magic_first[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};
static const uint8_t magic_second[6] = {'S', 'K', 'U', 'L', 0xba, 0xbe};
static const uint8_t magic_unusable[6] = {'L', 'U', 'K', 'S', 0xde, 0xad};
/* Every size a header may have; the second copy begins at its size. */
static const uint64_t sizes[] = {0x4000,  0x8000,   0x10000,  0x20000, 0x40000,
                                 0x80000, 0x100000, 0x200000, 0x400000};

struct copy {
    uint64_t offset;
    bool magic; /* something like a header is here */
    bool good;
    uint8_t binary[LUKS2_BINARY_BYTES];
    uint64_t size, sequence;
    struct json_object *root; /* good ones only */
    char problem[200];
};

struct header {
    struct copy first, second;
    const struct copy *best; /* NULL: none is good */
};

static void header_clear(struct header *h)
{
    json_object_put(h->first.root);
    json_object_put(h->second.root);
}

static bool size_is_legal(uint64_t size)
{
    for (size_t i = 0; i < SP_COUNT(sizes); i++)
        if (sizes[i] == size)
            return true;
    return false;
}

/* What keeps a copy from being good goes into its problem; only errors of reading are returned. */
static int bad(struct copy *c, const char *text)
{
    snprintf(c->problem, sizeof c->problem, "%s", text);
    return 0;
}

/* The checksum is over the whole copy with the checksum's own field zero. 1 right, 0 wrong or
 * negative errno (-ENOTSUP: no such algorithm here). */
static int checksum_is_right(const struct copy *c, uint8_t *all)
{
    char name[33] = {0};
    memcpy(name, c->binary + ALGORITHM_AT, 32);
    EVP_MD *algorithm = *name ? EVP_MD_fetch(NULL, name, NULL) : NULL;
    if (!algorithm)
        return -ENOTSUP;
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    memset(all + CHECKSUM_AT, 0, CHECKSUM_BYTES);
    int ok = EVP_Digest(all, (size_t)c->size, digest, &length, algorithm, NULL);
    EVP_MD_free(algorithm);
    if (ok != 1)
        return -ENOTSUP;
    return length > 0 && length <= CHECKSUM_BYTES &&
           memcmp(digest, c->binary + CHECKSUM_AT, length) == 0;
}

/* The JSON area: one object, a 0, zeros to the end. */
static int parse_json(struct copy *c, const char *text, size_t area)
{
    size_t size = strnlen(text, area);
    if (size == area)
        return bad(c, "the JSON area has no end");
    if (!sp_is_zero(text + size, area - size))
        return bad(c, "there are bytes behind the JSON text");
    struct json_tokener *parser = json_tokener_new_ex(JSON_DEPTH);
    if (!parser)
        return -ENOMEM;
    struct json_object *root = json_tokener_parse_ex(parser, text, (int)size);
    bool whole = root && json_tokener_get_error(parser) == json_tokener_success &&
                 json_tokener_get_parse_end(parser) == size;
    json_tokener_free(parser);
    if (!whole) {
        json_object_put(root);
        return bad(c, "the JSON text is malformed");
    }
    if (luks2_json_check(root, c->size, c->problem) < 0) {
        json_object_put(root);
        return 0;
    }
    c->root = root;
    c->good = true;
    return 0;
}

static int read_body(const struct volume_reader *reader, struct copy *c)
{
    if (c->size > reader->size_bytes || c->offset > reader->size_bytes - c->size)
        return bad(c, "cut off by the end of the volume");
    SP_FREE uint8_t *all = malloc(c->size);
    if (!all)
        return -ENOMEM;
    int rc = volume_read(reader, c->offset, all, (uint32_t)c->size);
    if (rc < 0)
        return rc;
    rc = checksum_is_right(c, all);
    if (rc == -ENOTSUP)
        return bad(c, "unknown checksum algorithm");
    if (rc <= 0)
        return rc < 0 ? rc : bad(c, "wrong checksum");
    return parse_json(c, (const char *)all + LUKS2_BINARY_BYTES,
                      (size_t)c->size - LUKS2_BINARY_BYTES);
}

static int read_copy(const struct volume_reader *reader, uint64_t offset, bool second,
                     struct copy *c)
{
    json_object_put(c->root);
    *c = (struct copy){.offset = offset};
    if (offset >= reader->size_bytes)
        return bad(c, "past the end of the volume");
    uint64_t left = reader->size_bytes - offset;
    int rc = volume_read(reader, offset, c->binary,
                         left < sizeof c->binary ? (uint32_t)left : sizeof c->binary);
    if (rc < 0)
        return rc;
    bool unusable = !second && memcmp(c->binary, magic_unusable, sizeof magic_unusable) == 0;
    if (memcmp(c->binary, second ? magic_second : magic_first, sizeof magic_first) != 0 &&
        !unusable)
        return bad(c, "no magic");
    c->magic = true;
    c->size = sp_be64(c->binary + SIZE_AT);
    c->sequence = sp_be64(c->binary + SEQID_AT);
    if (unusable)
        return bad(c, "marked unusable by an interrupted offline re-encryption");
    if (left < sizeof c->binary)
        return bad(c, "cut off by the end of the volume");
    if (sp_be16(c->binary + VERSION_AT) != 2)
        return bad(c, "unknown version");
    if (!size_is_legal(c->size))
        return bad(c, "impossible header size");
    if (sp_be64(c->binary + OFFSET_AT) != offset)
        return bad(c, "says that it lies elsewhere");
    return read_body(reader, c);
}

/* Without a good first copy nobody says where the second lies. A good one ends the search; else
 * the first that has a magic and believes to be where it is stays in `second`. */
static int find_second(const struct volume_reader *reader, struct copy *second)
{
    SP_FREE struct copy *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    for (size_t i = 0; i < SP_COUNT(sizes); i++) {
        int rc = read_copy(reader, sizes[i], true, c);
        if (rc < 0)
            return rc;
        bool in_place = c->magic && sp_be64(c->binary + OFFSET_AT) == sizes[i] &&
                        sp_be16(c->binary + VERSION_AT) == 2;
        if (c->good || (in_place && !second->magic)) {
            json_object_put(second->root);
            *second = *c;
            c->root = NULL;
        }
        if (second->good)
            break;
    }
    return 0;
}

static int read_header(const struct volume_reader *reader, struct header *h)
{
    int rc = read_copy(reader, 0, false, &h->first);
    if (rc < 0)
        return rc;
    /* Then a second copy would not be believed. */
    if (!h->first.magic && reader->other == VOLUME_OTHER_THERE)
        return 0;
    if (h->first.good) {
        rc = read_copy(reader, h->first.size, true, &h->second);
    } else {
        h->second = (struct copy){.offset = sizes[0]};
        snprintf(h->second.problem, sizeof h->second.problem, "not found");
        rc = find_second(reader, &h->second);
    }
    if (rc < 0)
        return rc;
    if (h->first.good && h->second.good)
        h->best = h->second.sequence > h->first.sequence ? &h->second : &h->first;
    else
        h->best = h->first.good ? &h->first : h->second.good ? &h->second : NULL;
    return 0;
}

static int add_copy(Sp__HeaderFacts *facts, const struct copy *c, const struct copy *best)
{
    Sp__CopyHealth health = SP__COPY_HEALTH__COPY_HEALTH_GOOD;
    const char *problem = c->problem;
    if (!c->good)
        health =
            c->magic ? SP__COPY_HEALTH__COPY_HEALTH_DAMAGED : SP__COPY_HEALTH__COPY_HEALTH_ABSENT;
    else if (best->sequence > c->sequence) {
        health = SP__COPY_HEALTH__COPY_HEALTH_STALE;
        problem = "older than the other copy";
    }
    return volume_add_copy(facts, c->offset, health, c->sequence, problem);
}

static int fill_binary(const uint8_t *binary, Sp__HeaderFacts *facts)
{
    facts->version = 2;
    if (volume_set_text(&facts->uuid, binary + UUID_AT, 40) < 0 ||
        volume_set_text(&facts->label, binary + LABEL_AT, 48) < 0 ||
        volume_set_text(&facts->subsystem, binary + SUBSYSTEM_AT, 48) < 0)
        return -ENOMEM;
    return 0;
}

/* Neither copy is good, but one says that this was LUKS2. */
static int fill_damaged(const struct volume_reader *reader, const struct header *h,
                        Sp__HeaderFacts *facts)
{
    const struct copy *any = h->first.magic ? &h->first : &h->second;
    char uuid[41] = {0};
    memcpy(uuid, any->binary + UUID_AT, 40);
    if (sp_uuid_valid(uuid) && fill_binary(any->binary, facts) < 0)
        return -ENOMEM;
    facts->version = 2;
    if (memcmp(any->binary, magic_unusable, sizeof magic_unusable) == 0)
        facts->conversion_in_progress = true;
    /* An unlucky file system may begin with these six bytes: say so, a person must look. */
    SP_CLEANUP(volume_content) Sp__Content *content = NULL;
    bool ambiguous = false;
    int rc = volume_content_clear(reader, &content, &ambiguous);
    if (rc < 0)
        return rc;
    if (volume_set_damage(
            facts, "no copy of the LUKS2 header is good (first: %s; second: %s)%s%s%s",
            h->first.problem, h->second.problem,
            content ? "; ambiguous, there is also the signature of " : "",
            content ? content->type : "", content ? " and the magic may be a stray one" : "") < 0)
        return -ENOMEM;
    if (add_copy(facts, &h->first, NULL) < 0 || add_copy(facts, &h->second, NULL) < 0)
        return -ENOMEM;
    return VOLUME_DAMAGED;
}

static int fill_good(const struct volume_reader *reader, const struct header *h,
                     Sp__HeaderFacts *facts)
{
    if (fill_binary(h->best->binary, facts) < 0 ||
        luks2_json_facts(h->best->root, reader->size_bytes, facts) < 0 ||
        add_copy(facts, &h->first, h->best) < 0 || add_copy(facts, &h->second, h->best) < 0)
        return -ENOMEM;
    if (luks2_json_areas_end(h->best->root) > reader->size_bytes) {
        if (volume_set_damage(facts, "key material lies past the end of the volume") < 0)
            return -ENOMEM;
        return VOLUME_DAMAGED;
    }
    return VOLUME_YES;
}

static void header_ranges(const struct volume_reader *reader, const struct header *h,
                          struct volume_ranges *ret)
{
    uint64_t size = h->best ? h->best->size : sizes[0];
    *ret = (struct volume_ranges){.at = {{0, size}, {h->second.offset, size}}, .count = 2};
    /* Only the areas in use: the rest of the keyslots area is noise from luksFormat or zeros, it
     * opens nothing, and 16 MiB of it in each manifest would be in the way. */
    if (h->best)
        ret->count += luks2_json_areas(h->best->root, ret->at + ret->count);
    ret->count = volume_join_ranges(ret->at, ret->count, reader->size_bytes);
}

static int judge(const struct volume_reader *reader, const struct header *h, Sp__HeaderFacts *facts,
                 struct volume_ranges *ranges)
{
    /* Version 1 is another row's. */
    if (h->first.magic && sp_be16(h->first.binary + VERSION_AT) == 1)
        return VOLUME_NO;
    if (!h->first.magic && !h->second.magic)
        return VOLUME_NO;
    int rc = h->first.magic ? 0 : volume_holds_something_else(reader);
    if (rc != 0)
        return rc < 0 ? rc : VOLUME_NO;
    header_ranges(reader, h, ranges);
    return h->best ? fill_good(reader, h, facts) : fill_damaged(reader, h, facts);
}

static int luks2_probe(const struct volume_reader *reader, Sp__HeaderFacts *facts,
                       struct volume_ranges *ranges)
{
    SP_FREE struct header *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    int rc = read_header(reader, h);
    if (rc == 0)
        rc = judge(reader, h, facts, ranges);
    header_clear(h);
    return rc;
}

static int luks2_header_ranges(const struct volume_reader *reader, const Sp__HeaderFacts *facts,
                               struct volume_ranges *ret)
{
    (void)facts;
    _Static_assert(VOLUME_RANGES_MAX >= LUKS2_KEYSLOTS + 2, "room for both copies and all areas");
    SP_FREE struct header *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    int rc = read_header(reader, h);
    if (rc == 0)
        header_ranges(reader, h, ret);
    header_clear(h);
    return rc;
}

const struct volume_format volume_luks2 = {
    .name = "luks2",
    .kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS2,
    .probe = luks2_probe,
    .header_ranges = luks2_header_ranges,
};
