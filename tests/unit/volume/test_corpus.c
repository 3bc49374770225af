/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Images of the handed-out corpus by name: details that its manifest does not tell (volume-manifest
 * asserts what it does), and what a look makes of them. */
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- LUKS, one by one ---- */

struct luks_case {
    const char *file, *format, *cipher, *hash, *slots, *usable, *health;
    unsigned key_bits, sector;
    uint64_t payload;
    bool damaged;
};

static const struct luks_case luks_cases[] = {
    {"luks1_aes-xts-plain64-sha256.img.xz", "luks1", "aes-xts-plain64", "sha256", "0", "0", "g",
     256, 512, 2097152, false},
    {"luks1_aes-cbc-essiv-sha256-sha1.img.xz", "luks1", "aes-cbc-essiv:sha256", "sha1", "0", "0",
     "g", 256, 512, 2097152, false},
    {"luks1_serpent-xts-plain64-sha256.img.xz", "luks1", "serpent-xts-plain64", "sha256", "0", "0",
     "g", 256, 512, 2097152, false},
    {"cs-compatimage.img.xz", "luks1", "aes-cbc-essiv:sha256", "sha256", "0", "0", "g", 128, 512,
     528384, false},
    {"cs-l1_256b.img.xz", "luks1", "aes-xts-plain64", "sha256", "0,7", "0,7", "g", 256, 512,
     2097152, false},
    {"a-luks1-qemu.img.xz", "luks1", "aes-xts-plain64", "sha256", "0", "0", "g", 512, 512, 2068480,
     false},
    {"a-luks1-multi.img.xz", "luks1", "aes-cbc-essiv:sha256", "sha1", "0,3,4", "0,3,4", "g", 256,
     512, 2097152, false},
    {"cs-evil_hdr-payload_overwrite.img.xz", "luks1", "aes-cbc-essiv:sha256", "sha512", "", "", "d",
     256, 512, 2097152, true},
    {"ul-luks1.img", "luks1", "aes-cbc-essiv:sha256", "sha1", "0", "0", "d", 256, 512, 2097152,
     true},
    {"ul-luks2.img", "luks2", "", "", "", "", "da", 0, 0, 0, true},
    {"cs-test_image_64.img.xz", "luks2", "aes-xts-plain64", "sha256", "0", "0", "gg", 256, 512,
     12582912, false},
    {"cs-test_image_4096.img.xz", "luks2", "aes-xts-plain64", "sha256", "0", "0", "gg", 256, 512,
     12582912, false},
    {"cs-luks2_header_requirements.img.xz", "luks2", "aes-xts-plain64", "sha256", "0", "0", "gg",
     256, 512, 4194304, false},
    {"cs-l2_512b_det.hdr.xz", "luks2", "aes-xts-plain64", "sha256", "0,7", "0,7", "gg", 512, 512, 0,
     false},
    {"csgen-invalid-checksum-hdr1.img.xz", "luks2", "aes-xts-plain64", "sha256", "0,1,2,3,4,5,6,7",
     "0,1,2,3,4,5,6,7", "gd", 256, 512, 4194304, false},
    {"csgen-corrupted-hdr1-with-correct-chks.img.xz", "luks2", "aes-xts-plain64", "sha256",
     "0,1,2,3,4,5,6,7", "0,1,2,3,4,5,6,7", "gd", 256, 512, 4194304, false},
    {"csgen-segment-unknown-type.img.xz", "luks2", "", "sha256", "0,1,2,3,4,5,6,7",
     "0,1,2,3,4,5,6,7", "ga", 256, 0, 4194304, false},
    {"csgen-metadata-size-128k-secondary.img.xz", "luks2", "aes-xts-plain64", "sha256",
     "0,1,2,3,4,5,6,7", "0,1,2,3,4,5,6,7", "ag", 256, 512, 16777216, false},
    {"csgen-invalid-tokens.img.xz", "luks2", "", "", "", "", "dd", 0, 0, 0, true},
    {"a-luks2-argon-tokens.img.xz", "luks2", "aes-xts-plain64", "sha256", "0,7,12", "0,7,12", "gg",
     512, 512, 16777216, false},
    {"a-luks2-4k.img.xz", "luks2", "aes-xts-plain64", "sha256", "0", "0", "gg", 256, 4096, 16777216,
     false},
    {"a-luks2-detached.hdr.xz", "luks2", "aes-xts-plain64", "sha256", "0", "0", "gg", 512, 512, 0,
     false},
    {"a-luks2-reenc-mid.img.xz", "luks2", "aes-xts-plain64", "sha256", "0,1", "0,1", "gg", 512, 512,
     16777216, false},
    {"a-luks2-integrity.img.xz", "luks2", "aes-gcm-random", "sha256", "0", "0", "gg", 256, 512,
     16777216, false},
    {"a-luks2-primary-damaged.img.xz", "luks2", "aes-xts-plain64", "sha256", "0", "0", "ag", 512,
     512, 16777216, false},
    {"a-luks2-erased.img.xz", "luks2", "aes-xts-plain64", "sha256", "", "", "gg", 0, 512, 16777216,
     false},
};

