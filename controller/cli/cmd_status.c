/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include <inttypes.h>

int cmd_status(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    Sp__StatusRequest request = SP__STATUS_REQUEST__INIT;
    CLI_MESSAGE Sp__StatusResponse *s = NULL;
    int r = cli_call(cli, "Fleet/GetStatus", &request.base, &s);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        r = cli_print_json(&s->base);
    else {
        printf("controller  %s at %s\n", s->version, cli->controller);
        printf("keeper      %s\n", !s->keeper_reachable ? "not reachable"
                                   : s->keeper_locked   ? "locked"
                                                        : "open");
        printf("machines    %u, %u connected\n", s->machines, s->connected);
        printf("jobs        %u running\n", s->running_jobs);
        printf("keystore    epoch %" PRIu64 "\n", s->keystore_epoch);
        for (size_t i = 0; i < s->n_warnings; i++)
            printf("warning     %s\n", s->warnings[i]);
    }
    return r == CLI_OK && !s->keeper_reachable ? CLI_UNREACHABLE : r;
}
