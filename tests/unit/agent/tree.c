/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tree.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

void tree_new(struct tree *tree)
{
    memset(tree, 0, sizeof(*tree));
    snprintf(tree->folder, sizeof(tree->folder), "/tmp/sealpoint-tree-XXXXXX");
    assert_non_null(mkdtemp(tree->folder));
    snprintf(tree->sys, sizeof(tree->sys), "%s/sys", tree->folder);
    snprintf(tree->proc, sizeof(tree->proc), "%s/proc", tree->folder);
    snprintf(tree->dev, sizeof(tree->dev), "%s/dev", tree->folder);
    snprintf(tree->run, sizeof(tree->run), "%s/run", tree->folder);
    snprintf(tree->crypttab, sizeof(tree->crypttab), "%s/crypttab", tree->folder);
    tree->roots = (struct inventory_roots){.sys = tree->sys,
                                           .proc = tree->proc,
                                           .dev = tree->dev,
                                           .run = tree->run,
                                           .crypttab = tree->crypttab};
    tree_file(tree, "proc/self/mountinfo", "%s", "");
    tree_file(tree, "dev/.keep", "%s", "");
}

void tree_free(struct tree *tree)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", tree->folder);
    assert_int_equal(system(command), 0);
}

void tree_file(struct tree *tree, const char *path, const char *format, ...)
{
    SP_FREE char *full = sp_format("%s/%s", tree->folder, path);
    SP_FREE char *folder = strdup(full);
    *strrchr(folder, '/') = 0;
    assert_int_equal(sp_make_directories(folder, 0755), 0);
    FILE *out = fopen(full, "we");
    assert_non_null(out);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(out, format, arguments);
    va_end(arguments);
    fclose(out);
}

static void node(struct tree *tree, const char *name, uint64_t bytes)
{
    SP_FREE char *path = sp_format("%s/%s", tree->dev, name);
    SP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
}

static void attributes(struct tree *tree, const char *folder, const char *devno, uint64_t sectors)
{
    SP_FREE char *dev = sp_format("%s/dev", folder);
    SP_FREE char *size = sp_format("%s/size", folder);
    SP_FREE char *ro = sp_format("%s/ro", folder);
    tree_file(tree, dev, "%s\n", devno);
    tree_file(tree, size, "%llu\n", (unsigned long long)sectors);
    tree_file(tree, ro, "0\n");
}

void tree_disk(struct tree *tree, const char *name, const char *devno, uint64_t mib)
{
    SP_FREE char *folder = sp_format("sys/block/%s", name);
    SP_FREE char *block = sp_format("%s/queue/logical_block_size", folder);
    attributes(tree, folder, devno, mib << 11);
    tree_file(tree, block, "512\n");
    node(tree, name, mib << 20);
}

void tree_partition(struct tree *tree, const char *disk, const char *name, const char *devno,
                    uint64_t start_sector, uint64_t sectors)
{
    SP_FREE char *folder = sp_format("sys/block/%s/%s", disk, name);
    SP_FREE char *partition = sp_format("%s/partition", folder);
    SP_FREE char *start = sp_format("%s/start", folder);
    attributes(tree, folder, devno, sectors);
    tree_file(tree, partition, "1\n");
    tree_file(tree, start, "%llu\n", (unsigned long long)start_sector);
    node(tree, name, sectors << 9);
}

void tree_dm(struct tree *tree, const char *name, const char *devno, const char *dm_name,
             const char *uuid, uint64_t mib, const char *const *slaves)
{
    tree_disk(tree, name, devno, mib);
    SP_FREE char *name_path = sp_format("sys/block/%s/dm/name", name);
    SP_FREE char *uuid_path = sp_format("sys/block/%s/dm/uuid", name);
    tree_file(tree, name_path, "%s\n", dm_name);
    tree_file(tree, uuid_path, "%s\n", uuid);
    for (; *slaves; slaves++) {
        SP_FREE char *slave = sp_format("sys/block/%s/slaves/%s", name, *slaves);
        tree_file(tree, slave, "%s", "");
    }
}

void tree_write(struct tree *tree, const char *device, uint64_t offset, const void *data,
                size_t size)
{
    SP_FREE char *path = sp_format("%s/%s", tree->dev, device);
    SP_FD int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(sp_pwrite_all(fd, data, size, offset), 0);
}

void tree_mkfs(struct tree *tree, const char *device, const char *command)
{
    char line[512];
    snprintf(line, sizeof(line), "%s '%s/%s' >/dev/null 2>&1", command, tree->dev, device);
    if (system(line) != 0)
        fail_msg("failed: %s", line);
}
