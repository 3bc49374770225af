/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/ldap_link.h"

#include "base/clock.h"
#include "base/file.h"
#include "controller/keeper/providers/tcp.h"
#include <fcntl.h>
#include <openldap.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

enum {
    ANSWER_MOST = 256 * 1024, /* one LDAP message */
    MESSAGES_MOST = 256,      /* of one search, references included */
    SAID_BYTES = 160          /* of the server's own words */
};

static const char system_cas[] = "/etc/ssl/certs/ca-certificates.crt";

/* libldap bounds waiting for an answer, but neither a TLS handshake nor an answer that comes byte
 * by byte. So a thread shuts the socket down at the deadline, and whatever call hangs there
 * returns. */
struct watch {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stopped;
    int fd;
    uint64_t deadline_ms;
    bool stop, fired, started;
};

struct ldap_link {
    LDAP *ld;
    struct watch watch;
};

struct ldap_entry {
    LDAP *ld;
    LDAPMessage *message;
};

/* ---- the deadline ---- */

static void *watch_main(void *self)
{
    struct watch *w = self;
    const struct timespec end = {.tv_sec = (time_t)(w->deadline_ms / 1000),
                                 .tv_nsec = (long)(w->deadline_ms % 1000) * 1000000};
    pthread_mutex_lock(&w->lock);
    int r = 0;
    while (!w->stop && r != ETIMEDOUT)
        r = pthread_cond_clockwait(&w->stopped, &w->lock, CLOCK_MONOTONIC, &end);
    if (!w->stop) {
        w->fired = true;
        shutdown(w->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static int watch_start(struct watch *w, int fd)
{
    w->fd = fd;
    int r = pthread_create(&w->thread, NULL, watch_main, w);
    w->started = r == 0;
    return -r;
}

static void watch_stop(struct watch *w)
{
    if (!w->started)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->stopped);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    w->started = false;
}

static bool watch_fired(struct watch *w)
{
    pthread_mutex_lock(&w->lock);
    bool fired = w->fired;
    pthread_mutex_unlock(&w->lock);
    return fired;
}

static uint64_t left_ms(const struct watch *w)
{
    return tcp_left_ms(w->deadline_ms);
}

/* ---- words ---- */

/* What the server or libldap says, made harmless; "" when nothing. */
static const char *said(struct ldap_link *l, char out[SAID_BYTES])
{
    char *text = NULL;
    out[0] = 0;
    if (ldap_get_option(l->ld, LDAP_OPT_DIAGNOSTIC_MESSAGE, &text) != LDAP_OPT_SUCCESS || !text)
        return out;
    /* What libldap makes of an error that it has no words for. */
    if (strstr(text, "unknown error code") == NULL)
        snprintf(out, SAID_BYTES, "%s", text);
    for (char *p = out; *p; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
    ldap_memfree(text);
    return out;
}

/* AD says in a hexadecimal code why an account was not let in. */
static const struct {
    const char *code, *says;
} refusals[] = {
    {"data 52e", "user or password is wrong: correct bind_dn and the password"},
    {"data 525", "there is no such user: correct bind_dn"},
    {"data 530", "the user may not log on at this time"},
    {"data 531", "the user may not log on from this host"},
    {"data 532", "the user's password has expired: set a new one, that does not expire"},
    {"data 533", "the user is disabled: enable it"},
    {"data 701", "the user's account has expired: extend it"},
    {"data 773", "the user must change the password first: set a new one, that does not expire"},
    {"data 775", "the user is locked out: unlock it"},
};

static int refused(struct ldap_link *l, struct sp_why *why)
{
    char text[SAID_BYTES];
    said(l, text);
    for (size_t i = 0; i < SP_COUNT(refusals); i++)
        if (strstr(text, refusals[i].code))
            return sp_why_set(why, -EACCES, "the server refuses the log-on: %s", refusals[i].says);
    return sp_why_set(why, -EACCES,
                      "the server refuses the log-on: check bind_dn and the password (it says: "
                      "%s)",
                      *text ? text : "nothing");
}

static int explain(struct ldap_link *l, int code, const char *doing, struct sp_why *why)
{
    char text[SAID_BYTES];
    if (watch_fired(&l->watch))
        return tcp_too_late(why);
    switch (code) {
    case LDAP_NO_MEMORY:
        return -ENOMEM;
    case LDAP_INVALID_CREDENTIALS:
    case LDAP_INAPPROPRIATE_AUTH:
        return refused(l, why);
    case LDAP_INSUFFICIENT_ACCESS:
    case LDAP_STRONG_AUTH_REQUIRED:
    case LDAP_CONFIDENTIALITY_REQUIRED:
    case LDAP_UNWILLING_TO_PERFORM:
        return sp_why_set(why, -EACCES, "the server does not allow %s (it says: %s)", doing,
                          said(l, text));
    case LDAP_NO_SUCH_OBJECT:
        return sp_why_set(why, -EACCES,
                          "%s: the place is not there, or is not shown to this user: check 'base' "
                          "and the user's rights",
                          doing);
    case LDAP_REFERRAL:
        return sp_why_set(
            why, -EREMOTE,
            "%s: the server sends us to another one, which is not followed: 'url' must "
            "name a server that holds 'base' itself",
            doing);
    case LDAP_TIMEOUT:
        return tcp_too_late(why);
    default:
        return sp_why_set(why, -EHOSTUNREACH, "%s failed: %s%s%s", doing, ldap_err2string(code),
                          *said(l, text) ? ": " : "", text);
    }
}

/* ---- connection ---- */

int ldap_link_check_url(const char *url, struct sp_why *why)
{
    LDAPURLDesc *u = NULL;
    int r = 0;
    if (!url || ldap_url_parse(url, &u) != LDAP_URL_SUCCESS || !u->lud_host || !*u->lud_host ||
        (strcmp(u->lud_scheme, "ldap") != 0 && strcmp(u->lud_scheme, "ldaps") != 0))
        r = sp_why_set(why, -EINVAL,
                       "url is ldaps://HOST[:PORT], or ldap://HOST[:PORT] (with StartTLS): HOST is "
                       "the name in the server's certificate");
    if (u)
        ldap_free_urldesc(u);
    return r;
}

/* libldap wants a socket that blocks. */
static int connect_to(const struct watch *w, const LDAPURLDesc *u, struct sp_why *why)
{
    char port[8];
    snprintf(port, sizeof(port), "%d", u->lud_port & 0xffff);
    SP_FD int fd = tcp_connect(u->lud_host, port, "LDAP", w->deadline_ms, why);
    if (fd < 0)
        return sp_steal_fd(&fd);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return -errno;
    return sp_steal_fd(&fd);
}

static bool set(LDAP *ld, int option, const void *value)
{
    return ldap_set_option(ld, option, value) == LDAP_OPT_SUCCESS;
}

static bool set_bounds(LDAP *ld)
{
    const int version = LDAP_VERSION3;
    ber_len_t most = ANSWER_MOST;
    Sockbuf *sockbuf = NULL;
    return set(ld, LDAP_OPT_PROTOCOL_VERSION, &version) &&
           set(ld, LDAP_OPT_REFERRALS, LDAP_OPT_OFF) && set(ld, LDAP_OPT_RESTART, LDAP_OPT_ON) &&
           ldap_get_option(ld, LDAP_OPT_SOCKBUF, &sockbuf) == LDAP_OPT_SUCCESS &&
           ber_sockbuf_ctrl(sockbuf, LBER_SB_OPT_SET_MAX_INCOMING, &most) >= 0;
}

/* Everything by the handle: nothing of ldap.conf or the environment counts (ad.c, LDAPNOINIT). */
static int set_options(struct ldap_link *l, const char *ca_file, struct sp_why *why)
{
    const int demand = LDAP_OPT_X_TLS_DEMAND, client = 0;
    const int least = LDAP_OPT_X_TLS_PROTOCOL_TLS1_2;
    if (!ca_file || !*ca_file)
        ca_file = system_cas;
    if (access(ca_file, R_OK) < 0)
        return sp_why_set(why, -errno, "the keeper cannot read ca_file %s", ca_file);
    if (!set_bounds(l->ld) || !set(l->ld, LDAP_OPT_X_TLS_CACERTFILE, ca_file) ||
        !set(l->ld, LDAP_OPT_X_TLS_REQUIRE_CERT, &demand) ||
        !set(l->ld, LDAP_OPT_X_TLS_PROTOCOL_MIN, &least))
        return sp_why_set(why, -EIO, "libldap does not take its options");
    if (!set(l->ld, LDAP_OPT_X_TLS_NEWCTX, &client))
        return sp_why_set(why, -EINVAL, "ca_file %s holds no certificates in PEM form", ca_file);
    return 0;
}

static int start_tls(struct ldap_link *l, bool at_once, struct sp_why *why)
{
    char text[SAID_BYTES];
    int code = at_once ? ldap_install_tls(l->ld) : ldap_start_tls_s(l->ld, NULL, NULL);
    if (code == LDAP_SUCCESS)
        return 0;
    if (watch_fired(&l->watch))
        return tcp_too_late(why);
    return sp_why_set(why, -ENOTCONN,
                      "no trusted TLS: the server's certificate must be for the host that 'url' "
                      "names, valid now, and signed by a CA of ca_file (%s%s%s)",
                      ldap_err2string(code), *said(l, text) ? ": " : "", text);
}

/* The next message of an operation, to ldap_msgfree(). */
static int next_message(struct ldap_link *l, int id, LDAPMessage **ret, const char *doing,
                        struct sp_why *why)
{
    uint64_t ms = left_ms(&l->watch);
    struct timeval wait = {.tv_sec = (time_t)(ms / 1000),
                           .tv_usec = (suseconds_t)(ms % 1000) * 1000};
    int code = LDAP_OTHER;
    int type = ms == 0 ? 0 : ldap_result(l->ld, id, LDAP_MSG_ONE, &wait, ret);
    if (type > 0)
        return type;
    if (type == 0)
        return tcp_too_late(why);
    ldap_get_option(l->ld, LDAP_OPT_RESULT_CODE, &code);
    return explain(l, code, doing, why);
}

/* The code of a message that ends an operation. */
static int code_of(struct ldap_link *l, LDAPMessage *m)
{
    int code = LDAP_OTHER;
    int e = ldap_parse_result(l->ld, m, &code, NULL, NULL, NULL, NULL, 0);
    return e == LDAP_SUCCESS ? code : e;
}

static int bind_as(struct ldap_link *l, const struct ldap_link_options *o, struct sp_why *why)
{
    struct berval password = {.bv_val = (char *)sp_secret_data(o->password),
                              .bv_len = sp_secret_size(o->password)};
    LDAPMessage *m = NULL;
    int id = 0;
    int code = ldap_sasl_bind(l->ld, o->bind_dn, LDAP_SASL_SIMPLE, &password, NULL, NULL, &id);
    if (code != LDAP_SUCCESS)
        return explain(l, code, "the log-on", why);
    int type = next_message(l, id, &m, "the log-on", why);
    if (type < 0)
        return type;
    code = type == LDAP_RES_BIND ? code_of(l, m) : LDAP_PROTOCOL_ERROR;
    ldap_msgfree(m);
    return code == LDAP_SUCCESS ? 0 : explain(l, code, "the log-on", why);
}

static int open_link(struct ldap_link *l, const struct ldap_link_options *o, const LDAPURLDesc *u,
                     provider_stage *stage, struct sp_why *why)
{
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CONNECTION;
    SP_FD int fd = connect_to(&l->watch, u, why);
    if (fd < 0)
        return fd;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS;
    int r = watch_start(&l->watch, fd);
    if (r < 0)
        return r;
    if (ldap_init_fd(fd, LDAP_PROTO_TCP, o->url, &l->ld) != LDAP_SUCCESS) {
        watch_stop(&l->watch);
        return -ENOMEM;
    }
    sp_steal_fd(&fd);
    r = set_options(l, o->ca_file, why);
    if (r == 0)
        r = start_tls(l, strcmp(u->lud_scheme, "ldaps") == 0, why);
    if (r < 0)
        return r;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION;
    return bind_as(l, o, why);
}

int ldap_link_open(const struct ldap_link_options *o, struct ldap_link **ret, provider_stage *stage,
                   struct sp_why *why)
{
    LDAPURLDesc *u = NULL;
    int r = ldap_link_check_url(o->url, why);
    if (r < 0)
        return r;
    LDAP_LINK struct ldap_link *l = calloc(1, sizeof(*l));
    if (!l || ldap_url_parse(o->url, &u) != LDAP_URL_SUCCESS)
        return -ENOMEM;
    pthread_mutex_init(&l->watch.lock, NULL);
    pthread_cond_init(&l->watch.stopped, NULL);
    l->watch.deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + o->timeout_ms;
    r = open_link(l, o, u, stage, why);
    ldap_free_urldesc(u);
    if (r == 0)
        *ret = sp_steal(l);
    return r;
}

void ldap_link_close(struct ldap_link *l)
{
    if (!l)
        return;
    /* An unbind may write to a server that does not read: the watcher ends that, so it goes last;
     * the socket's number may be another's by then, so it is shut down before. */
    watch_stop(&l->watch);
    if (l->ld) {
        shutdown(l->watch.fd, SHUT_RDWR);
        ldap_unbind_ext_s(l->ld, NULL, NULL);
    }
    pthread_mutex_destroy(&l->watch.lock);
    pthread_cond_destroy(&l->watch.stopped);
    free(l);
}

/* ---- search ---- */

struct searching {
    struct ldap_link *link;
    const char *doing;
    unsigned most, entries, messages;
    ldap_link_entry_fn *entry;
    void *self;
    struct sp_why *why;
};

/* 1: that was the end; 0: more comes. */
static int take_message(struct searching *s, int type, LDAPMessage *m)
{
    if (++s->messages > MESSAGES_MOST)
        return sp_why_set(s->why, -EPROTO, "%s: the server's answer does not end", s->doing);
    if (type == LDAP_RES_SEARCH_ENTRY) {
        const struct ldap_entry e = {s->link->ld, m};
        if (++s->entries > s->most)
            return sp_why_set(s->why, -E2BIG, "%s: the server shows more than %u objects", s->doing,
                              s->most);
        return s->entry(s->self, &e);
    }
    if (type == LDAP_RES_SEARCH_REFERENCE)
        return 0; /* parts of the tree elsewhere: a search asks one server */
    if (type != LDAP_RES_SEARCH_RESULT)
        return sp_why_set(s->why, -EPROTO, "%s: the server answers something else", s->doing);
    int code = code_of(s->link, m);
    return code == LDAP_SUCCESS ? 1 : explain(s->link, code, s->doing, s->why);
}

int ldap_link_search(struct ldap_link *l, const char *base, int scope, const char *filter,
                     const char *const *attributes, unsigned most, ldap_link_entry_fn *entry,
                     void *self, struct sp_why *why)
{
    struct searching s = {
        .link = l, .doing = "the search", .most = most, .entry = entry, .self = self, .why = why};
    int id = 0, r = 0;
    int code = ldap_search_ext(l->ld, base, scope, filter, (char **)(uintptr_t)attributes, 0, NULL,
                               NULL, NULL, (int)most + 1, &id);
    if (code != LDAP_SUCCESS)
        return explain(l, code, s.doing, why);
    while (r == 0) {
        LDAPMessage *m = NULL;
        int type = next_message(l, id, &m, s.doing, why);
        r = type < 0 ? type : take_message(&s, type, m);
        ldap_msgfree(m);
    }
    return r < 0 ? r : 0;
}

/* ---- entries ---- */

char *ldap_entry_dn(const struct ldap_entry *e)
{
    char *dn = ldap_get_dn(e->ld, e->message);
    char *copy = dn ? strdup(dn) : NULL;
    ldap_memfree(dn);
    return copy;
}

static int take_value(struct berval *values, size_t most, struct sp_secret **ret)
{
    size_t count = 0;
    int r = -ENOENT;
    while (values && values[count].bv_val)
        count++;
    if (count == 1 && values[0].bv_len > 0)
        r = values[0].bv_len <= most ? 0 : -EPROTO;
    else if (count > 1)
        r = -EPROTO;
    if (r == 0) {
        *ret = sp_secret_copy(values[0].bv_val, values[0].bv_len);
        r = *ret ? 0 : -ENOMEM;
    }
    for (size_t i = 0; i < count; i++)
        sp_wipe(values[i].bv_val, values[i].bv_len);
    return r;
}

int ldap_entry_value(const struct ldap_entry *e, const char *attribute, size_t most,
                     struct sp_secret **ret)
{
    BerElement *ber = NULL;
    struct berval dn, name = {0}, *values = NULL;
    const size_t length = strlen(attribute);
    int r = -ENOENT;
    if (ldap_get_dn_ber(e->ld, e->message, &ber, &dn) != LDAP_SUCCESS)
        return -EPROTO;
    /* The values point into the message, so that they can be wiped where they came in. */
    while (r == -ENOENT) {
        values = NULL;
        if (ldap_get_attribute_ber(e->ld, e->message, ber, &name, &values) != LDAP_SUCCESS) {
            r = -EPROTO;
            break;
        }
        if (!name.bv_val)
            break;
        if (name.bv_len == length && strncasecmp(name.bv_val, attribute, length) == 0)
            r = take_value(values, most, ret);
        ldap_memfree(values);
    }
    ber_free(ber, 0);
    return r;
}

/* ---- filters ---- */

int ldap_filter_bytes(struct sp_buffer *out, const void *data, size_t size)
{
    int r = 0;
    for (size_t i = 0; i < size && r == 0; i++)
        r = sp_buffer_printf(out, "\\%02x", ((const uint8_t *)data)[i]);
    return r;
}

int ldap_filter_text(struct sp_buffer *out, const char *text)
{
    int r = 0;
    for (const char *p = text; *p && r == 0; p++)
        r = strchr("*()\\", *p) ? ldap_filter_bytes(out, p, 1) : sp_buffer_append(out, p, 1);
    return r;
}
