/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The KMIP provider against a server that lies; the real one is in tests/integration/escrow. */
#include "rig.h"
#include "tls_server.h"

#include "controller/keeper/providers/kmip_message.h"
#include "controller/keeper/providers/kmip_tags.h"
#include "controller/keeper/providers/provider.h"
#include <string.h>

#define KEY   "open sesame, please"
#define UUID  "01234567-89ab-cdef-0123-456789abcdef"
#define NAMED "lab/web1/luks:" UUID

/* ---- the server ---- */

enum lie {
    HONEST,
    /* of any answer */
    OTHER_OPERATION,
    OTHER_NUMBER,
    NO_NUMBER,
    OTHER_VERSION,
    TWO_ITEMS,
    COUNT_OF_TWO,
    PENDING,
    NO_PAYLOAD,
    TRAILING_ITEM,
    TRAILING_BYTES,
    WRONG_LENGTH,
    PADDING,
    DEEP,
    ENDLESS,
    NOT_KMIP,
    ENDS,
    REFUSES, /* with there.reason */
    /* of one operation's */
    OTHER_ID,
    NO_ID,
    ID_OF_CONTROL_CHARACTERS,
    ID_IS_NUMBER,
    VERSION_NOT_OFFERED,
    NO_VERSION,
    NO_STATE,
    TWO_STATES,
    STATE_IS_TEXT,
    NO_TYPE,
    OTHER_TYPE,
    NO_KEY_BLOCK,
    NO_MATERIAL,
    MATERIAL_IS_TEXT,
    EMPTY_KEY,
    LONG_KEY,
    OTHER_LENGTH,
    WRAPPED,
    STRANGE_FORMAT
};

static struct {
    enum lie lie;
    enum kmip_operation at; /* where it lies */
    uint32_t reason;
    uint32_t object, state;
    unsigned minor, found; /* the highest version; how many objects there are */
    bool old;              /* does not know Discover Versions */
    char looked_for[100], attribute[100];
    unsigned registered, activated;
} there;

struct asked {
    uint32_t operation, minor;
    struct ttlv_item payload, number;
};

static void put_enum(struct ttlv_writer *w, uint32_t tag, uint32_t value)
{
    ttlv_put_u32(w, tag, TTLV_ENUMERATION, value);
}

static void put_version(struct ttlv_writer *w, uint32_t minor)
{
    ttlv_begin(w, TAG_PROTOCOL_VERSION);
    ttlv_put_u32(w, TAG_PROTOCOL_VERSION_MAJOR, TTLV_INTEGER, 1);
    ttlv_put_u32(w, TAG_PROTOCOL_VERSION_MINOR, TTLV_INTEGER, minor);
    ttlv_end(w);
}

static void put_attribute(struct ttlv_writer *w, const char *name, uint32_t value)
{
    ttlv_begin(w, TAG_ATTRIBUTE);
    ttlv_put_text(w, TAG_ATTRIBUTE_NAME, name);
    put_enum(w, TAG_ATTRIBUTE_VALUE, value);
    ttlv_end(w);
}

static void put_attributes(struct ttlv_writer *w, enum lie lie)
{
    if (lie != NO_TYPE)
        put_attribute(w, "Object Type", there.object);
    if (lie != NO_STATE && there.state)
        put_attribute(w, "State", there.state);
    if (lie == TWO_STATES)
        put_attribute(w, "State", KMIP_ACTIVE);
    if (lie == STATE_IS_TEXT) {
        ttlv_begin(w, TAG_ATTRIBUTE);
        ttlv_put_text(w, TAG_ATTRIBUTE_NAME, "State");
        ttlv_put_text(w, TAG_ATTRIBUTE_VALUE, "Active");
        ttlv_end(w);
    }
}