static void slots_text(const Sp__HeaderFacts *f, bool usable_only, char *out, size_t size)
{
    size_t at = 0;
    *out = 0;
    for (size_t i = 0; i < f->n_protectors; i++)
        if (!usable_only || f->protectors[i]->usable)
            at +=
                (size_t)snprintf(out + at, size - at, "%s%s", at ? "," : "", f->protectors[i]->id);
}

static void health_text(const Sp__HeaderFacts *f, char *out)
{
    for (size_t i = 0; i < f->n_copies; i++)
        out[i] = "?gdas"[f->copies[i]->health];
    out[f->n_copies] = 0;
}

static void check_luks(const struct luks_case *c, const Sp__HeaderFacts *f)
{
    char text[100];
    assert_string_equal(f->cipher, c->cipher);
    assert_string_equal(f->hash, c->hash);
    assert_int_equal(f->key_bits, c->key_bits);
    assert_int_equal(f->sector_bytes, c->sector);
    assert_int_equal(f->payload_offset_bytes, c->payload);
    assert_int_equal(f->damaged, c->damaged);
    assert_int_equal(*f->damage != 0, c->damaged);
    slots_text(f, false, text, sizeof text);
    assert_string_equal(text, c->slots);
    slots_text(f, true, text, sizeof text);
    assert_string_equal(text, c->usable);
    health_text(f, text);
    assert_string_equal(text, c->health);
    assert_int_equal(f->detached, c->payload == 0 && !c->damaged);
}

static void test_luks_facts(void **state)
{
    (void)state;
    for (size_t i = 0; i < SP_COUNT(luks_cases); i++) {
        const struct luks_case *c = &luks_cases[i];
        struct image image;
        image_of_corpus(&image, c->file);
        Sp__HeaderFacts *f = facts_of(&image.reader, c->format);
        print_message("%s\n", c->file);
        check_luks(c, f);
        sp__header_facts__free_unpacked(f, NULL);
        image_close(&image);
    }
}

static void test_luks2_tokens_and_kdfs(void **state)
{
    (void)state;
    struct image image;
    image_of_corpus(&image, "a-luks2-argon-tokens.img.xz");
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_string_equal(f->label, "a-data");
    assert_string_equal(f->subsystem, "vm-a");
    const Sp__Protector *p = f->protectors[1];
    assert_string_equal(p->kdf, "argon2id");
    assert_int_equal(p->kdf_iterations, 4);
    assert_int_equal(p->kdf_memory_kib, 65536);
    assert_int_equal(p->kdf_parallel, 2);
    assert_int_equal(p->priority, 2);
    assert_int_equal(f->protectors[0]->priority, 1);
    assert_string_equal(f->protectors[2]->kdf, "pbkdf2");
    assert_string_equal(f->protectors[2]->hash, "sha256");
    assert_int_equal(f->protectors[2]->kdf_iterations, 2000);
    assert_int_equal(f->n_tokens, 2);
    assert_string_equal(f->tokens[0]->type, "systemd-recovery");
    assert_int_equal(f->tokens[0]->n_keyslots, 1);
    assert_int_equal(f->tokens[0]->keyslots[0], 7);
    assert_int_equal(f->tokens[1]->number, 3);
    assert_string_equal(f->tokens[1]->type, "systemd-tpm2");
    assert_int_equal(f->tokens[1]->keyslots[0], 12);
    assert_int_equal(f->digest_count, 1);
    sp__header_facts__free_unpacked(f, NULL);
    image_close(&image);
}

