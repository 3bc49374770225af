/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 *   purge ─▶ mark ─▶ copy what is needed of thin packs ─▶ [ mark what came meanwhile ─▶ remove ]
 *                                                          └ shared sweep held exclusively ┘
 *
 * What is copied goes into packs under a journal of gc's own, "gc-<random>", and an old pack is
 * removed only when every chunk in it that anybody needs is durable elsewhere, was read back whole,
 * and no journal names the pack. So a crash leaves at most copies too many; the next run ends the
 * journal that it finds and removes them. sweep.c says why removal is safe beside backups. */
#include "controller/mover/vault/journal.h"
#include "controller/mover/vault/keep.h"
#include "controller/mover/vault/mark.h"
#include "controller/mover/vault/store.h"
#include <string.h>

#define GC_JOURNAL "gc-"

enum { THIN_PERCENT = 50 };

struct victim {
    uint32_t pack, live_count; /* as it was when its chunks were copied */
};

struct gc {
    struct vault *vault;
    const struct vault_gc *options;
    struct vault_gc_done done;
    struct mark mark;
    char journal[64];
    struct vault_coder *coder; /* with the key: what is copied is read, too */
    struct vault_store *store;
    struct victim *victims;
    size_t victim_count;
    struct sp_why *why;
};

static bool cancelled(const struct gc *g)
{
    return g->options->cancel && atomic_load(g->options->cancel);
}

/* ---- journals that a crash left ---- */

struct stale {
    char points[16][VAULT_ID_MAX + 1];
    size_t count;
};

static int find_stale(void *arg, const char *point_id, const struct journal_record *record)
{
    struct stale *s = arg;
    (void)record;
    if (!strncmp(point_id, GC_JOURNAL, strlen(GC_JOURNAL)) && s->count < SP_COUNT(s->points))
        snprintf(s->points[s->count++], sizeof s->points[0], "%s", point_id);
    return 0;
}

/* Only one gc runs, in this process or any other: a journal of one is of one that died. */
static int end_stale(struct vault *v)
{
    struct stale s = {0};
    int r = journal_each(v, find_stale, &s);
    for (size_t i = 0; r == 0 && i < s.count; i++)
        r = journal_remove(v, s.points[i]);
    return r;
}

/* ---- copying ---- */

static bool is_victim(const struct gc *g, uint32_t pack)
{
    for (size_t i = 0; i < g->victim_count; i++)
        if (g->victims[i].pack == pack)
            return true;
    return false;
}

/* Reads a chunk and checks it: 0, else it is damaged or cannot be checked. */
static int read_whole(struct gc *g, const struct vault_location *at, uint8_t *stored,
                      uint8_t *plain)
{
    struct vault_pack pack;
    char name[PACK_NAME_BYTES];
    if (!vault_index_pack(g->vault->index, at->pack, &pack))
        return -ENOENT;
    int r = g->vault->backend->get(g->vault->self, pack_name(name, pack.footer.id),
                                   at->entry.offset, stored, at->entry.stored_size);
    return r < 0 ? r : vault_coder_open(g->coder, &at->entry, stored, plain, NULL);
}

static int copy_chunk(struct gc *g, const struct pack_entry *e, const uint8_t *stored)
{
    struct coder_sealed sealed = {.storage = (enum vault_storage)e->storage};
    struct store_chunk c = {.storage = (enum vault_storage)e->storage,
                            .plain_size = e->plain_size,
                            .body = stored,
                            .body_size = e->stored_size};
    memcpy(c.address, e->address, sizeof c.address);
    if (vault_kind_of(e->storage) == MAP_SEALED) {
        c.body_size -= CODER_NONCE_BYTES + CODER_TAG_BYTES;
        c.body += CODER_NONCE_BYTES;
        memcpy(sealed.nonce, stored, CODER_NONCE_BYTES);
        memcpy(sealed.tag, c.body + c.body_size, CODER_TAG_BYTES);
        sealed.body_size = c.body_size;
        c.sealed = &sealed;
    }
    g->done.bytes_copied += e->stored_size;
    return vault_store_add(g->store, STORE_DATA, &c, NULL, g->why);
}

