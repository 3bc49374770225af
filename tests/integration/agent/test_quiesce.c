/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which file systems are frozen, and what is said of those that are not. Everything runs with
 * freeze.only = mounts of this test's own. */
#include "agent/linux/quiesce.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "mounts.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define OUTCOME(name) SP__FREEZE_RESULT__OUTCOME__OUTCOME_##name

static char real[512], refusing[512], runtime[128], only[1024], hooks[128], journal[128];
static const char *const real_argv[] = {real, "freezer", NULL};
static const char *const refusing_argv[] = {refusing, NULL};
static const char *ext4, *xfs, *inner;
static struct agent_config config;

static struct quiesce *new_quiesce(const char *const *argv)
{
    struct quiesce_options options = {
        .config = &config, .roots = &inventory_roots_system, .freezer_argv = argv};
    struct quiesce *q = NULL;
    struct sp_why why = {0};
    assert_string_not_equal(config.only, ""); /* never anything else of this host */
    if (quiesce_new(&options, &q, &why) < 0)
        fail_msg("%s", why.text);
    return q;
}

static const Sp__FreezeResult *result_of(Sp__FreezeResult *const *results, size_t count,
                                         const char *point)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(results[i]->mount_point, point) == 0)
            return results[i];
    fail_msg("no result for '%s'", point);
    return NULL;
}

static Sp__FreezeAnswer *freeze(struct quiesce *q, const char *id, Sp__FreezeCommand *command)
{
    Sp__FreezeAnswer *answer = NULL;
    struct sp_why why = {0};
    if (quiesce_freeze(q, id, command, &answer, &why) < 0)
        fail_msg("%s", why.text);
    return answer;
}

static Sp__ThawAnswer *thaw(struct quiesce *q, const char *id)
{
    Sp__ThawAnswer *answer = NULL;
    assert_int_equal(quiesce_thaw(q, id, &answer, NULL), 0);
    return answer;
}

static void loops_freeze_from_the_top(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    mounts_write(inner, 4096, false);
    Sp__FreezeAnswer *f = freeze(q, "one", &command);
    const char *const all[] = {ext4, xfs, inner};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(result_of(f->results, f->n_results, all[i])->outcome, OUTCOME(FROZEN));
        assert_true(mounts_frozen(all[i]));
    }
    assert_int_equal(f->lease_ms, config.default_lease_ms);
    sp__freeze_answer__free_unpacked(f, NULL);
    Sp__ThawAnswer *t = thaw(q, "one");
    assert_true(t->all_thawed_on_command);
    sp__thaw_answer__free_unpacked(t, NULL);
    for (size_t i = 0; i < 3; i++)
        assert_false(mounts_frozen(all[i]));
    quiesce_free(q);
}

static void excluded_ones_are_named_as_such(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    char *excluded[] = {(char *)(uintptr_t)ext4};
    command.exclude_mount_points = excluded;
    command.n_exclude_mount_points = 1;
    Sp__FreezeAnswer *f = freeze(q, "two", &command);
    const Sp__FreezeResult *r = result_of(f->results, f->n_results, ext4);
    assert_int_equal(r->outcome, OUTCOME(FAILED));
    assert_int_equal(r->error, ECANCELED);
    assert_false(mounts_frozen(ext4));
    assert_true(mounts_frozen(xfs));
    sp__freeze_answer__free_unpacked(f, NULL);
    sp__thaw_answer__free_unpacked(thaw(q, "two"), NULL);
    quiesce_free(q);
}

