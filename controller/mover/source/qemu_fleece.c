/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The fleece file. Its qcow2 header is written here (docs/interop/qcow2.txt of QEMU): an image of
 * version 3 with 64 KiB clusters and nothing allocated is four tables, and making it without QEMU's
 * tools needs no name for the file and no rights for QEMU. */
#include "controller/mover/source/qemu.h"

#include "base/cleanup.h"
#include "base/file.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define CLUSTER   UINT64_C(65536)
#define L2_COVERS (CLUSTER / 8 * CLUSTER) /* 512 MiB an L1 entry */

static void put_be32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof v);
}

static void put_be64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof v);
}

static int open_nameless(const char *folder)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd >= 0 ? fd : -errno;
    SP_FREE char *path = sp_format("%s/fleece-XXXXXX", folder);
    if (!path)
        return -ENOMEM;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    unlink(path);
    return fd;
}

static int write_header(int fd, uint64_t disk_bytes, uint64_t l1_entries, uint64_t l1_clusters)
{
    uint8_t header[112] = {'Q', 'F', 'I', 0xfb};
    put_be32(header + 4, 3);                     /* version */
    put_be32(header + 20, 16);                   /* cluster_bits */
    put_be64(header + 24, disk_bytes);           /* size */
    put_be32(header + 36, (uint32_t)l1_entries); /* l1_size */
    put_be64(header + 40, 3 * CLUSTER);          /* l1_table_offset */
    put_be64(header + 48, CLUSTER);              /* refcount_table_offset */
    put_be32(header + 56, 1);                    /* refcount_table_clusters */
    put_be32(header + 96, 4);                    /* refcount_order: 16 bits */
    put_be32(header + 100, 104); /* header_length; 8 zero bytes end the extensions */
    uint8_t refcount_table[8];
    put_be64(refcount_table, 2 * CLUSTER); /* the first and only refcount block */
    SP_FREE uint8_t *refcounts = calloc(1, CLUSTER);
    if (!refcounts)
        return -ENOMEM;
    for (uint64_t i = 0; i < 3 + l1_clusters; i++)
        refcounts[2 * i + 1] = 1;
    int r = sp_pwrite_all(fd, header, sizeof header, 0);
    r = r ? r : sp_pwrite_all(fd, refcount_table, sizeof refcount_table, CLUSTER);
    return r ? r : sp_pwrite_all(fd, refcounts, CLUSTER, 2 * CLUSTER);
}

int qemu_fleece_create(const char *folder, uint64_t disk_bytes, uint64_t limit_bytes,
                       uint64_t *ret_window, struct sp_why *why)
{
    uint64_t l1_entries = (disk_bytes + L2_COVERS - 1) / L2_COVERS;
    uint64_t l1_clusters = (l1_entries * 8 + CLUSTER - 1) / CLUSTER;
    uint64_t least = (3 + l1_clusters + 2) * CLUSTER; /* one cluster of data and its L2 table */
    if (disk_bytes > UINT64_C(1) << 50)
        return sp_why_set(why, -EFBIG, "a disk of more than 1 PiB cannot be held");
    /* L2 tables and refcounts take less than 1/1024 of what they describe. */
    uint64_t window = limit_bytes ? limit_bytes : disk_bytes + disk_bytes / 1024 + least + CLUSTER;
    window = window < least ? least : window;
    window -= window % CLUSTER;

    SP_FD int fd = open_nameless(folder);
    if (fd < 0)
        return sp_why_set(why, fd, "no file can be made in the fleece folder '%s': %s", folder,
                          strerror(-fd));
    int r = write_header(fd, disk_bytes, l1_entries, l1_clusters);
    if (!r && ftruncate(fd, (off_t)window))
        r = -errno;
    if (r)
        return sp_why_set(why, r, "the fleece file in '%s' cannot be written: %s", folder,
                          strerror(-r));
    *ret_window = window;
    return sp_steal_fd(&fd);
}
