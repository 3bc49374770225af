/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Azure Key Vault, where Azure Disk Encryption (ADE) puts its keys: BitLocker startup keys (.BEK)
 * of Windows, passphrases of Linux. How a machine's keys are found:
 *
 *   Get Secrets ─▶ names whose tags fit ─▶ Get Secret Versions ─▶ items, newest first
 *        └ none: Get Deleted Secrets, of which some can be recovered
 *   Get Secret (id and version) ─▶ Wrapped BEK: Unwrap Key with the KEK, id and version
 *
 * A BitLocker volume's key is found by its protector's GUID, a LUKS volume's by the machine's name.
 * A listing shows all of a vault or is refused, so that nothing found is a clear absence. Versions
 * are always named: the newest may be another key, or one wrapped by another KEK. What a point
 * rests on is therefore two URLs, which are the locator, and in words the record's note. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/providers/azure_answer.h"
#include "controller/keeper/providers/azure_call.h"
#include "controller/keeper/providers/rest.h"
#include <string.h>
#include <strings.h>

#define TYPE "azure-key-vault"

enum { PAGES_MOST = 200, NAMES_MOST = PROVIDER_ITEMS_MOST, VERSIONS_MOST = 4096 };

#define OPTION(name)                                                                               \
    {                                                                                              \
        TYPE, #name, SP_CONFIG_TEXT, offsetof(struct azure, name), 0, 0                            \
    }
static const struct sp_config_option options[] = {
    OPTION(url),        OPTION(kek_url),   OPTION(ca_file),
    OPTION(tenant),     OPTION(client_id), OPTION(secret_file),
    OPTION(credential), OPTION(login_url), OPTION(metadata_url),
    OPTION(resource),   OPTION(canary),    {NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0},
};

/* ---- whose key it is ---- */

static bool is_bitlocker(const Sp__Volume *v)
{
    return v->kind == SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER;
}

static bool knows_protectors(const Sp__Volume *v)
{
    return v->header && v->header->n_protectors > 0;
}

static bool has_startup_key(const Sp__Volume *v, const char *guid)
{
    for (size_t i = 0; i < v->header->n_protectors; i++) {
        const Sp__Protector *x = v->header->protectors[i];
        if (x->type == SP__PROTECTOR_TYPE__PROTECTOR_TYPE_STARTUP_KEY &&
            (!guid || strcasecmp(x->id, guid) == 0))
            return true;
    }
    return false;
}

static bool serves(const struct provider *p, const Sp__Volume *v)
{
    (void)p;
    if (is_bitlocker(v))
        return !knows_protectors(v) || has_startup_key(v, NULL);
    return v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS1 ||
           v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
}

/* The tag is the VM's name; ours may have a domain behind it. */
static bool is_machine(const struct provider_query *q, const struct azure_secret *s)
{
    size_t label = strcspn(q->machine_name, ".");
    return label > 0 &&
           (strcasecmp(s->machine, q->machine_name) == 0 ||
            (strlen(s->machine) == label && strncasecmp(s->machine, q->machine_name, label) == 0));
}

static bool fits(const struct provider_query *q, const struct azure_secret *s)
{
    char guid[37];
    if (!azure_is_bek(s))
        return false;
    if (!is_bitlocker(q->volume))
        return azure_is_passphrase(s) && is_machine(q, s);
    if (!azure_startup_key_id(s, guid))
        return false;
    return knows_protectors(q->volume) ? has_startup_key(q->volume, guid) : is_machine(q, s);
}

/* ---- listings ---- */

/* 0 goes on, else it ends the walk. */
typedef int each_fn(void *self, const struct azure_secret *, struct sp_why *);

static int walk_page(struct azure_call *c, json_object *page, each_fn *each, void *self)
{
    json_object *list = rest_member(page, "value", json_type_array);
    int r = 0;
    if (!list)
        return sp_why_set(c->why, -EPROTO, "the vault's listing is none");
    for (size_t i = 0; i < json_object_array_length(list) && r == 0; i++) {
        struct azure_secret s;
        r = azure_secret_parse(c->vault, json_object_array_get_idx(list, i), &s, c->why);
        if (r == 0)
            r = each(self, &s, c->why);
    }
    return r;
}

