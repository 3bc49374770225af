/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/inventory.h"
#include "agent/linux/scan.h"
#include "agent/linux/suspend.h"
#include "base/bytes.h"
#include "base/clock.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const struct inventory_roots inventory_roots_system = {
    .sys = "/sys",
    .proc = "/proc",
    .dev = "/dev",
    .run = "/run",
    .crypttab = "/etc/crypttab",
    .dm_table = scan_dm_table_system,
    .dm_look = suspend_look_system,
};

uint64_t inventory_boottime_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void scan_done(struct scan *scan)
{
    for (size_t i = 0; i < scan->count; i++) {
        free(scan->devices[i].backing_file);
        if (scan->devices[i].facts)
            sp__header_facts__free_unpacked(scan->devices[i].facts, NULL);
    }
    free(scan->devices);
    for (size_t i = 0; i < scan->mount_count; i++) {
        free(scan->mounts[i].point);
        free(scan->mounts[i].root);
        free(scan->mounts[i].device);
    }
    free(scan->mounts);
    free(scan->whole);
}

int inventory_read(const struct inventory_roots *roots, Sp__Inventory **ret, struct sp_why *why)
{
    return inventory_read_again(roots, NULL, ret, why);
}

int inventory_read_again(const struct inventory_roots *roots, const Sp__Inventory *before,
                         Sp__Inventory **ret, struct sp_why *why)
{
    static const struct {
        const char *what;
        int (*run)(struct scan *);
    } steps[] = {
        {"the block devices in sysfs", scan_devices},
        {"mountinfo", scan_mounts},
        {"mountinfo of other namespaces", scan_mounts_elsewhere},
        {"loop devices", scan_loops},
        {"contents of devices", scan_contents},
        {"volumes", scan_volumes},
        {"what is wrong with volumes", scan_findings},
    };
    Sp__Inventory *inventory = malloc(sizeof(*inventory));
    if (!inventory)
        return -ENOMEM;
    sp__inventory__init(inventory);
    struct scan scan = {.roots = roots, .before = before, .inventory = inventory};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof(steps) / sizeof(steps[0]); i++) {
        r = steps[i].run(&scan);
        if (r < 0)
            sp_why_set(why, r, "cannot read %s", steps[i].what);
    }
    scan_done(&scan);
    inventory->taken_unix_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    inventory->boottime_ms = inventory_boottime_ms();
    inventory->digest.data = r == 0 ? malloc(32) : NULL;
    if (r == 0 && !inventory->digest.data)
        r = -ENOMEM;
    if (r == 0) {
        r = inventory_digest(inventory, inventory->digest.data);
        inventory->digest.len = 32;
    }
    if (r < 0) {
        sp__inventory__free_unpacked(inventory, NULL);
        return r;
    }
    *ret = inventory;
    return 0;
}

int inventory_digest(const Sp__Inventory *inventory, uint8_t out[32])
{
    /* A shallow copy without what moves by itself; protobuf-c packs fields in their order. */
    Sp__Inventory still = *inventory;
    still.taken_unix_ms = still.boottime_ms = still.sequence = 0;
    still.digest = (ProtobufCBinaryData){0};
    uint8_t *packed = NULL;
    size_t size = 0;
    int r = sp_pack(&still.base, &packed, &size);
    if (r == 0)
        r = sp_sha256_of(packed, size, out);
    free(packed);
    return r;
}

const Sp__BlockDevice *inventory_device(const Sp__Inventory *inventory, const char *name)
{
    for (size_t i = 0; i < inventory->n_devices; i++)
        if (strcmp(inventory->devices[i]->name, name) == 0)
            return inventory->devices[i];
    return NULL;
}

static unsigned depth_of(const Sp__Inventory *inventory, const char *name, unsigned guard)
{
    const Sp__BlockDevice *device = inventory_device(inventory, name);
    unsigned deepest = 0;
    if (!device || guard == 0)
        return 0;
    for (size_t i = 0; i < device->n_parents; i++) {
        unsigned depth = depth_of(inventory, device->parents[i], guard - 1);
        if (depth > deepest)
            deepest = depth;
    }
    return deepest + (strcmp(device->type, "loop") == 0 ? 1 : 0);
}

unsigned inventory_loop_depth(const Sp__Inventory *inventory, const char *device)
{
    return depth_of(inventory, device, 32);
}
