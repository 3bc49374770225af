/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * sealpoint-agent: the command line. */
#include "agent/config.h"
#include "agent/enrol.h"
#include "agent/freeze_test.h"
#include "agent/inspect.h"
#include "agent/linux/freeze_list.h"
#include "agent/linux/freezer_process.h"
#include "agent/linux/quiesce.h"
#include "agent/metadata.h"
#include "agent/run.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { USAGE = 2, ASSIGNMENTS_MOST = 32, LEFT_OVER_WAIT_S = 30 };

static const char help_main[] =
    "sealpoint-agent: the part of Sealpoint that runs in a protected guest.\n"
    "\n"
    "Usage: sealpoint-agent COMMAND [OPTION…]\n"
    "\n"
    "  enrol            get an identity from a controller, with a token\n"
    "  run              serve the controller (what the service does)\n"
    "  inspect          show this guest's disks, volumes and how they are encrypted\n"
    "  freeze --test    freeze the file systems, thaw them again, show how long it took\n"
    "  enrol-volume     type the passphrase of a volume that gets a recovery key of its own\n"
    "  thaw-left-over   thaw what a killed agent left frozen (the service does it by itself)\n"
    "\n"
    "Options of every command:\n"
    "  --config FILE          default " AGENT_CONFIG_PATH "\n"
    "  -o SECTION.KEY=VALUE   set one option, over the configuration\n"
    "  --log-level error|warning|info|debug, --log-format text|json\n"
    "  --help, --version\n"
    "\n"
    "'sealpoint-agent COMMAND --help' tells more.\n"
    "Exit status: 0 done, 1 an error, 2 wrong usage.\n";

static const char help_enrol[] =
    "Usage: sealpoint-agent enrol --controller HOST:PORT --token-file FILE --ca-fingerprint HEX\n"
    "\n"
    "Makes this guest's keys, asks the controller for a certificate, and stores both in the state\n"
    "folder. Nothing secret leaves the guest. The steps before:\n"
    "\n"
    "  on the controller:  sealpoint token create --machine NAME > token\n"
    "                      sealpointd printed the CA fingerprint when it was set up\n"
    "  in the guest:       sealpoint-agent enrol --controller backup:9443 --token-file token \\\n"
    "                        --ca-fingerprint 3f9c…\n"
    "                      systemctl enable --now sealpoint-agent\n"
    "\n"
    "  --controller HOST:PORT    where it listens\n"
    "  --token-file FILE         the token; - reads standard input (never given as an argument)\n"
    "  --ca-fingerprint HEX      SHA-256 of the controller's CA certificate\n"
    "  --again                   replace the identity that this guest has\n"
    "  --wait SECONDS            for an operator's approval, if the token needs one; 0: no end\n";

static const char help_run[] =
    "Usage: sealpoint-agent run [--config FILE] [-o SECTION.KEY=VALUE]…\n"
    "\n"
    "Connects to the controller, keeps it informed about this guest's volumes, and freezes and\n"
    "thaws file systems when it takes a snapshot. Listens on nothing. Logs to standard error.\n"
    "A freeze ends at its deadline whatever happens to the controller, the network or this "
    "program.\n"
    "\n"
    "Options of the configuration worth knowing:\n"
    "  freeze.max_lease=60s        the longest freeze, whatever the controller asks for\n"
    "  freeze.most_per_hour=120    freezes\n"
    "  freeze.exclude=/a,/b        mount points that are never frozen\n"
    "  freeze.only=/a,/b           nothing but these\n"
    "  freeze.suspend=PATH,…|all   devices in use without a file system, to be suspended, too; see "
    "the\n"
    "                              man page\n"
    "  hooks.folder=DIR            programs before the freeze and after the thaw; see the man "
    "page\n";

static const char help_inspect[] =
    "Usage: sealpoint-agent inspect [--json] [DEVICE|IMAGE…]\n"
    "\n"
    "Without arguments: every block device of this guest, what lies on what, which volumes are\n"
    "encrypted, how, by what they can be opened, and what is wrong. With arguments: each device or "
    "raw\n"
    "image by itself, partitions, LVM and RAID included, and which bytes nothing accounts for.\n"
    "Reads only; needs root for devices.\n"
    "\n"
    "  --json                    everything, for programs: see sealpoint-agent(8)\n";

static const char help_thaw[] =
    "Usage: sealpoint-agent thaw-left-over [--config FILE]\n"
    "\n"
    "Thaws the file systems that the agent froze, and resumes the devices that it suspended, and "
    "could\n"
    "not thaw since it and its freezer were killed. Touches nothing that somebody else froze. Run "
    "by the service when it ends.\n";

static const char help_freeze[] =
    "Usage: sealpoint-agent freeze --test [--lease MS] [MOUNT-POINT…]\n"
    "\n"
    "Freezes this guest's file systems (or the ones named) as a backup would, thaws them at once "
    "and\n"
    "shows what happened to each, with the hooks. Lines with '!' say what would go wrong in a "
    "backup.\n"
    "Programs that write wait for that moment.\n";

