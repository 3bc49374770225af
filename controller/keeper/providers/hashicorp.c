/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * HashiCorp Vault, secrets engine KV version 2 (its HTTP API):
 *
 *   GET /v1/<mount>/metadata/<path>          current_version, oldest_version, max_versions,
 * versions GET /v1/<mount>/data/<path>?version=N    data.data, data.metadata.version GET
 * /v1/auth/token/lookup-self           whether the token is good
 *
 * A version is always named: without one the newest comes back, which is another key after a
 * rotation. 404 is a clear absence (without the right to see a path the answer is 403). By default
 * Vault keeps 10 versions and removes older ones for good, so a version near that end is warned of
 * when no copy is kept. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/providers/provider.h"
#include <curl/curl.h>
#include <json-c/json.h>
#include <string.h>

#define TYPE "hashicorp-vault"

enum {
    ANSWER_MOST = 256 * 1024,
    VERSIONS_TRIED = 10,
    WARN_BEFORE = 3, /* writes before the version is removed */
    VERSIONS_DEFAULT = 10
};

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
    return curl_global_init(CURL_GLOBAL_DEFAULT) == 0 ? 0 : -ENOMEM;
}

static bool serves(const struct provider *p, const Sp__Volume *v)
{
    if (v->kind == SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER)
        return true;
    return !is_recovery(p->settings) && (v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS1 ||
                                         v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS2);
}

/* ---- one request ---- */

SP_DEFINE_CLEANUP(curl, CURL *, curl_easy_cleanup)
SP_DEFINE_CLEANUP(json, json_object *, json_object_put)

struct answer {
    struct sp_secret *bytes; /* of ANSWER_MOST */
    size_t size;
    bool too_long;
};

static size_t on_bytes(char *data, size_t one, size_t count, void *self)
{
    struct answer *a = self;
    size_t size = one * count;
    if (size > ANSWER_MOST - a->size) {
        a->too_long = true;
        return 0;
    }
    memcpy(sp_secret_data(a->bytes) + a->size, data, size);
    a->size += size;
    return size;
}

/* A header line with the token; libcurl's list copies it, so both are wiped. */
static int add_header(struct curl_slist **list, const char *name, const char *value, size_t size)
{
    SP_SECRET struct sp_secret *line = sp_secret_new(strlen(name) + size + 3);
    if (!line)
        return -ENOMEM;
    char *text = (char *)sp_secret_data(line);
    memcpy(text, name, strlen(name));
    memcpy(text + strlen(name), ": ", 2);
    memcpy(text + strlen(name) + 2, value, size);
    struct curl_slist *grown = curl_slist_append(*list, text);
    if (grown)
        *list = grown;
    return grown ? 0 : -ENOMEM;
}

static void headers_free(struct curl_slist **list)
{
    for (struct curl_slist *l = *list; l; l = l->next)
        sp_wipe(l->data, strlen(l->data));
    curl_slist_free_all(*list);
}

static int make_headers(const struct hashicorp *h, struct curl_slist **list, struct sp_why *why)
{
    SP_SECRET struct sp_secret *token = NULL;
    int r = provider_password(h->token_file, h->credential, &token, why);
    for (size_t i = 0; r == 0 && i < sp_secret_size(token); i++)
        if (sp_secret_data(token)[i] <= ' ' || sp_secret_data(token)[i] > '~')
            r = sp_why_set(why, -EINVAL, "the token is not one line of printable characters");
    if (r == 0)
        r = add_header(list, "X-Vault-Token", (char *)sp_secret_data(token), sp_secret_size(token));
    if (r == 0 && h->namespace && *h->namespace)
        r = add_header(list, "X-Vault-Namespace", h->namespace, strlen(h->namespace));
    return r;
}

static int failed(CURLcode code, const char *said, const struct hashicorp *h,
                  const struct answer *a, provider_stage *stage, struct sp_why *why)
{
    if (a->too_long)
        return sp_why_set(why, -EPROTO, "the server's answer is longer than %d bytes", ANSWER_MOST);
    switch (code) {
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    case CURLE_OPERATION_TIMEDOUT:
        return sp_why_set(why, -ETIMEDOUT, "no answer from %.100s in time", h->url);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CACERT_BADFILE:
        *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS;
        return sp_why_set(
            why, -ENOTCONN,
            "no trusted TLS: the server's certificate must be for the host that 'url' "
            "names, valid now, and signed by a CA of ca_file (%.120s)",
            said);
    default:
        return sp_why_set(why, -EHOSTUNREACH, "cannot ask %.100s: %.200s", h->url,
                          *said ? said : curl_easy_strerror(code));
    }
}

