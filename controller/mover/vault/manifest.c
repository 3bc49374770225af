/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/manifest.h"
#include "base/signed_request.h"
#include "controller/mover/vault/walk.h"
#include <string.h>

static const char prefix[] = "manifests/";

/* Features that this reader knows. A manifest that needs another one is refused. */
static const char *const known_features[] = {NULL};

/* ---- names ---- */

char *manifest_name_text(const struct manifest_name *n, char *out)
{
    snprintf(out, VAULT_NAME_MAX, "%s%s/%s.%u", prefix, n->machine_id, n->point_id, n->revision);
    return out;
}

static bool take_part(char out[VAULT_ID_MAX + 1], const char *from, size_t size)
{
    if (size > VAULT_ID_MAX)
        return false;
    memcpy(out, from, size);
    out[size] = 0;
    return vault_id_valid(out);
}

int manifest_name_parse(const char *name, struct manifest_name *ret)
{
    struct manifest_name n = {0};
    char again[VAULT_NAME_MAX];
    if (strncmp(name, prefix, strlen(prefix)))
        return -EINVAL;
    const char *machine = name + strlen(prefix), *slash = strchr(machine, '/');
    const char *dot = strrchr(name, '.');
    if (!slash || !dot || dot < slash || strlen(dot + 1) > 9 ||
        strspn(dot + 1, "0123456789") != strlen(dot + 1) || !dot[1])
        return -EINVAL;
    if (!take_part(n.machine_id, machine, (size_t)(slash - machine)) ||
        !take_part(n.point_id, slash + 1, (size_t)(dot - slash - 1)))
        return -EINVAL;
    n.revision = (uint32_t)strtoul(dot + 1, NULL, 10);
    if (strcmp(manifest_name_text(&n, again), name))
        return -EINVAL;
    *ret = n;
    return 0;
}

struct listing {
    struct manifest_list *list;
    const char *machine_id, *point_id;
};

static int gather(void *arg, const char *name, uint64_t bytes)
{
    struct listing *l = arg;
    struct manifest_list *list = l->list;
    struct manifest_name n;
    (void)bytes;
    if (manifest_name_parse(name, &n) < 0 ||
        (l->machine_id && strcmp(l->machine_id, n.machine_id)) ||
        (l->point_id && strcmp(l->point_id, n.point_id)))
        return 0;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 32;
        void *bigger = realloc(list->names, capacity * sizeof *list->names);
        if (!bigger)
            return -ENOMEM;
        list->names = bigger;
        list->capacity = capacity;
    }
    list->names[list->count++] = n;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct manifest_name *x = a, *y = b;
    int c = strcmp(x->machine_id, y->machine_id);
    if (!c)
        c = strcmp(x->point_id, y->point_id);
    return c ? c : (x->revision > y->revision) - (x->revision < y->revision);
}

int manifest_list(struct vault *v, const char *machine_id, const char *point_id,
                  struct manifest_list *ret)
{
    struct manifest_list list = {0};
    char below[VAULT_NAME_MAX];
    snprintf(below, sizeof below, "%s%s%s", prefix, machine_id ? machine_id : "",
             machine_id ? "/" : "");
    int r =
        v->backend->list(v->self, below, gather, &(struct listing){&list, machine_id, point_id});
    if (r < 0) {
        manifest_list_free(&list);
        return r;
    }
    if (list.count > 0)
        qsort(list.names, list.count, sizeof *list.names, by_name);
    *ret = list;
    return 0;
}

void manifest_list_free(struct manifest_list *l)
{
    free(l->names);
    *l = (struct manifest_list){0};
}

/* ---- read ---- */

