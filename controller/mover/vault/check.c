/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 *   packs (index; each chunk when asked to) ─▶ manifests (form, place, signature, chain)
 *   ─▶ maps and chunks of every point ─▶ what nobody needs
 *
 * Problems of a pack are told at the end, when it is known which points rest on it. */
#include "controller/mover/vault/manifest.h"
#include "controller/mover/vault/report.h"
#include "controller/mover/vault/sweep.h"
#include "controller/mover/vault/walk.h"
#include <string.h>

/* A manifest that was read, for the chain. */
struct link {
    char machine_id[VAULT_ID_MAX + 1], point_id[VAULT_ID_MAX + 1];
    uint64_t sequence;
    uint8_t payload[32], object[32]; /* hashes */
    uint8_t previous[32];
    bool has_previous;
};

struct check {
    struct vault *vault;
    struct vault_coder *coder;
    bool read_data;
    struct sp_bytes sealing_key;
    int (*on_progress)(void *arg, const Sp__CheckProgress *);
    void *arg;
    Sp__CheckProgress progress;
    struct report report;
    int *pack_problem; /* by pack number: problem + 1 */
    uint32_t pack_count;
    bool packs_lost;        /* some pack's content is not known */
    struct vault_set bad;   /* copies of chunks: see copy_key() */
    uint64_t not_opened;    /* sealed, and no key */
    struct vault_set clean; /* nodes that are whole below */
    struct link *links;
    size_t link_count;
    /* Of the disk that is walked: */
    const char *point_id, *disk_id;
    uint64_t missing, first_missing;
    uint64_t harm;                        /* counts up at each loss */
    uint64_t harm_at[MAP_MAX_HEIGHT + 1]; /* harm when the node of a level was entered */
};

static int tell_progress(struct check *c)
{
    return c->on_progress ? c->on_progress(c->arg, &c->progress) : 0;
}

/* ---- packs ---- */

static void copy_key(uint8_t out[32], const uint8_t address[32], uint32_t pack)
{
    memcpy(out, address, 32);
    sp_put_le32(out + 28, sp_le32(out + 28) ^ pack);
}

static int pack_trouble(struct check *c, const struct vault_pack *pack, const char *text)
{
    char name[PACK_NAME_BYTES];
    int p = report_add(&c->report, false, "%s: %s", pack_name(name, pack->footer.id), text);
    if (p < 0)
        return p;
    if (!c->pack_problem[pack->number])
        c->pack_problem[pack->number] = p + 1;
    return 0;
}

/* Reads one chunk: 0 good, 1 bad. */
static int read_chunk(struct check *c, const struct vault_pack *pack, const char *name,
                      const struct pack_entry *e, uint8_t *out)
{
    uint8_t *stored = vault_coder_buffer(c->coder);
    int r = c->vault->backend->get(c->vault->self, name, e->offset, stored, e->stored_size);
    if (r == 0)
        r = vault_coder_open(c->coder, e, stored, out, NULL);
    c->progress.done_bytes += e->stored_size;
    c->progress.chunks++;
    if (r == 0 || r == -ENOMEM)
        return r;
    if (r == -ENOKEY) {
        c->not_opened++;
        return 0;
    }
    uint8_t key[32];
    copy_key(key, e->address, pack->number);
    r = vault_set_add(&c->bad, key);
    return r < 0 ? r : 1;
}

static int check_chunks(struct check *c, const struct vault_pack *pack, uint8_t *out)
{
    char name[PACK_NAME_BYTES];
    uint32_t bad = 0, first = 0, nonsense = 0;
    pack_name(name, pack->footer.id);
    for (uint32_t i = 0; i < pack->footer.count; i++) {
        struct pack_entry e;
        int r = vault_index_entry(c->vault->index, pack->number, i, &e);
        if (r == -ENOENT)
            return 0; /* removed meanwhile */
        if (r < 0) {
            nonsense++;
            continue;
        }
        r = c->read_data ? read_chunk(c, pack, name, &e, out) : 0;
        if (r < 0)
            return r;
        if (r > 0 && bad++ == 0)
            first = e.offset;
    }
    char text[160];
    if (bad > 0) {
        snprintf(text, sizeof text, "%u of %u chunks are damaged, the first at byte %u", bad,
                 pack->footer.count, first);
        return pack_trouble(c, pack, text);
    }
    if (nonsense > 0 && !pack->index_damaged) {
        c->packs_lost = true;
        return pack_trouble(c, pack, "its index has entries that make no sense");
    }
    return 0;
}

