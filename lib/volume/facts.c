/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Building the messages that carry facts: clean text, repeated fields, checksums, ids. */
#include "volume/internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

/* Length of the well-formed UTF-8 sequence at p, 0 if it is none (Unicode, table 3-7). */
static size_t utf8_length(const uint8_t *p, size_t left)
{
    uint8_t lead = p[0], low = 0x80, high = 0xbf;
    size_t length;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        length = 2;
    else if (lead >= 0xe0 && lead <= 0xef)
        length = 3;
    else if (lead >= 0xf0 && lead <= 0xf4)
        length = 4;
    else
        return 0;
    if (lead == 0xe0)
        low = 0xa0;
    if (lead == 0xed)
        high = 0x9f;
    if (lead == 0xf0)
        low = 0x90;
    if (lead == 0xf4)
        high = 0x8f;
    if (left < length || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (p[i] < 0x80 || p[i] > 0xbf)
            return 0;
    return length;
}

static void replace_text(char **field, char *with)
{
    if (*field && *field != protobuf_c_empty_string)
        free(*field);
    *field = with;
}

int volume_set_text(char **field, const void *text, size_t most)
{
    const uint8_t *from = text;
    size_t size = text ? strnlen(text, most) : 0;
    char *out = malloc(size + 1);
    if (!out)
        return -ENOMEM;
    size_t at = 0;
    for (size_t i = 0; i < size;) {
        size_t n = utf8_length(from + i, size - i);
        /* C1 controls too: terminals obey U+009B as they obey ESC [ */
        bool c1 = n == 2 && from[i] == 0xc2 && from[i + 1] < 0xa0;
        if (n == 0 || from[i] < 0x20 || from[i] == 0x7f || c1) {
            out[at++] = '?';
            i += c1 ? 2 : 1;
            continue;
        }
        memcpy(out + at, from + i, n);
        at += n;
        i += n;
    }
    out[at] = 0;
    replace_text(field, out);
    return 0;
}

int volume_set_format(char **field, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return volume_set_text(field, text, sizeof text);
}

int volume_append(void *array_field, size_t *count, void *item)
{
    void ***array = array_field;
    void **grown = realloc(*array, (*count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    grown[(*count)++] = item;
    *array = grown;
    return 0;
}

int volume_set_damage(Sp__HeaderFacts *facts, const char *format, ...)
{
    if (facts->damaged)
        return 0;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    facts->damaged = true;
    return volume_set_text(&facts->damage, text, sizeof text);
}

int volume_add_copy(Sp__HeaderFacts *facts, uint64_t offset, Sp__CopyHealth health,
                    uint64_t sequence, const char *problem)
{
    Sp__HeaderCopy *copy = malloc(sizeof *copy);
    if (!copy)
        return -ENOMEM;
    sp__header_copy__init(copy);
    copy->offset_bytes = offset;
    copy->health = health;
    copy->sequence = sequence;
    if (volume_set_text(&copy->problem, problem, 400) < 0 ||
        VOLUME_APPEND(facts, copies, copy) < 0) {
        sp__header_copy__free_unpacked(copy, NULL);
        return -ENOMEM;
    }
    return 0;
}

Sp__Protector *volume_add_protector(Sp__HeaderFacts *facts, const char *id, Sp__ProtectorType type)
{
    Sp__Protector *p = malloc(sizeof *p);
    if (!p)
        return NULL;
    sp__protector__init(p);
    p->type = type;
    p->usable = true;
    if (volume_set_text(&p->id, id, 64) < 0 || VOLUME_APPEND(facts, protectors, p) < 0) {
        sp__protector__free_unpacked(p, NULL);
        return NULL;
    }
    return p;
}

static int by_start(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return x[0] < y[0] ? -1 : x[0] > y[0];
}

size_t volume_join_ranges(uint64_t (*ranges)[2], size_t count, uint64_t size)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t at = ranges[i][0], length = ranges[i][1];
        if (at >= size || length == 0)
            continue;
        ranges[kept][0] = at;
        ranges[kept][1] = length < size - at ? length : size - at;
        kept++;
    }
    if (kept == 0)
        return 0;
    qsort(ranges, kept, sizeof ranges[0], by_start);
    size_t out = 0;
    for (size_t i = 1; i < kept; i++) {
        uint64_t end = ranges[out][0] + ranges[out][1], other = ranges[i][0] + ranges[i][1];
        if (ranges[i][0] <= end) {
            if (other > end)
                ranges[out][1] = other - ranges[out][0];
            continue;
        }
        out++;
        ranges[out][0] = ranges[i][0];
        ranges[out][1] = ranges[i][1];
    }
    return out + 1;
}

uint32_t volume_crc32_raw(uint32_t crc, const void *data, size_t size)
{
    return ~(uint32_t)crc32_z(~crc, data, size);
}

void volume_uuid_text(const uint8_t uuid[16], char out[37])
{
    char hex[33];
    sp_hex(hex, uuid, 16);
    snprintf(out, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

void volume_guid_text(const uint8_t guid[16], char out[37])
{
    const uint8_t ordered[16] = {guid[3],  guid[2],  guid[1],  guid[0], guid[5],  guid[4],
                                 guid[7],  guid[6],  guid[8],  guid[9], guid[10], guid[11],
                                 guid[12], guid[13], guid[14], guid[15]};
    volume_uuid_text(ordered, out);
}

static bool looks_like_uuid(const char *text)
{
    if (strlen(text) != 36)
        return false;
    for (size_t i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? text[i] != '-' : !strchr("0123456789abcdefABCDEF", text[i]))
            return false;
    }
    return true;
}

char *volume_id_text(Sp__VolumeKind kind, const char *uuid, const char *disk_id,
                     uint64_t offset_bytes, char *out, size_t size)
{
    const char *prefix = "unknown";
    bool by_uuid = true;
    switch ((int)kind) {
    case SP__VOLUME_KIND__VOLUME_KIND_CLEAR:
        prefix = "clear";
        break;
    case SP__VOLUME_KIND__VOLUME_KIND_LUKS1:
    case SP__VOLUME_KIND__VOLUME_KIND_LUKS2:
        prefix = "luks";
        break;
    case SP__VOLUME_KIND__VOLUME_KIND_PLAIN:
        prefix = "plain";
        by_uuid = false; /* it has no header, so what it is called can only be where it is */
        break;
    case SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER:
        prefix = "bitlocker";
        break;
    case SP__VOLUME_KIND__VOLUME_KIND_VERACRYPT:
        prefix = "veracrypt";
        by_uuid = false;
        break;
    case SP__VOLUME_KIND__VOLUME_KIND_FILEVAULT2:
        prefix = "filevault2";
        break;
    default:
        break;
    }
    /* A header may claim anything to be its UUID; only a real one becomes a name. Libblkid's ids of
     * clear content have many forms (vfat: "DEAD-BABE"). */
    if (kind != SP__VOLUME_KIND__VOLUME_KIND_CLEAR && uuid && !looks_like_uuid(uuid))
        by_uuid = false;
    if (by_uuid && uuid && *uuid)
        snprintf(out, size, "%s:%s", prefix, uuid);
    else
        snprintf(out, size, "%s:%s+%llu", prefix, disk_id ? disk_id : "",
                 (unsigned long long)offset_bytes);
    return out;
}
