/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/fve.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_BYTES = 64 << 10,
    BLOCK_HEADER = 64,
    HEADERS = 112,
    ENTRY_HEADER = 8,
    VMK_HEADER = 28,
    FIRST_MOST = 64 << 20, /* of To Go they are a whole small FAT, some MiB */
};

bool fve_next(struct fve_list *l, struct fve_entry *ret)
{
    if (l->end - l->at < ENTRY_HEADER)
        return false;
    uint32_t size = sp_le16(l->at);
    if (size < ENTRY_HEADER || size > (size_t)(l->end - l->at))
        return false;
    *ret = (struct fve_entry){.type = sp_le16(l->at + 2),
                              .value = sp_le16(l->at + 4),
                              .data = l->at + ENTRY_HEADER,
                              .size = size - ENTRY_HEADER};
    l->at += size;
    return true;
}

struct fve_list fve_inner(const struct fve_entry *e, uint32_t offset)
{
    const uint8_t *end = e->data + e->size;
    return (struct fve_list){offset <= e->size ? e->data + offset : end, end};
}

void fve_guid_text(const uint8_t *g, char out[37])
{
    (void)snprintf(out, 37, "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", sp_le32(g),
                   sp_le16(g + 4), sp_le16(g + 6), g[8], g[9], g[10], g[11], g[12], g[13], g[14],
                   g[15]);
}

bool fve_next_protector(struct fve_list *l, struct fve_protector *ret)
{
    struct fve_entry e;
    while (fve_next(l, &e)) {
        if (e.type != FVE_TYPE_VMK || e.value != FVE_VALUE_VMK || e.size < VMK_HEADER)
            continue;
        fve_guid_text(e.data, ret->guid);
        ret->code = sp_le16(e.data + 26);
        ret->entries = fve_inner(&e, VMK_HEADER);
        return true;
    }
    return false;
}

static const Sp__HeaderCopy *good_copy(const Sp__HeaderFacts *f)
{
    for (size_t i = 0; i < f->n_copies; i++) {
        if (f->copies[i]->health == SP__COPY_HEALTH__COPY_HEALTH_GOOD)
            return f->copies[i];
    }
    return NULL;
}

/* The header tells, and since Windows 7 an entry does so again; the entry is what Windows uses. */
static void find_first_sectors(struct fve *f, uint32_t sector_bytes)
{
    struct fve_list l = f->entries;
    struct fve_entry e;
    f->first_size = (uint64_t)sp_le32(f->data + 28) * sector_bytes;
    f->first_offset = sp_le64(f->data + 56);
    while (fve_next(&l, &e)) {
        if (e.type == FVE_TYPE_FIRST_SECTORS && e.value == FVE_VALUE_PLACE && e.size >= 16) {
            f->first_offset = sp_le64(e.data);
            f->first_size = sp_le64(e.data + 8);
        }
    }
}

static bool lies_within(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

static int take_block(struct fve *f, const Sp__HeaderFacts *facts, uint64_t size,
                      struct sp_why *why)
{
    uint32_t listed = f->size >= HEADERS ? sp_le32(f->data + BLOCK_HEADER) : 0;
    if (listed < HEADERS - BLOCK_HEADER || listed > f->size - BLOCK_HEADER)
        return sp_why_set(why, -EBADMSG, "the BitLocker metadata are cut off");
    if (sp_le16(f->data + 10) != 2)
        return sp_why_set(why, -ENOTSUP,
                          "the volume was made by Windows Vista, whose format is not known here: "
                          "unlock it in Windows and encrypt it anew");
    f->entries = (struct fve_list){f->data + HEADERS, f->data + BLOCK_HEADER + listed};
    f->encrypted_bytes = sp_le64(f->data + 16);
    uint32_t sector = facts->sector_bytes >= 512 ? facts->sector_bytes : 512;
    find_first_sectors(f, sector);
    bool sane = f->first_size && f->first_size % sector == 0 && f->first_offset % sector == 0 &&
                f->first_size <= FIRST_MOST && lies_within(f->first_offset, f->first_size, size) &&
                f->first_size <= size;
    for (size_t i = 0; i < 3; i++) {
        f->blocks[i] = sp_le64(f->data + 32 + 8 * i);
        sane = sane && f->blocks[i] < size && f->blocks[i] % sector == 0;
    }
    return sane ? 0
                : sp_why_set(why, -EBADMSG,
                             "the BitLocker metadata name places that are not on the volume");
}

int fve_open(const struct volume_reader *reader, const Sp__HeaderFacts *facts, struct fve *ret,
             struct sp_why *why)
{
    *ret = (struct fve){0};
    const Sp__HeaderCopy *copy = good_copy(facts);
    if (!copy || copy->offset_bytes >= reader->size_bytes)
        return sp_why_set(why, -EBADMSG, "no copy of the BitLocker metadata is good");
    uint64_t left = reader->size_bytes - copy->offset_bytes;
    ret->size = left < BLOCK_BYTES ? (uint32_t)left : BLOCK_BYTES;
    ret->data = malloc(ret->size);
    if (!ret->data)
        return -ENOMEM;
    int r = reader->read_at(reader->self, copy->offset_bytes, ret->data, ret->size);
    return r < 0 ? r : take_block(ret, facts, reader->size_bytes, why);
}

void fve_close(struct fve *f)
{
    free(f->data);
    *f = (struct fve){0};
}
