/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * sealpoint-keeper: configuration, the socket, the end. */
#include "base/cleanup.h"
#include "base/config.h"
#include "base/file.h"
#include "base/frame.h"
#include "base/log.h"
#include "base/secret.h"
#include "controller/keeper/copy.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/prover/nursery.h"
#include "controller/keeper/prover/run.h"
#include "controller/keeper/server.h"
#include <getopt.h>
#include <openssl/crypto.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

enum {
    EXIT_ERROR = 1,
    EXIT_USAGE = 2,
    KIT_MOST = 4096,
    COPY_FILE_MOST = 64 << 20,
    DESTROY_WAIT_LEAST_MS = 3600 * 1000
};

struct settings {
    char *socket, *state, *prover, *controller_user;
    char *passphrase_file, *credential, *key_file;
    char *pkcs11_module, *pkcs11_token, *pkcs11_key, *pkcs11_pin_file;
    uint64_t destroy_wait_ms;
    bool insecure;
};

static const struct sp_config_option options[] = {
    {"keeper", "socket", SP_CONFIG_TEXT, offsetof(struct settings, socket), 0, 0},
    {"keeper", "state", SP_CONFIG_TEXT, offsetof(struct settings, state), 0, 0},
    {"keeper", "prover", SP_CONFIG_TEXT, offsetof(struct settings, prover), 0, 0},
    {"keeper", "controller_user", SP_CONFIG_TEXT, offsetof(struct settings, controller_user), 0, 0},
    {"kek", "passphrase_file", SP_CONFIG_TEXT, offsetof(struct settings, passphrase_file), 0, 0},
    {"kek", "credential", SP_CONFIG_TEXT, offsetof(struct settings, credential), 0, 0},
    {"kek", "key_file", SP_CONFIG_TEXT, offsetof(struct settings, key_file), 0, 0},
    {"kek", "pkcs11_module", SP_CONFIG_TEXT, offsetof(struct settings, pkcs11_module), 0, 0},
    {"kek", "pkcs11_token", SP_CONFIG_TEXT, offsetof(struct settings, pkcs11_token), 0, 0},
    {"kek", "pkcs11_key", SP_CONFIG_TEXT, offsetof(struct settings, pkcs11_key), 0, 0},
    {"kek", "pkcs11_pin_file", SP_CONFIG_TEXT, offsetof(struct settings, pkcs11_pin_file), 0, 0},
    {"keystore", "destroy_wait", SP_CONFIG_DURATION_MS, offsetof(struct settings, destroy_wait_ms),
     DESTROY_WAIT_LEAST_MS, INT64_MAX},
    {"kek", "insecure", SP_CONFIG_BOOL, offsetof(struct settings, insecure), 0, 0},
    {NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0},
};

struct command_line {
    const char *config, *kit, *copy;
    const char *assignments[64];
    size_t assignment_count;
    bool insecure;
    enum sp_log_format format;
    enum sp_log_level level;
};

static const char usage[] =
    "usage: sealpoint-keeper [--config FILE] [-o SECTION.KEY=VALUE]...\n"
    "       sealpoint-keeper [--config FILE] --import FILE --recovery-kit KITFILE\n"
    "\n"
    "Holds the keys of guests, the CA key and the sealing key, and serves the controller on a "
    "unix\n"
    "socket. The second form makes the keystore of an empty state from an export of 'sealpoint\n"
    "keystore export', or from the copy that every point leaves in its vault.\n"
    "\n"
    "  --config FILE        default /etc/sealpoint/keeper.conf\n"
    "  -o SECTION.KEY=VALUE overrides the file: keeper.socket, keeper.state, keeper.prover,\n"
    "                       keeper.controller_user, keystore.destroy_wait, kek.passphrase_file,\n"
    "                       kek.key_file, kek.credential, kek.pkcs11_module, kek.pkcs11_token,\n"
    "                       kek.pkcs11_key, kek.pkcs11_pin_file, kek.insecure\n"
    "  --insecure           kek.insecure=true: takes a passphrase file that lies beside the\n"
    "                       keystore; 'sealpoint status' warns about it\n"
    "  --import FILE        an export of a keystore, or a copy from a vault (keystore/…)\n"
    "  --recovery-kit FILE  the recovery kit that 'sealpointd init' printed\n"
    "  --log-format FORMAT  text or json\n"
    "  --log-level LEVEL    error, warning, info or debug\n"
    "  --version, --help\n";

