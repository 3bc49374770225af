/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys service, the keystore's side: what becomes of a record, KEKs, the keystore as a whole. The
 * keeper decides; names and what is live come from the catalog. */
#include "controller/api/api.h"
#include <string.h>

enum { EXPORT_PART_BYTES = 1 << 20 };

/* ---- what a key opens ---- */

static bool has_volume(const Sp__Machine *m, const char *volume_id)
{
    for (size_t i = 0; m->inventory && i < m->inventory->n_volumes; i++)
        if (strcmp(m->inventory->volumes[i]->volume_id, volume_id) == 0)
            return true;
    return false;
}

/* Whether the caller may see the machine; its name, and with `live` whether it still has the
 * volume. A machine that is gone is shown by its id to whoever sees all machines. */
static bool may_see(struct api *api, struct rpc_call *call, const char *machine_id, char **name,
                    const char *volume_id, protobuf_c_boolean *live)
{
    Sp__Machine *m = NULL;
    int r = catalog_machine_get(api->catalog, machine_id, live != NULL, &m);
    bool see = (r == 0 || r == -ENOENT) && api_may_see(api, call, m ? m->group : "");
    if (see && m && name)
        (void)message_set(name, m->name);
    if (see && m && live)
        *live = has_volume(m, volume_id);
    message_free(m);
    return see;
}

static void complete(struct api *api, struct rpc_call *call, Sp__KeyDetail *d)
{
    size_t kept = 0;
    for (size_t i = 0; i < d->n_same_secret; i++) {
        if (may_see(api, call, d->same_secret[i]->machine_id, NULL, NULL, NULL))
            d->same_secret[kept++] = d->same_secret[i];
        else
            message_free(d->same_secret[i]);
    }
    d->n_same_secret = kept;
    kept = 0;
    for (size_t i = 0; i < d->n_points; i++) {
        Sp__ExposedPoint *p = d->points[i];
        if (may_see(api, call, p->machine_id, &p->machine_name, NULL, NULL))
            d->points[kept++] = p;
        else
            message_free(p);
    }
    d->n_points = kept;
    kept = 0;
    for (size_t i = 0; i < d->n_volumes; i++) {
        Sp__ExposedVolume *v = d->volumes[i];
        if (may_see(api, call, v->machine_id, &v->machine_name, v->volume_id, &v->live))
            d->volumes[kept++] = v;
        else
            message_free(v);
    }
    d->n_volumes = kept;
}

int api_show_key(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                 ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_SHOW_KEY;
    ask.show_key = (Sp__ShowKeyRequest *)request;
    int r = api_relay(api, call, &ask, &answer, why);
    Sp__KeyDetail *detail = (Sp__KeyDetail *)answer;
    if (r == 0)
        r = api_allow_machine_id(api, call, detail->record->machine_id, why);
    if (r < 0) {
        message_free(answer);
        return r;
    }
    complete(api, call, detail);
    *ret = answer;
    return 0;
}

int api_compromise_key(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                       ProtobufCMessage **ret, struct sp_why *why)
{
    int r = api_execute(api, call, request, "key.compromised", ret, why);
    if (r == 0)
        complete(api, call, (Sp__KeyDetail *)*ret);
    return r;
}

/* ---- the keystore ---- */

int api_list_keks(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                  ProtobufCMessage **ret, struct sp_why *why)
{
    return api_relay_for_all(api, call, SP__KEEPER_REQUEST__KIND_LIST_KEKS, request, ret, why);
}

int api_list_providers(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                       ProtobufCMessage **ret, struct sp_why *why)
{
    return api_relay_for_all(api, call, SP__KEEPER_REQUEST__KIND_LIST_PROVIDERS, request, ret, why);
}

int api_test_provider(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                      ProtobufCMessage **ret, struct sp_why *why)
{
    return api_relay_for_all(api, call, SP__KEEPER_REQUEST__KIND_TEST_PROVIDER, request, ret, why);
}

int api_check_keystore(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                       ProtobufCMessage **ret, struct sp_why *why)
{
    return api_relay_for_all(api, call, SP__KEEPER_REQUEST__KIND_CHECK, request, ret, why);
}

/* In parts: a whole keystore may be larger than a message. */
int api_export_keystore(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                        ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__KeystoreExport part = SP__KEYSTORE_EXPORT__INIT, *all = NULL;
    (void)ret;
    int r = api_execute(api, call, request, "keystore.exported", (ProtobufCMessage **)&all, why);
    if (r < 0)
        return r;
    part.epoch = all->epoch;
    part.total_bytes = all->file.len;
    for (size_t at = 0; r == 0 && at < all->file.len; at += part.file.len) {
        size_t left = all->file.len - at;
        part.file.data = all->file.data + at;
        part.file.len = left < EXPORT_PART_BYTES ? left : EXPORT_PART_BYTES;
        r = api_send(call, &part.base);
    }
    message_free(all);
    return r;
}

/* Everything the vaults hold is shown first: that only adds pins. The signed request ends it. */
int api_reconcile(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                  ProtobufCMessage **ret, struct sp_why *why)
{
    Sp__ReconcileResponse *shown = message_new(&sp__reconcile_response__descriptor);
    int r = shown ? api_allow(api, call, "", why) : -ENOMEM;
    if (r == 0)
        r = engine_show_manifests(api->engine, shown, why);
    if (r == 0)
        r = api_execute(api, call, request, "keystore.reconciled", ret, why);
    if (r == 0) {
        Sp__ReconcileResponse *out = (Sp__ReconcileResponse *)*ret;
        out->unread = shown->unread;
        out->n_unread = shown->n_unread;
        shown->unread = NULL;
        shown->n_unread = 0;
    }
    message_free(shown);
    return r;
}
