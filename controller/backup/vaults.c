/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/file.h"
#include "base/log.h"
#include "base/signed_request.h"
#include "controller/backup/run.h"
#include <string.h>

enum { VAULT_NAME_MAX = 120 };

/* ---- open vaults ---- */

static struct vault *find_open(struct engine *e, const char *vault_id, bool keyed)
{
    for (struct open_vault *v = e->vaults; v; v = v->next) {
        if (strcmp(v->vault_id, vault_id) == 0 && (v->keyed || !keyed))
            return v->vault;
    }
    return NULL;
}

/* The key for clear chunks: the mover's, not a guest's. It lives in secret memory inside the
 * vault's handle; the message that brought it is wiped. */
static int fetch_key(struct engine *e, const char *vault_id, struct sp_secret **ret,
                     struct sp_why *why)
{
    Sp__VaultKeyRequest key = SP__VAULT_KEY_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    key.vault_id = (char *)vault_id;
    key.create = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_VAULT_KEY;
    request.vault_key = &key;
    int r = keeper_ask(e, NULL, &request, NULL, NULL, RUN_KEEPER_TIMEOUT_MS, &response, why);
    if (r < 0)
        return r;
    if (response->kind_case != SP__KEEPER_RESPONSE__KIND_VAULT_KEY ||
        response->vault_key->key.len != 32)
        return sp_why_set(why, -EPROTO, "the keeper gave no key for the vault");
    *ret = sp_secret_copy(response->vault_key->key.data, 32);
    sp_wipe(response->vault_key->key.data, 32);
    return *ret ? 0 : -errno;
}

int vaults_key(struct engine *e, const char *vault_id, struct sp_secret **ret, struct sp_why *why)
{
    return fetch_key(e, vault_id, ret, why);
}

static int open_entry(struct engine *e, const Sp__Vault *entry, bool keyed, struct vault **ret,
                      struct sp_why *why)
{
    struct sp_secret *key SP_SECRET = NULL;
    struct vault *vault = NULL;
    struct open_vault *node = NULL;
    int r = keyed ? fetch_key(e, entry->vault_id, &key, why) : 0;
    if (r == 0)
        r = vault_open(entry->config, entry->vault_id, key, &vault, why);
    if (r < 0)
        return r;
    node = calloc(1, sizeof(*node));
    if (!node) {
        vault_close(vault);
        return -ENOMEM;
    }
    snprintf(node->vault_id, sizeof(node->vault_id), "%s", entry->vault_id);
    node->keyed = keyed;
    node->vault = vault;
    pthread_mutex_lock(&e->lock);
    struct vault *other = find_open(e, entry->vault_id, keyed);
    if (!other) {
        node->next = e->vaults;
        e->vaults = node;
    }
    pthread_mutex_unlock(&e->lock);
    /* Somebody was quicker. */
    if (other) {
        vault_close(vault);
        free(node);
    }
    *ret = other ? other : vault;
    return 0;
}

int engine_vault(struct engine *e, const char *name, bool key, struct vault **ret,
                 struct sp_why *why)
{
    Sp__Vault *entry = NULL;
    int r = catalog_vault_get(e->options.catalog, name, &entry);
    if (r == -ENOENT)
        return sp_why_set(why, r, "no vault '%s': 'sealpoint vault list' shows them",
                          message_empty(name) ? "" : name);
    if (r == -ENOTUNIQ)
        return sp_why_set(why, -EINVAL, "there are several vaults: say which");
    if (r < 0)
        return r;
    pthread_mutex_lock(&e->lock);
    struct vault *open = find_open(e, entry->vault_id, key);
    pthread_mutex_unlock(&e->lock);
    if (open)
        *ret = open;
    else
        r = open_entry(e, entry, key, ret, why);
    message_free(entry);
    return r;
}

/* ---- manifests ---- */

static bool sealed_by_keeper(struct engine *e, const Sp__Signed *message)
{
    struct sp_bytes der;
    EVP_PKEY *key = NULL;
    int r = message->n_signatures > 0 ? engine_sealing_key(e, &der, NULL) : -EKEYREJECTED;
    if (r == 0)
        r = sp_public_key_from_der(der.data, der.size, &key);
    if (r == 0)
        r = sp_signed_verify(message, SP_SIGN_MANIFEST, key);
    EVP_PKEY_free(key);
    return r == 0;
}

