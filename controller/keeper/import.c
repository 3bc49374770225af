/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Keys on their way into the keystore. Each comes in a box that the CLI sealed to the keeper and
 * bound to machine, volume and protector: the controller can neither read it nor put it elsewhere.
 * All keys of a request are one transaction; nothing is acknowledged before it is durable. */
#include "base/sealed_box.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/life.h"
#include "controller/keeper/message.h"
#include "controller/keeper/records.h"
#include <string.h>

enum { IMPORT_MOST = 1000, SECRET_MOST = 64 * 1024, NAME_MOST = 250, NOTE_MOST = 400 };

/* What a box held. */
struct material {
    struct sp_secret *secret;
    Sp__SecretType type;
    uint8_t *plain; /* packed PlainParameters; NULL: none */
    size_t plain_size;
    uint8_t hmac[32];
};

static void material_clear(struct material *m)
{
    sp_secret_free(m->secret);
    free(m->plain);
    memset(m, 0, sizeof(*m));
}
#define MATERIAL __attribute__((cleanup(material_clear)))

static int check_material(const Sp__ImportKey *key, const Sp__KeyMaterial *in, struct sp_why *why)
{
    bool is_plain = strncmp(key->volume_id, "plain:", 6) == 0;
    if (in->type <= SP__SECRET_TYPE__SECRET_TYPE_UNSPECIFIED ||
        in->type > SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY)
        return sp_why_set(why, -EINVAL, "this keeper does not know the type of the key");
    if (in->secret.len == 0 || in->secret.len > SECRET_MOST)
        return sp_why_set(why, -EINVAL, "a key has 1 to %d bytes", SECRET_MOST);
    if (is_plain && (!in->plain || !in->plain->cipher[0] || in->plain->key_bits == 0))
        return sp_why_set(why, -EINVAL,
                          "a plain dm-crypt volume has no header: its cipher and key size belong "
                          "to the key");
    return 0;
}

static int take_material(struct keeper *k, const Sp__ImportKey *key, const Sp__KeyMaterial *in,
                         struct material *m, struct sp_why *why)
{
    int r = check_material(key, in, why);
    if (r == 0 && in->plain)
        r = sp_pack(&in->plain->base, &m->plain, &m->plain_size);
    if (r < 0)
        return r;
    m->type = in->type;
    m->secret = sp_secret_copy(in->secret.data, in->secret.len);
    return m->secret ? record_hmac(k, m->type, (struct sp_bytes){m->plain, m->plain_size},
                                   m->secret, m->hmac)
                     : -ENOMEM;
}

static int open_material(struct keeper *k, const Sp__ImportKey *key, struct material *m,
                         struct sp_why *why)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *packed = NULL;

    int r = key->material ? sp_import_aad(&aad, key->machine, key->volume_id, key->protector_id)
                          : -EINVAL;
    if (r == 0)
        r = sp_box_open(k->box_private, aad.data, aad.size, key->material, &packed);
    if (r == -EBADMSG)
        return sp_why_set(why, r,
                          "the key's box does not open: it is sealed to another keeper or bound to "
                          "another machine, volume or protector");
    if (r < 0)
        return sp_why_set(why, r, "the key's box cannot be opened");
    Sp__KeyMaterial *in = sp__key_material__unpack(&sp_secret_allocator, sp_secret_size(packed),
                                                   sp_secret_data(packed));
    if (!in)
        return sp_why_set(why, -EINVAL, "the key's box holds no key material");
    r = take_material(k, key, in, m, why);
    sp__key_material__free_unpacked(in, &sp_secret_allocator);
    return r;
}

static int check_key(const Sp__ImportKey *key, struct sp_why *why)
{
    if (!sp_uuid_valid(key->machine))
        return sp_why_set(why, -EINVAL, "'%.60s' is no machine id", key->machine);
    if (!key->volume_id[0] || strlen(key->volume_id) > NAME_MOST ||
        strlen(key->protector_id) > NAME_MOST)
        return sp_why_set(why, -EINVAL, "a volume id has 1 to %d bytes", NAME_MOST);
    if (strlen(key->note) > NOTE_MOST)
        return sp_why_set(why, -EINVAL, "a note has at most %d bytes", NOTE_MOST);
    return 0;
}

/* The newest generation: its number, id, and whether it holds the same secret. */
static int find_newest(struct keeper *k, const Sp__ImportKey *key, const uint8_t hmac[32],
                       uint32_t *ret_generation, char ret_same_id[37])
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    *ret_generation = 0;
    ret_same_id[0] = 0;
    int r = store_query(k->store, &stmt,
                        "SELECT generation, secret_hmac, record_id, state FROM records WHERE "
                        "machine_id=? AND volume_id=? AND protector_id=? AND provider=? ORDER BY "
                        "generation DESC LIMIT 1",
                        "ssss", key->machine, key->volume_id, key->protector_id, KEYSTORE_PROVIDER);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r;
    struct sp_bytes stored = store_blob(stmt, 1);
    *ret_generation = (uint32_t)store_int(stmt, 0);
    if (stored.size == 32 && memcmp(stored.data, hmac, 32) == 0 &&
        store_int(stmt, 3) != SP__RECORD_STATE__RECORD_STATE_DESTROYED)
        snprintf(ret_same_id, 37, "%s", store_text(stmt, 2));
    return 0;
}

