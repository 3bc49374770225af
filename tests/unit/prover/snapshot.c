/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Each byte is asked for once, evidence is what was read, and extents are believed only when they
 * make sense. */
#include "controller/keeper/prover/snapshot.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { DISK = 1 << 20, BLOCK = SNAPSHOT_BLOCK_BYTES };

/* Two disks in memory; the second one answers differently every time. */
struct memory {
    uint8_t *bytes;
    unsigned asked;
    bool lies;
    int error;
    uint64_t bad_from; /* nothing can be read from here on; 0: all can */
};
static struct memory memories[2];

static int read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    struct memory *m = self;
    m->asked++;
    if (m->error)
        return m->error;
    if (offset > DISK || length > DISK - offset)
        return -ERANGE;
    if (m->bad_from && offset + length > m->bad_from)
        return -EIO;
    memcpy(out, m->bytes + offset, length);
    if (m->lies)
        memset(out, (int)m->asked, length);
    return 0;
}

static Sp__LookDisk asked[2], *list[2] = {&asked[0], &asked[1]};
static struct volume_disk volume_disks[2];
static struct prover_disks disks;
static uint8_t roots[2][32] = {{1}, {2}};
static char name_a[] = "a", name_b[] = "b";

static int setup(void **state)
{
    (void)state;
    static char *const names[] = {name_a, name_b};
    for (int i = 0; i < 2; i++) {
        memories[i] = (struct memory){.bytes = malloc(DISK)};
        if (!memories[i].bytes || sp_random(memories[i].bytes, DISK) < 0)
            return -1;
        sp__look_disk__init(&asked[i]);
        asked[i].disk_id = names[i];
        asked[i].size_bytes = DISK;
        asked[i].disk_root = (ProtobufCBinaryData){32, roots[i]};
        volume_disks[i] =
            (struct volume_disk){.disk_id = names[i], .reader = {read_at, &memories[i], DISK}};
    }
    disks = (struct prover_disks){.disks = volume_disks, .asked = list, .count = 2};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(memories[0].bytes);
    free(memories[1].bytes);
    return 0;
}

static Sp__DiskExtent ons[4];
static Sp__VolumeExtent extents[4],
    *extent_list[] = {&extents[0], &extents[1], &extents[2], &extents[3]};

static void put(size_t i, uint64_t at, const char *disk, uint64_t offset, uint64_t length)
{
    sp__disk_extent__init(&ons[i]);
    sp__volume_extent__init(&extents[i]);
    ons[i].disk_id = (char *)(uintptr_t)disk;
    ons[i].offset_bytes = offset;
    ons[i].length_bytes = length;
    extents[i].volume_offset_bytes = at;
    extents[i].on = &ons[i];
}

static struct snapshot *open_extents(size_t count)
{
    struct snapshot *s = NULL;
    assert_int_equal(snapshot_open(&disks, extent_list, count, &s), 0);
    return s;
}

static void a_block_is_asked_for_once(void **state)
{
    (void)state;
    put(0, 0, "b", 4096, 300000);
    memories[1].lies = true;
    struct snapshot *s = open_extents(1);
    struct volume_reader r = snapshot_reader(s);
    uint8_t first[1000], again[1000];
    assert_int_equal(r.size_bytes, 300000);
    assert_int_equal(r.read_at(r.self, 0, first, sizeof(first)), 0);
    unsigned before = memories[1].asked;
    assert_int_equal(r.read_at(r.self, 0, again, sizeof(again)), 0);
    assert_int_equal(snapshot_read_evidence(s, 0, again, sizeof(again)), 0);
    assert_int_equal(memories[1].asked, before);
    assert_memory_equal(first, again, sizeof(first));
    snapshot_close(s);
}

static void reads_cross_blocks_and_extents(void **state)
{
    (void)state;
    put(0, 0, "a", 512, 100000);
    put(1, 100000, "b", 7, 200000);
    put(2, 300000, "a", 500000, 5);
    struct snapshot *s = open_extents(3);
    struct volume_reader r = snapshot_reader(s);
    SP_FREE uint8_t *all = malloc(300005);
    assert_int_equal(r.read_at(r.self, 299990, all + 299990, 15), 0); /* out of order */
    assert_int_equal(r.read_at(r.self, 0, all, 300005), 0);
    assert_memory_equal(all, memories[0].bytes + 512, 100000);
    assert_memory_equal(all + 100000, memories[1].bytes + 7, 200000);
    assert_memory_equal(all + 300000, memories[0].bytes + 500000, 5);
    assert_int_equal(r.read_at(r.self, 300000, all, 6), -ERANGE);
    assert_int_equal(r.read_at(r.self, UINT64_MAX, all, 6), -ERANGE);
    snapshot_close(s);
}

static void check_entry(const Sp__SectorEvidence *e, const char *disk, uint64_t offset,
                        uint64_t length)
{
    unsigned i = disk[0] == 'b';
    uint8_t hash[32];
    assert_string_equal(e->on->disk_id, disk);
    assert_int_equal(e->on->offset_bytes, offset);
    assert_int_equal(e->on->length_bytes, length);
    assert_int_equal(sp_sha256_of(memories[i].bytes + offset, length, hash), 0);
    assert_int_equal(e->sha256.len, 32);
    assert_memory_equal(e->sha256.data, hash, 32);
    assert_int_equal(e->disk_root.len, 32);
    assert_memory_equal(e->disk_root.data, roots[i], 32);
}

/* Header reads are none; runs join; what lies on two disks is two entries; the payload's start
 * cuts. */
