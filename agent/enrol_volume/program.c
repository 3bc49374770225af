/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * sealpoint-enrol-volume: changes LUKS2 headers of this guest by order of the keeper. A program of
 * its own, so that the agent neither links libcryptsetup nor may write to block devices; it runs
 * for one request, or one person. */
#include "agent/enrol_volume/program.h"
#include "base/cleanup.h"
#include "base/frame.h"
#include "base/log.h"
#include "base/secret.h"
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ASSIGNMENTS_MOST = 32, REQUEST_MS = 10000, USAGE = 2 };

static const char help[] =
    "Usage: sealpoint-enrol-volume serve|listen|typed [OPTION]… [VOLUME|DEVICE]\n"
    "\n"
    "Puts the keeper's recovery keys into LUKS2 headers. Not to be run by hand: 'sealpoint-agent\n"
    "enrol-volume' runs it for a passphrase, sealpoint-enrol-volume.socket for the agent.\n"
    "\n"
    "  serve                 answers one request of the agent on standard input, a socket\n"
    "  listen                where no systemd runs: listens on escrow.socket, serves each\n"
    "  typed [VOLUME]        asks for the passphrase that an order waits for\n"
    "  --config FILE         instead of /etc/sealpoint/agent.conf\n"
    "  -o SECTION.KEY=VALUE  sets an option of the configuration\n";

static int serve(const struct keyslot_options *options, int socket, struct sp_why *why)
{
    ProtobufCMessage *request = NULL;
    Sp__Answer *answer = NULL;
    size_t fds = 0;
    uid_t uid;
    pid_t pid;
    int r = sp_unix_peer(socket, &uid, &pid);
    if (r == 0 && uid != 0 && uid != geteuid())
        r = sp_why_set(why, -EPERM, "only root may ask");
    if (r == 0)
        r = sp_frame_receive(socket, &sp__keyslot_request__descriptor, NULL, &request, NULL, 0,
                             &fds, REQUEST_MS);
    if (r == 0)
        r = keyslot_serve(options, (const Sp__KeyslotRequest *)request, &answer);
    if (r == 0)
        r = sp_frame_send(socket, &answer->base, NULL, 0, REQUEST_MS);
    if (request)
        protobuf_c_message_free_unpacked(request, NULL);
    if (answer)
        sp__answer__free_unpacked(answer, NULL);
    return r;
}

static int listen_for_agent(const struct keyslot_options *options, struct sp_why *why)
{
    SP_FD int listener = sp_unix_listen(options->config->escrow_socket, 0600);
    if (listener < 0)
        return sp_why_set(why, listener, "cannot listen on '%s'", options->config->escrow_socket);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        SP_FD int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (socket < 0 && errno != EINTR)
            return sp_why_set(why, -errno, "cannot accept a connection");
        pid_t child = socket < 0 ? -1 : fork();
        if (child == 0) {
            signal(SIGCHLD, SIG_DFL);
            int r = serve(options, socket, why);
            if (r < 0)
                sp_log_error("request failed", r, why, NULL);
            exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
        }
    }
}

struct arguments {
    const char *config;
    char *assignments[ASSIGNMENTS_MOST];
    size_t count;
    bool help;
};

static bool parse(struct arguments *a, int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"help", no_argument, NULL, 'h'}, {0}};
    for (int o; (o = getopt_long(argc, argv, "o:h", options, NULL)) != -1;) {
        if (o == 'c')
            a->config = optarg;
        else if (o == 'o' && a->count < ASSIGNMENTS_MOST)
            a->assignments[a->count++] = optarg;
        else if (o == 'h')
            a->help = true;
        else
            return false;
    }
    return argc - optind <= 1;
}

int enrol_volume_program(int argc, char **argv, void (*at)(void *, enum keyslot_step), void *self)
{
    struct arguments a = {0};
    struct agent_config config = {0};
    struct sp_why why = {""};
    const char *mode = argc > 1 ? argv[1] : "";
    bool known =
        strcmp(mode, "serve") == 0 || strcmp(mode, "listen") == 0 || strcmp(mode, "typed") == 0;
    bool good = known && parse(&a, argc - 1, argv + 1);
    if (strcmp(mode, "--help") == 0 || (good && a.help)) {
        fputs(help, stdout);
        return EXIT_SUCCESS;
    }
    if (!good) {
        fputs(help, stderr);
        return USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    sp_log_setup("sealpoint-enrol-volume", SP_LOG_INFO, SP_LOG_TEXT);
    int r = sp_secret_process_setup();
    if (r == 0)
        r = agent_config_load(a.config, a.assignments, a.count, &config, &why);
    const struct keyslot_options options = {.config = &config, .at = at, .self = self};
    if (r == 0)
        r = mode[0] == 's' ? serve(&options, STDIN_FILENO, &why)
            : mode[0] == 'l'
                ? listen_for_agent(&options, &why)
                : keyslot_typed(&options, argc - 1 > optind ? argv[optind + 1] : NULL, &why);
    if (r < 0)
        fprintf(stderr, "sealpoint-enrol-volume: %s\n", sp_why_told(&why, r).text);
    agent_config_free(&config);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
