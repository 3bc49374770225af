/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/kek.h"

#include "base/file.h"
#include "base/sealed_box.h"
#include "controller/keeper/aead.h"
#include "controller/keeper/credential.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/kek_token.h"
#include "controller/keeper/message.h"
#include "controller/keeper/wrap.h"
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>
#include <sys/stat.h>

enum {
    SALT_BYTES = 32,
    SCRYPT_LOG_N = 17,
    SCRYPT_R = 8,
    SCRYPT_P = 1,
    MATERIAL_MOST = 4096,
    KEY_FILE_LEAST = 32
};

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

/* A file that others can read, or that a copy of the keystore's folder would take along, protects
 * nothing. `beside`: may lie beside the keystore. */
static int check_file(const struct keeper *k, const char *path, bool beside, struct sp_why *why)
{
    SP_FREE char *folder = realpath(k->options.state, NULL);
    SP_FREE char *real = realpath(path, NULL);
    struct stat st;

    if (!real || stat(real, &st) < 0)
        return sp_why_set(why, -errno, "cannot open the file %s", path);
    if (st.st_mode & 077)
        return sp_why_set(why, -EPERM,
                          "others may read the file %s: make its mode 0600, or set "
                          "kek.insecure=true",
                          path);
    size_t length = folder ? strlen(folder) : 0;
    if (!beside && length > 0 && strncmp(real, folder, length) == 0 && real[length] == '/')
        return sp_why_set(why, -EPERM,
                          "the file %s lies beside the keystore that it protects: move it, or set "
                          "kek.insecure=true",
                          path);
    return 0;
}

static int read_file(const struct keeper *k, const char *path, bool beside, struct sp_secret **ret,
                     struct sp_why *why)
{
    if (!path || !*path)
        return -ENOENT;
    int r = k->options.keks.insecure ? 0 : check_file(k, path, beside, why);
    if (r == 0 && (r = sp_secret_read_file(path, MATERIAL_MOST, ret)) < 0)
        sp_why_set(why, r, "cannot read the file %s", path);
    return r == -ENOENT ? -EACCES : r; /* configured it is */
}

static int read_passphrase(const struct keeper *k, const char *path, bool beside,
                           struct sp_secret **ret, struct sp_why *why)
{
    int r = read_file(k, path, beside, ret, why);
    if (r == 0 && credential_trim(*ret) == 0) {
        sp_secret_free(sp_steal(*ret));
        r = sp_why_set(why, -EINVAL, "the file %s is empty", path);
    }
    return r;
}

static int read_key_file(const struct keeper *k, struct sp_secret **ret, struct sp_why *why)
{
    int r = read_file(k, k->options.keks.key_file, false, ret, why);
    if (r == 0 && sp_secret_size(*ret) < KEY_FILE_LEAST) {
        sp_secret_free(sp_steal(*ret));
        r = sp_why_set(why, -EINVAL, "the key file %s has fewer than %d bytes",
                       k->options.keks.key_file, KEY_FILE_LEAST);
    }
    return r;
}

static int read_credential(const struct keeper *k, struct sp_secret **ret, struct sp_why *why)
{
    const char *name = k->options.keks.credential;
    return name && *name ? credential_read(name, MATERIAL_MOST, ret, why) : -ENOENT;
}

/* The PIN may lie beside the keystore: without the token it opens nothing. */
static int read_pin(const struct keeper *k, struct sp_secret **ret, struct sp_why *why)
{
    const struct kek_sources *s = &k->options.keks;
    if (!s->pkcs11_module || !*s->pkcs11_module)
        return -ENOENT;
    if (!s->pkcs11_token || !s->pkcs11_key || !s->pkcs11_pin_file || !*s->pkcs11_pin_file)
        return sp_why_set(why, -EINVAL,
                          "kek.pkcs11_module needs kek.pkcs11_token, kek.pkcs11_key and "
                          "kek.pkcs11_pin_file");
    return read_passphrase(k, s->pkcs11_pin_file, true, ret, why);
}

int kek_material(const struct keeper *k, const char *kind, struct sp_secret **ret,
                 struct sp_why *why)
{
    if (strcmp(kind, KEK_SCRYPT) == 0)
        return read_passphrase(k, k->options.keks.passphrase_file, false, ret, why);
    if (strcmp(kind, KEK_KEY_FILE) == 0)
        return read_key_file(k, ret, why);
    if (strcmp(kind, KEK_CREDENTIAL) == 0)
        return read_credential(k, ret, why);
    if (strcmp(kind, KEK_PKCS11) == 0)
        return read_pin(k, ret, why);
    return -ENOENT;
}

static bool is_set(const char *text)
{
    return text && *text;
}

static bool is_configured(const struct keeper *k, const char *kind)
{
    const struct kek_sources *s = &k->options.keks;
    return (strcmp(kind, KEK_SCRYPT) == 0 && is_set(s->passphrase_file)) ||
           (strcmp(kind, KEK_KEY_FILE) == 0 && is_set(s->key_file)) ||
           (strcmp(kind, KEK_CREDENTIAL) == 0 && is_set(s->credential)) ||
           (strcmp(kind, KEK_PKCS11) == 0 && is_set(s->pkcs11_module));
}

