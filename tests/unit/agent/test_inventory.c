/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The inventory of made-up guests. */
#include "agent/inspect.h"
#include "agent/json.h"
#include "agent/linux/scan.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "tree.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define KIND(name) SP__VOLUME_KIND__VOLUME_KIND_##name

static Sp__Inventory *read_tree(struct tree *tree)
{
    Sp__Inventory *inventory = NULL;
    struct sp_why why = {0};
    if (inventory_read(&tree->roots, &inventory, &why) < 0)
        fail_msg("%s", why.text);
    return inventory;
}

static const Sp__Volume *volume(const Sp__Inventory *inventory, const char *id)
{
    for (size_t i = 0; i < inventory->n_volumes; i++)
        if (strcmp(inventory->volumes[i]->volume_id, id) == 0)
            return inventory->volumes[i];
    for (size_t i = 0; i < inventory->n_volumes; i++)
        print_message("there is '%s'\n", inventory->volumes[i]->volume_id);
    fail_msg("no volume '%s'", id);
    return NULL;
}

static void check_extent(const Sp__Volume *v, size_t i, const char *disk, uint64_t volume_offset,
                         uint64_t offset, uint64_t length)
{
    assert_true(i < v->n_extents);
    assert_string_equal(v->extents[i]->on->disk_id, disk);
    assert_int_equal(v->extents[i]->volume_offset_bytes, volume_offset);
    assert_int_equal(v->extents[i]->on->offset_bytes, offset);
    assert_int_equal(v->extents[i]->on->length_bytes, length);
}

/* ---- tables of dm devices, as a test sets them ---- */

struct tables {
    const char *devno[4];
    struct inventory_dm_target targets[4][3];
    unsigned count[4];
};

static int dm_table(void *self, const char *devno, struct inventory_dm_target *targets,
                    unsigned most)
{
    const struct tables *tables = self;
    for (size_t i = 0; i < 4 && tables->devno[i]; i++)
        if (strcmp(tables->devno[i], devno) == 0) {
            unsigned n = tables->count[i] < most ? tables->count[i] : most;
            memcpy(targets, tables->targets[i], n * sizeof(*targets));
            return (int)n;
        }
    return -ENXIO;
}

/* ---- tests ---- */

static void disks_are_identified(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    tree_file(tree, "sys/block/vda/serial", "disk one \n");
    tree_disk(tree, "nvme0n1", "259:0", 8);
    tree_file(tree, "sys/block/nvme0n1/device/serial", "  S1234\n");
    tree_file(tree, "sys/block/nvme0n1/wwid", "eui.0011\n");
    tree_disk(tree, "sda", "8:0", 8);
    tree_file(tree, "sys/block/sda/device/vpd_pg80", "%c\x80%c\x08  QM0001", 0, 0);
    tree_disk(tree, "sdb", "8:16", 8);
    tree_file(tree, "run/udev/data/b8:16", "E:ID_SERIAL=long\nE:ID_SERIAL_SHORT=from-udev\n");
    tree_disk(tree, "sr0", "11:0", 8);
    tree_disk(tree, "loop3", "7:3", 0);
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_devices, 5); /* a loop device without a file is none */
    assert_string_equal(inventory_device(inventory, "vda")->serial, "disk_one");
    assert_string_equal(inventory_device(inventory, "vda")->devno, "254:0");
    assert_int_equal(inventory_device(inventory, "vda")->size_bytes, 8 << 20);
    assert_int_equal(inventory_device(inventory, "vda")->logical_sector_bytes, 512);
    assert_string_equal(inventory_device(inventory, "nvme0n1")->serial, "S1234");
    assert_string_equal(inventory_device(inventory, "nvme0n1")->wwn, "eui.0011");
    assert_string_equal(inventory_device(inventory, "sdb")->serial, "from-udev");
    assert_string_equal(inventory_device(inventory, "sr0")->type, "rom");
    sp__inventory__free_unpacked(inventory, NULL);
}

static void a_scsi_serial_is_read_from_its_vpd_page(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "sda", "8:0", 8);
    tree_file(tree, "sys/block/sda/device/.keep", "%s", "");
    SP_FREE char *path = NULL;
    assert_true(asprintf(&path, "%s/block/sda/device/vpd_pg80", tree->sys) > 0);
    FILE *out = fopen(path, "we");
    static const char page[] = {0, (char)0x80, 0, 8, ' ', ' ', 'Q', 'M', '0', '0', '0', '1'};
    assert_int_equal(fwrite(page, 1, sizeof(page), out), sizeof(page));
    fclose(out);
    Sp__Inventory *inventory = read_tree(tree);
    assert_string_equal(inventory_device(inventory, "sda")->serial, "QM0001");
    sp__inventory__free_unpacked(inventory, NULL);
}

static void a_pci_path_comes_from_where_the_device_hangs(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    SP_FREE char *from = NULL, *to = NULL, *parent = NULL;
    assert_true(asprintf(&from, "%s/block/vda", tree->sys) > 0);
    assert_true(asprintf(&parent, "%s/devices/pci0000:00/0000:00:03.0/virtio1/block", tree->sys) >
                0);
    assert_true(asprintf(&to, "%s/vda", parent) > 0);
    tree_file(tree, "sys/devices/pci0000:00/0000:00:03.0/virtio1/block/.keep", "%s", "");
    assert_int_equal(rename(from, to), 0);
    assert_int_equal(symlink(to, from), 0);
    Sp__Inventory *inventory = read_tree(tree);
    assert_string_equal(inventory_device(inventory, "vda")->pci_path, "0000:00:03.0");
    sp__inventory__free_unpacked(inventory, NULL);
}

