/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/freezer_process.h"
#include "agent/linux/freeze_list.h"
#include "agent/linux/suspend.h"
#include "base/cleanup.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

/* How long one level may take to thaw before the next one is thawed all the same: a thaw that hangs
 * must not keep the others frozen. */
enum { THAW_LEVEL_MS = 2000, STACK_BYTES = 128 * 1024 };

static int system_freeze(int fd)
{
    return ioctl(fd, FIFREEZE, 0);
}

static int system_thaw(int fd)
{
    return ioctl(fd, FITHAW, 0);
}

const struct freezer_calls freezer_calls_system = {.freeze = system_freeze,
                                                   .thaw = system_thaw,
                                                   .suspend = suspend_hold,
                                                   .resume = suspend_release};

struct freezer_server;

/* One entry of the list: a file system, or a device that is suspended. */
struct file_system {
    pthread_t thread;
    sem_t go_freeze, go_thaw;
    int fd;
    bool started;
    _Atomic bool through; /* the thread does nothing more */
    struct freeze_entry *entry;
    struct freezer_server *server;
};

struct freezer_server {
    int socket;
    int event; /* eventfd: some thread finished a step */
    struct freeze_list *list;
    const struct freezer_calls *calls;
    uint32_t count;
    struct file_system systems[FREEZE_LIST_MOST];
};

static void wait_semaphore(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0 && errno == EINTR)
        ;
}

static void step_done(struct freezer_server *server)
{
    uint64_t one = 1;
    ssize_t written = write(server->event, &one, sizeof(one));
    (void)written; /* full only if 2^64 steps wait: a reader is awake anyway */
}

static int call_freeze(struct file_system *fs)
{
    const struct freezer_calls *calls = fs->server->calls;
    return fs->entry->kind == FREEZE_KIND_DEVICE ? calls->suspend(fs->fd, fs->entry->devno)
                                                 : calls->freeze(fs->fd);
}

static int call_thaw(struct file_system *fs)
{
    const struct freezer_calls *calls = fs->server->calls;
    return fs->entry->kind == FREEZE_KIND_DEVICE ? calls->resume(fs->fd, fs->entry->devno)
                                                 : calls->thaw(fs->fd);
}

static void thaw_now(struct file_system *fs)
{
    struct freeze_entry *entry = fs->entry;
    atomic_store(&entry->state, FREEZE_ENTRY_THAWING);
    entry->thaw_from_ns = freeze_now_ns();
    int r = call_thaw(fs);
    entry->thaw_error = r < 0 ? errno : 0;
    entry->thaw_to_ns = freeze_now_ns();
    atomic_store(&entry->state, FREEZE_ENTRY_THAWED);
}

/* One thread for each file system, for the whole of its freeze. */
static void *file_system_thread(void *arg)
{
    struct file_system *fs = arg;
    struct freeze_entry *entry = fs->entry;
    wait_semaphore(&fs->go_freeze);
    entry->freeze_from_ns = freeze_now_ns();
    uint32_t expected = FREEZE_ENTRY_QUEUED;
    /* Not queued: it was dropped, or the hold ended before its turn. */
    if (!atomic_compare_exchange_strong(&entry->state, &expected, FREEZE_ENTRY_FREEZING)) {
        entry->freeze_from_ns = 0;
    } else {
        int r = call_freeze(fs);
        int error = errno;
        entry->freeze_to_ns = freeze_now_ns();
        expected = FREEZE_ENTRY_FREEZING;
        if (r < 0) {
            entry->freeze_error = error;
            atomic_store(&entry->state, FREEZE_ENTRY_REFUSED);
        } else if (!atomic_compare_exchange_strong(&entry->state, &expected, FREEZE_ENTRY_FROZEN)) {
            thaw_now(fs); /* the hold ended while the call hung: nobody waits for it any more */
        } else {
            step_done(fs->server);
            wait_semaphore(&fs->go_thaw);
            thaw_now(fs);
        }
    }
    atomic_store(&fs->through, true);
    step_done(fs->server);
    return NULL;
}

/* ---- the serving thread ---- */

