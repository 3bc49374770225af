/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The Keys service. Every secret that passes is inside a SealedBox: it is relayed, never opened,
 * never logged. */
#include "controller/api/api.h"
#include <string.h>

enum { IMPORT_MAX = 1000 };

int api_get_keeper_keys(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                        ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_KEYS;
    ask.keys = (Sp__KeeperKeysRequest *)request;
    return api_relay(api, call, &ask, ret, why);
}

int api_get_nonce(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                  ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_NONCE;
    ask.nonce = (Sp__NonceRequest *)request;
    return api_relay(api, call, &ask, ret, why);
}

/* Names become ids; the box's AAD is bound to the id, so a wrong one is found by the keeper. */
static int resolve(struct api *api, struct rpc_call *call, Sp__ImportKeysRequest *keys,
                   struct sp_why *why)
{
    int r = 0;
    for (size_t i = 0; i < keys->n_keys && r == 0; i++) {
        Sp__Machine *m = NULL;
        r = api_machine(api, call, keys->keys[i]->machine, false, &m, why);
        if (r == 0)
            r = message_set(&keys->keys[i]->machine, m->machine_id);
        message_free(m);
    }
    return r;
}

int api_import(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
               ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ImportKeysRequest *asked = (const void *)request;
    if (asked->n_keys == 0 || asked->n_keys > IMPORT_MAX)
        return sp_why_set(why, -EINVAL, "one import carries 1 to %d keys", IMPORT_MAX);
    Sp__ImportKeysRequest *keys = message_copy(asked);
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    int r = keys ? resolve(api, call, keys, why) : -ENOMEM;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_IMPORT;
    ask.import = keys;
    if (r == 0)
        r = api_relay(api, call, &ask, ret, why);
    const Sp__ImportKeysResponse *done = r == 0 ? (const void *)*ret : NULL;
    for (size_t i = 0; done && i < keys->n_keys && i < done->n_results; i++)
        api_audit(api, call, "key.import", keys->keys[i]->machine, "volume %.120s: %s",
                  keys->keys[i]->volume_id,
                  message_empty(done->results[i]->error) ? "stored" : done->results[i]->error);
    message_free(keys);
    return r;
}

/* Records of machines whose group the caller may not see are left out. */
static void filter(struct api *api, struct rpc_call *call, Sp__ListKeysResponse *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->n_records; i++) {
        Sp__Machine *m = NULL;
        int r = catalog_machine_get(api->catalog, list->records[i]->machine_id, false, &m);
        bool see = (r == 0 || r == -ENOENT) && api_may_see(api, call, m ? m->group : "");
        message_free(m);
        if (see)
            list->records[kept++] = list->records[i];
        else
            message_free(list->records[i]);
    }
    list->n_records = kept;
}

int api_list_keys(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                  ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ListKeysRequest *asked = (const void *)request;
    Sp__ListKeysRequest list = *asked;
    Sp__Machine *m = NULL;
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    int r = 0;
    if (!message_empty(asked->machine)) {
        r = api_machine(api, call, asked->machine, false, &m, why);
        if (r == 0)
            list.machine = m->machine_id;
    }
    ask.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEYS;
    ask.list_keys = &list;
    if (r == 0)
        r = api_relay(api, call, &ask, ret, why);
    if (r == 0)
        filter(api, call, (Sp__ListKeysResponse *)*ret);
    message_free(m);
    return r;
}

/* The keeper decides: it verifies the custodian's signature and its own seal on the manifest. */
static int release(struct api *api, struct rpc_call *call, const Sp__ReleaseCall *asked,
                   const char *point, ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    Sp__ReleaseForRequest release_for = SP__RELEASE_FOR_REQUEST__INIT;
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    bool good = false;
    int r = engine_manifest(api->engine, point, &sealed, &m, &good, why);
    if (r == 0)
        r = api_allow_machine_id(api, call, m->machine_id, why);
    release_for.request = asked->request;
    release_for.manifest = sealed;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_RELEASE;
    ask.release = &release_for;
    if (r == 0)
        r = api_relay(api, call, &ask, ret, why);
    if (r == 0)
        api_audit(api, call, "key.release", m->point_id, "%zu keys of machine %s",
                  ((const Sp__ReleaseResponse *)*ret)->n_keys, m->machine_name);
    return r;
}

int api_release(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ReleaseCall *asked = (const void *)request;
    if (!asked->request)
        return sp_why_set(why, -EINVAL, "the request is not signed");
    Sp__ReleaseRequest *arguments = sp__release_request__unpack(NULL, asked->request->arguments.len,
                                                                asked->request->arguments.data);
    if (!arguments)
        return sp_why_set(why, -EINVAL, "the signed arguments are no ReleaseRequest");
    int r = release(api, call, asked, arguments->point_id, ret, why);
    message_free(arguments);
    return r;
}
