/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/scan.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "volume/volume.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MOST = 16 };

static bool is_mapping(const struct scan_device *device)
{
    switch (device->dm) {
    case SCAN_DM_LUKS1:
    case SCAN_DM_LUKS2:
    case SCAN_DM_PLAIN:
    case SCAN_DM_BITLOCKER:
    case SCAN_DM_TCRYPT:
    case SCAN_DM_FVAULT2:
        return true;
    default:
        return false;
    }
}

/* The device that a mapping decrypts: below it, past dm-integrity and the like. */
static struct scan_device *base_of(struct scan *scan, const struct scan_device *mapping)
{
    struct scan_device *device = NULL;
    const struct scan_device *at = mapping;
    for (unsigned depth = 0; depth < DEPTH_MOST && at->message->n_parents; depth++) {
        device = scan_named(scan, at->message->parents[0]);
        if (!device || device->dm != SCAN_DM_CRYPT_PART)
            break;
        at = device;
    }
    return device;
}

static struct scan_device *mapping_of(struct scan *scan, const struct scan_device *device)
{
    for (size_t i = 0; i < scan->count; i++)
        if (is_mapping(&scan->devices[i]) && base_of(scan, &scan->devices[i]) == device)
            return &scan->devices[i];
    return NULL;
}

/* True if some encryption lies between the device and its disks. */
static bool lies_on_mapping(struct scan *scan, const struct scan_device *device, unsigned depth)
{
    if (is_mapping(device) || device->dm == SCAN_DM_CRYPT_PART)
        return true;
    for (size_t i = 0; depth < DEPTH_MOST && i < device->message->n_parents; i++) {
        struct scan_device *below = scan_named(scan, device->message->parents[i]);
        if (below && lies_on_mapping(scan, below, depth + 1))
            return true;
    }
    return false;
}

bool scan_is_path_of_multipath(struct scan *scan, const struct scan_device *device)
{
    for (size_t i = 0; i < scan->count; i++)
        for (size_t n = 0; n < scan->devices[i].message->n_parents; n++)
            if (scan->devices[i].dm == SCAN_DM_MULTIPATH &&
                strcmp(scan->devices[i].message->parents[n], device->message->name) == 0)
                return true;
    return false;
}

static int add_stack(struct scan *scan, Sp__Volume *volume, const struct scan_device *device,
                     unsigned depth)
{
    for (size_t i = 0; i < volume->n_stack; i++)
        if (strcmp(volume->stack[i], device->message->name) == 0)
            return 0;
    int r = message_append_text(&volume->stack, &volume->n_stack, device->message->name);
    for (size_t i = 0; r == 0 && depth < DEPTH_MOST && i < device->message->n_parents; i++) {
        struct scan_device *below = scan_named(scan, device->message->parents[i]);
        if (below)
            r = add_stack(scan, volume, below, depth + 1);
    }
    return r;
}

/* A new volume on the device, in the inventory. */
static int add_volume(struct scan *scan, const struct scan_device *device, Sp__VolumeKind kind,
                      Sp__Volume **ret)
{
    Sp__Volume *volume = malloc(sizeof(*volume));
    if (!volume)
        return -ENOMEM;
    sp__volume__init(volume);
    int r = message_append(&scan->inventory->volumes, &scan->inventory->n_volumes, volume);
    if (r < 0) {
        free(volume);
        return r;
    }
    volume->kind = kind;
    volume->size_bytes = device->message->size_bytes;
    SP_FREE char *node = NULL;
    if (asprintf(&node, "/dev/%s", device->message->name) < 0)
        return -ENOMEM;
    r = message_text(&volume->device, node);
    if (r == 0)
        r = add_stack(scan, volume, device, 0);
    if (r == 0)
        r = scan_extents(scan, device, volume);
    *ret = volume;
    return r;
}

