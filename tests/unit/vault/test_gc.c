/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "controller/mover/vault/retention.h"
#include "fixture.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
// cmocka needs the four above first
#include <cmocka.h>

#define DAY_MS (UINT64_C(24) * 3600 * 1000)
#define START  (UINT64_C(1700000000) * 1000)

static struct fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_make(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_free(&f);
    return 0;
}

/* ---- points ---- */

static void put(const char *point, uint64_t sequence, const struct disk *d, Sp__DiskImage *image,
                uint64_t lock_until)
{
    struct sp_why why = {{0}};
    sp__disk_image__init(image);
    assert_int_equal(disk_write(f.vault, point, d, image, &why), 0);
    Sp__Signed *m = manifest_make(&f, "machine", point, sequence, 0, &image, 1);
    if (lock_until) {
        Sp__Manifest *inside = sp__manifest__unpack(NULL, m->payload.len, m->payload.data);
        inside->lock_until_unix_ms = lock_until;
        free(m->payload.data);
        assert_int_equal(sp_pack(&inside->base, &m->payload.data, &m->payload.len), 0);
        sp__manifest__free_unpacked(inside, NULL);
    }
    if (vault_put_manifest(f.vault, m, &why))
        fail_msg("%s", why.text);
    sp__signed__free_unpacked(m, NULL);
    assert_int_equal(vault_end_journal(f.vault, point, true), 0);
}

static int delete_point(const char *point, uint64_t now, struct sp_why *why)
{
    struct vault_mark mark = {.unix_ms = now, .who = "user/ann", .why = "test"};
    return vault_delete_point(f.vault, "machine", point, &mark, why);
}

static struct vault_gc_done gc(uint64_t now)
{
    struct vault_gc options = {.now_unix_ms = now, .grace_ms = VAULT_GRACE_MS};
    struct vault_gc_done done;
    struct sp_why why = {{0}};
    if (vault_gc(f.vault, &options, &done, &why))
        fail_msg("gc: %s", why.text);
    return done;
}

static bool has_point(const char *point)
{
    Sp__Signed *s = NULL;
    Sp__Manifest *m = NULL;
    if (vault_get_manifest(f.vault, "machine", point, fixture_seal_key(&f), &s, &m, NULL))
        return false;
    sp__manifest__free_unpacked(m, NULL);
    sp__signed__free_unpacked(s, NULL);
    return true;
}

static void expect_clean(void)
{
    char *text SP_FREE = check_text(&f, true);
    assert_string_equal(text, "");
}

/* ---- deletion ---- */

static void a_deleted_point_goes_after_a_fortnight_and_not_before(void **state)
{
    (void)state;
    struct disk a = {DISK_RANDOM, 1, 20 << 20, UINT64_MAX}, b = {DISK_RANDOM, 2, 20 << 20, 0};
    Sp__DiskImage ia, ib;
    struct sp_why why = {{0}};
    put("one", 1, &a, &ia, 0);
    put("two", 2, &b, &ib, 0);
    assert_int_equal(delete_point("one", START, &why), 0);
    assert_int_equal(delete_point("one", START, &why), -EEXIST);
    struct vault_gc_done done = gc(START + 14 * DAY_MS - 1);
    assert_int_equal(done.points_removed, 0);
    assert_true(has_point("one"));
    disk_expect(f.vault, &a, &ia);
    /* It can be brought back until then. */
    assert_int_equal(vault_unmark(f.vault, VAULT_DELETION, "machine", "one"), 0);
    gc(START + 100 * DAY_MS);
    assert_true(has_point("one"));
    assert_int_equal(delete_point("one", START, &why), 0);
    uint64_t before, after, room;
    assert_int_equal(vault_space(f.vault, &before, &room), 0);
    done = gc(START + 14 * DAY_MS);
    assert_int_equal(done.points_removed, 1);
    assert_true(done.packs_removed > 0 && done.bytes_freed >= 20 << 20);
    assert_int_equal(vault_space(f.vault, &after, &room), 0);
    assert_true(before - after >= 20 << 20);
    assert_false(has_point("one"));
    disk_expect(f.vault, &b, &ib);
    assert_int_equal(object_count(&f, "deleted/"), 0);
    expect_clean();
    free(ia.root.data);
    free(ib.root.data);
}