static void put_block(struct ttlv_writer *w, enum lie lie)
{
    static char long_key[PROVIDER_SECRET_MOST + 1];
    ttlv_begin(w, TAG_KEY_BLOCK);
    put_enum(w, TAG_KEY_FORMAT_TYPE, lie == STRANGE_FORMAT ? 5 : 1);
    ttlv_begin(w, TAG_KEY_VALUE);
    if (lie == MATERIAL_IS_TEXT)
        ttlv_put_text(w, TAG_KEY_MATERIAL, KEY);
    else if (lie == LONG_KEY)
        ttlv_put(w, TAG_KEY_MATERIAL, TTLV_BYTES, long_key, sizeof(long_key));
    else if (lie != NO_MATERIAL)
        ttlv_put(w, TAG_KEY_MATERIAL, TTLV_BYTES, KEY, lie == EMPTY_KEY ? 0 : strlen(KEY));
    ttlv_end(w);
    if (there.object == KMIP_SYMMETRIC_KEY)
        ttlv_put_u32(w, TAG_CRYPTOGRAPHIC_LENGTH, TTLV_INTEGER,
                     (uint32_t)strlen(KEY) * 8 + (lie == OTHER_LENGTH ? 8 : 0));
    if (lie == WRAPPED) {
        ttlv_begin(w, TAG_KEY_WRAPPING_DATA);
        ttlv_end(w);
    }
    ttlv_end(w);
}

static void put_object(struct ttlv_writer *w, enum lie lie)
{
    const bool symmetric = there.object == KMIP_SYMMETRIC_KEY;
    if (there.object == KMIP_OPAQUE_OBJECT) {
        ttlv_begin(w, TAG_OPAQUE_OBJECT);
        ttlv_put(w, TAG_OPAQUE_DATA_VALUE, TTLV_BYTES, KEY, strlen(KEY));
        ttlv_end(w);
        return;
    }
    ttlv_begin(w, symmetric ? TAG_SYMMETRIC_KEY : TAG_SECRET_DATA);
    if (!symmetric)
        put_enum(w, TAG_SECRET_DATA_TYPE, 1);
    if (lie != NO_KEY_BLOCK)
        put_block(w, lie);
    ttlv_end(w);
}

static void put_id(struct ttlv_writer *w, enum lie lie)
{
    if (lie == ID_IS_NUMBER)
        ttlv_put_u32(w, TAG_UNIQUE_IDENTIFIER, TTLV_INTEGER, 17);
    else if (lie != NO_ID)
        ttlv_put_text(w, TAG_UNIQUE_IDENTIFIER,
                      lie == OTHER_ID                   ? "18"
                      : lie == ID_OF_CONTROL_CHARACTERS ? "17\n"
                                                        : "17");
}

static void remember_what_is_looked_for(const struct asked *a)
{
    struct ttlv_item attribute, name, value;
    assert_int_equal(ttlv_find(&a->payload, TAG_ATTRIBUTE, TTLV_STRUCTURE, &attribute), 0);
    assert_int_equal(ttlv_find(&attribute, TAG_ATTRIBUTE_NAME, TTLV_TEXT, &name), 0);
    if (ttlv_find(&attribute, TAG_ATTRIBUTE_VALUE, TTLV_STRUCTURE, &value) == 0)
        assert_int_equal(ttlv_find(&value, TAG_NAME_VALUE, TTLV_TEXT, &value), 0);
    else
        assert_int_equal(ttlv_find(&attribute, TAG_ATTRIBUTE_VALUE, TTLV_TEXT, &value), 0);
    snprintf(there.attribute, sizeof(there.attribute), "%.*s", (int)name.value.size,
             (const char *)name.value.data);
    snprintf(there.looked_for, sizeof(there.looked_for), "%.*s", (int)value.value.size,
             (const char *)value.value.data);
}

static void put_payload(struct ttlv_writer *w, const struct asked *a, enum lie lie)
{
    switch (a->operation) {
    case KMIP_DISCOVER_VERSIONS:
        if (lie == VERSION_NOT_OFFERED)
            put_version(w, 5);
        for (unsigned m = 0; m <= there.minor && lie != NO_VERSION; m++)
            put_version(w, m);
        break;
    case KMIP_LOCATE:
        remember_what_is_looked_for(a);
        for (unsigned i = 0; i < there.found; i++)
            put_id(w, lie);
        break;
    case KMIP_GET_ATTRIBUTES:
        put_id(w, lie);
        put_attributes(w, lie);
        break;
    case KMIP_GET:
        put_enum(w, TAG_OBJECT_TYPE, lie == OTHER_TYPE ? KMIP_OPAQUE_OBJECT : there.object);
        put_id(w, lie);
        put_object(w, lie);
        break;
    default:
        put_id(w, lie);
    }
}