static const char help_enrol_volume[] =
    "Usage: sealpoint-agent enrol-volume [VOLUME|DEVICE]\n"
    "\n"
    "Asks for the passphrase of a LUKS2 volume that is to get a recovery key of the keeper in a\n"
    "keyslot of its own ('sealpoint key enrol' on the backup host). The passphrase stays here, "
    "the\n"
    "other keyslots stay as they are, and the header is saved first, in\n"
    "/var/lib/sealpoint-agent/keyslots. Needs root and '[escrow] enrol = on' in agent.conf.\n";

struct arguments {
    const char *config, *controller, *token_file, *ca_fingerprint;
    bool again, json, test, help;
    unsigned wait_s, lease_ms;
    enum sp_log_level level;
    enum sp_log_format format;
    char *assignments[ASSIGNMENTS_MOST];
    size_t assignment_count;
    char **rest;
    int rest_count;
};

enum {
    OPT_CONFIG = 256,
    OPT_CONTROLLER,
    OPT_TOKEN,
    OPT_CA,
    OPT_AGAIN,
    OPT_WAIT,
    OPT_JSON,
    OPT_TEST,
    OPT_LEASE,
    OPT_LEVEL,
    OPT_FORMAT
};

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"controller", required_argument, NULL, OPT_CONTROLLER},
    {"token-file", required_argument, NULL, OPT_TOKEN},
    {"ca-fingerprint", required_argument, NULL, OPT_CA},
    {"again", no_argument, NULL, OPT_AGAIN},
    {"wait", required_argument, NULL, OPT_WAIT},
    {"json", no_argument, NULL, OPT_JSON},
    {"test", no_argument, NULL, OPT_TEST},
    {"lease", required_argument, NULL, OPT_LEASE},
    {"log-level", required_argument, NULL, OPT_LEVEL},
    {"log-format", required_argument, NULL, OPT_FORMAT},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static bool parse_number(const char *text, unsigned *ret)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || end == text || *end || value > 3600000)
        return false;
    *ret = (unsigned)value;
    return true;
}

static bool take_option(struct arguments *a, int option)
{
    switch (option) {
    case OPT_CONFIG:
        a->config = optarg;
        return true;
    case OPT_CONTROLLER:
        a->controller = optarg;
        return true;
    case OPT_TOKEN:
        a->token_file = optarg;
        return true;
    case OPT_CA:
        a->ca_fingerprint = optarg;
        return true;
    case OPT_AGAIN:
        return a->again = true;
    case OPT_WAIT:
        return parse_number(optarg, &a->wait_s);
    case OPT_JSON:
        return a->json = true;
    case OPT_TEST:
        return a->test = true;
    case OPT_LEASE:
        return parse_number(optarg, &a->lease_ms);
    case OPT_LEVEL:
        return sp_log_parse_level(optarg, &a->level) == 0;
    case OPT_FORMAT:
        return sp_log_parse_format(optarg, &a->format) == 0;
    case 'o':
        if (a->assignment_count == ASSIGNMENTS_MOST)
            return false;
        a->assignments[a->assignment_count++] = optarg;
        return true;
    case 'h':
        return a->help = true;
    default:
        return false;
    }
}

static bool parse(struct arguments *a, int argc, char **argv)
{
    for (int option; (option = getopt_long(argc, argv, "o:h", options, NULL)) != -1;)
        if (!take_option(a, option))
            return false;
    a->rest = argv + optind;
    a->rest_count = argc - optind;
    return true;
}

static int fail(int error, const struct sp_why *why)
{
    fprintf(stderr, "sealpoint-agent: %s\n", sp_why_told(why, error).text);
    return EXIT_FAILURE;
}

static int wrong_usage(const char *text)
{
    fprintf(stderr, "sealpoint-agent: %s; '--help' tells more\n", text);
    return USAGE;
}

/* ---- commands ---- */

static int do_enrol(const struct arguments *a, const struct agent_config *config,
                    struct sp_why *why)
{
    const char *controller = a->controller ? a->controller : config->controller;
    if (!controller[0] || !a->token_file || !a->ca_fingerprint)
        return wrong_usage("enrol needs --controller, --token-file and --ca-fingerprint");
    struct enrol_options enrol = {.controller = controller,
                                  .token_file = a->token_file,
                                  .ca_fingerprint = a->ca_fingerprint,
                                  .again = a->again,
                                  .wait_s = a->wait_s};
    int r = agent_enrol(config, &enrol, why);
    return r < 0 ? fail(r, why) : EXIT_SUCCESS;
}

static int do_run(const struct arguments *a, const struct agent_config *config, struct sp_why *why)
{
    (void)a;
    int r = agent_run(config, why);
    return r < 0 ? fail(r, why) : EXIT_SUCCESS;
}

static int do_inspect(const struct arguments *a, const struct agent_config *config,
                      struct sp_why *why)
{
    (void)config;
    if (a->rest_count) {
        int r = inspect_paths(a->rest, (size_t)a->rest_count, a->json, stdout, stderr);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS; /* each has been told of */
    }
    int r = inspect_guest(a->json, stdout, why);
    return r < 0 ? fail(r, why) : EXIT_SUCCESS;
}

