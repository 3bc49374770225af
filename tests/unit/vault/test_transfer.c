/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "controller/mover/layout.h"
#include "controller/mover/mover.h"
#include "fixture.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

/* A source whose disks are functions of a seed. */
struct source_snapshot {
    struct disk disks[2];
    atomic_uint reading, most_reading, reads;
    atomic_bool broken;
    unsigned fail_after;  /* reads; 0: never */
    unsigned break_after; /* reads; 0: never */
    atomic_bool *cancel;
    unsigned cancel_after;
    uint64_t read_bytes[2];
    pthread_mutex_t lock;
};

static int fake_read_at(struct source_snapshot *s, uint32_t disk, uint64_t offset, void *out,
                        uint32_t length, struct sp_why *why)
{
    unsigned now = atomic_fetch_add(&s->reading, 1) + 1, most = atomic_load(&s->most_reading);
    while (now > most && !atomic_compare_exchange_weak(&s->most_reading, &most, now))
        ;
    unsigned n = atomic_fetch_add(&s->reads, 1) + 1;
    const struct disk *d = &s->disks[disk];
    uint8_t *chunk = malloc(VAULT_CHUNK_BYTES);
    assert_int_equal(offset % VAULT_CHUNK_BYTES, 0);
    assert_true(offset + length <= d->size);
    for (uint32_t at = 0; at < length; at += VAULT_CHUNK_BYTES) {
        uint32_t size;
        disk_chunk(d, (offset + at) / VAULT_CHUNK_BYTES, chunk, &size);
        memcpy((uint8_t *)out + at, chunk, size < length - at ? size : length - at);
    }
    free(chunk);
    pthread_mutex_lock(&s->lock);
    s->read_bytes[disk] += length;
    pthread_mutex_unlock(&s->lock);
    if (s->break_after && n >= s->break_after)
        atomic_store(&s->broken, true);
    if (s->cancel_after && n >= s->cancel_after)
        atomic_store(s->cancel, true);
    atomic_fetch_sub(&s->reading, 1);
    if (s->fail_after && n >= s->fail_after)
        return sp_why_set(why, -EIO, "the export went away");
    return 0;
}

/* Says ranges as a source does that knows its holes, with odd ends. */
static int fake_next_data(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                          uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    const struct disk *d = &s->disks[disk];
    uint8_t *chunk SP_FREE = malloc(VAULT_CHUNK_BYTES);
    (void)why;
    for (uint64_t i = offset / VAULT_CHUNK_BYTES; i < disk_chunks(d); i++) {
        uint32_t size;
        disk_chunk(d, i, chunk, &size);
        if (sp_is_zero(chunk, size))
            continue;
        uint64_t start = i * VAULT_CHUNK_BYTES + (size > 1000 ? 512 : 0);
        *ret_offset = start > offset ? start : offset;
        *ret_length = size > 1000 ? size - 1000 : size;
        return 1;
    }
    return 0;
}

static int all_data(struct source_snapshot *s, uint32_t disk, uint64_t offset, uint64_t *ret_offset,
                    uint64_t *ret_length, struct sp_why *why)
{
    (void)why;
    if (offset >= s->disks[disk].size)
        return 0;
    *ret_offset = offset;
    *ret_length = s->disks[disk].size - offset;
    return 1;
}

static bool fake_broken(struct source_snapshot *s)
{
    return atomic_load(&s->broken);
}

static struct source fake = {.name = "fake",
                             .parallel = true,
                             .read_at = fake_read_at,
                             .next_data = fake_next_data,
                             .broken = fake_broken};

static struct fixture f;
static struct source_snapshot snapshot;
static Sp__SourceDisk disks[3];
static Sp__SourceDisk *disk_list[] = {&disks[0], &disks[1], &disks[2]};
static Sp__SnapshotResponse taken;
static Sp__TransferRequest request;
static Sp__DiskLayout layout;
static Sp__DiskLayout *layouts[] = {&layout};
static Sp__DiskExtent extents[3];
static Sp__DiskExtent *extent_list[] = {&extents[0], &extents[1], &extents[2]};