static bool is_known(const Sp__Inventory *inventory, const Sp__Volume *but, const char *id)
{
    for (size_t i = 0; i < inventory->n_volumes; i++)
        if (inventory->volumes[i] != but && strcmp(inventory->volumes[i]->volume_id, id) == 0)
            return true;
    return false;
}

/* By the header's uuid, a second one of it also by its place; without one by the place on the first
 * disk. */
static int name_volume(struct scan *scan, Sp__Volume *volume, const char *uuid)
{
    char id[512];
    const Sp__DiskExtent *first = volume->n_extents ? volume->extents[0]->on : NULL;
    const char *place = first ? first->disk_id : volume->stack[0];
    uint64_t offset = first ? first->offset_bytes : 0;
    volume_id_text(volume->kind, uuid, place, offset, id, sizeof(id));
    if (volume->header && is_known(scan->inventory, volume, id)) {
        size_t end = strlen(id);
        snprintf(id + end, sizeof(id) - end, "@%s+%llu", place, (unsigned long long)offset);
    }
    return message_text(&volume->volume_id, id);
}

static int copy_content(Sp__Volume *volume, const Sp__BlockDevice *from)
{
    if (!from->content)
        return 0;
    volume->content = (Sp__Content *)sp_message_copy(&from->content->base);
    return volume->content ? 0 : -ENOMEM;
}

static int mark_open(struct scan *scan, Sp__Volume *volume, const struct scan_device *mapping)
{
    volume->open = true;
    int r = message_text(&volume->mapped_name, mapping->message->dm_name);
    if (r == 0)
        r = copy_content(volume, mapping->message);
    struct scan_crypttab line;
    bool swap = volume->content && strcmp(volume->content->type, "swap") == 0;
    volume->ephemeral =
        swap && scan_crypttab_find(scan, mapping->message->dm_name, &line) && line.random_key;
    return r;
}

/* ---- encrypted volumes with a header on the device ---- */

static int add_header_volume(struct scan *scan, struct scan_device *device)
{
    Sp__Volume *volume;
    int r = add_volume(scan, device, device->format->kind, &volume);
    if (r < 0)
        return r;
    volume->header = device->facts;
    device->facts = NULL;
    r = name_volume(scan, volume, volume->header->uuid);
    const struct scan_device *mapping = mapping_of(scan, device);
    if (r == 0 && mapping && mapping->dm != SCAN_DM_PLAIN)
        r = mark_open(scan, volume, mapping);
    return r;
}

/* ---- open mappings whose device shows no header ---- */

/* "CRYPT-LUKS2-0a1b…(32 digits)-name" gives the header's uuid with dashes, or "". */
static void uuid_from_dm(const char *dm_uuid, char out[37])
{
    const char *digits = strlen(dm_uuid) > 12 ? dm_uuid + 12 : "";
    size_t n = 0;
    for (int i = 0; i < 32; i++) {
        if (!isxdigit((unsigned char)digits[i])) {
            out[0] = 0;
            return;
        }
        if (i == 8 || i == 12 || i == 16 || i == 20)
            out[n++] = '-';
        out[n++] = digits[i];
    }
    out[n] = 0;
}

static int add_detached(struct scan *scan, const struct scan_device *mapping,
                        const struct scan_device *device)
{
    Sp__Volume *volume;
    bool luks1 = mapping->dm == SCAN_DM_LUKS1;
    int r = add_volume(
        scan, device,
        luks1 ? SP__VOLUME_KIND__VOLUME_KIND_LUKS1 : SP__VOLUME_KIND__VOLUME_KIND_LUKS2, &volume);
    if (r < 0)
        return r;
    Sp__HeaderFacts *facts = malloc(sizeof(*facts));
    if (!facts)
        return -ENOMEM;
    sp__header_facts__init(facts);
    volume->header = facts;
    facts->detached = true;
    facts->version = luks1 ? 1 : 2;
    char uuid[37];
    uuid_from_dm(mapping->message->dm_uuid, uuid);
    r = message_text(&facts->uuid, uuid);
    if (r == 0)
        r = name_volume(scan, volume, uuid);
    return r == 0 ? mark_open(scan, volume, mapping) : r;
}

