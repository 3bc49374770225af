/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * key import, key list. A secret goes from its file into a box for the keeper and nowhere else. */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/sealed_box.h"
#include <string.h>

/* One key to import, before it is sealed. */
struct wanted {
    const char *machine, *volume, *protector, *note;
    Sp__SecretType type;
    const struct sp_secret *secret;
    Sp__PlainParameters plain; /* cipher empty: none given */
    bool pending;
};

const Sp__Volume *cli_volume(const Sp__Machine *m, const char *name)
{
    for (size_t i = 0; m->inventory && i < m->inventory->n_volumes; i++) {
        const Sp__Volume *v = m->inventory->volumes[i];
        if (strcmp(v->volume_id, name) == 0 || strcmp(v->device, name) == 0 ||
            (*v->mapped_name && strcmp(v->mapped_name, name) == 0))
            return v;
    }
    return NULL;
}

static int resolve_volume(const Sp__Machine *m, struct wanted *w)
{
    const Sp__Volume *v = cli_volume(m, w->volume);
    if (!v && !strchr(w->volume, ':'))
        return cli_fail(CLI_ERROR,
                        "%s has no volume '%s': 'sealpoint machine show %s' lists them; a volume "
                        "that is not seen now is named by its id (luks:UUID)",
                        m->name, w->volume, m->name);
    if (v) {
        w->volume = v->volume_id;
        if (v->plain && !*w->plain.cipher)
            w->plain = *v->plain;
    }
    if (strncmp(w->volume, "plain:", 6) == 0 && !*w->plain.cipher)
        return cli_fail(CLI_USAGE,
                        "%s is plain dm-crypt: --cipher and --key-size are needed, as for "
                        "'cryptsetup open --type plain'",
                        w->volume);
    return CLI_OK;
}

static int seal(const Sp__KeeperKeys *keys, const Sp__Machine *m, const struct wanted *w,
                Sp__SealedBox **ret)
{
    Sp__KeyMaterial material = SP__KEY_MATERIAL__INIT;
    Sp__PlainParameters plain = w->plain;
    material.type = w->type;
    material.secret.data = sp_secret_data(w->secret);
    material.secret.len = sp_secret_size(w->secret);
    material.plain = *plain.cipher ? &plain : NULL;
    SP_SECRET struct sp_secret *packed =
        sp_secret_new(sp__key_material__get_packed_size(&material));
    if (!packed)
        return -ENOMEM;
    sp__key_material__pack(&material, sp_secret_data(packed));
    SP_BUFFER struct sp_buffer aad = {0};
    int r = sp_import_aad(&aad, m->machine_id, w->volume, w->protector);
    return r < 0 ? r
                 : sp_box_seal(keys->box_public_key.data, aad.data, aad.size,
                               sp_secret_data(packed), sp_secret_size(packed), ret);
}

/* Sends one key; prints its line. CLI_OK when it is durable. */
static int import_one(struct cli *cli, const Sp__KeeperKeys *keys, struct wanted *w)
{
    CLI_MESSAGE Sp__Machine *m = NULL;
    int r = cli_machine(cli, w->machine, &m);
    if (r == CLI_OK)
        r = resolve_volume(m, w);
    if (r != CLI_OK)
        return r;
    CLI_MESSAGE Sp__SealedBox *box = NULL;
    r = seal(keys, m, w, &box);
    if (r < 0)
        return cli_fail(CLI_ERROR, "cannot seal the key: %s", strerror(-r));
    Sp__ImportKey key = SP__IMPORT_KEY__INIT;
    Sp__ImportKey *list[] = {&key};
    Sp__ImportKeysRequest request = SP__IMPORT_KEYS_REQUEST__INIT;
    key.machine = m->machine_id;
    key.volume_id = CLI_TEXT(w->volume);
    key.protector_id = CLI_TEXT(w->protector);
    key.note = CLI_TEXT(w->note);
    key.material = box;
    key.pending = w->pending;
    request.keys = list;
    request.n_keys = 1;
    CLI_MESSAGE Sp__ImportKeysResponse *answer = NULL;
    r = cli_call(cli, "Keys/Import", &request.base, &answer);
    if (r != CLI_OK)
        return r;
    if (answer->n_results != 1 || *answer->results[0]->error || !answer->results[0]->record)
        return cli_fail(CLI_ERROR, "%s %s: %s", m->name, w->volume,
                        answer->n_results == 1 ? answer->results[0]->error : "no answer");
    const Sp__ImportResult *result = answer->results[0];
    if (cli->json)
        return cli_print_json(&result->base);
    printf("%s %s: generation %u %s (record %s)\n", m->name, w->volume, result->record->generation,
           result->already_there ? "is there already" : "is in escrow", result->record->record_id);
    return CLI_OK;
}