int engine_manifest(struct engine *e, const char *point, Sp__Signed **ret,
                    Sp__Manifest **ret_manifest, bool *ret_sealed, struct sp_why *why)
{
    char id[37];
    struct catalog_point *cp CATALOG_POINT = NULL;
    struct vault *vault = NULL;
    struct sp_bytes none = {0};
    int r = catalog_point_find(e->options.catalog, point, id);
    if (r == -ENOENT)
        return sp_why_set(
            why, r,
            "no point '%.60s': 'sealpoint point list' shows them; 8 characters of an id are enough",
            point);
    if (r == -ENOTUNIQ)
        return sp_why_set(why, -EINVAL, "several points begin with '%.60s': give more of the id",
                          point);
    if (r == 0)
        r = catalog_point_get(e->options.catalog, id, &cp);
    if (r < 0)
        return r;
    if (!cp->stored)
        return sp_why_set(
            why, -ENODATA, "point %s holds no data (state %s)", id,
            sp_enum_name(&sp__point_state__descriptor, (int)cp->point->state, "POINT_STATE_"));
    r = engine_vault(e, cp->point->vault_id, false, &vault, why);
    if (r == 0)
        r = vault_get_manifest(vault, cp->point->machine_id, id, none, ret, ret_manifest, why);
    if (r < 0)
        return r;
    /* A manifest of another machine or point may be genuine and still be the wrong one. */
    if (strcmp((*ret_manifest)->machine_id, cp->point->machine_id) != 0 ||
        strcmp((*ret_manifest)->point_id, id) != 0) {
        message_free(*ret);
        message_free(*ret_manifest);
        return sp_why_set(why, -EBADMSG, "the manifest in the vault is not that of point %s", id);
    }
    *ret_sealed = sealed_by_keeper(e, *ret);
    return 0;
}

/* ---- adding ---- */

struct adopt {
    struct engine *engine;
    struct vault *vault;
    const char *vault_id;
    unsigned count;
};

static int ensure_machine(struct engine *e, const Sp__Manifest *m)
{
    Sp__Machine *machine = NULL;
    int r = catalog_machine_get(e->options.catalog, m->machine_id, false, &machine);
    message_free(machine);
    if (r != -ENOENT)
        return r;
    Sp__Machine added = SP__MACHINE__INIT;
    added.machine_id = m->machine_id;
    added.name = m->machine_name;
    r = catalog_machine_add(e->options.catalog, &added);
    if (r == -EEXIST) {
        char *name SP_FREE = sp_format("%s-%.8s", m->machine_name, m->machine_id);
        if (!name)
            return -ENOMEM;
        added.name = name;
        r = catalog_machine_add(e->options.catalog, &added);
    }
    return r;
}

static int adopt_point(struct adopt *a, const Sp__Signed *sealed, const Sp__Manifest *m)
{
    struct engine *e = a->engine;
    struct catalog_point *cp CATALOG_POINT = catalog_point_new();
    int r = cp ? ensure_machine(e, m) : -ENOMEM;
    if (r == 0)
        r = message_set(&cp->point->point_id, m->point_id);
    if (r == 0)
        r = message_set(&cp->point->machine_id, m->machine_id);
    if (r == 0)
        r = message_set(&cp->point->machine_name, m->machine_name);
    if (r == 0)
        r = message_set(&cp->point->vault_id, a->vault_id);
    if (r == 0) {
        cp->point->state = SP__POINT_STATE__POINT_STATE_UNPROVEN;
        r = catalog_point_add(e->options.catalog, cp);
    }
    if (r == 0)
        r = seal_adopt(e, cp, sealed, m);
    /* A seal of another keeper may be genuine; here nobody can tell. */
    if (r == 0 && cp->point->state == SP__POINT_STATE__POINT_STATE_VALID &&
        !sealed_by_keeper(e, sealed)) {
        cp->point->state = SP__POINT_STATE__POINT_STATE_UNPROVEN;
        r = finding_add(
            FINDINGS(cp->point), SP__REASON__REASON_ESCROW_UNREACHABLE, (struct finding_about){0},
            "the seal is not of this keeper: restore its keystore, then verify the point");
        if (r == 0)
            r = catalog_point_save(e->options.catalog, cp, false, "adopted");
    }
    a->count += r == 0;
    return r;
}

static int adopt_each(void *arg, const char *machine_id, const char *point_id)
{
    struct adopt *a = arg;
    struct sp_bytes none = {0};
    struct sp_why why = {0};
    struct catalog_point *known CATALOG_POINT = NULL;
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    int r = catalog_point_get(a->engine->options.catalog, point_id, &known);
    if (r != -ENOENT)
        return r;
    r = vault_get_manifest(a->vault, machine_id, point_id, none, &sealed, &m, &why);
    if (r == 0)
        r = adopt_point(a, sealed, m);
    if (r < 0)
        sp_log_error("point of the vault not taken over", r, &why, "point", point_id, NULL);
    return r == -ENOMEM || r == -ENOSPC ? r : 0;
}

