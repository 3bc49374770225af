/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the formats allow and the corpus does not hold: made by cryptsetup where it can do so
 * without device-mapper, else from the formats' descriptions. */
#include "generate.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB  ((uint64_t)1 << 20)
#define UUID "66666666-7777-4888-9999-aaaaaaaaaaaa"

/* luksFormat with more options; the list ends with NULL. */
#define FORMAT(image, type, ...)                                                                   \
    tool("key", "cryptsetup", "luksFormat", "-q", "--type", type, "--pbkdf", "pbkdf2",             \
         "--pbkdf-force-iterations", "1000", "--uuid", UUID, "--key-file", "-", __VA_ARGS__,       \
         image_path(image), NULL)

static void drop(Sp__HeaderFacts *f)
{
    sp__header_facts__free_unpacked(f, NULL);
}

/* ---- LUKS1 ---- */

static void test_luks1_ciphers(void **state)
{
    (void)state;
    static const struct {
        const char *cipher, *hash, *bits;
    } cases[] = {{"aes-xts-plain64", "sha512", "512"},
                 {"aes-cbc-essiv:sha256", "sha1", "128"},
                 {"aes-cbc-plain64", "sha256", "256"},
                 {"aes-xts-plain64", "ripemd160", "256"}};
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct image image;
        image_empty(&image, 4 * MIB);
        FORMAT(&image, "luks1", "-c", cases[i].cipher, "-h", cases[i].hash, "-s", cases[i].bits);
        Sp__HeaderFacts *f = facts_of(&image.reader, "luks1");
        assert_string_equal(f->cipher, cases[i].cipher);
        assert_string_equal(f->hash, cases[i].hash);
        assert_int_equal(f->key_bits, strtoul(cases[i].bits, NULL, 10));
        assert_string_equal(f->protectors[0]->hash, cases[i].hash);
        assert_false(f->damaged);
        drop(f);
        image_close(&image);
    }
}

/* Ciphers that only the kernel knows stand in the header as text all the same. */
static void test_luks1_other_ciphers(void **state)
{
    (void)state;
    struct image image;
    char name[32] = "twofish", mode[32] = "lrw-benbi", hash[32] = "whirlpool";
    image_empty(&image, 4 * MIB);
    FORMAT(&image, "luks1", "-s", "256");
    image_put(&image, 8, name, sizeof name);
    image_put(&image, 40, mode, sizeof mode);
    image_put(&image, 72, hash, sizeof hash);
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks1");
    assert_string_equal(f->cipher, "twofish-lrw-benbi");
    assert_string_equal(f->hash, "whirlpool");
    assert_false(f->damaged);
    drop(f);
    image_close(&image);
}

static void test_detached_headers(void **state)
{
    (void)state;
    static const char *const types[] = {"luks1", "luks2"};
    for (size_t i = 0; i < 2; i++) {
        struct image header, data;
        char path[64];
        struct volume_look look;
        image_empty(&header, 20 * MIB);
        image_empty(&data, 4 * MIB);
        snprintf(path, sizeof path, "%s", image_path(&header));
        FORMAT(&data, types[i], "--header", path);
        Sp__HeaderFacts *f = facts_of(&header.reader, types[i]);
        assert_true(f->detached);
        assert_int_equal(f->payload_offset_bytes, 0);
        assert_string_equal(f->uuid, UUID);
        drop(f);
        look_at(&header, &look);
        assert_int_equal(look.volume_count, 1);
        assert_string_equal(range_at(&look, "disk", 0)->volume_id, "luks:" UUID);
        assert_null(range_at(&look, "disk", 19 * MIB)); /* a header vouches for itself only */
        volume_look_free(&look);
        look_at(&data, &look);
        assert_int_equal(look.volume_count, 0);
        volume_look_free(&look);
        image_close(&header);
        image_close(&data);
    }
}

/* ---- LUKS2 ---- */

