/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * kek and keystore: what the keystore is opened with, and the keystore as a whole. */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/file.h"
#include "base/sealed_box.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

enum { KIT_BYTES = 32 };

/* ---- KEKs ---- */

int cmd_kek_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    Sp__ListKeksRequest request = SP__LIST_KEKS_REQUEST__INIT;
    CLI_MESSAGE Sp__ListKeksResponse *answer = NULL;
    int r = cli_call(cli, "Keys/ListKeks", &request.base, &answer);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&answer->base) : r;
    struct cli_table *t =
        cli_table_new((const char *const[]){"KEK", "KIND", "MADE", "OPEN", "CONFIGURED", NULL});
    for (size_t i = 0; t && i < answer->n_keks; i++) {
        const Sp__Kek *k = answer->keks[i];
        char made[24];
        cli_table_row(t, (const char *const[]){k->kek_id, k->kind,
                                               cli_time_text(k->created_unix_ms, made),
                                               k->open ? "yes" : "-", k->configured ? "yes" : "-"});
    }
    return cli_table_print(t, "the keystore is empty");
}

/* Printed once: nothing else has it. */
static int print_kit(struct cli *cli, const struct sp_secret *mine, const Sp__SealedBox *box)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *kit = NULL;
    static const char prefix[] = "sealpoint-kit-1:";
    int r = sp_kit_aad(&aad, cli->domain);
    if (r == 0)
        r = sp_box_open(mine, aad.data, aad.size, box, &kit);
    if (r == 0 && sp_secret_size(kit) != KIT_BYTES)
        r = -EBADMSG;
    char *text = r == 0 ? sp_base64url(sp_secret_data(kit), KIT_BYTES) : NULL;
    if (!text)
        return cli_fail(CLI_ERROR, "the new recovery kit came damaged: add one again");
    fflush(stdout);
    r = sp_write_all(STDOUT_FILENO, prefix, sizeof(prefix) - 1);
    if (r == 0)
        r = sp_write_all(STDOUT_FILENO, text, strlen(text));
    if (r == 0)
        r = sp_write_all(STDOUT_FILENO, "\n", 1);
    sp_wipe(text, strlen(text));
    free(text);
    return r < 0
               ? cli_fail(CLI_ERROR, "the new recovery kit could not be printed: %s; add one again",
                          strerror(-r))
               : CLI_OK;
}

int cmd_kek_add(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    SP_SECRET struct sp_secret *mine = NULL;
    uint8_t reply[SP_BOX_KEY_BYTES];
    int e = sp_box_keypair(&mine, reply);
    if (e < 0)
        return cli_fail(CLI_ERROR, "cannot make a key: %s", strerror(-e));
    Sp__AddKekRequest request = SP__ADD_KEK_REQUEST__INIT;
    CLI_MESSAGE Sp__AddKekResponse *answer = NULL;
    request.kind = argv[0];
    request.reply_key = (ProtobufCBinaryData){sizeof(reply), reply};
    int r = cli_call_signed(cli, "Keys/AddKek", &request.base, &answer);
    if (r != CLI_OK)
        return r;
    if (answer->recovery_kit) {
        fprintf(stderr, "The new recovery kit. The old one opens copies and exports of before, and "
                        "nothing from now on:\n");
        return print_kit(cli, mine, answer->recovery_kit);
    }
    if (cli->json)
        return cli_print_json(&answer->base);
    printf("KEK %s (%s) wraps %" PRIu64 " keys\n", answer->kek->kek_id, answer->kek->kind,
           answer->deks);
    return CLI_OK;
}

int cmd_kek_remove(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    Sp__RemoveKekRequest request = SP__REMOVE_KEK_REQUEST__INIT;
    CLI_MESSAGE Sp__Done *answer = NULL;
    request.kek_id = argv[0];
    return cli_call_signed(cli, "Keys/RemoveKek", &request.base, &answer);
}

/* ---- the keystore ---- */

