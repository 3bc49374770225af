/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/scan.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <libmount/libmount.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

SP_DEFINE_CLEANUP(table, struct libmnt_table *, mnt_unref_table)
SP_DEFINE_CLEANUP(iter, struct libmnt_iter *, mnt_free_iter)

const char *scan_resolve(struct scan *scan, const char *source)
{
    static const char mapper[] = "/dev/mapper/";
    if (!source || strncmp(source, "/dev/", 5) != 0)
        return "";
    struct scan_device *device = scan_named(scan, source + 5);
    if (!device && strncmp(source, mapper, sizeof(mapper) - 1) == 0)
        for (size_t i = 0; i < scan->count && !device; i++)
            if (strcmp(scan->devices[i].message->dm_name, source + sizeof(mapper) - 1) == 0)
                device = &scan->devices[i];
    char path[PATH_MAX];
    if (!device && realpath(source, path) && strncmp(path, "/dev/", 5) == 0)
        device = scan_named(scan, path + 5);
    return device ? device->message->name : "";
}

/* Superblock options: those of one mount may differ, and a sandbox changes them. */
static bool superblock_read_only(struct libmnt_fs *fs)
{
    char *value;
    size_t size;
    const char *options = mnt_fs_get_fs_options(fs);
    return options && mnt_optstr_get_option(options, "ro", &value, &size) == 0;
}

static bool is_network(struct libmnt_fs *fs)
{
    static const char *const more[] = {"9p",        "virtiofs",       "ceph",
                                       "glusterfs", "fuse.glusterfs", "lustre"};
    const char *type = mnt_fs_get_fstype(fs);
    if (mnt_fs_is_netfs(fs))
        return true;
    for (size_t i = 0; type && i < SP_COUNT(more); i++)
        if (strcmp(type, more[i]) == 0)
            return true;
    return false;
}

static struct scan_device *device_of(struct scan *scan, struct libmnt_fs *fs, char devno[24])
{
    dev_t number = mnt_fs_get_devno(fs);
    snprintf(devno, 24, "%u:%u", major(number), minor(number));
    if (major(number) != 0)
        return scan_numbered(scan, devno);
    /* btrfs and others have a number of their own, but name a device as source. */
    return mnt_fs_is_pseudofs(fs) ? NULL
                                  : scan_named(scan, scan_resolve(scan, mnt_fs_get_source(fs)));
}

/* Its index, or the number of superblocks if it is new. */
static size_t find_superblock(const struct scan *scan, const char *devno)
{
    size_t i = 0;
    while (i < scan->inventory->n_file_systems &&
           strcmp(scan->inventory->file_systems[i]->devno, devno) != 0)
        i++;
    return i;
}

static int add_superblock(struct scan *scan, struct libmnt_fs *fs, const char *devno,
                          const struct scan_device *device, bool network)
{
    Sp__FileSystem *m = malloc(sizeof(*m));
    if (!m)
        return -ENOMEM;
    sp__file_system__init(m);
    int r = message_append(&scan->inventory->file_systems, &scan->inventory->n_file_systems, m);
    if (r < 0) {
        free(m);
        return r;
    }
    r = message_text(&m->mount_point, mnt_fs_get_target(fs));
    if (r == 0)
        r = message_text(&m->type, mnt_fs_get_fstype(fs));
    if (r == 0)
        r = message_text(&m->devno, devno);
    if (r == 0 && device)
        r = message_text(&m->device, device->message->name);
    m->read_only = superblock_read_only(fs);
    m->network = network;
    m->has_block_device = device != NULL;
    return r;
}

/* Of the mounts above the path the longest, of equals the last, which hides the others; NULL. */
static const struct scan_mount *mount_above(const struct scan *scan, const char *path)
{
    const struct scan_mount *found = NULL;
    size_t longest = 0;
    for (size_t i = 0; i < scan->mount_count; i++) {
        const char *point = scan->mounts[i].point;
        size_t n = strcmp(point, "/") == 0 ? 0 : strlen(point);
        if (n >= longest && strncmp(path, point, n) == 0 && (path[n] == '/' || path[n] == 0)) {
            longest = n;
            found = &scan->mounts[i];
        }
    }
    return found;
}

/* A folder bound onto itself, as the sandbox of a service does to give it other options: what is
 * seen there is what was there before. */
static bool bound_onto_itself(const struct scan_mount *above, const char *devno, const char *root,
                              const char *point)
{
    if (!above || strcmp(above->devno, devno) != 0)
        return false;
    size_t r = strcmp(above->root, "/") == 0 ? 0 : strlen(above->root);
    size_t p = strcmp(above->point, "/") == 0 ? 0 : strlen(above->point);
    return strncmp(root, above->root, r) == 0 && strcmp(root + r, point + p) == 0;
}

