/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/freeze_list.h"
#include "agent/linux/suspend.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

const char *freeze_end_name(enum freeze_end end)
{
    switch (end) {
    case FREEZE_END_COMMAND:
        return "command";
    case FREEZE_END_DEADLINE:
        return "deadline";
    case FREEZE_END_AGENT_LOST:
        return "agent lost";
    case FREEZE_END_FREEZER_LOST:
        return "freezer lost";
    case FREEZE_END_NONE:
        break;
    }
    return "";
}

uint64_t freeze_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool freeze_entry_unsettled(const struct freeze_entry *entry)
{
    switch (atomic_load(&entry->state)) {
    case FREEZE_ENTRY_FREEZING:
    case FREEZE_ENTRY_FROZEN:
    case FREEZE_ENTRY_ABANDONED:
    case FREEZE_ENTRY_THAWING:
        return true;
    default:
        return false;
    }
}

static bool never_freezes(int fd)
{
    struct statfs info;
    if (fstatfs(fd, &info) < 0)
        return false;
    return info.f_type == TMPFS_MAGIC || info.f_type == (__fsword_t)RAMFS_MAGIC;
}

int freeze_list_map(int fd, struct freeze_list **ret)
{
    struct stat info;
    if (fstat(fd, &info) < 0)
        return -errno;
    if (info.st_size != (off_t)sizeof(struct freeze_list))
        return -EBADMSG;
    void *at = mmap(NULL, sizeof(struct freeze_list), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return -errno;
    struct freeze_list *list = at;
    if (memcmp(list->magic, FREEZE_LIST_MAGIC, sizeof(list->magic)) != 0 ||
        list->version != FREEZE_LIST_VERSION || list->size != sizeof(*list) ||
        atomic_load(&list->count) > FREEZE_LIST_MOST) {
        munmap(at, sizeof(*list));
        return -EBADMSG;
    }
    *ret = list;
    return 0;
}

void freeze_list_unmap(struct freeze_list *list)
{
    if (list)
        munmap(list, sizeof(*list));
}

int freeze_list_create(const char *folder, int *ret_fd, struct freeze_list **ret,
                       struct sp_why *why)
{
    int r = sp_make_directories(folder, 0700);
    if (r < 0)
        return sp_why_set(why, r, "cannot make the runtime folder '%s'", folder);
    SP_FREE char *path = sp_format("%s/frozen", folder);
    if (!path)
        return -ENOMEM;
    SP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return sp_why_set(why, -errno, "cannot open '%s'", path);
    if (!never_freezes(fd))
        return sp_why_set(why, -ENOTSUP,
                          "the runtime folder '%s' is not on a tmpfs: the list of frozen file "
                          "systems must not lie on one that can freeze; set agent.runtime",
                          folder);
    /* A whole header first, or a reader would meet half of one. */
    struct freeze_list head = {.version = FREEZE_LIST_VERSION, .size = sizeof(head)};
    memcpy(head.magic, FREEZE_LIST_MAGIC, sizeof(head.magic));
    if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)sizeof(head)) < 0)
        return sp_why_set(why, -errno, "cannot size '%s'", path);
    r = sp_pwrite_all(fd, &head, offsetof(struct freeze_list, entries), 0);
    if (r == 0)
        r = freeze_list_map(fd, ret);
    if (r < 0)
        return sp_why_set(why, r, "cannot map '%s'", path);
    *ret_fd = sp_steal_fd(&fd);
    return 0;
}

/* ---- what a dead freezer left ---- */

static void on_alarm(int number)
{
    (void)number;
}

/* Waits for the freezer's exit: its lock goes when the last of its threads has ended. */
static int wait_for_exit(int fd, unsigned wait_s)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno != EWOULDBLOCK || wait_s == 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    struct sigaction old, action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, &old);
    alarm(wait_s);
    int r = flock(fd, LOCK_EX) == 0 ? 0 : errno == EINTR ? -EBUSY : -errno;
    alarm(0);
    sigaction(SIGALRM, &old, NULL);
    return r;
}

/* The id of the mount behind fd, -1 if it cannot be had. */
static long mount_id(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    SP_FREE char *text = NULL;
    if (sp_file_read(path, 65536, &text, NULL) < 0)
        return -1;
    const char *at = strstr(text, "mnt_id:");
    return at ? strtol(at + 7, NULL, 10) : -1;
}