static int check_header(struct check *c, const struct vault_pack *pack)
{
    uint8_t is[PACK_HEADER_BYTES], should[PACK_HEADER_BYTES];
    char name[PACK_NAME_BYTES];
    pack_header_make(should, pack->footer.id);
    int r =
        c->vault->backend->get(c->vault->self, pack_name(name, pack->footer.id), 0, is, sizeof is);
    if (r == -ENOENT || (r == 0 && !memcmp(is, should, sizeof is)))
        return 0;
    return pack_trouble(c, pack, "its header is damaged (its data is found without it)");
}

static int check_pack(struct check *c, uint32_t number, uint8_t *out)
{
    struct vault_pack pack;
    if (!vault_index_pack(c->vault->index, number, &pack))
        return 0;
    c->progress.packs++;
    int r = 0;
    if (pack.lost || pack.index_damaged) {
        c->packs_lost = true;
        r = pack_trouble(c, &pack, pack.problem);
    }
    if (r == 0 && !pack.lost && strcmp(pack.footer.vault_id, c->vault->id))
        r = pack_trouble(c, &pack, "it was written for another vault");
    if (r == 0 && !pack.lost)
        r = check_header(c, &pack);
    if (r == 0 && !pack.lost)
        r = check_chunks(c, &pack, out);
    return r < 0 ? r : tell_progress(c);
}

static int check_packs(struct check *c)
{
    uint8_t *out SP_FREE = malloc(VAULT_CHUNK_BYTES);
    c->pack_count = vault_index_count(c->vault->index);
    c->pack_problem = calloc((size_t)c->pack_count + 1, sizeof *c->pack_problem);
    if (!out || !c->pack_problem)
        return -ENOMEM;
    for (uint32_t i = 0; c->read_data && i < c->pack_count; i++) {
        struct vault_pack pack;
        if (vault_index_pack(c->vault->index, i, &pack) && !pack.lost)
            c->progress.total_bytes += pack.footer.index_offset - PACK_HEADER_BYTES;
    }
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < c->pack_count; i++)
        r = check_pack(c, i, out);
    sp_wipe(out, VAULT_CHUNK_BYTES);
    if (r == 0 && c->not_opened > 0)
        r = report_add(&c->report, false,
                       "%llu sealed chunks were not checked: the vault was opened without its key",
                       (unsigned long long)c->not_opened);
    return r < 0 ? r : 0;
}

/* ---- the disks of a point ---- */

static int chunk_state(struct check *c, const struct walk_place *at)
{
    bool found = false;
    int r = 0;
    for (unsigned nth = 0;; nth++) {
        struct vault_location where;
        uint8_t key[32];
        r = vault_index_find(c->vault->index, at->address, nth, &where);
        if (r < 0)
            break;
        if (vault_kind_of(where.entry.storage) != at->kind)
            continue;
        copy_key(key, at->address, where.pack);
        if (!vault_set_has(&c->bad, key))
            return 0;
        found = true;
    }
    if (r != -ENOENT)
        return r;
    c->harm++;
    if (!found) {
        if (c->missing++ == 0)
            c->first_missing = at->first_chunk;
        return 0;
    }
    for (unsigned nth = 0;; nth++) {
        struct vault_location where;
        r = vault_index_find(c->vault->index, at->address, nth, &where);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
        if (where.pack < c->pack_count && c->pack_problem[where.pack]) {
            r = report_harm(&c->report, c->pack_problem[where.pack] - 1, c->point_id);
            if (r < 0)
                return r;
        }
    }
}

static int enter(void *arg, const struct walk_place *at)
{
    struct check *c = arg;
    if (at->level == WALK_CHUNK)
        return chunk_state(c, at);
    c->harm_at[at->level] = c->harm;
    return vault_set_has(&c->clean, at->address) ? 1 : 0;
}

