/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The corpus as its MANIFEST.tsv describes it: every secret proves its image, and no other secret
 * of the same type does. The rules rest on the columns, not on the names of the images, so that
 * another set in the same form can be tried: SEALPOINT_CORPUS names its folder.
 *
 * Each image is tried with one foreign secret of each type, or with all of them when SEALPOINT_LONG
 * is set. */
#include "rig.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define V(x) SP__PROOF_VERDICT__PROOF_VERDICT_##x
#define T(x) SP__SECRET_TYPE__SECRET_TYPE_##x

enum { IMAGES_MOST = 256, SECRETS_MOST = 512, COLUMNS = 13, OWN_MOST = 16 };

struct secret {
    Sp__SecretType type;
    char *value; /* of a file: its name in the corpus */
    bool is_file;
    char *protector; /* "": not said */
};
struct image {
    char *file; /* without .xz */
    char *kind, *uuid, *facts;
    bool dead; /* the manifest says that what opened it was destroyed */
    struct secret own[OWN_MOST];
    size_t own_count;
};
static struct image images[IMAGES_MOST];
static size_t image_count;
static char *manifest;

/* ---- reading the manifest ---- */

static bool corpus_has(const char *name)
{
    SP_FREE char *plain = sp_format("%s/%s", rig_corpus_folder(), name);
    SP_FREE char *packed = sp_format("%s/%s.xz", rig_corpus_folder(), name);
    assert_true(plain && packed);
    return access(plain, R_OK) == 0 || access(packed, R_OK) == 0;
}

