/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The QMP client against a server that misbehaves: every reply is untrusted. */
#include "controller/mover/source/qemu.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 1, \"minor\": 2, \"major\": 7}, "              \
    "\"package\": \"\"}, \"capabilities\": []}}\n"
#define OK(id) "{\"return\": {}, \"id\": " #id "}\n"

/* What the server says: the first text at once, one more for each line it gets, then it closes (or
 * stays silent). */
struct server {
    int fd;
    const char *const *says;
    bool silent_at_end;
    pthread_t thread;
};

static void *serve(void *self)
{
    struct server *s = self;
    char line[4096];
    for (size_t i = 0; s->says[i]; i++) {
        /* A client that has heard enough closes: that is no error here. */
        if (send(s->fd, s->says[i], strlen(s->says[i]), MSG_NOSIGNAL) < 0)
            break;
        if (s->says[i + 1] || s->silent_at_end) {
            if (recv(s->fd, line, sizeof line, 0) <= 0)
                break;
        }
    }
    if (s->silent_at_end) {
        while (recv(s->fd, line, sizeof line, 0) > 0)
            ;
    }
    close(s->fd);
    return NULL;
}

static int start(struct server *s, const char *const *says, bool silent_at_end)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    *s = (struct server){.fd = fds[1], .says = says, .silent_at_end = silent_at_end};
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    return fds[0];
}

static void join(struct server *s)
{
    pthread_join(s->thread, NULL);
}

static void a_bad_greeting_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *says, *why;
        int error;
    } cases[] = {
        {"SSH-2.0-OpenSSH_9\n", "not one JSON object", -EPROTO},
        {"[]\n", "not one JSON object", -EPROTO},
        {"{}\n", "no greeting", -EPROTO},
        {"{\"return\": {}}\n", "does not greet", -EPROTO},
        {"{\"QMP\": 7}\n", "no greeting", -EPROTO},
        {"{\"QMP\": {\"version\": {\"qemu\": {\"major\": \"7\"}}}}\n", "no version", -EPROTO},
        {"{\"QMP\": {\"version\": {\"qemu\": {\"major\": 99999}}}}\n", "no version", -EPROTO},
        {"{\"QMP\": {}} trailing\n", "not one JSON object", -EPROTO},
        {"{\"QMP\": {}}{\"QMP\": {}}\n", "not one JSON object", -EPROTO},
        {"{\"QMP\": {\"version\"", "closed", -ECONNRESET},
        {"", "closed", -ECONNRESET},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        const char *says[] = {cases[i].says, NULL};
        struct server s;
        struct qmp *q = NULL;
        struct sp_why why = {""};
        int fd = start(&s, says, false);
        assert_int_equal(qmp_open_fd(fd, 0, &q, &why), cases[i].error);
        if (!strstr(why.text, cases[i].why))
            fail_msg("case %zu: '%s'", i, why.text);
        join(&s);
    }
}

static void silence_is_explained(void **state)
{
    (void)state;
    const char *says[] = {"", NULL};
    struct server s;
    struct qmp *q = NULL;
    struct sp_why why = {""};
    int fd = start(&s, says, true);
    assert_int_equal(qmp_open_fd(fd, 50, &q, &why), -ETIMEDOUT);
    assert_non_null(strstr(why.text, "another program"));
    join(&s);
}

/* Opens against `says` and runs one command. */
static int run(const char *const *says, json_object **ret, struct sp_why *why)
{
    struct server s;
    QMP_CLOSE struct qmp *q = NULL;
    int fd = start(&s, says, false);
    int r = qmp_open_fd(fd, 0, &q, why);
    if (r)
        fail_msg("open: %s", why->text);
    r = qmp_call(q, "query-block", NULL, ret, why);
    if (r && r != -EREMOTEIO) { /* the connection is of no more use */
        assert_int_equal(qmp_call(q, "query-block", NULL, NULL, NULL), r);
    }
    qmp_close(sp_steal(q)); /* the server may still be sending */
    join(&s);
    return r;
}

static void a_bad_reply_ends_the_connection(void **state)
{
    (void)state;
    static const struct {
        const char *says, *why;
        int error;
    } cases[] = {
        {OK(3), "something else", -EPROTO},
        {"{\"return\": {}}\n", "something else", -EPROTO},
        {GREETING, "something else", -EPROTO},
        {"{\"return\": {}, \"id\": \"2\"}\n", "something else", -EPROTO},
        {"{\"return\": {}, \"id\": -2}\n", "something else", -EPROTO},
        {"{\"id\": 2}\n", "no greeting, reply or event", -EPROTO},
        {"{\"error\": \"x\", \"id\": 2}\n", "no greeting, reply or event", -EPROTO},
        {"{\"return\": [1, 2, \"id\": 2}\n", "not one JSON object", -EPROTO},
        {"\xff\xfe\n", "not one JSON object", -EPROTO},
        {"\n", "not one JSON object", -EPROTO},
        {"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such node\"}, \"id\": 2}\n",
         "refused 'query-block': no such node", -EREMOTEIO},
        {"{\"error\": {}, \"id\": 2}\n", "no reason given", -EREMOTEIO},
        {"{\"return\": {}", "closed", -ECONNRESET},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        const char *says[] = {GREETING, OK(1), cases[i].says, NULL};
        struct sp_why why = {""};
        int r = run(says, NULL, &why);
        if (r != cases[i].error || !strstr(why.text, cases[i].why))
            fail_msg("case %zu: %d '%s'", i, r, why.text);
    }
}

