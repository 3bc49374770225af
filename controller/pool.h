/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A bounded pool of worker threads: for whatever blocks, so that RPC loops never do.
 *
 * Any thread may submit. Tasks of one pool run in the order they were submitted, several at once.
 */
#ifndef SEALPOINT_CONTROLLER_POOL_H
#define SEALPOINT_CONTROLLER_POOL_H

#include <stddef.h>

struct pool;

/* `threads` workers, at most `queue` tasks waiting. 0, -ENOMEM or what pthread_create says. */
int pool_new(const char *name, unsigned threads, size_t queue, struct pool **ret);
/* 0; -EAGAIN: the queue is full; -ESHUTDOWN after pool_stop. Then `run` will not be called. */
int pool_submit(struct pool *, void (*run)(void *arg), void *arg);
/* Takes no more tasks, runs those that wait, joins the workers. */
void pool_stop(struct pool *);
/* Stops if that was not done. NULL is fine. */
void pool_free(struct pool *);

#endif
