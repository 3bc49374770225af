/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/enrol_volume/order.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sealpoint/v1/keys.pb-c.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { FILE_MOST = 256 << 10, NONCE_BYTES = 32, KEY_BYTES = 32 };

SP_DEFINE_CLEANUP(x509, X509 *, X509_free)
SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(dir, DIR *, closedir)

static void sp_cleanup_keys(Sp__KeeperKeys **k)
{
    if (*k)
        sp__keeper_keys__free_unpacked(*k, NULL);
}
static void sp_cleanup_order(Sp__KeyslotOrder **o)
{
    if (*o)
        sp__keyslot_order__free_unpacked(*o, NULL);
}
static void sp_cleanup_request(Sp__KeyslotRequest **r)
{
    if (*r)
        sp__keyslot_request__free_unpacked(*r, NULL);
}

/* ---- folder ---- */

int orders_open(const struct agent_config *config, struct orders *o, struct sp_why *why)
{
    *o = (struct orders){.config = config, .lock = -1};
    int r = agent_identity_load(config->state, &o->identity, why);
    if (r < 0)
        return r;
    o->folder = sp_format("%s/" AGENT_KEYSLOTS, config->state);
    if (!o->folder)
        return -ENOMEM;
    r = sp_make_directories(o->folder, 0700);
    return r < 0 ? sp_why_set(why, r, "cannot make '%s'", o->folder) : 0;
}

void orders_close(struct orders *o)
{
    orders_unlock(o);
    agent_identity_free(&o->identity);
    free(o->folder);
    o->folder = NULL;
}

int orders_lock(struct orders *o, struct sp_why *why)
{
    SP_FREE char *path = sp_format("%s/lock", o->folder);
    if (!path)
        return -ENOMEM;
    SP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return sp_why_set(why, -errno, "cannot lock '%s'", path);
    o->lock = fd;
    fd = -1;
    return 0;
}

void orders_unlock(struct orders *o)
{
    if (o->lock >= 0)
        close(o->lock);
    o->lock = -1;
}

static char *path_of(const struct orders *o, const char *name, const char *ending)
{
    return sp_format("%s/%s%s", o->folder, name, ending);
}

/* ---- nonces ---- */

static char *nonce_path(const struct orders *o, const char *volume_id)
{
    uint8_t digest[32];
    char name[33];
    if (sp_sha256_of(volume_id, strlen(volume_id), digest) < 0)
        return NULL;
    return path_of(o, sp_hex(name, digest, 16), ".nonce");
}

int order_nonce(struct orders *o, const char *volume_id, uint8_t out[32], struct sp_why *why)
{
    SP_FREE char *path = nonce_path(o, volume_id);
    int r = path ? sp_random(out, NONCE_BYTES) : -ENOMEM;
    if (r == 0)
        r = sp_file_replace(path, out, NONCE_BYTES, 0600);
    return r < 0 ? sp_why_set(why, r, "cannot write '%s'", path ? path : o->folder) : 0;
}

int order_take_nonce(struct orders *o, const char *volume_id, const void *nonce, size_t size,
                     struct sp_why *why)
{
    SP_FREE char *path = nonce_path(o, volume_id);
    SP_FREE char *kept = NULL;
    size_t kept_size = 0;
    if (!path)
        return -ENOMEM;
    int r = sp_file_read(path, NONCE_BYTES, &kept, &kept_size);
    if (r < 0 || kept_size != NONCE_BYTES || size != NONCE_BYTES ||
        memcmp(kept, nonce, NONCE_BYTES) != 0)
        return sp_why_set(why, -ESTALE,
                          "the order is not the answer to what this agent said last: it was used "
                          "before, or is too old");
    if (unlink(path) < 0 || (r = sp_fsync_directory(o->folder)) < 0)
        return sp_why_set(why, r < 0 ? r : -errno, "cannot remove '%s'", path);
    return 0;
}

/* ---- what the keeper signed ---- */

static int keeper_key(struct orders *o, const Sp__Signed *signed_keys, EVP_PKEY **ret,
                      struct sp_why *why)
{
    SP_FREE char *path = sp_format("%s/" AGENT_KEEPER_CA, o->config->state);
    SP_FREE char *pem = NULL;
    SP_CLEANUP(x509) X509 *ca = NULL;
    SP_CLEANUP(keys) Sp__KeeperKeys *keys = NULL;
    if (!path)
        return -ENOMEM;
    int r = sp_file_read(path, 1 << 16, &pem, NULL);
    if (r < 0)
        return sp_why_set(why, -EKEYREJECTED,
                          "this agent has pinned no CA of a keeper ('%s'): 'sealpoint-agent enrol "
                          "--again' does",
                          path);
    if (!signed_keys || sp_certificate_from_pem(pem, strlen(pem), &ca) < 0 ||
        sp_signed_verify(signed_keys, SP_SIGN_KEEPER_KEYS, X509_get0_pubkey(ca)) < 0)
        return sp_why_set(why, -EKEYREJECTED,
                          "the keeper's keys are not signed by the CA that was pinned at "
                          "enrolment");
    keys = sp__keeper_keys__unpack(NULL, signed_keys->payload.len, signed_keys->payload.data);
    if (!keys || strcmp(keys->domain, o->identity.domain) != 0 ||
        sp_public_key_from_der(keys->sealing_public_key.data, keys->sealing_public_key.len, ret) <
            0)
        return sp_why_set(why, -EKEYREJECTED, "the keeper's keys cannot be read");
    return 0;
}

