/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include <inttypes.h>
#include <string.h>

static void vault_row(struct cli_table *t, const Sp__Vault *v)
{
    char used[24], room[24];
    bool dir = v->config && v->config->kind_case == SP__VAULT_CONFIG__KIND_DIRECTORY;
    cli_table_row(t, (const char *const[]){v->name, dir ? v->config->directory->path : "",
                                           cli_size_text(v->used_bytes, used),
                                           cli_size_text(v->free_bytes, room), v->vault_id});
}

int cmd_vault_add(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *dir = NULL, *days = "0";
    uint64_t n = 0;
    const struct cli_flag flags[] = {
        {"dir", "DIR", "an empty or missing folder on the controller's host", &dir, NULL, NULL},
        {"immutable-days", "N", "nobody can delete a point for N days; never lowered", &days, NULL,
         NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!dir)
        return cli_fail(CLI_USAGE, "--dir DIR is needed: it is the only kind of vault so far");
    if (cli_number("immutable-days", days, 36500, &n) != CLI_OK)
        return CLI_USAGE;
    Sp__DirectoryVault directory = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    Sp__AddVaultRequest request = SP__ADD_VAULT_REQUEST__INIT;
    directory.path = CLI_TEXT(dir);
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &directory;
    request.name = argv[0];
    request.config = &config;
    request.immutable_days = (uint32_t)n;
    CLI_MESSAGE Sp__Vault *vault = NULL;
    int r = cli_call(cli, "Backup/AddVault", &request.base, &vault);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&vault->base) : r;
    printf("%s  %s\n", vault->name, vault->vault_id);
    return CLI_OK;
}

/* There is no controller to ask yet: the daemon's own program does it, as root, on its host. */
int cmd_vault_attach(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *kit = NULL, *user = "admin", *name = "main", *host = NULL, *config = NULL;
    const struct cli_flag flags[] = {
        {"recovery-kit", "FILE", "what 'sealpointd init' or 'kek add recovery-kit' printed", &kit,
         NULL, NULL},
        {"user", "NAME", "who becomes admin and custodian again (admin)", &user, NULL, NULL},
        {"name", "NAME", "of this controller (main)", &name, NULL, NULL},
        {"host", "HOST", "a DNS name or address of this host, for the certificate", &host, NULL,
         NULL},
        {"config", "FILE", "controller.conf, when it is elsewhere", &config, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!kit)
        return cli_fail(CLI_USAGE, "--recovery-kit FILE is needed");
    const char *arguments[20] = {"sealpointd", "attach",    argv[0],     "--recovery-kit",
                                 kit,          "--name",    name,        "--user",
                                 user,         "--profile", cli->profile};
    size_t n = 11;
    if (host) {
        arguments[n++] = "--host";
        arguments[n++] = host;
    }
    if (config) {
        arguments[n++] = "--config";
        arguments[n++] = config;
    }
    execvp("sealpointd", (char **)(uintptr_t)arguments);
    execv("/usr/sbin/sealpointd", (char **)(uintptr_t)arguments);
    return cli_fail(CLI_ERROR, "cannot run sealpointd, which belongs on the controller's host: %s",
                    strerror(errno));
}

int cmd_vault_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    Sp__ListVaultsRequest request = SP__LIST_VAULTS_REQUEST__INIT;
    CLI_MESSAGE Sp__ListVaultsResponse *answer = NULL;
    int r = cli_call(cli, "Backup/ListVaults", &request.base, &answer);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&answer->base) : r;
    struct cli_table *t =
        cli_table_new((const char *const[]){"VAULT", "PLACE", ">USED", ">FREE", "ID", NULL});
    for (size_t i = 0; t && i < answer->n_vaults; i++)
        vault_row(t, answer->vaults[i]);
    return cli_table_print(t, "no vault yet: 'sealpoint vault add NAME --dir DIR' makes one");
}

struct check {
    struct cli *cli;
    struct cli_progress progress;
    unsigned problems, points;
    uint64_t chunks, packs;
    bool lost, ended;
};

static int on_progress(void *self, const ProtobufCMessage *message)
{
    struct check *k = self;
    const Sp__CheckProgress *p = (const Sp__CheckProgress *)message;
    cli_progress_show(&k->progress, p->done_bytes, p->total_bytes, "");
    for (size_t i = 0; i < p->n_problems; i++) {
        const Sp__CheckProblem *problem = p->problems[i];
        k->problems++;
        k->lost |= problem->data_lost;
        cli_progress_end(&k->progress);
        if (k->cli->json) {
            (void)cli_print_json(&problem->base);
            continue;
        }
        printf("%s: %s\n", problem->data_lost ? "LOST" : "untidy", problem->what);
        for (size_t n = 0; n < problem->n_points_harmed; n++)
            printf("  harms point %s\n", problem->points_harmed[n]);
    }
    k->points = p->points;
    k->chunks = p->chunks;
    k->packs = p->packs;
    k->ended |= p->ended;
    return 0;
}

int cmd_vault_check(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    bool read_data = false;
    const struct cli_flag flags[] = {
        {"read-data", NULL, "re-hash every chunk, not only the structure", NULL, &read_data, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    Sp__CheckVaultRequest request = SP__CHECK_VAULT_REQUEST__INIT;
    request.vault = argv[0];
    request.read_data = read_data;
    return cli_vault_check(cli, "check", "Backup/CheckVault", &request.base);
}

int cli_vault_check(struct cli *cli, const char *what, const char *method,
                    const ProtobufCMessage *request)
{
    struct check k = {.cli = cli};
    cli_progress_start(&k.progress, what);
    int r = cli_stream(cli, method, request, on_progress, &k);
    cli_progress_end(&k.progress);
    if (r != CLI_OK)
        return r;
    if (!k.ended)
        return cli_fail(CLI_ERROR, "the %s did not come to its end", what);
    if (!cli->json)
        printf("%u points, %" PRIu64 " chunks in %" PRIu64 " packs: %s\n", k.points, k.chunks,
               k.packs,
               !k.problems ? "all is well"
               : k.lost    ? "data are lost"
                           : "nothing is lost");
    return k.problems ? CLI_NOT_VALID : CLI_OK;
}
