/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/kek.h"

#include "base/file.h"
#include "base/sealed_box.h"
#include "controller/keeper/aead.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/wrap.h"
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>
#include <sys/stat.h>

enum { SALT_BYTES = 32, SCRYPT_LOG_N = 17, SCRYPT_R = 8, SCRYPT_P = 1, MATERIAL_MOST = 4096 };

SP_DEFINE_CLEANUP(kdf, EVP_KDF *, EVP_KDF_free)
SP_DEFINE_CLEANUP(kdf_ctx, EVP_KDF_CTX *, EVP_KDF_CTX_free)

static const struct sp_bytes nothing = {NULL, 0};

static struct sp_bytes text_bytes(const char *text)
{
    return (struct sp_bytes){(const uint8_t *)text, strlen(text)};
}

static int hkdf(const struct sp_secret *key, struct sp_bytes salt, const char *info,
                struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *out = sp_secret_new(32);
    if (!out)
        return -ENOMEM;
    int r = sp_hkdf_sha256(sp_secret_data(key), sp_secret_size(key), salt, text_bytes(info),
                           sp_secret_data(out), 32);
    if (r == 0)
        *ret = sp_steal(out);
    return r;
}

static int scrypt(const struct sp_secret *passphrase, struct sp_bytes salt, unsigned log_n,
                  struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *out = sp_secret_new(32);
    SP_CLEANUP(kdf) EVP_KDF *kdf = EVP_KDF_fetch(NULL, "SCRYPT", NULL);
    SP_CLEANUP(kdf_ctx) EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    uint64_t n = 1ull << log_n, memory = 256ull * SCRYPT_R * n;
    uint32_t block = SCRYPT_R, parallel = SCRYPT_P;
    /* Two blocks' worth above the table of n × 128 × r bytes is more than it needs. */
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PASSWORD, sp_secret_data(passphrase),
                                          sp_secret_size(passphrase)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt.data,
                                          salt.size),
        OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_N, &n),
        OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_R, &block),
        OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_P, &parallel),
        OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_MAXMEM, &memory),
        OSSL_PARAM_construct_end()};

    if (!out || !ctx)
        return -ENOMEM;
    if (EVP_KDF_derive(ctx, sp_secret_data(out), 32, params) != 1)
        return -EIO;
    *ret = sp_steal(out);
    return 0;
}

int kek_kit_private(const struct sp_secret *kit, struct sp_secret **ret)
{
    return hkdf(kit, nothing, "sealpoint recovery kit 1", ret);
}

/* ---- material ---- */

/* A passphrase file that others can read, or that a copy of the keystore's folder would take along,
 * protects nothing. */
static int check_passphrase_file(const struct keeper *k, const char *path, struct sp_why *why)
{
    SP_FREE char *folder = realpath(k->options.state, NULL);
    SP_FREE char *real = realpath(path, NULL);
    struct stat st;

    if (!real || stat(real, &st) < 0)
        return sp_why_set(why, -errno, "cannot open the passphrase file %s", path);
    if (k->options.keks.insecure)
        return 0;
    if (st.st_mode & 077)
        return sp_why_set(why, -EPERM,
                          "others may read the passphrase file %s: make its mode 0600, or set "
                          "kek.insecure=true",
                          path);
    size_t length = folder ? strlen(folder) : 0;
    if (length > 0 && strncmp(real, folder, length) == 0 && real[length] == '/')
        return sp_why_set(why, -EPERM,
                          "the passphrase file %s lies beside the keystore that it protects: move "
                          "it, or set kek.insecure=true",
                          path);
    return 0;
}

/* An editor's newline is not part of a passphrase. Returns the size that is left. */
static size_t trim_newline(struct sp_secret *s)
{
    size_t size = sp_secret_size(s);
    if (size > 0 && sp_secret_data(s)[size - 1] == '\n')
        sp_secret_shrink(s, --size);
    return size;
}