static int remember_mount(struct scan *scan, const char *devno, const char *root, const char *point,
                          const char *device)
{
    struct scan_mount *grown =
        reallocarray(scan->mounts, scan->mount_count + 1, sizeof(*scan->mounts));
    if (!grown)
        return -ENOMEM;
    scan->mounts = grown;
    struct scan_mount *mount = &grown[scan->mount_count++];
    *mount =
        (struct scan_mount){.point = strdup(point), .root = strdup(root), .device = strdup(device)};
    snprintf(mount->devno, sizeof(mount->devno), "%s", devno);
    return mount->point && mount->root && mount->device ? 0 : -ENOMEM;
}

static int add_mount_point(Sp__BlockDevice *device, const char *point)
{
    for (size_t i = 0; i < device->n_mount_points; i++)
        if (strcmp(device->mount_points[i], point) == 0)
            return 0;
    return message_append_text(&device->mount_points, &device->n_mount_points, point);
}

static int add_mount(struct scan *scan, struct libmnt_fs *fs)
{
    char devno[24];
    const char *point = mnt_fs_get_target(fs), *root = mnt_fs_get_root(fs);
    if (!point || !root)
        return 0;
    struct scan_device *device = device_of(scan, fs, devno);
    bool network = !device && is_network(fs);
    bool whole = strcmp(root, "/") == 0;
    bool again =
        device && !whole && bound_onto_itself(mount_above(scan, point), devno, root, point);
    int r = remember_mount(scan, devno, root, point, device ? device->message->name : "");
    if (r == 0 && device && !again)
        r = add_mount_point(device->message, point);
    if (r < 0 || (!device && !network))
        return r;
    size_t at = find_superblock(scan, devno);
    if (at == scan->inventory->n_file_systems) {
        bool *grown = reallocarray(scan->whole, at + 1, sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        scan->whole = grown;
        grown[at] = whole;
        return add_superblock(scan, fs, devno, device, network);
    }
    /* One superblock once: a mount of its root speaks for it, not a bind mount of a part; of
     * several the shortest. */
    Sp__FileSystem *known = scan->inventory->file_systems[at];
    if (!whole || (scan->whole[at] && strlen(point) >= strlen(known->mount_point)))
        return 0;
    scan->whole[at] = true;
    return message_text(&known->mount_point, point);
}

int scan_mounts(struct scan *scan)
{
    SP_FREE char *path = sp_format("%s/self/mountinfo", scan->roots->proc);
    SP_CLEANUP(table) struct libmnt_table *table = mnt_new_table();
    SP_CLEANUP(iter) struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_FORWARD);
    if (!path || !table || !iter)
        return -ENOMEM;
    int r = mnt_table_parse_file(table, path);
    if (r != 0)
        return r < 0 ? r : -EINVAL;
    struct libmnt_fs *fs;
    while (r == 0 && mnt_table_next_fs(table, iter, &fs) == 0)
        r = add_mount(scan, fs);
    return r;
}

/* ---- other mount namespaces ---- */

enum { NAMESPACES_MOST = 256, PROCESSES_MOST = 16384, MOUNTINFO_MOST = 4 << 20 };

static bool is_new_block_mount(const struct scan *scan, const char *line, char devno[24])
{
    unsigned major, minor;
    const char *tail = strstr(line, " - ");
    if (!tail || sscanf(line, "%*s %*s %u:%u", &major, &minor) != 2)
        return false;
    snprintf(devno, 24, "%u:%u", major, minor);
    const char *source = strchr(tail + 3, ' ');
    return (major || (source && strncmp(source, " /dev/", 6) == 0)) &&
           find_superblock(scan, devno) == scan->inventory->n_file_systems;
}

static int add_elsewhere(struct scan *scan, struct libmnt_fs *fs)
{
    char devno[24];
    struct scan_device *device = device_of(scan, fs, devno);
    const char *point = mnt_fs_get_target(fs);
    if (!device || !point)
        return 0;
    SP_FREE char *where =
        sp_format("%s in another mount namespace on %s", point, device->message->name);
    int r = where ? add_superblock(scan, fs, devno, device, false) : -ENOMEM;
    if (r < 0)
        return r;
    Sp__FileSystem *m = scan->inventory->file_systems[scan->inventory->n_file_systems - 1];
    m->elsewhere = true;
    r = message_text(&m->mount_point, where);
    return r == 0 ? add_mount_point(device->message, where) : r;
}

