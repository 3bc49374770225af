/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The socket: who may speak, how many, what happens to those who break the rules, how it ends. */
#include "process.h"

#include "base/frame.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct process process;

static int setup(void **state)
{
    *state = process_rig(&process);
    return 0;
}

static int teardown(void **state)
{
    process_rig_free(*state, &process);
    return 0;
}

static Sp__KeeperRequest status_request(void)
{
    static Sp__KeeperStatusRequest ask;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    sp__keeper_status_request__init(&ask);
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &ask;
    return request;
}

static void test_another_user_is_not_heard(void **state)
{
    (void)state;
    if (geteuid() != 0)
        fail_msg("run it as root: it speaks as another user");
    pid_t pid = fork();
    if (pid == 0) {
        struct keeper_client *c = NULL;
        Sp__KeeperResponse *answer = NULL;
        Sp__KeeperRequest request = status_request();
        if (setgid(65534) < 0 || setuid(65534) < 0)
            _exit(3);
        keeper_client_new(process.socket, &c);
        _exit(keeper_call(c, &request, -1, 5000, &answer, NULL) < 0 ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void test_the_state_is_for_the_keeper_alone(void **state)
{
    struct rig *r = *state;
    struct stat st;
    char path[120];
    assert_int_equal(stat(r->state, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    snprintf(path, sizeof(path), "%s/keystore.db", r->state);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    snprintf(path, sizeof(path), "%s/keystore.db-wal", r->state);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static bool is_closed(int fd)
{
    char byte;
    return recv(fd, &byte, 1, 0) <= 0;
}

static void test_who_breaks_the_rules_is_cut_off_and_the_rest_is_served(void **state)
{
    struct rig *r = *state;
    static const char *const garbage[] = {
        "\xff\xff\xff\xff....", "\x04\x00\x00\x00\xff\xff\xff\xff", "\x03\x00\x00\x00\xf8\x7f\x01"};
    static const size_t sizes[] = {8, 8, 7};
    for (size_t i = 0; i < SP_COUNT(garbage); i++) {
        SP_FD int fd = sp_unix_connect(process.socket);
        assert_true(fd >= 0);
        assert_int_equal(send(fd, garbage[i], sizes[i], MSG_NOSIGNAL), (ssize_t)sizes[i]);
        assert_true(is_closed(fd));
    }
    /* Half a frame, and then nothing: its thread waits, ours are served. */
    SP_FD int half = sp_unix_connect(process.socket);
    assert_int_equal(send(half, "\x10\x00", 2, MSG_NOSIGNAL), 2);
    Sp__KeeperRequest request = status_request();
    answer_free(rig_call(r, &request));
    /* A descriptor that nobody expects. */
    rig_refused_fd(r, &request, 0, EINVAL, "without");
    answer_free(rig_call(r, &request));
}

static void test_more_connections_than_threads_wait_their_turn(void **state)
{
    struct rig *r = *state;
    enum { MANY = 80 };
    int fds[MANY];
    for (int i = 0; i < MANY; i++) {
        fds[i] = sp_unix_connect(process.socket);
        assert_true(fds[i] >= 0);
    }
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    Sp__KeeperRequest request = status_request();
    answer_free(rig_call(r, &request));
}

static void *ask_often(void *self)
{
    struct rig *r = self;
    for (int i = 0; i < 50; i++) {
        Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
        Sp__KeeperStatusRequest ask = SP__KEEPER_STATUS_REQUEST__INIT;
        Sp__KeeperResponse *answer = NULL;
        request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
        request.status = &ask;
        if (keeper_call(r->client, &request, -1, 0, &answer, NULL) < 0)
            return (void *)1;
        answer_free(answer);
    }
    return NULL;
}

static void test_many_threads_share_a_client(void **state)
{
    pthread_t threads[8];
    for (size_t i = 0; i < SP_COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, *state), 0);
    for (size_t i = 0; i < SP_COUNT(threads); i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
}

static void test_ends_on_sigterm_and_the_client_finds_the_next_one(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = status_request();
    Sp__KeeperResponse *none = NULL;
    struct sp_why why = {""};
    import_key(r, MACHINE, VOLUME, "", "kept over a restart", NULL);
    assert_int_equal(process_end(&process, SIGTERM), 0);
    process.pid = 0;
    int e = keeper_call(r->client, &request, -1, 0, &none, &why);
    assert_true(e == -ENOENT || e == -ECONNREFUSED);
    assert_non_null(strstr(why.text, process.socket));
    process_start(r, &process);
    ANSWER a = rig_call(r, &request);
    assert_true(a->status->initialised);
    assert_false(process_left(r, "kept over a restart"));
}

static void test_a_silent_keeper_times_out(void **state)
{
    struct rig *r = *state;
    char path[120];
    struct keeper_client *c = NULL;
    Sp__KeeperResponse *none = NULL;
    Sp__KeeperRequest request = status_request();
    snprintf(path, sizeof(path), "%s/silent.sock", r->folder);
    SP_FD int listener = sp_unix_listen(path, 0600);
    assert_true(listener >= 0);
    assert_int_equal(keeper_client_new(path, &c), 0);
    assert_int_equal(keeper_call(c, &request, -1, 50, &none, NULL), -ETIMEDOUT);
    assert_int_equal(keeper_call_reading(c, &request, NULL, NULL, 50, &none, NULL), -ETIMEDOUT);
    keeper_client_free(c);
}

static void test_wrong_arguments(void **state)
{
    struct rig *r = *state;
    const char *const unknown[] = {"--no-such-option", NULL};
    const char *const half[] = {"--restore-kit", "/nonexistent", NULL};
    const char *const missing[] = {"--restore-kit", "/nonexistent", "--copy", "/nonexistent", NULL};
    const char *const setting[] = {"-o", "keeper.colour=blue", NULL};
    assert_int_equal(process_run(r, &process, unknown), 2);
    assert_int_equal(process_run(r, &process, half), 2);
    assert_int_equal(process_run(r, &process, missing), 1);
    assert_int_equal(process_run(r, &process, setting), 1);
    assert_int_equal(process_run(r, &process, NULL), 1); /* the state is in use */
    assert_true(process_left(r, "another keeper uses"));
}

#define TEST(f) cmocka_unit_test(f)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_another_user_is_not_heard),
        TEST(test_the_state_is_for_the_keeper_alone),
        TEST(test_who_breaks_the_rules_is_cut_off_and_the_rest_is_served),
        TEST(test_more_connections_than_threads_wait_their_turn),
        TEST(test_many_threads_share_a_client),
        TEST(test_a_silent_keeper_times_out),
        TEST(test_wrong_arguments),
        TEST(test_ends_on_sigterm_and_the_client_finds_the_next_one),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
