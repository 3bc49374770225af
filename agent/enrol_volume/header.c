/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/enrol_volume/header.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <libgen.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* The least that LUKS2 takes (LUKS2_MIN_PBKDF2_ITERATIONS). */
enum { ROUNDS = 1000, DIGEST_PART = 1 << 20 };

SP_DEFINE_CLEANUP(json, json_object *, json_object_put)

static char said[300];

static void on_log(int level, const char *text, void *self)
{
    (void)self;
    if (level == CRYPT_LOG_ERROR) {
        snprintf(said, sizeof(said), "%s", text);
        said[strcspn(said, "\n")] = 0;
    }
}

const char *header_said(void)
{
    return said;
}

static int failed(struct sp_why *why, int error, const struct header *h, const char *what)
{
    return sp_why_set(why, error, "%s on %s failed: %s", what, h->device,
                      said[0] ? said : strerror(-error));
}

/* ---- open ---- */

static bool is_uuid_of(const char *uuid, const char *volume_id)
{
    size_t n = strlen(uuid);
    return strncmp(volume_id, "luks:", 5) == 0 && strncasecmp(volume_id + 5, uuid, n) == 0 &&
           (volume_id[5 + n] == 0 || volume_id[5 + n] == '@');
}

int header_open(const char *device, const char *volume_id, struct header *h, struct sp_why *why)
{
    *h = (struct header){.device = device};
    said[0] = 0;
    crypt_set_log_callback(NULL, on_log, NULL);
    int r = crypt_init(&h->cd, device);
    if (r < 0)
        return failed(why, r, h, "opening it");
    r = crypt_load(h->cd, CRYPT_LUKS, NULL);
    if (r < 0)
        return failed(why, r == -EINVAL ? -EOPNOTSUPP : r, h, "reading a LUKS header");
    if (strcmp(crypt_get_type(h->cd), CRYPT_LUKS2) != 0)
        return sp_why_set(
            why, -EOPNOTSUPP,
            "%s is LUKS1, which has no tokens to name the record: 'cryptsetup convert "
            "--type luks2' while it is closed",
            device);
    if (!crypt_get_uuid(h->cd) || !is_uuid_of(crypt_get_uuid(h->cd), volume_id))
        return sp_why_set(why, -ESTALE, "%s is another volume than %.100s", device, volume_id);
    return 0;
}

void header_close(struct header *h)
{
    crypt_free(h->cd);
    h->cd = NULL;
}

int header_digest(const struct header *h, uint8_t out[32], struct sp_why *why)
{
    uint64_t copy = 0;
    int r = crypt_get_metadata_size(h->cd, &copy, NULL);
    if (r < 0 || copy > (4 << 20))
        return failed(why, r < 0 ? r : -EINVAL, h, "reading the header's size");
    SP_FREE uint8_t *bytes = malloc(2 * copy);
    SP_FD int fd = open(h->device, O_RDONLY | O_CLOEXEC);
    if (!bytes)
        return -ENOMEM;
    r = fd < 0 ? -errno : sp_pread_all(fd, bytes, 2 * copy, 0);
    return r < 0 ? sp_why_set(why, r, "cannot read '%s'", h->device)
                 : sp_sha256_of(bytes, 2 * copy, out);
}

