/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/execute.h"

#include "base/signed_request.h"
#include "controller/keeper/aead.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/ca.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/machines.h"
#include "controller/keeper/message.h"
#include "controller/keeper/order.h"
#include "controller/keeper/people.h"
#include "controller/keeper/tokens.h"
#include <string.h>

enum { APPROVALS_MOST = 8 };
static const uint64_t longest_ms = 15 * 60 * 1000;

/* ---- the signature ---- */

static int check_shape(struct keeper *k, const Sp__SignedRequest *request, const char *method,
                       struct sp_why *why)
{
    uint64_t now = keeper_now_ms(k);
    if (!request || request->n_approvals == 0 || request->n_approvals > APPROVALS_MOST)
        return sp_why_set(why, -EKEYREJECTED, "the request is not signed");
    if (strcmp(request->method, method) != 0)
        return sp_why_set(why, -EKEYREJECTED, "the signature is for %.100s, not for %s",
                          request->method, method);
    if (request->expires_unix_ms <= now)
        return sp_why_set(why, -EKEYREJECTED, "the signed request has expired: ask again");
    if (request->expires_unix_ms - now > longest_ms)
        return sp_why_set(why, -EKEYREJECTED,
                          "the signed request is valid for too long: 15 minutes at most");
    return 0;
}

static int check_approval(struct keeper *k, const Sp__SignedRequest *request, size_t index,
                          struct sp_bytes bundle, struct sp_identity *ret, struct sp_why *why)
{
    int r = sp_request_verify(request, index, bundle.data, bundle.size,
                              (int64_t)(keeper_now_ms(k) / 1000), ret, why);
    if (r < 0) {
        if (!why->text[0])
            sp_why_set(why, r, "the request's signature does not hold");
        return r == -EINVAL ? -EKEYREJECTED : r;
    }
    if (ret->kind != SP_IDENTITY_USER || strcmp(ret->domain, k->domain) != 0)
        return sp_why_set(why, -EKEYREJECTED, "only users of the domain '%s' sign requests",
                          k->domain);
    return people_check(k, ret->name, why);
}

int execute_check(struct keeper *k, const Sp__SignedRequest *request, const char *method,
                  struct sp_identity *ret, struct sp_why *why)
{
    SP_BUFFER struct sp_buffer bundle = {0};
    int r = check_shape(k, request, method, why);
    if (r == 0)
        r = meta_get(k, "trust_bundle", &bundle);
    for (size_t i = 0; r == 0 && i < request->n_approvals; i++) {
        struct sp_identity signer = {0};
        r = check_approval(k, request, i, sp_bytes_of(&bundle), &signer, why);
        if (r == 0 && i == 0)
            *ret = signer;
    }
    /* Last, so that nobody but the signer can use a nonce up. */
    if (r == 0 && !nonces_take(&k->nonces, request->nonce.data, request->nonce.len,
                               sp_clock_monotonic_ms(k->clock)))
        return sp_why_set(why, -EKEYREJECTED,
                          "the request's one-time number is unknown, too old or was used before");
    return r;
}

/* ---- the methods ---- */

static int do_create_token(struct order *d)
{
    const Sp__TokenSpec *spec = (const Sp__TokenSpec *)d->arguments;
    int r = order_admin(d, spec->group[0] ? spec->group : NULL);
    if (r == 0 && spec->machine_id[0]) {
        /* The way back gives an existing identity away: its group counts, too. */
        char group[128];
        machine_group(d->k, spec->machine_id, group);
        r = order_admin(d, group[0] ? group : NULL);
    }
    if (r < 0)
        return r;
    Sp__CreateTokenResponse *out =
        MESSAGE_NEW(Sp__CreateTokenResponse, sp__create_token_response__init);
    if (!out)
        return -ENOMEM;
    d->result = &out->base;
    r = token_create(d->k, spec, d->who_text, out, d->why);
    snprintf(d->about, sizeof(d->about), "%s", out->token_id);
    snprintf(d->text, sizeof(d->text), "for machine '%.60s', group '%.60s', %u uses%s%.60s",
             spec->machine_name, spec->group, spec->count ? spec->count : 1,
             spec->machine_id[0] ? ", way back of " : "", spec->machine_id);
    return r;
}

