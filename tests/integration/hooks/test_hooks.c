/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Hooks as such: shell scripts in a folder of this test's own. */
#include "agent/linux/hooks.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

static char work[64], folder[96], runtime[96], journal[96], program[512];
static struct hooks_options options;

/* ---- helpers ---- */

__attribute__((format(printf, 1, 2))) static void run(const char *format, ...)
{
    char command[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    if (system(command) != 0)
        fail_msg("failed: %s", command);
}

static void add(const char *name, const char *script)
{
    SP_FREE char *path = sp_format("%s/%s", folder, name);
    SP_FREE char *text = sp_format("#!/bin/sh\n%s\n", script);
    assert_int_equal(sp_file_replace(path, text, strlen(text), 0755), 0);
    assert_int_equal(chmod(path, 0755), 0);
}

static struct hooks_results before(void)
{
    struct hooks_results results = {0};
    struct sp_why why = {0};
    if (hooks_before(&options, "op-1", 77, &results, &why) < 0)
        fail_msg("%s", why.text);
    return results;
}

static struct hooks_results after(void)
{
    struct hooks_results results = {0};
    struct sp_why why = {0};
    if (hooks_after(&options, &results, &why) < 0)
        fail_msg("%s", why.text);
    return results;
}

static char *lines(void)
{
    static char text[4096];
    SP_FREE char *read = NULL;
    snprintf(text, sizeof(text), "%s",
             sp_file_read(journal, sizeof(text) - 1, &read, NULL) < 0 ? "" : read);
    return text;
}

static bool exists(const char *name)
{
    SP_FREE char *path = sp_format("%s/%s", runtime, name);
    return access(path, F_OK) == 0;
}

static int begin(void **state)
{
    (void)state;
    snprintf(work, sizeof(work), "/dev/shm/sealpoint-hooks-XXXXXX");
    assert_non_null(mkdtemp(work));
    chmod(work, 0755);
    snprintf(folder, sizeof(folder), "%s/hooks.d", work);
    snprintf(runtime, sizeof(runtime), "%s/run", work);
    snprintf(journal, sizeof(journal), "%s/journal", work);
    assert_int_equal(mkdir(folder, 0755), 0);
    assert_int_equal(mkdir(runtime, 0700), 0);
    options = (struct hooks_options){
        .folder = folder, .run_as = "", .runtime = runtime, .timeout_ms = 10000};
    setenv("JOURNAL", journal, 1);
    return 0;
}

static int end(void **state)
{
    (void)state;
    run("rm -rf '%s'", work);
    return 0;
}

/* ---- tests ---- */

static void they_run_by_name_and_back_in_reverse(void **state)
{
    (void)state;
    SP_FREE char *script = sp_format("echo \"$(basename $0) $1\" >> %s", journal);
    add("20-b", script);
    add("10-a", script);
    add("30-c", script);
    add("40-d.dpkg-old", script);
    add("README.txt", script);
    struct hooks_results results = before();
    assert_int_equal(results.count, 3);
    assert_string_equal(results.at[0]->name, "10-a");
    assert_int_equal(results.at[0]->exit_status, 0);
    hooks_results_free(&results);
    assert_true(exists("hooks"));
    assert_true(exists("hook-10-a"));
    results = after();
    assert_int_equal(results.count, 3);
    assert_string_equal(results.at[0]->name, "30-c");
    hooks_results_free(&results);
    assert_string_equal(lines(), "10-a pre-freeze\n20-b pre-freeze\n30-c pre-freeze\n"
                                 "30-c post-thaw\n20-b post-thaw\n10-a post-thaw\n");
    assert_false(exists("hooks"));
    assert_false(exists("hook-10-a"));
    /* Nothing is owed any more. */
    results = after();
    assert_int_equal(results.count, 0);
}

static void no_folder_is_no_hooks(void **state)
{
    (void)state;
    options.folder = "/nonexistent/hooks.d";
    struct hooks_results results = before();
    assert_int_equal(results.count, 0);
    assert_false(exists("hooks"));
}

static void one_that_fails_does_not_stop_the_others_and_still_gets_its_post_thaw(void **state)
{
    (void)state;
    SP_FREE char *script = sp_format("echo \"$(basename $0) $1\" >> %s\n"
                                     "echo 'cannot lock' >&2\n[ $1 = post-thaw ] || exit 3",
                                     journal);
    SP_FREE char *other = sp_format("echo \"$(basename $0) $1\" >> %s; kill -9 $$", journal);
    add("10-fails", script);
    add("20-dies", other);
    struct hooks_results results = before();
    assert_int_equal(results.at[0]->exit_status, 3);
    assert_string_equal(results.at[0]->output, "cannot lock\n");
    assert_int_equal(results.at[1]->exit_status, 128 + 9);
    hooks_results_free(&results);
    results = after();
    assert_int_equal(results.count, 2);
    hooks_results_free(&results);
    assert_string_equal(lines(), "10-fails pre-freeze\n20-dies pre-freeze\n20-dies post-thaw\n"
                                 "10-fails post-thaw\n");
}

static void time_and_output_have_a_limit(void **state)
{
    (void)state;
    options.timeout_ms = 300;
    /* With a child that ignores SIGTERM and holds the pipe: the whole group must go. */
    SP_FREE char *script = sp_format("[ $1 = pre-freeze ] || exit 0\n"
                                     "(trap '' TERM; echo $$ > %s; sleep 600) &\n"
                                     "head -c 100000 /dev/zero | tr '\\0' x\nsleep 600",
                                     journal);
    add("10-slow", script);
    struct hooks_results results = before();
    assert_true(results.at[0]->timed_out);
    assert_int_not_equal(results.at[0]->exit_status, 0);
    assert_int_equal(strlen(results.at[0]->output), HOOKS_OUTPUT_BYTES);
    hooks_results_free(&results);
    int group = atoi(lines());
    assert_true(group > 1);
    /* Killed members may still be zombies of init; none runs. */
    run("! ps -o stat= -g %d | grep -qv Z", group);
    results = after();
    assert_int_equal(results.at[0]->exit_status, 0);
    hooks_results_free(&results);
}

static void what_it_leaves_in_the_background_goes_on(void **state)
{
    (void)state;
    /* As the database hooks do: a session that holds a lock, ended by post-thaw. */
    add("10-session", "case $1 in\n"
                      "pre-freeze) sleep 600 & echo $! > pid ;;\n" /* holds the pipe, too */
                      "post-thaw) kill $(cat pid) ;;\nesac");
    struct hooks_results results = before();
    assert_int_equal(results.at[0]->exit_status, 0);
    assert_false(results.at[0]->timed_out);
    hooks_results_free(&results);
    results = after();
    assert_int_equal(results.at[0]->exit_status, 0); /* it was there to be killed */
    hooks_results_free(&results);
}

static void the_environment_is_its_own(void **state)
{
    (void)state;
    SP_FREE char *script =
        sp_format("env | sort | grep -v ^PWD= > %s; read line || echo eof >> %s\n"
                  "ls /proc/self/fd | wc -l >> %s; pwd >> %s",
                  journal, journal, journal, journal);
    setenv("LEAKED", "yes", 1);
    add("10-env", script);
    struct hooks_results results = before();
    assert_int_equal(results.at[0]->exit_status, 0);
    hooks_results_free(&results);
    char *text = lines();
    assert_null(strstr(text, "LEAKED"));
    assert_non_null(strstr(text, "SEALPOINT_OPERATION=op-1\n"));
    assert_non_null(strstr(text, "SEALPOINT_HOLD_SECONDS=77\n"));
    assert_non_null(strstr(text, "HOME=/root\n"));
    assert_non_null(strstr(text, "eof\n4\n")); /* 0, 1, 2 and ls's own: nothing of the agent's */
    assert_non_null(strstr(text, "/hook-10-env\n"));
    results = after();
    hooks_results_free(&results);
}

static void it_runs_as_the_user_that_is_named(void **state)
{
    (void)state;
    options.run_as = "20-other:root, 10-user:nobody";
    add("10-user", "id -u; id -G; echo kept > mine && cat mine");
    struct hooks_results results = before();
    assert_int_equal(results.at[0]->exit_status, 0);
    assert_string_equal(results.at[0]->output, "65534\n65534\nkept\n");
    hooks_results_free(&results);
    results = after();
    hooks_results_free(&results);
    options.run_as = "10-user:no-such-user";
    results = before();
    assert_int_equal(results.at[0]->exit_status, 126);
    assert_non_null(strstr(results.at[0]->output, "no-such-user"));
    hooks_results_free(&results);
    results = after();
    hooks_results_free(&results);
}

/* Of those in the unit's CapabilityBoundingSet=, the ones that say what one may do to others. */
static void keep_the_units_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    uint32_t kept =
        1u << CAP_SYS_ADMIN | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_SETUID | 1u << CAP_SETGID;
    struct __user_cap_data_struct data[2] = {{.effective = kept, .permitted = kept}};
    assert_int_equal(syscall(SYS_capset, &header, data), 0);
}

