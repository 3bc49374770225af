/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What bytes that nothing recognises look like: a plain dm-crypt volume, a VeraCrypt volume and the
 * data of a LUKS volume without its header have no signature, but cannot be told from random bytes.
 * Compressed data mostly can: Pearson's chi-squared over the byte values, of 255 degrees of
 * freedom, stays within 255 ± 8 standard deviations for random bytes as good as always. */
#include "volume/internal.h"
#include <string.h>

enum { BLOCK = 4096, BLOCKS = 64, VALUES = 256, DEVIATIONS = 8, DEVIATION = 23 /* sqrt(510) */ };

static bool is_uniform(const uint64_t counts[VALUES], uint64_t total)
{
    double expected = (double)total / VALUES, sum = 0;
    for (size_t i = 0; i < VALUES; i++) {
        double off = (double)counts[i] - expected;
        sum += off * off / expected;
    }
    return sum > VALUES - 1 - DEVIATIONS * DEVIATION && sum < VALUES - 1 + DEVIATIONS * DEVIATION;
}

int volume_sample(const struct volume_reader *reader, uint64_t offset, uint64_t length,
                  enum volume_looks *ret)
{
    uint64_t counts[VALUES] = {0}, total = 0;
    uint64_t blocks = length / BLOCK, step = blocks > BLOCKS ? blocks / BLOCKS : 1;
    uint32_t size = length < BLOCK ? (uint32_t)length : BLOCK;
    for (uint64_t at = 0; at == 0 || at < blocks; at += step) {
        uint8_t block[BLOCK];
        int rc = volume_read(reader, offset + at * BLOCK, block, size);
        if (rc < 0)
            return rc;
        if (sp_is_zero(block, size))
            continue;
        for (uint32_t i = 0; i < size; i++)
            counts[block[i]]++;
        total += size;
    }
    *ret = total == 0                  ? VOLUME_LOOKS_EMPTY
           : is_uniform(counts, total) ? VOLUME_LOOKS_RANDOM
                                       : VOLUME_LOOKS_OTHER;
    return 0;
}
