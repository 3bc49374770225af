/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/identity.h"
#include "rpc/methods.h"
#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { WAIT_S = 60 };
#define MACHINE "00000000-0000-4000-8000-00000000000a"

static struct controller *self_of(struct rpc_call *call)
{
    return rpc_server_context(call);
}

/* ---- certificates ---- */

static void extend(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    X509_add_ext(certificate, e, -1);
    X509_EXTENSION_free(e);
}

/* PEM of a new certificate for the CSR's key. free(). */
static char *issue(struct controller *c, ProtobufCBinaryData csr)
{
    static long serial = 1000;
    const unsigned char *at = csr.data;
    X509_REQ *request = d2i_X509_REQ(NULL, &at, (long)csr.len);
    if (!request)
        return NULL;
    X509 *x = X509_new();
    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(x), c->issue_from_s);
    X509_gmtime_adj(X509_getm_notAfter(x), c->issue_to_s);
    X509_set_issuer_name(x, X509_get_subject_name(c->pki.ca));
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               (const unsigned char *)"agent", -1, -1, 0);
    X509_set_pubkey(x, X509_REQ_get0_pubkey(request));
    extend(x, c->pki.ca, NID_basic_constraints, "critical,CA:FALSE");
    extend(x, c->pki.ca, NID_ext_key_usage, "clientAuth");
    extend(x, c->pki.ca, NID_subject_alt_name, "URI:spiffe://" CONTROLLER_DOMAIN "/agent/" MACHINE);
    X509_sign(x, c->pki.key, EVP_sha256());
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, x);
    char *text, *copy;
    long size = BIO_get_mem_data(bio, &text);
    copy = strndup(text, (size_t)size);
    BIO_free(bio);
    X509_free(x);
    X509_REQ_free(request);
    return copy;
}

static ProtobufCBinaryData bytes_of(char *text)
{
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)text};
}

/* ---- enrolment ---- */

static bool proof_is_right(const Sp__EnrolRequest *m)
{
    char id[37];
    SP_SECRET struct sp_secret *secret = NULL;
    uint8_t proof[32];
    return sp_token_parse(CONTROLLER_TOKEN, strlen(CONTROLLER_TOKEN), id, &secret) == 0 &&
           strcmp(id, m->token_id) == 0 && m->encryption_key.len == 32 &&
           m->token_proof.len == 32 &&
           sp_enrol_proof(secret, m->csr.data, m->csr.len, m->encryption_key.data, proof) == 0 &&
           memcmp(proof, m->token_proof.data, 32) == 0;
}

static void enrol(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct controller *c = self_of(call);
    const Sp__EnrolRequest *m = (const Sp__EnrolRequest *)message;
    Sp__EnrolResponse response = SP__ENROL_RESPONSE__INIT;
    char machine[] = MACHINE;
    pthread_mutex_lock(&c->lock);
    bool right = proof_is_right(m);
    c->enrolments++;
    c->wrong_proofs += right ? 0 : 1;
    response.pending = right && c->pending > 0;
    if (c->pending)
        c->pending--;
    SP_FREE char *chain = right && !response.pending ? issue(c, m->csr) : NULL;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    SP_FREE char *trust = pki_read(&c->pki, "trust", ".pem");
    if (!right) {
        struct sp_why why = {"the token's proof is wrong"};
        rpc_fail(call, -EKEYREJECTED, &why);
        return;
    }
    response.machine_id = machine;
    if (chain) {
        response.certificate_chain = bytes_of(chain);
        response.trust_bundle = bytes_of(trust);
    }
    rpc_reply(call, &response.base);
}

static void renew(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct controller *c = self_of(call);
    const Sp__RenewRequest *m = (const Sp__RenewRequest *)message;
    Sp__RenewResponse response = SP__RENEW_RESPONSE__INIT;
    pthread_mutex_lock(&c->lock);
    c->renewals++;
    SP_FREE char *chain = issue(c, m->csr);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    SP_FREE char *trust = pki_read(&c->pki, "trust", ".pem");
    response.certificate_chain = bytes_of(chain);
    response.trust_bundle = bytes_of(trust);
    rpc_reply(call, &response.base);
}

