/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Images made here with cryptsetup, qemu-img and an encryptor of our own, then damaged: the payload
 * overwritten, exchanged, the header broken, the keyslot gone. */
#include "rig.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/prover/descriptors.h"
#include <fcntl.h>
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define LUKS1   SP__VOLUME_KIND__VOLUME_KIND_LUKS1
#define LUKS2   SP__VOLUME_KIND__VOLUME_KIND_LUKS2
#define PLAIN   SP__VOLUME_KIND__VOLUME_KIND_PLAIN
#define RAW_KEY SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY
#define UUID    "0f0e0d0c-1111-2222-3333-444455556666"

enum { LUKS2_PAYLOAD = 16 << 20 }; /* of an image made by make_luks2() */

/* ---- making ---- */

static const char *make_ext4(const char *name, const char *uuid)
{
    const char *path = rig_path(name);
    rig_shell("truncate -s 8M '%s' && mke2fs -q -t ext4 -b 4096 -U %s -F '%s'", path, uuid, path);
    return path;
}

/* A file system of 8 MiB, encrypted in place; the header goes before it. */
static const char *make_luks2(const char *name, const char *secret, const char *options)
{
    const char *path = make_ext4(name, UUID), *key = rig_path("key");
    rig_shell("printf %%s '%s' > '%s'", secret, key);
    rig_shell("truncate -s +32M '%s' && cryptsetup -q reencrypt --encrypt --type luks2 "
              "--resilience none --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "
              "--reduce-device-size 32M --force-offline-reencrypt -d '%s' %s '%s'",
              path, key, options, path);
    return path;
}

static const char *make_luks1(const char *name, const char *raw, const char *secret)
{
    const char *path = rig_path(name), *key = rig_path("key");
    rig_shell("printf %%s '%s' > '%s'", secret, key);
    /* qemu-img measures how fast it hashes, and gives up when a busy machine lets it measure
     * nothing. */
    rig_shell("for i in $(seq 20); do "
              "qemu-img convert -f raw -O luks --object secret,id=k,file='%s' "
              "-o key-secret=k,iter-time=10 '%s' '%s' && exit 0; done; exit 1",
              key, raw, path);
    return path;
}

static const char *copy_of(const char *path, const char *name)
{
    const char *copy = rig_path(name);
    rig_shell("cp '%s' '%s'", path, copy);
    return copy;
}

static void overwrite(const char *path, uint64_t offset, size_t size)
{
    SP_FREE uint8_t *noise = malloc(size);
    assert_non_null(noise);
    assert_int_equal(sp_random(noise, size), 0);
    SP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(sp_pwrite_all(fd, noise, size, offset), 0);
}

/* Proves once and turns the question into one that is carried over. The caller frees the key. */
static struct sp_secret *carry(struct question *q)
{
    struct sp_secret *key = NULL;
    Sp__ProverFinding *f = rig_prove(q, &key);
    assert_int_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
    sp__prover_finding__free_unpacked(f, NULL);
    assert_non_null(key);
    q->type = RAW_KEY;
    q->secret = sp_secret_data(key);
    q->secret_size = sp_secret_size(key);
    q->carried = true;
    return key;
}

/* ---- payloads ---- */

static void ciphers_and_sector_sizes_open(void **state)
{
    (void)state;
    static const char *const options[] = {
        "--cipher aes-xts-plain64 --key-size 256", "--cipher aes-xts-plain64 --sector-size 4096",
        "--cipher aes-cbc-essiv:sha256 --key-size 256", "--cipher aes-cbc-plain64 --key-size 128",
        "--cipher aes-xts-plain --key-size 512 --sector-size 1024"};
    for (size_t i = 0; i < SP_COUNT(options); i++) {
        struct question q = {.image = make_luks2("ciphers.img", "secret", options[i]),
                             .kind = LUKS2,
                             .secret = "secret"};
        Sp__ProverFinding *f = rig_prove(&q, NULL);
        assert_int_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
        assert_string_equal(f->content->uuid, UUID);
        sp__prover_finding__free_unpacked(f, NULL);
    }
}