static void test_luks2_reencryption(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    image_of_corpus(&image, "a-luks2-reenc-mid.img.xz");
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_true(f->conversion_in_progress);
    assert_int_equal(f->conversion_percent, 3);
    assert_int_equal(f->n_requirements, 1);
    assert_string_equal(f->requirements[0], "online-reencrypt-v2");
    assert_int_equal(f->n_segments, 5);
    assert_string_equal(f->segments[1]->flags[0], "in-reencryption");
    assert_int_equal(f->segments[1]->length_bytes, 65536);
    assert_int_equal(f->segments[1]->iv_offset_sectors, 640);
    assert_int_equal(f->segments[2]->length_bytes, 0);
    assert_string_equal(f->segments[3]->flags[0], "backup-previous");
    sp__header_facts__free_unpacked(f, NULL);
    look_at(&image, &look);
    const Sp__Finding *found = finding_of(&look, SP__REASON__REASON_CONVERSION_IN_PROGRESS,
                                          "luks:90078bec-d380-4be5-856a-577b2b93b315");
    assert_non_null(found);
    assert_false(found->note);
    volume_look_free(&look);
    image_close(&image);
}

static void test_luks2_requirements(void **state)
{
    (void)state;
    struct image image;
    image_of_corpus(&image, "cs-luks2_header_requirements.img.xz");
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_int_equal(f->n_requirements, 2);
    assert_string_equal(f->requirements[0], "req0");
    assert_string_equal(f->requirements[1], "req1");
    assert_false(f->conversion_in_progress);
    sp__header_facts__free_unpacked(f, NULL);
    image_close(&image);
    image_of_corpus(&image, "a-luks2-integrity.img.xz");
    f = facts_of(&image.reader, "luks2");
    assert_string_equal(f->integrity, "aead");
    sp__header_facts__free_unpacked(f, NULL);
    image_close(&image);
}

/* ---- looks ---- */

static void test_damage_is_never_clear(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    /* LUKS2's six bytes on an ext4: ambiguous, said so, and not a volume that a key could open. */
    image_of_corpus(&image, "a-neg-ext4-luks-string.img.xz");
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_true(f->damaged);
    assert_non_null(strstr(f->damage, "ambiguous"));
    assert_non_null(strstr(f->damage, "ext4"));
    assert_int_equal(f->n_protectors, 0);
    sp__header_facts__free_unpacked(f, NULL);
    look_at(&image, &look);
    assert_int_equal(look.volume_count, 1);
    const Sp__Finding *found = finding_of(&look, SP__REASON__REASON_HEADER_DAMAGED, "luks:disk+0");
    assert_non_null(found);
    assert_false(found->note);
    volume_look_free(&look);
    image_close(&image);

    image_of_corpus(&image, "a-bitlk-bootsector-lost.img.xz");
    f = facts_of(&image.reader, "bitlocker");
    assert_true(f->damaged);
    assert_non_null(strstr(f->damage, "sector 0 is lost"));
    assert_int_equal(f->n_protectors, 2);
    sp__header_facts__free_unpacked(f, NULL);
    image_close(&image);
}

