/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/raw.h"
#include "agent/config.h"
#include "agent/linux/scan.h"
#include "agent/linux/suspend.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <libmount/libmount.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

SP_DEFINE_CLEANUP(iter, struct libmnt_iter *, mnt_free_iter)
SP_DEFINE_CLEANUP(probe, blkid_probe, blkid_free_probe)

struct raw_search {
    const struct inventory_roots *roots;
    const Sp__Inventory *inventory;
    struct libmnt_table *mounts;
    char *swaps; /* the text of /proc/swaps */
    bool root_known;
};

/* ---- what lies on it ---- */

static bool is_mounted(const Sp__Inventory *inventory, const Sp__BlockDevice *device)
{
    bool mounted = device->n_mount_points > 0;
    for (size_t i = 0; !mounted && i < inventory->n_file_systems; i++) {
        const Sp__FileSystem *fs = inventory->file_systems[i];
        mounted = strcmp(fs->device, device->name) == 0;
        for (size_t k = 0; !mounted && k < fs->n_devices; k++)
            mounted = strcmp(fs->devices[k], device->name) == 0;
    }
    return mounted;
}

/* As the stack has it, and as sysfs does: a table that is loaded and not yet used opens its
 * devices, too. */
static bool is_below_another(const struct raw_search *s, const Sp__BlockDevice *device)
{
    for (size_t i = 0; i < s->inventory->n_devices; i++) {
        const Sp__BlockDevice *other = s->inventory->devices[i];
        for (size_t k = 0; k < other->n_parents; k++)
            if (strcmp(other->parents[k], device->name) == 0)
                return true;
    }
    SP_FREE char *folder = sp_format("%s/block/%s", s->roots->sys, device->name);
    return !folder || scan_is_held(folder);
}

static bool is_path_of(const Sp__BlockDevice *device, const char *path)
{
    static const char mapper[] = "/dev/mapper/";
    if (strncmp(path, mapper, sizeof(mapper) - 1) == 0 &&
        strcmp(path + sizeof(mapper) - 1, device->dm_name) == 0)
        return true;
    if (strncmp(path, "/dev/", 5) == 0 && strcmp(path + 5, device->name) == 0)
        return true;
    struct stat info; /* by a link */
    char devno[24] = "";
    if (stat(path, &info) == 0 && S_ISBLK(info.st_mode))
        snprintf(devno, sizeof(devno), "%u:%u", major(info.st_rdev), minor(info.st_rdev));
    return strcmp(devno, device->devno) == 0;
}

/* /proc/swaps: a line of titles, then a path in each. */
static bool is_swap(const struct raw_search *s, const Sp__BlockDevice *device)
{
    const char *line = strchr(s->swaps, '\n');
    for (; line && line[1]; line = strchr(line + 1, '\n')) {
        char path[512] = "";
        if (sscanf(line + 1, "%511s", path) == 1 && is_path_of(device, path))
            return true;
    }
    return false;
}

/* An external log or journal is in the options of its file system. */
static bool is_in_mount_options(const struct raw_search *s, const Sp__BlockDevice *device,
                                const char *path)
{
    SP_CLEANUP(iter) struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_FORWARD);
    SP_FREE char *node = sp_format("/dev/%s", device->name);
    struct libmnt_fs *fs;
    if (!iter || !node)
        return true;
    while (mnt_table_next_fs(s->mounts, iter, &fs) == 0) {
        const char *texts[] = {mnt_fs_get_options(fs), mnt_fs_get_fs_options(fs),
                               mnt_fs_get_source(fs)};
        for (size_t i = 0; i < SP_COUNT(texts); i++)
            if (texts[i] && (strstr(texts[i], path) || strstr(texts[i], node)))
                return true;
    }
    return false;
}

/* ---- what is in it ---- */

/* What databases and the like put on raw devices and libblkid knows by name. */
static bool is_of_an_application(const char *type)
{
    return strcmp(type, "oracleasm") == 0 || strcmp(type, "ceph_bluestore") == 0;
}

/* True if it surely is no file system, nor a part of one: nothing that libblkid knows, a partition
 * table, or an application's. */
static bool holds_no_file_system(const struct raw_search *s, const Sp__BlockDevice *device)
{
    SP_FREE char *path = sp_format("%s/%s", s->roots->dev, device->name);
    SP_FD int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    SP_CLEANUP(probe) blkid_probe probe = blkid_new_probe();
    if (fd < 0 || !probe || blkid_probe_set_device(probe, fd, 0, 0) < 0)
        return false;
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE);
    errno = 0;
    int found = blkid_do_safeprobe(probe); /* 1: nothing; below 0: several, or an error */
    if (found != 0)
        return found == 1 && errno != EIO;
    const char *type = NULL;
    return blkid_probe_lookup_value(probe, "TYPE", &type, NULL) == 0 && is_of_an_application(type);
}

