/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Enrolment and renewal. The order of checks: the token exists, the guest knows it, the token may
 * be used for this guest, the guest is none that there is already.
 *
 *   new key and token ──▶ [approval asked for?] ──▶ pending ──ApproveMachine──▶ asks again ─┐
 *                                └──────────────────────────────────────────────▶ certificate ◀┘
 *
 * The same key with the same token is the same machine asking again (its answer was lost, or it
 * waits): it gets the same id, and no use is counted. A token with a machine id is the way back:
 * the same id with new keys. A taken name is refused otherwise. A machine that was added by hand
 * and never enrolled keeps its id: keys may be in escrow under it. */
#include "base/identity.h"
#include "base/signed_request.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/ca.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/machines.h"
#include "controller/keeper/message.h"
#include "controller/keeper/people.h"
#include "controller/keeper/tokens.h"
#include <string.h>

enum { REFUSALS_A_MINUTE = 120 };

SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(x509, X509 *, X509_free)

static bool is_plain_name(const char *name)
{
    /* A name that is an id would be taken for the machine with that id. */
    if (!*name || strlen(name) > 120 || sp_uuid_valid(name))
        return false;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        if (*c <= ' ' || *c >= 0x7f)
            return false;
    return true;
}

static int check_shape(const Sp__EnrolRequest *ask, struct sp_why *why)
{
    if (ask->evidence_case == SP__ENROL_REQUEST__EVIDENCE_ATTESTED)
        return sp_why_set(why, -EOPNOTSUPP, "this keeper takes enrolment tokens only");
    if (ask->evidence_case != SP__ENROL_REQUEST__EVIDENCE_TOKEN_PROOF || ask->token_proof.len != 32)
        return sp_why_set(why, -EKEYREJECTED, "the request carries no proof of an enrolment token");
    if (ask->encryption_key.len != 32)
        return sp_why_set(why, -EINVAL, "the encryption key is not 32 bytes");
    if (!is_plain_name(ask->machine_name))
        return sp_why_set(
            why, -EINVAL,
            "a machine's name has 1 to 120 printable characters, no blanks, and is no id");
    if (strlen(ask->smbios_uuid) >= 64)
        return sp_why_set(why, -EINVAL, "the SMBIOS UUID is too long");
    return 0;
}

static int check_token(struct keeper *k, const Sp__EnrolRequest *ask, struct token *token,
                       struct sp_why *why)
{
    uint8_t proof[32];
    int r = token_load(k, ask->token_id, true, token);
    if (r == -ENOENT)
        return sp_why_set(why, -EKEYREJECTED, "there is no such enrolment token");
    if (r == 0)
        r = sp_enrol_proof(token->secret, ask->csr.data, ask->csr.len, ask->encryption_key.data,
                           proof);
    if (r < 0)
        return sp_why_set(why, r, "the enrolment token cannot be read");
    if (!sp_equal_secret(proof, ask->token_proof.data, sizeof(proof)))
        return sp_why_set(why, -EKEYREJECTED,
                          "the enrolment token's proof is wrong: the token file is damaged or for "
                          "another controller");
    return 0;
}

/* A new guest's id: the one that it was added under by hand, if no guest has it yet; else a new
 * one.
 */
static int choose_id(struct keeper *k, const char *known, char out[37])
{
    struct machine other;
    if (!sp_uuid_valid(known))
        return sp_uuid_make(out);
    int r = machine_load(k, known, &other);
    if (r == 0)
        return sp_uuid_make(out);
    if (r == -ENOENT)
        snprintf(out, 37, "%s", known);
    return r == -ENOENT ? 0 : r;
}

