/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/azure_call.h"

#include "base/file.h"
#include "controller/keeper/providers/azure_answer.h"
#include "controller/keeper/providers/rest.h"
#include <string.h>

#define STAGE(x) SP__PROVIDER_STAGE__PROVIDER_STAGE_##x

static const char *or_else(const char *text, const char *otherwise)
{
    return text && *text ? text : otherwise;
}

static bool is_set(const char *text)
{
    return text && *text;
}

/* ---- configuration ---- */

/* "https://host[:port]", perhaps with a slash, as the portal shows it. */
static bool is_origin(const char *url, const char *scheme)
{
    if (strncmp(url, scheme, strlen(scheme)) != 0)
        return false;
    const char *host = url + strlen(scheme);
    size_t size = strcspn(host, "/?#@");
    return size > 0 && (host[size] == 0 || strcmp(host + size, "/") == 0);
}

/* Instance metadata has no TLS: it is asked on the machine itself only. */
static bool is_local(const char *url)
{
    static const char *const hosts[] = {"169.254.169.254", "127.0.0.1", "localhost", "[::1]"};
    for (size_t i = 0; i < SP_COUNT(hosts); i++) {
        size_t size = strlen(hosts[i]);
        if (is_origin(url, "http://") && strncmp(url + 7, hosts[i], size) == 0 &&
            strchr(":/", url[7 + size]))
            return true;
    }
    return false;
}

static bool is_word(const char *text)
{
    return strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.") ==
           strlen(text);
}

/* With a tenant: client credentials. Without: the identity of the machine that this runs on. */
static int check_identity(const struct provider *p, const struct azure *a, struct sp_why *why)
{
    if (!is_word(or_else(a->tenant, "")) || !is_word(or_else(a->client_id, "")))
        return sp_why_set(why, -EINVAL, "tenant and client_id are GUIDs, tenant may be a domain");
    if (!is_set(a->tenant))
        return is_set(a->secret_file) || is_set(a->credential)
                   ? sp_why_set(why, -EINVAL,
                                "a client's secret needs its tenant and client_id too; without "
                                "all three the managed identity of this machine is used")
                   : 0;
    if (!is_set(a->client_id))
        return sp_why_set(why, -EINVAL, "client_id is needed with tenant");
    if (is_set(a->secret_file) == is_set(a->credential))
        return sp_why_set(why, -EINVAL,
                          "the client's secret of '%s' comes from secret_file or from credential: "
                          "set one of them",
                          p->name);
    return 0;
}

int azure_check(const struct provider *p, struct sp_why *why)
{
    const struct azure *a = p->settings;
    if (!is_origin(or_else(a->url, ""), "https://"))
        return sp_why_set(why, -EINVAL, "url is https://NAME.vault.azure.net");
    if (is_set(a->kek_url) && !is_origin(a->kek_url, "https://"))
        return sp_why_set(why, -EINVAL, "kek_url is https://NAME.vault.azure.net");
    if (is_set(a->login_url) && !is_origin(a->login_url, "https://"))
        return sp_why_set(why, -EINVAL, "login_url is https://HOST");
    if (is_set(a->metadata_url) && !is_local(a->metadata_url))
        return sp_why_set(why, -EINVAL,
                          "metadata_url is http:// and 169.254.169.254 or this machine itself");
    if (is_set(a->resource) && !is_origin(a->resource, "https://"))
        return sp_why_set(why, -EINVAL, "resource is https://vault.azure.net or another cloud's");
    if (is_set(a->canary) && (!is_word(a->canary) || strlen(a->canary) >= AZURE_NAME_BYTES))
        return sp_why_set(why, -EINVAL, "canary is the name of a secret");
    int r = check_identity(p, a, why);
    return r < 0 ? r : rest_setup();
}

/* ---- a call ---- */

static char *without_slash(const char *url)
{
    size_t size = strlen(url);
    return strndup(url, size > 0 && url[size - 1] == '/' ? size - 1 : size);
}

