/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The real freezer on real file systems: loop mounts of this test's own. */
#include "agent/linux/freezer.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "mounts.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static char program[512], runtime[128];
static const char *argv_freezer[] = {program, "freezer", NULL};
static const char *ext4, *xfs, *btrfs, *inner;

/* ---- how a freeze ended ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned endings;
static enum freeze_end last_end;

static void on_ended(void *self, const char *operation_id, enum freeze_end end)
{
    (void)self, (void)operation_id;
    pthread_mutex_lock(&lock);
    endings++;
    last_end = end;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static enum freeze_end wait_ended(void)
{
    pthread_mutex_lock(&lock);
    while (!endings)
        pthread_cond_wait(&changed, &lock);
    endings = 0;
    enum freeze_end end = last_end;
    pthread_mutex_unlock(&lock);
    return end;
}

/* ---- helpers ---- */

static struct freezer *new_freezer(void)
{
    struct freezer_options options = {
        .runtime = runtime, .argv = argv_freezer, .on_ended = on_ended};
    struct freezer *f = NULL;
    struct sp_why why = {0};
    if (freezer_new(&options, &f, &why) < 0)
        fail_msg("%s", why.text);
    endings = 0;
    return f;
}

struct chosen {
    const char *mount_point;
    uint32_t level;
};

static int freeze(struct freezer *f, const char *operation, const struct chosen *chosen,
                  uint32_t count, uint32_t lease_ms, struct freezer_report *report)
{
    struct freezer_target targets[8];
    char devnos[8][24];
    assert_true(count <= 8);
    for (uint32_t i = 0; i < count; i++) {
        assert_memory_equal(chosen[i].mount_point, mounts_folder, strlen(mounts_folder));
        targets[i] = (struct freezer_target){
            .mount_point = chosen[i].mount_point,
            .devno = mounts_devno(chosen[i].mount_point, devnos[i]),
            .level = chosen[i].level,
            .fd = open(chosen[i].mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
        assert_true(targets[i].fd >= 0);
    }
    struct sp_why why = {0};
    int r = freezer_freeze(f, operation, targets, count, lease_ms, report, &why);
    for (uint32_t i = 0; i < count; i++)
        close(targets[i].fd);
    return r;
}

static void check_thawed(void)
{
    for (const char **mount = (const char *[]){inner, ext4, xfs, btrfs, NULL}; *mount; mount++)
        assert_false(mounts_frozen(*mount));
}

/* ---- tests ---- */

static void freezes_and_thaws_on_command(void **state)
{
    (void)state;
    struct freezer *f = new_freezer();
    struct freezer_report report;
    struct freezer_status status;
    const struct chosen all[] = {{ext4, 0}, {xfs, 0}, {btrfs, 0}, {inner, 1}};
    mounts_write(inner, 4096, false); /* its freeze writes through the one below */
    assert_int_equal(freeze(f, "one", all, 4, 60000, &report), 0);
    assert_int_equal(report.ended_by, FREEZE_END_NONE);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(report.outcomes[i].state, FREEZE_ENTRY_FROZEN);
        assert_true(mounts_frozen(all[i].mount_point));
    }
    freezer_state(f, &status);
    assert_true(status.frozen);
    assert_string_equal(status.operation_id, "one");
    assert_true(status.remaining_ms > 0 && status.remaining_ms <= 60000);
    assert_int_equal(freezer_lock_error(f), 0);

    assert_int_equal(freezer_thaw(f, "another", &report, NULL), -ENOENT);
    assert_int_equal(freezer_thaw(f, "one", &report, NULL), 0);
    assert_int_equal(report.ended_by, FREEZE_END_COMMAND);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(report.outcomes[i].state, FREEZE_ENTRY_THAWED);
        assert_int_equal(report.outcomes[i].thaw_error, 0);
    }
    assert_true(report.last_thaw_ns > report.last_freeze_ns);
    check_thawed();
    freezer_state(f, &status);
    assert_false(status.frozen);
    /* Asked again: the same answer. */
    assert_int_equal(freezer_thaw(f, "one", &report, NULL), 0);
    assert_int_equal(report.ended_by, FREEZE_END_COMMAND);
    assert_int_equal(endings, 0);
    freezer_free(f);
}

