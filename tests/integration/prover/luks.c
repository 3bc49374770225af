/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Every LUKS and plain image of the corpus by name: verdict, keyslot, content and words of each. */
#include "rig.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define LUKS1     SP__VOLUME_KIND__VOLUME_KIND_LUKS1
#define LUKS2     SP__VOLUME_KIND__VOLUME_KIND_LUKS2
#define V(x)      SP__PROOF_VERDICT__PROOF_VERDICT_##x
#define KEY_FILE  SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE
#define RAW_KEY   SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY
#define HEADER    SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER
#define PLAINTEXT SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT

struct row {
    const char *image, *secret, *key_file, *protector;
    Sp__VolumeKind kind;
    const char *uuid; /* of the header that is asked for; "": any */
    Sp__ProofVerdict verdict;
    const char *slot;        /* that opened the header; NULL: none did */
    const char *type, *with; /* content and its UUID; "": none */
    const char *said;        /* part of the text */
};

static const struct row rows[] = {
    {"luks1_aes-xts-plain64-sha256.img", NULL, "luks1-keyfile1", "", LUKS1,
     "5317c60b-3d22-4fd0-9344-171320782606", V(OPENS), "0", "vfat", "DEAD-BABE", ""},
    {"luks1_aes-cbc-essiv-sha256-sha1.img", NULL, "luks1-keyfile1", "", LUKS1,
     "e5f398d9-39da-4b6a-9ac3-e085a9394e7c", V(OPENS), "0", "vfat", "DEAD-BABE", ""},
    {"luks1_serpent-xts-plain64-sha256.img", NULL, "luks1-keyfile1", "", LUKS1,
     "c4f95176-9cd2-4dcc-b5d6-6306850bf488", V(UNCHECKABLE), NULL, "", "", "serpent-xts-plain64"},
    {"cs-compatimage.img", "compatkey", NULL, "", LUKS1, "28632274-8c8a-493f-835b-da802e1c576b",
     V(NOT_RECOGNISED), "0", "", "", "the key opens the header"},
    {"cs-test_image_64.img", "Qx3qn46vq0v", NULL, "", LUKS2, "f453a131-2739-4fbb-af7e-963f442ad433",
     V(NOT_RECOGNISED), "0", "", "", "the key opens the header"},
    {"cs-test_image_4096.img", "Qx3qn46vq0v", NULL, "", LUKS2,
     "f453a131-2739-4fbb-af7e-963f442ad433", V(NOT_RECOGNISED), "0", "", "",
     "the key opens the header"},
    {"cs-luks2_header_requirements.img", "blablabl", NULL, "", LUKS2,
     "282c4b68-edfe-4edc-b370-9e8dfd5d414e", V(UNCHECKABLE), "0", "", "", "requires 'req0'"},
    {"cs-evil_hdr-payload_overwrite.img", "x", NULL, "", LUKS1,
     "14af2331-2046-46ea-ac0d-4453bb95e744", V(HEADER_DAMAGED), NULL, "", "", "payload"},
    {"cs-l1_256b.img", "aaablabl", NULL, "", LUKS1, "48dcb108-4457-4f5a-a229-847d51133fd1",
     V(NOT_RECOGNISED), "0", "", "", "the snapshot ends before the payload"},
    {"cs-l1_256b.img", "bbbblabl", NULL, "", LUKS1, "48dcb108-4457-4f5a-a229-847d51133fd1",
     V(NOT_RECOGNISED), "7", "", "", "the snapshot ends before the payload"},
    {"cs-l1_256b.img", "bbbblabl", NULL, "7", LUKS1, "48dcb108-4457-4f5a-a229-847d51133fd1",
     V(NOT_RECOGNISED), "7", "", "", "the snapshot ends before the payload"},
    {"cs-l1_256b.img", "bbbblabl", NULL, "0", LUKS1, "48dcb108-4457-4f5a-a229-847d51133fd1",
     V(WRONG_KEY), NULL, "", "", "keyslot 0"},
    {"cs-l1_256b.img", "bbbblabl", NULL, "3", LUKS1, "48dcb108-4457-4f5a-a229-847d51133fd1",
     V(WRONG_KEY), NULL, "", "", "not active"},
    {"cs-blkid-luks2-pv.img", "x", NULL, "", LUKS2, "", V(HEADER_DAMAGED), NULL, "", "",
     "no LUKS header"},
    {"ul-luks1.img", "x", NULL, "", LUKS1, "", V(HEADER_DAMAGED), NULL, "", "", "past the end"},
    {"ul-luks2.img", "x", NULL, "", LUKS2, "", V(HEADER_DAMAGED), NULL, "", "", "cut off"},
    {"ul-swap-luks.img", "x", NULL, "", LUKS2, "", V(HEADER_DAMAGED), NULL, "", "", ""},
    {"csgen-invalid-checksum-hdr1.img", "x", NULL, "", LUKS2,
     "12a3a118-7039-4575-a649-3f559d8d87ee", V(UNCHECKABLE), NULL, "", "", "argon2"},
    {"csgen-corrupted-hdr1-with-correct-chks.img", "x", NULL, "", LUKS2,
     "12a3a118-7039-4575-a649-3f559d8d87ee", V(UNCHECKABLE), NULL, "", "", "argon2"},
    {"csgen-segment-unknown-type.img", "x", NULL, "", LUKS2, "12a3a118-7039-4575-a649-3f559d8d87ee",
     V(UNCHECKABLE), NULL, "", "", "argon2"},
    {"csgen-metadata-size-128k-secondary.img", "x", NULL, "", LUKS2,
     "12a3a118-7039-4575-a649-3f559d8d87ee", V(UNCHECKABLE), NULL, "", "", "argon2"},
    {"csgen-invalid-tokens.img", "x", NULL, "", LUKS2, "12a3a118-7039-4575-a649-3f559d8d87ee",
     V(HEADER_DAMAGED), NULL, "", "", "tokens"},
    {"a-luks1-qemu.img", "a-qemu-9bc48d49ff56", NULL, "", LUKS1,
     "946041a9-83e5-486a-9799-85fa49f21a6c", V(OPENS), "0", "ext4",
     "c15d16ec-37e2-4058-adfe-17e04ce08016", ""},
    {"a-luks1-multi.img", "a-slot0-ca1086b45eac", NULL, "", LUKS1,
     "4bcbba22-7a00-442b-abbd-5543dfc11744", V(OPENS), "0", "ext4",
     "5ceedf64-e007-444b-9401-a61d7bc42307", ""},
    {"a-luks1-multi.img", "a slotN pässw 664386a5", NULL, "", LUKS1,
     "4bcbba22-7a00-442b-abbd-5543dfc11744", V(OPENS), "3", "ext4",
     "5ceedf64-e007-444b-9401-a61d7bc42307", ""},
    {"a-luks1-multi.img", NULL, "a-luks1-multi.key", "4", LUKS1,
     "4bcbba22-7a00-442b-abbd-5543dfc11744", V(OPENS), "4", "ext4",
     "5ceedf64-e007-444b-9401-a61d7bc42307", ""},
    {"a-luks1-multi.img", "wrong", NULL, "", LUKS1, "4bcbba22-7a00-442b-abbd-5543dfc11744",
     V(WRONG_KEY), NULL, "", "", "none of the 3 active"},
    {"a-luks2-argon-tokens.img", "a-user-8a0ff5216f7b", NULL, "", LUKS2,
     "911641aa-b13c-4d22-a2df-074fd1aa105e", V(OPENS), "0", "ext4",
     "1d395b69-d29b-49ea-96b3-63c9e346fd17", ""},
    {"a-luks2-argon-tokens.img", "51f5d3c9-830f627e-bdea271f-7b2492f2", NULL, "7", LUKS2,
     "911641aa-b13c-4d22-a2df-074fd1aa105e", V(OPENS), "7", "ext4",
     "1d395b69-d29b-49ea-96b3-63c9e346fd17", ""},
    {"a-luks2-argon-tokens.img", NULL, "a-luks2-argon-tokens.key", "12", LUKS2,
     "911641aa-b13c-4d22-a2df-074fd1aa105e", V(OPENS), "12", "ext4",
     "1d395b69-d29b-49ea-96b3-63c9e346fd17", ""},
    {"a-luks2-4k.img", "a-4k-66c3b032e0df", NULL, "", LUKS2, "65932cdf-1141-41ba-8c6a-a65579604018",
     V(OPENS), "0", "ext4", "bf5a46ea-aa95-419f-85d1-d4fa8c6c7107", ""},
    {"a-luks2-4k.img", "a-4k-66c3b032e0df", NULL, "", LUKS2, "00000000-1141-41ba-8c6a-a65579604018",
     V(HEADER_DAMAGED), NULL, "", "", "is of the volume luks:65932cdf"},
    {"a-luks2-4k.img", "a-4k-66c3b032e0df", NULL, "", LUKS1, "", V(HEADER_DAMAGED), NULL, "", "",
     "another kind"},
    {"a-luks2-reenc-mid.img", "a-re-f66c19d67463", NULL, "", LUKS2,
     "90078bec-d380-4be5-856a-577b2b93b315", V(OPENS), "1", "ext4",
     "dd650a05-4619-4574-b4d4-41ca6c40b41f", "all 2 keys of a re-encryption under way"},
    {"a-luks2-reenc-mid.img", "a-re-f66c19d67463", NULL, "0", LUKS2,
     "90078bec-d380-4be5-856a-577b2b93b315", V(OPENS), "1", "ext4",
     "dd650a05-4619-4574-b4d4-41ca6c40b41f", "re-encryption"},
    {"a-luks2-reenc-mid.img", "wrong", NULL, "", LUKS2, "90078bec-d380-4be5-856a-577b2b93b315",
     V(WRONG_KEY), NULL, "", "", ""},
    {"a-luks2-integrity.img", "a-int-29f6d8c14d0d", NULL, "", LUKS2,
     "64d6c6dd-1860-49e9-a7f2-ee6b0d59e5ec", V(UNCHECKABLE), "0", "", "", "authentication tags"},
    {"a-luks2-primary-damaged.img", "a-pri-7a7410f31104", NULL, "", LUKS2,
     "c4837d23-b171-4ab5-9bd1-3fc5ee5c174a", V(NOT_RECOGNISED), "0", "", "",
     "the key opens the header"},
    {"a-luks2-both-damaged.img", "a-pri-7a7410f31104", NULL, "", LUKS2,
     "c4837d23-b171-4ab5-9bd1-3fc5ee5c174a", V(HEADER_DAMAGED), NULL, "", "", ""},
    {"a-luks2-erased.img", "a-er-e2d7cb0fc044", NULL, "", LUKS2,
     "4ab45f8e-6ed9-4ec8-bd5e-6566f394296b", V(NO_USABLE_PROTECTOR), NULL, "", "", "no keyslot"},
    {"a-neg-ext4-luks-string.img", "x", NULL, "", LUKS2, "", V(HEADER_DAMAGED), NULL, "", "", ""},
    {"a-neg-random.img", "x", NULL, "", LUKS2, "", V(HEADER_DAMAGED), NULL, "", "",
     "no LUKS header"},
};

