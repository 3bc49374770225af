/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The map of a disk: a Merkle tree over its chunks. FORMAT.md, "Disk maps". Pure functions over
 * bytes; everything parsed is untrusted. Each disk has exactly one map: nodes are canonical.
 *
 *   root record ─▶ node of level height-1 ─▶ … ─▶ node of level 0 ─▶ chunks
 *
 * Child `s` of a node of level L that covers chunks from b on covers 256^L chunks from
 * b + s × 256^L on. A subtree that is all zero is absent. */
#ifndef SEALPOINT_VAULT_MAP_H
#define SEALPOINT_VAULT_MAP_H

#include "base/why.h"
#include "controller/mover/vault/pack.h"

enum {
    MAP_FAN_OUT = 256,
    MAP_NODE_HEADER_BYTES = 8,
    MAP_CHILD_BYTES = 34,
    MAP_NODE_MAX_BYTES = MAP_NODE_HEADER_BYTES + MAP_FAN_OUT * MAP_CHILD_BYTES,
    MAP_ROOT_BYTES = 56,
    MAP_MAX_HEIGHT = 4,
};
#define MAP_MAX_DISK_BYTES (UINT64_C(1) << 46) /* 64 TiB */

/* How the address of a child was made. */
enum map_kind {
    MAP_ABSENT = 0, /* all zero; never written to a node */
    MAP_RAW = 1,    /* SHA-256; map nodes always */
    MAP_SEALED = 2, /* HMAC-SHA-256 under the vault's address key */
};

struct map_child {
    uint8_t kind; /* enum map_kind */
    uint8_t address[VAULT_ADDRESS_BYTES];
};

struct map_node {
    unsigned level; /* 0: children are chunks of data */
    struct map_child child[MAP_FAN_OUT];
};

struct map_root {
    uint64_t size_bytes;
    unsigned height; /* levels of nodes, at least 1 */
    struct map_child top;
};

/* Chunks of a disk, the last one may be short. */
uint64_t map_chunks(uint64_t size_bytes);
/* Levels of nodes that a disk needs. */
unsigned map_height(uint64_t size_bytes);
/* Chunks below one child of a node of this level. */
uint64_t map_span(unsigned level);

/* Writes a node; returns its size, 0 when it has no child. */
size_t map_node_make(const struct map_node *node, uint8_t out[MAP_NODE_MAX_BYTES]);
/* -EBADMSG: not a canonical node of this level. */
int map_node_parse(const void *data, size_t size, unsigned level, struct map_node *ret,
                   struct sp_why *why);
void map_root_make(const struct map_root *root, uint8_t out[MAP_ROOT_BYTES]);
int map_root_parse(const void *data, size_t size, struct map_root *ret, struct sp_why *why);

#endif
