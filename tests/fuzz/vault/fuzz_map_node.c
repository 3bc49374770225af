/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Map nodes and root records. One that is accepted is canonical: made again it has the same bytes.
 * Journals too. */
#include "controller/mover/vault/journal.h"
#include "controller/mover/vault/map.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct map_node node;
    static uint8_t again[MAP_NODE_MAX_BYTES];
    struct map_root root;
    struct sp_why why;
    for (unsigned level = 0; level < MAP_MAX_HEIGHT; level++) {
        if (map_node_parse(data, size, level, &node, &why) == 0 &&
            (map_node_make(&node, again) != size || memcmp(again, data, size)))
            abort();
    }
    if (map_root_parse(data, size, &root, &why) == 0) {
        uint8_t record[MAP_ROOT_BYTES];
        if (root.height < 1 || root.height > MAP_MAX_HEIGHT || size != MAP_ROOT_BYTES ||
            map_chunks(root.size_bytes) > map_span(root.height))
            abort();
        map_root_make(&root, record);
        if (root.top.kind != MAP_ABSENT && memcmp(record, data, size))
            abort();
    }
    struct journal_record record;
    if (journal_parse(data, size, &record) == 0 &&
        record.pack_count * PACK_ID_BYTES + record.root_count * VAULT_ADDRESS_BYTES > size)
        abort();
    return 0;
}
