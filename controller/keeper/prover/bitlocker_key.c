/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/bitlocker_key.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>

enum {
    HASH = 32,
    SALT = 16,
    GROUPS = 8,
    DIGITS = 6,
    GROUP_LIMIT = 720896, /* 11 × 2^16 */
    RECOVERY_BYTES = 2 * GROUPS,
    NONCE = 12,
    TAG = 16,
    ROUNDS = 1 << 20,
    KEY_HEADER = 12, /* of an unwrapped key: an entry's header, u32 method */
    PASSWORD_MOST = 8192,
    BEK_HEADER = 48,
};

/* ---- recovery password ---- */

static size_t without_line_end(const uint8_t *text, size_t size)
{
    while (size && (text[size - 1] == '\n' || text[size - 1] == '\r'))
        size--;
    return size;
}

static bool read_group(const uint8_t *text, uint32_t *ret)
{
    *ret = 0;
    for (int i = 0; i < DIGITS; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *ret = *ret * 10 + (text[i] - '0');
    }
    return true;
}

int bitlocker_recovery_password(const struct sp_secret *secret, struct sp_secret **ret,
                                struct sp_why *why)
{
    const uint8_t *text = sp_secret_data(secret);
    size_t size = without_line_end(text, sp_secret_size(secret));
    size_t step = size == GROUPS * DIGITS ? DIGITS : DIGITS + 1;
    if (size != GROUPS * DIGITS && size != GROUPS * (DIGITS + 1) - 1)
        return sp_why_set(why, -EINVAL,
                          "a recovery password is 8 groups of 6 digits, 55 characters with dashes");
    SP_SECRET struct sp_secret *bytes = sp_secret_new(RECOVERY_BYTES);
    if (!bytes)
        return -errno;
    for (size_t i = 0; i < GROUPS; i++) {
        uint32_t group;
        const uint8_t *at = text + i * step;
        if (!read_group(at, &group) ||
            (step > DIGITS && i + 1 < GROUPS && at[DIGITS] != '-' && at[DIGITS] != ' '))
            return sp_why_set(why, -EINVAL, "group %zu of the recovery password is not 6 digits",
                              i + 1);
        if (group % 11 || group >= GROUP_LIMIT)
            return sp_why_set(why, -EINVAL,
                              "group %zu of the recovery password is mistyped: every group is "
                              "divisible by 11 and below 720896",
                              i + 1);
        group /= 11;
        sp_secret_data(bytes)[2 * i] = (uint8_t)group;
        sp_secret_data(bytes)[2 * i + 1] = (uint8_t)(group >> 8);
    }
    *ret = sp_steal(bytes);
    return 0;
}

/* ---- hashes ---- */

static int hash(const uint8_t *data, size_t size, struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *out = sp_secret_new(HASH);
    if (!out)
        return -errno;
    if (!EVP_Digest(data, size, sp_secret_data(out), NULL, EVP_sha256(), NULL))
        return -EIO;
    *ret = sp_steal(out);
    return 0;
}

int bitlocker_hash_recovery(const struct sp_secret *bytes, struct sp_secret **ret)
{
    return hash(sp_secret_data(bytes), sp_secret_size(bytes), ret);
}

