/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/file.h"
#include "controller/cli/prove.h"

#include <ctype.h>
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

enum { FIELDS = 16, GUID_CHARS = 36, RECOVERY_CHARS = 55 };

/* ---- the list ---- */

static void free_key(struct prove_key *k)
{
    free(k->name);
    free(k->volume);
    free(k->protector);
    sp_secret_free(k->secret);
}

void prove_keys_free(struct prove_keys *l)
{
    for (size_t i = 0; i < l->count; i++)
        free_key(&l->items[i]);
    free(l->items);
    *l = (struct prove_keys){0};
}

static int no_memory(void)
{
    return cli_fail(CLI_ERROR, "no locked memory for so many keys (ulimit -l): %s",
                    strerror(errno));
}

/* Copies all but `secret`, which is taken over. */
static int add(struct prove_keys *l, const char *name, const char *volume, const char *protector,
               Sp__SecretType type, struct sp_secret **secret)
{
    struct prove_key k = {.name = strdup(name),
                          .volume = strdup(volume),
                          .protector = strdup(protector),
                          .type = type,
                          .secret = sp_steal(*secret)};
    struct prove_key *grown = reallocarray(l->items, l->count + 1, sizeof(k));
    if (grown)
        l->items = grown;
    if (!grown || !k.name || !k.volume || !k.protector || !k.secret) {
        free_key(&k);
        return no_memory();
    }
    l->items[l->count++] = k;
    return CLI_OK;
}

static int add_bytes(struct prove_keys *l, const char *name, const char *protector,
                     Sp__SecretType type, const void *data, size_t size)
{
    struct sp_secret *s = sp_secret_copy(data, size);
    return s ? add(l, name, "", protector, type, &s) : no_memory();
}

/* ---- recovery passwords in any text: printed, saved by Windows, copied from a directory ---- */

static bool is_recovery(const char *p, size_t left)
{
    if (left < RECOVERY_CHARS ||
        (left > RECOVERY_CHARS && isdigit((unsigned char)p[RECOVERY_CHARS])))
        return false;
    for (size_t i = 0; i < RECOVERY_CHARS; i++) {
        if (i % 7 == 6 ? p[i] != '-' : !isdigit((unsigned char)p[i]))
            return false;
    }
    return true;
}

static bool is_guid(const char *p, size_t left)
{
    static const char dashes[] = {8, 13, 18, 23};
    if (left < GUID_CHARS)
        return false;
    for (size_t i = 0, d = 0; i < GUID_CHARS; i++) {
        if (d < sizeof(dashes) && i == (size_t)dashes[d]) {
            if (p[i] != '-')
                return false;
            d++;
        } else if (!isxdigit((unsigned char)p[i])) {
            return false;
        }
    }
    return true;
}

/* Each password goes with the last GUID before it, as Windows writes them. 1: there was one. */
static int add_recovery(struct prove_keys *l, const char *name, const char *text, size_t size)
{
    char guid[GUID_CHARS + 1] = "";
    int found = 0;
    for (size_t i = 0; i < size; i++) {
        if (i && isxdigit((unsigned char)text[i - 1]))
            continue;
        if (is_guid(text + i, size - i)) {
            for (size_t c = 0; c < GUID_CHARS; c++)
                guid[c] = (char)tolower((unsigned char)text[i + c]);
            i += GUID_CHARS - 1;
        } else if (is_recovery(text + i, size - i)) {
            int r = add_bytes(l, name, guid, SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD,
                              text + i, RECOVERY_CHARS);
            if (r != CLI_OK)
                return -r;
            found = 1;
            guid[0] = 0;
            i += RECOVERY_CHARS - 1;
        }
    }
    return found;
}

/* UTF-16 of Windows to ASCII in place, as far as digits and GUIDs need it. */
static void narrow(struct sp_secret *s)
{
    uint8_t *p = sp_secret_data(s);
    size_t size = sp_secret_size(s), to = 0;
    if (size < 2 || p[0] != 0xff || p[1] != 0xfe)
        return;
    for (size_t i = 2; i + 1 < size; i += 2)
        p[to++] = p[i + 1] ? '?' : p[i];
    sp_secret_shrink(s, to);
}

static int add_lines(struct prove_keys *l, const char *name, const char *text, size_t size)
{
    for (size_t at = 0, end; at < size; at = end + 1) {
        const char *stop = memchr(text + at, '\n', size - at);
        end = stop ? (size_t)(stop - text) : size;
        size_t length = end - at;
        if (length && text[at + length - 1] == '\r')
            length--;
        int r = length ? add_bytes(l, name, "", SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, text + at,
                                   length)
                       : CLI_OK;
        if (r != CLI_OK)
            return r;
    }
    return CLI_OK;
}

/* ---- CSV, as `key import` takes it ---- */

enum column { VOLUME, PROTECTOR, TYPE, SECRET, SECRET_FILE, COLUMNS };
static const char *const names[COLUMNS] = {"volume", "protector", "type", "secret", "secret_file"};

static const char *value(char *const *fields, int count, const int places[COLUMNS], int k)
{
    return places[k] >= 0 && places[k] < count ? fields[places[k]] : "";
}

