/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/vault.h"
#include "controller/mover/vault/internal.h"
#include <json.h>
#include <string.h>

static const struct vault_backend *const backends[] = {&vault_dir};

/* Features of a vault that a reader must know, or refuse. None yet beyond the format itself. */
static const char *const known_features[] = {NULL};

static const struct vault_backend *backend_for(const Sp__VaultConfig *config)
{
    for (size_t i = 0; config && i < SP_COUNT(backends); i++)
        if (backends[i]->kind == config->kind_case)
            return backends[i];
    return NULL;
}

bool vault_id_valid(const char *text)
{
    size_t n = strlen(text);
    if (n == 0 || n > VAULT_ID_MAX || text[0] == '.')
        return false;
    return strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

bool vault_name_valid(const char *name)
{
    char part[VAULT_ID_MAX * 2 + 1];
    if (strlen(name) >= VAULT_NAME_MAX)
        return false;
    for (const char *rest = name; rest; rest = strchr(rest, '/') ? strchr(rest, '/') + 1 : NULL) {
        size_t n = strcspn(rest, "/");
        if (n == 0 || n >= sizeof part || rest[0] == '.' ||
            strspn(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") < n)
            return false;
    }
    return true;
}

int vault_get_whole(struct vault *v, const char *name, size_t most, uint8_t **ret_data,
                    size_t *ret_size)
{
    uint64_t size;
    int r = v->backend->size(v->self, name, &size);
    if (r < 0)
        return r;
    if (size > most)
        return -EFBIG;
    uint8_t *data = malloc((size_t)size + 1);
    if (!data)
        return -ENOMEM;
    r = v->backend->get(v->self, name, 0, data, (size_t)size);
    if (r < 0) {
        free(data);
        return r;
    }
    data[size] = 0;
    *ret_data = data;
    *ret_size = (size_t)size;
    return 0;
}

/* ---- the descriptor ---- */

int vault_create_replica(const Sp__VaultConfig *config, const char *id, struct sp_why *why)
{
    const struct vault_backend *backend = backend_for(config);
    if (!backend || !sp_uuid_valid(id))
        return sp_why_set(why, -EINVAL, "no such kind of vault is known to this program");
    char text[512];
    void *self = NULL;
    int r = backend->open(config, true, &self, why);
    if (r < 0)
        return r;
    int n =
        snprintf(text, sizeof text,
                 "{\n  \"format\": \"sealpoint-vault\",\n  \"version\": %d,\n  \"id\": \"%s\",\n"
                 "  \"chunk_bytes\": %d,\n  \"fan_out\": %d,\n  \"critical_features\": [],\n"
                 "  \"made_by\": \"sealpoint %s\"\n}\n",
                 VAULT_FORMAT, id, VAULT_CHUNK_BYTES, MAP_FAN_OUT, SEALPOINT_VERSION);
    struct sp_bytes part = {(const uint8_t *)text, (size_t)n};
    r = backend->put(self, "vault.json", &part, 1, why);
    backend->close(self);
    return r;
}

int vault_create(const Sp__VaultConfig *config, char ret_vault_id[37], struct sp_why *why)
{
    char id[37];
    int r = sp_uuid_make(id);
    if (r == 0)
        r = vault_create_replica(config, id, why);
    if (r == 0)
        memcpy(ret_vault_id, id, sizeof id);
    return r;
}

static const char *json_text(json_object *of, const char *key)
{
    json_object *o = NULL;
    if (!json_object_object_get_ex(of, key, &o) || !json_object_is_type(o, json_type_string))
        return "";
    return json_object_get_string(o);
}

static int64_t json_number(json_object *of, const char *key)
{
    json_object *o = NULL;
    if (!json_object_object_get_ex(of, key, &o) || !json_object_is_type(o, json_type_int))
        return -1;
    return json_object_get_int64(o);
}

static bool feature_known(const char *name)
{
    for (size_t i = 0; name && i < SP_COUNT(known_features); i++)
        if (known_features[i] && !strcmp(known_features[i], name))
            return true;
    return false;
}

static int check_features(json_object *of, struct sp_why *why)
{
    json_object *list = NULL;
    if (!json_object_object_get_ex(of, "critical_features", &list))
        return 0;
    if (!json_object_is_type(list, json_type_array))
        return sp_why_set(why, -EBADMSG, "vault.json is damaged: critical_features is no list");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(list, i));
        if (!feature_known(name))
            return sp_why_set(why, -ENOTSUP,
                              "the vault needs '%.60s', which this program does not know: use a "
                              "newer one",
                              name ? name : "null");
    }
    return 0;
}

static int parse_descriptor(const char *text, size_t size, char ret_id[37], struct sp_why *why)
{
    json_tokener *tokener = json_tokener_new_ex(8);
    if (!tokener)
        return -ENOMEM;
    json_object *o = json_tokener_parse_ex(tokener, text, (int)size);
    json_tokener_free(tokener);
    int r = 0;
    const char *id = "";
    if (!o || !json_object_is_type(o, json_type_object) ||
        strcmp(json_text(o, "format"), "sealpoint-vault")) {
        r = sp_why_set(why, -EBADMSG, "vault.json is damaged, or not of a Sealpoint vault");
        goto out;
    }
    if (json_number(o, "version") != VAULT_FORMAT) {
        r = sp_why_set(why, -ENOTSUP, "the vault is of format version %lld, this program knows %d",
                       (long long)json_number(o, "version"), VAULT_FORMAT);
        goto out;
    }
    id = json_text(o, "id");
    if (!sp_uuid_valid(id) || json_number(o, "chunk_bytes") != VAULT_CHUNK_BYTES ||
        json_number(o, "fan_out") != MAP_FAN_OUT) {
        r = sp_why_set(why, -EBADMSG, "vault.json is damaged: id, chunk_bytes or fan_out is wrong");
        goto out;
    }
    r = check_features(o, why);
    if (r == 0)
        snprintf(ret_id, 37, "%s", id);
out:
    json_object_put(o);
    return r;
}

static int load_descriptor(struct vault *v, struct sp_why *why)
{
    uint8_t *text SP_FREE = NULL;
    size_t size = 0;
    int r = vault_get_whole(v, "vault.json", VAULT_DESCRIPTOR_MAX, &text, &size);
    if (r == -ENOENT)
        return sp_why_set(why, r, "there is no vault: vault.json is missing");
    if (r < 0)
        return sp_why_set(why, r, "cannot read vault.json: %s", strerror(-r));
    return parse_descriptor((const char *)text, size, v->id, why);
}

/* ---- what handles share ---- */

static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vault_shared *all_shared; /* under shared_lock */

static struct vault_shared *share(const void *place)
{
    pthread_mutex_lock(&shared_lock);
    struct vault_shared *s = all_shared;
    while (s && s->place != place)
        s = s->next;
    if (!s && (s = calloc(1, sizeof *s))) {
        s->place = place;
        pthread_rwlock_init(&s->sweep, NULL);
        pthread_mutex_init(&s->tidy, NULL);
        s->next = all_shared;
        all_shared = s;
    }
    if (s)
        s->refs++;
    pthread_mutex_unlock(&shared_lock);
    return s;
}

static void let_go(struct vault_shared *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&shared_lock);
    if (--s->refs == 0) {
        struct vault_shared **at = &all_shared;
        while (*at != s)
            at = &(*at)->next;
        *at = s->next;
        pthread_rwlock_destroy(&s->sweep);
        pthread_mutex_destroy(&s->tidy);
        free(s);
    }
    pthread_mutex_unlock(&shared_lock);
}

