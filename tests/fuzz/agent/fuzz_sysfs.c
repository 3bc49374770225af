/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A guest whose kernel tells anything: the input is cut at 0xff into the texts of the files below,
 * in their order. The inventory must come out whole, with sane names, or fail with an error; twice
 * the same files must give the same digest. */
#include "agent/inventory.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { DEVICE_BYTES = 4096 }; /* what the devices hold is not the subject, and costs the most */

static char folder[64];

static const struct {
    const char *path, *text; /* what is there before the input is */
} files[] = {
    {"sys/block/vda/size", "2048\n"},
    {"sys/block/vda/dev", "254:0\n"},
    {"sys/block/vda/serial", "d0\n"},
    {"sys/block/vda/device/vpd_pg80", ""},
    {"sys/block/vda/queue/logical_block_size", "512\n"},
    {"sys/block/vda/vda1/size", "1024\n"},
    {"sys/block/vda/vda1/start", "8\n"},
    {"sys/block/vda/vda1/partition", "1\n"},
    {"sys/block/vda/vda1/dev", "254:1\n"},
    {"sys/block/dm-0/size", "1024\n"},
    {"sys/block/dm-0/dev", "252:0\n"},
    {"sys/block/dm-0/dm/name", "secret\n"},
    {"sys/block/dm-0/dm/uuid", "CRYPT-PLAIN-secret\n"},
    {"sys/block/dm-0/dm/suspended", "0\n"},
    {"sys/block/dm-0/slaves/vda1", ""},
    {"sys/block/loop0/size", "64\n"},
    {"sys/block/loop0/dev", "7:0\n"},
    {"sys/block/loop0/loop/backing_file", "/srv/a.img\n"},
    {"proc/self/mountinfo", "22 1 252:0 / /srv rw - ext4 /dev/mapper/secret rw\n"},
    {"crypttab", "secret /dev/vda1 /dev/urandom swap,hash=sha256\n"},
    {"run/udev/data/b254:0", "E:ID_SERIAL_SHORT=x\n"},
};

/* What is there already is not written again: most inputs differ in one place. */
static void put(size_t i, const void *data, size_t size)
{
    static uint8_t known[sizeof files / sizeof files[0]][256];
    static size_t known_size[sizeof files / sizeof files[0]];
    static bool written[sizeof files / sizeof files[0]];
    if (written[i] && size == known_size[i] && size <= sizeof known[i] &&
        memcmp(known[i], data, size) == 0)
        return;
    written[i] = true;
    known_size[i] = size;
    memcpy(known[i], data, size < sizeof known[i] ? size : sizeof known[i]);
    SP_FREE char *path = sp_format("%s/%s", folder, files[i].path);
    SP_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || sp_write_all(fd, data, size) < 0)
        abort();
}

static void make_folder(const char *path)
{
    SP_FREE char *full = sp_format("%s/%s", folder, path);
    char *slash = strrchr(full, '/');
    *slash = 0;
    if (sp_make_directories(full, 0700) < 0)
        abort();
}

static void remove_folder(void)
{
    SP_FREE char *command = sp_format("rm -rf '%s'", folder);
    if (system(command) != 0)
        perror(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    static const char *const nodes[] = {"dev/vda", "dev/vda1", "dev/dm-0", "dev/loop0"};
    snprintf(folder, sizeof folder, "/dev/shm/sealpoint-fuzz-XXXXXX");
    if (!mkdtemp(folder))
        abort();
    atexit(remove_folder);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        make_folder(files[i].path);
    for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++) {
        make_folder(nodes[i]);
        SP_FREE char *path = sp_format("%s/%s", folder, nodes[i]);
        SP_FD int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, DEVICE_BYTES) < 0)
            abort();
    }
    return 0;
}

static int dm_table(void *self, const char *devno, struct inventory_dm_target *targets,
                    unsigned most)
{
    (void)self, (void)devno;
    if (most == 0)
        return 0;
    targets[0] =
        (struct inventory_dm_target){.length_sectors = 1024, .type = "linear", .device = "254:1"};
    return 1;
}

static Sp__Inventory *read_once(void)
{
    SP_FREE char *sys = sp_format("%s/sys", folder), *proc = sp_format("%s/proc", folder);
    SP_FREE char *dev = sp_format("%s/dev", folder), *run = sp_format("%s/run", folder);
    SP_FREE char *crypttab = sp_format("%s/crypttab", folder);
    const struct inventory_roots roots = {.sys = sys,
                                          .proc = proc,
                                          .dev = dev,
                                          .run = run,
                                          .crypttab = crypttab,
                                          .dm_table = dm_table};
    Sp__Inventory *inventory = NULL;
    struct sp_why why = {0};
    return inventory_read(&roots, &inventory, &why) == 0 ? inventory : NULL;
}

static void check(const Sp__Inventory *inventory)
{
    for (size_t i = 0; i < inventory->n_devices; i++) {
        if (!inventory->devices[i]->name[0] || !inventory->devices[i]->type[0])
            abort();
        (void)inventory_loop_depth(inventory, inventory->devices[i]->name);
    }
    for (size_t i = 0; i < inventory->n_volumes; i++)
        if (!inventory->volumes[i]->volume_id[0] || !inventory->volumes[i]->n_stack)
            abort();
    for (size_t i = 0; i < inventory->n_findings; i++)
        if (!inventory->findings[i]->text[0])
            abort();
}

static void compare_with_another(const Sp__Inventory *a)
{
    Sp__Inventory *b = read_once();
    if (!a != !b || (a && memcmp(a->digest.data, b->digest.data, 32) != 0))
        abort();
    if (b)
        sp__inventory__free_unpacked(b, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool again = size % 8 == 0; /* it costs as much as all the rest */
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const uint8_t *end = size ? memchr(data, 0xff, size) : NULL;
        size_t length = end ? (size_t)(end - data) : size;
        if (size)
            put(i, data, length);
        else
            put(i, files[i].text, strlen(files[i].text));
        size_t used = end ? length + 1 : length;
        data += used;
        size -= used;
    }
    Sp__Inventory *a = read_once();
    if (a)
        check(a);
    if (again)
        compare_with_another(a);
    if (a)
        sp__inventory__free_unpacked(a, NULL);
    return 0;
}
