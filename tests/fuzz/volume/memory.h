/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A volume in memory for the fuzz targets: the input at its start, zeros behind. */
#ifndef SEALPOINT_FUZZ_VOLUME_MEMORY_H
#define SEALPOINT_FUZZ_VOLUME_MEMORY_H

#include "volume/internal.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory {
    const uint8_t *data;
    size_t size;
};

static inline int memory_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct memory *m = self;
    memset(out, 0, length);
    if (offset < m->size) {
        size_t have = m->size - (size_t)offset;
        memcpy(out, m->data + offset, have < length ? have : length);
    }
    return 0;
}

static inline struct volume_reader memory_reader(struct memory *m, const uint8_t *data, size_t size,
                                                 uint64_t volume_bytes)
{
    *m = (struct memory){.data = data, .size = size};
    return (struct volume_reader){.read_at = memory_read_at, .self = m, .size_bytes = volume_bytes};
}

/* Probe, ranges, fingerprint of one format; what is found must keep the promises of volume.h. */
static inline void probe_format(const struct volume_format *format,
                                const struct volume_reader *reader)
{
    Sp__HeaderFacts facts = SP__HEADER_FACTS__INIT;
    Sp__HeaderFacts *owned = malloc(sizeof *owned);
    if (!owned)
        return;
    *owned = facts;
    struct volume_ranges ranges, again;
    int rc = format->probe(reader, owned, &ranges);
    if (rc > 0) {
        uint8_t fingerprint[32];
        if (ranges.count > VOLUME_RANGES_MAX || format->header_ranges(reader, owned, &again) < 0 ||
            again.count != ranges.count ||
            memcmp(again.at, ranges.at, ranges.count * sizeof ranges.at[0]) != 0)
            abort();
        for (size_t i = 0; i < ranges.count; i++)
            if (ranges.at[i][0] > reader->size_bytes ||
                ranges.at[i][1] > reader->size_bytes - ranges.at[i][0])
                abort();
        if (volume_fingerprint(format, reader, owned, fingerprint) < 0)
            abort();
        if ((rc == VOLUME_DAMAGED) != (owned->damaged != 0))
            abort();
        uint8_t *packed = NULL;
        size_t packed_size;
        if (sp_pack(&owned->base, &packed, &packed_size) == 0)
            free(packed);
    }
    sp__header_facts__free_unpacked(owned, NULL);
}

#endif
