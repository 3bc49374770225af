/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The table of commands. */
#include "controller/cli/cli.h"

#include "base/file.h"
#include <string.h>

static const struct cli_command commands[] = {
    {NULL, "status", "", "How controller and keeper are", "", cmd_status},
    {NULL, "backup", "MACHINE", "Take a recovery point and follow it to its verdict",
     "Exit code 0 says: the point is valid, that is, the keys in escrow were proved to open this\n"
     "very snapshot. 3 says: the data are there, the reasons why it is not valid are printed.\n",
     cmd_backup},
    {NULL, "prove", "IMAGE|NBD-URI…", "Prove which keys open the volumes of images you have",
     "Nothing else has to be installed or running: no agent, no controller. The images (raw, "
     "qcow2,\n"
     "vmdk, vhdx, vhd, or NBD) are opened for reading only.\n"
     "  sealpoint prove --keys /media/keys web1.qcow2 db1.raw nbd://10.0.0.7/db2\n"
     "A folder of --keys may hold recovery passwords as Windows saves them, .BEK files, .txt "
     "files\n"
     "with one passphrase a line, key files, and .csv files; sealpoint(1) has the rules.\n"
     "Exit code 0: every encrypted volume opens. 3: at least one does not, or not without a "
     "word.\n",
     cmd_prove},
    {"machine", "list", "[PATTERN]", "The machines, their agents and their last points", "",
     cmd_machine_list},
    {"machine", "show", "MACHINE", "One machine: agent, source, volumes, findings", "",
     cmd_machine_show},
    {"machine", "events", "MACHINE", "What changed in a machine's disks and volumes",
     "Keyslots added and removed, volumes opened and closed, re-encryption, disks: the agent "
     "tells\n"
     "within two seconds, and what happened while it was away when it is back.\n"
     "  sealpoint machine events web1 --follow\n",
     cmd_machine_events},
    {"machine", "add", "NAME", "Register a machine that has no agent", "", cmd_machine_add},
    {"machine", "set-source", "MACHINE", "Where the machine's disks are taken from",
     "From QEMU, while the guest runs:\n"
     "  sealpoint machine set-source web1 --qmp /run/qemu/web1.qmp --vault main\n"
     "From raw images on an XFS or btrfs, whatever runs the guest: a clone is made beside each\n"
     "image, the last one stays to tell what changed. Several images need an agent that holds the\n"
     "guest: without it they are not of one point in time, and the point fails.\n"
     "  sealpoint machine set-source web2 --image /vm/web2-a.raw,serial=A --image "
     "/vm/web2-b.raw\n",
     cmd_machine_set_source},
    {"machine", "set-policy", "MACHINE", "What is asked of its points, what is accepted",
     "An accepted reason is recorded with your name in every manifest it helps to be valid:\n"
     "  sealpoint machine set-policy web1 --allow unidentified-content:disk-3 --why 'scratch "
     "disk'\n",
     cmd_machine_set_policy},
    {"machine", "revoke", "MACHINE", "Cut off an agent and its certificate", "",
     cmd_machine_revoke},
    {"machine", "approve", "MACHINE", "Let in a machine that waits for approval", "",
     cmd_machine_approve},
    {"machine", "release-quarantine", "MACHINE",
     "Let back an identity that two guests had used at once", "", cmd_machine_release_quarantine},
    {"token", "create", "", "A token that lets an agent enrol",
     "  sealpoint token create --machine web1 --out web1.token\n"
     "In the guest:\n"
     "  sealpoint-agent enrol --controller HOST:9443 --token-file web1.token --ca-fingerprint F\n",
     cmd_token_create},
    {"token", "list", "", "The tokens and what is left of them", "", cmd_token_list},
    {"token", "revoke", "TOKEN", "Make a token useless", "", cmd_token_revoke},
    {"user", "add", "NAME", "A new user, with roles and a profile",
     "viewer sees; operator backs up, verifies, restores and imports keys; admin decides who and\n"
     "what; custodian gets keys out, and nothing else.\n",
     cmd_user_add},
    {"user", "list", "", "The users and their roles", "", cmd_user_list},
    {"user", "revoke", "NAME", "Take a user's access away, at once", "", cmd_user_revoke},
    {"key", "import", "[MACHINE VOLUME]", "Put a key into escrow, sealed to the keeper",
     "VOLUME is an id, a device or a mapped name of 'sealpoint machine show'.\n"
     "  sealpoint key import web1 /dev/vdb --key-file vdb.key\n"
     "  sealpoint key import --csv keys.csv      columns: machine,volume,type,secret_file,…\n",
     cmd_key_import},
    {"key", "enrol", "[MACHINE VOLUME]",
     "Have a guest give a LUKS2 volume a recovery key of its own",
     "The keeper makes a random key; the guest puts it into a keyslot of its own, unlocked by what "
     "it\n"
     "has: crypttab's key file, a clevis or TPM2 token, or a passphrase typed in the guest with\n"
     "'sealpoint-agent enrol-volume'. Other keyslots stay as they are. The guest's agent.conf "
     "must\n"
     "allow it ([escrow] enrol = on). The key is pending until a backup has proved it.\n"
     "  sealpoint key enrol web1 /dev/vdb --why 'passphrases change hands'\n"
     "  sealpoint key enrol --all --dry-run      what would happen, on every machine\n",
     cmd_key_enrol},
    {"key", "list", "[MACHINE]", "The keys in escrow, without the keys", "", cmd_key_list},
    {"key", "release", "POINT", "Hand out the keys of a point's own generation",
     "You must be a custodian. The request is signed with your key, the answer is sealed to this\n"
     "call, the keeper's audit says who and why.\n",
     cmd_key_release},
    {"key", "show", "RECORD", "One key's history and everything that it opens", "", cmd_key_show},
    {"key", "compromise", "RECORD", "Say that somebody else may have a key",
     "The key stays in escrow, since points rest on it. What it opens is listed; only "
     "re-encryption\n"
     "ends that: whoever held key and header once may hold the volume key.\n",
     cmd_key_compromise},
    {"key", "destroy", "RECORD", "Destroy a key that no kept point rests on",
     "The first time starts a waiting time (keystore.destroy_wait, 3 days), the same command after "
     "it\n"
     "destroys. Both are signed and audited. Keystore copies in vaults and exports keep what they\n"
     "hold until they go.\n",
     cmd_key_destroy},
    {"escrow", "list", "", "The external systems that the keeper asks for keys", "",
     cmd_escrow_list},
    {"escrow", "test", "PROVIDER", "Whether a provider answers, and what is wrong if it does not",
     "Connection, TLS, log-on, permission and canary, one after the other; the first that fails "
     "is\n"
     "explained. PROVIDER is the name of its section in keeper.conf, see sealpoint-keeper(8).\n"
     "--make-canary puts a canary there first: random bytes that open nothing (kmip).\n"
     "Exit code 0: all is well. 3: it is not.\n",
     cmd_escrow_test},
    {"kek", "list", "", "What the keystore can be opened with", "", cmd_kek_list},
    {"kek", "add", "KIND", "Wrap all keys for one more KEK",
     "KIND is scrypt (a passphrase file), key-file, credential or pkcs11: first name it in\n"
     "keeper.conf on the keeper's host and restart the keeper; its material never leaves that "
     "host.\n"
     "Or recovery-kit: a new kit takes the place of the old one and is printed once.\n",
     cmd_kek_add},
    {"kek", "remove", "KEK", "Take a KEK away", "", cmd_kek_remove},
    {"keystore", "check", "", "Decrypt and verify all that the keystore holds", "",
     cmd_keystore_check},
    {"keystore", "export", "FILE", "The whole keystore in one file, encrypted to the recovery kit",
     "'sealpoint-keeper --import FILE --recovery-kit KITFILE' restores it on another host.\n",
     cmd_keystore_export},
    {"keystore", "reconcile", "",
     "Rebuild the pins from the vaults, after an old keystore came back",
     "Until then nothing is destroyed. Records that points rest on and that this keystore lacks "
     "are\n"
     "listed: a newer copy of the keystore, in a vault or an export, has them.\n",
     cmd_keystore_reconcile},
    {"point", "list", "[MACHINE]", "The recovery points", "", cmd_point_list},
    {"point", "show", "POINT", "One point: verdict, reasons, which key opens which volume", "",
     cmd_point_show},
    {"point", "verify", "POINT", "Look at the stored data and prove the keys anew",
     "No backup is taken. A point whose key was missing becomes valid when the key is there now.\n",
     cmd_point_verify},
    {"point", "restore", "POINT", "Write the disks of a point, verified, still encrypted",
     "  sealpoint point restore 3f2a9c1e --to /srv/restore --format qcow2\n", cmd_point_restore},
    {"point", "delete", "POINT", "Delete a point; its data goes 14 days later",
     "Refused for a point that is held or locked, and for the newest copy and the last valid point "
     "of "
     "a\nmachine. 'sealpoint vault gc' frees the room when the time has come.\n",
     cmd_point_delete},
    {"point", "undelete", "POINT", "Bring a deleted point back", "", cmd_point_undelete},
    {"point", "hold", "POINT", "Legal hold: nothing removes the point", "", cmd_point_hold},
    {"point", "unhold", "POINT", "Lift a legal hold", "", cmd_point_unhold},
    {"job", "watch", "JOB", "Follow a running job", "", cmd_job_watch},
    {"job", "cancel", "JOB", "End a job at its next step", "", cmd_job_cancel},
    {"vault", "add", "NAME", "Make a vault: where points are kept", "", cmd_vault_add},
    {"vault", "attach", "DIR", "After the host is lost: everything back from a vault and the kit",
     "On an empty host with a running sealpoint-keeper (a KEK in keeper.conf, no keystore yet), "
     "as\n"
     "root: runs 'sealpointd attach'. Then start sealpointd; its points are those of the vault.\n"
     "  sealpoint vault attach /srv/vault --recovery-kit kit.txt --user anna --host "
     "backup.example\n"
     "A vault of an installation that lives is taken over by 'vault add NAME --dir DIR'.\n",
     cmd_vault_attach},
    {"vault", "list", "", "The vaults", "", cmd_vault_list},
    {"vault", "check", "VAULT", "Compare catalog, manifests and data", "", cmd_vault_check},
    {"vault", "gc", "VAULT", "Apply retention, remove what is not needed",
     "Points go by 'machine set-policy --keep-…'; they can be undeleted for 14 days. Safe beside "
     "backups.\n",
     cmd_vault_gc},
    {"vault", "scrub", "VAULT", "Re-hash everything, slowly; heal from a replica",
     "  sealpoint vault scrub main --rate 32 --heal-from-dir /mnt/offsite/vault\n",
     cmd_vault_scrub},
    {"vault", "copy", "VAULT", "Bring new points into a replica (off-site)",
     "  sealpoint vault copy main --to-dir /mnt/offsite/vault\n", cmd_vault_copy},
    {"audit", "list", "", "Who did what, from both audit logs", "", cmd_audit_list},
    {"audit", "verify", "", "Recompute the chains of both audit logs", "", cmd_audit_verify},
};