static int leave(void *arg, const struct walk_place *at)
{
    struct check *c = arg;
    if (c->harm_at[at->level] != c->harm)
        return 0;
    int r = vault_set_add(&c->clean, at->address);
    return r < 0 ? r : 0;
}

/* A pack that tells nothing of its content may be where it was. */
static int blame_lost_packs(struct check *c)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < c->pack_count; i++) {
        struct vault_pack pack;
        if (c->pack_problem[i] && vault_index_pack(c->vault->index, i, &pack) &&
            (pack.lost || pack.index_damaged))
            r = report_harm(&c->report, c->pack_problem[i] - 1, c->point_id);
    }
    return r;
}

static int node_lost(void *arg, const struct walk_place *at, int error, const struct sp_why *why)
{
    struct check *c = arg;
    (void)error;
    c->harm++;
    uint64_t from = at->first_chunk * VAULT_CHUNK_BYTES;
    int p;
    if (at->level == MAP_MAX_HEIGHT) {
        p = report_add(&c->report, true, "point %s: disk '%s' is lost: %s", c->point_id, c->disk_id,
                       why->text);
    } else {
        uint64_t to = from + map_span((unsigned)at->level + 1) * VAULT_CHUNK_BYTES;
        p = report_add(&c->report, true,
                       "point %s: disk '%s': bytes %llu to %llu are lost, their map is damaged: %s",
                       c->point_id, c->disk_id, (unsigned long long)from,
                       (unsigned long long)(to < at->size_bytes ? to : at->size_bytes), why->text);
    }
    int r = p < 0 ? p : report_harm(&c->report, p, c->point_id);
    return r < 0 ? r : blame_lost_packs(c);
}

static int check_disk(struct check *c, const Sp__DiskImage *disk)
{
    const struct vault_walk walk = {enter, leave, node_lost, c};
    c->disk_id = disk->disk_id;
    c->missing = 0;
    int r = vault_walk_root(c->vault, c->coder, disk->root.data, disk->size_bytes, &walk, NULL);
    if (r < 0 || c->missing == 0)
        return r;
    int p = report_add(&c->report, true,
                       "point %s: disk '%s': %llu chunks are in no pack, the first is at byte %llu "
                       "of the disk",
                       c->point_id, disk->disk_id, (unsigned long long)c->missing,
                       (unsigned long long)(c->first_missing * VAULT_CHUNK_BYTES));
    r = p < 0 ? p : report_harm(&c->report, p, c->point_id);
    return r < 0 ? r : blame_lost_packs(c);
}

/* ---- manifests ---- */

static int check_keystore_copy(struct check *c, const Sp__Manifest *m)
{
    if (!m->keystore_copy[0])
        return 0;
    uint8_t *data SP_FREE = NULL;
    size_t size = 0;
    uint8_t sum[32], named[32];
    const char *trouble = NULL;
    int r = vault_get_whole(c->vault, m->keystore_copy, VAULT_MANIFEST_MAX, &data, &size);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        trouble = r == -ENOENT ? "is missing" : "cannot be read";
    const char *hash = strrchr(m->keystore_copy, '-');
    if (!trouble && hash && sp_unhex(hash + 1, named, sizeof named) == 0 &&
        sp_sha256_of(data, size, sum) == 0 && memcmp(sum, named, sizeof sum))
        trouble = "is damaged";
    if (!trouble)
        return 0;
    int p = report_add(&c->report, true,
                       "point %s: the keystore copy '%s' %s: without the keeper its keys are lost",
                       m->point_id, m->keystore_copy, trouble);
    return p < 0 ? p : report_harm(&c->report, p, m->point_id);
}

