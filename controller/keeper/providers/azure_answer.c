/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/azure_answer.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/providers/rest.h"
#include <ctype.h>
#include <string.h>
#include <strings.h>

enum {
    BEK_HEADER = 48, /* of a .BEK file: sizes, version, GUID, … */
    BEK_MOST = 1024, /* they are 124 to 156 bytes long */
    PASSPHRASE_MOST = 512
};

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"

/* ---- ids ---- */

const char *azure_behind(const char *vault, const char *url)
{
    size_t size = strlen(vault);
    if (strncasecmp(url, vault, size) != 0)
        return NULL;
    if (strncmp(url + size, ":443/", 5) == 0 && !strchr(vault + strlen("https://"), ':'))
        size += 4;
    return url[size] == '/' ? url + size + 1 : NULL;
}

static const char *take_part(const char *text, const char *end, char *out, size_t room)
{
    size_t size = strspn(text, LETTERS);
    if (size == 0 || size >= room || !strchr(end, text[size]))
        return NULL;
    memcpy(out, text, size);
    out[size] = 0;
    return text + size;
}

bool azure_id_parse(const char *vault, const char *kind, const char *text, struct azure_id *out)
{
    const char *at = text ? azure_behind(vault, text) : NULL;
    size_t size = strlen(kind);
    struct azure_id id = {.name = ""};
    if (!at || strncmp(at, kind, size) != 0 || at[size] != '/')
        return false;
    at = take_part(at + size + 1, "/", id.name, sizeof(id.name));
    if (at && *at == '/')
        at = take_part(at + 1, "", id.version, sizeof(id.version));
    if (!at)
        return false;
    *out = id;
    return true;
}

static bool same_id(const struct azure_id *a, const struct azure_id *b)
{
    return strcasecmp(a->name, b->name) == 0 && strcasecmp(a->version, b->version) == 0;
}

char *azure_locator(const char *vault, const struct azure_bek *b)
{
    return sp_format("%s/secrets/%s/%s%s%s%s%s", vault, b->secret.name, b->secret.version,
                     b->wrapped ? " " : "", b->wrapped ? b->kek : "", b->wrapped ? " " : "",
                     b->wrapped ? b->algorithm : "");
}

static bool is_algorithm(const char *text)
{
    static const char *const known[] = {"RSA-OAEP", "RSA-OAEP-256", "RSA1_5"};
    for (size_t i = 0; i < SP_COUNT(known); i++)
        if (strcmp(known[i], text) == 0)
            return true;
    return false;
}

static bool has_version(const char *vault, const char *kind, const char *text, struct azure_id *out)
{
    return azure_id_parse(vault, kind, text, out) && out->version[0];
}

int azure_locator_parse(const char *vault, const char *kek_vault, const char *locator,
                        struct azure_bek *out)
{
    struct azure_bek b = {.wrapped = false};
    struct azure_id kek;
    char secret[AZURE_URL_BYTES], algorithm[AZURE_ALGORITHM_BYTES];
    _Static_assert(AZURE_URL_BYTES == 512 && AZURE_ALGORITHM_BYTES == 16, "the widths of sscanf");
    int parts = sscanf(locator, "%511s %511s %15s", secret, b.kek, algorithm);
    if ((parts != 1 && parts != 3) || !has_version(vault, "secrets", secret, &b.secret))
        return -EINVAL;
    if (parts == 3) {
        if (!has_version(kek_vault, "keys", b.kek, &kek) || !is_algorithm(algorithm))
            return -EINVAL;
        b.wrapped = true;
        memcpy(b.algorithm, algorithm, sizeof(algorithm));
    }
    *out = b;
    return 0;
}

/* ---- secrets ---- */

static const char *text_of(json_object *in, const char *name)
{
    const char *text = rest_text(in, name);
    return text ? text : "";
}

int azure_secret_parse(const char *vault, json_object *in, struct azure_secret *out,
                       struct sp_why *why)
{
    json_object *tags = rest_member(in, "tags", json_type_object);
    json_object *attributes = rest_member(in, "attributes", json_type_object);
    const char *id = text_of(in, "id");
    struct azure_secret s = {.content_type = text_of(in, "contentType"),
                             .file_name = text_of(tags, "DiskEncryptionKeyFileName"),
                             .machine = text_of(tags, "MachineName"),
                             .kek = text_of(tags, "DiskEncryptionKeyEncryptionKeyURL"),
                             .algorithm = text_of(tags, "DiskEncryptionKeyEncryptionAlgorithm"),
                             .enabled = rest_flag(attributes, "enabled", true)};
    if (!azure_id_parse(vault, "secrets", id, &s.id))
        return sp_why_set(why, -EPROTO, "the vault lists '%.150s', which is no secret of its own",
                          id);
    if (!rest_number(attributes, "created", &s.created))
        s.created = 0;
    *out = s;
    return 0;
}

bool azure_is_bek(const struct azure_secret *s)
{
    return strcmp(s->content_type, "BEK") == 0 || strcmp(s->content_type, "Wrapped BEK") == 0 ||
           s->file_name[0];
}

