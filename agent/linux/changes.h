/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Tells when storage may have changed. Works without udevd. Also takes the signals that end the
 * program, since it waits anyway.
 *
 *   block uevents of the kernel         disks, mappings, loop devices, new tables
 *   mountinfo
 *   device nodes closed after writing   headers: a keyslot added or removed raises no uevent
 *   device nodes written to             the same by a program that keeps the node open
 *
 * What comes within the settling time counts as one, and between two calls of `changed` lies a
 * least time, so that no storm of events becomes a storm of reads. A node that is only written to
 * (a database on a raw device) is not listened to any more until the next changes_watch() once its
 * writes turned out to mean nothing.
 *
 * The callbacks run on this module's thread. */
#ifndef SEALPOINT_AGENT_CHANGES_H
#define SEALPOINT_AGENT_CHANGES_H

#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>

struct changes;

struct changes_options {
    void (*changed)(void *self);
    /* Now and then: headers may have been written past every node that is watched. May be NULL. */
    void (*look)(void *self);
    void (*ended)(void *self, int signal); /* SIGTERM or SIGINT; these are blocked in all threads */
    void *self;
    unsigned look_ms; /* 0: two minutes */
};
int changes_new(const struct changes_options *options, struct changes **ret);
/* The devices whose nodes are to be watched. True if one of them was not watched before: what was
 * read of it may be older than the watch, so read again. Any thread. */
bool changes_watch(struct changes *c, const Sp__Inventory *inventory);
/* What was read after `changed` is new, or as it was before. Any thread. */
void changes_read(struct changes *c, bool new);
/* Ends the thread: nothing is called any more; the functions above still may be. NULL is fine. */
void changes_stop(struct changes *c);
void changes_free(struct changes *c);

#endif
