/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/clock.h"
#include "fixture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
// cmocka needs the four above first
#include <cmocka.h>

static struct fixture f, r;

static int setup(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    fixture_make(&f);
    fixture_make(&r);
    /* The second one becomes a replica of the first. */
    vault_close(r.vault);
    r.vault = NULL;
    char path[256];
    object_path(&r, "vault.json", 0, path);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/tmp", r.dir);
    rmdir(path);
    memcpy(r.id, f.id, sizeof r.id);
    if (vault_create_replica(&r.config, f.id, &why))
        fail_msg("%s", why.text);
    fixture_reopen(&r);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_free(&r);
    fixture_free(&f);
    return 0;
}

static struct vault_copied copy(int expected)
{
    struct vault_copied done = {0};
    struct sp_why why = {{0}};
    int is = vault_copy(f.vault, r.vault, NULL, NULL, NULL, &done, &why);
    if (is != expected)
        fail_msg("copy: %d %s", is, why.text);
    return done;
}

static void a_replica_gets_what_it_lacks(void **state)
{
    (void)state;
    struct disk a = {DISK_MIXED, 1, 20 << 20, UINT64_MAX}, b = {DISK_MIXED, 1, 20 << 20, 77};
    Sp__DiskImage ia = SP__DISK_IMAGE__INIT, ib = SP__DISK_IMAGE__INIT;
    point_make(&f, "machine", "one", &a, &ia);
    struct vault_copied done = copy(0);
    assert_int_equal(done.points, 1);
    assert_true(done.bytes > 8 << 20);
    disk_expect(r.vault, &a, &ia);
    point_make(&f, "machine", "two", &b, &ib);
    struct vault_mark hold = {.unix_ms = 1, .who = "a", .why = "b"};
    struct sp_why why = {{0}};
    assert_int_equal(vault_hold(f.vault, "machine", "two", &hold, &why), 0);
    done = copy(0);
    assert_int_equal(done.points, 1);
    assert_int_equal(done.points_there, 1);
    assert_true(done.bytes < 256 << 10); /* one chunk and its path */
    disk_expect(r.vault, &b, &ib);
    assert_int_equal(object_count(&r, "holds/"), 1);
    done = copy(0);
    assert_int_equal(done.points + done.chunks, 0);
    struct fixture sealed = r; /* by the keeper of the first */
    sealed.seal_der = f.seal_der;
    sealed.seal_der_size = f.seal_der_size;
    char *text SP_FREE = check_text(&sealed, true);
    assert_string_equal(text, "");
    assert_int_equal(object_count(&r, "journals/"), 0);
    free(ia.root.data);
    free(ib.root.data);
}

static void deleted_and_foreign_points_do_not_come(void **state)
{
    (void)state;
    struct disk a = {DISK_RANDOM, 1, 1 << 20, UINT64_MAX}, b = {DISK_RANDOM, 2, 1 << 20, 0};
    Sp__DiskImage ia = SP__DISK_IMAGE__INIT, ib = SP__DISK_IMAGE__INIT;
    struct vault_mark mark = {.unix_ms = 1, .who = "a", .why = "b"};
    struct sp_why why = {{0}};
    struct vault_copied done;
    point_make(&f, "machine", "one", &a, &ia);
    point_make(&f, "machine", "two", &b, &ib);
    assert_int_equal(vault_delete_point(f.vault, "machine", "one", &mark, &why), 0);
    done = copy(0);
    assert_int_equal(done.points, 1);
    assert_int_equal(object_count(&r, "manifests/machine/one"), 0);
    assert_int_equal(vault_copy(f.vault, f.vault, NULL, NULL, NULL, &done, &why), -EINVAL);
    struct fixture other;
    fixture_make(&other);
    assert_int_equal(vault_copy(f.vault, other.vault, NULL, NULL, NULL, &done, &why), -EINVAL);
    assert_non_null(strstr(why.text, "no replica"));
    fixture_free(&other);
    free(ia.root.data);
    free(ib.root.data);
}