static int do_revoke_token(struct order *d)
{
    const Sp__RevokeTokenRequest *ask = (const Sp__RevokeTokenRequest *)d->arguments;
    TOKEN struct token token = {0};
    snprintf(d->about, sizeof(d->about), "%.60s", ask->token_id);
    int r = token_load(d->k, ask->token_id, false, &token);
    if (r == -ENOENT) /* only an admin may learn which ids exist */
        r = order_admin(d, NULL) < 0
                ? -EPERM
                : sp_why_set(d->why, r, "there is no token '%.60s'", ask->token_id);
    else if (r == 0)
        r = order_admin(d, token.spec->group[0] ? token.spec->group : NULL);
    if (r == 0)
        r = token_revoke(d->k, ask->token_id);
    return r < 0 ? r : order_done(d);
}

static int do_add_user(struct order *d)
{
    const Sp__AddUserRequest *ask = (const Sp__AddUserRequest *)d->arguments;
    CA_CHAIN struct ca_chain chain = {0};
    SP_BUFFER struct sp_buffer bundle = {0};
    snprintf(d->about, sizeof(d->about), "%.120s", ask->name);
    for (size_t i = 0; i < ask->n_roles; i++) {
        size_t at = strlen(d->text);
        const char *role = sp_enum_name(&sp__role__descriptor, (int)ask->roles[i]->role, "ROLE_");
        snprintf(d->text + at, sizeof(d->text) - at, "%s%s%s%.40s", i ? ", " : "", role,
                 ask->roles[i]->group[0] ? " of " : "", ask->roles[i]->group);
    }
    int r = order_admin(d, NULL);
    if (r == 0)
        r = people_add(d->k, ask, d->who_text, &chain, d->why);
    if (r == 0)
        r = meta_get(d->k, "trust_bundle", &bundle);
    if (r < 0)
        return r;
    Sp__AddUserResponse *out = MESSAGE_NEW(Sp__AddUserResponse, sp__add_user_response__init);
    if (!out)
        return -ENOMEM;
    d->result = &out->base;
    r = message_bytes(&out->certificate_chain, chain.pem, chain.size);
    return r < 0 ? r : message_bytes(&out->trust_bundle, bundle.data, bundle.size);
}

static int do_revoke_user(struct order *d)
{
    const Sp__RevokeUserRequest *ask = (const Sp__RevokeUserRequest *)d->arguments;
    snprintf(d->about, sizeof(d->about), "%.120s", ask->name);
    snprintf(d->text, sizeof(d->text), "%.300s", ask->why);
    int r = order_admin(d, NULL);
    if (r == 0)
        r = people_revoke(d->k, ask->name, d->text, d->why);
    return r < 0 ? r : order_done(d);
}

static int do_revoke_machine(struct order *d)
{
    const Sp__RevokeMachineRequest *ask = (const Sp__RevokeMachineRequest *)d->arguments;
    snprintf(d->about, sizeof(d->about), "%.60s", ask->machine_id);
    snprintf(d->text, sizeof(d->text), "%.300s", ask->why);
    int r = order_admin_of(d, ask->machine_id);
    if (r == 0)
        r = machine_revoke(d->k, ask->machine_id, d->why);
    return r < 0 ? r : order_done(d);
}

static int do_approve_machine(struct order *d)
{
    const Sp__ApproveMachineRequest *ask = (const Sp__ApproveMachineRequest *)d->arguments;
    snprintf(d->about, sizeof(d->about), "%.60s", ask->machine_id);
    int r = order_admin_of(d, ask->machine_id);
    if (r == 0)
        r = machine_approve(d->k, ask->machine_id, d->why);
    return r < 0 ? r : order_done(d);
}