static void what_must_stay_cannot_be_deleted(void **state)
{
    (void)state;
    struct disk d = {DISK_RANDOM, 1, 1 << 20, UINT64_MAX};
    Sp__DiskImage images[4];
    struct sp_why why = {{0}};
    put("held", 1, &d, &images[0], 0);
    put("locked", 2, &d, &images[1], START + 30 * DAY_MS);
    put("older", 3, &d, &images[2], 0);
    put("last", 4, &d, &images[3], 0);
    struct vault_mark hold = {.unix_ms = START, .who = "user/eve", .why = "case 17"}, is;
    assert_int_equal(vault_hold(f.vault, "machine", "held", &hold, &why), 0);
    assert_int_equal(vault_hold(f.vault, "machine", "held", &hold, &why), -EEXIST);
    assert_int_equal(vault_hold(f.vault, "machine", "nothing", &hold, &why), -ENOENT);
    assert_int_equal(vault_get_mark(f.vault, VAULT_HOLD, "machine", "held", &is), 0);
    assert_string_equal(is.why, "case 17");
    assert_int_equal(delete_point("held", START, &why), -EPERM);
    assert_non_null(strstr(why.text, "legal hold by user/eve"));
    assert_int_equal(delete_point("locked", START, &why), -EPERM);
    assert_non_null(strstr(why.text, "locked"));
    assert_int_equal(delete_point("last", START, &why), -EPERM);
    assert_non_null(strstr(why.text, "last valid"));
    assert_int_equal(delete_point("nothing", START, &why), -ENOENT);
    assert_int_equal(delete_point("../../x", START, &why), -EINVAL);
    /* A hold that comes after the deletion saves the point. */
    assert_int_equal(delete_point("older", START, &why), 0);
    assert_int_equal(vault_hold(f.vault, "machine", "older", &hold, &why), 0);
    assert_int_equal(gc(START + 100 * DAY_MS).points_removed, 0);
    assert_true(has_point("older"));
    assert_int_equal(vault_unmark(f.vault, VAULT_HOLD, "machine", "older"), 0);
    assert_int_equal(gc(START + 100 * DAY_MS).points_removed, 1);
    assert_int_equal(delete_point("locked", START + 30 * DAY_MS, &why), 0);
    for (size_t i = 0; i < 4; i++)
        free(images[i].root.data);
}

static void packs_with_little_in_use_are_written_anew(void **state)
{
    (void)state;
    /* Text is sealed and compressed, so that both kinds move. The second point shares most with the
     * first, which goes; what is left of its pack is little. */
    struct disk old[4], kept[4];
    Sp__DiskImage io[4], ik[4];
    struct sp_why why = {{0}};
    for (unsigned i = 0; i < 4; i++) {
        char point[16];
        old[i] = (struct disk){DISK_MIXED, 10 + i, 12 << 20, UINT64_MAX};
        kept[i] = (struct disk){DISK_MIXED, 10 + i, 2 << 20, UINT64_MAX}; /* its beginning */
        snprintf(point, sizeof point, "old-%u", i);
        put(point, 1 + i, &old[i], &io[i], 0);
        snprintf(point, sizeof point, "kept-%u", i);
        put(point, 10 + i, &kept[i], &ik[i], 0);
        assert_int_equal(ik[i].new_bytes < 64 << 10, true);
    }
    for (unsigned i = 0; i < 4; i++) {
        char point[16];
        snprintf(point, sizeof point, "old-%u", i);
        assert_int_equal(delete_point(point, START, &why), 0);
    }
    struct vault_gc options = {START + 20 * DAY_MS, VAULT_GRACE_MS, true, NULL};
    struct vault_gc_done done;
    assert_int_equal(vault_gc(f.vault, &options, &done, &why), 0);
    assert_int_equal(done.points_removed, 4);
    assert_true(has_point("old-0")); /* only told */
    done = gc(START + 20 * DAY_MS);
    assert_true(done.packs_repacked >= 4);
    assert_true(done.bytes_copied < 10 << 20 && done.bytes_freed > 20 << 20);
    for (unsigned i = 0; i < 4; i++)
        disk_expect(f.vault, &kept[i], &ik[i]);
    expect_clean();
    fixture_reopen(&f);
    for (unsigned i = 0; i < 4; i++) {
        disk_expect(f.vault, &kept[i], &ik[i]);
        free(io[i].root.data);
        free(ik[i].root.data);
    }
    done = gc(START + 40 * DAY_MS);
    assert_int_equal(done.packs_removed, 0); /* it comes to rest */
    assert_int_equal(object_count(&f, "journals/"), 0);
}

