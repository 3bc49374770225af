/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One connection to a KMIP server: TLS 1.2 or later, both sides with a certificate, one deadline
 * for all of it, answers of a bounded size. What comes in may be a key, so it goes to secret
 * memory, and OpenSSL wipes what it had of it.
 *
 * One thread at a time. Errors as in provider.h. */
#ifndef SEALPOINT_KEEPER_KMIP_LINK_H
#define SEALPOINT_KEEPER_KMIP_LINK_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include "controller/keeper/providers/provider.h"

struct kmip_link;

struct kmip_link_options {
    const char *host; /* the name, or address, that the server's certificate is for */
    uint16_t port;
    const char *ca_file;          /* NULL or "": the system's CAs */
    const char *certificate_file; /* the client's, and what is between it and the server's CA */
    uint64_t timeout_ms;          /* of everything until close */
};

/* Connects; nothing is said yet. */
int kmip_link_open(const struct kmip_link_options *, struct kmip_link **ret, struct sp_why *);
/* TLS, with the key of the client's certificate: PEM without a passphrase. What is wrong with files
 * here is of the stage TLS, since there is none without them; what the server has against the
 * certificate is of the log-on. */
int kmip_link_secure(struct kmip_link *, const struct kmip_link_options *,
                     const struct sp_secret *key, provider_stage *stage, struct sp_why *);
void kmip_link_close(struct kmip_link *);
SP_DEFINE_CLEANUP(kmip_link, struct kmip_link *, kmip_link_close)
#define KMIP_LINK SP_CLEANUP(kmip_link)

/* Sends a request and waits for its answer, *ret. A server that does not want the client's
 * certificate may say so only now: *stage tells. */
int kmip_link_ask(struct kmip_link *, struct sp_bytes request, struct sp_secret **ret,
                  provider_stage *stage, struct sp_why *);

#endif
