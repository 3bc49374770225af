/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Tells when storage may have changed: block uevents, mountinfo, writers of device nodes that
 * closed them (header writes raise no uevent), and once an hour all the same. Also takes the
 * signals that end the program, since it waits anyway.
 *
 * Several events within the settling time are one. The callbacks run on this module's thread. */
#ifndef SEALPOINT_AGENT_CHANGES_H
#define SEALPOINT_AGENT_CHANGES_H

#include <sealpoint/v1/types.pb-c.h>

struct changes;

struct changes_options {
    void (*changed)(void *self);
    void (*ended)(void *self, int signal); /* SIGTERM or SIGINT; these are blocked in all threads */
    void *self;
};
int changes_new(const struct changes_options *options, struct changes **ret);
/* The devices whose nodes are to be watched. Any thread. */
void changes_watch(struct changes *c, const Sp__Inventory *inventory);
/* Ends the thread: nothing is called any more; changes_watch() still may be. NULL is fine. */
void changes_stop(struct changes *c);
void changes_free(struct changes *c);

#endif
