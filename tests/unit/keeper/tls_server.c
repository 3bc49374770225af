/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tls_server.h"

#include "rig.h"

#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

char tls_ca_file[] = "/tmp/sp-tls-ca.XXXXXX", tls_other_ca[] = "/tmp/sp-tls-other.XXXXXX",
     tls_key_file[] = "/tmp/sp-tls-key.XXXXXX";
static EVP_PKEY *key;
static X509 *certificate;

static X509 *make_certificate(EVP_PKEY *with)
{
    X509 *x = X509_new();
    X509_NAME *name = X509_get_subject_name(x);
    X509V3_CTX v3;
    assert_int_equal(X509_set_version(x, 2), 1);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"lab", -1, -1, 0);
    X509_set_issuer_name(x, name);
    X509_set_pubkey(x, with);
    X509V3_set_ctx(&v3, x, x, NULL, NULL, 0);
    static const struct {
        int nid;
        const char *value;
    } extensions[] = {{NID_basic_constraints, "critical,CA:TRUE"},
                      {NID_subject_alt_name, "IP:127.0.0.1"}};
    for (size_t i = 0; i < SP_COUNT(extensions); i++) {
        X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &v3, extensions[i].nid, extensions[i].value);
        assert_non_null(e);
        X509_add_ext(x, e, -1);
        X509_EXTENSION_free(e);
    }
    assert_true(X509_sign(x, with, EVP_sha256()) > 0);
    return x;
}

static void write_certificate(char *path, X509 *x)
{
    int fd = mkstemp(path);
    SP_FILE FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, x), 1);
}

static void write_key(char *path, EVP_PKEY *of)
{
    int fd = mkstemp(path); /* of mode 0600 */
    SP_FILE FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, of, NULL, NULL, 0, NULL, NULL), 1);
}

static void serve_one(struct tls_server *s, int fd)
{
    char byte;
    if (s->silent) {
        while (read(fd, &byte, 1) > 0)
            ;
        return;
    }
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate(ctx, certificate);
    SSL_CTX_use_PrivateKey(ctx, key);
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1)
        s->serve(ssl);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
}

static void *server_main(void *self)
{
    struct tls_server *s = self;
    int fd;
    while ((fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        serve_one(s, fd);
        close(fd);
    }
    return NULL;
}

void tls_server_start(struct tls_server *s)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(s->listener, 8), 0);
    assert_int_equal(getsockname(s->listener, (struct sockaddr *)&at, &size), 0);
    s->port = ntohs(at.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
}

void tls_server_end(struct tls_server *s)
{
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->listener);
}

void tls_server_setup(void)
{
    signal(SIGPIPE, SIG_IGN); /* as the keeper does */
    key = EVP_EC_gen("P-256");
    certificate = make_certificate(key);
    write_certificate(tls_ca_file, certificate);
    write_key(tls_key_file, key);
    EVP_PKEY *other = EVP_EC_gen("P-256");
    X509 *x = make_certificate(other);
    write_certificate(tls_other_ca, x);
    X509_free(x);
    EVP_PKEY_free(other);
}

void tls_server_teardown(void)
{
    unlink(tls_ca_file);
    unlink(tls_other_ca);
    unlink(tls_key_file);
    X509_free(certificate);
    EVP_PKEY_free(key);
}
