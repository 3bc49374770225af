/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * key show, compromise, destroy: what becomes of a key in escrow. */
#include "controller/cli/cli.h"

static const char *named(const char *name, const char *id)
{
    return *name ? name : id;
}

static void print_record(const Sp__EscrowRecord *e)
{
    char type[48], state[48];
    cli_enum_text(&sp__secret_type__descriptor, (int)e->secret_type, "SECRET_TYPE_", type);
    cli_enum_text(&sp__record_state__descriptor, (int)e->state, "RECORD_STATE_", state);
    printf("record      %s\n", e->record_id);
    printf("volume      %s of machine %s, protector %s\n", e->volume_id, e->machine_id,
           *e->protector_id ? e->protector_id : "any");
    printf("key         %s, generation %u, %s, of %s%s%s\n", type, e->generation, state,
           e->provider, *e->version ? ", version " : "", e->version);
    printf("held        %s%s\n", cli_holding(e),
           e->unwrapped ? "; its provider keeps it without a KEK around it" : "");
    if (*e->warning)
        printf("warning     %s\n", e->warning);
    printf("pins        %u kept points rest on it\n", e->pins);
    if (*e->note)
        printf("note        %s\n", e->note);
}

static void print_history(const Sp__KeyDetail *d)
{
    for (size_t i = 0; i < d->n_history; i++) {
        const Sp__KeyStateChange *c = d->history[i];
        char state[48], at[24];
        cli_enum_text(&sp__record_state__descriptor, (int)c->state, "RECORD_STATE_", state);
        printf("%-11s %s by %s%s%s\n", state, cli_time_text(c->at_unix_ms, at), c->who,
               *c->why ? ": " : "", c->why);
    }
    if (d->destruction) {
        char from[24];
        printf("destruction asked for by %s: %s; possible from %s on\n", d->destruction->asked_by,
               d->destruction->why, cli_time_text(d->destruction->not_before_unix_ms, from));
    }
}

static void print_exposure(const Sp__KeyDetail *d)
{
    for (size_t i = 0; i < d->n_same_secret; i++)
        printf("same secret %s, volume %s of machine %s\n", d->same_secret[i]->record_id,
               d->same_secret[i]->volume_id, d->same_secret[i]->machine_id);
    for (size_t i = 0; i < d->n_volumes; i++) {
        const Sp__ExposedVolume *v = d->volumes[i];
        printf("opens       volume %s of %s, %s\n", v->volume_id,
               named(v->machine_name, v->machine_id),
               v->live ? "which the machine has now" : "not in the machine's last inventory");
    }
    for (size_t i = 0; i < d->n_points; i++) {
        const Sp__ExposedPoint *p = d->points[i];
        printf("opens       point %s of %s, volume %s%s\n", p->point_id,
               named(p->machine_name, p->machine_id), p->volume_id,
               p->proved ? "" : " (it rests on another key of the volume)");
    }
}

static int get_detail(struct cli *cli, const char *record, Sp__KeyDetail **ret)
{
    Sp__ShowKeyRequest request = SP__SHOW_KEY_REQUEST__INIT;
    request.record_id = CLI_TEXT(record);
    return cli_call(cli, "Keys/Show", &request.base, ret);
}

int cmd_key_show(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    CLI_MESSAGE Sp__KeyDetail *d = NULL;
    int r = get_detail(cli, argv[0], &d);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&d->base) : r;
    print_record(d->record);
    print_history(d);
    print_exposure(d);
    return CLI_OK;
}

int cmd_key_compromise(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *why = NULL;
    const struct cli_flag flags[] = {
        {"why", "TEXT", "into the record's history and the audit", &why, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!why)
        return cli_fail(CLI_USAGE, "--why TEXT is needed");
    CLI_MESSAGE Sp__KeyDetail *before = NULL, *d = NULL;
    int r = get_detail(cli, argv[0], &before);
    if (r != CLI_OK)
        return r;
    Sp__CompromiseKeyRequest request = SP__COMPROMISE_KEY_REQUEST__INIT;
    request.record_id = before->record->record_id;
    request.why = CLI_TEXT(why);
    r = cli_call_signed(cli, "Keys/Compromise", &request.base, &d);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&d->base) : r;
    print_record(d->record);
    print_exposure(d);
    printf("Whoever has the key opens all of this until the volumes are encrypted anew "
           "(cryptsetup reencrypt, manage-bde -off and -on) and the points are gone.\n");
    return CLI_OK;
}

static int print_destruction(const struct cli *cli, const Sp__DestroyKeyResponse *d, bool withdrawn)
{
    char from[24];
    if (cli->json)
        return cli_print_json(&d->base);
    if (d->destruction)
        printf("The key of record %s is destroyed by the same command from %s on; 'sealpoint key "
               "destroy %.8s --withdraw' takes that back.\n",
               d->record->record_id, cli_time_text(d->destruction->not_before_unix_ms, from),
               d->record->record_id);
    else
        printf("record %s: %s\n", d->record->record_id,
               withdrawn ? "is not to be destroyed any more" : "its key is destroyed");
    return CLI_OK;
}

int cmd_key_destroy(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *why = NULL;
    bool withdraw = false;
    const struct cli_flag flags[] = {
        {"why", "TEXT", "into the record's history and the audit", &why, NULL, NULL},
        {"withdraw", NULL, "take back that it was asked for", NULL, &withdraw, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!why && !withdraw)
        return cli_fail(CLI_USAGE, "--why TEXT is needed");
    CLI_MESSAGE Sp__KeyDetail *before = NULL;
    CLI_MESSAGE Sp__DestroyKeyResponse *answer = NULL;
    int r = get_detail(cli, argv[0], &before);
    if (r != CLI_OK)
        return r;
    Sp__DestroyKeyRequest request = SP__DESTROY_KEY_REQUEST__INIT;
    request.record_id = before->record->record_id;
    request.why = CLI_TEXT(why ? why : "");
    request.withdraw = withdraw;
    r = cli_call_signed(cli, "Keys/Destroy", &request.base, &answer);
    return r == CLI_OK ? print_destruction(cli, answer, withdraw) : r;
}
