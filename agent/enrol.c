/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/enrol.h"
#include "agent/host.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "rpc/methods.h"
#include "rpc/rpc.h"
#include <errno.h>
#include <fcntl.h>
#include <sealpoint/v1/enrolment.pb-c.h>
#include <string.h>
#include <time.h>

enum { TOKEN_MOST = 4096, CALL_MS = 30000, FETCH_MS = 15000, ASK_AGAIN_S = 5 };

SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(channel, struct rpc_channel *, rpc_channel_free)

const char *agent_controller(const struct agent_config *config,
                             const struct agent_identity *identity)
{
    return config->controller[0] ? config->controller : identity->controller;
}

static int read_token(const char *path, char id[37], struct sp_secret **ret, struct sp_why *why)
{
    SP_SECRET struct sp_secret *text = NULL;
    int r = strcmp(path, "-") == 0 ? sp_secret_read(STDIN_FILENO, TOKEN_MOST, &text)
                                   : sp_secret_read_file(path, TOKEN_MOST, &text);
    if (r < 0)
        return sp_why_set(why, r, "cannot read the token file '%s'", path);
    r = sp_token_parse(sp_secret_data(text), sp_secret_size(text), id, ret);
    return r < 0 ? sp_why_set(why, r, "'%s' holds no enrolment token", path) : 0;
}

/* The text of a bytes field, which is PEM. To free(). */
static char *text_of(ProtobufCBinaryData field)
{
    char *text = malloc(field.len + 1);
    if (text) {
        memcpy(text, field.data, field.len);
        text[field.len] = 0;
    }
    return text;
}

/* Only what was checked by its fingerprint may say who the keeper is: no answer of the controller.
 */
static int pin_keeper(const struct agent_config *config, const char *ca_pem, struct sp_why *why)
{
    SP_FREE char *path = sp_format("%s/" AGENT_KEEPER_CA, config->state);
    int r = path ? sp_file_replace(path, ca_pem, strlen(ca_pem), 0644) : -ENOMEM;
    return r < 0 ? sp_why_set(why, r, "cannot write '%s'", path ? path : AGENT_KEEPER_CA) : 0;
}

static int store_response(const struct agent_config *config, const struct enrol_options *options,
                          EVP_PKEY *key, const char *ca_pem, const Sp__EnrolResponse *response,
                          struct sp_why *why)
{
    SP_FREE char *chain = text_of(response->certificate_chain);
    SP_FREE char *trust = text_of(response->trust_bundle);
    if (!chain || !trust)
        return -ENOMEM;
    struct sp_identity id;
    int r = agent_identity_check(key, chain, trust, &id, why);
    if (r == 0 && strcmp(id.name, response->machine_id) != 0)
        r = sp_why_set(why, -EKEYREJECTED, "the certificate names another machine than the answer");
    if (r == 0)
        r = pin_keeper(config, ca_pem, why);
    if (r == 0)
        r = agent_identity_store(config->state, options->again, options->controller, &id, chain,
                                 trust, why);
    if (r == 0)
        sp_log(SP_LOG_INFO, "enrolled", "machine", id.name, "domain", id.domain, "controller",
               options->controller, NULL);
    return r;
}

