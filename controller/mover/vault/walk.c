/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/walk.h"

struct state {
    struct vault *vault;
    struct vault_coder *coder;
    const struct vault_walk *walk;
    struct map_node *nodes[MAP_MAX_HEIGHT];
    uint64_t size_bytes;
    struct sp_why *why;
};

static int lost(struct state *s, const struct walk_place *at, int error, const struct sp_why *why)
{
    if (error == -ENOMEM || !s->walk->lost) {
        if (s->why)
            *s->why = *why;
        return error;
    }
    return s->walk->lost(s->walk->arg, at, error, why);
}

/* Depth is bounded by MAP_MAX_HEIGHT. */
static int visit(struct state *s, int level, const struct map_child *child, uint64_t first_chunk)
{
    const struct walk_place at = {level, (enum map_kind)child->kind, child->address, first_chunk,
                                  s->size_bytes};
    int r = s->walk->enter(s->walk->arg, &at);
    if (r != 0 || level == WALK_CHUNK)
        return r < 0 ? r : 0;
    struct map_node *node = s->nodes[level];
    struct sp_why why = {{0}};
    r = vault_fetch_node(s->vault, s->coder, child->address, (unsigned)level, node, &why);
    if (r < 0)
        return lost(s, &at, r, &why);
    for (unsigned slot = 0; slot < MAP_FAN_OUT; slot++) {
        if (node->child[slot].kind == MAP_ABSENT)
            continue;
        uint64_t first = first_chunk + slot * map_span((unsigned)level);
        if (first >= map_chunks(s->size_bytes)) {
            (void)sp_why_set(&why, 0, "map node reaches past the end of the disk");
            return lost(s, &at, -EBADMSG, &why);
        }
        r = visit(s, level - 1, &node->child[slot], first);
        if (r < 0)
            return r;
    }
    return s->walk->leave ? s->walk->leave(s->walk->arg, &at) : 0;
}

int vault_walk_root(struct vault *v, struct vault_coder *coder,
                    const uint8_t root[VAULT_ADDRESS_BYTES], uint64_t size_bytes,
                    const struct vault_walk *walk, struct sp_why *why)
{
    struct state s = {.vault = v, .coder = coder, .walk = walk, .why = why};
    const struct walk_place at = {MAP_MAX_HEIGHT, MAP_RAW, root, 0, 0};
    int r = walk->enter(walk->arg, &at);
    if (r != 0)
        return r < 0 ? r : 0;
    struct map_root record;
    struct sp_why detail = {{0}};
    r = vault_fetch_root(v, coder, root, &record, &detail);
    if (r == 0 && size_bytes && record.size_bytes != size_bytes)
        r = sp_why_set(&detail, -EBADMSG, "the map is of a disk of %llu bytes, not %llu",
                       (unsigned long long)record.size_bytes, (unsigned long long)size_bytes);
    if (r < 0)
        return lost(&s, &at, r, &detail);
    s.size_bytes = record.size_bytes;
    struct map_node *nodes SP_FREE = calloc(record.height, sizeof *nodes);
    if (!nodes)
        return -ENOMEM;
    for (unsigned i = 0; i < record.height; i++)
        s.nodes[i] = &nodes[i];
    if (record.top.kind != MAP_ABSENT)
        r = visit(&s, (int)record.height - 1, &record.top, 0);
    if (r == 0 && walk->leave)
        r = walk->leave(walk->arg, &at);
    return r;
}