static void put_item(struct ttlv_writer *w, const struct asked *a, enum lie lie)
{
    uint32_t status = lie == REFUSES ? 1 : lie == PENDING ? 2 : 0;
    ttlv_begin(w, TAG_BATCH_ITEM);
    put_enum(w, TAG_OPERATION, lie == OTHER_OPERATION ? KMIP_ACTIVATE + 1 : a->operation);
    if (lie == OTHER_NUMBER)
        ttlv_put(w, TAG_UNIQUE_BATCH_ITEM_ID, TTLV_BYTES, "87654321", 8);
    else if (lie != NO_NUMBER)
        ttlv_put(w, TAG_UNIQUE_BATCH_ITEM_ID, TTLV_BYTES, a->number.value.data,
                 a->number.value.size);
    put_enum(w, TAG_RESULT_STATUS, status);
    if (lie == REFUSES) {
        put_enum(w, TAG_RESULT_REASON, there.reason);
        ttlv_put_text(w, TAG_RESULT_MESSAGE, "not\x1b[2J today");
    }
    if (lie != REFUSES && lie != NO_PAYLOAD) {
        ttlv_begin(w, TAG_RESPONSE_PAYLOAD);
        put_payload(w, a, lie);
        ttlv_end(w);
    }
    ttlv_end(w);
}

static void put_answer(struct ttlv_writer *w, const struct asked *a, enum lie lie)
{
    ttlv_begin(w, TAG_RESPONSE_MESSAGE);
    ttlv_begin(w, TAG_RESPONSE_HEADER);
    put_version(w, lie == OTHER_VERSION ? a->minor + 1 : a->minor);
    ttlv_put_u64(w, 0x420092, TTLV_DATE_TIME, 1790000000);
    ttlv_put_u32(w, TAG_BATCH_COUNT, TTLV_INTEGER, lie == COUNT_OF_TWO ? 2 : 1);
    ttlv_end(w);
    put_item(w, a, lie);
    if (lie == TWO_ITEMS)
        put_item(w, a, lie);
    if (lie == TRAILING_ITEM || lie == WRONG_LENGTH)
        ttlv_put_u32(w, 0x420092, TTLV_INTEGER, 1);
    ttlv_end(w);
    assert_true(ttlv_done(w));
    if (lie == WRONG_LENGTH)
        w->data[w->size - 9] = 3;
    if (lie == PADDING)
        w->data[0x34] = 1; /* behind the version's minor number */
    if (lie == ENDLESS)
        memset(w->data + 5, 0x7f, 2);
}

/* A structure in a structure in a structure… */
static size_t put_deep(uint8_t *out)
{
    enum { DEPTH = 1000 };
    for (size_t i = 0; i < DEPTH; i++) {
        const size_t inner = (DEPTH - 1 - i) * TTLV_HEADER_BYTES;
        const uint32_t tag = i == 0 ? TAG_RESPONSE_MESSAGE : TAG_ATTRIBUTE;
        const uint8_t head[TTLV_HEADER_BYTES] = {
            0x42, (uint8_t)(tag >> 8),   (uint8_t)tag,  TTLV_STRUCTURE, 0,
            0,    (uint8_t)(inner >> 8), (uint8_t)inner};
        memcpy(out + i * sizeof(head), head, sizeof(head));
    }
    return DEPTH * TTLV_HEADER_BYTES;
}