static void thaws_at_the_deadline(void **state)
{
    (void)state;
    struct freezer *f = new_freezer();
    struct freezer_report report;
    const struct chosen all[] = {{ext4, 0}, {xfs, 0}, {inner, 1}};
    assert_int_equal(freeze(f, "late", all, 3, 200, &report), 0);
    assert_int_equal(wait_ended(), FREEZE_END_DEADLINE);
    check_thawed();
    assert_int_equal(freezer_thaw(f, "late", &report, NULL), 0);
    assert_int_equal(report.ended_by, FREEZE_END_DEADLINE);
    freezer_free(f);
}

static void leaves_alone_what_somebody_else_froze(void **state)
{
    (void)state;
    struct freezer *f = new_freezer();
    struct freezer_report report;
    const struct chosen all[] = {{ext4, 0}, {xfs, 0}};
    assert_int_equal(mounts_freeze(ext4), 0);
    assert_int_equal(freeze(f, "busy", all, 2, 60000, &report), 0);
    assert_int_equal(report.outcomes[0].state, FREEZE_ENTRY_REFUSED);
    assert_int_equal(report.outcomes[0].freeze_error, EBUSY);
    assert_int_equal(report.outcomes[1].state, FREEZE_ENTRY_FROZEN);
    assert_int_equal(freezer_thaw(f, "busy", &report, NULL), 0);
    assert_true(mounts_frozen(ext4));
    assert_false(mounts_frozen(xfs));

    /* Nor when the freezer dies. */
    assert_int_equal(freeze(f, "busy 2", all, 2, 60000, &report), 0);
    kill(freezer_pid(f), SIGKILL);
    assert_int_equal(wait_ended(), FREEZE_END_FREEZER_LOST);
    assert_false(mounts_frozen(xfs));
    assert_true(mounts_frozen(ext4));
    freezer_free(f);
    assert_true(mounts_frozen(ext4));
    assert_int_equal(mounts_thaw(ext4), 0);
}

static void agent_thaws_when_the_freezer_is_killed(void **state)
{
    (void)state;
    struct freezer *f = new_freezer();
    struct freezer_report report;
    const struct chosen all[] = {{ext4, 0}, {xfs, 0}, {btrfs, 0}, {inner, 1}};
    for (int round = 0; round < 10; round++) {
        char operation[20];
        snprintf(operation, sizeof(operation), "kill %d", round);
        assert_int_equal(freeze(f, operation, all, 4, 60000, &report), 0);
        int pid = freezer_pid(f);
        kill(pid, SIGKILL);
        assert_int_equal(wait_ended(), FREEZE_END_FREEZER_LOST);
        check_thawed();
        assert_int_equal(freezer_thaw(f, operation, &report, NULL), 0);
        assert_int_equal(report.ended_by, FREEZE_END_FREEZER_LOST);
        assert_int_not_equal(freezer_pid(f), pid);
    }
    freezer_free(f);
}

/* An agent in a process of its own, that freezes and then waits to be killed. */
static pid_t start_agent(const struct chosen *chosen, uint32_t count, int *ret_freezer)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct freezer_options options = {.runtime = runtime, .argv = argv_freezer};
        struct freezer *f = NULL;
        struct freezer_report report;
        if (freezer_new(&options, &f, NULL) < 0 ||
            freeze(f, "doomed", chosen, count, 600000, &report) < 0)
            _exit(1);
        int freezer = freezer_pid(f);
        if (sp_write_all(ends[1], &freezer, sizeof(freezer)) < 0)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    assert_int_equal(sp_read_all(ends[0], ret_freezer, sizeof(*ret_freezer)), 0);
    close(ends[0]);
    return pid;
}

