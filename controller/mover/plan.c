/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/plan.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* One chunk of so many is read again: 0.5 %. */
enum { REREAD_ONE_OF = 200 };

int plan_drop(struct plan_disk *d, const char *format, ...)
{
    va_list ap;
    char *text = NULL;
    va_start(ap, format);
    int n = vasprintf(&text, format, ap);
    va_end(ap);
    if (n < 0)
        return -ENOMEM;
    free(d->full_why);
    d->full_why = text;
    d->base = NULL;
    return 0;
}

void plan_free(struct plan *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->disks[i].full_why);
    free(p->disks);
    *p = (struct plan){0};
}

/* ---- what could be an increment ---- */

static int choose(const struct source *source, const Sp__SourceDisk *disk,
                  const Sp__TransferRequest *request, struct plan_disk *d)
{
    d->disk_id = disk->disk_id;
    if (!disk->base_point_id[0])
        return disk->full_why[0] ? plan_drop(d, "%s", disk->full_why) : 0;
    for (size_t i = 0; i < request->n_bases; i++) {
        const Sp__BaseDisk *base = request->bases[i];
        if (base->image && !strcmp(base->point_id, disk->base_point_id) &&
            !strcmp(base->image->disk_id, disk->disk_id))
            d->base = base;
    }
    if (!d->base || !source->next_changed)
        return plan_drop(d, "the vault has no sealed copy of it of the point that the source knows "
                            "the changes since");
    if (d->base->image->size_bytes != disk->size_bytes)
        return plan_drop(d, "the disk had another size before");
    return 0;
}

/* ---- the test of what should be unchanged ---- */

struct reread {
    const struct source *source;
    struct source_snapshot *snapshot;
    const struct mover_transfer_hooks *hooks;
    uint32_t disk;
    uint64_t size_bytes;
    struct vault_reader *base;
    uint64_t random;
    uint64_t changed_from, changed_to; /* the last range that the source told */
    uint8_t *chunk;
    uint64_t read_bytes;
    struct sp_why *why;
};

/* splitmix64: which chunks are taken must not be guessable from outside, no more. */
static uint64_t next_random(struct reread *t)
{
    uint64_t x = t->random += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Whether the source says that any of the range changed. Offsets must ascend. */
static int changed(struct reread *t, uint64_t offset, uint32_t length)
{
    while (t->changed_to <= offset) {
        uint64_t from, bytes;
        int r = t->source->next_changed(t->snapshot, t->disk, offset, &from, &bytes, t->why);
        if (r < 0)
            return r;
        t->changed_from = r == 0 ? UINT64_MAX : from;
        t->changed_to = r == 0 ? UINT64_MAX : from + bytes;
    }
    return t->changed_from < offset + length;
}

/* 1: as it was, 0: not, negative errno. */
static int unchanged(struct reread *t, uint64_t index, uint32_t length)
{
    uint64_t offset = index * VAULT_CHUNK_BYTES, from, bytes;
    int r = vault_reader_stored(t->base, index, t->why);
    if (r == 0) { /* zero before; a hole now needs no reading */
        r = t->source->next_data(t->snapshot, t->disk, offset, &from, &bytes, t->why);
        if (r >= 0 && (r == 0 || from >= offset + length))
            return 1;
    }
    if (r < 0)
        return r;
    r = t->source->read_at(t->snapshot, t->disk, offset, t->chunk, length, t->why);
    t->read_bytes += length;
    return r < 0 ? r : vault_reader_compare(t->base, index, t->chunk, length, t->why);
}

static int reread_all(struct reread *t)
{
    uint64_t chunks =
        t->size_bytes / VAULT_CHUNK_BYTES + (t->size_bytes % VAULT_CHUNK_BYTES ? 1 : 0);
    for (uint64_t at = 0; at < chunks; at += REREAD_ONE_OF) {
        uint64_t window = chunks - at < REREAD_ONE_OF ? chunks - at : REREAD_ONE_OF;
        uint64_t index = at + next_random(t) % window, offset = index * VAULT_CHUNK_BYTES;
        uint64_t left = t->size_bytes - offset;
        uint32_t length = left < VAULT_CHUNK_BYTES ? (uint32_t)left : VAULT_CHUNK_BYTES;
        if (t->hooks && t->hooks->cancel && atomic_load(t->hooks->cancel))
            return sp_why_set(t->why, -ECANCELED, "the transfer was cancelled");
        int r = changed(t, offset, length);
        if (r < 0)
            return r;
        if (r > 0)
            continue;
        r = unchanged(t, index, length);
        if (r <= 0)
            return r < 0 ? r : sp_why_set(t->why, -EUCLEAN, "%llu", (unsigned long long)offset);
    }
    return 0;
}

/* 0; -EUCLEAN: something changed of which the source did not know; -EBADMSG, -ESTALE: the base is
 * damaged. */
static int reread(const struct source *source, struct source_snapshot *snapshot,
                  const struct mover_transfer_hooks *hooks, struct vault *vault, uint32_t disk,
                  struct plan_disk *d, struct sp_why *why)
{
    const Sp__DiskImage *image = d->base->image;
    struct reread t = {.source = source,
                       .snapshot = snapshot,
                       .hooks = hooks,
                       .disk = disk,
                       .size_bytes = image->size_bytes,
                       .why = why};
    if (image->root.len != 32)
        return -EBADMSG;
    int r = vault_reader_new(vault, image->root.data, image->size_bytes, &t.base, why);
    if (r == 0)
        r = sp_random(&t.random, sizeof t.random);
    t.chunk = malloc(VAULT_CHUNK_BYTES);
    if (r == 0 && !t.chunk)
        r = -ENOMEM;
    if (r == 0)
        r = reread_all(&t);
    d->reread_bytes = t.read_bytes;
    if (t.chunk)
        sp_wipe(t.chunk, VAULT_CHUNK_BYTES);
    free(t.chunk);
    vault_reader_free(t.base);
    return r;
}

/* ---- the plan ---- */

static int distrust(struct plan *p, const char *disk_id)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->count; i++)
        if (p->disks[i].base)
            r = plan_drop(
                &p->disks[i],
                "a part of disk '%s' that was not to have changed since the last copy had "
                "changed: the source's record of changes cannot be trusted",
                disk_id);
    return r;
}

