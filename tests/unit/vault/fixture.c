/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fixture.h"
#include "base/cleanup.h"
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
// cmocka needs the four above first
#include <cmocka.h>

void fixture_new_key(struct fixture *f)
{
    uint8_t key[32];
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)(i * 7 + 1);
    f->key = sp_secret_copy(key, sizeof key);
    assert_non_null(f->key);
}

void fixture_make(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/sealpoint-vault-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    sp__directory_vault__init(&f->directory);
    f->directory.path = f->dir;
    sp__vault_config__init(&f->config);
    f->config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    f->config.directory = &f->directory;
    fixture_new_key(f);
    struct sp_why why = {{0}};
    assert_int_equal(vault_create(&f->config, f->id, &why), 0);
    f->seal = sp_key_new();
    assert_non_null(f->seal);
    assert_int_equal(sp_public_key_der(f->seal, &f->seal_der, &f->seal_der_size), 0);
    fixture_reopen(f);
}

void fixture_reopen(struct fixture *f)
{
    struct sp_why why = {{0}};
    vault_close(f->vault);
    f->vault = NULL;
    int r = vault_open(&f->config, f->id, f->key, &f->vault, &why);
    if (r < 0)
        fail_msg("open: %s", why.text);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

void fixture_free(struct fixture *f)
{
    vault_close(f->vault);
    sp_secret_free(f->key);
    EVP_PKEY_free(f->seal);
    free(f->seal_der);
    nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

struct sp_bytes fixture_seal_key(const struct fixture *f)
{
    return (struct sp_bytes){f->seal_der, f->seal_der_size};
}

/* ---- disks ---- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void fill_random(uint8_t *out, uint32_t size, uint64_t seed)
{
    uint32_t at = 0;
    for (uint64_t i = 0; at < size; i++) {
        uint64_t v = mix(seed + i);
        uint32_t n = size - at < 8 ? size - at : 8;
        memcpy(out + at, &v, n);
        at += n;
    }
}

uint64_t disk_chunks(const struct disk *d)
{
    return (d->size + VAULT_CHUNK_BYTES - 1) / VAULT_CHUNK_BYTES;
}

bool disk_chunk_is_ciphertext(const struct disk *d, uint64_t index)
{
    if (d->kind == DISK_MIXED)
        return mix(d->seed ^ index) % 3 != 0;
    return d->kind == DISK_RANDOM;
}

void disk_chunk(const struct disk *d, uint64_t index, uint8_t *out, uint32_t *ret_size)
{
    uint64_t left = d->size - index * VAULT_CHUNK_BYTES;
    uint32_t size = left < VAULT_CHUNK_BYTES ? (uint32_t)left : VAULT_CHUNK_BYTES;
    *ret_size = size;
    uint64_t choice = mix(d->seed * 31 + index);
    uint64_t seed = mix(d->seed ^ (index << 20) ^ (index == d->changed_chunk ? 1u : 0u));
    bool text = d->kind == DISK_TEXT || (d->kind == DISK_MIXED && choice % 4 == 1);
    bool zero = d->kind == DISK_ZERO || (d->kind == DISK_MIXED && choice % 4 == 0);
    if (index == d->changed_chunk)
        zero = false;
    if (zero) {
        memset(out, 0, size);
    } else if (text) {
        for (uint32_t i = 0; i < size; i++)
            out[i] = (uint8_t)((uint8_t) "the quick brown fox "[i % 20] ^
                               (i % 512 == 0 ? seed & 0x0f : 0));
    } else {
        fill_random(out, size, seed);
        out[0] |= 1;
    }
}

int disk_write(struct vault *v, const char *point, const struct disk *d, Sp__DiskImage *image,
               struct sp_why *why)
{
    struct vault_writer *w = NULL;
    int r = vault_writer_new(v, point, "disk0", d->size, &w, why);
    uint8_t *chunk = malloc(VAULT_CHUNK_BYTES);
    for (uint64_t i = 0; r == 0 && i < disk_chunks(d); i++) {
        uint32_t size;
        disk_chunk(d, i, chunk, &size);
        r = vault_writer_chunk(w, i, chunk, size, disk_chunk_is_ciphertext(d, i), why);
    }
    if (r == 0)
        r = vault_writer_finish(w, image, why);
    image->disk_id = (char *)(uintptr_t) "disk0";
    free(chunk);
    vault_writer_free(w);
    return r;
}

void disk_expect(struct vault *v, const struct disk *d, const Sp__DiskImage *image)
{
    struct vault_reader *reader = NULL;
    struct sp_why why = {{0}};
    int r = vault_reader_new(v, image->root.data, d->size, &reader, &why);
    if (r < 0)
        fail_msg("reader: %s", why.text);
    uint8_t *is = malloc(VAULT_CHUNK_BYTES), *should = malloc(VAULT_CHUNK_BYTES);
    for (uint64_t i = 0; i < disk_chunks(d); i++) {
        uint32_t size;
        disk_chunk(d, i, should, &size);
        r = vault_reader_at(reader, i * VAULT_CHUNK_BYTES, is, size, &why);
        if (r < 0)
            fail_msg("chunk %llu: %s", (unsigned long long)i, why.text);
        assert_memory_equal(is, should, size);
    }
    free(is);
    free(should);
    vault_reader_free(reader);
}

/* ---- points ---- */

Sp__Signed *manifest_make(const struct fixture *f, const char *machine, const char *point,
                          uint64_t sequence, uint32_t revision, Sp__DiskImage **images,
                          size_t count)
{
    Sp__Manifest m = SP__MANIFEST__INIT;
    m.format = 1;
    m.vault_id = (char *)(uintptr_t)f->id;
    m.machine_id = (char *)(uintptr_t)machine;
    m.point_id = (char *)(uintptr_t)point;
    m.sequence = sequence;
    m.revision = revision;
    m.state_at_seal = SP__POINT_STATE__POINT_STATE_VALID;
    m.disks = images;
    m.n_disks = count;
    uint8_t *payload SP_FREE = NULL;
    size_t size = 0;
    Sp__Signed *signed_manifest = NULL;
    assert_int_equal(sp_pack(&m.base, &payload, &size), 0);
    assert_int_equal(sp_signed_make(f->seal, SP_SIGN_MANIFEST, payload, size, &signed_manifest), 0);
    return signed_manifest;
}

void point_make(struct fixture *f, const char *machine, const char *point, const struct disk *d,
                Sp__DiskImage *image)
{
    struct sp_why why = {{0}};
    int r = disk_write(f->vault, point, d, image, &why);
    if (r < 0)
        fail_msg("write: %s", why.text);
    Sp__Signed *m = manifest_make(f, machine, point, 1, 0, &image, 1);
    r = vault_put_manifest(f->vault, m, &why);
    if (r < 0)
        fail_msg("manifest: %s", why.text);
    sp__signed__free_unpacked(m, NULL);
    assert_int_equal(vault_end_journal(f->vault, point, true), 0);
}

struct text {
    struct sp_buffer buffer;
    bool ended;
};

static int write_down(void *arg, const Sp__CheckProgress *p)
{
    struct text *t = arg;
    t->ended = p->ended;
    for (size_t i = 0; i < p->n_problems; i++) {
        const Sp__CheckProblem *problem = p->problems[i];
        sp_buffer_printf(&t->buffer, "%s|%s|", problem->what, problem->data_lost ? "LOST" : "TIDY");
        for (size_t k = 0; k < problem->n_points_harmed; k++)
            sp_buffer_printf(&t->buffer, "%s,", problem->points_harmed[k]);
        sp_buffer_printf(&t->buffer, "\n");
    }
    return 0;
}

char *check_text(struct fixture *f, bool read_data)
{
    struct text t = {0};
    struct sp_why why = {{0}};
    int r = vault_check(f->vault, read_data, fixture_seal_key(f), write_down, &t, &why);
    if (r < 0)
        fail_msg("check: %s", why.text);
    assert_true(t.ended);
    char *text = strdup(sp_buffer_text(&t.buffer));
    sp_buffer_free(&t.buffer);
    return text;
}

/* ---- files ---- */

void flip(const char *path, uint64_t offset, unsigned bit)
{
    assert_int_equal(chmod(path, 0600), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= (uint8_t)(1u << bit);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

uint64_t file_size(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

struct found {
    const char *prefix;
    char names[64][256];
    unsigned count;
};

static struct found found;

static int find_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)ftw;
    if (flag == FTW_F && !strncmp(path, found.prefix, strlen(found.prefix)) &&
        found.count < SP_COUNT(found.names))
        snprintf(found.names[found.count++], sizeof found.names[0], "%s", path);
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void find_objects(const struct fixture *f, const char *prefix)
{
    char full[256];
    snprintf(full, sizeof full, "%s/%s", f->dir, prefix);
    found.prefix = full;
    found.count = 0;
    nftw(f->dir, find_one, 16, FTW_PHYS);
    qsort(found.names, found.count, sizeof found.names[0], by_text);
}

void object_path(const struct fixture *f, const char *prefix, unsigned nth, char out[256])
{
    find_objects(f, prefix);
    if (nth >= found.count)
        fail_msg("there is no object %u below %s", nth, prefix);
    memcpy(out, found.names[nth], 256);
}

unsigned object_count(const struct fixture *f, const char *prefix)
{
    find_objects(f, prefix);
    return found.count;
}
