/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The table of formats with a header, and the loop over it. Plain dm-crypt has no header, so it has
 * no row: only the guest that maps it can name it. */
#include "volume/internal.h"

/* Rows whose magic is at byte 0 first; BitLocker may search further when sector 0 is lost. */
const struct volume_format *const volume_formats[] = {
    &volume_luks1,
    &volume_luks2,
    &volume_bitlocker,
    NULL,
};

static int set_fingerprint(const struct volume_format *format, const struct volume_reader *reader,
                           const struct volume_ranges *ranges, Sp__HeaderFacts *facts)
{
    uint8_t *fingerprint = malloc(32);
    if (!fingerprint)
        return -ENOMEM;
    int rc = volume_fingerprint_ranges(format, reader, facts, ranges, fingerprint);
    if (rc < 0) {
        free(fingerprint);
        return rc;
    }
    facts->fingerprint.data = fingerprint;
    facts->fingerprint.len = 32;
    return 0;
}

int volume_probe(const struct volume_reader *reader, const struct volume_format **ret_format,
                 Sp__HeaderFacts **ret)
{
    for (size_t i = 0; volume_formats[i]; i++) {
        SP_CLEANUP(volume_facts) Sp__HeaderFacts *facts = malloc(sizeof *facts);
        if (!facts)
            return -ENOMEM;
        sp__header_facts__init(facts);
        struct volume_ranges ranges;
        int rc = volume_formats[i]->probe(reader, facts, &ranges);
        if (rc < 0)
            return rc;
        if (rc == VOLUME_NO)
            continue;
        rc = set_fingerprint(volume_formats[i], reader, &ranges, facts);
        if (rc < 0)
            return rc;
        *ret_format = volume_formats[i];
        *ret = sp_steal(facts);
        return 1;
    }
    return 0;
}
