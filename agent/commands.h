/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands of the controller: each runs once for its operation id and has one Answer, which is
 * kept and given again when the same id is asked for again. The agent never runs a program that a
 * command names.
 *
 *   commands_receive (RPC loop) ── fence, id ──▶ worker ── not_after ──▶ run ──▶ answer()
 *   Status is answered on the loop, so that it works while a freeze hangs.
 *
 * While something is frozen only Status and Thaw are answered; the rest is refused with EBUSY. */
#ifndef SEALPOINT_AGENT_COMMANDS_H
#define SEALPOINT_AGENT_COMMANDS_H

#include "agent/linux/quiesce.h"
#include "agent/worker.h"
#include <sealpoint/v1/agent_link.pb-c.h>
#include <stdbool.h>

struct commands;

struct commands_options {
    const struct agent_config *config;
    struct worker *worker;
    struct quiesce *quiesce;
    const struct inventory_roots *roots;
    /* Sends an Answer to the controller, if there is one; from any thread. */
    void (*answer)(void *self, const Sp__Answer *answer);
    void *self;
};
int commands_new(const struct commands_options *options, struct commands **ret);
/* After the worker has ended. */
void commands_free(struct commands *c);

/* A new session with this fence. -ESTALE: an older one than was seen; the session is not to be
 * used. */
int commands_set_fence(struct commands *c, uint64_t fence);
/* Nothing is run meanwhile (IDENTITY_CLONED). */
void commands_set_quarantined(struct commands *c, bool quarantined);
/* True while an operation has not been answered. */
bool commands_busy(struct commands *c);
void commands_receive(struct commands *c, const Sp__Command *command);

#endif
