/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Every method of the API, once: path, messages, kind and the permission it needs. Clients call
 * through these rows as they are; a server copies the rows that it serves and adds its handlers
 * (rpc_bind). */
#ifndef SEALPOINT_RPC_METHODS_H
#define SEALPOINT_RPC_METHODS_H

#include "rpc/rpc.h"

/* "Fleet/ListMachines" (without the package); NULL: no such method. */
const struct rpc_method *sp_method(const char *name);

/* A row of sp_method(name) with handlers, for a server's table. `name` must exist: anything else is
 * a programming error and aborts at start. NULL handlers are fine. */
struct rpc_method rpc_bind(const char *name, void (*open)(struct rpc_call *),
                           void (*message)(struct rpc_call *, const ProtobufCMessage *),
                           void (*half_close)(struct rpc_call *),
                           void (*closed)(struct rpc_call *, int status, const char *detail));

#endif
