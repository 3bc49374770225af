/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Answers that a prover in hostile hands might give. */
#include "controller/keeper/prover/answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* protobuf-c has no const. */
#define TEXT(s) ((char *)(uintptr_t)(s))

#define V(x) SP__PROOF_VERDICT__PROOF_VERDICT_##x
#define L(x) SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_##x

/* A job over one disk and an answer that fits it, to be bent by each test. */
static uint8_t root[32], hash[32];
static Sp__LookDisk disk, *disks[] = {&disk};
static Sp__Volume volume;
static Sp__ProverProof proof;
static Sp__LookRequest look;
static Sp__ProverJob job;
static Sp__DiskExtent on;
static Sp__SectorEvidence sector, *sectors[] = {&sector};
static Sp__Content content;
static Sp__ProverFinding finding;
static Sp__LookResponse looked;
static Sp__RangeUse range, *ranges[] = {&range};
static Sp__Volume seen, *volumes[] = {&seen};
static Sp__VolumeExtent extent, *extents[] = {&extent};
static Sp__ProverResult result;

static int setup(void **state)
{
    (void)state;
    sp__look_disk__init(&disk);
    disk.disk_id = TEXT("d");
    disk.size_bytes = 1000;
    disk.disk_root = (ProtobufCBinaryData){32, root};
    sp__volume__init(&volume);
    volume.kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    sp__prover_proof__init(&proof);
    proof.disks = disks;
    proof.n_disks = 1;
    proof.volume = &volume;
    sp__prover_job__init(&job);
    job.kind_case = SP__PROVER_JOB__KIND_PROOF;
    job.proof = &proof;
    sp__disk_extent__init(&on);
    on.disk_id = disk.disk_id;
    on.length_bytes = 1000;
    sp__sector_evidence__init(&sector);
    sector.on = &on;
    sector.sha256 = (ProtobufCBinaryData){32, hash};
    sector.disk_root = (ProtobufCBinaryData){32, root};
    sp__content__init(&content);
    content.type = TEXT("ext4");
    sp__prover_finding__init(&finding);
    finding.verdict = V(OPENS);
    finding.level = L(PLAINTEXT);
    finding.header_fingerprint = (ProtobufCBinaryData){32, hash};
    finding.content = &content;
    finding.sectors = sectors;
    finding.n_sectors = 1;
    sp__prover_result__init(&result);
    result.kind_case = SP__PROVER_RESULT__KIND_FINDING;
    result.finding = &finding;
    return 0;
}

static bool fits(void)
{
    return prover_answer_fits(&job, &result);
}

static void a_whole_answer_fits(void **state)
{
    (void)state;
    assert_true(fits());
    finding.has_volume_key = true;
    assert_true(fits());
}

static void opens_needs_its_evidence(void **state)
{
    assert_true(fits());
    finding.n_sectors = 0;
    assert_false(fits());
    setup(state);
    finding.content = NULL;
    assert_false(fits());
    setup(state);
    content.type = TEXT("");
    assert_false(fits());
    setup(state);
    finding.level = L(HEADER);
    assert_false(fits());
    setup(state);
    finding.header_fingerprint.len = 0;
    assert_false(fits());
    volume.kind = SP__VOLUME_KIND__VOLUME_KIND_PLAIN; /* has none, but what is expected decides */
    assert_false(fits());
    Sp__Content expected = SP__CONTENT__INIT;
    expected.type = TEXT("ext4");
    proof.expected = &expected;
    assert_false(fits());
    expected.uuid = TEXT("1-2-3");
    assert_false(fits());
    content.uuid = TEXT("1-2-3");
    assert_true(fits());
    finding.has_volume_key = true; /* plain has none to hand out */
    assert_false(fits());
}

static void sectors_lie_on_the_disks_of_the_job(void **state)
{
    static uint8_t other[32] = {9};
    on.disk_id = TEXT("e");
    assert_false(fits());
    setup(state);
    on.offset_bytes = 1;
    assert_false(fits());
    setup(state);
    on.length_bytes = 0;
    assert_false(fits());
    setup(state);
    sector.disk_root.data = other;
    assert_false(fits());
    setup(state);
    sector.disk_root.len = 0;
    assert_false(fits());
    setup(state);
    sector.sha256.len = 31;
    assert_false(fits());
    setup(state);
    sector.on = NULL;
    assert_false(fits());
}

static void verdicts_are_those_that_a_prover_can_reach(void **state)
{
    (void)state;
    finding.level = 0;
    static const int good[] = {V(WRONG_KEY),   V(HEADER_DAMAGED),      V(NOT_RECOGNISED),
                               V(UNCHECKABLE), V(NO_USABLE_PROTECTOR), V(ERROR)};
    static const int bad[] = {0, V(NO_RECORD), V(DENIED), V(KEEPER_LOCKED), 99, -1};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        finding.verdict = (Sp__ProofVerdict)good[i];
        assert_true(fits());
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        finding.verdict = (Sp__ProofVerdict)bad[i];
        assert_false(fits());
    }
}

