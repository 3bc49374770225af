/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The real agent, killed at random moments of a freeze: itself, its freezer, both, or its link to
 * the controller. After each, what it froze is thawed, and what another program froze before still
 * is frozen. 10 rounds; 200 with SEALPOINT_LONG. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller.h"
#include "mounts.h"
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

enum { LEASE_MS = 2000, SPREAD_MS = 1500 };

static struct controller controller;
static char program[512], only[512];
static const char *ours[3], *theirs;
static pid_t agent;

static pid_t spawn(const char *command, const char *const *more)
{
    SP_FREE char *state = sp_format("agent.state=%s/state", mounts_folder);
    SP_FREE char *run = sp_format("agent.runtime=%s/run", mounts_folder);
    SP_FREE char *hooks = sp_format("hooks.folder=%s/hooks.d", mounts_folder);
    const char *argv[32] = {
        program,       command, "--config", "/dev/null", "-o",  state, "-o",
        run,           "-o",    only,       "-o",        hooks, "-o",  "freeze.most_per_hour=3600",
        "--log-level", "error"};
    size_t n = 16;
    while (*more)
        argv[n++] = *more++;
    pid_t pid;
    assert_int_equal(
        posix_spawn(&pid, program, NULL, NULL, (char *const *)(uintptr_t)argv, environ), 0);
    return pid;
}

static int wait_exit(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void start_agent(void)
{
    unsigned sessions = controller.sessions;
    agent = spawn("run", (const char *[]){NULL});
    controller_wait_sessions(&controller, sessions + 1);
}

/* The agent's only child, 0 if there is none at this moment. */
static pid_t freezer_of(pid_t parent)
{
    DIR *dir = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        SP_FREE char *path = sp_format("/proc/%s/stat", entry->d_name);
        SP_FREE char *text = NULL;
        int of = 0;
        if (!path || entry->d_name[0] < '1' || entry->d_name[0] > '9' ||
            sp_file_read(path, 4096, &text, NULL) < 0)
            continue;
        const char *after = strrchr(text, ')');
        if (after && sscanf(after, ") %*c %d", &of) == 1 && of == parent)
            found = (pid_t)strtol(entry->d_name, NULL, 10);
    }
    if (dir)
        closedir(dir);
    return found;
}

static unsigned random_below(unsigned most)
{
    uint32_t n;
    assert_int_equal(sp_random(&n, sizeof(n)), 0);
    return n % most;
}

static void pause_us(unsigned us)
{
    struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&pause, NULL);
}

static void send_freeze(const char *id)
{
    Sp__Command c = SP__COMMAND__INIT;
    Sp__FreezeCommand f = SP__FREEZE_COMMAND__INIT;
    f.lease_ms = LEASE_MS;
    c.operation_id = (char *)(uintptr_t)id;
    c.fence = controller.fence;
    c.kind_case = SP__COMMAND__KIND_FREEZE;
    c.freeze = &f;
    controller_send(&controller, &c);
}

/* As the service manager does it: what is left of the agent is killed, then ExecStopPost, then a
 * new start. */
static void restart_as_the_service(pid_t freezer, bool kill_freezer)
{
    wait_exit(agent);
    if (freezer && kill_freezer)
        kill(freezer, SIGKILL);
    assert_int_equal(wait_exit(spawn("thaw-left-over", (const char *[]){NULL})), 0);
    for (size_t i = 0; i < SP_COUNT(ours); i++)
        assert_false(mounts_frozen(ours[i])); /* at once, not with the lease */
    start_agent();
}

static void one_round(unsigned round, unsigned *ret_frozen)
{
    enum { AGENT, FREEZER, BOTH, LINK, WHATS } what = round % WHATS;
    char id[32];
    snprintf(id, sizeof(id), "round %u", round);
    for (size_t i = 0; i < SP_COUNT(ours); i++)
        mounts_write(ours[i], 64 + random_below(2048), false);
    pid_t freezer = freezer_of(agent);
    unsigned sessions = controller.sessions;
    send_freeze(id);
    pause_us(random_below(SPREAD_MS * 1000));
    for (size_t i = 0; i < SP_COUNT(ours); i++) {
        bool frozen = mounts_freeze(ours[i]) == EBUSY; /* asked without thawing what is frozen */
        if (!frozen)
            mounts_thaw(ours[i]);
        *ret_frozen += frozen;
    }
    if (what == AGENT || what == BOTH)
        kill(agent, SIGKILL);
    if ((what == FREEZER || what == BOTH) && freezer)
        kill(freezer, SIGKILL);
    if (what == LINK)
        controller_cut(&controller);
    if (what == AGENT || what == BOTH)
        restart_as_the_service(freezer, random_below(2) == 0);
    for (size_t i = 0; i < SP_COUNT(ours); i++)
        mounts_wait_thawed(ours[i]);
    if (what == LINK)
        controller_wait_sessions(&controller, sessions + 1);
    for (size_t i = 0; i < SP_COUNT(ours); i++)
        mounts_write(ours[i], 16, true); /* and it can be written to */
    if (!mounts_frozen(theirs))
        fail_msg("round %u thawed what another program froze", round);
}

static void kills_leave_nothing_frozen_and_thaw_nothing_of_others(void **state)
{
    (void)state;
    unsigned rounds = getenv("SEALPOINT_LONG") ? 200 : 10, frozen = 0;
    start_agent();
    assert_int_equal(mounts_freeze(theirs), 0);
    for (unsigned round = 0; round < rounds; round++)
        one_round(round, &frozen);
    assert_true(mounts_frozen(theirs));
    assert_int_equal(mounts_thaw(theirs), 0);
    print_message("%u kills; %u file systems were frozen at that moment\n", rounds, frozen);
    assert_true(frozen > 0);
    kill(agent, SIGTERM);
    kill(agent, SIGTERM);
    assert_int_equal(wait_exit(agent), 0);
}

static int begin(void **state)
{
    (void)state;
    ours[0] = mounts_make("ext4", "ext4", 48, NULL);
    ours[1] = mounts_make("xfs", "xfs", 320, NULL);
    ours[2] = mounts_make("inner", "ext4", 64, ours[1]);
    theirs = mounts_make("theirs", "ext4", 32, NULL);
    snprintf(only, sizeof(only), "freeze.only=%s,%s,%s,%s", ours[0], ours[1], ours[2], theirs);
    controller_start(&controller);
    SP_FREE char *token = sp_format("%s/token", mounts_folder);
    assert_int_equal(sp_file_replace(token, CONTROLLER_TOKEN, strlen(CONTROLLER_TOKEN), 0600), 0);
    assert_int_equal(
        wait_exit(spawn("enrol",
                        (const char *[]){"--controller", controller.address, "--token-file", token,
                                         "--ca-fingerprint", controller.fingerprint, NULL})),
        0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    controller_stop(&controller);
    return 0;
}

int main(void)
{
    int r = mounts_begin();
    if (r != 0)
        return r;
    snprintf(program, sizeof(program), "%s/agent/sealpoint-agent", getenv("SEALPOINT_BUILD"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kills_leave_nothing_frozen_and_thaw_nothing_of_others),
    };
    r = cmocka_run_group_tests(tests, begin, end);
    if (r != 0 && agent > 0)
        kill(agent, SIGKILL);
    mounts_end();
    return r;
}