/* ---- CSV ---- */

enum { CSV_MAX_BYTES = 4 << 20, CSV_FIELDS = 16 };
enum column {
    MACHINE,
    VOLUME,
    PROTECTOR,
    TYPE,
    SECRET,
    SECRET_FILE,
    NOTE,
    CIPHER,
    KEY_BITS,
    HASH,
    OFFSET,
    SKIP,
    SECTOR,
    COLUMNS
};
static const char *const column_names[COLUMNS] = {
    "machine", "volume",   "protector", "type",           "secret",       "secret_file", "note",
    "cipher",  "key_bits", "hash",      "offset_sectors", "skip_sectors", "sector_bytes"};

static int read_header(struct cli_csv *csv, int places[COLUMNS])
{
    char *fields[CSV_FIELDS];
    int count = cli_csv_next(csv, fields, CSV_FIELDS);
    for (int k = 0; k < COLUMNS; k++)
        places[k] = -1;
    for (int i = 0; i < count; i++) {
        int k = 0;
        while (k < COLUMNS && strcmp(fields[i], column_names[k]) != 0)
            k++;
        if (k == COLUMNS)
            return cli_fail(CLI_USAGE, "line 1: there is no column '%s'", fields[i]);
        places[k] = i;
    }
    if (count <= 0 || places[MACHINE] < 0 || places[VOLUME] < 0 || places[TYPE] < 0 ||
        (places[SECRET] < 0 && places[SECRET_FILE] < 0))
        return cli_fail(CLI_USAGE, "line 1 must name the columns machine, volume, type, and secret "
                                   "or secret_file");
    return CLI_OK;
}

static int secret_type(const char *text)
{
    return cli_enum_parse(&sp__secret_type__descriptor, "SECRET_TYPE_", text);
}

struct row {
    char *values[COLUMNS];
};

static int plain_of_row(const struct row *row, Sp__PlainParameters *plain)
{
    uint64_t bits = 0, offset = 0, skip = 0, sector = 0;
    if (!*row->values[CIPHER])
        return CLI_OK;
    if ((*row->values[KEY_BITS] &&
         cli_number("key_bits", row->values[KEY_BITS], 4096, &bits) != CLI_OK) ||
        (*row->values[OFFSET] &&
         cli_number("offset_sectors", row->values[OFFSET], UINT64_MAX, &offset) != CLI_OK) ||
        (*row->values[SKIP] &&
         cli_number("skip_sectors", row->values[SKIP], UINT64_MAX, &skip) != CLI_OK) ||
        (*row->values[SECTOR] &&
         cli_number("sector_bytes", row->values[SECTOR], 4096, &sector) != CLI_OK))
        return CLI_USAGE;
    plain->cipher = row->values[CIPHER];
    plain->key_bits = (uint32_t)bits;
    plain->hash = row->values[HASH];
    plain->offset_sectors = offset;
    plain->skip_sectors = skip;
    plain->sector_bytes = sector ? (uint32_t)sector : 512;
    return CLI_OK;
}

static int import_row(struct cli *cli, const Sp__KeeperKeys *keys, const struct row *row,
                      unsigned line)
{
    int type = secret_type(row->values[TYPE]);
    if (type < 0)
        return cli_fail(CLI_USAGE,
                        "line %u: type is passphrase, key-file, volume-key or "
                        "recovery-password",
                        line);
    struct wanted w = {.machine = row->values[MACHINE],
                       .volume = row->values[VOLUME],
                       .protector = row->values[PROTECTOR],
                       .note = row->values[NOTE],
                       .type = (Sp__SecretType)type};
    sp__plain_parameters__init(&w.plain);
    SP_SECRET struct sp_secret *secret = NULL;
    int r = plain_of_row(row, &w.plain);
    if (r == CLI_OK && *row->values[SECRET_FILE]) {
        r = cli_secret_file(row->values[SECRET_FILE],
                            type == SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, &secret);
    } else if (r == CLI_OK) {
        secret = sp_secret_copy(row->values[SECRET], strlen(row->values[SECRET]));
        r = secret && *row->values[SECRET] ? CLI_OK
                                           : cli_fail(CLI_USAGE, "line %u: no secret", line);
    }
    w.secret = secret;
    if (r == CLI_OK)
        r = import_one(cli, keys, &w);
    if (r != CLI_OK)
        fprintf(stderr, "sealpoint: line %u was not imported\n", line);
    return r;
}

