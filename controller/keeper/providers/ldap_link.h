/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One LDAP connection, always over TLS, with bounds that hold against a server that lies: one
 * deadline for all of it (a watcher shuts the socket down), a most size of one answer and of all,
 * no referral is followed. Secrets are taken out of libldap's buffer and wiped there.
 *
 * One thread at a time. Errors as in provider.h. */
#ifndef SEALPOINT_KEEPER_LDAP_LINK_H
#define SEALPOINT_KEEPER_LDAP_LINK_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include "controller/keeper/providers/provider.h"
#include <ldap.h>

struct ldap_link;

struct ldap_link_options {
    const char *url;     /* ldaps://HOST[:PORT], or ldap://HOST[:PORT] with StartTLS */
    const char *ca_file; /* NULL or "": the system's CAs */
    const char *bind_dn; /* DN, or user@domain */
    const struct sp_secret *password;
    uint64_t timeout_ms; /* of everything until close */
};

/* Scheme and host of `url` make sense. */
int ldap_link_check_url(const char *url, struct sp_why *);

int ldap_link_open(const struct ldap_link_options *, struct ldap_link **ret, provider_stage *,
                   struct sp_why *);
void ldap_link_close(struct ldap_link *);
SP_DEFINE_CLEANUP(ldap_link, struct ldap_link *, ldap_link_close)
#define LDAP_LINK SP_CLEANUP(ldap_link)

/* A found entry, valid during the call. A negative errno ends the search. */
struct ldap_entry;
typedef int ldap_link_entry_fn(void *self, const struct ldap_entry *);

/* -EACCES also when the base is not there (or not shown). -E2BIG: more than `most` entries. */
int ldap_link_search(struct ldap_link *, const char *base, int scope, const char *filter,
                     const char *const *attributes, unsigned most, ldap_link_entry_fn *, void *self,
                     struct sp_why *);

/* To free(). NULL: no memory, or no DN. */
char *ldap_entry_dn(const struct ldap_entry *);
/* The one value of the attribute. -ENOENT: it has none; -EPROTO: several, or more than `most`
 * bytes. The bytes in libldap's buffer are wiped: a second call finds zeros. */
int ldap_entry_value(const struct ldap_entry *, const char *attribute, size_t most,
                     struct sp_secret **ret);

/* Appends `size` bytes as "\xx\xx…" (RFC 4515), or a text with what is special in it escaped. */
int ldap_filter_bytes(struct sp_buffer *, const void *data, size_t size);
int ldap_filter_text(struct sp_buffer *, const char *text);

#endif
