/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper's socket: one thread a connection, a bounded number of them, peers of the right user
 * only. */
#ifndef SEALPOINT_KEEPER_SERVER_H
#define SEALPOINT_KEEPER_SERVER_H

#include <stddef.h>
#include <sys/types.h>

struct keeper;

enum { SERVER_CONNECTIONS = 64, SERVER_END_S = 5 };

struct server_options {
    int listener;       /* stays the caller's */
    int stop_fd;        /* readable: end */
    uid_t allowed_user; /* besides root */
};

/* Serves until stop_fd is readable, then waits a few seconds for requests under way. 0; 1: some
 * still run (a prover, a controller that does not answer a read), so `keeper` must stay as it is
 * and the process is to end by _exit(): what was acknowledged is durable. Or a negative errno. */
int server_run(struct keeper *, const struct server_options *);

#endif
