/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The JSON metadata of LUKS2: the checks of the specification that a key depends on, and facts. */
#include "volume/luks2.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { KEYSLOTS_AREA_MAX = 128 << 20 };

__attribute__((format(printf, 2, 3))) static int refuse(char problem[200], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(problem, 200, format, args);
    va_end(args);
    return -EBADMSG;
}

/* ---- typed access; NULL or false when the type is not the one asked for ---- */

static struct json_object *object_of(struct json_object *in, const char *key)
{
    struct json_object *o = NULL;
    if (!json_object_is_type(in, json_type_object) || !json_object_object_get_ex(in, key, &o) ||
        !json_object_is_type(o, json_type_object))
        return NULL;
    return o;
}

static struct json_object *array_of(struct json_object *in, const char *key)
{
    struct json_object *o = NULL;
    if (!json_object_is_type(in, json_type_object) || !json_object_object_get_ex(in, key, &o) ||
        !json_object_is_type(o, json_type_array))
        return NULL;
    return o;
}

static const char *text_of(struct json_object *in, const char *key)
{
    struct json_object *o = NULL;
    if (!json_object_is_type(in, json_type_object) || !json_object_object_get_ex(in, key, &o) ||
        !json_object_is_type(o, json_type_string))
        return NULL;
    return json_object_get_string(o);
}