static int parse_option(int c, struct command_line *out)
{
    switch (c) {
    case 'c':
        out->config = optarg;
        return 0;
    case 'o':
        if (out->assignment_count == SP_COUNT(out->assignments))
            return -E2BIG;
        out->assignments[out->assignment_count++] = optarg;
        return 0;
    case 'i':
        out->insecure = true;
        return 0;
    case 'k':
        out->kit = optarg;
        return 0;
    case 'y':
        out->copy = optarg;
        return 0;
    case 'f':
        return sp_log_parse_format(optarg, &out->format);
    case 'l':
        return sp_log_parse_level(optarg, &out->level);
    default:
        return -EINVAL;
    }
}

static int parse(int argc, char **argv, struct command_line *out)
{
    static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
                                          {"recovery-kit", required_argument, NULL, 'k'},
                                          {"import", required_argument, NULL, 'y'},
                                          /* their names of before */
                                          {"restore-kit", required_argument, NULL, 'k'},
                                          {"copy", required_argument, NULL, 'y'},
                                          {"insecure", no_argument, NULL, 'i'},
                                          {"log-format", required_argument, NULL, 'f'},
                                          {"log-level", required_argument, NULL, 'l'},
                                          {"version", no_argument, NULL, 'V'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "o:h", longs, NULL)) != -1) {
        if (c == 'h' || c == 'V') {
            fputs(c == 'h' ? usage : "sealpoint-keeper " SEALPOINT_VERSION "\n", stdout);
            exit(EXIT_SUCCESS);
        }
        if (parse_option(c, out) < 0) {
            fprintf(stderr, "Try 'sealpoint-keeper --help'.\n");
            return -EINVAL;
        }
    }
    if (optind < argc || !out->kit != !out->copy) {
        fputs(usage, stderr);
        return -EINVAL;
    }
    return 0;
}

static int load_settings(const struct command_line *line, struct settings *s,
                         struct providers *providers, struct sp_why *why)
{
    const struct sp_config_more more = {providers_set, providers};
    static const char *const defaults[] = {"keeper.socket=/run/sealpoint/keeper.sock",
                                           "keeper.state=/var/lib/sealpoint-keeper",
                                           "keeper.prover=/usr/libexec/sealpoint/sealpoint-prover",
                                           "keeper.controller_user=sealpoint"};
    int r = 0;
    for (size_t i = 0; i < SP_COUNT(defaults) && r == 0; i++)
        r = sp_config_set(options, s, defaults[i], why);
    if (r == 0)
        r = sp_config_load_more(line->config ? line->config : "/etc/sealpoint/keeper.conf",
                                !line->config, options, s, &more, why);
    for (size_t i = 0; i < line->assignment_count && r == 0; i++)
        r = sp_config_set_more(options, s, &more, line->assignments[i], why);
    return r < 0 ? r : providers_check(providers, why);
}

static int find_user(const char *name, uid_t *ret, struct sp_why *why)
{
    char *end;
    unsigned long number = strtoul(name, &end, 10);
    if (name[0] >= '0' && name[0] <= '9' && !*end && number < (uid_t)-1) {
        *ret = (uid_t)number;
        return 0;
    }
    const struct passwd *user = getpwnam(name);
    if (!user)
        return sp_why_set(why, -ENOENT, "there is no user named '%s' (keeper.controller_user)",
                          name);
    *ret = user->pw_uid;
    return 0;
}

/* The controller's user must reach the socket; who may speak is decided by the peer's user id. */
static int listen_for(const struct settings *s, uid_t user, int *ret, struct sp_why *why)
{
    SP_FREE char *folder = strdup(s->socket);
    char *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash && slash != folder) {
        *slash = 0;
        sp_make_directories(folder, 0755);
    }
    int fd = sp_unix_listen(s->socket, 0600);
    if (fd < 0)
        return sp_why_set(why, fd, "cannot listen on %s", s->socket);
    if (user != geteuid() && chown(s->socket, user, (gid_t)-1) < 0 && chmod(s->socket, 0666) < 0) {
        int r = -errno;
        close(fd);
        return sp_why_set(why, r, "cannot hand %s to the controller's user", s->socket);
    }
    *ret = fd;
    return 0;
}

/* Before any thread is made: one that does not block them would die of them, and the keeper with
 * it. */