static void cut(char *text, const char *at)
{
    char *found = strstr(text, at);
    if (found)
        *found = 0;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* "slot7 (…)=", "recovery[guid]=", "password=", or none of them: then the whole text is the value.
 * A remark in brackets at the end is no part of it. */
static void take_secret(struct image *i, char *text)
{
    static const char *const names[] = {"slot", "password", "recovery", "startup-key"};
    struct secret *s = &i->own[i->own_count];
    *s = (struct secret){.type = T(PASSPHRASE), .value = text, .protector = (char[]){""}};
    for (size_t n = 0; n < SP_COUNT(names); n++) {
        char *equals = strchr(text, '=');
        if (!begins(text, names[n]) || !equals)
            continue;
        *equals = 0;
        s->value = equals + 1;
        s->type = n == 2 ? T(RECOVERY_PASSWORD) : n == 3 ? T(STARTUP_KEY) : T(PASSPHRASE);
        char *open = strchr(text, '['), *close = open ? strchr(open, ']') : NULL;
        if (n == 0)
            s->protector = text + 4, cut(s->protector, " ");
        if (close)
            *close = 0, s->protector = open + 1;
    }
    i->dead |= strstr(s->value, "must fail") != NULL;
    cut(s->value, " (");
    s->is_file = corpus_has(s->value);
    if (s->is_file && s->type == T(PASSPHRASE))
        s->type = T(KEY_FILE);
    s->protector = strdup(s->protector);
    assert_non_null(s->protector);
    i->own_count++;
}

static void take_row(char *line)
{
    char *columns[COLUMNS];
    for (size_t n = 0; n < COLUMNS; n++)
        columns[n] = strsep(&line, "\t");
    if (!columns[7] || strcmp(columns[0], "file") == 0)
        return;
    assert_true(image_count < IMAGES_MOST);
    struct image *i = &images[image_count++];
    *i = (struct image){.file = columns[0],
                        .kind = columns[4],
                        .uuid = columns[7],
                        .facts = columns[8] ? columns[8] : (char[]){""}};
    char *end = strstr(i->file, ".xz");
    if (end && !end[3])
        *end = 0;
    if (strcmp(columns[6], "-") == 0)
        return;
    for (char *text = columns[6], *next; text && i->own_count < OWN_MOST; text = next) {
        next = strstr(text, " | ");
        if (next)
            *next = 0, next += 3;
        take_secret(i, text);
    }
}

static int read_manifest(void **state)
{
    size_t size;
    (void)state;
    SP_FREE char *path = sp_format("%s/MANIFEST.tsv", rig_corpus_folder());
    assert_non_null(path);
    assert_int_equal(sp_file_read(path, 16 << 20, &manifest, &size), 0);
    for (char *rest = manifest, *line; (line = strsep(&rest, "\n"));)
        take_row(line);
    assert_true(image_count > 0);
    return 0;
}

/* ---- what is asked ---- */

static Sp__VolumeKind kind_of(const struct image *i)
{
    return begins(i->kind, "bitlocker") ? SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER
           : begins(i->kind, "luks1")   ? SP__VOLUME_KIND__VOLUME_KIND_LUKS1
           : begins(i->kind, "luks2")   ? SP__VOLUME_KIND__VOLUME_KIND_LUKS2
                                        : SP__VOLUME_KIND__VOLUME_KIND_UNSPECIFIED;
}

/* Whole volumes with a header; disks and detached data have tests of their own. */
static bool is_volume(const struct image *i)
{
    return kind_of(i) && !strstr(i->kind, "disk") && !strstr(i->kind, "detached-data");
}

static struct question ask(const struct image *i, const struct secret *s, bool named)
{
    return (struct question){.image = rig_corpus(i->file),
                             .kind = kind_of(i),
                             .uuid = strcmp(i->uuid, "-") != 0 ? i->uuid : NULL,
                             .type = s ? s->type : 0,
                             .secret = s && !s->is_file ? s->value : NULL,
                             .secret_file = s && s->is_file ? rig_corpus(s->value) : NULL,
                             .protector = s && named ? s->protector : NULL};
}

static const char *name_of(Sp__ProofVerdict v)
{
    return sp_enum_name(&sp__proof_verdict__descriptor, (int)v, "PROOF_VERDICT_");
}

/* "sha256 of whole decrypted volume": with a payload that upstream knows, and its UUID. */
static bool uuid_of_payload(const struct image *i, char out[64])
{
    static const char *const words[] = {"plaintext FS UUID ", "inner FS (vfat) UUID "};
    for (size_t n = 0; n < SP_COUNT(words); n++) {
        const char *at = strstr(i->facts, words[n]);
        if (!at)
            continue;
        at += strlen(words[n]);
        snprintf(out, 64, "%.*s", (int)strspn(at, "0123456789abcdefABCDEF-"), at);
        return true;
    }
    return false;
}

/* What the manifest says must come out with a right secret. A header that opens counts where the
 * image has no payload to be recognised; what needs device-mapper is named, not guessed. */
static bool is_as_promised(const struct image *i, const Sp__ProverFinding *f)
{
    char uuid[64];
    if (strstr(i->kind, "damaged"))
        return f->verdict == V(HEADER_DAMAGED);
    if (i->dead)
        return f->verdict == V(NO_USABLE_PROTECTOR);
    if (strstr(i->facts, "not verifiable"))
        return f->verdict == V(UNCHECKABLE);
    /* Upstream keeps no data of these, only their metadata. */
    if (strstr(i->facts, "recognition=EOW"))
        return f->level >= SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER &&
               (f->verdict == V(OPENS) || f->verdict == V(NOT_RECOGNISED));
    bool payload = uuid_of_payload(i, uuid);
    if (payload || strstr(i->facts, "payload ") || begins(i->kind, "bitlocker"))
        return strstr(i->kind, "detached")
                   ? f->level == SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER
                   : f->verdict == V(OPENS) &&
                         (!payload || strcasecmp(f->content->uuid, uuid) == 0);
    return f->level >= SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER;
}

static void prove_own(const struct image *i, const struct secret *s, bool named)
{
    struct question q = ask(i, s, named);
    Sp__ProverFinding *f = rig_prove(&q, NULL);
    if (!is_as_promised(i, f))
        fail_msg("%s with its own %s: %s, level %d: %s", i->file, s ? s->value : "clear key",
                 name_of(f->verdict), (int)f->level, f->text);
    sp__prover_finding__free_unpacked(f, NULL);
}

static void every_secret_proves_its_image(void **state)
{
    (void)state;
    size_t proved = 0;
    for (size_t n = 0; n < image_count; n++) {
        const struct image *i = &images[n];
        if (!is_volume(i) || strstr(i->kind, "detect-only"))
            continue;
        if (strstr(i->facts, "protectors: clear "))
            prove_own(i, NULL, false), proved++;
        for (size_t k = 0; k < i->own_count; k++, proved++)
            prove_own(i, &i->own[k], true);
    }
    print_message("%zu secrets proved\n", proved);
    assert_true(proved > 0);
}

/* This image has a password protector that the manifest does not list; `cryptsetup open
 * --test-passphrase` takes the password too. */
static bool is_unlisted(const struct image *i, const struct secret *s)
{
    return strcmp(i->file, "bitlk-aes-xts-128-startup-key.img") == 0 &&
           strcmp(s->value, "anaconda") == 0;
}

static bool is_known_to(const struct image *i, const struct secret *s)
{
    for (size_t k = 0; k < i->own_count; k++) {
        if (strcmp(i->own[k].value, s->value) == 0)
            return true;
    }
    return false;
}

/* Tries secrets of others on image n, from the next image on; all of a type or the first. */
static size_t try_foreign(size_t n, Sp__SecretType type, bool all)
{
    const struct image *i = &images[n];
    size_t tried = 0;
    for (size_t step = 1; step < image_count && (all || !tried); step++) {
        const struct image *other = &images[(n + step) % image_count];
        for (size_t k = 0; k < other->own_count && (all || !tried); k++) {
            const struct secret *s = &other->own[k];
            if (s->type != type || is_known_to(i, s) || is_unlisted(i, s) ||
                (s->is_file && !kind_of(other)))
                continue;
            struct question q = ask(i, s, false);
            Sp__ProverFinding *f = rig_prove(&q, NULL);
            tried++;
            if (f->verdict == V(OPENS) || f->level || f->has_volume_key)
                fail_msg("%s opens with %s of %s: %s", i->file, s->value, other->file, f->text);
            if (f->verdict != V(WRONG_KEY) && is_volume(i) && i->own_count && !i->dead &&
                !strstr(i->kind, "damaged") && !strstr(i->facts, "not verifiable"))
                fail_msg("%s with %s of %s: %s, not a wrong key: %s", i->file, s->value,
                         other->file, name_of(f->verdict), f->text);
            sp__prover_finding__free_unpacked(f, NULL);
        }
    }
    return tried;
}

static void no_foreign_secret_proves_an_image(void **state)
{
    (void)state;
    static const Sp__SecretType types[] = {T(PASSPHRASE), T(KEY_FILE), T(RECOVERY_PASSWORD),
                                           T(STARTUP_KEY)};
    bool all = getenv("SEALPOINT_LONG") != NULL;
    size_t tried = 0;
    for (size_t n = 0; n < image_count; n++) {
        for (size_t t = 0; t < SP_COUNT(types) && is_volume(&images[n]); t++) {
            bool of_luks = begins(images[n].kind, "luks");
            if (of_luks == (types[t] == T(PASSPHRASE) || types[t] == T(KEY_FILE)) ||
                types[t] == T(PASSPHRASE))
                tried += try_foreign(n, types[t], all);
        }
    }
    print_message("%zu foreign secrets tried\n", tried);
    assert_true(tried > 0);
}

static int end(void **state)
{
    (void)state;
    rig_remove_folder();
    for (size_t n = 0; n < image_count; n++) {
        for (size_t k = 0; k < images[n].own_count; k++)
            free(images[n].own[k].protector);
    }
    free(manifest);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_secret_proves_its_image),
        cmocka_unit_test(no_foreign_secret_proves_an_image),
        cmocka_unit_test(rig_images_are_as_they_were),
    };
    return cmocka_run_group_tests(tests, read_manifest, end);
}
