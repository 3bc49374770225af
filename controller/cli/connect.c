/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include "base/config.h"
#include "base/file.h"
#include <stdarg.h>
#include <string.h>
#include <time.h>

int cli_fail(int exit_code, const char *format, ...)
{
    SP_FREE char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    if (text)
        cli_clean_text(text);
    fprintf(stderr, "sealpoint: %s\n", text ? text : "no memory");
    return exit_code;
}

struct profile {
    char *controller, *domain;
};

static const struct sp_config_option profile_options[] = {
    {"client", "controller", SP_CONFIG_TEXT, offsetof(struct profile, controller), 0, 0},
    {"client", "domain", SP_CONFIG_TEXT, offsetof(struct profile, domain), 0, 0},
    {0},
};

static int read_pem(const char *folder, const char *name, char **ret)
{
    SP_FREE char *path = sp_format("%s/%s", folder, name);
    int r = path ? sp_file_read(path, 1 << 20, ret, NULL) : -ENOMEM;
    if (r < 0)
        return cli_fail(CLI_ERROR,
                        "cannot read %s/%s: %s; 'sealpointd init' or 'sealpoint user add' makes a "
                        "profile, --profile names it",
                        folder, name, strerror(-r));
    return CLI_OK;
}

static int load_profile(struct cli *cli)
{
    struct profile p = {0};
    struct sp_why why = {0};
    SP_FREE char *path = sp_format("%s/client.conf", cli->profile);
    if (!path)
        return cli_fail(CLI_ERROR, "no memory");
    int r = sp_config_load(path, false, profile_options, &p, &why);
    if (r == 0 && (!p.controller || !p.domain))
        r = sp_why_set(&why, -EINVAL, "%s: 'controller' and 'domain' are needed", path);
    if (r < 0) {
        sp_config_free(profile_options, &p);
        return cli_fail(CLI_ERROR,
                        "%s; 'sealpointd init' or 'sealpoint user add' makes a profile, --profile "
                        "names it",
                        why.text);
    }
    cli->controller = p.controller;
    cli->domain = p.domain;
    return CLI_OK;
}

int cli_connect(struct cli *cli)
{
    if (cli->channel)
        return CLI_OK;
    SP_FREE char *certificate = NULL;
    SP_FREE char *key = NULL;
    int r = load_profile(cli);
    if (r == CLI_OK)
        r = read_pem(cli->profile, "trust.pem", &cli->trust_pem);
    if (r == CLI_OK)
        r = read_pem(cli->profile, "user.pem", &certificate);
    if (r == CLI_OK)
        r = read_pem(cli->profile, "user.key", &key);
    if (r != CLI_OK)
        return r;
    const struct rpc_channel_options options = {
        .target = cli->controller,
        .trust_pem = cli->trust_pem,
        .certificate_pem = certificate,
        .key_pem = key,
        .domain = cli->domain,
    };
    struct sp_why why = {0};
    r = rpc_channel_new(&options, &cli->channel, &why);
    sp_wipe(key, strlen(key));
    if (r < 0)
        return cli_fail(CLI_ERROR, "the profile %s cannot be used: %s", cli->profile,
                        why.text[0] ? why.text : strerror(-r));
    cli_renew(cli, certificate);
    return CLI_OK;
}

void cli_disconnect(struct cli *cli)
{
    rpc_channel_free(cli->channel);
    cli->channel = NULL;
    free(cli->controller);
    free(cli->domain);
    free(cli->trust_pem);
}

/* A user's certificate that ran out is refused in the handshake, where no reason can be given: so
 * it is looked for here. */
static bool certificate_expired(const struct cli *cli)
{
    SP_FREE char *path = sp_format("%s/user.pem", cli->profile);
    SP_FREE char *pem = NULL;
    size_t size = 0;
    X509 *certificate = NULL;
    if (!path || sp_file_read(path, 1 << 20, &pem, &size) < 0 ||
        sp_certificate_from_pem(pem, size, &certificate) < 0)
        return false;
    uint64_t expires = sp_certificate_expires_unix_ms(certificate);
    X509_free(certificate);
    return expires / 1000u < (uint64_t)time(NULL);
}

int cli_call_failed(struct cli *cli, int error, int status, const struct sp_why *why)
{
    const char *text = why->text[0] ? why->text : strerror(-error);
    switch (status) {
    case RPC_UNAVAILABLE:
    case RPC_DEADLINE_EXCEEDED:
        if (certificate_expired(cli))
            return cli_fail(CLI_REFUSED,
                            "the certificate in %s has expired: ask an admin for 'sealpoint user "
                            "add'",
                            cli->profile);
        return cli_fail(CLI_UNREACHABLE, "no answer from the controller at %s: %s", cli->controller,
                        text);
    case RPC_PERMISSION_DENIED:
    case RPC_UNAUTHENTICATED:
        return cli_fail(CLI_REFUSED, "refused: %s", text);
    case RPC_INVALID_ARGUMENT:
        return cli_fail(CLI_USAGE, "%s", text);
    default:
        return cli_fail(CLI_ERROR, "%s", text);
    }
}

enum { CALL_DEADLINE_MS = 60000 };

int cli_call(struct cli *cli, const char *method, const ProtobufCMessage *request, void *ret)
{
    int r = cli_connect(cli);
    if (r != CLI_OK)
        return r;
    struct sp_why why = {0};
    int status = 0;
    ProtobufCMessage *answer = NULL;
    r = rpc_unary(cli->channel, sp_method(method), request,
                  cli->deadline_ms ? cli->deadline_ms : CALL_DEADLINE_MS, &answer, &status, &why);
    if (r < 0)
        return cli_call_failed(cli, r, status, &why);
    if (!cli->json)
        cli_clean(answer);
    *(ProtobufCMessage **)ret = answer;
    return CLI_OK;
}

struct streaming {
    struct cli *cli;
    int (*on_message)(void *self, const ProtobufCMessage *);
    void *self;
};

static int pass_on(void *self, const ProtobufCMessage *message)
{
    struct streaming *s = self;
    if (!s->cli->json)
        cli_clean((ProtobufCMessage *)(uintptr_t)message); /* unpacked for this call alone */
    return s->on_message(s->self, message);
}

int cli_stream(struct cli *cli, const char *method, const ProtobufCMessage *request,
               int (*on_message)(void *self, const ProtobufCMessage *), void *self)
{
    struct streaming streaming = {cli, on_message, self};
    int r = cli_connect(cli);
    if (r != CLI_OK)
        return r;
    struct sp_why why = {0};
    int status = 0;
    r = rpc_stream(cli->channel, sp_method(method), request, 0, pass_on, &streaming, &status, &why);
    return r < 0 ? cli_call_failed(cli, r, status, &why) : CLI_OK;
}

int cli_machine(struct cli *cli, const char *machine, Sp__Machine **ret)
{
    Sp__GetMachineRequest request = SP__GET_MACHINE_REQUEST__INIT;
    request.machine = CLI_TEXT(machine);
    return cli_call(cli, "Fleet/GetMachine", &request.base, ret);
}
