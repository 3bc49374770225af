/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Removing packs. What may be removed: a pack in which no manifest's map has a chunk, which no open
 * journal names, and whose writer has no open journal.
 *
 * Why nothing needed is lost: a backup relies on a chunk only after its pack, or the root of a map
 * that it is in, is named in a durable journal (and the manifest of that map was still there after
 * that), and a journal is ended only after the manifest is durable. So at any moment each needed
 * pack is held by a journal or by a manifest. The sweep holds vault.sweep exclusively (and other
 * processes out) from the last look at the manifests to the last removal; between its look at the
 * manifests and at the journals nothing changes hands. When a map or manifest cannot be read, what
 * it needs is not known, and nothing is removed. */
#include "controller/mover/vault/sweep.h"
#include "controller/mover/vault/journal.h"
#include "controller/mover/vault/mark.h"
#include <string.h>

/* With shared sweep held exclusively. */
static int remove_packs(struct vault *v, const struct mark *m, const char *only_writer)
{
    int r = 0;
    for (uint32_t i = 0, n = vault_index_count(v->index); r == 0 && i < n; i++) {
        struct vault_pack pack;
        char name[PACK_NAME_BYTES];
        /* A damaged pack may hold what is needed without saying so. */
        if (!vault_index_pack(v->index, i, &pack) || pack.lost || pack.index_damaged ||
            mark_needed(m, i) || (only_writer && strcmp(pack.footer.writer, only_writer)))
            continue;
        r = v->backend->remove(v->self, pack_name(name, pack.footer.id));
        if (r == 0 || r == -ENOENT) {
            vault_index_forget(v->index, i);
            r = 0;
        }
    }
    return r;
}

static bool wrote_any(struct vault *v, const char *writer)
{
    for (uint32_t i = 0, n = vault_index_count(v->index); i < n; i++) {
        struct vault_pack pack;
        if (vault_index_pack(v->index, i, &pack) && !strcmp(pack.footer.writer, writer))
            return true;
    }
    return false;
}

static int sweep(struct vault *v, const char *only_writer, struct sp_why *why)
{
    struct mark m;
    int r = vault_index_refresh(v->index, why);
    if (r < 0 || (only_writer && !wrote_any(v, only_writer)))
        return r;
    r = mark_new(v, false, &m);
    if (r == 0)
        r = mark_manifests(&m, why); /* the long part, with nobody held up */
    pthread_rwlock_wrlock(&v->shared->sweep);
    if (r == 0)
        r = vault_index_refresh(v->index, why);
    if (r == 0)
        r = mark_manifests(&m, why); /* those that came meanwhile */
    if (r == 0)
        r = mark_journals(&m, why);
    if (r == 0)
        r = remove_packs(v, &m, only_writer);
    pthread_mutex_lock(&v->lock);
    vault_set_clear(&v->durable_roots); /* some may be gone */
    pthread_mutex_unlock(&v->lock);
    pthread_rwlock_unlock(&v->shared->sweep);
    mark_free(&m);
    return r;
}

/* ---- temporary objects ---- */

struct temporary {
    char (*name)[VAULT_NAME_MAX];
    size_t count, capacity;
};

static int gather(void *arg, const char *name, uint64_t bytes)
{
    struct temporary *t = arg;
    (void)bytes;
    if (strlen(name) >= VAULT_NAME_MAX)
        return 0;
    if (t->count == t->capacity) {
        size_t capacity = t->capacity ? t->capacity * 2 : 16;
        void *bigger = realloc(t->name, capacity * sizeof *t->name);
        if (!bigger)
            return -ENOMEM;
        t->name = bigger;
        t->capacity = capacity;
    }
    strcpy(t->name[t->count++], name);
    return 0;
}

static int remove_temporary(struct vault *v)
{
    struct temporary t = {0};
    int r = v->backend->list(v->self, "tmp/", gather, &t);
    for (size_t i = 0; r == 0 && i < t.count; i++) {
        r = v->backend->remove(v->self, t.name[i]);
        if (r == -ENOENT)
            r = 0;
    }
    free(t.name);
    return r;
}

int vault_recover(struct vault *v, struct sp_why *why)
{
    if (atomic_load(&v->shared->writers) > 0)
        return sp_why_set(why, -EBUSY, "backups are writing to the vault");
    pthread_mutex_lock(&v->shared->tidy);
    int r = remove_temporary(v);
    if (r < 0)
        (void)sp_why_set(why, r, "cannot remove temporary objects: %s", strerror(-r));
    if (r == 0)
        r = sweep(v, NULL, why);
    pthread_mutex_unlock(&v->shared->tidy);
    return r;
}

int vault_end_journal(struct vault *v, const char *point_id, bool kept)
{
    if (!vault_id_valid(point_id))
        return -EINVAL;
    int r = journal_remove(v, point_id);
    if (r < 0 || kept)
        return r;
    pthread_mutex_lock(&v->shared->tidy);
    r = sweep(v, point_id, NULL);
    pthread_mutex_unlock(&v->shared->tidy);
    /* Left for vault_recover(): somebody else is busy, or damage makes removal unsafe. */
    return r == -EBUSY || r == -EBADMSG || r == -ENOTSUP ? 0 : r;
}

/* ---- for vault_check() ---- */

int sweep_needed(struct vault *v, uint8_t **ret_needed, uint32_t *ret_count)
{
    struct mark m;
    uint32_t count = vault_index_count(v->index);
    int r = mark_new(v, false, &m);
    if (r == 0)
        r = mark_journals(&m, NULL);
    if (r == 0)
        r = mark_manifests(&m, NULL);
    uint8_t *needed = r == 0 ? calloc((size_t)count + 1, 1) : NULL;
    if (r == 0 && !needed)
        r = -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < count; i++)
        needed[i] = mark_needed(&m, i);
    mark_free(&m);
    if (r < 0)
        return r;
    *ret_needed = needed;
    *ret_count = count;
    return 0;
}
