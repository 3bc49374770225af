/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * backup, job watch, job cancel; following a job is shared with point verify. */
#include "controller/cli/cli.h"
#include "controller/cli/job.h"

#include <string.h>

struct follow {
    struct cli *cli;
    struct cli_progress progress;
    Sp__Job *last; /* copy of the newest state */
    Sp__PointState shown;
};

static int on_job(void *self, const ProtobufCMessage *message)
{
    struct follow *f = self;
    const Sp__Job *job = (const Sp__Job *)message;
    char state[48];
    cli_progress_show(&f->progress, job->done_bytes, job->total_bytes, job->step);
    if (job->state != f->shown && !f->cli->json) {
        cli_progress_end(&f->progress);
        fprintf(stderr, "%s%s%s\n",
                cli_enum_text(&sp__point_state__descriptor, (int)job->state, "POINT_STATE_", state),
                *job->step ? ": " : "", job->step);
        f->shown = job->state;
    }
    Sp__Job *copy = (Sp__Job *)sp_message_copy(message);
    if (!copy)
        return -ENOMEM;
    if (f->last)
        sp__job__free_unpacked(f->last, NULL);
    f->last = copy;
    return 0;
}

static int report(struct cli *cli, const Sp__Job *job)
{
    if (cli->json) {
        int r = cli_print_json(&job->base);
        if (r != CLI_OK)
            return r;
    } else {
        char state[48], grade[48];
        printf("%s  %s, grade %s\n", job->point_id,
               cli_enum_text(&sp__point_state__descriptor, (int)job->state, "POINT_STATE_", state),
               cli_enum_text(&sp__grade__descriptor, (int)job->grade, "GRADE_", grade));
        cli_print_findings(job->findings, job->n_findings);
    }
    return job->state == SP__POINT_STATE__POINT_STATE_VALID ? CLI_OK : CLI_NOT_VALID;
}

int cli_follow_job(struct cli *cli, const char *job_id, const char *what)
{
    struct follow f = {.cli = cli};
    cli_progress_start(&f.progress, what);
    Sp__WatchJobRequest request = SP__WATCH_JOB_REQUEST__INIT;
    request.job_id = CLI_TEXT(job_id);
    int r = cli_stream(cli, "Backup/WatchJob", &request.base, on_job, &f);
    cli_progress_end(&f.progress);
    if (r == CLI_OK)
        r = f.last && f.last->ended
                ? report(cli, f.last)
                : cli_fail(CLI_UNREACHABLE, "the job goes on without us: 'sealpoint job watch %s'",
                           job_id);
    if (f.last)
        sp__job__free_unpacked(f.last, NULL);
    return r;
}

int cmd_backup(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    bool no_agent = false, detach = false;
    const struct cli_flag flags[] = {
        {"no-agent", NULL, "do not wait for a missing agent: the grade falls to crash", NULL,
         &no_agent, NULL},
        {"detach", NULL, "start it and print the job's id", NULL, &detach, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    Sp__StartBackupRequest request = SP__START_BACKUP_REQUEST__INIT;
    request.machine = argv[0];
    request.allow_no_agent = no_agent;
    CLI_MESSAGE Sp__Job *job = NULL;
    int r = cli_call(cli, "Backup/Start", &request.base, &job);
    if (r != CLI_OK || !detach)
        return r == CLI_OK ? cli_follow_job(cli, job->job_id, argv[0]) : r;
    if (cli->json)
        return cli_print_json(&job->base);
    printf("%s\n", job->job_id);
    return CLI_OK;
}

int cmd_job_watch(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    return cli_follow_job(cli, argv[0], "job");
}

int cmd_job_cancel(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    Sp__CancelJobRequest request = SP__CANCEL_JOB_REQUEST__INIT;
    request.job_id = argv[0];
    CLI_MESSAGE Sp__Job *job = NULL;
    int r = cli_call(cli, "Backup/CancelJob", &request.base, &job);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        return cli_print_json(&job->base);
    printf("%s ends at its next step\n", job->job_id);
    return CLI_OK;
}
