/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Plain dm-crypt has no header, no digest and no check: every key opens it, to sense or to noise.
 * So only the content decides. OPENS needs type and UUID equal to what the guest has mapped. Of the
 * rest:
 *
 *   WRONG_KEY       the record's parameters differ from the mapping's; or nothing is recognised,
 * though the guest names what this very volume holds. A wrong key and an overwritten payload look
 * alike from here; the guest says that the content is there, so that the key (or its parameters) is
 * what fails. It is also the verdict that must not be missed: the worse of the two. NOT_RECOGNISED
 * something is recognised that is not what the guest named (the key may well be right), or the
 * guest named nothing that could be compared. */
#include "controller/keeper/prover/plain.h"

#include "base/cleanup.h"
#include "controller/keeper/prover/proof.h"
#include "controller/keeper/prover/recognise.h"
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

/* ---- the key ---- */

/* cryptsetup's default; only a passphrase or key file without a size in its parameters needs it. */
enum { DEFAULT_KEY_BYTES = 32, MAX_KEY_BYTES = 512 };

static size_t key_bytes(const Sp__PlainParameters *p, Sp__SecretType type,
                        const struct sp_secret *secret)
{
    if (p->key_bits)
        return p->key_bits / 8;
    return type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY ? sp_secret_size(secret)
                                                           : DEFAULT_KEY_BYTES;
}

/* "sha256" or "sha256:20": the hash's name and how many bytes of key it makes; zeros follow. */
static int parse_hash(const char *text, size_t size, char name[32], size_t *ret_hashed)
{
    size_t length = strcspn(text, ":");
    if (!length || length >= 32)
        return -EINVAL;
    memcpy(name, text, length);
    name[length] = 0;
    *ret_hashed = size;
    if (!text[length])
        return 0;
    const char *number = text + length + 1;
    if (!number[0] || strlen(number) > 4 || strspn(number, "0123456789") != strlen(number))
        return -EINVAL;
    *ret_hashed = strtoul(number, NULL, 10);
    return *ret_hashed <= size ? 0 : -EINVAL;
}

/* hash(secret), hash("A" secret), hash("AA" secret), … until the key is full: the rule that
 * cryptsetup took over from hashalot. */
static int hash_into(const EVP_MD *md, const struct sp_secret *secret, uint8_t *key, size_t size)
{
    size_t step = (size_t)EVP_MD_get_size(md);
    SP_SECRET struct sp_secret *digest = sp_secret_new(EVP_MAX_MD_SIZE);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = digest && ctx;
    for (size_t round = 0; ok && size; round++) {
        ok = EVP_DigestInit_ex(ctx, md, NULL);
        for (size_t i = 0; ok && i < round; i++)
            ok = EVP_DigestUpdate(ctx, "A", 1);
        ok = ok && EVP_DigestUpdate(ctx, sp_secret_data(secret), sp_secret_size(secret)) &&
             EVP_DigestFinal_ex(ctx, sp_secret_data(digest), NULL);
        size_t part = step < size ? step : size;
        if (ok)
            memcpy(key, sp_secret_data(digest), part);
        key += part;
        size -= part;
    }
    EVP_MD_CTX_free(ctx);
    return ok ? 0 : -EIO;
}

static int hash_passphrase(const char *hash, const struct sp_secret *secret, struct sp_secret *key,
                           struct sp_why *why)
{
    char name[32];
    size_t hashed, size = sp_secret_size(secret);
    if (parse_hash(hash, sp_secret_size(key), name, &hashed) < 0)
        return sp_why_set(why, -EINVAL, "'%s' is no hash of plain dm-crypt", hash);
    if (strcmp(name, "plain") == 0) {
        if (size < hashed)
            return sp_why_set(why, -EKEYREJECTED, "the passphrase is shorter than the key");
        memcpy(sp_secret_data(key), sp_secret_data(secret), hashed);
        return 0;
    }
    EVP_MD *md = EVP_MD_fetch(NULL, name, NULL);
    if (!md || EVP_MD_get_size(md) <= 0) {
        EVP_MD_free(md);
        return sp_why_set(why, -ENOTSUP, "the hash %s cannot be computed here", name);
    }
    int r = hash_into(md, secret, sp_secret_data(key), hashed);
    EVP_MD_free(md);
    return r;
}

int plain_key(const Sp__PlainParameters *p, Sp__SecretType type, const struct sp_secret *secret,
              struct sp_secret **ret, struct sp_why *why)
{
    size_t size = key_bytes(p, type, secret), given = sp_secret_size(secret);
    if (p->key_bits % 8 || !size || size > MAX_KEY_BYTES)
        return sp_why_set(why, -EINVAL, "a key of %u bits makes no sense", p->key_bits);
    SP_SECRET struct sp_secret *key = sp_secret_new(size);
    if (!key)
        return -errno;
    int r = 0;
    switch (type) {
    case SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY:
        if (given != size)
            return sp_why_set(why, -EKEYREJECTED, "the key has %zu bytes, the parameters say %zu",
                              given, size);
        memcpy(sp_secret_data(key), sp_secret_data(secret), size);
        break;
    case SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE: /* cryptsetup takes its first bytes, unhashed */
        if (given < size)
            return sp_why_set(why, -EKEYREJECTED,
                              "the key file has %zu bytes, the parameters ask for %zu", given,
                              size);
        memcpy(sp_secret_data(key), sp_secret_data(secret), size);
        break;
    case SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE:
        if (p->hash[0])
            r = hash_passphrase(p->hash, secret, key, why);
        else /* as it is, zeros behind a short one */
            memcpy(sp_secret_data(key), sp_secret_data(secret), given < size ? given : size);
        break;
    default:
        return sp_why_set(why, -EKEYREJECTED, "a secret of this type opens no plain dm-crypt");
    }
    if (r == 0)
        *ret = sp_steal(key);
    return r;
}