static int insert_record(struct keeper *k, const Sp__ImportKey *key, const struct material *m,
                         uint32_t generation, Sp__RecordState state, const char *by,
                         const char *record_id)
{
    const struct record_new n = {.provider = KEYSTORE_PROVIDER,
                                 .machine_id = key->machine,
                                 .volume_id = key->volume_id,
                                 .protector_id = key->protector_id,
                                 .version = "",
                                 .note = key->note,
                                 .by = by,
                                 .generation = generation,
                                 .type = m->type,
                                 .state = state,
                                 .plain = {m->plain, m->plain_size},
                                 .secret = m->secret,
                                 .hmac = m->hmac};
    return record_insert(k, &n, record_id);
}

/* A pending key that is imported again without being said to be pending counts from now on. */
static int take_again(struct keeper *k, const Sp__ImportKey *key, const char *record_id,
                      const char *by, Sp__ImportResult *result)
{
    result->already_there = true;
    int r = record_load(k, record_id, &result->record, NULL, NULL);
    if (r < 0 || key->pending || result->record->state != SP__RECORD_STATE__RECORD_STATE_PENDING)
        return r;
    r = life_become(k, record_id, SP__RECORD_STATE__RECORD_STATE_ACTIVE, by, "imported again",
                    NULL);
    result->record->state = SP__RECORD_STATE__RECORD_STATE_ACTIVE;
    return r < 0 ? r : life_supersede(k, result->record, by);
}

static int store_key(struct keeper *k, const Sp__ImportKey *key, const struct material *m,
                     const char *by, Sp__ImportResult *result)
{
    const Sp__RecordState state = key->pending ? SP__RECORD_STATE__RECORD_STATE_PENDING
                                               : SP__RECORD_STATE__RECORD_STATE_ACTIVE;
    char record_id[37];
    uint32_t generation;

    int r = find_newest(k, key, m->hmac, &generation, record_id);
    if (r == 0 && record_id[0])
        return take_again(k, key, record_id, by, result);
    if (r == 0)
        r = sp_uuid_make(record_id);
    if (r == 0)
        r = insert_record(k, key, m, generation + 1, state, by, record_id);
    if (r == 0)
        r = record_load(k, record_id, &result->record, NULL, NULL);
    /* Earlier generations stay, for the points that rest on them. */
    if (r == 0 && !key->pending)
        r = life_supersede(k, result->record, by);
    return r < 0 ? r
                 : audit_write(
                       k, by, "key.import", record_id,
                       "machine %s volume %.100s protector '%.40s' generation %u, %s%s",
                       key->machine, key->volume_id, key->protector_id, generation + 1,
                       sp_enum_name(&sp__secret_type__descriptor, (int)m->type, "SECRET_TYPE_"),
                       key->pending ? ", pending" : "");
}

/* One key. What is wrong with the key goes into the result; a negative errno ends the request. */
static int import_one(struct keeper *k, const Sp__ImportKey *key, const char *by,
                      Sp__ImportResult *result)
{
    MATERIAL struct material m = {0};
    struct sp_why why = {""};

    int r = check_key(key, &why);
    if (r == 0)
        r = open_material(k, key, &m, &why);
    if (r == 0)
        return store_key(k, key, &m, by, result);
    if (r == -ENOMEM)
        return r;
    r = audit_write(k, by, "key.import.refused", key->machine, "volume %.100s: %.300s",
                    key->volume_id, why.text);
    return r < 0 ? r : message_text(&result->error, why.text[0] ? why.text : "refused");
}

int keeper_import(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                  Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__ImportKeysRequest *ask = request->import;
    (void)fd;

    if (ask->n_keys > IMPORT_MOST)
        return sp_why_set(why, -EINVAL, "at most %d keys in one request", IMPORT_MOST);
    Sp__ImportKeysResponse *all =
        MESSAGE_NEW(Sp__ImportKeysResponse, sp__import_keys_response__init);
    if (!all)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_IMPORT;
    out->import = all;
    int r = store_begin(k->store);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ask->n_keys && r == 0; i++) {
        Sp__ImportResult *result = MESSAGE_NEW(Sp__ImportResult, sp__import_result__init);
        r = result ? MESSAGE_ROOM(all->results, all->n_results) : -ENOMEM;
        if (r < 0) {
            free(result);
            break;
        }
        all->results[all->n_results++] = result;
        r = import_one(k, ask->keys[i], keeper_who(request), result);
    }
    r = store_end(k->store, r);
    return r < 0 ? sp_why_set(why, r, "the keys cannot be written to the keystore") : 0;
}
