/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "rig.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/frame.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

/* ---- serving ---- */

static int serve_at(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    struct rig *rig = self;
    rig->reads++;
    if (disk >= rig->count || offset > rig->sizes[disk] || length > rig->sizes[disk] - offset)
        return -ERANGE;
    return sp_pread_all(rig->fds[disk], out, length, offset);
}

static void *serve(void *self)
{
    struct rig *rig = self;
    sp_pread_serve(rig->far, -1, serve_at, rig);
    return NULL;
}

void rig_open(struct rig *rig, const char *const *paths, uint32_t count)
{
    *rig = (struct rig){.count = count};
    for (uint32_t i = 0; i < count; i++) {
        struct stat st;
        rig->fds[i] = open(paths[i], O_RDONLY | O_CLOEXEC);
        assert_true(rig->fds[i] >= 0);
        assert_int_equal(fstat(rig->fds[i], &st), 0);
        rig->sizes[i] = (uint64_t)st.st_size;
    }
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    rig->near = pair[0];
    rig->far = pair[1];
    assert_int_equal(pthread_create(&rig->thread, NULL, serve, rig), 0);
}

void rig_close(struct rig *rig)
{
    close(rig->near);
    pthread_join(rig->thread, NULL);
    close(rig->far);
    for (uint32_t i = 0; i < rig->count; i++)
        close(rig->fds[i]);
}

/* ---- files ---- */

static char folder[64];
static char *kept[256];
static size_t kept_count;

const char *rig_folder(void)
{
    if (!folder[0]) {
        strcpy(folder, "/tmp/prover-test-XXXXXX");
        assert_non_null(mkdtemp(folder));
    }
    return folder;
}

void rig_remove_folder(void)
{
    if (folder[0])
        rig_shell("rm -rf '%s'", folder);
    folder[0] = 0;
    while (kept_count)
        free(kept[--kept_count]);
}

static const char *keep(char *path)
{
    assert_non_null(path);
    for (size_t i = 0; i < kept_count; i++) {
        if (strcmp(kept[i], path) == 0) {
            free(path);
            return kept[i];
        }
    }
    assert_true(kept_count < SP_COUNT(kept));
    return kept[kept_count++] = path;
}

const char *rig_path(const char *name)
{
    return keep(sp_format("%s/%s", rig_folder(), name));
}

void rig_shell(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    SP_FREE char *command = NULL;
    assert_true(vasprintf(&command, format, args) > 0);
    va_end(args);
    int r = system(command);
    if (r)
        print_error("%s: status %d\n", command, r);
    assert_int_equal(r, 0);
}

const char *rig_corpus_folder(void)
{
    static char path[512];
    const char *set = getenv("SEALPOINT_CORPUS"), *source = getenv("SEALPOINT_SOURCE");
    if (set)
        snprintf(path, sizeof(path), "%s", set);
    else
        snprintf(path, sizeof(path), "%s/../shared/corpus", source ? source : ".");
    if (access(path, R_OK) < 0) {
        fprintf(stderr, "skipped: no corpus at %s\n", path);
        exit(77);
    }
    return path;
}

const char *rig_corpus(const char *name)
{
    const char *path = rig_path(name);
    if (access(path, R_OK) == 0)
        return path;
    SP_FREE char *packed = sp_format("%s/%s.xz", rig_corpus_folder(), name);
    assert_non_null(packed);
    if (access(packed, R_OK) == 0)
        rig_shell("xz -dc '%s' > '%s'", packed, path);
    else
        rig_shell("cp '%s/%s' '%s'", rig_corpus_folder(), name, path);
    return path;
}

/* ---- asking ---- */

const char *rig_prover(void)
{
    static char path[512];
    const char *build = getenv("SEALPOINT_BUILD");
    snprintf(path, sizeof(path), "%s/controller/keeper/prover/sealpoint-prover",
             build ? build : ".");
    return path;
}

static struct sp_secret *secret_of(const struct question *q)
{
    struct sp_secret *s = NULL;
    if (!q->secret_file && !q->secret)
        return NULL;
    if (q->secret_file)
        assert_int_equal(sp_secret_read_file(q->secret_file, 1 << 20, &s), 0);
    else
        s = sp_secret_copy(q->secret, q->secret_size ? q->secret_size : strlen(q->secret));
    assert_non_null(s);
    return s;
}

static void check_sectors(const struct rig *rig, const Sp__ProverFinding *f, const uint8_t root[32])
{
    for (size_t i = 0; i < f->n_sectors; i++) {
        const Sp__SectorEvidence *s = f->sectors[i];
        uint8_t hash[32];
        assert_string_equal(s->on->disk_id, "disk0");
        SP_FREE uint8_t *data = malloc(s->on->length_bytes);
        assert_non_null(data);
        assert_int_equal(sp_pread_all(rig->fds[0], data, s->on->length_bytes, s->on->offset_bytes),
                         0);
        assert_int_equal(sp_sha256_of(data, s->on->length_bytes, hash), 0);
        assert_int_equal(s->sha256.len, 32);
        assert_memory_equal(s->sha256.data, hash, 32);
        assert_int_equal(s->disk_root.len, 32);
        assert_memory_equal(s->disk_root.data, root, 32);
    }
}