static void test_every_header_size(void **state)
{
    (void)state;
    for (unsigned kib = 16; kib <= 4096; kib *= 2) {
        struct image image;
        char size[16];
        uint8_t *zeros = calloc(1, 4096);
        assert_non_null(zeros);
        image_empty(&image, 20 * MIB);
        snprintf(size, sizeof size, "%uk", kib);
        FORMAT(&image, "luks2", "--luks2-metadata-size", size, "--luks2-keyslots-size", "512k");
        Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
        assert_false(f->damaged);
        assert_int_equal(f->copies[1]->offset_bytes, kib << 10);
        assert_int_equal(f->copies[1]->health, SP__COPY_HEALTH__COPY_HEALTH_GOOD);
        drop(f);
        image_put(&image, 0, zeros, 4096); /* only the second is left, and nobody says where */
        f = facts_of(&image.reader, "luks2");
        assert_false(f->damaged);
        assert_string_equal(f->uuid, UUID);
        assert_int_equal(f->n_protectors, 1);
        assert_int_equal(f->copies[0]->health, SP__COPY_HEALTH__COPY_HEALTH_ABSENT);
        assert_int_equal(f->copies[1]->offset_bytes, kib << 10);
        drop(f);
        free(zeros);
        image_close(&image);
    }
}

/* The first copy's write never came: the second is newer, and in force. */
static void test_the_second_copy_may_be_newer(void **state)
{
    (void)state;
    struct image image;
    uint8_t *old = malloc(16384);
    assert_non_null(old);
    image_empty(&image, 20 * MIB);
    FORMAT(&image, "luks2", "--label", "old");
    assert_int_equal(volume_read(&image.reader, 0, old, 16384), 0);
    tool(NULL, "cryptsetup", "config", "--label", "new", image_path(&image), NULL);
    image_put(&image, 0, old, 16384);
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_string_equal(f->label, "new");
    assert_int_equal(f->copies[0]->health, SP__COPY_HEALTH__COPY_HEALTH_STALE);
    assert_int_equal(f->copies[1]->health, SP__COPY_HEALTH__COPY_HEALTH_GOOD);
    assert_true(f->copies[1]->sequence > f->copies[0]->sequence);
    drop(f);
    free(old);
    image_close(&image);
}

static void test_segments(void **state)
{
    (void)state;
    struct image image;
    image_empty(&image, 20 * MIB);
    FORMAT(&image, "luks2", "--sector-size", "512");
    /* luksFormat --integrity hmac-sha256 needs device-mapper; its JSON is this. */
    luks2_edit(
        &image, 16384, "\"sector_size\":512}",
        "\"sector_size\":512,\"integrity\":{\"type\":\"hmac(sha256)\",\"journal_encryption\":"
        "\"none\",\"journal_integrity\":\"none\"}}");
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_false(f->damaged);
    assert_string_equal(f->integrity, "hmac(sha256)");
    drop(f);
    /* Two segments: the later one has another cipher. */
    luks2_edit(&image, 16384, "\"size\":\"dynamic\"", "\"size\":\"1048576\"");
    luks2_edit(&image, 16384, "\"segments\":{",
               "\"segments\":{\"1\":{\"type\":\"linear\",\"offset\":\"17825792\",\"size\":"
               "\"dynamic\"},");
    f = facts_of(&image.reader, "luks2");
    assert_false(f->damaged);
    assert_int_equal(f->n_segments, 2);
    assert_string_equal(f->segments[1]->type, "linear");
    assert_int_equal(f->segments[0]->length_bytes, MIB);
    assert_int_equal(f->payload_offset_bytes, 16 * MIB);
    assert_int_equal(f->payload_length_bytes, 0);
    assert_string_equal(f->cipher, "aes-xts-plain64");
    drop(f);
    image_close(&image);
}

/* A drive that encrypts by itself (OPAL), as cryptsetup 2.7 writes it: not known here, but LUKS2.
 */