int vaults_adopt(struct engine *e, struct vault *vault, const char *vault_id, const char *name)
{
    struct adopt a = {e, vault, vault_id, 0};
    int r = vault_list_manifests(vault, adopt_each, &a);
    if (a.count > 0)
        sp_log(SP_LOG_INFO, "points of the vault taken over", "vault", name, "points",
               SP_LOG_NUMBER(a.count), NULL);
    return r;
}

/* An empty or missing directory becomes a vault, one that is a vault is opened as it is. */
static int open_or_make(const Sp__VaultConfig *config, struct vault **ret, struct sp_why *why)
{
    struct sp_why first = {0};
    char id[37];
    int r = vault_open(config, NULL, NULL, ret, &first);
    if (r == 0)
        return 0;
    int made = vault_create(config, id, why);
    /* A directory with something in it that is no vault: the first sentence says what. */
    if (made < 0)
        return made == -EEXIST || made == -ENOTEMPTY ? sp_why_set(why, r, "%s", first.text) : made;
    return vault_open(config, id, NULL, ret, why);
}

int engine_add_vault(struct engine *e, const char *name, const Sp__VaultConfig *config,
                     Sp__Vault **ret, struct sp_why *why)
{
    if (message_empty(name) || !config)
        return sp_why_set(why, -EINVAL, "a vault needs a name and a place");
    if (strlen(name) > VAULT_NAME_MAX || sp_uuid_valid(name) || strpbrk(name, " \t\r\n\033"))
        return sp_why_set(why, -EINVAL,
                          "a vault's name has 1 to %d characters, no white space, and is no id",
                          VAULT_NAME_MAX);
    Sp__Vault *same = NULL;
    int r = catalog_vault_get(e->options.catalog, name, &same);
    message_free(same);
    if (r != -ENOENT)
        return r < 0 ? r : sp_why_set(why, -EEXIST, "there is a vault '%s' already", name);
    struct vault *vault = NULL;
    r = open_or_make(config, &vault, why);
    if (r < 0)
        return r;
    Sp__Vault *entry = message_new(&sp__vault__descriptor);
    r = entry ? message_set(&entry->vault_id, vault_id(vault)) : -ENOMEM;
    if (r == 0)
        r = message_set(&entry->name, name);
    if (r == 0 && !(entry->config = message_copy(config)))
        r = -ENOMEM;
    if (r == 0)
        r = catalog_vault_add(e->options.catalog, entry);
    if (r == -EEXIST)
        sp_why_set(why, r, "the vault in this place was added before");
    if (r == 0) {
        r = vaults_adopt(e, vault, entry->vault_id, name);
        (void)vault_space(vault, &entry->used_bytes, &entry->free_bytes);
    }
    vault_close(vault);
    if (r < 0) {
        message_free(entry);
        return r;
    }
    *ret = entry;
    return 0;
}

/* ---- checking ---- */

struct check {
    struct engine *engine;
    struct vault *vault;
    const char *vault_id;
    int (*each)(void *, const Sp__CheckProgress *);
    void *arg;
    Sp__CheckProgress *last; /* the vault's own last word, told after the comparisons */
    Sp__CheckProgress *extra;
    char **point_ids;
    size_t point_count;
};

static int add_problem(Sp__CheckProgress *progress, bool data_lost, const char *point_id,
                       char *what)
{
    Sp__CheckProblem *p = message_new(&sp__check_problem__descriptor);
    int r = p ? message_take(&p->what, what) : -ENOMEM;
    if (r == 0 && point_id)
        r = message_append_text(&p->points_harmed, &p->n_points_harmed, point_id);
    if (r < 0) {
        message_free(p);
        return r;
    }
    p->data_lost = data_lost;
    return message_append(&progress->problems, &progress->n_problems, p);
}

/* Progress passes through; the end waits for what is compared here. */
static int on_progress(void *arg, const Sp__CheckProgress *progress)
{
    struct check *c = arg;
    if (!progress->ended)
        return c->each(c->arg, progress);
    message_free(c->last);
    c->last = message_copy(progress);
    return c->last ? 0 : -ENOMEM;
}

/* The points of this vault: their ids first, since reading manifests may take long and the catalog
 * has others to serve. */
static int gather_point(void *arg, uint64_t rowid, Sp__Point *point)
{
    (void)rowid;
    struct check *c = arg;
    return strcmp(point->vault_id, c->vault_id) == 0
               ? message_append_text(&c->point_ids, &c->point_count, point->point_id)
               : 0;
}

