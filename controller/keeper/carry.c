/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/carry.h"

#include "controller/keeper/keeper.h"
#include "controller/keeper/rules.h"
#include "controller/keeper/wrap.h"
#include <string.h>

enum { CARRIES_A_RECORD = 4 }; /* headers of one volume that are kept; the oldest goes */

/* The name of a verdict: everything it depends on. */
static int carry_id(const Sp__EscrowRecord *e, struct sp_bytes fingerprint, char out[65])
{
    SP_BUFFER struct sp_buffer bound = {0};
    char generation[16], rules[16];
    uint8_t digest[32];

    if (fingerprint.size != 32 || e->secret_hmac.len != 32)
        return -EINVAL;
    snprintf(generation, sizeof(generation), "%u", e->generation);
    snprintf(rules, sizeof(rules), "%d", RULES_VERSION);
    int r = aead_bind(&bound, "sealpoint carry 1", e->record_id, generation,
                      SP_HEX32(e->secret_hmac.data), SP_HEX32(fingerprint.data), rules, NULL);
    if (r == 0)
        r = sp_sha256_of(bound.data, bound.size, digest);
    if (r == 0)
        sp_hex(out, digest, sizeof(digest));
    return r;
}

/* Wraps are sealed to public keys, which anybody can do. The MAC says that this keeper made the
 * row; without it, whoever can write the file could slip in a volume key that no record opens. */
static int row_mac(struct keeper *k, const char *id, const char *proof_id, const char *protector_id,
                   struct sp_bytes nonce, struct sp_bytes ciphertext, uint8_t out[32])
{
    SP_BUFFER struct sp_buffer bound = {0};
    int r = aead_bind(&bound, "sealpoint carry row 1", id, proof_id, protector_id, NULL);
    if (r < 0)
        return r;
    struct sp_bytes parts[] = {sp_bytes_of(&bound), nonce, ciphertext};
    return sp_hmac_sha256(sp_secret_data(k->mac_key), 32, parts, SP_COUNT(parts), out);
}

static struct sp_bytes text_bytes(const char *text)
{
    return (struct sp_bytes){(const uint8_t *)text, strlen(text)};
}

int carry_load(struct keeper *k, const Sp__EscrowRecord *e, struct sp_bytes fingerprint,
               struct carry *ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    char id[65];
    uint8_t mac[32];

    int r = carry_id(e, fingerprint, id);
    if (r == 0)
        r = store_query(k->store, &stmt,
                        "SELECT proof_id, protector_id, dek_id, nonce, ciphertext, mac FROM carry "
                        "WHERE carry_id=?",
                        "s", id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    struct sp_bytes nonce = store_blob(stmt, 3), ciphertext = store_blob(stmt, 4),
                    stored = store_blob(stmt, 5);
    snprintf(ret->proof_id, sizeof(ret->proof_id), "%s", store_text(stmt, 0));
    snprintf(ret->protector_id, sizeof(ret->protector_id), "%s", store_text(stmt, 1));
    r = row_mac(k, id, ret->proof_id, ret->protector_id, nonce, ciphertext, mac);
    if (r == 0 && (stored.size != 32 || !sp_equal_secret(stored.data, mac, 32)))
        r = -EBADMSG;
    return r < 0 ? r
                 : wrap_open(k, store_text(stmt, 2), nonce, text_bytes(id), ciphertext,
                             &ret->volume_key);
}

static int drop_row(struct keeper *k, const char *id)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT dek_id FROM carry WHERE carry_id=?", "s", id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r;
    r = wrap_drop(k, store_text(stmt, 0));
    return r < 0 ? r : store_run(k->store, "DELETE FROM carry WHERE carry_id=?", "s", id);
}

int carry_drop(struct keeper *k, const Sp__EscrowRecord *e, struct sp_bytes fingerprint)
{
    char id[65];
    int r = carry_id(e, fingerprint, id);
    return r < 0 ? r : drop_row(k, id);
}

/* All but the newest `keep`. */
static int drop_oldest(struct keeper *k, const char *record_id, int64_t keep)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt,
                        "SELECT carry_id FROM carry WHERE record_id=? ORDER BY made_ms DESC LIMIT "
                        "-1 OFFSET ?",
                        "si", record_id, keep);
    while (r == 0 && (r = store_step(stmt)) == 1)
        r = drop_row(k, store_text(stmt, 0));
    return r;
}

int carry_keep(struct keeper *k, const Sp__EscrowRecord *e, struct sp_bytes fingerprint,
               const char *proof_id, const char *protector_id, const struct sp_secret *volume_key)
{
    WRAPPED struct wrapped w = {0};
    char id[65];
    uint8_t mac[32];

    int r = carry_id(e, fingerprint, id);
    if (r == 0)
        r = drop_row(k, id);
    if (r == 0)
        r = wrap_seal(k, text_bytes(id), volume_key, &w);
    if (r == 0)
        r = row_mac(k, id, proof_id, protector_id, (struct sp_bytes){w.nonce, sizeof(w.nonce)},
                    sp_bytes_of(&w.ciphertext), mac);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO carry VALUES(?,?,?,?,?,?,?,?,?,?)", "ssbssisbbb", id,
                      e->record_id, fingerprint.data, fingerprint.size, proof_id, protector_id,
                      (int64_t)keeper_now_ms(k), w.dek_id, w.nonce, sizeof(w.nonce),
                      w.ciphertext.data, w.ciphertext.size, mac, sizeof(mac));
    return r < 0 ? r : drop_oldest(k, e->record_id, CARRIES_A_RECORD);
}

int carry_drop_record(struct keeper *k, const char *record_id)
{
    return drop_oldest(k, record_id, 0);
}