static bool read_asked(SSL *ssl, uint8_t *buffer, size_t capacity, struct asked *a)
{
    struct ttlv_item all, header, version, minor, batch, operation;
    size_t size = TTLV_HEADER_BYTES, now = 0;
    if (SSL_read_ex(ssl, buffer, size, &now) != 1)
        return false;
    size += sp_be32(buffer + 4);
    assert_true(size <= capacity);
    for (size_t at = TTLV_HEADER_BYTES; at < size; at += now)
        assert_int_equal(SSL_read_ex(ssl, buffer + at, size - at, &now), 1);
    assert_int_equal(ttlv_check((struct sp_bytes){buffer, size}, &all), 0);
    assert_int_equal(all.tag, TAG_REQUEST_MESSAGE);
    assert_int_equal(ttlv_find(&all, TAG_REQUEST_HEADER, TTLV_STRUCTURE, &header), 0);
    assert_int_equal(ttlv_find(&header, TAG_PROTOCOL_VERSION, TTLV_STRUCTURE, &version), 0);
    assert_int_equal(ttlv_find(&version, TAG_PROTOCOL_VERSION_MINOR, TTLV_INTEGER, &minor), 0);
    assert_int_equal(ttlv_find(&all, TAG_BATCH_ITEM, TTLV_STRUCTURE, &batch), 0);
    assert_int_equal(ttlv_find(&batch, TAG_OPERATION, TTLV_ENUMERATION, &operation), 0);
    assert_int_equal(ttlv_find(&batch, TAG_UNIQUE_BATCH_ITEM_ID, TTLV_BYTES, &a->number), 0);
    assert_int_equal(ttlv_find(&batch, TAG_REQUEST_PAYLOAD, TTLV_STRUCTURE, &a->payload), 0);
    a->operation = ttlv_u32(&operation);
    a->minor = ttlv_u32(&minor);
    there.registered += a->operation == KMIP_REGISTER;
    there.activated += a->operation == KMIP_ACTIVATE;
    return true;
}

static void serve(SSL *ssl)
{
    static uint8_t request[KMIP_REQUEST_MOST], answer[KMIP_ANSWER_MOST];
    struct asked a;
    while (read_asked(ssl, request, sizeof(request), &a)) {
        struct ttlv_writer w = {.data = answer, .capacity = sizeof(answer)};
        enum lie lie = a.operation == there.at ? there.lie : HONEST;
        if (a.operation == KMIP_DISCOVER_VERSIONS && there.old) {
            lie = REFUSES;
            there.reason = 5;
            a.minor = 0;
        }
        assert_true(a.operation == KMIP_DISCOVER_VERSIONS || a.minor == there.minor);
        if (lie == ENDS)
            return;
        put_answer(&w, &a, lie);
        if (lie == DEEP)
            w.size = put_deep(answer);
        if (lie == NOT_KMIP)
            memcpy(answer, "HTTP/1.1 400 Bad Request", 24);
        SSL_write(ssl, answer, (int)w.size + (lie == TRAILING_BYTES ? 8 : 0));
    }
}

/* ---- the provider ---- */

static struct tls_server server;
static struct providers *all;

static void set(const char *key, const char *value)
{
    struct sp_why why = {""};
    if (providers_set(all, "kmip hsm", key, value, &why) < 0)
        fail_msg("%s", why.text);
}

