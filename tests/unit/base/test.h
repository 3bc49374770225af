/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * cmocka with what it asks to be included before it, and a folder that goes away. */
#ifndef SEALPOINT_TEST_H
#define SEALPOINT_TEST_H

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static inline int test_remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

/* For cmocka's setup and teardown: *state is the folder's path. */
static inline int test_folder_setup(void **state)
{
    char *path = strdup("/tmp/sealpoint-test-XXXXXX");
    *state = path;
    return path && mkdtemp(path) ? 0 : -1;
}

static inline int test_folder_teardown(void **state)
{
    int r = nftw(*state, test_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return r;
}

#endif
