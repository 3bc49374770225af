/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The look as the keeper runs it, and a proof of what it found. What a look must find is the
 * business of lib/volume's tests; here it is that the real prover finds it through its socket. */
#include "rig.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)

static uint8_t root[32] = {7};

/* One disk, as served by the rig. */
struct one_disk {
    Sp__LookDisk disk, *list[1];
};

static void describe(struct one_disk *d, const struct rig *rig)
{
    static char name[] = "disk0";
    sp__look_disk__init(&d->disk);
    d->disk.disk_id = name;
    d->disk.size_bytes = rig->sizes[0];
    d->disk.logical_sector_bytes = 512;
    d->disk.disk_root = (ProtobufCBinaryData){32, root};
    d->list[0] = &d->disk;
}

static Sp__ProverResult *look_at(const struct rig *rig, bool layout_only)
{
    struct one_disk d;
    describe(&d, rig);
    Sp__LookRequest look = SP__LOOK_REQUEST__INIT;
    look.disks = d.list;
    look.n_disks = 1;
    look.layout_only = layout_only;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_LOOK;
    job.look = &look;
    struct prover_options options = {.program = rig_prover()};
    Sp__ProverResult *result = NULL;
    struct sp_why why = {0};
    int r = prover_run(&options, &job, rig->near, NULL, &result, NULL, &why);
    if (r < 0 || result->error)
        print_error("%s %s\n", why.text, result ? result->text : "");
    assert_int_equal(r, 0);
    assert_int_equal(result->kind_case, SP__PROVER_RESULT__KIND_LOOK);
    return result;
}

static Sp__Volume *find(const Sp__LookResponse *look, const char *id)
{
    for (size_t i = 0; i < look->n_volumes; i++) {
        if (strcmp(look->volumes[i]->volume_id, id) == 0)
            return look->volumes[i];
    }
    print_error("%s is not among %zu volumes\n", id, look->n_volumes);
    assert_true(false);
    return NULL;
}

/* The volume exactly as it was found, with a passphrase. */
static void assert_opens(const struct rig *rig, Sp__Volume *volume, const char *passphrase,
                         uint64_t payload)
{
    struct one_disk d;
    describe(&d, rig);
    Sp__ProverProof proof = SP__PROVER_PROOF__INIT;
    proof.volume = volume;
    proof.disks = d.list;
    proof.n_disks = 1;
    proof.secret_type = SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_PROOF;
    job.proof = &proof;
    SP_SECRET struct sp_secret *secret = sp_secret_copy(passphrase, strlen(passphrase));
    SP_SECRET struct sp_secret *key = NULL;
    struct prover_options options = {.program = rig_prover()};
    Sp__ProverResult *result = NULL;
    assert_int_equal(prover_run(&options, &job, rig->near, secret, &result, &key, NULL), 0);
    assert_int_equal(result->kind_case, SP__PROVER_RESULT__KIND_FINDING);
    const Sp__ProverFinding *f = result->finding;
    if (f->verdict != SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
        print_error("%s\n", f->text);
    assert_int_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
    assert_string_equal(f->content->type, "ext4");
    assert_int_equal(f->sectors[0]->on->offset_bytes, payload);
    assert_memory_equal(f->header_fingerprint.data, volume->header->fingerprint.data, 32);
    assert_non_null(key);
    sp__prover_result__free_unpacked(result, NULL);
}

static void a_gpt_disk_is_looked_at_and_proved(void **state)
{
    (void)state;
    const char *packed = rig_corpus("a-disk-gpt.qcow2"), *raw = rig_path("gpt.raw");
    rig_shell("qemu-img convert -f qcow2 -O raw '%s' '%s'", packed, raw);
    struct rig rig;
    rig_open(&rig, &raw, 1);
    Sp__ProverResult *result = look_at(&rig, false);
    Sp__Volume *luks = find(result->look, "luks:65932cdf-1141-41ba-8c6a-a65579604018");
    assert_int_equal(luks->kind, SP__VOLUME_KIND__VOLUME_KIND_LUKS2);
    assert_int_equal(luks->extents[0]->on->offset_bytes, 109 * MIB);
    find(result->look, "bitlocker:e9726fab-7656-4bc5-bb9e-adf115953328");
    assert_true(result->look->n_headers >= 2);
    assert_true(result->look->n_ranges > 0);
    assert_opens(&rig, luks, "a-4k-66c3b032e0df", 109 * MIB + luks->header->payload_offset_bytes);
    sp__prover_result__free_unpacked(result, NULL);
    result = look_at(&rig, true);
    find(result->look, "luks:65932cdf-1141-41ba-8c6a-a65579604018");
    assert_int_equal(result->look->n_headers, 0);
    sp__prover_result__free_unpacked(result, NULL);
    rig_close(&rig);
}

static void an_mbr_disk_is_looked_at_and_proved(void **state)
{
    (void)state;
    const char *packed = rig_corpus("a-disk-mbr.vmdk"), *raw = rig_path("mbr.raw");
    rig_shell("qemu-img convert -f vmdk -O raw '%s' '%s'", packed, raw);
    struct rig rig;
    rig_open(&rig, &raw, 1);
    Sp__ProverResult *result = look_at(&rig, false);
    Sp__Volume *luks = find(result->look, "luks:946041a9-83e5-486a-9799-85fa49f21a6c");
    assert_int_equal(luks->kind, SP__VOLUME_KIND__VOLUME_KIND_LUKS1);
    assert_int_equal(luks->extents[0]->on->offset_bytes, 10 * MIB);
    assert_opens(&rig, luks, "a-qemu-9bc48d49ff56", 10 * MIB + luks->header->payload_offset_bytes);
    sp__prover_result__free_unpacked(result, NULL);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gpt_disk_is_looked_at_and_proved),
        cmocka_unit_test(an_mbr_disk_is_looked_at_and_proved),
    };
    return cmocka_run_group_tests(tests, NULL, rig_end);
}