static int add_row(struct prove_keys *l, const char *path, unsigned line, char *const *fields,
                   int count, const int places[COLUMNS])
{
    int type = cli_enum_parse(&sp__secret_type__descriptor, "SECRET_TYPE_",
                              value(fields, count, places, TYPE));
    const char *text = value(fields, count, places, SECRET);
    const char *file = value(fields, count, places, SECRET_FILE);
    if (type <= 0)
        return cli_fail(CLI_USAGE,
                        "%s, line %u: the type is one of passphrase, key-file, "
                        "volume-key, recovery-password, startup-key",
                        path, line);
    SP_SECRET struct sp_secret *s = NULL;
    SP_FREE char *where = sp_format("%s:%u", path, line);
    if (!where)
        return no_memory();
    if (*text) {
        s = sp_secret_copy(text, strlen(text));
    } else {
        bool strip = type == SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE ||
                     type == SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD;
        const char *slash = *file != '/' ? strrchr(path, '/') : NULL; /* beside the CSV */
        SP_FREE char *full =
            slash ? sp_format("%.*s/%s", (int)(slash - path), path, file) : strdup(file);
        int r = full ? cli_secret_file(full, strip, &s) : no_memory();
        if (r != CLI_OK)
            return r;
    }
    return s ? add(l, where, value(fields, count, places, VOLUME),
                   value(fields, count, places, PROTECTOR), (Sp__SecretType)type, &s)
             : no_memory();
}

static int add_csv(struct prove_keys *l, const char *path, struct sp_secret *file)
{
    char *fields[FIELDS];
    int places[COLUMNS] = {-1, -1, -1, -1, -1};
    size_t size = sp_secret_size(file);
    /* The reader wants a 0 of its own behind the text. */
    SP_SECRET struct sp_secret *text = sp_secret_new(size + 1);
    if (!text)
        return no_memory();
    memcpy(sp_secret_data(text), sp_secret_data(file), size);
    struct cli_csv csv = {.at = (char *)sp_secret_data(text),
                          .end = (char *)sp_secret_data(text) + size};
    int count = cli_csv_next(&csv, fields, FIELDS);
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < COLUMNS; k++) {
            if (strcmp(fields[i], names[k]) == 0)
                places[k] = i;
        }
    }
    if (places[TYPE] < 0 || (places[SECRET] < 0 && places[SECRET_FILE] < 0))
        return cli_fail(CLI_USAGE,
                        "%s: line 1 must name the columns type, and secret or "
                        "secret_file; volume and protector are of use",
                        path);
    while ((count = cli_csv_next(&csv, fields, FIELDS)) > 0) {
        int r = add_row(l, path, csv.line, fields, count, places);
        if (r != CLI_OK)
            return r;
    }
    return count < 0 ? cli_fail(CLI_USAGE, "%s, line %u: this is no CSV", path, csv.line) : CLI_OK;
}

/* ---- files and folders ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcasecmp(text + n - m, end) == 0;
}

static bool is_line_of_text(const struct sp_secret *s)
{
    const uint8_t *p = sp_secret_data(s);
    size_t size = sp_secret_size(s);
    if (size < 2 || size > 512 || p[size - 1] != '\n')
        return false;
    return !memchr(p, '\n', size - 1) && !memchr(p, 0, size);
}

/* A key file is taken as it is. One line of text with its end is mostly a passphrase that an editor
 * saved: that is tried too. */
static int add_key_file(struct prove_keys *l, const char *path, struct sp_secret **s)
{
    if (is_line_of_text(*s)) {
        int r = add_lines(l, path, (const char *)sp_secret_data(*s), sp_secret_size(*s));
        if (r != CLI_OK)
            return r;
    }
    return add(l, path, "", "", SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE, s);
}

static int add_file(struct prove_keys *l, const char *path)
{
    SP_SECRET struct sp_secret *s = NULL;
    int r = cli_secret_file(path, false, &s);
    if (r != CLI_OK)
        return r;
    if (ends_with(path, ".bek"))
        return add(l, path, "", "", SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY, &s);
    if (ends_with(path, ".csv"))
        return add_csv(l, path, s);
    narrow(s);
    int found = add_recovery(l, path, (const char *)sp_secret_data(s), sp_secret_size(s));
    if (found)
        return found < 0 ? -found : CLI_OK;
    if (ends_with(path, ".txt") || ends_with(path, ".pass"))
        return add_lines(l, path, (const char *)sp_secret_data(s), sp_secret_size(s));
    return add_key_file(l, path, &s);
}

static int is_wanted(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static int add_folder(struct prove_keys *l, const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, is_wanted, alphasort), r = CLI_OK;
    if (count < 0)
        return cli_fail(CLI_ERROR, "cannot read the folder %s: %s", path, strerror(errno));
    for (int i = 0; i < count; i++) {
        SP_FREE char *file = sp_format("%s/%s", path, entries[i]->d_name);
        struct stat st;
        if (r == CLI_OK && !file)
            r = no_memory();
        if (r == CLI_OK && stat(file, &st) == 0 && S_ISREG(st.st_mode) && st.st_size)
            r = add_file(l, file);
        free(entries[i]);
    }
    free(entries);
    return r;
}

int prove_keys_add(struct prove_keys *l, const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return cli_fail(CLI_ERROR, "cannot read the keys in %s: %s", path, strerror(errno));
    return S_ISDIR(st.st_mode) ? add_folder(l, path) : add_file(l, path);
}