/* Whether a copy of the chunk outside of the victims is whole. */
static bool has_other(struct gc *g, const struct pack_entry *e, uint8_t *stored, uint8_t *plain)
{
    if (vault_store_pending(g->store, e->address))
        return true;
    for (unsigned nth = 0;; nth++) {
        struct vault_location at;
        if (vault_index_find(g->vault->index, e->address, nth, &at) < 0)
            return false;
        if (!is_victim(g, at.pack) &&
            vault_kind_of(at.entry.storage) == vault_kind_of(e->storage) &&
            read_whole(g, &at, stored, plain) == 0)
            return true;
    }
}

/* 1: everything needed of it is elsewhere (or waits in the store); 0: a chunk in it is damaged. */
static int copy_pack(struct gc *g, const struct vault_pack *pack, uint8_t *stored, uint8_t *plain)
{
    const struct mark_pack *m = &g->mark.packs[pack->number];
    for (uint32_t i = 0; i < pack->footer.count; i++) {
        struct vault_location at = {.pack = pack->number, .number = i};
        if (!m->live || !(m->live[i / 8] >> (i % 8) & 1))
            continue;
        if (cancelled(g))
            return -ECANCELED;
        int r = vault_index_entry(g->vault->index, pack->number, i, &at.entry);
        if (r == 0 && has_other(g, &at.entry, stored, plain))
            continue;
        if (r == 0)
            r = read_whole(g, &at, stored, plain);
        if (r < 0)
            return r == -ENOMEM ? r : 0;
        r = copy_chunk(g, &at.entry, stored);
        if (r < 0)
            return r;
    }
    return 1;
}

static bool is_thin(const struct gc *g, const struct vault_pack *pack)
{
    if (pack->lost || pack->index_damaged || mark_needed(&g->mark, pack->number) == 0 ||
        mark_needed(&g->mark, pack->number) & MARK_BY_JOURNAL)
        return false;
    return g->mark.packs[pack->number].unique_bytes < pack->bytes / 100 * THIN_PERCENT;
}

static int choose_victims(struct gc *g)
{
    uint32_t count = vault_index_count(g->vault->index);
    g->victims = calloc((size_t)count + 1, sizeof *g->victims);
    if (!g->victims)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        struct vault_pack pack;
        if (vault_index_pack(g->vault->index, i, &pack) && is_thin(g, &pack))
            g->victims[g->victim_count++] = (struct victim){i, g->mark.packs[i].live_count};
    }
    /* One thin pack would only be written again as one thin pack. */
    if (g->victim_count == 1 && g->mark.packs[g->victims[0].pack].unique_bytes > 0)
        g->victim_count = 0;
    return 0;
}

static int repack(struct gc *g)
{
    char id[37];
    int r = sp_uuid_make(id);
    snprintf(g->journal, sizeof g->journal, GC_JOURNAL "%s", id);
    if (r == 0)
        r = vault_coder_new(g->vault->keys, &g->coder);
    if (r == 0)
        r = journal_put(g->vault, g->journal, NULL, 0, g->why);
    if (r == 0)
        r = vault_store_new(g->vault, g->journal, &g->store);
    uint8_t *stored SP_FREE = malloc(PACK_MAX_STORED), *plain SP_FREE = malloc(VAULT_CHUNK_BYTES);
    if (!stored || !plain)
        r = -ENOMEM;
    for (size_t i = 0; r == 0 && i < g->victim_count; i++) {
        struct vault_pack pack;
        if (!vault_index_pack(g->vault->index, g->victims[i].pack, &pack))
            continue;
        r = copy_pack(g, &pack, stored, plain);
        if (r == 0)
            g->victims[i].live_count = UINT32_MAX; /* stays */
        r = r > 0 ? 0 : r;
    }
    if (r == 0)
        r = vault_store_flush(g->store, g->why);
    if (plain)
        sp_wipe(plain, VAULT_CHUNK_BYTES); /* of a clear volume */
    vault_store_free(g->store);
    vault_coder_free(g->coder);
    return r;
}

