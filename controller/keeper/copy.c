/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/copy.h"

#include "base/file.h"
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include "controller/keeper/aead.h"
#include "controller/keeper/audit.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include <string.h>
#include <sys/stat.h>

static const char magic[] = "sealpoint keystore copy 1\n";
static const char context[] = "sealpoint keystore copy 1";
static const char kit_prefix[] = "sealpoint-kit-1:";
static const uint8_t nonce_0[AEAD_NONCE_BYTES];
enum { MAGIC_BYTES = sizeof(magic) - 1, COPY_MOST = 60 << 20 };

/* A copy goes into the vault with every seal, and the audit is what grows fastest: its heads are in
 * the manifests, its entries stay on the host but for the last ones. */
static const char prune[] = "DELETE FROM audit WHERE number<=(SELECT max(number) FROM audit)-1000";

MESSAGE_CLEANUP(box, Sp__SealedBox, sp__sealed_box__free_unpacked)
MESSAGE_CLEANUP(signature, Sp__Signature, sp__signature__free_unpacked)
SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)

/* ---- make ---- */

static const struct kek *find_kit(const struct keeper *k)
{
    for (size_t i = 0; i < k->keks.count; i++)
        if (strcmp(k->keks.items[i].kind, KEK_KIT) == 0)
            return &k->keks.items[i];
    return NULL;
}

static int append_sized(struct sp_buffer *out, size_t width, const void *data, size_t size)
{
    uint8_t head[8];
    sp_put_le64(head, size);
    int r = sp_buffer_append(out, head, width);
    return r < 0 ? r : sp_buffer_append(out, data, size);
}

static int append_box(struct keeper *k, const struct kek *kit, const struct sp_secret *file_key,
                      struct sp_buffer *out)
{
    SP_CLEANUP(box) Sp__SealedBox *box = NULL;
    SP_FREE uint8_t *packed = NULL;
    size_t size = 0;
    (void)k;

    int r = sp_box_seal(kit->public_key, out->data, out->size, sp_secret_data(file_key),
                        AEAD_KEY_BYTES, &box);
    if (r == 0)
        r = sp_pack(&box->base, &packed, &size);
    return r < 0 ? r : append_sized(out, 4, packed, size);
}

static int append_ciphertext(const struct sp_secret *file_key, const uint8_t *data, size_t size,
                             struct sp_buffer *out)
{
    uint8_t head[8];
    sp_put_le64(head, size + AEAD_TAG_BYTES);
    int r = sp_buffer_append(out, head, sizeof(head));
    uint8_t *at = r == 0 ? sp_buffer_room(out, size + AEAD_TAG_BYTES) : NULL;
    if (!at)
        return -ENOMEM;
    r = aead_seal(sp_secret_data(file_key), nonce_0, sp_bytes_of(out), data, size, at);
    if (r == 0)
        out->size += size + AEAD_TAG_BYTES;
    return r;
}

static int append_signature(struct keeper *k, struct sp_buffer *out)
{
    SP_CLEANUP(signature) Sp__Signature *signature = NULL;
    SP_FREE uint8_t *packed = NULL;
    uint8_t hash[32];
    size_t size = 0;

    int r = sp_sha256_of(out->data, out->size, hash);
    if (r == 0)
        r = sp_sign(k->sealing_key, context, hash, sizeof(hash), &signature);
    if (r == 0)
        r = sp_pack(&signature->base, &packed, &size);
    return r < 0 ? r : sp_buffer_append(out, packed, size);
}

int copy_make(struct keeper *k, bool whole, struct sp_buffer *out, uint64_t *ret_epoch,
              struct sp_why *why)
{
    const struct kek *kit = find_kit(k);
    SP_SECRET struct sp_secret *file_key = sp_secret_new(AEAD_KEY_BYTES);
    uint8_t *data = NULL, epoch[8];
    size_t size = 0;

    if (!kit)
        return sp_why_set(why, -ENOKEY, "the keystore has no recovery kit");
    *ret_epoch = journal_epoch(k);
    sp_put_le64(epoch, *ret_epoch);
    int r = file_key ? sp_random(sp_secret_data(file_key), AEAD_KEY_BYTES) : -ENOMEM;
    if (r == 0)
        r = store_copy(k->store, whole ? "" : prune, &data, &size);
    if (r == 0 && size > COPY_MOST)
        r = sp_why_set(why, -EMSGSIZE, "the keystore has outgrown what one copy holds: %zu bytes",
                       size);
    if (r == 0)
        r = sp_buffer_append(out, magic, MAGIC_BYTES);
    if (r == 0)
        r = sp_buffer_append(out, epoch, sizeof(epoch));
    if (r == 0)
        r = append_box(k, kit, file_key, out);
    if (r == 0)
        r = append_ciphertext(file_key, data, size, out);
    sqlite3_free(data);
    return r < 0 ? r : append_signature(k, out);
}

