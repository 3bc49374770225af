/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The Admin service: relayed to the keeper, which decides. */
#include "controller/api/api.h"
#include <string.h>

/* Relays a signed call; the keeper's packed result becomes the answer. */
int api_execute(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                const char *what, ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__SignedCall *asked = (const void *)request;
    const struct rpc_method *method = rpc_method_of(call);
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    if (!asked->request)
        return sp_why_set(why, -EINVAL, "the request is not signed");
    /* What was signed for one method must not pass through the door of another. */
    if (strcmp(asked->request->method, method->path) != 0)
        return sp_why_set(why, -EINVAL, "the request was signed for %.120s, not for %s",
                          asked->request->method, method->path);
    ask.kind_case = SP__KEEPER_REQUEST__KIND_EXECUTE;
    ask.execute = (Sp__SignedCall *)asked;
    int r = api_ask_keeper(api, call, &ask, &response, why);
    if (r == 0 && response->kind_case != SP__KEEPER_RESPONSE__KIND_EXECUTE)
        r = -EPROTO;
    if (r < 0)
        return r;
    const ProtobufCBinaryData *packed = &response->execute->result;
    *ret = protobuf_c_message_unpack(method->response, NULL, packed->len,
                                     packed->len ? packed->data : (const uint8_t *)"");
    api_audit(api, call, what, "", "%s", "by signed request");
    api->identities_changed(api->self);
    return *ret ? 0 : -EPROTO;
}

#define SIGNED_METHOD(name, what)                                                                  \
    int name(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,              \
             ProtobufCMessage **ret, struct sp_why *why)                                           \
    {                                                                                              \
        return api_execute(api, call, request, what, ret, why);                                    \
    }

SIGNED_METHOD(api_create_token, "token.created")
SIGNED_METHOD(api_revoke_token, "token.revoked")
SIGNED_METHOD(api_add_user, "user.added")
SIGNED_METHOD(api_revoke_user, "user.revoked")
SIGNED_METHOD(api_revoke_machine, "machine.revoked")
SIGNED_METHOD(api_approve_machine, "machine.approved")
SIGNED_METHOD(api_destroy_key, "key.destroy")
SIGNED_METHOD(api_add_kek, "kek.added")
SIGNED_METHOD(api_remove_kek, "kek.removed")

int api_list_tokens(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                    ProtobufCMessage **ret, struct sp_why *why)
{
    return api_relay_for_all(api, call, SP__KEEPER_REQUEST__KIND_LIST_TOKENS, request, ret, why);
}

int api_list_users(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                   ProtobufCMessage **ret, struct sp_why *why)
{
    (void)request;
    Sp__IdentitiesRequest identities = SP__IDENTITIES_REQUEST__INIT;
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    int r = api_allow(api, call, "", why);
    ask.kind_case = SP__KEEPER_REQUEST__KIND_IDENTITIES;
    ask.identities = &identities;
    if (r == 0)
        r = api_ask_keeper(api, call, &ask, &response, why);
    if (r == 0 && response->kind_case != SP__KEEPER_RESPONSE__KIND_IDENTITIES)
        r = -EPROTO;
    Sp__ListUsersResponse *list = r == 0 ? message_new(&sp__list_users_response__descriptor) : NULL;
    if (r == 0 && !list)
        r = -ENOMEM;
    if (r < 0)
        return r;
    list->users = response->identities->users;
    list->n_users = response->identities->n_users;
    response->identities->users = NULL;
    response->identities->n_users = 0;
    *ret = &list->base;
    return 0;
}

/* ---- audit ---- */

struct entries {
    Sp__AuditEntry **at;
    size_t count;
};

static int gather(void *arg, Sp__AuditEntry *entry)
{
    struct entries *e = arg;
    return message_append(&e->at, &e->count, message_copy(entry));
}

/* Gathered first: a slow reader must not hold the catalog. */
static int send_own(struct api *api, struct rpc_call *call, const Sp__ListAuditRequest *asked)
{
    struct entries e = {0};
    int r = catalog_audit_each(api->catalog, asked->since_unix_ms, asked->verify, gather, &e);
    for (size_t i = 0; i < e.count; i++) {
        if (r == 0)
            r = api_send(call, &e.at[i]->base);
        message_free(e.at[i]);
    }
    free(e.at);
    return r;
}

static int send_page(struct rpc_call *call, const Sp__ListAuditRequest *asked,
                     const Sp__AuditPage *page, uint64_t *next)
{
    int r = 0;
    for (size_t i = 0; i < page->n_entries && r == 0; i++) {
        if (page->entries[i]->at_unix_ms >= asked->since_unix_ms)
            r = api_send(call, &page->entries[i]->base);
        if (page->entries[i]->number >= *next)
            *next = page->entries[i]->number + 1;
    }
    return r;
}

static int send_keepers(struct api *api, struct rpc_call *call, const Sp__ListAuditRequest *asked,
                        struct sp_why *why)
{
    uint64_t next = 1;
    bool more = true;
    int r = 0;
    while (more && r == 0) {
        Sp__KeeperAuditRequest audit = SP__KEEPER_AUDIT_REQUEST__INIT;
        Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
        Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
        uint64_t before = next;
        audit.from_number = next;
        audit.verify = asked->verify;
        ask.kind_case = SP__KEEPER_REQUEST__KIND_AUDIT;
        ask.audit = &audit;
        r = api_ask_keeper(api, call, &ask, &response, why);
        if (r == 0 && response->kind_case != SP__KEEPER_RESPONSE__KIND_AUDIT)
            r = -EPROTO;
        if (r == 0)
            r = send_page(call, asked, response->audit, &next);
        /* A page that brings nothing new would be asked for again for ever. */
        more = r == 0 && response->audit->more && next > before;
    }
    return r;
}

int api_list_audit(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                   ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ListAuditRequest *asked = (const void *)request;
    bool both = message_empty(asked->log);
    (void)ret;
    int r = api_allow(api, call, "", why);
    if (r == 0 && !both && strcmp(asked->log, "controller") != 0 &&
        strcmp(asked->log, "keeper") != 0)
        r = sp_why_set(why, -EINVAL, "there are two logs: controller and keeper");
    if (r == 0 && (both || strcmp(asked->log, "controller") == 0))
        r = send_own(api, call, asked);
    if (r == 0 && (both || strcmp(asked->log, "keeper") == 0))
        r = send_keepers(api, call, asked, why);
    return r;
}