static void clear_file_systems_are_volumes(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    tree_file(tree, "sys/block/vda/serial", "d0\n");
    tree_mkfs(tree, "vda", "mkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555 -L root");
    tree_file(tree, "proc/self/mountinfo",
              "21 1 0:20 / /proc rw - proc proc rw\n"
              "22 1 254:0 /sub /mnt/sub rw - ext4 /dev/vda rw\n"
              "23 1 254:0 / /srv/my\\040data rw - ext4 /dev/vda rw\n"
              "24 1 0:30 / /net rw - nfs4 server:/x rw\n"
              "25 1 254:0 / /srv/again ro - ext4 /dev/vda rw\n");
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__Volume *v = volume(inventory, "clear:11111111-2222-3333-4444-555555555555");
    assert_int_equal(v->kind, KIND(CLEAR));
    assert_string_equal(v->content->type, "ext4");
    assert_string_equal(v->content->label, "root");
    assert_string_equal(v->content->usage, "filesystem");
    check_extent(v, 0, "d0", 0, 0, 8 << 20);
    assert_string_equal(v->device, "/dev/vda");

    /* One superblock once; the network's too; pseudo file systems not at all. */
    assert_int_equal(inventory->n_file_systems, 2);
    const Sp__FileSystem *fs = inventory->file_systems[0];
    assert_string_equal(fs->mount_point, "/srv/again");
    assert_string_equal(fs->device, "vda");
    assert_string_equal(fs->uuid, "11111111-2222-3333-4444-555555555555");
    assert_false(fs->read_only); /* the superblock is not, though a mount is */
    assert_true(inventory->file_systems[1]->network);
    assert_int_equal(inventory_device(inventory, "vda")->n_mount_points, 3);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void folders_that_a_sandbox_binds_onto_themselves_are_no_mount_points(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    tree_disk(tree, "vdb", "254:16", 8);
    tree_file(tree, "proc/self/mountinfo", /* what ProtectHome= and ReadWritePaths= make of it */
              "21 1 254:0 /@root / ro - ext4 /dev/vda rw\n"
              "22 1 254:16 / /srv ro - ext4 /dev/vdb rw\n"
              "23 1 254:0 /@root/home /home ro - ext4 /dev/vda rw\n"
              "24 1 254:0 /@root/var/lib/agent /var/lib/agent rw - ext4 /dev/vda rw\n"
              "25 1 254:16 / /srv ro - ext4 /dev/vdb rw\n"
              "26 1 254:16 /x /srv/x rw - ext4 /dev/vdb rw\n"
              "27 1 254:0 /@root/srv/x /srv/x rw - ext4 /dev/vda rw\n" /* hidden by vdb before */
              "28 1 254:16 /x /mnt rw - ext4 /dev/vdb rw\n");
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__BlockDevice *vda = inventory_device(inventory, "vda"),
                          *vdb = inventory_device(inventory, "vdb");
    assert_int_equal(vda->n_mount_points, 2);
    assert_string_equal(vda->mount_points[0], "/");
    assert_string_equal(vda->mount_points[1], "/srv/x");
    assert_int_equal(vdb->n_mount_points, 2);
    assert_string_equal(vdb->mount_points[0], "/srv");
    assert_string_equal(vdb->mount_points[1], "/mnt");
    assert_int_equal(inventory->n_file_systems, 2);
    assert_string_equal(inventory->file_systems[0]->mount_point, "/");
    assert_string_equal(inventory->file_systems[1]->mount_point, "/srv");
    sp__inventory__free_unpacked(inventory, NULL);
}

static void btrfs_is_found_by_its_source(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vdb", "254:16", 8);
    tree_file(tree, "proc/self/mountinfo", "30 1 0:44 / /data rw - btrfs /dev/vdb ro\n");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_file_systems, 1);
    assert_string_equal(inventory->file_systems[0]->device, "vdb");
    assert_string_equal(inventory->file_systems[0]->devno, "0:44");
    assert_true(inventory->file_systems[0]->read_only);
    sp__inventory__free_unpacked(inventory, NULL);
}

/* A LUKS1 header that holds together is enough for the probe. */
static void write_luks1(struct tree *tree, const char *device)
{
    SP_FREE char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", tree->dev, device) > 0);
    char line[640];
    snprintf(line, sizeof(line),
             "printf secret | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 "
             "--uuid aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee '%s' - >/dev/null 2>&1",
             path);
    if (system(line) != 0)
        fail_msg("failed: %s", line);
}

static const char luks1_dm[] = "CRYPT-LUKS1-aaaaaaaabbbbccccddddeeeeeeeeeeee-secret";