static void test_opal(void **state)
{
    (void)state;
    struct image image;
    image_empty(&image, 20 * MIB);
    FORMAT(&image, "luks2", "--sector-size", "512");
    luks2_edit(&image, 16384, "\"type\":\"crypt\"",
               "\"type\":\"hw-opal-crypt\",\"opal_segment_number\":1");
    luks2_edit(&image, 16384, "\"config\":{",
               "\"config\":{\"requirements\":{\"mandatory\":[\"opal\"]},");
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_false(f->damaged);
    assert_string_equal(f->segments[0]->type, "hw-opal-crypt");
    assert_string_equal(f->requirements[0], "opal");
    drop(f);
    image_close(&image);
}

/* Encryption in place moves the first data out of the header's way: a segment at 0 that is a backup
 * does not make the header a detached one. */
static void test_encryption_in_place(void **state)
{
    (void)state;
    struct image image;
    struct volume_look look;
    image_empty(&image, 64 * MIB);
    tool(NULL, "mkfs.ext4", "-q", "-F", image_path(&image), "32M", NULL);
    tool("key", "cryptsetup", "reencrypt", "-q", "--encrypt", "--init-only", "--reduce-device-size",
         "32M", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
         "--uuid", UUID, "--key-file", "-", image_path(&image), NULL);
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_false(f->damaged);
    assert_true(f->conversion_in_progress);
    assert_false(f->detached);
    assert_true(f->n_requirements > 0);
    drop(f);
    look_at(&image, &look);
    assert_non_null(finding_of(&look, SP__REASON__REASON_CONVERSION_IN_PROGRESS, "luks:" UUID));
    assert_string_equal(range_at(&look, "disk", 40 * MIB)->volume_id, "luks:" UUID);
    volume_look_free(&look);
    image_close(&image);
}

static void test_tokens_keep_their_contents(void **state)
{
    (void)state;
    struct image image;
    image_empty(&image, 20 * MIB);
    FORMAT(&image, "luks2", "--label", "x");
    tool("{\"type\":\"made-up\",\"keyslots\":[\"0\"],\"secret\":\"PIN 1234\"}", "cryptsetup",
         "token", "import", "--token-id", "5", image_path(&image), NULL);
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_int_equal(f->n_tokens, 1);
    assert_int_equal(f->tokens[0]->number, 5);
    assert_string_equal(f->tokens[0]->type, "made-up");
    assert_int_equal(f->tokens[0]->keyslots[0], 0);
    uint8_t *packed = NULL;
    size_t size;
    assert_int_equal(sp_pack(&f->base, &packed, &size), 0);
    assert_null(memmem(packed, size, "1234", 4));
    free(packed);
    drop(f);
    image_close(&image);
}

/* What clevis recovers a passphrase from is no secret, and the keeper needs it: in the compact
 * form. */
static void import_jwe(struct image *image, const char *number, const char *tag, size_t size)
{
    char *cipher = malloc(size + 1), *token = NULL;
    assert_non_null(cipher);
    memset(cipher, 'c', size);
    cipher[size] = 0;
    assert_true(
        asprintf(&token,
                 "{\"type\":\"clevis\",\"keyslots\":[\"0\"],\"jwe\":{\"ciphertext\":\"%s\","
                 "\"encrypted_key\":\"\",\"iv\":\"iV\",\"protected\":\"e30\",\"tag\":\"%s\"}}",
                 cipher, tag) > 0);
    tool(token, "cryptsetup", "token", "import", "--token-id", number, image_path(image), NULL);
    free(token);
    free(cipher);
}

