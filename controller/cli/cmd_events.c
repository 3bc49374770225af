/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include <string.h>

enum { PAGE = 500, MOST = 5000, NEWEST = 50 };

static void cells_of(const Sp__VolumeEvent *e, char when[24], const char *cells[4])
{
    cells[0] = cli_time_text(e->at_unix_ms, when);
    cells[1] = e->kind;
    cells[2] = e->subject;
    cells[3] = e->text;
}

/* The newest `most`, oldest first, as one reads a log. */
static int gather(struct cli *cli, const char *machine, uint64_t most, Sp__VolumeEvent **events,
                  size_t *count)
{
    uint64_t before = 0;
    bool more = true;
    while (more && *count < most) {
        Sp__ListEventsRequest request = SP__LIST_EVENTS_REQUEST__INIT;
        request.machine = CLI_TEXT(machine);
        request.before_event_id = before;
        request.page_size = (uint32_t)(most - *count < PAGE ? most - *count : PAGE);
        CLI_MESSAGE Sp__ListEventsResponse *answer = NULL;
        int r = cli_call(cli, "Fleet/ListEvents", &request.base, &answer);
        if (r != CLI_OK)
            return r;
        for (size_t i = 0; i < answer->n_events && *count < most; i++) {
            events[(*count)++] = answer->events[i];
            before = answer->events[i]->event_id;
            answer->events[i] = NULL;
        }
        more = answer->more && answer->n_events > 0;
        answer->n_events = 0; /* they are the caller's now */
    }
    return CLI_OK;
}

static int print_events(struct cli *cli, Sp__VolumeEvent *const *events, size_t count)
{
    struct cli_table *t = NULL;
    if (!cli->json)
        t = cli_table_new((const char *const[]){"TIME", "WHAT", "VOLUME OR DISK", "", NULL});
    for (size_t i = count; i-- > 0;) {
        char when[24];
        const char *cells[4];
        cells_of(events[i], when, cells);
        if (t)
            cli_table_row(t, cells);
        else if (cli->json && cli_print_json(&events[i]->base) != CLI_OK)
            return CLI_ERROR;
    }
    return cli->json ? CLI_OK : cli_table_print(t, "nothing has changed since it was enrolled");
}

static int on_event(void *self, const ProtobufCMessage *message)
{
    struct cli *cli = self;
    const Sp__FleetEvent *event = (const Sp__FleetEvent *)message;
    if (event->kind_case != SP__FLEET_EVENT__KIND_VOLUME)
        return 0;
    if (cli->json)
        return cli_print_json(&event->volume->base) == CLI_OK && fflush(stdout) == 0 ? 0 : -EIO;
    char when[24];
    const char *cells[4];
    cells_of(event->volume, when, cells);
    printf("%s  %-18s  %s  %s\n", cells[0], cells[1], cells[2], cells[3]);
    return fflush(stdout) == 0 ? 0 : -EIO;
}

int cmd_machine_events(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *newest = NULL;
    bool follow = false;
    uint64_t most = NEWEST;
    const struct cli_flag flags[] = {
        {"newest", "N", "so many, instead of 50", &newest, NULL, NULL},
        {"follow", NULL, "go on, and print each change as it happens", NULL, &follow, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    int r = newest ? cli_number("newest", newest, MOST, &most) : CLI_OK;
    if (r != CLI_OK)
        return r;
    Sp__VolumeEvent **events = calloc(most + 1, sizeof(*events));
    size_t count = 0;
    r = events ? gather(cli, argv[0], most, events, &count) : cli_fail(CLI_ERROR, "no memory");
    if (r == CLI_OK && (count || !follow))
        r = print_events(cli, events, count);
    for (size_t i = 0; i < count; i++)
        protobuf_c_message_free_unpacked(&events[i]->base, NULL);
    free(events);
    if (r != CLI_OK || !follow)
        return r;
    fflush(stdout);
    Sp__WatchRequest request = SP__WATCH_REQUEST__INIT;
    request.machine = argv[0];
    return cli_stream(cli, "Fleet/Watch", &request.base, on_event, cli);
}
