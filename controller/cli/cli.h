/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * sealpoint, the command line. A command is a row of a table (main.c) and one function; this header
 * is what commands share.
 *
 *   main ─▶ args (flags) ─▶ command ─▶ connect, signed ─▶ RPC ─▶ table or JSON
 *
 * One thread. Errors go to stderr as "sealpoint: WHAT"; the exit code says of which kind. */
#ifndef SEALPOINT_CLI_H
#define SEALPOINT_CLI_H

#include "base/cleanup.h"
#include "base/identity.h"
#include "base/secret.h"
#include "base/why.h"
#include "rpc/methods.h"
#include <sealpoint/v1/admin.pb-c.h>
#include <sealpoint/v1/backup.pb-c.h>
#include <sealpoint/v1/enrolment.pb-c.h>
#include <sealpoint/v1/fleet.pb-c.h>
#include <sealpoint/v1/keys.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

/* Documented in sealpoint(1). */
enum cli_exit {
    CLI_OK = 0,
    CLI_ERROR = 1,
    CLI_USAGE = 2,
    CLI_NOT_VALID = 3,   /* the point is not valid, or the vault or audit has a problem */
    CLI_UNREACHABLE = 4, /* no controller, no keeper */
    CLI_REFUSED = 5      /* not allowed, or not known */
};

struct cli {
    const char *profile; /* folder */
    bool json;
    struct rpc_channel *channel;
    char *controller, *domain, *trust_pem;
    unsigned deadline_ms; /* of a unary call; 0: a minute */
};

/* ---- arguments (args.c) ---- */
struct cli_flag {
    const char *name;       /* without the dashes */
    const char *value_name; /* NULL: a switch */
    const char *help;
    const char **value; /* of a flag with a value; last one wins */
    bool *on;           /* of a switch */
    const char **list;  /* of a flag that may repeat: NULL-terminated, room for CLI_LIST_MAX */
};
enum { CLI_LIST_MAX = 64 };

struct cli_command {
    const char *group, *name; /* group NULL: a command of one word */
    const char *arguments;    /* "MACHINE VOLUME" */
    const char *summary;
    const char *help; /* paragraphs that teach; ends with a newline */
    int (*run)(struct cli *, const struct cli_command *, int argc, char **argv);
};

/* Parses flags (anywhere) and leaves between `least` and `most` words in argv[0…]; prints help and
 * returns CLI_PARSED_HELP when asked; prints the fault and returns CLI_USAGE. Else the word count
 * as CLI_PARSED + count. --json and --profile are understood by all. */
enum { CLI_PARSED_HELP = -1, CLI_PARSED_USAGE = -2 };
int cli_parse(struct cli *, const struct cli_command *, const struct cli_flag *flags, int argc,
              char **argv, int least, int most);
/* For the first lines of a command: words in argv or the exit code. */
#define CLI_PARSE(words, cli, command, flags, argc, argv, least, most)                             \
    int words = cli_parse(cli, command, flags, argc, argv, least, most);                           \
    if ((words) < 0)                                                                               \
    return (words) == CLI_PARSED_HELP ? CLI_OK : CLI_USAGE
int cli_number(const char *flag, const char *text, uint64_t most, uint64_t *ret);
int cli_duration_ms(const char *flag, const char *text, uint64_t *ret);
int cli_size(const char *flag, const char *text, uint64_t *ret);

/* ---- talking (connect.c) ---- */
/* Loads the profile and makes the channel. CLI_OK or an exit code, the fault printed. */
int cli_connect(struct cli *);
void cli_disconnect(struct cli *);
/* One unary call; *ret new, free with protobuf_c_message_free_unpacked(, NULL). CLI_OK or an exit
 * code, the fault printed. */
int cli_call(struct cli *, const char *method, const ProtobufCMessage *request, void *ret);
int cli_stream(struct cli *, const char *method, const ProtobufCMessage *request,
               int (*on_message)(void *self, const ProtobufCMessage *), void *self);
/* The exit code for a failed call, its fault printed. */
int cli_call_failed(struct cli *, int error, int status, const struct sp_why *why);
/* Renews the profile's certificate when it is due; a failure is a warning, the command goes on. */
void cli_renew(struct cli *, const char *certificate_pem);
/* A machine by id or name; the answer holds the inventory. */
int cli_machine(struct cli *, const char *machine, Sp__Machine **ret);
/* A volume of its inventory by id, device or mapped name; NULL: there is none. */
const Sp__Volume *cli_volume(const Sp__Machine *, const char *name);

/* Texts of guests and of others pass through here on their way to a terminal: control characters
 * (and what is no UTF-8) become '?'. In place; every string of the message. */
