/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/map.h"
#include "controller/mover/vault/vault.h"
#include <errno.h>
#include <string.h>

static const char node_magic[4] = "SPMN";
static const char root_magic[4] = "SPMR";

uint64_t map_chunks(uint64_t size_bytes)
{
    return size_bytes / VAULT_CHUNK_BYTES + (size_bytes % VAULT_CHUNK_BYTES ? 1 : 0);
}

unsigned map_height(uint64_t size_bytes)
{
    uint64_t chunks = map_chunks(size_bytes);
    unsigned height = 1;
    while (map_span(height) < chunks)
        height++;
    return height;
}

uint64_t map_span(unsigned level)
{
    return level > 7 ? UINT64_MAX : UINT64_C(1) << (8 * level);
}

size_t map_node_make(const struct map_node *node, uint8_t out[MAP_NODE_MAX_BYTES])
{
    uint8_t *at = out + MAP_NODE_HEADER_BYTES;
    unsigned count = 0;
    for (unsigned slot = 0; slot < MAP_FAN_OUT; slot++) {
        if (node->child[slot].kind == MAP_ABSENT)
            continue;
        at[0] = (uint8_t)slot;
        at[1] = node->child[slot].kind;
        memcpy(at + 2, node->child[slot].address, VAULT_ADDRESS_BYTES);
        at += MAP_CHILD_BYTES;
        count++;
    }
    memcpy(out, node_magic, sizeof node_magic);
    out[4] = VAULT_FORMAT;
    out[5] = (uint8_t)node->level;
    out[6] = (uint8_t)count;
    out[7] = (uint8_t)(count >> 8);
    return count ? (size_t)(at - out) : 0;
}

int map_node_parse(const void *data, size_t size, unsigned level, struct map_node *ret,
                   struct sp_why *why)
{
    struct sp_reader r = sp_reader_of(data, size);
    const uint8_t *magic = sp_reader_take(&r, sizeof node_magic);
    unsigned format = sp_reader_u8(&r), its_level = sp_reader_u8(&r), count = sp_reader_le16(&r);
    if (r.failed || memcmp(magic, node_magic, sizeof node_magic) || format != VAULT_FORMAT)
        return sp_why_set(why, -EBADMSG, "not a map node");
    if (its_level != level || count == 0 || count > MAP_FAN_OUT ||
        sp_reader_left(&r) != (size_t)count * MAP_CHILD_BYTES)
        return sp_why_set(why, -EBADMSG,
                          "a map node of level %u with %u children where one of "
                          "level %u belongs",
                          its_level, count, level);
    struct map_node node = {.level = level};
    int before = -1;
    for (unsigned i = 0; i < count; i++) {
        int slot = sp_reader_u8(&r);
        uint8_t kind = sp_reader_u8(&r);
        const uint8_t *address = sp_reader_take(&r, VAULT_ADDRESS_BYTES);
        if (slot <= before || (kind != MAP_RAW && (kind != MAP_SEALED || level > 0)) || !address)
            return sp_why_set(why, -EBADMSG, "child %u of a map node is malformed", i);
        node.child[slot].kind = kind;
        memcpy(node.child[slot].address, address, VAULT_ADDRESS_BYTES);
        before = slot;
    }
    *ret = node;
    return 0;
}

void map_root_make(const struct map_root *root, uint8_t out[MAP_ROOT_BYTES])
{
    memset(out, 0, MAP_ROOT_BYTES);
    memcpy(out, root_magic, sizeof root_magic);
    out[4] = VAULT_FORMAT;
    out[5] = (uint8_t)root->height;
    out[6] = root->top.kind;
    sp_put_le32(out + 8, VAULT_CHUNK_BYTES);
    sp_put_le32(out + 12, MAP_FAN_OUT);
    sp_put_le64(out + 16, root->size_bytes);
    if (root->top.kind != MAP_ABSENT)
        memcpy(out + 24, root->top.address, VAULT_ADDRESS_BYTES);
}

int map_root_parse(const void *data, size_t size, struct map_root *ret, struct sp_why *why)
{
    const uint8_t *at = data;
    if (size != MAP_ROOT_BYTES || memcmp(at, root_magic, sizeof root_magic) ||
        at[4] != VAULT_FORMAT)
        return sp_why_set(why, -EBADMSG, "not the root of a disk map");
    struct map_root root = {.size_bytes = sp_le64(at + 16), .height = at[5], .top.kind = at[6]};
    memcpy(root.top.address, at + 24, VAULT_ADDRESS_BYTES);
    if (root.top.kind > MAP_RAW || at[7] != 0 || sp_le32(at + 8) != VAULT_CHUNK_BYTES ||
        sp_le32(at + 12) != MAP_FAN_OUT || root.size_bytes == 0 ||
        root.size_bytes > MAP_MAX_DISK_BYTES || root.height != map_height(root.size_bytes))
        return sp_why_set(why, -EBADMSG, "the root of a disk map is malformed");
    *ret = root;
    return 0;
}