/* ---- session ---- */

static long serial_of(struct rpc_call *call)
{
    struct sp_bytes der = rpc_peer_certificate(call);
    const unsigned char *at = der.data;
    X509 *x = d2i_X509(NULL, &at, (long)der.size);
    long serial = x ? ASN1_INTEGER_get(X509_get_serialNumber(x)) : 0;
    X509_free(x);
    return serial;
}

static void welcome(struct controller *c, struct rpc_call *call)
{
    Sp__ControllerMessage message = SP__CONTROLLER_MESSAGE__INIT;
    Sp__Welcome w = SP__WELCOME__INIT;
    char name[] = "test", reason[] = "a second guest has this identity";
    message.kind_case = SP__CONTROLLER_MESSAGE__KIND_WELCOME;
    message.welcome = &w;
    w.protocol = 1;
    w.fence = c->welcomed_fence = c->fence;
    w.heartbeat_ms = 1000;
    w.controller_name = name;
    w.quarantined = c->quarantine;
    if (c->quarantine)
        w.quarantine_reason = reason;
    rpc_send(call, &message.base);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct controller *c = self_of(call);
    const Sp__AgentMessage *m = (const Sp__AgentMessage *)message;
    pthread_mutex_lock(&c->lock);
    if (m->kind_case == SP__AGENT_MESSAGE__KIND_HELLO &&
        strcmp(m->hello->machine_id, rpc_peer(call)->name) == 0) {
        if (c->call)
            rpc_unref(c->call);
        rpc_ref(call);
        c->call = call;
        c->sessions++;
        c->peer_serial = serial_of(call);
        welcome(c, call);
    }
    struct message *kept = malloc(sizeof(*kept)), **last = &c->first;
    *kept = (struct message){.m = (Sp__AgentMessage *)sp_message_copy(message)};
    while (*last)
        last = &(*last)->next;
    *last = kept;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void on_closed(struct rpc_call *call, int status, const char *detail)
{
    struct controller *c = self_of(call);
    (void)status, (void)detail;
    pthread_mutex_lock(&c->lock);
    if (c->call == call) {
        rpc_unref(c->call);
        c->call = NULL;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
}

static int authorise(void *self, const struct rpc_call *call, struct sp_why *why)
{
    (void)self, (void)call, (void)why;
    return 0;
}

/* ---- life ---- */

void controller_start(struct controller *c)
{
    static struct rpc_method table[4];
    static const struct rpc_method *const tables[] = {table, NULL};
    table[0] = rpc_bind("AgentLink/Session", NULL, on_message, NULL, on_closed);
    table[1] = rpc_bind("Enrolment/Enrol", NULL, enrol, NULL, NULL);
    table[2] = rpc_bind("Enrolment/Renew", NULL, renew, NULL, NULL);
    memset(c, 0, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->issue_from_s = -10;
    c->issue_to_s = 86400;
    c->fence = 10;
    rpc_setup();
    pki_new(&c->pki);
    pki_issue(&c->pki, "controller", "spiffe://" CONTROLLER_DOMAIN "/controller/one",
              PKI_CONTROLLER);
    /* The chain brings its CA, so that an agent that knows the fingerprint finds it. */
    SP_FREE char *leaf = pki_read(&c->pki, "controller", ".pem");
    SP_FREE char *ca = pki_read(&c->pki, "trust", ".pem");
    SP_FREE char *chain = sp_format("%s%s", leaf, ca);
    SP_FREE char *chain_path = pki_path(&c->pki, "controller", ".pem");
    SP_FREE char *key_path = pki_path(&c->pki, "controller", ".key");
    SP_FREE char *trust_path = pki_path(&c->pki, "trust", ".pem");
    assert_int_equal(sp_file_replace(chain_path, chain, strlen(chain), 0644), 0);
    sp_certificate_fingerprint(c->pki.ca, c->fingerprint);
    struct rpc_server_options options = {.address = "127.0.0.1:0",
                                         .certificate_path = chain_path,
                                         .key_path = key_path,
                                         .trust_path = trust_path,
                                         .authorise = authorise,
                                         .self = c};
    struct sp_why why = {0};
    if (rpc_server_new(&options, tables, &c->server, &c->port, &why) < 0)
        fail_msg("%s", why.text);
    snprintf(c->address, sizeof(c->address), "127.0.0.1:%d", c->port);
}

void controller_stop(struct controller *c)
{
    rpc_server_stop(c->server, 1000);
    if (c->call)
        rpc_unref(c->call);
    rpc_server_free(c->server);
    for (struct message *at = c->first, *next; at; at = next) {
        next = at->next;
        sp__agent_message__free_unpacked(at->m, NULL);
        free(at);
    }
    pki_free(&c->pki);
    rpc_teardown();
}

/* ---- what tests wait for ---- */

/* One end for a whole wait: heartbeats are changes too, and must not begin the minute anew. */
static struct timespec wait_end(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    return until;
}

static void wait_for_change(struct controller *c, const struct timespec *until, const char *what)
{
    if (pthread_cond_timedwait(&c->changed, &c->lock, until) == ETIMEDOUT) {
        pthread_mutex_unlock(&c->lock);
        fail_msg("waited in vain for %s", what);
    }
}

static Sp__AgentMessage *take(struct controller *c, Sp__AgentMessage__KindCase kind,
                              const char *operation_id)
{
    struct timespec until = wait_end();
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (c->first) {
            struct message *first = c->first;
            Sp__AgentMessage *m = first->m;
            c->first = first->next;
            free(first);
            if (m->kind_case == kind &&
                (!operation_id || strcmp(m->answer->operation_id, operation_id) == 0)) {
                pthread_mutex_unlock(&c->lock);
                return m;
            }
            sp__agent_message__free_unpacked(m, NULL);
        }
        wait_for_change(c, &until, operation_id ? operation_id : "a message");
    }
}

Sp__AgentMessage *controller_expect(struct controller *c, Sp__AgentMessage__KindCase kind)
{
    return take(c, kind, NULL);
}

Sp__AgentMessage *controller_answer(struct controller *c, const char *operation_id)
{
    return take(c, SP__AGENT_MESSAGE__KIND_ANSWER, operation_id);
}

void controller_wait(struct controller *c, bool (*holds)(const struct controller *))
{
    struct timespec until = wait_end();
    pthread_mutex_lock(&c->lock);
    while (!holds(c))
        wait_for_change(c, &until, "the controller's state");
    pthread_mutex_unlock(&c->lock);
}

void controller_wait_sessions(struct controller *c, unsigned count)
{
    struct timespec until = wait_end();
    pthread_mutex_lock(&c->lock);
    while (c->sessions < count || !c->call)
        wait_for_change(c, &until, "a session");
    pthread_mutex_unlock(&c->lock);
}

void controller_send(struct controller *c, const Sp__Command *command)
{
    Sp__ControllerMessage message = SP__CONTROLLER_MESSAGE__INIT;
    message.kind_case = SP__CONTROLLER_MESSAGE__KIND_COMMAND;
    message.command = (Sp__Command *)(uintptr_t)command;
    pthread_mutex_lock(&c->lock);
    int r = c->call ? rpc_send(c->call, &message.base) : -ENOTCONN;
    pthread_mutex_unlock(&c->lock);
    assert_int_equal(r, 0);
}

void controller_cut(struct controller *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->call)
        rpc_cancel(c->call);
    pthread_mutex_unlock(&c->lock);
}