/* Every row is tried; the worst exit code is the answer. The text stays in secret memory. */
static int import_csv(struct cli *cli, const Sp__KeeperKeys *keys, const char *path)
{
    SP_SECRET struct sp_secret *file = NULL;
    int r = cli_secret_file(path, true, &file);
    if (r != CLI_OK)
        return r;
    size_t size = sp_secret_size(file);
    if (size > CSV_MAX_BYTES)
        return cli_fail(CLI_ERROR, "%s is larger than 4 MiB: split it", path);
    SP_SECRET struct sp_secret *text = sp_secret_new(size + 1);
    if (!text)
        return cli_fail(CLI_ERROR, "no locked memory: %s", strerror(errno));
    memcpy(sp_secret_data(text), sp_secret_data(file), size);
    char *start = (char *)sp_secret_data(text), empty[1] = "";
    struct cli_csv csv = {.at = start, .end = start + size};
    int places[COLUMNS];
    r = read_header(&csv, places);
    if (r != CLI_OK)
        return r;
    int worst = CLI_OK;
    for (;;) {
        char *fields[CSV_FIELDS];
        int count = cli_csv_next(&csv, fields, CSV_FIELDS);
        if (count < 0)
            return cli_fail(CLI_USAGE, "line %u: %s", csv.line,
                            count == -E2BIG ? "too many fields" : "a quote is not closed");
        if (count == 0)
            return worst;
        struct row row;
        for (int k = 0; k < COLUMNS; k++)
            row.values[k] = places[k] >= 0 && places[k] < count ? fields[places[k]] : empty;
        r = import_row(cli, keys, &row, csv.line);
        worst = r != CLI_OK ? r : worst;
    }
}

/* ---- import ---- */

struct import_words {
    const char *passphrase_file, *key_file, *volume_key_file, *recovery_file, *csv, *protector,
        *note;
    const char *cipher, *key_size, *hash, *offset, *skip, *sector_size;
    bool passphrase, pending;
};

static int secret_of_words(const struct import_words *w, Sp__SecretType *type,
                           struct sp_secret **ret)
{
    const struct {
        const char *path;
        Sp__SecretType type;
        bool strip;
    } files[] = {
        {w->passphrase_file, SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, true},
        {w->key_file, SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE, false},
        {w->volume_key_file, SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY, false},
        {w->recovery_file, SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD, true},
    };
    unsigned given = w->passphrase;
    for (size_t i = 0; i < SP_COUNT(files); i++)
        given += files[i].path != NULL;
    if (given != 1)
        return cli_fail(CLI_USAGE,
                        "one of --passphrase, --passphrase-file, --key-file, "
                        "--volume-key-file, --recovery-password-file or --csv is needed");
    if (w->passphrase) {
        *type = SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE;
        return cli_secret_prompt("Passphrase", ret);
    }
    for (size_t i = 0; i < SP_COUNT(files); i++) {
        if (files[i].path) {
            *type = files[i].type;
            return cli_secret_file(files[i].path, files[i].strip, ret);
        }
    }
    return CLI_ERROR;
}

static int plain_of_words(const struct import_words *w, Sp__PlainParameters *plain)
{
    uint64_t bits = 0, sector = 512;
    sp__plain_parameters__init(plain);
    if (!w->cipher)
        return CLI_OK;
    if ((w->key_size && cli_number("key-size", w->key_size, 4096, &bits) != CLI_OK) ||
        (w->offset &&
         cli_number("offset", w->offset, UINT64_MAX, &plain->offset_sectors) != CLI_OK) ||
        (w->skip && cli_number("skip", w->skip, UINT64_MAX, &plain->skip_sectors) != CLI_OK) ||
        (w->sector_size && cli_number("sector-size", w->sector_size, 4096, &sector) != CLI_OK))
        return CLI_USAGE;
    plain->cipher = CLI_TEXT(w->cipher);
    plain->key_bits = (uint32_t)bits;
    plain->sector_bytes = (uint32_t)sector;
    plain->hash = CLI_TEXT(w->hash ? w->hash : "");
    return CLI_OK;
}

