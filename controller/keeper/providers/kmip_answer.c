/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "controller/keeper/providers/kmip_message.h"
#include "controller/keeper/providers/kmip_tags.h"
#include <errno.h>
#include <string.h>

/* 9.1.3.2.28 */
enum reason {
    REASON_ITEM_NOT_FOUND = 0x01,
    REASON_TOO_LARGE = 0x02,
    REASON_AUTHENTICATION = 0x03,
    REASON_INVALID_MESSAGE = 0x04,
    REASON_NOT_SUPPORTED = 0x05,
    REASON_PERMISSION_DENIED = 0x0c,
    REASON_ARCHIVED = 0x0d,
    REASON_KEY_FORMAT = 0x10,
    REASON_VALUE_NOT_PRESENT = 0x13,
    REASON_SENSITIVE = 0x16,
    REASON_NOT_EXTRACTABLE = 0x17,
    REASON_DESTROYED = 0x36,
    REASON_NOT_FOUND = 0x37,
    REASON_NOT_AUTHORISED = 0x39
};

enum { SAID_BYTES = 161 };

/* ---- names ---- */

const char *kmip_state_name(uint32_t state)
{
    static const char *const names[] = {"without a state",      "Pre-Active",  "Active",
                                        "Deactivated",          "Compromised", "Destroyed",
                                        "Destroyed Compromised"};
    return state < SP_COUNT(names) ? names[state] : "in a state that KMIP does not know";
}

const char *kmip_object_name(uint32_t object)
{
    static const char *const names[] = {
        "object of no type", "Certificate", "Symmetric Key", "Public Key",    "Private Key",
        "Split Key",         "Template",    "Secret Data",   "Opaque Object", "PGP Key"};
    return object < SP_COUNT(names) ? names[object] : "object of a type that KMIP does not know";
}

/* ---- what is wrong with an answer ---- */

static int nonsense(struct sp_why *why, const char *what)
{
    return sp_why_set(why, -EPROTO,
                      "the server's answer makes no sense (%s): is it a KMIP server of a version "
                      "1.0 to 1.4, and nothing else between? Its maker wants to know",
                      what);
}

static int need(int r, const char *what, struct sp_why *why)
{
    char text[80];
    snprintf(text, sizeof(text), "%s is %s", what,
             r == -ENOENT ? "missing" : "not what it must be");
    return nonsense(why, text);
}

static int find(const struct ttlv_item *in, uint32_t tag, enum ttlv_type type, const char *what,
                struct ttlv_item *ret, struct sp_why *why)
{
    int r = ttlv_find(in, tag, type, ret);
    return r < 0 ? need(r, what, why) : 0;
}

static int find_u32(const struct ttlv_item *in, uint32_t tag, enum ttlv_type type, const char *what,
                    uint32_t *ret, struct sp_why *why)
{
    struct ttlv_item item;
    int r = find(in, tag, type, what, &item, why);
    if (r == 0)
        *ret = ttlv_u32(&item);
    return r;
}

/* The server's own words, made harmless. */
static const char *said(const struct ttlv_item *batch, char out[SAID_BYTES])
{
    struct ttlv_item text;
    size_t size = 0;
    if (ttlv_find(batch, TAG_RESULT_MESSAGE, TTLV_TEXT, &text) == 0)
        for (; size < SAID_BYTES - 1 && size < text.value.size; size++) {
            char c = (char)text.value.data[size];
            out[size] = c < ' ' || c > '~' ? '?' : c;
        }
    out[size] = 0;
    return size > 0 ? out : "nothing";
}