/* The machine that this request is about, as it shall be written; *ret_new: it was not there. */
static int find_machine(struct keeper *k, const Sp__KeeperRequest *request,
                        const struct token *token, const char *key_id, struct machine *m,
                        bool *ret_new, struct sp_why *why)
{
    const Sp__EnrolRequest *ask = request->enrol;
    struct machine other;

    *ret_new = false;
    int r = machine_by_key(k, token->token_id, key_id, m);
    if (r == 0 && m->revoked)
        return sp_why_set(why, -EKEYREJECTED, "the machine '%.120s' was revoked", m->name);
    if (r == 0 && m->expires_unix_ms != 0 &&
        (token->revoked || keeper_now_ms(k) >= token->spec->expires_unix_ms))
        return sp_why_set(
            why, -EKEYREJECTED,
            "the machine '%.120s' has enrolled and its token is over: its way back is "
            "a new token for its id",
            m->name);
    if (r != -ENOENT)
        return r;
    r = token_check(k, token, ask->machine_name, request->peer_address, why);
    if (r < 0)
        return r;
    *ret_new = true;
    memset(m, 0, sizeof(*m));
    m->created_unix_ms = keeper_now_ms(k);
    if (token->spec->machine_id[0]) {
        r = machine_load(k, token->spec->machine_id, m);
        if (r < 0 && r != -ENOENT)
            return r;
        snprintf(m->machine_id, sizeof(m->machine_id), "%s", token->spec->machine_id);
        m->revoked = false; /* an admin signed the way back for this very id */
    } else if ((r = choose_id(k, request->known_machine_id, m->machine_id)) < 0) {
        return r;
    }
    r = machine_by_name(k, ask->machine_name, &other);
    if (r == 0 && strcmp(other.machine_id, m->machine_id) != 0)
        return sp_why_set(why, -EEXIST,
                          "a machine named '%.120s' is enrolled already (%s): revoke it, or make a "
                          "token for that machine id, if this is the same machine",
                          ask->machine_name, other.machine_id);
    return r == -ENOENT ? 0 : r;
}

static void describe_machine(const Sp__KeeperRequest *request, const struct token *token,
                             const char *key_id, struct machine *m)
{
    const Sp__EnrolRequest *ask = request->enrol;
    snprintf(m->name, sizeof(m->name), "%s", ask->machine_name);
    snprintf(m->group, sizeof(m->group), "%s", token->spec->group);
    snprintf(m->key_id, sizeof(m->key_id), "%s", key_id);
    m->old_key_id[0] = 0; /* after the way back no older key counts */
    snprintf(m->token_id, sizeof(m->token_id), "%s", token->token_id);
    snprintf(m->smbios_uuid, sizeof(m->smbios_uuid), "%s", ask->smbios_uuid);
    snprintf(m->address, sizeof(m->address), "%s", request->peer_address);
    memcpy(m->encryption_key, ask->encryption_key.data, sizeof(m->encryption_key));
    m->pending = token->spec->needs_approval;
}

static int issue_agent(struct keeper *k, const Sp__EnrolRequest *ask, struct machine *m,
                       Sp__EnrolResponse *out, struct sp_why *why)
{
    CA_CHAIN struct ca_chain chain = {0};
    struct ca_subject subject = {.kind = SP_IDENTITY_AGENT, .name = m->machine_id};
    int r = ca_issue(k, &subject, ask->csr.data, ask->csr.len, &chain, why);
    if (r < 0)
        return r;
    m->expires_unix_ms = chain.expires_unix_ms;
    return message_bytes(&out->certificate_chain, chain.pem, chain.size);
}

/* In a transaction: the machine, the use of the token, the certificate, the audit. */
static int enrol(struct keeper *k, const Sp__KeeperRequest *request, const struct token *token,
                 const char *key_id, Sp__EnrolResponse *out, struct sp_why *why)
{
    SP_BUFFER struct sp_buffer bundle = {0};
    struct machine m;
    bool is_new;

    int r = find_machine(k, request, token, key_id, &m, &is_new, why);
    if (r == 0 && is_new) {
        describe_machine(request, token, key_id, &m);
        r = token_count_use(k, token->token_id);
    }
    if (r == 0 && !m.pending)
        r = issue_agent(k, request->enrol, &m, out, why);
    if (r == 0 && (is_new || !m.pending))
        r = machine_save(k, &m);
    if (r == 0)
        r = audit_write(k, request->peer_address[0] ? request->peer_address : "local",
                        m.pending ? "enrol.pending" : "enrol", m.machine_id,
                        "machine '%s' with token %s%s", m.name, token->token_id,
                        is_new ? "" : ", asked again");
    if (r == 0)
        r = meta_get(k, "trust_bundle", &bundle);
    if (r == 0)
        r = message_bytes(&out->trust_bundle, bundle.data, bundle.size);
    out->pending = m.pending;
    return r < 0 ? r : message_text(&out->machine_id, m.machine_id);
}

