/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/keep.h"
#include "controller/mover/vault/manifest.h"
#include <json.h>
#include <string.h>

enum { MARK_MAX_BYTES = 64 << 10 };

static const char *const folders[] = {[VAULT_HOLD] = "holds", [VAULT_DELETION] = "deleted"};

static int name_of(enum vault_mark_kind kind, const char *machine_id, const char *point_id,
                   char out[VAULT_NAME_MAX])
{
    if (!vault_id_valid(machine_id) || !vault_id_valid(point_id))
        return -EINVAL;
    snprintf(out, VAULT_NAME_MAX, "%s/%s/%s", folders[kind], machine_id, point_id);
    return 0;
}

static bool is_there(struct vault *v, enum vault_mark_kind kind, const char *machine_id,
                     const char *point_id)
{
    char name[VAULT_NAME_MAX];
    uint64_t bytes;
    return name_of(kind, machine_id, point_id, name) == 0 &&
           v->backend->size(v->self, name, &bytes) != -ENOENT;
}

static int put_mark(struct vault *v, enum vault_mark_kind kind, const char *machine_id,
                    const char *point_id, const struct vault_mark *mark, struct sp_why *why)
{
    char name[VAULT_NAME_MAX];
    int r = name_of(kind, machine_id, point_id, name);
    if (r < 0)
        return r;
    json_object *o = json_object_new_object();
    if (!o)
        return -ENOMEM;
    if (json_object_object_add(o, "unix_ms", json_object_new_int64((int64_t)mark->unix_ms)) ||
        json_object_object_add(o, "who", json_object_new_string(mark->who)) ||
        json_object_object_add(o, "why", json_object_new_string(mark->why)))
        r = -ENOMEM;
    const char *text = r == 0 ? json_object_to_json_string(o) : NULL;
    if (text)
        r = v->backend->put(v->self, name, &(struct sp_bytes){(const uint8_t *)text, strlen(text)},
                            1, why);
    json_object_put(o);
    return r;
}

static void take_text(json_object *o, const char *key, char *out, size_t size)
{
    json_object *value = NULL;
    const char *text =
        json_object_object_get_ex(o, key, &value) && json_object_is_type(value, json_type_string)
            ? json_object_get_string(value)
            : "";
    snprintf(out, size, "%s", text);
}

int vault_get_mark(struct vault *v, enum vault_mark_kind kind, const char *machine_id,
                   const char *point_id, struct vault_mark *ret)
{
    char name[VAULT_NAME_MAX];
    uint8_t *data SP_FREE = NULL;
    size_t size = 0;
    int r = name_of(kind, machine_id, point_id, name);
    if (r == 0)
        r = vault_get_whole(v, name, MARK_MAX_BYTES, &data, &size);
    if (r < 0)
        return r;
    json_object *o = json_tokener_parse((const char *)data), *at = NULL;
    *ret = (struct vault_mark){0};
    if (json_object_is_type(o, json_type_object)) {
        int64_t ms = json_object_object_get_ex(o, "unix_ms", &at) ? json_object_get_int64(at) : 0;
        ret->unix_ms = ms > 0 ? (uint64_t)ms : 0;
        take_text(o, "who", ret->who, sizeof ret->who);
        take_text(o, "why", ret->why, sizeof ret->why);
    }
    json_object_put(o);
    /* One that cannot be read holds all the same, and deletes nothing. */
    return ret->unix_ms ? 0 : kind == VAULT_HOLD ? 0 : -EBADMSG;
}

int vault_unmark(struct vault *v, enum vault_mark_kind kind, const char *machine_id,
                 const char *point_id)
{
    char name[VAULT_NAME_MAX];
    int r = name_of(kind, machine_id, point_id, name);
    return r < 0 ? r : v->backend->remove(v->self, name);
}

/* ---- what must stay ---- */

/* The newest point of the machine that is not deleted, and its newest valid one. */
struct newest {
    char point[VAULT_ID_MAX + 1], valid[VAULT_ID_MAX + 1];
    uint64_t sequence, valid_sequence;
};

