/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/changes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <libudev.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>

enum {
    SETTLE_MS = 100,
    /* A writer that has not closed the node is in the midst of it: both copies of a LUKS2 header
     * are written within this time. */
    WRITES_SETTLE_MS = 1000,
    GAP_MS = 500,
    LOOK_MS = 120000,
    ANYWAY_MS = 3600000,
    NOISY_MOST = 64
};

enum source { UEVENTS, MOUNTS, CLOSES, WRITES, SOURCES };

struct changes {
    struct changes_options options;
    pthread_t thread;
    bool started;
    struct udev *udev;
    struct udev_monitor *monitor;
    int fds[SOURCES], signals, stop;
    uint64_t last_ms, due_ms, look_at_ms, anyway_ms; /* due 0: nothing has happened */

    pthread_mutex_t lock; /* everything below */
    int newest;           /* watch of CLOSES: they count up */
    int noisy[NOISY_MOST];
    size_t noisy_count;
};

/* The kernel's own events: they come without a udevd, too. */
static void watch_uevents(struct changes *c)
{
    c->udev = udev_new();
    c->monitor = c->udev ? udev_monitor_new_from_netlink(c->udev, "kernel") : NULL;
    if (!c->monitor ||
        udev_monitor_filter_add_match_subsystem_devtype(c->monitor, "block", NULL) < 0 ||
        udev_monitor_enable_receiving(c->monitor) < 0)
        return;
    c->fds[UEVENTS] = udev_monitor_get_fd(c->monitor);
}

/* Of a node that is watched already this changes nothing; of one that is gone the kernel has
 * dropped the watch. */
static bool watch_node(struct changes *c, const char *folder, const char *name)
{
    SP_FREE char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return false;
    int watch = inotify_add_watch(c->fds[CLOSES], path, IN_CLOSE_WRITE);
    inotify_add_watch(c->fds[WRITES], path, IN_MODIFY);
    bool fresh = watch > c->newest;
    if (fresh)
        c->newest = watch;
    return fresh;
}

bool changes_watch(struct changes *c, const Sp__Inventory *inventory)
{
    bool fresh = false;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < inventory->n_devices; i++) {
        const Sp__BlockDevice *device = inventory->devices[i];
        fresh |= watch_node(c, "/dev", device->name);
        /* Without udev this is a node of its own, not a link. */
        if (device->dm_name[0] && !strchr(device->dm_name, '/'))
            fresh |= watch_node(c, "/dev/mapper", device->dm_name);
    }
    pthread_mutex_unlock(&c->lock);
    return fresh;
}

void changes_read(struct changes *c, bool new)
{
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; !new &&i < c->noisy_count; i++)
        inotify_rm_watch(c->fds[WRITES], c->noisy[i]);
    c->noisy_count = 0;
    pthread_mutex_unlock(&c->lock);
}

/* ---- draining: true if something has happened ---- */

static bool drain_uevents(struct changes *c)
{
    bool any = false;
    for (;;) {
        errno = 0;
        struct udev_device *device = udev_monitor_receive_device(c->monitor);
        if (device) {
            udev_device_unref(device);
            any = true;
        } else if (errno == ENOBUFS) {
            any = true; /* so many that some were lost */
        } else {
            return any;
        }
    }
}

