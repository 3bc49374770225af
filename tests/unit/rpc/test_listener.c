/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The process runs out of file descriptors: core's listener dies, and the server says so. In a
 * program of its own, since nothing brings the listener back. */
#include "rig.h"
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { DIALS = 64, LEFT = 16 };

static struct latch lost = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void on_lost(void *self)
{
    assert_ptr_equal(self, &rig);
    latch_raise(&lost);
}

static void with_hook(struct rpc_server_options *o)
{
    o->listener_lost = on_lost;
}

/* All sockets are made before the limit falls, so that only the server's side lacks descriptors. */
static void a_dead_listener_is_told(void **state)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit limit;
    int sockets[DIALS];
    (void)state;

    rig_start(with_hook);
    to.sin_port = htons((uint16_t)rig.port);
    for (int i = 0; i < DIALS; i++)
        assert_true((sockets[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = (rlim_t)sockets[DIALS - 1] + LEFT;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(latch_value(&lost), 0);
    for (int i = 0; i < DIALS; i++)
        connect(sockets[i], (struct sockaddr *)&to, sizeof to);
    latch_wait(&lost, 1);
    for (int i = 0; i < DIALS; i++)
        close(sockets[i]);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_dead_listener_is_told)};
    rpc_setup();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rpc_teardown();
    return failed;
}