bool azure_startup_key_id(const struct azure_secret *s, char out[37])
{
    if (strlen(s->file_name) != 36 + strlen(".BEK") || strcasecmp(s->file_name + 36, ".BEK") != 0)
        return false;
    for (size_t i = 0; i < 36; i++)
        out[i] = (char)tolower((unsigned char)s->file_name[i]);
    out[36] = 0;
    return sp_uuid_valid(out);
}

bool azure_is_passphrase(const struct azure_secret *s)
{
    static const char name[] = "LinuxPassPhraseFileName";
    const char *at = s->file_name + sizeof(name) - 1;
    return strncmp(s->file_name, name, sizeof(name) - 1) == 0 && (*at == 0 || *at == '_');
}

int azure_wrapping(const struct azure_secret *s, const char *kek_vault, struct azure_bek *out,
                   struct sp_why *why)
{
    struct azure_bek b = {.secret = s->id, .wrapped = s->kek[0] != 0};
    struct azure_id kek;
    if (!b.wrapped && strcmp(s->content_type, "Wrapped BEK") == 0)
        return sp_why_set(why, -EPROTO,
                          "the secret %s is a Wrapped BEK, and no tag of it names the KEK",
                          s->id.name);
    if (b.wrapped && strcmp(s->content_type, "BEK") == 0)
        return sp_why_set(why, -EPROTO, "the secret %s says BEK, and its tags that it is wrapped",
                          s->id.name);
    if (b.wrapped && !azure_id_parse(kek_vault, "keys", s->kek, &kek))
        return sp_why_set(why, -EPROTO,
                          "the KEK of the secret %s is '%.150s', which is no key of %.100s: "
                          "if it is right, 'kek_url' names its vault",
                          s->id.name, s->kek, kek_vault);
    if (b.wrapped && !kek.version[0])
        return sp_why_set(why, -EPROTO,
                          "the tag DiskEncryptionKeyEncryptionKeyURL of the secret %s names no "
                          "version of the KEK",
                          s->id.name);
    if (b.wrapped) {
        const char *algorithm = s->algorithm[0] ? s->algorithm : "RSA-OAEP"; /* ADE's default */
        if (!is_algorithm(algorithm))
            return sp_why_set(why, -EPROTO,
                              "the secret %s is wrapped by '%.60s', which is not known", s->id.name,
                              algorithm);
        snprintf(b.kek, sizeof(b.kek), "%s/keys/%s/%s", kek_vault, kek.name, kek.version);
        snprintf(b.algorithm, sizeof(b.algorithm), "%s", algorithm);
    }
    *out = b;
    return 0;
}

int azure_secret_value(const char *vault, const char *kek_vault, json_object *answer,
                       const struct azure_bek *asked, struct sp_secret **ret, struct sp_why *why)
{
    SP_SECRET struct sp_secret *value = NULL;
    struct azure_secret s;
    struct azure_bek b;
    /* First of all, so that json-c's copy is wiped whatever else is wrong. */
    int e = rest_secret(answer, "value", PROVIDER_SECRET_MOST, &value);
    int r = azure_secret_parse(vault, answer, &s, why);
    if (r < 0 || e == -ENOMEM)
        return r < 0 ? r : e;
    if (!same_id(&s.id, &asked->secret))
        return sp_why_set(why, -EPROTO, "asked for %s/%s, the vault hands out %s/%s",
                          asked->secret.name, asked->secret.version, s.id.name, s.id.version);
    r = azure_wrapping(&s, kek_vault, &b, why);
    if (r < 0)
        return r;
    if (b.wrapped != asked->wrapped || strcasecmp(b.kek, asked->kek) != 0 ||
        strcmp(b.algorithm, asked->algorithm) != 0)
        return sp_why_set(why, -EPROTO, "the secret %s is wrapped in another way than listed",
                          s.id.name);
    if (e < 0)
        return sp_why_set(why, e, "the secret %s has no value of a key's length", s.id.name);
    *ret = sp_steal(value);
    return 0;
}

/* ---- values ---- */

int azure_decode(const struct sp_secret *text, struct sp_secret **ret)
{
    size_t size = sp_secret_size(text), got = 0;
    while (size > 0 && sp_secret_data(text)[size - 1] == '=')
        size--;
    if (sp_secret_size(text) - size > 2 || memchr(sp_secret_data(text), 0, size))
        return -EINVAL;
    SP_SECRET struct sp_secret *copy = sp_secret_new(size + 1);
    SP_SECRET struct sp_secret *out = sp_secret_new(size + 1);
    if (!copy || !out)
        return -ENOMEM;
    char *digits = (char *)sp_secret_data(copy);
    memcpy(digits, sp_secret_data(text), size);
    for (size_t i = 0; i < size; i++)
        digits[i] = digits[i] == '+' ? '-' : digits[i] == '/' ? '_' : digits[i];
    if (sp_base64url_decode(digits, sp_secret_data(out), size, &got) < 0 || got == 0)
        return -EINVAL;
    sp_secret_shrink(out, got);
    *ret = sp_steal(out);
    return 0;
}

