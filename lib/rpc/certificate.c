/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The server's certificate, key and trust bundle, read again when one of the files changes. Core
 * asks before every handshake, on any of its threads. While the three do not belong together (they
 * are replaced one after the other) the old set goes on serving. */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/secret.h"
#include "internal.h"
#include <errno.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CERTIFICATE, KEY, TRUST, FILES, MOST_BYTES = 1 << 20 };

static const char *const what[FILES] = {"certificate", "key", "trust bundle"};

struct stamp {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec changed;
};

struct rpc_certificate {
    char *paths[FILES];
    pthread_mutex_t lock; /* guards what follows */
    struct stamp stamps[FILES];
    bool loaded;
};

struct texts {
    char *text[FILES];
    size_t size[FILES];
};

static void texts_free(struct texts *t)
{
    for (int i = 0; i < FILES; i++) {
        if (t->text[i])
            sp_wipe(t->text[i], t->size[i]);
        free(t->text[i]);
    }
}

SP_DEFINE_CLEANUP(bio, BIO *, BIO_free)
SP_DEFINE_CLEANUP(key, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(x509, X509 *, X509_free)

/* A key that asks for a passphrase has none here. */
static int no_passphrase(char *out, int size, int writing, void *arg)
{
    (void)out, (void)size, (void)writing, (void)arg;
    return -1;
}

/* Do the three belong together? */
static int check(const struct rpc_certificate *c, const struct texts *t, struct sp_why *why)
{
    SP_CLEANUP(x509) X509 *leaf = NULL;
    SP_CLEANUP(x509) X509 *root = NULL;
    SP_CLEANUP(key) EVP_PKEY *key = NULL;
    SP_CLEANUP(bio) BIO *bio = BIO_new_mem_buf(t->text[KEY], (int)t->size[KEY]);

    if (sp_certificate_from_pem(t->text[CERTIFICATE], t->size[CERTIFICATE], &leaf) < 0)
        return sp_why_set(why, -EINVAL, "%s holds no certificate", c->paths[CERTIFICATE]);
    if (sp_certificate_from_pem(t->text[TRUST], t->size[TRUST], &root) < 0)
        return sp_why_set(why, -EINVAL, "%s holds no certificate", c->paths[TRUST]);
    if (bio)
        key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    if (!key)
        return sp_why_set(why, -EINVAL, "%s holds no private key", c->paths[KEY]);
    if (X509_check_private_key(leaf, key) != 1)
        return sp_why_set(why, -EINVAL, "the key in %s is not the one of the certificate in %s",
                          c->paths[KEY], c->paths[CERTIFICATE]);
    return 0;
}

static int read_all(const struct rpc_certificate *c, struct texts *ret, struct sp_why *why)
{
    for (int i = 0; i < FILES; i++) {
        int rc = sp_file_read(c->paths[i], MOST_BYTES, &ret->text[i], &ret->size[i]);
        if (rc < 0)
            return sp_why_set(why, rc, "cannot read the %s %s: %s", what[i], c->paths[i],
                              strerror(-rc));
    }
    return check(c, ret, why);
}

static int read_stamps(const struct rpc_certificate *c, struct stamp out[FILES])
{
    for (int i = 0; i < FILES; i++) {
        struct stat st;
        if (stat(c->paths[i], &st) < 0)
            return -errno;
        out[i] = (struct stamp){st.st_dev, st.st_ino, st.st_size, st.st_mtim};
    }
    return 0;
}

static bool same_stamps(const struct stamp *a, const struct stamp *b)
{
    for (int i = 0; i < FILES; i++)
        if (a[i].device != b[i].device || a[i].inode != b[i].inode || a[i].size != b[i].size ||
            a[i].changed.tv_sec != b[i].changed.tv_sec ||
            a[i].changed.tv_nsec != b[i].changed.tv_nsec)
            return false;
    return true;
}

/* The stamps are taken before the files are read: a change in between is seen the next time. */
static grpc_ssl_certificate_config_reload_status load(struct rpc_certificate *c,
                                                      grpc_ssl_server_certificate_config **ret)
{
    __attribute__((cleanup(texts_free))) struct texts t = {0};
    struct stamp stamps[FILES] = {0};
    struct sp_why why = {0};
    grpc_ssl_certificate_config_reload_status otherwise =
        c->loaded ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED
                  : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;

    if (read_stamps(c, stamps) < 0)
        return otherwise;
    if (c->loaded && same_stamps(stamps, c->stamps))
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    if (read_all(c, &t, &why) < 0) {
        sp_log(SP_LOG_DEBUG, "certificate not reloaded", "why", why.text, NULL);
        return otherwise;
    }
    grpc_ssl_pem_key_cert_pair pair = {t.text[KEY], t.text[CERTIFICATE]};
    *ret = grpc_ssl_server_certificate_config_create(t.text[TRUST], &pair, 1);
    memcpy(c->stamps, stamps, sizeof stamps);
    c->loaded = true;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

static grpc_ssl_certificate_config_reload_status fetch(void *self,
                                                       grpc_ssl_server_certificate_config **ret)
{
    struct rpc_certificate *c = self;

    pthread_mutex_lock(&c->lock);
    grpc_ssl_certificate_config_reload_status status = load(c, ret);
    pthread_mutex_unlock(&c->lock);
    return status;
}

/* TLS lets callers without a certificate in: the method tables decide (permission.c). One that
 * does not verify ends the handshake. */
grpc_server_credentials *rpc_certificate_credentials(struct rpc_certificate *c)
{
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY, fetch, c));
}

int rpc_certificate_new(const char *certificate_path, const char *key_path, const char *trust_path,
                        struct rpc_certificate **ret, struct sp_why *why)
{
    __attribute__((cleanup(texts_free))) struct texts t = {0};
    const char *paths[FILES] = {certificate_path, key_path, trust_path};
    struct rpc_certificate *c = calloc(1, sizeof *c);
    int rc = c ? 0 : -ENOMEM;

    if (rc < 0)
        return rc;
    pthread_mutex_init(&c->lock, NULL);
    for (int i = 0; i < FILES && rc == 0; i++) {
        if (!paths[i])
            rc = sp_why_set(why, -EINVAL, "no path of the %s is set", what[i]);
        else if (!(c->paths[i] = strdup(paths[i])))
            rc = -ENOMEM;
    }
    if (rc == 0)
        rc = read_all(c, &t, why);
    if (rc < 0) {
        rpc_certificate_free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

void rpc_certificate_free(struct rpc_certificate *c)
{
    if (!c)
        return;
    for (int i = 0; i < FILES; i++)
        free(c->paths[i]);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
