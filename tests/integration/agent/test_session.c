/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The real agent program against a controller played by the test: enrolment, session, commands. It
 * may freeze only a loop mount of the test's own (freeze.only). */
#include "agent/identity.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller.h"
#include "mounts.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static struct controller controller;
static char program[512], state_folder[128], runtime[128];
static const char *mount_point;
static pid_t agent;

/* ---- the program ---- */

static char *option(const char *key, const char *value)
{
    char *text = sp_format("%s=%s", key, value);
    assert_non_null(text);
    return text;
}

/* Starts `sealpoint-agent COMMAND …`; `more` ends with NULL. */
static pid_t spawn(const char *command, const char *const *more)
{
    SP_FREE char *state = option("agent.state", state_folder);
    SP_FREE char *run = option("agent.runtime", runtime);
    SP_FREE char *only = option("freeze.only", mount_point);
    const char *argv[32] = {program,    command,
                            "--config", "/dev/null",
                            "-o",       state,
                            "-o",       run,
                            "-o",       only,
                            "-o",       "agent.name=guest",
                            "-o",       "freeze.max_lease=20s"};
    size_t n = 14;
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

static int enrol(const char *token, const char *fingerprint, const char *more)
{
    SP_FREE char *path = sp_format("%s/token", mounts_folder);
    assert_int_equal(sp_file_replace(path, token, strlen(token), 0600), 0);
    const char *argv[] = {"--controller",     controller.address, "--token-file", path,
                          "--ca-fingerprint", fingerprint,        more,           NULL};
    return wait_exit(spawn("enrol", argv));
}

static void start_agent(void)
{
    unsigned sessions = controller.sessions;
    agent = spawn("run", (const char *[]){NULL});
    controller_wait_sessions(&controller, sessions + 1);
}

static void stop_agent(void)
{
    kill(agent, SIGTERM);
    assert_int_equal(wait_exit(agent), 0);
}

static int with_agent(void **state)
{
    (void)state;
    start_agent();
    return 0;
}

static int without_agent(void **state)
{
    (void)state;
    stop_agent();
    return 0;
}

/* ---- commands ---- */

static Sp__Command command(const char *id)
{
    Sp__Command c = SP__COMMAND__INIT;
    c.operation_id = (char *)(uintptr_t)id;
    c.fence = controller.fence;
    return c;
}

static Sp__AgentMessage *freeze(const char *id, uint32_t lease_ms)
{
    Sp__Command c = command(id);
    Sp__FreezeCommand f = SP__FREEZE_COMMAND__INIT;
    f.lease_ms = lease_ms;
    c.kind_case = SP__COMMAND__KIND_FREEZE;
    c.freeze = &f;
    controller_send(&controller, &c);
    return controller_answer(&controller, id);
}

static Sp__AgentMessage *thaw(const char *id, const char *freeze_id)
{
    Sp__Command c = command(id);
    Sp__ThawCommand t = SP__THAW_COMMAND__INIT;
    t.freeze_operation_id = (char *)(uintptr_t)freeze_id;
    c.kind_case = SP__COMMAND__KIND_THAW;
    c.thaw = &t;
    controller_send(&controller, &c);
    return controller_answer(&controller, id);
}

static Sp__AgentMessage *status(const char *id)
{
    Sp__Command c = command(id);
    Sp__StatusCommand s = SP__STATUS_COMMAND__INIT;
    c.kind_case = SP__COMMAND__KIND_STATUS;
    c.status = &s;
    controller_send(&controller, &c);
    return controller_answer(&controller, id);
}

static void drop(Sp__AgentMessage *m)
{
    sp__agent_message__free_unpacked(m, NULL);
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

/* ---- enrolment ---- */

static void the_fingerprint_must_be_right(void **state)
{
    (void)state;
    char wrong[65];
    memcpy(wrong, controller.fingerprint, sizeof(wrong));
    wrong[0] = wrong[0] == '0' ? '1' : '0';
    assert_int_equal(enrol(CONTROLLER_TOKEN, wrong, NULL), 1);
    assert_int_equal(controller.enrolments, 0); /* the token's proof was shown to nobody */
}

static void the_token_must_be_right(void **state)
{
    (void)state;
    assert_int_equal(enrol("no token", controller.fingerprint, NULL), 1);
    assert_int_equal(controller.enrolments, 0);
    assert_int_equal(enrol("sealpoint-token-1:00000000-0000-4000-8000-000000000001:"
                           "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA",
                           controller.fingerprint, NULL),
                     1);
    assert_int_equal(controller.wrong_proofs, 1);
    assert_int_equal(wait_exit(spawn("run", (const char *[]){NULL})), 1); /* not enrolled */
}

static void enrolment_waits_for_approval_and_stores_the_identity(void **state)
{
    (void)state;
    controller.pending = 1;
    assert_int_equal(enrol(CONTROLLER_TOKEN, controller.fingerprint, NULL), 0);
    assert_true(controller.enrolments >= 3);
    struct agent_identity identity;
    assert_int_equal(agent_identity_load(state_folder, &identity, NULL), 0);
    assert_string_equal(identity.domain, CONTROLLER_DOMAIN);
    assert_string_equal(identity.controller, controller.address);
    assert_int_equal(strlen(identity.mark), 32);
    agent_identity_free(&identity);
    for (const char **file = (const char *[]){"agent.key", "box.key", NULL}; *file; file++) {
        SP_FREE char *path = sp_format("%s/%s", state_folder, *file);
        struct stat info;
        assert_int_equal(stat(path, &info), 0);
        assert_int_equal(info.st_mode & 0777, 0600);
    }
    /* Not by accident a second time. */
    assert_int_equal(enrol(CONTROLLER_TOKEN, controller.fingerprint, NULL), 1);
    assert_int_equal(enrol(CONTROLLER_TOKEN, controller.fingerprint, "--again"), 0);
    assert_int_equal(agent_identity_load(state_folder, &identity, NULL), 0);
    agent_identity_free(&identity);
}

/* ---- session ---- */

static void it_says_who_it_is_and_what_it_has(void **state)
{
    (void)state;
    Sp__AgentMessage *m = controller_expect(&controller, SP__AGENT_MESSAGE__KIND_HELLO);
    const Sp__Hello *hello = m->hello;
    assert_int_equal(hello->protocol_max, 1);
    assert_string_equal(hello->machine_id, "00000000-0000-4000-8000-00000000000a");
    assert_string_equal(hello->machine_name, "guest");
    assert_int_equal(hello->session_epoch.len, 16);
    assert_int_equal(strlen(hello->identity_mark), 32);
    assert_int_equal(hello->max_lease_ms, 20000);
    assert_int_equal(strlen(hello->boot_id), 36);
    assert_false(hello->freeze->frozen);
    drop(m);
    m = controller_expect(&controller, SP__AGENT_MESSAGE__KIND_INVENTORY);
    assert_true(m->inventory->n_devices > 0);
    assert_int_equal(m->inventory->digest.len, 32);
    assert_int_equal(m->inventory->sequence, 1);
    drop(m);
    m = controller_expect(&controller, SP__AGENT_MESSAGE__KIND_HEARTBEAT);
    assert_true(m->heartbeat->rss_bytes > 0);
    print_message("agent RSS: %.1f MB\n", (double)m->heartbeat->rss_bytes / 1e6);
    drop(m);
}

static void a_new_mount_makes_a_new_inventory(void **state)
{
    (void)state;
    drop(controller_expect(&controller, SP__AGENT_MESSAGE__KIND_INVENTORY));
    const char *more = mounts_make("more", "ext4", 16, NULL);
    for (bool seen = false; !seen;) {
        Sp__AgentMessage *m = controller_expect(&controller, SP__AGENT_MESSAGE__KIND_INVENTORY);
        for (size_t i = 0; i < m->inventory->n_file_systems; i++)
            seen = seen || strcmp(m->inventory->file_systems[i]->mount_point, more) == 0;
        drop(m);
    }
}

static void freeze_and_thaw(void **state)
{
    (void)state;
    Sp__AgentMessage *m = freeze("freeze-1", 15000);
    assert_int_equal(m->answer->error, 0);
    const Sp__FreezeAnswer *f = m->answer->freeze;
    assert_int_equal(f->lease_ms, 15000);
    const Sp__FreezeResult *r = result_of(f->results, f->n_results, mount_point);
    assert_int_equal(r->outcome, SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN);
    assert_string_equal(r->type, "ext4");
    /* The allow list keeps it from everything else. */
    r = result_of(f->results, f->n_results, "/");
    assert_int_equal(r->outcome, SP__FREEZE_RESULT__OUTCOME__OUTCOME_FAILED);
    assert_int_equal(r->error, ECANCELED);
    assert_true(f->inventory->n_file_systems > 0);
    assert_true(f->window_started_boottime_us > 0);
    assert_true(mounts_frozen(mount_point));
    drop(m);

    m = status("status-1");
    assert_true(m->answer->status->freeze->frozen);
    assert_string_equal(m->answer->status->freeze->operation_id, "freeze-1");
    assert_true(m->answer->status->freeze->remaining_ms <= 15000);
    drop(m);
    m = freeze("freeze-2", 1000);
    assert_int_equal(m->answer->error, EBUSY);
    drop(m);
    m = thaw("thaw-0", "freeze-2");
    assert_int_equal(m->answer->error, ENOENT);
    drop(m);

    m = thaw("thaw-1", "freeze-1");
    assert_int_equal(m->answer->error, 0);
    const Sp__ThawAnswer *t = m->answer->thaw;
    assert_true(t->all_thawed_on_command);
    assert_string_equal(t->ended_by, "command");
    assert_true(t->window_us > 0);
    r = result_of(t->results, t->n_results, mount_point);
    assert_int_equal(r->outcome, SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN);
    assert_int_equal(r->thaw_error, 0);
    drop(m);
    assert_false(mounts_frozen(mount_point));

    /* The same operations again: the same answers, and nothing happens. */
    m = freeze("freeze-1", 15000);
    assert_int_equal(m->answer->error, 0);
    assert_int_equal(m->answer->freeze->lease_ms, 15000);
    drop(m);
    assert_false(mounts_frozen(mount_point));
    m = thaw("thaw-1", "freeze-1");
    assert_true(m->answer->thaw->all_thawed_on_command);
    drop(m);
}

static void a_lease_is_capped(void **state)
{
    (void)state;
    Sp__AgentMessage *m = freeze("long", 3600000);
    assert_int_equal(m->answer->freeze->lease_ms, 20000);
    drop(m);
    drop(thaw("long-thaw", "long"));
    assert_false(mounts_frozen(mount_point));
}

static void wrong_commands_are_refused(void **state)
{
    (void)state;
    Sp__Command c = command("stale");
    Sp__InventoryCommand i = SP__INVENTORY_COMMAND__INIT;
    c.kind_case = SP__COMMAND__KIND_INVENTORY;
    c.inventory = &i;
    c.fence = controller.fence - 1;
    controller_send(&controller, &c);
    Sp__AgentMessage *m = controller_answer(&controller, "stale");
    assert_int_equal(m->answer->error, ESTALE);
    drop(m);
    c = command("unknown");
    Sp__SendHeaderCommand h = SP__SEND_HEADER_COMMAND__INIT;
    c.kind_case = SP__COMMAND__KIND_SEND_HEADER;
    c.send_header = &h;
    controller_send(&controller, &c);
    m = controller_answer(&controller, "unknown");
    assert_int_equal(m->answer->error, EOPNOTSUPP);
    drop(m);
    c = command("inventory");
    c.kind_case = SP__COMMAND__KIND_INVENTORY;
    c.inventory = &i;
    controller_send(&controller, &c);
    m = controller_answer(&controller, "inventory");
    assert_int_equal(m->answer->error, 0);
    assert_int_equal(m->answer->inventory->digest.len, 32);
    drop(m);
}

static void the_deadline_ends_a_freeze_whose_controller_is_gone(void **state)
{
    (void)state;
    unsigned sessions = controller.sessions;
    Sp__AgentMessage *m = freeze("orphan", 1500);
    assert_int_equal(m->answer->error, 0);
    drop(m);
    controller_cut(&controller);
    mounts_wait_thawed(mount_point);
    controller_wait_sessions(&controller, sessions + 1);
    m = thaw("orphan-thaw", "orphan");
    assert_int_equal(m->answer->error, 0);
    assert_false(m->answer->thaw->all_thawed_on_command);
    assert_string_equal(m->answer->thaw->ended_by, "deadline");
    drop(m);
}

static void a_killed_agent_leaves_nothing_frozen(void **state)
{
    (void)state;
    Sp__AgentMessage *m = freeze("doomed", 20000);
    assert_true(mounts_frozen(mount_point));
    drop(m);
    kill(agent, SIGKILL);
    assert_int_equal(wait_exit(agent), -SIGKILL);
    mounts_wait_thawed(mount_point);
    start_agent();
    /* The new one knows nothing of that freeze: no claim can rest on it. */
    m = thaw("doomed-thaw", "doomed");
    assert_int_equal(m->answer->error, ENOENT);
    drop(m);
}

static void a_stopped_agent_waits_for_the_thaw(void **state)
{
    (void)state;
    drop(freeze("stopped", 20000));
    kill(agent, SIGTERM);
    /* It serves the freeze to its end, and nothing else. */
    Sp__AgentMessage *m = status("stopped-status");
    assert_true(m->answer->status->freeze->frozen);
    drop(m);
    Sp__Command c = command("stopped-inventory");
    Sp__InventoryCommand i = SP__INVENTORY_COMMAND__INIT;
    c.kind_case = SP__COMMAND__KIND_INVENTORY;
    c.inventory = &i;
    controller_send(&controller, &c);
    m = controller_answer(&controller, "stopped-inventory");
    assert_int_equal(m->answer->error, EBUSY);
    drop(m);
    assert_true(mounts_frozen(mount_point));
    m = thaw("stopped-thaw", "stopped");
    assert_true(m->answer->thaw->all_thawed_on_command);
    drop(m);
    assert_int_equal(wait_exit(agent), 0);
    assert_false(mounts_frozen(mount_point));
    start_agent();
}

static void a_stopped_agent_ends_with_the_lease_at_the_latest(void **state)
{
    (void)state;
    drop(freeze("stopped for good", 1000));
    kill(agent, SIGTERM);
    assert_int_equal(wait_exit(agent), 0);
    assert_false(mounts_frozen(mount_point));
    start_agent();
}

static void an_agent_that_is_stopped_twice_thaws_at_once(void **state)
{
    (void)state;
    drop(freeze("stopped twice", 20000));
    kill(agent, SIGTERM);
    drop(status("between the signals"));
    kill(agent, SIGTERM);
    assert_int_equal(wait_exit(agent), 0);
    assert_false(mounts_frozen(mount_point));
    start_agent();
}

static void a_freeze_by_hand_works_beside_a_running_agent(void **state)
{
    (void)state;
    assert_int_equal(wait_exit(spawn("freeze", (const char *[]){"--test", mount_point, NULL})), 0);
    assert_false(mounts_frozen(mount_point));
}

static void only_one_agent_runs(void **state)
{
    (void)state;
    assert_int_equal(wait_exit(spawn("run", (const char *[]){NULL})), 1);
}

static bool knows_the_fence(const struct controller *c)
{
    return c->call && c->welcomed_fence == c->fence;
}

static void an_older_controller_is_refused(void **state)
{
    (void)state;
    unsigned sessions = controller.sessions;
    controller.fence -= 5;
    controller_cut(&controller);
    controller_wait_sessions(&controller, sessions + 1); /* and dropped by the agent */
    controller_wait_sessions(&controller, sessions + 2);
    controller.fence += 6; /* one more session may have begun with the old one */
    controller_wait(&controller, knows_the_fence);
    drop(status("fence-status"));
}

static void a_quarantined_guest_runs_nothing(void **state)
{
    (void)state;
    unsigned sessions = controller.sessions;
    controller.quarantine = true;
    controller_cut(&controller);
    controller_wait_sessions(&controller, sessions + 1);
    drop(controller_expect(&controller, SP__AGENT_MESSAGE__KIND_HELLO));
    drop(controller_expect(&controller, SP__AGENT_MESSAGE__KIND_HEARTBEAT));
    Sp__AgentMessage *m = freeze("quarantined", 1000);
    assert_int_equal(m->answer->error, EPERM);
    drop(m);
    assert_false(mounts_frozen(mount_point));
    controller.quarantine = false;
    controller_cut(&controller);
    controller_wait_sessions(&controller, sessions + 2);
    m = status("released");
    assert_int_equal(m->answer->error, 0);
    drop(m);
}

static bool has_renewed(const struct controller *c)
{
    return c->renewals > 0 && c->call;
}

static void the_certificate_is_renewed_in_time(void **state)
{
    (void)state;
    controller.issue_from_s = -80000;
    controller.issue_to_s = 3600; /* past two thirds of its life */
    assert_int_equal(enrol(CONTROLLER_TOKEN, controller.fingerprint, "--again"), 0);
    controller.issue_from_s = -10;
    controller.issue_to_s = 86400;
    start_agent();
    long old = controller.peer_serial;
    unsigned sessions = controller.sessions;
    controller_wait(&controller, has_renewed);
    controller_wait_sessions(&controller, sessions + 1);
    assert_int_not_equal(controller.peer_serial, old);
    struct agent_identity identity;
    assert_int_equal(agent_identity_load(state_folder, &identity, NULL), 0);
    assert_true(identity.expires_ms > (uint64_t)time(NULL) * 1000 + 80000000);
    agent_identity_free(&identity);
    SP_FREE char *next = sp_format("%s/agent.pem.next", state_folder);
    assert_int_equal(access(next, F_OK), -1);
    stop_agent();
}

static int begin(void **state)
{
    (void)state;
    mount_point = mounts_make("data", "ext4", 32, NULL);
    controller_start(&controller);
    return 0;
}

static int end(void **state)
{
    (void)state;
    controller_stop(&controller);
    return 0;
}

#define WITH_AGENT(test) cmocka_unit_test_setup_teardown(test, with_agent, without_agent)

int main(void)
{
    int r = mounts_begin();
    if (r != 0)
        return r;
    snprintf(program, sizeof(program), "%s/agent/sealpoint-agent", getenv("SEALPOINT_BUILD"));
    snprintf(state_folder, sizeof(state_folder), "%s/state", mounts_folder);
    snprintf(runtime, sizeof(runtime), "%s/run", mounts_folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fingerprint_must_be_right),
        cmocka_unit_test(the_token_must_be_right),
        cmocka_unit_test(enrolment_waits_for_approval_and_stores_the_identity),
        WITH_AGENT(it_says_who_it_is_and_what_it_has),
        WITH_AGENT(a_new_mount_makes_a_new_inventory),
        WITH_AGENT(freeze_and_thaw),
        WITH_AGENT(a_lease_is_capped),
        WITH_AGENT(wrong_commands_are_refused),
        WITH_AGENT(the_deadline_ends_a_freeze_whose_controller_is_gone),
        WITH_AGENT(a_killed_agent_leaves_nothing_frozen),
        WITH_AGENT(a_stopped_agent_waits_for_the_thaw),
        WITH_AGENT(a_stopped_agent_ends_with_the_lease_at_the_latest),
        WITH_AGENT(an_agent_that_is_stopped_twice_thaws_at_once),
        WITH_AGENT(a_freeze_by_hand_works_beside_a_running_agent),
        WITH_AGENT(only_one_agent_runs),
        WITH_AGENT(an_older_controller_is_refused),
        WITH_AGENT(a_quarantined_guest_runs_nothing),
        cmocka_unit_test(the_certificate_is_renewed_in_time),
    };
    r = cmocka_run_group_tests(tests, begin, end);
    if (r != 0 && agent > 0)
        kill(agent, SIGKILL);
    mounts_end();
    return r;
}
