/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A peer that is there and does not answer: a stopped process, as a paused guest is. Each side must
 * notice by keepalive alone. The program runs itself as the other process. */
#include "base/cleanup.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <sealpoint/v1/agent_link.pb-c.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEEPALIVE_MS = 1000, SHORT_MS = 3000, PATIENT_MS = 60000 };

extern char **environ;

struct session {
    struct rpc_channel *channel;
    struct rpc_loop *loop;
    struct rpc_call *call;
    struct latch welcomed, closed;
    int status;
};

static void on_message(struct rpc_call *c, const ProtobufCMessage *message)
{
    (void)message;
    latch_raise(&((struct session *)rpc_data(c))->welcomed);
}

static void on_closed(struct rpc_call *c, int status, const char *detail)
{
    struct session *s = rpc_data(c);
    (void)detail;
    s->status = status;
    latch_raise(&s->closed);
}

static char *read_file(const char *folder, const char *name)
{
    struct pki at = {0};
    snprintf(at.folder, sizeof at.folder, "%s", folder);
    return pki_read(&at, name, "");
}

/* A session of agent m-1 that has got its Welcome. */
static void session_open(struct session *s, const char *target, const char *folder,
                         unsigned keepalive_timeout_ms)
{
    static struct rpc_method row;
    SP_FREE char *trust = read_file(folder, "trust.pem");
    SP_FREE char *certificate = read_file(folder, "agent.pem");
    SP_FREE char *key = read_file(folder, "agent.key");
    struct rpc_channel_options o = {.target = target,
                                    .trust_pem = trust,
                                    .certificate_pem = certificate,
                                    .key_pem = key,
                                    .keepalive_ms = KEEPALIVE_MS,
                                    .keepalive_timeout_ms = keepalive_timeout_ms};
    Sp__AgentMessage m = SP__AGENT_MESSAGE__INIT;
    Sp__Hello hello = SP__HELLO__INIT;

    *s = (struct session){.welcomed = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0},
                          .closed = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}};
    row = *sp_method("AgentLink/Session");
    row.message = on_message;
    row.closed = on_closed;
    m.kind_case = SP__AGENT_MESSAGE__KIND_HELLO;
    m.hello = &hello;
    if (rpc_channel_new(&o, &s->channel, NULL) < 0 || rpc_loop_new(&s->loop) < 0 ||
        rpc_loop_start(s->loop) < 0 || rpc_open(s->loop, s->channel, &row, 0, s, &s->call) < 0 ||
        rpc_send(s->call, &m.base) < 0)
        abort();
    latch_wait(&s->welcomed, 1);
}

static void session_close(struct session *s)
{
    rpc_unref(s->call);
    rpc_loop_free(s->loop);
    rpc_channel_free(s->channel);
}

static void with_keepalive(struct rpc_server_options *o)
{
    o->keepalive_ms = KEEPALIVE_MS;
    o->keepalive_timeout_ms = SHORT_MS;
}

static void with_patience(struct rpc_server_options *o)
{
    o->keepalive_ms = KEEPALIVE_MS;
    o->keepalive_timeout_ms = PATIENT_MS;
}

/* ---- the other process ---- */

/* Waits until standard input ends. */
static void wait_for_end(void)
{
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
}

static int be_server(void)
{
    rig_start(with_keepalive);
    printf("%s %s\n", rig.target, rig.pki.folder);
    fflush(stdout);
    wait_for_end();
    rig_stop();
    return 0;
}

static int be_client(const char *target, const char *folder)
{
    struct session s;
    session_open(&s, target, folder, SHORT_MS);
    printf("welcome\n");
    fflush(stdout);
    wait_for_end();
    rpc_cancel(s.call);
    session_close(&s);
    return 0;
}

struct other {
    pid_t pid;
    FILE *in, *out;
};

