/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/pool.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

struct task {
    void (*run)(void *);
    void *arg;
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t *threads;
    unsigned count;
    struct task *ring;
    size_t capacity, first, waiting;
    bool stopping;
    char name[16];
};

static bool take(struct pool *p, struct task *ret)
{
    pthread_mutex_lock(&p->lock);
    while (p->waiting == 0 && !p->stopping)
        pthread_cond_wait(&p->wake, &p->lock);
    bool got = p->waiting > 0;
    if (got) {
        *ret = p->ring[p->first];
        p->first = (p->first + 1) % p->capacity;
        p->waiting--;
    }
    pthread_mutex_unlock(&p->lock);
    return got;
}

static void *work(void *arg)
{
    struct pool *p = arg;
    struct task task;
    while (take(p, &task))
        task.run(task.arg);
    return NULL;
}

/* Workers leave every signal to the main thread. */
static int start(struct pool *p, unsigned threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = 0;
    while (r == 0 && p->count < threads) {
        r = pthread_create(&p->threads[p->count], NULL, work, p);
        if (r == 0)
            pthread_setname_np(p->threads[p->count++], p->name);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

int pool_new(const char *name, unsigned threads, size_t queue, struct pool **ret)
{
    struct pool *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    snprintf(p->name, sizeof(p->name), "%s", name);
    p->capacity = queue ? queue : 1;
    p->ring = calloc(p->capacity, sizeof(*p->ring));
    p->threads = calloc(threads, sizeof(*p->threads));
    int r = p->ring && p->threads ? start(p, threads) : -ENOMEM;
    if (r < 0) {
        pool_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

int pool_submit(struct pool *p, void (*run)(void *), void *arg)
{
    pthread_mutex_lock(&p->lock);
    int r = p->stopping ? -ESHUTDOWN : p->waiting == p->capacity ? -EAGAIN : 0;
    if (r == 0) {
        p->ring[(p->first + p->waiting) % p->capacity] = (struct task){run, arg};
        p->waiting++;
        pthread_cond_signal(&p->wake);
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}

void pool_stop(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->wake);
    unsigned count = p->count;
    p->count = 0;
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < count; i++)
        pthread_join(p->threads[i], NULL);
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    pool_stop(p);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->ring);
    free(p->threads);
    free(p);
}