void cli_clean(ProtobufCMessage *);
void cli_clean_text(char *);
int cli_fail(int exit_code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- signed requests and boxes (signed.c) ---- */
/* Signs `arguments` for `method` ("Admin/CreateToken") with the profile's key and a fresh nonce. */
int cli_sign(struct cli *, const char *method, const ProtobufCMessage *arguments,
             Sp__SignedRequest **ret);
/* Signs, sends as SignedCall, gives the answer. */
int cli_call_signed(struct cli *, const char *method, const ProtobufCMessage *arguments, void *ret);
/* The keeper's keys, their signature checked against the profile's CA. */
int cli_keeper_keys(struct cli *, Sp__KeeperKeys **ret);
/* The point's manifest: asks for it where the answer had no room for it, checks the keeper's seal
 * and that it is this point's, and unpacks it. */
int cli_manifest(struct cli *, const Sp__PointDetail *, Sp__Manifest **ret);

/* ---- secrets from a person or a file (secret_input.c) ---- */
/* `strip`: one line end at the end does not belong to the secret. "-": standard input. */
int cli_secret_file(const char *path, bool strip, struct sp_secret **ret);
int cli_secret_prompt(const char *prompt, struct sp_secret **ret);

/* ---- output ---- */
struct cli_table;
/* Column names end with NULL; a name that begins with '>' is aligned right. NULL on -ENOMEM. */
struct cli_table *cli_table_new(const char *const *columns);
void cli_table_row(struct cli_table *, const char *const *cells);
/* Prints and frees. `empty` is said on stderr when there is no row. */
int cli_table_print(struct cli_table *, const char *empty);
/* Any message as one JSON object: field names of the .proto, enums as their names, bytes in
 * hexadecimal; then a newline. */
int cli_print_json(const ProtobufCMessage *);
struct json_object;
struct json_object *cli_json(const ProtobufCMessage *);

/* "1.5 GiB"; 24 bytes are enough. Returns out. */
char *cli_size_text(uint64_t bytes, char out[24]);
/* "2026-03-01 14:05:09Z" or "-" for 0. */
char *cli_time_text(uint64_t unix_ms, char out[24]);
/* Enum names for people: POINT_STATE_AT_RISK is "at-risk". Returns out. */
char *cli_enum_text(const ProtobufCEnumDescriptor *, int value, const char *prefix, char out[48]);
/* The other way; -1 if unknown. */
int cli_enum_parse(const ProtobufCEnumDescriptor *, const char *prefix, const char *text);
/* "CODE volume: text" for each, indented. */
void cli_print_findings(Sp__Finding *const *findings, size_t count);

/* A bar on a terminal once a second has gone by; silence elsewhere. */
struct cli_progress {
    const char *what;
    uint64_t started_ms, shown_ms;
    bool drawn;
};
void cli_progress_start(struct cli_progress *, const char *what);
void cli_progress_show(struct cli_progress *, uint64_t done, uint64_t total, const char *step);
void cli_progress_end(struct cli_progress *);

/* ---- CSV (csv.c) ---- */
/* Splits the next record of `text` in place (RFC 4180; fields become 0-terminated). Returns the
 * number of fields, 0 at the end, -EINVAL (a quote that does not close), -E2BIG (too many
 * fields). */
struct cli_csv {
    char *at, *end;
    unsigned line; /* of the record that was read last */
};
int cli_csv_next(struct cli_csv *, char **fields, size_t capacity);

/* protobuf-c's strings are not const; they are only read when packed. */
#define CLI_TEXT(s) ((char *)(uintptr_t)(s))

static inline void sp_cleanup_message(void *p)
{
    ProtobufCMessage *m = *(ProtobufCMessage **)p;
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
}
#define CLI_MESSAGE __attribute__((cleanup(sp_cleanup_message)))

/* ---- commands ---- */
#define CLI_COMMAND(name) int name(struct cli *, const struct cli_command *, int argc, char **argv)
CLI_COMMAND(cmd_status);
CLI_COMMAND(cmd_prove);
CLI_COMMAND(cmd_machine_list);
CLI_COMMAND(cmd_machine_show);
CLI_COMMAND(cmd_machine_events);
CLI_COMMAND(cmd_machine_add);
CLI_COMMAND(cmd_machine_set_source);
CLI_COMMAND(cmd_machine_set_policy);
CLI_COMMAND(cmd_machine_revoke);
CLI_COMMAND(cmd_machine_approve);
CLI_COMMAND(cmd_machine_release_quarantine);
CLI_COMMAND(cmd_token_create);
CLI_COMMAND(cmd_token_list);
CLI_COMMAND(cmd_token_revoke);
CLI_COMMAND(cmd_user_add);
CLI_COMMAND(cmd_user_list);
CLI_COMMAND(cmd_user_revoke);
CLI_COMMAND(cmd_key_import);
CLI_COMMAND(cmd_key_list);
CLI_COMMAND(cmd_key_release);
CLI_COMMAND(cmd_key_show);
CLI_COMMAND(cmd_key_compromise);
CLI_COMMAND(cmd_key_destroy);
CLI_COMMAND(cmd_key_enrol);
/* Where a record's secret is, in words. */
const char *cli_holding(const Sp__EscrowRecord *);

CLI_COMMAND(cmd_escrow_list);
CLI_COMMAND(cmd_escrow_test);
CLI_COMMAND(cmd_kek_list);
CLI_COMMAND(cmd_kek_add);
CLI_COMMAND(cmd_kek_remove);
CLI_COMMAND(cmd_keystore_check);
CLI_COMMAND(cmd_keystore_export);
CLI_COMMAND(cmd_keystore_reconcile);
CLI_COMMAND(cmd_backup);
CLI_COMMAND(cmd_job_watch);
CLI_COMMAND(cmd_job_cancel);
CLI_COMMAND(cmd_point_list);
CLI_COMMAND(cmd_point_show);
CLI_COMMAND(cmd_point_verify);
CLI_COMMAND(cmd_point_restore);
CLI_COMMAND(cmd_vault_add);
CLI_COMMAND(cmd_vault_attach);
CLI_COMMAND(cmd_vault_list);
CLI_COMMAND(cmd_vault_check);
CLI_COMMAND(cmd_vault_gc);
CLI_COMMAND(cmd_vault_copy);
CLI_COMMAND(cmd_vault_scrub);
CLI_COMMAND(cmd_point_delete);
CLI_COMMAND(cmd_point_undelete);
CLI_COMMAND(cmd_point_hold);
CLI_COMMAND(cmd_point_unhold);
/* Follows a call whose answers are CheckProgress; prints what is found. */
int cli_vault_check(struct cli *, const char *what, const char *method,
                    const ProtobufCMessage *request);
CLI_COMMAND(cmd_audit_list);
CLI_COMMAND(cmd_audit_verify);

#endif