static struct question question_of(const struct row *r)
{
    return (struct question){.image = rig_corpus(r->image),
                             .kind = r->kind,
                             .uuid = r->uuid[0] ? r->uuid : NULL,
                             .secret = r->secret,
                             .secret_file = r->key_file ? rig_corpus(r->key_file) : NULL,
                             .type = r->key_file ? KEY_FILE : 0,
                             .protector = r->protector};
}

static const char *name_of(Sp__ProofVerdict v)
{
    return sp_enum_name(&sp__proof_verdict__descriptor, (int)v, "PROOF_VERDICT_");
}

/* What a finding must have whatever it found. */
static void check(const struct row *r, const Sp__ProverFinding *f)
{
    if (f->verdict != r->verdict || !strstr(f->text, r->said))
        print_error("%s: %s: %s\n", r->image, name_of(f->verdict), f->text);
    assert_string_equal(name_of(f->verdict), name_of(r->verdict));
    assert_non_null(strstr(f->text, r->said));
    assert_string_equal(f->protector_id, r->slot ? r->slot : "");
    assert_string_equal(f->content ? f->content->type : "", r->type);
    assert_string_equal(f->content ? f->content->uuid : "", r->with);
    if (r->verdict == V(OPENS)) {
        assert_int_equal(f->level, PLAINTEXT);
        assert_true(f->n_sectors > 0);
        assert_non_null(strstr(f->method, "OpenSSL 3 aes-"));
    } else {
        assert_int_equal(f->level, r->slot ? HEADER : 0);
    }
    if (r->slot) {
        /* Two keys are no key to keep. */
        assert_int_equal(f->has_volume_key, strcmp(r->image, "a-luks2-reenc-mid.img") != 0);
        assert_int_equal(f->header_fingerprint.len, 32);
    } else {
        assert_false(f->has_volume_key);
        assert_int_equal(f->n_sectors, 0);
    }
}

