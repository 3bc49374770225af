/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys on their way out: to a custodian who signed for it, sealed to that person's reply key, of
 * the generation that the point's sealed proofs name, and in the audit before the answer leaves. */
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/execute.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/machines.h"
#include "controller/keeper/manifest_rules.h"
#include "controller/keeper/message.h"
#include "controller/keeper/people.h"
#include "controller/keeper/records.h"
#include <string.h>

static const char method[] = "/sealpoint.v1.Keys/Release";

struct releasing {
    struct keeper *k;
    struct sp_identity who;
    char who_text[320];
    Sp__ReleaseRequest *ask;
    struct judged judged;
    Sp__ReleaseResponse *out;
};

/* ---- one key ---- */

static int seal_material(const struct releasing *r, const Sp__ReleasedKey *key,
                         const struct sp_secret *secret, Sp__SealedBox **ret)
{
    SP_BUFFER struct sp_buffer aad = {0};
    Sp__KeyMaterial material = SP__KEY_MATERIAL__INIT;

    material.type = key->record->secret_type;
    material.secret = (ProtobufCBinaryData){sp_secret_size(secret), sp_secret_data(secret)};
    material.plain = key->record->plain;
    SP_SECRET struct sp_secret *packed =
        sp_secret_new(sp__key_material__get_packed_size(&material));
    if (!packed)
        return -ENOMEM;
    sp__key_material__pack(&material, sp_secret_data(packed));
    int e = sp_release_aad(&aad, r->ask->point_id, key->volume_id, key->record->record_id);
    return e < 0 ? e
                 : sp_box_seal(r->ask->reply_key.data, aad.data, aad.size, sp_secret_data(packed),
                               sp_secret_size(packed), ret);
}

/* Whole, or not at all: nothing of a key that could not be given stays in the answer. */
static int make_key(struct releasing *r, const Sp__ProofStatement *s, Sp__ReleasedKey *key,
                    struct sp_why *why)
{
    SP_SECRET struct sp_secret *secret = NULL;
    int e = record_load(r->k, s->record->record_id, &key->record, &secret, NULL);
    if (e < 0)
        return sp_why_set(why, e, "the record %s %s", s->record->record_id,
                          e == -ENOENT    ? "is not in this keystore"
                          : e == -ENODATA ? "was destroyed"
                          : e == -EREMOTE
                              ? "is not in this keystore but at its provider: get it there"
                              : "does not open");
    /* The generation that was proved for this very machine and volume, or nothing. */
    if (key->record->generation != s->record->generation ||
        strcmp(key->record->machine_id, s->machine_id) != 0 ||
        !sp_volume_id_same_base(key->record->volume_id, s->volume_id))
        return sp_why_set(why, -ESTALE, "the record %s is not the one that was proved",
                          s->record->record_id);
    e = message_text(&key->volume_id, s->volume_id);
    if (e == 0)
        e = seal_material(r, key, secret, &key->material);
    if (e == 0)
        e = audit_write(r->k, r->who_text, "key.release", key->record->record_id,
                        "point %s volume %.100s generation %u: %.300s", r->ask->point_id,
                        s->volume_id, key->record->generation, r->ask->why);
    return e;
}

static int release_one(struct releasing *r, const Sp__ProofStatement *s, struct sp_why *why)
{
    Sp__ReleasedKey *key = MESSAGE_NEW(Sp__ReleasedKey, sp__released_key__init);
    int e = key ? MESSAGE_ROOM(r->out->keys, r->out->n_keys) : -ENOMEM;
    if (e == 0)
        e = make_key(r, s, key, why);
    if (e < 0) {
        if (key)
            sp__released_key__free_unpacked(key, NULL);
        return e;
    }
    r->out->keys[r->out->n_keys++] = key;
    return 0;
}

static int note_failure(struct releasing *r, const Sp__ProofStatement *s, const char *text)
{
    Sp__ReleaseFailure *f = MESSAGE_NEW(Sp__ReleaseFailure, sp__release_failure__init);
    int e = f ? MESSAGE_ROOM(r->out->failures, r->out->n_failures) : -ENOMEM;
    if (e < 0) {
        free(f);
        return e;
    }
    r->out->failures[r->out->n_failures++] = f;
    e = message_text(&f->volume_id, s->volume_id);
    if (e == 0)
        e = message_text(&f->record_id, s->record->record_id);
    if (e == 0)
        e = message_text(&f->text, text);
    return e < 0 ? e
                 : audit_write(r->k, r->who_text, "key.release.refused", s->record->record_id,
                               "point %s volume %.100s: %s", r->ask->point_id, s->volume_id, text);
}

