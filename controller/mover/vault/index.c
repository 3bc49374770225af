/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/index.h"
#include "base/cleanup.h"
#include "controller/mover/vault/internal.h"
#include <pthread.h>
#include <string.h>

/* A slot: tag (27 bits) ‖ pack number + 1 (22 bits) ‖ entry (15 bits); 0 is empty. The place of a
 * slot follows from the tag alone, so that the table can grow without reading anything. */
enum {
    ENTRY_BITS = 15,
    PACK_BITS = 22,
    TAG_BITS = 27,
    MOST_PACKS = (1 << PACK_BITS) - 2,
    CACHED_INDEXES = 128,
    FIRST_SLOTS = 1 << 12,
};

struct cached {
    uint8_t *raw; /* entries as they lie in the pack */
    uint32_t pack;
    uint64_t used;
};

struct vault_index {
    const struct vault_backend *backend;
    void *self;
    pthread_mutex_t lock; /* of all below */
    uint64_t *slots;
    size_t slot_count, filled, most_slots;
    struct vault_pack **packs; /* pointers, since the structs are big and the array grows */
    uint32_t pack_count;
    uint32_t *by_id; /* open addressing, number + 1 */
    size_t by_id_slots;
    uint32_t unindexed_from; /* packs from here on are not in the table */
    struct cached cache[CACHED_INDEXES];
    uint64_t clock;
};

int vault_index_new(const struct vault_backend *backend, void *backend_self, size_t most_slots,
                    struct vault_index **ret)
{
    struct vault_index *x = calloc(1, sizeof *x);
    if (!x)
        return -ENOMEM;
    x->backend = backend;
    x->self = backend_self;
    x->most_slots = most_slots ? most_slots : INDEX_MOST_SLOTS;
    x->slot_count = x->most_slots < FIRST_SLOTS ? x->most_slots : FIRST_SLOTS;
    x->slots = calloc(x->slot_count, sizeof *x->slots);
    x->unindexed_from = UINT32_MAX;
    pthread_mutex_init(&x->lock, NULL);
    if (!x->slots) {
        vault_index_free(x);
        return -ENOMEM;
    }
    *ret = x;
    return 0;
}

void vault_index_free(struct vault_index *x)
{
    if (!x)
        return;
    for (size_t i = 0; i < CACHED_INDEXES; i++)
        free(x->cache[i].raw);
    for (uint32_t i = 0; i < x->pack_count; i++)
        free(x->packs[i]);
    free(x->packs);
    free(x->by_id);
    free(x->slots);
    pthread_mutex_destroy(&x->lock);
    free(x);
}

/* ---- the table ---- */

static uint32_t tag_of(const uint8_t *address)
{
    return sp_be32(address) >> (32 - TAG_BITS);
}

static size_t place_of(const struct vault_index *x, uint32_t tag)
{
    /* slot_count is 2^k with k ≤ TAG_BITS: the top k bits of the tag. */
    unsigned k = (unsigned)__builtin_ctzll(x->slot_count);
    return tag >> (TAG_BITS - k);
}

static void table_put(struct vault_index *x, uint64_t slot)
{
    size_t mask = x->slot_count - 1;
    size_t at = place_of(x, (uint32_t)(slot >> (ENTRY_BITS + PACK_BITS)));
    while (x->slots[at])
        at = (at + 1) & mask;
    x->slots[at] = slot;
    x->filled++;
}

/* Room for `more` slots at three quarters full; -EOVERFLOW when the limit forbids it. */
static int table_reserve(struct vault_index *x, size_t more)
{
    size_t want = x->slot_count;
    while (x->filled + more > want / 4 * 3) {
        if (want >= x->most_slots)
            return -EOVERFLOW;
        want *= 2;
    }
    if (want == x->slot_count)
        return 0;
    uint64_t *old = x->slots;
    size_t old_count = x->slot_count;
    uint64_t *slots = calloc(want, sizeof *slots);
    if (!slots)
        return -EOVERFLOW; /* the slow way still works */
    x->slots = slots;
    x->slot_count = want;
    x->filled = 0;
    for (size_t i = 0; i < old_count; i++)
        if (old[i])
            table_put(x, old[i]);
    free(old);
    return 0;
}

static void table_add_pack(struct vault_index *x, const struct vault_pack *p, const uint8_t *raw)
{
    if (x->unindexed_from != UINT32_MAX)
        return;
    if (table_reserve(x, p->footer.count) < 0) {
        x->unindexed_from = p->number;
        return;
    }
    for (uint32_t i = 0; i < p->footer.count; i++) {
        struct pack_entry e;
        if (pack_entry_parse(&p->footer, raw, i, &e) < 0)
            continue;
        table_put(x, (uint64_t)tag_of(e.address) << (ENTRY_BITS + PACK_BITS) |
                         (uint64_t)(p->number + 1) << ENTRY_BITS | i);
    }
}