int azure_unwrapped(const char *kek_vault, json_object *answer, const struct azure_bek *asked,
                    struct sp_secret **ret, struct sp_why *why)
{
    struct azure_id said, kek;
    SP_SECRET struct sp_secret *value = NULL;
    int r = rest_secret(answer, "value", PROVIDER_SECRET_MOST, &value);
    if (r == -ENOMEM)
        return r;
    const char *kid = text_of(answer, "kid");
    if (!azure_id_parse(kek_vault, "keys", kid, &said) ||
        !azure_id_parse(kek_vault, "keys", asked->kek, &kek) || !same_id(&said, &kek))
        return sp_why_set(why, -EPROTO, "asked %.150s to unwrap, '%.150s' answers", asked->kek,
                          kid);
    if (r == 0)
        r = azure_decode(value, ret);
    return r == -ENOMEM || r == 0
               ? r
               : sp_why_set(why, -EPROTO, "what %.150s unwrapped is no base64url text", asked->kek);
}

static bool is_printable(const struct sp_secret *s)
{
    for (size_t i = 0; i < sp_secret_size(s); i++)
        if (sp_secret_data(s)[i] < ' ' || sp_secret_data(s)[i] > '~')
            return false;
    return true;
}

static int startup_key(const struct sp_secret *file, struct sp_secret **ret, struct sp_why *why)
{
    size_t size = sp_secret_size(file);
    const uint8_t *p = sp_secret_data(file);
    if (size < BEK_HEADER || size > BEK_MOST || sp_le32(p) != size || sp_le32(p + 4) != 1)
        return sp_why_set(why, -EPROTO, "the %zu bytes that came are no .BEK file", size);
    *ret = sp_secret_copy(p, size);
    return *ret ? 0 : -ENOMEM;
}

static int passphrase(const struct sp_secret *text, struct sp_secret **ret, struct sp_why *why)
{
    size_t size = sp_secret_size(text);
    if (size > PASSPHRASE_MOST || !is_printable(text))
        return sp_why_set(why, -EPROTO, "the %zu bytes that came are no passphrase of ADE", size);
    *ret = sp_secret_copy(sp_secret_data(text), size);
    return *ret ? 0 : -ENOMEM;
}

int azure_key(const struct sp_secret *value, bool bare, Sp__SecretType type, struct sp_secret **ret,
              struct sp_why *why)
{
    SP_SECRET struct sp_secret *decoded = NULL;
    bool is_file = type == SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY;
    int r = bare ? azure_decode(value, &decoded) : 0;
    if (r == -ENOMEM)
        return r;
    if (r < 0 && is_file)
        return sp_why_set(why, -EPROTO,
                          "the value of a BEK that is not wrapped is base64, not this");
    /* A passphrase is stored as base64 text of itself. ADE's own is base64 text already, so only
     * what comes out tells whether it was encoded once more: random bytes are not printable. */
    if (!is_file && decoded && !is_printable(decoded))
        sp_secret_free(sp_steal(decoded));
    const struct sp_secret *key = decoded ? decoded : value;
    return is_file ? startup_key(key, ret, why) : passphrase(key, ret, why);
}

/* ---- tokens, errors ---- */

int azure_token(json_object *answer, struct sp_secret **ret, struct sp_why *why)
{
    SP_SECRET struct sp_secret *token = NULL;
    int r = rest_secret(answer, "access_token", AZURE_TOKEN_MOST, &token);
    if (r == -ENOMEM)
        return r;
    if (r < 0 || !is_printable(token) || memchr(sp_secret_data(token), ' ', sp_secret_size(token)))
        return sp_why_set(why, -EPROTO, "the answer holds no access token");
    if (strcasecmp(text_of(answer, "token_type"), "Bearer") != 0)
        return sp_why_set(why, -EPROTO, "the access token is no bearer token");
    *ret = sp_steal(token);
    return 0;
}

/* Only what is made of letters: it goes into texts. */
static const char *copy_code(char *out, size_t room, const char *text, size_t size)
{
    size_t letters = strspn(text, LETTERS "_");
    size = size < letters ? size : letters;
    snprintf(out, room, "%.*s", (int)(size < room ? size : room - 1), text);
    return out;
}

const char *azure_login_error(json_object *answer, char out[40])
{
    const char *code = strstr(text_of(answer, "error_description"), "AADSTS");
    return code ? copy_code(out, 40, code, 6 + strspn(code + 6, "0123456789"))
                : copy_code(out, 40, text_of(answer, "error"), 39);
}

const char *azure_error_code(json_object *answer, char out[64])
{
    json_object *error = rest_member(answer, "error", json_type_object);
    const char *code = text_of(rest_member(error, "innererror", json_type_object), "code");
    if (!*code)
        code = text_of(error, "code");
    return copy_code(out, 64, code, 63);
}
