/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A channel to a controller, and the check of who answers: TLS compares the certificate with the
 * trust bundle, with SP_CONTROLLER_DNS and with its purpose (serverAuth); the pin then wants the
 * SPIFFE id of a controller of the right domain. All before the first byte of a call is sent. */
#include "base/cleanup.h"
#include "base/file.h"
#include "internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BACKOFF_MS = 500, LEAST_BACKOFF_MS = 5000, MOST_BACKOFF_MS = 30000 };

/* Shared by the channel and core's credentials, which core lets go of in its own time. */
struct rpc_pin {
    atomic_uint refs;
    char *domain; /* NULL: any */
    pthread_mutex_t lock;
    struct sp_why refusal; /* under lock */
};

SP_DEFINE_CLEANUP(x509, X509 *, X509_free)

static void pin_unref(void *self)
{
    struct rpc_pin *pin = self;
    if (pin)
        RPC_TAG_OUT(pin);
    if (!pin || atomic_fetch_sub(&pin->refs, 1) != 1)
        return;
    free(pin->domain);
    pthread_mutex_destroy(&pin->lock);
    free(pin);
}

static struct rpc_pin *pin_new(const char *domain)
{
    struct rpc_pin *pin = calloc(1, sizeof *pin);
    if (!pin)
        return NULL;
    atomic_init(&pin->refs, 1);
    pthread_mutex_init(&pin->lock, NULL);
    if (domain && !(pin->domain = strdup(domain))) {
        pin_unref(pin);
        return NULL;
    }
    return pin;
}

static int check_peer(const struct rpc_pin *pin, const char *pem, struct sp_why *why)
{
    SP_CLEANUP(x509) X509 *leaf = NULL;
    struct sp_identity who = {0};
    char text[320];

    if (!pem || sp_certificate_from_pem(pem, strlen(pem), &leaf) < 0 ||
        sp_identity_of_certificate(leaf, &who) < 0)
        return sp_why_set(why, -EKEYREJECTED, "the server's certificate names no identity");
    if (who.kind != SP_IDENTITY_CONTROLLER)
        return sp_why_set(why, -EKEYREJECTED, "the server is %s, which is no controller",
                          sp_identity_text(&who, text, sizeof text));
    if (pin->domain && strcmp(pin->domain, who.domain) != 0)
        return sp_why_set(why, -EKEYREJECTED, "the server is %s, not a controller of domain %s",
                          sp_identity_text(&who, text, sizeof text), pin->domain);
    return 0;
}

/* On core's threads, in every handshake. Not 0: the connection ends. */
static int verify_peer(const char *target_name, const char *pem, void *self)
{
    struct rpc_pin *pin = self;
    struct sp_why why = {0};

    (void)target_name;
    RPC_TAG_OUT(pin);
    int rc = check_peer(pin, pem, &why);
    pthread_mutex_lock(&pin->lock);
    pin->refusal = why;
    pthread_mutex_unlock(&pin->lock);
    return rc < 0 ? 1 : 0;
}

void rpc_channel_refusal(struct rpc_channel *channel, struct sp_why *ret)
{
    pthread_mutex_lock(&channel->pin->lock);
    *ret = channel->pin->refusal;
    pthread_mutex_unlock(&channel->pin->lock);
}

/* "[::1]:9443" → "ipv6:%5B::1%5D:9443", "192.0.2.1:9443" → "ipv4:192.0.2.1:9443", else
 * "dns:///name:port": a literal needs no resolver. */
static char *target_uri(const char *target)
{
    const char *colon = strrchr(target, ':');
    struct in_addr v4;
    struct in6_addr v6;
    char host[INET6_ADDRSTRLEN + 1];

    if (!colon)
        return sp_format("dns:///%s", target);
    size_t size = (size_t)(colon - target);
    bool bracketed = size > 2 && target[0] == '[' && target[size - 1] == ']';
    const char *from = bracketed ? target + 1 : target;
    size_t length = bracketed ? size - 2 : size;
    if (length >= sizeof host)
        return sp_format("dns:///%s", target);
    memcpy(host, from, length);
    host[length] = 0;
    if (bracketed && inet_pton(AF_INET6, host, &v6) == 1)
        return sp_format("ipv6:%%5B%s%%5D%s", host, colon);
    if (!bracketed && inet_pton(AF_INET, host, &v4) == 1)
        return sp_format("ipv4:%s", target);
    return sp_format("dns:///%s", target);
}