static void no_level_above_what_a_prover_does(void **state)
{
    (void)state;
    finding.verdict = V(WRONG_KEY);
    finding.level = L(PLAINTEXT);
    assert_false(fits());
    finding.level = L(MOUNTED);
    assert_false(fits());
    finding.verdict = V(OPENS);
    assert_false(fits());
}

static void a_carried_header_gives_no_key(void **state)
{
    (void)state;
    proof.header_opened_before = true;
    assert_true(fits());
    finding.has_volume_key = true;
    assert_false(fits());
}

static void a_key_comes_only_from_an_opened_header(void **state)
{
    (void)state;
    finding.has_volume_key = true;
    finding.verdict = V(NOT_RECOGNISED);
    finding.level = L(HEADER);
    assert_true(fits());
    finding.verdict = V(WRONG_KEY);
    finding.level = 0;
    assert_false(fits());
}

static void texts_are_clean(void **state)
{
    (void)state;
    static const char *const good[] = {"", "plain words", "a slotN p\xc3\xa4ssw",
                                       "\xe2\x82\xac \xf0\x9f\x94\x92"};
    static const char *const bad[] = {
        "a\nforged line", "\x1b[2J",      "\x7f",         "\xc2\x9b",         "\xff",    "\xc3",
        "\xc0\xaf",       "\xed\xa0\x80", "\xe0\x80\x80", "\xf4\x90\x80\x80", "\xe2\x82"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        finding.text = content.label = TEXT(good[i]);
        assert_true(fits());
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        finding.text = TEXT(bad[i]);
        assert_false(fits());
        finding.text = TEXT("");
        content.label = TEXT(bad[i]);
        assert_false(fits());
        content.label = TEXT("");
    }
    static char longest[4098];
    memset(longest, 'x', 4096);
    finding.text = longest;
    assert_true(fits());
    longest[4096] = 'x';
    assert_false(fits());
}

static void an_error_brings_nothing_else(void **state)
{
    (void)state;
    result.error = 5;
    assert_false(fits());
    result.kind_case = SP__PROVER_RESULT__KIND__NOT_SET;
    assert_true(fits());
    result.error = -5;
    assert_false(fits());
    result.error = 0;
    assert_false(fits());
}

static void make_look(void)
{
    sp__look_request__init(&look);
    look.disks = disks;
    look.n_disks = 1;
    job.kind_case = SP__PROVER_JOB__KIND_LOOK;
    job.look = &look;
    sp__range_use__init(&range);
    range.on = &on;
    sp__volume_extent__init(&extent);
    extent.on = &on;
    sp__volume__init(&seen);
    seen.extents = extents;
    seen.n_extents = 1;
    sp__look_response__init(&looked);
    looked.ranges = ranges;
    looked.n_ranges = 1;
    looked.volumes = volumes;
    looked.n_volumes = 1;
    result.kind_case = SP__PROVER_RESULT__KIND_LOOK;
    result.look = &looked;
}

static void a_look_stays_on_its_disks(void **state)
{
    (void)state;
    static Sp__CapturedHeader header, *headers[] = {&header};
    make_look();
    assert_true(fits());
    on.length_bytes = 1001;
    assert_false(fits());
    on.length_bytes = 1000;
    range.on = NULL;
    assert_false(fits());
    range.on = &on;
    extent.on = NULL;
    assert_false(fits());
    extent.on = &on;
    sp__captured_header__init(&header);
    looked.headers = headers;
    looked.n_headers = 1;
    assert_true(fits());
    look.layout_only = true;
    assert_false(fits());
}

static void a_job_gets_an_answer_of_its_kind(void **state)
{
    assert_true(fits());
    make_look();
    result.kind_case = SP__PROVER_RESULT__KIND_FINDING;
    result.finding = &finding;
    assert_false(fits());
    setup(state);
    result.kind_case = SP__PROVER_RESULT__KIND_LOOK;
    result.look = &looked;
    assert_false(fits());
}

#define CASE(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_whole_answer_fits),
        CASE(opens_needs_its_evidence),
        CASE(sectors_lie_on_the_disks_of_the_job),
        CASE(verdicts_are_those_that_a_prover_can_reach),
        CASE(no_level_above_what_a_prover_does),
        CASE(a_carried_header_gives_no_key),
        CASE(a_key_comes_only_from_an_opened_header),
        CASE(texts_are_clean),
        CASE(an_error_brings_nothing_else),
        CASE(a_look_stays_on_its_disks),
        CASE(a_job_gets_an_answer_of_its_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
