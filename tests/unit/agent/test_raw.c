/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which devices are in use without a file system, and which of them may be suspended, in made-up
 * guests. */
#include "agent/linux/raw.h"
#include "agent/linux/suspend.h"
#include "agent/message.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "tree.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- what device-mapper says of them, as a test sets it ---- */

struct looks {
    const char *devno[8];
    struct suspend_state state[8];
    bool asked[8];
};

static int dm_look(void *self, const char *devno, struct suspend_state *ret)
{
    struct looks *looks = self;
    for (size_t i = 0; i < 8 && looks->devno[i]; i++)
        if (strcmp(looks->devno[i], devno) == 0) {
            *ret = looks->state[i];
            looks->asked[i] = true;
            return 0;
        }
    return -ENXIO;
}

static const char *const none[] = {NULL};
static const char *const on_vdb[] = {"vdb", NULL};

/* A guest with `/` on vda and a mapping "db" on vdb that `opens` processes have open. */
static void make_guest(struct tree *tree, struct looks *looks, unsigned opens)
{
    tree_disk(tree, "vda", "254:0", 8);
    tree_disk(tree, "vdb", "254:16", 8);
    tree_dm(tree, "dm-0", "253:0", "db", "CRYPT-LUKS2-0001-db", 8, on_vdb);
    tree_file(tree, "proc/self/mountinfo", "1 0 254:0 / / rw - ext4 /dev/vda rw\n");
    tree_file(tree, "proc/swaps", "Filename Type Size Used Priority\n");
    *looks = (struct looks){.devno = {"253:0"}, .state = {{.open_count = opens}}};
    tree->roots.dm_look = dm_look;
    tree->roots.self = looks;
}

static struct raw_device *raws;
static size_t count;
static Sp__Inventory *inventory;

static void forget(void)
{
    raw_free(raws, count);
    if (inventory)
        sp__inventory__free_unpacked(inventory, NULL);
    raws = NULL;
    inventory = NULL;
    count = 0;
}

static void find(struct tree *tree, const char *suspend)
{
    forget();
    assert_int_equal(inventory_read(&tree->roots, &inventory, NULL), 0);
    assert_int_equal(raw_find(&tree->roots, inventory, suspend, &raws, &count), 0);
}

static const struct raw_device *raw(const char *path)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(raws[i].path, path) == 0)
            return &raws[i];
    fail_msg("%s is not found", path);
    return NULL;
}

/* ---- tests ---- */

static void one_that_is_open_may_be_suspended(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    find(tree, "");
    assert_int_equal(count, 1);
    assert_string_equal(raw("/dev/mapper/db")->device->name, "dm-0");
    assert_int_equal(raws[0].verdict, RAW_MAY);
    assert_false(raws[0].listed);
    find(tree, "all");
    assert_true(raws[0].listed);
    find(tree, "/dev/mapper/other, /dev/mapper/db");
    assert_true(raws[0].listed);
    find(tree, "/dev/mapper/d,/dev/mapper/dbs,db");
    assert_false(raws[0].listed);
}

static void one_that_nothing_has_open_is_not_in_use(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 0);
    find(tree, "all");
    assert_int_equal(count, 0);
    assert_true(looks.asked[0]);
}

static void a_mounted_one_is_left_to_its_file_system(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 2);
    tree_file(tree, "proc/self/mountinfo",
              "1 0 254:0 / / rw - ext4 /dev/vda rw\n2 1 253:0 / /db rw - ext4 /dev/mapper/db rw\n");
    find(tree, "all");
    assert_int_equal(count, 0);
    /* btrfs has a number of its own. */
    tree_file(tree, "proc/self/mountinfo",
              "1 0 254:0 / / rw - ext4 /dev/vda rw\n2 1 0:40 / /db rw - btrfs /dev/mapper/db rw\n");
    find(tree, "all");
    assert_int_equal(count, 0);
}

/* A btrfs of several devices, which its mount does not name. */
static void a_member_of_a_mounted_one_is_left_to_it_too(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    find(tree, "all");
    assert_int_equal(count, 1);
    Sp__FileSystem *root = inventory->file_systems[0];
    assert_int_equal(message_append_text(&root->devices, &root->n_devices, "vda"), 0);
    assert_int_equal(message_append_text(&root->devices, &root->n_devices, "dm-0"), 0);
    raw_free(raws, count);
    assert_int_equal(raw_find(&tree->roots, inventory, "all", &raws, &count), 0);
    assert_int_equal(count, 0);
}

