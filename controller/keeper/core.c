/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper's own secrets: CA key, sealing key (Ed25519), box key (X25519), MAC key. */
#include "base/identity.h"
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include "controller/keeper/ca.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/wrap.h"
#include <string.h>

MESSAGE_CLEANUP(signed, Sp__Signed, sp__signed__free_unpacked)

int meta_get(struct keeper *k, const char *name, struct sp_buffer *out)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT value FROM meta WHERE name=?", "s", name);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    struct sp_bytes value = store_blob(stmt, 0);
    out->size = 0;
    return sp_buffer_append(out, value.data, value.size);
}

int meta_set(struct keeper *k, const char *name, struct sp_bytes value)
{
    int r = store_run(k->store, "INSERT OR REPLACE INTO meta VALUES(?,?)", "sb", name, value.data,
                      value.size);
    return r < 0 ? r : journal_note(k, "meta", name);
}

/* ---- keys as bytes ---- */

static int key_to_secret(EVP_PKEY *key, struct sp_secret **ret)
{
    int size = i2d_PrivateKey(key, NULL);
    SP_SECRET struct sp_secret *out = size > 0 ? sp_secret_new((size_t)size) : NULL;
    if (!out)
        return size > 0 ? -ENOMEM : -EIO;
    uint8_t *at = sp_secret_data(out);
    if (i2d_PrivateKey(key, &at) != size)
        return -EIO;
    *ret = sp_steal(out);
    return 0;
}

static int secret_to_key(const struct sp_secret *secret, EVP_PKEY **ret)
{
    const uint8_t *at = sp_secret_data(secret);
    EVP_PKEY *key = d2i_AutoPrivateKey(NULL, &at, (long)sp_secret_size(secret));
    if (!key)
        return -EBADMSG;
    *ret = key;
    return 0;
}

static int store_secret(struct keeper *k, const char *name, const struct sp_secret *secret)
{
    SP_BUFFER struct sp_buffer aad = {0};
    WRAPPED struct wrapped w = {0};
    int r = aead_bind(&aad, "sealpoint core 1", name, NULL);
    if (r == 0)
        r = wrap_seal(k, sp_bytes_of(&aad), secret, &w);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO core VALUES(?,?,?,?)", "ssbb", name, w.dek_id, w.nonce,
                      sizeof(w.nonce), w.ciphertext.data, w.ciphertext.size);
    return r < 0 ? r : journal_note(k, "core", name);
}

static int load_secret(struct keeper *k, const char *name, struct sp_secret **ret)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT dek_id, nonce, ciphertext FROM core WHERE name=?",
                        "s", name);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -EBADMSG;
    r = aead_bind(&aad, "sealpoint core 1", name, NULL);
    return r < 0 ? r
                 : wrap_open(k, store_text(stmt, 0), store_blob(stmt, 1), sp_bytes_of(&aad),
                             store_blob(stmt, 2), ret);
}

/* ---- make, store, load ---- */

int core_make(struct keeper *k, struct sp_why *why)
{
    core_forget(k);
    k->ca_key = sp_key_new();
    k->sealing_key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    k->mac_key = sp_secret_new(32);
    if (!k->ca_key || !k->sealing_key || !k->mac_key)
        return -ENOMEM;
    int r = sp_random(sp_secret_data(k->mac_key), 32);
    if (r == 0)
        r = sp_box_keypair(&k->box_private, k->box_public);
    free(sp_steal(k->sealing_der));
    if (r == 0)
        r = sp_public_key_der(k->sealing_key, &k->sealing_der, &k->sealing_der_size);
    if (r == 0)
        r = ca_make_root(k, &k->ca);
    return r < 0 ? sp_why_set(why, r, "the keeper's keys cannot be made") : 0;
}

