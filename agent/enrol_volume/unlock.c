/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/enrol_volume/unlock.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CRYPTTAB_MOST = 1 << 20, CLEVIS_S = 60, PASSPHRASE_MOST = 4096 };

static int volume_key(const struct header *h, int keyslot, struct crypt_keyslot_context *kc,
                      struct sp_secret **ret)
{
    int bytes = crypt_get_volume_key_size(h->cd);
    SP_SECRET struct sp_secret *key = bytes > 0 ? sp_secret_new((size_t)bytes) : NULL;
    if (!key)
        return -ENOMEM;
    size_t size = (size_t)bytes;
    int r = crypt_volume_key_get_by_keyslot_context(h->cd, keyslot, (char *)sp_secret_data(key),
                                                    &size, kc);
    if (r < 0)
        return r;
    sp_secret_shrink(key, size);
    *ret = sp_steal(key);
    return 0;
}

/* ---- crypttab(5): name device key-file options ---- */

static bool same_device(const char *path, const char *device)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat(device, &b) == 0 &&
           (S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode)
                ? a.st_rdev == b.st_rdev
                : a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

static bool is_source(const struct header *h, const char *source)
{
    static const struct {
        const char *prefix, *folder;
    } tags[] = {{"PARTUUID=", "partuuid"}, {"PARTLABEL=", "partlabel"}, {"LABEL=", "label"}};
    const char *by_uuid = "/dev/disk/by-uuid/";
    const char *uuid = strncmp(source, "UUID=", 5) == 0                 ? source + 5
                       : strncmp(source, by_uuid, strlen(by_uuid)) == 0 ? source + strlen(by_uuid)
                                                                        : NULL;
    if (uuid)
        return strcasecmp(uuid, crypt_get_uuid(h->cd)) == 0;
    for (size_t i = 0; i < SP_COUNT(tags); i++)
        if (strncmp(source, tags[i].prefix, strlen(tags[i].prefix)) == 0) {
            SP_FREE char *path =
                sp_format("/dev/disk/by-%s/%s", tags[i].folder, source + strlen(tags[i].prefix));
            return path && same_device(path, h->device);
        }
    return same_device(source, h->device);
}

/* False: the key does not come from a file (keyscript=, PKCS#11, FIDO2). */
static bool take_options(char *options, struct unlock *u)
{
    char *save = NULL;
    for (char *o = options ? strtok_r(options, ",", &save) : NULL; o;
         o = strtok_r(NULL, ",", &save)) {
        if (strncmp(o, "keyfile-offset=", 15) == 0)
            u->offset = strtoull(o + 15, NULL, 10);
        else if (strncmp(o, "keyfile-size=", 13) == 0)
            u->length = strtoull(o + 13, NULL, 10);
        else if (strncmp(o, "key-slot=", 9) == 0)
            u->keyslot = (int)strtol(o + 9, NULL, 10);
        else if (strncmp(o, "keyscript=", 10) == 0 || strncmp(o, "pkcs11-uri=", 11) == 0 ||
                 strncmp(o, "fido2-device=", 13) == 0)
            return false;
    }
    return true;
}

static bool is_key_file(const char *path, struct unlock *u)
{
    struct stat st;
    if (path[0] != '/' || strlen(path) >= sizeof(u->with) || stat(path, &st) < 0 ||
        !S_ISREG(st.st_mode))
        return false;
    snprintf(u->with, sizeof(u->with), "%s", path);
    u->kind = SP__KEYSLOT_UNLOCK__KEYSLOT_UNLOCK_KEY_FILE;
    return true;
}

/* Where systemd looks when crypttab names no key. */
static bool find_default_key(const char *name, struct unlock *u)
{
    SP_FREE char *etc = sp_format("/etc/cryptsetup-keys.d/%s.key", name);
    SP_FREE char *run = sp_format("/run/cryptsetup-keys.d/%s.key", name);
    return etc && run && (is_key_file(etc, u) || is_key_file(run, u));
}

static bool find_key_file(const struct header *h, const char *crypttab, const char *mapped_name,
                          struct unlock *u)
{
    SP_FREE char *text = NULL;
    if (sp_file_read(crypttab, CRYPTTAB_MOST, &text, NULL) < 0)
        return false;
    char *lines = NULL;
    for (char *line = strtok_r(text, "\n", &lines); line; line = strtok_r(NULL, "\n", &lines)) {
        char *words = NULL, *name = strtok_r(line, " \t", &words);
        char *source = name ? strtok_r(NULL, " \t", &words) : NULL;
        char *key = source ? strtok_r(NULL, " \t", &words) : NULL;
        char *options = key ? strtok_r(NULL, " \t", &words) : NULL;
        if (!source || name[0] == '#' || (strcmp(name, mapped_name) != 0 && !is_source(h, source)))
            continue;
        *u = (struct unlock){.keyslot = CRYPT_ANY_SLOT};
        if (take_options(options, u) &&
            (key && strcmp(key, "none") != 0 && strcmp(key, "-") != 0 ? is_key_file(key, u)
                                                                      : find_default_key(name, u)))
            return true;
    }
    return false;
}

static int by_key_file(const struct header *h, const struct unlock *u, struct sp_secret **ret)
{
    struct crypt_keyslot_context *kc = NULL;
    int r =
        crypt_keyslot_context_init_by_keyfile(h->cd, u->with, (size_t)u->length, u->offset, &kc);
    if (r == 0)
        r = volume_key(h, u->keyslot, kc, ret);
    crypt_keyslot_context_free(kc);
    return r;
}