static int walk(struct azure_call *c, const char *path, each_fn *each, void *self)
{
    SP_FREE char *url = sp_format("%s/%s?" AZURE_API "&maxresults=25", c->vault, path);
    for (int i = 0; i < PAGES_MOST; i++) {
        SP_CLEANUP(json) json_object *page = NULL;
        int r = url ? azure_ask(c, AZURE_LIST, url, NULL, &page) : -ENOMEM;
        if (r == 0)
            r = walk_page(c, page, each, self);
        if (r != 0)
            return r;
        const char *next = rest_text(page, "nextLink");
        if (!next || !*next)
            return 0;
        free(url);
        url = strdup(next);
    }
    return sp_why_set(c->why, -E2BIG, "the vault's listing does not end");
}

struct version {
    struct azure_bek bek;
    int64_t created;
    Sp__SecretType type;
    char protector[37];
};

struct search {
    const struct azure_call *call;
    const struct provider_query *q;
    char (*names)[AZURE_NAME_BYTES];
    size_t n_names;
    struct version *versions;
    size_t n_versions;
    bool disabled, deleted;
};

static void search_clear(struct search *s)
{
    free(s->names);
    free(s->versions);
}
#define SEARCH __attribute__((cleanup(search_clear))) struct search

static int on_name(void *self, const struct azure_secret *s, struct sp_why *why)
{
    struct search *all = self;
    if (!fits(all->q, s))
        return 0;
    if (all->n_names == NAMES_MOST)
        return sp_why_set(why, -E2BIG, "more than %d secrets have the tags of this volume's key",
                          NAMES_MOST);
    if (!all->names && !(all->names = calloc(NAMES_MOST, sizeof(*all->names))))
        return -ENOMEM;
    memcpy(all->names[all->n_names++], s->id.name, sizeof(s->id.name));
    return 0;
}

static int on_deleted(void *self, const struct azure_secret *s, struct sp_why *why)
{
    struct search *all = self;
    (void)why;
    if (fits(all->q, s))
        all->deleted = true;
    return 0;
}

/* One whose KEK makes no sense stays in: fetching it says why, and it is not taken for absent. */
static int on_version(void *self, const struct azure_secret *s, struct sp_why *why)
{
    struct search *all = self;
    struct version v = {.created = s->created};
    struct sp_why later = {""};
    if (!s->id.version[0])
        return sp_why_set(why, -EPROTO, "the vault lists a version of %s without its number",
                          s->id.name);
    if (!fits(all->q, s))
        return 0;
    if (!s->enabled) {
        all->disabled = true;
        return 0;
    }
    if (all->n_versions == VERSIONS_MOST)
        return sp_why_set(why, -E2BIG, "the secret %s has too many versions", s->id.name);
    if (azure_wrapping(s, all->call->kek_vault, &v.bek, &later) < 0)
        v.bek = (struct azure_bek){.secret = s->id};
    v.type = is_bitlocker(all->q->volume) ? SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY
                                          : SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE;
    if (!azure_startup_key_id(s, v.protector))
        v.protector[0] = 0;
    struct version *grown =
        reallocarray(all->versions, all->n_versions + 1, sizeof(struct version));
    if (!grown)
        return -ENOMEM;
    all->versions = grown;
    grown[all->n_versions++] = v;
    return 0;
}

static int by_age(const void *a, const void *b)
{
    int64_t x = ((const struct version *)a)->created, y = ((const struct version *)b)->created;
    return x < y ? 1 : x > y ? -1 : 0;
}

