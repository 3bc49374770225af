/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "mounts.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

char mounts_folder[64];
static pid_t guard;
static int guard_pipe = -1;

static void pause_ms(long ms)
{
    struct timespec pause = {.tv_nsec = ms * 1000000};
    nanosleep(&pause, NULL);
}

/* ---- the guard ---- */

/* Collects the mount points below the folder, in mount order. */
static size_t list_mounts(char points[][256], size_t most)
{
    size_t count = 0;
    FILE *in = fopen("/proc/self/mountinfo", "re");
    char line[4096], point[4096];
    while (in && count < most && fgets(line, sizeof(line), in))
        if (sscanf(line, "%*s %*s %*s %*s %4095s", point) == 1 &&
            strncmp(point, mounts_folder, strlen(mounts_folder)) == 0)
            snprintf(points[count++], 256, "%.255s", point);
    if (in)
        fclose(in);
    return count;
}

/* Programs that a test started and did not end: their arguments name the test's own folder. */
static void kill_started(void)
{
    DIR *dir = opendir("/proc");
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        long pid = strtol(entry->d_name, NULL, 10);
        char path[300], text[4096];
        snprintf(path, sizeof(path), "/proc/%s/cmdline", entry->d_name);
        int fd = pid > 1 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        ssize_t n = fd >= 0 ? read(fd, text, sizeof(text)) : 0;
        if (fd >= 0)
            close(fd);
        if (n > 0 && memmem(text, (size_t)n, mounts_folder, strlen(mounts_folder)))
            kill((pid_t)pid, SIGKILL);
    }
    if (dir)
        closedir(dir);
}

/* Thaws each until it says EINVAL, which means not frozen; several rounds, since one that hangs in
 * FIFREEZE can be thawed only when the one below it is. */
static void clean_up(void)
{
    static char points[64][256];
    kill_started();
    for (int round = 0; round < 50; round++) {
        size_t count = list_mounts(points, 64);
        for (size_t i = 0; i < count; i++) {
            int fd = open(points[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
            while (fd >= 0 && ioctl(fd, FITHAW, 0) == 0)
                ;
            if (fd >= 0)
                close(fd);
        }
        for (size_t i = count; i-- > 0;)
            umount2(points[i], 0);
        if (list_mounts(points, 64) == 0)
            break;
        pause_ms(100);
    }
    for (size_t i = list_mounts(points, 64); i-- > 0;)
        umount2(points[i], MNT_DETACH);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf --one-file-system '%s'", mounts_folder);
    if (system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", mounts_folder);
}

/* Lives in a session of its own and waits for the test's end of the pipe to close. */
static void guard_main(int pipe_end)
{
    setsid();
    for (int number = 1; number < 32; number++)
        signal(number, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    char byte;
    while (read(pipe_end, &byte, 1) < 0 && errno == EINTR)
        ;
    clean_up();
    _exit(0);
}

int mounts_begin(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "needs root: mounts and freezes file systems of its own\n");
        return 77;
    }
    snprintf(mounts_folder, sizeof(mounts_folder), "/dev/shm/sealpoint-freeze-XXXXXX");
    int ends[2];
    if (!mkdtemp(mounts_folder) || pipe2(ends, O_CLOEXEC) < 0)
        return 1;
    guard = fork();
    if (guard == 0) {
        close(ends[1]);
        guard_main(ends[0]);
    }
    close(ends[0]);
    guard_pipe = ends[1];
    return guard < 0 ? 1 : 0;
}

void mounts_end(void)
{
    close(guard_pipe);
    waitpid(guard, NULL, 0);
}

/* ---- mounts ---- */

__attribute__((format(printf, 1, 2))) static void run(const char *format, ...)
{
    char command[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    if (system(command) != 0)
        fail_msg("failed: %s", command);
}

const char *mounts_make(const char *name, const char *type, unsigned mib, const char *holder)
{
    static char points[16][128];
    static size_t used;
    assert_true(used < 16);
    char *point = points[used++];
    snprintf(point, 128, "%s/%s", mounts_folder, name);
    char image[256];
    snprintf(image, sizeof(image), "%s/%s.img", holder ? holder : mounts_folder, name);
    run("truncate -s %uM '%s'", mib, image);
    if (strcmp(type, "ext4") == 0)
        run("mkfs.ext4 -q -F '%s'", image);
    else if (strcmp(type, "xfs") == 0)
        run("mkfs.xfs -q '%s'", image);
    else
        run("mkfs.btrfs -q '%s'", image);
    assert_int_equal(mkdir(point, 0755), 0);
    run("mount -o loop '%s' '%s'", image, point);
    return point;
}

static int open_mount(const char *mount_point)
{
    if (strncmp(mount_point, mounts_folder, strlen(mounts_folder)) != 0 || !mounts_folder[0])
        fail_msg("'%s' is not the test's own", mount_point);
    struct stat own, above;
    char parent[300];
    snprintf(parent, sizeof(parent), "%s/..", mount_point);
    if (stat(mount_point, &own) < 0 || stat(parent, &above) < 0 || own.st_dev == above.st_dev)
        fail_msg("'%s' is no mount point", mount_point);
    int fd = open(mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

int mounts_freeze(const char *mount_point)
{
    int fd = open_mount(mount_point);
    int error = ioctl(fd, FIFREEZE, 0) < 0 ? errno : 0;
    close(fd);
    return error;
}

int mounts_thaw(const char *mount_point)
{
    int fd = open_mount(mount_point);
    int error = ioctl(fd, FITHAW, 0) < 0 ? errno : 0;
    close(fd);
    return error;
}

bool mounts_frozen(const char *mount_point)
{
    int error = mounts_freeze(mount_point);
    if (error == EBUSY)
        return true;
    assert_int_equal(error, 0);
    assert_int_equal(mounts_thaw(mount_point), 0);
    return false;
}

void mounts_wait_thawed(const char *mount_point)
{
    for (int i = 0; i < 3000; i++) {
        if (!mounts_frozen(mount_point))
            return;
        pause_ms(10);
    }
    fail_msg("'%s' stays frozen", mount_point);
}

void mounts_write(const char *mount_point, size_t kib, bool sync)
{
    char path[300];
    snprintf(path, sizeof(path), "%s/file", mount_point);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    char block[1024];
    for (size_t i = 0; i < kib; i++) {
        memset(block, (int)(i & 0xff), sizeof(block));
        assert_int_equal(sp_write_all(fd, block, sizeof(block)), 0);
    }
    if (sync)
        assert_int_equal(fsync(fd), 0);
    close(fd);
}

const char *mounts_devno(const char *mount_point, char out[24])
{
    FILE *in = fopen("/proc/self/mountinfo", "re");
    assert_non_null(in);
    char line[4096], number[24], point[4096];
    out[0] = 0;
    while (fgets(line, sizeof(line), in))
        if (sscanf(line, "%*s %*s %23s %*s %4095s", number, point) == 2 &&
            strcmp(point, mount_point) == 0)
            snprintf(out, 24, "%s", number);
    fclose(in);
    assert_true(out[0]);
    return out;
}
