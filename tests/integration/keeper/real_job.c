/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper's whole part in a backup, with the real prover on a real LUKS image: init, import,
 * look, pin, prove, keystore copy, seal, unpin, release; then the host burns. */
#include "process.h"

#include "base/file.h"
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#define SECRET "a passphrase that must not be found anywhere"
#define V(x)   SP__PROOF_VERDICT__PROOF_VERDICT_##x

static struct rig *rig;
static struct process process;
static int image_fd = -1;
static uint64_t image_bytes;

/* An ext4 inside LUKS1, made by QEMU's own tools. */
static int setup(void **state)
{
    (void)state;
    rig = process_rig(&process);
    shell("truncate -s 8M %s-plain && mkfs.ext4 -q -F %s-plain", rig->folder, rig->folder);
    shell("printf '%%s' '%s' > %s-key", SECRET, rig->folder);
    /* qemu-img measures how fast it hashes, and gives up when a busy machine lets it measure
     * nothing. */
    shell("for i in $(seq 20); do qemu-img convert -f raw -O luks "
          "--object secret,id=k,file=%s-key -o key-secret=k,iter-time=10 %s-plain %s-image "
          "&& break; done && rm %s-plain %s-key",
          rig->folder, rig->folder, rig->folder, rig->folder, rig->folder);
    char path[120];
    snprintf(path, sizeof(path), "%s-image", rig->folder);
    image_fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(image_fd >= 0);
    image_bytes = (uint64_t)lseek(image_fd, 0, SEEK_END);
    unlink(path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(image_fd);
    process_rig_free(rig, &process);
    return 0;
}

static int read_image(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    (void)self;
    if (disk != 0)
        return -ENXIO;
    return sp_pread_all(image_fd, out, length, offset);
}

static Sp__KeeperResponse *reading(Sp__KeeperRequest *request)
{
    Sp__KeeperResponse *answer = NULL;
    struct sp_why why = {""};
    int e = keeper_call_reading(rig->client, request, read_image, NULL, 0, &answer, &why);
    if (e < 0)
        fail_msg("%s: %s", strerror(-e), why.text);
    return answer;
}

struct job {
    Sp__LookDisk disk, *disks[1];
    uint8_t root[32];
    Sp__Volume *volume; /* of the look */
    Sp__KeeperResponse *look;
};

static void look(struct job *j, Sp__VolumeKind kind)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__LookRequest ask = SP__LOOK_REQUEST__INIT;
    sp__look_disk__init(&j->disk);
    memset(j->root, 0x5a, sizeof(j->root));
    j->disk.disk_id = (char *)(uintptr_t)DISK;
    j->disk.size_bytes = image_bytes;
    j->disk.logical_sector_bytes = 512;
    j->disk.disk_root = (ProtobufCBinaryData){32, j->root};
    j->disks[0] = &j->disk;
    ask.machine_id = (char[]){MACHINE};
    ask.point_id = (char[]){POINT};
    ask.disks = j->disks;
    ask.n_disks = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LOOK;
    request.look = &ask;
    j->look = reading(&request);
    assert_int_equal(j->look->look->n_volumes, 1);
    j->volume = j->look->look->volumes[0];
    assert_int_equal(j->volume->kind, kind);
    assert_int_equal(j->volume->header->fingerprint.len, 32);
}

static Sp__ProofStatement *prove_volume(struct job *j, bool carry, Sp__Signed **ret)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ProveRequest ask = SP__PROVE_REQUEST__INIT;
    ask.machine_id = (char[]){MACHINE};
    ask.point_id = (char[]){POINT};
    ask.disks = j->disks;
    ask.n_disks = 1;
    ask.volume = j->volume;
    ask.allow_carry_over = carry;
    request.kind_case = SP__KEEPER_REQUEST__KIND_PROVE;
    request.prove = &ask;
    ANSWER a = reading(&request);
    assert_int_equal(sp_signed_verify(a->prove->statement, SP_SIGN_PROOF, rig->sealing), 0);
    if (ret)
        *ret = (Sp__Signed *)sp_message_copy(&a->prove->statement->base);
    return sp__proof_statement__unpack(NULL, a->prove->statement->payload.len,
                                       a->prove->statement->payload.data);
}

static Sp__KeeperResponse *copy_keystore(void)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeystoreCopyRequest ask = SP__KEYSTORE_COPY_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_KEYSTORE_COPY;
    request.keystore_copy = &ask;
    return rig_call(rig, &request);
}

static Sp__KeeperResponse *status(void)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperStatusRequest ask = SP__KEEPER_STATUS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &ask;
    return rig_call(rig, &request);
}