/* What clients check boxes, proofs and seals by. */
static int store_keeper_keys(struct keeper *k)
{
    SP_CLEANUP(signed) Sp__Signed *message = NULL;
    SP_FREE uint8_t *keys = NULL, *packed = NULL;
    size_t keys_size = 0, size = 0;
    Sp__KeeperKeys all = SP__KEEPER_KEYS__INIT;

    all.domain = k->domain;
    all.sealing_public_key = (ProtobufCBinaryData){k->sealing_der_size, k->sealing_der};
    all.box_public_key = (ProtobufCBinaryData){sizeof(k->box_public), k->box_public};
    all.made_unix_ms = keeper_now_ms(k);
    int r = sp_pack(&all.base, &keys, &keys_size);
    if (r == 0)
        r = sp_signed_make(k->ca_key, SP_SIGN_KEEPER_KEYS, keys, keys_size, &message);
    if (r == 0)
        r = sp_pack(&message->base, &packed, &size);
    return r < 0 ? r : meta_set(k, "keeper_keys", (struct sp_bytes){packed, size});
}

static int store_public(struct keeper *k)
{
    SP_FREE uint8_t *der = NULL;
    SP_FREE char *pem = NULL;
    size_t pem_size = 0;
    int size = i2d_X509(k->ca, &der);
    int r = size > 0 ? meta_set(k, "ca", (struct sp_bytes){der, (size_t)size}) : -EIO;
    if (r == 0)
        r = ca_to_pem(k->ca, &pem, &pem_size);
    if (r == 0)
        r = meta_set(k, "trust_bundle", (struct sp_bytes){(uint8_t *)pem, pem_size});
    if (r == 0)
        r = meta_set(k, "sealing_key", (struct sp_bytes){k->sealing_der, k->sealing_der_size});
    return r < 0 ? r : store_keeper_keys(k);
}

int core_store(struct keeper *k, struct sp_why *why)
{
    SP_SECRET struct sp_secret *ca = NULL, *sealing = NULL;
    int r = key_to_secret(k->ca_key, &ca);
    if (r == 0)
        r = key_to_secret(k->sealing_key, &sealing);
    if (r == 0)
        r = store_secret(k, "ca", ca);
    if (r == 0)
        r = store_secret(k, "sealing", sealing);
    if (r == 0)
        r = store_secret(k, "box", k->box_private);
    if (r == 0)
        r = store_secret(k, "mac", k->mac_key);
    if (r == 0)
        r = store_public(k);
    return r < 0 ? sp_why_set(why, r, "the keeper's keys cannot be written") : 0;
}

/* Both key pairs must be the ones whose public halves the journal signed for. */
static int check_publics(struct keeper *k)
{
    SP_BUFFER struct sp_buffer ca = {0};
    SP_FREE uint8_t *der = NULL;
    size_t size = 0;

    int r = sp_public_key_der(k->sealing_key, &der, &size);
    if (r == 0 && (size != k->sealing_der_size || memcmp(der, k->sealing_der, size) != 0))
        r = -EBADMSG;
    if (r == 0)
        r = meta_get(k, "ca", &ca);
    if (r < 0)
        return r;
    const uint8_t *at = ca.data;
    k->ca = d2i_X509(NULL, &at, (long)ca.size);
    if (!k->ca || X509_check_private_key(k->ca, k->ca_key) != 1)
        return -EBADMSG;
    return sp_box_public(k->box_private, k->box_public);
}

int core_load(struct keeper *k, struct sp_why *why)
{
    SP_SECRET struct sp_secret *ca = NULL, *sealing = NULL;
    core_forget(k);
    int r = load_secret(k, "ca", &ca);
    if (r == 0)
        r = load_secret(k, "sealing", &sealing);
    if (r == 0)
        r = load_secret(k, "box", &k->box_private);
    if (r == 0)
        r = load_secret(k, "mac", &k->mac_key);
    if (r == 0)
        r = secret_to_key(ca, &k->ca_key);
    if (r == 0)
        r = secret_to_key(sealing, &k->sealing_key);
    if (r == 0)
        r = check_publics(k);
    if (r < 0) {
        core_forget(k);
        return sp_why_set(why, r, "the keeper's own keys in the keystore do not open");
    }
    return 0;
}

void core_forget(struct keeper *k)
{
    EVP_PKEY_free(k->ca_key);
    EVP_PKEY_free(k->sealing_key);
    X509_free(k->ca);
    sp_secret_free(k->box_private);
    sp_secret_free(k->mac_key);
    k->ca_key = k->sealing_key = NULL;
    k->ca = NULL;
    k->box_private = k->mac_key = NULL;
}