/* One job over one disk, whose root is `root`. */
static int ask(const struct question *q, const struct rig *rig, uint8_t root[32],
               Sp__ProverResult **ret, struct sp_secret **ret_key, struct sp_why *why)
{
    char id[200] = "";
    Sp__LookDisk disk = SP__LOOK_DISK__INIT, *disks[] = {&disk};
    disk.disk_id = (char[]){"disk0"};
    disk.size_bytes = rig->sizes[0];
    disk.logical_sector_bytes = 512;
    disk.disk_root = (ProtobufCBinaryData){.len = 32, .data = root};
    Sp__DiskExtent on = SP__DISK_EXTENT__INIT;
    on.disk_id = disk.disk_id;
    on.offset_bytes = q->start;
    on.length_bytes = q->length ? q->length : disk.size_bytes - q->start;
    Sp__VolumeExtent extent = SP__VOLUME_EXTENT__INIT, *extents[] = {&extent};
    extent.on = &on;
    Sp__Volume volume = SP__VOLUME__INIT;
    if (q->uuid)
        snprintf(id, sizeof(id), "%s:%s",
                 q->kind == SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER ? "bitlocker" : "luks", q->uuid);
    volume.volume_id = id;
    volume.kind = q->kind;
    volume.extents = extents;
    volume.n_extents = 1;
    volume.size_bytes = on.length_bytes;
    Sp__PlainParameters plain = SP__PLAIN_PARAMETERS__INIT;
    plain.cipher = (char *)(uintptr_t)(q->plain_cipher ? q->plain_cipher : "");
    plain.hash = (char *)(uintptr_t)(q->plain_hash ? q->plain_hash : "");
    plain.key_bits = q->plain_bits;
    plain.offset_sectors = q->plain_offset;
    plain.skip_sectors = q->plain_skip;
    plain.sector_bytes = q->plain_sector;
    Sp__Content expected = SP__CONTENT__INIT;
    expected.type = (char *)(uintptr_t)(q->expected_type ? q->expected_type : "");
    expected.uuid = (char *)(uintptr_t)(q->expected_uuid ? q->expected_uuid : "");
    Sp__CapturedHeader header = SP__CAPTURED_HEADER__INIT;
    SP_FREE char *header_bytes = NULL;
    Sp__ProverProof proof = SP__PROVER_PROOF__INIT;
    if (q->header) {
        assert_int_equal(sp_file_read(q->header, 64 << 20, &header_bytes, &header.bytes.len), 0);
        header.bytes.data = (uint8_t *)header_bytes;
        header.from_guest = true;
        proof.header = &header;
    }
    proof.volume = &volume;
    proof.disks = disks;
    proof.n_disks = 1;
    proof.secret_type = q->type ? q->type : SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE;
    proof.plain = q->plain_cipher ? &plain : NULL;
    proof.protector_id = (char *)(uintptr_t)(q->protector ? q->protector : "");
    proof.expected = q->expected_type ? &expected : NULL;
    proof.header_opened_before = q->carried;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_PROOF;
    job.proof = &proof;
    struct prover_options options = {
        .program = rig_prover(), .memory_bytes = q->memory_bytes, .time_limit_ms = q->time_ms};
    SP_SECRET struct sp_secret *secret = secret_of(q);
    return prover_run(&options, &job, rig->near, secret, ret, ret_key, why);
}

Sp__ProverFinding *rig_prove(const struct question *q, struct sp_secret **ret_key)
{
    struct rig rig;
    struct stat before, after;
    uint8_t root[32] = {1, 2, 3};
    struct sp_secret *key = NULL;
    assert_int_equal(stat(q->image, &before), 0);
    rig_open(&rig, &q->image, 1);
    Sp__ProverResult *result = NULL;
    struct sp_why why = {0};
    int r = ask(q, &rig, root, &result, &key, &why);
    if (r < 0)
        print_error("%s: %s (%s)\n", q->image, why.text, strerror(-r));
    assert_int_equal(r, 0);
    if (result->kind_case != SP__PROVER_RESULT__KIND_FINDING)
        print_error("%s: error %d %s\n", q->image, result->error, result->text);
    assert_int_equal(result->kind_case, SP__PROVER_RESULT__KIND_FINDING);
    Sp__ProverFinding *f = sp_steal(result->finding);
    result->kind_case = SP__PROVER_RESULT__KIND__NOT_SET;
    sp__prover_result__free_unpacked(result, NULL);
    check_sectors(&rig, f, root);
    rig_close(&rig);
    assert_int_equal(stat(q->image, &after), 0);
    assert_memory_equal(&before.st_ctim, &after.st_ctim, sizeof(before.st_ctim));
    assert_int_equal(f->has_volume_key, key != NULL);
    if (ret_key)
        *ret_key = key;
    else
        sp_secret_free(key);
    return f;
}

const char *rig_verdict(const struct question *q)
{
    Sp__ProverFinding *f = rig_prove(q, NULL);
    const char *name =
        sp_enum_name(&sp__proof_verdict__descriptor, (int)f->verdict, "PROOF_VERDICT_");
    sp__prover_finding__free_unpacked(f, NULL);
    return name;
}

int rig_fail(const struct question *q, struct sp_why *why)
{
    struct rig rig;
    uint8_t root[32] = {0};
    Sp__ProverResult *result = NULL;
    struct sp_secret *key = NULL;
    rig_open(&rig, &q->image, 1);
    int r = ask(q, &rig, root, &result, &key, why);
    rig_close(&rig);
    assert_true(r < 0);
    return r;
}

int rig_end(void **state)
{
    (void)state;
    rig_remove_folder();
    return 0;
}

void rig_images_are_as_they_were(void **state)
{
    (void)state;
    rig_shell("cd '%s' && for f in *; do want=$(awk -F'\\t' -v f=\"$f\" "
              "'$1 == f || $1 == f \".xz\" {print $2}' '%s/MANIFEST.tsv'); "
              "[ \"$want\" = \"$(sha256sum \"$f\" | cut -c1-64)\" ] || exit 1; done",
              rig_folder(), rig_corpus_folder());
}