static void every_image_gets_its_verdict(void **state)
{
    (void)state;
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        struct question q = question_of(&rows[i]);
        Sp__ProverFinding *f = rig_prove(&q, NULL);
        check(&rows[i], f);
        sp__prover_finding__free_unpacked(f, NULL);
    }
}

static void another_secret_opens_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        if (!rows[i].slot)
            continue;
        struct question q = question_of(&rows[i]);
        q.protector = rows[i].slot; /* argon2 once, not for every slot */
        q.secret = "not the secret";
        q.secret_file = NULL;
        q.type = 0;
        assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    }
}

/* The volume key that a proof hands out, as an escrowed secret and as a carried one. */
static void check_volume_key(const struct row *r)
{
    struct question q = question_of(r);
    struct sp_secret *key;
    Sp__ProverFinding *f = rig_prove(&q, &key), *again;
    assert_non_null(key);
    q.type = RAW_KEY;
    q.protector = NULL;
    q.secret_file = NULL;
    q.secret = sp_secret_data(key);
    q.secret_size = sp_secret_size(key);
    assert_string_equal(rig_verdict(&q), "OPENS");
    q.carried = true;
    again = rig_prove(&q, NULL);
    assert_string_equal(name_of(again->verdict), "OPENS");
    assert_false(again->has_volume_key);
    assert_string_equal(again->content->uuid, f->content->uuid);
    assert_memory_equal(again->header_fingerprint.data, f->header_fingerprint.data, 32);
    assert_int_equal(again->n_sectors, f->n_sectors);
    sp__prover_finding__free_unpacked(again, NULL);
    /* Carried and wrong: no digest is asked, the sectors tell. */
    sp_secret_data(key)[0] ^= 1;
    assert_string_equal(rig_verdict(&q), "NOT_RECOGNISED");
    q.carried = false;
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.secret_size--;
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.carried = true;
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    sp_secret_free(key);
    sp__prover_finding__free_unpacked(f, NULL);
}