/* ---- the proof ---- */

/* The record's, since it is what will be there years later; else the mapping's. */
static const Sp__PlainParameters *parameters_of(const Sp__ProverProof *ask)
{
    if (ask->plain && ask->plain->cipher[0])
        return ask->plain;
    return ask->volume->plain && ask->volume->plain->cipher[0] ? ask->volume->plain : NULL;
}

/* plain and plain64 count alike below 2 TiB. */
static bool same_cipher(const char *a, const char *b, uint64_t size_bytes)
{
    size_t n = strlen(a), m = strlen(b), common = n < m ? n : m;
    if (strncmp(a, b, common) != 0)
        return false;
    const char *rest = n < m ? b + common : a + common;
    return !*rest || (strcmp(rest, "64") == 0 && common > 5 &&
                      memcmp(a + common - 5, "plain", 5) == 0 && size_bytes < UINT64_C(1) << 41);
}

/* Where the guest says how it is mapped, the record has to say the same: some wrong parameters
 * leave the beginning of a file system readable and garble what follows. */
static const char *first_difference(const Sp__PlainParameters *record,
                                    const Sp__PlainParameters *mapped, uint64_t size_bytes)
{
    uint32_t a = record->sector_bytes ? record->sector_bytes : 512;
    uint32_t b = mapped->sector_bytes ? mapped->sector_bytes : 512;
    if (!same_cipher(record->cipher, mapped->cipher, size_bytes))
        return "cipher";
    if (record->offset_sectors != mapped->offset_sectors)
        return "offset";
    if (record->skip_sectors != mapped->skip_sectors)
        return "skip";
    return a != b ? "sector size" : NULL;
}

static int check_parameters(struct proof *p, const Sp__PlainParameters *used, bool *ret_same)
{
    const Sp__PlainParameters *mapped = p->ask->volume->plain;
    *ret_same = true;
    if (!mapped || !mapped->cipher[0] || used == mapped)
        return 0;
    const char *what = first_difference(used, mapped, snapshot_reader(p->snapshot).size_bytes);
    if (!what)
        return 0;
    *ret_same = false;
    return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                     "the record's %s is not the one that the guest has it mapped with", what);
}

static int compare(struct proof *p, int recognised, const struct sp_why *why)
{
    const Sp__Content *found = p->finding->content, *expected = p->ask->expected;
    if (!expected || !expected->type[0] || !expected->uuid[0])
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED,
                         "the guest names no content with a UUID that could be compared%s%s",
                         recognised ? "; decrypted it looks like " : "",
                         recognised ? found->type : "");
    if (!recognised)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                         "%s; with the right key and parameters it would be %s %s", why->text,
                         expected->type, expected->uuid);
    if (!prover_same_content(found, expected))
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED,
                         "decrypted it is %s %s, the guest has mapped %s %s", found->type,
                         found->uuid, expected->type, expected->uuid);
    p->finding->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT;
    return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS,
                     "opens; inside is %s %s, as the guest has it mapped", found->type,
                     found->uuid);
}

static int end_without_key(struct proof *p, int error, const struct sp_why *why)
{
    if (error == -EKEYREJECTED)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY, "%s", why->text);
    if (error == -ENOTSUP)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE, "%s", why->text);
    return error;
}

static int prove(struct proof *p, struct sp_why *why)
{
    if (p->ask->header_opened_before)
        return sp_why_set(why, -EINVAL, "plain dm-crypt has no header that could have opened");
    const Sp__PlainParameters *plain = parameters_of(p->ask);
    if (!plain)
        return sp_why_set(why, -EINVAL, "neither the record nor the guest says how it is mapped");
    SP_SECRET struct sp_secret *key = NULL;
    int r = proof_method(p, "plain dm-crypt, parameters of the %s",
                         plain == p->ask->plain ? "record" : "mapping");
    if (r < 0)
        return r;
    bool same;
    r = check_parameters(p, plain, &same);
    if (r < 0 || !same)
        return r;
    r = plain_key(plain, p->ask->secret_type, p->secret, &key, why);
    if (r < 0)
        return end_without_key(p, r, why);
    p->parameters_unproved = true;
    struct cipher_parameters cipher = {.name = plain->cipher,
                                       .sector_bytes =
                                           plain->sector_bytes ? plain->sector_bytes : 512,
                                       .iv_offset_sectors = plain->skip_sectors};
    uint64_t start;
    if (__builtin_mul_overflow(plain->offset_sectors, UINT64_C(512), &start))
        start = UINT64_MAX;
    r = proof_sectors(p, &cipher, key, start, 0, why);
    if (r == -ERANGE)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED,
                         "the parameters point behind the end of the volume");
    if (r < 0)
        return end_without_key(p, r, why);
    return compare(p, r, why);
}

const struct proof_kind proof_plain = {SP__VOLUME_KIND__VOLUME_KIND_PLAIN, prove};
