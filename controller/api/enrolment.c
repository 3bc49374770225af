/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The Enrolment service: the keeper judges tokens and signs certificates. */
#include "controller/api/api.h"
#include <string.h>

/* The id of a machine that was added by this name and never enrolled; "" when there is none. */
static char *added_by_name(struct api *api, const char *name, char out[37])
{
    Sp__Machine *m = NULL;
    out[0] = '\0';
    if (message_empty(name) || catalog_machine_get(api->catalog, name, false, &m) < 0)
        return out;
    /* The catalog also finds by id; a guest's name is only ever a name. */
    if (strcmp(m->name, name) == 0 && !(m->agent && m->agent->enrolled))
        snprintf(out, 37, "%s", m->machine_id);
    message_free(m);
    return out;
}

int api_enrol(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
              ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__EnrolRequest *asked = (const void *)request;
    char known[37];
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    ask.enrol = (Sp__EnrolRequest *)asked;
    ask.known_machine_id = added_by_name(api, asked->machine_name, known);
    int r = api_relay(api, call, &ask, ret, why);
    if (r < 0) {
        /* EACCES, EPERM and EKEYREJECTED are noted by whoever answers; this adds who it was. */
        api_audit_refusal(api, call, "enrol.refused", asked->token_id, "machine %.100s: %s",
                          asked->machine_name, why->text);
        return r;
    }
    const Sp__EnrolResponse *enrolled = (const void *)*ret;
    api->identities_changed(api->self);
    if (!enrolled->pending)
        /* A new certificate, a new state folder, perhaps a new machine under the old name. */
        (void)fleet_forget_mark(api->fleet, enrolled->machine_id, true);
    api_audit(api, call, enrolled->pending ? "enrol.pending" : "enrol.accepted",
              enrolled->machine_id, "machine %.100s, token %.40s", asked->machine_name,
              asked->token_id);
    watch_on_machine(api->watch, enrolled->machine_id);
    return 0;
}

int api_renew(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
              ProtobufCMessage **ret, struct sp_why *why)
{
    char who[320];
    Sp__RenewForRequest renew = SP__RENEW_FOR_REQUEST__INIT;
    Sp__KeeperRequest ask = SP__KEEPER_REQUEST__INIT;
    struct sp_bytes certificate = rpc_peer_certificate(call);
    renew.spiffe_id = api_who(call, who);
    renew.certificate = (ProtobufCBinaryData){certificate.size, (uint8_t *)certificate.data};
    renew.request = (Sp__RenewRequest *)request;
    ask.kind_case = SP__KEEPER_REQUEST__KIND_RENEW;
    ask.renew = &renew;
    int r = api_relay(api, call, &ask, ret, why);
    if (r < 0)
        return r;
    api->identities_changed(api->self);
    api_audit(api, call, "certificate.renewed", rpc_peer(call)->name, "%s", "");
    return 0;
}
