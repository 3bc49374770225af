/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A real sealpoint-keeper as the controller meets it: started, spoken to over its socket, ended. */
#ifndef KEEPER_PROCESS_H
#define KEEPER_PROCESS_H

#include "rig.h"

#include <sys/types.h>

struct process {
    pid_t pid;
    char socket[120], log[120];
};

/* Starts it on the rig's state and waits until the socket answers. The log is appended to. */
void process_start(struct rig *, struct process *);
/* Signals it and waits; returns the wait status. */
int process_end(struct process *, int signal);
/* Runs the program with these arguments after the configuration and waits; the exit status. */
int process_run(struct rig *, const struct process *, const char *const *arguments);
/* A rig with a keeper process that is initialised. */
struct rig *process_rig(struct process *);
void process_rig_free(struct rig *, struct process *);

/* Whether keystore, log or anything else under the rig's folder holds the bytes. */
bool process_left(struct rig *, const char *bytes);
void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
