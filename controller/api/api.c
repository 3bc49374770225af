/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/api/api.h"
#include "base/clock.h"
#include "base/log.h"
#include <stdarg.h>
#include <string.h>
#include <time.h>

enum { KEEPER_TIMEOUT_MS = 30000, SEND_POLL_MS = 5 };

/* ---- the methods ---- */

static const struct row {
    const char *name;
    api_handler *handler;
    bool stream; /* runs for as long as its reader does */
} rows[] = {
    {"Fleet/ListMachines", api_list_machines, false},
    {"Fleet/GetMachine", api_get_machine, false},
    {"Fleet/Watch", api_watch, false},
    {"Fleet/AddMachine", api_add_machine, false},
    {"Fleet/SetSource", api_set_source, false},
    {"Fleet/SetPolicy", api_set_policy, false},
    {"Fleet/ReleaseQuarantine", api_release_quarantine, false},
    {"Fleet/GetStatus", api_get_status, false},
    {"Fleet/ListEvents", api_list_events, false},
    {"Backup/Start", api_start, false},
    {"Backup/WatchJob", api_watch_job, false},
    {"Backup/CancelJob", api_cancel_job, false},
    {"Backup/ListPoints", api_list_points, false},
    {"Backup/GetPoint", api_get_point, false},
    {"Backup/ReadManifest", api_read_manifest, true},
    {"Backup/VerifyPoint", api_verify_point, false},
    {"Backup/ReadDisk", api_read_disk, true},
    {"Backup/AddVault", api_add_vault, false},
    {"Backup/ListVaults", api_list_vaults, false},
    {"Backup/CheckVault", api_check_vault, true},
    {"Backup/DeletePoint", api_delete_point, false},
    {"Backup/UndeletePoint", api_undelete_point, false},
    {"Backup/HoldPoint", api_hold_point, false},
    {"Backup/UnholdPoint", api_unhold_point, false},
    {"Backup/CollectVault", api_collect_vault, true},
    {"Backup/CopyVault", api_copy_vault, true},
    {"Backup/ScrubVault", api_scrub_vault, true},
    {"Keys/GetKeeperKeys", api_get_keeper_keys, false},
    {"Keys/GetNonce", api_get_nonce, false},
    {"Keys/Import", api_import, false},
    {"Keys/List", api_list_keys, false},
    {"Keys/Release", api_release, false},
    {"Keys/Show", api_show_key, false},
    {"Keys/Compromise", api_compromise_key, false},
    {"Keys/Destroy", api_destroy_key, false},
    {"Keys/ListKeks", api_list_keks, false},
    {"Keys/AddKek", api_add_kek, false},
    {"Keys/RemoveKek", api_remove_kek, false},
    {"Keys/CheckKeystore", api_check_keystore, true},
    {"Keys/ExportKeystore", api_export_keystore, true},
    {"Keys/Reconcile", api_reconcile, true},
    {"Keys/ListProviders", api_list_providers, false},
    {"Keys/TestProvider", api_test_provider, true},
    {"Keys/EnrolKeyslot", api_enrol_keyslot, true},
    {"Admin/CreateToken", api_create_token, false},
    {"Admin/ListTokens", api_list_tokens, false},
    {"Admin/RevokeToken", api_revoke_token, false},
    {"Admin/AddUser", api_add_user, false},
    {"Admin/ListUsers", api_list_users, false},
    {"Admin/RevokeUser", api_revoke_user, false},
    {"Admin/RevokeMachine", api_revoke_machine, false},
    {"Admin/ApproveMachine", api_approve_machine, false},
    {"Admin/ListAudit", api_list_audit, true},
    {"Enrolment/Enrol", api_enrol, false},
    {"Enrolment/Renew", api_renew, false},
};

static const struct row *row_of(const struct rpc_call *call)
{
    static const char package[] = "/sealpoint.v1.";
    const char *path = rpc_method_of(call)->path + sizeof(package) - 1;
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        if (strcmp(rows[i].name, path) == 0)
            return &rows[i];
    }
    return NULL;
}