static void test_clevis_tokens_tell_their_jwe(void **state)
{
    (void)state;
    struct image image;
    image_empty(&image, 20 * MIB);
    FORMAT(&image, "luks2", "--luks2-metadata-size", "64k");
    import_jwe(&image, "0", "t-_", 3);
    import_jwe(&image, "1", "a.b", 3);
    import_jwe(&image, "2", "t", 17000);
    Sp__HeaderFacts *f = facts_of(&image.reader, "luks2");
    assert_false(f->damaged);
    assert_int_equal(f->n_tokens, 3);
    assert_int_equal(f->tokens[0]->jwe.len, strlen("e30..iV.ccc.t-_"));
    assert_memory_equal(f->tokens[0]->jwe.data, "e30..iV.ccc.t-_", f->tokens[0]->jwe.len);
    assert_int_equal(f->tokens[1]->jwe.len, 0); /* more parts than it has */
    assert_int_equal(f->tokens[2]->jwe.len, 0); /* too long */
    drop(f);
    image_close(&image);
}

/* ---- BitLocker ---- */

static const struct bitlocker bitlocker = {.era = BITLOCKER_NORMAL,
                                           .copies = {35 * MIB, 45 * MIB, 55 * MIB},
                                           .state = 4,
                                           .next = 4,
                                           .cipher = 0x8004,
                                           .sector = 512,
                                           .encrypted = 64 * MIB,
                                           .nonce = 7,
                                           .protectors = {0x0800, 0x2000},
                                           .protector_count = 2,
                                           .description = "HOST C: 1/1/2020"};

static void test_bitlocker_eras(void **state)
{
    (void)state;
    for (int era = BITLOCKER_NORMAL; era <= BITLOCKER_EOW; era++) {
        struct image image;
        struct bitlocker b = bitlocker;
        b.era = (enum bitlocker_era)era;
        b.sector = era == BITLOCKER_NORMAL ? 4096 : 512;
        image_empty(&image, 64 * MIB);
        bitlocker_put(&image, &b);
        Sp__HeaderFacts *f = facts_of(&image.reader, "bitlocker");
        assert_false(f->damaged);
        assert_string_equal(f->uuid, BITLOCKER_GUID);
        assert_string_equal(f->description, b.description);
        assert_int_equal(f->sector_bytes, b.sector);
        assert_int_equal(f->version, era == BITLOCKER_VISTA ? 1 : 2);
        assert_int_equal(f->created_unix_ms, 1577836800000); /* 2020-01-01 */
        assert_int_equal(f->n_copies, 3);                    /* Vista's too, through the first */
        for (size_t i = 0; i < 3; i++) {
            assert_int_equal(f->copies[i]->offset_bytes, b.copies[i]);
            assert_int_equal(f->copies[i]->health, SP__COPY_HEALTH__COPY_HEALTH_GOOD);
        }
        assert_int_equal(f->conversion_in_progress, era == BITLOCKER_EOW);
        assert_int_equal(f->conversion_percent, era == BITLOCKER_EOW ? 0 : 100);
        drop(f);
        image_close(&image);
    }
}