/* Whichever of the metadata copies is left: it is found by itself and tells what all told. */
static void test_one_bitlocker_copy_is_enough(void **state)
{
    (void)state;
    static const uint8_t zeros[512];
    static const char *const files[] = {"bitlk-aes-cbc-elephant-128.img.xz",
                                        "bitlk-aes-xts-128-startup-key.img.xz",
                                        "bitlk-togo-aes-xts-128.img.xz"};
    for (size_t i = 0; i < SP_COUNT(files); i++) {
        struct image image;
        image_of_corpus(&image, files[i]);
        Sp__HeaderFacts *whole = facts_of(&image.reader, "bitlocker");
        assert_int_equal(whole->n_copies, 3);
        image_put(&image, 0, zeros, sizeof zeros);
        for (size_t left = 0; left < 3; left++) {
            struct altered a = {.count = 0}; /* the signatures of the two others */
            for (size_t n = 0; n < 3; n++)
                if (n != left) {
                    a.offsets[a.count] = whole->copies[n]->offset_bytes;
                    a.masks[a.count++] = 0xff;
                }
            struct volume_reader reader = altered_reader(&a, &image.reader, image.size);
            Sp__HeaderFacts *f = facts_of(&reader, "bitlocker");
            assert_true(f->damaged);
            assert_non_null(strstr(f->damage, "sector 0 is lost"));
            assert_string_equal(f->uuid, whole->uuid);
            assert_string_equal(f->cipher, whole->cipher);
            assert_string_equal(f->description, whole->description);
            assert_int_equal(f->n_protectors, whole->n_protectors);
            for (size_t n = 0; n < 3; n++)
                assert_int_equal(f->copies[n]->health, n == left
                                                           ? SP__COPY_HEALTH__COPY_HEALTH_GOOD
                                                           : SP__COPY_HEALTH__COPY_HEALTH_ABSENT);
            sp__header_facts__free_unpacked(f, NULL);
        }
        sp__header_facts__free_unpacked(whole, NULL);
        image_close(&image);
    }
}

static void test_one_lost_copy_is_a_note(void **state)
{
    (void)state;
    static const char *const files[] = {"a-bitlk-copy0-lost.img.xz",
                                        "a-luks2-primary-damaged.img.xz",
                                        "csgen-invalid-checksum-hdr1.img.xz"};
    for (size_t i = 0; i < SP_COUNT(files); i++) {
        struct image image;
        struct volume_look look;
        image_of_corpus(&image, files[i]);
        look_at(&image, &look);
        assert_int_equal(look.volume_count, 1);
        assert_false(look.volumes[0]->header->damaged);
        const Sp__Finding *found = finding_of(&look, SP__REASON__REASON_HEADER_DAMAGED, NULL);
        assert_non_null(found);
        assert_true(found->note);
        volume_look_free(&look);
        image_close(&image);
    }
}

static void test_stale_second_header(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    /* A PV over a dead LUKS2, and a swap area over one whose copy says that it lies elsewhere. */
    image_of_corpus(&image, "cs-blkid-luks2-pv.img.xz");
    look_at(&image, &look);
    assert_int_equal(look.volume_count, 0);
    assert_string_equal(range_at(&look, "disk", 0x1200)->what, "lvm2 metadata");
    volume_look_free(&look);
    image_close(&image);
    image_of_corpus(&image, "ul-swap-luks.img.xz");
    look_at(&image, &look);
    assert_int_equal(look.volume_count, 1);
    assert_string_equal(
        volume_named(&look, "clear:0eb5f96f-188d-4d61-9e9c-d89ce8206846")->content->type, "swap");
    volume_look_free(&look);
    image_close(&image);
}

static void test_unrecognised_is_not_accounted_for(void **state)
{
    (void)state;
    static const char *const files[] = {"a-neg-random.img.xz", "a-plain-cbc-essiv.img.xz",
                                        "a-luks2-detached.data.xz", "a-luks2-both-damaged.img.xz",
                                        "tcrypt-vc_1-sha512-xts-aes.img.xz"};
    for (size_t i = 0; i < SP_COUNT(files); i++) {
        struct image image;
        struct volume_look look;
        image_of_corpus(&image, files[i]);
        look_at(&image, &look);
        assert_int_equal(look.volume_count, 0);
        assert_int_equal(look.range_count, 0);
        volume_look_free(&look);
        image_close(&image);
    }
}