static int stop_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGPIPE, SIG_IGN);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return -EINVAL;
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int serve(struct keeper *k, const struct settings *s, int stop, struct sp_why *why)
{
    SP_FD int listener = -1;
    uid_t user = 0;

    int r = find_user(s->controller_user, &user, why);
    if (r == 0)
        r = listen_for(s, user, &listener, why);
    if (r < 0)
        return r;
    sp_log(SP_LOG_INFO, "keeper started", "socket", s->socket, "keystore",
           !k->initialised     ? "empty"
           : k->damage.text[0] ? "damaged"
           : k->locked         ? "locked"
                               : "open",
           "domain", k->initialised ? k->domain : NULL, NULL);
    if (k->damage.text[0])
        sp_log(SP_LOG_ERROR, "keystore does not hold", "why", k->damage.text, NULL);
    if (k->initialised && k->locked)
        sp_log(SP_LOG_WARNING, "keystore locked", "why", k->lock_text.text, NULL);
    struct server_options server = {.listener = listener, .stop_fd = stop, .allowed_user = user};
    r = server_run(k, &server);
    unlink(s->socket);
    sp_log(SP_LOG_INFO, "keeper ended", r > 0 ? "note" : NULL, "requests were under way", NULL);
    if (r > 0)
        _exit(EXIT_SUCCESS);
    return r;
}

static int restore(const struct keeper_options *o, const struct command_line *line,
                   struct sp_why *why)
{
    SP_SECRET struct sp_secret *text = NULL, *kit = NULL;
    SP_FREE char *copy = NULL;
    size_t size = 0;

    int r = sp_secret_read_file(line->kit, KIT_MOST, &text);
    if (r < 0)
        return sp_why_set(why, r, "cannot read %s", line->kit);
    r = copy_parse_kit(text, &kit, why);
    if (r == 0 && (r = sp_file_read(line->copy, COPY_FILE_MOST, &copy, &size)) < 0)
        sp_why_set(why, r, "cannot read %s", line->copy);
    if (r == 0)
        r = copy_restore(o, kit, (struct sp_bytes){(uint8_t *)copy, size}, why);
    if (r == 0)
        sp_log(SP_LOG_INFO, "keystore restored", "state", o->state, NULL);
    return r;
}

static int run(const struct settings *s, const struct providers *providers,
               const struct command_line *line, struct sp_why *why)
{
    struct keeper_options o = {.state = s->state,
                               .prover = s->prover,
                               .keks = {.passphrase_file = s->passphrase_file,
                                        .credential = s->credential,
                                        .key_file = s->key_file,
                                        .pkcs11_module = s->pkcs11_module,
                                        .pkcs11_token = s->pkcs11_token,
                                        .pkcs11_key = s->pkcs11_key,
                                        .pkcs11_pin_file = s->pkcs11_pin_file,
                                        .insecure = s->insecure || line->insecure},
                               .destroy_wait_ms = s->destroy_wait_ms,
                               .providers = providers,
                               .run = prover_run};
    struct keeper *k = NULL;
    if (line->kit)
        return restore(&o, line, why);
    SP_FD int stop = stop_signals();
    int r = stop < 0 ? stop : prover_nursery_open(s->prover, &o.nursery);
    if (r == 0)
        r = keeper_open(&o, &k, why);
    if (r == 0)
        r = serve(k, s, stop, why);
    keeper_close(k);
    prover_nursery_close(o.nursery);
    return r;
}

int main(int argc, char **argv)
{
    struct command_line line = {.format = SP_LOG_TEXT, .level = SP_LOG_INFO};
    struct settings s = {0};
    struct providers *providers = NULL;
    struct sp_why why = {""};

    if (parse(argc, argv, &line) < 0)
        return EXIT_USAGE;
    sp_log_setup("sealpoint-keeper", line.level, line.format);
    umask(077);
    /* Private keys of OpenSSL live in its own secure heap, the rest in struct sp_secret. */
    CRYPTO_secure_malloc_init(1 << 18, 16);
    int r = sp_secret_process_setup();
    if (r < 0) {
        sp_log_error("cannot protect the process's memory", r, NULL, NULL);
        return EXIT_ERROR;
    }
    r = providers_new(&providers);
    if (r == 0)
        r = load_settings(&line, &s, providers, &why);
    if (r == 0)
        r = run(&s, providers, &line, &why);
    if (r < 0)
        sp_log_error("keeper failed", r, &why, NULL);
    providers_free(providers);
    sp_config_free(options, &s);
    return r < 0 ? EXIT_ERROR : EXIT_SUCCESS;
}
