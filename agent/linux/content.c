/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/scan.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <blkid/blkid.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

SP_DEFINE_CLEANUP(probe, blkid_probe, blkid_free_probe)

static const char *value_of(blkid_probe probe, const char *name)
{
    const char *value = NULL;
    return blkid_probe_lookup_value(probe, name, &value, NULL) == 0 ? value : NULL;
}

static int take_content(blkid_probe probe, Sp__BlockDevice *device)
{
    const char *type = value_of(probe, "TYPE");
    if (!type)
        return 0;
    Sp__Content *content = malloc(sizeof(*content));
    if (!content)
        return -ENOMEM;
    sp__content__init(content);
    device->content = content;
    int r = message_text(&content->type, type);
    if (r == 0)
        r = message_text(&content->uuid, value_of(probe, "UUID"));
    if (r == 0)
        r = message_text(&content->label, value_of(probe, "LABEL"));
    if (r == 0)
        r = message_text(&content->usage, value_of(probe, "USAGE"));
    return r;
}

/* The entries of the disk's table, matched to its partitions by where they start. */
static int take_partition_uuids(struct scan *scan, blkid_probe probe, const char *disk)
{
    blkid_partlist list = blkid_probe_get_partitions(probe);
    int r = 0;
    for (int n = list ? blkid_partlist_numof_partitions(list) : 0; r == 0 && n > 0; n--) {
        blkid_partition entry = blkid_partlist_get_partition(list, n - 1);
        const char *uuid = entry ? blkid_partition_get_uuid(entry) : NULL;
        if (!uuid)
            continue;
        uint64_t start = (uint64_t)blkid_partition_get_start(entry) * 512;
        for (size_t i = 0; r == 0 && i < scan->count; i++) {
            Sp__BlockDevice *m = scan->devices[i].message;
            if (strcmp(m->type, "partition") == 0 && strcmp(m->parents[0], disk) == 0 &&
                m->parent_offset_bytes == start)
                r = message_text(&m->partition_uuid, uuid);
        }
    }
    return r;
}

/* *ret_other: what it shows about anything that is not encrypted. */
static int probe_content(struct scan *scan, struct scan_device *device, int fd,
                         enum volume_other *ret_other)
{
    Sp__BlockDevice *m = device->message;
    SP_CLEANUP(probe) blkid_probe probe = blkid_new_probe();
    if (!probe)
        return -ENOMEM;
    *ret_other = VOLUME_OTHER_ASK;
    if (blkid_probe_set_device(probe, fd, 0, 0) < 0)
        return 0;
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
                                                 BLKID_SUBLKS_LABEL | BLKID_SUBLKS_USAGE);
    blkid_probe_enable_partitions(probe, 1);
    errno = 0;
    int found = blkid_do_safeprobe(probe);
    if (found < 0 && found != -2 && errno)
        device->error = -errno;
    if (found == 1)
        *ret_other = VOLUME_OTHER_NONE;
    else if (found == -2)
        *ret_other = VOLUME_OTHER_THERE; /* no content is claimed, but there are signatures */
    if (found != 0)
        return 0;
    int r = message_text(&m->partition_table, value_of(probe, "PTTYPE"));
    if (r == 0)
        r = message_text(&m->table_uuid, value_of(probe, "PTUUID"));
    if (r == 0 && !device->parted)
        r = take_content(probe, m);
    if (r == 0 && device->parted)
        r = take_partition_uuids(scan, probe, m->name);
    /* It takes LUKS for LUKS though only the second copy of a dead header is there. */
    const char *usage = value_of(probe, "USAGE");
    if (!usage || strcmp(usage, "crypto") != 0)
        *ret_other = VOLUME_OTHER_THERE;
    return r;
}

/* ---- headers of encrypted volumes ---- */

static bool may_hold_header(struct scan *scan, const struct scan_device *device)
{
    /* A leg of a mirror whose superblock lies at its end begins like what is mirrored. */
    const Sp__Content *content = device->message->content;
    if (content && strcmp(content->type, "linux_raid_member") == 0)
        return false;
    return !device->parted && strcmp(device->message->type, "zram") != 0 &&
           device->dm != SCAN_DM_CRYPT_PART && !scan_is_path_of_multipath(scan, device);
}

static int probe_header(const struct volume_reader *reader, struct scan_device *device)
{
    int r = volume_probe(reader, &device->format, &device->facts);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        device->error = r;
    return 0;
}

/* libblkid gives up at a place that cannot be read, though others would tell. */
static int probe_content_past_faults(struct scan_device *device, struct volume_reader *reader)
{
    Sp__Content *content = NULL;
    bool ambiguous = false;
    int r = volume_content(reader, &content, &ambiguous);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    if (content && strcmp(content->usage, "crypto") != 0)
        reader->other = VOLUME_OTHER_THERE;
    device->message->content = content;
    return 0;
}

enum { SEARCH_MOST = 128 << 20 }; /* of one inventory, in search of lost headers */

