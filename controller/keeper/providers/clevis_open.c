/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/clevis_jwe.h"

#include "base/bytes.h"
#include "controller/keeper/providers/provider.h"
#include <jansson.h>
#include <jose/b64.h>
#include <jose/cfg.h>
#include <jose/jwe.h>
#include <jose/jwk.h>
#include <jose/jws.h>
#include <malloc.h>
#include <openssl/bn.h>
#include <string.h>

/* Members are had by json_unpack() only: see clevis_jwe.c. */

SP_DEFINE_CLEANUP(jansson, json_t *, json_decref)

/* ---- setup ---- */

/* Whatever is a key or a passphrase passes through json texts of libjose. */
static void free_wiped(void *p)
{
    if (p)
        sp_wipe(p, malloc_usable_size(p));
    free(p);
}

/* libjose writes to stderr else. One for each call: its count of users is not for threads. */
static void say_nothing(void *misc, const char *file, int line, uint64_t error, const char *format,
                        va_list args)
{
    (void)misc, (void)file, (void)line, (void)error, (void)format, (void)args;
}

static jose_cfg_t *quiet_new(void)
{
    jose_cfg_t *quiet = jose_cfg();
    if (quiet)
        jose_cfg_set_err_func(quiet, say_nothing, NULL);
    return quiet;
}
SP_DEFINE_CLEANUP(quiet, jose_cfg_t *, jose_cfg_decref)

void clevis_setup(void)
{
    json_set_alloc_funcs(malloc, free_wiped);
}

/* ---- the exchange ---- */

/* The same key, for ECMR: sums, differences and products of points. */
static json_t *as_point(json_t *key)
{
    json_t *copy = json_copy(key);
    if (copy && json_object_set_new(copy, "alg", json_string("ECMR")) < 0)
        json_decref(sp_steal(copy));
    return copy;
}

int clevis_ask(const struct clevis_pin *pin, struct clevis_question *ret, struct sp_why *why)
{
    const char *curve = NULL;
    json_unpack(pin->epk, "{s:s}", "crv", &curve);
    SP_CLEANUP(quiet) jose_cfg_t *quiet = quiet_new();
    SP_CLEANUP(jansson) json_t *own = as_point(pin->epk);
    SP_CLEANUP(jansson)
    json_t *ephemeral = json_pack("{s:s,s:s}", "alg", "ECMR", "crv", curve ? curve : "");
    if (!quiet || !own || !ephemeral)
        return -ENOMEM;
    if (!jose_jwk_gen(quiet, ephemeral))
        return sp_why_set(why, -EPROTO, "its clevis token is of a curve that is not known here");
    SP_CLEANUP(jansson) json_t *blinded = jose_jwk_exc(quiet, own, ephemeral);
    if (!blinded)
        return sp_why_set(why, -EPROTO, "its clevis token's own key is no point of its curve");
    char *text = json_dumps(blinded, JSON_COMPACT);
    struct sp_secret *body = text ? sp_secret_copy(text, strlen(text)) : NULL;
    free_wiped(text);
    if (!body)
        return -ENOMEM;
    *ret = (struct clevis_question){.body = body, .ephemeral = sp_steal(ephemeral)};
    return 0;
}

void clevis_question_free(struct clevis_question *q)
{
    sp_secret_free(q->body);
    json_decref(q->ephemeral);
}

/* ---- JWE ---- */

/* `mine`: what is said when the key does not open it. */
static int decrypt(jose_cfg_t *quiet, const struct clevis_pin *pin, json_t *key, const char *mine,
                   struct sp_secret **ret, struct sp_why *why)
{
    size_t size = 0;
    SP_CLEANUP(jansson)
    json_t *jwe = json_pack("{s:s,s:s,s:s,s:s,s:s}", "protected", pin->parts[0], "encrypted_key",
                            pin->parts[1], "iv", pin->parts[2], "ciphertext", pin->parts[3], "tag",
                            pin->parts[4]);
    if (!jwe)
        return -ENOMEM;
    void *plain = jose_jwe_dec(quiet, jwe, NULL, key, &size);
    if (!plain)
        return sp_why_set(why, -EPROTO, "%s", mine);
    struct sp_secret *copy =
        size > 0 && size <= PROVIDER_SECRET_MOST ? sp_secret_copy(plain, size) : NULL;
    sp_wipe(plain, size);
    free(plain);
    if (!copy)
        return size == 0 || size > PROVIDER_SECRET_MOST
                   ? sp_why_set(why, -EPROTO, "its clevis token holds nothing of a key's length")
                   : -ENOMEM;
    *ret = copy;
    return 0;
}

