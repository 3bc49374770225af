/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who calls: address and certificate. TLS has verified the chain already; here the leaf is read. */
#include "base/cleanup.h"
#include "internal.h"
#include <errno.h>
#include <grpc/support/alloc.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

SP_DEFINE_CLEANUP(x509, X509 *, X509_free)

/* "ipv6:%5B::1%5D:51622" → "[::1]:51622" */
static char *plain_address(const char *uri)
{
    const char *from = strchr(uri, ':');
    char *address = strdup(from ? from + 1 : uri);
    char *to = address;

    if (!address)
        return NULL;
    for (const char *p = address; *p; to++) {
        if (strncmp(p, "%5B", 3) == 0 || strncmp(p, "%5D", 3) == 0) {
            *to = p[2] == 'B' ? '[' : ']';
            p += 3;
        } else {
            *to = *p++;
        }
    }
    *to = 0;
    return address;
}

static int read_certificate(struct rpc_call *c, const grpc_auth_property *pem, struct sp_why *why)
{
    SP_CLEANUP(x509) X509 *leaf = NULL;
    struct sp_identity who = {0};

    int rc = sp_certificate_from_pem(pem->value, pem->value_length, &leaf);
    if (rc < 0)
        return sp_why_set(why, -EKEYREJECTED, "the client's certificate cannot be read");
    /* A resumed session and a connection that is older than its certificate skip the TLS check. */
    if (X509_cmp_current_time(X509_get0_notAfter(leaf)) <= 0)
        return sp_why_set(why, -EKEYREJECTED, "the client's certificate has expired");
    if (sp_identity_of_certificate(leaf, &who) < 0)
        return sp_why_set(why, -EKEYREJECTED,
                          "the client's certificate names no identity (one SPIFFE id in its SAN)");
    int size = i2d_X509(leaf, &c->certificate);
    if (size < 0)
        return sp_why_set(why, -ENOMEM, "out of memory");
    c->certificate_size = (size_t)size;
    c->peer = who;
    return 0;
}

int rpc_peer_read(struct rpc_call *c, struct sp_why *why)
{
    int rc = 0;
    char *uri = grpc_call_get_peer(c->call);

    if (uri)
        c->address = plain_address(uri);
    gpr_free(uri);
    grpc_auth_context *context = grpc_call_auth_context(c->call);
    if (!context)
        return 0;
    grpc_auth_property_iterator i =
        grpc_auth_context_find_properties_by_name(context, GRPC_X509_PEM_CERT_PROPERTY_NAME);
    const grpc_auth_property *pem = grpc_auth_property_iterator_next(&i);
    if (pem)
        rc = read_certificate(c, pem, why);
    grpc_auth_context_release(context);
    return rc;
}
