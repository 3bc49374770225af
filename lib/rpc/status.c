/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "rpc/rpc.h"
#include <errno.h>

static const char *const names[] = {
    [RPC_OK] = "OK",
    [RPC_CANCELLED] = "CANCELLED",
    [RPC_UNKNOWN] = "UNKNOWN",
    [RPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [RPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [RPC_NOT_FOUND] = "NOT_FOUND",
    [RPC_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [RPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [RPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [RPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [RPC_ABORTED] = "ABORTED",
    [11] = "OUT_OF_RANGE",
    [RPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [RPC_INTERNAL] = "INTERNAL",
    [RPC_UNAVAILABLE] = "UNAVAILABLE",
    [RPC_DATA_LOSS] = "DATA_LOSS",
    [RPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

/* The first row of a status is what clients get back for it. */
static const struct {
    int error, status;
} pairs[] = {
    {EINVAL, RPC_INVALID_ARGUMENT},
    {E2BIG, RPC_INVALID_ARGUMENT},
    {ENAMETOOLONG, RPC_INVALID_ARGUMENT},
    {EPROTO, RPC_INVALID_ARGUMENT},
    {EACCES, RPC_PERMISSION_DENIED},
    {EPERM, RPC_PERMISSION_DENIED},
    {EKEYREJECTED, RPC_UNAUTHENTICATED},
    {EKEYEXPIRED, RPC_UNAUTHENTICATED},
    {EKEYREVOKED, RPC_UNAUTHENTICATED},
    {ENOENT, RPC_NOT_FOUND},
    {ENODEV, RPC_NOT_FOUND},
    {EEXIST, RPC_ALREADY_EXISTS},
    {EADDRINUSE, RPC_ALREADY_EXISTS},
    {ETIMEDOUT, RPC_DEADLINE_EXCEEDED},
    {ECANCELED, RPC_CANCELLED},
    {EHOSTUNREACH, RPC_UNAVAILABLE},
    {EAGAIN, RPC_UNAVAILABLE},
    {ECONNREFUSED, RPC_UNAVAILABLE},
    {ECONNRESET, RPC_UNAVAILABLE},
    {ENETUNREACH, RPC_UNAVAILABLE},
    {ENOTCONN, RPC_UNAVAILABLE},
    {EPIPE, RPC_UNAVAILABLE},
    {ESHUTDOWN, RPC_UNAVAILABLE},
    {ENOSPC, RPC_RESOURCE_EXHAUSTED},
    {ENOMEM, RPC_RESOURCE_EXHAUSTED},
    {ENOBUFS, RPC_RESOURCE_EXHAUSTED},
    {EMFILE, RPC_RESOURCE_EXHAUSTED},
    {EMSGSIZE, RPC_RESOURCE_EXHAUSTED},
    {EDQUOT, RPC_RESOURCE_EXHAUSTED},
    {EBUSY, RPC_FAILED_PRECONDITION},
    {ENOKEY, RPC_FAILED_PRECONDITION},
    {ENOTEMPTY, RPC_FAILED_PRECONDITION},
    {EROFS, RPC_FAILED_PRECONDITION},
    {ESTALE, RPC_ABORTED},
    {EOPNOTSUPP, RPC_UNIMPLEMENTED},
    {ENOSYS, RPC_UNIMPLEMENTED},
    {EBADMSG, RPC_DATA_LOSS},
    {EUCLEAN, RPC_DATA_LOSS},
    {EIO, RPC_INTERNAL},
    {EIO, RPC_UNKNOWN},
    {ERANGE, 11},
};

const char *rpc_status_name(int status)
{
    if (status < 0 || (size_t)status >= SP_COUNT(names))
        return "UNKNOWN";
    return names[status];
}

int rpc_status_of_errno(int error)
{
    if (error == 0)
        return RPC_OK;
    for (size_t i = 0; i < SP_COUNT(pairs); i++)
        if (pairs[i].error == -error)
            return pairs[i].status;
    return RPC_INTERNAL;
}

int rpc_errno_of_status(int status)
{
    if (status == RPC_OK)
        return 0;
    for (size_t i = 0; i < SP_COUNT(pairs); i++)
        if (pairs[i].status == status)
            return -pairs[i].error;
    return -EIO;
}