static int setup(void **state)
{
    struct sp_why why = {""};
    char port[8];
    (void)state;
    memset(&there, 0, sizeof(there));
    there.object = KMIP_SECRET_DATA;
    there.state = KMIP_ACTIVE;
    there.minor = 4;
    there.found = 1;
    server = (struct tls_server){.serve = serve};
    tls_server_start(&server);
    assert_int_equal(providers_new(&all), 0);
    snprintf(port, sizeof(port), "%d", server.port);
    set("host", "127.0.0.1");
    set("port", port);
    set("ca_file", tls_ca_file);
    set("certificate_file", tls_ca_file);
    set("key_file", tls_key_file);
    set("value", "lab/{machine}/{volume}");
    set("canary", "tweet");
    assert_int_equal(providers_check(all, &why), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    providers_free(all);
    tls_server_end(&server);
    return 0;
}

static int lookup_of(Sp__VolumeKind kind, struct provider_items *out, struct sp_why *why)
{
    const struct provider *p = providers_find(all, "hsm");
    Sp__Volume volume = SP__VOLUME__INIT;
    provider_stage stage = 0;
    volume.volume_id = (char[]){"luks:" UUID "@disk+512"};
    volume.kind = kind;
    const struct provider_query q = {
        .machine_id = MACHINE, .machine_name = "web1", .volume = &volume};
    assert_true(p->type->serves(p, &volume));
    return p->type->lookup(p, &q, out, &stage, why);
}

static int lookup(struct provider_items *out, struct sp_why *why)
{
    return lookup_of(SP__VOLUME_KIND__VOLUME_KIND_LUKS2, out, why);
}

static int fetch(struct sp_secret **ret, struct sp_why *why)
{
    const struct provider *p = providers_find(all, "hsm");
    PROVIDER_ITEMS struct provider_items items = {0};
    provider_stage stage = 0;
    assert_int_equal(
        provider_items_add(&items, "17", "17", "", SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE), 0);
    int r = p->type->fetch(p, &items.items[0], ret, &stage, why);
    assert_null(strstr(why->text, KEY));
    assert_null(strchr(why->text, '\x1b'));
    return r;
}

static void test_every_kind_of_object_is_a_kind_of_key(void **state)
{
    static const struct {
        uint32_t object, state;
        Sp__SecretType luks, bitlocker; /* unspecified: none */
    } cases[] = {
        {KMIP_SECRET_DATA, KMIP_ACTIVE, SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE,
         SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE},
        {KMIP_SYMMETRIC_KEY, KMIP_ACTIVE, SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY,
         SP__SECRET_TYPE__SECRET_TYPE_UNSPECIFIED},
        {KMIP_OPAQUE_OBJECT, KMIP_STATE_NONE, SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE,
         SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        PROVIDER_ITEMS struct provider_items items = {0}, other = {0};
        SP_SECRET struct sp_secret *secret = NULL;
        struct sp_why why = {""};
        there.object = cases[i].object;
        there.state = cases[i].state;
        there.minor = (unsigned)i * 2; /* 1.0, 1.2, 1.4 */
        there.old = i == 0;
        assert_int_equal(lookup(&items, &why), 0);
        assert_string_equal(there.looked_for, NAMED);
        assert_string_equal(there.attribute, "Name");
        assert_int_equal(items.count, 1);
        assert_string_equal(items.items[0].locator, "17");
        assert_string_equal(items.items[0].version, "17");
        assert_int_equal(items.items[0].secret_type, cases[i].luks);
        int r = lookup_of(SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER, &other, &why);
        assert_int_equal(r, cases[i].bitlocker ? 0 : -EPROTO);
        if (r == 0)
            assert_int_equal(other.items[0].secret_type, cases[i].bitlocker);
        /* A kept point's object is known by the record. */
        PROVIDER_ITEMS struct provider_items own = {0};
        Sp__EscrowRecord record = SP__ESCROW_RECORD__INIT;
        record.version = (char[]){"17"};
        record.secret_type = cases[i].luks;
        const struct provider *p = providers_find(all, "hsm");
        assert_int_equal(p->type->recall(p, &record, &own), 0);
        assert_int_equal(own.count, 1);
        assert_string_equal(own.items[0].locator, "17");
        assert_int_equal(own.items[0].secret_type, cases[i].luks);
        assert_int_equal(fetch(&secret, &why), 0);
        assert_int_equal(sp_secret_size(secret), strlen(KEY));
        assert_memory_equal(sp_secret_data(secret), KEY, strlen(KEY));
    }
}

static void test_an_attribute_of_the_admins_own(void **state)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    struct sp_why why = {""};
    (void)state;
    set("attribute", "x-sealpoint-volume");
    set("value", "{uuid}");
    set("key_type", "key-file");
    assert_int_equal(lookup(&items, &why), 0);
    assert_string_equal(there.attribute, "x-sealpoint-volume");
    assert_string_equal(there.looked_for, UUID);
    assert_int_equal(items.items[0].secret_type, SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE);
    there.object = 1;
    provider_items_clear(&items);
    assert_int_equal(lookup(&items, &why), -EPROTO);
    assert_non_null(strstr(why.text, "is a Certificate"));
}

static void test_only_active_counts(void **state)
{
    static const char *const names[] = {
        "", "Pre-Active", "", "Deactivated", "Compromised", "Destroyed", "Destroyed Compromised"};
    (void)state;
    for (uint32_t i = 1; i <= KMIP_STATE_LAST + 1; i++) {
        SP_SECRET struct sp_secret *secret = NULL;
        struct sp_why why = {""};
        there.state = i;
        assert_int_equal(fetch(&secret, &why), i == KMIP_ACTIVE ? 0 : -EKEYEXPIRED);
        if (i < SP_COUNT(names))
            assert_non_null(strstr(why.text, names[i]));
    }
}

static void test_answers_are_kept_apart(void **state)
{
    static const struct {
        uint32_t reason;
        int error;
        const char *says;
    } cases[] = {
        {0x01, -ENOENT, "no object 17 any more"},
        {0x0c, -EACCES, "refuses the object"},
        {0x16, -EACCES, "does not let this key out"},
        {0x03, -EACCES, "clientAuth"},
        {0x0d, -EKEYEXPIRED, "archived"},
        {0x05, -EOPNOTSUPP, "cannot do"},
        {0x100, -EREMOTEIO, "reason 0x100 (it says: not?[2J today)"},
    };
    (void)state;
    there.lie = REFUSES;
    there.at = KMIP_GET;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        SP_SECRET struct sp_secret *secret = NULL;
        struct sp_why why = {""};
        there.reason = cases[i].reason;
        /* The canary is the same object here: what is gone is not to be told from denied. */
        int r = fetch(&secret, &why);
        assert_int_equal(r, cases[i].error == -ENOENT ? -EACCES : cases[i].error);
        if (cases[i].error != -ENOENT)
            assert_non_null(strstr(why.text, cases[i].says));
        assert_null(secret);
    }
    PROVIDER_ITEMS struct provider_items items = {0};
    struct sp_why why = {""};
    there.lie = HONEST;
    there.found = 0; /* not the canary either */
    assert_int_equal(lookup(&items, &why), -EACCES);
    assert_non_null(strstr(why.text, "the canary tweet is not shown"));
    there.found = KMIP_IDS_MOST + 1;
    assert_int_equal(lookup(&items, &why), -E2BIG);
}