int plan_make(const struct source *source, struct source_snapshot *handle,
              const Sp__SnapshotResponse *snapshot, const Sp__TransferRequest *request,
              struct vault *vault, const struct mover_transfer_hooks *hooks, struct plan *ret,
              struct sp_why *why)
{
    *ret = (struct plan){.count = snapshot->n_disks};
    ret->disks = calloc(ret->count + 1, sizeof *ret->disks);
    if (!ret->disks) {
        ret->count = 0;
        return -ENOMEM;
    }
    int r = 0;
    for (size_t i = 0; r == 0 && i < ret->count; i++)
        if (!snapshot->disks[i]->skipped)
            r = choose(source, snapshot->disks[i], request, &ret->disks[i]);
    for (size_t i = 0; r == 0 && i < ret->count; i++) {
        struct plan_disk *d = &ret->disks[i];
        if (!d->base)
            continue;
        r = reread(source, handle, hooks, vault, (uint32_t)i, d, why);
        if (r == -EUCLEAN)
            return distrust(ret, d->disk_id);
        if (r == -EBADMSG)
            r = plan_drop(d, "its earlier copy is damaged: %s", why ? why->text : "");
    }
    return r;
}

static int add_note(const struct plan_disk *d, Sp__Finding *f)
{
    sp__finding__init(f);
    f->reason = SP__REASON__REASON_COPIED_IN_FULL;
    f->note = true;
    f->disk_id = strdup(d->disk_id);
    f->text = sp_format("copied in full: %s", d->full_why);
    return f->disk_id && f->text ? 0 : -ENOMEM;
}

int plan_notes(const struct plan *p, size_t *ret_count, Sp__Finding ***ret)
{
    int r = 0;
    *ret = calloc(p->count + 1, sizeof **ret);
    for (size_t i = 0; *ret && r == 0 && i < p->count; i++) {
        if (!p->disks[i].full_why)
            continue;
        Sp__Finding *f = malloc(sizeof *f);
        if (!f)
            return -ENOMEM;
        (*ret)[(*ret_count)++] = f;
        r = add_note(&p->disks[i], f);
    }
    return *ret ? r : -ENOMEM;
}
