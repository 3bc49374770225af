/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who may talk to whom: certificates, permissions, the client's pin, rotation. */
#include "base/cleanup.h"
#include "base/file.h"
#include "rig.h"
#include <errno.h>
#include <sealpoint/v1/admin.pb-c.h>
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/enrolment.pb-c.h>
#include <sealpoint/v1/fleet.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { LONG_MS = 60000 };

static int start(void **state)
{
    (void)state;
    rig_start(NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    rig_stop();
    return 0;
}

/* Calls a unary method with an empty request. */
static int call(struct rpc_channel *channel, const char *method, int *ret_status,
                struct sp_why *why)
{
    const struct rpc_method *row = sp_method(method);
    ProtobufCMessage *answer = NULL;
    ProtobufCMessage *q = calloc(1, row->request->sizeof_message);

    row->request->message_init(q);
    int rc = rpc_unary(channel, row, q, LONG_MS, &answer, ret_status, why);
    free(q);
    if (answer)
        protobuf_c_message_free_unpacked(answer, NULL);
    return rc;
}

static void expect(const char *stem, const char *method, int want_status)
{
    struct rpc_channel *channel = rig_channel(stem);
    struct sp_why why = {0};
    int status = -1;

    call(channel, method, &status, &why);
    if (status != want_status)
        fail_msg("%s as %s: %s, wanted %s (%s)", method, stem ? stem : "nobody",
                 rpc_status_name(status), rpc_status_name(want_status), why.text);
    if (want_status != RPC_OK)
        assert_true(why.text[0] != 0);
    rpc_channel_free(channel);
}

static void each_row_is_open_to_those_that_it_names(void **state)
{
    (void)state;
    expect(NULL, "Enrolment/Enrol", RPC_OK);
    expect(NULL, "Enrolment/Renew", RPC_UNAUTHENTICATED);
    expect(NULL, "Fleet/GetMachine", RPC_UNAUTHENTICATED);
    expect(NULL, "Admin/ListTokens", RPC_UNAUTHENTICATED);
    expect("agent", "Enrolment/Renew", RPC_OK);
    expect("agent", "Fleet/GetMachine", RPC_PERMISSION_DENIED);
    expect("agent", "Admin/ListTokens", RPC_PERMISSION_DENIED);
    expect("user", "Enrolment/Renew", RPC_OK);
    expect("user", "Fleet/GetMachine", RPC_OK);
    expect("user", "Admin/ListTokens", RPC_PERMISSION_DENIED);
    expect("admin", "Admin/ListTokens", RPC_OK);
    expect("controller", "Fleet/GetMachine", RPC_PERMISSION_DENIED);
    /* Refused calls never reached a handler. */
    latch_wait(&rig.closed, 5);
    assert_int_equal(latch_value(&rig.opened), 5);
}

static void remember_status(struct rpc_call *c, int status, const char *detail)
{
    (void)detail;
    *(int *)rpc_data(c) = status;
}

static void a_session_is_for_agents_only(void **state)
{
    static const char *const stems[] = {NULL, "user", "admin", "controller"};
    struct rpc_method row = *sp_method("AgentLink/Session");
    (void)state;

    row.closed = remember_status;
    for (size_t i = 0; i < SP_COUNT(stems); i++) {
        struct rpc_channel *channel = rig_channel(stems[i]);
        struct rpc_loop *loop = NULL;
        struct rpc_call *c = NULL;
        int status = -1;
        assert_int_equal(rpc_loop_new(&loop), 0);
        assert_int_equal(rpc_open(loop, channel, &row, LONG_MS, &status, &c), 0);
        rpc_unref(c);
        rpc_loop_free(loop);
        assert_int_equal(status, stems[i] ? RPC_PERMISSION_DENIED : RPC_UNAUTHENTICATED);
        rpc_channel_free(channel);
    }
    assert_int_equal(latch_value(&rig.opened), 0);
}

enum { ANONYMOUS = 64, NEVER_MS = 3600 * 1000 };

static void patient(struct rpc_server_options *o)
{
    o->handshake_timeout_ms = NEVER_MS;
}

static int start_patient(void **state)
{
    (void)state;
    rig_start(patient);
    return 0;
}

/* Callers without a certificate that open a call and say nothing. */
static void silent_strangers_are_few(void **state)
{
    struct rpc_method row = *sp_method("Enrolment/Enrol");
    Sp__EnrolRequest q = SP__ENROL_REQUEST__INIT;
    struct rpc_call *calls[ANONYMOUS];
    int statuses[ANONYMOUS];
    struct rpc_loop *loop = NULL;
    struct sp_why why = {0};
    (void)state;

    struct rpc_channel *channel = rig_channel(NULL), *user = rig_channel("user");
    row.closed = remember_status;
    assert_int_equal(rpc_loop_new(&loop), 0);
    for (unsigned i = 0; i < ANONYMOUS; i++)
        assert_int_equal(rpc_open(loop, channel, &row, 0, &statuses[i], &calls[i]), 0);
    assert_int_equal(rpc_loop_start(loop), 0);
    latch_wait(&rig.opened, ANONYMOUS);
    assert_int_equal(call(channel, "Enrolment/Enrol", NULL, &why), -ENOSPC);
    assert_string_equal(why.text, "too many callers without a certificate");
    assert_int_equal(call(user, "Fleet/GetMachine", NULL, &why), 0);
    /* One that speaks makes room. */
    assert_int_equal(rpc_send(calls[0], &q.base), 0);
    assert_int_equal(rpc_finish(calls[0], RPC_OK, NULL), 0);
    latch_wait(&rig.closed, 2);
    assert_int_equal(call(channel, "Enrolment/Enrol", NULL, &why), 0);
    for (unsigned i = 1; i < ANONYMOUS; i++)
        rpc_cancel(calls[i]);
    rpc_loop_free(loop);
    assert_int_equal(statuses[0], RPC_OK);
    for (unsigned i = 0; i < ANONYMOUS; i++)
        rpc_unref(calls[i]);
    rpc_channel_free(channel);
    rpc_channel_free(user);
}

static void a_silent_stranger_does_not_stay(void **state)
{
    struct rpc_method row = *sp_method("Enrolment/Enrol");
    struct rpc_loop *loop = NULL;
    struct rpc_call *c = NULL;
    int status = -1;
    (void)state;

    struct rpc_channel *channel = rig_channel(NULL);
    row.closed = remember_status;
    assert_int_equal(rpc_loop_new(&loop), 0);
    assert_int_equal(rpc_open(loop, channel, &row, 0, &status, &c), 0);
    rpc_unref(c);
    rpc_loop_free(loop); /* waits until the server has ended it */
    assert_int_equal(status, RPC_DEADLINE_EXCEEDED);
    rpc_channel_free(channel);
}

static void the_hook_refuses_with_its_own_sentence(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct sp_why why = {0};
    int status = -1;
    (void)state;

    rig.deny = -EKEYREJECTED;
    assert_int_equal(call(channel, "Fleet/GetMachine", &status, &why), -EKEYREJECTED);
    assert_int_equal(status, RPC_UNAUTHENTICATED);
    assert_string_equal(why.text, "user ada is revoked");
    rig.deny = -EACCES;
    assert_int_equal(call(channel, "Fleet/GetMachine", &status, &why), -EACCES);
    assert_int_equal(status, RPC_PERMISSION_DENIED);
    rpc_channel_free(channel);
}

static void certificates_that_do_not_count_get_nothing(void **state)
{
    struct pki other;
    struct sp_why why = {0};
    char *text;
    (void)state;

    pki_new(&other);
    pki_issue(&other, "user", "spiffe://test.example/user/ada", PKI_CLIENT);
    /* The rogue trusts our CA, so that only its own certificate is at fault. */
    SP_FREE char *trust = pki_path(&other, "trust", ".pem");
    text = pki_read(&rig.pki, "trust", ".pem");
    assert_int_equal(sp_file_replace(trust, text, strlen(text), 0644), 0);
    free(text);
    struct rpc_channel *channel = rig_channel_of(&other, "user", rig.target, "test.example", 0);
    assert_int_equal(call(channel, "Fleet/GetMachine", NULL, &why), -EHOSTUNREACH);
    assert_int_equal(call(channel, "Enrolment/Enrol", NULL, &why), -EHOSTUNREACH);
    rpc_channel_free(channel);

    pki_issue(&rig.pki, "old", "spiffe://test.example/user/ada", PKI_CLIENT | PKI_EXPIRED);
    channel = rig_channel("old");
    assert_int_equal(call(channel, "Fleet/GetMachine", NULL, &why), -EKEYREJECTED);
    assert_non_null(strstr(why.text, "expired on"));
    rpc_channel_free(channel);

    /* Our CA, but for servers only. */
    pki_issue(&rig.pki, "serveronly", "spiffe://test.example/user/ada", PKI_SERVER);
    channel = rig_channel("serveronly");
    assert_int_equal(call(channel, "Fleet/GetMachine", NULL, &why), -EHOSTUNREACH);
    rpc_channel_free(channel);

    /* Our CA, no identity. */
    pki_issue(&rig.pki, "nameless", NULL, PKI_CLIENT);
    channel = rig_channel("nameless");
    assert_int_equal(call(channel, "Fleet/GetMachine", NULL, &why), -EKEYREJECTED);
    assert_non_null(strstr(why.text, "names no identity"));
    assert_int_equal(call(channel, "Enrolment/Enrol", NULL, &why), 0);
    rpc_channel_free(channel);
    assert_int_equal(latch_value(&rig.opened), 1);
    pki_free(&other);
}

/* ---- whom a client talks to ---- */

static char *impostor_stem;

static void as_impostor(struct rpc_server_options *o)
{
    static char certificate[128], key[128];
    snprintf(certificate, sizeof certificate, "%s/%s.pem", rig.pki.folder, impostor_stem);
    snprintf(key, sizeof key, "%s/%s.key", rig.pki.folder, impostor_stem);
    pki_issue(&rig.pki, "dnsless", "spiffe://test.example/controller/one", PKI_SERVER);
    pki_issue(&rig.pki, "agentserver", "spiffe://test.example/agent/m-1",
              PKI_SERVER | PKI_CLIENT | PKI_NAMED);
    pki_issue(&rig.pki, "namedagent", "spiffe://test.example/agent/m-1", PKI_CLIENT | PKI_NAMED);
    pki_issue(&rig.pki, "foreign", "spiffe://other.example/controller/one", PKI_CONTROLLER);
    pki_issue(&rig.pki, "nobody", NULL, PKI_CONTROLLER);
    o->certificate_path = certificate;
    o->key_path = key;
}

/* Nothing is asked of a server with this certificate; what the person is told holds `says`. */
static void refuse_server(const char *stem, const char *domain, const char *says)
{
    struct sp_why why = {0};

    impostor_stem = (char *)stem;
    rig_start(as_impostor);
    struct rpc_channel *channel = rig_channel_of(&rig.pki, "user", rig.target, domain, 0);
    int rc = call(channel, "Fleet/GetMachine", NULL, &why);
    assert_true(rc == -EKEYREJECTED || rc == -EHOSTUNREACH);
    if (says)
        assert_int_equal(rc, -EKEYREJECTED);
    if (says && !strstr(why.text, says))
        fail_msg("'%s' does not say '%s'", why.text, says);
    rpc_channel_free(channel);
    channel = rig_channel_of(&rig.pki, NULL, rig.target, domain, 0);
    assert_true(call(channel, "Enrolment/Enrol", NULL, &why) < 0);
    assert_int_equal(latch_value(&rig.opened), 0);
    rpc_channel_free(channel);
    rig_stop();
}

static void a_client_talks_to_controllers_of_its_domain_only(void **state)
{
    struct sp_why why = {0};
    (void)state;

    refuse_server("agent", "test.example", NULL);      /* clientAuth only, as the CA gives them */
    refuse_server("namedagent", "test.example", NULL); /* the right DNS name, clientAuth only */
    refuse_server("agentserver", "test.example", "which is no controller");
    refuse_server("dnsless", "test.example", NULL);
    refuse_server("nobody", "test.example", "names no identity");
    refuse_server("foreign", "test.example", "not a controller of domain test.example");

    impostor_stem = (char *)"foreign";
    rig_start(as_impostor);
    struct rpc_channel *channel = rig_channel_of(&rig.pki, NULL, rig.target, NULL, 0);
    assert_int_equal(call(channel, "Enrolment/Enrol", NULL, &why), 0); /* any domain */
    rpc_channel_free(channel);
    rig_stop();
}

static void a_server_of_another_ca_is_refused(void **state)
{
    struct pki other;
    struct sp_why why = {0};
    (void)state;

    pki_new(&other);
    struct rpc_channel *channel = rig_channel_of(&other, NULL, rig.target, "test.example", 0);
    assert_int_equal(call(channel, "Enrolment/Enrol", NULL, &why), -EHOSTUNREACH);
    rpc_channel_free(channel);
    pki_free(&other);
    assert_int_equal(latch_value(&rig.opened), 0);
}

/* ---- rotation ---- */

struct held {
    unsigned events;
    int status;
};

static void count_event(struct rpc_call *c, const ProtobufCMessage *message)
{
    (void)message;
    ((struct held *)rpc_data(c))->events++;
}

static void held_closed(struct rpc_call *c, int status, const char *detail)
{
    (void)detail;
    ((struct held *)rpc_data(c))->status = status;
}

static void send_again(struct rpc_call *c, void *arg)
{
    Sp__FleetEvent event = SP__FLEET_EVENT__INIT;
    (void)arg;
    rpc_send(c, &event.base);
}

static void finish_ok(struct rpc_call *c, void *arg)
{
    (void)arg;
    rpc_finish(c, RPC_OK, NULL);
}

/* Copies STEM.SUFFIX over controller.SUFFIX. */
static void install(const struct pki *from, const char *stem, const char *suffix)
{
    SP_FREE char *text = pki_read(from, stem, suffix);
    SP_FREE char *to = pki_path(&rig.pki, "controller", suffix);
    assert_int_equal(sp_file_replace(to, text, strlen(text), 0600), 0);
}

static int try(const char *stem, struct sp_why *why)
{
    struct rpc_channel *channel = rig_channel(stem);
    int rc = call(channel, "Fleet/GetMachine", NULL, why);
    rpc_channel_free(channel);
    return rc;
}

static void a_new_certificate_is_taken_up_while_serving(void **state)
{
    struct rpc_channel *channel = rig_channel("user");
    struct rpc_method row = *sp_method("Fleet/Watch");
    Sp__WatchRequest q = SP__WATCH_REQUEST__INIT;
    struct held held = {.status = -1};
    struct rpc_loop *loop = NULL;
    struct rpc_call *c = NULL;
    struct sp_why why = {0};
    (void)state;

    q.machine = (char *)"hold";
    row.message = count_event;
    row.closed = held_closed;
    assert_int_equal(rpc_loop_new(&loop), 0);
    assert_int_equal(rpc_loop_start(loop), 0);
    assert_int_equal(rpc_open(loop, channel, &row, 0, &held, &c), 0);
    assert_int_equal(rpc_send(c, &q.base), 0);
    latch_wait(&rig.held, 1);

    /* The new certificate names no controller, so that a client can tell which one serves. */
    pki_issue(&rig.pki, "next", "spiffe://test.example/user/next", PKI_CONTROLLER);
    install(&rig.pki, "next", ".key"); /* mid-rotation: key and certificate do not match */
    assert_int_equal(try("user", &why), 0);
    install(&rig.pki, "next", ".pem");
    assert_int_equal(try("user", &why), -EKEYREJECTED);
    assert_non_null(strstr(why.text, "user/next"));

    /* Nonsense in the file: the last good one goes on. */
    SP_FREE char *path = pki_path(&rig.pki, "controller", ".pem");
    assert_int_equal(sp_file_replace(path, "x", 1, 0644), 0);
    assert_int_equal(try("user", &why), -EKEYREJECTED);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(try("user", &why), -EKEYREJECTED);
    pki_issue(&rig.pki, "controller", "spiffe://test.example/controller/one", PKI_CONTROLLER);
    assert_int_equal(try("user", &why), 0);

    /* The stream that was open before lives on. */
    rpc_server_for_each(rig.server, send_again, NULL);
    rpc_server_for_each(rig.server, finish_ok, NULL);
    rpc_unref(c);
    rpc_loop_free(loop);
    assert_int_equal(held.events, 2);
    assert_int_equal(held.status, RPC_OK);
    rpc_channel_free(channel);
}

/* A trust bundle is a list: a second CA comes in, the first one goes. */
static void the_trust_bundle_is_taken_up_while_serving(void **state)
{
    struct pki next;
    struct sp_why why = {0};
    (void)state;

    pki_new(&next);
    pki_issue(&next, "user", "spiffe://test.example/user/ada", PKI_CLIENT);
    SP_FREE char *old_ca = pki_read(&rig.pki, "trust", ".pem");
    SP_FREE char *new_ca = pki_read(&next, "trust", ".pem");
    SP_FREE char *both = sp_format("%s%s", old_ca, new_ca);
    SP_FREE char *client_trust = pki_path(&next, "trust", ".pem");
    SP_FREE char *server_trust = pki_path(&rig.pki, "trust", ".pem");
    assert_int_equal(sp_file_replace(client_trust, both, strlen(both), 0644), 0);

    struct rpc_channel *channel = rig_channel_of(&next, "user", rig.target, "test.example", 0);
    assert_int_equal(call(channel, "Fleet/GetMachine", NULL, &why), -EHOSTUNREACH);
    rpc_channel_free(channel);
    assert_int_equal(sp_file_replace(server_trust, both, strlen(both), 0644), 0);
    channel = rig_channel_of(&next, "user", rig.target, "test.example", 0);
    assert_int_equal(call(channel, "Fleet/GetMachine", NULL, &why), 0);
    rpc_channel_free(channel);
    assert_int_equal(try("user", &why), 0);
    pki_free(&next);
}

/* ---- what a server refuses to start with ---- */

static void a_server_names_what_it_cannot_start_with(void **state)
{
    SP_FREE char *certificate = pki_path(&rig.pki, "controller", ".pem");
    SP_FREE char *key = pki_path(&rig.pki, "controller", ".key");
    SP_FREE char *trust = pki_path(&rig.pki, "trust", ".pem");
    SP_FREE char *other_key = pki_path(&rig.pki, "user", ".key");
    struct rpc_method rows[] = {*sp_method("Enrolment/Enrol"), {0}};
    struct rpc_method users[] = {*sp_method("Fleet/GetMachine"), {0}};
    const struct rpc_method *const tables[] = {rows, NULL};
    const struct rpc_method *const user_tables[] = {users, NULL};
    struct rpc_server_options o = {.address = "127.0.0.1:0",
                                   .certificate_path = certificate,
                                   .key_path = key,
                                   .trust_path = trust};
    struct rpc_server *server = NULL;
    struct sp_why why = {0};
    (void)state;

    o.address = rig.target; /* the rig listens there */
    assert_int_equal(rpc_server_new(&o, tables, &server, NULL, &why), -EADDRINUSE);
    assert_non_null(strstr(why.text, rig.target));
    o.address = "127.0.0.1:0";
    o.key_path = other_key;
    assert_int_equal(rpc_server_new(&o, tables, &server, NULL, &why), -EINVAL);
    assert_non_null(strstr(why.text, "is not the one of the certificate"));
    o.key_path = "/nonexistent/key";
    assert_int_equal(rpc_server_new(&o, tables, &server, NULL, &why), -ENOENT);
    assert_non_null(strstr(why.text, "/nonexistent/key"));
    o.key_path = key;
    o.expected_connections = 2000000000;
    assert_int_equal(rpc_server_new(&o, tables, &server, NULL, &why), -EMFILE);
    assert_non_null(strstr(why.text, "RLIMIT_NOFILE"));
    o.expected_connections = 0;
    assert_int_equal(rpc_server_new(&o, user_tables, &server, NULL, &why), -EINVAL);
    assert_non_null(strstr(why.text, "needs a role"));
    rows[0].permission = 0;
    assert_int_equal(rpc_server_new(&o, tables, &server, NULL, &why), -EINVAL);
    assert_non_null(strstr(why.text, "has no permission"));
    o.descriptors_path = trust;
    rows[0].permission = RPC_ANYONE;
    assert_int_equal(rpc_server_new(&o, tables, &server, NULL, &why), -EBADMSG);
    assert_null(server);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(each_row_is_open_to_those_that_it_names),
        WITH(a_session_is_for_agents_only),
        cmocka_unit_test_setup_teardown(silent_strangers_are_few, start_patient, stop),
        WITH(a_silent_stranger_does_not_stay),
        WITH(the_hook_refuses_with_its_own_sentence),
        WITH(certificates_that_do_not_count_get_nothing),
        cmocka_unit_test(a_client_talks_to_controllers_of_its_domain_only),
        WITH(a_server_of_another_ca_is_refused),
        WITH(a_new_certificate_is_taken_up_while_serving),
        WITH(the_trust_bundle_is_taken_up_while_serving),
        WITH(a_server_names_what_it_cannot_start_with),
    };
    rpc_setup();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rpc_teardown();
    return failed;
}
