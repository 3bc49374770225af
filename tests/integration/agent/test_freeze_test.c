/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What `freeze --test` tells an admin: the line of each file system, and the advice for everything
 * that would go wrong in a backup. With real mounts of the test's own. */
#include "agent/freeze_test.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "mounts.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char runtime[128], only[1024], hooks[128];
static const char *ext4, *xfs;
static struct agent_config config;

static void undo_busy(void)
{
    assert_int_equal(mounts_thaw(ext4), 0); /* it was left alone */
}

static void undo_hidden(void)
{
    assert_int_equal(umount(ext4), 0);
}

static void undo_read_only(void)
{
    assert_int_equal(mount(NULL, xfs, NULL, MS_REMOUNT, NULL), 0);
}

/* The text. `undo` (may be NULL) puts right what the test had made wrong, before anything fails. */
static char *freeze_and_read(int expected, void (*undo)(void))
{
    char *text = NULL;
    size_t size = 0;
    struct sp_why why = {0};
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    assert_string_not_equal(config.only, ""); /* never anything else of this host */
    int r = freeze_test(&config, NULL, 0, 5000, out, &why);
    fclose(out);
    if (undo)
        undo();
    if (r != expected)
        fail_msg("%d: %s\n%s", r, why.text, text);
    return text;
}

/* The line that begins with the text; NULL: none. */
static const char *line_of(const char *text, const char *begin)
{
    static char line[600];
    for (const char *at = text; *at; at += strcspn(at, "\n") + (at[strcspn(at, "\n")] != 0))
        if (strncmp(at, begin, strlen(begin)) == 0) {
            snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
            return line;
        }
    return NULL;
}

