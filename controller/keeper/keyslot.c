/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Recovery keys for keyslots of their own (keyslot.proto). The keeper makes the key, keeps it as a
 * pending record, and signs an order for the agent that carries the key in a box:
 *
 *   record pending, durable ─▶ order ─▶ guest adds the keyslot ─▶ a proof opens with it: active
 *                                    └▶ guest has none: the record is destroyed (end_keyslot)
 *
 * The controller carries the order and can neither read it, nor change it, nor have it obeyed a
 * second time or elsewhere: everything it says is under the signature, the box included. */
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/life.h"
#include "controller/keeper/machines.h"
#include "controller/keeper/message.h"
#include "controller/keeper/records.h"
#include <sealpoint/v1/keyslot.pb-c.h>
#include <string.h>

enum { KEY_BYTES = 32, KEYSLOTS = 32, NAME_MOST = 250, WHY_MOST = 300, PENDING_MOST = 4 };

MESSAGE_CLEANUP(record, Sp__EscrowRecord, sp__escrow_record__free_unpacked)
MESSAGE_CLEANUP(box, Sp__SealedBox, sp__sealed_box__free_unpacked)

static bool is_keyslot_record(const Sp__EscrowRecord *e)
{
    return strcmp(e->provider, KEYSTORE_PROVIDER) == 0 && strcmp(e->version, RECORD_KEYSLOT) == 0;
}

/* ---- order ---- */

static int check_order(const Sp__OrderKeyslotRequest *ask, struct sp_why *why)
{
    if (!sp_uuid_valid(ask->machine_id))
        return sp_why_set(why, -EINVAL, "'%.60s' is no machine id", ask->machine_id);
    if (strncmp(ask->volume_id, "luks:", 5) != 0 || strlen(ask->volume_id) > NAME_MOST)
        return sp_why_set(why, -EINVAL, "'%.60s' is no LUKS volume", ask->volume_id);
    if (ask->keyslot >= KEYSLOTS || ask->header_sha256.len != 32 || ask->nonce.len != 32)
        return sp_why_set(why, -EINVAL, "the agent's answer about the header is incomplete");
    if (strlen(ask->why) > WHY_MOST)
        return sp_why_set(why, -EINVAL, "a reason has at most %d bytes", WHY_MOST);
    return 0;
}

/* The machine whose agent the box is for. */
static int load_machine(struct keeper *k, const char *machine_id, struct machine *m,
                        struct sp_why *why)
{
    static const uint8_t none[32];
    int r = machine_load(k, machine_id, m);
    if (r == -ENOENT)
        return sp_why_set(why, r, "no agent has enrolled for the machine %s", machine_id);
    if (r < 0)
        return r;
    if (m->revoked || m->pending)
        return sp_why_set(why, -EPERM, "the machine '%s' %s", m->name,
                          m->revoked ? "was revoked" : "waits for approval");
    if (memcmp(m->encryption_key, none, sizeof(none)) == 0)
        return sp_why_set(why, -ENOKEY, "the agent of '%s' has no encryption key", m->name);
    return 0;
}

/* The next generation of the keyslot. Few orders may be open at once: each leaves a key that every
 * proof tries. */
static int look_at_records(struct keeper *k, const Sp__OrderKeyslotRequest *ask,
                           const char *protector_id, uint32_t *ret_generation, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT coalesce(max(CASE protector_id WHEN ?3 THEN generation END), 0),"
                        " count(CASE WHEN state=?5 AND version=?6 THEN 1 END) FROM records"
                        " WHERE machine_id=?1 AND volume_id=?2 AND provider=?4",
                        "ssssis", ask->machine_id, ask->volume_id, protector_id, KEYSTORE_PROVIDER,
                        (int64_t)SP__RECORD_STATE__RECORD_STATE_PENDING, RECORD_KEYSLOT);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -EIO;
    if (store_int(stmt, 1) >= PENDING_MOST)
        return sp_why_set(why, -EBUSY,
                          "%d recovery keys of the volume wait for a proof already: back it up "
                          "first",
                          PENDING_MOST);
    *ret_generation = (uint32_t)store_int(stmt, 0) + 1;
    return 0;
}

static int insert_record(struct keeper *k, const Sp__KeeperRequest *request,
                         const struct sp_secret *key, const char *record_id, struct sp_why *why)
{
    const Sp__OrderKeyslotRequest *ask = request->order_keyslot;
    const struct sp_bytes no_plain = {NULL, 0};
    char protector_id[16];
    uint8_t hmac[32];
    struct record_new n = {.provider = KEYSTORE_PROVIDER,
                           .machine_id = ask->machine_id,
                           .volume_id = ask->volume_id,
                           .protector_id = protector_id,
                           .version = RECORD_KEYSLOT,
                           .note = ask->why,
                           .by = keeper_who(request),
                           .type = SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE,
                           .state = SP__RECORD_STATE__RECORD_STATE_PENDING,
                           .plain = no_plain,
                           .secret = key,
                           .hmac = hmac};
    snprintf(protector_id, sizeof(protector_id), "%u", ask->keyslot);
    int r = look_at_records(k, ask, protector_id, &n.generation, why);
    if (r == 0)
        r = record_hmac(k, n.type, no_plain, key, hmac);
    return r < 0 ? r : record_insert(k, &n, record_id);
}