static int check_point(struct check *c, const char *point_id)
{
    struct sp_bytes none = {0};
    struct sp_why why = {0};
    struct catalog_point *cp CATALOG_POINT = NULL;
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    int r = catalog_point_get(c->engine->options.catalog, point_id, &cp);
    if (r == -ENOENT) /* gone since */
        return 0;
    if (r < 0 || !cp->stored)
        return r;
    const Sp__Point *point = cp->point;
    r = vault_get_manifest(c->vault, point->machine_id, point->point_id, none, &sealed, &m, &why);
    if (r < 0)
        return add_problem(c->extra, true, point->point_id,
                           sp_format("the manifest of point %s of machine %s cannot be read: %s",
                                     point->point_id, point->machine_name,
                                     *why.text ? why.text : strerror(-r)));
    bool sealed_well = sealed_by_keeper(c->engine, sealed);
    if (point->state == SP__POINT_STATE__POINT_STATE_VALID &&
        (!sealed_well || m->state_at_seal != SP__POINT_STATE__POINT_STATE_VALID))
        return add_problem(
            c->extra, false, point->point_id,
            sp_format("point %s is called valid, its manifest does not say so", point->point_id));
    if (m->revision < cp->revision)
        return add_problem(c->extra, true, point->point_id,
                           sp_format("point %s has manifest revision %u, revision %u was stored",
                                     point->point_id, m->revision, cp->revision));
    return 0;
}

static int check_known(void *arg, const char *machine_id, const char *point_id)
{
    (void)machine_id;
    struct check *c = arg;
    struct catalog_point *cp CATALOG_POINT = NULL;
    int r = catalog_point_get(c->engine->options.catalog, point_id, &cp);
    if (r == -ENOENT)
        return add_problem(c->extra, false, point_id,
                           sp_format("the vault holds point %s, which the catalog does not know: "
                                     "restart sealpointd to take it over",
                                     point_id));
    return r;
}

static int check_points(struct check *c)
{
    int r = catalog_point_each(c->engine->options.catalog, NULL, 0, gather_point, c);
    for (size_t i = 0; i < c->point_count; i++) {
        if (r == 0)
            r = check_point(c, c->point_ids[i]);
        free(c->point_ids[i]);
    }
    free(c->point_ids);
    return r;
}

static int check_keystore(struct check *c)
{
    Sp__CheckKeystoreRequest check = SP__CHECK_KEYSTORE_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    struct sp_why why = {0};
    request.kind_case = SP__KEEPER_REQUEST__KIND_CHECK;
    request.check = &check;
    int r = c->engine->options.keeper->call(c->engine->options.keeper_self, &request,
                                            RUN_KEEPER_TIMEOUT_MS, &response, &why);
    if (r < 0)
        return add_problem(c->extra, false, NULL,
                           sp_format("the keystore could not be checked: %s",
                                     *why.text ? why.text : strerror(-r)));
    if (response->kind_case != SP__KEEPER_RESPONSE__KIND_CHECK)
        return -EPROTO;
    for (size_t i = 0; i < response->check->n_problems && r == 0; i++)
        r = add_problem(c->extra, true, NULL,
                        sp_format("keystore: %s", response->check->problems[i]));
    return r;
}

int engine_check_vault(struct engine *e, const char *name, bool read_data,
                       int (*each)(void *, const Sp__CheckProgress *), void *arg,
                       struct sp_why *why)
{
    Sp__Vault *entry = NULL;
    struct sp_bytes key = {0};
    struct check c = {.engine = e, .each = each, .arg = arg};
    int r = catalog_vault_get(e->options.catalog, name, &entry);
    if (r < 0)
        return sp_why_set(why, r, "no vault '%s': 'sealpoint vault list' shows them", name);
    c.vault_id = entry->vault_id;
    r = engine_vault(e, entry->vault_id, read_data, &c.vault, why);
    /* Without the keeper seals cannot be verified, but everything else can. */
    if (r == 0)
        (void)engine_sealing_key(e, &key, NULL);
    if (r == 0)
        r = vault_check(c.vault, read_data, key, on_progress, &c, why);
    if (r == 0) {
        c.extra = c.last ? c.last : message_new(&sp__check_progress__descriptor);
        c.last = NULL;
        r = c.extra ? check_points(&c) : -ENOMEM;
    }
    if (r == 0)
        r = vault_list_manifests(c.vault, check_known, &c);
    if (r == 0)
        r = check_keystore(&c);
    if (r == 0) {
        c.extra->ended = 1;
        r = each(arg, c.extra);
    }
    message_free(c.extra);
    message_free(c.last);
    message_free(entry);
    return r;
}
