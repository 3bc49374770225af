/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The fingerprint of a header, for carry-over: the keeper reuses the verdict "this record opens
 * this header" for an equal fingerprint. So two headers with an equal fingerprint must get the same
 * verdict from every key. The argument that they do:
 *
 * 1. A prover is a function of the secret and of bytes of the volume; the header verdict (digest,
 *    MAC) of each format depends only on
 *      LUKS1      the header sector (cipher, hash, digest, salts, slot table) and the key material
 *                 of the active slots;
 *      LUKS2      both header copies (binary part, JSON: keyslots, areas, digests, segments,
 *                 requirements) and every keyslot area that the JSON names;
 *      BitLocker  the boot sector and the FVE metadata copies (protectors, wrapped keys, state).
 * 2. The format's header_ranges() covers exactly these; here every byte of them goes into the hash,
 *    not a summary of them, so that no parser of ours stands between a change and the hash. The
 *    number of each range, its offset and its length go in before its bytes: bytes cannot pass from
 *    one range to another.
 * 3. The format's name goes in, and whether the facts say damaged: what is damaged for other
 *    reasons than these bytes (a volume cut short, say) never shares a fingerprint with a whole
 * one.
 *
 * The price is that harmless changes (a label, a token, seqid) cost one new proof. That is the
 * right side to err on. Payload is left out on purpose: its sectors are decrypted again for every
 * point, whatever the fingerprint says. */
#include "volume/internal.h"
#include <openssl/evp.h>
#include <string.h>

enum { STEP = 32 << 10 }; /* stays in the cache, and costs few page faults */

static int hash_range(EVP_MD_CTX *hash, const struct volume_reader *reader, uint64_t offset,
                      uint64_t length, uint8_t *step)
{
    uint8_t head[16];
    sp_put_le64(head, offset);
    sp_put_le64(head + 8, length);
    if (EVP_DigestUpdate(hash, head, sizeof head) != 1)
        return -EIO;
    while (length) {
        uint32_t now = length < STEP ? (uint32_t)length : STEP;
        int rc = volume_read(reader, offset, step, now);
        if (rc < 0)
            return rc;
        if (EVP_DigestUpdate(hash, step, now) != 1)
            return -EIO;
        offset += now;
        length -= now;
    }
    return 0;
}

static int hash_all(EVP_MD_CTX *hash, const struct volume_format *format,
                    const struct volume_reader *reader, const Sp__HeaderFacts *facts,
                    const struct volume_ranges *ranges, uint8_t out[32])
{
    SP_FREE uint8_t *step = malloc(STEP);
    if (!step)
        return -ENOMEM;
    static const char context[] = "sealpoint header 1";
    uint8_t damaged = facts->damaged ? 1 : 0;
    if (EVP_DigestInit_ex(hash, EVP_sha256(), NULL) != 1 ||
        EVP_DigestUpdate(hash, context, sizeof context) != 1 ||
        EVP_DigestUpdate(hash, format->name, strlen(format->name) + 1) != 1 ||
        EVP_DigestUpdate(hash, &damaged, 1) != 1)
        return -EIO;
    for (size_t i = 0; i < ranges->count; i++) {
        int rc = hash_range(hash, reader, ranges->at[i][0], ranges->at[i][1], step);
        if (rc < 0)
            return rc;
    }
    return EVP_DigestFinal_ex(hash, out, NULL) == 1 ? 0 : -EIO;
}

int volume_fingerprint_ranges(const struct volume_format *format,
                              const struct volume_reader *reader, const Sp__HeaderFacts *facts,
                              const struct volume_ranges *ranges, uint8_t out[32])
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    if (!hash)
        return -ENOMEM;
    int rc = hash_all(hash, format, reader, facts, ranges, out);
    EVP_MD_CTX_free(hash);
    return rc;
}

int volume_fingerprint(const struct volume_format *format, const struct volume_reader *reader,
                       const Sp__HeaderFacts *facts, uint8_t out[32])
{
    struct volume_ranges ranges;
    int rc = format->header_ranges(reader, facts, &ranges);
    return rc < 0 ? rc : volume_fingerprint_ranges(format, reader, facts, &ranges, out);
}
