/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/rest.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include <curl/curl.h>
#include <string.h>
#include <time.h>

enum { DEPTH_MOST = 16, ORIGIN_BYTES = 120, FIRST_PAUSE_MS = 250 };

SP_DEFINE_CLEANUP(curl, CURL *, curl_easy_cleanup)

int rest_setup(void)
{
    return curl_global_init(CURL_GLOBAL_DEFAULT) == 0 ? 0 : -ENOMEM;
}

uint64_t rest_until(const struct provider *p)
{
    return sp_clock_monotonic_ms(&sp_clock_system) + p->timeout_ms;
}

/* ---- headers ---- */

/* libcurl's list copies the line, so both are wiped. */
int rest_header(struct rest_headers *h, const char *name, const void *value, size_t size)
{
    const char *bytes = value;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] < ' ' || bytes[i] > '~')
            return -EINVAL;
    SP_SECRET struct sp_secret *line = sp_secret_new(strlen(name) + size + 3);
    if (!line)
        return -ENOMEM;
    char *text = (char *)sp_secret_data(line);
    memcpy(text, name, strlen(name));
    memcpy(text + strlen(name), ": ", 2);
    memcpy(text + strlen(name) + 2, value, size);
    struct curl_slist *grown = curl_slist_append(h->list, text);
    if (grown)
        h->list = grown;
    return grown ? 0 : -ENOMEM;
}

void rest_headers_free(struct rest_headers *h)
{
    for (struct curl_slist *l = h->list; l; l = l->next)
        sp_wipe(l->data, strlen(l->data));
    curl_slist_free_all(h->list);
    h->list = NULL;
}

/* ---- one request ---- */

void rest_answer_free(struct rest_answer *a)
{
    sp_secret_free(sp_steal(a->bytes));
}

static size_t on_bytes(char *data, size_t one, size_t count, void *self)
{
    struct rest_answer *a = self;
    size_t size = one * count;
    if (size > REST_ANSWER_MOST - a->size) {
        a->too_long = true;
        return 0;
    }
    memcpy(sp_secret_data(a->bytes) + a->size, data, size);
    a->size += size;
    return size;
}

/* "https://host:port" of a URL: a query may hold what no text should. */
static const char *origin_of(const char *url, char out[ORIGIN_BYTES])
{
    const char *host = strstr(url, "://");
    size_t size = host ? (size_t)(host - url) + 3 + strcspn(host + 3, "/?") : strcspn(url, "/?");
    snprintf(out, ORIGIN_BYTES, "%.*s", (int)(size < ORIGIN_BYTES ? size : ORIGIN_BYTES - 1), url);
    return out;
}

static int failed(CURLcode code, const char *said, const struct rest_request *q,
                  const struct rest_answer *a, provider_stage *stage, struct sp_why *why)
{
    char origin[ORIGIN_BYTES];
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CONNECTION;
    if (a->too_long)
        return sp_why_set(why, -EPROTO, "the answer of %s is longer than %d bytes",
                          origin_of(q->url, origin), REST_ANSWER_MOST);
    switch (code) {
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    case CURLE_OPERATION_TIMEDOUT:
        return sp_why_set(why, -ETIMEDOUT, "no answer from %s in time", origin_of(q->url, origin));
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CACERT_BADFILE:
        *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS;
        return sp_why_set(
            why, -ENOTCONN,
            "no trusted TLS: the server's certificate must be for the host that 'url' "
            "names, valid now, and signed by a CA of ca_file (%.120s)",
            said);
    default:
        return sp_why_set(why, -EHOSTUNREACH, "cannot ask %s: %.200s", origin_of(q->url, origin),
                          *said ? said : curl_easy_strerror(code));
    }
}

static void set_options(CURL *c, const struct rest_request *q, uint64_t left_ms)
{
    curl_easy_setopt(c, CURLOPT_URL, q->url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, q->plain ? "http,https" : "https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)left_ms);
    if (q->ca_file && *q->ca_file)
        curl_easy_setopt(c, CURLOPT_CAINFO, q->ca_file);
    if (!q->body)
        return;
    curl_easy_setopt(c, CURLOPT_POST, 1L);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, (const char *)sp_secret_data(q->body));
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)sp_secret_size(q->body));
}

void rest_link_end(struct rest_link *l)
{
    curl_easy_cleanup(l->curl);
    l->curl = NULL;
}

static CURL *take_link(struct rest_link *l)
{
    if (l->curl)
        curl_easy_reset(l->curl);
    else
        l->curl = curl_easy_init();
    return l->curl;
}