static int remember(struct check *c, const Sp__Signed *sealed, const Sp__Manifest *m)
{
    struct link *bigger = realloc(c->links, (c->link_count + 1) * sizeof *bigger);
    uint8_t *packed SP_FREE = NULL;
    size_t size = 0;
    if (!bigger)
        return -ENOMEM;
    c->links = bigger;
    struct link *l = &c->links[c->link_count];
    *l = (struct link){.sequence = m->sequence,
                       .has_previous = m->previous_manifest_sha256.len == 32};
    snprintf(l->machine_id, sizeof l->machine_id, "%s", m->machine_id);
    snprintf(l->point_id, sizeof l->point_id, "%s", m->point_id);
    if (l->has_previous)
        memcpy(l->previous, m->previous_manifest_sha256.data, 32);
    int r = sp_sha256_of(sealed->payload.data, sealed->payload.len, l->payload);
    if (r == 0)
        r = sp_pack(&sealed->base, &packed, &size);
    if (r == 0)
        r = sp_sha256_of(packed, size, l->object);
    c->link_count += r == 0;
    return r;
}

/* One revision. *ret_good: it is what it should be. */
static int check_manifest(struct check *c, const struct manifest_name *name, bool *ret_good)
{
    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    struct sp_why why = {{0}};
    *ret_good = false;
    int r = manifest_load(c->vault, name, (struct sp_bytes){NULL, 0}, &sealed, &m, &why);
    if (r == 0 && c->sealing_key.size > 0) {
        if (sealed->n_signatures == 0 && m->state_at_seal != SP__POINT_STATE__POINT_STATE_VALID) {
            /* Sealed while the keeper was locked: the data is there, the evidence is not. */
            r = report_add(&c->report, false,
                           "point %s: manifest revision %u carries no signature; 'sealpoint point "
                           "verify' makes a signed one",
                           name->point_id, name->revision);
            r = r < 0 ? r : 0;
        } else {
            sp__manifest__free_unpacked(sp_steal(m), NULL);
            sp__signed__free_unpacked(sp_steal(sealed), NULL);
            r = manifest_load(c->vault, name, c->sealing_key, &sealed, &m, &why);
        }
    }
    if (r < 0 && m) {
        sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(sealed, NULL);
    }
    if (r == -ENOMEM || r == -ENOENT)
        return r == -ENOENT ? 0 : r; /* removed meanwhile */
    if (r < 0) {
        int p = report_add(&c->report, r != -ENOTSUP, "%s", why.text);
        return p < 0 ? p : report_harm(&c->report, p, name->point_id);
    }
    *ret_good = true;
    c->point_id = name->point_id;
    r = remember(c, sealed, m);
    for (size_t i = 0; r == 0 && i < m->n_disks; i++)
        r = check_disk(c, m->disks[i]);
    if (r == 0)
        r = check_keystore_copy(c, m);
    sp__manifest__free_unpacked(m, NULL);
    sp__signed__free_unpacked(sealed, NULL);
    return r;
}

static int check_manifests(struct check *c)
{
    struct manifest_list list = {0};
    int r = manifest_list(c->vault, NULL, NULL, &list);
    for (size_t i = 0; r == 0 && i < list.count; i++) {
        const struct manifest_name *n = &list.names[i];
        bool good;
        if (i == 0 || strcmp(n[-1].point_id, n->point_id) ||
            strcmp(n[-1].machine_id, n->machine_id))
            c->progress.points++;
        r = check_manifest(c, n, &good);
        if (r == 0)
            r = tell_progress(c);
    }
    manifest_list_free(&list);
    return r;
}

static int by_sequence(const void *a, const void *b)
{
    const struct link *x = a, *y = b;
    int r = strcmp(x->machine_id, y->machine_id);
    return r ? r : (x->sequence > y->sequence) - (x->sequence < y->sequence);
}