static bool is_open_volume(const struct scan_device *device)
{
    return device->dm >= SCAN_DM_LUKS1 && device->dm <= SCAN_DM_FVAULT2;
}

static bool was_searched(const struct inventory_memory *memory, const uint8_t digest[32])
{
    for (size_t i = 0; memory && i < SP_COUNT(memory->searched); i++) {
        if (memcmp(memory->searched[i].digest, digest, 32) == 0)
            return true;
    }
    return false;
}

static void remember_search(struct inventory_memory *memory, const uint8_t digest[32])
{
    if (memory)
        memcpy(memory->searched[memory->next++ % SP_COUNT(memory->searched)].digest, digest, 32);
}

/* Worth a search: not blank, nor what is in use or was decrypted, and not searched before. `digest`
 * then names the device as it is. */
static bool may_have_lost_header(const struct scan *scan, const struct scan_device *device, int fd,
                                 uint8_t digest[32])
{
    enum { FIRST_BYTES = 64 << 10 };
    const Sp__BlockDevice *m = device->message;
    SP_FREE uint8_t *first = malloc(FIRST_BYTES);
    if (!first || !scan->search_left || m->content || device->parted || is_open_volume(device) ||
        scan_is_held(device->folder))
        return false;
    ssize_t got = pread(fd, first, FIRST_BYTES, 0);
    if (got < 0)
        got = 0; /* bad sectors there may be why */
    else if (sp_is_zero(first, (size_t)got))
        return false;
    struct sp_bytes parts[] = {{(const uint8_t *)m->devno, strlen(m->devno) + 1},
                               {(const uint8_t *)&m->size_bytes, sizeof(m->size_bytes)},
                               {first, (size_t)got}};
    return sp_sha256(parts, SP_COUNT(parts), digest) == 0 &&
           !was_searched(scan->roots->memory, digest);
}

/* A device with some bad sectors is seen by what is left of it. */
static int probe_volume(struct scan *scan, struct scan_device *device, int fd,
                        enum volume_other other)
{
    enum { BAD_MOST = 8 }; /* a disk may take seconds for each */
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0)
        device->error = -errno;
    if (size <= 0)
        return 0;
    uint8_t digest[32];
    uint64_t none = 0, left = scan->search_left;
    bool search = may_have_lost_header(scan, device, fd, digest);
    struct volume_unreadable unreadable;
    const struct volume_reader strict = volume_reader_of_fd(&fd, (uint64_t)size);
    struct volume_reader reader = volume_reader_lenient(&unreadable, &strict, BAD_MOST);
    reader.other = other;
    reader.search_left = search ? &scan->search_left : &none;
    int r = 0;
    if (device->error == -EIO && !device->parted && !device->message->content)
        r = probe_content_past_faults(device, &reader);
    if (r == 0 && may_hold_header(scan, device))
        r = probe_header(&reader, device);
    /* One that had to share what may be read with others has its turn the next time. */
    if (r == 0 && search && !device->format && (scan->search_left || left == SEARCH_MOST))
        remember_search(scan->roots->memory, digest);
    if (unreadable.count && unreadable.count < BAD_MOST) {
        device->partly = true;
        device->unreadable_at = unreadable.at[0];
        device->error = -EIO;
    }
    return r;
}

/* ---- the same as a moment ago? ---- */

static const Sp__BlockDevice *known_before(const struct scan *scan, const Sp__BlockDevice *m)
{
    const Sp__BlockDevice *was = scan->before ? inventory_device(scan->before, m->name) : NULL;
    return was && strcmp(was->devno, m->devno) == 0 && strcmp(was->type, m->type) == 0 &&
                   strcmp(was->dm_uuid, m->dm_uuid) == 0 && was->size_bytes == m->size_bytes
               ? was
               : NULL;
}

/* The encrypted volume whose header lay on the device, NULL if none did. */
static const Sp__Volume *header_before(const struct scan *scan, const char *name)
{
    for (size_t i = 0; i < scan->before->n_volumes; i++) {
        const Sp__Volume *volume = scan->before->volumes[i];
        if (volume->header && !volume->header->detached &&
            strcmp(volume->device + strlen("/dev/"), name) == 0)
            return volume;
    }
    return NULL;
}

/* Whether the bytes of the header are those of `was`, whose facts are taken then. 1, 0 or -ENOMEM.
 */
static int take_same_header(struct scan_device *device, int fd, const Sp__BlockDevice *was,
                            const Sp__Volume *volume)
{
    const struct volume_format *const *format = volume_formats;
    while (*format && (*format)->kind != volume->kind)
        format++;
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t fingerprint[32];
    struct volume_reader reader = volume_reader_of_fd(&fd, (uint64_t)size);
    if (!*format || size <= 0 || volume->header->fingerprint.len != sizeof(fingerprint) ||
        volume_fingerprint(*format, &reader, volume->header, fingerprint) < 0 ||
        memcmp(fingerprint, volume->header->fingerprint.data, sizeof(fingerprint)) != 0)
        return 0;
    device->format = *format;
    device->facts = (Sp__HeaderFacts *)sp_message_copy(&volume->header->base);
    if (was->content)
        device->message->content = (Sp__Content *)sp_message_copy(&was->content->base);
    return device->facts && !device->message->content == !was->content ? 1 : -ENOMEM;
}