static void freezer_thaws_when_the_agent_is_killed(void **state)
{
    (void)state;
    const struct chosen all[] = {{ext4, 0}, {xfs, 0}, {btrfs, 0}, {inner, 1}};
    for (int round = 0; round < 10; round++) {
        int freezer;
        pid_t agent = start_agent(all, 4, &freezer);
        assert_true(mounts_frozen(xfs));
        kill(agent, SIGKILL);
        waitpid(agent, NULL, 0);
        for (int i = 0; i < 4; i++)
            mounts_wait_thawed(all[i].mount_point);
    }
}

static int thaw_left_over(void)
{
    SP_FREE char *command =
        sp_format("'%s' thaw-left-over -o agent.runtime='%s' 2>/dev/null", program, runtime);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void left_over_is_thawed_when_both_are_killed(void **state)
{
    (void)state;
    const struct chosen all[] = {{ext4, 0}, {xfs, 0}, {btrfs, 0}, {inner, 1}};
    assert_int_equal(mounts_frozen(ext4), 0);
    for (int round = 0; round < 10; round++) {
        int freezer;
        pid_t agent = start_agent(all, 4, &freezer);
        kill(freezer, SIGSTOP); /* so that it cannot see the agent's end before its own */
        kill(agent, SIGKILL);
        waitpid(agent, NULL, 0);
        kill(freezer, SIGKILL);
        for (int i = 0; i < 4; i++)
            assert_true(mounts_frozen(all[i].mount_point));
        if (round % 2)
            assert_int_equal(thaw_left_over(), 0);
        else
            freezer_free(new_freezer()); /* the next agent does it as well */
        check_thawed();
    }
    assert_int_equal(thaw_left_over(), 0); /* nothing left is fine */
}

static void left_over_spares_what_somebody_else_froze(void **state)
{
    (void)state;
    const struct chosen all[] = {{ext4, 0}, {xfs, 0}};
    int freezer;
    assert_int_equal(mounts_freeze(ext4), 0);
    pid_t agent = start_agent(all, 2, &freezer);
    kill(freezer, SIGSTOP);
    kill(agent, SIGKILL);
    waitpid(agent, NULL, 0);
    kill(freezer, SIGKILL);
    assert_int_equal(thaw_left_over(), 0);
    assert_false(mounts_frozen(xfs));
    assert_true(mounts_frozen(ext4));
    assert_int_equal(mounts_thaw(ext4), 0);
}

/* A freeze in a thread, since it hangs. */
struct hanging {
    struct freezer *f;
    uint32_t lease_ms;
    struct freezer_report report;
    int result;
};

static void *freeze_inner(void *arg)
{
    struct hanging *h = arg;
    const struct chosen one[] = {{inner, 1}};
    h->result = freeze(h->f, "hangs", one, 1, h->lease_ms, &h->report);
    return NULL;
}

static void a_freeze_that_returns_late_is_thawed_by_its_thread(void **state)
{
    (void)state;
    struct freezer *f = new_freezer();
    mounts_write(inner, 8192, false);
    /* The one below is frozen: what FIFREEZE wants to write cannot be written. */
    assert_int_equal(mounts_freeze(xfs), 0);
    struct hanging h = {.f = f, .lease_ms = 300};
    freeze_inner(&h);
    assert_int_equal(h.result, -ETIME);
    assert_int_equal(h.report.ended_by, FREEZE_END_DEADLINE);
    assert_int_equal(h.report.outcomes[0].state, FREEZE_ENTRY_ABANDONED);
    /* Meanwhile nothing else is frozen. */
    struct freezer_report report;
    const struct chosen other[] = {{ext4, 0}};
    assert_int_equal(freeze(f, "next", other, 1, 1000, &report), -EBUSY);
    assert_int_equal(mounts_thaw(xfs), 0);
    mounts_wait_thawed(inner);
    for (;;) {
        assert_int_equal(freezer_thaw(f, "hangs", &report, NULL), 0);
        if (report.outcomes[0].state == FREEZE_ENTRY_THAWED)
            break;
        mounts_wait_thawed(inner);
    }
    assert_false(mounts_frozen(inner));
    assert_int_equal(freeze(f, "next", other, 1, 60000, &report), 0);
    assert_int_equal(freezer_thaw(f, "next", &report, NULL), 0);
    freezer_free(f);
}

static void a_freezer_killed_in_fifreeze_leaves_nothing_frozen(void **state)
{
    (void)state;
    struct freezer *f = new_freezer();
    mounts_write(inner, 8192, false);
    assert_int_equal(mounts_freeze(xfs), 0);
    struct hanging h = {.f = f, .lease_ms = 60000};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, freeze_inner, &h), 0);
    struct freezer_status status;
    do
        freezer_state(f, &status);
    while (!status.frozen);
    struct timespec in_the_call = {.tv_nsec = 200000000};
    nanosleep(&in_the_call, NULL); /* either way the outcome must be the same */
    kill(freezer_pid(f), SIGKILL);
    assert_int_equal(mounts_thaw(xfs), 0);
    pthread_join(thread, NULL);
    assert_int_equal(h.result, -ETIME);
    assert_int_equal(h.report.ended_by, FREEZE_END_FREEZER_LOST);
    assert_false(mounts_frozen(inner));
    freezer_free(f);
}