static void volume_keys_prove_too(void **state)
{
    (void)state;
    static const char *const images[] = {"luks1_aes-cbc-essiv-sha256-sha1.img", "a-luks1-qemu.img",
                                         "a-luks2-4k.img"};
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        for (size_t k = 0; k < SP_COUNT(images); k++) {
            if (strcmp(rows[i].image, images[k]) == 0 && rows[i].verdict == V(OPENS))
                check_volume_key(&rows[i]);
        }
    }
}

static void detached_header_opens_its_data(void **state)
{
    (void)state;
    struct question q = {.image = rig_corpus("a-luks2-detached.data"),
                         .header = rig_corpus("a-luks2-detached.hdr"),
                         .kind = LUKS2,
                         .uuid = "bbb608c2-2ae8-4579-a723-011cdc047cfa",
                         .secret = "a-det-f55188a12582"};
    Sp__ProverFinding *f = rig_prove(&q, NULL);
    assert_string_equal(name_of(f->verdict), "OPENS");
    assert_string_equal(f->content->type, "ext4");
    assert_string_equal(f->content->label, "adet");
    assert_true(f->n_sectors > 0);
    assert_int_equal(f->sectors[0]->on->offset_bytes, 0);
    sp__prover_finding__free_unpacked(f, NULL);
    q.secret = "wrong";
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.secret = "a-det-f55188a12582";
    q.image = rig_corpus("a-neg-random.img"); /* other data behind the same header */
    assert_string_equal(rig_verdict(&q), "NOT_RECOGNISED");
}