/* Milliseconds until `until_ns`, rounded up, for poll; -1 for 0 (forever). */
static int timeout_ms(uint64_t until_ns)
{
    if (!until_ns)
        return -1;
    uint64_t now = freeze_now_ns();
    if (now >= until_ns)
        return 0;
    uint64_t ms = (until_ns - now + 999999) / 1000000;
    return ms > 3600000 ? 3600000 : (int)ms;
}

/* Tells the agent; it may be gone, then its end of the socket says so. */
static void tell(struct freezer_server *server, enum freezer_kind kind, uint32_t value)
{
    struct freezer_message m = {.kind = kind, .value = value};
    ssize_t sent = send(server->socket, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent;
}

/* Receives one message, with at most one fd. 1: got one, 0: the agent is gone, -errno. */
static int receive(int socket, struct freezer_message *m, int *ret_fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = m, .iov_len = sizeof(*m)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    *ret_fd = -1;
    ssize_t n;
    do
        n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n == 0 || errno == ECONNRESET ? 0 : -errno;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
    return n == (ssize_t)sizeof(*m) ? 1 : -EPROTO;
}

typedef bool condition_fn(struct freezer_server *server, uint32_t level);

/* Polls until `met` (may be NULL: never), the deadline, the agent's end, or, when `commands` are
 * listened to, THAW. Returns FREEZE_END_NONE if met. */
static enum freeze_end wait_for(struct freezer_server *server, condition_fn *met, uint32_t level,
                                uint64_t until_ns, bool commands)
{
    for (;;) {
        if (met && met(server, level))
            return FREEZE_END_NONE;
        struct pollfd polled[] = {{.fd = server->event, .events = POLLIN},
                                  {.fd = commands ? server->socket : -1, .events = POLLIN}};
        int r = poll(polled, 2, timeout_ms(until_ns));
        if (polled[0].revents) {
            uint64_t steps;
            ssize_t got = read(server->event, &steps, sizeof(steps));
            (void)got;
        }
        if (r > 0 && polled[1].revents) {
            struct freezer_message m;
            int fd;
            int got = receive(server->socket, &m, &fd);
            if (fd >= 0)
                close(fd);
            /* Whatever is no THAW breaks the protocol: as good as no agent. */
            return got > 0 && m.kind == FREEZER_THAW && m.value != FREEZE_END_AGENT_LOST
                       ? FREEZE_END_COMMAND
                       : FREEZE_END_AGENT_LOST;
        }
        if (until_ns && freeze_now_ns() >= until_ns)
            return met && met(server, level) ? FREEZE_END_NONE : FREEZE_END_DEADLINE;
    }
}

static bool level_returned(struct freezer_server *server, uint32_t level)
{
    for (uint32_t i = 0; i < server->count; i++) {
        uint32_t state = atomic_load(&server->systems[i].entry->state);
        if (server->systems[i].entry->level == level &&
            (state == FREEZE_ENTRY_QUEUED || state == FREEZE_ENTRY_FREEZING))
            return false;
    }
    return true;
}

static bool level_thawed(struct freezer_server *server, uint32_t level)
{
    for (uint32_t i = 0; i < server->count; i++) {
        uint32_t state = atomic_load(&server->systems[i].entry->state);
        if (server->systems[i].entry->level == level &&
            (state == FREEZE_ENTRY_FROZEN || state == FREEZE_ENTRY_THAWING))
            return false;
    }
    return true;
}

static bool all_through(struct freezer_server *server, uint32_t level)
{
    (void)level;
    for (uint32_t i = 0; i < server->count; i++)
        if (!atomic_load(&server->systems[i].through))
            return false;
    return true;
}

static uint32_t highest_level(const struct freezer_server *server)
{
    uint32_t highest = 0;
    for (uint32_t i = 0; i < server->count; i++)
        if (server->systems[i].entry->level > highest)
            highest = server->systems[i].entry->level;
    return highest;
}

static enum freeze_end freeze_all(struct freezer_server *server, uint64_t deadline_ns)
{
    for (uint32_t level = highest_level(server) + 1; level-- > 0;) {
        for (uint32_t i = 0; i < server->count; i++) {
            struct file_system *fs = &server->systems[i];
            if (fs->entry->level != level)
                continue;
            atomic_store(&fs->entry->state, FREEZE_ENTRY_QUEUED);
            sem_post(&fs->go_freeze);
        }
        enum freeze_end end = wait_for(server, level_returned, level, deadline_ns, true);
        if (end != FREEZE_END_NONE)
            return end;
    }
    return FREEZE_END_NONE;
}

static void thaw_all(struct freezer_server *server)
{
    for (uint32_t i = 0; i < server->count; i++) {
        _Atomic uint32_t *state = &server->systems[i].entry->state;
        uint32_t queued = FREEZE_ENTRY_QUEUED, freezing = FREEZE_ENTRY_FREEZING;
        atomic_compare_exchange_strong(state, &queued, FREEZE_ENTRY_IDLE);
        if (queued == FREEZE_ENTRY_IDLE)
            sem_post(&server->systems[i].go_freeze); /* lets the thread end */
        if (atomic_compare_exchange_strong(state, &freezing, FREEZE_ENTRY_ABANDONED) &&
            server->systems[i].entry->kind == FREEZE_KIND_DEVICE)
            pthread_kill(server->systems[i].thread, SIGUSR1);
    }
    uint32_t highest = highest_level(server);
    for (uint32_t level = 0; level <= highest; level++) {
        for (uint32_t i = 0; i < server->count; i++)
            if (server->systems[i].entry->level == level &&
                atomic_load(&server->systems[i].entry->state) == FREEZE_ENTRY_FROZEN)
                sem_post(&server->systems[i].go_thaw);
        wait_for(server, level_thawed, level, freeze_now_ns() + THAW_LEVEL_MS * 1000000ull, false);
    }
}

/* Forgets the file systems. Blocks while one of their threads hangs in its ioctl. */
static void forget_all(struct freezer_server *server)
{
    wait_for(server, all_through, 0, 0, false);
    for (uint32_t i = 0; i < server->count; i++) {
        struct file_system *fs = &server->systems[i];
        pthread_join(fs->thread, NULL);
        sem_destroy(&fs->go_freeze);
        sem_destroy(&fs->go_thaw);
        close(fs->fd);
    }
    server->count = 0;
}

static enum freeze_end hold(struct freezer_server *server, uint32_t lease_ms)
{
    struct freeze_list *list = server->list;
    uint64_t deadline_ns = freeze_now_ns() + lease_ms * 1000000ull;
    atomic_store(&list->deadline_ns, deadline_ns);
    atomic_store(&list->phase, FREEZE_PHASE_FREEZING);
    enum freeze_end end = freeze_all(server, deadline_ns);
    if (end == FREEZE_END_NONE) {
        atomic_store(&list->phase, FREEZE_PHASE_HELD);
        tell(server, FREEZER_FROZEN, 0);
        end = wait_for(server, NULL, 0, deadline_ns, true);
    }
    atomic_store(&list->ended_by, end);
    atomic_store(&list->phase, FREEZE_PHASE_THAWING);
    thaw_all(server);
    atomic_store(&list->phase, FREEZE_PHASE_ENDED);
    tell(server, FREEZER_ENDED, end);
    return end;
}

static int add(struct freezer_server *server, uint32_t index, int fd)
{
    if (fd < 0 || index != server->count || index >= FREEZE_LIST_MOST ||
        index >= atomic_load(&server->list->count))
        return -EPROTO;
    struct file_system *fs = &server->systems[index];
    *fs = (struct file_system){.fd = fd, .entry = &server->list->entries[index], .server = server};
    if (sem_init(&fs->go_freeze, 0, 0) < 0 || sem_init(&fs->go_thaw, 0, 0) < 0)
        return -errno;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int error = pthread_create(&fs->thread, &attributes, file_system_thread, fs);
    pthread_attr_destroy(&attributes);
    if (error)
        return -error;
    server->count++;
    return 0;
}

/* Ends the threads of file systems that were added and never frozen. */
static void drop_added(struct freezer_server *server)
{
    for (uint32_t i = 0; i < server->count; i++)
        sem_post(&server->systems[i].go_freeze);
    forget_all(server);
}

/* 1: go on, 0: the agent is gone, negative errno: it broke the protocol. Takes fd. */
static int handle(struct freezer_server *server, const struct freezer_message *m, int fd)
{
    if (m->kind == FREEZER_ADD) {
        int r = add(server, m->value, fd);
        if (r < 0 && fd >= 0)
            close(fd);
        return r < 0 ? r : 1;
    }
    if (fd >= 0)
        close(fd);
    if (m->kind == FREEZER_FREEZE) {
        hold(server, m->value);
        forget_all(server);
        return 1; /* if the agent is gone, the next receive says so */
    }
    return m->kind == FREEZER_THAW ? 1 : -EPROTO; /* a THAW that comes after the end is fine */
}

static int serve(struct freezer_server *server)
{
    int r;
    do {
        struct freezer_message m;
        int fd;
        r = receive(server->socket, &m, &fd);
        if (r > 0)
            r = handle(server, &m, fd);
        else if (fd >= 0)
            close(fd);
    } while (r > 0);
    drop_added(server);
    return r;
}

static void on_interrupt(int number)
{
    (void)number;
}

int freezer_serve(int socket, struct freeze_list *list, const struct freezer_calls *calls,
                  int lock_error)
{
    static struct freezer_server server;                       /* in locked memory from the start */
    struct sigaction interrupt = {.sa_handler = on_interrupt}; /* no SA_RESTART: calls end */
    sigaction(SIGUSR1, &interrupt, NULL);
    memset(&server, 0, sizeof(server));
    server.socket = socket;
    server.list = list;
    server.calls = calls;
    server.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server.event < 0)
        return -errno;
    tell(&server, FREEZER_READY, (uint32_t)lock_error);
    int r = serve(&server);
    close(server.event);
    return r;
}