static void an_open_luks_volume_tells_what_is_in_it(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 64);
    tree_file(tree, "sys/block/vda/serial", "d0\n");
    tree_partition(tree, "vda", "vda1", "254:1", 2048, 32 << 11);
    tree_dm(tree, "dm-0", "252:0", "secret", luks1_dm, 30, (const char *[]){"vda1", NULL});
    write_luks1(tree, "vda1");
    tree_mkfs(tree, "dm-0", "mkfs.ext4 -q -F");
    tree_file(tree, "proc/self/mountinfo", "30 1 252:0 / /srv rw - ext4 /dev/mapper/secret rw\n");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_volumes, 1); /* what is in it is not one of its own */
    const Sp__Volume *v = volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert_int_equal(v->kind, KIND(LUKS1));
    assert_true(v->open);
    assert_string_equal(v->mapped_name, "secret");
    assert_string_equal(v->content->type, "ext4");
    assert_int_equal(v->header->version, 1);
    assert_int_equal(v->header->n_protectors, 1);
    assert_int_equal(v->header->fingerprint.len, 32);
    assert_int_equal(v->n_stack, 2);
    assert_string_equal(v->stack[0], "vda1");
    assert_string_equal(v->stack[1], "vda");
    check_extent(v, 0, "d0", 0, 2048 * 512, 32 << 20);
    assert_string_equal(inventory->file_systems[0]->device, "dm-0");
    sp__inventory__free_unpacked(inventory, NULL);
}

static void a_closed_luks_volume_is_seen(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vdb", "254:16", 16);
    write_luks1(tree, "vdb");
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__Volume *v = volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert_false(v->open);
    assert_null(v->content);
    check_extent(v, 0, "vdb", 0, 0, 16 << 20); /* without a serial the kernel name */
    sp__inventory__free_unpacked(inventory, NULL);
}

static void a_detached_header_is_told_by_the_mapping(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vdb", "254:16", 16);
    tree_dm(tree, "dm-0", "252:0", "secret", "CRYPT-LUKS2-0123456789abcdef0123456789abcdef-secret",
            16, (const char *[]){"vdb", NULL});
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__Volume *v = volume(inventory, "luks:01234567-89ab-cdef-0123-456789abcdef");
    assert_int_equal(v->kind, KIND(LUKS2));
    assert_true(v->header->detached);
    assert_true(v->open);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void luks_with_integrity_is_followed_to_its_device(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vdb", "254:16", 16);
    write_luks1(tree, "vdb");
    tree_dm(tree, "dm-0", "252:0", "secret_dif",
            "CRYPT-SUBDEV-aaaaaaaabbbbccccddddeeeeeeeeeeee-secret_dif", 14,
            (const char *[]){"vdb", NULL});
    tree_dm(tree, "dm-1", "252:1", "secret", luks1_dm, 14, (const char *[]){"dm-0", NULL});
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_volumes, 1);
    assert_string_equal(inventory->volumes[0]->mapped_name, "secret");
    sp__inventory__free_unpacked(inventory, NULL);
}