static void evidence_is_what_was_decrypted(void **state)
{
    (void)state;
    put(0, 0, "a", 1000, 3 * BLOCK + 100);
    put(1, 3 * BLOCK + 100, "b", 0, 5 * BLOCK);
    struct snapshot *s = open_extents(2);
    struct volume_reader r = snapshot_reader(s);
    uint8_t byte;
    assert_int_equal(r.read_at(r.self, 5 * BLOCK, &byte, 1), 0); /* not evidence */
    assert_int_equal(snapshot_read_evidence(s, 4096, &byte, 1), 0);
    assert_int_equal(snapshot_read_evidence(s, BLOCK + 9, &byte, 1), 0);
    assert_int_equal(snapshot_read_evidence(s, 3 * BLOCK, &byte, 1), 0);
    assert_int_equal(snapshot_read_evidence(s, 8 * BLOCK + 99, &byte, 1), 0);
    Sp__SectorEvidence **entries;
    size_t count;
    assert_int_equal(snapshot_evidence(s, 4096, &entries, &count), 0);
    assert_int_equal(count, 4);
    check_entry(entries[0], "a", 1000 + 4096, 2 * BLOCK - 4096);
    check_entry(entries[1], "a", 1000 + 3 * BLOCK, 100);
    check_entry(entries[2], "b", 0, BLOCK - 100);
    check_entry(entries[3], "b", 5 * BLOCK - 100, 100);
    for (size_t i = 0; i < count; i++)
        sp__sector_evidence__free_unpacked(entries[i], NULL);
    free(entries);
    snapshot_close(s);
}

static void a_failed_read_leaves_nothing_behind(void **state)
{
    (void)state;
    put(0, 0, "a", 0, DISK);
    struct snapshot *s = open_extents(1);
    struct volume_reader r = snapshot_reader(s);
    uint8_t byte;
    memories[0].error = -EIO;
    assert_int_equal(r.read_at(r.self, 0, &byte, 1), -EIO);
    memories[0].error = 0;
    assert_int_equal(r.read_at(r.self, 0, &byte, 1), 0);
    assert_int_equal(byte, memories[0].bytes[0]);
    snapshot_close(s);
}

/* What follows a block comes with those behind it, up to one that is there already, once each. */
static void what_follows_comes_at_once(void **state)
{
    (void)state;
    put(0, 0, "a", 0, 9 * BLOCK + 1000);
    struct snapshot *s = open_extents(1);
    struct volume_reader r = snapshot_reader(s);
    SP_FREE uint8_t *all = malloc(9 * BLOCK + 1000);
    uint8_t byte;
    assert_int_equal(r.read_at(r.self, 7 * BLOCK, &byte, 1), 0);
    memories[0].asked = 0;
    for (size_t i = 0; i < 9; i++)
        assert_int_equal(r.read_at(r.self, i * BLOCK, all + i * BLOCK, BLOCK), 0);
    assert_int_equal(memories[0].asked, 4); /* 0; 1 to 4; 5 and 6; 8 and the rest */
    assert_int_equal(r.read_at(r.self, 9 * BLOCK, all + 9 * BLOCK, 1000), 0);
    assert_int_equal(memories[0].asked, 4);
    assert_memory_equal(all, memories[0].bytes, 9 * BLOCK + 1000);
    snapshot_close(s);
}

static void what_nobody_asked_for_may_be_unreadable(void **state)
{
    (void)state;
    put(0, 0, "a", 0, DISK);
    memories[0].bad_from = 2 * BLOCK;
    struct snapshot *s = open_extents(1);
    struct volume_reader r = snapshot_reader(s);
    uint8_t byte;
    assert_int_equal(r.read_at(r.self, 0, &byte, 1), 0);
    assert_int_equal(r.read_at(r.self, BLOCK, &byte, 1), 0);
    assert_int_equal(byte, memories[0].bytes[BLOCK]);
    assert_int_equal(r.read_at(r.self, 2 * BLOCK, &byte, 1), -EIO);
    snapshot_close(s);
}

static void extents_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    struct snapshot *s = NULL;
    assert_int_equal(snapshot_open(&disks, extent_list, 0, &s), -EINVAL);
    put(0, 1, "a", 0, 100); /* a hole */
    assert_int_equal(snapshot_open(&disks, extent_list, 1, &s), -EINVAL);
    put(0, 0, "a", 0, 100);
    put(1, 99, "a", 0, 100); /* overlap */
    assert_int_equal(snapshot_open(&disks, extent_list, 2, &s), -EINVAL);
    put(0, 0, "c", 0, 100); /* no such disk */
    assert_int_equal(snapshot_open(&disks, extent_list, 1, &s), -EINVAL);
    put(0, 0, "a", DISK - 99, 100); /* past its end */
    assert_int_equal(snapshot_open(&disks, extent_list, 1, &s), -EINVAL);
    put(0, 0, "a", UINT64_MAX, 100);
    assert_int_equal(snapshot_open(&disks, extent_list, 1, &s), -EINVAL);
    put(0, 0, "a", 0, 0);
    assert_int_equal(snapshot_open(&disks, extent_list, 1, &s), -EINVAL);
    extents[0].on = NULL;
    assert_int_equal(snapshot_open(&disks, extent_list, 1, &s), -EINVAL);
    assert_null(s);
    snapshot_close(NULL);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_block_is_asked_for_once),
        CASE(reads_cross_blocks_and_extents),
        CASE(evidence_is_what_was_decrypted),
        CASE(a_failed_read_leaves_nothing_behind),
        CASE(what_follows_comes_at_once),
        CASE(what_nobody_asked_for_may_be_unreadable),
        CASE(extents_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
