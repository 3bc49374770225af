/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A process that writes points is killed (SIGKILL) at a random moment, again and again. After each
 * kill: recovery succeeds, the check finds nothing, every point that was finished is whole, nothing
 * is left of the one that was not. 10 rounds; 200 with SEALPOINT_LONG=1. */
#include "base/cleanup.h"
#include "fixture.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
// cmocka needs the four above first
#include <cmocka.h>

enum { MOST_POINTS = 4096 };

/* Shared with the child: what it has finished. */
struct told {
    unsigned started, finished;
    uint8_t root[MOST_POINTS][32];
};

static bool kept_points[MOST_POINTS];

static struct disk disk_of(unsigned n)
{
    /* Neighbours share most of their chunks. */
    return (struct disk){DISK_MIXED, 100 + n / 4, (9 << 20) + 123, n % 4 ? n % 140 : UINT64_MAX};
}

static void write_points(struct fixture *f, struct told *told)
{
    for (unsigned n = told->started; n < MOST_POINTS; n++) {
        char point[32];
        struct sp_why why = {{0}};
        Sp__DiskImage image = SP__DISK_IMAGE__INIT;
        Sp__DiskImage *images[] = {&image};
        struct disk d = disk_of(n);
        snprintf(point, sizeof point, "point-%u", n);
        told->started = n + 1;
        if (disk_write(f->vault, point, &d, &image, &why) < 0)
            _exit(2);
        Sp__Signed *m = manifest_make(f, "machine", point, 1, 0, images, 1);
        memcpy(told->root[n], image.root.data, 32);
        if (vault_put_manifest(f->vault, m, &why) < 0 ||
            vault_end_journal(f->vault, point, true) < 0)
            _exit(3);
        sp__signed__free_unpacked(m, NULL);
        free(image.root.data);
        told->finished = n + 1;
    }
    _exit(4);
}

static int count_one(void *arg, const char *machine, const char *point)
{
    (void)machine, (void)point;
    ++*(unsigned *)arg;
    return 0;
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Waits until the child has begun (and finished `first` points), then for a random part of the time
 * that a point takes on this machine, however busy it is. */
static void wait_for_moment(const struct told *told, unsigned before, unsigned first,
                            uint64_t *point_us)
{
    const struct timespec tick = {0, 1000000};
    while (*(volatile const unsigned *)&told->started <= before)
        nanosleep(&tick, NULL);
    uint64_t start = now_us();
    while (*(volatile const unsigned *)&told->finished < before + first)
        nanosleep(&tick, NULL);
    if (first > 0)
        *point_us = now_us() - start;
    uint32_t random = 0;
    sp_random(&random, sizeof random);
    uint64_t us = random % (*point_us + 1);
    struct timespec wait = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    nanosleep(&wait, NULL);
}

static void a_killed_writer_leaves_a_clean_vault(void **state)
{
    (void)state;
    struct fixture f;
    fixture_make(&f);
    struct told *told =
        mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(told, MAP_FAILED);
    const char *is_long = getenv("SEALPOINT_LONG");
    uint64_t point_us = 50000;
    unsigned rounds = is_long && !strcmp(is_long, "1") ? 200 : 10, whole = 0;
    for (unsigned round = 0; round < rounds; round++) {
        vault_close(f.vault);
        f.vault = NULL;
        unsigned before = told->started;
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fixture_new_key(&f);
            fixture_reopen(&f);
            write_points(&f, told);
        }
        wait_for_moment(told, before, round % 2, &point_us);
        assert_int_equal(kill(child, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));

        fixture_reopen(&f);
        struct sp_why why = {{0}};
        char point[32];
        for (unsigned n = before; n < told->started; n++) {
            /* As the controller does: a point without manifest is given up. */
            snprintf(point, sizeof point, "point-%u", n);
            Sp__Signed *s = NULL;
            Sp__Manifest *m = NULL;
            bool kept = vault_get_manifest(f.vault, "machine", point, fixture_seal_key(&f), &s, &m,
                                           &why) == 0;
            if (kept) {
                sp__manifest__free_unpacked(m, NULL);
                sp__signed__free_unpacked(s, NULL);
            }
            assert_true(kept || n + 1 > told->finished);
            whole += kept;
            kept_points[n] = kept;
            assert_int_equal(vault_end_journal(f.vault, point, kept), 0);
        }
        int r = vault_recover(f.vault, &why);
        if (r < 0)
            fail_msg("recover: %s", why.text);
        char *text SP_FREE = check_text(&f, true);
        assert_string_equal(text, "");
        assert_int_equal(object_count(&f, "tmp/"), 0);
        assert_int_equal(object_count(&f, "journals/"), 0);
        unsigned points = 0;
        assert_int_equal(vault_list_manifests(f.vault, count_one, &points), 0);
        assert_int_equal(points, whole);
        for (unsigned n = told->finished > 3 ? told->finished - 3 : 0; n < told->finished; n++) {
            struct disk d = disk_of(n);
            Sp__DiskImage image = SP__DISK_IMAGE__INIT;
            if (!kept_points[n])
                continue;
            image.root = (ProtobufCBinaryData){32, told->root[n]};
            disk_expect(f.vault, &d, &image);
        }
    }
    print_message("%u points begun, %u kept\n", told->started, whole);
    assert_true(whole >= rounds / 2);
    munmap(told, sizeof *told);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_killed_writer_leaves_a_clean_vault)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