/* ---- which ---- */

/* Whether the stack of `/` is in the inventory, or there is none: it is in memory (an initramfs) or
 * on another host. */
static bool knows_root(const struct raw_search *s)
{
    for (size_t i = 0; i < s->inventory->n_devices; i++)
        for (size_t k = 0; k < s->inventory->devices[i]->n_mount_points; k++)
            if (strcmp(s->inventory->devices[i]->mount_points[k], "/") == 0)
                return true;
    struct libmnt_fs *fs = mnt_table_find_target(s->mounts, "/", MNT_ITER_BACKWARD);
    const char *type = fs ? mnt_fs_get_fstype(fs) : NULL;
    return type && (strcmp(type, "rootfs") == 0 || strcmp(type, "tmpfs") == 0 ||
                    strcmp(type, "ramfs") == 0 || mnt_fs_is_netfs(fs));
}

static int begin(struct raw_search *s)
{
    SP_FREE char *mountinfo = sp_format("%s/self/mountinfo", s->roots->proc);
    SP_FREE char *swaps = sp_format("%s/swaps", s->roots->proc);
    s->mounts = mnt_new_table();
    if (!mountinfo || !swaps || !s->mounts)
        return -ENOMEM;
    if (sp_file_read(swaps, 1 << 20, &s->swaps, NULL) < 0)
        s->swaps = strdup(""); /* a kernel without swap has no such file */
    if (!s->swaps)
        return -ENOMEM;
    s->root_known = mnt_table_parse_file(s->mounts, mountinfo) == 0 && knows_root(s);
    return 0;
}

/* LVM's own name of it: "/dev/VG/LV" of the dm name "VG-LV", in which '-' is doubled. */
static void lvm_path(const Sp__BlockDevice *device, char *out, size_t size)
{
    out[0] = 0;
    if (strncmp(device->dm_uuid, "LVM-", 4) != 0 || size < strlen(device->dm_name) + 6)
        return;
    char *to = stpcpy(out, "/dev/");
    for (const char *at = device->dm_name; *at; at++) {
        *to++ = at[0] == '-' && at[1] != '-' ? '/' : at[0];
        at += at[0] == '-' && at[1] == '-';
    }
    *to = 0;
}

static bool is_listed(const char *suspend, const Sp__BlockDevice *device, const char *path)
{
    char lvm[256];
    lvm_path(device, lvm, sizeof(lvm));
    return agent_config_lists(suspend, "all") || agent_config_lists(suspend, path) ||
           (lvm[0] && agent_config_lists(suspend, lvm));
}

static enum raw_verdict judge(const struct raw_search *s, const struct suspend_state *state,
                              const Sp__BlockDevice *device, const char *path)
{
    if (!s->root_known)
        return RAW_ROOT;
    if (state->suspended || state->has_inactive_table)
        return RAW_BUSY; /* and not to be read */
    if (state->read_only || device->read_only)
        return RAW_READ_ONLY;
    return is_in_mount_options(s, device, path) || !holds_no_file_system(s, device) ? RAW_CONTENT
                                                                                    : RAW_MAY;
}

int raw_find(const struct inventory_roots *roots, const Sp__Inventory *inventory,
             const char *suspend, struct raw_device **ret, size_t *ret_count)
{
    struct raw_search s = {.roots = roots, .inventory = inventory};
    *ret_count = 0;
    *ret = calloc(inventory->n_devices + 1, sizeof(**ret));
    int r = *ret ? begin(&s) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < inventory->n_devices; i++) {
        const Sp__BlockDevice *device = inventory->devices[i];
        struct suspend_state state;
        if (strcmp(device->type, "dm") != 0 || !roots->dm_look || is_mounted(inventory, device) ||
            is_below_another(&s, device) || is_swap(&s, device) ||
            roots->dm_look(roots->self, device->devno, &state) < 0 || state.open_count == 0)
            continue;
        struct raw_device *raw = &(*ret)[*ret_count];
        raw->device = device;
        raw->path = sp_format("/dev/mapper/%s", device->dm_name);
        if (!raw->path) {
            r = -ENOMEM;
            break;
        }
        raw->listed = is_listed(suspend, device, raw->path);
        raw->verdict = judge(&s, &state, device, raw->path);
        ++*ret_count;
    }
    mnt_unref_table(s.mounts);
    free(s.swaps);
    return r;
}

void raw_free(struct raw_device *devices, size_t count)
{
    for (size_t i = 0; devices && i < count; i++)
        free(devices[i].path);
    free(devices);
}
