/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The parts of one inventory_read(), in their order:
 *
 *   scan_devices ─▶ scan_mounts ─▶ scan_loops ─▶ scan_contents ─▶ scan_volumes ─▶ scan_findings
 *   sysfs           mountinfo       stack         libblkid,        dm, extents      what is wrong
 *                                                 headers
 *
 * Each device is opened once and read once: the page cache of a device that nobody holds open is
 * dropped at its close. A device that cannot be read, or is gone before it was, costs a finding and
 * nothing else. */
#ifndef SEALPOINT_AGENT_SCAN_H
#define SEALPOINT_AGENT_SCAN_H

#include "agent/inventory.h"
#include "volume/volume.h"
#include <stddef.h>

/* What kind of mapping a dm device is, from its uuid. */
enum scan_dm {
    SCAN_DM_NONE,
    SCAN_DM_OTHER,
    SCAN_DM_LVM,
    SCAN_DM_LUKS1,
    SCAN_DM_LUKS2,
    SCAN_DM_PLAIN,
    SCAN_DM_BITLOCKER,
    SCAN_DM_TCRYPT,
    SCAN_DM_FVAULT2,
    SCAN_DM_CRYPT_PART /* dm-integrity below LUKS2 */,
    SCAN_DM_MULTIPATH
};

struct scan_device {
    Sp__BlockDevice *message; /* owned by the inventory */
    char folder[512];         /* in sysfs */
    char *backing_file;       /* loop */
    enum scan_dm dm;
    bool suspended; /* dm: a read would block */
    bool parted;    /* has partitions */
    int error;      /* of opening or reading it, negative errno; 0: none */
    bool partly;    /* only from here on some bytes could not be read: */
    uint64_t unreadable_at;
    const struct volume_format *format; /* an encrypted volume begins here; NULL: none */
    Sp__HeaderFacts *facts;             /* its header; owned until a volume takes it */
};

struct scan {
    const struct inventory_roots *roots;
    const Sp__Inventory *before; /* NULL, or what was read a moment ago */
    Sp__Inventory *inventory;
    struct scan_device *devices; /* as inventory->devices, same order */
    size_t count;
    struct scan_mount {
        char *point, *root, *device; /* every mount, also binds; kernel name */
        char devno[24];
    } * mounts;
    size_t mount_count;
    uint64_t search_left; /* bytes that may be read in search of lost headers */
    bool *whole;          /* of inventory->file_systems: its mount point shows the root */
};

int scan_devices(struct scan *scan);
int scan_mounts(struct scan *scan);
int scan_mounts_elsewhere(struct scan *scan);
int scan_loops(struct scan *scan);
int scan_contents(struct scan *scan);
int scan_volumes(struct scan *scan);
int scan_findings(struct scan *scan);
void scan_done(struct scan *scan);

/* By kernel name, by "major:minor"; NULL: none. */
struct scan_device *scan_named(struct scan *scan, const char *name);
struct scan_device *scan_numbered(struct scan *scan, const char *devno);
/* One of several paths to the same disk, which is looked at through its multipath device. */
bool scan_is_path_of_multipath(struct scan *scan, const struct scan_device *device);
/* A source of a mount or of crypttab ("/dev/…", "UUID=…") as kernel name; "" if not found. */
const char *scan_resolve(struct scan *scan, const char *source);
/* The device, opened for reading, or negative errno. */
int scan_open(const struct scan *scan, const struct scan_device *device);

/* The id that volumes use for a disk: serial, else kernel name. */
const char *scan_disk_id(const Sp__BlockDevice *disk);
/* Fills the volume's extents: the whole device, mapped onto disks; leaves none where it cannot
 * tell (striped, RAID, files). 0 or -ENOMEM. */
int scan_extents(struct scan *scan, const struct scan_device *device, Sp__Volume *volume);

/* The line of crypttab for a dm name. False if there is none. */
struct scan_crypttab {
    bool random_key; /* /dev/urandom and the like */
    char hash[32];
};
bool scan_crypttab_find(const struct scan *scan, const char *dm_name, struct scan_crypttab *ret);

/* Up to `size` bytes of a sysfs attribute, without the newline; "" if it cannot be read. */
const char *scan_attribute(const char *folder, const char *name, char *out, size_t size);
uint64_t scan_number(const char *folder, const char *name);
/* True if another device lies on the one with this folder: it has links to them. */
bool scan_is_held(const char *folder);

/* dm.c: inventory_roots.dm_table of the system. */
int scan_dm_table_system(void *self, const char *devno, struct inventory_dm_target *targets,
                         unsigned most);
/* Parses the parameters of one target; wipes the key in `parameters`. 0 or -EINVAL. */
int scan_dm_parse(const char *type, char *parameters, struct inventory_dm_target *target);

#endif