static void a_damaged_map_stops_the_removal(void **state)
{
    (void)state;
    struct disk a = {DISK_RANDOM, 1, 2 << 20, UINT64_MAX}, b = {DISK_RANDOM, 2, 2 << 20, 0};
    Sp__DiskImage ia, ib;
    struct sp_why why = {{0}};
    put("one", 1, &a, &ia, 0);
    put("two", 2, &b, &ib, 0);
    assert_int_equal(delete_point("one", START, &why), 0);
    unsigned packs = object_count(&f, "packs/");
    char path[256];
    object_path(&f, "manifests/machine/two", 0, path);
    flip(path, 30, 3);
    struct vault_gc options = {.now_unix_ms = START + 20 * DAY_MS, .grace_ms = VAULT_GRACE_MS};
    struct vault_gc_done done;
    assert_true(vault_gc(f.vault, &options, &done, &why) < 0);
    assert_int_equal(object_count(&f, "packs/"), packs);
    assert_int_equal(done.packs_removed, 0);
    free(ia.root.data);
    free(ib.root.data);
}

/* ---- beside backups ---- */

static atomic_bool stop;

static void *collect(void *arg)
{
    struct vault *v = arg;
    uint64_t now = START + 20 * DAY_MS;
    while (!atomic_load(&stop)) {
        struct vault_gc options = {.now_unix_ms = now += DAY_MS, .grace_ms = 0};
        struct vault_gc_done done;
        struct sp_why why = {{0}};
        assert_int_equal(vault_gc(v, &options, &done, &why), 0);
    }
    return NULL;
}

static void it_runs_beside_backups(void **state)
{
    (void)state;
    struct vault *other = NULL;
    struct sp_why why = {{0}};
    pthread_t thread;
    /* Through a handle of its own, as a controller that opened the vault twice. */
    assert_int_equal(vault_open(&f.config, f.id, f.key, &other, &why), 0);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&thread, NULL, collect, other), 0);
    struct disk last = {0};
    Sp__DiskImage image = SP__DISK_IMAGE__INIT;
    for (unsigned n = 1; n <= 24; n++) {
        char point[16], before[16];
        free(image.root.data);
        /* Every fourth is new, the others dedupe against points that are being removed. */
        last = (struct disk){DISK_MIXED, 60 + n / 4, 3 << 20, n};
        snprintf(point, sizeof point, "p%u", n);
        put(point, n, &last, &image, 0);
        snprintf(before, sizeof before, "p%u", n - 1);
        if (n > 1)
            assert_int_equal(delete_point(before, START, &why), 0);
        disk_expect(f.vault, &last, &image);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    disk_expect(f.vault, &last, &image);
    free(image.root.data);
    expect_clean();
    vault_close(other);
}

static void a_second_process_is_refused(void **state)
{
    (void)state;
    vault_close(f.vault);
    f.vault = NULL;
    int told[2];
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    if (child == 0) {
        fixture_new_key(&f);
        fixture_reopen(&f);
        if (write(told[1], "x", 1) == 1)
            pause();
        _exit(0);
    }
    char byte;
    assert_int_equal(read(told[0], &byte, 1), 1);
    struct sp_why why = {{0}};
    assert_int_equal(vault_open(&f.config, f.id, f.key, &f.vault, &why), -EBUSY);
    assert_non_null(strstr(why.text, "another controller uses the vault"));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(told[0]);
    close(told[1]);
    fixture_reopen(&f); /* its end is enough */
}

/* ---- retention ---- */

/* A point a day, newest last. */
static void days(struct retention_point *p, size_t count)
{
    for (size_t i = 0; i < count; i++)
        p[i] = (struct retention_point){START + i * DAY_MS, i + 1, true, false, false};
}

static size_t kept(const struct retention_point *p, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += p[i].keep;
    return n;
}