static int check_form(const Sp__Manifest *m, struct sp_why *why)
{
    if (m->format != 1)
        return sp_why_set(why, -ENOTSUP, "the manifest is of format %u, this program knows 1",
                          m->format);
    for (size_t i = 0; i < m->n_critical_features; i++) {
        bool known = false;
        for (size_t k = 0; k < SP_COUNT(known_features); k++)
            known =
                known || (known_features[k] && !strcmp(known_features[k], m->critical_features[i]));
        if (!known)
            return sp_why_set(why, -ENOTSUP,
                              "the manifest needs '%.60s', which this program does not know: use a "
                              "newer one",
                              m->critical_features[i]);
    }
    if (!vault_id_valid(m->machine_id) || !vault_id_valid(m->point_id))
        return sp_why_set(why, -EBADMSG, "the manifest names no machine or no point");
    if (m->keystore_copy[0] && !vault_name_valid(m->keystore_copy))
        return sp_why_set(why, -EBADMSG, "the manifest's keystore copy has an impossible name");
    for (size_t i = 0; i < m->n_disks; i++)
        if (m->disks[i]->root.len != VAULT_ADDRESS_BYTES || m->disks[i]->size_bytes == 0 ||
            m->disks[i]->size_bytes > MAP_MAX_DISK_BYTES)
            return sp_why_set(why, -EBADMSG, "disk '%.60s' in the manifest has no map or no size",
                              m->disks[i]->disk_id);
    return 0;
}

int manifest_parse(const void *data, size_t size, Sp__Signed **ret, Sp__Manifest **ret_manifest,
                   struct sp_why *why)
{
    Sp__Signed *sealed = sp__signed__unpack(NULL, size, data);
    if (!sealed || sealed->payload.len == 0) {
        if (sealed)
            sp__signed__free_unpacked(sealed, NULL);
        return sp_why_set(why, -EBADMSG,
                          "the manifest is damaged or cut short: it is no signed "
                          "message");
    }
    Sp__Manifest *m = sp__manifest__unpack(NULL, sealed->payload.len, sealed->payload.data);
    int r = m ? check_form(m, why)
              : sp_why_set(why, -EBADMSG, "the manifest is damaged: its payload is no manifest");
    if (r < 0) {
        if (m)
            sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(sealed, NULL);
        return r;
    }
    *ret = sealed;
    *ret_manifest = m;
    return 0;
}

static int check_signature(const Sp__Signed *sealed, struct sp_bytes sealing_key,
                           struct sp_why *why)
{
    if (sealed->n_signatures == 0)
        return sp_why_set(why, -EKEYREJECTED, "the manifest carries no signature");
    EVP_PKEY *key = NULL;
    int r = sp_public_key_from_der(sealing_key.data, sealing_key.size, &key);
    if (r < 0)
        return sp_why_set(why, r, "the sealing key is no public key");
    r = sp_signed_verify(sealed, SP_SIGN_MANIFEST, key);
    EVP_PKEY_free(key);
    if (r < 0)
        return sp_why_set(why, r == -ENOMEM ? r : -EKEYREJECTED,
                          "the manifest's signature is not the keeper's: it was altered, or sealed "
                          "by another keeper");
    return 0;
}

static int check_belongs(const struct vault *v, const struct manifest_name *name,
                         const Sp__Manifest *m, struct sp_why *why)
{
    if (strcmp(m->machine_id, name->machine_id))
        return sp_why_set(
            why, -EBADMSG,
            "the manifest is of machine %s and lies under machine %s: it was moved or "
            "replayed",
            m->machine_id, name->machine_id);
    if (strcmp(m->point_id, name->point_id))
        return sp_why_set(why, -EBADMSG,
                          "the manifest is of point %s and lies under point %s: it was swapped",
                          m->point_id, name->point_id);
    if (m->revision != name->revision)
        return sp_why_set(why, -EBADMSG, "the manifest is revision %u and lies under revision %u",
                          m->revision, name->revision);
    if (strcmp(m->vault_id, v->id))
        return sp_why_set(why, -EBADMSG, "the manifest is of another vault: %.40s", m->vault_id);
    return 0;
}

