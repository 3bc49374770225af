/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * After the host burned, or when the last admin lost the key: who holds the recovery kit is the
 * owner, and gets a controller's certificate and an admin's. On an empty keeper the keystore comes
 * from a copy first. The kit comes as a descriptor, so that it passes through no message. */
#include "base/sealed_box.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/ca.h"
#include "controller/keeper/copy.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/people.h"
#include <string.h>

enum { KIT_TEXT_MOST = 4096 };

struct chains {
    struct ca_chain controller, user;
};

static int check_request(const struct keeper *k, const Sp__RestoreRequest *ask, struct sp_why *why)
{
    struct sp_identity id;
    char text[400];
    snprintf(text, sizeof(text), "spiffe://a/controller/%.120s", ask->controller_name);
    if (sp_identity_parse(text, &id) < 0)
        return sp_why_set(why, -EINVAL, "'%.100s' is no name of a controller",
                          ask->controller_name);
    snprintf(text, sizeof(text), "spiffe://a/user/%.120s", ask->user_name);
    if (sp_identity_parse(text, &id) < 0)
        return sp_why_set(why, -EINVAL, "'%.100s' is no name of a user", ask->user_name);
    if (k->initialised && ask->copy.len > 0)
        return sp_why_set(why, -EEXIST,
                          "there is a keystore already, for the domain '%s': it is not replaced",
                          k->domain);
    if (!k->initialised && ask->copy.len == 0)
        return sp_why_set(why, -ENOTCONN, "the keystore is empty, and no copy of one came along");
    return 0;
}

static int read_kit(int fd, struct sp_secret **ret, struct sp_why *why)
{
    SP_SECRET struct sp_secret *text = NULL;
    int r = sp_secret_read(fd, KIT_TEXT_MOST, &text);
    return r < 0 ? sp_why_set(why, r, "the recovery kit cannot be read")
                 : copy_parse_kit(text, ret, why);
}

/* Whether it is the kit of this keystore. */
static int check_kit(const struct keeper *k, const struct sp_secret *kit, struct sp_why *why)
{
    SP_SECRET struct sp_secret *private_key = NULL;
    uint8_t public_key[32];
    int r = kek_kit_private(kit, &private_key);
    if (r == 0)
        r = sp_box_public(private_key, public_key);
    for (size_t i = 0; r == 0 && i < k->keks.count; i++)
        if (strcmp(k->keks.items[i].kind, KEK_KIT) == 0 &&
            memcmp(k->keks.items[i].public_key, public_key, 32) == 0)
            return 0;
    return r < 0 ? r
                 : sp_why_set(why, -EKEYREJECTED,
                              "this is not the recovery kit of the keystore of '%s'", k->domain);
}

/* A name that is known keeps its roles, so it must be the right ones. */
static int admit_user(struct keeper *k, const Sp__RestoreRequest *ask, struct ca_chain *ret,
                      struct sp_why *why)
{
    Sp__RoleBinding admin = SP__ROLE_BINDING__INIT, custodian = SP__ROLE_BINDING__INIT;
    Sp__RoleBinding *roles[] = {&admin, &custodian};
    Sp__AddUserRequest user = SP__ADD_USER_REQUEST__INIT;
    struct ca_subject subject = {.kind = SP_IDENTITY_USER, .name = ask->user_name};

    admin.role = SP__ROLE__ROLE_ADMIN;
    custodian.role = SP__ROLE__ROLE_CUSTODIAN;
    user.name = ask->user_name;
    user.roles = roles;
    user.n_roles = SP_COUNT(roles);
    user.csr = ask->user_csr;
    if (!people_known(k, ask->user_name))
        return people_add(k, &user, "recovery kit", ret, why);
    if (people_check(k, ask->user_name, why) < 0)
        return sp_why_set(why, -EEXIST, "the user '%.100s' was revoked: take another name",
                          ask->user_name);
    for (size_t i = 0; i < SP_COUNT(roles); i++)
        if (!people_has_role(k, ask->user_name, roles[i]->role, NULL))
            return sp_why_set(why, -EEXIST,
                              "there is a user '%.100s' who is not both admin and custodian of all "
                              "machines: take another name",
                              ask->user_name);
    int r = ca_issue(k, &subject, ask->user_csr.data, ask->user_csr.len, ret, why);
    return r < 0 ? r : people_set_expiry(k, ask->user_name, ret->expires_unix_ms);
}

static int admit(struct keeper *k, const Sp__RestoreRequest *ask, struct chains *c,
                 struct sp_why *why)
{
    struct ca_subject subject = {.kind = SP_IDENTITY_CONTROLLER,
                                 .name = ask->controller_name,
                                 .hosts = ask->controller_hosts,
                                 .host_count = ask->n_controller_hosts};
    int r = ca_issue(k, &subject, ask->controller_csr.data, ask->controller_csr.len, &c->controller,
                     why);
    if (r == 0)
        r = controllers_add(k, ask->controller_name, c->controller.expires_unix_ms);
    if (r == 0)
        r = admit_user(k, ask, &c->user, why);
    return r < 0 ? r
                 : audit_write(k, "recovery kit", "keystore.admit", ask->user_name,
                               "issued certificates to the controller '%s' and the admin '%s'",
                               ask->controller_name, ask->user_name);
}

static int answer(struct keeper *k, const struct chains *c, Sp__InitResponse *out)
{
    SP_BUFFER struct sp_buffer bundle = {0};
    char fingerprint[65];
    int r = meta_get(k, "trust_bundle", &bundle);
    if (r == 0)
        r = message_bytes(&out->trust_bundle, bundle.data, bundle.size);
    if (r == 0)
        r = message_bytes(&out->controller_chain, c->controller.pem, c->controller.size);
    if (r == 0)
        r = message_bytes(&out->user_chain, c->user.pem, c->user.size);
    return r < 0
               ? r
               : message_text(&out->ca_fingerprint, sp_certificate_fingerprint(k->ca, fingerprint));
}

static int admit_and_answer(struct keeper *k, const Sp__RestoreRequest *ask, Sp__InitResponse *out,
                            struct sp_why *why)
{
    struct chains c = {0};
    int r = store_begin(k->store);
    if (r < 0)
        return r;
    r = admit(k, ask, &c, why);
    if (r == 0)
        r = answer(k, &c, out);
    r = store_end(k->store, r);
    free(c.controller.pem);
    free(c.user.pem);
    return r;
}

int keeper_restore(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                   Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__RestoreRequest *ask = request->restore;
    SP_SECRET struct sp_secret *kit = NULL;

    int r = check_request(k, ask, why);
    if (r == 0)
        r = read_kit(fd, &kit, why);
    if (r == 0 && !k->initialised)
        r = copy_restore_into(k, kit, message_view(ask->copy), why);
    if (r == 0 && k->locked)
        r = sp_why_set(why, -ENOKEY, "the restored keystore stays locked: %.300s",
                       k->damage.text[0] ? k->damage.text : k->lock_text.text);
    if (r == 0 && (r = check_kit(k, kit, why)) < 0)
        audit_write(k, keeper_who(request), "keystore.admit.refused", ask->user_name, "%s",
                    why->text);
    if (r < 0)
        return r;
    out->restore = MESSAGE_NEW(Sp__InitResponse, sp__init_response__init);
    if (!out->restore)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_RESTORE;
    return admit_and_answer(k, ask, out->restore, why);
}