static void test_bitlocker_protectors_and_states(void **state)
{
    (void)state;
    static const struct {
        uint16_t code;
        Sp__ProtectorType type;
        bool escrowable;
    } types[] = {
        {0x0100, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM, false},
        {0x0200, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_STARTUP_KEY, true},
        {0x0500, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM_PIN, false},
        {0x0800, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD, true},
        {0x1000, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_SMART_CARD, false},
        {0x2000, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_PASSWORD, true},
        {0x0000, SP__PROTECTOR_TYPE__PROTECTOR_TYPE_CLEAR_KEY, true},
    };
    static const struct {
        uint16_t now, next;
        const char *name;
        bool converting;
    } states[] = {{1, 1, "decrypted", false}, {2, 4, "switching", true}, {3, 4, "paused", true},
                  {4, 4, "encrypted", false}, {5, 1, "switching", true}, {4, 1, "encrypted", true},
                  {9, 9, "unknown", true}};
    struct image image;
    image_empty(&image, 64 * MIB);
    for (size_t i = 0; i < SP_COUNT(types); i++) {
        struct bitlocker b = bitlocker;
        struct volume_look look;
        b.protectors[0] = types[i].code;
        b.protector_count = 1;
        bitlocker_put(&image, &b);
        look_at(&image, &look);
        const Sp__HeaderFacts *f = look.volumes[0]->header;
        assert_int_equal(f->n_protectors, 1);
        assert_int_equal(f->protectors[0]->type, types[i].type);
        assert_string_equal(f->protectors[0]->id, "11111111-1111-1111-1111-111111111111");
        assert_int_equal(f->protection_suspended, types[i].code == 0);
        assert_int_equal(finding_of(&look, SP__REASON__REASON_NO_ESCROWABLE_PROTECTOR, NULL) !=
                             NULL,
                         !types[i].escrowable);
        volume_look_free(&look);
    }
    for (size_t i = 0; i < SP_COUNT(states); i++) {
        struct bitlocker b = bitlocker;
        b.state = states[i].now;
        b.next = states[i].next;
        b.encrypted = 16 * MIB;
        bitlocker_put(&image, &b);
        Sp__HeaderFacts *f = facts_of(&image.reader, "bitlocker");
        assert_string_equal(f->state, states[i].name);
        assert_int_equal(f->conversion_in_progress, states[i].converting);
        assert_int_equal(f->conversion_percent, 25);
        drop(f);
    }
    image_close(&image);
}

static void test_bitlocker_copies(void **state)
{
    (void)state;
    struct image image;
    struct bitlocker newer = bitlocker;
    uint8_t block[BITLOCKER_BLOCK_MAX];
    static const uint8_t zeros[BITLOCKER_BLOCK_MAX];
    image_empty(&image, 64 * MIB);
    bitlocker_put(&image, &bitlocker);
    /* Only the third is good. */
    image_put(&image, bitlocker.copies[0], zeros, sizeof zeros);
    image_put(&image, bitlocker.copies[1] + 200, "!", 1);
    Sp__HeaderFacts *f = facts_of(&image.reader, "bitlocker");
    assert_false(f->damaged);
    assert_int_equal(f->copies[0]->health, SP__COPY_HEALTH__COPY_HEALTH_ABSENT);
    assert_int_equal(f->copies[1]->health, SP__COPY_HEALTH__COPY_HEALTH_DAMAGED);
    assert_int_equal(f->copies[2]->health, SP__COPY_HEALTH__COPY_HEALTH_GOOD);
    drop(f);
    /* The second is newer than the third: it counts. */
    newer.nonce = 8;
    newer.description = "newer";
    bitlocker_block(&newer, block);
    image_put(&image, bitlocker.copies[1], block, sizeof block);
    f = facts_of(&image.reader, "bitlocker");
    assert_string_equal(f->description, "newer");
    assert_int_equal(f->copies[2]->health, SP__COPY_HEALTH__COPY_HEALTH_STALE);
    drop(f);
    /* None is left. */
    image_put(&image, bitlocker.copies[1], zeros, sizeof zeros);
    image_put(&image, bitlocker.copies[2], zeros, sizeof zeros);
    f = facts_of(&image.reader, "bitlocker");
    assert_true(f->damaged);
    drop(f);
    image_close(&image);
}

