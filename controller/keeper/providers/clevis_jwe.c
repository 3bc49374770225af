/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/clevis_jwe.h"

#include "base/bytes.h"
#include <ctype.h>
#include <jansson.h>
#include <jose/jwk.h>
#include <string.h>

/* json-c, which the keeper has too, exports json_object_get() and json_object_iter_next() with
 * other arguments, and the linker takes one for both. So members are had by json_unpack() only. */

SP_DEFINE_CLEANUP(jansson, json_t *, json_decref)

struct parsing {
    unsigned pins;
    struct sp_why *why;
};

static int parse(struct parsing *, const char *text, size_t size, unsigned depth,
                 struct clevis_pin *);

static int bad(struct parsing *p, const char *what)
{
    return sp_why_set(p->why, -EPROTO, "its clevis token is damaged: %s", what);
}

/* ---- addresses ---- */

/* HOST[:PORT], of `size` bytes; an IPv6 address stands in brackets. */
static bool is_origin(const char *host, size_t size)
{
    static const char digits[] = "0123456789";
    static const char names[] = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
    size_t name;
    if (*host == '[') {
        name = 1 + strspn(host + 1, "0123456789abcdef:.");
        if (name == 1 || host[name++] != ']')
            return false;
    } else {
        name = strspn(host, names);
    }
    if (name == 0 || name == size)
        return name > 0;
    size_t port = host[name] == ':' ? strspn(host + name + 1, digits) : 0;
    return port > 0 && port < 6 && name + 1 + port == size;
}

int clevis_url(const char *text, char out[CLEVIS_URL_BYTES])
{
    const char *scheme = strstr(text, "://") ? "" : "http://";
    char all[CLEVIS_URL_BYTES];
    int n = snprintf(all, sizeof(all), "%s%s", scheme, text);
    if (n < 0 || (size_t)n >= sizeof(all))
        return -EINVAL;
    for (char *c = all; *c; c++)
        if (*c <= ' ' || *c > '~' || strchr("?#@\\\"<>", *c))
            return -EINVAL;
    char *host = strstr(all, "://") + 3;
    for (char *c = all; c < host || (*c && *c != '/'); c++)
        *c = (char)tolower((unsigned char)*c);
    const bool tls = strncmp(all, "https://", 8) == 0;
    if ((!tls && strncmp(all, "http://", 7) != 0) || !is_origin(host, strcspn(host, "/")))
        return -EINVAL;
    for (size_t end = strlen(all); end > 0 && all[end - 1] == '/';)
        all[--end] = 0;
    size_t origin = strcspn(host, "/");
    const char *port = tls ? ":443" : ":80";
    size_t length = strlen(port);
    if (origin > length && strncmp(host + origin - length, port, length) == 0)
        memmove(host + origin - length, host + origin, strlen(host + origin) + 1);
    snprintf(out, CLEVIS_URL_BYTES, "%s", all);
    return 0;
}

/* ---- keys ---- */

/* Only what makes a public key: a "d" that somebody put in would turn a sum into a product. */
static json_t *public_key(json_t *from, const char *curve)
{
    const char *kty = "", *crv = "", *x = NULL, *y = NULL;
    if (json_unpack(from, "{s:s,s:s,s:s,s:s}", "kty", &kty, "crv", &crv, "x", &x, "y", &y) < 0 ||
        strcmp(kty, "EC") != 0 || (curve && strcmp(crv, curve) != 0))
        return NULL;
    return json_pack("{s:s,s:s,s:s,s:s}", "kty", kty, "crv", crv, "x", x, "y", y);
}

static bool is_named(json_t *key, const char *kid)
{
    /* SHA-1 is what clevis used before version 15. */
    static const char *const algorithms[] = {"S256", "S1"};
    bool same = false;
    for (size_t i = 0; i < SP_COUNT(algorithms) && !same; i++) {
        SP_CLEANUP(jansson) json_t *thumbprint = jose_jwk_thp(NULL, key, algorithms[i]);
        same = thumbprint && strcmp(json_string_value(thumbprint), kid) == 0;
    }
    return same;
}

/* ---- pins ---- */

static bool is_base64url(const char *text)
{
    return text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")] ==
           0;
}

static int parse_tang(struct parsing *p, json_t *header, json_t *settings, struct clevis_pin *out)
{
    json_t *epk = NULL, *keys = NULL, *key;
    const char *url = NULL, *kid = NULL, *curve = NULL;
    size_t i;
    if (json_unpack(header, "{s:s,s:o}", "kid", &kid, "epk", &epk) < 0 ||
        json_unpack(epk, "{s:s}", "crv", &curve) < 0 ||
        json_unpack(settings, "{s:s,s:{s:o}}", "url", &url, "adv", "keys", &keys) < 0)
        return bad(p, "it lacks the server's address, its key or its own");
    if (strlen(kid) >= CLEVIS_KID_BYTES || !*kid || !is_base64url(kid))
        return bad(p, "the name of the server's key is no thumbprint");
    if (clevis_url(url, out->url) < 0)
        return bad(p, "the address of its tang server is none of http or https");
    snprintf(out->kid, sizeof(out->kid), "%s", kid);
    out->epk = public_key(epk, NULL);
    json_array_foreach(keys, i, key)
    {
        SP_CLEANUP(jansson) json_t *clean = public_key(key, curve);
        if (!out->server && clean && is_named(clean, kid))
            out->server = sp_steal(clean);
    }
    if (!out->epk || !out->server)
        return bad(p, "none of the keys that its server advertised has the thumbprint it names");
    return 0;
}