static int add_items(struct search *s, struct provider_items *out, struct sp_why *why)
{
    if (s->n_versions > PROVIDER_ITEMS_MOST)
        return sp_why_set(why, -E2BIG,
                          "%zu versions of secrets have the tags of this volume's key, %d are the "
                          "most that are tried: disable old ones",
                          s->n_versions, PROVIDER_ITEMS_MOST);
    qsort(s->versions, s->n_versions, sizeof(*s->versions), by_age);
    int r = 0;
    for (size_t i = 0; i < s->n_versions && r == 0; i++) {
        const struct version *v = &s->versions[i];
        SP_FREE char *locator = azure_locator(s->call->vault, &v->bek);
        r = locator ? provider_items_add(out, locator, v->bek.secret.version, v->protector, v->type)
                    : -ENOMEM;
        if (r == 0)
            out->items[out->count - 1].unwrapped = !v->bek.wrapped;
    }
    return r;
}

static int nothing_found(struct azure_call *c, struct search *s)
{
    if (s->disabled)
        return sp_why_set(
            c->why, -EKEYEXPIRED,
            "every secret with the tags of this volume's key is disabled: enable one");
    int r = walk(c, "deletedsecrets", on_deleted, s);
    if (r < 0)
        return r;
    if (s->deleted)
        return sp_why_set(
            c->why, -EKEYEXPIRED,
            "the secret was deleted: 'az keyvault secret recover' brings it back until "
            "it is purged");
    return is_bitlocker(s->q->volume)
               ? sp_why_set(c->why, -ENOENT, "%s has no BEK of the volume's startup key", c->vault)
               : sp_why_set(c->why, -ENOENT, "%s has no BEK of a machine '%.60s'", c->vault,
                            s->q->machine_name);
}

static int lookup(const struct provider *p, const struct provider_query *q,
                  struct provider_items *out, provider_stage *stage, struct sp_why *why)
{
    AZURE_CALL c = {0};
    SEARCH s = {.call = &c, .q = q};
    if (!q->machine_name[0] && !(is_bitlocker(q->volume) && knows_protectors(q->volume)))
        return sp_why_set(why, -EACCES, "the machine has no name to look for in the tags");
    int r = azure_call_begin(p, &c, stage, why);
    if (r == 0)
        r = azure_log_on(&c);
    if (r == 0)
        r = walk(&c, "secrets", on_name, &s);
    for (size_t i = 0; i < s.n_names && r == 0; i++) {
        SP_FREE char *path = sp_format("secrets/%s/versions", s.names[i]);
        r = path ? walk(&c, path, on_version, &s) : -ENOMEM;
    }
    if (r < 0)
        return r;
    return s.n_versions > 0 ? add_items(&s, out, why) : nothing_found(&c, &s);
}

/* ---- one secret ---- */

/* 404 is also said of what can be had back. */
static int gone(struct azure_call *c, enum azure_right right, const char *vault, const char *kind,
                const char *name)
{
    SP_CLEANUP(json) json_object *deleted = NULL;
    SP_FREE char *url = sp_format("%s/deleted%s/%s?" AZURE_API, vault, kind, name);
    int r = url ? azure_ask(c, right, url, NULL, &deleted) : -ENOMEM;
    if (r == -ENOENT)
        return sp_why_set(c->why, r, "%s/%s/%s is gone for good", vault, kind, name);
    return r < 0 ? r
                 : sp_why_set(c->why, -EKEYEXPIRED,
                              "%s/%s/%s was deleted: it can be recovered until it is purged", vault,
                              kind, name);
}

static int get_secret(struct azure_call *c, const struct azure_bek *b, struct sp_secret **ret)
{
    SP_CLEANUP(json) json_object *answer = NULL;
    SP_FREE char *url =
        sp_format("%s/secrets/%s/%s?" AZURE_API, c->vault, b->secret.name, b->secret.version);
    int r = url ? azure_ask(c, AZURE_GET, url, NULL, &answer) : -ENOMEM;
    if (r == -ENOENT)
        return gone(c, AZURE_GET, c->vault, "secrets", b->secret.name);
    return r < 0 ? r : azure_secret_value(c->vault, c->kek_vault, answer, b, ret, c->why);
}

