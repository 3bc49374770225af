/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/scan.h"
#include "agent/message.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MOST = 16, TARGETS_MOST = 256 };

const char *scan_disk_id(const Sp__BlockDevice *disk)
{
    return disk->serial[0] ? disk->serial : disk->name;
}

/* One piece of the volume, laid on a disk. Joined to the one before where both go on. */
static int add_extent(Sp__Volume *volume, uint64_t volume_offset, const Sp__BlockDevice *disk,
                      uint64_t offset, uint64_t length)
{
    Sp__VolumeExtent *last = volume->n_extents ? volume->extents[volume->n_extents - 1] : NULL;
    if (last && strcmp(last->on->disk_id, scan_disk_id(disk)) == 0 &&
        last->on->offset_bytes + last->on->length_bytes == offset &&
        last->volume_offset_bytes + last->on->length_bytes == volume_offset) {
        last->on->length_bytes += length;
        return 0;
    }
    Sp__VolumeExtent *extent = malloc(sizeof(*extent));
    Sp__DiskExtent *on = malloc(sizeof(*on));
    if (!extent || !on) {
        free(extent);
        free(on);
        return -ENOMEM;
    }
    sp__volume_extent__init(extent);
    sp__disk_extent__init(on);
    extent->on = on;
    extent->volume_offset_bytes = volume_offset;
    on->offset_bytes = offset;
    on->length_bytes = length;
    int r = message_text(&on->disk_id, scan_disk_id(disk));
    if (r == 0)
        r = message_append(&volume->extents, &volume->n_extents, extent);
    if (r < 0)
        sp__volume_extent__free_unpacked(extent, NULL);
    return r;
}

/* Lays [offset, offset + length) of `device` onto disks. -ENOTSUP where the mapping is not linear;
 * then no extents are given at all rather than wrong ones. */
static int map_range(struct scan *scan, const struct scan_device *device, uint64_t offset,
                     uint64_t length, Sp__Volume *volume, uint64_t volume_offset, unsigned depth);

static int map_dm(struct scan *scan, const struct scan_device *device, uint64_t offset,
                  uint64_t length, Sp__Volume *volume, uint64_t volume_offset, unsigned depth)
{
    if (!scan->roots->dm_table)
        return -ENOTSUP;
    struct inventory_dm_target *targets = calloc(TARGETS_MOST, sizeof(*targets));
    if (!targets)
        return -ENOMEM;
    int count =
        scan->roots->dm_table(scan->roots->self, device->message->devno, targets, TARGETS_MOST);
    int r = count <= 0 || count == TARGETS_MOST ? -ENOTSUP : 0;
    uint64_t end = offset + length, mapped = 0;
    for (int i = 0; r == 0 && i < count; i++) {
        const struct inventory_dm_target *t = &targets[i];
        uint64_t from = t->start_sectors * 512, to = from + t->length_sectors * 512;
        if (from < offset)
            from = offset;
        if (to > end)
            to = end;
        if (from >= to)
            continue;
        struct scan_device *below = scan_numbered(scan, t->device);
        if (strcmp(t->type, "linear") != 0 || !below) {
            r = -ENOTSUP;
            break;
        }
        r = map_range(scan, below, t->device_offset_sectors * 512 + (from - t->start_sectors * 512),
                      to - from, volume, volume_offset + (from - offset), depth + 1);
        mapped += to - from;
    }
    if (r == 0 && mapped != length)
        r = -ENOTSUP;
    free(targets);
    return r;
}

static int map_range(struct scan *scan, const struct scan_device *device, uint64_t offset,
                     uint64_t length, Sp__Volume *volume, uint64_t volume_offset, unsigned depth)
{
    const Sp__BlockDevice *m = device->message;
    if (depth > DEPTH_MOST || offset > m->size_bytes || length > m->size_bytes - offset)
        return -ENOTSUP;
    if (strcmp(m->type, "disk") == 0)
        return add_extent(volume, volume_offset, m, offset, length);
    if (strcmp(m->type, "partition") == 0) {
        struct scan_device *disk = scan_named(scan, m->parents[0]);
        return disk ? map_range(scan, disk, m->parent_offset_bytes + offset, length, volume,
                                volume_offset, depth + 1)
                    : -ENOTSUP;
    }
    if (device->dm == SCAN_DM_MULTIPATH && m->n_parents) {
        /* Every path is the same disk. */
        struct scan_device *path = scan_named(scan, m->parents[0]);
        return path ? map_range(scan, path, offset, length, volume, volume_offset, depth + 1)
                    : -ENOTSUP;
    }
    if (device->dm == SCAN_DM_LVM || device->dm == SCAN_DM_OTHER)
        return map_dm(scan, device, offset, length, volume, volume_offset, depth);
    return -ENOTSUP;
}

int scan_extents(struct scan *scan, const struct scan_device *device, Sp__Volume *volume)
{
    int r = map_range(scan, device, 0, device->message->size_bytes, volume, 0, 0);
    if (r != -ENOTSUP)
        return r;
    for (size_t i = 0; i < volume->n_extents; i++)
        sp__volume_extent__free_unpacked(volume->extents[i], NULL);
    free(volume->extents);
    volume->extents = NULL;
    volume->n_extents = 0;
    return 0;
}
