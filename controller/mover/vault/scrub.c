/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 *   read every chunk of every pack ─▶ fetch what is bad, and here nowhere whole, from the replica
 *   ─▶ which points rest on what is still bad ─▶ tell
 *
 * A chunk that is healed lies in a new pack; the damaged copy stays where it is, and every reader
 * takes the copy that is whole. */
#include "base/clock.h"
#include "controller/mover/vault/journal.h"
#include "controller/mover/vault/manifest.h"
#include "controller/mover/vault/report.h"
#include "controller/mover/vault/store.h"
#include "controller/mover/vault/walk.h"
#include <string.h>
#include <time.h>

struct bad_pack {
    char name[PACK_NAME_BYTES];
    uint64_t bad, healed;
    char *why; /* of the first bad chunk, or of the pack */
};

struct bad_chunk {
    struct pack_entry entry;
    uint32_t pack; /* in bad_pack */
    bool healed;
};

struct scrub {
    struct vault *vault;
    const struct vault_scrub *options;
    struct vault_coder *coder, *replica_coder;
    struct vault_store *store; /* made when the first chunk is healed */
    char journal[64];
    uint8_t *stored, *plain;
    struct bad_pack *packs;
    size_t pack_count;
    struct bad_chunk *chunks; /* of which this vault has no copy that is whole */
    size_t chunk_count, chunk_room;
    struct vault_set lost; /* addresses of those that were not healed */
    uint64_t started_ns, not_opened;
    Sp__CheckProgress progress;
    struct report report;
    int *problem; /* by bad pack */
    const char *point_id;
    struct sp_why *why;
};

static int tell(struct scrub *s)
{
    return s->options->each ? s->options->each(s->options->arg, &s->progress) : 0;
}

/* Sleeps until the bytes read so far were allowed. */
static void keep_rate(const struct scrub *s)
{
    if (!s->options->bytes_per_second)
        return;
    uint64_t due_ns = s->started_ns + (uint64_t)((double)s->progress.done_bytes * 1e9 /
                                                 (double)s->options->bytes_per_second);
    uint64_t now_ns = sp_clock_system.monotonic_ns(sp_clock_system.self);
    if (due_ns > now_ns) {
        uint64_t wait_ns = due_ns - now_ns;
        nanosleep(&(struct timespec){(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)},
                  NULL);
    }
}

/* ---- healing ---- */

static int open_store(struct scrub *s)
{
    char id[37];
    if (s->store)
        return 0;
    int r = sp_uuid_make(id);
    /* Named as one of gc's: when this process dies, gc ends it. */
    snprintf(s->journal, sizeof s->journal, "gc-heal-%s", id);
    if (r == 0)
        r = journal_put(s->vault, s->journal, NULL, 0, s->why);
    return r < 0 ? r : vault_store_new(s->vault, s->journal, &s->store);
}

static bool whole_elsewhere(struct scrub *s, const struct pack_entry *e)
{
    uint32_t size = 0;
    return vault_fetch(s->vault, s->coder, vault_kind_of(e->storage), e->address, s->plain, &size,
                       NULL) == 0;
}

/* 1: healed, 0: the replica has it not either. */
static int heal(struct scrub *s, const struct pack_entry *e)
{
    struct store_chunk c = {.storage = VAULT_STORED_RAW, .body = s->plain};
    struct coder_sealed sealed;
    enum map_kind kind = vault_kind_of(e->storage);
    if (!s->options->replica || vault_fetch(s->options->replica, s->replica_coder, kind, e->address,
                                            s->plain, &c.plain_size, NULL) < 0)
        return 0;
    int r = open_store(s);
    c.body_size = c.plain_size;
    memcpy(c.address, e->address, sizeof c.address);
    if (r == 0 && kind == MAP_SEALED) {
        r = vault_coder_seal(s->coder, e->address, s->plain, c.plain_size, &sealed);
        c.storage = sealed.storage;
        c.body_size = sealed.body_size;
        c.sealed = &sealed;
    }
    if (r == 0)
        r = vault_store_add(s->store, STORE_DATA, &c, NULL, s->why);
    return r < 0 ? r : 1;
}

/* ---- reading ---- */

