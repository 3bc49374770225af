/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include <inttypes.h>
#include <string.h>

static const char *source_word(const Sp__SourceConfig *s)
{
    switch (s ? s->kind_case : SP__SOURCE_CONFIG__KIND__NOT_SET) {
    case SP__SOURCE_CONFIG__KIND_QEMU:
        return "qemu";
    case SP__SOURCE_CONFIG__KIND_FILE:
        return "file";
    default:
        return "-";
    }
}

static void print_source(const Sp__SourceConfig *s)
{
    if (s && s->kind_case == SP__SOURCE_CONFIG__KIND_QEMU)
        printf("source      qemu, %s\n", s->qemu->qmp_socket);
    for (size_t i = 0; s && s->kind_case == SP__SOURCE_CONFIG__KIND_FILE && i < s->file->n_images;
         i++)
        printf("%s%s%s%s\n", i ? "                  " : "source      file, ",
               s->file->images[i]->path, *s->file->images[i]->serial ? ", serial " : "",
               s->file->images[i]->serial);
}

/* ---- list ---- */

static void machine_row(struct cli_table *t, const Sp__Machine *m)
{
    char state[48], valid[24];
    const char *agent = m->revoked              ? "revoked"
                        : m->pending_approval   ? "waits for approval"
                        : !m->agent             ? "none"
                        : m->agent->quarantined ? "quarantined"
                        : m->agent->connected   ? "connected"
                        : m->agent->enrolled    ? "away"
                                                : "none";
    cli_enum_text(&sp__point_state__descriptor, (int)m->last_point_state, "POINT_STATE_", state);
    const char *cells[] = {m->name,
                           agent,
                           source_word(m->source),
                           *m->last_point_id ? state : "-",
                           cli_time_text(m->last_valid_unix_ms, valid),
                           m->machine_id};
    cli_table_row(t, cells);
}

static int list_all(struct cli *cli, struct cli_table *t, const char *group, const char *pattern)
{
    SP_FREE char *token = strdup("");
    do {
        Sp__ListMachinesRequest request = SP__LIST_MACHINES_REQUEST__INIT;
        request.group = CLI_TEXT(group);
        request.name_pattern = CLI_TEXT(pattern);
        request.page_token = token;
        CLI_MESSAGE Sp__ListMachinesResponse *answer = NULL;
        int r = token ? cli_call(cli, "Fleet/ListMachines", &request.base, &answer)
                      : cli_fail(CLI_ERROR, "no memory");
        if (r != CLI_OK)
            return r;
        for (size_t i = 0; i < answer->n_machines; i++) {
            if (t)
                machine_row(t, answer->machines[i]);
            else if ((r = cli_print_json(&answer->machines[i]->base)) != CLI_OK)
                return r;
        }
        free(token);
        token = strdup(answer->next_page_token);
    } while (token && *token);
    return CLI_OK;
}

int cmd_machine_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *group = "";
    const struct cli_flag flags[] = {
        {"group", "GROUP", "only machines of this group", &group, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 0, 1);
    const char *pattern = words ? argv[0] : "";
    if (cli->json)
        return list_all(cli, NULL, group, pattern);
    struct cli_table *t = cli_table_new(
        (const char *const[]){"NAME", "AGENT", "SOURCE", "LAST POINT", "LAST VALID", "ID", NULL});
    int r = list_all(cli, t, group, pattern);
    int p = cli_table_print(t, "no machines yet: 'sealpoint token create' lets an agent enrol");
    return r != CLI_OK ? r : p;
}

/* ---- show ---- */

static void print_volume(struct cli_table *t, const Sp__Volume *v)
{
    char kind[48], size[24], slots[16];
    cli_enum_text(&sp__volume_kind__descriptor, (int)v->kind, "VOLUME_KIND_", kind);
    (void)snprintf(slots, sizeof(slots), "%zu", v->header ? v->header->n_protectors : 0);
    const char *cells[] = {v->volume_id,
                           kind,
                           cli_size_text(v->size_bytes, size),
                           v->open                                         ? "open"
                           : v->kind == SP__VOLUME_KIND__VOLUME_KIND_CLEAR ? "-"
                                                                           : "closed",
                           v->header ? slots : "-",
                           v->header  ? v->header->cipher
                           : v->plain ? v->plain->cipher
                                      : "",
                           v->content ? v->content->type : "",
                           v->device};
    cli_table_row(t, cells);
}

/* What the agent did not say is left out. */
static void print_agent(const Sp__AgentStatus *a)
{
    char when[24];
    printf("agent       %s", a->connected ? "connected" : "away");
    if (*a->version)
        printf(", version %s", a->version);
    if (*a->os)
        printf(", %s", a->os);
    if (*a->kernel)
        printf(", kernel %s", a->kernel);
    if (a->last_seen_unix_ms)
        printf("; last seen %s", cli_time_text(a->last_seen_unix_ms, when));
    printf("\n");
}