static const struct {
    const char *method, *what;
    const ProtobufCMessageDescriptor *arguments;
    int (*run)(struct order *);
} methods[] = {
    {"/sealpoint.v1.Admin/CreateToken", "token.create", &sp__token_spec__descriptor,
     do_create_token},
    {"/sealpoint.v1.Admin/RevokeToken", "token.revoke", &sp__revoke_token_request__descriptor,
     do_revoke_token},
    {"/sealpoint.v1.Admin/AddUser", "user.add", &sp__add_user_request__descriptor, do_add_user},
    {"/sealpoint.v1.Admin/RevokeUser", "user.revoke", &sp__revoke_user_request__descriptor,
     do_revoke_user},
    {"/sealpoint.v1.Admin/RevokeMachine", "machine.revoke", &sp__revoke_machine_request__descriptor,
     do_revoke_machine},
    {"/sealpoint.v1.Admin/ApproveMachine", "machine.approve",
     &sp__approve_machine_request__descriptor, do_approve_machine},
    {"/sealpoint.v1.Keys/Compromise", "key.compromised", &sp__compromise_key_request__descriptor,
     order_compromise},
    {"/sealpoint.v1.Keys/Destroy", "key.destroy", &sp__destroy_key_request__descriptor,
     order_destroy},
    {"/sealpoint.v1.Keys/AddKek", "kek.add", &sp__add_kek_request__descriptor, order_add_kek},
    {"/sealpoint.v1.Keys/RemoveKek", "kek.remove", &sp__remove_kek_request__descriptor,
     order_remove_kek},
    {"/sealpoint.v1.Keys/ExportKeystore", "keystore.export",
     &sp__export_keystore_request__descriptor, order_export},
    {"/sealpoint.v1.Keys/Reconcile", "keystore.reconcile", &sp__reconcile_request__descriptor,
     order_reconcile},
};

/* Runs one method in a transaction together with its audit entry. */
static int run_method(struct order *d, size_t index)
{
    struct kek_set before = d->k->keks;
    int r = store_begin(d->k->store);
    if (r < 0)
        return r;
    r = methods[index].run(d);
    if (r == 0)
        r = audit_write(d->k, d->who_text, d->what ? d->what : methods[index].what, d->about, "%s",
                        d->text);
    r = store_end(d->k->store, r);
    if (r < 0)
        kek_restore(&d->k->keks, &before);
    else if (d->erased)
        store_forget(d->k->store); /* when it cannot now, the next checkpoint does it */
    return r;
}

static int refuse(struct keeper *k, const struct order *d, const Sp__KeeperRequest *request,
                  const char *method, int error)
{
    audit_write(k, d->who_text[0] ? d->who_text : keeper_who(request), "admin.refused", d->about,
                "%.100s: %s", method, d->why->text[0] ? d->why->text : strerror(-error));
    return error;
}

static int find_method(const char *name)
{
    for (size_t i = 0; i < SP_COUNT(methods); i++)
        if (strcmp(methods[i].method, name) == 0)
            return (int)i;
    return -EOPNOTSUPP;
}

static int run_signed(struct order *d, const Sp__SignedRequest *signed_request,
                      struct sp_identity *who)
{
    int index = find_method(signed_request->method);
    if (index < 0)
        return sp_why_set(d->why, index, "the keeper does not know the method %.100s",
                          signed_request->method);
    int r = execute_check(d->k, signed_request, methods[index].method, who, d->why);
    if (r < 0)
        return r;
    sp_identity_text(who, d->who_text, sizeof(d->who_text));
    ProtobufCMessage *arguments =
        protobuf_c_message_unpack(methods[index].arguments, NULL, signed_request->arguments.len,
                                  signed_request->arguments.data);
    if (!arguments || arguments->n_unknown_fields > 0)
        r = sp_why_set(d->why, -EINVAL, "the request's arguments cannot be read");
    d->arguments = arguments;
    if (r == 0)
        r = run_method(d, (size_t)index);
    if (arguments)
        protobuf_c_message_free_unpacked(arguments, NULL);
    d->arguments = NULL;
    return r;
}

int keeper_execute(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                   Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__SignedRequest *signed_request = request->execute->request;
    struct sp_identity who = {0};
    struct order d = {.k = k, .who = &who, .why = why};
    SP_FREE uint8_t *packed = NULL;
    size_t size = 0;
    (void)fd;

    if (!signed_request)
        return sp_why_set(why, -EINVAL, "the signed request is missing");
    int r = run_signed(&d, signed_request, &who);
    if (r == 0)
        r = sp_pack(d.result, &packed, &size);
    if (d.result)
        protobuf_c_message_free_unpacked(d.result, NULL);
    if (r < 0)
        return refuse(k, &d, request, signed_request->method, r);
    out->execute = MESSAGE_NEW(Sp__ExecuteResponse, sp__execute_response__init);
    if (!out->execute)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_EXECUTE;
    return message_bytes(&out->execute->result, packed, size);
}