int manifest_load(struct vault *v, const struct manifest_name *name, struct sp_bytes sealing_key,
                  Sp__Signed **ret, Sp__Manifest **ret_manifest, struct sp_why *why)
{
    char text[VAULT_NAME_MAX];
    uint8_t *data SP_FREE = NULL;
    size_t size = 0;
    manifest_name_text(name, text);
    int r = vault_get_whole(v, text, VAULT_MANIFEST_MAX, &data, &size);
    if (r < 0)
        return sp_why_set(why, r == -EFBIG ? -EBADMSG : r, "%s: it cannot be read: %s", text,
                          strerror(-r));
    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    r = manifest_parse(data, size, &sealed, &m, why);
    if (r < 0)
        return sp_why_prefix(why, r, "%s", text);
    r = check_belongs(v, name, m, why);
    if (r == 0 && sealing_key.size > 0)
        r = check_signature(sealed, sealing_key, why);
    if (r < 0) {
        sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(sealed, NULL);
        return sp_why_prefix(why, r, "%s", text);
    }
    *ret = sealed;
    *ret_manifest = m;
    return 0;
}

int vault_get_manifest(struct vault *v, const char *machine_id, const char *point_id,
                       struct sp_bytes sealing_key, Sp__Signed **ret, Sp__Manifest **ret_manifest,
                       struct sp_why *why)
{
    if (!vault_id_valid(machine_id) || !vault_id_valid(point_id))
        return sp_why_set(why, -EINVAL, "not the id of a machine or point");
    struct manifest_list list = {0};
    int r = manifest_list(v, machine_id, point_id, &list);
    if (r < 0)
        return sp_why_set(why, r, "cannot list the manifests: %s", strerror(-r));
    /* The newest that is good; if none is, what is wrong with the newest. */
    int first = 0;
    r = -ENOENT;
    for (size_t i = list.count; i > 0; i--) {
        struct sp_why detail = {{0}};
        r = manifest_load(v, &list.names[i - 1], sealing_key, ret, ret_manifest, &detail);
        if (r == 0 || r == -ENOMEM)
            break;
        if (first)
            continue;
        first = r;
        if (why)
            *why = detail;
    }
    bool none = list.count == 0;
    manifest_list_free(&list);
    if (none)
        return sp_why_set(why, -ENOENT, "the vault holds no manifest of point %s", point_id);
    return r == 0 || r == -ENOMEM ? r : first;
}

int vault_list_manifests(struct vault *v,
                         int (*each)(void *arg, const char *machine_id, const char *point_id),
                         void *arg)
{
    struct manifest_list list = {0};
    int r = manifest_list(v, NULL, NULL, &list);
    for (size_t i = 0; r == 0 && i < list.count; i++) {
        const struct manifest_name *n = &list.names[i], *before = i > 0 ? n - 1 : NULL;
        if (!before || strcmp(before->point_id, n->point_id) ||
            strcmp(before->machine_id, n->machine_id))
            r = each(arg, n->machine_id, n->point_id);
    }
    manifest_list_free(&list);
    return r;
}

/* ---- write ---- */

struct durable {
    struct vault *vault;
    struct vault_set seen; /* nodes that are whole below */
};

static int is_there(void *arg, const struct walk_place *at)
{
    struct durable *d = arg;
    if (at->level != WALK_CHUNK)
        return vault_set_has(&d->seen, at->address) ? 1 : 0;
    for (unsigned nth = 0;; nth++) {
        struct vault_location where;
        int r = vault_index_find(d->vault->index, at->address, nth, &where);
        if (r < 0)
            return r == -ENOENT ? -ESTALE : r;
        if (vault_kind_of(where.entry.storage) == at->kind)
            return 0;
    }
}

static int seen_whole(void *arg, const struct walk_place *at)
{
    int r = vault_set_add(&((struct durable *)arg)->seen, at->address);
    return r < 0 ? r : 0;
}