/* ---- removing ---- */

static bool may_go(const struct gc *g, const struct vault_pack *pack, bool *ret_victim)
{
    *ret_victim = false;
    if (pack->lost || pack->index_damaged)
        return false;
    uint8_t needed = mark_needed(&g->mark, pack->number);
    if (needed == 0)
        return true;
    for (size_t i = 0; i < g->victim_count; i++)
        if (g->victims[i].pack == pack->number)
            *ret_victim = true;
    for (size_t i = 0; *ret_victim && i < g->victim_count; i++)
        if (g->victims[i].pack == pack->number)
            return !(needed & MARK_BY_JOURNAL) &&
                   g->mark.packs[pack->number].live_count == g->victims[i].live_count;
    return false;
}

static int remove_packs(struct gc *g)
{
    struct vault *v = g->vault;
    int r = 0;
    for (uint32_t i = 0, n = vault_index_count(v->index); r == 0 && i < n; i++) {
        struct vault_pack pack;
        char name[PACK_NAME_BYTES];
        bool victim;
        if (!vault_index_pack(v->index, i, &pack) || !may_go(g, &pack, &victim))
            continue;
        if (!g->options->dry_run)
            r = v->backend->remove(v->self, pack_name(name, pack.footer.id));
        if (r < 0 && r != -ENOENT)
            break;
        r = 0;
        if (!g->options->dry_run)
            vault_index_forget(v->index, i);
        g->done.packs_removed++;
        g->done.packs_repacked += victim;
        g->done.bytes_freed += pack.bytes;
    }
    return r;
}

static int remove_marked(struct gc *g)
{
    struct vault *v = g->vault;
    pthread_rwlock_wrlock(&v->shared->sweep);
    int r = vault_index_refresh(v->index, g->why);
    if (r == 0)
        r = mark_manifests(&g->mark, g->why); /* those that came meanwhile */
    if (r == 0)
        r = mark_journals(&g->mark, g->why);
    if (r == 0)
        r = remove_packs(g);
    pthread_mutex_lock(&v->lock);
    vault_set_clear(&v->durable_roots); /* some may be gone */
    pthread_mutex_unlock(&v->lock);
    pthread_rwlock_unlock(&v->shared->sweep);
    return r;
}

static int run(struct gc *g)
{
    struct vault *v = g->vault;
    int r = g->options->dry_run ? 0 : end_stale(v);
    if (r == 0)
        r = keep_purge(v, g->options->now_unix_ms, g->options->grace_ms, g->options->dry_run,
                       &g->done.points_removed, g->why);
    if (r == 0)
        r = vault_index_refresh(v->index, g->why);
    if (r == 0)
        r = mark_new(v, true, &g->mark);
    if (r == 0)
        r = mark_manifests(&g->mark, g->why); /* the long part, with nobody held up */
    if (r == 0)
        r = mark_journals(&g->mark, g->why);
    if (r == 0 && !g->options->dry_run)
        r = choose_victims(g);
    if (r == 0 && g->victim_count > 0)
        r = repack(g);
    if (r == 0 && cancelled(g))
        r = -ECANCELED;
    if (r == 0)
        r = remove_marked(g);
    if (g->journal[0]) {
        int ended = journal_remove(v, g->journal);
        r = r < 0 ? r : ended;
    }
    return r;
}

int vault_gc(struct vault *v, const struct vault_gc *options, struct vault_gc_done *ret,
             struct sp_why *why)
{
    struct gc g = {.vault = v, .options = options, .why = why};
    pthread_mutex_lock(&v->shared->tidy);
    int r = run(&g);
    pthread_mutex_unlock(&v->shared->tidy);
    mark_free(&g.mark);
    free(g.victims);
    *ret = g.done;
    if (r == -ECANCELED)
        return sp_why_set(why, r, "the clean-up was cancelled");
    return r;
}
