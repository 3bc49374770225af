/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/signed_request.h"
#include <string.h>

SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(x509, X509 *, X509_free)

static int load_identity(struct cli *cli, EVP_PKEY **ret_key, X509 **ret_certificate)
{
    SP_FREE char *key_path = sp_format("%s/user.key", cli->profile);
    SP_FREE char *path = sp_format("%s/user.pem", cli->profile);
    SP_FREE char *pem = NULL;
    size_t size = 0;
    if (!key_path || !path)
        return cli_fail(CLI_ERROR, "no memory");
    int r = sp_file_read(path, 1 << 20, &pem, &size);
    if (r == 0)
        r = sp_certificate_from_pem(pem, size, ret_certificate);
    if (r == 0)
        r = sp_key_load(key_path, ret_key);
    return r < 0 ? cli_fail(CLI_ERROR, "cannot use the certificate in %s: %s", cli->profile,
                            strerror(-r))
                 : CLI_OK;
}

int cli_sign(struct cli *cli, const char *method, const ProtobufCMessage *arguments,
             Sp__SignedRequest **ret)
{
    Sp__NonceRequest ask = SP__NONCE_REQUEST__INIT;
    CLI_MESSAGE Sp__NonceResponse *nonce = NULL;
    int r = cli_call(cli, "Keys/GetNonce", &ask.base, &nonce);
    if (r != CLI_OK)
        return r;
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    SP_CLEANUP(x509) X509 *certificate = NULL;
    r = load_identity(cli, &key, &certificate);
    if (r != CLI_OK)
        return r;
    SP_FREE uint8_t *packed = NULL;
    SP_FREE char *path = sp_format("/sealpoint.v1.%s", method);
    size_t size = 0;
    int e = path ? sp_pack(arguments, &packed, &size) : -ENOMEM;
    if (e == 0)
        e = sp_request_sign(path, packed, size, nonce->nonce.data, nonce->nonce.len,
                            sp_clock_system.wall_ms(NULL) + nonce->valid_ms, key, certificate, ret);
    return e < 0 ? cli_fail(CLI_ERROR, "cannot sign the request: %s", strerror(-e)) : CLI_OK;
}

int cli_call_signed(struct cli *cli, const char *method, const ProtobufCMessage *arguments,
                    void *ret)
{
    CLI_MESSAGE Sp__SignedRequest *request = NULL;
    int r = cli_sign(cli, method, arguments, &request);
    if (r != CLI_OK)
        return r;
    Sp__SignedCall call = SP__SIGNED_CALL__INIT;
    call.request = request;
    return cli_call(cli, method, &call.base, ret);
}

int cli_keeper_keys(struct cli *cli, Sp__KeeperKeys **ret)
{
    Sp__KeeperKeysRequest ask = SP__KEEPER_KEYS_REQUEST__INIT;
    CLI_MESSAGE Sp__KeeperKeysResponse *answer = NULL;
    int r = cli_call(cli, "Keys/GetKeeperKeys", &ask.base, &answer);
    if (r != CLI_OK)
        return r;
    SP_CLEANUP(x509) X509 *ca = NULL;
    if (!answer->keys || sp_certificate_from_pem(cli->trust_pem, strlen(cli->trust_pem), &ca) < 0 ||
        sp_signed_verify(answer->keys, SP_SIGN_KEEPER_KEYS, X509_get0_pubkey(ca)) < 0)
        return cli_fail(CLI_REFUSED, "the keeper's keys are not signed by the CA of this profile: "
                                     "nothing was sent to it");
    Sp__KeeperKeys *keys =
        sp__keeper_keys__unpack(NULL, answer->keys->payload.len, answer->keys->payload.data);
    if (!keys || keys->box_public_key.len != 32 || strcmp(keys->domain, cli->domain) != 0) {
        if (keys)
            sp__keeper_keys__free_unpacked(keys, NULL);
        return cli_fail(CLI_ERROR, "the keeper's keys cannot be read");
    }
    *ret = keys;
    return CLI_OK;
}

struct parts {
    struct sp_buffer payload;
    Sp__Signed *sealed; /* when the last part is there */
};

/* No manifest is larger: the keeper would not have taken it. */
enum { MANIFEST_MOST_BYTES = 64 << 20 };

static int on_part(void *self, const ProtobufCMessage *message)
{
    struct parts *p = self;
    const Sp__ManifestPart *part = (const Sp__ManifestPart *)message;
    if (p->sealed || part->payload.len > MANIFEST_MOST_BYTES - p->payload.size)
        return -EBADMSG;
    int r = sp_buffer_append(&p->payload, part->payload.data, part->payload.len);
    if (r < 0 || !part->last)
        return r;
    Sp__Signed bare = SP__SIGNED__INIT;
    bare.payload = (ProtobufCBinaryData){p->payload.size, p->payload.data};
    bare.signatures = part->signatures;
    bare.n_signatures = part->n_signatures;
    p->sealed = (Sp__Signed *)sp_message_copy(&bare.base);
    return p->sealed ? 0 : -ENOMEM;
}

static int read_manifest(struct cli *cli, char *point_id, Sp__Signed **ret)
{
    struct parts p = {0};
    Sp__GetPointRequest request = SP__GET_POINT_REQUEST__INIT;
    request.point = point_id;
    int r = cli_stream(cli, "Backup/ReadManifest", &request.base, on_part, &p);
    sp_buffer_free(&p.payload);
    if (r == CLI_OK && !p.sealed)
        return cli_fail(CLI_ERROR, "the manifest stopped before its end");
    if (r == CLI_OK)
        *ret = p.sealed;
    else if (p.sealed)
        sp__signed__free_unpacked(p.sealed, NULL);
    return r;
}

static int unpack_sealed(struct cli *cli, const Sp__Signed *sealed, Sp__Manifest **ret)
{
    CLI_MESSAGE Sp__KeeperKeys *keys = NULL;
    int r = cli_keeper_keys(cli, &keys);
    if (r != CLI_OK)
        return r;
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    if (sp_public_key_from_der(keys->sealing_public_key.data, keys->sealing_public_key.len, &key) <
            0 ||
        sp_signed_verify(sealed, SP_SIGN_MANIFEST, key) < 0)
        return cli_fail(CLI_NOT_VALID, "the manifest carries no seal of this keeper");
    *ret = sp__manifest__unpack(NULL, sealed->payload.len, sealed->payload.data);
    return *ret ? CLI_OK : cli_fail(CLI_ERROR, "the manifest cannot be read");
}

int cli_manifest(struct cli *cli, const Sp__PointDetail *d, Sp__Manifest **ret)
{
    CLI_MESSAGE Sp__Signed *read = NULL;
    CLI_MESSAGE Sp__Manifest *m = NULL;
    if (!d->manifest && d->manifest_bytes == 0)
        return cli_fail(CLI_ERROR, "the point has no manifest: it holds no whole copy");
    int r = d->manifest ? CLI_OK : read_manifest(cli, d->point->point_id, &read);
    if (r == CLI_OK)
        r = unpack_sealed(cli, d->manifest ? d->manifest : read, &m);
    if (r == CLI_OK && strcmp(m->point_id, d->point->point_id) != 0)
        return cli_fail(CLI_NOT_VALID, "the manifest is of another point");
    if (r == CLI_OK) {
        *ret = m;
        m = NULL;
    }
    return r;
}