/* ---- packs ---- */

static size_t id_place(const struct vault_index *x, const uint8_t id[PACK_ID_BYTES])
{
    return (size_t)sp_le64(id) & (x->by_id_slots - 1);
}

static int pack_by_id(const struct vault_index *x, const uint8_t id[PACK_ID_BYTES],
                      uint32_t *ret_number)
{
    if (x->by_id_slots == 0)
        return -ENOENT;
    for (size_t at = id_place(x, id); x->by_id[at]; at = (at + 1) & (x->by_id_slots - 1)) {
        const struct vault_pack *p = x->packs[x->by_id[at] - 1];
        if (!p->removed && !memcmp(p->footer.id, id, PACK_ID_BYTES)) {
            *ret_number = p->number;
            return 0;
        }
    }
    return -ENOENT;
}

static void by_id_put(struct vault_index *x, uint32_t number)
{
    size_t at = id_place(x, x->packs[number]->footer.id);
    while (x->by_id[at])
        at = (at + 1) & (x->by_id_slots - 1);
    x->by_id[at] = number + 1;
}

/* Makes room for one more pack. */
static int packs_reserve(struct vault_index *x)
{
    if (x->pack_count >= MOST_PACKS)
        return -E2BIG;
    if ((size_t)x->pack_count * 2 < x->by_id_slots)
        return 0;
    size_t slots = x->by_id_slots ? x->by_id_slots * 2 : 64;
    struct vault_pack **packs = realloc(x->packs, slots / 2 * sizeof *packs);
    if (!packs)
        return -ENOMEM;
    x->packs = packs;
    uint32_t *by_id = calloc(slots, sizeof *by_id);
    if (!by_id)
        return -ENOMEM;
    free(x->by_id);
    x->by_id = by_id;
    x->by_id_slots = slots;
    for (uint32_t i = 0; i < x->pack_count; i++)
        by_id_put(x, i);
    return 0;
}

/* Takes p. */
static int packs_append(struct vault_index *x, struct vault_pack *p)
{
    int r = packs_reserve(x);
    if (r < 0) {
        free(p);
        return r;
    }
    p->number = x->pack_count;
    x->packs[x->pack_count] = p;
    by_id_put(x, x->pack_count);
    x->pack_count++;
    return 0;
}

/* ---- the cache of raw indexes ---- */

static void cache_put(struct vault_index *x, uint32_t pack, uint8_t *raw)
{
    struct cached *oldest = &x->cache[0];
    for (size_t i = 0; i < CACHED_INDEXES; i++) {
        if (!x->cache[i].raw) {
            oldest = &x->cache[i];
            break;
        }
        if (x->cache[i].used < oldest->used)
            oldest = &x->cache[i];
    }
    free(oldest->raw);
    *oldest = (struct cached){raw, pack, ++x->clock};
}

/* Raw entries of a pack; valid until the lock is let go. */
static int cache_get(struct vault_index *x, const struct vault_pack *p, const uint8_t **ret)
{
    for (size_t i = 0; i < CACHED_INDEXES; i++) {
        if (x->cache[i].raw && x->cache[i].pack == p->number) {
            x->cache[i].used = ++x->clock;
            *ret = x->cache[i].raw;
            return 0;
        }
    }
    size_t size = (size_t)p->footer.count * PACK_ENTRY_BYTES;
    uint8_t *raw = malloc(size ? size : 1);
    if (!raw)
        return -ENOMEM;
    char name[PACK_NAME_BYTES];
    int r =
        x->backend->get(x->self, pack_name(name, p->footer.id), p->footer.index_offset, raw, size);
    if (r < 0) {
        free(raw);
        return r;
    }
    cache_put(x, p->number, raw);
    *ret = raw;
    return 0;
}

/* ---- load ---- */

struct seen {
    struct vault_index *index;
    bool *present; /* of the packs known before */
    uint32_t known;
    int error;
};

