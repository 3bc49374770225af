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
#include "controller/mover/vault/manifest.h"
#include "controller/mover/vault/walk.h"
#include <string.h>

struct mark {
    struct vault *vault;
    struct vault_coder *coder;
    struct vault_set seen;  /* nodes and roots visited */
    struct vault_set names; /* SHA-256 of names of manifests visited */
    uint8_t *needed;        /* by pack number */
    uint32_t count;
    bool keep_all; /* a damaged journal */
};

static int need_pack(struct mark *m, uint32_t pack)
{
    if (pack >= m->count) {
        uint32_t count = pack + 1024;
        uint8_t *bigger = realloc(m->needed, count);
        if (!bigger)
            return -ENOMEM;
        memset(bigger + m->count, 0, count - m->count);
        m->needed = bigger;
        m->count = count;
    }
    m->needed[pack] = 1;
    return 0;
}

static int need(void *arg, const struct walk_place *at)
{
    struct mark *m = arg;
    if (at->level != WALK_CHUNK) {
        int r = vault_set_add(&m->seen, at->address);
        if (r <= 0)
            return r < 0 ? r : 1;
    }
    /* All places: which copy is whole is not known here. */
    for (unsigned nth = 0;; nth++) {
        struct vault_location where;
        int r = vault_index_find(m->vault->index, at->address, nth, &where);
        if (r == 0)
            r = need_pack(m, where.pack);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
    }
}

/* Marks what manifests need that were not marked before. */
static int mark_manifests(struct mark *m, struct sp_why *why)
{
    const struct vault_walk walk = {.enter = need, .arg = m};
    struct manifest_list list = {0};
    int r = manifest_list(m->vault, NULL, NULL, &list);
    for (size_t i = 0; r == 0 && i < list.count; i++) {
        char text[VAULT_NAME_MAX];
        uint8_t sum[32];
        manifest_name_text(&list.names[i], text);
        r = sp_sha256_of(text, strlen(text), sum);
        if (r == 0)
            r = vault_set_add(&m->names, sum);
        if (r <= 0)
            continue;
        Sp__Signed *sealed = NULL;
        Sp__Manifest *manifest = NULL;
        r = manifest_load(m->vault, &list.names[i], (struct sp_bytes){NULL, 0}, &sealed, &manifest,
                          why);
        if (r < 0)
            break;
        for (size_t k = 0; r == 0 && k < manifest->n_disks; k++)
            r = vault_walk_root(m->vault, m->coder, manifest->disks[k]->root.data, 0, &walk, why);
        sp__manifest__free_unpacked(manifest, NULL);
        sp__signed__free_unpacked(sealed, NULL);
    }
    manifest_list_free(&list);
    return r < 0
               ? sp_why_prefix(why, r, "nothing was removed, since not all that is needed is known")
               : 0;
}

static int mark_journal(void *arg, const char *point_id, const struct journal_record *record)
{
    struct mark *m = arg;
    struct vault_index *index = m->vault->index;
    const struct vault_walk walk = {.enter = need, .arg = m};
    if (record->damaged) {
        m->keep_all = true;
        return 0;
    }
    int r = 0;
    for (size_t i = 0; r == 0 && i < record->pack_count; i++) {
        uint32_t number;
        if (vault_index_pack_by_id(index, record->packs[i], &number) == 0)
            r = need_pack(m, number);
    }
    for (size_t i = 0; r == 0 && i < record->root_count; i++)
        r = vault_walk_root(m->vault, m->coder, record->roots[i], 0, &walk, NULL);
    for (uint32_t i = 0, n = vault_index_count(index); r == 0 && i < n; i++) {
        struct vault_pack pack;
        if (vault_index_pack(index, i, &pack) && !strcmp(pack.footer.writer, point_id))
            r = need_pack(m, i);
    }
    return r;
}

