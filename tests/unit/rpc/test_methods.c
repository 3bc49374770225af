/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The method rows against the .proto files: each rpc has a row with its messages, its kind and the
 * permission that its comment names; and there are no others. */
#include "base/cleanup.h"
#include "base/file.h"
#include "rpc/methods.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *const files[] = {"enrolment", "agent_link", "backup", "keys", "fleet", "admin"};

static const struct {
    const char *word;
    enum rpc_permission permission;
} words[] = {{"viewer", RPC_VIEWER},
             {"operator", RPC_OPERATOR},
             {"admin", RPC_ADMIN},
             {"custodian", RPC_CUSTODIAN}};

/* Those whose comment is prose. */
static const struct {
    const char *name;
    enum rpc_permission permission;
} spelled_out[] = {{"Enrolment/Enrol", RPC_ANYONE},
                   {"Enrolment/Renew", RPC_ANY_IDENTITY},
                   {"AgentLink/Session", RPC_AGENT}};

static enum rpc_permission wanted(const char *name, const char *comment)
{
    for (size_t i = 0; i < SP_COUNT(spelled_out); i++)
        if (strcmp(spelled_out[i].name, name) == 0)
            return spelled_out[i].permission;
    for (size_t i = 0; comment && i < SP_COUNT(words); i++)
        if (strncmp(comment, words[i].word, strlen(words[i].word)) == 0)
            return words[i].permission;
    fail_msg("%s: its comment names no permission", name);
    return 0;
}

/* "stream Job" → "Job" */
static bool take_stream(char **type)
{
    bool stream = strncmp(*type, "stream ", 7) == 0;
    if (stream)
        *type += 7;
    return stream;
}

static void check_rpc(const char *service, const char *line)
{
    char method[64], in_text[80], out_text[80], name[140], path[160];
    char *in = in_text, *out = out_text;
    const char *comment = strstr(line, "// ");

    if (sscanf(line, " rpc %63[A-Za-z](%79[^)]) returns (%79[^)])", method, in, out) != 3)
        fail_msg("cannot read: %s", line);
    snprintf(name, sizeof name, "%s/%s", service, method);
    snprintf(path, sizeof path, "/sealpoint.v1.%s", name);
    const struct rpc_method *row = sp_method(name);
    if (!row)
        fail_msg("%s has no row", name);
    unsigned flags =
        (take_stream(&in) ? RPC_CLIENT_STREAM : 0u) | (take_stream(&out) ? RPC_SERVER_STREAM : 0u);
    assert_string_equal(row->path, path);
    assert_int_equal(row->flags, flags);
    assert_string_equal(strrchr(row->request->name, '.') + 1, in);
    assert_string_equal(strrchr(row->response->name, '.') + 1, out);
    assert_int_equal(row->permission, wanted(name, comment ? comment + 3 : NULL));
}

static unsigned check_file(const char *file)
{
    const char *source = getenv("SEALPOINT_SOURCE");
    SP_FREE char *path = sp_format("%s/proto/sealpoint/v1/%s.proto", source ? source : ".", file);
    SP_FREE char *text = NULL;
    char service[64] = "";
    unsigned count = 0;
    char *next;

    assert_int_equal(sp_file_read(path, 1 << 20, &text, NULL), 0);
    for (char *line = text; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        sscanf(line, "service %63[A-Za-z]", service);
        if (strncmp(line, "  rpc ", 6) == 0) {
            check_rpc(service, line);
            count++;
        }
    }
    return count;
}

static void every_rpc_has_a_row_as_its_proto_says(void **state)
{
    unsigned count = 0;
    (void)state;

    for (size_t i = 0; i < SP_COUNT(files); i++)
        count += check_file(files[i]);
    assert_true(count > 30);
}

static void a_name_without_a_row_is_null(void **state)
{
    (void)state;
    assert_null(sp_method("Fleet/Nothing"));
    assert_null(sp_method(""));
    assert_null(sp_method("/sealpoint.v1.Fleet/Watch"));
}

static void statuses_and_errnos_map_both_ways(void **state)
{
    static const int errors[] = {EINVAL,     EACCES,  EKEYREJECTED, ENOENT,       EEXIST,
                                 ETIMEDOUT,  ENOSPC,  ECANCELED,    EHOSTUNREACH, EBUSY,
                                 EOPNOTSUPP, EBADMSG, EIO,          ESTALE};
    (void)state;

    assert_int_equal(rpc_status_of_errno(0), RPC_OK);
    assert_int_equal(rpc_errno_of_status(RPC_OK), 0);
    for (size_t i = 0; i < SP_COUNT(errors); i++)
        assert_int_equal(rpc_errno_of_status(rpc_status_of_errno(-errors[i])), -errors[i]);
    assert_int_equal(rpc_status_of_errno(-EACCES), RPC_PERMISSION_DENIED);
    assert_int_equal(rpc_status_of_errno(-EKEYREJECTED), RPC_UNAUTHENTICATED);
    assert_int_equal(rpc_status_of_errno(-ELOOP), RPC_INTERNAL);
    for (int status = 1; status <= RPC_UNAUTHENTICATED; status++) {
        assert_true(rpc_errno_of_status(status) < 0);
        assert_string_not_equal(rpc_status_name(status), "OK");
    }
    assert_string_equal(rpc_status_name(RPC_UNAUTHENTICATED), "UNAUTHENTICATED");
    assert_string_equal(rpc_status_name(99), "UNKNOWN");
    assert_string_equal(rpc_status_name(-1), "UNKNOWN");
    assert_int_equal(rpc_errno_of_status(99), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rpc_has_a_row_as_its_proto_says),
        cmocka_unit_test(a_name_without_a_row_is_null),
        cmocka_unit_test(statuses_and_errnos_map_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