static int perform(const struct rest_request *q, uint64_t left_ms, struct rest_answer *a,
                   uint64_t *ret_pause_ms, provider_stage *stage, struct sp_why *why)
{
    char said[CURL_ERROR_SIZE] = "";
    curl_off_t seconds = 0;
    SP_CLEANUP(curl) CURL *own = q->link ? NULL : curl_easy_init();
    CURL *c = q->link ? take_link(q->link) : own;
    if (!a->bytes)
        a->bytes = sp_secret_new(REST_ANSWER_MOST);
    if (!c || !a->bytes)
        return -ENOMEM;
    a->size = 0;
    a->too_long = false;
    set_options(c, q, left_ms);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, q->headers ? q->headers->list : NULL);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, said);
    CURLcode code = curl_easy_perform(c);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, NULL);
    if (code != CURLE_OK)
        return failed(code, said, q, a, stage, why);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &a->status);
    curl_easy_getinfo(c, CURLINFO_RETRY_AFTER, &seconds);
    *ret_pause_ms = seconds > 0 && seconds < 1000000 ? (uint64_t)seconds * 1000 : 0;
    return 0;
}

static void pause_for(uint64_t ms)
{
    const struct timespec t = {.tv_sec = (time_t)(ms / 1000),
                               .tv_nsec = (long)(ms % 1000) * 1000000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

int rest_ask(const struct rest_request *q, struct rest_answer *a, provider_stage *stage,
             struct sp_why *why)
{
    char origin[ORIGIN_BYTES];
    for (uint64_t least = FIRST_PAUSE_MS;; least *= 2) {
        uint64_t now = sp_clock_monotonic_ms(&sp_clock_system), pause = 0;
        if (now >= q->until_ms) {
            *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CONNECTION;
            return sp_why_set(why, -ETIMEDOUT, "no answer from %s in time",
                              origin_of(q->url, origin));
        }
        int r = perform(q, q->until_ms - now, a, &pause, stage, why);
        if (r < 0 || (a->status != 429 && (a->status != 503 || !pause)))
            return r;
        pause = pause > least ? pause : least;
        if (sp_clock_monotonic_ms(&sp_clock_system) + pause >= q->until_ms)
            return sp_why_set(why, -EBUSY,
                              "%s is asked too much (HTTP status %ld): it wants %llu s of "
                              "quiet, 'timeout' is over before",
                              origin_of(q->url, origin), a->status,
                              (unsigned long long)((pause + 999) / 1000));
        pause_for(pause);
    }
}

/* ---- answers ---- */

json_object *rest_parse(const void *bytes, size_t size)
{
    struct json_tokener *t = size <= REST_ANSWER_MOST ? json_tokener_new_ex(DEPTH_MOST) : NULL;
    json_object *o = NULL;
    if (!t)
        return NULL;
    if (size > 0)
        o = json_tokener_parse_ex(t, bytes, (int)size);
    if (t->pb && t->pb->buf)
        sp_wipe(t->pb->buf, (size_t)t->pb->size);
    json_tokener_free(t);
    return o;
}

json_object *rest_member(json_object *in, const char *name, enum json_type type)
{
    json_object *o = NULL;
    if (json_object_get_type(in) != json_type_object || !json_object_object_get_ex(in, name, &o) ||
        json_object_get_type(o) != type)
        return NULL;
    return o;
}

const char *rest_text(json_object *in, const char *name)
{
    json_object *o = rest_member(in, name, json_type_string);
    const char *text = o ? json_object_get_string(o) : NULL;
    return text && strlen(text) == (size_t)json_object_get_string_len(o) ? text : NULL;
}

bool rest_number(json_object *in, const char *name, int64_t *ret)
{
    json_object *o = rest_member(in, name, json_type_int);
    if (!o)
        return false;
    *ret = json_object_get_int64(o);
    return *ret >= 0 && *ret <= INT32_MAX;
}

bool rest_flag(json_object *in, const char *name, bool otherwise)
{
    json_object *o = rest_member(in, name, json_type_boolean);
    return o ? json_object_get_boolean(o) : otherwise;
}

int rest_secret(json_object *in, const char *name, size_t most, struct sp_secret **ret)
{
    json_object *o = rest_member(in, name, json_type_string);
    char *text = o ? (char *)(uintptr_t)json_object_get_string(o) : NULL;
    size_t size = o ? (size_t)json_object_get_string_len(o) : 0;
    if (size == 0 || size > most) {
        if (text)
            sp_wipe(text, size);
        return -EPROTO;
    }
    struct sp_secret *copy = sp_secret_copy(text, size);
    sp_wipe(text, size);
    if (copy)
        *ret = copy;
    return copy ? 0 : -ENOMEM;
}

size_t rest_escape(char *out, const void *text, size_t size)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const uint8_t *bytes = text;
    size_t at = 0;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] && strchr(plain, bytes[i])) {
            out[at++] = (char)bytes[i];
            continue;
        }
        out[at++] = '%';
        out[at++] = "0123456789ABCDEF"[bytes[i] >> 4];
        out[at++] = "0123456789ABCDEF"[bytes[i] & 15];
    }
    out[at] = 0;
    return at;
}
