/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/kmip_message.h"

#include "controller/keeper/providers/kmip_tags.h"
#include <string.h>

static void put_enum(struct ttlv_writer *w, uint32_t tag, uint32_t value)
{
    ttlv_put_u32(w, tag, TTLV_ENUMERATION, value);
}

static void put_integer(struct ttlv_writer *w, uint32_t tag, uint32_t value)
{
    ttlv_put_u32(w, tag, TTLV_INTEGER, value);
}

static void put_version(struct ttlv_writer *w, unsigned minor)
{
    ttlv_begin(w, TAG_PROTOCOL_VERSION);
    put_integer(w, TAG_PROTOCOL_VERSION_MAJOR, 1);
    put_integer(w, TAG_PROTOCOL_VERSION_MINOR, minor);
    ttlv_end(w);
}

void kmip_request_begin(struct ttlv_writer *w, const struct kmip_ask *ask)
{
    uint8_t number[8];
    sp_put_le64(number, ask->number);
    ttlv_begin(w, TAG_REQUEST_MESSAGE);
    ttlv_begin(w, TAG_REQUEST_HEADER);
    put_version(w, ask->minor);
    put_integer(w, TAG_MAXIMUM_RESPONSE_SIZE, KMIP_ANSWER_MOST);
    put_integer(w, TAG_BATCH_COUNT, 1);
    ttlv_end(w);
    ttlv_begin(w, TAG_BATCH_ITEM);
    put_enum(w, TAG_OPERATION, (uint32_t)ask->operation);
    ttlv_put(w, TAG_UNIQUE_BATCH_ITEM_ID, TTLV_BYTES, number, sizeof(number));
    ttlv_begin(w, TAG_REQUEST_PAYLOAD);
}

bool kmip_request_end(struct ttlv_writer *w)
{
    ttlv_end(w);
    ttlv_end(w);
    ttlv_end(w);
    return ttlv_done(w);
}

void kmip_put_versions(struct ttlv_writer *w)
{
    for (unsigned minor = KMIP_MINOR_MOST + 1; minor > 0; minor--)
        put_version(w, minor - 1);
}

static void put_name(struct ttlv_writer *w, const char *name)
{
    ttlv_begin(w, TAG_ATTRIBUTE_VALUE);
    ttlv_put_text(w, TAG_NAME_VALUE, name);
    put_enum(w, TAG_NAME_TYPE, NAME_UNINTERPRETED);
    ttlv_end(w);
}

static void put_attribute(struct ttlv_writer *w, const char *attribute, const char *value)
{
    ttlv_begin(w, TAG_ATTRIBUTE);
    ttlv_put_text(w, TAG_ATTRIBUTE_NAME, attribute);
    if (strcmp(attribute, "Name") == 0)
        put_name(w, value);
    else
        ttlv_put_text(w, TAG_ATTRIBUTE_VALUE, value);
    ttlv_end(w);
}

void kmip_put_locate(struct ttlv_writer *w, const char *attribute, const char *value)
{
    put_integer(w, TAG_MAXIMUM_ITEMS, KMIP_IDS_MOST + 1);
    put_attribute(w, attribute, value);
}

void kmip_put_id(struct ttlv_writer *w, const char *id)
{
    ttlv_put_text(w, TAG_UNIQUE_IDENTIFIER, id);
}

void kmip_put_get_attributes(struct ttlv_writer *w, const char *id)
{
    kmip_put_id(w, id);
    ttlv_put_text(w, TAG_ATTRIBUTE_NAME, "Object Type");
    ttlv_put_text(w, TAG_ATTRIBUTE_NAME, "State");
}

void kmip_put_register(struct ttlv_writer *w, const char *name, const struct sp_secret *secret)
{
    put_enum(w, TAG_OBJECT_TYPE, KMIP_SECRET_DATA);
    ttlv_begin(w, TAG_TEMPLATE_ATTRIBUTE);
    put_attribute(w, "Name", name);
    ttlv_begin(w, TAG_ATTRIBUTE);
    ttlv_put_text(w, TAG_ATTRIBUTE_NAME, "Cryptographic Usage Mask");
    put_integer(w, TAG_ATTRIBUTE_VALUE, USAGE_EXPORT);
    ttlv_end(w);
    ttlv_end(w);
    ttlv_begin(w, TAG_SECRET_DATA);
    put_enum(w, TAG_SECRET_DATA_TYPE, SECRET_PASSWORD);
    ttlv_begin(w, TAG_KEY_BLOCK);
    put_enum(w, TAG_KEY_FORMAT_TYPE, FORMAT_OPAQUE);
    ttlv_begin(w, TAG_KEY_VALUE);
    ttlv_put(w, TAG_KEY_MATERIAL, TTLV_BYTES, sp_secret_data(secret), sp_secret_size(secret));
    ttlv_end(w);
    ttlv_end(w);
    ttlv_end(w);
}
