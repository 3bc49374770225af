/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * key enrol: escrow keyslots, of one volume or of the whole fleet. */
#include "controller/cli/cli.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

/* The controller waits four minutes for a guest that unlocks a dear keyslot. */
enum { ENROL_DEADLINE_MS = 300000, PAGE = 500 };

struct enrolling {
    struct cli *cli;
    const char *why;
    bool dry_run, all;
    struct cli_table *table;
    struct json_object *list; /* of --all with JSON; NULL: one volume, one object */
    unsigned failed;
};

static bool is_good(Sp__KeyslotOutcome outcome)
{
    switch (outcome) {
    case SP__KEYSLOT_OUTCOME__KEYSLOT_OUTCOME_ENROLLED:
    case SP__KEYSLOT_OUTCOME__KEYSLOT_OUTCOME_WOULD_ENROL:
    case SP__KEYSLOT_OUTCOME__KEYSLOT_OUTCOME_NEEDS_PASSPHRASE:
    case SP__KEYSLOT_OUTCOME__KEYSLOT_OUTCOME_ALREADY:
        return true;
    default:
        return false;
    }
}

/* One volume; its row or its JSON. CLI_OK, or the exit code of a call that failed as a whole. */
static int enrol_one(struct enrolling *e, const Sp__Machine *m, const Sp__Volume *v)
{
    Sp__EnrolKeyslotRequest request = SP__ENROL_KEYSLOT_REQUEST__INIT;
    CLI_MESSAGE Sp__EnrolKeyslotResponse *answer = NULL;
    char outcome[48];
    request.machine = m->machine_id;
    request.volume_id = v->volume_id;
    request.why = CLI_TEXT(e->why);
    request.dry_run = e->dry_run;
    int r = cli_call(e->cli, "Keys/EnrolKeyslot", &request.base, &answer);
    if (r != CLI_OK)
        return r;
    e->failed += !is_good(answer->outcome);
    if (e->list)
        return json_object_array_add(e->list, cli_json(&answer->base)) < 0 ? CLI_ERROR : CLI_OK;
    if (!e->table)
        return cli_print_json(&answer->base);
    cli_enum_text(&sp__keyslot_outcome__descriptor, (int)answer->outcome, "KEYSLOT_OUTCOME_",
                  outcome);
    cli_table_row(e->table, (const char *const[]){m->name, v->device, v->volume_id, outcome,
                                                  answer->record ? answer->record->record_id : "-",
                                                  answer->text});
    return CLI_OK;
}

static bool is_encrypted(const Sp__Volume *v)
{
    return v->kind != SP__VOLUME_KIND__VOLUME_KIND_CLEAR &&
           v->kind != SP__VOLUME_KIND__VOLUME_KIND_UNKNOWN &&
           v->kind != SP__VOLUME_KIND__VOLUME_KIND_UNSPECIFIED;
}

static int enrol_machine(struct enrolling *e, const char *machine)
{
    CLI_MESSAGE Sp__Machine *m = NULL;
    int r = cli_machine(e->cli, machine, &m);
    for (size_t i = 0; r == CLI_OK && m->inventory && i < m->inventory->n_volumes; i++)
        if (is_encrypted(m->inventory->volumes[i]))
            r = enrol_one(e, m, m->inventory->volumes[i]);
    return r;
}

static int enrol_all(struct enrolling *e)
{
    Sp__ListMachinesRequest request = SP__LIST_MACHINES_REQUEST__INIT;
    SP_FREE char *token = NULL;
    int r = CLI_OK;
    request.page_size = PAGE;
    do {
        CLI_MESSAGE Sp__ListMachinesResponse *page = NULL;
        r = cli_call(e->cli, "Fleet/ListMachines", &request.base, &page);
        for (size_t i = 0; r == CLI_OK && i < page->n_machines; i++)
            r = enrol_machine(e, page->machines[i]->machine_id);
        free(token);
        token = r == CLI_OK ? strdup(page->next_page_token) : NULL;
        request.page_token = token ? token : CLI_TEXT("");
    } while (r == CLI_OK && *request.page_token);
    return r;
}

static int enrol_named(struct enrolling *e, const char *machine, const char *volume)
{
    CLI_MESSAGE Sp__Machine *m = NULL;
    int r = cli_machine(e->cli, machine, &m);
    if (r != CLI_OK)
        return r;
    const Sp__Volume *v = cli_volume(m, volume);
    if (!v)
        return cli_fail(CLI_ERROR, "%s has no volume '%s': 'sealpoint machine show %s' lists them",
                        m->name, volume, m->name);
    return enrol_one(e, m, v);
}

int cmd_key_enrol(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    struct enrolling e = {.cli = cli, .why = ""};
    const struct cli_flag flags[] = {
        {"all", NULL, "every encrypted volume of every machine", NULL, &e.all, NULL},
        {"dry-run", NULL, "only tell what would happen", NULL, &e.dry_run, NULL},
        {"why", "TEXT", "goes into the record and the keeper's audit", &e.why, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 0, 2);
    if (words != (e.all ? 0 : 2))
        return cli_fail(CLI_USAGE, "expected: MACHINE VOLUME, or --all alone");
    if (!cli->json) {
        e.table = cli_table_new((const char *const[]){"MACHINE", "DEVICE", "VOLUME", "OUTCOME",
                                                      "RECORD", "WHAT", NULL});
        if (!e.table)
            return cli_fail(CLI_ERROR, "out of memory");
    }
    struct json_object *volumes = cli->json && e.all ? json_object_new_object() : NULL;
    if (volumes) {
        e.list = json_object_new_array();
        json_object_object_add(volumes, "volumes", e.list);
    }
    cli->deadline_ms = ENROL_DEADLINE_MS;
    int r = e.all ? enrol_all(&e) : enrol_named(&e, argv[0], argv[1]);
    if (volumes)
        puts(json_object_to_json_string_ext(volumes, JSON_C_TO_STRING_PRETTY));
    json_object_put(volumes);
    int shown = e.table ? cli_table_print(e.table, "no encrypted volumes") : CLI_OK;
    if (r == CLI_OK)
        r = shown;
    /* Of a fleet some are always away; of the one that was asked for it matters. */
    return r == CLI_OK && e.failed && !e.all ? CLI_ERROR : r;
}