static int read_index(struct vault_index *x, const char *name, struct vault_pack *p,
                      uint8_t **ret_raw, struct sp_why *why)
{
    uint8_t id[PACK_ID_BYTES], footer[PACK_FOOTER_BYTES];
    memcpy(id, p->footer.id, sizeof id);
    if (p->bytes < PACK_HEADER_BYTES + PACK_FOOTER_BYTES)
        return sp_why_set(why, -EBADMSG, "it is cut short: %llu bytes are left of it",
                          (unsigned long long)p->bytes);
    int r = x->backend->get(x->self, name, p->bytes - sizeof footer, footer, sizeof footer);
    if (r < 0)
        return sp_why_set(why, r, "it cannot be read: %s", strerror(-r));
    struct pack_footer parsed;
    r = pack_footer_parse(footer, p->bytes, &parsed, why);
    if (r < 0)
        return r;
    size_t size = (size_t)parsed.count * PACK_ENTRY_BYTES;
    uint8_t *raw SP_FREE = malloc(size ? size : 1);
    if (!raw)
        return -ENOMEM;
    r = x->backend->get(x->self, name, parsed.index_offset, raw, size);
    if (r < 0)
        return sp_why_set(why, r, "its index cannot be read: %s", strerror(-r));
    r = pack_index_verify(&parsed, footer, raw, size, why);
    if (r < 0 && r != -EBADMSG)
        return r;
    p->index_damaged = r < 0;
    if (memcmp(parsed.id, id, sizeof id)) {
        p->index_damaged = true;
        (void)sp_why_set(why, 0, "it says that it is another pack: swapped or renamed");
    }
    p->footer = parsed;
    memcpy(p->footer.id, id, sizeof id); /* the name is what finds it */
    *ret_raw = sp_steal(raw);
    return 0;
}

static int load_one(void *arg, const char *name, uint64_t bytes)
{
    struct seen *seen = arg;
    struct vault_index *x = seen->index;
    uint8_t id[PACK_ID_BYTES];
    if (pack_name_parse(name, id) < 0)
        return 0; /* vault_check() tells of foreign objects */
    uint32_t number;
    if (pack_by_id(x, id, &number) == 0) {
        if (number < seen->known)
            seen->present[number] = true;
        return 0;
    }
    struct vault_pack *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->bytes = bytes;
    memcpy(p->footer.id, id, sizeof id);
    uint8_t *raw SP_FREE = NULL;
    struct sp_why why = {{0}};
    int r = read_index(x, name, p, &raw, &why);
    if (r == -ENOMEM || r == -ENOENT) { /* -ENOENT: swept away meanwhile */
        free(p);
        return r == -ENOENT ? 0 : r;
    }
    p->lost = r < 0;
    if (p->lost || p->index_damaged)
        snprintf(p->problem, sizeof p->problem, "%.*s", (int)sizeof p->problem - 1, why.text);
    r = packs_append(x, p);
    if (r < 0)
        return r;
    if (!p->lost)
        table_add_pack(x, p, raw);
    return 0;
}

int vault_index_refresh(struct vault_index *x, struct sp_why *why)
{
    pthread_mutex_lock(&x->lock);
    struct seen seen = {.index = x, .known = x->pack_count};
    seen.present = calloc(seen.known + 1, sizeof *seen.present);
    int r = seen.present ? x->backend->list(x->self, "packs/", load_one, &seen) : -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < seen.known; i++) {
        /* A pack that was added while the list was read is asked for by name. */
        char name[PACK_NAME_BYTES];
        uint64_t bytes;
        if (!seen.present[i] && !x->packs[i]->removed &&
            x->backend->size(x->self, pack_name(name, x->packs[i]->footer.id), &bytes) == -ENOENT)
            x->packs[i]->removed = true;
    }
    free(seen.present);
    pthread_mutex_unlock(&x->lock);
    return r < 0 ? sp_why_set(why, r, "cannot list the packs of the vault: %s", strerror(-r)) : 0;
}

/* ---- use ---- */

static int find_in_table(struct vault_index *x, const uint8_t *address, unsigned *nth,
                         struct vault_location *ret)
{
    uint32_t tag = tag_of(address);
    size_t mask = x->slot_count - 1, at = place_of(x, tag);
    for (size_t steps = 0; x->slots[at] && steps < x->slot_count; at = (at + 1) & mask, steps++) {
        uint64_t slot = x->slots[at];
        if (slot >> (ENTRY_BITS + PACK_BITS) != tag)
            continue;
        uint32_t number = (uint32_t)(slot >> ENTRY_BITS & ((1u << PACK_BITS) - 1)) - 1;
        const struct vault_pack *p = x->packs[number];
        const uint8_t *raw;
        if (p->removed)
            continue;
        int r = cache_get(x, p, &raw);
        if (r == -ENOMEM)
            return r;
        struct pack_entry e;
        if (r < 0 || pack_entry_parse(&p->footer, raw, slot & ((1u << ENTRY_BITS) - 1), &e) < 0 ||
            memcmp(e.address, address, VAULT_ADDRESS_BYTES))
            continue;
        if ((*nth)-- == 0) {
            *ret = (struct vault_location){number, slot & ((1u << ENTRY_BITS) - 1), e};
            return 0;
        }
    }
    return -ENOENT;
}