/* {"alg":…,"value":…}; the value is a ciphertext of an RSA key's length, checked by now. */
static int make_question(const struct azure_bek *b, const struct sp_secret *value,
                         struct sp_secret **ret, struct sp_why *why)
{
    SP_SECRET struct sp_secret *cipher = NULL;
    int r = azure_decode(value, &cipher);
    if (r == -ENOMEM)
        return r;
    size_t size = r < 0 ? 0 : sp_secret_size(cipher);
    if (size != 256 && size != 384 && size != 512)
        return sp_why_set(why, -EPROTO,
                          "the secret %s is no Wrapped BEK: its value has the length "
                          "of no RSA key",
                          b->secret.name);
    SP_FREE char *text = sp_base64url(sp_secret_data(cipher), size);
    SP_FREE char *body =
        text ? sp_format("{\"alg\":\"%s\",\"value\":\"%s\"}", b->algorithm, text) : NULL;
    *ret = body ? sp_secret_copy(body, strlen(body)) : NULL;
    return *ret ? 0 : -ENOMEM;
}

static int unwrap(struct azure_call *c, const struct azure_bek *b, const struct sp_secret *value,
                  struct sp_secret **ret)
{
    SP_CLEANUP(json) json_object *answer = NULL;
    SP_SECRET struct sp_secret *body = NULL;
    SP_FREE char *url = sp_format("%s/unwrapkey?" AZURE_API, b->kek);
    struct azure_id kek;
    int r = url ? make_question(b, value, &body, c->why) : -ENOMEM;
    if (r == 0)
        r = azure_ask(c, AZURE_UNWRAP, url, body, &answer);
    if (r == -ENOENT && azure_id_parse(c->kek_vault, "keys", b->kek, &kek))
        return gone(c, AZURE_GET_KEY, c->kek_vault, "keys", kek.name);
    return r < 0 ? r : azure_unwrapped(c->kek_vault, answer, b, ret, c->why);
}

static int fetch_bek(struct azure_call *c, const struct azure_bek *b, Sp__SecretType type,
                     struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *value = NULL, *key = NULL;
    int r = get_secret(c, b, &value);
    if (r == 0 && b->wrapped)
        r = unwrap(c, b, value, &key);
    return r < 0 ? r : azure_key(b->wrapped ? key : value, !b->wrapped, type, ret, c->why);
}

static int fetch(const struct provider *p, const struct provider_item *item, struct sp_secret **ret,
                 provider_stage *stage, struct sp_why *why)
{
    AZURE_CALL c = {0};
    struct azure_bek b;
    int r = azure_call_begin(p, &c, stage, why);
    if (r == 0 && azure_locator_parse(c.vault, c.kek_vault, item->locator, &b) < 0)
        r = sp_why_set(why, -EPROTO, "'%.150s' is not in this vault", item->locator);
    if (r == 0)
        r = azure_log_on(&c);
    return r < 0 ? r : fetch_bek(&c, &b, item->secret_type, ret);
}

/* ---- what a point rests on ---- */

#define WRAPPED_BY "%511s wrapped by %511s with %15s"

static void describe(const struct provider *p, const struct provider_item *item, char *out,
                     size_t size)
{
    char secret[AZURE_URL_BYTES], kek[AZURE_URL_BYTES], algorithm[AZURE_ALGORITHM_BYTES];
    (void)p;
    if (sscanf(item->locator, "%511s %511s %15s", secret, kek, algorithm) == 3)
        snprintf(out, size, "%s wrapped by %s with %s", secret, kek, algorithm);
    else
        snprintf(out, size, "%s", item->locator);
}