static void print_commands(FILE *to, const char *group)
{
    for (size_t i = 0; i < SP_COUNT(commands); i++) {
        const struct cli_command *c = &commands[i];
        if (group && (!c->group || strcmp(c->group, group) != 0))
            continue;
        char head[64];
        (void)snprintf(head, sizeof(head), "%s%s%s%s%s", c->group ? c->group : "",
                       c->group ? " " : "", c->name, *c->arguments ? " " : "", c->arguments);
        fprintf(to, "  %-30s  %s\n", head, c->summary);
    }
}

static void print_help(void)
{
    printf("Usage: sealpoint COMMAND [options]\n\n"
           "Backup of encrypted virtual machines, with proof that the keys in escrow open them.\n\n"
           "Commands:\n");
    print_commands(stdout, NULL);
    printf("\nEvery command takes --json, --profile DIR and --help. Exit codes: 0 done, 1 error,\n"
           "2 wrong usage, 3 not valid, 4 controller or keeper not reachable, 5 refused.\n"
           "First steps: sealpoint vault add, token create, machine set-source, key import, "
           "backup.\n");
}

static const struct cli_command *find(int argc, char **argv, int *used)
{
    for (size_t i = 0; i < SP_COUNT(commands); i++) {
        const struct cli_command *c = &commands[i];
        if (!c->group && strcmp(argv[0], c->name) == 0) {
            *used = 1;
            return c;
        }
        if (c->group && argc > 1 && strcmp(argv[0], c->group) == 0 &&
            strcmp(argv[1], c->name) == 0) {
            *used = 2;
            return c;
        }
    }
    return NULL;
}