static void another_users_hook_is_ended_and_its_folder_emptied_under_the_unit(void **state)
{
    (void)state;
    options.run_as = "10-user:nobody";
    options.timeout_ms = 300;
    add("10-user", "if [ $1 = post-thaw ]; then cat mine; else echo $$ > mine; exec sleep 600; fi");
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t agent = fork();
    if (agent == 0) {
        keep_the_units_capabilities();
        struct hooks_results first = before(), last = after();
        dprintf(ends[1], "%d %d %s", first.at[0]->timed_out, last.at[0]->exit_status,
                last.at[0]->output);
        hooks_results_free(&first);
        hooks_results_free(&last);
        _exit(0);
    }
    close(ends[1]);
    char said[256] = "";
    assert_true(read(ends[0], said, sizeof(said) - 1) > 0);
    close(ends[0]);
    waitpid(agent, NULL, 0);
    int timed_out = 0, status = -1, pid = 0;
    assert_int_equal(sscanf(said, "%d %d %d", &timed_out, &status, &pid), 3);
    assert_int_equal(timed_out, 1);
    assert_int_equal(status, 0);
    assert_int_equal(kill(pid, 0), -1); /* and waited for */
    assert_false(exists("hook-10-user"));
}

/* What any other user could change is not run, and the answer says why. */
static void expect_refused(const char *what)
{
    struct hooks_results results = before();
    assert_int_equal(results.count, 1);
    assert_int_equal(results.at[0]->exit_status, 126);
    if (!strstr(results.at[0]->output, what))
        fail_msg("'%s' does not say '%s'", results.at[0]->output, what);
    hooks_results_free(&results);
    struct hooks_names names;
    assert_int_equal(hooks_names(&options, &names, NULL), 0);
    assert_int_equal(names.count, 1);
    assert_non_null(strstr(names.faults[0], what));
    hooks_names_free(&names);
    results = after();
    hooks_results_free(&results);
    assert_string_equal(lines(), "");
}

