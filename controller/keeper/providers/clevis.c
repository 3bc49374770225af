/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * tang, the servers that clevis binds LUKS2 volumes to. Nothing of a volume is stored there: the
 * clevis token in the header of the snapshot holds the passphrase of its keyslot as a JWE, and the
 * recovery exchange with the server's key gives what opens it. So the key is there exactly when the
 * exchange works (tang's README; RFC 7516; clevis_jwe.h):
 *
 *   GET  URL/adv          the keys that the server offers, signed by itself
 *   POST URL/rec/KID      one point of a curve, multiplied by the key of that thumbprint
 *
 * A key that was rotated (its file begins with a dot) still answers and is not offered any more;
 * one whose file was deleted is 404. Any web server says 404, so that is absent only where a tang
 * server answers.
 *
 * The header is hostile: it names the servers, and only those that the configuration lists are
 * asked. Who else can reach them can recover what a header binds to them: that is how tang works.
 */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "controller/keeper/providers/clevis_jwe.h"
#include "controller/keeper/providers/rest.h"
#include <string.h>

#define TYPE "tang"

enum { SERVERS_MOST = 16, VERSION_BYTES = 80, HASH_SHOWN = 6 };

struct tang {
    char *url, *ca_file;
};

static const struct sp_config_option options[] = {
    {TYPE, "url", SP_CONFIG_TEXT, offsetof(struct tang, url), 0, 0},
    {TYPE, "ca_file", SP_CONFIG_TEXT, offsetof(struct tang, ca_file), 0, 0},
    {NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0},
};

/* ---- the servers that may be asked ---- */

/* The next of the list, in its one spelling. False: no more. */
static bool next_server(const char **at, char out[CLEVIS_URL_BYTES], int *ret_error)
{
    const char *text = *at ? *at + strspn(*at, " ,\t") : "";
    size_t size = strcspn(text, " ,\t");
    char one[CLEVIS_URL_BYTES];
    *ret_error = 0;
    if (size == 0)
        return false;
    *at = text + size;
    if (size >= sizeof(one)) {
        *ret_error = -EINVAL;
        return true;
    }
    memcpy(one, text, size);
    one[size] = 0;
    *ret_error = strstr(one, "://") ? clevis_url(one, out) : -EINVAL;
    return true;
}

static bool is_listed(const struct provider *p, const char *url)
{
    const struct tang *t = p->settings;
    const char *at = t->url;
    char one[CLEVIS_URL_BYTES];
    int error;
    while (next_server(&at, one, &error))
        if (error == 0 && strcmp(one, url) == 0)
            return true;
    return false;
}

static int check(const struct provider *p, struct sp_why *why)
{
    const struct tang *t = p->settings;
    const char *at = t->url;
    char one[CLEVIS_URL_BYTES];
    unsigned count = 0;
    int error = 0;
    while (error == 0 && next_server(&at, one, &error))
        count++;
    if (error < 0 || count == 0 || count > SERVERS_MOST)
        return sp_why_set(why, -EINVAL,
                          "url lists the tang servers that may be asked, up to %d of "
                          "http://HOST[:PORT] with spaces between",
                          SERVERS_MOST);
    clevis_setup();
    return rest_setup();
}

static bool is_clevis(const Sp__Token *t)
{
    return strcmp(t->type, "clevis") == 0 && t->n_keyslots > 0;
}

static bool serves(const struct provider *p, const Sp__Volume *v)
{
    (void)p;
    bool any = false;
    if (v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS2 && v->header)
        for (size_t i = 0; i < v->header->n_tokens && !any; i++)
            any = is_clevis(v->header->tokens[i]);
    return any;
}

/* ---- one server ---- */

static int ask(const struct provider *p, const char *url, const struct sp_secret *body,
               uint64_t until_ms, struct rest_answer *a, provider_stage *stage, struct sp_why *why)
{
    static const char json[] = "application/jwk+json";
    const struct tang *t = p->settings;
    REST_HEADERS struct rest_headers headers = {0};
    const struct rest_request q = {.url = url,
                                   .ca_file = t->ca_file,
                                   .headers = &headers,
                                   .body = body,
                                   .until_ms = until_ms,
                                   .plain = true};
    int r = body ? rest_header(&headers, "Content-Type", json, sizeof(json) - 1) : 0;
    return r < 0 ? r : rest_ask(&q, a, stage, why);
}

/* The advertisement, which only a tang server signs. */
static int advertised(const struct provider *p, const char *server, const char *kid,
                      uint64_t until_ms, bool *ret_has, provider_stage *stage, struct sp_why *why)
{
    REST_ANSWER struct rest_answer a = {0};
    SP_FREE char *url = sp_format("%s/adv", server);
    int r = url ? ask(p, url, NULL, until_ms, &a, stage, why) : -ENOMEM;
    if (r < 0)
        return r;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY;
    if (a.status == 401 || a.status == 403)
        return sp_why_set(why, -EACCES,
                          "%s answers with HTTP status %ld: tang asks for no log-on, so something "
                          "before it does",
                          server, a.status);
    if (a.status != 200)
        return sp_why_set(why, -EHOSTUNREACH,
                          "%s/adv answers with HTTP status %ld: is it a tang server with keys?",
                          server, a.status);
    r = clevis_advertisement(sp_secret_data(a.bytes), a.size, kid, ret_has, why);
    return r == -EPROTO ? sp_why_prefix(why, r, "%s is no tang server", server) : r;
}

/* 404 of a tang server is about the key; of any other it says nothing. */
static int not_there(const struct provider *p, const struct clevis_pin *pin, uint64_t until_ms,
                     provider_stage *stage, struct sp_why *why)
{
    struct sp_why other = {""};
    bool has = false;
    int r = advertised(p, pin->url, pin->kid, until_ms, &has, stage, &other);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        return sp_why_set(why, -EACCES,
                          "%s has nothing at /rec, and what it advertises is not of tang: %.200s",
                          pin->url, other.text);
    if (has)
        return sp_why_set(why, -EPROTO, "%s advertises the key %s and does not answer for it",
                          pin->url, pin->kid);
    return sp_why_set(why, -ENOENT,
                      "the tang server %s has the key %s no more: put its file back from a backup "
                      "of the server, or bind the volume anew with 'clevis luks regen'",
                      pin->url, pin->kid);
}

static int recover_tang(const struct provider *p, const struct clevis_pin *pin, uint64_t until_ms,
                        struct sp_secret **ret, provider_stage *stage, struct sp_why *why)
{
    REST_ANSWER struct rest_answer a = {0};
    CLEVIS_QUESTION struct clevis_question q = {NULL, NULL};
    if (!is_listed(p, pin->url))
        return sp_why_set(why, -EACCES,
                          "the volume is bound to the tang server %s, which is not asked: add it "
                          "to url of [tang %s] if it is yours",
                          pin->url, p->name);
    SP_FREE char *url = sp_format("%s/rec/%s", pin->url, pin->kid);
    int r = url ? clevis_ask(pin, &q, why) : -ENOMEM;
    if (r == 0)
        r = ask(p, url, q.body, until_ms, &a, stage, why);
    if (r < 0)
        return r;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_PERMISSION;
    switch (a.status) {
    case 200:
        return clevis_open_tang(pin, &q, sp_secret_data(a.bytes), a.size, ret, why);
    case 404:
        return not_there(p, pin, until_ms, stage, why);
    case 401:
    case 403:
        return sp_why_set(why, -EACCES,
                          "%s answers with HTTP status %ld: tang asks for no log-on, so something "
                          "before it does",
                          pin->url, a.status);
    default:
        return sp_why_set(why, -EHOSTUNREACH, "%s answers with HTTP status %ld", pin->url,
                          a.status);
    }
}

/* ---- a token ---- */

static int recover(const struct provider *, const struct clevis_pin *, uint64_t until_ms,
                   struct sp_secret **ret, provider_stage *, struct sp_why *);

/* What is left of the time is shared out, so that a silent server takes no other's turn. */
static uint64_t turn(uint64_t until_ms, unsigned left)
{
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    return now >= until_ms ? until_ms : now + (until_ms - now) / left;
}

/* Absent is said only when the others would not be enough either, whatever they answer later. */
static int recover_sss(const struct provider *p, const struct clevis_pin *pin, uint64_t until_ms,
                       struct sp_secret **ret, provider_stage *stage, struct sp_why *why)
{
    struct sp_secret *had[CLEVIS_PINS_MOST] = {NULL};
    struct sp_why open = {""}, absent = {""};
    unsigned count = 0, undecided = 0;
    int r = 0, first = 0;
    for (unsigned i = 0; i < pin->count && count < pin->threshold && r != -ENOMEM; i++) {
        struct sp_why now = {""};
        r = recover(p, &pin->shares[i], turn(until_ms, pin->count - i), &had[count], stage, &now);
        if (r == 0)
            count++;
        else if (r == -ENOENT)
            absent = now;
        else if (undecided++ == 0)
            first = r, open = now;
    }
    if (r == -ENOMEM)
        ;
    else if (count == pin->threshold)
        r = clevis_open_sss(pin, had, ret, why);
    else if (count + undecided >= pin->threshold)
        r = sp_why_set(why, first, "%u of %u shares are needed, %u were had: %.400s",
                       pin->threshold, pin->count, count, open.text);
    else
        r = sp_why_set(why, -ENOENT, "%u of %u shares are needed, %u can be had: %.400s",
                       pin->threshold, pin->count, count + undecided, absent.text);
    for (unsigned i = 0; i < count; i++)
        sp_secret_free(had[i]);
    return r;
}

static int recover(const struct provider *p, const struct clevis_pin *pin, uint64_t until_ms,
                   struct sp_secret **ret, provider_stage *stage, struct sp_why *why)
{
    switch (pin->kind) {
    case CLEVIS_TANG:
        return recover_tang(p, pin, until_ms, ret, stage, why);
    case CLEVIS_SSS:
        return recover_sss(p, pin, until_ms, ret, stage, why);
    case CLEVIS_TPM2:
        return sp_why_set(why, -ENOENT,
                          "bound to the machine's TPM (tpm2), which no escrow holds: import a "
                          "passphrase, or bind it to a tang server as well");
    default:
        return sp_why_set(why, -EACCES, "bound by the clevis pin '%s', which is not known here",
                          pin->name);
    }
}

static int parse(const char *locator, struct clevis_pin **ret, struct sp_why *why)
{
    if (!*locator)
        return sp_why_set(why, -EPROTO,
                          "its clevis token has no JWE that can be read, or one of more than %d "
                          "bytes",
                          CLEVIS_JWE_MOST);
    return clevis_parse(locator, strlen(locator), ret, why);
}

static int fetch(const struct provider *p, const struct provider_item *item, struct sp_secret **ret,
                 provider_stage *stage, struct sp_why *why)
{
    SP_CLEANUP(clevis) struct clevis_pin *pin = NULL;
    int r = parse(item->locator, &pin, why);
    if (r == 0)
        r = recover(p, pin, rest_until(p), ret, stage, why);
    if (r < 0 && r != -ENOMEM && item->protector_id[0])
        sp_why_prefix(why, r, "keyslot %s", item->protector_id);
    return r;
}

/* ---- what a point rests on ---- */

/* The server's key, and which of the JWEs that are bound to it: a keyslot may be bound anew. */
static void version_of(const struct clevis_pin *pin, const char *jwe, char out[VERSION_BYTES])
{
    uint8_t hash[32] = {0};
    char hex[2 * HASH_SHOWN + 1];
    sp_sha256_of(jwe, strlen(jwe), hash);
    sp_hex(hex, hash, HASH_SHOWN);
    if (pin && pin->kind == CLEVIS_TANG)
        snprintf(out, VERSION_BYTES, "%s/%s", pin->kid, hex);
    else if (pin && pin->kind == CLEVIS_SSS)
        snprintf(out, VERSION_BYTES, "%u-of-%u/%s", pin->threshold, pin->count, hex);
    else
        snprintf(out, VERSION_BYTES, "%s", hex);
}

static void describe_pin(const struct clevis_pin *pin, struct sp_buffer *out)
{
    if (pin->kind == CLEVIS_TANG)
        sp_buffer_printf(out, "key %s of %s", pin->kid, pin->url);
    else if (pin->kind != CLEVIS_SSS)
        sp_buffer_printf(out, "%s", pin->name);
    else
        sp_buffer_printf(out, "%u of (", pin->threshold);
    for (unsigned i = 0; i < pin->count; i++) {
        if (i > 0)
            sp_buffer_append(out, ", ", 2);
        describe_pin(&pin->shares[i], out);
    }
    if (pin->kind == CLEVIS_SSS)
        sp_buffer_append(out, ")", 1);
}

static void describe(const struct provider *p, const struct provider_item *item, char *out,
                     size_t size)
{
    SP_CLEANUP(clevis) struct clevis_pin *pin = NULL;
    SP_BUFFER struct sp_buffer text = {0};
    struct sp_why why = {""};
    (void)p;
    if (parse(item->locator, &pin, &why) == 0)
        describe_pin(pin, &text);
    snprintf(out, size, "%s", sp_buffer_text(&text));
}

/* ---- what will take it away ---- */

/* Whether it could not be recovered without the keys that their servers offer no more; *ret: the
 * first of them. Servers that do not answer count as they are: fetch() tells of them. */
static bool is_ending(const struct provider *p, const struct clevis_pin *pin, uint64_t until_ms,
                      const struct clevis_pin **ret)
{
    struct sp_why why = {""};
    provider_stage stage = 0;
    bool has = true;
    unsigned stay = 0;
    if (pin->kind == CLEVIS_SSS) {
        for (unsigned i = 0; i < pin->count; i++)
            stay += !is_ending(p, &pin->shares[i], turn(until_ms, pin->count - i), ret);
        return stay < pin->threshold;
    }
    if (pin->kind != CLEVIS_TANG || !is_listed(p, pin->url))
        return true;
    if (advertised(p, pin->url, pin->kid, until_ms, &has, &stage, &why) < 0 || has)
        return false;
    if (!*ret)
        *ret = pin;
    return true;
}

static int warn(const struct provider *p, const struct clevis_pin *pin, struct provider_item *item)
{
    const struct clevis_pin *rotated = NULL;
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    if (!is_ending(p, pin, now + p->timeout_ms / 4, &rotated) || !rotated)
        return 0;
    item->warning =
        sp_format("the tang server %s has rotated its key %s, and deletes it some day: bind the "
                  "volume anew with 'clevis luks regen', or mirror it",
                  rotated->url, rotated->kid);
    return item->warning ? 0 : -ENOMEM;
}

/* ---- the provider ---- */

/* Every token is a candidate; why one cannot be had is for fetch() to tell, each for itself. */
static int add(const struct provider *p, const Sp__Token *t, struct provider_items *out)
{
    SP_CLEANUP(clevis) struct clevis_pin *pin = NULL;
    SP_FREE char *jwe = strndup(t->jwe.len ? (const char *)t->jwe.data : "",
                                t->jwe.len <= CLEVIS_JWE_MOST ? t->jwe.len : 0);
    char version[VERSION_BYTES], slot[16] = "";
    struct sp_why why = {""};
    if (!jwe || parse(jwe, &pin, &why) == -ENOMEM)
        return -ENOMEM;
    version_of(pin, jwe, version);
    if (t->n_keyslots == 1)
        snprintf(slot, sizeof(slot), "%u", t->keyslots[0]);
    int r = provider_items_add(out, jwe, version, slot, SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE);
    /* A copy survives the server's key, so nobody need be warned. */
    return r < 0 || p->mirror || !pin ? r : warn(p, pin, &out->items[out->count - 1]);
}

static int lookup(const struct provider *p, const struct provider_query *q,
                  struct provider_items *out, provider_stage *stage, struct sp_why *why)
{
    const Sp__HeaderFacts *h = q->volume->header;
    int r = 0;
    (void)stage;
    for (size_t i = 0; h && i < h->n_tokens && r == 0; i++)
        if (is_clevis(h->tokens[i]))
            r = add(p, h->tokens[i], out);
    return r < 0 || out->count > 0
               ? r
               : sp_why_set(why, -ENOENT, "the volume has no clevis token that names a keyslot");
}

static int canary(const struct provider *p, provider_stage *stage, struct sp_why *why)
{
    const struct tang *t = p->settings;
    const char *at = t->url;
    char one[CLEVIS_URL_BYTES];
    bool has = false;
    int r = 0, error;
    while (r == 0 && next_server(&at, one, &error) && (r = error) == 0) {
        r = advertised(p, one, NULL, rest_until(p), &has, stage, why);
        if (r == 0 && !has)
            r = sp_why_set(why, -ENOENT, "%s advertises no key that volumes could be bound to",
                           one);
    }
    return r;
}

const struct provider_type provider_clevis = {.name = TYPE,
                                              .options = options,
                                              .settings_bytes = sizeof(struct tang),
                                              .check = check,
                                              .serves = serves,
                                              .lookup = lookup,
                                              .fetch = fetch,
                                              .describe = describe,
                                              .canary = canary};