/* The lock must be of this process alone: a description shared with the agent would outlive it. */
static int lock_list(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", FREEZER_LIST_FD);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX) < 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return 0; /* the fd stays open until exit, and with it the lock */
}

/* The last process to be killed for want of memory. */
static void be_spared(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t written = write(fd, "-1000", 5);
    (void)written;
    close(fd);
}

/* What this process runs on: its program, the C library, stacks, heap and data. The other libraries
 * are mapped because the program is the agent's as well; nothing of them is called here, and
 * locking them would cost 20 MB. */
static bool is_needed(const char *mapping)
{
    char mode[8] = "", path[256] = "";
    sscanf(mapping, "%*s %7s %*s %*s %*s %255s", mode, path);
    if (path[0] == 0)
        return mode[1] == 'w'; /* .bss, arenas */
    if (path[0] == '[')
        return strcmp(path, "[vvar]") != 0 && strcmp(path, "[vsyscall]") != 0 &&
               strcmp(path, "[vvar_vclock]") != 0;
    const char *name = strrchr(path, '/');
    return mode[0] == 'r' && name &&
           (!strstr(name, ".so") || strncmp(name, "/libc.", 6) == 0 ||
            strncmp(name, "/ld-", 4) == 0);
}

/* Locks it, and everything that is mapped from now on (stacks of threads). 0 or errno. */
static int lock_memory(void)
{
    SP_FILE FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return errno;
    int error = mlockall(MCL_FUTURE) < 0 ? errno : 0;
    char line[512];
    while (fgets(line, sizeof(line), maps)) {
        unsigned long from, to;
        if (!is_needed(line) || sscanf(line, "%lx-%lx", &from, &to) != 2)
            continue;
        if (mlock((const void *)(uintptr_t)from, to - from) < 0 && !error)
            error = errno;
    }
    return error;
}

int freezer_process_main(void)
{
    /* It ends when the agent does, and not before nothing is frozen: signals of a terminal or of a
     * service manager do not end it. */
    for (const int *s = (const int[]){SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT, 0}; *s; s++)
        signal(*s, SIG_IGN);
    prctl(PR_SET_NAME, "sealpoint-freez", 0, 0, 0);
    be_spared();
    struct freeze_list *list = NULL;
    int r = lock_list();
    if (r == 0)
        r = freeze_list_map(FREEZER_LIST_FD, &list);
    if (r < 0)
        return 1;
    r = freezer_serve(FREEZER_SOCKET_FD, list, &freezer_calls_system, lock_memory());
    return r < 0 ? 1 : 0;
}