static void what_others_can_change_is_not_run(void **state)
{
    (void)state;
    SP_FREE char *script = sp_format("echo ran >> %s", journal);
    SP_FREE char *path = sp_format("%s/10-a", folder);
    add("10-a", script);
    assert_int_equal(chmod(path, 0775), 0);
    expect_refused("can be written by others");
    assert_int_equal(chmod(path, 0644), 0);
    expect_refused("not executable");
    assert_int_equal(chmod(path, 0755), 0);
    assert_int_equal(chown(path, 65534, 0), 0);
    expect_refused("does not belong to root");
    assert_int_equal(chown(path, 0, 0), 0);
    assert_int_equal(chmod(folder, 0777), 0);
    expect_refused("can be written by others");
    assert_int_equal(chmod(folder, 0755), 0);
    assert_int_equal(chown(folder, 65534, 0), 0);
    expect_refused("does not belong to root");
    assert_int_equal(chown(folder, 0, 0), 0);
    /* Behind a symlink into a folder of another user. */
    SP_FREE char *theirs = sp_format("%s/theirs", work);
    SP_FREE char *target = sp_format("%s/hook", theirs);
    assert_int_equal(mkdir(theirs, 0755), 0);
    run("mv '%s' '%s'; ln -s '%s' '%s'", path, target, target, path);
    assert_int_equal(chown(theirs, 65534, 0), 0);
    expect_refused("does not belong to root");
    /* And all of it in order: it runs. */
    assert_int_equal(chown(theirs, 0, 0), 0);
    struct hooks_results results = before();
    assert_int_equal(results.at[0]->exit_status, 0);
    hooks_results_free(&results);
    assert_string_equal(lines(), "ran\n");
    results = after();
    hooks_results_free(&results);
}

static void a_dead_agent_owes_post_thaw_and_the_service_pays(void **state)
{
    (void)state;
    SP_FREE char *script = sp_format("echo \"$1 $SEALPOINT_OPERATION\" >> %s\n"
                                     "[ $1 = post-thaw ] || kill -9 $PPID; sleep 0.1",
                                     journal);
    add("10-a", script);
    add("20-never-started", script);
    pid_t agent = fork();
    if (agent == 0) { /* killed in the middle of its first hook */
        struct hooks_results results = {0};
        hooks_before(&options, "op-1", 77, &results, NULL);
        _exit(0);
    }
    int status;
    waitpid(agent, &status, 0);
    assert_true(WIFSIGNALED(status));
    assert_true(exists("hooks"));
    run("'%s' thaw-left-over --config /dev/null -o agent.runtime='%s' -o hooks.folder='%s' "
        "2>/dev/null",
        program, runtime, folder);
    assert_string_equal(lines(), "pre-freeze op-1\npost-thaw op-1\n");
    assert_false(exists("hooks"));
}

#define T(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "needs root: hooks belong to root\n");
        return 77;
    }
    snprintf(program, sizeof(program), "%s/agent/sealpoint-agent", getenv("SEALPOINT_BUILD"));
    const struct CMUnitTest tests[] = {
        T(they_run_by_name_and_back_in_reverse),
        T(no_folder_is_no_hooks),
        T(one_that_fails_does_not_stop_the_others_and_still_gets_its_post_thaw),
        T(time_and_output_have_a_limit),
        T(what_it_leaves_in_the_background_goes_on),
        T(the_environment_is_its_own),
        T(it_runs_as_the_user_that_is_named),
        T(another_users_hook_is_ended_and_its_folder_emptied_under_the_unit),
        T(what_others_can_change_is_not_run),
        T(a_dead_agent_owes_post_thaw_and_the_service_pays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
