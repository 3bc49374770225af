/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/suspend.h"
#include "base/cleanup.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

int suspend_open(void)
{
    int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* strtoul, not sscanf: this runs where nothing may be allocated. */
static bool parse_devno(const char *devno, __u64 *ret)
{
    char *end;
    unsigned long device_major = strtoul(devno, &end, 10);
    if (end == devno || *end != ':')
        return false;
    const char *from = end + 1;
    unsigned long device_minor = strtoul(from, &end, 10);
    if (end == from || *end)
        return false;
    *ret = makedev((unsigned)device_major, (unsigned)device_minor); /* as huge_encode_dev() */
    return true;
}

static int call(int control, unsigned long command, const char *devno, __u32 flags,
                struct dm_ioctl *io)
{
    /* 4.0.0: the kernel refuses another major version only. */
    memset(io, 0, sizeof(*io));
    io->version[0] = 4;
    io->data_size = sizeof(*io);
    io->flags = flags;
    if (!parse_devno(devno, &io->dev)) {
        errno = EINVAL;
        return -1;
    }
    return ioctl(control, command, io);
}

int suspend_look(int control, const char *devno, struct suspend_state *ret)
{
    struct dm_ioctl io;
    if (call(control, DM_DEV_STATUS, devno, 0, &io) < 0)
        return -errno;
    *ret = (struct suspend_state){
        .open_count = io.open_count > 0 ? (unsigned)io.open_count : 0,
        .suspended = io.flags & DM_SUSPEND_FLAG,
        .read_only = io.flags & DM_READONLY_FLAG,
        .has_inactive_table = io.flags & DM_INACTIVE_PRESENT_FLAG,
    };
    return 0;
}

int suspend_look_system(void *self, const char *devno, struct suspend_state *ret)
{
    (void)self;
    SP_FD int control = suspend_open();
    return control < 0 ? control : suspend_look(control, devno, ret);
}

int suspend_hold(int control, const char *devno)
{
    struct suspend_state state;
    int r = suspend_look(control, devno, &state);
    if (r < 0 || state.suspended || state.has_inactive_table) {
        errno = r < 0 ? -r : EBUSY;
        return -1;
    }
    struct dm_ioctl io;
    return call(control, DM_DEV_SUSPEND, devno, DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG, &io);
}

int suspend_release(int control, const char *devno)
{
    for (;;) {
        struct suspend_state state;
        int r = suspend_look(control, devno, &state);
        if (r < 0 || !state.suspended) {
            errno = r < 0 ? -r : EINVAL;
            return -1;
        }
        struct dm_ioctl io;
        r = call(control, DM_DEV_SUSPEND, devno, 0, &io);
        if (r == 0 || errno != EINTR)
            return r;
    }
}