/* The hash that a manifest has of the one before must be that of one of its revisions. */
static int check_chain(struct check *c)
{
    if (c->link_count > 0)
        qsort(c->links, c->link_count, sizeof *c->links, by_sequence);
    for (size_t i = 0; i < c->link_count; i++) {
        const struct link *l = &c->links[i];
        if (!l->has_previous)
            continue;
        const struct link *before = NULL;
        bool fits = false;
        for (size_t k = i; k > 0 && !fits; k--) {
            const struct link *p = &c->links[k - 1];
            if (strcmp(p->machine_id, l->machine_id) || p->sequence + 1 < l->sequence)
                break;
            if (p->sequence + 1 > l->sequence)
                continue;
            before = p;
            fits = !memcmp(p->payload, l->previous, 32) || !memcmp(p->object, l->previous, 32);
        }
        if (!before || fits)
            continue;
        int r = report_add(&c->report, false,
                           "point %s says that another manifest came before it than that of point "
                           "%s: one of the two was replaced",
                           l->point_id, before->point_id);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- what nobody needs ---- */

struct untidy {
    struct check *check;
    uint64_t temporary, foreign;
    char example[VAULT_NAME_MAX];
};

static int judge_name(void *arg, const char *name, uint64_t bytes)
{
    static const char *const others[] = {"keystore/", "journals/", "keys/", "holds/", "deleted/"};
    struct untidy *u = arg;
    uint8_t id[PACK_ID_BYTES];
    struct manifest_name manifest;
    (void)bytes;
    if (!strncmp(name, "tmp/", 4)) {
        u->temporary++;
        return 0;
    }
    if (!strcmp(name, "vault.json") || pack_name_parse(name, id) == 0 ||
        manifest_name_parse(name, &manifest) == 0)
        return 0;
    for (size_t i = 0; i < SP_COUNT(others); i++)
        if (!strncmp(name, others[i], strlen(others[i])))
            return 0;
    if (u->foreign++ == 0)
        snprintf(u->example, sizeof u->example, "%s", name);
    return 0;
}

static int check_unneeded(struct check *c)
{
    uint8_t *needed SP_FREE = NULL;
    uint32_t count = 0;
    int r = sweep_needed(c->vault, &needed, &count);
    if (r == -ENOMEM)
        return r;
    uint64_t packs = 0, bytes = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        struct vault_pack pack;
        if (!needed[i] && vault_index_pack(c->vault->index, i, &pack) && !pack.lost &&
            !pack.index_damaged) {
            packs++;
            bytes += pack.bytes;
        }
    }
    if (packs == 0)
        return 0;
    r = report_add(&c->report, false,
                   "%llu packs of %llu bytes hold nothing that a point needs: what a backup left "
                   "that did not end",
                   (unsigned long long)packs, (unsigned long long)bytes);
    return r < 0 ? r : 0;
}

static int check_tidy(struct check *c)
{
    struct untidy u = {.check = c};
    int r = c->vault->backend->list(c->vault->self, "", judge_name, &u);
    if (r == 0 && u.temporary > 0 && atomic_load(&c->vault->shared->writers) == 0)
        r = report_add(&c->report, false, "%llu temporary objects are left over",
                       (unsigned long long)u.temporary);
    if (r >= 0 && u.foreign > 0)
        r = report_add(&c->report, false, "%llu objects do not belong to a vault, such as '%s'",
                       (unsigned long long)u.foreign, u.example);
    return r < 0 ? r : check_unneeded(c);
}

int vault_check(struct vault *v, bool read_data, struct sp_bytes sealing_key,
                int (*on_progress)(void *arg, const Sp__CheckProgress *), void *arg,
                struct sp_why *why)
{
    struct check c = {.vault = v,
                      .read_data = read_data,
                      .sealing_key = sealing_key,
                      .on_progress = on_progress,
                      .arg = arg};
    sp__check_progress__init(&c.progress);
    int r = vault_coder_new(v->keys, &c.coder);
    if (r == 0)
        r = vault_index_refresh(v->index, why);
    if (r == 0)
        r = check_packs(&c);
    if (r == 0)
        r = check_manifests(&c);
    if (r == 0)
        r = check_chain(&c);
    if (r == 0)
        r = check_tidy(&c);
    if (r == 0 && on_progress) {
        c.progress.ended = true;
        r = report_send(&c.report, &c.progress, on_progress, arg);
    }
    if (r < 0 && why && !why->text[0])
        (void)sp_why_set(why, r, "the check did not run to its end: %s", strerror(-r));
    report_free(&c.report);
    vault_set_free(&c.bad);
    vault_set_free(&c.clean);
    free(c.pack_problem);
    free(c.links);
    vault_coder_free(c.coder);
    return r;
}