int azure_call_begin(const struct provider *p, struct azure_call *c, provider_stage *stage,
                     struct sp_why *why)
{
    const struct azure *a = p->settings;
    *c = (struct azure_call){.p = p,
                             .a = a,
                             .vault = without_slash(a->url),
                             .kek_vault = without_slash(or_else(a->kek_url, a->url)),
                             .until_ms = rest_until(p),
                             .stage = stage,
                             .why = why};
    return c->vault && c->kek_vault ? 0 : -ENOMEM;
}

void azure_call_end(struct azure_call *c)
{
    free(c->vault);
    free(c->kek_vault);
    sp_secret_free(c->token);
    rest_link_end(&c->link);
}

int azure_knock(struct azure_call *c)
{
    SP_FREE char *url = sp_format("%s/secrets?" AZURE_API, c->vault);
    REST_ANSWER struct rest_answer answer = {0};
    const struct rest_request q = {
        .url = url, .ca_file = c->a->ca_file, .until_ms = c->until_ms, .link = &c->link};
    return url ? rest_ask(&q, &answer, c->stage, c->why) : -ENOMEM;
}

/* ---- tokens ---- */

/* "name=value&", the value escaped; `at` has room for it. */
static char *add_field(char *at, const char *name, const void *value, size_t size)
{
    at = stpcpy(stpcpy(at, name), "=");
    return at + rest_escape(at, value, size);
}

static int make_form(const struct azure *a, const struct sp_secret *secret, struct sp_secret **ret)
{
    SP_FREE char *scope = sp_format("%s/.default", or_else(a->resource, "https://vault.azure.net"));
    if (!scope)
        return -ENOMEM;
    size_t id = strlen(a->client_id);
    SP_SECRET struct sp_secret *form =
        sp_secret_new(128 + 3 * (id + strlen(scope) + sp_secret_size(secret)));
    if (!form)
        return -ENOMEM;
    char *begin = (char *)sp_secret_data(form), *at = begin;
    at = stpcpy(at, "grant_type=client_credentials&");
    at = stpcpy(add_field(at, "client_id", a->client_id, id), "&");
    at = stpcpy(add_field(at, "scope", scope, strlen(scope)), "&");
    at = add_field(at, "client_secret", sp_secret_data(secret), sp_secret_size(secret));
    sp_secret_shrink(form, (size_t)(at - begin));
    *ret = sp_steal(form);
    return 0;
}

/* What went wrong for whom: the service's own words may be long, and name what nobody asked for. */
static int login_refused(struct azure_call *c, long status, json_object *answer)
{
    static const struct {
        const char *code, *says;
    } known[] = {
        {"AADSTS7000215", "the client's secret is wrong (the value is needed, not its id)"},
        {"AADSTS7000222", "the client's secret has expired: make a new one"},
        {"AADSTS700016", "the tenant has no application of this client_id"},
        {"AADSTS90002", "there is no such tenant"},
        {"AADSTS500011", "the tenant does not know 'resource'"},
    };
    char code[40];
    azure_login_error(answer, code);
    for (size_t i = 0; i < SP_COUNT(known); i++)
        if (strcmp(known[i].code, code) == 0)
            return sp_why_set(c->why, -EACCES, "no log-on: %s (%s)", known[i].says, code);
    return sp_why_set(c->why, status >= 500 ? -EHOSTUNREACH : -EACCES,
                      "no log-on: the login service answers with HTTP status %ld%s%s", status,
                      *code ? ", " : "", code);
}

static int metadata_refused(struct azure_call *c, long status)
{
    if (status == 400)
        return sp_why_set(c->why, -EACCES,
                          "this machine has no managed identity%s: assign one, or set tenant, "
                          "client_id and the client's secret",
                          is_set(c->a->client_id) ? " of this client_id" : "");
    return sp_why_set(c->why, -EHOSTUNREACH, "instance metadata answer with HTTP status %ld",
                      status);
}