static int read_passphrase(const struct keeper *k, struct sp_secret **ret, struct sp_why *why)
{
    const char *path = k->options.keks.passphrase_file;
    if (!path || !*path)
        return -ENOENT;
    int r = check_passphrase_file(k, path, why);
    if (r == 0 && (r = sp_secret_read_file(path, MATERIAL_MOST, ret)) < 0)
        sp_why_set(why, r, "cannot read the passphrase file %s", path);
    if (r < 0)
        return r == -ENOENT ? -EACCES : r;
    if (trim_newline(*ret) == 0) {
        sp_secret_free(sp_steal(*ret));
        return sp_why_set(why, -EINVAL, "the passphrase file %s is empty", path);
    }
    return 0;
}

static int read_credential(const struct keeper *k, struct sp_secret **ret, struct sp_why *why)
{
    const char *name = k->options.keks.credential, *folder = getenv("CREDENTIALS_DIRECTORY");
    if (!name || !*name)
        return -ENOENT;
    if (strchr(name, '/') || name[0] == '.')
        return sp_why_set(why, -EINVAL, "'%s' is no name of a credential", name);
    if (!folder)
        return sp_why_set(why, -EACCES,
                          "systemd handed over no credentials: LoadCredentialEncrypted=%s:… in the "
                          "unit does",
                          name);
    SP_FREE char *path = sp_format("%s/%s", folder, name);
    int r = path ? sp_secret_read_file(path, MATERIAL_MOST, ret) : -ENOMEM;
    if (r < 0)
        return sp_why_set(why, r == -ENOENT ? -EACCES : r, "cannot read the credential '%s'", name);
    if (trim_newline(*ret) == 0) {
        sp_secret_free(sp_steal(*ret));
        return sp_why_set(why, -EINVAL, "the credential '%s' is empty", name);
    }
    return 0;
}

int kek_material(const struct keeper *k, const char *kind, struct sp_secret **ret,
                 struct sp_why *why)
{
    if (strcmp(kind, KEK_SCRYPT) == 0)
        return read_passphrase(k, ret, why);
    if (strcmp(kind, KEK_CREDENTIAL) == 0)
        return read_credential(k, ret, why);
    return -ENOENT;
}

/* ---- rows ---- */

static int kek_aad(struct sp_buffer *out, const struct kek *kek)
{
    return aead_bind(out, "sealpoint kek 1", kek->kek_id, kek->kind, SP_HEX32(kek->public_key),
                     NULL);
}

/* The private half under the material; empty for the kit, whose private half is derived. */
static int wrap_private(const struct kek *kek, const struct sp_secret *material,
                        struct sp_bytes salt, unsigned log_n, const uint8_t *nonce,
                        const struct sp_secret *private_key, struct sp_buffer *out)
{
    SP_SECRET struct sp_secret *key = NULL;
    SP_BUFFER struct sp_buffer aad = {0};
    size_t size = sp_secret_size(private_key);

    int r = scrypt(material, salt, log_n, &key);
    if (r == 0)
        r = kek_aad(&aad, kek);
    if (r == 0 && !sp_buffer_room(out, size + AEAD_TAG_BYTES))
        r = -ENOMEM;
    if (r == 0)
        r = aead_seal(sp_secret_data(key), nonce, sp_bytes_of(&aad), sp_secret_data(private_key),
                      size, out->data);
    if (r == 0)
        out->size = size + AEAD_TAG_BYTES;
    return r;
}

static int make_pair(const char *kind, const struct sp_secret *material, struct kek *kek,
                     struct sp_secret **ret_private)
{
    snprintf(kek->kind, sizeof(kek->kind), "%s", kind);
    int r = sp_uuid_make(kek->kek_id);
    if (r < 0)
        return r;
    if (strcmp(kind, KEK_KIT) != 0)
        return sp_box_keypair(ret_private, kek->public_key);
    r = kek_kit_private(material, ret_private);
    return r < 0 ? r : sp_box_public(*ret_private, kek->public_key);
}

/* How a KEK vouches for the sealing key. */
static int root_mac(struct keeper *k, const struct kek *kek, const struct sp_secret *private_key,
                    uint8_t out[32])
{
    SP_SECRET struct sp_secret *key = NULL;
    struct sp_bytes parts[] = {text_bytes(kek->kek_id), {k->sealing_der, k->sealing_der_size}};
    int r = hkdf(private_key, nothing, "sealpoint root 1", &key);
    return r < 0 ? r : sp_hmac_sha256(sp_secret_data(key), 32, parts, SP_COUNT(parts), out);
}