/* What concerns one record only; anything else (the disk, memory) ends the release. */
static bool is_of_record(int error)
{
    return error == -ENOENT || error == -ESTALE || error == -EBADMSG || error == -EUCLEAN ||
           error == -ENOKEY || error == -ENODATA || error == -EREMOTE;
}

static int release_all(struct releasing *r, struct sp_why *why)
{
    const bool every = !r->ask->volume_id[0];
    int e = 0, last = 0;
    for (size_t i = 0; i < r->judged.count && e == 0; i++) {
        const char *volume_id = r->judged.statements[i]->volume_id;
        const Sp__ProofStatement *s = manifest_opening(&r->judged, volume_id);
        if (!s || (!every && strcmp(r->ask->volume_id, volume_id) != 0))
            continue;
        e = release_one(r, s, why);
        if (every && is_of_record(e)) {
            last = e;
            e = note_failure(r, s, why->text);
        }
    }
    if (e < 0 || r->out->n_keys > 0)
        return e;
    return last < 0
               ? last
               : sp_why_set(why, -ENOENT, "no proof of the point %s names a key for %.100s",
                            r->ask->point_id, every ? "any of its volumes" : r->ask->volume_id);
}

/* ---- checks ---- */

static int check_manifest(struct releasing *r, const Sp__Signed *sealed, struct sp_why *why)
{
    if (!sealed || sp_signed_verify(sealed, SP_SIGN_MANIFEST, r->k->sealing_key) < 0)
        return sp_why_set(why, -EKEYREJECTED, "the point's manifest is not sealed by this keeper");
    int e = manifest_judge(sealed->payload.data, sealed->payload.len, r->k->sealing_key, false,
                           &r->judged, why);
    if (e == 0 && strcmp(r->judged.manifest->point_id, r->ask->point_id) != 0)
        e = sp_why_set(why, -EINVAL, "the manifest is another point's");
    return e;
}

static int check_custodian(struct releasing *r, struct sp_why *why)
{
    char group[128];
    machine_group(r->k, r->judged.manifest->machine_id, group);
    if (people_has_role(r->k, r->who.name, SP__ROLE__ROLE_CUSTODIAN, group))
        return 0;
    return sp_why_set(why, -EPERM, "'%s' is no custodian of this machine", r->who.name);
}

static int check(struct releasing *r, const Sp__ReleaseForRequest *in, struct sp_why *why)
{
    int e = execute_check(r->k, in->request, method, &r->who, why);
    if (e < 0)
        return e;
    sp_identity_text(&r->who, r->who_text, sizeof(r->who_text));
    r->ask =
        sp__release_request__unpack(NULL, in->request->arguments.len, in->request->arguments.data);
    if (!r->ask || r->ask->base.n_unknown_fields > 0)
        return sp_why_set(why, -EINVAL, "the request's arguments cannot be read");
    if (r->ask->reply_key.len != SP_BOX_KEY_BYTES)
        return sp_why_set(why, -EINVAL, "the key to seal the answer to is not 32 bytes");
    e = check_manifest(r, in->manifest, why);
    return e < 0 ? e : check_custodian(r, why);
}

int keeper_release(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                   Sp__KeeperResponse *out, struct sp_why *why)
{
    struct releasing r = {.k = k};
    (void)fd;

    out->release = r.out = MESSAGE_NEW(Sp__ReleaseResponse, sp__release_response__init);
    if (!r.out)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_RELEASE;
    int e = check(&r, request->release, why);
    if (e == 0)
        e = store_begin(k->store);
    if (e == 0)
        e = store_end(k->store, release_all(&r, why));
    if (e < 0)
        audit_write(k, r.who_text[0] ? r.who_text : keeper_who(request), "key.release.refused",
                    r.ask ? r.ask->point_id : NULL, "%s", why->text[0] ? why->text : strerror(-e));
    if (r.ask)
        sp__release_request__free_unpacked(r.ask, NULL);
    judged_clear(&r.judged);
    return e;
}