static void test_bitlocker_without_sector_0(void **state)
{
    (void)state;
    struct image image;
    uint8_t boot[512];
    static const uint8_t zeros[512];
    struct bitlocker far = bitlocker;
    for (size_t i = 0; i < 3; i++)
        far.copies[i] = (i + 2) * 1024 * MIB; /* where no search comes */
    image_empty(&image, 8 * 1024 * MIB);
    bitlocker_put(&image, &far);
    bitlocker_boot(&far, boot);
    image_put(&image, 0, zeros, sizeof zeros);
    const struct volume_format *format;
    Sp__HeaderFacts *f = NULL;
    assert_int_equal(volume_probe(&image.reader, &format, &f), 0);
    /* The backup boot sector: the last one, or before the rest of a cluster. */
    for (unsigned back = 1; back <= 8; back += 7) {
        image_put(&image, image.size - back * 512, boot, sizeof boot);
        f = facts_of(&image.reader, "bitlocker");
        assert_true(f->damaged);
        assert_non_null(strstr(f->damage, "sector 0 is lost"));
        assert_string_equal(f->uuid, BITLOCKER_GUID);
        assert_int_equal(f->n_protectors, 2);
        assert_int_equal(f->sector_bytes, 512);
        drop(f);
        image_put(&image, image.size - back * 512, zeros, sizeof zeros);
    }
    /* No backup either: by signature, in the first part, as much as the caller has left for it. */
    struct bitlocker near = bitlocker;
    for (size_t i = 0; i < 3; i++)
        near.copies[i] = (200 + 1000 * i) * MIB + 4096;
    bitlocker_put(&image, &near);
    image_put(&image, 0, zeros, sizeof zeros);
    f = facts_of(&image.reader, "bitlocker");
    assert_non_null(strstr(f->damage, "sector 0 is lost"));
    assert_int_equal(f->copies[2]->offset_bytes, near.copies[2]);
    drop(f);
    uint64_t left = 600 * MIB;
    struct volume_reader rationed = image.reader;
    rationed.search_left = &left;
    for (unsigned i = 0; i < 2; i++) {
        f = facts_of(&rationed, "bitlocker");
        assert_int_equal(left, (344 - i * 256) * MIB);
        drop(f);
    }
    f = NULL;
    assert_int_equal(volume_probe(&rationed, &format, &f), 0); /* 88 MiB do not reach it */
    assert_int_equal(left, 0);
    image_put(&image, near.copies[0], zeros, sizeof zeros);
    /* Sector 0 is there, but leads astray. */
    bitlocker_put(&image, &bitlocker);
    struct bitlocker astray = bitlocker;
    astray.copies[0] += 8192;
    bitlocker_boot(&astray, boot);
    image_put(&image, 0, boot, sizeof boot);
    f = facts_of(&image.reader, "bitlocker");
    assert_true(f->damaged);
    assert_non_null(strstr(f->damage, "names places"));
    assert_int_equal(f->copies[0]->offset_bytes, bitlocker.copies[0]);
    drop(f);
    image_close(&image);
}

/* ---- what lies on what ---- */

/* Disk ─ mirror ─ physical volume ─ logical volume of two pieces ─ LUKS2. */
static void test_luks_on_lvm_on_md(void **state)
{
    (void)state;
    struct image disk, pv, luks;
    struct volume_look look;
    char line[600];
    const char *source = getenv("SEALPOINT_SOURCE");
    image_empty(&disk, 66 * MIB);
    image_empty(&pv, 64 * MIB);
    image_empty(&luks, 20 * MIB);
    snprintf(line, sizeof line, "xz -dc '%s/tests/unit/volume/lvm2-pv1.img.xz' > '%s'",
             source ? source : ".", image_path(&pv));
    tool(NULL, "sh", "-c", line, NULL);
    assert_int_equal(ftruncate(pv.fd, (off_t)pv.size), 0);
    FORMAT(&luks, "luks2", "--label", "deep");
    uint8_t *bytes = malloc(20 * MIB);
    assert_non_null(bytes);
    assert_int_equal(volume_read(&luks.reader, 0, bytes, 20 * MIB), 0);
    image_put(&pv, 1 * MIB, bytes, 10 * MIB); /* extents 0 to 9 of 1 MiB, then from 27 on */
    image_put(&pv, 28 * MIB, bytes + 10 * MIB, 10 * MIB);
    free(bytes);
    md_put_mirror(&disk, 64 * 2048);
    image_put_image(&disk, 1 * MIB, &pv);
    look_at(&disk, &look);
    const Sp__Volume *v = volume_named(&look, "luks:" UUID);
    assert_string_equal(v->header->label, "deep");
    assert_false(v->header->damaged);
    assert_int_equal(v->n_extents, 2);
    assert_int_equal(v->extents[0]->on->offset_bytes, 2 * MIB);
    assert_int_equal(v->extents[1]->on->offset_bytes, 29 * MIB);
    assert_int_equal(v->extents[1]->volume_offset_bytes, 10 * MIB);
    volume_look_free(&look);
    image_close(&disk);
    image_close(&pv);
    image_close(&luks);
}

