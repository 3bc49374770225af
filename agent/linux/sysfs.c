/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/scan.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

SP_DEFINE_CLEANUP(dir, DIR *, closedir)

const char *scan_attribute(const char *folder, const char *name, char *out, size_t size)
{
    out[0] = 0;
    SP_FREE char *path = sp_format("%s/%s", folder, name);
    SP_FREE char *text = NULL;
    size_t length = 0;
    if (!path || sp_file_read(path, 65536, &text, &length) < 0)
        return out;
    const char *from = text + strspn(text, " \t");
    snprintf(out, size, "%s", from);
    for (size_t n = strlen(out); n && strchr(" \t\n", out[n - 1]); n--)
        out[n - 1] = 0;
    return out;
}

uint64_t scan_number(const char *folder, const char *name)
{
    char text[64];
    return strtoull(scan_attribute(folder, name, text, sizeof(text)), NULL, 10);
}

static bool exists(const char *folder, const char *name)
{
    SP_FREE char *path = sp_format("%s/%s", folder, name);
    struct stat info;
    return path && stat(path, &info) == 0;
}

bool scan_is_held(const char *folder)
{
    SP_FREE char *path = sp_format("%s/holders", folder);
    SP_CLEANUP(dir) DIR *dir = path ? opendir(path) : NULL;
    bool held = !path;
    for (struct dirent *entry; dir && !held && (entry = readdir(dir));)
        held = entry->d_name[0] != '.';
    return held;
}

/* ---- what identifies a disk ---- */

/* SCSI: the Unit Serial Number page: 4 bytes of header, then the serial (SPC-4 7.8.16). */
static void serial_from_vpd(const char *folder, char *out, size_t size)
{
    SP_FREE char *path = sp_format("%s/device/vpd_pg80", folder);
    SP_FREE char *data = NULL;
    size_t length = 0;
    if (!path || sp_file_read(path, 4096, &data, &length) < 0 || length < 4)
        return;
    size_t n = sp_be16(data + 2);
    if (n > length - 4)
        n = length - 4;
    const char *from = data + 4;
    while (n && (*from == ' ' || *from == 0))
        from++, n--;
    while (n && (from[n - 1] == ' ' || from[n - 1] == 0))
        n--;
    if (n < size) {
        memcpy(out, from, n);
        out[n] = 0;
    }
}

/* What udev keeps of a device: /run/udev/data/b<devno>, lines "E:KEY=value". */
static void from_udev(const struct scan *scan, const char *devno, const char *key, char *out,
                      size_t size)
{
    SP_FREE char *path = sp_format("%s/udev/data/b%s", scan->roots->run, devno);
    SP_FREE char *text = NULL;
    if (!path || sp_file_read(path, 262144, &text, NULL) < 0)
        return;
    char *save = NULL;
    size_t length = strlen(key);
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, "E:", 2) == 0 && strncmp(line + 2, key, length) == 0 &&
            line[2 + length] == '=')
            snprintf(out, size, "%s", line + 3 + length);
}

/* Serials travel as ids and in logs: only printable bytes. */
static void make_printable(char *text)
{
    for (char *at = text; *at; at++)
        if (*at < 0x21 || *at > 0x7e)
            *at = '_';
}

static int identify_disk(const struct scan *scan, struct scan_device *device)
{
    Sp__BlockDevice *m = device->message;
    char text[256] = "";
    scan_attribute(device->folder, "serial", text, sizeof(text)); /* virtio-blk */
    if (!text[0])
        scan_attribute(device->folder, "device/serial", text, sizeof(text)); /* NVMe, MMC */
    if (!text[0])
        serial_from_vpd(device->folder, text, sizeof(text));
    if (!text[0])
        from_udev(scan, m->devno, "ID_SERIAL_SHORT", text, sizeof(text));
    make_printable(text);
    int r = message_text(&m->serial, text);
    scan_attribute(device->folder, "wwid", text, sizeof(text));
    if (!text[0])
        scan_attribute(device->folder, "device/wwid", text, sizeof(text));
    make_printable(text);
    if (r == 0)
        r = message_text(&m->wwn, text);
    return r;
}

