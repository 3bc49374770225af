/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/kmip_link.h"

#include "base/clock.h"
#include "controller/keeper/providers/kmip_message.h"
#include "controller/keeper/providers/tcp.h"
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <string.h>

struct kmip_link {
    SSL_CTX *ctx;
    SSL *ssl;
    int fd;
    uint64_t deadline_ms;
};

SP_DEFINE_CLEANUP(bio, BIO *, BIO_free_all)
SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)

/* ---- what went wrong ---- */

/* Alerts by which a server says that it does not want this client; RFC 8446, 6.2. */
static bool is_refusal(int reason)
{
    switch (reason) {
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return true;
    default:
        return false;
    }
}

static const char *said(unsigned long error)
{
    const char *text = error ? ERR_reason_error_string(error) : NULL;
    return text ? text : "the server ended the connection";
}

static int refused(unsigned long error, provider_stage *stage, struct sp_why *why)
{
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION;
    return sp_why_set(why, -EACCES,
                      "the server refuses the client certificate: certificate_file must be valid "
                      "now and signed by a CA that the server trusts for clients (%s)",
                      said(error));
}

static int no_tls(struct kmip_link *l, unsigned long error, provider_stage *stage,
                  struct sp_why *why)
{
    long verified = SSL_get_verify_result(l->ssl);
    if (is_refusal(ERR_GET_REASON(error)))
        return refused(error, stage, why);
    if (verified != X509_V_OK)
        return sp_why_set(
            why, -ENOTCONN,
            "no trusted TLS: the server's certificate must be for 'host', valid now, and signed by "
            "a CA of ca_file (%s)",
            X509_verify_cert_error_string(verified));
    return sp_why_set(why, -ENOTCONN,
                      "no TLS: the server must speak TLS 1.2 or later on this port, with a cipher "
                      "suite that this host allows (%s)",
                      said(error));
}

/* ---- waiting ---- */

/* After a call of OpenSSL that gave n <= 0. 0: again; else it failed, *ret_error is OpenSSL's. */
static int wait_for(struct kmip_link *l, int n, unsigned long *ret_error, struct sp_why *why)
{
    struct pollfd p = {.fd = l->fd};
    *ret_error = 0;
    switch (SSL_get_error(l->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        p.events = POLLIN;
        break;
    case SSL_ERROR_WANT_WRITE:
        p.events = POLLOUT;
        break;
    default:
        *ret_error = ERR_peek_error();
        return -ECONNRESET;
    }
    uint64_t left = tcp_left_ms(l->deadline_ms);
    int ready = left > 0 ? poll(&p, 1, (int)left) : 0;
    if (ready == 0)
        return tcp_too_late(why);
    return ready < 0 && errno != EINTR ? -errno : 0;
}

static int lost(unsigned long error, provider_stage *stage, struct sp_why *why)
{
    if (is_refusal(ERR_GET_REASON(error))) /* with TLS 1.3 it is told after the handshake */
        return refused(error, stage, why);
    return sp_why_set(why, -ECONNRESET,
                      "the server ended the connection in the middle of a question (%s): its log "
                      "says why",
                      said(error));
}

static int transfer(struct kmip_link *l, bool out, uint8_t *data, size_t size,
                    provider_stage *stage, struct sp_why *why)
{
    unsigned long error;
    for (size_t done = 0; done < size;) {
        size_t now = 0;
        ERR_clear_error();
        int n = out ? SSL_write_ex(l->ssl, data + done, size - done, &now)
                    : SSL_read_ex(l->ssl, data + done, size - done, &now);
        done += now;
        if (n == 1)
            continue;
        int r = wait_for(l, n, &error, why);
        if (r < 0)
            return r == -ECONNRESET ? lost(error, stage, why) : r;
    }
    return 0;
}

/* ---- certificates ---- */

/* No passphrase is asked for on a terminal. */
static int no_passphrase(char *buffer, int size, int writing, void *self)
{
    (void)buffer, (void)size, (void)writing, (void)self;
    return -1;
}

static int use_key(struct kmip_link *l, const struct kmip_link_options *o,
                   const struct sp_secret *secret, struct sp_why *why)
{
    SP_CLEANUP(bio)
    BIO *bio = BIO_new_mem_buf(sp_secret_data(secret), (int)sp_secret_size(secret));
    SP_CLEANUP(pkey)
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    if (!key)
        return sp_why_set(why, -EINVAL,
                          "the client's key is no private key in PEM form, without a passphrase");
    if (SSL_CTX_use_PrivateKey(l->ctx, key) != 1 || SSL_CTX_check_private_key(l->ctx) != 1)
        return sp_why_set(why, -EINVAL, "the client's key is not that of certificate_file %s",
                          o->certificate_file);
    return 0;
}

static int use_certificate(struct kmip_link *l, const struct kmip_link_options *o,
                           const struct sp_secret *key, struct sp_why *why)
{
    if (SSL_CTX_use_certificate_chain_file(l->ctx, o->certificate_file) != 1)
        return sp_why_set(why, -EINVAL,
                          "the keeper cannot read a certificate in PEM form, fit for TLS today, "
                          "from certificate_file %s",
                          o->certificate_file);
    return use_key(l, o, key, why);
}

static int trust(struct kmip_link *l, const struct kmip_link_options *o, struct sp_why *why)
{
    if (!o->ca_file || !*o->ca_file)
        return SSL_CTX_set_default_verify_paths(l->ctx) == 1 ? 0 : -EIO;
    if (SSL_CTX_load_verify_file(l->ctx, o->ca_file) != 1)
        return sp_why_set(
            why, -EINVAL,
            "ca_file %s cannot be read by the keeper, or holds no certificates in PEM "
            "form",
            o->ca_file);
    return 0;
}

/* ---- connection ---- */

static int prepare(struct kmip_link *l, const struct kmip_link_options *o,
                   const struct sp_secret *key, struct sp_why *why)
{
    l->ctx = SSL_CTX_new(TLS_client_method());
    if (!l->ctx || SSL_CTX_set_min_proto_version(l->ctx, TLS1_2_VERSION) != 1)
        return -ENOMEM;
    SSL_CTX_set_options(l->ctx, SSL_OP_CLEANSE_PLAINTEXT | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_verify(l->ctx, SSL_VERIFY_PEER, NULL);
    int r = trust(l, o, why);
    if (r == 0)
        r = use_certificate(l, o, key, why);
    if (r < 0)
        return r;
    l->ssl = SSL_new(l->ctx);
    if (!l->ssl)
        return -ENOMEM;
    /* An address is looked for among the certificate's addresses, and is no name to ask for. */
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(l->ssl), o->host) == 1)
        return 0;
    return SSL_set1_host(l->ssl, o->host) == 1 && SSL_set_tlsext_host_name(l->ssl, o->host) == 1
               ? 0
               : -ENOMEM;
}

