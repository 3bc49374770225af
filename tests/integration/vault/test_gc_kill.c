/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A process that writes points, deletes the older ones and cleans up is killed (SIGKILL) at a
 * random moment, most often within the clean-up. After each kill every point that is not deleted is
 * whole, and the next clean-up comes to its end. 10 rounds; 200 with SEALPOINT_LONG=1. */
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

enum { MOST_POINTS = 8192, KEPT = 2 };
#define LATER UINT64_C(4000000000000)

struct told {
    unsigned started, finished; /* points */
    unsigned deleted;           /* all below were or are being deleted */
    unsigned collecting;        /* clean-ups begun */
    uint8_t root[MOST_POINTS][32];
};

static struct disk disk_of(unsigned n)
{
    /* Text and ciphertext; four neighbours share most of it, and so thin packs come about. */
    return (struct disk){DISK_MIXED, 100 + n / 4, (3 << 20) + 123, n % 40};
}

static void collect(struct fixture *f)
{
    struct vault_gc options = {.now_unix_ms = LATER};
    struct vault_gc_done done;
    struct sp_why why = {{0}};
    if (vault_gc(f->vault, &options, &done, &why) < 0) {
        fprintf(stderr, "gc: %s\n", why.text);
        _exit(5);
    }
}

static void work(struct fixture *f, struct told *told)
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
        Sp__Signed *m = manifest_make(f, "machine", point, n + 1, 0, images, 1);
        memcpy(told->root[n], image.root.data, 32);
        if (vault_put_manifest(f->vault, m, &why) < 0 ||
            vault_end_journal(f->vault, point, true) < 0)
            _exit(3);
        sp__signed__free_unpacked(m, NULL);
        free(image.root.data);
        told->finished = n + 1;
        while (told->deleted + KEPT < n) {
            struct vault_mark mark = {.unix_ms = 1, .who = "x", .why = "y"};
            snprintf(point, sizeof point, "point-%u", told->deleted++);
            int r = vault_delete_point(f->vault, "machine", point, &mark, &why);
            if (r < 0 && r != -EEXIST && r != -ENOENT)
                _exit(4);
        }
        told->collecting++;
        collect(f);
    }
    _exit(6);
}

static void recover(struct fixture *f, const struct told *told, unsigned from, bool *kept)
{
    struct sp_why why = {{0}};
    char point[32];
    for (unsigned n = from; n < told->started; n++) {
        Sp__Signed *s = NULL;
        Sp__Manifest *m = NULL;
        snprintf(point, sizeof point, "point-%u", n);
        kept[n] =
            vault_get_manifest(f->vault, "machine", point, fixture_seal_key(f), &s, &m, NULL) == 0;
        if (kept[n]) {
            sp__manifest__free_unpacked(m, NULL);
            sp__signed__free_unpacked(s, NULL);
        }
        assert_int_equal(vault_end_journal(f->vault, point, kept[n]), 0);
    }
    if (vault_recover(f->vault, &why) < 0)
        fail_msg("recover: %s", why.text);
}

static void a_killed_clean_up_loses_nothing(void **state)
{
    (void)state;
    struct fixture f;
    fixture_make(&f);
    static bool kept[MOST_POINTS];
    struct told *told =
        mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(told, MAP_FAILED);
    const char *is_long = getenv("SEALPOINT_LONG");
    unsigned rounds = is_long && !strcmp(is_long, "1") ? 200 : 10, whole = 0;
    for (unsigned round = 0; round < rounds; round++) {
        vault_close(f.vault);
        f.vault = NULL;
        unsigned before = told->started, collected = told->collecting;
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fixture_new_key(&f);
            fixture_reopen(&f);
            work(&f, told);
        }
        /* In the middle of the third clean-up or soon after. */
        while (*(volatile const unsigned *)&told->collecting < collected + 3) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
        }
        uint32_t random = 0;
        sp_random(&random, sizeof random);
        nanosleep(&(struct timespec){.tv_nsec = random % 60 * 1000000}, NULL);
        assert_int_equal(kill(child, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSIGNALED(status))
            fail_msg("the process ended by itself: %d", WEXITSTATUS(status));
        fixture_reopen(&f);
        recover(&f, told, before, kept);
        collect(&f);
        for (unsigned n = told->deleted; n < told->started; n++) {
            struct disk d = disk_of(n);
            Sp__DiskImage image = SP__DISK_IMAGE__INIT;
            assert_true(kept[n] || n + 1 > told->finished);
            if (!kept[n])
                continue;
            image.root = (ProtobufCBinaryData){32, told->root[n]};
            disk_expect(f.vault, &d, &image);
            whole++;
        }
        char *text SP_FREE = check_text(&f, true);
        if (strstr(text, "LOST"))
            fail_msg("after kill %u: %s", round, text);
        assert_int_equal(object_count(&f, "journals/"), 0);
    }
    print_message("%u points written, %u clean-ups\n", told->finished, told->collecting);
    assert_true(whole >= rounds);
    munmap(told, sizeof *told);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_killed_clean_up_loses_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