static int print_machine(const Sp__Machine *m)
{
    char when[24];
    printf("%s  %s\n", m->name, m->machine_id);
    if (*m->group)
        printf("group       %s\n", m->group);
    if (m->agent && m->agent->enrolled)
        print_agent(m->agent);
    if (m->agent && m->agent->quarantined)
        printf("QUARANTINED %s\n", m->agent->quarantine_reason);
    print_source(m->source);
    if (*m->last_point_id)
        printf("last point  %s\n", m->last_point_id);
    printf("last valid  %s\n", cli_time_text(m->last_valid_unix_ms, when));
    cli_print_findings(m->findings, m->n_findings);
    if (!m->inventory)
        return CLI_OK;
    printf("\n");
    struct cli_table *t = cli_table_new((const char *const[]){
        "VOLUME", "KIND", ">SIZE", "STATE", ">KEYSLOTS", "CIPHER", "CONTENT", "DEVICE", NULL});
    for (size_t i = 0; t && i < m->inventory->n_volumes; i++)
        print_volume(t, m->inventory->volumes[i]);
    return cli_table_print(t, "the agent has found no volume");
}

int cmd_machine_show(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    CLI_MESSAGE Sp__Machine *m = NULL;
    int r = cli_machine(cli, argv[0], &m);
    if (r != CLI_OK)
        return r;
    return cli->json ? cli_print_json(&m->base) : print_machine(m);
}

/* ---- change ---- */

static int print_changed(struct cli *cli, const Sp__Machine *m)
{
    if (cli->json)
        return cli_print_json(&m->base);
    printf("%s  %s\n", m->name, m->machine_id);
    return CLI_OK;
}