static int shake_hands(struct kmip_link *l, provider_stage *stage, struct sp_why *why)
{
    unsigned long error;
    int n, r;
    do {
        ERR_clear_error();
        n = SSL_connect(l->ssl);
        r = n == 1 ? 0 : wait_for(l, n, &error, why);
    } while (n != 1 && r == 0);
    return r == -ECONNRESET ? no_tls(l, error, stage, why) : r;
}

int kmip_link_open(const struct kmip_link_options *o, struct kmip_link **ret, struct sp_why *why)
{
    char port[8];
    KMIP_LINK struct kmip_link *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + o->timeout_ms;
    snprintf(port, sizeof(port), "%u", o->port);
    l->fd = tcp_connect(o->host, port, "a KMIP server", l->deadline_ms, why);
    if (l->fd < 0)
        return l->fd;
    *ret = sp_steal(l);
    return 0;
}

int kmip_link_secure(struct kmip_link *l, const struct kmip_link_options *o,
                     const struct sp_secret *key, provider_stage *stage, struct sp_why *why)
{
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS;
    ERR_clear_error();
    int r = prepare(l, o, key, why);
    if (r == 0 && SSL_set_fd(l->ssl, l->fd) != 1)
        r = -ENOMEM;
    if (r == 0)
        r = shake_hands(l, stage, why);
    if (r == 0)
        *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION;
    return r;
}

void kmip_link_close(struct kmip_link *l)
{
    if (!l)
        return;
    SSL_free(l->ssl);
    SSL_CTX_free(l->ctx);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
    ERR_clear_error();
}

int kmip_link_ask(struct kmip_link *l, struct sp_bytes request, struct sp_secret **ret,
                  provider_stage *stage, struct sp_why *why)
{
    uint8_t header[TTLV_HEADER_BYTES];
    int r = transfer(l, true, (uint8_t *)(uintptr_t)request.data, request.size, stage, why);
    if (r == 0)
        r = transfer(l, false, header, sizeof(header), stage, why);
    if (r < 0)
        return r;
    size_t size = kmip_answer_size(header);
    if (size == 0)
        return sp_why_set(why, -EPROTO,
                          "what answers is no KMIP server: 'host' and 'port' must be those of its "
                          "TTLV interface (5696, unless changed there)");
    if (size > KMIP_ANSWER_MOST)
        return sp_why_set(
            why, -EPROTO,
            "the server's answer is longer than %d bytes, which no answer is that was "
            "asked for",
            KMIP_ANSWER_MOST);
    SP_SECRET struct sp_secret *answer = sp_secret_new(size);
    if (!answer)
        return -ENOMEM;
    memcpy(sp_secret_data(answer), header, sizeof(header));
    r = transfer(l, false, sp_secret_data(answer) + sizeof(header), size - sizeof(header), stage,
                 why);
    if (r < 0)
        return r;
    if (SSL_pending(l->ssl) > 0)
        return sp_why_set(why, -EPROTO,
                          "the server sends more than the answer that was asked for: is it a KMIP "
                          "server, and nothing else between?");
    *ret = sp_steal(answer);
    return 0;
}