static void test_clear_key_and_no_keyslot(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    image_of_corpus(&image, "bitlk-aes-xts-128-clearkey-only.img.xz");
    look_at(&image, &look);
    assert_non_null(finding_of(&look, SP__REASON__REASON_PROTECTION_SUSPENDED,
                               "bitlocker:df73cb51-ff48-4033-8d56-a32cc2b1ab7a"));
    volume_look_free(&look);
    image_close(&image);
    image_of_corpus(&image, "a-luks2-erased.img.xz");
    look_at(&image, &look);
    assert_non_null(finding_of(&look, SP__REASON__REASON_NO_ESCROWABLE_PROTECTOR,
                               "luks:4ab45f8e-6ed9-4ec8-bd5e-6566f394296b"));
    volume_look_free(&look);
    image_close(&image);
}

/* A flipped bit costs one copy; in all three it is damage; nowhere is it "not BitLocker". */
static void test_flipped_bitlocker_metadata(void **state)
{
    (void)state;
    static const uint64_t copies[] = {35213312, 46256128, 57909248};
    struct image image;
    image_of_corpus(&image, "bitlk-aes-xts-128.img.xz");
    for (unsigned at = 0; at < 0x370; at += at < 128 ? 5 : 61) {
        struct altered a = {.masks = {0x20, 0x20, 0x20}, .count = 1};
        for (size_t i = 0; i < 3; i++)
            a.offsets[i] = copies[i] + at;
        struct volume_reader reader = altered_reader(&a, &image.reader, image.size);
        Sp__HeaderFacts *f = facts_of(&reader, "bitlocker");
        assert_false(f->damaged);
        assert_int_not_equal(f->copies[0]->health, SP__COPY_HEALTH__COPY_HEALTH_GOOD);
        assert_int_equal(f->n_protectors, 2);
        sp__header_facts__free_unpacked(f, NULL);
        a.count = 3;
        f = facts_of(&reader, "bitlocker");
        assert_true(f->damaged);
        sp__header_facts__free_unpacked(f, NULL);
    }
    /* Cut off behind the first copy, inside it, before it. */
    static const struct {
        uint64_t size;
        bool damaged;
    } cuts[] = {{40 << 20, false}, {35213312 + 300, true}, {1 << 20, true}, {512, true}};
    for (size_t i = 0; i < SP_COUNT(cuts); i++) {
        struct altered a = {.count = 0};
        struct volume_reader reader = altered_reader(&a, &image.reader, cuts[i].size);
        Sp__HeaderFacts *f = facts_of(&reader, "bitlocker");
        assert_int_equal(f->damaged, cuts[i].damaged);
        sp__header_facts__free_unpacked(f, NULL);
    }
    image_close(&image);
}

static void test_gpt_disk(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    image_of_corpus(&image, "a-disk-gpt.qcow2.xz");
    look_at(&image, &look);
    assert_int_equal(look.volume_count, 3);
    const Sp__Volume *v = volume_named(&look, "bitlocker:e9726fab-7656-4bc5-bb9e-adf115953328");
    assert_int_equal(v->n_extents, 1);
    assert_int_equal(v->extents[0]->on->offset_bytes, 9 << 20);
    assert_int_equal(v->extents[0]->on->length_bytes, 100 << 20);
    v = volume_named(&look, "luks:65932cdf-1141-41ba-8c6a-a65579604018");
    assert_int_equal(v->extents[0]->on->offset_bytes, 109 << 20);
    assert_string_equal(range_at(&look, "disk", 0)->what, "gpt");
    assert_string_equal(range_at(&look, "disk", 64 << 10)->what, "gap");
    assert_string_equal(range_at(&look, "disk", 1 << 20)->what, "vfat");
    assert_string_equal(range_at(&look, "disk", (9 << 20) + 5)->volume_id,
                        "bitlocker:e9726fab-7656-4bc5-bb9e-adf115953328");
    assert_string_equal(range_at(&look, "disk", image.size - 1)->what, "gpt");
    assert_null(range_at(&look, "disk", 130 << 20)); /* behind the last partition: nobody's */
    volume_look_free(&look);
    image_close(&image);
}