static int node_missing(void *arg, const struct walk_place *at, int error, const struct sp_why *why)
{
    (void)arg, (void)at, (void)why;
    return error == -EBADMSG ? -ESTALE : error;
}

/* Every chunk of every disk is in a durable pack. */
static int check_durable(struct vault *v, const Sp__Manifest *m, struct sp_why *why)
{
    struct durable d = {.vault = v};
    const struct vault_walk walk = {is_there, seen_whole, node_missing, &d};
    struct vault_coder *coder = NULL;
    int r = vault_coder_new(NULL, &coder);
    for (size_t i = 0; r == 0 && i < m->n_disks; i++) {
        const Sp__DiskImage *disk = m->disks[i];
        pthread_mutex_lock(&v->lock);
        bool known = vault_set_has(&v->durable_roots, disk->root.data);
        pthread_mutex_unlock(&v->lock);
        if (known)
            continue;
        r = vault_walk_root(v, coder, disk->root.data, disk->size_bytes, &walk, why);
        if (r == -ESTALE)
            (void)sp_why_set(why, r,
                             "the manifest names data of disk '%.80s' that is not in the vault",
                             disk->disk_id);
    }
    if (r == 0 && m->keystore_copy[0]) {
        uint64_t bytes;
        r = v->backend->size(v->self, m->keystore_copy, &bytes);
        if (r == -ENOENT)
            r = sp_why_set(why, -ESTALE,
                           "the manifest names the keystore copy '%.100s', which is "
                           "not in the vault",
                           m->keystore_copy);
    }
    vault_coder_free(coder);
    vault_set_free(&d.seen);
    return r;
}

int vault_put_manifest(struct vault *v, const Sp__Signed *signed_manifest, struct sp_why *why)
{
    uint8_t *data SP_FREE = NULL;
    size_t size = 0;
    int r = sp_pack(&signed_manifest->base, &data, &size);
    if (r < 0)
        return r;
    if (size > VAULT_MANIFEST_MAX)
        return sp_why_set(why, -EFBIG, "the manifest is %zu bytes long, more than a reader takes",
                          size);
    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    r = manifest_parse(data, size, &sealed, &m, why);
    if (r < 0)
        return r;
    struct manifest_name name = {.revision = m->revision};
    char text[VAULT_NAME_MAX];
    snprintf(name.machine_id, sizeof name.machine_id, "%s", m->machine_id);
    snprintf(name.point_id, sizeof name.point_id, "%s", m->point_id);
    manifest_name_text(&name, text);
    if (strcmp(m->vault_id, v->id))
        r = sp_why_set(why, -EINVAL, "the manifest is of another vault: '%.40s'", m->vault_id);
    struct manifest_name again;
    if (r == 0 && manifest_name_parse(text, &again) < 0)
        r = sp_why_set(why, -EINVAL, "the manifest's revision %u is out of range", m->revision);
    pthread_rwlock_rdlock(&v->shared->sweep);
    if (r == 0)
        r = check_durable(v, m, why);
    if (r == 0)
        r = v->backend->put(v->self, text, &(struct sp_bytes){data, size}, 1, why);
    pthread_rwlock_unlock(&v->shared->sweep);
    sp__manifest__free_unpacked(m, NULL);
    sp__signed__free_unpacked(sealed, NULL);
    return r;
}

/* ---- keystore copies ---- */

int vault_put_keystore_copy(struct vault *v, uint64_t epoch, const void *data, size_t size,
                            char ret_name[128], struct sp_why *why)
{
    uint8_t sum[32];
    int r = sp_sha256_of(data, size, sum);
    if (r < 0)
        return r;
    snprintf(ret_name, 128, "keystore/%020llu-%s", (unsigned long long)epoch, SP_HEX32(sum));
    r = v->backend->put(v->self, ret_name, &(struct sp_bytes){data, size}, 1, why);
    return r == -EEXIST ? 0 : r; /* its name says its content */
}
