/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One thread for what blocks: jobs run one after the other, in the order they were given. */
#ifndef SEALPOINT_AGENT_WORKER_H
#define SEALPOINT_AGENT_WORKER_H

struct worker;

int worker_new(struct worker **ret);
/* Runs fn(arg) later. 0, or -ENOMEM or -ESHUTDOWN (after worker_stop): fn never runs. Any thread.
 */
int worker_push(struct worker *w, void (*fn)(void *), void *arg);
/* Runs what is queued, then ends; takes nothing more. NULL is fine. */
void worker_stop(struct worker *w);
/* worker_stop() too, if need be. Nobody may push any more. NULL is fine. */
void worker_free(struct worker *w);

#endif
