/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/sealed_box.h"
#include <fcntl.h>
#include <string.h>

struct token_words {
    const char *machine, *again, *group, *count, *expires, *pattern, *network, *out;
    bool approval;
};

static int fill_spec(struct cli *cli, const struct token_words *w, Sp__TokenSpec *spec,
                     Sp__Machine **again)
{
    uint64_t count = 1, expires_ms = 24 * 3600 * 1000u;
    if (!w->machine + !w->group + !w->again != 2)
        return cli_fail(CLI_USAGE, "one of --machine NAME, --group GROUP or --again MACHINE is "
                                   "needed");
    if ((w->count && cli_number("count", w->count, 100000, &count) != CLI_OK) ||
        (w->expires && cli_duration_ms("expires", w->expires, &expires_ms) != CLI_OK))
        return CLI_USAGE;
    if (w->again) {
        int r = cli_machine(cli, w->again, again);
        if (r != CLI_OK)
            return r;
        spec->machine_id = (*again)->machine_id;
        spec->machine_name = (*again)->name;
    }
    if (w->machine)
        spec->machine_name = CLI_TEXT(w->machine);
    spec->group = CLI_TEXT(w->group ? w->group : "");
    spec->count = (uint32_t)count;
    spec->expires_unix_ms = sp_clock_system.wall_ms(NULL) + expires_ms;
    spec->name_pattern = CLI_TEXT(w->pattern ? w->pattern : "");
    spec->network = CLI_TEXT(w->network ? w->network : "");
    spec->needs_approval = w->approval;
    return CLI_OK;
}

/* Into a new file that only its owner reads; never over an existing one. */
static int write_token(const char *path, const struct sp_secret *packed)
{
    Sp__EnrolmentToken *token = sp__enrolment_token__unpack(
        &sp_secret_allocator, sp_secret_size(packed), sp_secret_data(packed));
    if (!token)
        return cli_fail(CLI_ERROR, "the keeper's answer cannot be read");
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r = fd < 0 ? -errno : sp_write_all(fd, token->text, strlen(token->text));
    if (r == 0)
        r = sp_write_all(fd, "\n", 1);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (fd >= 0)
        close(fd);
    sp__enrolment_token__free_unpacked(token, &sp_secret_allocator);
    return r < 0 ? cli_fail(CLI_ERROR, "cannot write %s: %s", path, strerror(-r)) : CLI_OK;
}

static int create(struct cli *cli, Sp__TokenSpec *spec, const char *out)
{
    SP_SECRET struct sp_secret *mine = NULL;
    uint8_t public_key[SP_BOX_KEY_BYTES];
    int r = sp_box_keypair(&mine, public_key);
    if (r < 0)
        return cli_fail(CLI_ERROR, "cannot make a key: %s", strerror(-r));
    spec->reply_key.data = public_key;
    spec->reply_key.len = sizeof(public_key);
    CLI_MESSAGE Sp__CreateTokenResponse *answer = NULL;
    r = cli_call_signed(cli, "Admin/CreateToken", &spec->base, &answer);
    if (r != CLI_OK)
        return r;
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *packed = NULL;
    r = answer->token ? sp_token_aad(&aad, answer->token_id) : -EBADMSG;
    if (r == 0)
        r = sp_box_open(mine, aad.data, aad.size, answer->token, &packed);
    if (r < 0)
        return cli_fail(CLI_ERROR, "the token came damaged: %s", strerror(-r));
    r = write_token(out, packed);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        printf("{\"token_id\": \"%s\"}\n", answer->token_id);
    else
        printf("token %s is in %s\n", answer->token_id, out);
    return CLI_OK;
}

int cmd_token_create(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    struct token_words w = {0};
    const struct cli_flag flags[] = {
        {"machine", "NAME", "for this one machine", &w.machine, NULL, NULL},
        {"group", "GROUP", "for machines that join this group", &w.group, NULL, NULL},
        {"again", "MACHINE", "for a known machine that lost its certificate: same id, new keys",
         &w.again, NULL, NULL},
        {"count", "N", "how many machines may use it (1)", &w.count, NULL, NULL},
        {"expires", "TIME", "how long it is good: 2h, 7d (24h)", &w.expires, NULL, NULL},
        {"pattern", "GLOB", "only machines whose name fits", &w.pattern, NULL, NULL},
        {"network", "CIDR", "only from this network", &w.network, NULL, NULL},
        {"approval", NULL, "machines wait for 'sealpoint machine approve'", NULL, &w.approval,
         NULL},
        {"out", "FILE", "where the token is written, mode 0600", &w.out, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 0, 0);
    if (!w.out)
        return cli_fail(CLI_USAGE, "--out FILE is needed: a token is never printed");
    if (access(w.out, F_OK) == 0)
        return cli_fail(CLI_ERROR, "%s is there already: name a new file", w.out);
    Sp__TokenSpec spec = SP__TOKEN_SPEC__INIT;
    CLI_MESSAGE Sp__Machine *again = NULL;
    int r = fill_spec(cli, &w, &spec, &again);
    return r == CLI_OK ? create(cli, &spec, w.out) : r;
}

int cmd_token_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    Sp__ListTokensRequest request = SP__LIST_TOKENS_REQUEST__INIT;
    CLI_MESSAGE Sp__ListTokensResponse *answer = NULL;
    int r = cli_call(cli, "Admin/ListTokens", &request.base, &answer);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&answer->base) : r;
    struct cli_table *t = cli_table_new(
        (const char *const[]){"TOKEN", "FOR", ">USED", "EXPIRES", "BY", "STATE", NULL});
    for (size_t i = 0; t && i < answer->n_tokens; i++) {
        const Sp__TokenInfo *k = answer->tokens[i];
        char used[32], expires[24], whom[160];
        (void)snprintf(used, sizeof(used), "%u/%u", k->used, k->count);
        (void)snprintf(whom, sizeof(whom), "%s%s", *k->machine_name ? "" : "group ",
                       *k->machine_name ? k->machine_name : k->group);
        bool late = k->expires_unix_ms <= sp_clock_system.wall_ms(NULL);
        cli_table_row(t, (const char *const[]){k->token_id, whom, used,
                                               cli_time_text(k->expires_unix_ms, expires),
                                               k->created_by,
                                               k->revoked            ? "revoked"
                                               : k->used >= k->count ? "used up"
                                               : late                ? "expired"
                                                                     : "open"});
    }
    return cli_table_print(t, "no tokens");
}

int cmd_token_revoke(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    Sp__RevokeTokenRequest request = SP__REVOKE_TOKEN_REQUEST__INIT;
    request.token_id = argv[0];
    CLI_MESSAGE Sp__Done *answer = NULL;
    int r = cli_call_signed(cli, "Admin/RevokeToken", &request.base, &answer);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        return cli_print_json(&answer->base);
    printf("token %s is revoked\n", argv[0]);
    return CLI_OK;
}