/* One character of UTF-8; 0: it is none. Its length goes to *ret_size. */
static uint32_t character(const uint8_t *p, size_t left, size_t *ret_size)
{
    static const uint32_t least[] = {1, 0x80, 0x800, 0x10000};
    size_t more = p[0] < 0x80 ? 0 : p[0] >= 0xf0 ? 3 : p[0] >= 0xe0 ? 2 : 1;
    if (more >= left || (p[0] >= 0x80 && p[0] < 0xc2) || p[0] > 0xf4)
        return 0;
    uint32_t c = more ? p[0] & (0x3fu >> more) : p[0];
    for (size_t i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    *ret_size = more + 1;
    return c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : c;
}

static void put_unit(uint8_t *out, size_t *at, uint32_t unit)
{
    out[(*at)++] = (uint8_t)unit;
    out[(*at)++] = (uint8_t)(unit >> 8);
}

static int to_utf16(const struct sp_secret *utf8, struct sp_secret **ret)
{
    const uint8_t *p = sp_secret_data(utf8);
    size_t left = sp_secret_size(utf8), size = 0, at = 0;
    if (!left || left > PASSWORD_MOST)
        return -EILSEQ;
    SP_SECRET struct sp_secret *out = sp_secret_new(2 * left);
    if (!out)
        return -errno;
    for (; left; p += size, left -= size) {
        uint32_t c = character(p, left, &size);
        if (!c)
            return -EILSEQ;
        if (c >= 0x10000) {
            put_unit(sp_secret_data(out), &at, 0xd800 + ((c - 0x10000) >> 10));
            c = 0xdc00 + ((c - 0x10000) & 0x3ff);
        }
        put_unit(sp_secret_data(out), &at, c);
    }
    sp_secret_shrink(out, at);
    *ret = sp_steal(out);
    return 0;
}

int bitlocker_hash_password(const struct sp_secret *utf8, struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *utf16 = NULL, *once = NULL;
    int r = to_utf16(utf8, &utf16);
    if (r == 0)
        r = hash(sp_secret_data(utf16), sp_secret_size(utf16), &once);
    return r < 0 ? r : hash(sp_secret_data(once), HASH, ret);
}

int bitlocker_stretch(const struct sp_secret *start, const uint8_t salt[16], struct sp_secret **ret)
{
    /* 0 last hash, 32 first hash, 64 salt, 80 u64 round: hashed whole, each time over the last
     * hash. One context for all rounds: it takes a third of the time of one each. */
    enum { FIRST = HASH, SALTED = 2 * HASH, ROUND = SALTED + SALT, WHOLE = ROUND + 8 };
    SP_SECRET struct sp_secret *work = sp_secret_new(WHOLE);
    if (!work || sp_secret_size(start) != HASH)
        return work ? -EINVAL : -errno;
    uint8_t *w = sp_secret_data(work);
    memcpy(w + FIRST, sp_secret_data(start), HASH);
    memcpy(w + SALTED, salt, SALT);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex2(ctx, EVP_sha256(), NULL);
    for (uint64_t i = 0; ok && i < ROUNDS; i++) {
        sp_put_le64(w + ROUND, i);
        ok = EVP_DigestInit_ex2(ctx, NULL, NULL) && EVP_DigestUpdate(ctx, w, WHOLE) &&
             EVP_DigestFinal_ex(ctx, w, NULL);
    }
    EVP_MD_CTX_free(ctx);
    if (!ok)
        return -EIO;
    *ret = sp_secret_copy(w, HASH);
    return *ret ? 0 : -errno;
}

/* ---- startup key ---- */

/* An external key's own key; the first one of 32 bytes. */
static int key_of(struct fve_list entries, struct sp_secret **ret)
{
    struct fve_entry e;
    while (fve_next(&entries, &e)) {
        if (e.value == FVE_VALUE_KEY && e.size == 4 + 32) {
            *ret = sp_secret_copy(e.data + 4, 32);
            return *ret ? 0 : -errno;
        }
    }
    return -EBADMSG;
}

int bitlocker_startup_key(const struct sp_secret *file, char guid[37], struct sp_secret **ret)
{
    const uint8_t *p = sp_secret_data(file);
    size_t size = sp_secret_size(file);
    if (size < BEK_HEADER)
        return -EBADMSG;
    uint32_t listed = sp_le32(p), header = sp_le32(p + 8);
    if (listed > size || header < BEK_HEADER || header > listed)
        return -EBADMSG;
    struct fve_list l = {p + header, p + listed};
    struct fve_entry e;
    while (fve_next(&l, &e)) {
        if (e.type != FVE_TYPE_STARTUP_KEY || e.value != FVE_VALUE_EXTERNAL_KEY || e.size < 24)
            continue;
        fve_guid_text(e.data, guid);
        return key_of(fve_inner(&e, 24), ret);
    }
    return -EBADMSG;
}

/* ---- AES-CCM ---- */

static int decrypt(EVP_CIPHER_CTX *ctx, const struct fve_entry *e, const struct sp_secret *key,
                   struct sp_secret *out)
{
    int n = 0, size = (int)(e->size - NONCE - TAG);
    if (!EVP_DecryptInit_ex(ctx, EVP_aes_256_ccm(), NULL, NULL, NULL) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, NONCE, NULL) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG,
                             (void *)(uintptr_t)(e->data + NONCE)) ||
        !EVP_DecryptInit_ex(ctx, NULL, NULL, sp_secret_data(key), e->data))
        return -EIO;
    return EVP_DecryptUpdate(ctx, sp_secret_data(out), &n, e->data + NONCE + TAG, size) > 0 &&
                   n == size
               ? 0
               : -EPERM;
}

/* Inside is an entry again: its size, then what it is; behind 12 bytes the key. */
static int take_key(const struct sp_secret *entry, struct sp_secret **ret)
{
    const uint8_t *p = sp_secret_data(entry);
    size_t size = sp_secret_size(entry);
    if (sp_le16(p) != size || sp_le16(p + 4) != FVE_VALUE_KEY)
        return -EBADMSG;
    *ret = sp_secret_copy(p + KEY_HEADER, size - KEY_HEADER);
    return *ret ? 0 : -errno;
}

int bitlocker_unwrap(const struct fve_entry *e, const struct sp_secret *key, struct sp_secret **ret)
{
    if (e->size <= NONCE + TAG + KEY_HEADER || sp_secret_size(key) != 32)
        return -EBADMSG;
    SP_SECRET struct sp_secret *out = sp_secret_new(e->size - NONCE - TAG);
    if (!out)
        return -errno;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int r = ctx ? decrypt(ctx, e, key, out) : -ENOMEM;
    EVP_CIPHER_CTX_free(ctx);
    return r < 0 ? r : take_key(out, ret);
}