/* ---- one request on a worker ---- */

struct request {
    struct api *api;
    struct rpc_call *call;
    const struct row *row;
    ProtobufCMessage *message;
};

static bool refused(int error)
{
    return error == -EACCES || error == -EPERM || error == -EKEYREJECTED;
}

static void answer_error(struct request *q, int error, const struct sp_why *why)
{
    if (refused(error))
        api_audit_refusal(q->api, q->call, "access.refused", rpc_method_of(q->call)->path, "%s",
                          why->text);
    if (error == -EPIPE)
        return;
    /* The keeper's word for a precondition that does not hold. */
    if (error == -ESTALE)
        rpc_finish(q->call, RPC_FAILED_PRECONDITION, why->text);
    else
        rpc_fail(q->call, error, why);
    sp_log(SP_LOG_DEBUG, "request failed", "method", rpc_method_of(q->call)->path, "why", why->text,
           NULL);
}

static void run_request(void *arg)
{
    struct request *q = arg;
    ProtobufCMessage *response = NULL;
    struct sp_why why = {0};
    int r = q->row->handler(q->api, q->call, q->message, &response, &why);
    if (r == 0 && response)
        r = rpc_reply(q->call, response);
    else if (r == 0)
        rpc_finish(q->call, RPC_OK, NULL);
    if (r < 0 && r != -EINPROGRESS)
        answer_error(q, r, &why);
    message_free(response);
    message_free(q->message);
    rpc_unref(q->call);
    free(q);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct api *api = rpc_server_context(call);
    struct request *q = calloc(1, sizeof(*q));
    if (q) {
        *q = (struct request){api, call, row_of(call), sp_message_copy(message)};
        if (!q->row || !q->message) {
            message_free(q->message);
            free(q);
            q = NULL;
        }
    }
    if (!q) {
        rpc_fail(call, -ENOMEM, NULL);
        return;
    }
    rpc_ref(call);
    int r = pool_submit(q->row->stream ? api->streams : api->requests, run_request, q);
    if (r < 0) {
        rpc_finish(call, r == -ESHUTDOWN ? RPC_UNAVAILABLE : RPC_RESOURCE_EXHAUSTED,
                   r == -ESHUTDOWN ? "the controller is stopping"
                                   : "the controller has too much to do: try again");
        message_free(q->message);
        rpc_unref(call);
        free(q);
    }
}

static void on_closed(struct rpc_call *call, int status, const char *detail)
{
    (void)status;
    (void)detail;
    struct api *api = rpc_server_context(call);
    watch_closed(api->watch, call);
}

/* ---- agents ---- */

static void agent_open(struct rpc_call *call)
{
    struct api *api = rpc_server_context(call);
    fleet_session_open(api->fleet, call);
}

static void agent_message(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct api *api = rpc_server_context(call);
    fleet_session_message(api->fleet, call, (const Sp__AgentMessage *)message);
}

static void agent_half_close(struct rpc_call *call)
{
    rpc_finish(call, RPC_OK, NULL);
}

static void agent_closed(struct rpc_call *call, int status, const char *detail)
{
    (void)status;
    (void)detail;
    struct api *api = rpc_server_context(call);
    fleet_session_closed(api->fleet, call);
}

const struct rpc_method *const *api_tables(void)
{
    static struct rpc_method table[SP_COUNT(rows) + 2];
    static const struct rpc_method *const tables[] = {table, NULL};
    if (!table[0].path) {
        table[0] = rpc_bind("AgentLink/Session", agent_open, agent_message, agent_half_close,
                            agent_closed);
        for (size_t i = 0; i < SP_COUNT(rows); i++)
            table[i + 1] = rpc_bind(rows[i].name, NULL, on_message, NULL, on_closed);
    }
    return tables;
}

/* ---- permissions ---- */