static int bad_pack(struct scrub *s, const struct vault_pack *pack, const char *text,
                    struct bad_pack **ret)
{
    char name[PACK_NAME_BYTES];
    pack_name(name, pack->footer.id);
    struct bad_pack *last = s->pack_count ? &s->packs[s->pack_count - 1] : NULL;
    if (!last || strcmp(last->name, name) != 0) {
        struct bad_pack *bigger = realloc(s->packs, (s->pack_count + 1) * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        s->packs = bigger;
        last = &s->packs[s->pack_count++];
        *last = (struct bad_pack){.why = strdup(text)};
        memcpy(last->name, name, sizeof name);
    }
    *ret = last;
    return last->why ? 0 : -ENOMEM;
}

static int remember(struct scrub *s, const struct pack_entry *e)
{
    if (s->chunk_count == s->chunk_room) {
        size_t room = s->chunk_room ? s->chunk_room * 2 : 64;
        struct bad_chunk *bigger = realloc(s->chunks, room * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        s->chunks = bigger;
        s->chunk_room = room;
    }
    struct bad_chunk *c = &s->chunks[s->chunk_count++];
    *c = (struct bad_chunk){.entry = *e, .pack = (uint32_t)s->pack_count - 1};
    return 0;
}

static int bad_chunk(struct scrub *s, const struct vault_pack *pack, const struct pack_entry *e,
                     const char *text)
{
    struct bad_pack *b;
    int r = bad_pack(s, pack, text, &b);
    if (r < 0)
        return r;
    b->bad++;
    if (!whole_elsewhere(s, e))
        return remember(s, e);
    b->healed++;
    return 0;
}

static int read_entry(struct scrub *s, const struct vault_pack *pack, const char *name,
                      uint32_t number)
{
    struct pack_entry e;
    struct sp_why why = {{0}};
    int r = vault_index_entry(s->vault->index, pack->number, number, &e);
    if (r < 0)
        return r == -ENOMEM ? r : 0; /* the index is damaged: told of the pack */
    r = s->vault->backend->get(s->vault->self, name, e.offset, s->stored, e.stored_size);
    if (r == 0)
        r = vault_coder_open(s->coder, &e, s->stored, s->plain, &why);
    s->progress.done_bytes += e.stored_size;
    s->progress.chunks++;
    if (r == -ENOKEY) {
        s->not_opened++;
        return 0;
    }
    if (r == 0 || r == -ENOMEM || r == -ENOENT) /* removed meanwhile */
        return r == -ENOMEM ? r : 0;
    return bad_chunk(s, pack, &e, why.text[0] ? why.text : strerror(-r));
}

static int read_pack(struct scrub *s, const struct vault_pack *pack)
{
    char name[PACK_NAME_BYTES];
    struct bad_pack *b;
    int r = 0;
    pack_name(name, pack->footer.id);
    if (pack->lost || pack->index_damaged)
        r = bad_pack(s, pack, pack->problem, &b);
    for (uint32_t i = 0; r == 0 && !pack->lost && i < pack->footer.count; i++) {
        r = read_entry(s, pack, name, i);
        if (r == 0 && i % 64 == 0) {
            keep_rate(s);
            r = tell(s);
        }
    }
    s->progress.packs++;
    return r;
}

static int read_all(struct scrub *s)
{
    uint32_t count = vault_index_count(s->vault->index);
    struct vault_pack pack;
    for (uint32_t i = 0; i < count; i++)
        if (vault_index_pack(s->vault->index, i, &pack))
            s->progress.total_bytes += pack.bytes;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++)
        if (vault_index_pack(s->vault->index, i, &pack))
            r = read_pack(s, &pack);
    return r;
}

static int heal_all(struct scrub *s)
{
    int r = 0;
    /* gc must not take the journal for one that a crash left. */
    pthread_mutex_lock(&s->vault->shared->tidy);
    for (size_t i = 0; r >= 0 && i < s->chunk_count; i++) {
        r = heal(s, &s->chunks[i].entry);
        s->chunks[i].healed = r > 0;
    }
    if (r >= 0)
        r = s->store ? vault_store_flush(s->store, s->why) : 0;
    vault_store_free(s->store);
    if (s->journal[0])
        (void)journal_remove(s->vault, s->journal);
    pthread_mutex_unlock(&s->vault->shared->tidy);
    for (size_t i = 0; r >= 0 && i < s->chunk_count; i++) {
        if (s->chunks[i].healed)
            s->packs[s->chunks[i].pack].healed++;
        else
            r = vault_set_add(&s->lost, s->chunks[i].entry.address);
    }
    return r < 0 ? r : 0;
}

/* ---- whom it harms ---- */

static int harm(void *arg, const struct walk_place *at)
{
    struct scrub *s = arg;
    int r = 0;
    if (vault_set_has(&s->lost, at->address)) {
        for (size_t i = 0; r == 0 && i < s->chunk_count; i++)
            if (!memcmp(s->chunks[i].entry.address, at->address, VAULT_ADDRESS_BYTES))
                r = report_harm(&s->report, s->problem[s->chunks[i].pack], s->point_id);
    }
    return r;
}

static int cannot_read(void *arg, const struct walk_place *at, int error, const struct sp_why *why)
{
    (void)arg, (void)at, (void)why;
    return error == -ENOMEM ? error : 0; /* its own address is among the lost ones */
}

static int report_packs(struct scrub *s)
{
    s->problem = calloc(s->pack_count + 1, sizeof *s->problem);
    if (!s->problem)
        return -ENOMEM;
    for (size_t i = 0; i < s->pack_count; i++) {
        const struct bad_pack *b = &s->packs[i];
        int p = b->bad == 0 ? report_add(&s->report, false, "%s: %s", b->name, b->why)
                : b->healed == b->bad
                    ? report_add(&s->report, false, "%s: %llu damaged chunks, all of them healed",
                                 b->name, (unsigned long long)b->bad)
                    : report_add(&s->report, true,
                                 "%s: %llu damaged chunks, %llu of them healed: %s", b->name,
                                 (unsigned long long)b->bad, (unsigned long long)b->healed, b->why);
        if (p < 0)
            return p;
        s->problem[i] = p;
    }
    return 0;
}

static int find_harmed(struct scrub *s)
{
    const struct vault_walk walk = {.enter = harm, .lost = cannot_read, .arg = s};
    struct manifest_list list = {0};
    int r = report_packs(s);
    if (r == 0)
        r = manifest_list(s->vault, NULL, NULL, &list);
    for (size_t i = 0; r == 0 && i < list.count; i++) {
        Sp__Signed *sealed = NULL;
        Sp__Manifest *m = NULL;
        bool last =
            i + 1 == list.count || strcmp(list.names[i + 1].point_id, list.names[i].point_id) != 0;
        s->progress.points += last;
        if (!last || s->lost.count == 0 ||
            manifest_load(s->vault, &list.names[i], (struct sp_bytes){0}, &sealed, &m, NULL) < 0)
            continue;
        s->point_id = m->point_id;
        for (size_t k = 0; r == 0 && k < m->n_disks; k++)
            r = vault_walk_root(s->vault, s->coder, m->disks[k]->root.data, 0, &walk, NULL);
        sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(sealed, NULL);
    }
    manifest_list_free(&list);
    if (r == 0 && s->not_opened > 0)
        r = report_add(&s->report, false,
                       "%llu sealed chunks were not read: the vault was opened without its key",
                       (unsigned long long)s->not_opened) < 0
                ? -ENOMEM
                : 0;
    return r;
}

static int run(struct scrub *s)
{
    s->started_ns = sp_clock_system.monotonic_ns(sp_clock_system.self);
    s->stored = malloc(PACK_MAX_STORED);
    s->plain = malloc(VAULT_CHUNK_BYTES);
    int r = s->stored && s->plain ? vault_coder_new(s->vault->keys, &s->coder) : -ENOMEM;
    if (r == 0 && s->options->replica)
        r = vault_coder_new(s->options->replica->keys, &s->replica_coder);
    if (r == 0)
        r = vault_index_refresh(s->vault->index, s->why);
    if (r == 0)
        r = read_all(s);
    if (r == 0)
        r = heal_all(s);
    if (r == 0)
        r = find_harmed(s);
    s->progress.ended = true;
    if (r == 0 && s->options->each)
        r = report_send(&s->report, &s->progress, s->options->each, s->options->arg);
    return r;
}

int vault_scrub(struct vault *v, const struct vault_scrub *options, struct sp_why *why)
{
    struct scrub s = {.vault = v, .options = options, .why = why};
    if (options->replica && strcmp(options->replica->id, v->id) != 0)
        return sp_why_set(why, -EINVAL, "the vault to heal from is no replica of this one");
    sp__check_progress__init(&s.progress);
    int r = run(&s);
    for (size_t i = 0; i < s.pack_count; i++)
        free(s.packs[i].why);
    free(s.packs);
    free(s.chunks);
    free(s.problem);
    report_free(&s.report);
    vault_set_free(&s.lost);
    vault_coder_free(s.coder);
    vault_coder_free(s.replica_coder);
    if (s.plain)
        sp_wipe(s.plain, VAULT_CHUNK_BYTES);
    free(s.plain);
    free(s.stored);
    return r;
}