static void plain_dm_crypt_carries_its_parameters(void **state)
{
    struct tree *tree = *state;
    static struct tables tables = {.devno = {"252:0"}, .count = {1}};
    tables.targets[0][0] = (struct inventory_dm_target){.length_sectors = 8 << 11,
                                                        .type = "crypt",
                                                        .device = "254:1",
                                                        .device_offset_sectors = 8,
                                                        .cipher = "aes-xts-plain64",
                                                        .key_bits = 512,
                                                        .iv_offset_sectors = 3,
                                                        .sector_bytes = 4096};
    tree->roots.dm_table = dm_table;
    tree->roots.self = &tables;
    tree_disk(tree, "vda", "254:0", 64);
    tree_file(tree, "sys/block/vda/serial", "d0\n");
    tree_partition(tree, "vda", "vda1", "254:1", 4096, 8 << 11);
    tree_dm(tree, "dm-0", "252:0", "hidden", "CRYPT-PLAIN-hidden", 8,
            (const char *[]){"vda1", NULL});
    tree_mkfs(tree, "dm-0", "mkfs.ext4 -q -F");
    tree_file(tree, "crypttab", "# name\nhidden /dev/vda1 /etc/key plain,hash=sha512,size=512\n");
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__Volume *v = volume(inventory, "plain:d0+2097152");
    assert_int_equal(v->kind, KIND(PLAIN));
    assert_true(v->open);
    assert_false(v->ephemeral);
    assert_string_equal(v->plain->cipher, "aes-xts-plain64");
    assert_int_equal(v->plain->key_bits, 512);
    assert_int_equal(v->plain->offset_sectors, 8);
    assert_int_equal(v->plain->skip_sectors, 3);
    assert_int_equal(v->plain->sector_bytes, 4096);
    assert_string_equal(v->plain->hash, "sha512");
    assert_string_equal(v->content->type, "ext4");
    check_extent(v, 0, "d0", 0, 4096 * 512, 8 << 20);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void swap_with_a_random_key_is_ephemeral(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 16);
    tree_disk(tree, "vdb", "254:16", 16);
    tree_dm(tree, "dm-0", "252:0", "swap", "CRYPT-PLAIN-swap", 16, (const char *[]){"vda", NULL});
    tree_dm(tree, "dm-1", "252:1", "swap2", "CRYPT-PLAIN-swap2", 16, (const char *[]){"vdb", NULL});
    tree_mkfs(tree, "dm-0", "mkswap");
    tree_mkfs(tree, "dm-1", "mkswap");
    tree->roots.crypttab_text = "swap /dev/vda /dev/urandom swap,cipher=aes-xts-plain64\n"
                                "swap2\t/dev/vdb\t/etc/key\tswap\n";
    Sp__Inventory *inventory = read_tree(tree);
    assert_true(volume(inventory, "plain:vda+0")->ephemeral);
    assert_false(volume(inventory, "plain:vdb+0")->ephemeral);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void logical_volumes_are_laid_on_their_disks(void **state)
{
    struct tree *tree = *state;
    static struct tables tables = {.devno = {"252:0", "252:1"}, .count = {2, 1}};
    tables.targets[0][0] = (struct inventory_dm_target){.length_sectors = 4 << 11,
                                                        .type = "linear",
                                                        .device = "254:1",
                                                        .device_offset_sectors = 2048};
    tables.targets[0][1] = (struct inventory_dm_target){.start_sectors = 4 << 11,
                                                        .length_sectors = 4 << 11,
                                                        .type = "linear",
                                                        .device = "254:16",
                                                        .device_offset_sectors = 4096};
    tables.targets[1][0] =
        (struct inventory_dm_target){.length_sectors = 8 << 11, .type = "striped"};
    tree->roots.dm_table = dm_table;
    tree->roots.self = &tables;
    tree_disk(tree, "vda", "254:0", 64);
    tree_partition(tree, "vda", "vda1", "254:1", 2048, 32 << 11);
    tree_disk(tree, "vdb", "254:16", 64);
    const char *const both[] = {"vda1", "vdb", NULL};
    tree_dm(tree, "dm-0", "252:0", "vg-a", "LVM-a", 8, both);
    tree_dm(tree, "dm-1", "252:1", "vg-b", "LVM-b", 8, both);
    tree_mkfs(tree, "dm-0", "mkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555");
    tree_mkfs(tree, "dm-1", "mkfs.ext4 -q -F -U 21111111-2222-3333-4444-555555555555");
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__Volume *v = volume(inventory, "clear:11111111-2222-3333-4444-555555555555");
    assert_int_equal(v->n_extents, 2);
    check_extent(v, 0, "vda", 0, 2 << 20, 4 << 20);
    check_extent(v, 1, "vdb", 4 << 20, 2 << 20, 4 << 20);
    assert_int_equal(v->n_stack, 4);
    /* No extents rather than wrong ones. */
    v = volume(inventory, "clear:21111111-2222-3333-4444-555555555555");
    assert_int_equal(v->n_extents, 0);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void a_suspended_device_is_not_read(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 16);
    tree_dm(tree, "dm-0", "252:0", "x", "LVM-x", 8, (const char *[]){"vda", NULL});
    tree_mkfs(tree, "dm-0", "mkfs.ext4 -q -F");
    tree_file(tree, "sys/block/dm-0/dm/suspended", "1\n");
    Sp__Inventory *inventory = read_tree(tree);
    assert_null(inventory_device(inventory, "dm-0")->content);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void paths_of_one_disk_are_one_volume(void **state)
{
    struct tree *tree = *state;
    const char *const paths[] = {"sda", "sdb", NULL};
    for (const char *const *path = paths; *path; path++) {
        SP_FREE char *serial = NULL;
        assert_true(asprintf(&serial, "sys/block/%s/serial", *path) > 0);
        tree_disk(tree, *path, *path == paths[0] ? "8:0" : "8:16", 8);
        tree_file(tree, serial, "lun7\n");
        tree_mkfs(tree, *path, "mkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555");
    }
    tree_dm(tree, "dm-0", "252:0", "mpatha", "mpath-3600", 8, paths);
    tree_mkfs(tree, "dm-0", "mkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_volumes, 1);
    assert_string_equal(inventory->volumes[0]->device, "/dev/dm-0");
    check_extent(inventory->volumes[0], 0, "lun7", 0, 0, 8 << 20);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void loop_devices_lie_on_what_holds_their_file(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 16);
    tree_disk(tree, "loop0", "7:0", 8);
    tree_disk(tree, "loop1", "7:1", 4);
    tree_file(tree, "sys/block/loop0/loop/backing_file", "/srv/images/a.img\n");
    tree_file(tree, "sys/block/loop1/loop/backing_file", "/srv/inner/b.img (deleted)\n");
    tree_file(tree, "proc/self/mountinfo",
              "20 1 0:1 / / rw - tmpfs tmpfs rw\n"
              "21 1 254:0 / /srv rw - ext4 /dev/vda rw\n"
              "22 1 7:0 / /srv/inner rw - ext4 /dev/loop0 rw\n"
              "23 1 7:1 / /srv/inner/deep rw - ext4 /dev/loop1 rw\n");
    tree_mkfs(tree, "loop0", "mkfs.ext4 -q -F");
    Sp__Inventory *inventory = read_tree(tree);
    assert_string_equal(inventory_device(inventory, "loop0")->parents[0], "vda");
    assert_string_equal(inventory_device(inventory, "loop1")->parents[0], "loop0");
    assert_int_equal(inventory_loop_depth(inventory, "vda"), 0);
    assert_int_equal(inventory_loop_depth(inventory, "loop0"), 1);
    assert_int_equal(inventory_loop_depth(inventory, "loop1"), 2);
    assert_int_equal(inventory_loop_depth(inventory, "nothing"), 0);
    assert_int_equal(inventory->n_volumes, 0); /* they lie in files of others */
    sp__inventory__free_unpacked(inventory, NULL);
}

static void partitions_have_their_ids(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 64);
    tree_partition(tree, "vda", "vda1", "254:1", 2048, 16 << 11);
    /* An MBR: disk id at 440, the first entry at 446 (type at 4, LBA at 8, sectors at 12). */
    uint8_t table[512] = {0};
    sp_put_le32(table + 440, 0xdeadbeef);
    table[446 + 4] = 0x83;
    sp_put_le32(table + 446 + 8, 2048);
    sp_put_le32(table + 446 + 12, 16 << 11);
    table[510] = 0x55;
    table[511] = 0xaa;
    tree_write(tree, "vda", 0, table, sizeof(table));
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__BlockDevice *disk = inventory_device(inventory, "vda");
    const Sp__BlockDevice *part = inventory_device(inventory, "vda1");
    assert_string_equal(disk->partition_table, "dos");
    assert_string_equal(disk->table_uuid, "deadbeef");
    assert_string_equal(part->type, "partition");
    assert_string_equal(part->parents[0], "vda");
    assert_int_equal(part->parent_offset_bytes, 1 << 20);
    assert_string_equal(part->partition_uuid, "deadbeef-01");
    sp__inventory__free_unpacked(inventory, NULL);
}

static void the_digest_moves_with_the_storage_only(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    Sp__Inventory *a = read_tree(tree), *b = read_tree(tree);
    b->taken_unix_ms += 5;
    b->boottime_ms += 5;
    b->sequence = 9;
    uint8_t digest[32];
    assert_int_equal(inventory_digest(b, digest), 0);
    assert_memory_equal(digest, a->digest.data, 32);
    assert_memory_equal(b->digest.data, a->digest.data, 32);
    sp__inventory__free_unpacked(b, NULL);
    tree_mkfs(tree, "vda", "mkfs.ext4 -q -F");
    b = read_tree(tree);
    assert_memory_not_equal(b->digest.data, a->digest.data, 32);
    sp__inventory__free_unpacked(a, NULL);
    sp__inventory__free_unpacked(b, NULL);
}

/* ---- what is seen through dm only ---- */

static void tcrypt_and_filevault_are_seen_when_open(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    tree_disk(tree, "vdb", "254:16", 8);
    tree_dm(tree, "dm-0", "252:0", "vc", "CRYPT-TCRYPT-vc", 7, (const char *[]){"vda", NULL});
    tree_dm(tree, "dm-1", "252:1", "mac", "CRYPT-FVAULT2-mac", 7, (const char *[]){"vdb", NULL});
    tree_mkfs(tree, "dm-0", "mkfs.ext4 -q -F");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_volumes, 2);
    const Sp__Volume *v = volume(inventory, "veracrypt:vda+0");
    assert_int_equal(v->kind, KIND(VERACRYPT));
    assert_true(v->open);
    assert_string_equal(v->mapped_name, "vc");
    assert_string_equal(v->content->type, "ext4");
    assert_int_equal(volume(inventory, "filevault2:vdb+0")->kind, KIND(FILEVAULT2));
    sp__inventory__free_unpacked(inventory, NULL);
}

/* dm-integrity by itself (integritysetup) is a device like any other: LUKS lies on it, not on what
 * it lies on. */
static void luks_on_dm_integrity_and_a_file_system_on_dm_verity(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 16);
    tree_disk(tree, "vdb", "254:16", 16);
    tree_dm(tree, "dm-0", "252:0", "whole", "CRYPT-INTEGRITY-whole", 15,
            (const char *[]){"vda", NULL});
    tree_dm(tree, "dm-1", "252:1", "secret", luks1_dm, 13, (const char *[]){"dm-0", NULL});
    tree_dm(tree, "dm-2", "252:2", "usr", "CRYPT-VERITY-0123-usr", 8,
            (const char *[]){"vdb", NULL});
    write_luks1(tree, "dm-0");
    tree_mkfs(tree, "dm-1", "mkfs.ext4 -q -F");
    tree_mkfs(tree, "dm-2", "mkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_volumes, 2);
    const Sp__Volume *v = volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert_string_equal(v->device, "/dev/dm-0");
    assert_false(v->header->detached);
    assert_true(v->open);
    assert_string_equal(v->content->type, "ext4");
    volume(inventory, "clear:11111111-2222-3333-4444-555555555555");
    sp__inventory__free_unpacked(inventory, NULL);
}

/* LUKS ─ LV ─ PV ─ LUKS ─ disk, and a loop file on the inner one that is LUKS again. */
static void nested_encryption_is_seen_at_every_level(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 64);
    tree_dm(tree, "dm-0", "252:0", "outer", "CRYPT-LUKS1-aaaaaaaabbbbccccddddeeeeeeeeeeee-outer",
            60, (const char *[]){"vda", NULL});
    tree_dm(tree, "dm-1", "252:1", "vg-lv", "LVM-lv", 40, (const char *[]){"dm-0", NULL});
    tree_dm(tree, "dm-2", "252:2", "inner", "CRYPT-LUKS1-bbbbbbbbbbbbccccddddeeeeeeeeeeee-inner",
            38, (const char *[]){"dm-1", NULL});
    tree_disk(tree, "loop0", "7:0", 16);
    tree_file(tree, "sys/block/loop0/loop/backing_file", "/srv/box.img\n");
    tree_file(tree, "proc/self/mountinfo", "30 1 252:2 / /srv rw - ext4 /dev/mapper/inner rw\n");
    static const struct {
        const char *device, *uuid;
    } headers[] = {{"vda", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"},
                   {"dm-1", "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee"},
                   {"loop0", "cccccccc-bbbb-cccc-dddd-eeeeeeeeeeee"}};
    for (size_t i = 0; i < SP_COUNT(headers); i++) {
        char command[256];
        snprintf(command, sizeof command,
                 "printf k | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 "
                 "--key-file - --uuid %s",
                 headers[i].uuid);
        tree_mkfs(tree, headers[i].device, command);
    }
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_volumes, 3);
    const Sp__Volume *v = volume(inventory, "luks:cccccccc-bbbb-cccc-dddd-eeeeeeeeeeee");
    static const char *const stack[] = {"loop0", "dm-2", "dm-1", "dm-0", "vda"};
    assert_int_equal(v->n_stack, SP_COUNT(stack));
    for (size_t i = 0; i < SP_COUNT(stack); i++)
        assert_string_equal(v->stack[i], stack[i]);
    assert_string_equal(volume(inventory, "luks:bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee")->mapped_name,
                        "inner");
    sp__inventory__free_unpacked(inventory, NULL);
}

