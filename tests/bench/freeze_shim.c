/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * LD_PRELOAD for `tests/bench/run agent-freeze`: when each FIFREEZE and FITHAW was called and
 * returned, by whatever program, on one clock. One line each in the file $FREEZE_SHIM, which lies
 * on a tmpfs:
 *
 *     freeze|thaw  CLOCK_MONOTONIC ns of the call  of the return  errno or 0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void note(const char *what, uint64_t from, uint64_t to, int error)
{
    const char *path = getenv("FREEZE_SHIM");
    char line[96];
    int n = snprintf(line, sizeof(line), "%s %llu %llu %d\n", what, (unsigned long long)from,
                     (unsigned long long)to, error);
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return;
    ssize_t written = write(fd, line, (size_t)n);
    (void)written;
    close(fd);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (request != FIFREEZE && request != FITHAW)
        return (int)syscall(SYS_ioctl, fd, request, argument);
    uint64_t from = now_ns();
    int r = (int)syscall(SYS_ioctl, fd, request, argument);
    int error = r < 0 ? errno : 0;
    note(request == FIFREEZE ? "freeze" : "thaw", from, now_ns(), error);
    errno = error;
    return r;
}