static int setup(void **state)
{
    (void)state;
    fixture_make(&f);
    memset(&snapshot, 0, sizeof snapshot);
    pthread_mutex_init(&snapshot.lock, NULL);
    fake.parallel = true;
    fake.next_data = fake_next_data;
    snapshot.disks[0] = (struct disk){DISK_MIXED, 5, (90 << 20) + 70001, UINT64_MAX};
    snapshot.disks[1] = (struct disk){DISK_RANDOM, 6, (5 << 20), UINT64_MAX};
    static char *names[] = {"disk-a", "disk-b", "cdrom"};
    for (size_t i = 0; i < 3; i++) {
        sp__source_disk__init(&disks[i]);
        disks[i].disk_id = names[i];
        disks[i].serial = names[i];
        disks[i].format = "raw";
        disks[i].logical_sector_bytes = 512;
        disks[i].size_bytes = i < 2 ? snapshot.disks[i].size : 1 << 30;
    }
    disks[2].skipped = true;
    sp__snapshot_response__init(&taken);
    taken.disks = disk_list;
    taken.n_disks = 3;
    sp__transfer_request__init(&request);
    request.point_id = "point-1";
    request.vault_id = f.id;
    request.layout = layouts;
    request.n_layout = 1;
    sp__disk_layout__init(&layout);
    layout.disk_id = "disk-a";
    layout.ciphertext = extent_list;
    layout.n_ciphertext = 3;
    /* Two that touch, given out of order, and one of its own. */
    static const uint64_t ranges[3][2] = {
        {(8 << 20) + 512, 4 << 20}, {4 << 20, (4 << 20) + 512}, {40 << 20, 10 << 20}};
    for (size_t i = 0; i < 3; i++) {
        sp__disk_extent__init(&extents[i]);
        extents[i].disk_id = "disk-a";
        extents[i].offset_bytes = ranges[i][0];
        extents[i].length_bytes = ranges[i][1];
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pthread_mutex_destroy(&snapshot.lock);
    fixture_free(&f);
    return 0;
}

static uint64_t last_done, last_total;

static void note_progress(void *self, const Sp__TransferProgress *p)
{
    (void)self;
    assert_true(p->done_bytes >= last_done);
    assert_true(p->done_bytes <= p->total_bytes);
    last_done = p->done_bytes;
    last_total = p->total_bytes;
}

static void expect_whole(void)
{
    struct mover_transfer_hooks hooks = {.progress = note_progress};
    struct sp_why why = {{0}};
    Sp__TransferResponse *response = NULL;
    last_done = 0;
    int r = mover_transfer(&fake, &snapshot, &taken, &request, f.vault, &hooks, &response, &why);
    if (r < 0)
        fail_msg("transfer: %s", why.text);
    assert_int_equal(response->n_disks, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(response->disks[i]->disk_id, disks[i].disk_id);
        assert_string_equal(response->disks[i]->format, "raw");
        assert_int_equal(response->disks[i]->size_bytes, disks[i].size_bytes);
        disk_expect(f.vault, &snapshot.disks[i], response->disks[i]);
    }
    assert_int_equal(response->disks[0]->n_ciphertext, 2);
    assert_int_equal(response->disks[0]->ciphertext[0]->offset_bytes, 4 << 20);
    assert_int_equal(response->disks[0]->ciphertext[0]->length_bytes, (8 << 20) + 512);
    assert_int_equal(response->disks[1]->n_ciphertext, 0);
    assert_int_equal(last_total, snapshot.disks[0].size + snapshot.disks[1].size);
    assert_int_equal(last_done, last_total);
    sp__transfer_response__free_unpacked(response, NULL);
    char *text SP_FREE = check_text(&f, true);
    assert_string_equal(text, "");
}

static void disks_come_over_whole_and_holes_are_not_read(void **state)
{
    (void)state;
    expect_whole();
    assert_true(snapshot.read_bytes[0] < snapshot.disks[0].size * 4 / 5);
    assert_true(atomic_load(&snapshot.most_reading) > 1);
}

static void a_source_that_is_not_parallel_is_read_by_one_at_a_time(void **state)
{
    (void)state;
    fake.parallel = false;
    fake.next_data = all_data;
    expect_whole();
    assert_int_equal(atomic_load(&snapshot.most_reading), 1);
}

static void it_does_not_matter_by_whom_and_in_which_pieces(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    Sp__TransferResponse *one = NULL, *two = NULL;
    assert_int_equal(mover_transfer(&fake, &snapshot, &taken, &request, f.vault, NULL, &one, &why),
                     0);
    fake.next_data = all_data;
    fake.parallel = false;
    request.point_id = "point-2";
    assert_int_equal(mover_transfer(&fake, &snapshot, &taken, &request, f.vault, NULL, &two, &why),
                     0);
    for (size_t i = 0; i < 2; i++) {
        assert_memory_equal(one->disks[i]->root.data, two->disks[i]->root.data, 32);
        assert_int_equal(two->disks[i]->new_bytes, 0);
    }
    sp__transfer_response__free_unpacked(one, NULL);
    sp__transfer_response__free_unpacked(two, NULL);
}

static void failing(int expected, const char *text)
{
    atomic_bool cancel = false;
    struct mover_transfer_hooks hooks = {.cancel = &cancel};
    snapshot.cancel = &cancel;
    struct sp_why why = {{0}};
    Sp__TransferResponse *response = NULL;
    assert_int_equal(
        mover_transfer(&fake, &snapshot, &taken, &request, f.vault, &hooks, &response, &why),
        expected);
    assert_null(response);
    if (!strstr(why.text, text))
        fail_msg("why: '%s'", why.text);
    /* What it left is removed with its journal. */
    assert_int_equal(vault_end_journal(f.vault, "point-1", false), 0);
    assert_int_equal(object_count(&f, "packs/"), 0);
    assert_int_equal(object_count(&f, "journals/"), 0);
}

static void a_lost_source_fails_with_its_reason(void **state)
{
    (void)state;
    snapshot.fail_after = 80;
    failing(-EIO, "the export went away");
}

static void a_snapshot_that_breaks_on_the_way_is_not_finished(void **state)
{
    (void)state;
    snapshot.break_after = 5;
    failing(-EIO, "snapshot broke while disk 'disk-a'");
}

static void cancel_stops_it(void **state)
{
    (void)state;
    snapshot.cancel_after = 20;
    failing(-ECANCELED, "cancelled");
}

static void a_layout_beyond_the_disk_is_refused(void **state)
{
    (void)state;
    extents[1].length_bytes = UINT64_MAX;
    failing(-EINVAL, "beyond its end");
}

static void a_piece_counts_as_ciphertext_only_as_a_whole(void **state)
{
    (void)state;
    struct layout l = {0};
    assert_int_equal(layout_of(&request, "disk-a", snapshot.disks[0].size, &l), 0);
    assert_int_equal(l.count, 2);
    assert_true(layout_is_ciphertext(&l, 4 << 20, 65536));
    assert_false(layout_is_ciphertext(&l, (4 << 20) - 1, 65536));
    assert_true(layout_is_ciphertext(&l, (8 << 20), 65536)); /* across the joint */
    assert_false(layout_is_ciphertext(&l, (12 << 20), 65536));
    assert_true(layout_is_ciphertext(&l, (12 << 20), 512));
    assert_false(layout_is_ciphertext(&l, (50 << 20), 1));
    assert_false(layout_is_ciphertext(&l, 0, 1));
    assert_true(layout_is_ciphertext(&l, (50 << 20) - 1, 1));
    free(l.ranges);
}

/* Two points at once into one vault. */
struct together {
    struct fixture *fixture;
    char point[16];
    struct disk disk;
    Sp__DiskImage image;
    int result;
};

static void *write_one(void *arg)
{
    struct together *t = arg;
    struct sp_why why = {{0}};
    t->result = disk_write(t->fixture->vault, t->point, &t->disk, &t->image, &why);
    Sp__DiskImage *images[] = {&t->image};
    if (t->result == 0) {
        Sp__Signed *m = manifest_make(t->fixture, "machine", t->point, 1, 0, images, 1);
        t->result = vault_put_manifest(t->fixture->vault, m, &why);
        sp__signed__free_unpacked(m, NULL);
    }
    if (t->result == 0)
        t->result = vault_end_journal(t->fixture->vault, t->point, t->point[0] == 'k');
    return NULL;
}

static void points_written_at_once_do_not_disturb_each_other(void **state)
{
    (void)state;
    struct together t[4];
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        t[i] = (struct together){.fixture = &f, .disk = {DISK_MIXED, 40 + i / 2, 30 << 20, 0}};
        t[i].disk.changed_chunk = i * 10;
        sp__disk_image__init(&t[i].image);
        snprintf(t[i].point, sizeof t[i].point, "%s-%zu", i < 2 ? "kept" : "gone", i);
        assert_int_equal(pthread_create(&threads[i], NULL, write_one, &t[i]), 0);
    }
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    struct sp_why why = {{0}};
    fixture_reopen(&f);
    assert_int_equal(vault_recover(f.vault, &why), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(t[i].result, 0);
        disk_expect(f.vault, &t[i].disk, &t[i].image);
        free(t[i].image.root.data);
    }
    char *text SP_FREE = check_text(&f, true);
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        TEST(disks_come_over_whole_and_holes_are_not_read),
        TEST(a_source_that_is_not_parallel_is_read_by_one_at_a_time),
        TEST(it_does_not_matter_by_whom_and_in_which_pieces),
        TEST(a_lost_source_fails_with_its_reason),
        TEST(a_snapshot_that_breaks_on_the_way_is_not_finished),
        TEST(cancel_stops_it),
        TEST(a_layout_beyond_the_disk_is_refused),
        TEST(a_piece_counts_as_ciphertext_only_as_a_whole),
        TEST(points_written_at_once_do_not_disturb_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