/* Looks for one kind of content only, by libblkid; fills the device. 1, 0 or -ENOMEM. */
static int take_same_content(struct scan_device *device, int fd, const Sp__Content *was)
{
    SP_CLEANUP(probe) blkid_probe probe = blkid_new_probe();
    char *only[] = {was->type, NULL};
    if (!probe || blkid_probe_set_device(probe, fd, 0, 0) < 0)
        return 0;
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
                                                 BLKID_SUBLKS_LABEL | BLKID_SUBLKS_USAGE);
    if (blkid_probe_filter_superblocks_type(probe, BLKID_FLTR_ONLYIN, only) < 0 ||
        blkid_do_safeprobe(probe) != 0)
        return 0;
    int r = take_content(probe, device->message);
    return r < 0 ? r : device->message->content != NULL;
}

/* 1: the device is known now, 0: it must be probed for anything, or -ENOMEM. */
static int probe_again(struct scan *scan, struct scan_device *device, int fd)
{
    const Sp__BlockDevice *was = known_before(scan, device->message);
    if (!was)
        return 0;
    const Sp__Volume *volume = header_before(scan, was->name);
    if (volume)
        return take_same_header(device, fd, was, volume);
    /* A file system that is mounted, or what a mapping or array holds open, cannot have got another
     * header in the meantime; of anything else this is not known. */
    bool held = was->content && !device->parted && !was->partition_table[0] &&
                (device->message->n_mount_points || scan_is_held(device->folder));
    return held ? take_same_content(device, fd, was->content) : 0;
}

/* A suspended device cannot be read. If the freeze has suspended it, it is as it was right before.
 */
static int take_unread(const struct scan *scan, struct scan_device *device)
{
    Sp__BlockDevice *m = device->message;
    const Sp__BlockDevice *was = known_before(scan, m);
    if (!was)
        return 0;
    if (was->content)
        m->content = (Sp__Content *)sp_message_copy(&was->content->base);
    int r = was->content && !m->content ? -ENOMEM : 0;
    if (r == 0)
        r = message_text(&m->partition_table, was->partition_table);
    return r == 0 ? message_text(&m->table_uuid, was->table_uuid) : r;
}

/* ---- all ---- */

static int probe_device(struct scan *scan, struct scan_device *device)
{
    if (strcmp(device->message->type, "rom") == 0)
        return 0; /* reading may spin up or wait for a medium */
    if (device->suspended)
        return take_unread(scan, device);
    SP_FD int fd = scan_open(scan, device);
    if (fd < 0) {
        device->error = fd;
        return 0;
    }
    enum volume_other other = VOLUME_OTHER_ASK;
    int r = probe_again(scan, device, fd);
    if (r != 0)
        return r < 0 ? r : 0;
    r = probe_content(scan, device, fd, &other);
    return r == 0 ? probe_volume(scan, device, fd, other) : r;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The devices of a btrfs, of which its mount names one. */
static int fill_devices(struct scan *scan, Sp__FileSystem *fs)
{
    SP_FREE char *path = sp_format("%s/fs/btrfs/%s/devices", scan->roots->sys, fs->uuid);
    DIR *dir = path && !strchr(fs->uuid, '/') ? opendir(path) : NULL;
    int r = path ? 0 : -ENOMEM;
    for (struct dirent *entry; r == 0 && dir && (entry = readdir(dir));)
        if (scan_named(scan, entry->d_name))
            r = message_append_text(&fs->devices, &fs->n_devices, entry->d_name);
    if (dir)
        closedir(dir);
    if (fs->n_devices > 1)
        qsort(fs->devices, fs->n_devices, sizeof(*fs->devices), by_name);
    return r;
}

static int fill_file_system_uuids(struct scan *scan)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < scan->inventory->n_file_systems; i++) {
        Sp__FileSystem *fs = scan->inventory->file_systems[i];
        struct scan_device *device = scan_named(scan, fs->device);
        if (device && device->message->content)
            r = message_text(&fs->uuid, device->message->content->uuid);
        if (r == 0 && strcmp(fs->type, "btrfs") == 0 && fs->uuid[0] && fs->n_devices == 0)
            r = fill_devices(scan, fs);
    }
    return r;
}

int scan_contents(struct scan *scan)
{
    /* Not while everything is frozen, right after it was searched. */
    scan->search_left = scan->before ? 0 : SEARCH_MOST;
    int r = 0;
    for (size_t i = 0; r == 0 && i < scan->count; i++)
        r = probe_device(scan, &scan->devices[i]);
    return r == 0 ? fill_file_system_uuids(scan) : r;
}
