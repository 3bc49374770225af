/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/order.h"

#include "base/sealed_box.h"
#include "controller/keeper/copy.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/life.h"
#include "controller/keeper/machines.h"
#include "controller/keeper/message.h"
#include "controller/keeper/people.h"
#include "controller/keeper/records.h"
#include "controller/keeper/wrap.h"
#include <inttypes.h>
#include <string.h>

MESSAGE_CLEANUP(record, Sp__EscrowRecord, sp__escrow_record__free_unpacked)

/* ---- who ---- */

int order_admin(struct order *d, const char *group)
{
    if (people_has_role(d->k, d->who->name, SP__ROLE__ROLE_ADMIN, group && *group ? group : NULL))
        return 0;
    if (group && *group)
        return sp_why_set(d->why, -EPERM, "'%s' is no admin of the group '%.100s'", d->who->name,
                          group);
    return sp_why_set(d->why, -EPERM, "'%s' is no admin of all machines", d->who->name);
}

int order_admin_of(struct order *d, const char *machine_id)
{
    char group[128];
    machine_group(d->k, machine_id, group);
    return order_admin(d, group);
}

int order_done(struct order *d)
{
    Sp__Done *message = MESSAGE_NEW(Sp__Done, sp__done__init);
    d->result = message ? &message->base : NULL;
    return message ? 0 : -ENOMEM;
}

/* ---- records ---- */

/* Only an admin of the machine learns whether the record exists. */
static int load_for_admin(struct order *d, const char *record_id, Sp__EscrowRecord **ret)
{
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    snprintf(d->about, sizeof(d->about), "%.60s", record_id);
    int r = record_load(d->k, record_id, &e, NULL, NULL);
    if (r == -ENOENT)
        return order_admin(d, NULL) < 0
                   ? -EPERM
                   : sp_why_set(d->why, r, "there is no record '%.60s'", record_id);
    if (r == 0)
        r = order_admin_of(d, e->machine_id);
    if (r == 0)
        *ret = sp_steal(e);
    return r;
}

static int need_reason(struct order *d, const char *reason)
{
    return reason[0] ? 0
                     : sp_why_set(d->why, -EINVAL, "say why: it goes into the record's history");
}

int order_compromise(struct order *d)
{
    const Sp__CompromiseKeyRequest *ask = (const Sp__CompromiseKeyRequest *)d->arguments;
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    Sp__KeyDetail *detail = NULL;
    int r = load_for_admin(d, ask->record_id, &e);
    if (r == 0)
        r = need_reason(d, ask->why);
    if (r == 0)
        r = life_become(d->k, e->record_id, SP__RECORD_STATE__RECORD_STATE_COMPROMISED, d->who_text,
                        ask->why, d->why);
    if (r == 0)
        r = life_detail(d->k, e->record_id, &detail, d->why);
    if (r < 0)
        return r;
    d->result = &detail->base;
    snprintf(
        d->text, sizeof(d->text),
        "machine %s volume %.80s generation %u: still opens %zu points and %zu volumes: %.120s",
        e->machine_id, e->volume_id, e->generation, detail->n_points, detail->n_volumes, ask->why);
    return 0;
}

static int destroy(struct order *d, const Sp__DestroyKeyRequest *ask, Sp__DestroyKeyResponse *out)
{
    int r = ask->withdraw ? life_withdraw(d->k, ask->record_id, d->why) : need_reason(d, ask->why);
    if (r == 0 && !ask->withdraw)
        r = life_destroy(d->k, ask->record_id, d->who_text, ask->why, &out->destruction, d->why);
    if (r == 0)
        r = record_load(d->k, ask->record_id, &out->record, NULL, NULL);
    if (r < 0)
        return r;
    const Sp__EscrowRecord *e = out->record;
    d->erased = e->state == SP__RECORD_STATE__RECORD_STATE_DESTROYED;
    d->what = d->erased       ? "key.destroy"
              : ask->withdraw ? "key.destroy.withdrawn"
                              : "key.destroy.asked";
    snprintf(d->text, sizeof(d->text), "machine %s volume %.80s generation %u: %.200s",
             e->machine_id, e->volume_id, e->generation, ask->why);
    return 0;
}

int order_destroy(struct order *d)
{
    const Sp__DestroyKeyRequest *ask = (const Sp__DestroyKeyRequest *)d->arguments;
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    int r = load_for_admin(d, ask->record_id, &e);
    if (r < 0)
        return r;
    Sp__DestroyKeyResponse *out =
        MESSAGE_NEW(Sp__DestroyKeyResponse, sp__destroy_key_response__init);
    if (!out)
        return -ENOMEM;
    d->result = &out->base;
    return destroy(d, ask, out);
}

/* ---- KEKs ---- */