int kek_add(struct keeper *k, const char *kind, const struct sp_secret *material,
            struct sp_why *why)
{
    SP_SECRET struct sp_secret *private_key = NULL;
    SP_BUFFER struct sp_buffer wrapped = {0};
    uint8_t salt[SALT_BYTES], nonce[AEAD_NONCE_BYTES], mac[32];
    unsigned log_n = k->options.keks.scrypt_log_n ? k->options.keks.scrypt_log_n : SCRYPT_LOG_N;
    struct kek kek = {0};

    if (k->keks.count == KEK_MOST)
        return sp_why_set(why, -ENOSPC, "the keystore has %d KEKs already", KEK_MOST);
    int r = make_pair(kind, material, &kek, &private_key);
    if (r == 0)
        r = sp_random(salt, sizeof(salt));
    if (r == 0)
        r = sp_random(nonce, sizeof(nonce));
    if (r == 0 && strcmp(kind, KEK_KIT) != 0)
        r = wrap_private(&kek, material, (struct sp_bytes){salt, sizeof(salt)}, log_n, nonce,
                         private_key, &wrapped);
    if (r == 0)
        r = root_mac(k, &kek, private_key, mac);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO keks VALUES(?,?,?,?,?,?,?,?,?)", "ssbbibbbi",
                      kek.kek_id, kind, kek.public_key, sizeof(kek.public_key), salt, sizeof(salt),
                      (int64_t)log_n, nonce, sizeof(nonce), wrapped.data, wrapped.size, mac,
                      sizeof(mac), (int64_t)keeper_now_ms(k));
    if (r == 0)
        r = journal_note(k, "keks", kek.kek_id);
    if (r < 0)
        return sp_why_set(why, r, "cannot make a KEK of kind %s", kind);
    k->keks.items[k->keks.count++] = kek;
    return 0;
}

int kek_load(struct keeper *k)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    kek_forget(&k->keks);
    int r =
        store_query(k->store, &stmt,
                    "SELECT kek_id, kind, public_key FROM keks ORDER BY created_ms, kek_id", "");
    while (r == 0 && (r = store_step(stmt)) == 1) {
        struct sp_bytes key = store_blob(stmt, 2);
        if (k->keks.count == KEK_MOST || key.size != 32)
            return -EUCLEAN;
        struct kek *kek = &k->keks.items[k->keks.count++];
        snprintf(kek->kek_id, sizeof(kek->kek_id), "%s", store_text(stmt, 0));
        snprintf(kek->kind, sizeof(kek->kind), "%s", store_text(stmt, 1));
        memcpy(kek->public_key, key.data, 32);
        r = 0;
    }
    return r;
}

static int open_private(struct keeper *k, const struct kek *kek, const struct sp_secret *material,
                        struct sp_secret **ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_SECRET struct sp_secret *key = NULL, *out = NULL;
    SP_BUFFER struct sp_buffer aad = {0};

    if (strcmp(kek->kind, KEK_KIT) == 0)
        return kek_kit_private(material, ret);
    int r =
        store_query(k->store, &stmt, "SELECT salt, log_n, nonce, wrapped FROM keks WHERE kek_id=?",
                    "s", kek->kek_id);
    if (r == 0 && (r = store_step(stmt)) <= 0)
        return r < 0 ? r : -ENOENT;
    struct sp_bytes nonce = store_blob(stmt, 2), wrapped = store_blob(stmt, 3);
    int64_t log_n = store_int(stmt, 1);
    if (nonce.size != AEAD_NONCE_BYTES || wrapped.size != 32 + AEAD_TAG_BYTES || log_n < 10 ||
        log_n > 22)
        return -EUCLEAN;
    r = scrypt(material, store_blob(stmt, 0), (unsigned)log_n, &key);
    if (r == 0)
        r = kek_aad(&aad, kek);
    if (r == 0 && !(out = sp_secret_new(32)))
        r = -ENOMEM;
    if (r == 0)
        r = aead_open(sp_secret_data(key), nonce.data, sp_bytes_of(&aad), wrapped.data,
                      wrapped.size, sp_secret_data(out));
    if (r == 0)
        *ret = sp_steal(out);
    return r;
}

