/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/renew.h"
#include "base/file.h"
#include "base/identity.h"
#include "controller/message.h"
#include <arpa/inet.h>
#include <openssl/x509v3.h>
#include <string.h>

static const uint64_t due_before_ms = 10ull * 24 * 3600 * 1000;

static int add_host(const GENERAL_NAME *name, char ***hosts, size_t *count)
{
    char text[INET6_ADDRSTRLEN];
    if (name->type == GEN_DNS) {
        const char *dns = (const char *)ASN1_STRING_get0_data(name->d.dNSName);
        size_t length = (size_t)ASN1_STRING_length(name->d.dNSName);
        if (strlen(dns) != length || strcmp(dns, SP_CONTROLLER_DNS) == 0)
            return 0;
        return message_append_text(hosts, count, dns);
    }
    if (name->type != GEN_IPADD)
        return 0;
    int length = ASN1_STRING_length(name->d.iPAddress);
    if (!inet_ntop(length == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(name->d.iPAddress), text,
                   sizeof(text)) ||
        (length != 4 && length != 16))
        return 0;
    return message_append_text(hosts, count, text);
}

/* The hosts that the present certificate is for. */
static int hosts_of(X509 *certificate, char ***hosts, size_t *count)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    int r = 0;
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names) && r == 0; i++)
        r = add_host(sk_GENERAL_NAME_value(names, i), hosts, count);
    GENERAL_NAMES_free(names);
    return r;
}

static int issue(struct keeper_client *keeper, EVP_PKEY *key, X509 *old, const char *path,
                 struct sp_why *why)
{
    struct sp_identity id;
    Sp__IssueControllerRequest issue = SP__ISSUE_CONTROLLER_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    uint8_t *csr SP_FREE = NULL;
    char **hosts = NULL;
    size_t count = 0;
    int r = sp_identity_of_certificate(old, &id);
    if (r == 0)
        r = hosts_of(old, &hosts, &count);
    if (r == 0)
        r = sp_csr_make(key, id.name, &csr, &issue.csr.len);
    issue.controller_name = id.name;
    issue.csr.data = csr;
    issue.hosts = hosts;
    issue.n_hosts = count;
    request.kind_case = SP__KEEPER_REQUEST__KIND_ISSUE_CONTROLLER;
    request.issue_controller = &issue;
    if (r == 0)
        r = keeper_call(keeper, &request, -1, 0, &response, why);
    if (r == 0 && response->kind_case != SP__KEEPER_RESPONSE__KIND_ISSUE_CONTROLLER)
        r = -EPROTO;
    if (r == 0)
        r = sp_file_replace(path, response->issue_controller->certificate_chain.data,
                            response->issue_controller->certificate_chain.len, 0644);
    for (size_t i = 0; i < count; i++)
        free(hosts[i]);
    free(hosts);
    return r;
}

int renew_if_due(const char *state, struct keeper_client *keeper, uint64_t now_unix_ms,
                 bool *ret_renewed, struct sp_why *why)
{
    char *certificate_path SP_FREE = sp_format("%s/controller.pem", state);
    char *key_path SP_FREE = sp_format("%s/controller.key", state);
    char *pem SP_FREE = NULL;
    size_t size = 0;
    X509 *old = NULL;
    EVP_PKEY *key = NULL;
    *ret_renewed = false;
    if (!certificate_path || !key_path)
        return -ENOMEM;
    int r = sp_file_read(certificate_path, 1 << 20, &pem, &size);
    if (r == -ENOENT)
        return sp_why_set(why, r, "%s is missing: run 'sealpointd init' first", certificate_path);
    if (r == 0)
        r = sp_certificate_from_pem(pem, size, &old);
    if (r < 0)
        return sp_why_set(why, r, "%s cannot be read: %s", certificate_path, strerror(-r));
    if (sp_certificate_expires_unix_ms(old) > now_unix_ms + due_before_ms) {
        X509_free(old);
        return 0;
    }
    r = sp_key_load(key_path, &key);
    if (r < 0)
        sp_why_set(why, r, "%s cannot be read: %s", key_path, strerror(-r));
    if (r == 0)
        r = issue(keeper, key, old, certificate_path, why);
    *ret_renewed = r == 0;
    EVP_PKEY_free(key);
    X509_free(old);
    return r;
}
