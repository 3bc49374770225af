/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Every image of a set against what the set's MANIFEST.tsv says of it. Nothing here names an image:
 * the facts are read from the manifest's sentences by the rules below, so that another set of the
 * same kind is tested by pointing SEALPOINT_CORPUS at it. What no rule reads is printed; facts
 * about plaintext ("inner FS", "payload", "upstream: plaintext") need a key and are the prover's
 * tests. */
#include "base/file.h"
#include "support.h"
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS = 7, GROUP_BYTES = 160, HASHED_MAX = 32 << 20 };

struct row {
    char *file, *sha256, *size, *kind, *uuid, *facts, *blkid;
};

/* One image and what was found in it. */
struct found {
    const struct row *row;
    struct image image;
    int rc; /* of volume_probe() */
    const struct volume_format *format;
    Sp__HeaderFacts *facts; /* NULL: none */
    struct volume_look look;
};

typedef char groups[GROUPS][GROUP_BYTES];

static char *manifest;
static struct row rows[400];
static size_t row_count;

static int read_manifest(void)
{
    char path[600];
    const char *folder = corpus_folder();
    if (!folder)
        return -1;
    snprintf(path, sizeof path, "%s/MANIFEST.tsv", folder);
    if (sp_file_read(path, 4 << 20, &manifest, NULL) < 0)
        return -1;
    char *rest = manifest, *line;
    strsep(&rest, "\n"); /* titles */
    while ((line = strsep(&rest, "\n")) && *line) {
        if (row_count == SP_COUNT(rows))
            return -1;
        struct row *r = &rows[row_count++];
        r->file = strsep(&line, "\t");
        r->sha256 = strsep(&line, "\t");
        r->size = strsep(&line, "\t");
        strsep(&line, "\t"); /* packed */
        r->kind = strsep(&line, "\t");
        strsep(&line, "\t"); /* secret type */
        strsep(&line, "\t"); /* secret */
        r->uuid = strsep(&line, "\t");
        r->facts = strsep(&line, "\t");
        r->blkid = strsep(&line, "\t");
        if (!r->blkid)
            return -1;
    }
    return row_count ? 0 : -1;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool is_kind(const struct row *r, const char *kind)
{
    return begins(r->kind, kind);
}

static uint64_t number(const char *text)
{
    return strtoull(text, NULL, 10);
}

static bool has_protector(const Sp__HeaderFacts *f, const char *id, int type)
{
    for (size_t i = 0; i < f->n_protectors; i++)
        if (!strcmp(f->protectors[i]->id, id))
            return type < 0 || (int)f->protectors[i]->type == type;
    return false;
}

/* ---- BitLocker ---- */

static void check_version(struct found *f, groups m)
{
    assert_int_equal(f->facts->version, number(m[1]));
}

static void check_recognition(struct found *f, groups m)
{
    bool eow = !strcmp(m[1], "EOW"), to_go = *m[2];
    assert_int_equal(f->facts->conversion_in_progress, eow);
    char system[9] = "";
    assert_int_equal(volume_read(&f->image.reader, 3, system, 8), 0);
    assert_int_equal(!strcmp(system, "MSWIN4.1"), to_go);
}

static void check_state(struct found *f, groups m)
{
    bool eow = strstr(f->row->facts, "recognition=EOW");
    assert_string_equal(f->facts->state, eow ? "encrypt-on-write" : m[1]);
    if (strcmp(m[1], m[2]) != 0)
        assert_true(f->facts->conversion_in_progress);
    if (!eow)
        assert_int_equal(f->facts->conversion_percent, number(m[3]) * 100 / f->image.size);
}

static void check_bitlocker_cipher(struct found *f, groups m)
{
    static const struct {
        const char *text, *cipher;
        unsigned bits;
    } ciphers[] = {
        {"AES-CBC-128+elephant", "aes-cbc-elephant", 128},
        {"AES-CBC-256+elephant", "aes-cbc-elephant", 256},
        {"AES-CBC-128", "aes-cbc-eboiv", 128},
        {"AES-CBC-256", "aes-cbc-eboiv", 256},
        {"XTS-AES-128", "aes-xts-plain64", 128},
        {"XTS-AES-256", "aes-xts-plain64", 256},
    };
    for (size_t i = 0; i < SP_COUNT(ciphers); i++)
        if (!strcmp(m[1], ciphers[i].text)) {
            assert_string_equal(f->facts->cipher, ciphers[i].cipher);
            assert_int_equal(f->facts->key_bits, ciphers[i].bits);
            return;
        }
    fail_msg("cipher %s", m[1]);
}

static int protector_named(const char *name)
{
    static const struct {
        const char *name;
        Sp__ProtectorType type;
    } names[] = {
        {"password", SP__PROTECTOR_TYPE__PROTECTOR_TYPE_PASSWORD},
        {"recovery-password", SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD},
        {"startup/external", SP__PROTECTOR_TYPE__PROTECTOR_TYPE_STARTUP_KEY},
        {"smartcard/pubkey", SP__PROTECTOR_TYPE__PROTECTOR_TYPE_SMART_CARD},
        {"clear", SP__PROTECTOR_TYPE__PROTECTOR_TYPE_CLEAR_KEY},
        {"TPM", SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM},
        {"TPM+PIN", SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM_PIN},
    };
    for (size_t i = 0; i < SP_COUNT(names); i++)
        if (!strcmp(names[i].name, name))
            return (int)names[i].type;
    fail_msg("protector %s", name);
    return 0;
}

/* "password GUID, recovery-password GUID": all of them, in order. */
static void check_protectors(struct found *f, groups m)
{
    size_t count = 0;
    bool clear = false;
    for (const char *at = m[1];; at += 2) {
        char name[32], guid[37];
        int used = 0;
        assert_int_equal(sscanf(at, "%31s %36[0-9a-f-]%n", name, guid, &used), 2);
        assert_true(count < f->facts->n_protectors);
        const Sp__Protector *p = f->facts->protectors[count++];
        assert_string_equal(p->id, guid);
        assert_int_equal(p->type, protector_named(name));
        assert_true(p->created_unix_ms > 1136073600000); /* 2006 */
        clear |= !strcmp(name, "clear");
        at += used;
        if (!begins(at, ", "))
            break;
    }
    assert_int_equal(f->facts->n_protectors, count);
    assert_int_equal(f->facts->protection_suspended, clear);
    assert_int_equal(finding_of(&f->look, SP__REASON__REASON_PROTECTION_SUSPENDED, NULL) != NULL,
                     clear);
    assert_true(f->facts->created_unix_ms > 1136073600000);
}

static void check_one_protector(struct found *f, groups m)
{
    assert_true(has_protector(f->facts, m[2], protector_named(m[1])));
}

static void check_copies(struct found *f, groups m)
{
    assert_int_equal(f->facts->n_copies, 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(f->facts->copies[i]->health, !strcmp(m[i + 1], "ok")
                                                          ? SP__COPY_HEALTH__COPY_HEALTH_GOOD
                                                          : SP__COPY_HEALTH__COPY_HEALTH_ABSENT);
}

static void check_description(struct found *f, groups m)
{
    assert_string_equal(f->facts->description, m[1]);
}

static void check_suspended(struct found *f, groups m)
{
    (void)m;
    assert_true(f->facts->protection_suspended);
}

static void check_three_good_copies(struct found *f, groups m)
{
    (void)m;
    assert_true(f->facts->damaged);
    assert_int_equal(f->facts->n_copies, 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(f->facts->copies[i]->health, SP__COPY_HEALTH__COPY_HEALTH_GOOD);
    assert_true(f->facts->n_protectors > 0);
}

/* ---- both ---- */

static void check_sector(struct found *f, groups m)
{
    assert_int_equal(f->facts->sector_bytes, number(m[1]));
}

static void check_damaged(struct found *f, groups m)
{
    (void)m;
    assert_true(f->facts->damaged);
    assert_true(*f->facts->damage);
}

static void check_not_damaged(struct found *f, groups m)
{
    (void)m;
    assert_false(f->facts->damaged);
}

static void check_image_mib(struct found *f, groups m)
{
    assert_int_equal(f->image.size >> 20, number(m[1]));
}

static void check_image_gib(struct found *f, groups m)
{
    assert_int_equal(f->image.size >> 30, number(m[1]));
}

/* ---- LUKS ---- */

static void check_luks_cipher(struct found *f, groups m)
{
    assert_string_equal(f->facts->cipher, m[1]);
    if (*m[6])
        assert_string_equal(f->facts->hash, m[6]);
}

/* A damaged one keeps its slots to itself. */
static void check_slots(struct found *f, groups m)
{
    size_t count = 0;
    char *rest = m[1], *one;
    while ((one = strsep(&rest, ","))) {
        assert_true(has_protector(f->facts, one, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_LUKS_KEYSLOT));
        count++;
    }
    assert_int_equal(f->facts->n_protectors, count);
}

static void check_tokens(struct found *f, groups m)
{
    size_t count = 0;
    char *rest = m[1], *one;
    while ((one = strsep(&rest, ","))) {
        assert_true(count < f->facts->n_tokens);
        assert_int_equal(f->facts->tokens[count]->number, number(one));
        assert_true(*f->facts->tokens[count]->type);
        count++;
    }
    assert_int_equal(f->facts->n_tokens, count);
}

static void check_argon(struct found *f, groups m)
{
    bool there = false;
    for (size_t i = 0; i < f->facts->n_protectors; i++) {
        const Sp__Protector *p = f->facts->protectors[i];
        there |= !strcmp(p->kdf, m[1]) && p->kdf_memory_kib == number(m[2]) &&
                 p->kdf_iterations == number(m[3]);
    }
    assert_true(there);
}

static void check_label(struct found *f, groups m)
{
    assert_string_equal(f->facts->label, m[1]);
    assert_string_equal(f->facts->subsystem, m[2]);
}

static uint64_t bytes_of(const char *count, const char *unit)
{
    return number(count) << (!strcmp(unit, "MiB") ? 20 : 10);
}

static void check_second_copy_at(struct found *f, groups m)
{
    assert_int_equal(f->facts->n_copies, 2);
    assert_int_equal(f->facts->copies[1]->offset_bytes, bytes_of(m[2], m[3]));
}

static void check_copy(const struct found *f, size_t good, size_t bad)
{
    assert_int_equal(f->facts->n_copies, 2);
    assert_false(f->facts->damaged);
    assert_int_equal(f->facts->copies[good]->health, SP__COPY_HEALTH__COPY_HEALTH_GOOD);
    assert_true(f->facts->copies[bad]->health == SP__COPY_HEALTH__COPY_HEALTH_DAMAGED ||
                f->facts->copies[bad]->health == SP__COPY_HEALTH__COPY_HEALTH_ABSENT);
    assert_true(*f->facts->copies[bad]->problem);
    const Sp__Finding *found = finding_of(&f->look, SP__REASON__REASON_HEADER_DAMAGED, NULL);
    assert_non_null(found);
    assert_true(found->note);
}

static void check_first_lost(struct found *f, groups m)
{
    (void)m;
    check_copy(f, 1, 0);
}

static void check_second_lost(struct found *f, groups m)
{
    (void)m;
    check_copy(f, 0, 1);
}

static void check_detached(struct found *f, groups m)
{
    (void)m;
    assert_true(f->facts->detached);
    assert_int_equal(f->facts->payload_offset_bytes, 0);
}

static void check_segments(struct found *f, groups m)
{
    assert_int_equal(f->facts->n_segments, number(m[1]));
}

static bool has_text(char *const *list, size_t count, const char *text)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(list[i], text))
            return true;
    return false;
}

static void check_reencryption(struct found *f, groups m)
{
    bool there = false;
    for (size_t i = 0; i < f->facts->n_segments; i++) {
        const Sp__Segment *s = f->facts->segments[i];
        there |= has_text(s->flags, s->n_flags, "in-reencryption") &&
                 s->length_bytes == bytes_of(m[1], m[2]);
    }
    assert_true(there);
    assert_true(f->facts->conversion_in_progress);
    const Sp__Finding *found =
        finding_of(&f->look, SP__REASON__REASON_CONVERSION_IN_PROGRESS, NULL);
    assert_non_null(found);
    assert_false(found->note);
}

static void check_requirement(struct found *f, groups m)
{
    assert_true(has_text(f->facts->requirements, f->facts->n_requirements, m[1]));
}

static void check_any_requirement(struct found *f, groups m)
{
    (void)m;
    assert_true(f->facts->n_requirements > 0);
}

static void check_integrity(struct found *f, groups m)
{
    assert_string_equal(f->facts->integrity, m[1]);
}

static void check_no_keyslots(struct found *f, groups m)
{
    (void)m;
    assert_int_equal(f->facts->n_protectors, 0);
    assert_non_null(finding_of(&f->look, SP__REASON__REASON_NO_ESCROWABLE_PROTECTOR, NULL));
}

static void check_uuid(struct found *f, groups m)
{
    assert_string_equal(f->facts->uuid, m[1]);
}

static void check_luks1_layout(struct found *f, groups m)
{
    (void)m;
    assert_int_equal(f->facts->version, 1);
    assert_true(f->facts->payload_offset_bytes < 2 << 20); /* before slots were aligned to 4 KiB */
}

/* ---- what is no volume, and disks ---- */

/* No key could open anything here. */
static void check_nothing_encrypted(struct found *f, groups m)
{
    (void)m;
    for (size_t i = 0; i < f->look.volume_count; i++) {
        const Sp__Volume *v = f->look.volumes[i];
        assert_true(v->kind == SP__VOLUME_KIND__VOLUME_KIND_CLEAR ||
                    (v->header && v->header->damaged && v->header->n_protectors == 0));
    }
}

static void check_ambiguous(struct found *f, groups m)
{
    check_damaged(f, m);
    assert_non_null(strstr(f->facts->damage, "ambiguous"));
    assert_int_equal(f->facts->n_protectors, 0);
    const Sp__Finding *found = finding_of(&f->look, SP__REASON__REASON_HEADER_DAMAGED, NULL);
    assert_non_null(found);
    assert_false(found->note);
}

static void check_swap(struct found *f, groups m)
{
    char id[GROUP_BYTES + 8];
    snprintf(id, sizeof id, "clear:%s", m[1]);
    assert_int_equal(f->rc, 0);
    assert_string_equal(volume_named(&f->look, id)->content->type, "swap");
}

static void check_pv(struct found *f, groups m)
{
    (void)m;
    char plain[64];
    size_t n = 0;
    for (const char *at = f->row->uuid; *at && n + 1 < sizeof plain; at++)
        if (*at != '-')
            plain[n++] = *at;
    plain[n] = 0;
    SP_CLEANUP(volume_pv) struct volume_pv *pv = NULL;
    assert_int_equal(f->rc, 0);
    assert_int_equal(volume_pv_read(&f->image.reader, &pv), 1);
    assert_string_equal(pv->id, plain);
    check_nothing_encrypted(f, m);
}

/* "p2 BitLocker at 9 MiB (bitlk-aes-cbc-128, UUID)" */
static void check_place(struct found *f, groups m)
{
    char id[GROUP_BYTES + 16];
    snprintf(id, sizeof id, "%s:%s", begins(m[1], "BitLocker") ? "bitlocker" : "luks", m[4]);
    const Sp__Volume *v = volume_named(&f->look, id);
    assert_int_equal(v->n_extents, 1);
    assert_int_equal(v->extents[0]->on->offset_bytes, number(m[2]) << 20);
    assert_true(v->header && !v->header->damaged);
    if (begins(m[1], "LUKS"))
        assert_int_equal(v->header->version, m[1][4] - '0');
}

static void check_table(struct found *f, groups m)
{
    assert_string_equal(range_at(&f->look, "disk", 0)->what, !strcmp(m[1], "GPT") ? "gpt" : "dos");
    assert_int_equal(f->image.size >> 20, number(m[2]));
}

/* ---- the rules ---- */

#define UUID "([0-9a-f]{8}-[0-9a-f-]{27})"

static const struct rule {
    const char *kind; /* beginning of the row's kind, NULL: any */
    const char *pattern;
    void (*check)(struct found *, groups);
    bool of_look; /* needs no header */
} rules[] = {
    {"bitlocker", "version ([0-9]+);", check_version, false},
    {"bitlocker", "recognition=(normal|EOW)( ToGo)?", check_recognition, false},
    {"bitlocker", "state curr=([a-z]+) next=([a-z]+) conversion_offset=([0-9]+)", check_state,
     false},
    {"bitlocker", "cipher=([A-Z0-9+-]+);", check_bitlocker_cipher, false},
    {"bitlocker", ", (AES-CBC-[0-9]+(\\+elephant)?|XTS-AES-[0-9]+),", check_bitlocker_cipher,
     false},
    {"bitlocker", "protectors: ([^;]+);", check_protectors, false},
    {"bitlocker", "(TPM) protector " UUID, check_one_protector, false},
    {"bitlocker", "(recovery-password|TPM|TPM\\+PIN|clear) " UUID, check_one_protector, false},
    {"bitlocker", "metadata copies CRC: ([a-z]+)/([a-z]+)/([a-z]+)", check_copies, false},
    {"bitlocker", "; sector ([0-9]+)", check_sector, false},
    {"bitlocker", "description '([^']*)'", check_description, false},
    {"bitlocker", "description ([A-Z][^;,']*[0-9]/[0-9]+)", check_description, false},
    {"bitlocker", "reports label (.*[0-9]/[0-9]+)", check_description, false},
    {"bitlocker", "clear key still present|protection suspended", check_suspended, false},
    {"bitlocker", "no readable metadata copy", check_damaged, false},
    {"bitlocker", "three metadata copies intact", check_three_good_copies, false},
    {NULL, "truncated to ([0-9]+) MiB", check_image_mib, true},
    {NULL, "sparse ([0-9]+) GiB", check_image_gib, true},
    {"luks", "((aes|serpent|twofish)-[a-z]+-[a-z0-9]+(:[a-z0-9]+)?)(()/([a-z0-9]+))?",
     check_luks_cipher, false},
    {"luks", "slots?:? ([0-9,]+[0-9]|[0-9]),?", check_slots, false},
    {"luks", "tokens:? ([0-9,]+)", check_tokens, false},
    {"luks", "(argon2id?) m=([0-9]+) t=([0-9]+)", check_argon, false},
    {"luks", "label ([A-Za-z0-9_.-]+),? subsystem ([A-Za-z0-9_.-]+)", check_label, false},
    {"luks", "sector size ([0-9]+)", check_sector, false},
    {"luks2", "(metadata area) ([0-9]+) (KiB|MiB)", check_second_copy_at, false},
    {"luks2", "secondary( header)? at ([0-9]+) (KiB|MiB)", check_second_copy_at, false},
    {"luks2", "primary (header damaged|gone)", check_first_lost, false},
    {"luks2", "secondary (checksum|JSON) (wrong|malformed): recoverable", check_second_lost, false},
    {"luks2-detached-header", "detached header", check_detached, false},
    {"luks2", "data segments ([0-9]+)", check_segments, false},
    {"luks2", "in-reencryption ([0-9]+) (KiB|MiB)", check_reencryption, false},
    {"luks2", "requirement ([a-z]+-[a-z0-9-]+)", check_requirement, false},
    {"luks2", "UNKNOWN mandatory requirement", check_any_requirement, false},
    {"luks2", "integrity (aead|hmac-[a-z0-9]+)", check_integrity, false},
    {"luks2", "zero keyslots", check_no_keyslots, false},
    {"luks2", "header still valid", check_not_damaged, false},
    {"luks", ": invalid|must be rejected", check_damaged, false},
    {"luks", "expected UUID " UUID, check_uuid, false},
    {"luks", "([0-9]+)-byte prefix", check_damaged, false},
    {"luks1", "old on-disk layout", check_luks1_layout, false},
    {NULL, "not (BitLocker|LUKS)|no signature|never 'encrypted'|NOT a LUKS volume|no key can open",
     check_nothing_encrypted, true},
    {"negative", "report ambiguous", check_ambiguous, false},
    {"ambiguous", "says swap " UUID, check_swap, true},
    {"ambiguous", "LVM2 PV over", check_pv, true},
    {"disk", "(BitLocker|LUKS[12]) at ([0-9]+) MiB \\(([a-z0-9-]+, )?" UUID "\\)", check_place,
     true},
    {"disk", "(GPT|MBR) ([0-9]+) MiB", check_table, true},
};

static void take_groups(const char *text, const regmatch_t *at, groups m)
{
    for (size_t i = 0; i < GROUPS; i++) {
        int length = at[i].rm_so < 0 ? 0 : (int)(at[i].rm_eo - at[i].rm_so);
        snprintf(m[i], GROUP_BYTES, "%.*s", length, at[i].rm_so < 0 ? "" : text + at[i].rm_so);
    }
}

/* Applies the rule wherever it matches, marks in `read` which bytes of the facts it has read. */
static size_t apply(const struct rule *rule, struct found *f, char *read)
{
    regex_t regex;
    regmatch_t at[GROUPS];
    size_t count = 0;
    if (rule->kind && !is_kind(f->row, rule->kind))
        return 0;
    assert_int_equal(regcomp(&regex, rule->pattern, REG_EXTENDED), 0);
    for (const char *text = f->row->facts; regexec(&regex, text, GROUPS, at, 0) == 0;
         text += at[0].rm_eo) {
        groups m;
        take_groups(text, at, m);
        memset(read + (text - f->row->facts) + at[0].rm_so, 1, (size_t)(at[0].rm_eo - at[0].rm_so));
        if (!f->facts && !rule->of_look)
            fail_msg("%s: no header found for '%s'", f->row->file, m[0]);
        rule->check(f, m);
        count++;
    }
    regfree(&regex);
    return count;
}

/* Sentences that no rule has read a word of. */
static void print_unread(const struct row *r, const char *read)
{
    for (const char *at = r->facts; *at;) {
        size_t length = strcspn(at, ";");
        bool any = false;
        for (size_t i = 0; i < length; i++)
            any |= read[at - r->facts + (ptrdiff_t)i];
        if (!any)
            print_message("  %s: not read: %.*s\n", r->file, (int)length, at);
        at += length;
        at += strspn(at, "; ");
    }
}

/* ---- what every row says by its other columns ---- */

/* The digest of the small ones only: it is about the set, not about what is found in it. */
static void check_bytes(const struct row *r, const struct image *i)
{
    uint8_t digest[32];
    char hex[65];
    assert_int_equal(i->size, number(r->size));
    if (i->size > HASHED_MAX)
        return;
    SP_FREE uint8_t *data = malloc(i->size);
    assert_non_null(data);
    assert_int_equal(volume_read(&i->reader, 0, data, (uint32_t)i->size), 0);
    assert_int_equal(sp_sha256_of(data, i->size, digest), 0);
    assert_string_equal(sp_hex(hex, digest, 32), r->sha256);
}

/* What libblkid says of the file, said of the sparse copy that the library shows it. */
static void check_blkid(const struct found *f)
{
    Sp__Content *content = NULL;
    bool ambiguous = false;
    char type[40] = "", uuid[80] = "";
    if (sscanf(f->row->blkid, "%39s %79s", type, uuid) < 1 || !strcmp(type, "none"))
        return;
    assert_int_equal(volume_content(&f->image.reader, &content, &ambiguous), 0);
    assert_non_null(content);
    assert_string_equal(content->type, type);
    if (*uuid)
        assert_string_equal(content->uuid, uuid);
    sp__content__free_unpacked(content, NULL);
}

static bool expects_damage(const struct row *r)
{
    return strstr(r->kind, "-damaged") || strstr(r->kind, "detect-only") ||
           strstr(r->facts, ": invalid");
}

/* "luks1_aes-cbc-essiv-sha256-sha1.img": the names of cryptsetup's own images are facts, too. */
static void check_name(const struct found *f)
{
    char text[80];
    const char *name = f->row->file;
    if (!begins(name, "luks1_"))
        return;
    snprintf(text, sizeof text, "%.*s", (int)strcspn(name + 6, "."), name + 6);
    char *hash = strrchr(text, '-');
    assert_non_null(hash);
    *hash++ = 0;
    char *iv = strstr(text, "essiv-");
    if (iv)
        iv[5] = ':';
    assert_string_equal(f->facts->cipher, text);
    assert_string_equal(f->facts->hash, hash);
}

static void check_header(const struct found *f)
{
    const struct row *r = f->row;
    bool luks = is_kind(r, "luks");
    if (f->rc != 1)
        fail_msg("%s: not found (%d)", r->file, f->rc);
    assert_int_equal(f->facts->fingerprint.len, 32);
    assert_string_equal(f->facts->uuid, r->uuid);
    if (is_kind(r, "luks1") || is_kind(r, "luks2") || !luks)
        assert_memory_equal(f->format->name, r->kind, luks ? 5 : 9);
    assert_int_equal(f->facts->damaged, expects_damage(r));
    assert_int_equal(*f->facts->damage != 0, f->facts->damaged);
    assert_int_equal(f->look.volume_count, 1);
    assert_string_equal(f->look.volumes[0]->header->uuid, r->uuid);
    const Sp__Finding *found = finding_of(&f->look, SP__REASON__REASON_HEADER_DAMAGED, NULL);
    if (f->facts->damaged)
        assert_true(found && !found->note);
    else
        assert_true(!found || found->note);
    if (luks && !f->facts->damaged) {
        assert_true(f->facts->n_copies == (f->facts->version == 1 ? 1 : 2));
        assert_int_equal(f->facts->detached, strstr(r->kind, "detached") != NULL);
        assert_true(f->facts->detached || f->facts->payload_offset_bytes >= 4096);
        check_name(f);
    }
}

/* Nothing tells that something was encrypted, or nothing was: never a volume that a key opens. */
static void check_no_header(struct found *f)
{
    groups m;
    if (f->rc == 1)
        assert_true(f->facts->damaged);
    check_nothing_encrypted(f, m);
}

static bool has_header(const struct row *r)
{
    return (is_kind(r, "luks") || is_kind(r, "bitlocker")) && !strstr(r->kind, "detached-data") &&
           !is_kind(r, "luks2-damaged"); /* both copies are gone */
}

static void check_row(const struct row *r)
{
    struct found f = {.row = r};
    image_of_corpus(&f.image, r->file);
    if (!strstr(r->file, ".qcow2") && !strstr(r->file, ".vmdk"))
        check_bytes(r, &f.image);
    f.rc = volume_probe(&f.image.reader, &f.format, &f.facts);
    assert_true(f.rc >= 0);
    look_at(&f.image, &f.look);
    if (has_header(r))
        check_header(&f);
    else if (!is_kind(r, "disk"))
        check_no_header(&f);
    check_blkid(&f);
    char *read = calloc(1, strlen(r->facts) + 1);
    assert_non_null(read);
    for (size_t i = 0; i < SP_COUNT(rules); i++)
        apply(&rules[i], &f, read);
    print_unread(r, read);
    free(read);
    if (f.facts)
        sp__header_facts__free_unpacked(f.facts, NULL);
    volume_look_free(&f.look);
    image_close(&f.image);
}

/* A startup key's file holds its GUID. */
static void check_key_file(const struct row *r)
{
    struct image image;
    uint8_t ordered[16];
    char hex[33];
    image_of_corpus(&image, r->file);
    check_bytes(r, &image);
    if (is_kind(r, "bek")) {
        size_t n = 0;
        for (const char *at = r->uuid; *at && n < 32; at++)
            if (*at != '-')
                hex[n++] = *at;
        hex[n] = 0;
        assert_int_equal(sp_unhex(hex, ordered, 16), 0);
        char text[37], expected[37];
        uint8_t bytes[1024];
        volume_uuid_text(ordered, expected);
        assert_true(image.size <= sizeof bytes);
        assert_int_equal(volume_read(&image.reader, 0, bytes, (uint32_t)image.size), 0);
        bool there = false;
        for (size_t at = 0; at + 16 <= image.size; at++) {
            volume_guid_text(bytes + at, text);
            there |= !strcmp(text, expected);
        }
        assert_true(there);
    }
    image_close(&image);
}

static void test_every_row(void **state)
{
    (void)state;
    size_t headers = 0, others = 0;
    for (size_t i = 0; i < row_count; i++) {
        print_message("%s\n", rows[i].file);
        if (is_kind(&rows[i], "keyfile") || is_kind(&rows[i], "bek")) {
            check_key_file(&rows[i]);
            continue;
        }
        check_row(&rows[i]);
        headers += has_header(&rows[i]);
        others += !has_header(&rows[i]);
    }
    assert_true(headers > 0 && others > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_row)};
    if (read_manifest() < 0) {
        fprintf(stderr, "skipped: no corpus (SEALPOINT_CORPUS)\n");
        return 77;
    }
    int rc = cmocka_run_group_tests_name("volume-manifest", tests, NULL, NULL);
    free(manifest);
    return rc;
}