static void swap_is_never_suspended(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    for (const char **path = (const char *[]){"/dev/dm-0", "/dev/mapper/db", NULL}; *path; path++) {
        tree_file(tree, "proc/swaps",
                  "Filename Type Size Used Priority\n/swapfile file 1 0 -2\n"
                  "%s partition 8188 0 -3\n",
                  *path);
        find(tree, "all");
        assert_int_equal(count, 0);
    }
    tree_file(tree, "proc/swaps", "Filename Type Size Used Priority\n/dev/dm-1 partition 1 0 -3\n");
    find(tree, "all");
    assert_int_equal(count, 1);
}

static void only_the_top_of_a_stack_is_meant(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 3); /* two tables and, for a moment, some process */
    static const char *const on_db[] = {"dm-0", NULL};
    tree_dm(tree, "dm-1", "253:1", "vg-one--data", "LVM-aa", 4, on_db);
    tree_dm(tree, "dm-2", "253:2", "vg-root", "LVM-bb", 4, on_db);
    looks.devno[1] = "253:1";
    looks.state[1].open_count = 1;
    looks.devno[2] = "253:2";
    looks.state[2].open_count = 1;
    tree_file(tree, "proc/self/mountinfo", "1 0 253:2 / / rw - ext4 /dev/mapper/vg-root rw\n");
    find(tree, "/dev/vg/one-data");
    assert_int_equal(count, 1); /* not what `/` lies on, though something has it open */
    assert_true(raw("/dev/mapper/vg-one--data")->listed);
    assert_int_equal(raws[0].verdict, RAW_MAY);
    find(tree, "/dev/vg/one--data,/dev/mapper/vg-one-data");
    assert_false(raws[0].listed);
}

static void what_another_device_lies_on_is_held_with_it(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    tree_disk(tree, "loop0", "7:0", 4);
    tree_file(tree, "sys/block/loop0/loop/backing_file", "/dev/dm-0\n");
    find(tree, "all");
    assert_int_equal(count, 0);
    tree_file(tree, "sys/block/loop0/loop/backing_file", "/file\n");
    find(tree, "all");
    assert_int_equal(count, 1);
    /* One of no size yet, which the inventory leaves out. */
    tree_file(tree, "sys/block/dm-0/holders/dm-9", "%s", "");
    find(tree, "all");
    assert_int_equal(count, 0);
}

static void one_that_is_suspended_is_not_even_read(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    looks.state[0].suspended = true;
    tree_mkfs(tree, "dm-0", "mke2fs -q -t ext4"); /* would be CONTENT if it were */
    find(tree, "all");
    assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_BUSY);
    looks.state[0] = (struct suspend_state){.open_count = 1, .has_inactive_table = true};
    find(tree, "all");
    assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_BUSY);
}

static void a_read_only_one_needs_no_hold(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    looks.state[0].read_only = true;
    find(tree, "all");
    assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_READ_ONLY);
}

/* Open without being mounted: another member of a mounted btrfs, a journal of ext4. */
static void parts_of_file_systems_are_left_alone(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    tree_mkfs(tree, "dm-0", "mke2fs -q -O journal_dev -b 4096");
    find(tree, "all");
    assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_CONTENT);
    tree_mkfs(tree, "dm-0", "mke2fs -q -F -t ext4");
    find(tree, "all");
    assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_CONTENT);
    /* Two signatures: it cannot be told. */
    tree_write(tree, "dm-0", 4096 - 10, "SWAPSPACE2", 10);
    tree_write(tree, "dm-0", 1024, "\1\0\0\0\377\7\0\0", 8);
    find(tree, "all");
    assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_CONTENT);
}

static void an_application_s_own_format_is_no_file_system(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    tree_write(tree, "dm-0", 32, "ORCLDISK", 8);
    find(tree, "all");
    assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_MAY);
    /* The disk of a machine: a partition table. */
    tree_write(tree, "dm-0", 32, "\0\0\0\0\0\0\0\0", 8);
    tree_mkfs(tree, "dm-0", "echo 'start=2048' | sfdisk -q --no-reread");
    find(tree, "all");
    assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_MAY);
}

static void a_log_device_of_a_mount_is_left_alone(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    for (const char **path = (const char *[]){"/dev/mapper/db", "/dev/dm-0", NULL}; *path; path++) {
        tree_file(tree, "proc/self/mountinfo",
                  "1 0 254:0 / / rw - xfs /dev/vda rw,attr2,logdev=%s,noquota\n", *path);
        find(tree, "all");
        assert_int_equal(raw("/dev/mapper/db")->verdict, RAW_CONTENT);
    }
}