/* Thaws what lies in this runtime folder's list, then runs the hooks that are owed a post-thaw. */
static int thaw_left_over(const struct agent_config *config, const char *runtime,
                          struct sp_why *why)
{
    struct hooks_options hooks;
    struct hooks_results results = {0};
    int r = freeze_list_thaw_left_over(runtime, LEFT_OVER_WAIT_S, stderr, why);
    if (r < 0)
        return r;
    quiesce_hooks_options(config, runtime, &hooks);
    r = hooks_after(&hooks, &results, why);
    for (size_t i = 0; i < results.count; i++)
        fprintf(stderr, "post-thaw hook %s ended with %d\n%s", results.at[i]->name,
                results.at[i]->exit_status, results.at[i]->output);
    hooks_results_free(&results);
    return r;
}

static int do_thaw(const struct arguments *a, const struct agent_config *config, struct sp_why *why)
{
    (void)a;
    SP_FREE char *test = sp_format("%s/" FREEZE_TEST_FOLDER, config->runtime);
    int r = thaw_left_over(config, config->runtime, why);
    if (test && r == 0)
        r = thaw_left_over(config, test, why); /* of a `freeze --test` that was killed */
    return r < 0 ? fail(r, why) : EXIT_SUCCESS;
}

/* libcryptsetup stays out of this program. */
static int do_enrol_volume(const struct arguments *a, const struct agent_config *config,
                           struct sp_why *why)
{
    char *words[2 * ASSIGNMENTS_MOST + 8];
    size_t n = 0;
    words[n++] = config->escrow_helper;
    words[n++] = (char *)(uintptr_t) "typed";
    if (a->config) {
        words[n++] = (char *)(uintptr_t) "--config";
        words[n++] = (char *)(uintptr_t)a->config;
    }
    for (size_t i = 0; i < a->assignment_count; i++) {
        words[n++] = (char *)(uintptr_t) "-o";
        words[n++] = a->assignments[i];
    }
    if (a->rest_count > 1)
        return wrong_usage("enrol-volume takes one volume");
    if (a->rest_count)
        words[n++] = a->rest[0];
    words[n] = NULL;
    execv(config->escrow_helper, words);
    int r = -errno;
    return fail(sp_why_set(why, r, "cannot run '%s'", config->escrow_helper), why);
}

static int do_freeze(const struct arguments *a, const struct agent_config *config,
                     struct sp_why *why)
{
    if (!a->test)
        return wrong_usage("freeze needs --test");
    int r = freeze_test(config, (const char *const *)a->rest, (size_t)a->rest_count, a->lease_ms,
                        stdout, why);
    return r < 0 ? fail(r, why) : EXIT_SUCCESS;
}

static const struct command {
    const char *name, *help;
    int (*run)(const struct arguments *, const struct agent_config *, struct sp_why *);
    bool takes_rest;
} commands[] = {
    {"enrol", help_enrol, do_enrol, false},
    {"run", help_run, do_run, false},
    {"inspect", help_inspect, do_inspect, true},
    {"freeze", help_freeze, do_freeze, true},
    {"thaw-left-over", help_thaw, do_thaw, false},
    {"enrol-volume", help_enrol_volume, do_enrol_volume, true},
};

static int run_command(const struct command *command, int argc, char **argv)
{
    struct arguments a = {.level = SP_LOG_INFO, .format = SP_LOG_TEXT};
    if (!parse(&a, argc, argv))
        return wrong_usage("wrong option");
    if (a.help) {
        fputs(command->help, stdout);
        return EXIT_SUCCESS;
    }
    if (a.rest_count && !command->takes_rest)
        return wrong_usage("too many arguments");
    sp_log_setup("sealpoint-agent", a.level, a.format);
    struct agent_config config = {0};
    struct sp_why why = {0};
    int r = agent_config_load(a.config, a.assignments, a.assignment_count, &config, &why);
    int status = r < 0 ? fail(r, &why) : command->run(&a, &config, &why);
    agent_config_free(&config);
    return status;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "freezer") == 0) /* these two are started by the agent only */
        return freezer_process_main();
    if (strcmp(name, "metadata") == 0 && argc == 4)
        return metadata_main(argv[2], argv[3]);
    if (!*name || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
        strcmp(name, "help") == 0) {
        fputs(help_main, *name ? stdout : stderr);
        return *name ? EXIT_SUCCESS : USAGE;
    }
    if (strcmp(name, "--version") == 0) {
        printf("sealpoint-agent %s\n", SEALPOINT_VERSION);
        return EXIT_SUCCESS;
    }
    for (size_t i = 0; i < SP_COUNT(commands); i++)
        if (strcmp(name, commands[i].name) == 0)
            return run_command(&commands[i], argc - 1, argv + 1);
    fprintf(stderr, "sealpoint-agent: no command '%s'; '--help' lists them\n", name);
    return USAGE;
}
