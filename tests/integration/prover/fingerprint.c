/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Carry-over rests on this: what could change the verdict of a header changes its fingerprint. Each
 * class of bytes of each format is changed, one byte at a time: the fingerprint differs, or there
 * is none. The other way round, a byte that leaves the fingerprint alone leaves the verdict alone:
 * tried on bytes all over the header, with the key that opens it. */
#include "rig.h"

#include "base/cleanup.h"
#include "base/file.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define LUKS1     SP__VOLUME_KIND__VOLUME_KIND_LUKS1
#define LUKS2     SP__VOLUME_KIND__VOLUME_KIND_LUKS2
#define BITLOCKER SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER

struct place {
    const char *what;
    uint64_t at;
};

/* Bitlocker's: the first metadata copy of that image lies at 0x2195000, the others behind. */
enum { COPY = 0x2195000 };

static const struct place luks1_places[] = {
    {"magic", 0},          {"version", 7},        {"cipher", 8},
    {"mode", 40},          {"hash", 72},          {"payload offset", 107},
    {"key bytes", 111},    {"digest", 112},       {"digest salt", 132},
    {"iterations", 167},   {"uuid", 168},         {"slot 0 state", 211},
    {"slot 0 count", 215}, {"slot 0 salt", 216},  {"slot 0 place", 251},
    {"stripes", 255},      {"slot 7 state", 547}, {"material of slot 0", 4096 + 1000},
};
static const struct place luks2_places[] = {
    {"magic", 0},
    {"version", 7},
    {"header size", 14},
    {"seqid", 23},
    {"label", 24},
    {"checksum alg", 72},
    {"salt", 104},
    {"uuid", 168},
    {"checksum", 448},
    {"json", 4096 + 40},
    {"second magic", 16384},
    {"second seqid", 16384 + 23},
    {"second json", 16384 + 4096 + 40},
    {"keyslot area", 32768 + 5000},
    {"end of keyslot area", 32768 + 127999},
};
static const struct place bitlocker_places[] = {
    {"signature", 3},
    {"sector size", 12},
    {"recognition guid", 160},
    {"place of copy 0", 177},
    {"place of copy 2", 193},
    {"size", COPY + 8},
    {"state", COPY + 12},
    {"next state", COPY + 14},
    {"encrypted bytes", COPY + 19},
    {"copies named inside", COPY + 33},
    {"first sectors", COPY + 57},
    {"guid", COPY + 80},
    {"nonce counter", COPY + 96},
    {"cipher", COPY + 100},
    {"an entry", COPY + 120},
    {"a wrapped key", COPY + 400},
    {"second copy", 0x2c1d000 + 200},
    {"third copy", 0x373a000 + 200},
};

static const struct volume {
    const char *image;
    Sp__VolumeKind kind;
    Sp__SecretType type;
    const char *secret;
    const struct place *places;
    size_t count;
    uint64_t header_bytes; /* bytes tried all over */
    uint64_t header_at;
} volumes[] = {
    {"luks1_aes-xts-plain64-sha256.img", LUKS1, SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE, NULL,
     luks1_places, SP_COUNT(luks1_places), 592, 0},
    {"a-luks2-4k.img", LUKS2, 0, "a-4k-66c3b032e0df", luks2_places, SP_COUNT(luks2_places),
     64 << 10, 0},
    {"bitlk-aes-xts-128.img", BITLOCKER, 0, "anaconda", bitlocker_places,
     SP_COUNT(bitlocker_places), 1000, COPY},
};

static Sp__ProverFinding *prove(const struct volume *v, const char *image)
{
    struct question q = {.image = image,
                         .kind = v->kind,
                         .type = v->type,
                         .secret = v->secret,
                         .secret_file = v->secret ? NULL : rig_corpus("luks1-keyfile1")};
    return rig_prove(&q, NULL);
}

static void flip(int fd, uint64_t at)
{
    uint8_t byte;
    assert_int_equal(sp_pread_all(fd, &byte, 1, at), 0);
    byte ^= 0x11;
    assert_int_equal(sp_pwrite_all(fd, &byte, 1, at), 0);
}

static bool same_fingerprint(const Sp__ProverFinding *a, const Sp__ProverFinding *b)
{
    return a->header_fingerprint.len == 32 && b->header_fingerprint.len == 32 &&
           memcmp(a->header_fingerprint.data, b->header_fingerprint.data, 32) == 0;
}

/* A copy that may be written to. */
static char *copy_of(const struct volume *v, int *ret_fd)
{
    char *path = sp_format("%s/changed-%s", rig_folder(), v->image);
    assert_non_null(path);
    rig_shell("cp --sparse=always '%s' '%s'", rig_corpus(v->image), path);
    *ret_fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(*ret_fd >= 0);
    return path;
}

static void every_class_of_bytes_counts(void **state)
{
    (void)state;
    for (size_t i = 0; i < SP_COUNT(volumes); i++) {
        const struct volume *v = &volumes[i];
        SP_FD int fd = -1;
        SP_FREE char *path = copy_of(v, &fd);
        Sp__ProverFinding *whole = prove(v, path);
        assert_int_equal(whole->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
        for (size_t k = 0; k < v->count; k++) {
            flip(fd, v->places[k].at);
            Sp__ProverFinding *f = prove(v, path);
            if (same_fingerprint(whole, f))
                fail_msg("%s: a change of '%s' leaves the fingerprint as it was", v->image,
                         v->places[k].what);
            sp__prover_finding__free_unpacked(f, NULL);
            flip(fd, v->places[k].at);
        }
        Sp__ProverFinding *again = prove(v, path);
        assert_true(same_fingerprint(whole, again));
        sp__prover_finding__free_unpacked(again, NULL);
        sp__prover_finding__free_unpacked(whole, NULL);
    }
}

/* The high byte of a count of rounds: LUKS1 has no checksum, and the prover would count for minutes
 * until it is ended. That these count is shown above. */
static bool asks_for_ages(const struct volume *v, uint64_t at)
{
    return v->kind == LUKS1 && (at == 164 || (at >= 208 && (at - 208) % 48 == 4));
}

/* Here and there in the header; with SEALPOINT_LONG, ten times as many places. */
static void the_same_fingerprint_means_the_same_verdict(void **state)
{
    (void)state;
    unsigned tries = getenv("SEALPOINT_LONG") ? 400 : 16, same = 0;
    for (size_t i = 0; i < SP_COUNT(volumes); i++) {
        const struct volume *v = &volumes[i];
        SP_FD int fd = -1;
        SP_FREE char *path = copy_of(v, &fd);
        Sp__ProverFinding *whole = prove(v, path);
        for (unsigned k = 0; k < tries; k++) {
            uint64_t at = v->header_at + (uint64_t)k * v->header_bytes / tries;
            if (asks_for_ages(v, at))
                continue;
            flip(fd, at);
            Sp__ProverFinding *f = prove(v, path);
            if (same_fingerprint(whole, f) &&
                (f->verdict != whole->verdict || strcmp(f->protector_id, whole->protector_id) != 0))
                fail_msg("%s: byte %llu changes the verdict and not the fingerprint", v->image,
                         (unsigned long long)at);
            same += same_fingerprint(whole, f);
            sp__prover_finding__free_unpacked(f, NULL);
            flip(fd, at);
        }
        sp__prover_finding__free_unpacked(whole, NULL);
    }
    print_message("%u changed bytes left the fingerprint as it was\n", same);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_class_of_bytes_counts),
        cmocka_unit_test(the_same_fingerprint_means_the_same_verdict),
    };
    return cmocka_run_group_tests(tests, NULL, rig_end);
}