static void test_mbr_disk(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    image_of_corpus(&image, "a-disk-mbr.vmdk.xz");
    look_at(&image, &look);
    const Sp__Volume *v = volume_named(&look, "luks:946041a9-83e5-486a-9799-85fa49f21a6c");
    assert_int_equal(v->extents[0]->on->offset_bytes, 10 << 20);
    assert_string_equal(range_at(&look, "disk", 9 << 20)->what, "dos"); /* the EBR */
    assert_string_equal(range_at(&look, "disk", 10 << 20)->what, "luks1");
    volume_look_free(&look);
    image_close(&image);
}

static void test_terabyte_sized_disk_is_cheap(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    image_of_corpus(&image, "a-bitlk-tpm-recovery.qcow2.xz");
    assert_true(image.size > (uint64_t)297 << 30);
    look_at(&image, &look);
    const Sp__Volume *v = volume_named(&look, "bitlocker:90333f8c-825f-495b-8811-f3ab3189b019");
    assert_int_equal(v->header->n_protectors, 2);
    assert_int_equal(v->header->protectors[1]->type, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM);
    assert_null(finding_of(&look, SP__REASON__REASON_NO_ESCROWABLE_PROTECTOR, NULL));
    volume_look_free(&look);
    image_close(&image);
}

static void test_captured_headers_are_the_bytes(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    image_of_corpus(&image, "cs-test_image_64.img.xz");
    look_at(&image, &look);
    assert_int_equal(look.header_count, 2); /* both copies; the one keyslot's area */
    for (size_t i = 0; i < look.header_count; i++) {
        const Sp__CapturedHeader *h = look.headers[i];
        SP_FREE uint8_t *bytes = malloc(h->bytes.len);
        assert_non_null(bytes);
        assert_int_equal(
            volume_read(&image.reader, h->volume_offset_bytes, bytes, (uint32_t)h->bytes.len), 0);
        assert_memory_equal(bytes, h->bytes.data, h->bytes.len);
    }
    volume_look_free(&look);
    const struct volume_disk disk = {.disk_id = "disk", .reader = image.reader};
    assert_int_equal(volume_look(&disk, 1, true, &look), 0);
    assert_int_equal(look.volume_count, 1);
    assert_int_equal(look.header_count, 0);
    volume_look_free(&look);
    image_close(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_luks_facts),
        cmocka_unit_test(test_luks2_tokens_and_kdfs),
        cmocka_unit_test(test_luks2_reencryption),
        cmocka_unit_test(test_luks2_requirements),
        cmocka_unit_test(test_damage_is_never_clear),
        cmocka_unit_test(test_one_bitlocker_copy_is_enough),
        cmocka_unit_test(test_one_lost_copy_is_a_note),
        cmocka_unit_test(test_stale_second_header),
        cmocka_unit_test(test_unrecognised_is_not_accounted_for),
        cmocka_unit_test(test_clear_key_and_no_keyslot),
        cmocka_unit_test(test_flipped_bitlocker_metadata),
        cmocka_unit_test(test_gpt_disk),
        cmocka_unit_test(test_mbr_disk),
        cmocka_unit_test(test_terabyte_sized_disk_is_cheap),
        cmocka_unit_test(test_captured_headers_are_the_bytes),
    };
    if (!corpus_folder()) {
        fprintf(stderr, "skipped: no corpus (SEALPOINT_CORPUS)\n");
        return 77;
    }
    for (size_t i = 0; i < SP_COUNT(luks_cases); i++)
        if (!corpus_has(luks_cases[i].file)) {
            fprintf(stderr, "skipped: this is another corpus than the one that is known by name; "
                            "volume-manifest tests it\n");
            return 77;
        }
    return cmocka_run_group_tests_name("volume-corpus", tests, NULL, NULL);
}