static int sign_order(struct keeper *k, const Sp__OrderKeyslotRequest *ask, const struct machine *m,
                      const struct sp_secret *key, const char *record_id, Sp__Signed **ret)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_CLEANUP(box) Sp__SealedBox *box = NULL;
    SP_FREE uint8_t *packed = NULL;
    size_t size = 0;
    Sp__KeyslotOrder order = SP__KEYSLOT_ORDER__INIT;

    int r = sp_keyslot_aad(&aad, ask->machine_id, ask->volume_id, record_id,
                           SP_HEX32(ask->header_sha256.data));
    if (r == 0)
        r = sp_box_seal(m->encryption_key, aad.data, aad.size, sp_secret_data(key),
                        sp_secret_size(key), &box);
    if (r < 0)
        return r;
    order.domain = k->domain;
    order.machine_id = ask->machine_id;
    order.volume_id = ask->volume_id;
    order.record_id = (char *)(uintptr_t)record_id;
    order.keyslot = ask->keyslot;
    order.header_sha256 = ask->header_sha256;
    order.nonce = ask->nonce;
    order.key = box;
    order.made_unix_ms = keeper_now_ms(k);
    r = sp_pack(&order.base, &packed, &size);
    return r < 0 ? r : sp_signed_make(k->sealing_key, SP_SIGN_KEYSLOT, packed, size, ret);
}

static int make_order(struct keeper *k, const Sp__KeeperRequest *request,
                      Sp__OrderKeyslotResponse *out, struct sp_why *why)
{
    const Sp__OrderKeyslotRequest *ask = request->order_keyslot;
    SP_SECRET struct sp_secret *key = sp_secret_new(KEY_BYTES);
    SP_BUFFER struct sp_buffer keys = {0};
    struct machine m;
    char record_id[37];

    int r = key ? sp_random(sp_secret_data(key), KEY_BYTES) : -ENOMEM;
    if (r == 0)
        r = load_machine(k, ask->machine_id, &m, why);
    if (r == 0)
        r = sp_uuid_make(record_id);
    if (r == 0)
        r = insert_record(k, request, key, record_id, why);
    if (r == 0)
        r = sign_order(k, ask, &m, key, record_id, &out->order);
    if (r == 0)
        r = record_load(k, record_id, &out->record, NULL, NULL);
    if (r == 0)
        r = meta_get(k, "keeper_keys", &keys);
    if (r == 0 && !(out->keeper_keys = sp__signed__unpack(NULL, keys.size, keys.data)))
        r = -EUCLEAN;
    return r < 0 ? r
                 : audit_write(k, keeper_who(request), "keyslot.order", record_id,
                               "machine %s volume %.100s keyslot %u: %.200s", ask->machine_id,
                               ask->volume_id, ask->keyslot, ask->why);
}

static int refuse(struct keeper *k, const Sp__KeeperRequest *request, const char *what,
                  const char *about, int error, const struct sp_why *why)
{
    audit_write(k, keeper_who(request), what, about, "%.400s",
                why->text[0] ? why->text : strerror(-error));
    return error;
}

int keeper_order_keyslot(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                         Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__OrderKeyslotRequest *ask = request->order_keyslot;
    (void)fd;
    out->order_keyslot = MESSAGE_NEW(Sp__OrderKeyslotResponse, sp__order_keyslot_response__init);
    if (!out->order_keyslot)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_ORDER_KEYSLOT;
    int r = check_order(ask, why);
    if (r == 0)
        r = store_begin(k->store);
    if (r == 0)
        r = store_end(k->store, make_order(k, request, out->order_keyslot, why));
    return r < 0 ? refuse(k, request, "keyslot.order.refused", ask->machine_id, r, why) : 0;
}

/* ---- end ---- */

static int end_record(struct keeper *k, const Sp__KeeperRequest *request, struct sp_why *why)
{
    const Sp__EndKeyslotRequest *ask = request->end_keyslot;
    SP_CLEANUP(record) Sp__EscrowRecord *e = NULL;
    char reason[WHY_MOST + 1];
    int r = record_load(k, ask->record_id, &e, NULL, NULL);
    if (r < 0)
        return sp_why_set(why, r, "there is no record %.60s", ask->record_id);
    if (!is_keyslot_record(e) || e->state != SP__RECORD_STATE__RECORD_STATE_PENDING)
        return sp_why_set(why, -ESTALE, "the record %s is no pending key of a keyslot order",
                          e->record_id);
    snprintf(reason, sizeof(reason), "%.*s", WHY_MOST, ask->why);
    r = life_take_back(k, e, keeper_who(request), reason, why);
    return r < 0 ? r
                 : audit_write(k, keeper_who(request), "keyslot.end", e->record_id,
                               "machine %s volume %.100s: %s", e->machine_id, e->volume_id, reason);
}

int keeper_end_keyslot(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                       Sp__KeeperResponse *out, struct sp_why *why)
{
    (void)fd;
    out->end_keyslot = MESSAGE_NEW(Sp__Done, sp__done__init);
    if (!out->end_keyslot)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_END_KEYSLOT;
    int r = store_begin(k->store);
    if (r == 0)
        r = store_end(k->store, end_record(k, request, why));
    if (r == 0)
        store_forget(k->store); /* when it cannot now, the next checkpoint does it */
    return r < 0
               ? refuse(k, request, "keyslot.end.refused", request->end_keyslot->record_id, r, why)
               : 0;
}
