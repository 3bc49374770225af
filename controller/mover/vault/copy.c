/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A replica has the id and the key of its vault, so chunks, maps and manifests are the same there,
 * byte by byte. Order, as in a backup: journal ─▶ chunks ─▶ flush ─▶ manifest ─▶ journal ended.
 * Nobody removes anything from the replica meanwhile (its `tidy` is held), so that what is there
 * may be relied on without a journal. */
#include "controller/mover/vault/journal.h"
#include "controller/mover/vault/manifest.h"
#include "controller/mover/vault/store.h"
#include "controller/mover/vault/walk.h"
#include <string.h>

struct copy {
    struct vault *from, *to;
    struct vault_coder *coder;
    struct vault_store *store;
    struct vault_set whole; /* nodes of which all below is in the replica, or in the store */
    struct vault_copied done;
    uint8_t *stored;
    struct sp_why *why;
};

/* ---- chunks ---- */

static bool replica_has(const struct copy *c, const uint8_t *address, enum map_kind kind)
{
    struct vault_location at;
    for (unsigned nth = 0; vault_index_find(c->to->index, address, nth, &at) == 0; nth++)
        if (vault_kind_of(at.entry.storage) == kind)
            return true;
    return vault_store_pending(c->store, address);
}

static int add(struct copy *c, const struct pack_entry *e)
{
    struct coder_sealed sealed = {.storage = (enum vault_storage)e->storage};
    struct store_chunk s = {.storage = sealed.storage,
                            .plain_size = e->plain_size,
                            .body = c->stored,
                            .body_size = e->stored_size};
    memcpy(s.address, e->address, sizeof s.address);
    if (vault_kind_of(e->storage) == MAP_SEALED) {
        s.body += CODER_NONCE_BYTES;
        s.body_size -= CODER_NONCE_BYTES + CODER_TAG_BYTES;
        memcpy(sealed.nonce, c->stored, CODER_NONCE_BYTES);
        memcpy(sealed.tag, s.body + s.body_size, CODER_TAG_BYTES);
        sealed.body_size = s.body_size;
        s.sealed = &sealed;
    }
    c->done.chunks++;
    c->done.bytes += e->stored_size;
    return vault_store_add(c->store, STORE_DATA, &s, NULL, c->why);
}

/* The first copy that is whole, as far as that can be seen without the key. */
static int copy_chunk(struct copy *c, const uint8_t *address, enum map_kind kind)
{
    struct vault_location at;
    for (unsigned nth = 0; vault_index_find(c->from->index, address, nth, &at) == 0; nth++) {
        struct vault_pack pack;
        char name[PACK_NAME_BYTES];
        uint8_t plain[32];
        if (vault_kind_of(at.entry.storage) != kind ||
            !vault_index_pack(c->from->index, at.pack, &pack) ||
            c->from->backend->get(c->from->self, pack_name(name, pack.footer.id), at.entry.offset,
                                  c->stored, at.entry.stored_size) < 0)
            continue;
        if (kind == MAP_RAW && (sp_sha256_of(c->stored, at.entry.stored_size, plain) < 0 ||
                                memcmp(plain, address, sizeof plain) != 0))
            continue;
        return add(c, &at.entry);
    }
    return sp_why_set(c->why, -EBADMSG, "chunk %.16s is damaged or missing", SP_HEX32(address));
}

static int enter(void *arg, const struct walk_place *at)
{
    struct copy *c = arg;
    if (at->level != WALK_CHUNK && vault_set_has(&c->whole, at->address))
        return 1;
    return replica_has(c, at->address, at->kind) ? 0 : copy_chunk(c, at->address, at->kind);
}

static int leave(void *arg, const struct walk_place *at)
{
    int r = vault_set_add(&((struct copy *)arg)->whole, at->address);
    return r < 0 ? r : 0;
}

/* ---- points ---- */

static int copy_object(struct copy *c, const char *name)
{
    uint8_t *data SP_FREE = NULL;
    size_t size = 0;
    uint64_t there;
    if (c->to->backend->size(c->to->self, name, &there) == 0)
        return 0;
    int r = vault_get_whole(c->from, name, VAULT_MANIFEST_MAX, &data, &size);
    if (r == 0)
        r = c->to->backend->put(c->to->self, name, &(struct sp_bytes){data, size}, 1, c->why);
    return r == -EEXIST ? 0 : r;
}