int kek_open(struct keeper *k, const char *kind, const struct sp_secret *material,
             struct sp_why *why)
{
    bool any = false;
    for (size_t i = 0; i < k->keks.count; i++) {
        const struct kek *kek = &k->keks.items[i];
        SP_SECRET struct sp_secret *private_key = NULL;
        uint8_t public_key[32];
        if (strcmp(kek->kind, kind) != 0)
            continue;
        any = true;
        int r = open_private(k, kek, material, &private_key);
        if (r == 0)
            r = sp_box_public(private_key, public_key);
        if (r == 0 && memcmp(public_key, kek->public_key, 32) == 0) {
            sp_secret_free(k->keks.open_private);
            k->keks.open_private = sp_steal(private_key);
            k->keks.open = i;
            return 0;
        }
        if (r < 0 && r != -EBADMSG)
            return sp_why_set(why, r, "the KEK of kind %s cannot be tried", kind);
    }
    if (!any)
        return sp_why_set(why, -ENOENT, "the keystore has no KEK of kind %s", kind);
    return sp_why_set(why, -EKEYREJECTED, "the %s does not open this keystore",
                      strcmp(kind, KEK_SCRYPT) == 0 ? "passphrase"
                      : strcmp(kind, KEK_KIT) == 0  ? "recovery kit"
                                                    : "credential");
}

int kek_check_root(struct keeper *k)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    uint8_t mac[32];
    const struct kek *kek = &k->keks.items[k->keks.open];
    int r = root_mac(k, kek, k->keks.open_private, mac);
    if (r == 0)
        r = store_query(k->store, &stmt, "SELECT root_mac FROM keks WHERE kek_id=?", "s",
                        kek->kek_id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -EBADMSG;
    struct sp_bytes stored = store_blob(stmt, 0);
    return stored.size == 32 && sp_equal_secret(stored.data, mac, 32) ? 0 : -EBADMSG;
}

/* ---- init and restore ---- */

static int drop_kind(struct keeper *k, const char *kind)
{
    for (size_t i = 0; i < k->keks.count;) {
        struct kek *kek = &k->keks.items[i];
        if (strcmp(kek->kind, kind) != 0 || (k->keks.open_private && i == k->keks.open)) {
            i++;
            continue;
        }
        int r = store_run(k->store, "DELETE FROM wraps WHERE kek_id=?", "s", kek->kek_id);
        if (r == 0)
            r = store_run(k->store, "DELETE FROM keks WHERE kek_id=?", "s", kek->kek_id);
        if (r == 0)
            r = journal_note(k, "keks", kek->kek_id);
        if (r < 0)
            return r;
        k->keks.count--;
        memmove(kek, kek + 1, (k->keks.count - i) * sizeof(*kek));
        if (k->keks.open_private && k->keks.open > i)
            k->keks.open--;
    }
    return 0;
}

int kek_add_configured(struct keeper *k, struct sp_why *why)
{
    static const char *const kinds[] = {KEK_SCRYPT, KEK_CREDENTIAL};
    bool any = false;
    for (size_t i = 0; i < SP_COUNT(kinds); i++) {
        SP_SECRET struct sp_secret *material = NULL;
        int r = kek_material(k, kinds[i], &material, why);
        if (r == -ENOENT)
            continue;
        if (r == 0)
            r = drop_kind(k, kinds[i]);
        if (r == 0)
            r = kek_add(k, kinds[i], material, why);
        if (r == 0 && k->keks.open_private)
            r = wrap_all_for(k, k->keks.count - 1);
        if (r < 0)
            return r;
        any = true;
    }
    if (!any)
        return sp_why_set(why, -ENOKEY,
                          "no KEK is configured: set kek.passphrase_file or kek.credential in "
                          "keeper.conf");
    return 0;
}

void kek_forget(struct kek_set *set)
{
    sp_secret_free(set->open_private);
    memset(set, 0, sizeof(*set));
}