/* With its superblock at the end, each leg of a mirror begins like the array. */
static void the_legs_of_a_mirror_are_no_volumes(void **state)
{
    struct tree *tree = *state;
    static const char *const legs[] = {"vda", "vdb"};
    uint8_t s[512] = {0};
    uint64_t sum = 0, at = (8 * 2048 - 16) & ~7u;
    sp_put_le32(s, 0xa92b4efc);
    sp_put_le32(s + 4, 1);
    memset(s + 16, 0x5a, 16);
    sp_put_le32(s + 72, 1);
    sp_put_le64(s + 80, 7 * 2048);
    sp_put_le32(s + 92, 2);
    sp_put_le64(s + 136, 7 * 2048);
    sp_put_le64(s + 144, at);
    sp_put_le32(s + 220, 16);
    for (unsigned i = 0; i < 256 + 32; i += 4)
        sum += i == 216 ? 0 : sp_le32(s + i);
    sp_put_le32(s + 216, (uint32_t)(sum + (sum >> 32)));
    for (size_t i = 0; i < 2; i++) {
        tree_disk(tree, legs[i], i ? "254:16" : "254:0", 8);
        write_luks1(tree, legs[i]);
        tree_write(tree, legs[i], at * 512, s, sizeof s);
    }
    tree_disk(tree, "md0", "9:0", 7);
    tree_file(tree, "sys/block/md0/md/level", "raid1\n");
    tree_file(tree, "sys/block/md0/slaves/vda", "%s", "");
    tree_file(tree, "sys/block/md0/slaves/vdb", "%s", "");
    write_luks1(tree, "md0");
    Sp__Inventory *inventory = read_tree(tree);
    assert_string_equal(inventory_device(inventory, "vda")->content->type, "linux_raid_member");
    assert_int_equal(inventory->n_volumes, 1);
    assert_string_equal(inventory->volumes[0]->device, "/dev/md0");
    assert_int_equal(inventory->n_findings, 0);
    sp__inventory__free_unpacked(inventory, NULL);
}

