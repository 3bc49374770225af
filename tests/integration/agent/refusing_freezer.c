/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A freezer whose FIFREEZE says EOPNOTSUPP, as vfat's does; this host has no such file system. With
 * an argument: one whose FIFREEZE of a file system that has a file `hang` does not return before
 * that is gone, and which leaves <folder of the mounts>/thawed at its FITHAW. */
#include "agent/linux/freeze_list.h"
#include "agent/linux/freezer_process.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static int refuse(int fd)
{
    (void)fd;
    errno = EOPNOTSUPP;
    return -1;
}

static int hang(int fd)
{
    struct timespec pause = {.tv_nsec = 10000000};
    while (faccessat(fd, "hang", F_OK, 0) == 0)
        nanosleep(&pause, NULL);
    return freezer_calls_system.freeze(fd);
}

static int thaw(int fd)
{
    int r = freezer_calls_system.thaw(fd);
    int mark = openat(fd, "../thawed", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (mark >= 0)
        close(mark);
    return r;
}

int main(int argc, char **argv)
{
    static const struct freezer_calls refuses = {.freeze = refuse, .thaw = refuse},
                                      hangs = {.freeze = hang, .thaw = thaw};
    (void)argv;
    struct freeze_list *list;
    if (freeze_list_map(FREEZER_LIST_FD, &list) < 0)
        return 1;
    return freezer_serve(FREEZER_SOCKET_FD, list, argc > 1 ? &hangs : &refuses, 0) < 0;
}