static int check_shape(struct orders *o, const Sp__KeyslotRequest *request,
                       const Sp__KeyslotOrder *order, struct sp_why *why)
{
    if (!order || order->base.n_unknown_fields || !order->key || order->nonce.len != NONCE_BYTES ||
        order->header_sha256.len != 32 || !sp_uuid_valid(order->record_id))
        return sp_why_set(why, -EKEYREJECTED, "the order cannot be read");
    if (strcmp(order->domain, o->identity.domain) != 0 ||
        strcmp(order->machine_id, o->identity.machine) != 0)
        return sp_why_set(why, -EKEYREJECTED, "the order is for the machine %.60s, this is %s",
                          order->machine_id, o->identity.machine);
    if (strcmp(order->volume_id, request->volume_id) != 0)
        return sp_why_set(why, -EKEYREJECTED, "the order is for the volume %.100s, not for %.100s",
                          order->volume_id, request->volume_id);
    return 0;
}

int order_check(struct orders *o, const Sp__KeyslotRequest *request, Sp__KeyslotOrder **ret,
                struct sp_why *why)
{
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    SP_CLEANUP(order) Sp__KeyslotOrder *order = NULL;
    const Sp__Signed *in = request->order;
    int r = keeper_key(o, request->keeper_keys, &key, why);
    if (r < 0)
        return r;
    if (!in || sp_signed_verify(in, SP_SIGN_KEYSLOT, key) < 0)
        return sp_why_set(why, -EKEYREJECTED, "the order is not signed by the keeper");
    order = sp__keyslot_order__unpack(NULL, in->payload.len, in->payload.data);
    r = check_shape(o, request, order, why);
    if (r == 0)
        *ret = sp_steal(order);
    return r;
}

int order_key(struct orders *o, const Sp__KeyslotOrder *order, struct sp_secret **ret,
              struct sp_why *why)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *box_key = NULL, *key = NULL;
    SP_FREE char *path = sp_format("%s/box.key", o->config->state);
    int r = path ? sp_secret_read_file(path, SP_BOX_KEY_BYTES, &box_key) : -ENOMEM;
    if (r == 0 && sp_secret_size(box_key) != SP_BOX_KEY_BYTES)
        r = -EBADMSG;
    if (r < 0)
        return sp_why_set(why, r, "cannot read the key '%s'", path ? path : "box.key");
    r = sp_keyslot_aad(&aad, order->machine_id, order->volume_id, order->record_id,
                       SP_HEX32(order->header_sha256.data));
    if (r == 0)
        r = sp_box_open(box_key, aad.data, aad.size, order->key, &key);
    if (r == -ENOMEM)
        return r;
    if (r < 0 || sp_secret_size(key) != KEY_BYTES)
        return sp_why_set(why, -EKEYREJECTED,
                          "the order's box does not open: it is sealed to another agent, or bound "
                          "to something else");
    *ret = sp_steal(key);
    return 0;
}

/* ---- files ---- */

int order_keep(struct orders *o, const Sp__KeyslotRequest *request, const char *record_id,
               const char *ending, struct sp_why *why)
{
    SP_FREE char *path = path_of(o, record_id, ending);
    SP_FREE uint8_t *packed = NULL;
    size_t size = 0;
    int r = path ? sp_pack(&request->base, &packed, &size) : -ENOMEM;
    if (r == 0)
        r = sp_file_replace(path, packed, size, 0600);
    return r < 0 ? sp_why_set(why, r, "cannot write '%s'", path ? path : o->folder) : 0;
}

int order_begin(struct orders *o, const char *record_id, struct sp_why *why)
{
    SP_FREE char *from = path_of(o, record_id, ORDER_WAITING);
    SP_FREE char *to = path_of(o, record_id, ORDER_UNDER_WAY);
    if (!from || !to)
        return -ENOMEM;
    int r = rename(from, to) < 0 ? -errno : sp_fsync_directory(o->folder);
    return r < 0 ? sp_why_set(why, r, "cannot rename '%s'", from) : 0;
}

int order_drop(struct orders *o, const char *record_id, const char *ending)
{
    SP_FREE char *path = path_of(o, record_id, ending);
    if (!path)
        return -ENOMEM;
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : -errno;
    return sp_fsync_directory(o->folder);
}

static int read_order(struct orders *o, const char *name, Sp__KeyslotRequest **ret)
{
    SP_FREE char *path = path_of(o, name, "");
    SP_FREE char *data = NULL;
    size_t size = 0;
    int r = path ? sp_file_read(path, FILE_MOST, &data, &size) : -ENOMEM;
    if (r < 0)
        return r;
    *ret = sp__keyslot_request__unpack(NULL, size, (const uint8_t *)data);
    return *ret ? 0 : -EBADMSG;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t n = strlen(name), e = strlen(ending);
    return n > e && strcmp(name + n - e, ending) == 0;
}

int order_each(struct orders *o, const char *ending, const char *volume_id,
               int (*each)(void *self, const Sp__KeyslotRequest *, const Sp__KeyslotOrder *,
                           struct sp_why *why),
               void *self, struct sp_why *why)
{
    SP_CLEANUP(dir) DIR *dir = opendir(o->folder);
    if (!dir)
        return sp_why_set(why, -errno, "cannot read '%s'", o->folder);
    int r = 0;
    for (struct dirent *d; r == 0 && (d = readdir(dir));) {
        SP_CLEANUP(request) Sp__KeyslotRequest *request = NULL;
        SP_CLEANUP(order) Sp__KeyslotOrder *order = NULL;
        struct sp_why passed_over = {""};
        if (!ends_with(d->d_name, ending) || read_order(o, d->d_name, &request) < 0 ||
            (volume_id && strcmp(request->volume_id, volume_id) != 0) ||
            order_check(o, request, &order, &passed_over) < 0)
            continue;
        r = each(self, request, order, why);
    }
    return r;
}