int keeper_keystore_copy(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                         Sp__KeeperResponse *out, struct sp_why *why)
{
    SP_BUFFER struct sp_buffer copy = {0};
    (void)request, (void)fd;

    out->keystore_copy = MESSAGE_NEW(Sp__KeystoreCopyResponse, sp__keystore_copy_response__init);
    if (!out->keystore_copy)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_KEYSTORE_COPY;
    int r = copy_make(k, false, &copy, &out->keystore_copy->epoch, why);
    if (r == 0) { /* handed on as it is: no second copy of a file this size */
        out->keystore_copy->copy = (ProtobufCBinaryData){copy.size, copy.data};
        copy = (struct sp_buffer){0};
    }
    return r;
}

/* ---- restore ---- */

int copy_parse_kit(const struct sp_secret *text, struct sp_secret **ret, struct sp_why *why)
{
    SP_SECRET struct sp_secret *line = sp_secret_new(sp_secret_size(text) + 1);
    SP_SECRET struct sp_secret *kit = sp_secret_new(KEK_KIT_BYTES);
    if (!line || !kit)
        return -ENOMEM;
    char *at = (char *)sp_secret_data(line);
    memcpy(at, sp_secret_data(text), sp_secret_size(text));
    at += strspn(at, " \t\r\n");
    at[strcspn(at, " \t\r\n")] = 0;
    size_t size = 0;
    if (strncmp(at, kit_prefix, strlen(kit_prefix)) != 0 ||
        sp_base64url_decode(at + strlen(kit_prefix), sp_secret_data(kit), KEK_KIT_BYTES, &size) <
            0 ||
        size != KEK_KIT_BYTES)
        return sp_why_set(why, -EINVAL,
                          "this is no recovery kit: it begins with %s and has 43 more characters",
                          kit_prefix);
    *ret = sp_steal(kit);
    return 0;
}

struct parts {
    struct sp_bytes before_box, box, before_ciphertext, ciphertext, before_signature, signature;
};

static int take_apart(struct sp_bytes copy, struct parts *p)
{
    struct sp_reader r = sp_reader_of(copy.data, copy.size);
    const uint8_t *start = sp_reader_take(&r, MAGIC_BYTES);
    if (!start || memcmp(start, magic, MAGIC_BYTES) != 0)
        return -EBADMSG;
    sp_reader_le64(&r);
    p->before_box = (struct sp_bytes){copy.data, r.at};
    p->box.size = sp_reader_le32(&r);
    p->box.data = sp_reader_take(&r, p->box.size);
    uint64_t size = sp_reader_le64(&r);
    if (r.failed || size > sp_reader_left(&r) || size <= AEAD_TAG_BYTES)
        return -EBADMSG;
    p->before_ciphertext = (struct sp_bytes){copy.data, r.at};
    p->ciphertext = (struct sp_bytes){sp_reader_take(&r, (size_t)size), (size_t)size};
    p->before_signature = (struct sp_bytes){copy.data, r.at};
    p->signature.size = sp_reader_left(&r);
    p->signature.data = sp_reader_take(&r, p->signature.size);
    return r.failed ? -EBADMSG : 0;
}

static int decrypt(const struct sp_secret *kit, const struct parts *p, struct sp_buffer *out,
                   struct sp_why *why)
{
    SP_SECRET struct sp_secret *private_key = NULL, *file_key = NULL;
    SP_CLEANUP(box)
    Sp__SealedBox *box = sp__sealed_box__unpack(NULL, p->box.size, p->box.data);

    int r = box ? kek_kit_private(kit, &private_key) : -EBADMSG;
    if (r == 0 &&
        sp_box_open(private_key, p->before_box.data, p->before_box.size, box, &file_key) < 0)
        return sp_why_set(why, -EKEYREJECTED, "the recovery kit does not open this copy");
    if (r == 0 && sp_secret_size(file_key) != AEAD_KEY_BYTES)
        r = -EBADMSG;
    if (r == 0 && !sp_buffer_room(out, p->ciphertext.size))
        r = -ENOMEM;
    if (r == 0)
        r = aead_open(sp_secret_data(file_key), nonce_0, p->before_ciphertext, p->ciphertext.data,
                      p->ciphertext.size, out->data);
    if (r == 0)
        out->size = p->ciphertext.size - AEAD_TAG_BYTES;
    return r < 0 ? sp_why_set(why, r, "the keystore copy is damaged") : 0;
}

static int check_signature(struct keeper *k, const struct parts *p)
{
    SP_CLEANUP(signature)
    Sp__Signature *signature = sp__signature__unpack(NULL, p->signature.size, p->signature.data);
    SP_CLEANUP(pkey) EVP_PKEY *key = NULL;
    uint8_t hash[32];
    if (!signature || sp_public_key_from_der(k->sealing_der, k->sealing_der_size, &key) < 0 ||
        sp_sha256_of(p->before_signature.data, p->before_signature.size, hash) < 0)
        return -EBADMSG;
    return sp_verify(key, context, hash, sizeof(hash), signature) == 0 ? 0 : -EBADMSG;
}