static const Sp__Finding *finding(const Sp__Inventory *inventory, Sp__Reason reason,
                                  const char *text)
{
    for (size_t i = 0; i < inventory->n_findings; i++)
        if (inventory->findings[i]->reason == reason && strstr(inventory->findings[i]->text, text))
            return inventory->findings[i];
    for (size_t i = 0; i < inventory->n_findings; i++)
        print_message("there is '%s'\n", inventory->findings[i]->text);
    fail_msg("no finding '%s'", text);
    return NULL;
}

static void a_clone_is_told_apart_and_said(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    tree_disk(tree, "vdb", "254:16", 8);
    write_luks1(tree, "vda");
    write_luks1(tree, "vdb");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_volumes, 2);
    volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    const Sp__Volume *v = volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee@vdb+0");
    const Sp__Finding *f = finding(inventory, SP__REASON__REASON_INVENTORY_MISMATCH, "clone");
    assert_string_equal(f->volume_id, v->volume_id);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void damage_is_a_finding(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    write_luks1(tree, "vda");
    tree_write(tree, "vda", 208, "\xff", 1); /* the state of slot 0 */
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__Volume *v = volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert_true(v->header->damaged);
    const Sp__Finding *f = finding(inventory, SP__REASON__REASON_HEADER_DAMAGED, "keyslot 0");
    assert_false(f->note);
    assert_string_equal(f->volume_id, v->volume_id);
    sp__inventory__free_unpacked(inventory, NULL);
}

/* ---- devices that go wrong ---- */

static void remove_node(const struct tree *tree, const char *device)
{
    SP_FREE char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", tree->dev, device) > 0);
    assert_int_equal(unlink(path), 0);
}