/* refused: what the text of the refusal holds; NULL: it must be sealed. */
static Sp__Signed *seal(struct job *j, Sp__Signed *proof, const Sp__KeeperResponse *copy,
                        const char *refused)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__SealRequest ask = SP__SEAL_REQUEST__INIT;
    Sp__Manifest m = SP__MANIFEST__INIT;
    Sp__DiskImage disk = SP__DISK_IMAGE__INIT, *disks[] = {&disk};
    Sp__Signed *proofs[] = {proof};
    SP_FREE uint8_t *packed = NULL;
    ANSWER s = status();

    disk.disk_id = (char *)(uintptr_t)DISK;
    disk.size_bytes = image_bytes;
    disk.root = (ProtobufCBinaryData){32, j->root};
    m.format = 1;
    m.machine_id = (char[]){MACHINE};
    m.point_id = (char[]){POINT};
    m.grade = SP__GRADE__GRADE_FILESYSTEM;
    m.state_at_seal = SP__POINT_STATE__POINT_STATE_VALID;
    m.disks = disks;
    m.n_disks = 1;
    m.volumes = &j->volume;
    m.n_volumes = 1;
    m.proofs = proofs;
    m.n_proofs = 1;
    m.keystore_epoch = copy->keystore_copy->epoch;
    m.keystore_copy = (char[]){"keystore/1"};
    m.keeper_audit_head = s->status->audit_head;
    assert_int_equal(sp_pack(&m.base, &packed, &ask.manifest.len), 0);
    ask.manifest.data = packed;
    request.kind_case = SP__KEEPER_REQUEST__KIND_SEAL;
    request.seal = &ask;
    if (refused) {
        rig_refused(rig, &request, ESTALE, refused);
        return NULL;
    }
    ANSWER a = rig_call(rig, &request);
    assert_int_equal(sp_signed_verify(a->seal->manifest, SP_SIGN_MANIFEST, rig->sealing), 0);
    return (Sp__Signed *)sp_message_copy(&a->seal->manifest->base);
}

static void release(Sp__Signed *sealed, const char *volume_id)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ReleaseForRequest outer = SP__RELEASE_FOR_REQUEST__INIT;
    Sp__ReleaseRequest ask = SP__RELEASE_REQUEST__INIT;
    SP_SECRET struct sp_secret *reply = NULL, *packed = NULL;
    SP_BUFFER struct sp_buffer aad = {0};
    uint8_t reply_public[32];

    assert_int_equal(sp_box_keypair(&reply, reply_public), 0);
    ask.point_id = (char[]){POINT};
    ask.reply_key = (ProtobufCBinaryData){32, reply_public};
    outer.request = sign(rig, &rig->admin, "/sealpoint.v1.Keys/Release", &ask.base);
    outer.manifest = sealed;
    request.kind_case = SP__KEEPER_REQUEST__KIND_RELEASE;
    request.release = &outer;
    ANSWER a = rig_call(rig, &request);
    sp__signed_request__free_unpacked(outer.request, NULL);
    assert_int_equal(a->release->n_keys, 1);
    Sp__ReleasedKey *key = a->release->keys[0];
    assert_int_equal(sp_release_aad(&aad, POINT, volume_id, key->record->record_id), 0);
    assert_int_equal(sp_box_open(reply, aad.data, aad.size, key->material, &packed), 0);
    Sp__KeyMaterial *material =
        sp__key_material__unpack(NULL, sp_secret_size(packed), sp_secret_data(packed));
    assert_int_equal(material->secret.len, strlen(SECRET));
    assert_memory_equal(material->secret.data, SECRET, strlen(SECRET));
    sp__key_material__free_unpacked(material, NULL);
}

/* A second state on the same rig, from the copy and the kit. */
static void burn_and_restore(const Sp__KeeperResponse *copy)
{
    char kit[120], file[120];
    SP_FREE char *encoded = sp_base64url(sp_secret_data(rig->kit), 32);
    SP_FREE char *text = sp_format("sealpoint-kit-1:%s\n", encoded);
    snprintf(kit, sizeof(kit), "%s/kit", rig->folder);
    snprintf(file, sizeof(file), "%s/copy", rig->folder);
    assert_int_equal(sp_file_replace(kit, text, strlen(text), 0600), 0);
    assert_int_equal(
        sp_file_replace(file, copy->keystore_copy->copy.data, copy->keystore_copy->copy.len, 0600),
        0);
    const char *const arguments[] = {"--restore-kit", kit, "--copy", file, NULL};
    assert_int_equal(process_run(rig, &process, arguments), 1); /* still there and in use */
    assert_int_equal(process_end(&process, SIGTERM), 0);
    assert_int_equal(process_run(rig, &process, arguments), 1); /* still there */
    shell("rm -r %s", rig->state);
    assert_int_equal(sp_file_replace(rig->passphrase, "new host", 8, 0600), 0);
    assert_int_equal(process_run(rig, &process, arguments), 0);
    unlink(kit);
    process_start(rig, &process);
    ANSWER s = status();
    assert_true(s->status->initialised);
    assert_false(s->status->locked);
    assert_int_equal(s->status->n_warnings, 1); /* what was pinned since, only the vaults know */
    assert_non_null(strstr(s->status->warnings[0], "keystore reconcile"));
}

