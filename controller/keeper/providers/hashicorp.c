/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * HashiCorp Vault, secrets engine KV version 2 (its HTTP API):
 *
 *   GET /v1/<mount>/metadata/<path>          current_version, max_versions, versions
 *   GET /v1/<mount>/data/<path>?version=N    data.data, data.metadata.version
 *   GET /v1/auth/token/lookup-self           whether the token is good
 *
 * A version is always named: without one the newest comes back, which is another key after a
 * rotation. 404 is a clear absence (without the right to see a path the answer is 403). By default
 * Vault keeps 10 versions and removes older ones for good, so a version near that end is warned of
 * when no copy is kept. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/providers/hashicorp_answer.h"
#include "controller/keeper/providers/rest.h"
#include <string.h>

#define TYPE "hashicorp-vault"

struct hashicorp {
    char *url, *ca_file, *namespace, *mount, *path, *field, *type, *token_file, *credential,
        *canary;
};

static const struct sp_config_option options[] = {
    {TYPE, "url", SP_CONFIG_TEXT, offsetof(struct hashicorp, url), 0, 0},
    {TYPE, "ca_file", SP_CONFIG_TEXT, offsetof(struct hashicorp, ca_file), 0, 0},
    {TYPE, "namespace", SP_CONFIG_TEXT, offsetof(struct hashicorp, namespace), 0, 0},
    {TYPE, "mount", SP_CONFIG_TEXT, offsetof(struct hashicorp, mount), 0, 0},
    {TYPE, "path", SP_CONFIG_TEXT, offsetof(struct hashicorp, path), 0, 0},
    {TYPE, "field", SP_CONFIG_TEXT, offsetof(struct hashicorp, field), 0, 0},
    {TYPE, "key_type", SP_CONFIG_TEXT, offsetof(struct hashicorp, type), 0, 0},
    {TYPE, "token_file", SP_CONFIG_TEXT, offsetof(struct hashicorp, token_file), 0, 0},
    {TYPE, "credential", SP_CONFIG_TEXT, offsetof(struct hashicorp, credential), 0, 0},
    {TYPE, "canary", SP_CONFIG_TEXT, offsetof(struct hashicorp, canary), 0, 0},
    {NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0},
};

static const char *or_else(const char *text, const char *otherwise)
{
    return text && *text ? text : otherwise;
}

static bool is_recovery(const struct hashicorp *h)
{
    return strcmp(or_else(h->type, "passphrase"), "recovery-password") == 0;
}

static Sp__SecretType type_of(const struct hashicorp *h)
{
    return is_recovery(h) ? SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD
                          : SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE;
}

static int check(const struct provider *p, struct sp_why *why)
{
    const struct hashicorp *h = p->settings;
    if (strncmp(or_else(h->url, ""), "https://", 8) != 0)
        return sp_why_set(why, -EINVAL, "url is https://HOST[:PORT]");
    if (!h->path || !*h->path)
        return sp_why_set(why, -EINVAL, "path is needed, for example machines/{machine}/{volume}");
    if (!is_recovery(h) && strcmp(or_else(h->type, "passphrase"), "passphrase") != 0)
        return sp_why_set(why, -EINVAL, "key_type is passphrase or recovery-password");
    if ((h->token_file && *h->token_file) == (h->credential && *h->credential))
        return sp_why_set(why, -EINVAL,
                          "the token comes from token_file or from credential: set one of them");
    return rest_setup();
}

static bool serves(const struct provider *p, const Sp__Volume *v)
{
    if (v->kind == SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER)
        return true;
    return !is_recovery(p->settings) && (v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS1 ||
                                         v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS2);
}

/* ---- one request ---- */

static int make_headers(const struct hashicorp *h, struct rest_headers *out, struct sp_why *why)
{
    SP_SECRET struct sp_secret *token = NULL;
    int r = provider_password(h->token_file, h->credential, &token, why);
    if (r == 0)
        r = rest_header(out, "X-Vault-Token", sp_secret_data(token), sp_secret_size(token));
    if (r == -EINVAL && !why->text[0])
        return sp_why_set(why, r, "the token is not one line of printable characters");
    if (r == 0 && h->namespace && *h->namespace)
        r = rest_header(out, "X-Vault-Namespace", h->namespace, strlen(h->namespace));
    return r;
}

/* `data` of the answer, borrowed from *ret_all; errors as in provider.h. `status` is left for who
 * can tell more from it. */
static int get(const struct provider *p, const char *path, json_object **ret_all,
               json_object **ret_data, long *status, provider_stage *stage, struct sp_why *why)
{
    const struct hashicorp *h = p->settings;
    SP_FREE char *url = sp_format("%s/v1/%s", h->url, path);
    REST_HEADERS struct rest_headers headers = {0};
    REST_ANSWER struct rest_answer a = {0};
    const struct rest_request q = {
        .url = url, .ca_file = h->ca_file, .headers = &headers, .until_ms = rest_until(p)};
    *status = 0;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION;
    int r = url ? make_headers(h, &headers, why) : -ENOMEM;
    if (r == 0)
        r = rest_ask(&q, &a, stage, why);
    if (r < 0)
        return r;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_PERMISSION;
    *status = a.status;
    if (*status == 403)
        return sp_why_set(
            why, -EACCES,
            "Vault refuses the token for %.200s: the token has expired, or its policy "
            "lacks 'read' there",
            path);
    *ret_all = rest_parse(sp_secret_data(a.bytes), a.size);
    if (*status == 503)
        return sp_why_set(why, -EHOSTUNREACH, "Vault is sealed or under maintenance: unseal it");
    if (*status != 200 && *status != 404)
        return sp_why_set(why, -EHOSTUNREACH, "Vault answers with HTTP status %ld", *status);
    if (json_object_get_type(*ret_all) != json_type_object)
        return sp_why_set(why, -EPROTO, "Vault's answer is no JSON object");
    *ret_data = rest_member(*ret_all, "data", json_type_object);
    if (*status == 200 && !*ret_data)
        return sp_why_set(why, -EPROTO, "Vault's answer has no data");
    return 0;
}