/* ---- tokens ---- */

static bool have_clevis(void)
{
    return access("/usr/bin/clevis", X_OK) == 0;
}

/* The next token, from `number` on, that may open the volume without a person. */
static int next_token(const struct header *h, int number, const char **ret_type)
{
    for (; number < HEADER_TOKENS; number++) {
        crypt_token_info info = crypt_token_status(h->cd, number, ret_type);
        if (info == CRYPT_TOKEN_EXTERNAL || info == CRYPT_TOKEN_INTERNAL ||
            (info == CRYPT_TOKEN_EXTERNAL_UNKNOWN && strcmp(*ret_type, "clevis") == 0 &&
             have_clevis()))
            return number;
    }
    return -ENOENT;
}

static int first_keyslot(const struct header *h, int token)
{
    for (int i = 0; i < HEADER_KEYSLOTS; i++)
        if (crypt_token_is_assigned(h->cd, token, i) == 0)
            return i;
    return -ENOENT;
}

static void exec_clevis(const struct header *h, int keyslot, int out)
{
    char number[12];
    snprintf(number, sizeof(number), "%d", keyslot);
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0 ||
        dup2(out, STDOUT_FILENO) < 0)
        _exit(127);
    alarm(CLEVIS_S); /* it waits for servers; exec keeps the alarm */
    execle("/usr/bin/clevis", "clevis", "luks", "pass", "-d", h->device, "-s", number, (char *)NULL,
           (char *const[]){(char *)(uintptr_t) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL});
    _exit(127);
}

static int ask_clevis(const struct header *h, int keyslot, struct sp_secret **ret)
{
    int out[2];
    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    pid_t pid = fork();
    if (pid == 0)
        exec_clevis(h, keyslot, out[1]);
    close(out[1]);
    SP_SECRET struct sp_secret *passphrase = NULL;
    int r = pid < 0 ? -errno : sp_secret_read(out[0], PASSPHRASE_MOST, &passphrase);
    close(out[0]);
    int status = 0;
    if (pid > 0 && waitpid(pid, &status, 0) < 0)
        status = -1;
    if (r == 0 && (status != 0 || sp_secret_size(passphrase) == 0))
        r = -EPERM;
    if (r == 0)
        *ret = sp_steal(passphrase);
    return r;
}

static int by_token(const struct header *h, int token, const char *type, struct sp_secret **ret)
{
    struct crypt_keyslot_context *kc = NULL;
    SP_SECRET struct sp_secret *passphrase = NULL;
    int keyslot = first_keyslot(h, token), r;
    if (keyslot < 0)
        return keyslot;
    if (strcmp(type, "clevis") == 0) {
        r = ask_clevis(h, keyslot, &passphrase);
        if (r == 0)
            r = crypt_keyslot_context_init_by_passphrase(
                h->cd, (const char *)sp_secret_data(passphrase), sp_secret_size(passphrase), &kc);
    } else
        r = crypt_keyslot_context_init_by_token(h->cd, token, NULL, NULL, 0, NULL, &kc);
    if (r == 0)
        r = volume_key(h, keyslot, kc, ret);
    crypt_keyslot_context_free(kc);
    return r;
}

/* ---- all of it ---- */

void unlock_find(const struct header *h, const char *crypttab, const char *mapped_name,
                 struct unlock *ret)
{
    const char *type = "";
    if (find_key_file(h, crypttab, mapped_name, ret))
        return;
    *ret = (struct unlock){.kind = SP__KEYSLOT_UNLOCK__KEYSLOT_UNLOCK_PASSPHRASE,
                           .keyslot = CRYPT_ANY_SLOT};
    if (next_token(h, 0, &type) >= 0) {
        ret->kind = SP__KEYSLOT_UNLOCK__KEYSLOT_UNLOCK_TOKEN;
        snprintf(ret->with, sizeof(ret->with), "%s", type);
    }
}

int unlock_by_itself(const struct header *h, const char *crypttab, const char *mapped_name,
                     struct unlock *how, struct sp_secret **ret, struct sp_why *why)
{
    const char *type = "";
    if (find_key_file(h, crypttab, mapped_name, how) && by_key_file(h, how, ret) == 0)
        return 0;
    for (int i = 0; (i = next_token(h, i, &type)) >= 0; i++) {
        if (by_token(h, i, type, ret) < 0)
            continue;
        how->kind = SP__KEYSLOT_UNLOCK__KEYSLOT_UNLOCK_TOKEN;
        snprintf(how->with, sizeof(how->with), "%s", type);
        return 0;
    }
    how->kind = SP__KEYSLOT_UNLOCK__KEYSLOT_UNLOCK_PASSPHRASE;
    return sp_why_set(why, -EPERM, "neither a key file nor a token opens %s", h->device);
}

int unlock_by_passphrase(const struct header *h, const struct sp_secret *passphrase,
                         struct sp_secret **ret, struct sp_why *why)
{
    struct crypt_keyslot_context *kc = NULL;
    int r = crypt_keyslot_context_init_by_passphrase(
        h->cd, (const char *)sp_secret_data(passphrase), sp_secret_size(passphrase), &kc);
    if (r == 0)
        r = volume_key(h, CRYPT_ANY_SLOT, kc, ret);
    crypt_keyslot_context_free(kc);
    return r < 0 ? sp_why_set(why, r,
                              r == -EPERM ? "no keyslot of %s opens with it" : "cannot unlock %s",
                              h->device)
                 : 0;
}
