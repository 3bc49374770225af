/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The first minute of an installation: CA, keys, KEKs, controller, first user, recovery kit. */
#include "base/sealed_box.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/ca.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/people.h"
#include <string.h>

struct first {
    struct ca_chain controller, user;
};

static int check_request(const Sp__InitRequest *ask, struct sp_why *why)
{
    struct sp_identity id;
    char text[400];
    snprintf(text, sizeof(text), "spiffe://%.120s/controller/%.120s", ask->domain,
             ask->controller_name);
    if (sp_identity_parse(text, &id) < 0)
        return sp_why_set(why, -EINVAL,
                          "domain or controller name is missing or has characters other than "
                          "a-z 0-9 . _ -");
    if (ask->reply_key.len != SP_BOX_KEY_BYTES)
        return sp_why_set(why, -EINVAL, "the key to seal the recovery kit to is not 32 bytes");
    return 0;
}

static int add_keks(struct keeper *k, const struct sp_secret *kit, struct sp_why *why)
{
    int r = kek_add_configured(k, why);
    return r < 0 ? r : kek_add(k, KEK_KIT, kit, why);
}

static int add_people(struct keeper *k, const Sp__InitRequest *ask, struct first *first,
                      struct sp_why *why)
{
    Sp__RoleBinding admin = SP__ROLE_BINDING__INIT, custodian = SP__ROLE_BINDING__INIT;
    Sp__RoleBinding *roles[] = {&admin, &custodian};
    Sp__AddUserRequest user = SP__ADD_USER_REQUEST__INIT;
    struct ca_subject subject = {.kind = SP_IDENTITY_CONTROLLER,
                                 .name = ask->controller_name,
                                 .hosts = ask->controller_hosts,
                                 .host_count = ask->n_controller_hosts};

    admin.role = SP__ROLE__ROLE_ADMIN;
    custodian.role = SP__ROLE__ROLE_CUSTODIAN;
    user.name = ask->user_name;
    user.roles = roles;
    user.n_roles = SP_COUNT(roles);
    user.csr = ask->user_csr;
    int r = ca_issue(k, &subject, ask->controller_csr.data, ask->controller_csr.len,
                     &first->controller, why);
    if (r == 0)
        r = controllers_add(k, ask->controller_name, first->controller.expires_unix_ms);
    return r < 0 ? r : people_add(k, &user, "init", &first->user, why);
}

static int make_keystore(struct keeper *k, const Sp__KeeperRequest *request,
                         const struct sp_secret *kit, struct first *first, struct sp_why *why)
{
    const Sp__InitRequest *ask = request->init;
    int r = core_make(k, why);
    if (r == 0)
        r = add_keks(k, kit, why);
    if (r == 0)
        r = core_store(k, why);
    if (r == 0)
        r = meta_set(k, "domain",
                     (struct sp_bytes){(const uint8_t *)ask->domain, strlen(ask->domain)});
    if (r == 0)
        r = add_people(k, ask, first, why);
    if (r == 0)
        r = audit_write(k, keeper_who(request), "init", ask->domain,
                        "made CA and keystore for controller '%s' and user '%s'",
                        ask->controller_name, ask->user_name);
    return r;
}

static int answer(struct keeper *k, const Sp__InitRequest *ask, const struct sp_secret *kit,
                  const struct first *first, Sp__InitResponse *out)
{
    SP_BUFFER struct sp_buffer aad = {0}, bundle = {0};
    char fingerprint[65];

    int r = sp_kit_aad(&aad, k->domain);
    if (r == 0)
        r = sp_box_seal(ask->reply_key.data, aad.data, aad.size, sp_secret_data(kit),
                        sp_secret_size(kit), &out->recovery_kit);
    if (r == 0)
        r = meta_get(k, "trust_bundle", &bundle);
    if (r == 0)
        r = message_bytes(&out->trust_bundle, bundle.data, bundle.size);
    if (r == 0)
        r = message_bytes(&out->controller_chain, first->controller.pem, first->controller.size);
    if (r == 0)
        r = message_bytes(&out->user_chain, first->user.pem, first->user.size);
    if (r == 0)
        r = message_text(&out->ca_fingerprint, sp_certificate_fingerprint(k->ca, fingerprint));
    return r;
}

static void forget_all(struct keeper *k)
{
    core_forget(k);
    kek_forget(&k->keks);
    free(sp_steal(k->sealing_der));
    k->domain[0] = 0;
}

int keeper_init(struct keeper *k, const Sp__KeeperRequest *request, int fd, Sp__KeeperResponse *out,
                struct sp_why *why)
{
    const Sp__InitRequest *ask = request->init;
    SP_SECRET struct sp_secret *kit = sp_secret_new(KEK_KIT_BYTES);
    struct first first = {0};
    (void)fd;

    if (k->initialised)
        return sp_why_set(why, -EEXIST, "the keystore is initialised already, for the domain '%s'",
                          k->domain);
    int r = check_request(ask, why);
    if (r == 0)
        r = kit ? sp_random(sp_secret_data(kit), KEK_KIT_BYTES) : -ENOMEM;
    if (r == 0)
        r = store_begin(k->store);
    if (r < 0)
        return r;
    snprintf(k->domain, sizeof(k->domain), "%s", ask->domain);
    out->init = MESSAGE_NEW(Sp__InitResponse, sp__init_response__init);
    out->kind_case = SP__KEEPER_RESPONSE__KIND_INIT;
    r = out->init ? make_keystore(k, request, kit, &first, why) : -ENOMEM;
    /* The answer is made before the commit: what cannot be answered must not be initialised. */
    if (r == 0)
        r = answer(k, ask, kit, &first, out->init);
    r = store_end(k->store, r);
    free(first.controller.pem);
    free(first.user.pem);
    if (r < 0) {
        forget_all(k);
        return r;
    }
    return keeper_load(k, why);
}

int keeper_issue_controller(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                            Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__IssueControllerRequest *ask = request->issue_controller;
    CA_CHAIN struct ca_chain chain = {0};
    SP_BUFFER struct sp_buffer bundle = {0};
    struct ca_subject subject = {.kind = SP_IDENTITY_CONTROLLER,
                                 .name = ask->controller_name,
                                 .hosts = ask->hosts,
                                 .host_count = ask->n_hosts};
    (void)fd;

    int r = controllers_check(k, ask->controller_name, why);
    if (r == 0)
        r = store_begin(k->store);
    if (r < 0)
        return r;
    r = ca_issue(k, &subject, ask->csr.data, ask->csr.len, &chain, why);
    if (r == 0)
        r = controllers_add(k, ask->controller_name, chain.expires_unix_ms);
    if (r == 0)
        r = audit_write(k, keeper_who(request), "controller.certificate", ask->controller_name,
                        "issued a certificate to the controller");
    r = store_end(k->store, r);
    if (r == 0)
        r = meta_get(k, "trust_bundle", &bundle);
    if (r < 0)
        return r;
    out->issue_controller = MESSAGE_NEW(Sp__RenewResponse, sp__renew_response__init);
    if (!out->issue_controller)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_ISSUE_CONTROLLER;
    r = message_bytes(&out->issue_controller->certificate_chain, chain.pem, chain.size);
    return r < 0 ? r
                 : message_bytes(&out->issue_controller->trust_bundle, bundle.data, bundle.size);
}
