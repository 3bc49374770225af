/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/clock.h"
#include "base/signed_request.h"
#include "fakes.h"
#include <string.h>

struct fake_keeper fake_keeper;

static Sp__KeeperResponse *answer(Sp__KeeperResponse__KindCase kind)
{
    Sp__KeeperResponse *r = message_new(&sp__keeper_response__descriptor);
    assert_non_null(r);
    r->kind_case = kind;
    return r;
}

static EVP_PKEY *key(void)
{
    if (!fake_keeper.key)
        fake_keeper.key = sp_key_new();
    assert_non_null(fake_keeper.key);
    return fake_keeper.key;
}

static Sp__KeeperResponse *keys(void)
{
    uint8_t *packed = NULL;
    size_t size = 0;
    Sp__KeeperResponse *r = answer(SP__KEEPER_RESPONSE__KIND_KEYS);
    Sp__KeeperKeys said = SP__KEEPER_KEYS__INIT;
    uint8_t *der = NULL;
    assert_int_equal(sp_public_key_der(key(), &der, &said.sealing_public_key.len), 0);
    said.sealing_public_key.data = der;
    assert_int_equal(sp_pack(&said.base, &packed, &size), 0);
    r->keys = message_new(&sp__keeper_keys_response__descriptor);
    assert_int_equal(sp_signed_make(key(), SP_SIGN_KEEPER_KEYS, packed, size, &r->keys->keys), 0);
    free(packed);
    free(der);
    return r;
}

static Sp__KeeperResponse *seal(const Sp__SealRequest *request)
{
    Sp__KeeperResponse *r = answer(SP__KEEPER_RESPONSE__KIND_SEAL);
    fake_keeper.seals++;
    if (fake_keeper.on_seal)
        fake_keeper.on_seal();
    r->seal = message_new(&sp__seal_response__descriptor);
    assert_int_equal(sp_signed_make(key(), SP_SIGN_MANIFEST, request->manifest.data,
                                    request->manifest.len, &r->seal->manifest),
                     0);
    return r;
}

static Sp__KeeperResponse *look(const Sp__LookRequest *request)
{
    Sp__KeeperResponse *r = answer(SP__KEEPER_RESPONSE__KIND_LOOK);
    fake_keeper.looks++;
    if (fake_keeper.on_look)
        fake_keeper.on_look(request->layout_only);
    r->look = message_new(&sp__look_response__descriptor);
    if (fake_keeper.volume && fake_keeper.volume->kind != SP__VOLUME_KIND__VOLUME_KIND_PLAIN)
        ADD(r->look, volumes, message_copy(fake_keeper.volume));
    for (size_t i = 0; fake_keeper.account_for_all && i < request->n_disks; i++) {
        Sp__RangeUse *use = message_new(&sp__range_use__descriptor);
        use->on = message_new(&sp__disk_extent__descriptor);
        use->on->length_bytes = request->disks[i]->size_bytes;
        assert_int_equal(message_set(&use->on->disk_id, request->disks[i]->disk_id), 0);
        assert_int_equal(message_set(&use->what, "ext4"), 0);
        ADD(r->look, ranges, use);
    }
    return r;
}

static Sp__KeeperResponse *prove(const Sp__ProveRequest *request)
{
    Sp__KeeperResponse *r = answer(SP__KEEPER_RESPONSE__KIND_PROVE);
    Sp__ProofStatement s = SP__PROOF_STATEMENT__INIT;
    Sp__EscrowRecord record = SP__ESCROW_RECORD__INIT;
    uint8_t *packed = NULL;
    size_t size = 0;
    fake_keeper.proofs++;
    fake_keeper.plain_seen |= request->volume->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN;
    if (fake_keeper.on_prove)
        fake_keeper.on_prove();
    s.format = 1;
    s.machine_id = request->machine_id;
    s.point_id = request->point_id;
    s.volume_id = request->volume->volume_id;
    s.kind = request->volume->kind;
    s.verdict = fake_keeper.verdict;
    s.level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT;
    s.made_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    record.record_id = (char *)(uintptr_t) "record-1";
    s.record = &record;
    assert_int_equal(sp_pack(&s.base, &packed, &size), 0);
    r->prove = message_new(&sp__prove_response__descriptor);
    assert_int_equal(sp_signed_make(key(), SP_SIGN_PROOF, packed, size, &r->prove->statement), 0);
    free(packed);
    return r;
}