/* Beyond the table's limit: every pack's index, searched by halves. */
static int find_unindexed(struct vault_index *x, const uint8_t *address, unsigned *nth,
                          struct vault_location *ret)
{
    for (uint32_t i = x->unindexed_from; i < x->pack_count; i++) {
        const struct vault_pack *p = x->packs[i];
        const uint8_t *raw;
        if (p->removed || p->lost)
            continue;
        int r = cache_get(x, p, &raw);
        if (r == -ENOMEM)
            return r;
        if (r < 0)
            continue;
        uint32_t low = 0, high = p->footer.count;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (memcmp(raw + (size_t)middle * PACK_ENTRY_BYTES, address, VAULT_ADDRESS_BYTES) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        struct pack_entry e;
        for (; low < p->footer.count && pack_entry_parse(&p->footer, raw, low, &e) == 0 &&
               !memcmp(e.address, address, VAULT_ADDRESS_BYTES);
             low++) {
            if ((*nth)-- == 0) {
                *ret = (struct vault_location){i, low, e};
                return 0;
            }
        }
    }
    return -ENOENT;
}

int vault_index_find(struct vault_index *x, const uint8_t address[VAULT_ADDRESS_BYTES],
                     unsigned nth, struct vault_location *ret)
{
    pthread_mutex_lock(&x->lock);
    int r = find_in_table(x, address, &nth, ret);
    if (r == -ENOENT && x->unindexed_from != UINT32_MAX)
        r = find_unindexed(x, address, &nth, ret);
    pthread_mutex_unlock(&x->lock);
    return r;
}

int vault_index_add(struct vault_index *x, const struct pack_footer *footer, const void *index,
                    uint64_t pack_bytes)
{
    size_t size = (size_t)footer->count * PACK_ENTRY_BYTES;
    struct vault_pack *p = calloc(1, sizeof *p);
    uint8_t *raw SP_FREE = malloc(size ? size : 1);
    if (!p || !raw) {
        free(p);
        return -ENOMEM;
    }
    memcpy(raw, index, size);
    p->bytes = pack_bytes;
    p->footer = *footer;
    pthread_mutex_lock(&x->lock);
    uint32_t number;
    int r = 0;
    if (pack_by_id(x, footer->id, &number) == 0) {
        free(p); /* a refresh was quicker */
    } else {
        r = packs_append(x, p);
        if (r == 0) {
            table_add_pack(x, p, raw);
            cache_put(x, p->number, sp_steal(raw));
        }
    }
    pthread_mutex_unlock(&x->lock);
    return r;
}

void vault_index_forget(struct vault_index *x, uint32_t pack)
{
    pthread_mutex_lock(&x->lock);
    if (pack < x->pack_count)
        x->packs[pack]->removed = true;
    pthread_mutex_unlock(&x->lock);
}

uint32_t vault_index_count(struct vault_index *x)
{
    pthread_mutex_lock(&x->lock);
    uint32_t count = x->pack_count;
    pthread_mutex_unlock(&x->lock);
    return count;
}

bool vault_index_pack(struct vault_index *x, uint32_t number, struct vault_pack *ret)
{
    pthread_mutex_lock(&x->lock);
    bool there = number < x->pack_count && !x->packs[number]->removed;
    if (there)
        *ret = *x->packs[number];
    pthread_mutex_unlock(&x->lock);
    return there;
}

int vault_index_pack_by_id(struct vault_index *x, const uint8_t id[PACK_ID_BYTES],
                           uint32_t *ret_number)
{
    pthread_mutex_lock(&x->lock);
    int r = pack_by_id(x, id, ret_number);
    pthread_mutex_unlock(&x->lock);
    return r;
}

int vault_index_entry(struct vault_index *x, uint32_t pack, uint32_t number, struct pack_entry *ret)
{
    pthread_mutex_lock(&x->lock);
    int r = -ENOENT;
    if (pack < x->pack_count && !x->packs[pack]->removed && !x->packs[pack]->lost) {
        const uint8_t *raw;
        r = cache_get(x, x->packs[pack], &raw);
        if (r == 0)
            r = pack_entry_parse(&x->packs[pack]->footer, raw, number, ret);
    }
    pthread_mutex_unlock(&x->lock);
    return r;
}
