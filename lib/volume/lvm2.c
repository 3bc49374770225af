/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * LVM2 on one device: the label in one of the first four sectors, the PV header, and the metadata
 * areas, each a ring of texts whose header names the current one. The text is checked by its
 * checksum before anybody parses it (lvm2_text.c). */
#include "volume/internal.h"
#include <stdio.h>
#include <string.h>

enum {
    SECTOR = 512,
    LABEL_SECTORS = 4,
    AREA_HEADER_BYTES = 512,
    TEXT_MAX = 8 << 20,
};
#define LVM_CRC_START 0xf597a6cfu

void volume_pv_free(struct volume_pv *pv)
{
    if (!pv)
        return;
    free(pv->text);
    free(pv);
}

/* A list of (offset, size) that ends with a zero offset. false when it has no end. */
static bool read_locations(struct sp_reader *r, uint64_t (*to)[2], size_t *count)
{
    for (;;) {
        uint64_t offset = sp_reader_le64(r), size = sp_reader_le64(r);
        if (r->failed)
            return false;
        if (offset == 0)
            return true;
        if (*count == VOLUME_LVM_AREAS)
            return false;
        to[*count][0] = offset;
        to[(*count)++][1] = size;
    }
}

static bool parse_label(const uint8_t *sector, uint64_t number, struct volume_pv *pv)
{
    if (memcmp(sector, "LABELONE", 8) != 0 || memcmp(sector + 24, "LVM2 001", 8) != 0 ||
        sp_le64(sector + 8) != number ||
        volume_crc32_raw(LVM_CRC_START, sector + 20, SECTOR - 20) != sp_le32(sector + 16))
        return false;
    struct sp_reader r = sp_reader_of(sector, SECTOR);
    sp_reader_seek(&r, sp_le32(sector + 20));
    const uint8_t *id = sp_reader_take(&r, VOLUME_LVM_ID);
    if (!id)
        return false;
    for (size_t i = 0; i < VOLUME_LVM_ID; i++)
        pv->id[i] = id[i] > 0x20 && id[i] < 0x7f ? (char)id[i] : '?';
    pv->label_offset = number * SECTOR;
    pv->size = sp_reader_le64(&r);
    return read_locations(&r, pv->data, &pv->data_count) &&
           read_locations(&r, pv->areas, &pv->area_count);
}

/* Reads from the ring: it begins behind the header of the area and wraps at its end. */
static int read_ring(const struct volume_reader *reader, uint64_t area, uint64_t area_size,
                     uint64_t at, char *to, uint32_t length)
{
    uint64_t first = area_size - at < length ? area_size - at : length;
    int rc = volume_read(reader, area + at, to, (uint32_t)first);
    if (rc < 0 || first == length)
        return rc;
    return volume_read(reader, area + AREA_HEADER_BYTES, to + first, length - (uint32_t)first);
}

static void note(struct volume_pv *pv, const char *problem)
{
    if (!*pv->problem)
        snprintf(pv->problem, sizeof pv->problem, "%s", problem);
}

/* The current text of one area. 1: *ret is it, 0: none (noted) or negative errno. */
static int read_area(const struct volume_reader *reader, uint64_t area, uint64_t size,
                     struct volume_pv *pv, char **ret, size_t *ret_size)
{
    static const char magic[16] = {' ', 'L', 'V', 'M', '2', ' ', 'x', '[',
                                   '5', 'A', '%', 'r', '0', 'N', '*', '>'};
    uint8_t h[AREA_HEADER_BYTES];
    uint64_t end;
    if (volume_add_overflows(area, size, &end) || end > reader->size_bytes ||
        size <= AREA_HEADER_BYTES) {
        note(pv, "a metadata area lies past the end");
        return 0;
    }
    int rc = volume_read(reader, area, h, sizeof h);
    if (rc < 0)
        return rc;
    if (memcmp(h + 4, magic, sizeof magic) != 0 || sp_le32(h + 20) != 1 ||
        sp_le64(h + 24) != area || sp_le64(h + 32) != size ||
        volume_crc32_raw(LVM_CRC_START, h + 4, sizeof h - 4) != sp_le32(h)) {
        note(pv, "the header of a metadata area is damaged");
        return 0;
    }
    uint64_t at = sp_le64(h + 40), length = sp_le64(h + 48);
    if (at == 0 || length == 0 || sp_le32(h + 60) & 1) /* no group yet; or an ignored area */
        return 0;
    if (at < AREA_HEADER_BYTES || at >= size || length > size - AREA_HEADER_BYTES ||
        length > TEXT_MAX) {
        note(pv, "a metadata area names an impossible place");
        return 0;
    }
    SP_FREE char *text = malloc(length + 1);
    if (!text)
        return -ENOMEM;
    if ((rc = read_ring(reader, area, size, at, text, (uint32_t)length)) < 0)
        return rc;
    if (volume_crc32_raw(LVM_CRC_START, text, length) != sp_le32(h + 56)) {
        note(pv, "the metadata text has a wrong checksum");
        return 0;
    }
    text[length] = 0;
    *ret = sp_steal(text);
    *ret_size = length;
    return 1;
}

/* Areas of one PV are written one after the other: the newer text counts. */
static int read_areas(const struct volume_reader *reader, struct volume_pv *pv)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < pv->area_count; i++) {
        SP_FREE char *text = NULL;
        size_t size = 0;
        int rc = read_area(reader, pv->areas[i][0], pv->areas[i][1], pv, &text, &size);
        if (rc < 0)
            return rc;
        if (rc == 0)
            continue;
        SP_CLEANUP(volume_vg) struct volume_vg *vg = NULL;
        rc = volume_vg_parse(text, size, &vg);
        if (rc == -ENOMEM)
            return rc;
        if (rc < 0) {
            note(pv, "the metadata text is malformed");
            continue;
        }
        if (pv->text && vg->sequence <= newest)
            continue;
        newest = vg->sequence;
        free(pv->text);
        pv->text = sp_steal(text);
        pv->text_size = size;
    }
    return 0;
}

int volume_pv_read(const struct volume_reader *reader, struct volume_pv **ret)
{
    uint8_t sectors[LABEL_SECTORS * SECTOR];
    if (reader->size_bytes < sizeof sectors)
        return 0;
    int rc = volume_read(reader, 0, sectors, sizeof sectors);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < LABEL_SECTORS; i++) {
        SP_CLEANUP(volume_pv) struct volume_pv *pv = calloc(1, sizeof *pv);
        if (!pv)
            return -ENOMEM;
        if (!parse_label(sectors + i * SECTOR, i, pv))
            continue;
        if ((rc = read_areas(reader, pv)) < 0)
            return rc;
        *ret = sp_steal(pv);
        return 1;
    }
    return 0;
}
