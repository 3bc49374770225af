/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/mark.h"
#include "controller/mover/vault/journal.h"
#include "controller/mover/vault/manifest.h"
#include "controller/mover/vault/walk.h"
#include <string.h>

int mark_new(struct vault *v, bool with_bits, struct mark *ret)
{
    *ret = (struct mark){.vault = v, .with_bits = with_bits};
    return vault_coder_new(NULL, &ret->coder);
}

void mark_free(struct mark *m)
{
    vault_coder_free(m->coder);
    vault_set_free(&m->seen);
    vault_set_free(&m->names);
    for (uint32_t i = 0; i < m->count; i++)
        free(m->packs[i].live);
    free(m->packs);
}

static int need_pack(struct mark *m, uint32_t pack)
{
    if (pack >= m->count) {
        uint32_t count = pack + 1024;
        struct mark_pack *bigger = realloc(m->packs, count * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        memset(bigger + m->count, 0, (count - m->count) * sizeof *bigger);
        m->packs = bigger;
        m->count = count;
    }
    m->packs[pack].needed |= m->journals ? MARK_BY_JOURNAL : MARK_BY_MANIFEST;
    return 0;
}

static int need_entry(struct mark *m, const struct vault_location *at, bool first)
{
    struct mark_pack *p = &m->packs[at->pack];
    if (!p->live && !(p->live = calloc(1, PACK_MAX_ENTRIES / 8)))
        return -ENOMEM;
    uint8_t bit = (uint8_t)(1u << (at->number % 8));
    if (p->live[at->number / 8] & bit)
        return 0;
    p->live[at->number / 8] |= bit;
    p->live_count++;
    p->unique_bytes += first ? at->entry.stored_size : 0;
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
        if (r == 0 && m->with_bits)
            r = need_entry(m, &where, nth == 0);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
    }
}

static int mark_manifest(struct mark *m, const struct manifest_name *name, struct sp_why *why)
{
    const struct vault_walk walk = {.enter = need, .arg = m};
    Sp__Signed *sealed = NULL;
    Sp__Manifest *manifest = NULL;
    int r = manifest_load(m->vault, name, (struct sp_bytes){NULL, 0}, &sealed, &manifest, why);
    if (r < 0)
        return r;
    for (size_t k = 0; r == 0 && k < manifest->n_disks; k++)
        r = vault_walk_root(m->vault, m->coder, manifest->disks[k]->root.data, 0, &walk, why);
    sp__manifest__free_unpacked(manifest, NULL);
    sp__signed__free_unpacked(sealed, NULL);
    return r;
}

int mark_manifests(struct mark *m, struct sp_why *why)
{
    struct manifest_list list = {0};
    m->journals = false;
    int r = manifest_list(m->vault, NULL, NULL, &list);
    for (size_t i = 0; r == 0 && i < list.count; i++) {
        char text[VAULT_NAME_MAX];
        uint8_t sum[32];
        manifest_name_text(&list.names[i], text);
        r = sp_sha256_of(text, strlen(text), sum);
        if (r == 0)
            r = vault_set_add(&m->names, sum);
        if (r > 0)
            r = mark_manifest(m, &list.names[i], why);
    }
    manifest_list_free(&list);
    return r < 0
               ? sp_why_prefix(why, r, "nothing was removed, since not all that is needed is known")
               : 0;
}

static int mark_record(void *arg, const char *point_id, const struct journal_record *record)
{
    struct mark *m = arg;
    struct vault_index *index = m->vault->index;
    const struct vault_walk walk = {.enter = need, .arg = m};
    if (record->damaged) {
        m->damaged_journal = true;
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

int mark_journals(struct mark *m, struct sp_why *why)
{
    m->journals = true;
    m->damaged_journal = false;
    int r = journal_each(m->vault, mark_record, m);
    m->journals = false;
    if (r == 0 && m->damaged_journal)
        r = sp_why_set(why, -EBADMSG, "a journal is damaged: nothing was removed");
    return r;
}