static void foreign_detached_header_opens_but_shows_nothing(void **state)
{
    (void)state;
    struct question q = {.image = rig_corpus("a-neg-random.img"),
                         .header = rig_corpus("cs-l2_512b_det.hdr"),
                         .kind = LUKS2,
                         .uuid = "7a642803-2c29-4a49-9ec6-85e33017eaf5",
                         .secret = "bbbblabl"};
    Sp__ProverFinding *f = rig_prove(&q, NULL);
    assert_string_equal(name_of(f->verdict), "NOT_RECOGNISED");
    assert_string_equal(f->protector_id, "7");
    assert_int_equal(f->level, HEADER);
    sp__prover_finding__free_unpacked(f, NULL);
}

static void plain_needs_the_expected_content(void **state)
{
    (void)state;
    struct question q = {.image = rig_corpus("a-plain-cbc-essiv.img"),
                         .kind = SP__VOLUME_KIND__VOLUME_KIND_PLAIN,
                         .type = KEY_FILE,
                         .secret_file = rig_corpus("a-plain.key"),
                         .plain_cipher = "aes-cbc-essiv:sha256",
                         .plain_bits = 256,
                         .expected_type = "ext4",
                         .expected_uuid = "af78638a-2bc5-4570-9a95-86d1cccfd6ba"};
    Sp__ProverFinding *f = rig_prove(&q, NULL);
    assert_string_equal(name_of(f->verdict), "OPENS");
    assert_int_equal(f->level, PLAINTEXT);
    assert_string_equal(f->content->label, "aplain");
    assert_false(f->has_volume_key);
    sp__prover_finding__free_unpacked(f, NULL);
    q.type = RAW_KEY;
    assert_string_equal(rig_verdict(&q), "OPENS");
    q.expected_uuid = "11111111-2bc5-4570-9a95-86d1cccfd6ba"; /* recognised, not the expected */
    assert_string_equal(rig_verdict(&q), "NOT_RECOGNISED");
    q.expected_uuid = NULL;
    assert_string_equal(rig_verdict(&q), "NOT_RECOGNISED");
    q.expected_uuid = "af78638a-2bc5-4570-9a95-86d1cccfd6ba";
    q.plain_cipher = "aes-cbc-plain64"; /* wrong parameters are as good as a wrong key */
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.plain_cipher = "aes-cbc-essiv:sha256";
    q.plain_sector = 4096;
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.plain_sector = 0;
    q.plain_cipher = "twofish-cbc-plain64";
    assert_string_equal(rig_verdict(&q), "UNCHECKABLE");
    q.plain_cipher = "aes-cbc-essiv:sha256";
    q.carried = true; /* never for plain */
    assert_string_equal(rig_verdict(&q), "ERROR");
    q.carried = false;
    q.secret_file = NULL;
    q.secret = "0123456789abcdef0123456789abcdef";
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.plain_offset = UINT64_MAX / 256;
    assert_string_equal(rig_verdict(&q), "NOT_RECOGNISED");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_image_gets_its_verdict),
        cmocka_unit_test(another_secret_opens_nothing),
        cmocka_unit_test(volume_keys_prove_too),
        cmocka_unit_test(detached_header_opens_its_data),
        cmocka_unit_test(foreign_detached_header_opens_but_shows_nothing),
        cmocka_unit_test(plain_needs_the_expected_content),
        cmocka_unit_test(rig_images_are_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, rig_end);
}