static void what_cannot_be_read_is_said_and_the_rest_is_there(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 8);
    write_luks1(tree, "vda");
    tree_disk(tree, "vdb", "254:16", 8); /* unplugged: its node is gone */
    remove_node(tree, "vdb");
    tree_disk(tree, "vdc", "254:32", 8); /* reads fail: a folder can be opened, not read */
    remove_node(tree, "vdc");
    tree_file(tree, "dev/vdc/.keep", "%s", "");
    tree_disk(tree, "vdd", "254:48", 8); /* says 8 MiB, is cut in the middle of its header */
    write_luks1(tree, "vdd");
    SP_FREE char *vdd = NULL, *vde = NULL, *vdf = NULL;
    assert_true(asprintf(&vdd, "%s/vdd", tree->dev) > 0);
    assert_int_equal(truncate(vdd, 300), 0);
    assert_true(asprintf(&vde, "%s/block/vde", tree->sys) > 0); /* gone after it was listed */
    assert_int_equal(symlink("../devices/gone", vde), 0);
    tree_file(tree, "sys/block/vdf/size", "16\n"); /* no other attribute is left, nor a node */
    assert_true(asprintf(&vdf, "%s/block/vdf", tree->sys) > 0);
    tree_disk(tree, "vdg", "254:96", 8);
    tree_mkfs(tree, "vdg", "mkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_devices, 6);
    volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    volume(inventory, "clear:11111111-2222-3333-4444-555555555555");
    const Sp__Reason unread = SP__REASON__REASON_UNIDENTIFIED_CONTENT;
    assert_non_null(strstr(finding(inventory, unread, "vdb: ")->text, "unplugged"));
    assert_string_equal(finding(inventory, unread, "vdb: ")->disk_id, "vdb");
    assert_non_null(strstr(finding(inventory, unread, "vdc: ")->text, "cannot be read"));
    assert_non_null(finding(inventory, unread, "vdf: "));
    assert_non_null(
        strstr(finding(inventory, SP__REASON__REASON_HEADER_DAMAGED, "vdd: ")->text, "cut off"));
    sp__inventory__free_unpacked(inventory, NULL);
}

/* Every event reads the inventory anew: what nobody can name is read through once only. */
static void what_has_no_name_is_searched_once_and_open_volumes_never(void **state)
{
    struct tree *tree = *state;
    struct inventory_memory memory = {.next = 0};
    tree->roots.memory = &memory;
    tree_disk(tree, "vda", "254:0", 8);
    tree_write(tree, "vda", 0, "something", 9);
    tree_disk(tree, "vdb", "254:16", 8);
    write_luks1(tree, "vdb");
    tree_dm(tree, "dm-0", "252:0", "secret", luks1_dm, 6, (const char *[]){"vdb", NULL});
    tree_write(tree, "dm-0", 0, "something", 9);
    sp__inventory__free_unpacked(read_tree(tree), NULL);
    assert_int_equal(memory.next, 1);
    sp__inventory__free_unpacked(read_tree(tree), NULL);
    assert_int_equal(memory.next, 1);
    tree_write(tree, "vda", 0, "another  ", 9);
    sp__inventory__free_unpacked(read_tree(tree), NULL);
    assert_int_equal(memory.next, 2);
}

static void a_thousand_devices(void **state)
{
    struct tree *tree = *state;
    enum { DEVICES = 1000, BROKEN = 500, SECRET = 700 };
    for (int i = 0; i < DEVICES; i++) {
        char name[16], devno[16];
        snprintf(name, sizeof name, "vd%04d", i);
        snprintf(devno, sizeof devno, "254:%d", i);
        tree_disk(tree, name, devno, i == SECRET ? 8 : 1);
    }
    remove_node(tree, "vd0500");
    write_luks1(tree, "vd0700");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory->n_devices, DEVICES);
    assert_int_equal(inventory->n_findings, 1);
    assert_non_null(finding(inventory, SP__REASON__REASON_UNIDENTIFIED_CONTENT, "vd0500: "));
    assert_int_equal(inventory->n_volumes, 1);
    assert_string_equal(inventory->volumes[0]->device, "/dev/vd0700");
    sp__inventory__free_unpacked(inventory, NULL);
}

static void *unplug_all(void *arg)
{
    const struct tree *tree = arg;
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'/block/vdx* '%s'/vdx*", tree->sys, tree->dev);
    return system(command) == 0 ? arg : NULL;
}

/* Whatever is gone at whichever moment: what stayed is told of. */
static void devices_that_vanish_in_mid_scan(void **state)
{
    struct tree *tree = *state;
    enum { DEVICES = 200 };
    tree_disk(tree, "vda", "254:0", 8);
    tree_disk(tree, "vdz", "254:9", 8);
    write_luks1(tree, "vda");
    tree_mkfs(tree, "vdz", "mkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555");
    for (int i = 0; i < DEVICES; i++) {
        char name[16], part[20], devno[16];
        snprintf(name, sizeof name, "vdx%03d", i);
        snprintf(part, sizeof part, "vdx%03dp1", i);
        snprintf(devno, sizeof devno, "253:%d", i * 2);
        tree_disk(tree, name, devno, 1);
        snprintf(devno, sizeof devno, "253:%d", i * 2 + 1);
        tree_partition(tree, name, part, devno, 8, 1024);
    }
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, unplug_all, tree), 0);
    bool gone = false;
    for (int left = 0; left < 2;) { /* once more after the last is gone */
        Sp__Inventory *inventory = read_tree(tree);
        volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
        volume(inventory, "clear:11111111-2222-3333-4444-555555555555");
        gone = inventory->n_devices == 2;
        left += gone;
        sp__inventory__free_unpacked(inventory, NULL);
    }
    void *done;
    assert_int_equal(pthread_join(thread, &done), 0);
    assert_non_null(done);
    assert_true(gone);
}