int cmd_machine_add(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *group = "";
    const struct cli_flag flags[] = {
        {"group", "GROUP", "machine group, for roles", &group, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    Sp__AddMachineRequest request = SP__ADD_MACHINE_REQUEST__INIT;
    request.name = argv[0];
    request.group = CLI_TEXT(group);
    CLI_MESSAGE Sp__Machine *m = NULL;
    int r = cli_call(cli, "Fleet/AddMachine", &request.base, &m);
    return r == CLI_OK ? print_changed(cli, m) : r;
}

/* What the flags say of the disks; the messages are the caller's. */
struct source_flags {
    const char *qmp, *fleece, *limit;
    const char *images[CLI_LIST_MAX + 1];
    Sp__SourceConfig config;
    Sp__QemuSource qemu;
    Sp__FileSource file;
    Sp__ImageFile image[CLI_LIST_MAX], *list[CLI_LIST_MAX];
};

static int qemu_from(struct source_flags *f)
{
    sp__qemu_source__init(&f->qemu);
    f->qemu.qmp_socket = CLI_TEXT(f->qmp);
    f->qemu.fleece_directory = CLI_TEXT(f->fleece);
    f->config.kind_case = SP__SOURCE_CONFIG__KIND_QEMU;
    f->config.qemu = &f->qemu;
    return f->limit ? cli_size("fleece-limit", f->limit, &f->qemu.fleece_limit_bytes) : CLI_OK;
}

/* "PATH" or "PATH,serial=SERIAL"; the text is cut in place. */
static int image_from(char *text, Sp__ImageFile *ret)
{
    char *comma = strrchr(text, ',');
    sp__image_file__init(ret);
    ret->path = text;
    if (comma && strncmp(comma, ",serial=", 8) == 0) {
        *comma = 0;
        ret->serial = comma + 8;
        if (!*ret->serial)
            return cli_fail(CLI_USAGE, "--image %s,serial=: the serial is missing", text);
    }
    return CLI_OK;
}

static int file_from(struct source_flags *f)
{
    int r = CLI_OK;
    if (*f->fleece || f->limit)
        return cli_fail(CLI_USAGE, "--fleece and --fleece-limit go with --qmp");
    sp__file_source__init(&f->file);
    for (size_t i = 0; f->images[i] && r == CLI_OK; i++) {
        r = image_from(CLI_TEXT(f->images[i]), &f->image[i]);
        f->list[i] = &f->image[i];
        f->file.n_images = i + 1;
    }
    f->file.images = f->list;
    f->config.kind_case = SP__SOURCE_CONFIG__KIND_FILE;
    f->config.file = &f->file;
    return r;
}

int cmd_machine_set_source(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    struct source_flags f = {.fleece = ""};
    const char *vault = "";
    const struct cli_flag flags[] = {
        {"qmp", "SOCKET", "unix socket on which the machine's QEMU speaks QMP", &f.qmp, NULL, NULL},
        {"fleece", "DIR", "room for what the guest overwrites during the copy", &f.fleece, NULL,
         NULL},
        {"fleece-limit", "SIZE", "most of it for each disk: 4G", &f.limit, NULL, NULL},
        {"image", "FILE[,serial=S]", "raw image on XFS or btrfs; as often as there are disks", NULL,
         NULL, f.images},
        {"vault", "VAULT", "where its points go (id or name)", &vault, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!f.qmp == !f.images[0])
        return cli_fail(CLI_USAGE, "--qmp SOCKET or --image FILE says where the disks are; one of "
                                   "the two is needed");
    Sp__SetSourceRequest request = SP__SET_SOURCE_REQUEST__INIT;
    sp__source_config__init(&f.config);
    int r = f.qmp ? qemu_from(&f) : file_from(&f);
    if (r != CLI_OK)
        return r;
    request.machine = argv[0];
    request.source = &f.config;
    request.vault_id = CLI_TEXT(vault);
    CLI_MESSAGE Sp__Machine *m = NULL;
    r = cli_call(cli, "Fleet/SetSource", &request.base, &m);
    return r == CLI_OK ? print_changed(cli, m) : r;
}

/* "REASON" or "REASON:VOLUME" */
static int parse_exception(const char *text, const char *why, Sp__Exception *e)
{
    char reason[64];
    const char *colon = strchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : strlen(text);
    (void)snprintf(reason, sizeof(reason), "%.*s", (int)(n > 63 ? 63 : n), text);
    int value = cli_enum_parse(&sp__reason__descriptor, "REASON_", reason);
    if (value < 0)
        return cli_fail(CLI_USAGE, "there is no reason '%s'", reason);
    sp__exception__init(e);
    e->reason = (Sp__Reason)value;
    e->volume_id = CLI_TEXT(colon ? colon + 1 : "");
    e->why = CLI_TEXT(why);
    return CLI_OK;
}

struct policy_words {
    const char *grade, *lease, *encrypt, *why;
    const char *allow[CLI_LIST_MAX], *exclude[CLI_LIST_MAX];
    const char *keep[5]; /* last, daily, weekly, monthly, yearly */
    bool clear_exceptions;
};

static int apply_retention(const struct policy_words *w, Sp__Retention *r)
{
    static const char *const names[] = {"keep-last", "keep-daily", "keep-weekly", "keep-monthly",
                                        "keep-yearly"};
    uint32_t *const to[] = {&r->keep_last, &r->keep_daily, &r->keep_weekly, &r->keep_monthly,
                            &r->keep_yearly};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        uint64_t n = *to[i];
        if (w->keep[i] && cli_number(names[i], w->keep[i], 100000, &n) != CLI_OK)
            return CLI_USAGE;
        *to[i] = (uint32_t)n;
    }
    return CLI_OK;
}

/* Writes the changes into `policy`, whose lists point into `w` and `old` afterwards. */
static int apply_policy(const struct policy_words *w, Sp__Policy *policy, Sp__Exception *made,
                        Sp__Exception **exceptions, const Sp__Policy *old)
{
    if (w->grade) {
        int grade = cli_enum_parse(&sp__grade__descriptor, "GRADE_", w->grade);
        if (grade < 0)
            return cli_fail(CLI_USAGE, "--minimum-grade is crash, filesystem or application");
        policy->minimum_grade = (Sp__Grade)grade;
    }
    if (w->encrypt)
        policy->encrypt_clear_chunks = strcmp(w->encrypt, "no") != 0;
    uint64_t lease = policy->lease_ms;
    if (w->lease && cli_duration_ms("lease", w->lease, &lease) != CLI_OK)
        return CLI_USAGE;
    policy->lease_ms = lease > UINT32_MAX ? UINT32_MAX : (uint32_t)lease;
    if (w->exclude[0]) {
        policy->excluded_disks = (char **)(uintptr_t)w->exclude;
        for (policy->n_excluded_disks = 0; w->exclude[policy->n_excluded_disks];)
            policy->n_excluded_disks++;
    }
    size_t n = 0;
    for (size_t i = 0; !w->clear_exceptions && old && i < old->n_exceptions && n < CLI_LIST_MAX;
         i++)
        exceptions[n++] = old->exceptions[i];
    for (size_t i = 0; w->allow[i] && n < 2 * CLI_LIST_MAX; i++) {
        int r = parse_exception(w->allow[i], w->why ? w->why : "", &made[i]);
        if (r != CLI_OK)
            return r;
        exceptions[n++] = &made[i];
    }
    policy->exceptions = exceptions;
    policy->n_exceptions = n;
    return CLI_OK;
}

int cmd_machine_set_policy(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    struct policy_words w = {0};
    const struct cli_flag flags[] = {
        {"minimum-grade", "GRADE", "a point below it fails: crash, filesystem, application",
         &w.grade, NULL, NULL},
        {"allow", "REASON:VOLUME", "accept a reason for a volume or disk; repeat for more", NULL,
         NULL, w.allow},
        {"why", "TEXT", "why it is accepted; goes into every manifest", &w.why, NULL, NULL},
        {"forget-allowed", NULL, "forget what was accepted before", NULL, &w.clear_exceptions,
         NULL},
        {"exclude-disk", "DISK", "leave a disk out; repeat for more", NULL, NULL, w.exclude},
        {"lease", "TIME", "longest freeze: 10s", &w.lease, NULL, NULL},
        {"encrypt-clear", "yes|no", "encrypt the data of clear volumes in the vault", &w.encrypt,
         NULL, NULL},
        {"keep-last", "N", "retention: the newest N valid points; with the others below",
         &w.keep[0], NULL, NULL},
        {"keep-daily", "N", "the last point of each of N days", &w.keep[1], NULL, NULL},
        {"keep-weekly", "N", "of N weeks", &w.keep[2], NULL, NULL},
        {"keep-monthly", "N", "of N months", &w.keep[3], NULL, NULL},
        {"keep-yearly", "N", "of N years; all rules 0: nothing expires", &w.keep[4], NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (w.allow[0] && !w.why)
        return cli_fail(CLI_USAGE, "--allow needs --why: it is recorded with your name");
    CLI_MESSAGE Sp__Machine *old = NULL;
    int r = cli_machine(cli, argv[0], &old);
    if (r != CLI_OK)
        return r;
    Sp__Policy policy = SP__POLICY__INIT;
    if (old->policy)
        policy = *old->policy;
    else
        policy.encrypt_clear_chunks = true;
    Sp__Exception made[CLI_LIST_MAX], *exceptions[2 * CLI_LIST_MAX];
    Sp__Retention retention = SP__RETENTION__INIT;
    if (policy.retention)
        retention = *policy.retention;
    policy.retention = &retention;
    r = apply_retention(&w, &retention);
    if (r == CLI_OK)
        r = apply_policy(&w, &policy, made, exceptions, old->policy);
    if (r != CLI_OK)
        return r;
    Sp__SetPolicyRequest request = SP__SET_POLICY_REQUEST__INIT;
    request.machine = argv[0];
    request.policy = &policy;
    CLI_MESSAGE Sp__Machine *m = NULL;
    r = cli_call(cli, "Fleet/SetPolicy", &request.base, &m);
    return r == CLI_OK ? print_changed(cli, m) : r;
}

static int done(struct cli *cli, const char *method, const ProtobufCMessage *arguments,
                const char *text, const char *name)
{
    CLI_MESSAGE Sp__Done *answer = NULL;
    int r = cli_call_signed(cli, method, arguments, &answer);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        return cli_print_json(&answer->base);
    printf("%s %s\n", name, text);
    return CLI_OK;
}

int cmd_machine_revoke(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *why = "";
    const struct cli_flag flags[] = {
        {"why", "TEXT", "goes into the audit", &why, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    CLI_MESSAGE Sp__Machine *m = NULL;
    int r = cli_machine(cli, argv[0], &m);
    if (r != CLI_OK)
        return r;
    Sp__RevokeMachineRequest request = SP__REVOKE_MACHINE_REQUEST__INIT;
    request.machine_id = m->machine_id;
    request.why = CLI_TEXT(why);
    return done(cli, "Admin/RevokeMachine", &request.base, "is revoked: its agent is cut off",
                m->name);
}

int cmd_machine_approve(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    CLI_MESSAGE Sp__Machine *m = NULL;
    int r = cli_machine(cli, argv[0], &m);
    if (r != CLI_OK)
        return r;
    Sp__ApproveMachineRequest request = SP__APPROVE_MACHINE_REQUEST__INIT;
    request.machine_id = m->machine_id;
    return done(cli, "Admin/ApproveMachine", &request.base, "is approved", m->name);
}

int cmd_machine_release_quarantine(struct cli *cli, const struct cli_command *c, int argc,
                                   char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    Sp__ReleaseQuarantineRequest request = SP__RELEASE_QUARANTINE_REQUEST__INIT;
    request.machine = argv[0];
    CLI_MESSAGE Sp__Machine *m = NULL;
    int r = cli_call(cli, "Fleet/ReleaseQuarantine", &request.base, &m);
    return r == CLI_OK ? print_changed(cli, m) : r;
}