static void retention_keeps_what_a_rule_names(void **state)
{
    (void)state;
    struct retention_point p[800];
    Sp__Retention rules = SP__RETENTION__INIT;
    days(p, 800);
    retention_apply(&rules, p, 800);
    assert_int_equal(kept(p, 800), 800); /* no rule: nothing expires */
    retention_apply(NULL, p, 800);
    assert_int_equal(kept(p, 800), 800);
    rules.keep_last = 3;
    retention_apply(&rules, p, 800);
    assert_int_equal(kept(p, 800), 3);
    assert_true(p[799].keep && p[798].keep && p[797].keep);
    rules.keep_last = 0;
    rules.keep_weekly = 5;
    retention_apply(&rules, p, 800);
    assert_int_equal(kept(p, 800), 5);
    for (size_t i = 0; i < 799; i++) {
        if (p[i].keep) /* 1970-01-04 was a Sunday */
            assert_int_equal((p[i].taken_unix_ms / DAY_MS) % 7, 3);
    }
    rules.keep_weekly = 0;
    rules.keep_yearly = 10;
    retention_apply(&rules, p, 800);
    assert_int_equal(kept(p, 800), 4); /* 2023 to 2026 */
    rules.keep_monthly = 12;
    rules.keep_daily = 7;
    retention_apply(&rules, p, 800);
    assert_in_range(kept(p, 800), 7 + 11 + 2, 7 + 12 + 3);
}

static void several_a_day_count_as_one_and_the_last_stays(void **state)
{
    (void)state;
    struct retention_point p[40];
    Sp__Retention rules = SP__RETENTION__INIT;
    for (size_t i = 0; i < 40; i++)
        p[i] = (struct retention_point){START - START % DAY_MS + i * DAY_MS / 4, i + 1, true, false,
                                        false};
    rules.keep_daily = 3;
    retention_apply(&rules, p, 40);
    assert_int_equal(kept(p, 40), 3);
    assert_true(p[39].keep && p[35].keep && p[31].keep);
}

static void invalid_points_push_out_nothing_and_the_last_valid_stays(void **state)
{
    (void)state;
    struct retention_point p[20];
    Sp__Retention rules = SP__RETENTION__INIT;
    days(p, 20);
    for (size_t i = 2; i < 20; i++)
        p[i].valid = false;
    p[5].held = true;
    rules.keep_last = 2;
    retention_apply(&rules, p, 20);
    assert_true(p[0].keep && p[1].keep);   /* the valid ones, however old */
    assert_true(p[18].keep && p[19].keep); /* two of the others */
    assert_true(p[5].keep);
    assert_int_equal(kept(p, 20), 5);
}

static void a_clock_that_jumped_expires_nothing_more(void **state)
{
    (void)state;
    struct retention_point p[11];
    Sp__Retention rules = SP__RETENTION__INIT;
    days(p, 11);
    rules.keep_daily = 7;
    retention_apply(&rules, p, 10);
    bool before[10];
    for (size_t i = 0; i < 10; i++)
        before[i] = p[i].keep;
    /* One point with a clock ten years ahead takes one place, as any point would. */
    p[10].taken_unix_ms += 3650 * DAY_MS;
    retention_apply(&rules, p, 11);
    size_t lost = 0;
    for (size_t i = 0; i < 10; i++)
        lost += before[i] && !p[i].keep;
    assert_int_equal(lost, 1);
    /* And the clock is right again: the newest by number stays. */
    p[10] = (struct retention_point){START - DAY_MS, 99, true, false, false};
    retention_apply(&rules, p, 11);
    assert_true(p[10].keep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        TEST(a_deleted_point_goes_after_a_fortnight_and_not_before),
        TEST(what_must_stay_cannot_be_deleted),
        TEST(packs_with_little_in_use_are_written_anew),
        TEST(a_damaged_map_stops_the_removal),
        TEST(it_runs_beside_backups),
        TEST(a_second_process_is_refused),
        cmocka_unit_test(retention_keeps_what_a_rule_names),
        cmocka_unit_test(several_a_day_count_as_one_and_the_last_stays),
        cmocka_unit_test(invalid_points_push_out_nothing_and_the_last_valid_stays),
        cmocka_unit_test(a_clock_that_jumped_expires_nothing_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