static int copy_data(struct copy *c, const Sp__Manifest *m)
{
    const struct vault_walk walk = {.enter = enter, .leave = leave, .arg = c};
    int r = journal_put(c->to, m->point_id, NULL, 0, c->why);
    if (r == 0)
        r = vault_store_new(c->to, m->point_id, &c->store);
    for (size_t i = 0; r == 0 && i < m->n_disks; i++)
        r = vault_walk_root(c->from, c->coder, m->disks[i]->root.data, m->disks[i]->size_bytes,
                            &walk, c->why);
    if (r == 0)
        r = vault_store_flush(c->store, c->why);
    vault_store_free(sp_steal(c->store));
    /* What was not flushed is not there. */
    if (r < 0)
        vault_set_clear(&c->whole);
    return r;
}

static int copy_manifest(struct copy *c, const struct manifest_name *n)
{
    char name[VAULT_NAME_MAX];
    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    int r = manifest_load(c->from, n, (struct sp_bytes){0}, &sealed, &m, c->why);
    if (r < 0)
        return r;
    r = copy_data(c, m);
    if (r == 0 && m->keystore_copy[0])
        r = copy_object(c, m->keystore_copy);
    if (r == 0)
        r = copy_object(c, manifest_name_text(n, name));
    int ended = journal_remove(c->to, n->point_id);
    sp__manifest__free_unpacked(m, NULL);
    sp__signed__free_unpacked(sealed, NULL);
    return r < 0 ? r : ended;
}

static int copy_hold(struct copy *c, const struct manifest_name *n)
{
    struct vault_mark mark;
    char name[VAULT_NAME_MAX];
    if (vault_get_mark(c->from, VAULT_HOLD, n->machine_id, n->point_id, &mark) == -ENOENT)
        return 0;
    snprintf(name, sizeof name, "holds/%s/%s", n->machine_id, n->point_id);
    return copy_object(c, name);
}

/* 0; 1: it could not be copied, the next may be. */
static int copy_point(struct copy *c, const struct manifest_name *n, struct sp_why *first)
{
    char name[VAULT_NAME_MAX];
    uint64_t bytes;
    struct vault_mark mark;
    if (vault_get_mark(c->from, VAULT_DELETION, n->machine_id, n->point_id, &mark) != -ENOENT)
        return 0;
    int r = copy_hold(c, n);
    if (r == 0 && c->to->backend->size(c->to->self, manifest_name_text(n, name), &bytes) == 0) {
        c->done.points_there++;
        return 0;
    }
    if (r == 0)
        r = copy_manifest(c, n);
    if (r == 0)
        c->done.points++;
    if (r != -EBADMSG && r != -ENOENT && r != -EKEYREJECTED)
        return r;
    if (!first->text[0])
        (void)sp_why_set(first, r, "point %s was not copied: %s", n->point_id, c->why->text);
    return 1;
}

static int copy_key(void *arg, const char *name, uint64_t bytes)
{
    (void)bytes;
    return copy_object(arg, name);
}

static int copy_all(struct copy *c, const char *machine_id,
                    int (*each)(void *arg, const char *point_id, const struct vault_copied *),
                    void *arg)
{
    struct manifest_list list = {0};
    struct sp_why first = {{0}};
    int r = c->from->backend->list(c->from->self, "keys/", copy_key, c);
    if (r == 0)
        r = manifest_list(c->from, machine_id, NULL, &list);
    for (size_t i = 0; r >= 0 && i < list.count; i++) {
        r = each ? each(arg, list.names[i].point_id, &c->done) : 0;
        if (r >= 0)
            r = copy_point(c, &list.names[i], &first);
    }
    manifest_list_free(&list);
    if (r >= 0 && first.text[0]) {
        *c->why = first;
        return -EBADMSG;
    }
    return r < 0 ? r : 0;
}

int vault_copy(struct vault *from, struct vault *to, const char *machine_id,
               int (*each)(void *arg, const char *point_id, const struct vault_copied *), void *arg,
               struct vault_copied *ret, struct sp_why *why)
{
    struct sp_why local = {{0}};
    struct copy c = {.from = from, .to = to, .why = why ? why : &local};
    if (strcmp(from->id, to->id) != 0 || from->shared == to->shared)
        return sp_why_set(why, -EINVAL, "the target is no replica of this vault");
    if (machine_id && !vault_id_valid(machine_id))
        return -EINVAL;
    pthread_mutex_lock(&to->shared->tidy);
    int r = vault_index_refresh(from->index, why);
    if (r == 0)
        r = vault_index_refresh(to->index, why);
    if (r == 0)
        r = vault_coder_new(NULL, &c.coder);
    if (r == 0 && !(c.stored = malloc(PACK_MAX_STORED)))
        r = -ENOMEM;
    if (r == 0)
        r = copy_all(&c, machine_id, each, arg);
    pthread_mutex_unlock(&to->shared->tidy);
    free(c.stored);
    vault_coder_free(c.coder);
    vault_set_free(&c.whole);
    *ret = c.done;
    return r;
}