static bool is_text(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

static bool int_of(struct json_object *in, const char *key, int64_t *ret)
{
    struct json_object *o = NULL;
    if (!json_object_is_type(in, json_type_object) || !json_object_object_get_ex(in, key, &o) ||
        !json_object_is_type(o, json_type_int))
        return false;
    *ret = json_object_get_int64(o);
    return true;
}

/* 64-bit numbers are decimal strings, because JSON numbers are doubles to many. */
static bool parse_u64(const char *text, uint64_t *ret)
{
    uint64_t value = 0;
    if (!text || !*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || volume_mul_overflows(value, 10, &value) ||
            volume_add_overflows(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *ret = value;
    return true;
}

static bool u64_of(struct json_object *in, const char *key, uint64_t *ret)
{
    return parse_u64(text_of(in, key), ret);
}

static struct json_object *numbered(struct json_object *in, unsigned number)
{
    char key[12];
    snprintf(key, sizeof key, "%u", number);
    return object_of(in, key);
}

/* Whether an array of strings names the number. */
static bool names(struct json_object *array, unsigned number)
{
    char key[12];
    snprintf(key, sizeof key, "%u", number);
    size_t count = array ? json_object_array_length(array) : 0;
    for (size_t i = 0; i < count; i++) {
        struct json_object *o = json_object_array_get_idx(array, i);
        if (json_object_is_type(o, json_type_string) && !strcmp(json_object_get_string(o), key))
            return true;
    }
    return false;
}

/* Every entry of an object is an object under a canonical number below `most`. */
static bool is_numbered(struct json_object *in, unsigned most)
{
    int found = 0;
    for (unsigned i = 0; i < most; i++)
        found += numbered(in, i) != NULL;
    return found == json_object_object_length(in);
}

/* Every string of an array names an entry of `of`. */
static bool refers(struct json_object *array, struct json_object *of)
{
    if (!array)
        return false;
    size_t count = json_object_array_length(array);
    for (size_t i = 0; i < count; i++) {
        struct json_object *o = json_object_array_get_idx(array, i);
        if (!json_object_is_type(o, json_type_string) || !object_of(of, json_object_get_string(o)))
            return false;
    }
    return true;
}

/* ---- checks ---- */

static bool area_of(struct json_object *keyslot, uint64_t *offset, uint64_t *size)
{
    struct json_object *area = object_of(keyslot, "area");
    return area && u64_of(area, "offset", offset) && u64_of(area, "size", size);
}

static int check_keyslot(struct json_object *keyslot, unsigned number, uint64_t least,
                         uint64_t most, char problem[200])
{
    int64_t key_size;
    uint64_t offset, size, end;
    const char *type = text_of(keyslot, "type");
    if (!type || !int_of(keyslot, "key_size", &key_size) || key_size < 0 || key_size > 4096)
        return refuse(problem, "keyslot %u lacks its type or key size", number);
    if (!area_of(keyslot, &offset, &size) || volume_add_overflows(offset, size, &end))
        return refuse(problem, "keyslot %u lacks its area", number);
    if (offset < least || end > most)
        return refuse(problem, "the area of keyslot %u lies outside of the keyslots area", number);
    if (is_text(type, "luks2") && (!text_of(object_of(keyslot, "kdf"), "type") ||
                                   !text_of(object_of(keyslot, "af"), "type") ||
                                   !text_of(object_of(keyslot, "area"), "encryption")))
        return refuse(problem, "keyslot %u lacks its kdf, af or encryption", number);
    return 0;
}

static int check_keyslots(struct json_object *keyslots, uint64_t least, uint64_t most,
                          char problem[200])
{
    if (!is_numbered(keyslots, LUKS2_KEYSLOTS))
        return refuse(problem, "a keyslot has no proper number");
    for (unsigned i = 0; i < LUKS2_KEYSLOTS; i++) {
        struct json_object *a = numbered(keyslots, i);
        if (!a)
            continue;
        int rc = check_keyslot(a, i, least, most, problem);
        if (rc < 0)
            return rc;
        uint64_t a_at = 0, a_size = 0, b_at, b_size;
        area_of(a, &a_at, &a_size);
        for (unsigned j = 0; j < i; j++)
            if (area_of(numbered(keyslots, j), &b_at, &b_size) && a_at < b_at + b_size &&
                b_at < a_at + a_size)
                return refuse(problem, "the areas of keyslots %u and %u overlap", j, i);
    }
    return 0;
}

static bool is_backup(struct json_object *segment)
{
    struct json_object *flags = array_of(segment, "flags");
    size_t count = flags ? json_object_array_length(flags) : 0;
    for (size_t i = 0; i < count; i++) {
        struct json_object *o = json_object_array_get_idx(flags, i);
        if (json_object_is_type(o, json_type_string) &&
            strncmp(json_object_get_string(o), "backup-", 7) == 0)
            return true;
    }
    return false;
}

static int check_segment(struct json_object *s, unsigned number, uint64_t header_end,
                         char problem[200])
{
    uint64_t offset, value, end;
    int64_t sector;
    const char *type = text_of(s, "type"), *size = text_of(s, "size");
    if (!type || !u64_of(s, "offset", &offset) || !size)
        return refuse(problem, "segment %u lacks its type, offset or size", number);
    if (strcmp(size, "dynamic") != 0 &&
        (!parse_u64(size, &value) || volume_add_overflows(offset, value, &end)))
        return refuse(problem, "segment %u has an impossible size", number);
    if (offset && offset < header_end)
        return refuse(problem, "segment %u begins inside the header", number);
    if (is_text(type, "crypt") && (!text_of(s, "encryption") || !u64_of(s, "iv_tweak", &value) ||
                                   !int_of(s, "sector_size", &sector) || sector < 512 ||
                                   sector > 4096 || (sector & (sector - 1))))
        return refuse(problem, "segment %u lacks its cipher, IV or sector size", number);
    return 0;
}

static int check_links(struct json_object *root, char problem[200])
{
    struct json_object *keyslots = object_of(root, "keyslots");
    struct json_object *segments = object_of(root, "segments");
    struct json_object *digests = object_of(root, "digests"), *tokens = object_of(root, "tokens");
    if (!is_numbered(digests, LUKS2_KEYSLOTS) || !is_numbered(tokens, LUKS2_TOKENS))
        return refuse(problem, "a digest or token has no proper number");
    for (unsigned i = 0; i < LUKS2_KEYSLOTS; i++) {
        struct json_object *d = numbered(digests, i);
        if (d && (!text_of(d, "type") || !refers(array_of(d, "keyslots"), keyslots) ||
                  !refers(array_of(d, "segments"), segments)))
            return refuse(problem, "digest %u names keyslots or segments that are not there", i);
    }
    for (unsigned i = 0; i < LUKS2_TOKENS; i++) {
        struct json_object *t = numbered(tokens, i);
        if (t && (!text_of(t, "type") || !refers(array_of(t, "keyslots"), keyslots)))
            return refuse(problem, "token %u lacks its type or names keyslots that are not there",
                          i);
    }
    return 0;
}

static int check_requirements(struct json_object *config, char problem[200])
{
    struct json_object *any = NULL;
    if (!json_object_object_get_ex(config, "requirements", &any))
        return 0;
    struct json_object *mandatory = array_of(object_of(config, "requirements"), "mandatory");
    size_t count = mandatory ? json_object_array_length(mandatory) : 0;
    if (!json_object_is_type(any, json_type_object) || count > 32)
        return refuse(problem, "malformed requirements");
    for (size_t i = 0; i < count; i++)
        if (!json_object_is_type(json_object_array_get_idx(mandatory, i), json_type_string))
            return refuse(problem, "malformed requirements");
    return 0;
}

int luks2_json_check(struct json_object *root, uint64_t header_bytes, char problem[200])
{
    static const char *const parts[] = {"keyslots", "tokens", "segments", "digests", "config"};
    for (size_t i = 0; i < SP_COUNT(parts); i++)
        if (!object_of(root, parts[i]))
            return refuse(problem, "the metadata has no %s", parts[i]);
    uint64_t json_size, area;
    struct json_object *config = object_of(root, "config");
    if (!u64_of(config, "json_size", &json_size) || !u64_of(config, "keyslots_size", &area) ||
        json_size != header_bytes - LUKS2_BINARY_BYTES || area > KEYSLOTS_AREA_MAX || area % 4096)
        return refuse(problem, "the configured sizes are impossible");
    uint64_t least = 2 * header_bytes, most = least + area;
    int rc = check_keyslots(object_of(root, "keyslots"), least, most, problem);
    if (rc < 0)
        return rc;
    struct json_object *segments = object_of(root, "segments");
    if (!is_numbered(segments, LUKS2_SEGMENTS))
        return refuse(problem, "a segment has no proper number");
    for (unsigned i = 0; i < LUKS2_SEGMENTS; i++) {
        struct json_object *s = numbered(segments, i);
        if (s && (rc = check_segment(s, i, most, problem)) < 0)
            return rc;
    }
    rc = check_links(root, problem);
    return rc < 0 ? rc : check_requirements(config, problem);
}

/* ---- facts ---- */

/* The digest that ties keyslots to the data as it lies there: the first that names a keyslot and a
 * segment which is not a backup of the state before or after a re-encryption. */
static bool opens_data(struct json_object *root, struct json_object *digest)
{
    struct json_object *segments = object_of(root, "segments");
    struct json_object *named = array_of(digest, "segments");
    for (unsigned i = 0; i < LUKS2_SEGMENTS; i++) {
        struct json_object *s = numbered(segments, i);
        if (s && !is_backup(s) && names(named, i))
            return true;
    }
    return false;
}

/* The first that names this number among its `of`: "keyslots" or "segments". */
static struct json_object *digest_of(struct json_object *root, const char *of, unsigned number)
{
    struct json_object *digests = object_of(root, "digests");
    for (unsigned i = 0; i < LUKS2_KEYSLOTS; i++) {
        struct json_object *d = numbered(digests, i);
        if (d && names(array_of(d, of), number))
            return d;
    }
    return NULL;
}

static uint64_t count_of(struct json_object *in, const char *key)
{
    int64_t value;
    return int_of(in, key, &value) && value > 0 ? (uint64_t)value : 0;
}

static int add_keyslot(struct json_object *root, struct json_object *slot, unsigned number,
                       Sp__HeaderFacts *facts)
{
    char id[12];
    snprintf(id, sizeof id, "%u", number);
    Sp__Protector *p =
        volume_add_protector(facts, id, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_LUKS_KEYSLOT);
    if (!p)
        return -ENOMEM;
    struct json_object *kdf = object_of(slot, "kdf"), *digest = digest_of(root, "keyslots", number);
    /* An unbound slot holds a key, but none that opens the data. */
    p->usable = is_text(text_of(slot, "type"), "luks2") && digest && opens_data(root, digest);
    p->key_bits = (uint32_t)count_of(slot, "key_size") * 8;
    int64_t priority;
    p->priority = int_of(slot, "priority", &priority) && priority >= 0 && priority <= 2
                      ? (int32_t)priority
                      : 1;
    bool pbkdf2 = is_text(text_of(kdf, "type"), "pbkdf2");
    p->kdf_iterations = count_of(kdf, pbkdf2 ? "iterations" : "time");
    p->kdf_memory_kib = count_of(kdf, "memory");
    p->kdf_parallel = (uint32_t)count_of(kdf, "cpus");
    if (p->usable && !facts->key_bits)
        facts->key_bits = p->key_bits;
    if (volume_set_text(&p->kdf, text_of(kdf, "type"), 32) < 0 ||
        (pbkdf2 && volume_set_text(&p->hash, text_of(kdf, "hash"), 32) < 0))
        return -ENOMEM;
    return 0;
}

static int add_keyslots(struct json_object *root, Sp__HeaderFacts *facts)
{
    struct json_object *keyslots = object_of(root, "keyslots");
    for (unsigned i = 0; i < LUKS2_KEYSLOTS; i++) {
        struct json_object *slot = numbered(keyslots, i);
        if (!slot)
            continue;
        /* Holds the state of a running re-encryption, no way to unlock. */
        if (is_text(text_of(slot, "type"), "reencrypt")) {
            facts->conversion_in_progress = true;
            continue;
        }
        int rc = add_keyslot(root, slot, i, facts);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The JWE of a clevis token: it opens nothing without the tang server (or the TPM) that it names,
 * so it is no secret. Anything but the five parts that clevis writes is left out. */
static int set_jwe(struct json_object *from, Sp__Token *token)
{
    static const char *const parts[] = {"protected", "encrypted_key", "iv", "ciphertext", "tag"};
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    struct json_object *jwe = is_text(token->type, "clevis") ? object_of(from, "jwe") : NULL;
    SP_BUFFER struct sp_buffer out = {.limit = LUKS2_JWE_BYTES};
    for (size_t i = 0; i < SP_COUNT(parts); i++) {
        const char *text = text_of(jwe, parts[i]);
        if (!text || text[strspn(text, allowed)])
            return 0;
        int rc = i > 0 ? sp_buffer_append(&out, ".", 1) : 0;
        if (rc == 0)
            rc = sp_buffer_append(&out, text, strlen(text));
        if (rc < 0)
            return rc == -EOVERFLOW ? 0 : rc;
    }
    token->jwe = (ProtobufCBinaryData){.data = out.data, .len = out.size};
    out = (struct sp_buffer){0};
    return 0;
}

static int add_tokens(struct json_object *root, Sp__HeaderFacts *facts)
{
    struct json_object *tokens = object_of(root, "tokens");
    for (unsigned i = 0; i < LUKS2_TOKENS; i++) {
        struct json_object *from = numbered(tokens, i), *slots = array_of(from, "keyslots");
        if (!from)
            continue;
        Sp__Token *token = malloc(sizeof *token);
        if (!token)
            return -ENOMEM;
        sp__token__init(token);
        token->number = i;
        if (volume_set_text(&token->type, text_of(from, "type"), 64) < 0 ||
            VOLUME_APPEND(facts, tokens, token) < 0) {
            sp__token__free_unpacked(token, NULL);
            return -ENOMEM;
        }
        if (!(token->keyslots = calloc(LUKS2_KEYSLOTS, sizeof token->keyslots[0])) ||
            set_jwe(from, token) < 0)
            return -ENOMEM;
        for (unsigned slot = 0; slot < LUKS2_KEYSLOTS; slot++)
            if (names(slots, slot))
                token->keyslots[token->n_keyslots++] = slot;
    }
    return 0;
}

static int add_flags(struct json_object *from, Sp__Segment *segment)
{
    struct json_object *flags = array_of(from, "flags");
    size_t count = flags ? json_object_array_length(flags) : 0;
    for (size_t i = 0; i < count && i < 16; i++) {
        struct json_object *o = json_object_array_get_idx(flags, i);
        char *flag = NULL;
        if (!json_object_is_type(o, json_type_string))
            continue;
        if (volume_set_text(&flag, json_object_get_string(o), 64) < 0)
            return -ENOMEM;
        if (VOLUME_APPEND(segment, flags, flag) < 0) {
            free(flag);
            return -ENOMEM;
        }
    }
    return 0;
}

static int add_segment(struct json_object *from, unsigned number, Sp__HeaderFacts *facts)
{
    Sp__Segment *s = malloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    sp__segment__init(s);
    s->number = number;
    u64_of(from, "offset", &s->offset_bytes);
    u64_of(from, "size", &s->length_bytes); /* "dynamic" stays 0 */
    u64_of(from, "iv_tweak", &s->iv_offset_sectors);
    s->sector_bytes = (uint32_t)count_of(from, "sector_size");
    if (volume_set_text(&s->type, text_of(from, "type"), 32) < 0 ||
        volume_set_text(&s->cipher, text_of(from, "encryption"), 64) < 0 ||
        volume_set_text(&s->integrity, text_of(object_of(from, "integrity"), "type"), 64) < 0 ||
        add_flags(from, s) < 0 || VOLUME_APPEND(facts, segments, s) < 0) {
        sp__segment__free_unpacked(s, NULL);
        return -ENOMEM;
    }
    return 0;
}

/* The data as one: begins at the lowest segment in force, ends with the last. */
static int fill_payload(struct json_object *root, Sp__HeaderFacts *facts)
{
    struct json_object *segments = object_of(root, "segments");
    const Sp__Segment *first = NULL, *cipher = NULL;
    uint64_t end = 0;
    bool open_end = false;
    for (size_t i = 0; i < facts->n_segments; i++) {
        const Sp__Segment *s = facts->segments[i];
        if (is_backup(numbered(segments, s->number)))
            continue;
        if (!first || s->offset_bytes < first->offset_bytes)
            first = s;
        if (!cipher && *s->cipher)
            cipher = s;
        open_end |= s->length_bytes == 0;
        if (s->offset_bytes + s->length_bytes > end)
            end = s->offset_bytes + s->length_bytes;
    }
    if (!first)
        return 0;
    facts->payload_offset_bytes = first->offset_bytes;
    facts->payload_length_bytes = open_end ? 0 : end - first->offset_bytes;
    facts->iv_offset_sectors = first->iv_offset_sectors;
    facts->detached = first->offset_bytes == 0;
    const Sp__Segment *of = cipher ? cipher : first;
    facts->sector_bytes = of->sector_bytes;
    if (volume_set_text(&facts->cipher, of->cipher, 64) < 0 ||
        volume_set_text(&facts->integrity, of->integrity, 64) < 0)
        return -ENOMEM;
    return 0;
}

static bool has_flag(const Sp__Segment *s, const char *flag)
{
    for (size_t i = 0; i < s->n_flags; i++)
        if (!strcmp(s->flags[i], flag))
            return true;
    return false;
}

/* Whether all data are as they shall be in the end: type and key. */
static bool is_final(struct json_object *root, const Sp__HeaderFacts *facts, const Sp__Segment *s)
{
    for (size_t i = 0; i < facts->n_segments; i++) {
        const Sp__Segment *f = facts->segments[i];
        if (has_flag(f, "backup-final"))
            return strcmp(f->type, s->type) == 0 &&
                   digest_of(root, "segments", f->number) == digest_of(root, "segments", s->number);
    }
    return false;
}

/* Where the data change: at the zone under way, or between two steps where the second segment
 * begins; with one segment at one of the ends. */
static uint64_t front_of(struct json_object *root, const Sp__HeaderFacts *facts, uint64_t total,
                         bool backward)
{
    const Sp__Segment *first = NULL, *second = NULL;
    for (size_t i = 0; i < facts->n_segments; i++) {
        const Sp__Segment *s = facts->segments[i];
        if (has_flag(s, "in-reencryption"))
            return s->offset_bytes - facts->payload_offset_bytes;
        if (is_backup(numbered(object_of(root, "segments"), s->number)))
            continue;
        if (!first || s->offset_bytes < first->offset_bytes) {
            second = first;
            first = s;
        } else if (!second || s->offset_bytes < second->offset_bytes) {
            second = s;
        }
    }
    if (second)
        return second->offset_bytes - facts->payload_offset_bytes;
    return first && is_final(root, facts, first) != backward ? total : 0;
}

/* How far it has come; the direction says from which end. */
static void fill_progress(struct json_object *root, uint64_t volume_bytes, Sp__HeaderFacts *facts)
{
    struct json_object *keyslots = object_of(root, "keyslots");
    bool backward = false;
    for (unsigned i = 0; i < LUKS2_KEYSLOTS; i++)
        backward |= is_text(text_of(numbered(keyslots, i), "direction"), "backward");
    if (volume_bytes <= facts->payload_offset_bytes)
        return;
    uint64_t total = volume_bytes - facts->payload_offset_bytes;
    uint64_t at = front_of(root, facts, total, backward);
    if (at > total) /* or before the payload */
        return;
    unsigned percent = (unsigned)((double)at * 100 / (double)total);
    facts->conversion_percent = backward ? 100 - percent : percent;
}

static int fill_requirements(struct json_object *root, Sp__HeaderFacts *facts)
{
    struct json_object *all =
        array_of(object_of(object_of(root, "config"), "requirements"), "mandatory");
    size_t count = all ? json_object_array_length(all) : 0;
    for (size_t i = 0; i < count; i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(all, i));
        char *kept = NULL;
        if (volume_set_text(&kept, name, 64) < 0)
            return -ENOMEM;
        if (VOLUME_APPEND(facts, requirements, kept) < 0) {
            free(kept);
            return -ENOMEM;
        }
        if (strstr(kept, "reencrypt"))
            facts->conversion_in_progress = true;
    }
    return 0;
}

static int fill_digests(struct json_object *root, Sp__HeaderFacts *facts)
{
    struct json_object *digests = object_of(root, "digests");
    for (unsigned i = 0; i < LUKS2_KEYSLOTS; i++) {
        struct json_object *d = numbered(digests, i);
        if (!d)
            continue;
        facts->digest_count++;
        if (!*facts->hash && opens_data(root, d) &&
            volume_set_text(&facts->hash, text_of(d, "hash"), 32) < 0)
            return -ENOMEM;
    }
    return 0;
}

int luks2_json_facts(struct json_object *root, uint64_t volume_bytes, Sp__HeaderFacts *facts)
{
    struct json_object *segments = object_of(root, "segments");
    for (unsigned i = 0; i < LUKS2_SEGMENTS; i++) {
        struct json_object *s = numbered(segments, i);
        if (s && add_segment(s, i, facts) < 0)
            return -ENOMEM;
    }
    if (add_keyslots(root, facts) < 0 || add_tokens(root, facts) < 0 ||
        fill_payload(root, facts) < 0 || fill_requirements(root, facts) < 0 ||
        fill_digests(root, facts) < 0)
        return -ENOMEM;
    if (facts->conversion_in_progress)
        fill_progress(root, volume_bytes, facts);
    return 0;
}

size_t luks2_json_areas(struct json_object *root, uint64_t (*ranges)[2])
{
    struct json_object *keyslots = object_of(root, "keyslots");
    size_t count = 0;
    for (unsigned i = 0; i < LUKS2_KEYSLOTS; i++) {
        struct json_object *slot = numbered(keyslots, i);
        if (slot && area_of(slot, &ranges[count][0], &ranges[count][1]))
            count++;
    }
    return count;
}

uint64_t luks2_json_areas_end(struct json_object *root)
{
    uint64_t ranges[LUKS2_KEYSLOTS][2], end = 0;
    size_t count = luks2_json_areas(root, ranges);
    for (size_t i = 0; i < count; i++)
        if (ranges[i][0] + ranges[i][1] > end)
            end = ranges[i][0] + ranges[i][1];
    return end;
}
