/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A made-up guest: sys, proc, dev and run in a folder, device nodes as regular files. */
#ifndef SEALPOINT_TESTS_AGENT_TREE_H
#define SEALPOINT_TESTS_AGENT_TREE_H

#include "agent/inventory.h"

struct tree {
    char folder[64], sys[96], proc[96], dev[96], run[96], crypttab[96];
    struct inventory_roots roots;
};

void tree_new(struct tree *tree);
void tree_free(struct tree *tree);
/* A file below the folder, with its folders; printf. */
void tree_file(struct tree *tree, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A disk: sysfs entries and a sparse device file. */
void tree_disk(struct tree *tree, const char *name, const char *devno, uint64_t mib);
void tree_partition(struct tree *tree, const char *disk, const char *name, const char *devno,
                    uint64_t start_sector, uint64_t sectors);
/* dm device on these slaves (names, NULL-terminated). */
void tree_dm(struct tree *tree, const char *name, const char *devno, const char *dm_name,
             const char *uuid, uint64_t mib, const char *const *slaves);
/* Bytes into a device file. */
void tree_write(struct tree *tree, const char *device, uint64_t offset, const void *data,
                size_t size);
/* A real file system in a device file. */
void tree_mkfs(struct tree *tree, const char *device, const char *command);

#endif
