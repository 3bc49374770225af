/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * REST questions of providers, over libcurl: TLS 1.2 and up with the server's name checked, no
 * redirects, no proxy, an answer of bounded size in secret memory, all within one deadline.
 *
 * What a server answers is untrusted: rest_parse() bounds its depth, the accessors check types. */
#ifndef SEALPOINT_KEEPER_REST_H
#define SEALPOINT_KEEPER_REST_H

#include "base/cleanup.h"
#include "controller/keeper/providers/provider.h"
#include <json-c/json.h>

enum { REST_ANSWER_MOST = 256 * 1024 };

struct curl_slist;
struct rest_headers {
    struct curl_slist *list;
};
/* -EINVAL: the value could end the line or is not ASCII. A copy, wiped by rest_headers_free(). */
int rest_header(struct rest_headers *, const char *name, const void *value, size_t size);
void rest_headers_free(struct rest_headers *);
#define REST_HEADERS __attribute__((cleanup(rest_headers_free)))

/* Keeps connections open between questions, which one thread asks. Zeroed at first. */
struct rest_link {
    void *curl;
};
void rest_link_end(struct rest_link *);

struct rest_request {
    const char *url;
    const char *ca_file; /* NULL, "": the system's CAs */
    const struct rest_headers *headers;
    const struct sp_secret *body; /* POST; NULL: GET. Its headers name what it is */
    uint64_t until_ms;            /* rest_until(); of all questions of a call */
    struct rest_link *link;       /* NULL: a connection for this question alone */
    bool plain;                   /* http:// is allowed too; else TLS only */
};

struct rest_answer {
    long status;
    struct sp_secret *bytes; /* of REST_ANSWER_MOST */
    size_t size;
    bool too_long;
};
void rest_answer_free(struct rest_answer *);
#define REST_ANSWER __attribute__((cleanup(rest_answer_free)))

/* The deadline of a call that begins now. */
uint64_t rest_until(const struct provider *);
/* Once, before threads: in every type's check(). */
int rest_setup(void);

/* One question. An answer of 429, or of 503 that says when to come back, is waited for and asked
 * again while the deadline allows it. On failure *stage is CONNECTION or TLS, else it is left
 * alone. */
int rest_ask(const struct rest_request *, struct rest_answer *, provider_stage *, struct sp_why *);

/* A new object, or NULL: no JSON, or nested too deep. What the parser had of it is wiped. */
json_object *rest_parse(const void *bytes, size_t size);
SP_DEFINE_CLEANUP(json, json_object *, json_object_put)

/* Members of an object; NULL, false: not there, or of another type. Texts hold no 0. */
json_object *rest_member(json_object *, const char *name, enum json_type);
const char *rest_text(json_object *, const char *name);
bool rest_number(json_object *, const char *name, int64_t *ret); /* 0 … INT32_MAX */
bool rest_flag(json_object *, const char *name, bool otherwise);
/* A member that is secret; json-c's copy is wiped. -EPROTO: no text of 1 … `most` bytes. */
int rest_secret(json_object *, const char *name, size_t most, struct sp_secret **ret);

/* What is special in a path, a query or a form as %XX; `out` holds 3 × size + 1. The length. */
size_t rest_escape(char *out, const void *text, size_t size);

#endif
