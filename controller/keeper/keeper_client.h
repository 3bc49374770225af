/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The controller's side of the keeper's socket (keeper.proto). Calls block; run them on a worker.
 * Many threads may call at once: each call uses a connection of a small pool. A keeper that was
 * restarted is dialled again by the next call. */
#ifndef SEALPOINT_KEEPER_CLIENT_H
#define SEALPOINT_KEEPER_CLIENT_H

#include "base/why.h"
#include <sealpoint/v1/keeper.pb-c.h>

struct keeper_client;

/* Does not connect yet. */
int keeper_client_new(const char *socket_path, struct keeper_client **ret);
void keeper_client_free(struct keeper_client *);

/* One request, one answer. `request` needs no id; `fd` (-1: none) rides along. *ret is new
 * (sp__keeper_response__free_unpacked) and has error 0; when the keeper answers with an error its
 * negative errno is returned and its text is in why. -ECONNREFUSED/-ENOENT: the keeper does not
 * run. timeout_ms 0: 30 s. */
int keeper_call(struct keeper_client *, Sp__KeeperRequest *request, int fd, int timeout_ms,
                Sp__KeeperResponse **ret, struct sp_why *why);

/* As keeper_call for Look and Prove: makes the reader socket, answers the prover's reads through
 * read_at on this thread until the answer is there. */
int keeper_call_reading(struct keeper_client *, Sp__KeeperRequest *request,
                        int (*read_at)(void *self, uint32_t disk, uint64_t offset, void *out,
                                       uint32_t length),
                        void *self, int timeout_ms, Sp__KeeperResponse **ret, struct sp_why *why);

#endif