static int refused(uint32_t reason, const struct ttlv_item *batch, struct sp_why *why)
{
    char text[SAID_BYTES];
    said(batch, text);
    switch (reason) {
    case REASON_ITEM_NOT_FOUND:
    case REASON_NOT_FOUND:
        return sp_why_set(why, -ENOENT, "the server has no such object");
    case REASON_AUTHENTICATION:
        return sp_why_set(
            why, -EACCES,
            "the server does not accept who asks: it must know the client certificate, which needs "
            "the extended key usage clientAuth (it says: %s)",
            text);
    case REASON_PERMISSION_DENIED:
    case REASON_NOT_AUTHORISED:
        return sp_why_set(why, -EACCES,
                          "the server refuses the object to this client certificate: let its user "
                          "read it there (it says: %s)",
                          text);
    case REASON_SENSITIVE:
    case REASON_NOT_EXTRACTABLE:
        return sp_why_set(why, -EACCES,
                          "the server does not let this key out (it is Sensitive or not "
                          "Extractable): keep one there that may be had");
    case REASON_VALUE_NOT_PRESENT:
        return sp_why_set(why, -EACCES,
                          "the server knows of the key and does not have its value: put it there");
    case REASON_KEY_FORMAT:
        return sp_why_set(why, -EACCES,
                          "the server has the key in another format only (it says: "
                          "%s)",
                          text);
    case REASON_ARCHIVED:
        return sp_why_set(why, -EKEYEXPIRED,
                          "the object is archived: recover it at the server (operation Recover)");
    case REASON_DESTROYED:
        return sp_why_set(why, -EKEYEXPIRED, "the object was destroyed at the server");
    case REASON_NOT_SUPPORTED:
        return sp_why_set(why, -EOPNOTSUPP, "the server cannot do what is needed (it says: %s)",
                          text);
    case REASON_TOO_LARGE:
        return sp_why_set(why, -E2BIG, "the server's answer would be longer than %d bytes",
                          KMIP_ANSWER_MOST);
    default:
        return sp_why_set(why, -EREMOTEIO,
                          "the server failed, with reason 0x%x (it says: %s): its log says more",
                          reason, text);
    }
}

bool kmip_is_log_on(uint32_t reason)
{
    return reason == REASON_AUTHENTICATION;
}

bool kmip_is_old(uint32_t reason)
{
    return reason == REASON_NOT_SUPPORTED || reason == REASON_INVALID_MESSAGE;
}

/* ---- answers ---- */

size_t kmip_answer_size(const uint8_t header[TTLV_HEADER_BYTES])
{
    return ttlv_size_said(header, TAG_RESPONSE_MESSAGE);
}

static int read_version(const struct ttlv_item *version, uint32_t *ret_major, uint32_t *ret_minor,
                        struct sp_why *why)
{
    int r = find_u32(version, TAG_PROTOCOL_VERSION_MAJOR, TTLV_INTEGER,
                     "the version's major number", ret_major, why);
    return r < 0 ? r
                 : find_u32(version, TAG_PROTOCOL_VERSION_MINOR, TTLV_INTEGER,
                            "the version's minor number", ret_minor, why);
}

/* A refusal may come in an older version: the server may not know the one it was asked in. */
static int check_header(const struct ttlv_item *all, const struct kmip_ask *ask, bool good,
                        struct sp_why *why)
{
    struct ttlv_item header, version;
    uint32_t major = 0, minor = 0, count = 0;
    int r = find(all, TAG_RESPONSE_HEADER, TTLV_STRUCTURE, "the header", &header, why);
    if (r == 0)
        r = find(&header, TAG_PROTOCOL_VERSION, TTLV_STRUCTURE, "the version", &version, why);
    if (r == 0)
        r = read_version(&version, &major, &minor, why);
    if (r == 0)
        r = find_u32(&header, TAG_BATCH_COUNT, TTLV_INTEGER, "the batch count", &count, why);
    if (r == 0 && (good ? major != 1 || minor != ask->minor : major != 1))
        r = sp_why_set(why, -EPROTO,
                       "the server answers in KMIP %u.%u and was asked in 1.%u: it must stay with "
                       "the version that was agreed on",
                       major, minor, ask->minor);
    if (r == 0 && count != 1)
        r = nonsense(why, "it has not one batch item");
    return r;
}