static int sync_file(const char *path)
{
    SP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int header_save(const struct header *h, const char *path, struct sp_why *why)
{
    SP_FREE char *next = sp_format("%s.next", path);
    SP_FREE char *folder = strdup(path);
    if (!next || !folder)
        return -ENOMEM;
    (void)unlink(next); /* of one that was killed */
    mode_t mask = umask(0077);
    int r = crypt_header_backup(h->cd, CRYPT_LUKS2, next);
    umask(mask);
    if (r < 0)
        return failed(why, r, h, "saving the header");
    r = sync_file(next);
    if (r == 0 && rename(next, path) < 0)
        r = -errno;
    if (r == 0)
        r = sp_fsync_directory(dirname(folder));
    return r < 0 ? sp_why_set(why, r, "cannot write '%s'", path) : 0;
}

/* ---- keyslots ---- */

bool header_has_keyslot(const struct header *h, int keyslot)
{
    crypt_keyslot_info info = crypt_keyslot_status(h->cd, keyslot);
    return info != CRYPT_SLOT_INACTIVE && info != CRYPT_SLOT_INVALID;
}

static bool is_named(const struct header *h, int keyslot)
{
    struct header_token t;
    for (int i = 0; i < HEADER_TOKENS; i++)
        if (header_token(h, i, &t) && t.keyslot == keyslot)
            return true;
    return false;
}

int header_free_keyslot(const struct header *h, struct sp_why *why)
{
    for (int i = 0; i < HEADER_KEYSLOTS; i++)
        if (crypt_keyslot_status(h->cd, i) == CRYPT_SLOT_INACTIVE && !is_named(h, i))
            return i;
    return sp_why_set(why, -ENOSPC, "%s has no free keyslot", h->device);
}

bool header_opens(const struct header *h, int keyslot, const struct sp_secret *key)
{
    return header_has_keyslot(h, keyslot) &&
           crypt_activate_by_passphrase(h->cd, NULL, keyslot, (const char *)sp_secret_data(key),
                                        sp_secret_size(key), 0) == keyslot;
}

int header_add_keyslot(const struct header *h, int keyslot, const struct sp_secret *volume_key,
                       const struct sp_secret *key, struct sp_why *why)
{
    const struct crypt_pbkdf_type pbkdf = {.type = CRYPT_KDF_PBKDF2,
                                           .hash = "sha256",
                                           .iterations = ROUNDS,
                                           .flags = CRYPT_PBKDF_NO_BENCHMARK};
    int r = crypt_set_pbkdf_type(h->cd, &pbkdf);
    if (r == 0)
        r = crypt_keyslot_add_by_volume_key(
            h->cd, keyslot, (const char *)sp_secret_data(volume_key), sp_secret_size(volume_key),
            (const char *)sp_secret_data(key), sp_secret_size(key));
    return r < 0 ? failed(why, r, h, "adding a keyslot") : 0;
}

int header_remove_keyslot(const struct header *h, int keyslot, struct sp_why *why)
{
    int r = crypt_keyslot_destroy(h->cd, keyslot);
    return r < 0 ? failed(why, r, h, "taking the keyslot back") : 0;
}

/* ---- tokens ---- */

static const char *text_in(json_object *object, const char *name)
{
    json_object *value = NULL;
    return json_object_object_get_ex(object, name, &value) &&
                   json_object_is_type(value, json_type_string)
               ? json_object_get_string(value)
               : "";
}

bool header_token(const struct header *h, int number, struct header_token *ret)
{
    const char *type = NULL, *text = NULL;
    crypt_token_info info = crypt_token_status(h->cd, number, &type);
    if ((info != CRYPT_TOKEN_EXTERNAL && info != CRYPT_TOKEN_EXTERNAL_UNKNOWN) || !type ||
        strcmp(type, HEADER_TOKEN) != 0 || crypt_token_json_get(h->cd, number, &text) < 0)
        return false;
    SP_CLEANUP(json) json_object *token = json_tokener_parse(text);
    json_object *keyslots = NULL;
    char *end = NULL;
    const char *keyslot = text_in(token, "keyslot");
    long value = strtol(keyslot, &end, 10);
    if (!*keyslot || *end || value < 0 || value >= HEADER_KEYSLOTS)
        return false;
    *ret = (struct header_token){.number = number, .keyslot = (int)value};
    snprintf(ret->record_id, sizeof(ret->record_id), "%s", text_in(token, "record"));
    ret->assigned = json_object_object_get_ex(token, "keyslots", &keyslots) &&
                    json_object_array_length(keyslots) > 0;
    return true;
}

bool header_find_token(const struct header *h, const char *record_id, struct header_token *ret)
{
    for (int i = 0; i < HEADER_TOKENS; i++)
        if (header_token(h, i, ret) && strcmp(ret->record_id, record_id) == 0)
            return true;
    return false;
}

int header_add_token(const struct header *h, const char *machine_id, const char *record_id,
                     int keyslot, struct sp_why *why)
{
    char number[12];
    SP_CLEANUP(json) json_object *token = json_object_new_object();
    snprintf(number, sizeof(number), "%d", keyslot);
    if (!token)
        return -ENOMEM;
    json_object_object_add(token, "type", json_object_new_string(HEADER_TOKEN));
    json_object_object_add(token, "keyslots", json_object_new_array());
    json_object_object_add(token, "keyslot", json_object_new_string(number));
    json_object_object_add(token, "record", json_object_new_string(record_id));
    json_object_object_add(token, "machine", json_object_new_string(machine_id));
    const char *text = json_object_to_json_string_ext(token, JSON_C_TO_STRING_PLAIN);
    int r = text ? crypt_token_json_set(h->cd, CRYPT_ANY_TOKEN, text) : -ENOMEM;
    return r < 0 ? failed(why, r, h, "adding a token") : r;
}

int header_remove_token(const struct header *h, int number, struct sp_why *why)
{
    int r = crypt_token_json_set(h->cd, number, NULL);
    return r < 0 ? failed(why, r, h, "taking the token back") : 0;
}

int header_assign(const struct header *h, int token, int keyslot, struct sp_why *why)
{
    int r = crypt_token_assign_keyslot(h->cd, token, keyslot);
    return r < 0 ? failed(why, r, h, "assigning the keyslot to its token") : 0;
}