static void overwritten_payload_is_not_recognised(void **state)
{
    (void)state;
    struct question q = {
        .image = make_luks2("good.img", "secret", ""), .kind = LUKS2, .secret = "secret"};
    const char *bad = copy_of(q.image, "overwritten.img");
    overwrite(bad, LUKS2_PAYLOAD, 8 << 20);
    struct question carried = q, fresh = q;
    SP_SECRET struct sp_secret *key = carry(&carried);
    assert_non_null(key);
    fresh.image = carried.image = bad;
    assert_string_equal(rig_verdict(&fresh), "NOT_RECOGNISED");
    assert_string_equal(rig_verdict(&carried), "NOT_RECOGNISED");
    Sp__ProverFinding *f = rig_prove(&fresh, NULL);
    assert_int_equal(f->level, SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER);
    assert_null(f->content);
    assert_true(f->n_sectors > 0); /* what was looked at in vain is evidence too */
    sp__prover_finding__free_unpacked(f, NULL);
    rig_shell("dd if=/dev/zero of='%s' bs=1M seek=16 count=8 conv=notrunc status=none", bad);
    assert_string_equal(rig_verdict(&carried), "NOT_RECOGNISED");
}

/* The header stays, the data are those of the same file system under another volume key. */
static void payload_of_another_key_is_not_recognised(void **state)
{
    (void)state;
    struct question q = {
        .image = make_luks2("one.img", "secret", ""), .kind = LUKS2, .secret = "secret"};
    const char *other = make_luks2("other.img", "secret", "");
    struct question carried = q;
    SP_SECRET struct sp_secret *key = carry(&carried);
    assert_non_null(key);
    rig_shell("dd if='%s' of='%s' bs=1M skip=16 seek=16 conv=notrunc status=none", other, q.image);
    assert_string_equal(rig_verdict(&q), "NOT_RECOGNISED");
    assert_string_equal(rig_verdict(&carried), "NOT_RECOGNISED");
}

static void swap_lvm_and_tables_are_recognised(void **state)
{
    (void)state;
    const char *swap = rig_path("swap.raw"), *mbr = rig_path("mbr.raw");
    rig_shell("truncate -s 4M '%s' && mkswap -q -U " UUID " '%s' >/dev/null", swap, swap);
    rig_shell("truncate -s 4M '%s'", mbr);
    uint8_t sector[512] = {0};
    sector[446 + 4] = 0x83;
    sp_put_le32(sector + 446 + 8, 2048);
    sp_put_le32(sector + 446 + 12, 4096);
    sector[510] = 0x55;
    sector[511] = 0xaa;
    SP_FD int fd = open(mbr, O_WRONLY | O_CLOEXEC);
    assert_int_equal(sp_pwrite_all(fd, sector, sizeof(sector), 0), 0);
    const struct {
        const char *raw, *type;
    } cases[] = {
        {swap, "swap"}, {mbr, "dos"}, {rig_corpus("cs-blkid-luks2-pv.img"), "LVM2_member"}};
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct question q = {.image = make_luks1("inside.img", cases[i].raw, "secret"),
                             .kind = LUKS1,
                             .secret = "secret"};
        Sp__ProverFinding *f = rig_prove(&q, NULL);
        assert_int_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
        assert_string_equal(f->content->type, cases[i].type);
        sp__prover_finding__free_unpacked(f, NULL);
    }
}

static void a_volume_may_begin_anywhere_on_a_disk(void **state)
{
    (void)state;
    const char *volume = make_luks2("part.img", "secret", ""), *disk = rig_path("disk.img");
    rig_shell("truncate -s 3145728 '%s' && cat '%s' >> '%s' && truncate -s +1M '%s'", disk, volume,
              disk, disk);
    struct question q = {
        .image = disk, .kind = LUKS2, .start = 3 << 20, .length = 40 << 20, .secret = "secret"};
    Sp__ProverFinding *f = rig_prove(&q, NULL);
    assert_int_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
    assert_int_equal(f->sectors[0]->on->offset_bytes, (3 << 20) + LUKS2_PAYLOAD);
    sp__prover_finding__free_unpacked(f, NULL);
    q.start -= 512;
    assert_string_equal(rig_verdict(&q), "HEADER_DAMAGED");
}

/* ---- headers ---- */

static void damaged_headers_are_told_from_wrong_keys(void **state)
{
    (void)state;
    const char *good = make_luks2("header.img", "secret", "");
    struct question q = {.kind = LUKS2, .secret = "secret"};
    q.image = copy_of(good, "primary.img"); /* the second copy still opens it */
    overwrite(q.image, 0, 4096);
    assert_string_equal(rig_verdict(&q), "OPENS");
    q.image = copy_of(good, "secondary.img");
    overwrite(q.image, 16384, 4096);
    assert_string_equal(rig_verdict(&q), "OPENS");
    q.image = copy_of(good, "both.img");
    overwrite(q.image, 0, 32768);
    assert_string_equal(rig_verdict(&q), "HEADER_DAMAGED");
    q.image = copy_of(good, "json.img");
    overwrite(q.image, 5000, 64);
    overwrite(q.image, 16384 + 5000, 64);
    assert_string_equal(rig_verdict(&q), "HEADER_DAMAGED");
    q.image = copy_of(good, "keyslot.img"); /* no checksum guards a keyslot's area */
    overwrite(q.image, 32768, 258048);
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
}