__attribute__((format(printf, 2, 3))) static const char *must(const char *text, const char *format,
                                                              ...)
{
    char begin[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(begin, sizeof(begin), format, arguments);
    va_end(arguments);
    const char *line = line_of(text, begin);
    if (!line)
        fail_msg("no line '%s…' in\n%s", begin, text);
    return line;
}

/* Advice about one of the test's mounts, or none in particular; what this host has is not asked. */
static size_t advice_on(const char *text, const char *name)
{
    SP_FREE char *begin = sp_format("! %s", name);
    size_t n = 0;
    for (const char *at = strstr(text, begin); at; at = strstr(at + 1, begin))
        n++;
    return n;
}

static void what_is_frozen_is_timed(void **state)
{
    (void)state;
    SP_FREE char *text = freeze_and_read(0, NULL);
    const char *const all[] = {ext4, xfs};
    for (size_t i = 0; i < 2; i++) {
        float freeze_ms = -1, thaw_ms = -1;
        char type[16];
        const char *said = must(text, "%s ", all[i]) + strlen(all[i]);
        assert_int_equal(
            sscanf(said, "%15s frozen in %f ms, thawed in %f ms", type, &freeze_ms, &thaw_ms), 3);
        assert_string_equal(type, i ? "xfs" : "ext4");
        assert_true(freeze_ms >= 0 && thaw_ms >= 0);
        assert_int_equal(advice_on(text, all[i]), 0);
    }
    must(text, "sync before the freeze: ");
    must(text, "inventory, read again while frozen: ");
    assert_non_null(strstr(must(text, "from the first freeze to the last thaw: "), "command"));
    /* This host has more than those two, which is said; what else could be wrong is not. */
    assert_non_null(strstr(text, "were left out (freeze.only, freeze.exclude)"));
    assert_int_equal(advice_on(text, "freeze.") + advice_on(text, "a hook"), 0);
}

static void one_frozen_by_another_program_is_told(void **state)
{
    (void)state;
    assert_int_equal(mounts_freeze(ext4), 0);
    SP_FREE char *text = freeze_and_read(0, undo_busy);
    assert_non_null(strstr(must(text, "%s ", ext4), "frozen by somebody else, left alone"));
    must(text, "! %s is frozen by another program, which may thaw it at any time", ext4);
    assert_non_null(strstr(must(text, "%s ", xfs), "frozen in"));
}

static void read_only_is_nothing_to_worry_about(void **state)
{
    (void)state;
    assert_int_equal(mount(NULL, xfs, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    SP_FREE char *text = freeze_and_read(0, undo_read_only);
    assert_non_null(strstr(must(text, "%s ", xfs), "read-only"));
    assert_int_equal(advice_on(text, xfs), 0);
}

/* Below another file system; where a second mount shows it, it is frozen by that (test_quiesce.c).
 */
static void one_that_is_hidden_by_another_mount_is_told(void **state)
{
    (void)state;
    assert_int_equal(mount("hides", ext4, "tmpfs", 0, NULL), 0);
    SP_FREE char *text = freeze_and_read(0, undo_hidden);
    assert_non_null(strstr(must(text, "%s ", ext4), "failed"));
    must(text, "! %s is hidden below another mount", ext4);
}

/* FUSE is told by its subtype; the kernel asks nothing of its server to mount it. */
static void one_on_another_host_is_told(void **state)
{
    (void)state;
    SP_FREE char *point = sp_format("%s/net", mounts_folder);
    SP_FD int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    assert_true(fuse >= 0);
    SP_FREE char *options = sp_format("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
    assert_int_equal(mkdir(point, 0755), 0);
    assert_int_equal(mount("admin@far:/", point, "fuse.sshfs", 0, options), 0);
    SP_FREE char *text = freeze_and_read(0, NULL);
    assert_int_equal(umount2(point, MNT_DETACH), 0);
    assert_non_null(strstr(must(text, "%s ", point), "on the network"));
    must(text, "! %s is on another host: it is in no snapshot of this guest", point);
}

static void hooks_are_told_and_a_failed_one_costs_the_grade(void **state)
{
    (void)state;
    SP_FREE char *good = sp_format("%s/10-good", hooks), *bad = sp_format("%s/20-bad", hooks),
                 *slow = sp_format("%s/30-slow", hooks);
    const char bad_text[] = "#!/bin/sh\n[ $1 = post-thaw ] || { echo no database; exit 3; }\n";
    assert_int_equal(sp_file_replace(good, "#!/bin/sh\n", 10, 0755), 0);
    SP_FREE char *text = freeze_and_read(0, NULL);
    must(text, "hook 10-good pre-freeze: done");
    must(text, "hook 10-good post-thaw: done");
    assert_int_equal(advice_on(text, "a hook failed"), 0);
    assert_int_equal(sp_file_replace(bad, bad_text, strlen(bad_text), 0755), 0);
    assert_int_equal(sp_file_replace(slow, "#!/bin/sh\nsleep 60\n", 19, 0755), 0);
    config.hooks_timeout_ms = 300;
    SP_FREE char *worse = freeze_and_read(0, NULL);
    config.hooks_timeout_ms = 10000;
    must(worse, "hook 20-bad pre-freeze: failed with 3");
    must(worse, "  no database");
    must(worse, "hook 30-slow pre-freeze: took too long (hooks.timeout)");
    must(worse, "! a hook failed: backups have the grade filesystem, not application");
    unlink(good);
    unlink(bad);
    unlink(slow);
}

static void limits_that_are_too_tight_are_told(void **state)
{
    (void)state;
    config.max_lease_ms = 6000;
    config.default_lease_ms = 1;
    config.most_per_hour = 3;
    SP_FREE char *text = freeze_and_read(0, NULL);
    must(text, "! this takes more than half of freeze.default_lease");
    must(text, "! freeze.max_lease is 6000 ms: few snapshots are that fast");
    must(text, "! freeze.most_per_hour allows 3 backups an hour");
    config.max_lease_ms = 60000;
    config.default_lease_ms = 30000;
    config.most_per_hour = 120;
}

static int begin(void **state)
{
    (void)state;
    ext4 = mounts_make("ext4", "ext4", 32, NULL);
    xfs = mounts_make("xfs", "xfs", 320, NULL);
    snprintf(only, sizeof(only), "%s,%s", ext4, xfs);
    config = (struct agent_config){.runtime = runtime,
                                   .max_lease_ms = 60000,
                                   .default_lease_ms = 30000,
                                   .most_per_hour = 120,
                                   .exclude = (char *)(uintptr_t) "",
                                   .only = only,
                                   .suspend = (char *)(uintptr_t) "",
                                   .hooks_folder = hooks,
                                   .hooks_run_as = (char *)(uintptr_t) "",
                                   .hooks_timeout_ms = 10000};
    return mkdir(hooks, 0755);
}

int main(int argc, char **argv)
{
    /* The freezer is this program, as it is the agent. */
    if (argc > 1 && strcmp(argv[1], "freezer") == 0) {
        char agent[600];
        ssize_t length = readlink("/proc/self/exe", agent, sizeof(agent) - 1); /* no environment */
        agent[length > 0 ? length : 0] = 0;
        char *build = strstr(agent, "/tests/");
        snprintf(build ? build : agent, 64, "/agent/sealpoint-agent");
        execl(agent, "sealpoint-agent", "freezer", NULL);
        return 1;
    }
    int r = mounts_begin();
    if (r != 0)
        return r;
    snprintf(runtime, sizeof(runtime), "%s/run", mounts_folder);
    snprintf(hooks, sizeof(hooks), "%s/hooks.d", mounts_folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_frozen_is_timed),
        cmocka_unit_test(one_frozen_by_another_program_is_told),
        cmocka_unit_test(read_only_is_nothing_to_worry_about),
        cmocka_unit_test(one_that_is_hidden_by_another_mount_is_told),
        cmocka_unit_test(one_on_another_host_is_told),
        cmocka_unit_test(hooks_are_told_and_a_failed_one_costs_the_grade),
        cmocka_unit_test(limits_that_are_too_tight_are_told),
    };
    r = cmocka_run_group_tests(tests, begin, NULL);
    mounts_end();
    return r;
}