static grpc_channel_credentials *make_credentials(const struct rpc_channel_options *o,
                                                  struct rpc_pin *pin)
{
    grpc_ssl_pem_key_cert_pair pair = {o->key_pem, o->certificate_pem};
    grpc_ssl_verify_peer_options verify = {.verify_peer_callback = verify_peer,
                                           .verify_peer_callback_userdata = pin,
                                           .verify_peer_destruct = pin_unref};
    bool has_pair = o->key_pem && o->certificate_pem;

    RPC_TAG_IN(pin);
    atomic_fetch_add(&pin->refs, 1); /* verify_peer_destruct gives it back */
    return grpc_ssl_credentials_create_ex(o->trust_pem, has_pair ? &pair : NULL, &verify, NULL);
}

static grpc_channel *create(const struct rpc_channel_options *o, uint32_t max_message,
                            grpc_channel_credentials *credentials)
{
    int keepalive = (int)(o->keepalive_ms ? o->keepalive_ms : RPC_DEFAULT_KEEPALIVE_MS);
    int timeout =
        (int)(o->keepalive_timeout_ms ? o->keepalive_timeout_ms : RPC_DEFAULT_KEEPALIVE_TIMEOUT_MS);
    grpc_arg args[] = {
        {.type = GRPC_ARG_STRING,
         .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
         .value.string = (char *)SP_CONTROLLER_DNS},
        rpc_int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max_message),
        rpc_int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive),
        rpc_int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, timeout),
        rpc_int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        rpc_int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, FIRST_BACKOFF_MS),
        rpc_int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, LEAST_BACKOFF_MS),
        rpc_int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, MOST_BACKOFF_MS),
        rpc_int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        rpc_int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        /* Or a stream keeps up to 256 KiB for a replay. */
        rpc_int_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        rpc_int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        /* A channel's end is its connection's end. */
        rpc_int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        rpc_int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        rpc_int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
    };
    grpc_channel_args all = {SP_COUNT(args), args};
    SP_FREE char *uri = target_uri(o->target);

    return uri ? grpc_channel_create(uri, credentials, &all) : NULL;
}

static uint64_t expiry(const char *certificate_pem)
{
    SP_CLEANUP(x509) X509 *leaf = NULL;

    if (!certificate_pem ||
        sp_certificate_from_pem(certificate_pem, strlen(certificate_pem), &leaf) < 0)
        return 0;
    return sp_certificate_expires_unix_ms(leaf);
}

int rpc_channel_new(const struct rpc_channel_options *o, struct rpc_channel **ret,
                    struct sp_why *why)
{
    if (!o->target || !o->trust_pem)
        return sp_why_set(why, -EINVAL, "a channel needs an address and a trust bundle");
    struct rpc_channel *channel = calloc(1, sizeof *channel);
    if (!channel)
        return -ENOMEM;
    rpc_setup();
    channel->max_message = o->max_message_bytes ? o->max_message_bytes : RPC_DEFAULT_MAX_MESSAGE;
    channel->expires_unix_ms = expiry(o->certificate_pem);
    channel->target = strdup(o->target);
    channel->pin = pin_new(o->domain);
    if (channel->target && channel->pin) {
        grpc_channel_credentials *credentials = make_credentials(o, channel->pin);
        if (credentials)
            channel->channel = create(o, channel->max_message, credentials);
        grpc_channel_credentials_release(credentials);
    }
    if (!channel->channel) {
        rpc_channel_free(channel);
        return -ENOMEM;
    }
    *ret = channel;
    return 0;
}

void rpc_channel_free(struct rpc_channel *channel)
{
    if (!channel)
        return;
    if (channel->channel)
        grpc_channel_destroy(channel->channel);
    pin_unref(channel->pin);
    free(channel->target);
    free(channel);
    rpc_teardown();
}