static int find_newest(struct vault *v, const char *machine_id, struct newest *ret,
                       struct sp_why *why)
{
    struct manifest_list list = {0};
    int r = manifest_list(v, machine_id, NULL, &list);
    *ret = (struct newest){0};
    for (size_t i = 0; r == 0 && i < list.count; i++) {
        const struct manifest_name *n = &list.names[i];
        Sp__Signed *sealed = NULL;
        Sp__Manifest *m = NULL;
        if (i + 1 < list.count && !strcmp(list.names[i + 1].point_id, n->point_id))
            continue; /* a later revision says how it is */
        if (is_there(v, VAULT_DELETION, machine_id, n->point_id))
            continue;
        r = manifest_load(v, n, (struct sp_bytes){0}, &sealed, &m, why);
        if (r < 0)
            break;
        if (!ret->point[0] || m->sequence >= ret->sequence) {
            ret->sequence = m->sequence;
            memcpy(ret->point, n->point_id, sizeof ret->point);
        }
        if (m->state_at_seal == SP__POINT_STATE__POINT_STATE_VALID &&
            (!ret->valid[0] || m->sequence >= ret->valid_sequence)) {
            ret->valid_sequence = m->sequence;
            memcpy(ret->valid, n->point_id, sizeof ret->valid);
        }
        sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(sealed, NULL);
    }
    manifest_list_free(&list);
    return r;
}

/* Until when any revision of the point is locked. */
static int locked_until(struct vault *v, const char *machine_id, const char *point_id,
                        uint64_t *ret, struct sp_why *why)
{
    struct manifest_list list = {0};
    int r = manifest_list(v, machine_id, point_id, &list);
    *ret = 0;
    if (r == 0 && list.count == 0)
        r = sp_why_set(why, -ENOENT, "the vault holds no point %s", point_id);
    for (size_t i = 0; r == 0 && i < list.count; i++) {
        Sp__Signed *sealed = NULL;
        Sp__Manifest *m = NULL;
        r = manifest_load(v, &list.names[i], (struct sp_bytes){0}, &sealed, &m, why);
        if (r < 0)
            break;
        if (m->lock_until_unix_ms > *ret)
            *ret = m->lock_until_unix_ms;
        sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(sealed, NULL);
    }
    manifest_list_free(&list);
    return r;
}

static int may_go(struct vault *v, const char *machine_id, const char *point_id,
                  uint64_t now_unix_ms, struct sp_why *why)
{
    uint64_t until = 0;
    struct vault_mark hold;
    int r = vault_get_mark(v, VAULT_HOLD, machine_id, point_id, &hold);
    if (r < 0 && r != -ENOENT)
        return r;
    if (r == 0)
        return sp_why_set(why, -EPERM, "point %s is under legal hold by %s: %s", point_id, hold.who,
                          hold.why);
    r = locked_until(v, machine_id, point_id, &until, why);
    if (r == 0 && until > now_unix_ms)
        r = sp_why_set(why, -EPERM,
                       "point %s is locked for %llu more hours: nobody can delete it before",
                       point_id, (unsigned long long)((until - now_unix_ms) / 3600000 + 1));
    return r;
}

/* ---- holds and deletions ---- */

int vault_hold(struct vault *v, const char *machine_id, const char *point_id,
               const struct vault_mark *mark, struct sp_why *why)
{
    uint64_t until;
    pthread_mutex_lock(&v->shared->tidy);
    int r = locked_until(v, machine_id, point_id, &until, why);
    if (r == 0)
        r = put_mark(v, VAULT_HOLD, machine_id, point_id, mark, why);
    if (r == -EEXIST)
        (void)sp_why_set(why, r, "point %s is under legal hold already", point_id);
    pthread_mutex_unlock(&v->shared->tidy);
    return r;
}