/* Asks until the answer is a certificate: a token may need an operator's approval. */
static int ask(const struct agent_config *config, const struct enrol_options *options,
               struct rpc_channel *channel, EVP_PKEY *key, const char *ca_pem,
               const Sp__EnrolRequest *request, struct sp_why *why)
{
    for (unsigned waited_s = 0;; waited_s += ASK_AGAIN_S) {
        ProtobufCMessage *reply = NULL;
        int r = rpc_unary(channel, sp_method("Enrolment/Enrol"), &request->base, CALL_MS, &reply,
                          NULL, why);
        if (r < 0)
            return r;
        const Sp__EnrolResponse *response = (const Sp__EnrolResponse *)reply;
        bool pending = response->pending;
        if (!pending)
            r = store_response(config, options, key, ca_pem, response, why);
        protobuf_c_message_free_unpacked(reply, NULL);
        if (!pending)
            return r;
        if (waited_s == 0)
            sp_log(SP_LOG_INFO,
                   "waiting for approval: 'sealpoint machine approve' on the "
                   "controller",
                   "machine", config->name, NULL);
        if (options->wait_s && waited_s + ASK_AGAIN_S > options->wait_s)
            return sp_why_set(why, -ETIMEDOUT,
                              "no operator has approved this machine yet: run the "
                              "same command again, it keeps its key");
        struct timespec pause = {.tv_sec = ASK_AGAIN_S};
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
}

static int enrol(const struct agent_config *config, const struct enrol_options *options,
                 struct sp_why *why)
{
    char token_id[37];
    SP_SECRET struct sp_secret *token = NULL;
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    SP_FREE char *ca = NULL;
    SP_FREE uint8_t *csr = NULL;
    size_t csr_size = 0;
    uint8_t box[32], proof[32];
    int r = read_token(options->token_file, token_id, &token, why);
    if (r == 0)
        r = sp_fetch_ca(options->controller, options->ca_fingerprint, FETCH_MS, &ca, why);
    if (r == 0)
        r = agent_identity_key(config->state, options->again, &key, why);
    if (r == 0)
        r = agent_identity_box(config->state, box, why);
    if (r == 0)
        r = sp_csr_make(key, config->name, &csr, &csr_size);
    if (r == 0)
        r = sp_enrol_proof(token, csr, csr_size, box, proof);
    if (r < 0)
        return r;
    struct host_facts host;
    host_read(&host);
    Sp__EnrolRequest request = SP__ENROL_REQUEST__INIT;
    request.token_id = token_id;
    request.csr = (ProtobufCBinaryData){.len = csr_size, .data = csr};
    request.encryption_key = (ProtobufCBinaryData){.len = sizeof(box), .data = box};
    request.machine_name = config->name;
    request.smbios_uuid = host.smbios_uuid;
    request.evidence_case = SP__ENROL_REQUEST__EVIDENCE_TOKEN_PROOF;
    request.token_proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
    request.agent_version = (char *)(uintptr_t)SEALPOINT_VERSION;
    SP_CLEANUP(channel) struct rpc_channel *channel = NULL;
    r = rpc_channel_new(
        &(struct rpc_channel_options){.target = options->controller, .trust_pem = ca}, &channel,
        why);
    return r == 0 ? ask(config, options, channel, key, ca, &request, why) : r;
}

int agent_enrol(const struct agent_config *config, const struct enrol_options *options,
                struct sp_why *why)
{
    SP_FREE char *path = sp_format("%s/identity", config->state);
    if (!path)
        return -ENOMEM;
    if (access(path, F_OK) == 0 && !options->again)
        return sp_why_set(why, -EEXIST,
                          "this guest is enrolled already ('%s'): --again replaces its identity",
                          path);
    rpc_setup();
    int r = enrol(config, options, why);
    rpc_teardown();
    return r;
}

/* ---- renewal ---- */

static int renew(const struct agent_config *config, const struct agent_identity *identity,
                 struct rpc_channel *channel, struct sp_why *why)
{
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    SP_FREE uint8_t *csr = NULL;
    size_t csr_size = 0;
    int r = agent_identity_begin_renewal(config->state, &key, why);
    if (r == 0)
        r = sp_csr_make(key, config->name, &csr, &csr_size);
    if (r < 0)
        return r;
    Sp__RenewRequest request = SP__RENEW_REQUEST__INIT;
    request.csr = (ProtobufCBinaryData){.len = csr_size, .data = csr};
    ProtobufCMessage *reply = NULL;
    r = rpc_unary(channel, sp_method("Enrolment/Renew"), &request.base, CALL_MS, &reply, NULL, why);
    if (r < 0)
        return r;
    const Sp__RenewResponse *response = (const Sp__RenewResponse *)reply;
    SP_FREE char *chain = text_of(response->certificate_chain);
    SP_FREE char *trust = text_of(response->trust_bundle);
    protobuf_c_message_free_unpacked(reply, NULL);
    if (!chain || !trust)
        return -ENOMEM;
    struct sp_identity id;
    r = agent_identity_check(key, chain, trust, &id, why);
    if (r == 0 &&
        (strcmp(id.name, identity->machine) != 0 || strcmp(id.domain, identity->domain) != 0))
        r = sp_why_set(why, -EKEYREJECTED, "the new certificate names another machine");
    return r == 0 ? agent_identity_end_renewal(config->state, chain, trust, why) : r;
}

int agent_renew(const struct agent_config *config, const struct agent_identity *identity,
                struct sp_why *why)
{
    SP_CLEANUP(channel) struct rpc_channel *channel = NULL;
    struct rpc_channel_options options = {
        .target = agent_controller(config, identity),
        .trust_pem = identity->trust_pem,
        .certificate_pem = identity->certificate_pem,
        .key_pem = identity->key_pem,
        .domain = identity->domain,
    };
    int r = rpc_channel_new(&options, &channel, why);
    return r == 0 ? renew(config, identity, channel, why) : r;
}