/* ---- the key ---- */

struct key_search {
    const char *id;
    unsigned others;
    bool found;
};

static int match_key(void *arg, const char *name, uint64_t bytes)
{
    struct key_search *s = arg;
    (void)bytes;
    if (!strcmp(name + strlen("keys/"), s->id))
        s->found = true;
    else
        s->others++;
    return 0;
}

/* A wrong key would make every sealed chunk look damaged; keys/ tells the two apart. */
static int check_key(struct vault *v, struct sp_why *why)
{
    struct key_search search = {.id = vault_keys_id(v->keys)};
    int r = v->backend->list(v->self, "keys/", match_key, &search);
    if (r < 0)
        return r;
    if (!search.found && search.others > 0)
        return sp_why_set(why, -EKEYREJECTED,
                          "the key given is not the one that sealed this vault's chunks");
    v->key_recorded = search.found;
    return 0;
}

int vault_record_key(struct vault *v, struct sp_why *why)
{
    if (!v->keys)
        return sp_why_set(why, -ENOKEY,
                          "clear data cannot be stored: the vault was opened without "
                          "its key");
    pthread_mutex_lock(&v->lock);
    int r = 0;
    if (!v->key_recorded) {
        char name[VAULT_NAME_MAX];
        snprintf(name, sizeof name, "keys/%s", vault_keys_id(v->keys));
        r = v->backend->put(v->self, name, &(struct sp_bytes){(const uint8_t *)"\n", 1}, 1, why);
        if (r == -EEXIST)
            r = 0;
        v->key_recorded = r == 0;
    }
    pthread_mutex_unlock(&v->lock);
    return r;
}

/* ---- open ---- */

int vault_open(const Sp__VaultConfig *config, const char *id, const struct sp_secret *key,
               struct vault **ret, struct sp_why *why)
{
    const struct vault_backend *backend = backend_for(config);
    if (!backend)
        return sp_why_set(why, -EINVAL, "no such kind of vault is known to this program");
    struct vault *v = calloc(1, sizeof *v);
    if (!v)
        return -ENOMEM;
    v->backend = backend;
    pthread_mutex_init(&v->lock, NULL);
    int r = backend->open(config, false, &v->self, why);
    if (r < 0)
        goto fail;
    r = load_descriptor(v, why);
    if (r < 0)
        goto fail;
    if (id && strcmp(id, v->id)) {
        r = sp_why_set(why, -EINVAL, "there is another vault than expected: %s, not %s", v->id, id);
        goto fail;
    }
    v->shared = share(backend->place(v->self));
    if (!v->shared) {
        r = -ENOMEM;
        goto fail;
    }
    if (key) {
        r = vault_keys_new(key, &v->keys);
        if (r < 0) {
            (void)sp_why_set(why, r,
                             r == -EINVAL ? "a vault key is 32 bytes long"
                                          : "no locked memory for the vault key");
            goto fail;
        }
        r = check_key(v, why);
        if (r < 0)
            goto fail;
    }
    r = vault_index_new(backend, v->self, 0, &v->index);
    if (r == 0)
        r = vault_index_refresh(v->index, why);
    if (r < 0)
        goto fail;
    *ret = v;
    return 0;
fail:
    vault_close(v);
    return r;
}

void vault_close(struct vault *v)
{
    if (!v)
        return;
    vault_index_free(v->index);
    vault_keys_free(v->keys);
    vault_set_free(&v->durable_roots);
    if (v->self)
        v->backend->close(v->self);
    let_go(v->shared);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

const char *vault_id(const struct vault *v)
{
    return v->id;
}

int vault_space(struct vault *v, uint64_t *ret_used, uint64_t *ret_free)
{
    return v->backend->space(v->self, ret_used, ret_free);
}
