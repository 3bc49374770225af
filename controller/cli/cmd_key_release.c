/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * key release: the keys of a point's own generation, for a custodian, into files of mode 0600. */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/file.h"
#include "base/sealed_box.h"
#include <ctype.h>
#include <fcntl.h>
#include <string.h>

/* A file name from a volume id: what is not a letter, digit, dot or dash becomes '_'. */
static char *key_path(const char *folder, const char *volume_id)
{
    SP_FREE char *name = strdup(volume_id);
    if (!name)
        return NULL;
    for (char *p = name; *p; p++) {
        if (!isalnum((unsigned char)*p) && *p != '-' && *p != '.')
            *p = '_';
    }
    return sp_format("%s/%s.key", folder, name);
}

static int write_secret(const char *path, const ProtobufCBinaryData *secret)
{
    SP_FD int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int r = sp_write_all(fd, secret->data, secret->len);
    return r == 0 && fsync(fd) < 0 ? -errno : r;
}

/* How cryptsetup takes the file; the terms are those of its manual. */
static void print_how(const Sp__ReleasedKey *key, const Sp__KeyMaterial *material, const char *path)
{
    char type[48];
    cli_enum_text(&sp__secret_type__descriptor, (int)material->type, "SECRET_TYPE_", type);
    printf("%s: generation %u (%s) is in %s\n", key->volume_id, key->record->generation, type,
           path);
    if (material->plain)
        printf("  cryptsetup open --type plain --cipher %s --key-size %u --hash %s --offset %llu "
               "--skip %llu --key-file %s DEVICE NAME\n",
               material->plain->cipher, material->plain->key_bits,
               *material->plain->hash ? material->plain->hash : "plain",
               (unsigned long long)material->plain->offset_sectors,
               (unsigned long long)material->plain->skip_sectors, path);
    else if (material->type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY)
        printf("  cryptsetup open --volume-key-file %s DEVICE NAME\n", path);
    else
        printf("  cryptsetup open --key-file %s DEVICE NAME\n", path);
}

static int take_key(struct cli *cli, const struct sp_secret *mine, const char *point_id,
                    const Sp__ReleasedKey *key, const char *folder)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *packed = NULL;
    int r = key->material && key->record
                ? sp_release_aad(&aad, point_id, key->volume_id, key->record->record_id)
                : -EBADMSG;
    if (r == 0)
        r = sp_box_open(mine, aad.data, aad.size, key->material, &packed);
    if (r < 0)
        return cli_fail(CLI_ERROR, "%s: the key came damaged: %s", key->volume_id, strerror(-r));
    Sp__KeyMaterial *material = sp__key_material__unpack(
        &sp_secret_allocator, sp_secret_size(packed), sp_secret_data(packed));
    SP_FREE char *path = key_path(folder, key->volume_id);
    if (!material || !path)
        r = -EBADMSG;
    else
        r = write_secret(path, &material->secret);
    if (r < 0)
        r = cli_fail(CLI_ERROR, "cannot write %s: %s", path ? path : folder, strerror(-r));
    else if (!cli->json)
        print_how(key, material, path);
    else
        r = cli_print_json(&key->record->base);
    if (material)
        sp__key_material__free_unpacked(material, &sp_secret_allocator);
    return r;
}

static int release(struct cli *cli, Sp__ReleaseRequest *request, const char *folder)
{
    SP_SECRET struct sp_secret *mine = NULL;
    uint8_t public_key[SP_BOX_KEY_BYTES];
    int r = sp_box_keypair(&mine, public_key);
    if (r < 0)
        return cli_fail(CLI_ERROR, "cannot make a key: %s", strerror(-r));
    request->reply_key.data = public_key;
    request->reply_key.len = sizeof(public_key);
    CLI_MESSAGE Sp__SignedRequest *sealed = NULL;
    r = cli_sign(cli, "Keys/Release", &request->base, &sealed);
    if (r != CLI_OK)
        return r;
    Sp__ReleaseCall call = SP__RELEASE_CALL__INIT;
    call.request = sealed;
    CLI_MESSAGE Sp__ReleaseResponse *answer = NULL;
    r = cli_call(cli, "Keys/Release", &call.base, &answer);
    if (r != CLI_OK)
        return r;
    int made = sp_make_directories(folder, 0700);
    if (made < 0)
        return cli_fail(CLI_ERROR, "cannot make %s: %s", folder, strerror(-made));
    /* One that cannot be given or written does not keep the others from their owner. */
    for (size_t i = 0; i < answer->n_keys; i++) {
        int taken = take_key(cli, mine, request->point_id, answer->keys[i], folder);
        if (r == CLI_OK)
            r = taken;
    }
    for (size_t i = 0; i < answer->n_failures; i++)
        r = cli_fail(CLI_ERROR, "%s: no key: %s", answer->failures[i]->volume_id,
                     answer->failures[i]->text);
    if (r == CLI_OK && answer->n_keys == 0)
        return cli_fail(CLI_ERROR, "the point rests on no key");
    return r;
}

int cmd_key_release(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *volume = "", *why = NULL, *out = NULL;
    const struct cli_flag flags[] = {
        {"volume", "VOLUME", "only this volume's key", &volume, NULL, NULL},
        {"why", "TEXT", "goes into the keeper's audit", &why, NULL, NULL},
        {"to", "DIR", "where the keys are written, mode 0600", &out, NULL, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!why || !out)
        return cli_fail(CLI_USAGE, "--why TEXT and --to DIR are needed");
    Sp__GetPointRequest get = SP__GET_POINT_REQUEST__INIT;
    get.point = argv[0];
    CLI_MESSAGE Sp__PointDetail *detail = NULL;
    int r = cli_call(cli, "Backup/GetPoint", &get.base, &detail);
    if (r != CLI_OK)
        return r;
    Sp__ReleaseRequest request = SP__RELEASE_REQUEST__INIT;
    request.point_id = detail->point->point_id;
    request.volume_id = CLI_TEXT(volume);
    request.why = CLI_TEXT(why);
    return release(cli, &request, out);
}
