/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/secret.h"
#include "test.h"
#include <fcntl.h>
#include <sealpoint/v1/types.pb-c.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* The flags of the mapping that holds `p`, from /proc/self/smaps. */
static void flags_of(const void *p, char out[256])
{
    SP_FILE FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    char line[256];
    bool inside = false;
    out[0] = 0;
    while (fgets(line, sizeof(line), f)) {
        uintptr_t from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) // NOLINT(cert-err34-c)
            inside = (uintptr_t)p >= from && (uintptr_t)p < to;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            (void)snprintf(out, 256, "%.255s", line);
    }
}

static void locked_and_kept_from_dumps_and_children(void **state)
{
    (void)state;
    SP_SECRET struct sp_secret *s = sp_secret_copy("key", 3);
    assert_non_null(s);
    char flags[256];
    flags_of(sp_secret_data(s), flags);
    assert_non_null(strstr(flags, " lo")); /* locked */
    assert_non_null(strstr(flags, " dd")); /* not in dumps */
    assert_non_null(strstr(flags, " dc")); /* not in children */
    uint8_t *m = sp_secret_allocator.alloc(NULL, 100);
    assert_non_null(m);
    flags_of(m, flags);
    assert_non_null(strstr(flags, " lo"));
    sp_secret_allocator.free(NULL, m);
    sp_secret_allocator.free(NULL, NULL);
}

static void reading_is_bounded(void **state)
{
    SP_FREE char *path = NULL;
    assert_true(asprintf(&path, "%s/k", (char *)*state) > 0);
    SP_FILE FILE *f = fopen(path, "we");
    assert_int_equal(fwrite("12345678", 1, 8, f), 8);
    assert_int_equal(fflush(f), 0);
    SP_SECRET struct sp_secret *s = NULL;
    assert_int_equal(sp_secret_read_file(path, 7, &s), -EFBIG);
    assert_null(s);
    assert_int_equal(sp_secret_read_file(path, 8, &s), 0);
    assert_int_equal(sp_secret_size(s), 8);
    assert_memory_equal(sp_secret_data(s), "12345678", 8);
    sp_secret_shrink(s, 20);
    assert_int_equal(sp_secret_size(s), 8);
    sp_secret_shrink(s, 2);
    assert_int_equal(sp_secret_size(s), 2);
    assert_int_equal(sp_secret_data(s)[2], 0);
}

static void a_memfd_is_sealed(void **state)
{
    (void)state;
    SP_SECRET struct sp_secret *s = sp_secret_copy("volume key", 10);
    SP_FD int fd = sp_secret_memfd(s, "k");
    assert_true(fd >= 0);
    SP_SECRET struct sp_secret *back = NULL;
    assert_int_equal(sp_secret_read(fd, 100, &back), 0);
    assert_int_equal(sp_secret_size(back), 10);
    assert_int_equal(write(fd, "x", 1), -1);
    assert_int_equal(errno, EPERM);
}

static void no_core_and_not_dumpable(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        int r = sp_secret_process_setup();
        struct rlimit core;
        bool none = getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0;
        _exit(r == 0 && none && prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(locked_and_kept_from_dumps_and_children),
        cmocka_unit_test_setup_teardown(reading_is_bounded, test_folder_setup,
                                        test_folder_teardown),
        cmocka_unit_test(a_memfd_is_sealed),
        cmocka_unit_test(no_core_and_not_dumpable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