bool kek_is_insecure(const struct keeper *k)
{
    const struct kek_sources *s = &k->options.keks;
    return s->insecure &&
           ((is_set(s->passphrase_file) &&
             check_file(k, s->passphrase_file, false, NULL) == -EPERM) ||
            (is_set(s->key_file) && check_file(k, s->key_file, false, NULL) == -EPERM));
}

int kek_none_configured(struct sp_why *why)
{
    return sp_why_set(why, -ENOKEY,
                      "no KEK is configured: set kek.passphrase_file, kek.key_file, kek.credential "
                      "or kek.pkcs11_module in keeper.conf");
}

/* ---- rows ---- */

static int kek_aad(struct sp_buffer *out, const struct kek *kek)
{
    return aead_bind(out, "sealpoint kek 1", kek->kek_id, kek->kind, SP_HEX32(kek->public_key),
                     NULL);
}

/* The private half under scrypt of the material. */
static int wrap_scrypt(const struct kek *kek, const struct sp_secret *material,
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
    if (r == 0 && strcmp(kind, KEK_PKCS11) == 0)
        r = kek_token_wrap(&k->options.keks, material, private_key, &wrapped, why);
    else if (r == 0 && strcmp(kind, KEK_KIT) != 0)
        r = wrap_scrypt(&kek, material, (struct sp_bytes){salt, sizeof(salt)}, log_n, nonce,
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
        return why && why->text[0] ? r : sp_why_set(why, r, "cannot make a KEK of kind %s", kind);
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

static int open_scrypt(const struct kek *kek, sqlite3_stmt *stmt, const struct sp_secret *material,
                       struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *key = NULL, *out = NULL;
    SP_BUFFER struct sp_buffer aad = {0};
    struct sp_bytes nonce = store_blob(stmt, 2), wrapped = store_blob(stmt, 3);
    int64_t log_n = store_int(stmt, 1);

    if (nonce.size != AEAD_NONCE_BYTES || wrapped.size != 32 + AEAD_TAG_BYTES || log_n < 10 ||
        log_n > 22)
        return -EUCLEAN;
    int r = scrypt(material, store_blob(stmt, 0), (unsigned)log_n, &key);
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

static int open_private(struct keeper *k, const struct kek *kek, const struct sp_secret *material,
                        struct sp_secret **ret, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;

    if (strcmp(kek->kind, KEK_KIT) == 0)
        return kek_kit_private(material, ret);
    int r =
        store_query(k->store, &stmt, "SELECT salt, log_n, nonce, wrapped FROM keks WHERE kek_id=?",
                    "s", kek->kek_id);
    if (r == 0 && (r = store_step(stmt)) <= 0)
        return r < 0 ? r : -ENOENT;
    if (strcmp(kek->kind, KEK_PKCS11) == 0)
        return kek_token_unwrap(&k->options.keks, material, store_blob(stmt, 3), ret, why);
    return open_scrypt(kek, stmt, material, ret);
}

/* 0: this KEK is the open one now; -EKEYREJECTED: the material is not its. */
static int open_one(struct keeper *k, size_t index, const struct sp_secret *material,
                    struct sp_why *why)
{
    const struct kek *kek = &k->keks.items[index];
    SP_SECRET struct sp_secret *private_key = NULL;
    uint8_t public_key[32];
    int r = open_private(k, kek, material, &private_key, why);
    if (r == 0 && sp_secret_size(private_key) != 32)
        r = -EBADMSG;
    if (r == 0)
        r = sp_box_public(private_key, public_key);
    if (r == -EBADMSG || (r == 0 && memcmp(public_key, kek->public_key, 32) != 0))
        return -EKEYREJECTED;
    if (r < 0)
        return why && why->text[0]
                   ? r
                   : sp_why_set(why, r, "the KEK of kind %s cannot be tried", kek->kind);
    sp_secret_free(k->keks.open_private);
    k->keks.open_private = sp_steal(private_key);
    k->keks.open = index;
    return 0;
}

int kek_open(struct keeper *k, const char *kind, const struct sp_secret *material,
             struct sp_why *why)
{
    bool any = false;
    for (size_t i = 0; i < k->keks.count; i++) {
        if (strcmp(k->keks.items[i].kind, kind) != 0)
            continue;
        any = true;
        int r = open_one(k, i, material, why);
        if (r != -EKEYREJECTED)
            return r;
    }
    if (!any)
        return sp_why_set(why, -ENOENT, "the keystore has no KEK of kind %s", kind);
    return sp_why_set(why, -EKEYREJECTED, "the %s does not open this keystore",
                      strcmp(kind, KEK_SCRYPT) == 0     ? "passphrase"
                      : strcmp(kind, KEK_KIT) == 0      ? "recovery kit"
                      : strcmp(kind, KEK_KEY_FILE) == 0 ? "key file"
                      : strcmp(kind, KEK_PKCS11) == 0   ? "token"
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

/* ---- change ---- */

static int drop_at(struct keeper *k, size_t index)
{
    struct kek *kek = &k->keks.items[index];
    int r = store_run(k->store, "DELETE FROM wraps WHERE kek_id=?", "s", kek->kek_id);
    if (r == 0)
        r = store_run(k->store, "DELETE FROM keks WHERE kek_id=?", "s", kek->kek_id);
    if (r == 0)
        r = journal_note(k, "keks", kek->kek_id);
    if (r < 0)
        return r;
    k->keks.count--;
    memmove(kek, kek + 1, (k->keks.count - index) * sizeof(*kek));
    if (k->keks.open_private && k->keks.open > index)
        k->keks.open--;
    return 0;
}

static int drop_kind(struct keeper *k, const char *kind)
{
    int r = 0;
    for (size_t i = k->keks.count; i-- > 0 && r == 0;)
        if (strcmp(k->keks.items[i].kind, kind) == 0 &&
            !(k->keks.open_private && i == k->keks.open))
            r = drop_at(k, i);
    return r;
}

static const char *const configurable[] = {KEK_SCRYPT, KEK_KEY_FILE, KEK_CREDENTIAL, KEK_PKCS11};

int kek_add_configured(struct keeper *k, struct sp_why *why)
{
    bool any = false;
    for (size_t i = 0; i < SP_COUNT(configurable); i++) {
        SP_SECRET struct sp_secret *material = NULL;
        int r = kek_material(k, configurable[i], &material, why);
        if (r == -ENOENT)
            continue;
        if (r == 0)
            r = drop_kind(k, configurable[i]);
        if (r == 0)
            r = kek_add(k, configurable[i], material, why);
        if (r == 0 && k->keks.open_private)
            r = wrap_all_for(k, k->keks.count - 1, NULL);
        if (r < 0)
            return r;
        any = true;
    }
    return any ? 0 : kek_none_configured(why);
}

int kek_change(struct keeper *k, const char *kind, const struct sp_secret *material,
               uint64_t *ret_deks, struct sp_why *why)
{
    int r = strcmp(kind, KEK_KIT) == 0 ? drop_kind(k, kind) : 0;
    if (r == 0)
        r = kek_add(k, kind, material, why);
    return r < 0 ? r : wrap_all_for(k, k->keks.count - 1, ret_deks);
}

/* Another KEK than this one, by what is configured. */
static int open_another(struct keeper *k, size_t but, struct sp_why *why)
{
    for (size_t i = 0; i < k->keks.count; i++) {
        SP_SECRET struct sp_secret *material = NULL;
        struct sp_why ignored = {""};
        if (i != but && kek_material(k, k->keks.items[i].kind, &material, &ignored) == 0 &&
            open_one(k, i, material, &ignored) == 0)
            return 0;
    }
    return sp_why_set(why, -ESTALE,
                      "the keeper is open by this KEK, and keeper.conf opens no other: add one "
                      "first");
}

int kek_remove(struct keeper *k, const char *kek_id, struct sp_why *why)
{
    size_t i = 0;
    while (i < k->keks.count && strcmp(k->keks.items[i].kek_id, kek_id) != 0)
        i++;
    if (i == k->keks.count)
        return sp_why_set(why, -ENOENT, "there is no KEK '%.60s'", kek_id);
    if (strcmp(k->keks.items[i].kind, KEK_KIT) == 0)
        return sp_why_set(why, -EPERM,
                          "without its recovery kit a keystore dies with its host: 'sealpoint kek "
                          "add recovery-kit' puts a new one in its place");
    int r = i == k->keks.open ? open_another(k, i, why) : 0;
    return r < 0 ? r : drop_at(k, i);
}

void kek_restore(struct kek_set *set, const struct kek_set *before)
{
    char open_id[37];
    snprintf(open_id, sizeof(open_id), "%s", set->items[set->open].kek_id);
    memcpy(set->items, before->items, sizeof(set->items));
    set->count = before->count;
    for (size_t i = 0; i < set->count; i++)
        if (strcmp(set->items[i].kek_id, open_id) == 0)
            set->open = i;
}

int kek_describe(struct keeper *k, size_t index, Sp__Kek **ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    const struct kek *kek = &k->keks.items[index];
    Sp__Kek *out = MESSAGE_NEW(Sp__Kek, sp__kek__init);
    if (!out)
        return -ENOMEM;
    *ret = out;
    out->open = k->keks.open_private && k->keks.open == index;
    out->configured = is_configured(k, kek->kind);
    int r = message_text(&out->kek_id, kek->kek_id);
    if (r == 0)
        r = message_text(&out->kind, kek->kind);
    if (r == 0)
        r = store_query(k->store, &stmt, "SELECT created_ms FROM keks WHERE kek_id=?", "s",
                        kek->kek_id);
    if (r == 0)
        r = store_step(stmt);
    if (r == 1)
        out->created_unix_ms = (uint64_t)store_int(stmt, 0);
    return r < 0 ? r : 0;
}

void kek_forget(struct kek_set *set)
{
    sp_secret_free(set->open_private);
    memset(set, 0, sizeof(*set));
}