/* A name may hold anything but what ends it. It must not forge a line of the output. */
static void names_with_blanks_and_newlines(void **state)
{
    struct tree *tree = *state;
    tree_disk(tree, "vda", "254:0", 16);
    tree_file(tree, "sys/block/vda/serial", "my disk\nforged\x1b[2J\n");
    tree_dm(tree, "dm-0", "252:0", "a b\nforged", luks1_dm, 14, (const char *[]){"vda", NULL});
    write_luks1(tree, "vda");
    tree_mkfs(tree, "dm-0", "mkfs.ext4 -q -F -L 'my label'");
    tree_disk(tree, "loop0", "7:0", 1);
    tree_file(tree, "sys/block/loop0/loop/backing_file", "/srv/a b\nforged.img\n");
    tree_file(tree, "proc/self/mountinfo",
              "30 1 252:0 / /srv rw - ext4 /dev/dm-0 rw\n"
              "31 1 252:0 / /srv/my\\040data\\012forged rw - ext4 /dev/dm-0 rw\n");
    Sp__Inventory *inventory = read_tree(tree);
    const Sp__Volume *v = volume(inventory, "luks:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert_string_equal(v->mapped_name, "a b\nforged");
    assert_string_equal(v->content->label, "my label");
    assert_string_equal(inventory_device(inventory, "dm-0")->mount_points[1],
                        "/srv/my data\nforged");
    assert_string_equal(inventory_device(inventory, "loop0")->parents[0], "dm-0");
    SP_BUFFER struct sp_buffer json = {0};
    assert_int_equal(json_message(&json, &inventory->base, 0), 0);
    assert_non_null(strstr(sp_buffer_text(&json), "\"a b\\u000aforged\""));
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    inspect_print(inventory, out);
    fclose(out);
    assert_non_null(strstr(text, "a b?forged (dm-0)"));
    assert_non_null(strstr(text, "ENCRYPTED: LUKS1"));
    assert_non_null(strstr(text, "opened by   keyslot 0"));
    assert_null(strstr(text, "\nforged"));
    assert_null(strchr(text, 0x1b));
    free(text);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void a_loop_of_parents_ends(void **state)
{
    struct tree *tree = *state;
    tree_dm(tree, "dm-0", "252:0", "a", "LVM-a", 8, (const char *[]){"dm-1", NULL});
    tree_dm(tree, "dm-1", "252:1", "b", "LVM-b", 8, (const char *[]){"dm-0", NULL});
    tree_mkfs(tree, "dm-0", "mkfs.ext4 -q -F");
    Sp__Inventory *inventory = read_tree(tree);
    assert_int_equal(inventory_loop_depth(inventory, "dm-0"), 0);
    sp__inventory__free_unpacked(inventory, NULL);
}

static void no_sysfs_is_an_error(void **state)
{
    struct tree *tree = *state;
    Sp__Inventory *inventory = NULL;
    struct sp_why why = {0};
    assert_int_equal(inventory_read(&tree->roots, &inventory, &why), -ENOENT);
    assert_non_null(strstr(why.text, "sysfs"));
    assert_null(inventory);
}

static int begin(void **state)
{
    static struct tree tree;
    tree_new(&tree);
    *state = &tree;
    return 0;
}

static int end(void **state)
{
    tree_free(*state);
    return 0;
}

#define T(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(disks_are_identified),
        T(a_scsi_serial_is_read_from_its_vpd_page),
        T(a_pci_path_comes_from_where_the_device_hangs),
        T(clear_file_systems_are_volumes),
        T(folders_that_a_sandbox_binds_onto_themselves_are_no_mount_points),
        T(btrfs_is_found_by_its_source),
        T(an_open_luks_volume_tells_what_is_in_it),
        T(a_closed_luks_volume_is_seen),
        T(a_detached_header_is_told_by_the_mapping),
        T(luks_with_integrity_is_followed_to_its_device),
        T(plain_dm_crypt_carries_its_parameters),
        T(swap_with_a_random_key_is_ephemeral),
        T(logical_volumes_are_laid_on_their_disks),
        T(a_suspended_device_is_not_read),
        T(paths_of_one_disk_are_one_volume),
        T(loop_devices_lie_on_what_holds_their_file),
        T(partitions_have_their_ids),
        T(the_digest_moves_with_the_storage_only),
        T(tcrypt_and_filevault_are_seen_when_open),
        T(luks_on_dm_integrity_and_a_file_system_on_dm_verity),
        T(nested_encryption_is_seen_at_every_level),
        T(the_legs_of_a_mirror_are_no_volumes),
        T(a_clone_is_told_apart_and_said),
        T(damage_is_a_finding),
        T(what_cannot_be_read_is_said_and_the_rest_is_there),
        T(what_has_no_name_is_searched_once_and_open_volumes_never),
        T(a_thousand_devices),
        T(devices_that_vanish_in_mid_scan),
        T(names_with_blanks_and_newlines),
        T(a_loop_of_parents_ends),
        T(no_sysfs_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
