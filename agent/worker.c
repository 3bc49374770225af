/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/worker.h"
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct job {
    struct job *next;
    void (*fn)(void *);
    void *arg;
};

struct worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct job *first, **last;
    bool ending;
};

static struct job *take(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->first && !w->ending)
        pthread_cond_wait(&w->changed, &w->lock);
    struct job *job = w->first;
    if (job) {
        w->first = job->next;
        if (!w->first)
            w->last = &w->first;
    }
    pthread_mutex_unlock(&w->lock);
    return job;
}

static void *worker_thread(void *arg)
{
    for (struct job *job; (job = take(arg));) {
        job->fn(job->arg);
        free(job);
    }
    return NULL;
}

int worker_new(struct worker **ret)
{
    struct worker *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->last = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    int error = pthread_create(&w->thread, NULL, worker_thread, w);
    if (error) {
        free(w);
        return -error;
    }
    *ret = w;
    return 0;
}

int worker_push(struct worker *w, void (*fn)(void *), void *arg)
{
    struct job *job = malloc(sizeof(*job));
    if (!job)
        return -ENOMEM;
    *job = (struct job){.fn = fn, .arg = arg};
    pthread_mutex_lock(&w->lock);
    bool ending = w->ending;
    if (!ending) {
        *w->last = job;
        w->last = &job->next;
        pthread_cond_signal(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    if (ending)
        free(job);
    return ending ? -ESHUTDOWN : 0;
}

void worker_stop(struct worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    bool stopped = w->ending;
    w->ending = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (!stopped)
        pthread_join(w->thread, NULL);
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    worker_stop(w);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w);
}