static int unknown(int argc, char **argv)
{
    bool is_group = false;
    for (size_t i = 0; i < SP_COUNT(commands); i++)
        is_group |= commands[i].group && strcmp(commands[i].group, argv[0]) == 0;
    if (is_group && (argc == 1 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        printf("Usage: sealpoint %s COMMAND [options]\n\nCommands:\n", argv[0]);
        print_commands(stdout, argv[0]);
        return argc == 1 ? CLI_USAGE : CLI_OK;
    }
    return cli_fail(CLI_USAGE, "there is no command '%s%s%s'; 'sealpoint --help' lists them",
                    argv[0], is_group ? " " : "", is_group ? argv[1] : "");
}

static char *default_profile(void)
{
    const char *set = getenv("SEALPOINT_PROFILE"), *xdg = getenv("XDG_CONFIG_HOME"),
               *home = getenv("HOME");
    if (set && *set)
        return strdup(set);
    if (xdg && *xdg)
        return sp_format("%s/sealpoint", xdg);
    return sp_format("%s/.config/sealpoint", home ? home : "");
}

int main(int argc, char **argv)
{
    struct cli cli = {0};
    argc--;
    argv++;
    /* The two common options are welcome before the command as well. */
    for (; argc > 0 && argv[0][0] == '-'; argc--, argv++) {
        if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
            print_help();
            return CLI_OK;
        }
        if (strcmp(argv[0], "--version") == 0) {
            printf("sealpoint %s\n", SEALPOINT_VERSION);
            return CLI_OK;
        }
        if (strcmp(argv[0], "--json") == 0) {
            cli.json = true;
        } else if (strcmp(argv[0], "--profile") == 0 && argc > 1) {
            cli.profile = argv[1];
            argc--;
            argv++;
        } else {
            return cli_fail(CLI_USAGE, "there is no option %s; 'sealpoint --help' shows how",
                            argv[0]);
        }
    }
    if (argc == 0) {
        print_help();
        return CLI_USAGE;
    }
    int used = 0;
    const struct cli_command *c = find(argc, argv, &used);
    if (!c)
        return unknown(argc, argv);
    SP_FREE char *profile = cli.profile ? NULL : default_profile();
    if (!cli.profile)
        cli.profile = profile;
    int e = sp_secret_process_setup();
    if (e < 0 || !cli.profile)
        return cli_fail(CLI_ERROR, "cannot start: %s", strerror(e < 0 ? -e : ENOMEM));
    rpc_setup();
    int r = c->run(&cli, c, argc - used, argv + used);
    cli_disconnect(&cli);
    rpc_teardown();
    return r;
}