/* ZFS, a live system: what it lies on is in no table that the kernel shows. */
static void nothing_is_suspended_where_the_root_is_unknown(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    static const struct {
        const char *mounts;
        enum raw_verdict verdict;
    } cases[] = {
        {"1 0 0:30 / / rw - zfs rpool/ROOT rw\n", RAW_ROOT},
        {"1 0 0:30 / / rw - overlay overlay rw\n", RAW_ROOT},
        {"", RAW_ROOT},
        {"1 0 0:2 / / rw - rootfs rootfs rw\n", RAW_MAY},
        {"1 0 0:30 / / rw - tmpfs tmpfs rw\n", RAW_MAY},
        {"1 0 0:30 / / rw - nfs4 server:/x rw\n", RAW_MAY},
        /* The last one is the one that is seen. */
        {"1 0 0:2 / / rw - rootfs rootfs rw\n2 1 0:30 / / rw - zfs rpool/ROOT rw\n", RAW_ROOT},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        tree_file(tree, "proc/self/mountinfo", "%s", cases[i].mounts);
        find(tree, "all");
        assert_int_equal(raw("/dev/mapper/db")->verdict, cases[i].verdict);
    }
}

static void a_guest_without_device_mapper_has_none(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    tree->roots.dm_look = NULL;
    find(tree, "all");
    assert_int_equal(count, 0);
    tree->roots.dm_look = suspend_look_system; /* 253:0 of this host, if any, is no device of it */
    tree_dm(tree, "dm-7", "4095:77", "ghost", "CRYPT-PLAIN-ghost", 4, none);
    find(tree, "/dev/mapper/ghost");
    for (size_t i = 0; i < count; i++)
        assert_string_not_equal(raws[i].path, "/dev/mapper/ghost");
}

/* While it is suspended nothing of it can be read. */
static void one_that_is_held_is_told_of_as_right_before(void **state)
{
    struct tree *tree = *state;
    struct looks looks;
    make_guest(tree, &looks, 1);
    tree_mkfs(tree, "dm-0", "echo 'start=2048' | sfdisk -q --no-reread");
    tree_disk(tree, "vdc", "254:32", 8);
    static const char *const on_vdc[] = {"vdc", NULL};
    tree_dm(tree, "dm-1", "253:1", "asm", "CRYPT-PLAIN-asm", 8, on_vdc);
    tree_write(tree, "dm-1", 32, "ORCLDISK", 8);
    find(tree, "all");
    const Sp__BlockDevice *db = inventory_device(inventory, "dm-0");
    assert_string_equal(db->partition_table, "dos");
    assert_string_equal(inventory_device(inventory, "dm-1")->content->type, "oracleasm");
    tree_file(tree, "sys/block/dm-0/dm/suspended", "1\n");
    tree_file(tree, "sys/block/dm-1/dm/suspended", "1\n");
    for (const char **name = (const char *[]){"dm-0", "dm-1", NULL}; *name; name++) {
        SP_FREE char *node = sp_format("%s/%s", tree->dev, *name);
        assert_int_equal(unlink(node), 0); /* so that reading it would be noticed */
    }
    Sp__Inventory *again = NULL;
    assert_int_equal(inventory_read_again(&tree->roots, inventory, &again, NULL), 0);
    assert_int_equal(again->n_findings, 0);
    assert_memory_equal(again->digest.data, inventory->digest.data, 32);
    sp__inventory__free_unpacked(again, NULL);
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
    forget();
    tree_free(*state);
    return 0;
}

#define T(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_that_is_open_may_be_suspended),
        T(one_that_nothing_has_open_is_not_in_use),
        T(a_mounted_one_is_left_to_its_file_system),
        T(a_member_of_a_mounted_one_is_left_to_it_too),
        T(swap_is_never_suspended),
        T(only_the_top_of_a_stack_is_meant),
        T(what_another_device_lies_on_is_held_with_it),
        T(one_that_is_suspended_is_not_even_read),
        T(a_read_only_one_needs_no_hold),
        T(parts_of_file_systems_are_left_alone),
        T(an_application_s_own_format_is_no_file_system),
        T(a_log_device_of_a_mount_is_left_alone),
        T(nothing_is_suspended_where_the_root_is_unknown),
        T(a_guest_without_device_mapper_has_none),
        T(one_that_is_held_is_told_of_as_right_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