static void test_the_whole_job(void **state)
{
    struct job j = {0};
    Sp__Signed *proof = NULL;
    (void)state;

    look(&j, SP__VOLUME_KIND__VOLUME_KIND_LUKS1);
    Sp__ProofStatement *s = prove_volume(&j, true, NULL);
    assert_int_equal(s->verdict, V(NO_RECORD));
    sp__proof_statement__free_unpacked(s, NULL);

    import_key(rig, MACHINE, j.volume->volume_id, "", "some other passphrase", NULL);
    s = prove_volume(&j, true, NULL);
    assert_int_equal(s->verdict, V(WRONG_KEY));
    sp__proof_statement__free_unpacked(s, NULL);

    import_key(rig, MACHINE, j.volume->volume_id, "", SECRET, NULL);
    pin_point(rig, POINT, MACHINE, j.volume->volume_id);
    s = prove_volume(&j, true, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_string_equal(s->content->type, "ext4");
    assert_string_equal(s->carried_from_proof_id, "");
    sp__proof_statement__free_unpacked(s, NULL);

    s = prove_volume(&j, true, &proof);
    assert_int_equal(s->verdict, V(OPENS));
    assert_string_not_equal(s->carried_from_proof_id, "");
    sp__proof_statement__free_unpacked(s, NULL);

    ANSWER copy = copy_keystore();
    Sp__Signed *sealed = seal(&j, proof, copy, NULL);
    release(sealed, j.volume->volume_id);
    assert_true(audit_has(rig, "key.release", POINT));

    burn_and_restore(copy);
    release(sealed, j.volume->volume_id);

    assert_false(process_left(rig, SECRET));
    assert_false(process_left(rig, "correct horse battery"));
    sp__signed__free_unpacked(sealed, NULL);
    sp__signed__free_unpacked(proof, NULL);
    answer_free(j.look);
}

/* The same header and another payload: the verdict of the header was carried over, the sectors were
 * not. */
static void test_an_overwritten_payload_is_found(void **state)
{
    struct job j = {0};
    uint8_t noise[4096];
    (void)state;

    look(&j, SP__VOLUME_KIND__VOLUME_KIND_LUKS1);
    Sp__ProofStatement *s = prove_volume(&j, true, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    sp__proof_statement__free_unpacked(s, NULL);
    for (uint64_t at = j.volume->header->payload_offset_bytes; at < image_bytes;
         at += sizeof(noise)) {
        size_t size = image_bytes - at < sizeof(noise) ? image_bytes - at : sizeof(noise);
        assert_int_equal(sp_random(noise, size), 0);
        assert_int_equal(sp_pwrite_all(image_fd, noise, size, at), 0);
    }
    s = prove_volume(&j, true, NULL);
    assert_int_equal(s->verdict, V(NOT_RECOGNISED));
    sp__proof_statement__free_unpacked(s, NULL);
    answer_free(j.look);
}

/* Microsoft's clear key: the data open with what lies in the header. That is proved, and it is no
 * protection: such a point is not valid by itself. */
static void test_a_clear_key_is_proved_and_named(void **state)
{
    struct job j = {0};
    Sp__Signed *proof = NULL;
    const char *corpus = getenv("SEALPOINT_CORPUS"), *source = getenv("SEALPOINT_SOURCE");
    const int other_fd = image_fd;
    const uint64_t other_bytes = image_bytes;
    char path[120];
    (void)state;

    SP_FREE char *packed =
        corpus ? sp_format("%s/bitlk-aes-xts-128-clearkey-only.img.xz", corpus)
               : sp_format("%s/../shared/corpus/bitlk-aes-xts-128-clearkey-only.img.xz",
                           source ? source : ".");
    if (access(packed, R_OK) != 0) {
        if (getenv("CI")) /* CTest does not see a skip inside a program */
            fail_msg("no corpus: %s", packed);
        print_message("skipped: no corpus at %s\n", packed);
        skip();
    }
    snprintf(path, sizeof(path), "%s-clear", rig->folder);
    shell("xz -dc '%s' > %s", packed, path);
    image_fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(image_fd >= 0);
    image_bytes = (uint64_t)lseek(image_fd, 0, SEEK_END);
    unlink(path);

    look(&j, SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER);
    assert_true(j.volume->header->protection_suspended);
    Sp__ProofStatement *s = prove_volume(&j, true, &proof);
    assert_int_equal(s->verdict, V(OPENS));
    assert_null(s->record);
    assert_string_equal(s->content->type, "ntfs");
    sp__proof_statement__free_unpacked(s, NULL);
    ANSWER copy = copy_keystore();
    assert_null(seal(&j, proof, copy, "no proof opens the volume bitlocker:"));

    sp__signed__free_unpacked(proof, NULL);
    answer_free(j.look);
    close(image_fd);
    image_fd = other_fd;
    image_bytes = other_bytes;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_whole_job),
        cmocka_unit_test(test_an_overwritten_payload_is_found),
        cmocka_unit_test(test_a_clear_key_is_proved_and_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
