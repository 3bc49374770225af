/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/frame.h"
#include "test.h"
#include <fcntl.h>
#include <pthread.h>
#include <sealpoint/v1/types.pb-c.h>
#include <sys/socket.h>

static void pair(int s[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
}

static int receive(int s, Sp__Content **ret, int *fds, size_t capacity, size_t *count)
{
    return sp_frame_receive(s, &sp__content__descriptor, NULL, (ProtobufCMessage **)ret, fds,
                            capacity, count, 2000);
}

static void a_message_and_a_descriptor(void **state)
{
    (void)state;
    int s[2], fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pair(s);
    Sp__Content m = SP__CONTENT__INIT;
    m.uuid = (char[]){"u-1"};
    assert_int_equal(sp_frame_send(s[0], &m.base, &fd, 1, 2000), 0);
    Sp__Content *got = NULL;
    int fds[2];
    size_t count = 0;
    assert_int_equal(receive(s[1], &got, fds, 2, &count), 0);
    assert_string_equal(got->uuid, "u-1");
    assert_int_equal(count, 1);
    assert_int_equal(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
    close(fds[0]);
    sp__content__free_unpacked(got, NULL);
    close(fd);
    close(s[0]);
    assert_int_equal(receive(s[1], &got, fds, 2, &count), -EPIPE);
    close(s[1]);
}

static unsigned open_descriptors(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void descriptors_nobody_expects_break_it(void **state)
{
    (void)state;
    int s[2], fd = open("/dev/null", O_RDONLY | O_CLOEXEC), two[2] = {fd, fd};
    pair(s);
    unsigned before = open_descriptors();
    Sp__Content m = SP__CONTENT__INIT, *got = NULL;
    int fds[1];
    size_t count = 0;
    assert_int_equal(sp_frame_send(s[0], &m.base, two, 2, 2000), 0);
    assert_int_equal(receive(s[1], &got, fds, 1, &count), -EPROTO);
    assert_int_equal(open_descriptors(), before);
    close(fd);
    close(s[0]);
    close(s[1]);
}

static void lies_end_the_conversation(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[16];
        size_t size;
    } cases[] = {
        {{0xff, 0xff, 0xff, 0xff}, 4},          /* a length beyond all bounds */
        {{0x05, 0, 0, 0, 0x0a, 0x01}, 6},       /* the peer closes in the middle */
        {{0x02, 0, 0, 0, 0x0a, 0x7f}, 6},       /* a string longer than the message */
        {{0x03, 0, 0, 0, 0x9a, 0x06, 0x00}, 7}, /* field 99, which nobody knows */
        {{0x01, 0, 0}, 3},                      /* half a head */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int s[2];
        pair(s);
        assert_int_equal(sp_write_all(s[0], cases[i].bytes, cases[i].size), 0);
        close(s[0]);
        Sp__Content *got = NULL;
        assert_int_equal(receive(s[1], &got, NULL, 0, NULL), -EPROTO);
        assert_null(got);
        close(s[1]);
    }
}

static void unknown_fields_deep_down(void **state)
{
    (void)state;
    /* Volume.content (8) = Content with unknown field 99. */
    const uint8_t frame[] = {5, 0, 0, 0, 0x42, 3, 0x98, 0x06, 1};
    int s[2];
    pair(s);
    assert_int_equal(sp_write_all(s[0], frame, sizeof(frame)), 0);
    ProtobufCMessage *got = NULL;
    assert_int_equal(
        sp_frame_receive(s[1], &sp__volume__descriptor, NULL, &got, NULL, 0, NULL, 2000), -EPROTO);
    close(s[0]);
    close(s[1]);
}

static void a_silent_peer_is_given_up(void **state)
{
    (void)state;
    int s[2];
    pair(s);
    Sp__Content *got = NULL;
    assert_int_equal(sp_frame_receive(s[1], &sp__content__descriptor, NULL,
                                      (ProtobufCMessage **)&got, NULL, 0, NULL, 20),
                     -ETIMEDOUT);
    close(s[0]);
    close(s[1]);
}

static void one_listener_only(void **state)
{
    SP_FREE char *path = sp_format("%s/s", (char *)*state);
    int first = sp_unix_listen(path, 0600);
    assert_true(first >= 0);
    assert_int_equal(sp_unix_listen(path, 0600), -EADDRINUSE);
    uid_t uid = (uid_t)-1;
    pid_t pid = 0;
    SP_FD int c = sp_unix_connect(path);
    assert_true(c >= 0);
    assert_int_equal(sp_unix_peer(c, &uid, &pid), 0);
    assert_int_equal(uid, geteuid());
    assert_int_equal(pid, getpid());
    close(first); /* as a killed process leaves it */
    int second = sp_unix_listen(path, 0600);
    assert_true(second >= 0);
    close(second);
    SP_FREE char *file = sp_format("%s/f", (char *)*state);
    assert_int_equal(sp_file_replace(file, "x", 1, 0600), 0);
    assert_true(sp_unix_listen(file, 0600) < 0); /* never removes what is no socket */
    assert_int_equal(access(file, F_OK), 0);
    char longest[200];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[199] = 0;
    assert_int_equal(sp_unix_connect(longest), -ENAMETOOLONG);
}

/* ---- reads of a snapshot ---- */

static int read_pattern(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    (void)self;
    if (disk != 1)
        return -ENODEV;
    for (uint32_t i = 0; i < length; i++)
        ((uint8_t *)out)[i] = (uint8_t)((offset + i) * 7);
    return 0;
}

static void *serve(void *socket)
{
    return (void *)(intptr_t)sp_pread_serve(*(int *)socket, -1, read_pattern, NULL);
}

static void snapshot_bytes(void **state)
{
    (void)state;
    int s[2];
    pair(s);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, serve, &s[0]), 0);
    uint8_t out[5000];
    assert_int_equal(sp_pread_remote(s[1], 1, 3, out, sizeof(out)), 0);
    assert_int_equal(out[0], 21);
    assert_int_equal(out[4999], (uint8_t)(5002 * 7));
    assert_int_equal(sp_pread_remote(s[1], 0, 0, out, 10), -ENODEV);
    assert_int_equal(sp_pread_remote(s[1], 1, 0, out, SP_PREAD_MAX + 1), -EINVAL);
    assert_int_equal(sp_pread_remote(s[1], 1, 1, out, 1), 0); /* an error does not end it */
    close(s[1]);
    void *r;
    assert_int_equal(pthread_join(thread, &r), 0);
    assert_null(r);
    close(s[0]);
}

static void a_lying_asker_is_cut_off(void **state)
{
    (void)state;
    int s[2];
    pair(s);
    struct sp_pread_ask ask = {.disk = 1, .length = UINT32_MAX};
    assert_int_equal(sp_write_all(s[1], &ask, sizeof(ask)), 0);
    assert_int_equal(sp_pread_serve(s[0], -1, read_pattern, NULL), -EPROTO);
    int cancel[2];
    assert_int_equal(pipe(cancel), 0);
    close(cancel[1]);
    assert_int_equal(sp_pread_serve(s[0], cancel[0], read_pattern, NULL), -ECANCELED);
    close(cancel[0]);
    close(s[0]);
    close(s[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_and_a_descriptor),
        cmocka_unit_test(descriptors_nobody_expects_break_it),
        cmocka_unit_test(lies_end_the_conversation),
        cmocka_unit_test(unknown_fields_deep_down),
        cmocka_unit_test(a_silent_peer_is_given_up),
        cmocka_unit_test_setup_teardown(one_listener_only, test_folder_setup, test_folder_teardown),
        cmocka_unit_test(snapshot_bytes),
        cmocka_unit_test(a_lying_asker_is_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