/* What names the question must name this one; a refusal may leave it out. */
static int check_batch(const struct ttlv_item *batch, const struct kmip_ask *ask, bool good,
                       struct sp_why *why)
{
    struct ttlv_item operation, number;
    uint8_t expected[8];
    sp_put_le64(expected, ask->number);
    int r = ttlv_find(batch, TAG_OPERATION, TTLV_ENUMERATION, &operation);
    if (r == 0 && ttlv_u32(&operation) != (uint32_t)ask->operation)
        return nonsense(why, "it is of another operation");
    if (r < 0 && (good || r != -ENOENT))
        return need(r, "the operation", why);
    r = ttlv_find(batch, TAG_UNIQUE_BATCH_ITEM_ID, TTLV_BYTES, &number);
    if (r == 0 && (number.value.size != sizeof(expected) ||
                   memcmp(number.value.data, expected, sizeof(expected)) != 0))
        return nonsense(why, "it is to another question");
    return r < 0 && (good || r != -ENOENT) ? need(r, "the batch item's number", why) : 0;
}

/* Header and batch item, and nothing behind. */
static bool has_two(const struct ttlv_item *all)
{
    struct sp_bytes rest = all->value;
    struct ttlv_item item;
    unsigned count = 0;
    while (ttlv_next(&rest, &item))
        count++;
    return count == 2;
}

int kmip_answer(struct sp_bytes message, const struct kmip_ask *ask, struct ttlv_item *ret_payload,
                uint32_t *ret_reason, struct sp_why *why)
{
    struct ttlv_item all, batch;
    uint32_t status = 0, reason = 0;
    *ret_reason = 0;
    int r = ttlv_check(message, &all);
    if (r < 0)
        return nonsense(why, r == -E2BIG ? "it is nested too deep" : "it is not TTLV");
    if (all.tag != TAG_RESPONSE_MESSAGE)
        return nonsense(why, "it is no response message");
    r = find(&all, TAG_BATCH_ITEM, TTLV_STRUCTURE, "the batch item", &batch, why);
    if (r == 0)
        r = find_u32(&batch, TAG_RESULT_STATUS, TTLV_ENUMERATION, "the result", &status, why);
    if (r == 0)
        r = check_header(&all, ask, status == 0, why);
    if (r == 0)
        r = check_batch(&batch, ask, status == 0, why);
    if (r < 0)
        return r;
    if (!has_two(&all))
        return nonsense(why, "something is behind its batch item");
    if (status == 0)
        return find(&batch, TAG_RESPONSE_PAYLOAD, TTLV_STRUCTURE, "the payload", ret_payload, why);
    if (status != 1) /* pending, undone */
        return nonsense(why, "it is neither success nor failure");
    r = find_u32(&batch, TAG_RESULT_REASON, TTLV_ENUMERATION, "the reason", &reason, why);
    if (r < 0)
        return r;
    *ret_reason = reason;
    return refused(reason, &batch, why);
}

/* ---- payloads ---- */

int kmip_read_versions(const struct ttlv_item *payload, unsigned *ret_minor, struct sp_why *why)
{
    struct sp_bytes rest = payload->value;
    struct ttlv_item item;
    uint32_t major = 0, minor = 0, best = 0;
    unsigned common = 0;
    while (ttlv_next(&rest, &item)) {
        if (item.tag != TAG_PROTOCOL_VERSION || item.type != TTLV_STRUCTURE)
            return nonsense(why, "something is among the versions");
        int r = read_version(&item, &major, &minor, why);
        if (r < 0)
            return r;
        if (major != 1 || minor > KMIP_MINOR_MOST)
            return sp_why_set(
                why, -EPROTO,
                "the server chooses KMIP %u.%u, which was not offered: it must choose "
                "among 1.0 to 1.4",
                major, minor);
        best = common++ == 0 || minor > best ? minor : best;
    }
    if (common == 0)
        return sp_why_set(why, -EPROTONOSUPPORT,
                          "the server knows none of the versions 1.0 to 1.4 of KMIP: switch one on "
                          "there");
    *ret_minor = best;
    return 0;
}