int cmd_keystore_check(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    Sp__CheckKeystoreRequest request = SP__CHECK_KEYSTORE_REQUEST__INIT;
    CLI_MESSAGE Sp__CheckKeystoreResponse *k = NULL;
    int r = cli_call(cli, "Keys/CheckKeystore", &request.base, &k);
    if (r != CLI_OK)
        return r;
    if (cli->json) {
        r = cli_print_json(&k->base);
    } else {
        for (size_t i = 0; i < k->n_problems; i++)
            printf("problem: %s\n", k->problems[i]);
        printf("%u records, %u pins, %u secrets decrypted: %s\n", k->records, k->pins, k->secrets,
               k->n_problems ? "not all is well" : "all is well");
    }
    return r == CLI_OK && k->n_problems ? CLI_NOT_VALID : r;
}

struct export
{
    int fd;
    uint64_t size, total, epoch;
    int error;
};

static int on_part(void *self, const ProtobufCMessage *message)
{
    struct export *x = self;
    const Sp__KeystoreExport *part = (const Sp__KeystoreExport *)message;
    x->error = sp_write_all(x->fd, part->file.data, part->file.len);
    x->size += part->file.len;
    x->total = part->total_bytes;
    x->epoch = part->epoch;
    return x->error;
}

static int receive_export(struct cli *cli, struct export *x)
{
    Sp__ExportKeystoreRequest request = SP__EXPORT_KEYSTORE_REQUEST__INIT;
    CLI_MESSAGE Sp__SignedRequest *signed_request = NULL;
    int r = cli_sign(cli, "Keys/ExportKeystore", &request.base, &signed_request);
    if (r != CLI_OK)
        return r;
    Sp__SignedCall call = SP__SIGNED_CALL__INIT;
    call.request = signed_request;
    r = cli_stream(cli, "Keys/ExportKeystore", &call.base, on_part, x);
    if (x->error == 0 && r == CLI_OK && fsync(x->fd) < 0)
        x->error = -errno;
    if (x->error < 0)
        return cli_fail(CLI_ERROR, "cannot write the export: %s", strerror(-x->error));
    if (r == CLI_OK && (x->size == 0 || x->size != x->total))
        return cli_fail(CLI_ERROR, "the export did not come to its end");
    return r;
}

int cmd_keystore_export(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 1, 1);
    struct export x = {
        .fd = open(argv[0], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)};
    if (x.fd < 0)
        return cli_fail(CLI_ERROR, "cannot make %s: %s", argv[0], strerror(errno));
    int r = receive_export(cli, &x);
    close(x.fd);
    if (r != CLI_OK) {
        unlink(argv[0]);
        return r;
    }
    char size[24];
    printf("%s: the keystore at epoch %" PRIu64 ", %s; only the recovery kit opens it\n", argv[0],
           x.epoch, cli_size_text(x.size, size));
    return CLI_OK;
}

int cmd_keystore_reconcile(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    CLI_PARSE(words, cli, c, NULL, argc, argv, 0, 0);
    Sp__ReconcileRequest request = SP__RECONCILE_REQUEST__INIT;
    CLI_MESSAGE Sp__ReconcileResponse *a = NULL;
    int r = cli_call_signed(cli, "Keys/Reconcile", &request.base, &a);
    if (r != CLI_OK)
        return r;
    bool lacks = a->n_missing_records || a->n_unread;
    if (cli->json) {
        r = cli_print_json(&a->base);
        return r == CLI_OK && lacks ? CLI_NOT_VALID : r;
    }
    for (size_t i = 0; i < a->n_unread; i++)
        printf("not read: %s\n", a->unread[i]);
    for (size_t i = 0; i < a->n_missing_records; i++)
        printf("missing: record %s, which a kept point rests on\n", a->missing_records[i]);
    printf("%u manifests read, %u pins put back%s\n", a->manifests, a->pins_added,
           a->was_needed ? "" : "; the keystore needed no reconciling");
    return lacks ? CLI_NOT_VALID : CLI_OK;
}
