/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What keeps, removes, copies and heals points. */
#include "controller/cli/cli.h"

#include <inttypes.h>
#include <string.h>

/* ── Marks on points ── */

static int mark(struct cli *cli, const struct cli_command *c, int argc, char **argv,
                const char *method, bool reason, const char *text)
{
    const char *why = "";
    const struct cli_flag with_reason[] = {
        {"why", "TEXT", "kept with the point and in the audit", &why, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, reason ? with_reason : NULL, argc, argv, 1, 1);
    if (reason && !*why)
        return cli_fail(CLI_USAGE, "--why TEXT is needed: it is kept with the point");
    Sp__MarkPointRequest request = SP__MARK_POINT_REQUEST__INIT;
    request.point = argv[0];
    request.why = CLI_TEXT(why);
    CLI_MESSAGE Sp__Point *point = NULL;
    int r = cli_call(cli, method, &request.base, &point);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        return cli_print_json(&point->base);
    printf("%s %s\n", point->point_id, text);
    return CLI_OK;
}

int cmd_point_delete(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    return mark(cli, c, argc, argv, "Backup/DeletePoint", true,
                "is deleted; for 14 days 'sealpoint point undelete' brings it back");
}

int cmd_point_undelete(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    return mark(cli, c, argc, argv, "Backup/UndeletePoint", false, "is back");
}

int cmd_point_hold(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    return mark(cli, c, argc, argv, "Backup/HoldPoint", true,
                "is under legal hold: nothing removes it");
}

int cmd_point_unhold(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    return mark(cli, c, argc, argv, "Backup/UnholdPoint", false,
                "is not under legal hold any more");
}

/* ── Clean-up ── */

static int on_collected(void *self, const ProtobufCMessage *message)
{
    struct cli *cli = self;
    const Sp__CollectProgress *p = (const Sp__CollectProgress *)message;
    char freed[24], copied[24];
    if (cli->json)
        return cli_print_json(message) == CLI_OK ? 0 : -EIO;
    for (size_t i = 0; i < p->n_expired_points; i++)
        printf("expired %s\n", p->expired_points[i]);
    printf("%zu points expired, %" PRIu64 " removed for good; %s freed in %" PRIu64
           " packs, %s copied from %" PRIu64 " packs\n",
           p->n_expired_points, p->points_removed, cli_size_text(p->bytes_freed, freed),
           p->packs_removed, cli_size_text(p->bytes_copied, copied), p->packs_repacked);
    return 0;
}

int cmd_vault_gc(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    bool dry_run = false;
    const struct cli_flag flags[] = {
        {"dry-run", NULL, "only say what would go", NULL, &dry_run, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    Sp__CollectVaultRequest request = SP__COLLECT_VAULT_REQUEST__INIT;
    request.vault = argv[0];
    request.dry_run = dry_run;
    return cli_stream(cli, "Backup/CollectVault", &request.base, on_collected, cli);
}

/* ── A second vault ── */

static int on_copied(void *self, const ProtobufCMessage *message)
{
    struct cli *cli = self;
    const Sp__CopyProgress *p = (const Sp__CopyProgress *)message;
    char size[24];
    if (cli->json)
        return cli_print_json(message) == CLI_OK ? 0 : -EIO;
    if (p->ended)
        printf("%" PRIu64 " points copied (%s), %" PRIu64 " were there\n", p->points,
               cli_size_text(p->copied_bytes, size), p->points_there);
    return 0;
}

int cmd_vault_copy(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *dir = NULL, *machine = "";
    const struct cli_flag flags[] = {
        {"to-dir", "DIR", "the replica, on the controller's host; made when it is empty", &dir,
         NULL, NULL},
        {"machine", "MACHINE", "only this machine's points", &machine, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!dir)
        return cli_fail(CLI_USAGE, "--to-dir DIR is needed");
    Sp__CopyVaultRequest request = SP__COPY_VAULT_REQUEST__INIT;
    request.vault = argv[0];
    request.directory = CLI_TEXT(dir);
    request.machine = CLI_TEXT(machine);
    return cli_stream(cli, "Backup/CopyVault", &request.base, on_copied, cli);
}

int cmd_vault_scrub(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *dir = "", *rate = "64";
    const struct cli_flag flags[] = {
        {"heal-from-dir", "DIR", "a replica that damaged data is taken from", &dir, NULL, NULL},
        {"rate", "MIB", "MiB a second at most (64); 0: no limit", &rate, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    uint64_t mib = 0;
    if (cli_number("rate", rate, 1 << 20, &mib) != CLI_OK)
        return CLI_USAGE;
    Sp__ScrubVaultRequest request = SP__SCRUB_VAULT_REQUEST__INIT;
    request.vault = argv[0];
    request.heal_from = CLI_TEXT(dir);
    request.bytes_per_second = mib << 20;
    return cli_vault_check(cli, "scrub", "Backup/ScrubVault", &request.base);
}