static int ask_login(struct azure_call *c, struct rest_answer *answer)
{
    const struct azure *a = c->a;
    SP_SECRET struct sp_secret *secret = NULL, *form = NULL;
    SP_FREE char *base = without_slash(or_else(a->login_url, "https://login.microsoftonline.com"));
    SP_FREE char *url = base ? sp_format("%s/%s/oauth2/v2.0/token", base, a->tenant) : NULL;
    if (!url)
        return -ENOMEM;
    int r = provider_password(a->secret_file, a->credential, &secret, c->why);
    if (r == 0)
        r = make_form(a, secret, &form);
    const struct rest_request q = {
        .url = url, .ca_file = a->ca_file, .body = form, .until_ms = c->until_ms};
    return r < 0 ? r : rest_ask(&q, answer, c->stage, c->why);
}

static int ask_metadata(struct azure_call *c, struct rest_answer *answer)
{
    const struct azure *a = c->a;
    REST_HEADERS struct rest_headers headers = {0};
    const char *resource = or_else(a->resource, "https://vault.azure.net");
    SP_FREE char *escaped = calloc(3, strlen(resource) + 1);
    SP_FREE char *base = without_slash(or_else(a->metadata_url, "http://169.254.169.254"));
    if (!base || !escaped)
        return -ENOMEM;
    rest_escape(escaped, resource, strlen(resource));
    SP_FREE char *url =
        sp_format("%s/metadata/identity/oauth2/token?api-version=2018-02-01&resource=%s%s%s", base,
                  escaped, is_set(a->client_id) ? "&client_id=" : "", or_else(a->client_id, ""));
    int r = url ? rest_header(&headers, "Metadata", "true", 4) : -ENOMEM;
    const struct rest_request q = {
        .url = url, .headers = &headers, .until_ms = c->until_ms, .plain = true};
    return r < 0 ? r : rest_ask(&q, answer, c->stage, c->why);
}

int azure_log_on(struct azure_call *c)
{
    REST_ANSWER struct rest_answer answer = {0};
    SP_CLEANUP(json) json_object *all = NULL;
    bool client = is_set(c->a->tenant);
    int r = client ? ask_login(c, &answer) : ask_metadata(c, &answer);
    *c->stage = STAGE(AUTHENTICATION);
    if (r < 0)
        return r == -ENOMEM ? r : sp_why_prefix(c->why, r, "no log-on");
    all = rest_parse(sp_secret_data(answer.bytes), answer.size);
    if (answer.status != 200)
        return client ? login_refused(c, answer.status, all) : metadata_refused(c, answer.status);
    r = azure_token(all, &c->token, c->why);
    return r == -EPROTO ? sp_why_prefix(c->why, r, "no log-on") : r;
}

/* ---- questions ---- */

static const struct {
    const char *permission, *action, *role;
} rights[] = {
    [AZURE_LIST] = {"secrets/list", "secrets/readMetadata/action", "Key Vault Secrets User"},
    [AZURE_GET] = {"secrets/get", "secrets/getSecret/action", "Key Vault Secrets User"},
    [AZURE_UNWRAP] = {"keys/unwrapKey", "keys/unwrap/action",
                      "Key Vault Crypto Service Encryption User"},
    [AZURE_GET_KEY] = {"keys/get", "keys/read", "Key Vault Crypto Service Encryption User"},
};

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text);
    return size >= strlen(end) && strcmp(text + size - strlen(end), end) == 0;
}

