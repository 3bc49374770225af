/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The messages of KMIP 1.0 to 1.4 that a provider needs (KMIP Specification 1.2, sections 4, 7 and
 * 9): one request, one operation in it, one answer.
 *
 * An answer is from a server that may lie. It counts only when all of it is what was asked for: the
 * version, the operation, the number of the batch item, the unique identifier, each type. Every
 * reader gives
 *
 *     0             what was asked for
 *     -ENOENT       there is no such object
 *     -EACCES       not allowed
 *     -EKEYEXPIRED  archived or destroyed
 *     -EPROTO       the answer makes no sense
 *     others        the server cannot do it
 *
 * and puts into `why` what to do. */
#ifndef SEALPOINT_KEEPER_KMIP_MESSAGE_H
#define SEALPOINT_KEEPER_KMIP_MESSAGE_H

#include "base/secret.h"
#include "base/why.h"
#include "controller/keeper/providers/ttlv.h"

enum kmip_operation {
    KMIP_REGISTER = 0x03,
    KMIP_LOCATE = 0x08,
    KMIP_GET = 0x0a,
    KMIP_GET_ATTRIBUTES = 0x0b,
    KMIP_ACTIVATE = 0x12,
    KMIP_DISCOVER_VERSIONS = 0x1e
};

enum kmip_object { KMIP_SYMMETRIC_KEY = 2, KMIP_SECRET_DATA = 7, KMIP_OPAQUE_OBJECT = 8 };

enum kmip_state { KMIP_STATE_NONE, KMIP_PRE_ACTIVE, KMIP_ACTIVE, KMIP_STATE_LAST = 6 };

enum {
    KMIP_MINOR_FIRST = 1, /* of the first version that knows Discover Versions */
    KMIP_MINOR_MOST = 4,
    KMIP_ID_BYTES = 201,
    KMIP_IDS_MOST = 32,
    KMIP_REQUEST_MOST = 8192,
    KMIP_ANSWER_MOST = 65536
};

/* What one answer must fit. */
struct kmip_ask {
    enum kmip_operation operation;
    unsigned minor;  /* of version 1 */
    uint64_t number; /* of the batch item */
};

struct kmip_ids {
    char ids[KMIP_IDS_MOST][KMIP_ID_BYTES];
    size_t count;
};

/* ---- requests: the message but for what the operation says ---- */

void kmip_request_begin(struct ttlv_writer *, const struct kmip_ask *);
/* False: it did not fit. */
bool kmip_request_end(struct ttlv_writer *);

/* Between the two: */
void kmip_put_versions(struct ttlv_writer *);
/* By the attribute "Name", or one of the server's own ("x-…"). */
void kmip_put_locate(struct ttlv_writer *, const char *attribute, const char *value);
void kmip_put_id(struct ttlv_writer *, const char *id);
/* Get Attributes of what kmip_read_attributes() wants. */
void kmip_put_get_attributes(struct ttlv_writer *, const char *id);
/* Register a password as Secret Data. */
void kmip_put_register(struct ttlv_writer *, const char *name, const struct sp_secret *);

/* ---- answers ---- */

/* The first of the tag is the answer's; for a stream. 0: it is no answer. */
size_t kmip_answer_size(const uint8_t header[TTLV_HEADER_BYTES]);
/* *ret_payload is of the message. Where the server refuses, *ret_reason is its Result Reason, else
 * 0. */
int kmip_answer(struct sp_bytes message, const struct kmip_ask *, struct ttlv_item *ret_payload,
                uint32_t *ret_reason, struct sp_why *);
/* The reason says that it does not know who asks. */
bool kmip_is_log_on(uint32_t reason);
/* The reason may be that the server is of version 1.0. */
bool kmip_is_old(uint32_t reason);

/* The highest version that both know. */
int kmip_read_versions(const struct ttlv_item *payload, unsigned *ret_minor, struct sp_why *);
/* -E2BIG: more than KMIP_IDS_MOST. None is no error. */
int kmip_read_located(const struct ttlv_item *payload, struct kmip_ids *ret, struct sp_why *);
/* One state or none: opaque objects have none. */
int kmip_read_attributes(const struct ttlv_item *payload, const char *id, uint32_t *ret_object,
                         uint32_t *ret_state, struct sp_why *);
/* Of an object of this type: a symmetric key, secret data or opaque object. */
int kmip_read_key(const struct ttlv_item *payload, const char *id, uint32_t object, size_t most,
                  struct sp_secret **ret, struct sp_why *);
/* Of Register and Activate. */
int kmip_read_id(const struct ttlv_item *payload, char ret[KMIP_ID_BYTES], struct sp_why *);

/* "Deactivated" */
const char *kmip_state_name(uint32_t state);
/* "Certificate" */
const char *kmip_object_name(uint32_t object);

#endif