static void damaged_luks1_headers_are_told(void **state)
{
    (void)state;
    const char *good = make_luks1("luks1.img", make_ext4("luks1.raw", UUID), "secret");
    struct question q = {.kind = LUKS1, .secret = "secret", .image = good};
    assert_string_equal(rig_verdict(&q), "OPENS");
    q.image = copy_of(good, "magic.img");
    overwrite(q.image, 0, 8);
    assert_string_equal(rig_verdict(&q), "HEADER_DAMAGED");
    q.image = copy_of(good, "digest.img"); /* the slot opens; what it gives fits no digest */
    overwrite(q.image, 112, 20);
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.image = copy_of(good, "cut.img");
    rig_shell("truncate -s 64K '%s'", q.image);
    assert_string_equal(rig_verdict(&q), "HEADER_DAMAGED");
    /* Names of cipher, mode and hash that are no text: libcryptsetup quotes them. */
    static const unsigned names[] = {8, 40, 72};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        q.image = copy_of(good, "name.img");
        rig_shell("printf '\\223\\021' | dd of='%s' bs=1 seek=%u conv=notrunc status=none", q.image,
                  names[i] + 2);
        Sp__ProverFinding *f = rig_prove(&q, NULL);
        assert_int_not_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
        assert_true(f->text[0] != 0);
        sp__prover_finding__free_unpacked(f, NULL);
    }
}

static void an_unbound_slot_opens_nothing(void **state)
{
    (void)state;
    const char *image = make_luks2("unbound.img", "secret", ""), *key = rig_path("unbound.key");
    rig_shell("printf unbound > '%s'", key);
    rig_shell("cryptsetup -q luksAddKey --unbound --key-size 512 --pbkdf pbkdf2 "
              "--pbkdf-force-iterations 1000 --key-slot 5 '%s' '%s'",
              image, key);
    struct question q = {.image = image, .kind = LUKS2, .secret = "unbound"};
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.protector = "5";
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
    q.secret = "secret";
    q.protector = "0";
    assert_string_equal(rig_verdict(&q), "OPENS");
    q.protector = "nonsense";
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
}

/* The keyslots are gone, the volume key is not. */
static void an_erased_header_still_takes_its_volume_key(void **state)
{
    (void)state;
    struct question q = {
        .image = make_luks2("erased.img", "secret", ""), .kind = LUKS2, .secret = "secret"};
    struct question raw = q;
    SP_SECRET struct sp_secret *key = carry(&raw);
    assert_non_null(key);
    raw.carried = false;
    rig_shell("cryptsetup -q luksErase '%s'", q.image);
    assert_string_equal(rig_verdict(&q), "NO_USABLE_PROTECTOR");
    assert_string_equal(rig_verdict(&raw), "OPENS");
}

/* ---- bounds ---- */

static void a_slot_that_wants_too_much_memory_is_an_error(void **state)
{
    (void)state;
    const char *image = rig_path("memory.img");
    rig_shell(
        "truncate -s 18M '%s' && printf secret | cryptsetup -q luksFormat --type luks2 --pbkdf "
        "argon2id --pbkdf-memory 262144 --pbkdf-parallel 1 --pbkdf-force-iterations 4 "
        "--key-file - '%s'",
        image, image);
    struct question q = {
        .image = image, .kind = LUKS2, .secret = "secret", .memory_bytes = 400 << 20};
    Sp__ProverFinding *f = rig_prove(&q, NULL);
#ifdef PROVER_UNDER_ASAN /* no limit on address space */
    assert_int_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED);
#else
    assert_int_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_ERROR);
    assert_non_null(strstr(f->text, "asks for 256 MiB"));
#endif
    sp__prover_finding__free_unpacked(f, NULL);
}