int cmd_key_import(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    struct import_words w = {0};
    const struct cli_flag flags[] = {
        {"passphrase", NULL, "ask for the passphrase on the terminal", NULL, &w.passphrase, NULL},
        {"passphrase-file", "FILE", "a passphrase; one line end at its end is dropped (-: stdin)",
         &w.passphrase_file, NULL, NULL},
        {"key-file", "FILE", "a key file, every byte of it", &w.key_file, NULL, NULL},
        {"volume-key-file", "FILE", "the volume key itself, raw", &w.volume_key_file, NULL, NULL},
        {"recovery-password-file", "FILE", "a BitLocker recovery password", &w.recovery_file, NULL,
         NULL},
        {"csv", "FILE", "many keys; the first line names the columns", &w.csv, NULL, NULL},
        {"protector", "ID", "the keyslot or protector it opens (all are tried)", &w.protector, NULL,
         NULL},
        {"note", "TEXT", "kept with the record; no secret", &w.note, NULL, NULL},
        {"pending", NULL, "earlier keys stay active until a backup has proved this one", NULL,
         &w.pending, NULL},
        {"cipher", "SPEC", "plain dm-crypt: aes-xts-plain64", &w.cipher, NULL, NULL},
        {"key-size", "BITS", "plain dm-crypt", &w.key_size, NULL, NULL},
        {"hash", "NAME", "plain dm-crypt: hash of a passphrase", &w.hash, NULL, NULL},
        {"offset", "SECTORS", "plain dm-crypt: start on the device, 512-byte sectors", &w.offset,
         NULL, NULL},
        {"skip", "SECTORS", "plain dm-crypt: added to the IV", &w.skip, NULL, NULL},
        {"sector-size", "BYTES", "plain dm-crypt", &w.sector_size, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 0, 2);
    if (w.csv ? words != 0 : words != 2)
        return cli_fail(CLI_USAGE, "expected: MACHINE VOLUME, or --csv FILE alone");
    CLI_MESSAGE Sp__KeeperKeys *keys = NULL;
    int r = cli_keeper_keys(cli, &keys);
    if (r != CLI_OK || w.csv)
        return r != CLI_OK ? r : import_csv(cli, keys, w.csv);
    struct wanted wanted = {.machine = argv[0],
                            .volume = argv[1],
                            .protector = w.protector ? w.protector : "",
                            .note = w.note ? w.note : "",
                            .pending = w.pending};
    SP_SECRET struct sp_secret *secret = NULL;
    r = plain_of_words(&w, &wanted.plain);
    if (r == CLI_OK)
        r = secret_of_words(&w, &wanted.type, &secret);
    wanted.secret = secret;
    return r == CLI_OK ? import_one(cli, keys, &wanted) : r;
}

/* ---- list ---- */

const char *cli_holding(const Sp__EscrowRecord *e)
{
    switch (e->holding) {
    case SP__RECORD_HOLDING__RECORD_HOLDING_KEYSTORE:
        return e->pins ? "pinned" : "keystore";
    case SP__RECORD_HOLDING__RECORD_HOLDING_MIRRORED:
        return e->pins ? "mirrored, pinned" : "mirrored";
    case SP__RECORD_HOLDING__RECORD_HOLDING_AT_PROVIDER:
        return *e->warning ? "at the provider's mercy, soon removed" : "at the provider's mercy";
    default:
        return "-";
    }
}

int cmd_key_list(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    bool all = false;
    const struct cli_flag flags[] = {
        {"all", NULL, "every generation, not only the newest", NULL, &all, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 0, 1);
    Sp__ListKeysRequest request = SP__LIST_KEYS_REQUEST__INIT;
    request.machine = CLI_TEXT(words ? argv[0] : "");
    request.all_generations = all;
    CLI_MESSAGE Sp__ListKeysResponse *answer = NULL;
    int r = cli_call(cli, "Keys/List", &request.base, &answer);
    if (r != CLI_OK || cli->json)
        return r == CLI_OK ? cli_print_json(&answer->base) : r;
    struct cli_table *t = cli_table_new(
        (const char *const[]){"RECORD", "MACHINE", "VOLUME", "PROTECTOR", ">GENERATION", "TYPE",
                              "STATE", "HELD", ">PINS", "CREATED", "BY", NULL});
    for (size_t i = 0; t && i < answer->n_records; i++) {
        const Sp__EscrowRecord *k = answer->records[i];
        char generation[16], pins[16], type[48], state[48], created[24];
        (void)snprintf(generation, sizeof(generation), "%u", k->generation);
        (void)snprintf(pins, sizeof(pins), "%u", k->pins);
        cli_enum_text(&sp__secret_type__descriptor, (int)k->secret_type, "SECRET_TYPE_", type);
        cli_enum_text(&sp__record_state__descriptor, (int)k->state, "RECORD_STATE_", state);
        cli_table_row(t, (const char *const[]){k->record_id, k->machine_id, k->volume_id,
                                               *k->protector_id ? k->protector_id : "any",
                                               generation, type, state, cli_holding(k), pins,
                                               cli_time_text(k->created_unix_ms, created),
                                               k->created_by});
    }
    return cli_table_print(t, "no keys in escrow: 'sealpoint key import' puts them there");
}