static void a_stopped_freezer_is_noticed(void **state)
{
    (void)state;
    struct freezer *f = new_freezer();
    struct freezer_report report;
    const struct chosen one[] = {{ext4, 0}};
    assert_int_equal(freeze(f, "stopped", one, 1, 100, &report), 0);
    kill(freezer_pid(f), SIGSTOP);
    enum freeze_end end = wait_ended();
    /* It may have thawed before the signal came. */
    assert_true(end == FREEZE_END_FREEZER_LOST || end == FREEZE_END_DEADLINE);
    mounts_wait_thawed(ext4);
    freezer_free(f);
}

static void the_list_must_lie_on_tmpfs(void **state)
{
    (void)state;
    struct freezer_options options = {.runtime = ext4, .argv = argv_freezer};
    struct freezer *f = NULL;
    struct sp_why why = {0};
    assert_int_equal(freezer_new(&options, &f, &why), -ENOTSUP);
    assert_non_null(strstr(why.text, "tmpfs"));
}

static int make_mounts(void **state)
{
    (void)state;
    ext4 = mounts_make("ext4", "ext4", 32, NULL);
    xfs = mounts_make("xfs", "xfs", 320, NULL);
    btrfs = mounts_make("btrfs", "btrfs", 128, NULL);
    inner = mounts_make("inner", "ext4", 64, xfs);
    return 0;
}

int main(void)
{
    int r = mounts_begin();
    if (r != 0)
        return r;
    snprintf(program, sizeof(program), "%s/agent/sealpoint-agent", getenv("SEALPOINT_BUILD"));
    snprintf(runtime, sizeof(runtime), "%s/run", mounts_folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(freezes_and_thaws_on_command),
        cmocka_unit_test(thaws_at_the_deadline),
        cmocka_unit_test(leaves_alone_what_somebody_else_froze),
        cmocka_unit_test(agent_thaws_when_the_freezer_is_killed),
        cmocka_unit_test(freezer_thaws_when_the_agent_is_killed),
        cmocka_unit_test(left_over_is_thawed_when_both_are_killed),
        cmocka_unit_test(left_over_spares_what_somebody_else_froze),
        cmocka_unit_test(a_freeze_that_returns_late_is_thawed_by_its_thread),
        cmocka_unit_test(a_freezer_killed_in_fifreeze_leaves_nothing_frozen),
        cmocka_unit_test(a_stopped_freezer_is_noticed),
        cmocka_unit_test(the_list_must_lie_on_tmpfs),
    };
    r = cmocka_run_group_tests(tests, make_mounts, NULL);
    mounts_end();
    return r;
}