static void other_start(struct other *o, const char *const *arguments)
{
    posix_spawn_file_actions_t actions;
    int to[2], from[2];

    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, from[1], STDOUT_FILENO);
    assert_int_equal(
        posix_spawn(&o->pid, "/proc/self/exe", &actions, NULL, (char *const *)arguments, environ),
        0);
    posix_spawn_file_actions_destroy(&actions);
    close(to[0]);
    close(from[1]);
    o->in = fdopen(to[1], "w");
    o->out = fdopen(from[0], "r");
}

static void other_end(struct other *o)
{
    int status;
    kill(o->pid, SIGCONT);
    fclose(o->in);
    assert_int_equal(waitpid(o->pid, &status, 0), o->pid);
    assert_int_equal(status, 0);
    fclose(o->out);
}

/* ---- the tests ---- */

static void a_client_notices_a_stopped_server(void **state)
{
    struct other server;
    struct session s;
    char target[64], folder[64];
    (void)state;

    other_start(&server, (const char *const[]){"test", "server", NULL});
    assert_int_equal(fscanf(server.out, "%63s %63s", target, folder), 2);
    session_open(&s, target, folder, SHORT_MS);
    kill(server.pid, SIGSTOP);
    latch_wait(&s.closed, 1);
    assert_int_equal(s.status, RPC_UNAVAILABLE);
    session_close(&s);
    other_end(&server);
}

static void a_server_notices_a_stopped_client(void **state)
{
    struct other client;
    char word[16];
    (void)state;

    rig_start(with_keepalive);
    other_start(&client, (const char *const[]){"test", "client", rig.target, rig.pki.folder, NULL});
    assert_int_equal(fscanf(client.out, "%15s", word), 1);
    assert_int_equal(latch_value(&rig.closed), 0);
    kill(client.pid, SIGSTOP);
    latch_wait(&rig.closed, 1);
    assert_int_equal(rig.closed_status, RPC_CANCELLED);
    other_end(&client);
    rig_stop();
}

/* Pings as often as both sides are told to do not count as abuse: the session outlives several. */
static void an_idle_session_stays_open(void **state)
{
    struct session s;
    struct timespec six_pings = {.tv_sec = 6 * KEEPALIVE_MS / 1000};
    (void)state;

    rig_start(with_patience);
    session_open(&s, rig.target, rig.pki.folder, PATIENT_MS);
    nanosleep(&six_pings, NULL);
    assert_int_equal(latch_value(&s.closed), 0);
    assert_int_equal(latch_value(&rig.closed), 0);
    rpc_finish(s.call, RPC_OK, NULL);
    latch_wait(&s.closed, 1);
    assert_int_equal(s.status, RPC_OK);
    session_close(&s);
    rig_stop();
}

/* The same channel finds the server again after it was restarted on its port. */
static void a_channel_outlives_a_restart(void **state)
{
    char target[64];
    int status = -1;
    struct sp_why why = {0};
    (void)state;

    rig_start(NULL);
    struct rpc_channel *channel = rig_channel("user");
    assert_int_equal(rig_ask(channel, "m", 60000, NULL, NULL, &why), 0);
    snprintf(target, sizeof target, "%s", rig.target);
    rig_restart();
    assert_string_equal(target, rig.target);
    /* The first call may still meet the end of the old connection. */
    int rc = -EHOSTUNREACH;
    for (int i = 0; i < 60 && rc == -EHOSTUNREACH; i++) {
        rc = rig_ask(channel, "m", 60000, NULL, &status, &why);
        if (rc < 0)
            nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
    assert_int_equal(rc, 0);
    rpc_channel_free(channel);
    rig_stop();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_notices_a_stopped_server),
        cmocka_unit_test(a_server_notices_a_stopped_client),
        cmocka_unit_test(an_idle_session_stays_open),
        cmocka_unit_test(a_channel_outlives_a_restart),
    };
    int rc;

    signal(SIGPIPE, SIG_IGN);
    rpc_setup();
    if (argc == 2 && strcmp(argv[1], "server") == 0)
        rc = be_server();
    else if (argc == 4 && strcmp(argv[1], "client") == 0)
        rc = be_client(argv[2], argv[3]);
    else
        rc = cmocka_run_group_tests(tests, NULL, NULL);
    rpc_teardown();
    return rc;
}
