/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * escrow: the external systems that hold keys besides the keystore. */
#include "controller/cli/cli.h"

#include "base/cleanup.h"

int cmd_escrow_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    Sp__ListProvidersRequest request = SP__LIST_PROVIDERS_REQUEST__INIT;
    CLI_MESSAGE Sp__ListProvidersResponse *answer = NULL;
    int r = cli_call(cli, "Keys/ListProviders", &request.base, &answer);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&answer->base) : r;
    struct cli_table *t =
        cli_table_new((const char *const[]){"PROVIDER", "TYPE", "MIRROR", ">RECORDS", NULL});
    for (size_t i = 0; t && i < answer->n_providers; i++) {
        const Sp__EscrowProvider *p = answer->providers[i];
        char records[16];
        (void)snprintf(records, sizeof(records), "%u", p->records);
        cli_table_row(t,
                      (const char *const[]){p->name, p->type, p->mirror ? "yes" : "no", records});
    }
    return cli_table_print(t, "no external provider: keys are in the keystore only; "
                              "sealpoint-keeper(8), PROVIDERS, says how to add one");
}

static const char *stage_text(Sp__ProviderStage stage)
{
    static const char *const names[] = {"", "connection", "TLS", "log-on", "permission", "canary"};
    return (size_t)stage < SP_COUNT(names) ? names[stage] : "another step";
}

int cmd_escrow_test(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    bool make_canary = false;
    const struct cli_flag flags[] = {
        {"make-canary", NULL, "put a canary there first, where the provider can (kmip)", NULL,
         &make_canary, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    Sp__TestProviderRequest request = SP__TEST_PROVIDER_REQUEST__INIT;
    CLI_MESSAGE Sp__TestProviderResponse *t = NULL;
    request.name = argv[0];
    request.make_canary = make_canary;
    int r = cli_call(cli, "Keys/TestProvider", &request.base, &t);
    if (r != CLI_OK)
        return r;
    if (cli->json) {
        r = cli_print_json(&t->base);
        return r == CLI_OK && !t->good ? CLI_NOT_VALID : r;
    }
    for (size_t i = 0; i < t->n_steps; i++)
        printf("%-11s %s\n", stage_text(t->steps[i]->stage),
               t->steps[i]->good ? "ok" : t->steps[i]->text);
    if (t->good)
        printf("%s answers, and its keys may be read%s\n", argv[0],
               t->provider && t->provider->mirror ? "" : "; they are not mirrored");
    return t->good ? CLI_OK : CLI_NOT_VALID;
}