/* 404 with words is not about the path: the mount may be missing, or not be KV version 2. */
static int not_found(json_object *all, const char *path, struct sp_why *why)
{
    json_object *errors = rest_member(all, "errors", json_type_array);
    if (errors && json_object_array_length(errors) == 0)
        return sp_why_set(why, -ENOENT, "Vault has nothing at %.200s", path);
    return sp_why_set(why, -EPROTO,
                      "Vault does not know %.200s: is 'mount' a secrets engine KV version 2?",
                      path);
}

/* ---- paths ---- */

static int append_escaped(struct sp_buffer *out, const char *text)
{
    char *to = (char *)sp_buffer_room(out, 3 * strlen(text) + 1);
    if (!to)
        return -ENOMEM;
    out->size += rest_escape(to, text, strlen(text));
    return 0;
}

/* ---- the provider ---- */

static int look(const struct provider *p, const char *path, struct provider_items *out,
                provider_stage *stage, struct sp_why *why)
{
    const struct hashicorp *h = p->settings;
    SP_CLEANUP(json) json_object *all = NULL;
    json_object *data = NULL;
    long status;
    SP_FREE char *where = sp_format("%s/metadata/%s", or_else(h->mount, "secret"), path);
    int r = where ? get(p, where, &all, &data, &status, stage, why) : -ENOMEM;
    if (r < 0)
        return r;
    return status == 404 ? not_found(all, where, why)
                         : hashicorp_versions(data, path, type_of(h), out, why);
}

static int lookup(const struct provider *p, const struct provider_query *q,
                  struct provider_items *out, provider_stage *stage, struct sp_why *why)
{
    const struct hashicorp *h = p->settings;
    SP_BUFFER struct sp_buffer path = {0};
    int r = provider_fill(h->path, "path", q, append_escaped, &path, why);
    return r < 0 ? r : look(p, sp_buffer_text(&path), out, stage, why);
}

static int fetch(const struct provider *p, const struct provider_item *item, struct sp_secret **ret,
                 provider_stage *stage, struct sp_why *why)
{
    const struct hashicorp *h = p->settings;
    SP_CLEANUP(json) json_object *all = NULL;
    json_object *data = NULL;
    long status;
    SP_FREE char *where = sp_format("%s/data/%s", or_else(h->mount, "secret"), item->locator);
    int r = where ? get(p, where, &all, &data, &status, stage, why) : -ENOMEM;
    if (r < 0)
        return r;
    if (status == 404 && data) /* its metadata are there, the secret is not */
        return sp_why_set(why, -EKEYEXPIRED, "version %s was deleted", item->version);
    return status == 404
               ? not_found(all, where, why)
               : hashicorp_secret(data, or_else(h->field, "key"), item->version, ret, why);
}

static void describe(const struct provider *p, const struct provider_item *item, char *out,
                     size_t size)
{
    const struct hashicorp *h = p->settings;
    snprintf(out, size, "%s/data/%s at %.100s", or_else(h->mount, "secret"), item->locator, h->url);
}

/* Vault tells a bad token and a missing right by the same status: the token is asked about first.
 */
static int canary(const struct provider *p, provider_stage *stage, struct sp_why *why)
{
    const struct hashicorp *h = p->settings;
    SP_CLEANUP(json) json_object *all = NULL;
    PROVIDER_ITEMS struct provider_items items = {0};
    SP_SECRET struct sp_secret *secret = NULL;
    json_object *data = NULL;
    long status;
    int r = get(p, "auth/token/lookup-self", &all, &data, &status, stage, why);
    if (r == -EACCES) {
        *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION;
        return sp_why_set(why, r, "Vault does not know the token: it is wrong or has expired");
    }
    if (r < 0)
        return r;
    if (!h->canary || !*h->canary)
        return sp_why_set(why, -EACCES,
                          "no canary is configured: set canary to a path below 'mount' that the "
                          "token may read");
    r = look(p, h->canary, &items, stage, why);
    if (r < 0)
        return r;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY;
    provider_stage within = 0;
    return fetch(p, &items.items[0], &secret, &within, why);
}

const struct provider_type provider_hashicorp = {.name = TYPE,
                                                 .options = options,
                                                 .settings_bytes = sizeof(struct hashicorp),
                                                 .check = check,
                                                 .serves = serves,
                                                 .lookup = lookup,
                                                 .fetch = fetch,
                                                 .describe = describe,
                                                 .canary = canary};