/* The server's point must be one of the curve that was asked about. */
static int read_point(const struct clevis_pin *pin, const void *answer, size_t size, json_t **ret,
                      struct sp_why *why)
{
    const char *kty = "", *curve = "", *asked = "", *x = NULL, *y = NULL;
    SP_CLEANUP(jansson) json_t *said = json_loadb(answer, size, JSON_REJECT_DUPLICATES, NULL);
    json_unpack(pin->epk, "{s:s}", "crv", &asked);
    if (!said ||
        json_unpack(said, "{s:s,s:s,s:s,s:s}", "kty", &kty, "crv", &curve, "x", &x, "y", &y) < 0 ||
        strcmp(kty, "EC") != 0)
        return sp_why_set(why, -EPROTO, "the answer of %s is no key: is it a tang server?",
                          pin->url);
    if (strcmp(curve, asked) != 0)
        return sp_why_set(why, -EPROTO, "%s answers with a point of another curve than asked",
                          pin->url);
    *ret =
        json_pack("{s:s,s:s,s:s,s:s,s:s}", "alg", "ECMR", "kty", kty, "crv", curve, "x", x, "y", y);
    return *ret ? 0 : -ENOMEM;
}

int clevis_open_tang(const struct clevis_pin *pin, const struct clevis_question *q,
                     const void *answer, size_t size, struct sp_secret **ret, struct sp_why *why)
{
    struct sp_why mine = {""};
    SP_CLEANUP(jansson) json_t *said = NULL;
    SP_CLEANUP(quiet) jose_cfg_t *quiet = quiet_new();
    if (!quiet)
        return -ENOMEM;
    int r = read_point(pin, answer, size, &said, why);
    if (r < 0)
        return r;
    SP_CLEANUP(jansson) json_t *server = as_point(pin->server);
    SP_CLEANUP(jansson)
    json_t *blinding = server ? jose_jwk_exc(quiet, q->ephemeral, server) : NULL;
    SP_CLEANUP(jansson) json_t *factor = blinding ? as_point(blinding) : NULL;
    if (!factor)
        return sp_why_set(why, -EPROTO, "its clevis token's key of the server is no point");
    SP_CLEANUP(jansson) json_t *key = jose_jwk_exc(quiet, said, factor);
    if (!key)
        return sp_why_set(why, -EPROTO, "%s answers with what is no point of the curve", pin->url);
    sp_why_set(&mine, 0,
               "the answer of %s does not open the clevis token: another key than %s answered, or "
               "the token was changed",
               pin->url, pin->kid);
    return decrypt(quiet, pin, key, mine.text, ret, why);
}

/* ---- shares: points of a polynomial, whose value at 0 is the key ---- */

struct sharing {
    BN_CTX *context;
    BIGNUM *prime, *sum, *term, *factor;
    BIGNUM *x[CLEVIS_PINS_MOST], *y[CLEVIS_PINS_MOST];
};

static int sharing_begin(const struct clevis_pin *pin, struct sp_secret *const *shares,
                         struct sharing *s)
{
    s->context = BN_CTX_secure_new();
    if (!s->context)
        return -ENOMEM;
    BN_CTX_start(s->context);
    s->prime = BN_CTX_get(s->context);
    s->sum = BN_CTX_get(s->context);
    s->term = BN_CTX_get(s->context);
    s->factor = BN_CTX_get(s->context);
    if (!s->factor || !BN_bin2bn(pin->prime, (int)pin->prime_bytes, s->prime))
        return -ENOMEM;
    for (unsigned i = 0; i < pin->threshold; i++) {
        const uint8_t *bytes = sp_secret_data(shares[i]);
        s->x[i] = BN_CTX_get(s->context);
        s->y[i] = BN_CTX_get(s->context);
        if (!s->y[i] || !BN_bin2bn(bytes, (int)pin->prime_bytes, s->x[i]) ||
            !BN_bin2bn(bytes + pin->prime_bytes, (int)pin->prime_bytes, s->y[i]))
            return -ENOMEM;
        /* Out of the field is as good as wrong, and two of one x divide by 0. */
        if (BN_is_zero(s->x[i]) || BN_cmp(s->x[i], s->prime) >= 0)
            return -EPROTO;
    }
    return 0;
}

