/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include <inttypes.h>
#include <string.h>

struct audit {
    struct cli *cli;
    struct cli_table *table; /* NULL: verify only */
    uint64_t entries, broken;
};

static int on_entry(void *self, const ProtobufCMessage *message)
{
    struct audit *a = self;
    const Sp__AuditEntry *e = (const Sp__AuditEntry *)message;
    a->entries++;
    if (e->broken) {
        a->broken++;
        fprintf(stderr,
                "sealpoint: the %s audit does not hold at entry %" PRIu64 ": it was "
                "changed\n",
                e->log, e->number);
    }
    if (a->cli->json && (a->table || e->broken))
        return cli_print_json(&e->base) == CLI_OK ? 0 : -EIO;
    char when[24];
    if (a->table)
        cli_table_row(a->table, (const char *const[]){cli_time_text(e->at_unix_ms, when), e->log,
                                                      e->who, e->what, e->about, e->text});
    return 0;
}

static int run(struct audit *a, const char *log, bool verify)
{
    Sp__ListAuditRequest request = SP__LIST_AUDIT_REQUEST__INIT;
    request.log = CLI_TEXT(log);
    request.verify = verify;
    return cli_stream(a->cli, "Admin/ListAudit", &request.base, on_entry, a);
}

int cmd_audit_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *log = "";
    const struct cli_flag flags[] = {
        {"log", "controller|keeper", "only this log", &log, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 0, 0);
    struct audit a = {.cli = cli,
                      .table = cli_table_new((const char *const[]){"TIME", "LOG", "WHO", "WHAT",
                                                                   "ABOUT", "TEXT", NULL})};
    int r = run(&a, log, false);
    if (cli->json) /* the rows went out as they came; the table is empty and only freed */
        a.entries = 0;
    int p = cli_table_print(a.table, cli->json ? "" : "the audit is empty");
    return r != CLI_OK ? r : p;
}

int cmd_audit_verify(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    struct audit a = {.cli = cli};
    int r = run(&a, "", true);
    if (r != CLI_OK)
        return r;
    if (a.broken)
        return CLI_NOT_VALID;
    if (!cli->json)
        printf("%" PRIu64 " entries, every one in its place\n", a.entries);
    return CLI_OK;
}
