/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A user's certificate renews itself in the last third of its life, at whatever command comes then.
 */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include <string.h>
#include <time.h>

SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(x509, X509 *, X509_free)

static bool is_due(const X509 *certificate)
{
    struct tm from;
    if (!ASN1_TIME_to_tm(X509_get0_notBefore(certificate), &from))
        return false;
    uint64_t begins = (uint64_t)timegm(&from) * 1000u;
    uint64_t ends = sp_certificate_expires_unix_ms(certificate);
    uint64_t now = sp_clock_system.wall_ms(NULL);
    return ends > begins && now < ends && now > begins + (ends - begins) / 3 * 2;
}

static int ask(struct cli *cli, EVP_PKEY *key, Sp__RenewResponse **ret, struct sp_why *why)
{
    SP_FREE uint8_t *csr = NULL;
    Sp__RenewRequest request = SP__RENEW_REQUEST__INIT;
    int status = 0, r = sp_csr_make(key, "user", &csr, &request.csr.len);
    if (r < 0)
        return r;
    request.csr.data = csr;
    return rpc_unary(cli->channel, sp_method("Enrolment/Renew"), &request.base, 20000,
                     (ProtobufCMessage **)(void *)ret, &status, why);
}

void cli_renew(struct cli *cli, const char *certificate_pem)
{
    SP_CLEANUP(x509) X509 *certificate = NULL;
    if (sp_certificate_from_pem(certificate_pem, strlen(certificate_pem), &certificate) < 0 ||
        !is_due(certificate))
        return;
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    CLI_MESSAGE Sp__RenewResponse *answer = NULL;
    SP_FREE char *key_path = sp_format("%s/user.key", cli->profile);
    SP_FREE char *path = sp_format("%s/user.pem", cli->profile);
    SP_FREE char *trust = sp_format("%s/trust.pem", cli->profile);
    struct sp_why why = {0};
    int r = key_path && path && trust ? sp_key_load(key_path, &key) : -ENOMEM;
    if (r == 0)
        r = ask(cli, key, &answer, &why);
    if (r == 0)
        r = sp_file_replace(path, answer->certificate_chain.data, answer->certificate_chain.len,
                            0644);
    if (r == 0 && answer->trust_bundle.len)
        r = sp_file_replace(trust, answer->trust_bundle.data, answer->trust_bundle.len, 0644);
    if (r < 0)
        fprintf(stderr,
                "sealpoint: warning: the certificate in %s expires soon and was not "
                "renewed: %s\n",
                cli->profile, why.text[0] ? why.text : strerror(-r));
}