/* Lagrange at 0: the sum of y_i × Π x_j / (x_j − x_i). */
static int interpolate(struct sharing *s, unsigned count)
{
    BN_zero(s->sum);
    for (unsigned i = 0; i < count; i++) {
        if (!BN_nnmod(s->term, s->y[i], s->prime, s->context))
            return -ENOMEM;
        for (unsigned j = 0; j < count; j++) {
            if (i == j)
                continue;
            if (!BN_mod_sub(s->factor, s->x[j], s->x[i], s->prime, s->context) ||
                !BN_mod_inverse(s->factor, s->factor, s->prime, s->context) ||
                !BN_mod_mul(s->factor, s->factor, s->x[j], s->prime, s->context) ||
                !BN_mod_mul(s->term, s->term, s->factor, s->prime, s->context))
                return -EPROTO;
        }
        if (!BN_mod_add(s->sum, s->sum, s->term, s->prime, s->context))
            return -ENOMEM;
    }
    return 0;
}

/* The key as a JWK, as long as the prime. */
static json_t *as_key(const BIGNUM *value, size_t bytes)
{
    uint8_t raw[CLEVIS_PRIME_MOST];
    if (BN_bn2binpad(value, raw, (int)bytes) < 0)
        return NULL;
    json_t *key = json_pack("{s:s,s:o}", "kty", "oct", "k", jose_b64_enc(raw, bytes));
    sp_wipe(raw, sizeof(raw));
    return key;
}

int clevis_open_sss(const struct clevis_pin *pin, struct sp_secret *const *shares,
                    struct sp_secret **ret, struct sp_why *why)
{
    static const char text[] = "the shares of its clevis token do not fit together";
    struct sharing s = {.context = NULL};
    SP_CLEANUP(quiet) jose_cfg_t *quiet = quiet_new();
    if (!quiet)
        return -ENOMEM;
    for (unsigned i = 0; i < pin->threshold; i++)
        if (sp_secret_size(shares[i]) != 2 * pin->prime_bytes)
            return sp_why_set(why, -EPROTO, "%s", text);
    int r = sharing_begin(pin, shares, &s);
    if (r == 0)
        r = interpolate(&s, pin->threshold);
    SP_CLEANUP(jansson) json_t *key = r == 0 ? as_key(s.sum, pin->prime_bytes) : NULL;
    if (s.context)
        BN_CTX_end(s.context);
    BN_CTX_free(s.context);
    if (r == 0)
        r = key ? decrypt(quiet, pin, key, text, ret, why) : -ENOMEM;
    else if (r == -EPROTO)
        sp_why_set(why, r, "%s", text);
    return r;
}

/* ---- advertisement ---- */

static bool is_signed_by_all(jose_cfg_t *quiet, json_t *jws, json_t *keys, size_t *ret_signers)
{
    json_t *key;
    size_t i;
    *ret_signers = 0;
    json_array_foreach(keys, i, key)
    {
        if (!jose_jwk_prm(quiet, key, true, "verify"))
            continue;
        ++*ret_signers;
        if (!jose_jws_ver(quiet, jws, NULL, key, false))
            return false;
    }
    return *ret_signers > 0;
}

static bool offers(jose_cfg_t *quiet, json_t *keys, const char *kid)
{
    static const char *const algorithms[] = {"S256", "S1"};
    json_t *key;
    size_t i;
    json_array_foreach(keys, i, key)
    {
        if (!jose_jwk_prm(quiet, key, true, "deriveKey"))
            continue;
        for (size_t a = 0; a < SP_COUNT(algorithms); a++) {
            SP_CLEANUP(jansson) json_t *thumbprint = jose_jwk_thp(quiet, key, algorithms[a]);
            if (!kid || (thumbprint && strcmp(json_string_value(thumbprint), kid) == 0))
                return true;
        }
    }
    return false;
}

int clevis_advertisement(const void *bytes, size_t size, const char *kid, bool *ret_has,
                         struct sp_why *why)
{
    json_t *payload = NULL, *keys = NULL;
    size_t signers = 0;
    SP_CLEANUP(quiet) jose_cfg_t *quiet = quiet_new();
    if (!quiet)
        return -ENOMEM;
    SP_CLEANUP(jansson) json_t *jws = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, NULL);
    if (!jws || json_unpack(jws, "{s:o}", "payload", &payload) < 0)
        return sp_why_set(why, -EPROTO, "what it advertises is no signed set of keys");
    SP_CLEANUP(jansson) json_t *set = jose_b64_dec_load(payload);
    if (!set || json_unpack(set, "{s:o}", "keys", &keys) < 0 || !json_is_array(keys) ||
        json_array_size(keys) > 64)
        return sp_why_set(why, -EPROTO, "what it advertises is no signed set of keys");
    if (!is_signed_by_all(quiet, jws, keys, &signers))
        return sp_why_set(why, -EPROTO,
                          signers == 0 ? "its advertisement holds no key that signs it"
                                       : "the signature of its advertisement is wrong");
    *ret_has = offers(quiet, keys, kid);
    return 0;
}
