/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/scan.h"
#include "base/secret.h"
#include <errno.h>
#include <libdevmapper.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "maj:min" of a table; some old tables name a path, which is no use here. */
static int take_device(const char *text, struct inventory_dm_target *target)
{
    unsigned device_major, device_minor;
    char rest;
    if (sscanf(text, "%u:%u%c", &device_major, &device_minor, &rest) != 2)
        return -EINVAL;
    snprintf(target->device, sizeof(target->device), "%u:%u", device_major, device_minor);
    return 0;
}

static int take_number(const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end)
        return -EINVAL;
    *ret = value;
    return 0;
}

/* The length of a key as the table shows it, which is then wiped. In hex, or
 * ":<bytes>:<type>:<description>" of a key in the keyring, or "-" for none. */
static uint32_t measure_key(char *key)
{
    size_t length = strlen(key);
    uint32_t bits = 0;
    if (key[0] == ':')
        bits = (uint32_t)(strtoul(key + 1, NULL, 10) * 8);
    else if (key[0] != '-')
        bits = (uint32_t)(length * 4);
    sp_wipe(key, length);
    return bits;
}

/* <cipher> <key> <iv_offset> <device> <offset> [<count> <option>…], Documentation/admin-guide/
 * device-mapper/dm-crypt.rst */
static int parse_crypt(char *parameters, struct inventory_dm_target *target)
{
    char *save = NULL;
    char *cipher = strtok_r(parameters, " ", &save);
    char *key = strtok_r(NULL, " ", &save);
    if (!key)
        return -EINVAL;
    target->key_bits = measure_key(key);
    char *iv = strtok_r(NULL, " ", &save), *device = strtok_r(NULL, " ", &save);
    char *offset = strtok_r(NULL, " ", &save);
    if (!offset || take_number(iv, &target->iv_offset_sectors) < 0 ||
        take_number(offset, &target->device_offset_sectors) < 0 || take_device(device, target) < 0)
        return -EINVAL;
    snprintf(target->cipher, sizeof(target->cipher), "%s", cipher);
    target->sector_bytes = 512;
    for (char *option; (option = strtok_r(NULL, " ", &save));)
        if (strncmp(option, "sector_size:", 12) == 0)
            target->sector_bytes = (uint32_t)strtoul(option + 12, NULL, 10);
    return 0;
}

static int parse_linear(char *parameters, struct inventory_dm_target *target)
{
    char *save = NULL;
    char *device = strtok_r(parameters, " ", &save), *offset = strtok_r(NULL, " ", &save);
    if (!offset || take_device(device, target) < 0)
        return -EINVAL;
    return take_number(offset, &target->device_offset_sectors);
}

int scan_dm_parse(const char *type, char *parameters, struct inventory_dm_target *target)
{
    snprintf(target->type, sizeof(target->type), "%s", type);
    if (strcmp(type, "crypt") == 0)
        return parse_crypt(parameters, target);
    if (strcmp(type, "linear") == 0)
        return parse_linear(parameters, target);
    return 0;
}

/* libdevmapper writes to stderr by itself otherwise. */
static void say_nothing(int level, const char *file, int line, int error, const char *format, ...)
{
    (void)level, (void)file, (void)line, (void)error, (void)format;
}

static int read_table(struct dm_task *task, const char *devno, struct inventory_dm_target *targets,
                      unsigned most)
{
    unsigned device_major, device_minor;
    if (sscanf(devno, "%u:%u", &device_major, &device_minor) != 2)
        return -EINVAL;
    /* secure_data: kernel and library wipe the buffers that carry the table, since it shows keys.
     */
    if (!dm_task_set_major(task, (int)device_major) ||
        !dm_task_set_minor(task, (int)device_minor) || !dm_task_secure_data(task) ||
        !dm_task_no_open_count(task) || !dm_task_run(task))
        return -EIO;
    unsigned count = 0;
    void *next = NULL;
    do {
        uint64_t start, length;
        char *type = NULL, *parameters = NULL;
        next = dm_get_next_target(task, next, &start, &length, &type, &parameters);
        if (!type || !parameters || count >= most)
            break;
        struct inventory_dm_target *target = &targets[count++];
        *target = (struct inventory_dm_target){.start_sectors = start, .length_sectors = length};
        size_t size = strlen(parameters);
        int r = scan_dm_parse(type, parameters, target);
        sp_wipe(parameters, size);
        if (r < 0)
            return r;
    } while (next);
    return (int)count;
}

int scan_dm_table_system(void *self, const char *devno, struct inventory_dm_target *targets,
                         unsigned most)
{
    (void)self;
    /* Without the node libdevmapper would try to make it, by loading the module. */
    if (access("/dev/mapper/control", R_OK | W_OK) < 0)
        return -ENOSYS;
    dm_log_with_errno_init(say_nothing);
    struct dm_task *task = dm_task_create(DM_DEVICE_TABLE);
    if (!task)
        return -ENOMEM;
    int r = read_table(task, devno, targets, most);
    dm_task_destroy(task);
    return r;
}