/* A record's note is what describe() said. */
static int recall(const struct provider *p, const Sp__EscrowRecord *e, struct provider_items *out)
{
    AZURE_CALL c = {0};
    struct azure_bek b;
    char secret[AZURE_URL_BYTES], kek[AZURE_URL_BYTES], algorithm[AZURE_ALGORITHM_BYTES];
    int r = azure_call_begin(p, &c, NULL, NULL);
    bool wrapped = sscanf(e->note, WRAPPED_BY, secret, kek, algorithm) == 3;
    SP_FREE char *locator =
        wrapped ? sp_format("%s %s %s", secret, kek, algorithm) : strdup(e->note);
    if (r < 0 || !locator)
        return -ENOMEM;
    if (azure_locator_parse(c.vault, c.kek_vault, locator, &b) < 0)
        return 0; /* of another vault, or by other words */
    r = provider_items_add(out, locator, e->version, e->protector_id, e->secret_type);
    if (r == 0)
        out->items[out->count - 1].unwrapped = !b.wrapped;
    return r;
}

/* ---- the canary ---- */

struct canary {
    const struct azure_call *call;
    const char *name;
    bool listed;
    char wrapped[AZURE_NAME_BYTES]; /* any secret that is */
    struct azure_bek bek;           /* its newest version */
    int64_t created;
    bool enabled, is_bek, is_file;
};

static int on_any(void *self, const struct azure_secret *s, struct sp_why *why)
{
    struct canary *c = self;
    (void)why;
    if (strcasecmp(s->id.name, c->name) == 0)
        c->listed = true;
    if (strcmp(s->content_type, "Wrapped BEK") == 0)
        memcpy(c->wrapped, s->id.name, sizeof(s->id.name));
    return 0;
}

static int on_canary(void *self, const struct azure_secret *s, struct sp_why *why)
{
    struct canary *c = self;
    char guid[37];
    if (s->enabled < c->enabled || (s->enabled == c->enabled && s->created < c->created))
        return 0;
    c->created = s->created;
    c->enabled = s->enabled;
    c->is_bek = azure_is_bek(s);
    c->is_file = azure_startup_key_id(s, guid);
    return azure_wrapping(s, c->call->kek_vault, &c->bek, why);
}

/* Read like any key; one that is none is only read. */
static int read_canary(struct azure_call *c, struct canary *canary)
{
    SP_SECRET struct sp_secret *secret = NULL;
    SP_FREE char *path = sp_format("secrets/%s/versions", canary->name);
    int r = path ? walk(c, path, on_canary, canary) : -ENOMEM;
    if (r < 0)
        return r;
    if (!canary->bek.wrapped && canary->wrapped[0])
        return sp_why_set(c->why, -EACCES,
                          "the canary %s is not wrapped by a KEK, and other keys here are: name a "
                          "Wrapped BEK, so that keys/unwrapKey is tried too",
                          canary->name);
    if (!canary->is_bek)
        return get_secret(c, &canary->bek, &secret);
    return fetch_bek(c, &canary->bek,
                     canary->is_file ? SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY
                                     : SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE,
                     &secret);
}

static int canary(const struct provider *p, provider_stage *stage, struct sp_why *why)
{
    AZURE_CALL c = {0};
    const struct azure *a = p->settings;
    struct canary all = {.call = &c, .name = a->canary ? a->canary : ""};
    int r = azure_call_begin(p, &c, stage, why);
    if (r == 0)
        r = azure_knock(&c);
    if (r == 0)
        r = azure_log_on(&c);
    if (r == 0)
        r = walk(&c, "secrets", on_any, &all);
    if (r < 0)
        return r;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY;
    if (!all.name[0])
        return sp_why_set(
            why, -EACCES,
            "no canary is configured: set canary to the name of a Wrapped BEK, which is "
            "read and unwrapped to see that secrets/get and keys/unwrapKey are granted");
    if (!all.listed)
        return sp_why_set(why, -ENOENT, "the vault has no secret '%s', which is the canary",
                          all.name);
    r = read_canary(&c, &all);
    if (*stage == SP__PROVIDER_STAGE__PROVIDER_STAGE_PERMISSION)
        *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY;
    return r;
}

const struct provider_type provider_azure = {.name = TYPE,
                                             .options = options,
                                             .settings_bytes = sizeof(struct azure),
                                             .check = azure_check,
                                             .serves = serves,
                                             .lookup = lookup,
                                             .fetch = fetch,
                                             .describe = describe,
                                             .recall = recall,
                                             .canary = canary};