static bool drain_nodes(struct changes *c, enum source source)
{
    _Alignas(struct inotify_event) char room[4096];
    bool any = false;
    pthread_mutex_lock(&c->lock);
    for (ssize_t size; (size = read(c->fds[source], room, sizeof(room))) > 0;) {
        const struct inotify_event *e;
        for (const char *at = room; at < room + size; at += sizeof(*e) + e->len) {
            e = (const struct inotify_event *)(const void *)at;
            if (e->mask & IN_IGNORED)
                continue; /* the device is gone, or we asked for it */
            any = true;
            bool known = false;
            for (size_t i = 0; i < c->noisy_count; i++)
                known |= c->noisy[i] == e->wd;
            if (source == WRITES && !known && c->noisy_count < NOISY_MOST)
                c->noisy[c->noisy_count++] = e->wd;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return any;
}

static void happened(struct changes *c, uint64_t now, unsigned settle_ms)
{
    uint64_t due = now + settle_ms;
    if (due < c->last_ms + GAP_MS)
        due = c->last_ms + GAP_MS;
    if (!c->due_ms || due < c->due_ms)
        c->due_ms = due;
}

static void take(struct changes *c, const struct pollfd *polled, uint64_t now)
{
    if (polled[UEVENTS].revents && drain_uevents(c))
        happened(c, now, SETTLE_MS);
    if (polled[MOUNTS].revents)
        happened(c, now, SETTLE_MS);
    if (polled[CLOSES].revents && drain_nodes(c, CLOSES))
        happened(c, now, SETTLE_MS);
    if (polled[WRITES].revents && drain_nodes(c, WRITES))
        happened(c, now, WRITES_SETTLE_MS);
}

static int time_left(const struct changes *c, uint64_t now)
{
    uint64_t until = c->look_at_ms < c->anyway_ms ? c->look_at_ms : c->anyway_ms;
    if (c->due_ms && c->due_ms < until)
        until = c->due_ms;
    return now >= until ? 0 : (int)(until - now);
}

static void call(struct changes *c, uint64_t now)
{
    if ((c->due_ms && now >= c->due_ms) || now >= c->anyway_ms) {
        c->due_ms = 0;
        c->last_ms = now;
        c->anyway_ms = now + ANYWAY_MS;
        c->options.changed(c->options.self);
    }
    if (now >= c->look_at_ms) {
        c->look_at_ms = now + c->options.look_ms;
        if (c->options.look)
            c->options.look(c->options.self);
    }
}

static void *changes_thread(void *arg)
{
    struct changes *c = arg;
    for (;;) {
        uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
        /* What is announced already needs no second announcement: it stays in its queue, so that
         * a storm wakes nobody. A write is only half an announcement. */
        bool soon = c->due_ms && c->due_ms <= now + GAP_MS;
        struct pollfd polled[] = {
            [UEVENTS] = {.fd = soon ? -1 : c->fds[UEVENTS], .events = POLLIN},
            [MOUNTS] = {.fd = soon ? -1 : c->fds[MOUNTS], .events = POLLPRI},
            [CLOSES] = {.fd = soon ? -1 : c->fds[CLOSES], .events = POLLIN},
            [WRITES] = {.fd = c->due_ms ? -1 : c->fds[WRITES], .events = POLLIN},
            {.fd = c->signals, .events = POLLIN},
            {.fd = c->stop, .events = POLLIN},
        };
        poll(polled, SP_COUNT(polled), time_left(c, now));
        if (polled[SOURCES + 1].revents)
            return NULL;
        struct signalfd_siginfo got;
        if (polled[SOURCES].revents && read(c->signals, &got, sizeof(got)) == (ssize_t)sizeof(got))
            c->options.ended(c->options.self, (int)got.ssi_signo);
        now = sp_clock_monotonic_ms(&sp_clock_system);
        take(c, polled, now);
        call(c, now);
    }
}

/* ---- life ---- */

static int open_all(struct changes *c)
{
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    watch_uevents(c);
    c->fds[MOUNTS] = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    c->fds[CLOSES] = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    c->fds[WRITES] = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    c->signals = signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
    c->stop = eventfd(0, EFD_CLOEXEC);
    return c->signals < 0 || c->stop < 0 ? -errno : 0;
}

int changes_new(const struct changes_options *options, struct changes **ret)
{
    struct changes *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->options = *options;
    if (!c->options.look_ms)
        c->options.look_ms = LOOK_MS;
    for (size_t i = 0; i < SOURCES; i++)
        c->fds[i] = -1;
    c->signals = c->stop = -1;
    pthread_mutex_init(&c->lock, NULL);
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    c->look_at_ms = now + c->options.look_ms;
    c->anyway_ms = now + ANYWAY_MS;
    int r = open_all(c);
    if (r == 0)
        r = -pthread_create(&c->thread, NULL, changes_thread, c);
    if (r < 0) {
        changes_free(c);
        return r;
    }
    c->started = true;
    *ret = c;
    return 0;
}

void changes_stop(struct changes *c)
{
    if (!c || !c->started)
        return;
    uint64_t one = 1;
    ssize_t written = write(c->stop, &one, sizeof(one));
    (void)written;
    pthread_join(c->thread, NULL);
    c->started = false;
}

void changes_free(struct changes *c)
{
    if (!c)
        return;
    changes_stop(c);
    c->fds[UEVENTS] = -1; /* the monitor's own */
    if (c->monitor)
        udev_monitor_unref(c->monitor);
    if (c->udev)
        udev_unref(c->udev);
    for (size_t i = 0; i < SOURCES; i++)
        if (c->fds[i] >= 0)
            close(c->fds[i]);
    if (c->signals >= 0)
        close(c->signals);
    if (c->stop >= 0)
        close(c->stop);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