/* LUKS1 has no checksum: a hostile header may ask for 2^32 rounds. */
static void a_slot_that_takes_forever_is_ended(void **state)
{
    (void)state;
    const char *image = make_luks1("forever.img", make_ext4("forever.raw", UUID), "secret");
    SP_FD int fd = open(image, O_WRONLY | O_CLOEXEC);
    const uint8_t rounds[4] = {0xff, 0xff, 0xff, 0xff};
    assert_int_equal(sp_pwrite_all(fd, rounds, 4, 208 + 4), 0);
    struct question q = {.image = image, .kind = LUKS1, .secret = "secret", .time_ms = 1500};
    struct sp_why why = {0};
    assert_int_equal(rig_fail(&q, &why), -ETIMEDOUT);
    assert_non_null(strstr(why.text, "killed"));
}

/* ---- plain ---- */

/* An encryptor of its own: sectors of 512 bytes, IV the sector's number plus `skip`. */
static void encrypt_plain(const char *path, uint64_t offset, uint64_t skip, const uint8_t key[64])
{
    char *data;
    size_t size;
    assert_int_equal(sp_file_read(path, 64 << 20, &data, &size), 0);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    for (size_t at = offset; at + 512 <= size; at += 512) {
        uint8_t iv[16] = {0};
        int n;
        sp_put_le64(iv, (at - offset) / 512 + skip);
        assert_int_equal(EVP_EncryptInit_ex(ctx, EVP_aes_256_xts(), NULL, key, iv), 1);
        assert_int_equal(
            EVP_EncryptUpdate(ctx, (uint8_t *)data + at, &n, (uint8_t *)data + at, 512), 1);
    }
    EVP_CIPHER_CTX_free(ctx);
    SP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(sp_write_all(fd, data, size), 0);
    free(data);
}

static void plain_opens_with_its_own_parameters_only(void **state)
{
    (void)state;
    const char *image = rig_path("plain.img"), *fs = make_ext4("plain.raw", UUID);
    uint8_t key[64];
    assert_int_equal(sp_sha256_of("a passphrase", 12, key), 0);
    assert_int_equal(sp_sha256_of("Aa passphrase", 13, key + 32), 0);
    rig_shell("truncate -s 8192 '%s' && cat '%s' >> '%s'", image, fs, image);
    encrypt_plain(image, 8192, 77, key);
    struct question q = {.image = image,
                         .kind = PLAIN,
                         .secret = "a passphrase",
                         .plain_cipher = "aes-xts-plain64",
                         .plain_hash = "sha256",
                         .plain_bits = 512,
                         .plain_offset = 16,
                         .plain_skip = 77,
                         .expected_type = "ext4",
                         .expected_uuid = UUID};
    Sp__ProverFinding *f = rig_prove(&q, NULL);
    assert_int_equal(f->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
    assert_int_equal(f->sectors[0]->on->offset_bytes, 8192);
    assert_non_null(strstr(f->method, "record"));
    sp__prover_finding__free_unpacked(f, NULL);
    struct question w = q;
    w.plain_skip = 0;
    assert_string_equal(rig_verdict(&w), "WRONG_KEY");
    w = q;
    w.plain_offset = 0;
    assert_string_equal(rig_verdict(&w), "WRONG_KEY");
    w = q;
    w.plain_hash = "ripemd160";
    assert_string_equal(rig_verdict(&w), "WRONG_KEY");
    w = q;
    w.secret = "another passphrase";
    assert_string_equal(rig_verdict(&w), "WRONG_KEY");
    w = q;
    w.plain_hash = "whirlpool999";
    assert_string_equal(rig_verdict(&w), "UNCHECKABLE");
    w = q;
    w.plain_cipher = NULL; /* nobody knows how it is mapped */
    assert_string_equal(rig_verdict(&w), "ERROR");
    overwrite(image, 8192, 8 << 20);
    assert_string_equal(rig_verdict(&q), "WRONG_KEY");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ciphers_and_sector_sizes_open),
        cmocka_unit_test(overwritten_payload_is_not_recognised),
        cmocka_unit_test(payload_of_another_key_is_not_recognised),
        cmocka_unit_test(swap_lvm_and_tables_are_recognised),
        cmocka_unit_test(a_volume_may_begin_anywhere_on_a_disk),
        cmocka_unit_test(damaged_headers_are_told_from_wrong_keys),
        cmocka_unit_test(damaged_luks1_headers_are_told),
        cmocka_unit_test(an_unbound_slot_opens_nothing),
        cmocka_unit_test(an_erased_header_still_takes_its_volume_key),
        cmocka_unit_test(a_slot_that_wants_too_much_memory_is_an_error),
        cmocka_unit_test(a_slot_that_takes_forever_is_ended),
        cmocka_unit_test(plain_opens_with_its_own_parameters_only),
    };
    return cmocka_run_group_tests(tests, NULL, rig_end);
}