/* Opened with the kit, checked from the outside in, and given the KEKs of this host. `k` was opened
 * on the decrypted file and is locked. */
static int adopt(struct keeper *k, const struct sp_secret *kit, const struct parts *p,
                 struct sp_why *why)
{
    if (!k->initialised)
        return sp_why_set(why, -EBADMSG, "the copy holds no keystore");
    int r = kek_open(k, KEK_KIT, kit, why);
    if (r < 0)
        return r;
    if (kek_check_root(k) < 0 || check_signature(k, p) < 0)
        return sp_why_set(why, -EBADMSG, "the copy was not made by the keystore of this kit");
    r = journal_verify(k, why);
    if (r == 0)
        r = core_load(k, why);
    if (r == 0)
        r = store_begin(k->store);
    if (r < 0)
        return r;
    r = kek_add_configured(k, why);
    if (r == 0)
        r = audit_set_base(k);
    /* It is at best as new as the last seal. */
    if (r == 0)
        r = reconcile_need(k, 0, "this keystore was restored from a copy");
    if (r == 0)
        r = audit_write(k, "local", "keystore.restore", k->domain,
                        "restored from a copy with the recovery kit");
    return store_end(k->store, r);
}

static int restore_into(const struct keeper_options *options, const struct sp_secret *kit,
                        const struct parts *p, const struct sp_buffer *db, struct sp_why *why)
{
    SP_FREE char *path = sp_format("%s/keystore.db", options->state);
    struct keeper *k = NULL;
    if (!path)
        return -ENOMEM;
    int r = sp_make_directories(options->state, 0700);
    if (r == 0)
        r = sp_file_replace(path, db->data, db->size, 0600);
    if (r < 0)
        return sp_why_set(why, r, "cannot write %s", path);
    r = keeper_open(options, &k, why);
    if (r == 0)
        r = adopt(k, kit, p, why);
    keeper_close(k); /* the last close folds the write-ahead log into the file */
    return r;
}

static void remove_store(const char *folder)
{
    static const char *const names[] = {"keystore.db", "keystore.db-wal", "keystore.db-shm"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        SP_FREE char *path = sp_format("%s/%s", folder, names[i]);
        if (path)
            unlink(path);
    }
}

/* Half of a restore, of this one or of one that was ended before. */
static void remove_folder(const char *folder)
{
    SP_FREE char *lock = sp_format("%s/lock", folder);
    remove_store(folder);
    if (lock)
        unlink(lock);
    rmdir(folder);
}

/* The finished file takes its place in one step. The keeper's lock on the folder stays. */
static int move_in(const char *from, const char *state, struct sp_why *why)
{
    SP_FREE char *source = sp_format("%s/keystore.db", from);
    SP_FREE char *wal = sp_format("%s/keystore.db-wal", from);
    SP_FREE char *target = sp_format("%s/keystore.db", state);
    if (!source || !wal || !target)
        return -ENOMEM;
    if (access(wal, F_OK) == 0)
        return sp_why_set(why, -EIO, "the restored keystore could not be closed");
    remove_store(state);
    if (rename(source, target) < 0)
        return sp_why_set(why, -errno, "cannot write %s", target);
    return sp_fsync_directory(state);
}

/* Whatever came of it, there is an open store again. */
static int reopen(struct keeper *k, struct sp_why *why)
{
    SP_FREE char *path = sp_format("%s/keystore.db", k->options.state);
    return path ? store_open(path, &k->store, why) : -ENOMEM;
}

int copy_restore_into(struct keeper *k, const struct sp_secret *kit, struct sp_bytes copy,
                      struct sp_why *why)
{
    SP_BUFFER struct sp_buffer db = {0};
    SP_FREE char *folder = sp_format("%s/restoring", k->options.state);
    struct keeper_options inner = k->options;
    struct parts p = {0};

    if (!folder)
        return -ENOMEM;
    if (k->initialised)
        return sp_why_set(why, -EEXIST, "there is a keystore in %s already", k->options.state);
    inner.state = folder;
    int r = take_apart(copy, &p);
    if (r < 0)
        return sp_why_set(why, r, "this is no keystore copy, or it is cut off");
    r = decrypt(kit, &p, &db, why);
    if (r < 0)
        return r;
    remove_folder(folder);
    r = restore_into(&inner, kit, &p, &db, why);
    if (r == 0) {
        store_close(sp_steal(k->store));
        r = move_in(folder, k->options.state, why);
        int opened = reopen(k, why);
        r = r < 0 ? r : opened;
    }
    remove_folder(folder);
    return r < 0 ? r : keeper_load(k, why);
}

int copy_restore(const struct keeper_options *options, const struct sp_secret *kit,
                 struct sp_bytes copy, struct sp_why *why)
{
    struct keeper *empty = NULL;
    int r = keeper_open(options, &empty, why); /* holds the lock on the folder from here on */
    if (r == 0)
        r = copy_restore_into(empty, kit, copy, why);
    keeper_close(empty);
    return r;
}