static int perform(const struct provider *p, const char *url, struct answer *a, long *ret_status,
                   provider_stage *stage, struct sp_why *why)
{
    const struct hashicorp *h = p->settings;
    __attribute__((cleanup(headers_free))) struct curl_slist *headers = NULL;
    char said[CURL_ERROR_SIZE] = "";
    SP_CLEANUP(curl) CURL *c = curl_easy_init();
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION;
    int r = c ? make_headers(h, &headers, why) : -ENOMEM;
    if (r < 0)
        return r;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CONNECTION;
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)p->timeout_ms);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, said);
    if (h->ca_file && *h->ca_file)
        curl_easy_setopt(c, CURLOPT_CAINFO, h->ca_file);
    CURLcode code = curl_easy_perform(c);
    if (code != CURLE_OK)
        return failed(code, said, h, a, stage, why);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, ret_status);
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_PERMISSION;
    return 0;
}

/* The whole answer, or NULL. What the parser had of it is wiped. */
static json_object *parse(const struct answer *a)
{
    struct json_tokener *t = json_tokener_new_ex(16);
    json_object *o = NULL;
    if (!t)
        return NULL;
    if (a->size > 0)
        o = json_tokener_parse_ex(t, (const char *)sp_secret_data(a->bytes), (int)a->size);
    if (t->pb && t->pb->buf)
        sp_wipe(t->pb->buf, (size_t)t->pb->size);
    json_tokener_free(t);
    return o;
}

/* `data` of the answer, borrowed from *ret_all; errors as in provider.h. `status` is left for who
 * can tell more from it. */
static int get(const struct provider *p, const char *path, json_object **ret_all,
               json_object **ret_data, long *status, provider_stage *stage, struct sp_why *why)
{
    const struct hashicorp *h = p->settings;
    SP_FREE char *url = sp_format("%s/v1/%s", h->url, path);
    SP_SECRET struct sp_secret *bytes = sp_secret_new(ANSWER_MOST);
    struct answer a = {.bytes = bytes};
    if (!url || !bytes)
        return -ENOMEM;
    *status = 0;
    int r = perform(p, url, &a, status, stage, why);
    if (r < 0)
        return r;
    if (*status == 403)
        return sp_why_set(
            why, -EACCES,
            "Vault refuses the token for %.200s: the token has expired, or its policy "
            "lacks 'read' there",
            path);
    *ret_all = parse(&a);
    if (*status == 503)
        return sp_why_set(why, -EHOSTUNREACH, "Vault is sealed or under maintenance: unseal it");
    if (*status != 200 && *status != 404)
        return sp_why_set(why, -EHOSTUNREACH, "Vault answers with HTTP status %ld", *status);
    if (json_object_get_type(*ret_all) != json_type_object)
        return sp_why_set(why, -EPROTO, "Vault's answer is no JSON object");
    bool has = json_object_object_get_ex(*ret_all, "data", ret_data) &&
               json_object_get_type(*ret_data) == json_type_object;
    if (*status == 200 && !has)
        return sp_why_set(why, -EPROTO, "Vault's answer has no data");
    if (!has)
        *ret_data = NULL;
    return 0;
}

/* 404 with words is not about the path: the mount may be missing, or not be KV version 2. */
static int not_found(json_object *all, const char *path, struct sp_why *why)
{
    json_object *errors = NULL;
    if (json_object_object_get_ex(all, "errors", &errors) &&
        json_object_get_type(errors) == json_type_array && json_object_array_length(errors) == 0)
        return sp_why_set(why, -ENOENT, "Vault has nothing at %.200s", path);
    return sp_why_set(why, -EPROTO,
                      "Vault does not know %.200s: is 'mount' a secrets engine KV version 2?",
                      path);
}

/* ---- versions ---- */

static bool number_of(json_object *in, const char *key, int64_t *ret)
{
    json_object *o = NULL;
    if (!json_object_object_get_ex(in, key, &o) || json_object_get_type(o) != json_type_int)
        return false;
    *ret = json_object_get_int64(o);
    return *ret >= 0 && *ret <= INT32_MAX;
}

static bool flag_of(json_object *in, const char *key)
{
    json_object *o = NULL;
    return json_object_object_get_ex(in, key, &o) && json_object_get_type(o) == json_type_boolean &&
           json_object_get_boolean(o);
}

static bool is_deleted(json_object *version)
{
    json_object *o = NULL;
    return json_object_object_get_ex(version, "deletion_time", &o) &&
           json_object_get_type(o) == json_type_string && json_object_get_string_len(o) > 0;
}

static int add_version(const struct provider *p, const char *path, int64_t version, int64_t current,
                       int64_t most, struct provider_items *out)
{
    const struct hashicorp *h = p->settings;
    SP_FREE char *locator = sp_format("%s?version=%lld", path, (long long)version);
    char number[24];
    snprintf(number, sizeof(number), "%lld", (long long)version);
    int r = locator
                ? provider_items_add(out, locator, number, "",
                                     is_recovery(h) ? SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD
                                                    : SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE)
                : -ENOMEM;
    int64_t left = most - (current - version);
    if (r < 0 || left > WARN_BEFORE)
        return r;
    out->items[out->count - 1].warning = sp_format(
        "Vault keeps %lld versions (max_versions) and removes version %lld for good with the %s "
        "write from now: raise max_versions, or mirror it",
        (long long)most, (long long)version,
        left <= 1   ? "next"
        : left == 2 ? "second"
                    : "third");
    return out->items[out->count - 1].warning ? 0 : -ENOMEM;
}

