/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "internal.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

int rpc_loop_new(struct rpc_loop **ret)
{
    struct rpc_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return -ENOMEM;
    loop->queue = grpc_completion_queue_create_for_next(NULL);
    if (!loop->queue) {
        free(loop);
        return -ENOMEM;
    }
    atomic_init(&loop->refs, 1);
    pthread_mutex_init(&loop->lock, NULL);
    loop->tick_at = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    *ret = loop;
    return 0;
}

void rpc_loop_unref(struct rpc_loop *loop)
{
    if (atomic_fetch_sub(&loop->refs, 1) != 1)
        return;
    grpc_completion_queue_destroy(loop->queue);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

void rpc_loop_every(struct rpc_loop *loop, unsigned ms, void (*fn)(void *), void *arg)
{
    loop->tick_ms = ms;
    loop->tick = fn;
    loop->tick_arg = arg;
}

static gpr_timespec in_ms(unsigned ms)
{
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

void rpc_loop_tick_within(struct rpc_loop *loop, unsigned ms)
{
    gpr_timespec at = in_ms(ms);
    if (gpr_time_cmp(at, loop->tick_at) < 0)
        loop->tick_at = at;
}

/* Core has no public alarm: the deadline of `next` is the timer. */
void rpc_loop_run(struct rpc_loop *loop)
{
    gpr_timespec never = gpr_inf_future(GPR_CLOCK_MONOTONIC);

    if (loop->tick)
        rpc_loop_tick_within(loop, loop->tick_ms);
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(loop->queue, loop->tick ? loop->tick_at : never, NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return;
        if (event.type == GRPC_OP_COMPLETE) {
            struct rpc_tag *tag = event.tag;
            RPC_TAG_OUT(tag);
            tag->done(tag->self, event.success != 0);
        }
        if (!loop->tick)
            continue;
        if (gpr_time_cmp(gpr_now(GPR_CLOCK_MONOTONIC), loop->tick_at) >= 0) {
            loop->tick_at = in_ms(loop->tick_ms); /* a late tick brings no burst after it */
            loop->tick(loop->tick_arg);
        }
    }
}

static void *loop_main(void *loop)
{
    rpc_loop_run(loop);
    return NULL;
}

int rpc_loop_start(struct rpc_loop *loop)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&loop->thread, NULL, loop_main, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    loop->threaded = rc == 0;
    return -rc;
}

/* The caller holds the lock. */
static void shut_if_idle(struct rpc_loop *loop)
{
    if (loop->stopping && !loop->shut && loop->open == 0) {
        loop->shut = true;
        grpc_completion_queue_shutdown(loop->queue);
    }
}

void rpc_loop_stop(struct rpc_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->stopping = true;
    shut_if_idle(loop);
    pthread_mutex_unlock(&loop->lock);
}

void rpc_loop_join(struct rpc_loop *loop)
{
    if (loop->threaded)
        pthread_join(loop->thread, NULL);
    loop->threaded = false;
}

void rpc_loop_free(struct rpc_loop *loop)
{
    if (!loop)
        return;
    rpc_loop_stop(loop);
    if (loop->threaded)
        rpc_loop_join(loop);
    else
        rpc_loop_run(loop); /* a queue must be drained before it is destroyed */
    rpc_loop_unref(loop);
}

int rpc_loop_enter(struct rpc_loop *loop)
{
    int rc = -ESHUTDOWN;
    pthread_mutex_lock(&loop->lock);
    if (!loop->stopping) {
        loop->open++;
        rc = 0;
    }
    pthread_mutex_unlock(&loop->lock);
    return rc;
}

void rpc_loop_leave(struct rpc_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->open--;
    shut_if_idle(loop);
    pthread_mutex_unlock(&loop->lock);
}

int rpc_loop_add(struct rpc_loop *loop, struct rpc_call *call)
{
    int rc = rpc_loop_enter(loop);
    if (rc < 0)
        return rc;
    rpc_ref(call);
    pthread_mutex_lock(&loop->lock);
    call->next = loop->calls;
    call->at = &loop->calls;
    if (call->next)
        call->next->at = &call->next;
    loop->calls = call;
    pthread_mutex_unlock(&loop->lock);
    return 0;
}

void rpc_loop_remove(struct rpc_loop *loop, struct rpc_call *call)
{
    pthread_mutex_lock(&loop->lock);
    *call->at = call->next;
    if (call->next)
        call->next->at = call->at;
    call->next = NULL;
    call->at = NULL;
    pthread_mutex_unlock(&loop->lock);
    rpc_loop_leave(loop);
    rpc_unref(call);
}

int rpc_loop_calls(struct rpc_loop *loop, struct rpc_call ***ret, size_t *ret_count)
{
    struct rpc_call **all = NULL;
    size_t count = 0;

    pthread_mutex_lock(&loop->lock);
    for (struct rpc_call *c = loop->calls; c; c = c->next)
        count++;
    all = calloc(count + 1, sizeof(struct rpc_call *));
    if (all) {
        size_t i = 0;
        for (struct rpc_call *c = loop->calls; c; c = c->next) {
            rpc_ref(c);
            all[i++] = c;
        }
    }
    pthread_mutex_unlock(&loop->lock);
    if (!all)
        return -ENOMEM;
    *ret = all;
    *ret_count = count;
    return 0;
}

struct post {
    struct rpc_tag tag;
    struct rpc_call *call;
    void (*fn)(struct rpc_call *, void *);
    void *arg;
};

static void post_done(void *self, bool ok)
{
    struct post *post = self;
    (void)ok;
    post->fn(post->call, post->arg);
    rpc_unref(post->call);
    free(post);
}

/* An empty batch comes back at once: the public way to put something on a queue. */
int rpc_post(struct rpc_call *call, void (*fn)(struct rpc_call *, void *), void *arg)
{
    struct post *post = calloc(1, sizeof *post);
    int rc = -ESHUTDOWN;

    if (!post)
        return -ENOMEM;
    *post = (struct post){{post_done, post}, call, fn, arg};
    rpc_ref(call);
    RPC_TAG_IN(&post->tag);
    pthread_mutex_lock(&call->loop->lock);
    if (!call->loop->shut &&
        grpc_call_start_batch(call->call, NULL, 0, &post->tag, NULL) == GRPC_CALL_OK)
        rc = 0;
    pthread_mutex_unlock(&call->loop->lock);
    if (rc < 0) {
        rpc_unref(call);
        free(post);
    }
    return rc;
}