static void what_does_not_sync_in_time_is_left_out(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    command.sync_budget_ms = 300;
    mounts_write(inner, 8192, false);
    assert_int_equal(mounts_freeze(xfs), 0); /* so that it cannot */
    Sp__FreezeAnswer *f = freeze(q, "three", &command);
    const Sp__FreezeResult *r = result_of(f->results, f->n_results, inner);
    assert_int_equal(r->outcome, OUTCOME(BLOCKED));
    assert_int_equal(r->error, ETIMEDOUT);
    assert_int_equal(result_of(f->results, f->n_results, xfs)->outcome, OUTCOME(BUSY));
    assert_int_equal(result_of(f->results, f->n_results, ext4)->outcome, OUTCOME(FROZEN));
    sp__freeze_answer__free_unpacked(f, NULL);
    sp__thaw_answer__free_unpacked(thaw(q, "three"), NULL);
    assert_true(mounts_frozen(xfs)); /* somebody else's */
    assert_int_equal(mounts_thaw(xfs), 0);
    mounts_wait_thawed(inner);
    quiesce_free(q);
}

static void one_that_cannot_freeze_and_is_idle_counts_as_synced(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(refusing_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    Sp__FreezeAnswer *f = freeze(q, "idle", &command);
    assert_int_equal(result_of(f->results, f->n_results, xfs)->outcome, OUTCOME(UNSUPPORTED));
    sp__freeze_answer__free_unpacked(f, NULL);
    mounts_write(ext4, 64, true);
    Sp__ThawAnswer *t = thaw(q, "idle");
    const Sp__FreezeResult *r = result_of(t->results, t->n_results, xfs);
    assert_int_equal(r->outcome, OUTCOME(SYNCED));
    assert_false(r->wrote_while_held);
    r = result_of(t->results, t->n_results, ext4);
    assert_int_equal(r->outcome, OUTCOME(UNSUPPORTED));
    assert_true(r->wrote_while_held);
    sp__thaw_answer__free_unpacked(t, NULL);
    quiesce_free(q);
}

static void freezes_are_rationed(void **state)
{
    (void)state;
    config.most_per_hour = 2;
    struct quiesce *q = new_quiesce(refusing_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    for (const char **id = (const char *[]){"a", "b", NULL}; *id; id++) {
        sp__freeze_answer__free_unpacked(freeze(q, *id, &command), NULL);
        sp__thaw_answer__free_unpacked(thaw(q, *id), NULL);
    }
    Sp__FreezeAnswer *answer = NULL;
    struct sp_why why = {0};
    assert_int_equal(quiesce_freeze(q, "c", &command, &answer, &why), -EDQUOT);
    assert_non_null(strstr(why.text, "most_per_hour"));
    assert_null(answer);
    config.most_per_hour = 120;
    quiesce_free(q);
}

static int begin(void **state)
{
    (void)state;
    ext4 = mounts_make("ext4", "ext4", 32, NULL);
    xfs = mounts_make("xfs", "xfs", 320, NULL);
    inner = mounts_make("inner", "ext4", 64, xfs);
    snprintf(only, sizeof(only), "%s,%s,%s", ext4, xfs, inner);
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
    assert_int_equal(mkdir(hooks, 0755), 0);
    return 0;
}

int main(void)
{
    int r = mounts_begin();
    if (r != 0)
        return r;
    const char *build = getenv("SEALPOINT_BUILD");
    snprintf(real, sizeof(real), "%s/agent/sealpoint-agent", build);
    snprintf(refusing, sizeof(refusing), "%s/tests/integration/agent/agent-refusing-freezer",
             build);
    snprintf(runtime, sizeof(runtime), "%s/run", mounts_folder);
    snprintf(hooks, sizeof(hooks), "%s/hooks.d", mounts_folder);
    snprintf(journal, sizeof(journal), "%s/journal", mounts_folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops_freeze_from_the_top),
        cmocka_unit_test(excluded_ones_are_named_as_such),
        cmocka_unit_test(what_does_not_sync_in_time_is_left_out),
        cmocka_unit_test(one_that_cannot_freeze_and_is_idle_counts_as_synced),
        cmocka_unit_test(freezes_are_rationed),
    };
    r = cmocka_run_group_tests(tests, begin, NULL);
    mounts_end();
    return r;
}
