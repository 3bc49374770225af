/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/wrap.h"

#include "base/sealed_box.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include <string.h>

MESSAGE_CLEANUP(box, Sp__SealedBox, sp__sealed_box__free_unpacked)

static int wrap_aad(struct sp_buffer *out, const char *dek_id, const char *kek_id)
{
    return aead_bind(out, "sealpoint dek 1", dek_id, kek_id, NULL);
}

/* One row of `wraps`: the DEK for one KEK. */
static int wrap_for(struct keeper *k, const struct kek *kek, const char *dek_id,
                    const struct sp_secret *dek)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_CLEANUP(box) Sp__SealedBox *box = NULL;
    SP_FREE uint8_t *packed = NULL;
    size_t size = 0;

    int r = wrap_aad(&aad, dek_id, kek->kek_id);
    if (r == 0)
        r = sp_box_seal(kek->public_key, aad.data, aad.size, sp_secret_data(dek),
                        sp_secret_size(dek), &box);
    if (r == 0)
        r = sp_pack(&box->base, &packed, &size);
    if (r == 0)
        r = store_run(k->store, "INSERT OR REPLACE INTO wraps VALUES(?,?,?)", "ssb", dek_id,
                      kek->kek_id, packed, size);
    return r;
}

int wrap_seal(struct keeper *k, struct sp_bytes aad, const struct sp_secret *plain,
              struct wrapped *out)
{
    SP_SECRET struct sp_secret *dek = sp_secret_new(AEAD_KEY_BYTES);
    size_t size = sp_secret_size(plain);

    if (k->keks.count == 0)
        return -ENOKEY;
    if (!dek)
        return -ENOMEM;
    out->ciphertext.size = 0;
    int r = sp_random(sp_secret_data(dek), AEAD_KEY_BYTES);
    if (r == 0)
        r = sp_random(out->nonce, sizeof(out->nonce));
    if (r == 0)
        r = sp_uuid_make(out->dek_id);
    if (r == 0 && !sp_buffer_room(&out->ciphertext, size + AEAD_TAG_BYTES))
        r = -ENOMEM;
    if (r == 0)
        r = aead_seal(sp_secret_data(dek), out->nonce, aad, sp_secret_data(plain), size,
                      out->ciphertext.data);
    if (r < 0)
        return r;
    out->ciphertext.size = size + AEAD_TAG_BYTES;
    for (size_t i = 0; i < k->keks.count && r == 0; i++)
        r = wrap_for(k, &k->keks.items[i], out->dek_id, dek);
    return r;
}

/* The DEK, through the open KEK. */
static int open_dek(struct keeper *k, const char *dek_id, struct sp_secret **ret)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_CLEANUP(box) Sp__SealedBox *box = NULL;
    SP_STMT sqlite3_stmt *stmt = NULL;

    if (!k->keks.open_private)
        return -ENOKEY;
    const char *kek_id = k->keks.items[k->keks.open].kek_id;
    int r = store_query(k->store, &stmt, "SELECT box FROM wraps WHERE dek_id=? AND kek_id=?", "ss",
                        dek_id, kek_id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOKEY;
    struct sp_bytes packed = store_blob(stmt, 0);
    box = sp__sealed_box__unpack(NULL, packed.size, packed.data);
    r = box ? wrap_aad(&aad, dek_id, kek_id) : -EBADMSG;
    if (r == 0)
        r = sp_box_open(k->keks.open_private, aad.data, aad.size, box, ret);
    return r == -ENOTSUP ? -EBADMSG : r;
}

int wrap_open(struct keeper *k, const char *dek_id, struct sp_bytes nonce, struct sp_bytes aad,
              struct sp_bytes ciphertext, struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *dek = NULL, *plain = NULL;

    if (nonce.size != AEAD_NONCE_BYTES || ciphertext.size <= AEAD_TAG_BYTES)
        return -EBADMSG;
    int r = open_dek(k, dek_id, &dek);
    if (r == 0 && sp_secret_size(dek) != AEAD_KEY_BYTES)
        r = -EBADMSG;
    if (r < 0)
        return r;
    plain = sp_secret_new(ciphertext.size - AEAD_TAG_BYTES);
    if (!plain)
        return -ENOMEM;
    r = aead_open(sp_secret_data(dek), nonce.data, aad, ciphertext.data, ciphertext.size,
                  sp_secret_data(plain));
    if (r == 0)
        *ret = sp_steal(plain);
    return r;
}

int wrap_all_for(struct keeper *k, size_t index, uint64_t *ret_count)
{
    uint64_t count = 0;
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT DISTINCT dek_id FROM wraps WHERE kek_id=?", "s",
                        k->keks.items[k->keks.open].kek_id);
    while (r == 0 && (r = store_step(stmt)) == 1) {
        SP_SECRET struct sp_secret *dek = NULL;
        char dek_id[37];
        snprintf(dek_id, sizeof(dek_id), "%s", store_text(stmt, 0));
        r = open_dek(k, dek_id, &dek);
        if (r == 0)
            r = wrap_for(k, &k->keks.items[index], dek_id, dek);
        count++;
    }
    if (ret_count)
        *ret_count = count;
    return r;
}

int wrap_drop(struct keeper *k, const char *dek_id)
{
    return store_run(k->store, "DELETE FROM wraps WHERE dek_id=?", "s", dek_id);
}
