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
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>

enum { SETTLE_MS = 2000, ANYWAY_MS = 3600000 };

struct changes {
    struct changes_options options;
    pthread_t thread;
    bool started;
    struct udev *udev;
    struct udev_monitor *monitor;
    int uevents, mounts, nodes, signals, stop;
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
    c->uevents = udev_monitor_get_fd(c->monitor);
}

void changes_watch(struct changes *c, const Sp__Inventory *inventory)
{
    for (size_t i = 0; i < inventory->n_devices; i++) {
        SP_FREE char *path = NULL;
        if (asprintf(&path, "/dev/%s", inventory->devices[i]->name) < 0)
            return;
        /* Of one that is watched already this changes nothing; of one that is gone the kernel has
         * dropped the watch. */
        inotify_add_watch(c->nodes, path, IN_CLOSE_WRITE);
    }
}

static void drain(struct changes *c, const struct pollfd *polled)
{
    char room[4096];
    struct udev_device *device;
    while (polled[0].revents && (device = udev_monitor_receive_device(c->monitor)))
        udev_device_unref(device);
    while (polled[2].revents && read(c->nodes, room, sizeof(room)) > 0)
        ;
}

static void *changes_thread(void *arg)
{
    struct changes *c = arg;
    uint64_t due_ms = sp_clock_monotonic_ms(&sp_clock_system) + ANYWAY_MS;
    bool settling = false;
    for (;;) {
        struct pollfd polled[] = {
            {.fd = c->uevents, .events = POLLIN}, {.fd = c->mounts, .events = POLLPRI},
            {.fd = c->nodes, .events = POLLIN},   {.fd = c->signals, .events = POLLIN},
            {.fd = c->stop, .events = POLLIN},
        };
        uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
        poll(polled, SP_COUNT(polled), now >= due_ms ? 0 : (int)(due_ms - now));
        if (polled[4].revents)
            return NULL;
        struct signalfd_siginfo got;
        if (polled[3].revents && read(c->signals, &got, sizeof(got)) == (ssize_t)sizeof(got))
            c->options.ended(c->options.self, (int)got.ssi_signo);
        now = sp_clock_monotonic_ms(&sp_clock_system);
        if (polled[0].revents || polled[1].revents || polled[2].revents) {
            drain(c, polled);
            if (!settling)
                due_ms = now + SETTLE_MS;
            settling = true;
        }
        if (now >= due_ms) {
            settling = false;
            due_ms = now + ANYWAY_MS;
            c->options.changed(c->options.self);
        }
    }
}

int changes_new(const struct changes_options *options, struct changes **ret)
{
    struct changes *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->options = *options;
    c->uevents = -1;
    watch_uevents(c);
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    c->mounts = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    c->nodes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    c->signals = signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
    c->stop = eventfd(0, EFD_CLOEXEC);
    int r = c->signals < 0 || c->stop < 0 ? -errno : 0;
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
    if (c->monitor)
        udev_monitor_unref(c->monitor);
    if (c->udev)
        udev_unref(c->udev);
    const int fds[] = {c->mounts, c->nodes, c->signals, c->stop};
    for (size_t i = 0; i < SP_COUNT(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(c);
}
