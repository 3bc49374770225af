/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The CA: X.509, P-256, 30-day certificates whose only name that counts is the SPIFFE id in the
 * SAN. Of a CSR only the key is used; its subject and extensions are ignored. Random serials. */
#ifndef SEALPOINT_KEEPER_CA_H
#define SEALPOINT_KEEPER_CA_H

#include "base/identity.h"
#include "base/why.h"

struct keeper;

struct ca_subject {
    enum sp_identity_kind kind;
    const char *name;
    char *const *hosts; /* controllers: DNS names and IP addresses */
    size_t host_count;
};

struct ca_chain {
    char *pem; /* leaf, then the CA */
    size_t size;
    uint64_t expires_unix_ms;
};
static inline void sp_cleanup_chain(struct ca_chain *c)
{
    free(c->pem);
}
#define CA_CHAIN __attribute__((cleanup(sp_cleanup_chain)))

/* Self-signed with k->ca_key for k->domain, 20 years. */
int ca_make_root(struct keeper *, X509 **ret);
int ca_to_pem(X509 *certificate, char **ret, size_t *ret_size);
/* Checks a CSR: DER, at most 16 KiB, P-256, signed by its own key. *ret is its key. -EINVAL. */
int ca_check_csr(const void *der, size_t size, EVP_PKEY **ret, struct sp_why *why);
/* A certificate for the key of this CSR. -EINVAL: the CSR or a host name. */
int ca_issue(struct keeper *, const struct ca_subject *, const void *csr, size_t csr_size,
             struct ca_chain *ret, struct sp_why *why);
/* A certificate that this CA made and that is in time: who it is. -EKEYREJECTED, -EINVAL. */
int ca_verify(struct keeper *, const void *der, size_t size, struct sp_identity *ret,
              X509 **ret_certificate, struct sp_why *why);
/* DNS names and addresses of a certificate, without SP_CONTROLLER_DNS; array and texts to free().
 */
int ca_hosts_of(X509 *certificate, char ***ret, size_t *ret_count);

#endif
