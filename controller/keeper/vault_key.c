/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The key of a vault's clear chunks. Not a guest's key: the mover uses it. It lies here because the
 * keystore's copy then takes it along to an empty host. */
#include "controller/keeper/audit.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/wrap.h"

enum { VAULT_KEY_BYTES = 32 };

static int load(struct keeper *k, const char *vault_id, struct sp_secret **ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_BUFFER struct sp_buffer aad = {0};
    int r = store_query(k->store, &stmt,
                        "SELECT dek_id, nonce, ciphertext FROM vault_keys WHERE vault_id=?", "s",
                        vault_id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    r = aead_bind(&aad, "sealpoint vault key 1", vault_id, NULL);
    return r < 0 ? r
                 : wrap_open(k, store_text(stmt, 0), store_blob(stmt, 1), sp_bytes_of(&aad),
                             store_blob(stmt, 2), ret);
}

static int make(struct keeper *k, const char *who, const char *vault_id, struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *key = sp_secret_new(VAULT_KEY_BYTES);
    SP_BUFFER struct sp_buffer aad = {0};
    WRAPPED struct wrapped w = {0};

    int r = key ? sp_random(sp_secret_data(key), VAULT_KEY_BYTES) : -ENOMEM;
    if (r == 0)
        r = aead_bind(&aad, "sealpoint vault key 1", vault_id, NULL);
    if (r == 0)
        r = store_begin(k->store);
    if (r < 0)
        return r;
    r = wrap_seal(k, sp_bytes_of(&aad), key, &w);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO vault_keys VALUES(?,?,?,?,?)", "ssbbi", vault_id,
                      w.dek_id, w.nonce, sizeof(w.nonce), w.ciphertext.data, w.ciphertext.size,
                      (int64_t)keeper_now_ms(k));
    if (r == 0)
        r = journal_note(k, "vault_keys", vault_id);
    if (r == 0)
        r = audit_write(k, who, "vault.key", vault_id, "made a key for a vault's clear chunks");
    r = store_end(k->store, r);
    if (r == 0)
        *ret = sp_steal(key);
    return r;
}

int keeper_vault_key(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                     Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__VaultKeyRequest *ask = request->vault_key;
    SP_SECRET struct sp_secret *key = NULL;
    (void)fd;

    if (!sp_uuid_valid(ask->vault_id))
        return sp_why_set(why, -EINVAL, "'%.60s' is no vault id", ask->vault_id);
    int r = load(k, ask->vault_id, &key);
    if (r == -ENOENT && ask->create)
        r = make(k, keeper_who(request), ask->vault_id, &key);
    if (r < 0)
        return sp_why_set(why, r, "the key of the vault %s %s", ask->vault_id,
                          r == -ENOENT ? "is not in the keystore" : "cannot be had");
    out->vault_key = MESSAGE_NEW(Sp__VaultKeyResponse, sp__vault_key_response__init);
    if (!out->vault_key)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_VAULT_KEY;
    return message_bytes(&out->vault_key->key, sp_secret_data(key), sp_secret_size(key));
}