/* Newest first: the one in use. Deleted ones can be undeleted, destroyed ones are gone. */
static int take_versions(const struct provider *p, const char *path, json_object *data,
                         struct provider_items *out, struct sp_why *why)
{
    json_object *versions = NULL;
    int64_t current = 0, most = 0;
    bool deleted = false;
    int r = 0;
    if (!number_of(data, "current_version", &current) || !number_of(data, "max_versions", &most) ||
        !json_object_object_get_ex(data, "versions", &versions) ||
        json_object_get_type(versions) != json_type_object)
        return sp_why_set(why, -EPROTO, "Vault's metadata of %.200s make no sense", path);
    for (int64_t v = current; v > 0 && v > current - VERSIONS_TRIED && r == 0; v--) {
        char number[24];
        json_object *one = NULL;
        snprintf(number, sizeof(number), "%lld", (long long)v);
        if (!json_object_object_get_ex(versions, number, &one) || flag_of(one, "destroyed"))
            continue;
        if (is_deleted(one))
            deleted = true;
        else
            r = add_version(p, path, v, current, most ? most : VERSIONS_DEFAULT, out);
    }
    if (r < 0 || out->count > 0)
        return r;
    return deleted
               ? sp_why_set(why, -EKEYEXPIRED,
                            "every version at %.200s is deleted: 'vault kv undelete' brings one "
                            "back",
                            path)
               : sp_why_set(why, -ENOENT, "every version at %.200s is destroyed", path);
}

/* ---- paths ---- */

static int append_escaped(struct sp_buffer *out, const char *text)
{
    int r = 0;
    for (const char *p = text; *p && r == 0; p++)
        r = strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", *p)
                ? sp_buffer_append(out, p, 1)
                : sp_buffer_printf(out, "%%%02X", (unsigned char)*p);
    return r;
}

static int fill_path(const struct hashicorp *h, const struct provider_query *q,
                     struct sp_buffer *out, struct sp_why *why)
{
    const struct {
        const char *name, *value;
    } fields[] = {{"{machine}", q->machine_name},
                  {"{machine_id}", q->machine_id},
                  {"{volume}", q->volume->volume_id}};
    int r = 0;
    for (const char *p = h->path; *p && r == 0;) {
        size_t i = 0;
        while (i < SP_COUNT(fields) && strncmp(p, fields[i].name, strlen(fields[i].name)) != 0)
            i++;
        if (i == SP_COUNT(fields)) {
            r = sp_buffer_append(out, p++, 1);
        } else if (!fields[i].value || !*fields[i].value) {
            r = sp_why_set(why, -EACCES, "the machine has no name for %s in 'path'",
                           fields[i].name);
        } else {
            r = append_escaped(out, fields[i].value);
            p += strlen(fields[i].name);
        }
    }
    return r;
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
    return status == 404 ? not_found(all, where, why) : take_versions(p, path, data, out, why);
}

static int lookup(const struct provider *p, const struct provider_query *q,
                  struct provider_items *out, provider_stage *stage, struct sp_why *why)
{
    SP_BUFFER struct sp_buffer path = {0};
    int r = fill_path(p->settings, q, &path, why);
    return r < 0 ? r : look(p, sp_buffer_text(&path), out, stage, why);
}

/* The field of the very version that was asked for. The parser's copy is wiped. */
static int take_secret(const struct hashicorp *h, const struct provider_item *item,
                       json_object *data, struct sp_secret **ret, struct sp_why *why)
{
    const char *field = or_else(h->field, "key");
    json_object *values = NULL, *metadata = NULL, *value = NULL;
    int64_t version = 0;
    char number[24];
    if (!json_object_object_get_ex(data, "metadata", &metadata) ||
        !number_of(metadata, "version", &version))
        return sp_why_set(why, -EPROTO, "Vault's answer does not say which version it is");
    snprintf(number, sizeof(number), "%lld", (long long)version);
    if (strcmp(number, item->version) != 0)
        return sp_why_set(why, -EPROTO, "Vault hands out version %s instead of %s", number,
                          item->version);
    if (!json_object_object_get_ex(data, "data", &values) ||
        !json_object_object_get_ex(values, field, &value) ||
        json_object_get_type(value) != json_type_string)
        return sp_why_set(why, -EPROTO, "version %s has no text in the field '%.60s'",
                          item->version, field);
    char *text = (char *)(uintptr_t)json_object_get_string(value);
    size_t size = (size_t)json_object_get_string_len(value);
    int r = size == 0 || size > PROVIDER_SECRET_MOST
                ? sp_why_set(why, -EPROTO, "the field '%.60s' is empty or far too long", field)
                : 0;
    if (r == 0 && !(*ret = sp_secret_copy(text, size)))
        r = -ENOMEM;
    sp_wipe(text, size);
    return r;
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
    return status == 404 ? not_found(all, where, why) : take_secret(h, item, data, ret, why);
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