static Sp__KeeperResponse *vault_key(void)
{
    static const uint8_t bytes[32] = {1, 2, 3};
    Sp__KeeperResponse *r = answer(SP__KEEPER_RESPONSE__KIND_VAULT_KEY);
    r->vault_key = message_new(&sp__vault_key_response__descriptor);
    assert_int_equal(message_set_bytes(&r->vault_key->key, bytes, sizeof(bytes)), 0);
    return r;
}

static Sp__KeeperResponse *copy(void)
{
    Sp__KeeperResponse *r = answer(SP__KEEPER_RESPONSE__KIND_KEYSTORE_COPY);
    r->keystore_copy = message_new(&sp__keystore_copy_response__descriptor);
    r->keystore_copy->epoch = 7;
    assert_int_equal(message_set_bytes(&r->keystore_copy->copy, "copy", 4), 0);
    return r;
}

static int call(void *self, Sp__KeeperRequest *q, int timeout_ms, Sp__KeeperResponse **ret,
                struct sp_why *why)
{
    (void)self;
    (void)timeout_ms;
    if (fake_keeper.away && fake_keeper.on_away)
        fake_keeper.on_away();
    if (fake_keeper.away)
        return sp_why_set(why, -EHOSTUNREACH, "the keeper does not run");
    switch (q->kind_case) {
    case SP__KEEPER_REQUEST__KIND_STATUS:
        *ret = answer(SP__KEEPER_RESPONSE__KIND_STATUS);
        (*ret)->status = message_new(&sp__keeper_status_response__descriptor);
        return 0;
    case SP__KEEPER_REQUEST__KIND_LIST_KEYS:
        *ret = answer(SP__KEEPER_RESPONSE__KIND_LIST_KEYS);
        (*ret)->list_keys = message_new(&sp__list_keys_response__descriptor);
        return 0;
    case SP__KEEPER_REQUEST__KIND_PIN:
        fake_keeper.pins++;
        *ret = answer(SP__KEEPER_RESPONSE__KIND_PIN);
        (*ret)->pin = message_new(&sp__pin_response__descriptor);
        return 0;
    case SP__KEEPER_REQUEST__KIND_UNPIN:
        fake_keeper.unpins++;
        fake_keeper.kept_records = (unsigned)q->unpin->n_keep_record_ids;
        *ret = answer(SP__KEEPER_RESPONSE__KIND_UNPIN);
        (*ret)->unpin = message_new(&sp__done__descriptor);
        return 0;
    case SP__KEEPER_REQUEST__KIND_SEAL:
        if (fake_keeper.locked || fake_keeper.refuse_seal)
            return sp_why_set(why, fake_keeper.locked ? -ENOKEY : -EPERM, "not sealed");
        *ret = seal(q->seal);
        return 0;
    case SP__KEEPER_REQUEST__KIND_KEYSTORE_COPY:
        if (fake_keeper.locked)
            return sp_why_set(why, -ENOKEY, "locked");
        *ret = copy();
        return 0;
    case SP__KEEPER_REQUEST__KIND_VAULT_KEY:
        *ret = vault_key();
        return 0;
    case SP__KEEPER_REQUEST__KIND_KEYS:
        *ret = keys();
        return 0;
    case SP__KEEPER_REQUEST__KIND_CHECK:
        *ret = answer(SP__KEEPER_RESPONSE__KIND_CHECK);
        (*ret)->check = message_new(&sp__check_keystore_response__descriptor);
        return 0;
    default:
        return sp_why_set(why, -EINVAL, "the fake keeper knows no request %d", (int)q->kind_case);
    }
}

static int call_reading(void *self, Sp__KeeperRequest *q,
                        int (*read_at)(void *, uint32_t, uint64_t, void *, uint32_t),
                        void *read_self, int timeout_ms, Sp__KeeperResponse **ret,
                        struct sp_why *why)
{
    uint8_t sector[512];
    (void)timeout_ms;
    (void)self;
    if (fake_keeper.away && fake_keeper.on_away)
        fake_keeper.on_away();
    if (fake_keeper.away)
        return sp_why_set(why, -EHOSTUNREACH, "the keeper does not run");
    int r = read_at(read_self, 0, 0, sector, sizeof(sector));
    if (r < 0)
        return sp_why_set(why, r, "the disk cannot be read");
    assert_memory_equal(sector, fake_source.bytes[0], sizeof(sector));
    *ret = q->kind_case == SP__KEEPER_REQUEST__KIND_LOOK ? look(q->look) : prove(q->prove);
    return 0;
}

const struct engine_keeper fake_keeper_calls = {call, call_reading};
