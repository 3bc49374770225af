/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/log.h"
#include "controller/config.h"
#include "controller/daemon.h"
#include "controller/init.h"
#include "controller/message.h"
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

static const char help[] =
    "Usage: sealpointd [run] [OPTIONS]\n"
    "       sealpointd init --domain DOMAIN --name NAME --user USER --profile DIR\n"
    "                       [--host HOST]... [OPTIONS]\n"
    "       sealpointd attach VAULT --recovery-kit FILE --name NAME --user USER --profile DIR\n"
    "                       [--host HOST]... [OPTIONS]\n"
    "\n"
    "The Sealpoint controller: takes backups of virtual machines whose disks are encrypted\n"
    "inside the guest, and proves that the keys in escrow open them.\n"
    "\n"
    "run   serves agents and users (the default). Needs a running sealpoint-keeper.\n"
    "init  once, on a new installation: has the keeper make the CA, writes the controller's\n"
    "      certificate into its state folder and the first user's profile into DIR, and prints\n"
    "      the recovery kit and the CA's fingerprint. Keep the kit away from this host: with it\n"
    "      and a vault everything can be restored; without it a lost host is a lost keystore.\n"
    "attach  on an empty host, after the old one is lost: VAULT is the vault's folder, FILE holds\n"
    "      the recovery kit. The keeper (running, with a KEK configured) gets the newest keystore "
    "of\n"
    "      the vault back, USER becomes admin again, and 'sealpointd run' takes the points over.\n"
    "\n"
    "Options:\n"
    "  --config FILE          instead of " CONTROLLER_CONFIG_PATH "\n"
    "  -o SECTION.KEY=VALUE   sets one option, over what the file says\n"
    "  --log-format FORMAT    text (default) or json\n"
    "  --log-level LEVEL      error, warning, info (default), debug\n"
    "  --help, --version\n"
    "\n"
    "Options of init and attach:\n"
    "  --domain DOMAIN        of all identities: spiffe://DOMAIN/… (attach: the keystore's)\n"
    "  --recovery-kit FILE    what init printed (attach)\n"
    "  --name NAME            of this controller\n"
    "  --user USER            the first user: admin and custodian\n"
    "  --profile DIR          where the user's profile goes, for 'sealpoint --profile DIR'\n"
    "  --host HOST            a DNS name or address of this host, for the certificate; the first\n"
    "                         one is also what the profile dials\n"
    "\n"
    "Examples:\n"
    "  sealpointd init --domain backup.example --name main --user anna --profile "
    "~/.config/sealpoint\n"
    "  sealpointd -o controller.listen=127.0.0.1:0 -o controller.state=/tmp/s\n"
    "\n"
    "Exit status: 0 ended on a signal or initialised, 1 error, 2 wrong usage.\n";

enum {
    OPT_CONFIG = 256,
    OPT_FORMAT,
    OPT_LEVEL,
    OPT_DOMAIN,
    OPT_NAME,
    OPT_USER,
    OPT_PROFILE,
    OPT_HOST,
    OPT_KIT,
    OPT_HELP,
    OPT_VERSION
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"log-format", required_argument, NULL, OPT_FORMAT},
    {"log-level", required_argument, NULL, OPT_LEVEL},
    {"domain", required_argument, NULL, OPT_DOMAIN},
    {"name", required_argument, NULL, OPT_NAME},
    {"user", required_argument, NULL, OPT_USER},
    {"profile", required_argument, NULL, OPT_PROFILE},
    {"host", required_argument, NULL, OPT_HOST},
    {"recovery-kit", required_argument, NULL, OPT_KIT},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

struct arguments {
    const char *config;
    char **assignments;
    size_t assignment_count;
    enum sp_log_format format;
    enum sp_log_level level;
    struct init_options init;
    const char *vault, *kit;
    bool is_init, is_attach;
};

static int usage(const char *text)
{
    fprintf(stderr, "sealpointd: %s; 'sealpointd --help' tells more\n", text);
    return 2;
}

