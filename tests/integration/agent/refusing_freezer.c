/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A freezer whose FIFREEZE says EOPNOTSUPP, as vfat's does; this host has no such file system. */
#include "agent/linux/freeze_list.h"
#include "agent/linux/freezer_process.h"
#include <errno.h>
#include <sys/file.h>

static int refuse(int fd)
{
    (void)fd;
    errno = EOPNOTSUPP;
    return -1;
}

int main(void)
{
    static const struct freezer_calls calls = {refuse, refuse};
    struct freeze_list *list;
    if (freeze_list_map(FREEZER_LIST_FD, &list) < 0)
        return 1;
    return freezer_serve(FREEZER_SOCKET_FD, list, &calls, 0) < 0;
}