static int parse_sss(struct parsing *p, json_t *settings, unsigned depth, struct clevis_pin *out)
{
    json_t *shares = NULL, *share;
    const char *prime = NULL;
    int threshold = 0, r = 0;
    size_t i;
    if (json_unpack(settings, "{s:i,s:s,s:o}", "t", &threshold, "p", &prime, "jwe", &shares) < 0 ||
        !json_is_array(shares) || threshold < 1 || (size_t)threshold > json_array_size(shares) ||
        json_array_size(shares) > CLEVIS_PINS_MOST)
        return bad(p, "its threshold fits no number of shares");
    if (sp_base64url_decode(prime, out->prime, sizeof(out->prime), &out->prime_bytes) < 0 ||
        out->prime_bytes < 16 || !(out->prime[out->prime_bytes - 1] & 1))
        return bad(p, "the prime of its shares is none");
    out->threshold = (unsigned)threshold;
    out->shares = calloc(json_array_size(shares), sizeof(*out->shares));
    if (!out->shares)
        return -ENOMEM;
    json_array_foreach(shares, i, share)
    {
        if (!json_is_string(share))
            return bad(p, "a share is no text");
        r = parse(p, json_string_value(share), json_string_length(share), depth + 1,
                  &out->shares[out->count++]);
        if (r < 0)
            return r;
    }
    return 0;
}

static int split(struct parsing *p, const char *text, size_t size, struct clevis_pin *out)
{
    const char *at = text, *end = text + size;
    for (size_t i = 0; i < CLEVIS_PARTS; i++) {
        const char *dot = memchr(at, '.', (size_t)(end - at));
        if ((dot == NULL) != (i == CLEVIS_PARTS - 1))
            return bad(p, "it has not five parts");
        out->parts[i] = strndup(at, (size_t)((dot ? dot : end) - at));
        if (!out->parts[i])
            return -ENOMEM;
        if (!is_base64url(out->parts[i]))
            return bad(p, "it is not base64url");
        at = dot ? dot + 1 : end;
    }
    return 0;
}

static json_t *parse_header(const char *protected)
{
    SP_FREE uint8_t *text = malloc(strlen(protected) + 1);
    size_t size = 0;
    if (!text || sp_base64url_decode(protected, text, strlen(protected), &size) < 0)
        return NULL;
    return json_loadb((const char *)text, size, JSON_REJECT_DUPLICATES, NULL);
}

static int parse(struct parsing *p, const char *text, size_t size, unsigned depth,
                 struct clevis_pin *out)
{
    json_t *settings = NULL, *zip = NULL;
    const char *alg = NULL, *enc = NULL, *pin = NULL;
    if (depth > CLEVIS_DEPTH_MOST || p->pins++ == CLEVIS_PINS_MOST)
        return bad(p, "its policy has too many parts");
    if (size > CLEVIS_JWE_MOST)
        return bad(p, "it is too long");
    int r = split(p, text, size, out);
    if (r < 0)
        return r;
    SP_CLEANUP(jansson) json_t *header = parse_header(out->parts[0]);
    if (!header || json_unpack(header, "{s:s,s:s,s:{s:s},s?o}", "alg", &alg, "enc", &enc, "clevis",
                               "pin", &pin, "zip", &zip) < 0)
        return bad(p, "its header is none of clevis");
    snprintf(out->name, sizeof(out->name), "%s", pin);
    for (char *c = out->name; *c; c++)
        *c = isalnum((unsigned char)*c) ? *c : '?';
    out->kind = strcmp(pin, "tang") == 0   ? CLEVIS_TANG
                : strcmp(pin, "sss") == 0  ? CLEVIS_SSS
                : strcmp(pin, "tpm2") == 0 ? CLEVIS_TPM2
                                           : CLEVIS_OTHER;
    if (out->kind >= CLEVIS_TPM2)
        return 0;
    if (zip || strcmp(enc, "A256GCM") != 0 ||
        strcmp(alg, out->kind == CLEVIS_TANG ? "ECDH-ES" : "dir") != 0)
        return bad(p, "it is not encrypted in clevis's way");
    if (json_unpack(header, "{s:{s:o}}", "clevis", pin, &settings) < 0)
        return bad(p, "its header says nothing of its pin");
    return out->kind == CLEVIS_TANG ? parse_tang(p, header, settings, out)
                                    : parse_sss(p, settings, depth, out);
}

int clevis_parse(const void *jwe, size_t size, struct clevis_pin **ret, struct sp_why *why)
{
    struct parsing p = {.why = why};
    SP_CLEANUP(clevis) struct clevis_pin *pin = calloc(1, sizeof(*pin));
    int r = pin ? parse(&p, jwe, size, 0, pin) : -ENOMEM;
    if (r == 0)
        *ret = sp_steal(pin);
    return r;
}

static void clear(struct clevis_pin *pin)
{
    for (size_t i = 0; i < CLEVIS_PARTS; i++)
        free(pin->parts[i]);
    json_decref(pin->epk);
    json_decref(pin->server);
    for (unsigned i = 0; i < pin->count; i++)
        clear(&pin->shares[i]);
    free(pin->shares);
}

void clevis_free(struct clevis_pin *pin)
{
    if (pin)
        clear(pin);
    free(pin);
}