/* Custodians hold no other role, but must get a nonce and the keeper's keys to sign a release. */
static bool custodian_suffices(const struct rpc_call *call)
{
    const char *path = rpc_method_of(call)->path;
    return strcmp(path, "/sealpoint.v1.Keys/GetNonce") == 0 ||
           strcmp(path, "/sealpoint.v1.Keys/GetKeeperKeys") == 0;
}

int api_authorise(void *self, const struct rpc_call *call, struct sp_why *why)
{
    struct api *api = self;
    const struct rpc_method *method = rpc_method_of(call);
    int r = identities_check(api->identities, rpc_peer(call), method->permission, NULL, why);
    if (r == -EACCES && custodian_suffices(call) &&
        identities_check(api->identities, rpc_peer(call), RPC_CUSTODIAN, NULL, NULL) == 0)
        r = 0;
    if (refused(r))
        api_audit_refusal(api, call, "access.refused", method->path, "%s", why->text);
    return r;
}

void api_note_refusal(void *self, const struct rpc_call *call, const struct sp_why *why)
{
    api_audit_refusal(self, call, "access.refused", rpc_method_of(call)->path, "%s", why->text);
}

int api_allow(struct api *api, const struct rpc_call *call, const char *group, struct sp_why *why)
{
    return identities_check(api->identities, rpc_peer(call), rpc_method_of(call)->permission, group,
                            why);
}

bool api_may_see(struct api *api, const struct rpc_call *call, const char *group)
{
    return identities_check(api->identities, rpc_peer(call), RPC_VIEWER, group, NULL) == 0;
}

int api_machine(struct api *api, const struct rpc_call *call, const char *name, bool inventory,
                Sp__Machine **ret, struct sp_why *why)
{
    Sp__Machine *m = NULL;
    if (message_empty(name))
        return sp_why_set(why, -EINVAL, "say which machine");
    int r = catalog_machine_get(api->catalog, name, inventory, &m);
    if (r == -ENOENT)
        return sp_why_set(why, r, "no machine '%s': 'sealpoint machine list' shows them", name);
    if (r == 0)
        r = api_allow(api, call, m->group, why);
    if (r < 0) {
        message_free(m);
        return r;
    }
    *ret = m;
    return 0;
}

int api_allow_machine_id(struct api *api, const struct rpc_call *call, const char *machine_id,
                         struct sp_why *why)
{
    Sp__Machine *m = NULL;
    int r = catalog_machine_get(api->catalog, machine_id, false, &m);
    /* A machine that is gone belongs to no group any more: only who may do it to all may. */
    if (r == 0 || r == -ENOENT)
        r = api_allow(api, call, m ? m->group : "", why);
    message_free(m);
    return r;
}

int api_fill_machine(struct api *api, Sp__Machine *m)
{
    char point[37];
    Sp__PointState state = 0;
    int r = fleet_fill(api->fleet, m);
    if (r == 0)
        r = catalog_point_last(api->catalog, m->machine_id, point, &state, &m->last_valid_unix_ms);
    if (r == 0)
        r = message_set(&m->last_point_id, point);
    m->last_point_state = state;
    if (r == 0 && m->agent && m->agent->quarantined) {
        Sp__Finding *f = message_new(&sp__finding__descriptor);
        r = f ? message_set(&f->text, m->agent->quarantine_reason) : -ENOMEM;
        if (f)
            f->reason = SP__REASON__REASON_IDENTITY_CLONED;
        if (r == 0)
            r = message_append(&m->findings, &m->n_findings, f);
        else
            message_free(f);
    }
    return r;
}

/* ---- keeper ---- */

char *api_who(const struct rpc_call *call, char out[320])
{
    out[0] = '\0';
    if (call && rpc_peer(call)->kind != SP_IDENTITY_NONE)
        sp_identity_text(rpc_peer(call), out, 320);
    return out;
}

int api_ask_keeper(struct api *api, const struct rpc_call *call, Sp__KeeperRequest *request,
                   Sp__KeeperResponse **ret, struct sp_why *why)
{
    char who[320];
    request->peer = api_who(call, who);
    request->peer_address = (char *)rpc_peer_address(call);
    int r = api->keeper(api->self, request, KEEPER_TIMEOUT_MS, ret, why);
    request->peer = request->peer_address = (char *)protobuf_c_empty_string;
    return r;
}