static int add_line(struct scan *scan, char *line)
{
    char devno[24];
    if (!is_new_block_mount(scan, line, devno))
        return 0;
    SP_FILE FILE *in = fmemopen(line, strlen(line), "r");
    SP_CLEANUP(table) struct libmnt_table *table = mnt_new_table();
    SP_CLEANUP(iter) struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_FORWARD);
    struct libmnt_fs *fs;
    if (!in || !table || !iter)
        return -ENOMEM;
    if (mnt_table_parse_stream(table, in, "mountinfo") != 0 ||
        mnt_table_next_fs(table, iter, &fs) != 0)
        return 0;
    return add_elsewhere(scan, fs);
}

/* Which namespace a process is in, by the id of its first mount: each mount of the system has one
 * of its own. To ask for the namespace itself would take the right to trace the process. 0: gone.
 */
static unsigned long namespace_of(const char *proc, const char *process)
{
    SP_FREE char *path = sp_format("%s/%s/mountinfo", proc, process);
    SP_FILE FILE *in = path ? fopen(path, "re") : NULL;
    unsigned long id;
    return in && fscanf(in, "%lu", &id) == 1 ? id : 0;
}

static int add_namespace(struct scan *scan, const char *process)
{
    SP_FREE char *path = sp_format("%s/%s/mountinfo", scan->roots->proc, process);
    SP_FREE char *text = NULL;
    if (!path)
        return -ENOMEM;
    if (sp_file_read(path, MOUNTINFO_MOST, &text, NULL) < 0)
        return 0; /* it ended */
    int r = 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); r == 0 && line;
         line = strtok_r(NULL, "\n", &save))
        r = add_line(scan, line);
    return r;
}

/* Those of a moment ago: looking again would take time while everything is frozen, and none of them
 * is. */
static int take_elsewhere_of_before(struct scan *scan)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < scan->before->n_file_systems; i++) {
        const Sp__FileSystem *was = scan->before->file_systems[i];
        struct scan_device *device = scan_named(scan, was->device);
        if (!was->elsewhere || !device ||
            find_superblock(scan, was->devno) != scan->inventory->n_file_systems)
            continue;
        Sp__FileSystem *m = (Sp__FileSystem *)sp_message_copy(&was->base);
        if (!m)
            return -ENOMEM;
        r = message_append(&scan->inventory->file_systems, &scan->inventory->n_file_systems, m);
        if (r < 0)
            sp__file_system__free_unpacked(m, NULL);
        else
            r = add_mount_point(device->message, m->mount_point);
    }
    return r;
}

/* A file system that only a container or a service has mounted is none that can be frozen from
 * here: its mount may go, and with it what a thaw would need. But it is on a disk, and is said. */
int scan_mounts_elsewhere(struct scan *scan)
{
    if (scan->before)
        return take_elsewhere_of_before(scan);
    unsigned long *seen = calloc(NAMESPACES_MOST, sizeof(*seen));
    DIR *dir = seen ? opendir(scan->roots->proc) : NULL;
    size_t count = 0, processes = 0;
    int r = seen ? 0 : -ENOMEM;
    if (seen && (seen[0] = namespace_of(scan->roots->proc, "self")))
        count = 1;
    for (struct dirent *entry; r == 0 && dir && count < NAMESPACES_MOST &&
                               processes < PROCESSES_MOST && (entry = readdir(dir));) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        processes++;
        unsigned long id = namespace_of(scan->roots->proc, entry->d_name);
        size_t i = 0;
        while (i < count && seen[i] != id)
            i++;
        if (id == 0 || i < count)
            continue;
        seen[count++] = id;
        r = add_namespace(scan, entry->d_name);
    }
    if (dir)
        closedir(dir);
    free(seen);
    return r;
}

/* ---- what loop devices lie on ---- */

/* The device that holds the file. */
static const char *holder_of(const struct scan *scan, const char *path)
{
    const struct scan_mount *above = mount_above(scan, path);
    return above ? above->device : "";
}

int scan_loops(struct scan *scan)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < scan->count; i++) {
        struct scan_device *device = &scan->devices[i];
        if (!device->backing_file || device->backing_file[0] != '/')
            continue;
        const char *holder = scan_resolve(scan, device->backing_file); /* a device as file */
        if (!*holder)
            holder = holder_of(scan, device->backing_file);
        if (*holder && strcmp(holder, device->message->name) != 0)
            r = message_append_text(&device->message->parents, &device->message->n_parents, holder);
    }
    return r;
}
