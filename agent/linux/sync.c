/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/sync.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Shared by the caller and the threads; the last one frees it. */
struct batch {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t references, open, count;
    struct job {
        struct batch *batch;
        int fd, result;
    } jobs[];
};

static void unref(struct batch *batch)
{
    pthread_mutex_lock(&batch->lock);
    bool last = --batch->references == 0;
    pthread_mutex_unlock(&batch->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&batch->lock);
    pthread_cond_destroy(&batch->changed);
    free(batch);
}

static void *sync_thread(void *arg)
{
    struct job *job = arg;
    struct batch *batch = job->batch;
    struct stat info; /* syncfs() of a device's node would sync what the node lies on */
    bool device = fstat(job->fd, &info) == 0 && S_ISBLK(info.st_mode);
    int r = (device ? fsync(job->fd) : syncfs(job->fd)) < 0 ? -errno : 0;
    close(job->fd);
    pthread_mutex_lock(&batch->lock);
    job->result = r;
    batch->open--;
    pthread_cond_signal(&batch->changed);
    pthread_mutex_unlock(&batch->lock);
    unref(batch);
    return NULL;
}

static void start_job(struct batch *batch, struct job *job, const pthread_attr_t *attributes)
{
    if (job->fd < 0)
        return;
    pthread_mutex_lock(&batch->lock);
    batch->references++;
    batch->open++;
    job->result = -ETIMEDOUT;
    pthread_mutex_unlock(&batch->lock);
    pthread_t thread;
    int error = pthread_create(&thread, attributes, sync_thread, job);
    if (!error)
        return;
    pthread_mutex_lock(&batch->lock);
    batch->references--;
    batch->open--;
    job->result = -error;
    pthread_mutex_unlock(&batch->lock);
    close(job->fd);
}

int sync_bounded(const int *fds, size_t count, unsigned budget_ms, int *results)
{
    struct batch *batch = calloc(1, sizeof(*batch) + count * sizeof(batch->jobs[0]));
    if (!batch)
        return -ENOMEM;
    batch->references = 1;
    batch->count = count;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&batch->lock, NULL);
    pthread_cond_init(&batch->changed, &clock);
    pthread_condattr_destroy(&clock);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 128 * 1024);
    for (size_t i = 0; i < count; i++) {
        int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        batch->jobs[i] = (struct job){.batch = batch, .fd = fd, .result = fd < 0 ? -errno : 0};
        start_job(batch, &batch->jobs[i], &attributes);
    }
    pthread_attr_destroy(&attributes);

    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += budget_ms / 1000;
    until.tv_nsec += (long)(budget_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&batch->lock);
    int r = 0;
    while (batch->open && r == 0)
        r = pthread_cond_timedwait(&batch->changed, &batch->lock, &until);
    for (size_t i = 0; i < count; i++)
        results[i] = batch->jobs[i].result;
    pthread_mutex_unlock(&batch->lock);
    unref(batch);
    return 0;
}