/* Anybody who reaches the port can be refused, as often as they like: so many a minute are written,
 * the rest is counted. */
static bool may_write_refusal(struct keeper *k)
{
    uint64_t now = sp_clock_monotonic_ms(k->clock);
    if (now - k->refusals_since_ms >= 60 * 1000) {
        k->refusals_since_ms = now;
        k->refusals = 0;
    }
    if (k->refusals == REFUSALS_A_MINUTE) {
        k->refusals_unwritten++;
        return false;
    }
    k->refusals++;
    return true;
}

static int refuse(struct keeper *k, const Sp__KeeperRequest *request, int error, struct sp_why *why)
{
    char more[64] = "";
    if (!may_write_refusal(k))
        return error;
    if (k->refusals_unwritten > 0)
        snprintf(more, sizeof(more), " (and %u refusals before that)", k->refusals_unwritten);
    k->refusals_unwritten = 0;
    audit_write(k, request->peer_address[0] ? request->peer_address : "local", "enrol.refused",
                request->enrol->machine_name, "token %.60s: %s%s", request->enrol->token_id,
                why->text[0] ? why->text : strerror(-error), more);
    return error;
}

int keeper_enrol(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                 Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__EnrolRequest *ask = request->enrol;
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    TOKEN struct token token = {0};
    char key_id[65];
    (void)fd;

    int r = check_shape(ask, why);
    if (r == 0)
        r = check_token(k, ask, &token, why);
    if (r == 0)
        r = ca_check_csr(ask->csr.data, ask->csr.len, &key, why);
    if (r == 0)
        r = sp_key_id(key, key_id);
    if (r < 0)
        return refuse(k, request, r, why);
    out->enrol = MESSAGE_NEW(Sp__EnrolResponse, sp__enrol_response__init);
    if (!out->enrol)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_ENROL;
    r = store_begin(k->store);
    if (r < 0)
        return r;
    r = store_end(k->store, enrol(k, request, &token, key_id, out->enrol, why));
    return r < 0 ? refuse(k, request, r, why) : 0;
}

/* ---- renewal ---- */

/* Who renews must be who the TLS layer said, with a certificate of ours that still counts. */
static int check_renewer(struct keeper *k, const Sp__RenewForRequest *ask, struct sp_identity *id,
                         X509 **ret_certificate, struct sp_why *why)
{
    char text[320];
    int r = ca_verify(k, ask->certificate.data, ask->certificate.len, id, ret_certificate, why);
    if (r == 0 && strcmp(sp_identity_text(id, text, sizeof(text)), ask->spiffe_id) != 0)
        r = sp_why_set(why, -EKEYREJECTED, "the certificate is for another identity");
    if (r == 0 && !ask->request)
        r = -EINVAL;
    return r;
}

static int renew_agent(struct keeper *k, const struct sp_identity *id,
                       const Sp__RenewForRequest *ask, X509 *certificate, struct ca_chain *chain,
                       struct sp_why *why)
{
    SP_CLEANUP(pkey) EVP_PKEY *new_key = NULL;
    struct ca_subject subject = {.kind = id->kind, .name = id->name};
    struct machine m;
    char old_id[65];
    const Sp__RenewRequest *request = ask->request;