int vault_delete_point(struct vault *v, const char *machine_id, const char *point_id,
                       const struct vault_mark *mark, struct sp_why *why)
{
    struct newest newest;
    pthread_mutex_lock(&v->shared->tidy);
    int r = may_go(v, machine_id, point_id, mark->unix_ms, why);
    if (r == 0)
        r = find_newest(v, machine_id, &newest, why);
    if (r == 0 && !strcmp(newest.valid, point_id))
        r = sp_why_set(why, -EPERM, "point %s is the machine's last valid one: it stays", point_id);
    else if (r == 0 && !strcmp(newest.point, point_id))
        r = sp_why_set(why, -EPERM, "point %s is the machine's newest copy: it stays", point_id);
    if (r == 0)
        r = put_mark(v, VAULT_DELETION, machine_id, point_id, mark, why);
    if (r == -EEXIST)
        (void)sp_why_set(why, r, "point %s is deleted already", point_id);
    pthread_mutex_unlock(&v->shared->tidy);
    return r;
}

/* ---- for good ---- */

struct mark_names {
    char (*names)[VAULT_NAME_MAX];
    size_t count, room;
};

static int gather(void *arg, const char *name, uint64_t bytes)
{
    struct mark_names *l = arg;
    (void)bytes;
    if (strlen(name) >= VAULT_NAME_MAX)
        return 0;
    if (l->count == l->room) {
        size_t room = l->room ? l->room * 2 : 32;
        void *bigger = realloc(l->names, room * sizeof *l->names);
        if (!bigger)
            return -ENOMEM;
        l->names = bigger;
        l->room = room;
    }
    strcpy(l->names[l->count++], name);
    return 0;
}

/* The manifests first: a crash leaves a mark of a point that is not there, which the next purge
 * removes. */
static int remove_point(struct vault *v, const char *machine_id, const char *point_id)
{
    struct manifest_list list = {0};
    int r = manifest_list(v, machine_id, point_id, &list);
    for (size_t i = list.count; r == 0 && i > 0; i--) {
        char text[VAULT_NAME_MAX];
        r = v->backend->remove(v->self, manifest_name_text(&list.names[i - 1], text));
        r = r == -ENOENT ? 0 : r;
    }
    manifest_list_free(&list);
    return r < 0 ? r : vault_unmark(v, VAULT_DELETION, machine_id, point_id);
}

static int purge_one(struct vault *v, const char *name, uint64_t now_unix_ms, uint64_t grace_ms,
                     bool dry_run, uint64_t *points)
{
    char machine[VAULT_ID_MAX + 1] = "", point[VAULT_ID_MAX + 1] = "";
    struct vault_mark mark;
    if (sscanf(name, "deleted/%64[^/]/%64[^/]", machine, point) != 2)
        return 0;
    int r = vault_get_mark(v, VAULT_DELETION, machine, point, &mark);
    if (r < 0 || mark.unix_ms + grace_ms > now_unix_ms)
        return r == -ENOMEM ? r : 0;
    r = may_go(v, machine, point, now_unix_ms, NULL);
    if (r < 0 && r != -ENOENT)
        return r == -EPERM ? 0 : r;
    /* The last valid one may have lost its verdict since: then this one may be what is left. */
    struct newest newest;
    int e = r == 0 ? find_newest(v, machine, &newest, NULL) : 0;
    if (e < 0 || (r == 0 && !newest.valid[0]))
        return e == -ENOMEM ? e : 0;
    *points += r == 0;
    return dry_run ? 0 : remove_point(v, machine, point);
}

int keep_purge(struct vault *v, uint64_t now_unix_ms, uint64_t grace_ms, bool dry_run,
               uint64_t *ret_points, struct sp_why *why)
{
    struct mark_names l = {0};
    int r = v->backend->list(v->self, "deleted/", gather, &l);
    for (size_t i = 0; r == 0 && i < l.count; i++)
        r = purge_one(v, l.names[i], now_unix_ms, grace_ms, dry_run, ret_points);
    free(l.names);
    return r < 0 ? sp_why_set(why, r, "cannot remove deleted points: %s", strerror(-r)) : 0;
}