/* Printable, and short enough to be told and kept. */
static int take_id(const struct ttlv_item *item, char ret[KMIP_ID_BYTES], struct sp_why *why)
{
    const size_t size = item->value.size;
    if (size == 0 || size >= KMIP_ID_BYTES)
        return nonsense(why, "a unique identifier is empty or far too long");
    for (size_t i = 0; i < size; i++)
        if (item->value.data[i] <= ' ' || item->value.data[i] > '~')
            return nonsense(why, "a unique identifier has characters that none has");
    memcpy(ret, item->value.data, size);
    ret[size] = 0;
    return 0;
}

int kmip_read_located(const struct ttlv_item *payload, struct kmip_ids *ret, struct sp_why *why)
{
    struct sp_bytes rest = payload->value;
    struct ttlv_item item;
    ret->count = 0;
    while (ttlv_next(&rest, &item)) {
        if (item.tag != TAG_UNIQUE_IDENTIFIER)
            continue; /* Located Items, since 1.3 */
        if (item.type != TTLV_TEXT)
            return need(-EBADMSG, "the unique identifier", why);
        if (ret->count == KMIP_IDS_MOST)
            return sp_why_set(why, -E2BIG,
                              "the server has more than %d objects of this name: narrow what is "
                              "looked for, or destroy old ones",
                              KMIP_IDS_MOST);
        int r = take_id(&item, ret->ids[ret->count], why);
        if (r < 0)
            return r;
        ret->count++;
    }
    return 0;
}

int kmip_read_id(const struct ttlv_item *payload, char ret[KMIP_ID_BYTES], struct sp_why *why)
{
    struct ttlv_item item;
    int r = find(payload, TAG_UNIQUE_IDENTIFIER, TTLV_TEXT, "the unique identifier", &item, why);
    return r < 0 ? r : take_id(&item, ret, why);
}

static int check_id(const struct ttlv_item *payload, const char *id, struct sp_why *why)
{
    struct ttlv_item item;
    int r = find(payload, TAG_UNIQUE_IDENTIFIER, TTLV_TEXT, "the unique identifier", &item, why);
    return r == 0 && !ttlv_text_is(&item, id) ? nonsense(why, "it is about another object") : r;
}

/* An enumeration that may be there once. */
static int take_enum(const struct ttlv_item *attribute, const char *what, uint32_t *ret,
                     struct sp_why *why)
{
    if (*ret != 0)
        return nonsense(why, "an attribute is there twice");
    int r = find_u32(attribute, TAG_ATTRIBUTE_VALUE, TTLV_ENUMERATION, what, ret, why);
    return r == 0 && *ret == 0 ? need(-EBADMSG, what, why) : r;
}

int kmip_read_attributes(const struct ttlv_item *payload, const char *id, uint32_t *ret_object,
                         uint32_t *ret_state, struct sp_why *why)
{
    struct sp_bytes rest = payload->value;
    struct ttlv_item item, name;
    uint32_t object = 0, state = KMIP_STATE_NONE;
    int r = check_id(payload, id, why);
    while (r == 0 && ttlv_next(&rest, &item)) {
        if (item.tag != TAG_ATTRIBUTE)
            continue;
        r = find(&item, TAG_ATTRIBUTE_NAME, TTLV_TEXT, "an attribute's name", &name, why);
        if (r == 0 && ttlv_text_is(&name, "Object Type"))
            r = take_enum(&item, "the object type", &object, why);
        else if (r == 0 && ttlv_text_is(&name, "State"))
            r = take_enum(&item, "the state", &state, why);
    }
    if (r == 0 && object == 0)
        r = need(-ENOENT, "the object type", why);
    if (r == 0 && state == KMIP_STATE_NONE && object != KMIP_OPAQUE_OBJECT)
        r = need(-ENOENT, "the state", why);
    if (r < 0)
        return r;
    *ret_object = object;
    *ret_state = state;
    return 0;
}

/* ---- keys ---- */

static int take_bytes(const struct ttlv_item *item, size_t most, struct sp_secret **ret,
                      struct sp_why *why)
{
    if (item->value.size == 0 || item->value.size > most)
        return sp_why_set(why, -EPROTO, "the key at the server is empty, or longer than %zu bytes",
                          most);
    *ret = sp_secret_copy(item->value.data, item->value.size);
    return *ret ? 0 : -ENOMEM;
}

