/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/file.h"
#include <string.h>

SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)

/* "admin" or "operator:GROUP" */
static int parse_role(const char *text, char *name, size_t size, Sp__RoleBinding *role)
{
    const char *colon = strchr(text, ':');
    (void)snprintf(name, size, "%.*s", (int)(colon ? colon - text : 31), text);
    int value = cli_enum_parse(&sp__role__descriptor, "ROLE_", name);
    if (value < 0)
        return cli_fail(CLI_USAGE, "--role is viewer, operator, admin or custodian, with :GROUP "
                                   "for a group only");
    sp__role_binding__init(role);
    role->role = (Sp__Role)value;
    role->group = CLI_TEXT(colon ? colon + 1 : "");
    return CLI_OK;
}

static int write_profile(struct cli *cli, const char *folder, EVP_PKEY *key,
                         const Sp__AddUserResponse *answer)
{
    const struct {
        const char *name;
        ProtobufCBinaryData data;
    } files[] = {
        {"user.pem", answer->certificate_chain},
        {"trust.pem", answer->trust_bundle},
    };
    SP_FREE char *key_path = sp_format("%s/user.key", folder);
    SP_FREE char *conf_path = sp_format("%s/client.conf", folder);
    SP_FREE char *conf =
        sp_format("[client]\ncontroller = %s\ndomain = %s\n", cli->controller, cli->domain);
    if (!key_path || !conf_path || !conf)
        return -ENOMEM;
    int r = sp_key_save(key_path, key);
    for (size_t i = 0; r == 0 && i < SP_COUNT(files); i++) {
        SP_FREE char *path = sp_format("%s/%s", folder, files[i].name);
        r = path ? sp_file_replace(path, files[i].data.data, files[i].data.len, 0644) : -ENOMEM;
    }
    return r < 0 ? r : sp_file_replace(conf_path, conf, strlen(conf), 0644);
}

static int add(struct cli *cli, const char *name, const char *out, Sp__AddUserRequest *request)
{
    SP_CLEANUP(pkey) EVP_PKEY *key = sp_key_new();
    SP_FREE uint8_t *csr = NULL;
    size_t size = 0;
    int r = key ? sp_csr_make(key, name, &csr, &size) : -EIO;
    if (r == 0)
        r = sp_make_directories(out, 0700);
    if (r < 0)
        return cli_fail(CLI_ERROR, "cannot prepare %s: %s", out, strerror(-r));
    request->csr.data = csr;
    request->csr.len = size;
    CLI_MESSAGE Sp__AddUserResponse *answer = NULL;
    r = cli_call_signed(cli, "Admin/AddUser", &request->base, &answer);
    if (r != CLI_OK)
        return r;
    r = write_profile(cli, out, key, answer);
    if (r < 0)
        return cli_fail(CLI_ERROR, "cannot write the profile into %s: %s", out, strerror(-r));
    if (cli->json)
        printf("{\"name\": \"%s\"}\n", name);
    else
        printf("%s may work now; hand over the folder %s: 'sealpoint --profile' takes it\n", name,
               out);
    return CLI_OK;
}

int cmd_user_add(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *roles[CLI_LIST_MAX] = {0}, *out = NULL;
    const struct cli_flag flags[] = {
        {"role", "ROLE[:GROUP]", "viewer, operator, admin or custodian; repeat for more", NULL,
         NULL, roles},
        {"out", "DIR", "where the new user's profile is written", &out, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!roles[0] || !out)
        return cli_fail(CLI_USAGE, "--role and --out are needed");
    SP_FREE char *taken = sp_format("%s/user.key", out);
    if (!taken || access(taken, F_OK) == 0)
        return cli_fail(CLI_ERROR, "%s holds a profile already: name a new folder", out);
    int r = cli_connect(cli);
    if (r != CLI_OK)
        return r;
    Sp__RoleBinding bindings[CLI_LIST_MAX], *list[CLI_LIST_MAX];
    char names[CLI_LIST_MAX][32];
    Sp__AddUserRequest request = SP__ADD_USER_REQUEST__INIT;
    request.name = argv[0];
    request.roles = list;
    for (; roles[request.n_roles]; request.n_roles++) {
        size_t i = request.n_roles;
        r = parse_role(roles[i], names[i], sizeof(names[i]), &bindings[i]);
        if (r != CLI_OK)
            return r;
        list[i] = &bindings[i];
    }
    return add(cli, argv[0], out, &request);
}

int cmd_user_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    Sp__ListUsersRequest request = SP__LIST_USERS_REQUEST__INIT;
    CLI_MESSAGE Sp__ListUsersResponse *answer = NULL;
    int r = cli_call(cli, "Admin/ListUsers", &request.base, &answer);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&answer->base) : r;
    struct cli_table *t =
        cli_table_new((const char *const[]){"USER", "ROLES", "CERTIFICATE UNTIL", "STATE", NULL});
    for (size_t i = 0; t && i < answer->n_users; i++) {
        const Sp__User *u = answer->users[i];
        SP_BUFFER struct sp_buffer roles = {0};
        for (size_t k = 0; k < u->n_roles; k++) {
            char role[48];
            cli_enum_text(&sp__role__descriptor, (int)u->roles[k]->role, "ROLE_", role);
            (void)sp_buffer_printf(&roles, "%s%s%s%s", k ? ", " : "", role,
                                   *u->roles[k]->group ? ":" : "", u->roles[k]->group);
        }
        char until[24];
        cli_table_row(t, (const char *const[]){u->name, sp_buffer_text(&roles),
                                               cli_time_text(u->certificate_expires_unix_ms, until),
                                               u->revoked ? "revoked" : "active"});
    }
    return cli_table_print(t, "no users");
}

int cmd_user_revoke(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *why = "";
    const struct cli_flag flags[] = {
        {"why", "TEXT", "goes into the audit", &why, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    Sp__RevokeUserRequest request = SP__REVOKE_USER_REQUEST__INIT;
    request.name = argv[0];
    request.why = CLI_TEXT(why);
    CLI_MESSAGE Sp__Done *answer = NULL;
    int r = cli_call_signed(cli, "Admin/RevokeUser", &request.base, &answer);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        return cli_print_json(&answer->base);
    printf("%s is revoked: open connections are closed\n", argv[0]);
    return CLI_OK;
}