/* -1: go on; else the exit status. */
static int take_option(struct arguments *a, int option)
{
    switch (option) {
    case OPT_CONFIG:
        a->config = optarg;
        break;
    case 'o':
        return message_append_text(&a->assignments, &a->assignment_count, optarg) < 0 ? 1 : -1;
    case OPT_FORMAT:
        return sp_log_parse_format(optarg, &a->format) < 0 ? usage("unknown log format") : -1;
    case OPT_LEVEL:
        return sp_log_parse_level(optarg, &a->level) < 0 ? usage("unknown log level") : -1;
    case OPT_DOMAIN:
        a->init.domain = optarg;
        break;
    case OPT_NAME:
        a->init.name = optarg;
        break;
    case OPT_USER:
        a->init.user = optarg;
        break;
    case OPT_PROFILE:
        a->init.profile = optarg;
        break;
    case OPT_KIT:
        a->kit = optarg;
        break;
    case OPT_HOST:
        return message_append_text(&a->init.hosts, &a->init.host_count, optarg) < 0 ? 1 : -1;
    case OPT_HELP:
        fputs(help, stdout);
        return 0;
    case OPT_VERSION:
        puts("sealpointd " SEALPOINT_VERSION);
        return 0;
    default:
        return 2;
    }
    return -1;
}

static int parse(int argc, char **argv, struct arguments *a)
{
    int option, exit_code = -1;
    while (exit_code < 0 && (option = getopt_long(argc, argv, "o:h", long_options, NULL)) != -1)
        exit_code = take_option(a, option == 'h' ? OPT_HELP : option);
    if (exit_code >= 0)
        return exit_code;
    if (optind < argc) {
        a->is_init = strcmp(argv[optind], "init") == 0;
        a->is_attach = strcmp(argv[optind], "attach") == 0;
        if (!a->is_init && !a->is_attach && strcmp(argv[optind], "run") != 0)
            return usage("unknown command");
        if (a->is_attach && optind + 1 < argc)
            a->vault = argv[++optind];
        if (++optind < argc)
            return usage("too many arguments");
    }
    if (a->is_init && (!a->init.domain || !a->init.name || !a->init.user || !a->init.profile))
        return usage("init needs --domain, --name, --user and --profile");
    if (a->is_attach)
        return a->vault && a->kit && a->init.name && a->init.user && a->init.profile &&
                       !a->init.domain
                   ? -1
                   : usage("attach needs VAULT, --recovery-kit, --name, --user and --profile");
    if (!a->is_init && (a->kit || a->init.domain || a->init.name || a->init.user ||
                        a->init.profile || a->init.host_count))
        return usage("these options belong to 'init'");
    return -1;
}

static int fail(const char *what, int error, const struct sp_why *why)
{
    sp_log_error(what, error, why, NULL);
    return 1;
}

static int run(const struct controller_config *config)
{
    struct sp_why why = {0};
    struct daemon *daemon = NULL;
    sigset_t wanted;
    int signal_number = 0;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    /* Before the first thread: all others inherit it. */
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    signal(SIGPIPE, SIG_IGN);
    int r = daemon_start(config, &daemon, &why);
    if (r < 0)
        return fail("cannot start", r, &why);
    sp_log(SP_LOG_INFO, "ready", "listen", config->listen, "port",
           SP_LOG_NUMBER(daemon_port(daemon)), "version", SEALPOINT_VERSION, NULL);
    sigwait(&wanted, &signal_number);
    sp_log(SP_LOG_INFO, "stopping", "signal", SP_LOG_NUMBER(signal_number), NULL);
    daemon_stop(daemon);
    return 0;
}

static void free_texts(char **texts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(texts[i]);
    free(texts);
}

int main(int argc, char **argv)
{
    struct arguments a = {.format = SP_LOG_TEXT, .level = SP_LOG_INFO};
    struct controller_config config = {0};
    struct sp_why why = {0};
    /* No guest key is ever here, but a vault's key and everybody's inventory are. */
    prctl(PR_SET_DUMPABLE, 0);
    int exit_code = parse(argc, argv, &a);
    if (exit_code < 0) {
        sp_log_setup("sealpointd", a.level, a.format);
        int r = controller_config_load(a.config, a.assignments, a.assignment_count, &config, &why);
        if (r < 0)
            exit_code = fail("configuration", r, &why);
        else if (a.is_init)
            exit_code = (r = init_run(&config, &a.init, &why)) < 0 ? fail("init", r, &why) : 0;
        else if (a.is_attach)
            exit_code = (r = attach_run(&config, &a.init, a.vault, a.kit, &why)) < 0
                            ? fail("attach", r, &why)
                            : 0;
        else
            exit_code = run(&config);
        controller_config_free(&config);
    }
    free_texts(a.assignments, a.assignment_count);
    free_texts(a.init.hosts, a.init.host_count);
    return exit_code;
}