/* Material for the new one; a kit is made here and leaves in a box for whoever signed. */
static int new_material(struct order *d, const Sp__AddKekRequest *ask, struct sp_secret **ret,
                        Sp__AddKekResponse *out)
{
    SP_BUFFER struct sp_buffer aad = {0};
    if (strcmp(ask->kind, KEK_KIT) != 0) {
        int r = kek_material(d->k, ask->kind, ret, d->why);
        return r == -ENOENT ? sp_why_set(d->why, -EINVAL,
                                         "keeper.conf does not say where the material of a KEK of "
                                         "kind '%.30s' comes from",
                                         ask->kind)
                            : r;
    }
    if (ask->reply_key.len != SP_BOX_KEY_BYTES)
        return sp_why_set(d->why, -EINVAL, "the key to seal the recovery kit to is not 32 bytes");
    *ret = sp_secret_new(KEK_KIT_BYTES);
    int r = *ret ? sp_random(sp_secret_data(*ret), KEK_KIT_BYTES) : -ENOMEM;
    if (r == 0)
        r = sp_kit_aad(&aad, d->k->domain);
    return r < 0 ? r
                 : sp_box_seal(ask->reply_key.data, aad.data, aad.size, sp_secret_data(*ret),
                               KEK_KIT_BYTES, &out->recovery_kit);
}

int order_add_kek(struct order *d)
{
    const Sp__AddKekRequest *ask = (const Sp__AddKekRequest *)d->arguments;
    SP_SECRET struct sp_secret *material = NULL;
    Sp__AddKekResponse *out = NULL;
    snprintf(d->about, sizeof(d->about), "%.60s", ask->kind);
    int r = order_admin(d, NULL);
    if (r < 0)
        return r;
    out = MESSAGE_NEW(Sp__AddKekResponse, sp__add_kek_response__init);
    if (!out)
        return -ENOMEM;
    d->result = &out->base;
    r = new_material(d, ask, &material, out);
    if (r == 0)
        r = kek_change(d->k, ask->kind, material, &out->deks, d->why);
    if (r == 0)
        r = kek_describe(d->k, d->k->keks.count - 1, &out->kek);
    if (r == 0)
        snprintf(d->text, sizeof(d->text), "KEK %s wraps %" PRIu64 " keys", out->kek->kek_id,
                 out->deks);
    return r;
}

int order_remove_kek(struct order *d)
{
    const Sp__RemoveKekRequest *ask = (const Sp__RemoveKekRequest *)d->arguments;
    snprintf(d->about, sizeof(d->about), "%.60s", ask->kek_id);
    int r = order_admin(d, NULL);
    if (r == 0)
        r = kek_remove(d->k, ask->kek_id, d->why);
    return r < 0 ? r : order_done(d);
}

int keeper_list_keks(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                     Sp__KeeperResponse *out, struct sp_why *why)
{
    (void)request, (void)fd, (void)why;
    out->list_keks = MESSAGE_NEW(Sp__ListKeksResponse, sp__list_keks_response__init);
    if (!out->list_keks)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_LIST_KEKS;
    int r = 0;
    for (size_t i = 0; i < k->keks.count && r == 0; i++) {
        r = MESSAGE_ROOM(out->list_keks->keks, out->list_keks->n_keks);
        if (r == 0)
            r = kek_describe(k, i, &out->list_keks->keks[out->list_keks->n_keks]);
        if (r == 0)
            out->list_keks->n_keks++;
    }
    return r;
}

/* ---- the keystore as a whole ---- */

int order_export(struct order *d)
{
    SP_BUFFER struct sp_buffer file = {0};
    int r = order_admin(d, NULL);
    if (r < 0)
        return r;
    Sp__KeystoreExport *out = MESSAGE_NEW(Sp__KeystoreExport, sp__keystore_export__init);
    if (!out)
        return -ENOMEM;
    d->result = &out->base;
    r = copy_make(d->k, true, &file, &out->epoch, d->why);
    if (r < 0)
        return r;
    out->file = (ProtobufCBinaryData){file.size, file.data};
    file = (struct sp_buffer){0};
    snprintf(d->about, sizeof(d->about), "%s", d->k->domain);
    snprintf(d->text, sizeof(d->text), "epoch %" PRIu64 ", %zu bytes, to the recovery kit",
             out->epoch, out->file.len);
    return 0;
}

int order_reconcile(struct order *d)
{
    Sp__ReconcileResponse *out = NULL;
    int r = order_admin(d, NULL);
    if (r == 0)
        r = reconcile_finish(d->k, &out, d->why);
    if (r < 0 && out)
        sp__reconcile_response__free_unpacked(out, NULL);
    if (r < 0)
        return r;
    d->result = &out->base;
    snprintf(d->about, sizeof(d->about), "%s", d->k->domain);
    snprintf(d->text, sizeof(d->text), "%u manifests, %u pins added, %zu records missing%s",
             out->manifests, out->pins_added, out->n_missing_records,
             out->was_needed ? "" : "; there was no need");
    return 0;
}