/* The last PCI address in the device's path: "…/0000:00:03.0/virtio1/block/vda". */
static int find_pci_path(struct scan_device *device)
{
    char path[PATH_MAX];
    if (!realpath(device->folder, path))
        return 0;
    char found[16] = "";
    char *save = NULL;
    for (char *part = strtok_r(path, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
        unsigned domain, bus, slot, function;
        char rest;
        if (strlen(part) == 12 &&
            sscanf(part, "%4x:%2x:%2x.%1x%c", &domain, &bus, &slot, &function, &rest) == 4)
            snprintf(found, sizeof(found), "%s", part);
    }
    return message_text(&device->message->pci_path, found);
}

/* ---- one device ---- */

static bool ends(const char *text, const char *with)
{
    size_t n = strlen(text), m = strlen(with);
    return n >= m && strcmp(text + n - m, with) == 0;
}

static enum scan_dm kind_of_dm(const char *uuid, const char *name)
{
    static const struct {
        const char *prefix;
        enum scan_dm kind;
    } kinds[] = {
        {"CRYPT-LUKS1-", SCAN_DM_LUKS1},       {"CRYPT-LUKS2-", SCAN_DM_LUKS2},
        {"CRYPT-PLAIN-", SCAN_DM_PLAIN},       {"CRYPT-BITLK-", SCAN_DM_BITLOCKER},
        {"CRYPT-TCRYPT-", SCAN_DM_TCRYPT},     {"CRYPT-FVAULT2-", SCAN_DM_FVAULT2},
        {"CRYPT-SUBDEV-", SCAN_DM_CRYPT_PART}, {"LVM-", SCAN_DM_LVM},
        {"mpath-", SCAN_DM_MULTIPATH},
    };
    for (size_t i = 0; i < SP_COUNT(kinds); i++)
        if (strncmp(uuid, kinds[i].prefix, strlen(kinds[i].prefix)) == 0)
            return kinds[i].kind;
    /* Below LUKS2 by an old cryptsetup; else a device of its own, which may hold anything. */
    if (strncmp(uuid, "CRYPT-INTEGRITY-", 16) == 0 && ends(name, "_dif"))
        return SCAN_DM_CRYPT_PART;
    return SCAN_DM_OTHER;
}

static const char *type_of(const struct scan_device *device, const char *name)
{
    if (exists(device->folder, "partition"))
        return "partition";
    if (exists(device->folder, "dm"))
        return "dm";
    if (exists(device->folder, "md"))
        return "md";
    if (exists(device->folder, "loop"))
        return "loop";
    if (strncmp(name, "sr", 2) == 0)
        return "rom";
    if (strncmp(name, "zram", 4) == 0)
        return "zram";
    return "disk";
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_slaves(struct scan_device *device)
{
    SP_FREE char *path = sp_format("%s/slaves", device->folder);
    SP_CLEANUP(dir) DIR *dir = path ? opendir(path) : NULL;
    if (!dir)
        return 0;
    int r = 0;
    Sp__BlockDevice *m = device->message;
    for (struct dirent *entry; r == 0 && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            r = message_append_text(&m->parents, &m->n_parents, entry->d_name);
    if (m->n_parents)
        qsort(m->parents, m->n_parents, sizeof(*m->parents), compare_text);
    return r;
}

static int read_dm(struct scan_device *device)
{
    Sp__BlockDevice *m = device->message;
    char text[512];
    int r =
        message_text(&m->dm_name, scan_attribute(device->folder, "dm/name", text, sizeof(text)));
    if (r == 0)
        r = message_text(&m->dm_uuid,
                         scan_attribute(device->folder, "dm/uuid", text, sizeof(text)));
    device->dm = kind_of_dm(m->dm_uuid, m->dm_name);
    device->suspended = scan_number(device->folder, "dm/suspended") != 0;
    return r;
}

static int read_loop(struct scan_device *device)
{
    char text[PATH_MAX];
    scan_attribute(device->folder, "loop/backing_file", text, sizeof(text));
    size_t n = strlen(text);
    static const char deleted[] = " (deleted)";
    if (n > sizeof(deleted) - 1 && strcmp(text + n - (sizeof(deleted) - 1), deleted) == 0)
        text[n - (sizeof(deleted) - 1)] = 0;
    device->backing_file = strdup(text);
    return device->backing_file ? 0 : -ENOMEM;
}

static int read_device(struct scan *scan, struct scan_device *device, const char *name,
                       const char *parent)
{
    Sp__BlockDevice *m = device->message;
    char text[64];
    int r = message_text(&m->name, name);
    if (r == 0)
        r = message_text(&m->type, type_of(device, name));
    if (r == 0)
        r = message_text(&m->devno, scan_attribute(device->folder, "dev", text, sizeof(text)));
    if (r < 0)
        return r;
    m->size_bytes = scan_number(device->folder, "size") * 512;
    m->read_only = scan_number(device->folder, "ro") != 0;
    m->removable = scan_number(device->folder, "removable") != 0;
    m->logical_sector_bytes = (uint32_t)scan_number(
        device->folder, parent ? "../queue/logical_block_size" : "queue/logical_block_size");
    if (parent) {
        m->parent_offset_bytes = scan_number(device->folder, "start") * 512;
        return message_append_text(&m->parents, &m->n_parents, parent);
    }
    r = read_slaves(device);
    if (r == 0 && strcmp(m->type, "dm") == 0)
        r = read_dm(device);
    if (r == 0 && strcmp(m->type, "loop") == 0)
        r = read_loop(device);
    if (r == 0 && strcmp(m->type, "disk") == 0)
        r = identify_disk(scan, device);
    if (r == 0)
        r = find_pci_path(device);
    return r;
}

static int add_device(struct scan *scan, const char *folder, const char *name, const char *parent)
{
    struct scan_device *grown =
        reallocarray(scan->devices, scan->count + 1, sizeof(*scan->devices));
    if (!grown)
        return -ENOMEM;
    scan->devices = grown;
    struct scan_device *device = &grown[scan->count];
    memset(device, 0, sizeof(*device));
    if (snprintf(device->folder, sizeof(device->folder), "%s", folder) >=
        (int)sizeof(device->folder))
        return 0;
    Sp__BlockDevice *m = malloc(sizeof(*m));
    if (!m)
        return -ENOMEM;
    sp__block_device__init(m);
    int r = message_append(&scan->inventory->devices, &scan->inventory->n_devices, m);
    if (r < 0) {
        free(m);
        return r;
    }
    device->message = m;
    scan->count++;
    return read_device(scan, device, name, parent);
}

/* ---- all ---- */

static int list_folder(const char *folder, char ***ret, size_t *ret_count)
{
    SP_CLEANUP(dir) DIR *dir = opendir(folder);
    if (!dir)
        return -errno;
    int r = 0;
    for (struct dirent *entry; r == 0 && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            r = message_append_text(ret, ret_count, entry->d_name);
    if (*ret_count)
        qsort(*ret, *ret_count, sizeof(**ret), compare_text);
    return r;
}

static void free_list(char **list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(list[i]);
    free(list);
}

static int add_partitions(struct scan *scan, const char *folder, const char *disk)
{
    char **names = NULL;
    size_t count = 0, at = scan->count - 1;
    int r = list_folder(folder, &names, &count);
    if (r == -ENOENT || r == -ENODEV) /* unplugged a moment ago */
        r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        SP_FREE char *path = sp_format("%s/%s", folder, names[i]);
        if (!path)
            r = -ENOMEM;
        else if (strncmp(names[i], disk, strlen(disk)) == 0 && exists(path, "partition")) {
            r = add_device(scan, path, names[i], disk);
            scan->devices[at].parted = true;
        }
    }
    free_list(names, count);
    return r;
}

int scan_devices(struct scan *scan)
{
    SP_FREE char *block = sp_format("%s/block", scan->roots->sys);
    if (!block)
        return -ENOMEM;
    char **names = NULL;
    size_t count = 0;
    int r = list_folder(block, &names, &count);
    for (size_t i = 0; r == 0 && i < count; i++) {
        SP_FREE char *folder = sp_format("%s/%s", block, names[i]);
        if (!folder) {
            r = -ENOMEM;
            break;
        }
        /* Of no size: a loop, nbd or card reader without anything behind it. RAM disks and floppies
         * are no storage of a machine. */
        if (scan_number(folder, "size") == 0 || strncmp(names[i], "ram", 3) == 0 ||
            strncmp(names[i], "fd", 2) == 0)
            continue;
        r = add_device(scan, folder, names[i], NULL);
        if (r == 0)
            r = add_partitions(scan, folder, names[i]);
    }
    free_list(names, count);
    return r;
}

struct scan_device *scan_named(struct scan *scan, const char *name)
{
    for (size_t i = 0; i < scan->count; i++)
        if (strcmp(scan->devices[i].message->name, name) == 0)
            return &scan->devices[i];
    return NULL;
}

struct scan_device *scan_numbered(struct scan *scan, const char *devno)
{
    for (size_t i = 0; i < scan->count; i++)
        if (strcmp(scan->devices[i].message->devno, devno) == 0)
            return &scan->devices[i];
    return NULL;
}

int scan_open(const struct scan *scan, const struct scan_device *device)
{
    if (device->suspended)
        return -EAGAIN;
    /* Kernel names may hold '!' for '/' (cciss!c0d0). */
    SP_FREE char *path = sp_format("%s/%s", scan->roots->dev, device->message->name);
    if (!path)
        return -ENOMEM;
    for (char *at = path + strlen(scan->roots->dev); *at; at++)
        if (*at == '!')
            *at = '/';
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}