/* ---- what only looks like it ---- */

static void test_look_alikes(void **state)
{
    (void)state;
    static const struct {
        uint64_t offset;
        const char *bytes;
        size_t size;
    } cases[] = {
        {0, "LUKS", 4},
        {0, "LUKS\xba\xbf\0\1", 8},
        {0, "SKUL\xba\xbe\0\2", 8},   /* a second header at 0 is none */
        {512, "LUKS\xba\xbe\0\1", 8}, /* one in the wrong place */
        {3, "-FVE-FS", 7},
        {1000, "-FVE-FS-", 8},
        {35 * MIB, "-FVE-FS-", 8},
        {3, "MSWIN4.1", 8},
        {512, "LABELONE", 8},
        {4096, "\xfc\x4e\x2b\xa9\1\0\0\0", 8}, /* MD without its checksum */
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct image image;
        struct volume_look look;
        const struct volume_format *format;
        Sp__HeaderFacts *f = NULL;
        image_empty(&image, 64 * MIB);
        image_put(&image, cases[i].offset, cases[i].bytes, cases[i].size);
        assert_int_equal(volume_probe(&image.reader, &format, &f), 0);
        look_at(&image, &look);
        assert_int_equal(look.volume_count, 0);
        volume_look_free(&look);
        image_close(&image);
    }
}

static void test_samples(void **state)
{
    (void)state;
    struct image image;
    enum volume_looks looks;
    image_empty(&image, 8 * MIB);
    assert_int_equal(volume_sample(&image.reader, 0, image.size, &looks), 0);
    assert_int_equal(looks, VOLUME_LOOKS_EMPTY);
    char command[128];
    snprintf(command, sizeof command, "yes 'some text' | head -c 4194304 > %s", image_path(&image));
    tool(NULL, "sh", "-c", command, NULL);
    assert_int_equal(volume_sample(&image.reader, 0, 4 * MIB, &looks), 0);
    assert_int_equal(looks, VOLUME_LOOKS_OTHER);
    snprintf(command, sizeof command, "head -c 8388608 /dev/urandom > %s", image_path(&image));
    tool(NULL, "sh", "-c", command, NULL);
    assert_int_equal(volume_sample(&image.reader, 0, image.size, &looks), 0);
    assert_int_equal(looks, VOLUME_LOOKS_RANDOM);
    image_close(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_luks1_ciphers),
        cmocka_unit_test(test_luks1_other_ciphers),
        cmocka_unit_test(test_detached_headers),
        cmocka_unit_test(test_every_header_size),
        cmocka_unit_test(test_the_second_copy_may_be_newer),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_opal),
        cmocka_unit_test(test_encryption_in_place),
        cmocka_unit_test(test_tokens_keep_their_contents),
        cmocka_unit_test(test_clevis_tokens_tell_their_jwe),
        cmocka_unit_test(test_bitlocker_eras),
        cmocka_unit_test(test_bitlocker_protectors_and_states),
        cmocka_unit_test(test_bitlocker_copies),
        cmocka_unit_test(test_bitlocker_without_sector_0),
        cmocka_unit_test(test_luks_on_lvm_on_md),
        cmocka_unit_test(test_look_alikes),
        cmocka_unit_test(test_samples),
    };
    return cmocka_run_group_tests_name("volume-formats", tests, NULL, NULL);
}