static void test_lies_are_errors(void **state)
{
    static const struct {
        enum lie lie;
        enum kmip_operation at;
        int error;
        const char *says;
    } cases[] = {
        {OTHER_OPERATION, KMIP_GET, -EPROTO, "another operation"},
        {OTHER_NUMBER, KMIP_GET, -EPROTO, "another question"},
        {NO_NUMBER, KMIP_GET, -EPROTO, "number is missing"},
        {OTHER_VERSION, KMIP_GET, -EPROTO, "answers in KMIP 1.5"},
        {TWO_ITEMS, KMIP_GET, -EPROTO, "batch item"},
        {COUNT_OF_TWO, KMIP_GET, -EPROTO, "not one batch item"},
        {PENDING, KMIP_GET, -EPROTO, "neither success nor failure"},
        {NO_PAYLOAD, KMIP_GET, -EPROTO, "the payload is missing"},
        {TRAILING_ITEM, KMIP_GET, -EPROTO, "behind its batch item"},
        {TRAILING_BYTES, KMIP_GET, -EPROTO, "more than the answer"},
        {WRONG_LENGTH, KMIP_GET, -EPROTO, "not TTLV"},
        {PADDING, KMIP_GET, -EPROTO, "not TTLV"},
        {DEEP, KMIP_GET, -EPROTO, "nested too deep"},
        {ENDLESS, KMIP_GET, -EPROTO, "longer than"},
        {NOT_KMIP, KMIP_DISCOVER_VERSIONS, -EPROTO, "no KMIP server"},
        {ENDS, KMIP_GET, -ECONNRESET, "ended the connection"},
        {OTHER_ID, KMIP_GET, -EPROTO, "another object"},
        {OTHER_ID, KMIP_GET_ATTRIBUTES, -EPROTO, "another object"},
        {NO_ID, KMIP_GET, -EPROTO, "identifier is missing"},
        {ID_IS_NUMBER, KMIP_GET, -EPROTO, "identifier is not what it must be"},
        {VERSION_NOT_OFFERED, KMIP_DISCOVER_VERSIONS, -EPROTO, "was not offered"},
        {NO_VERSION, KMIP_DISCOVER_VERSIONS, -EPROTONOSUPPORT, "none of the versions"},
        {NO_STATE, KMIP_GET_ATTRIBUTES, -EPROTO, "the state is missing"},
        {TWO_STATES, KMIP_GET_ATTRIBUTES, -EPROTO, "twice"},
        {STATE_IS_TEXT, KMIP_GET_ATTRIBUTES, -EPROTO, "twice"},
        {NO_TYPE, KMIP_GET_ATTRIBUTES, -EPROTO, "the object type is missing"},
        {OTHER_TYPE, KMIP_GET, -EPROTO, "another type"},
        {NO_KEY_BLOCK, KMIP_GET, -EPROTO, "the key block is missing"},
        {NO_MATERIAL, KMIP_GET, -EPROTO, "the key material is missing"},
        {MATERIAL_IS_TEXT, KMIP_GET, -EPROTO, "the key material is not"},
        {EMPTY_KEY, KMIP_GET, -EPROTO, "empty"},
        {LONG_KEY, KMIP_GET, -EPROTO, "longer than"},
        {WRAPPED, KMIP_GET, -EACCES, "only wrapped"},
        {STRANGE_FORMAT, KMIP_GET, -EACCES, "key format 0x5"},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        SP_SECRET struct sp_secret *secret = NULL;
        struct sp_why why = {""};
        there.lie = cases[i].lie;
        there.at = cases[i].at;
        int r = fetch(&secret, &why);
        if (r != cases[i].error || !strstr(why.text, cases[i].says))
            fail_msg("lie %d: %d, %s", cases[i].lie, r, why.text);
        assert_null(secret);
    }
    SP_SECRET struct sp_secret *secret = NULL;
    PROVIDER_ITEMS struct provider_items items = {0};
    struct sp_why why = {""};
    there.object = KMIP_SYMMETRIC_KEY;
    there.lie = OTHER_LENGTH;
    there.at = KMIP_GET;
    assert_int_equal(fetch(&secret, &why), -EPROTO);
    there.lie = ID_OF_CONTROL_CHARACTERS;
    there.at = KMIP_LOCATE;
    assert_int_equal(lookup(&items, &why), -EPROTO);
    assert_null(strchr(why.text, '\n'));
}