/* Key Vault says 403 for whom it does not let do it, and for what it does not let be done. */
static int forbidden(struct azure_call *c, enum azure_right right, const char *code)
{
    const char *permission = rights[right].permission;
    if (ends_with(code, "Disabled"))
        return sp_why_set(c->why, -EKEYEXPIRED, "%s is disabled: enable it in the vault (%s)",
                          right == AZURE_UNWRAP ? "the KEK" : "the secret", code);
    if (ends_with(code, "Expired") || ends_with(code, "NotYetValid"))
        return sp_why_set(c->why, -EKEYEXPIRED, "it is outside its time (%s)", code);
    if (strcmp(code, "ForbiddenByFirewall") == 0 || strcmp(code, "ForbiddenByConnection") == 0)
        return sp_why_set(c->why, -EACCES, "the vault's network rules do not let this host in (%s)",
                          code);
    if (strcmp(code, "ForbiddenByRbac") == 0)
        return sp_why_set(c->why, -EACCES,
                          "the identity lacks %s: assign it the role '%s' "
                          "(Microsoft.KeyVault/vaults/%s)",
                          permission, rights[right].role, rights[right].action);
    return sp_why_set(c->why, -EACCES,
                      "the identity lacks %s: grant it in the vault's access policy, or the role "
                      "'%s' (%s)",
                      permission, rights[right].role, *code ? code : "HTTP status 403");
}

static int refused(struct azure_call *c, enum azure_right right, long status, json_object *answer)
{
    char code[64];
    azure_error_code(answer, code);
    switch (status) {
    case 401:
        *c->stage = STAGE(AUTHENTICATION);
        return sp_why_set(c->why, -EACCES,
                          "the vault does not take the token: the identity is of another tenant, "
                          "or 'resource' of another cloud");
    case 403:
        return forbidden(c, right, code);
    case 404:
        return sp_why_set(c->why, -ENOENT, "the vault has no such object (%s)",
                          *code ? code : "HTTP status 404");
    case 409:
        return sp_why_set(c->why, -EKEYEXPIRED, "it was deleted, and can be recovered (%s)", code);
    case 400:
        return sp_why_set(c->why, -EPROTO, "the vault cannot do it (%s)",
                          *code ? code : "HTTP status 400");
    default:
        return sp_why_set(c->why, -EHOSTUNREACH, "the vault answers with HTTP status %ld%s%s",
                          status, *code ? ", " : "", code);
    }
}

/* The token is for these two alone, whatever a tag or a nextLink says. */
static bool is_ours(const struct azure_call *c, const char *url)
{
    return azure_behind(c->vault, url) || azure_behind(c->kek_vault, url);
}

static int add_token(const struct azure_call *c, struct rest_headers *out)
{
    static const char scheme[] = "Bearer ";
    size_t size = sp_secret_size(c->token);
    SP_SECRET struct sp_secret *value = sp_secret_new(sizeof(scheme) - 1 + size);
    if (!value)
        return -ENOMEM;
    memcpy(sp_secret_data(value), scheme, sizeof(scheme) - 1);
    memcpy(sp_secret_data(value) + sizeof(scheme) - 1, sp_secret_data(c->token), size);
    return rest_header(out, "Authorization", sp_secret_data(value), sp_secret_size(value));
}

int azure_ask(struct azure_call *c, enum azure_right right, const char *url,
              const struct sp_secret *body, json_object **ret)
{
    REST_HEADERS struct rest_headers headers = {0};
    REST_ANSWER struct rest_answer answer = {0};
    SP_CLEANUP(json) json_object *all = NULL;
    const struct rest_request q = {.url = url,
                                   .ca_file = c->a->ca_file,
                                   .headers = &headers,
                                   .body = body,
                                   .until_ms = c->until_ms,
                                   .link = &c->link};
    if (!is_ours(c, url))
        return sp_why_set(c->why, -EPROTO, "the vault sends us to '%.150s', which is not its own",
                          url);
    int r = add_token(c, &headers);
    if (r == 0 && body)
        r = rest_header(&headers, "Content-Type", "application/json", 16);
    if (r == 0)
        r = rest_ask(&q, &answer, c->stage, c->why);
    if (r < 0)
        return r;
    *c->stage = STAGE(PERMISSION);
    all = rest_parse(sp_secret_data(answer.bytes), answer.size);
    if (answer.status != 200)
        return refused(c, right, answer.status, all);
    if (json_object_get_type(all) != json_type_object)
        return sp_why_set(c->why, -EPROTO, "the vault's answer is no JSON object");
    *ret = sp_steal(all);
    return 0;
}