static void damage_is_not_copied(void **state)
{
    (void)state;
    struct disk a = {DISK_RANDOM, 1, 2 << 20, UINT64_MAX}, b = {DISK_RANDOM, 2, 2 << 20, 0};
    Sp__DiskImage ia = SP__DISK_IMAGE__INIT, ib = SP__DISK_IMAGE__INIT;
    char path[256];
    point_make(&f, "machine", "bad", &a, &ia);
    object_path(&f, "packs/", 0, path);
    flip(path, 300000, 2);
    point_make(&f, "machine", "good", &b, &ib);
    struct vault_copied done = copy(-EBADMSG);
    assert_int_equal(done.points, 1);
    disk_expect(r.vault, &b, &ib);
    assert_int_equal(object_count(&r, "manifests/machine/bad"), 0);
    free(ia.root.data);
    free(ib.root.data);
}

/* ---- scrub ---- */

static char found[4096];

static int note(void *arg, const Sp__CheckProgress *p)
{
    (void)arg;
    for (size_t i = 0; i < p->n_problems; i++) {
        size_t at = strlen(found);
        snprintf(found + at, sizeof found - at, "%s|%s|%s\n", p->problems[i]->what,
                 p->problems[i]->data_lost ? "LOST" : "TIDY",
                 p->problems[i]->n_points_harmed ? p->problems[i]->points_harmed[0] : "");
    }
    return 0;
}

static const char *scrub(struct vault *replica, uint64_t rate)
{
    struct vault_scrub options = {.bytes_per_second = rate, .replica = replica, .each = note};
    struct sp_why why = {{0}};
    found[0] = 0;
    if (vault_scrub(f.vault, &options, &why))
        fail_msg("scrub: %s", why.text);
    return found;
}

static void damage_is_found_named_and_healed(void **state)
{
    (void)state;
    struct disk a = {DISK_RANDOM, 1, 4 << 20, UINT64_MAX}, b = {DISK_TEXT, 2, 4 << 20, 0};
    Sp__DiskImage ia = SP__DISK_IMAGE__INIT, ib = SP__DISK_IMAGE__INIT;
    char raw[256], sealed[256];
    point_make(&f, "machine", "one", &a, &ia);
    object_path(&f, "packs/", 0, raw);
    point_make(&f, "machine", "two", &b, &ib);
    object_path(&f, "packs/", 0, sealed);
    if (!strcmp(raw, sealed))
        object_path(&f, "packs/", 1, sealed);
    assert_string_equal(scrub(NULL, 0), "");
    copy(0);
    flip(raw, 1 << 20, 1);
    flip(raw, 2 << 20, 1);
    flip(sealed, 5000, 1);
    fixture_reopen(&f);
    scrub(NULL, 0);
    assert_non_null(strstr(found, "2 damaged chunks, 0 of them healed"));
    assert_non_null(strstr(found, "LOST|one"));
    assert_non_null(strstr(found, "LOST|two"));
    scrub(r.vault, 0);
    assert_non_null(strstr(found, "2 damaged chunks, all of them healed"));
    assert_null(strstr(found, "LOST"));
    disk_expect(f.vault, &a, &ia);
    disk_expect(f.vault, &b, &ib);
    fixture_reopen(&f);
    scrub(NULL, 0); /* the good copies are here now */
    assert_null(strstr(found, "LOST"));
    assert_int_equal(object_count(&f, "journals/"), 0);
    char *text SP_FREE = check_text(&f, true);
    assert_null(strstr(text, "LOST"));
    free(ia.root.data);
    free(ib.root.data);
}

static void the_rate_is_kept(void **state)
{
    (void)state;
    struct disk a = {DISK_RANDOM, 1, 8 << 20, UINT64_MAX};
    Sp__DiskImage ia = SP__DISK_IMAGE__INIT;
    point_make(&f, "machine", "one", &a, &ia);
    uint64_t start = sp_clock_monotonic_ms(&sp_clock_system);
    scrub(NULL, 16 << 20);
    /* Never faster than asked for; how much slower is the machine's business. */
    assert_true(sp_clock_monotonic_ms(&sp_clock_system) - start >= 200);
    free(ia.root.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        TEST(a_replica_gets_what_it_lacks),
        TEST(deleted_and_foreign_points_do_not_come),
        TEST(damage_is_not_copied),
        TEST(damage_is_found_named_and_healed),
        TEST(the_rate_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