static int fill_plain(struct scan *scan, Sp__Volume *volume, const struct scan_device *mapping)
{
    Sp__PlainParameters *plain = malloc(sizeof(*plain));
    if (!plain)
        return -ENOMEM;
    sp__plain_parameters__init(plain);
    volume->plain = plain;
    plain->sector_bytes = 512;
    struct scan_crypttab line;
    int r = 0;
    if (scan_crypttab_find(scan, mapping->message->dm_name, &line))
        r = message_text(&plain->hash, line.hash);
    struct inventory_dm_target target;
    if (r < 0 || !scan->roots->dm_table ||
        scan->roots->dm_table(scan->roots->self, mapping->message->devno, &target, 1) < 1 ||
        strcmp(target.type, "crypt") != 0)
        return r;
    plain->key_bits = target.key_bits;
    plain->offset_sectors = target.device_offset_sectors;
    plain->skip_sectors = target.iv_offset_sectors;
    plain->sector_bytes = target.sector_bytes;
    return message_text(&plain->cipher, target.cipher);
}

static int add_headerless(struct scan *scan, const struct scan_device *mapping,
                          const struct scan_device *device)
{
    Sp__Volume *volume;
    bool plain = mapping->dm == SCAN_DM_PLAIN;
    int r = add_volume(scan, device,
                       plain                            ? SP__VOLUME_KIND__VOLUME_KIND_PLAIN
                       : mapping->dm == SCAN_DM_FVAULT2 ? SP__VOLUME_KIND__VOLUME_KIND_FILEVAULT2
                                                        : SP__VOLUME_KIND__VOLUME_KIND_VERACRYPT,
                       &volume);
    if (r == 0)
        r = name_volume(scan, volume, NULL);
    if (r == 0 && plain)
        r = fill_plain(scan, volume, mapping);
    return r == 0 ? mark_open(scan, volume, mapping) : r;
}

/* ---- clear volumes ---- */

/* Those of loop devices lie in files of other volumes. */
static bool is_clear(struct scan *scan, const struct scan_device *device)
{
    const Sp__Content *content = device->message->content;
    const char *type = device->message->type;
    if (!content ||
        (strcmp(content->usage, "filesystem") != 0 && strcmp(content->usage, "other") != 0))
        return false;
    if (strcmp(type, "loop") == 0 || strcmp(type, "zram") == 0 || strcmp(type, "rom") == 0)
        return false;
    return !lies_on_mapping(scan, device, 0) && !scan_is_path_of_multipath(scan, device);
}

static int add_clear(struct scan *scan, const struct scan_device *device)
{
    Sp__Volume *volume;
    int r = add_volume(scan, device, SP__VOLUME_KIND__VOLUME_KIND_CLEAR, &volume);
    if (r == 0)
        r = copy_content(volume, device->message);
    if (r == 0)
        r = name_volume(scan, volume, device->message->content->uuid);
    return r;
}

/* ---- all ---- */

static int add_volumes_of(struct scan *scan, struct scan_device *device)
{
    const struct scan_device *mapping = mapping_of(scan, device);
    bool header = device->facts, plain = mapping && mapping->dm == SCAN_DM_PLAIN;
    int r = header ? add_header_volume(scan, device) : 0;
    if (r == 0 && mapping && (plain || !header)) {
        if (mapping->dm == SCAN_DM_LUKS1 || mapping->dm == SCAN_DM_LUKS2)
            r = add_detached(scan, mapping, device);
        else if (mapping->dm != SCAN_DM_BITLOCKER)
            r = add_headerless(scan, mapping, device);
    }
    if (r == 0 && !header && !mapping && is_clear(scan, device))
        r = add_clear(scan, device);
    return r;
}

int scan_volumes(struct scan *scan)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < scan->count; i++)
        r = add_volumes_of(scan, &scan->devices[i]);
    return r;
}