static int read_value(const struct ttlv_item *block, struct ttlv_item *ret, struct sp_why *why)
{
    struct ttlv_item value, material;
    uint32_t format = 0;
    int r = find_u32(block, TAG_KEY_FORMAT_TYPE, TTLV_ENUMERATION, "the key format", &format, why);
    if (r < 0)
        return r;
    if (format != FORMAT_RAW && format != FORMAT_OPAQUE && format != FORMAT_TRANSPARENT_SYMMETRIC)
        return sp_why_set(why, -EACCES,
                          "the server hands the key out in key format 0x%x: keep it there as Raw "
                          "or Opaque",
                          format);
    r = find(block, TAG_KEY_VALUE, TTLV_STRUCTURE, "the key value", &value, why);
    if (r < 0)
        return r;
    if (format != FORMAT_TRANSPARENT_SYMMETRIC)
        return find(&value, TAG_KEY_MATERIAL, TTLV_BYTES, "the key material", ret, why);
    r = find(&value, TAG_KEY_MATERIAL, TTLV_STRUCTURE, "the key material", &material, why);
    return r < 0 ? r : find(&material, TAG_KEY, TTLV_BYTES, "the key in the material", ret, why);
}

/* Key Block, 2.1.3. */
static int read_block(const struct ttlv_item *object, size_t most, struct sp_secret **ret,
                      struct sp_why *why)
{
    struct ttlv_item block, item, bits;
    int r = find(object, TAG_KEY_BLOCK, TTLV_STRUCTURE, "the key block", &block, why);
    if (r < 0)
        return r;
    if (ttlv_find(&block, TAG_KEY_WRAPPING_DATA, TTLV_STRUCTURE, &item) != -ENOENT)
        return sp_why_set(why, -EACCES,
                          "the server hands the key out only wrapped by another: allow this client "
                          "certificate to have it as it is");
    r = read_value(&block, &item, why);
    if (r < 0)
        return r;
    r = ttlv_find(&block, TAG_CRYPTOGRAPHIC_LENGTH, TTLV_INTEGER, &bits);
    if (r == -EBADMSG ||
        (r == 0 && object->tag == TAG_SYMMETRIC_KEY && ttlv_u32(&bits) != item.value.size * 8))
        return nonsense(why, "the key is not as long as it says");
    return take_bytes(&item, most, ret, why);
}

int kmip_read_key(const struct ttlv_item *payload, const char *id, uint32_t expected, size_t most,
                  struct sp_secret **ret, struct sp_why *why)
{
    struct ttlv_item object, value;
    uint32_t type = 0;
    int r = check_id(payload, id, why);
    if (r == 0)
        r = find_u32(payload, TAG_OBJECT_TYPE, TTLV_ENUMERATION, "the object type", &type, why);
    if (r == 0 && type != expected)
        r = nonsense(why, "the object is of another type than its attributes say");
    if (r < 0)
        return r;
    switch (type) {
    case KMIP_SYMMETRIC_KEY:
        r = find(payload, TAG_SYMMETRIC_KEY, TTLV_STRUCTURE, "the symmetric key", &object, why);
        return r < 0 ? r : read_block(&object, most, ret, why);
    case KMIP_SECRET_DATA:
        r = find(payload, TAG_SECRET_DATA, TTLV_STRUCTURE, "the secret data", &object, why);
        return r < 0 ? r : read_block(&object, most, ret, why);
    case KMIP_OPAQUE_OBJECT:
        r = find(payload, TAG_OPAQUE_OBJECT, TTLV_STRUCTURE, "the opaque object", &object, why);
        if (r == 0)
            r = find(&object, TAG_OPAQUE_DATA_VALUE, TTLV_BYTES, "the opaque data", &value, why);
        return r < 0 ? r : take_bytes(&value, most, ret, why);
    default:
        return sp_why_set(why, -EPROTO, "the object is a %s, which is no key of a volume",
                          kmip_object_name(type));
    }
}