    int r = machine_load(k, id->name, &m);
    if (r < 0)
        return sp_why_set(why, -EKEYREJECTED, "there is no machine %s", id->name);
    if (m.revoked || m.pending)
        return sp_why_set(why, -EKEYREJECTED, "the machine '%s' %s", m.name,
                          m.revoked ? "was revoked" : "waits for approval");
    /* A certificate from before the way back names a key that is no longer this machine's. */
    r = sp_key_id(X509_get0_pubkey(certificate), old_id);
    if (r == 0 && strcmp(old_id, m.key_id) != 0 && strcmp(old_id, m.old_key_id) != 0)
        return sp_why_set(why, -EKEYREJECTED,
                          "the machine '%s' has enrolled or renewed with another key since",
                          m.name);
    if (request->encryption_key.len != 0 && request->encryption_key.len != 32)
        return sp_why_set(why, -EINVAL, "the encryption key is not 32 bytes");
    if (r == 0)
        r = ca_check_csr(request->csr.data, request->csr.len, &new_key, why);
    if (r == 0)
        r = ca_issue(k, &subject, request->csr.data, request->csr.len, chain, why);
    if (r == 0)
        r = sp_key_id(new_key, m.key_id);
    if (r < 0)
        return r;
    snprintf(m.old_key_id, sizeof(m.old_key_id), "%s", old_id);
    m.expires_unix_ms = chain->expires_unix_ms;
    if (request->encryption_key.len == 32)
        memcpy(m.encryption_key, request->encryption_key.data, 32);
    return machine_save(k, &m);
}

static int renew_user(struct keeper *k, const struct sp_identity *id,
                      const Sp__RenewRequest *request, struct ca_chain *chain, struct sp_why *why)
{
    struct ca_subject subject = {.kind = id->kind, .name = id->name};
    int r = people_check(k, id->name, why);
    if (r == 0)
        r = ca_issue(k, &subject, request->csr.data, request->csr.len, chain, why);
    return r < 0 ? r : people_set_expiry(k, id->name, chain->expires_unix_ms);
}

static int renew_controller(struct keeper *k, const struct sp_identity *id,
                            const Sp__RenewRequest *request, X509 *certificate,
                            struct ca_chain *chain, struct sp_why *why)
{
    struct ca_subject subject = {.kind = id->kind, .name = id->name};
    char **hosts = NULL;
    size_t count = 0;

    int r = controllers_check(k, id->name, why);
    if (r == 0)
        r = ca_hosts_of(certificate, &hosts, &count);
    subject.hosts = hosts;
    subject.host_count = count;
    if (r == 0)
        r = ca_issue(k, &subject, request->csr.data, request->csr.len, chain, why);
    if (r == 0)
        r = controllers_add(k, id->name, chain->expires_unix_ms);
    for (size_t i = 0; i < count; i++)
        free(hosts[i]);
    free(hosts);
    return r;
}

static int renew(struct keeper *k, const struct sp_identity *id, const Sp__RenewForRequest *ask,
                 X509 *certificate, struct ca_chain *chain, struct sp_why *why)
{
    switch (id->kind) {
    case SP_IDENTITY_AGENT:
        return renew_agent(k, id, ask, certificate, chain, why);
    case SP_IDENTITY_USER:
        return renew_user(k, id, ask->request, chain, why);
    case SP_IDENTITY_CONTROLLER:
        return renew_controller(k, id, ask->request, certificate, chain, why);
    default:
        return sp_why_set(why, -EKEYREJECTED, "this kind of identity does not renew");
    }
}

int keeper_renew(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                 Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__RenewForRequest *ask = request->renew;
    SP_CLEANUP(x509) X509 *certificate = NULL;
    SP_BUFFER struct sp_buffer bundle = {0};
    CA_CHAIN struct ca_chain chain = {0};
    struct sp_identity id = {0};
    (void)fd;

    int r = check_renewer(k, ask, &id, &certificate, why);
    if (r == 0)
        r = store_begin(k->store);
    if (r == 0) {
        r = renew(k, &id, ask, certificate, &chain, why);
        if (r == 0)
            r = audit_write(k, ask->spiffe_id, "renew", id.name, "issued a new certificate");
        r = store_end(k->store, r);
    }
    if (r < 0) {
        audit_write(k, keeper_who(request), "renew.refused", ask->spiffe_id, "%s",
                    why->text[0] ? why->text : strerror(-r));
        return r;
    }
    out->renew = MESSAGE_NEW(Sp__RenewResponse, sp__renew_response__init);
    if (!out->renew)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_RENEW;
    r = meta_get(k, "trust_bundle", &bundle);
    if (r == 0)
        r = message_bytes(&out->renew->trust_bundle, bundle.data, bundle.size);
    return r < 0 ? r : message_bytes(&out->renew->certificate_chain, chain.pem, chain.size);
}