static int remove_packs(struct mark *m, const char *only_writer)
{
    struct vault *v = m->vault;
    int r = 0;
    for (uint32_t i = 0, n = vault_index_count(v->index); r == 0 && i < n; i++) {
        struct vault_pack pack;
        char name[PACK_NAME_BYTES];
        /* A damaged pack may hold what is needed without saying so. */
        if (!vault_index_pack(v->index, i, &pack) || pack.lost || pack.index_damaged ||
            (i < m->count && m->needed[i]) ||
            (only_writer && strcmp(pack.footer.writer, only_writer)))
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
    struct mark m = {.vault = v};
    int r = vault_index_refresh(v->index, why);
    if (r < 0 || (only_writer && !wrote_any(v, only_writer)))
        return r;
    r = vault_coder_new(NULL, &m.coder);
    if (r == 0)
        r = mark_manifests(&m, why); /* the long part, with nobody held up */
    pthread_rwlock_wrlock(&v->sweep);
    bool claimed = false;
    if (r == 0) {
        r = v->backend->claim(v->self, true);
        claimed = r == 0;
        if (r < 0)
            (void)sp_why_set(why, r, "another process has the vault open");
    }
    if (r == 0)
        r = vault_index_refresh(v->index, why);
    if (r == 0)
        r = mark_manifests(&m, why); /* those that came meanwhile */
    if (r == 0)
        r = journal_each(v, mark_journal, &m);
    if (r == 0 && m.keep_all)
        r = sp_why_set(why, -EBADMSG, "a journal is damaged: nothing was removed");
    if (r == 0)
        r = remove_packs(&m, only_writer);
    if (claimed)
        (void)v->backend->claim(v->self, false);
    pthread_mutex_lock(&v->lock);
    vault_set_clear(&v->durable_roots); /* some may be gone */
    pthread_mutex_unlock(&v->lock);
    pthread_rwlock_unlock(&v->sweep);
    vault_coder_free(m.coder);
    vault_set_free(&m.seen);
    vault_set_free(&m.names);
    free(m.needed);
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
    if (atomic_load(&v->writers) > 0)
        return sp_why_set(why, -EBUSY, "backups are writing to the vault");
    /* Another process may be writing: its temporary objects are not ours to remove. */
    int r = v->backend->claim(v->self, true);
    if (r < 0)
        return sp_why_set(why, r, "another process has the vault open");
    r = remove_temporary(v);
    if (r < 0)
        (void)sp_why_set(why, r, "cannot remove temporary objects: %s", strerror(-r));
    (void)v->backend->claim(v->self, false);
    return r < 0 ? r : sweep(v, NULL, why);
}

int vault_end_journal(struct vault *v, const char *point_id, bool kept)
{
    if (!vault_id_valid(point_id))
        return -EINVAL;
    int r = journal_remove(v, point_id);
    if (r < 0 || kept)
        return r;
    r = sweep(v, point_id, NULL);
    /* Left for vault_recover(): somebody else is busy, or damage makes removal unsafe. */
    return r == -EBUSY || r == -EBADMSG || r == -ENOTSUP ? 0 : r;
}

/* ---- for vault_check() ---- */

int sweep_needed(struct vault *v, uint8_t **ret_needed, uint32_t *ret_count)
{
    struct mark m = {.vault = v, .count = vault_index_count(v->index)};
    m.needed = calloc((size_t)m.count + 1, 1);
    int r = m.needed ? vault_coder_new(NULL, &m.coder) : -ENOMEM;
    uint32_t count = m.count;
    if (r == 0)
        r = journal_each(v, mark_journal, &m);
    if (r == 0 && m.keep_all)
        r = -EBADMSG;
    if (r == 0)
        r = mark_manifests(&m, NULL);
    vault_coder_free(m.coder);
    vault_set_free(&m.seen);
    vault_set_free(&m.names);
    if (r < 0) {
        free(m.needed);
        return r;
    }
    *ret_needed = m.needed;
    *ret_count = count;
    return 0;
}