static void test_a_canary_is_made_once(void **state)
{
    const struct provider *p = providers_find(all, "hsm");
    provider_stage stage = 0;
    struct sp_why why = {""};
    (void)state;
    assert_int_equal(p->type->make_canary(p, &stage, &why), 0); /* is there */
    assert_int_equal(there.registered, 0);
    there.found = 0;
    assert_int_equal(p->type->make_canary(p, &stage, &why), 0);
    assert_int_equal(there.registered, 1);
    assert_int_equal(there.activated, 1);
    assert_string_equal(there.looked_for, "tweet");
    there.lie = OTHER_ID;
    there.at = KMIP_ACTIVATE;
    assert_int_equal(p->type->make_canary(p, &stage, &why), -EPROTO);
    there.lie = HONEST;
    set("canary", "");
    assert_int_equal(p->type->make_canary(p, &stage, &why), -EINVAL);
}

static void test_a_server_that_says_nothing(void **state)
{
    const struct provider *p = providers_find(all, "hsm");
    provider_stage stage = 0;
    struct sp_why why = {""};
    (void)state;
    server.silent = 1;
    set("timeout", "1s");
    assert_int_equal(p->type->canary(p, &stage, &why), -ETIMEDOUT);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS);
    server.silent = 0;
    set("ca_file", tls_other_ca);
    assert_int_equal(p->type->canary(p, &stage, &why), -ENOTCONN);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS);
}

static void test_half_a_section_is_refused(void **state)
{
    static const struct {
        const char *key, *value, *says;
    } cases[] = {
        {"host", "", "host is needed"},      {"certificate_file", "", "certificate_file is needed"},
        {"key_file", "", "set one of them"}, {"credential", "too", "set one of them"},
        {"key_type", "pin", "key_type is"},  {"attribute", "State", "begins with x-"},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct sp_why why = {""};
        teardown(NULL);
        setup(NULL);
        set(cases[i].key, cases[i].value);
        assert_int_equal(providers_check(all, &why), -EINVAL);
        assert_non_null(strstr(why.text, cases[i].says));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_kind_of_object_is_a_kind_of_key, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_attribute_of_the_admins_own, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_active_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_answers_are_kept_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lies_are_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_canary_is_made_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_server_that_says_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_a_section_is_refused, setup, teardown),
    };
    tls_server_setup();
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    tls_server_teardown();
    return r;
}