static void events_and_odd_cuts_do_no_harm(void **state)
{
    (void)state;
    const char *says[] = {
        GREETING "{\"event\": \"RESUME\"}\n", OK(1),
        "{\"event\": \"STOP\", \"data\": {}}\r\n{\"event\": \"X\"}\n {\"return\": [\"a\"], "
        "\"id\": 2} \r\n",
        NULL};
    struct sp_why why = {""};
    QMP_JSON json_object *value = NULL;
    assert_int_equal(run(says, &value, &why), 0);
    assert_int_equal(qmp_length(value), 1);
}

static void too_long_and_too_deep_are_refused(void **state)
{
    (void)state;
    SP_FREE char *huge = malloc(QMP_MAX_LINE + 200000);
    memset(huge, ' ', QMP_MAX_LINE + 200000);
    huge[QMP_MAX_LINE + 199999] = 0;
    SP_FREE char *deep = malloc(3000);
    snprintf(deep, 3000, "{\"id\": 2, \"return\": ");
    memset(deep + strlen(deep), '[', 2000);
    deep[2020] = 0;
    strcat(deep, "\n");
    const char *const lines[] = {huge, deep};
    for (size_t i = 0; i < SP_COUNT(lines); i++) {
        const char *says[] = {GREETING, OK(1), lines[i], NULL};
        struct sp_why why = {""};
        assert_int_equal(run(says, NULL, &why), -EPROTO);
        assert_non_null(strstr(why.text, i ? "not one JSON object" : "more than"));
    }
}

/* Answers of the wrong shape where disks are told: an error or no disks, never a guess. */
static void a_description_of_the_wrong_shape_names_no_disk(void **state)
{
    (void)state;
    static const char *const blocks[] = {
        "\"text\"",
        "7",
        "null",
        "{}",
        "[1, null, \"x\", {}, []]",
        "[{\"qdev\": 7}, {\"qdev\": \"\"}, {\"device\": \"d\", \"inserted\": []}]",
    };
    for (size_t i = 0; i < SP_COUNT(blocks); i++) {
        SP_FREE char *block = sp_format("{\"return\": %s, \"id\": 2}\n", blocks[i]);
        const char *says[] = {GREETING,
                              OK(1),
                              block,
                              "{\"return\": {}, \"id\": 3}\n",
                              "{\"return\": 1, \"id\": 4}\n",
                              "{\"return\": [[]], \"id\": 5}\n",
                              "{\"return\": \"x\", \"id\": 6}\n",
                              NULL};
        struct server s;
        struct qemu_disks disks;
        struct sp_why why = {""};
        QMP_CLOSE struct qmp *q = NULL;
        int fd = start(&s, says, false);
        assert_int_equal(qmp_open_fd(fd, 0, &q, &why), 0);
        int r = qemu_disks_load(q, false, &disks, &why);
        if (r || disks.count)
            fail_msg("case %zu: %d, %zu disks: %s", i, r, disks.count, why.text);
        qemu_disks_free(&disks);
        join(&s);
    }
}

static void names_are_short_and_carry_the_point(void **state)
{
    (void)state;
    char tag[QEMU_TAG], name[QEMU_NAME];
    qemu_tag("01234567-89ab-4def-8123-456789abcdef", tag);
    assert_string_equal(tag, "0123456789ab4def8123");
    qemu_name(name, 'c', tag, 255);
    assert_string_equal(name, "spc-0123456789ab4def8123-255");
    assert_in_range(strlen(name), 1, 31);
    assert_true(qemu_is_ours(name, 'c', tag));
    assert_true(qemu_is_ours(name, 0, NULL));
    assert_false(qemu_is_ours(name, 'a', tag));
    qemu_tag("not-a-uuid", tag);
    assert_int_equal(strlen(tag), 20);
    assert_false(qemu_is_ours(name, 'c', tag));
    assert_false(qemu_is_ours("spc-short-1", 'c', NULL));
    assert_false(qemu_is_ours("#block123", 0, NULL));
    assert_false(qemu_is_ours(NULL, 0, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bad_greeting_is_refused),
        cmocka_unit_test(silence_is_explained),
        cmocka_unit_test(a_bad_reply_ends_the_connection),
        cmocka_unit_test(events_and_odd_cuts_do_no_harm),
        cmocka_unit_test(too_long_and_too_deep_are_refused),
        cmocka_unit_test(a_description_of_the_wrong_shape_names_no_disk),
        cmocka_unit_test(names_are_short_and_carry_the_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