int api_relay(struct api *api, const struct rpc_call *call, Sp__KeeperRequest *request,
              ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    int r = api_ask_keeper(api, call, request, &response, why);
    return r < 0 ? r : message_take_answer(response, request->kind_case, ret);
}

int api_relay_for_all(struct api *api, const struct rpc_call *call,
                      Sp__KeeperRequest__KindCase kind, const ProtobufCMessage *request,
                      ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    ask.kind_case = kind;
    ask.status = (void *)(uintptr_t)request; /* every member of the oneof is a pointer */
    int r = api_allow(api, call, "", why);
    return r < 0 ? r : api_relay(api, call, &ask, ret, why);
}

/* ---- streams ---- */

int api_send(struct rpc_call *call, const ProtobufCMessage *message)
{
    /* There is no event for "the queue has room again": the reader's pace is looked at. */
    int r;
    while ((r = rpc_send(call, message)) == -EAGAIN) {
        const struct timespec pause = {.tv_nsec = SEND_POLL_MS * 1000000L};
        nanosleep(&pause, NULL);
    }
    return r;
}

/* ---- audit ---- */

struct note {
    struct api *api;
    char who[320], about[128], text[400];
    const char *what;
};

static void write_note(void *arg)
{
    struct note *n = arg;
    int r = catalog_audit(n->api->catalog, n->who, n->what, n->about, n->text);
    if (r < 0)
        sp_log_error("audit entry lost", r, NULL, "what", n->what, "who", n->who, "about", n->about,
                     NULL);
    free(n);
}

__attribute__((format(printf, 5, 0))) static void note(struct api *api, const struct rpc_call *call,
                                                       const char *what, const char *about,
                                                       const char *format, va_list args)
{
    struct note *n = calloc(1, sizeof(*n));
    if (!n) {
        sp_log(SP_LOG_ERROR, "audit entry lost", "what", what, "about", about, NULL);
        return;
    }
    int length = vsnprintf(n->text, sizeof(n->text), format, args);
    n->api = api;
    n->what = what;
    api_who(call, n->who);
    snprintf(n->about, sizeof(n->about), "%s", about ? about : "");
    if (call && length >= 0 && (size_t)length < sizeof(n->text))
        snprintf(n->text + length, sizeof(n->text) - (size_t)length, "%s(from %s)",
                 length ? " " : "", rpc_peer_address(call));
    if (!*n->who)
        snprintf(n->who, sizeof(n->who), call ? "nobody" : "local");
    sp_log(SP_LOG_INFO, what, "who", n->who, "about", n->about, "text", n->text, NULL);
    if (pool_submit(api->audits, write_note, n) < 0) {
        sp_log(SP_LOG_ERROR, "audit entry lost", "what", what, "who", n->who, "about", n->about,
               NULL);
        free(n);
    }
}

void api_audit(struct api *api, const struct rpc_call *call, const char *what, const char *about,
               const char *format, ...)
{
    va_list args;
    va_start(args, format);
    note(api, call, what, about, format, args);
    va_end(args);
}

void api_audit_refusal(struct api *api, const struct rpc_call *call, const char *what,
                       const char *about, const char *format, ...)
{
    char who[320], source[80];
    /* Somebody we know is told apart from others at the same address. */
    const char *from = *api_who(call, who) ? who : refusals_source(rpc_peer_address(call), source);
    if (!refusals_admit(api->refusals, from))
        return;
    va_list args;
    va_start(args, format);
    note(api, call, what, about, format, args);
    va_end(args);
}

static void tell(void *arg, const char *source, unsigned count)
{
    api_audit(arg, NULL, "refused.more", source, "%u more refused from %s in the last minute",
              count, *source ? source : "other addresses");
}

void api_tell_refusals(struct api *api, bool all)
{
    refusals_tell(api->refusals, all, tell, api);
}
