/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a method table must say, and the part of the permission check that needs no catalog: the
 * kind of the identity. Roles, revocation and machine groups are the server's authorise hook. */
#include "internal.h"
#include <errno.h>

static const char *kind_name(enum sp_identity_kind kind)
{
    switch (kind) {
    case SP_IDENTITY_CONTROLLER:
        return "controller";
    case SP_IDENTITY_AGENT:
        return "agent";
    case SP_IDENTITY_USER:
        return "user";
    case SP_IDENTITY_KEEPER:
        return "keeper";
    case SP_IDENTITY_NONE:
        break;
    }
    return "nobody";
}

/* An unknown permission allows nobody. */
static int check_kind(const struct rpc_call *c, struct sp_why *why)
{
    enum sp_identity_kind is = c->peer.kind, want = SP_IDENTITY_USER;

    switch (c->method->permission) {
    case RPC_ANYONE:
        return 0;
    case RPC_ANY_IDENTITY:
        want = is;
        break;
    case RPC_AGENT:
        want = SP_IDENTITY_AGENT;
        break;
    case RPC_VIEWER:
    case RPC_OPERATOR:
    case RPC_ADMIN:
    case RPC_CUSTODIAN:
        break;
    default:
        return sp_why_set(why, -EACCES, "%s is open to nobody", c->method->path);
    }
    if (is == SP_IDENTITY_NONE)
        return sp_why_set(why, -EKEYREJECTED, "%s needs a client certificate", c->method->path);
    if (is != want)
        return sp_why_set(why, -EACCES, "%s is not for identities of kind %s: it needs kind %s",
                          c->method->path, kind_name(is), kind_name(want));
    return 0;
}

int rpc_permitted(const struct rpc_server *server, const struct rpc_call *c, struct sp_why *why)
{
    int rc = check_kind(c, why);
    if (rc < 0) {
        if (server->refused)
            server->refused(server->self, c, why);
        return rc;
    }
    return server->authorise ? server->authorise(server->self, c, why) : 0;
}

int rpc_check_tables(const struct rpc_method *const *tables, bool has_authorise, struct sp_why *why)
{
    for (; *tables; tables++) {
        for (const struct rpc_method *m = *tables; m->path; m++) {
            if (m->path[0] != '/' || !m->request || !m->response)
                return sp_why_set(why, -EINVAL, "method row '%s' is not whole", m->path);
            if (m->permission < RPC_ANYONE || m->permission > RPC_CUSTODIAN)
                return sp_why_set(why, -EINVAL, "method %s has no permission", m->path);
            if (m->permission >= RPC_VIEWER && !has_authorise)
                return sp_why_set(why, -EINVAL,
                                  "method %s needs a role and the server has no way to check it",
                                  m->path);
        }
    }
    return 0;
}
