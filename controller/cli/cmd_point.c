/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * point list, show, verify. */
#include "controller/cli/cli.h"
#include "controller/cli/job.h"

#include <inttypes.h>
#include <string.h>

static const char *state_text(const Sp__Point *p, char out[48])
{
    return cli_enum_text(&sp__point_state__descriptor, (int)p->state, "POINT_STATE_", out);
}

static const char *grade_text(const Sp__Point *p, char out[48])
{
    return cli_enum_text(&sp__grade__descriptor, (int)p->grade, "GRADE_", out);
}

static void point_row(struct cli_table *t, const Sp__Point *p)
{
    char taken[24], state[48], grade[48], stored[24], fresh[24], proved[32];
    (void)snprintf(proved, sizeof(proved), "%u/%u", p->volumes_proved, p->volumes);
    cli_table_row(t, (const char *const[]){p->point_id, p->machine_name,
                                           cli_time_text(p->taken_unix_ms, taken),
                                           state_text(p, state), grade_text(p, grade), proved,
                                           cli_size_text(p->stored_bytes, stored),
                                           cli_size_text(p->new_bytes, fresh)});
}

static int list_all(struct cli *cli, struct cli_table *t, const char *machine)
{
    SP_FREE char *token = strdup("");
    do {
        Sp__ListPointsRequest request = SP__LIST_POINTS_REQUEST__INIT;
        request.machine = CLI_TEXT(machine);
        request.page_token = token;
        CLI_MESSAGE Sp__ListPointsResponse *answer = NULL;
        int r = token ? cli_call(cli, "Backup/ListPoints", &request.base, &answer)
                      : cli_fail(CLI_ERROR, "no memory");
        if (r != CLI_OK)
            return r;
        for (size_t i = 0; i < answer->n_points; i++) {
            if (t)
                point_row(t, answer->points[i]);
            else if ((r = cli_print_json(&answer->points[i]->base)) != CLI_OK)
                return r;
        }
        free(token);
        token = strdup(answer->next_page_token);
    } while (token && *token);
    return CLI_OK;
}

int cmd_point_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 1);
    const char *machine = words ? argv[0] : "";
    if (cli->json)
        return list_all(cli, NULL, machine);
    struct cli_table *t = cli_table_new((const char *const[]){
        "POINT", "MACHINE", "TAKEN", "STATE", "GRADE", ">PROVED", ">STORED", ">NEW", NULL});
    int r = list_all(cli, t, machine);
    int p = cli_table_print(t, "no recovery points: 'sealpoint backup MACHINE' makes one");
    return r != CLI_OK ? r : p;
}

static void proof_row(struct cli_table *t, const Sp__VolumeProof *p)
{
    char kind[48], verdict[48] = "not proved", level[48] = "-", generation[16] = "-";
    cli_enum_text(&sp__volume_kind__descriptor, (int)p->volume->kind, "VOLUME_KIND_", kind);
    if (p->proof) {
        cli_enum_text(&sp__proof_verdict__descriptor, (int)p->proof->verdict, "PROOF_VERDICT_",
                      verdict);
        cli_enum_text(&sp__evidence_level__descriptor, (int)p->proof->level, "EVIDENCE_LEVEL_",
                      level);
        if (p->proof->record)
            (void)snprintf(generation, sizeof(generation), "%u", p->proof->record->generation);
    }
    const Sp__Content *content =
        p->proof && p->proof->content ? p->proof->content : p->volume->content;
    cli_table_row(
        t, (const char *const[]){p->volume->volume_id, kind, verdict, level, generation,
                                 p->proof && p->proof->record ? p->proof->record->record_id : "-",
                                 content ? content->type : ""});
}

static int print_point(const Sp__PointDetail *d)
{
    const Sp__Point *p = d->point;
    char text[48], when[24], size[24];
    printf("%s  of %s, number %" PRIu64 ", taken %s\n", p->point_id, p->machine_name, p->sequence,
           cli_time_text(p->taken_unix_ms, when));
    printf("state   %s\n", state_text(p, text));
    printf("grade   %s\n", grade_text(p, text));
    printf("proved  %u of %u encrypted volumes, last %s\n", p->volumes_proved, p->volumes,
           cli_time_text(p->last_proved_unix_ms, when));
    printf("data    %s of disks", cli_size_text(p->size_bytes, size));
    printf(", %s stored", cli_size_text(p->stored_bytes, size));
    printf(", %s new\n", cli_size_text(p->new_bytes, size));
    cli_print_findings(p->findings, p->n_findings);
    printf("\n");
    struct cli_table *t = cli_table_new((const char *const[]){
        "VOLUME", "KIND", "VERDICT", "EVIDENCE", ">GENERATION", "RECORD", "CONTENT", NULL});
    for (size_t i = 0; t && i < d->n_proofs; i++) {
        if (d->proofs[i]->volume)
            proof_row(t, d->proofs[i]);
    }
    return cli_table_print(t, "no encrypted volume in this point");
}

int cmd_point_show(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    Sp__GetPointRequest request = SP__GET_POINT_REQUEST__INIT;
    request.point = argv[0];
    CLI_MESSAGE Sp__PointDetail *detail = NULL;
    int r = cli_call(cli, "Backup/GetPoint", &request.base, &detail);
    if (r == CLI_OK)
        r = cli->json ? cli_print_json(&detail->base) : print_point(detail);
    if (r == CLI_OK && detail->point->state != SP__POINT_STATE__POINT_STATE_VALID)
        return CLI_NOT_VALID;
    return r;
}

int cmd_point_verify(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    Sp__VerifyPointRequest request = SP__VERIFY_POINT_REQUEST__INIT;
    request.point = argv[0];
    CLI_MESSAGE Sp__Job *job = NULL;
    int r = cli_call(cli, "Backup/VerifyPoint", &request.base, &job);
    return r == CLI_OK ? cli_follow_job(cli, job->job_id, "verify") : r;
}