/* mountinfo escapes blanks as \ooo. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *at = text; *at;) {
        if (at[0] == '\\' && at[1] >= '0' && at[1] <= '3' && at[2] >= '0' && at[2] <= '7' &&
            at[3] >= '0' && at[3] <= '7') {
            *to++ = (char)((at[1] - '0') << 6 | (at[2] - '0') << 3 | (at[3] - '0'));
            at += 4;
        } else {
            *to++ = *at++;
        }
    }
    *to = 0;
}

/* Opens some mount of the superblock `devno`. A mount may be hidden under another one, so what was
 * opened is compared by mount id. */
int freeze_open_superblock(const char *devno)
{
    SP_FILE FILE *in = fopen("/proc/self/mountinfo", "re");
    if (!in)
        return -errno;
    SP_FREE char *line = NULL;
    size_t room = 0;
    int found = -ENODEV;
    while (found < 0 && getline(&line, &room, in) > 0) {
        char *save = NULL;
        char *id = strtok_r(line, " ", &save);
        strtok_r(NULL, " ", &save);
        char *number = strtok_r(NULL, " ", &save);
        strtok_r(NULL, " ", &save);
        char *point = strtok_r(NULL, " ", &save);
        if (!point || strcmp(number, devno) != 0)
            continue;
        unescape(point);
        int fd = open(point, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0 && mount_id(fd) == strtol(id, NULL, 10))
            found = fd;
        else if (fd >= 0)
            close(fd);
    }
    return found;
}

bool freeze_error_settles(int error)
{
    /* EINVAL: it is not frozen (the FIFREEZE had failed, or somebody thawed). ENODEV: no mount of
     * it is left here. ENXIO: no such device-mapper device. */
    return error == 0 || error == EINVAL || error == EOPNOTSUPP || error == ENODEV ||
           error == ENXIO;
}

static int thaw_entry(struct freeze_entry *entry, FILE *out)
{
    bool device = entry->kind == FREEZE_KIND_DEVICE;
    SP_FD int fd = device ? suspend_open() : freeze_open_superblock(entry->devno);
    int error = 0;
    if (fd < 0)
        error = -fd;
    else if ((device ? suspend_release(fd, entry->devno) : ioctl(fd, FITHAW, 0)) < 0)
        error = errno;
    bool settled = freeze_error_settles(error);
    if (settled)
        atomic_store(&entry->state, FREEZE_ENTRY_THAWED);
    entry->thaw_error = error;
    if (out)
        fprintf(out, "%s %s%s%s\n",
                error == 0 ? device ? "resumed" : "thawed"
                : settled  ? device ? "not suspended:" : "not frozen:"
                           : "FAILED:",
                entry->mount_point, error ? ": " : "", error ? strerror(error) : "");
    return settled ? 0 : -error;
}

int freeze_list_thaw_left_over(const char *folder, unsigned wait_s, FILE *out, struct sp_why *why)
{
    SP_FREE char *path = sp_format("%s/frozen", folder);
    if (!path)
        return -ENOMEM;
    SP_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? 0 : sp_why_set(why, -errno, "cannot open '%s'", path);
    int r = wait_for_exit(fd, wait_s);
    if (r == -EBUSY)
        return sp_why_set(why, r,
                          "a freezer still runs: it thaws by itself at its deadline, or "
                          "when the agent is stopped");
    struct freeze_list *list = NULL;
    if (r == 0)
        r = freeze_list_map(fd, &list);
    if (r == -EBADMSG)
        return 0; /* the agent died before it had a list: nothing was frozen yet */
    if (r < 0)
        return sp_why_set(why, r, "cannot read '%s'", path);
    /* The lowest first: a thaw may write through a loop device into the one below. */
    for (uint32_t level = 0; level <= FREEZE_LIST_MOST; level++)
        for (uint32_t i = 0; i < atomic_load(&list->count); i++) {
            struct freeze_entry *entry = &list->entries[i];
            if (entry->level != level || !freeze_entry_unsettled(entry))
                continue;
            int error = thaw_entry(entry, out);
            if (error < 0)
                r = sp_why_set(why, error, "'%s' could not be thawed", entry->mount_point);
        }
    freeze_list_unmap(list);
    return r;
}
