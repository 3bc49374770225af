/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/json.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The length of the UTF-8 sequence at `at`, 0 if it is none (RFC 3629). */
static size_t utf8_length(const unsigned char *at)
{
    size_t n = *at < 0x80                  ? 1
               : *at >= 0xc2 && *at < 0xe0 ? 2
               : *at >= 0xe0 && *at < 0xf0 ? 3
               : *at >= 0xf0 && *at < 0xf5 ? 4
                                           : 0;
    for (size_t i = 1; i < n; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) ||
        (*at == 0xf0 && at[1] < 0x90) || (*at == 0xf4 && at[1] > 0x8f))
        return 0;
    return n;
}

int json_string(struct sp_buffer *out, const char *text)
{
    int r = sp_buffer_append(out, "\"", 1);
    for (const unsigned char *at = (const unsigned char *)text; r == 0 && *at;) {
        size_t n = utf8_length(at);
        if (*at == '"' || *at == '\\')
            r = sp_buffer_printf(out, "\\%c", *at);
        else if (*at < 0x20 || *at == 0x7f)
            r = sp_buffer_printf(out, "\\u%04x", *at);
        else if (n == 0)
            r = sp_buffer_printf(out, "\\ufffd");
        else
            r = sp_buffer_append(out, at, n);
        at += n ? n : 1;
    }
    return r == 0 ? sp_buffer_append(out, "\"", 1) : r;
}

static int json_bytes(struct sp_buffer *out, const ProtobufCBinaryData *bytes)
{
    char *hex = malloc(bytes->len * 2 + 1);
    if (!hex)
        return -ENOMEM;
    int r = sp_buffer_printf(out, "\"%s\"", sp_hex(hex, bytes->data, bytes->len));
    free(hex);
    return r;
}

/* The part of an enum value's name behind what all values share: "VOLUME_KIND_". */
static int json_enum(struct sp_buffer *out, const ProtobufCEnumDescriptor *of, int value)
{
    const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(of, value);
    const ProtobufCEnumValue *zero = protobuf_c_enum_descriptor_get_value(of, 0);
    if (!v)
        return sp_buffer_printf(out, "%d", value);
    const char *tail = zero ? strstr(zero->name, "UNSPECIFIED") : NULL;
    size_t prefix = tail ? (size_t)(tail - zero->name) : 0;
    if (strncmp(v->name, zero ? zero->name : "", prefix) != 0)
        prefix = 0;
    return json_string(out, v->name + prefix);
}

static int json_value(struct sp_buffer *out, const ProtobufCFieldDescriptor *field,
                      const void *value, unsigned indent)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        return json_string(out, *(char *const *)value);
    case PROTOBUF_C_TYPE_BYTES:
        return json_bytes(out, value);
    case PROTOBUF_C_TYPE_MESSAGE:
        return json_message(out, *(ProtobufCMessage *const *)value, indent);
    case PROTOBUF_C_TYPE_BOOL:
        return sp_buffer_printf(out, *(const protobuf_c_boolean *)value ? "true" : "false");
    case PROTOBUF_C_TYPE_ENUM:
        return json_enum(out, field->descriptor, *(const int *)value);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return sp_buffer_printf(out, "%" PRIu64, *(const uint64_t *)value);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return sp_buffer_printf(out, "%" PRId64, *(const int64_t *)value);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return sp_buffer_printf(out, "%" PRIu32, *(const uint32_t *)value);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return sp_buffer_printf(out, "%" PRId32, *(const int32_t *)value);
    case PROTOBUF_C_TYPE_FLOAT:
        return sp_buffer_printf(out, "%g", (double)*(const float *)value);
    case PROTOBUF_C_TYPE_DOUBLE:
        return sp_buffer_printf(out, "%g", *(const double *)value);
    }
    return sp_buffer_printf(out, "null");
}

static size_t element_size(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    default:
        return 4;
    }
}

/* Everything but what is not there at all: a message, or an alternative that was not taken. */
static bool is_there(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    const uint8_t *at = (const uint8_t *)message;
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return true;
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        return *(const uint32_t *)(at + field->quantifier_offset) == field->id;
    return field->type != PROTOBUF_C_TYPE_MESSAGE ||
           *(ProtobufCMessage *const *)(at + field->offset);
}

static int json_field(struct sp_buffer *out, const ProtobufCMessage *message,
                      const ProtobufCFieldDescriptor *field, unsigned indent)
{
    const uint8_t *at = (const uint8_t *)message;
    int r = sp_buffer_printf(out, "%*s\"%s\": ", (int)indent * 2, "", field->name);
    if (r < 0 || field->label != PROTOBUF_C_LABEL_REPEATED)
        return r < 0 ? r : json_value(out, field, at + field->offset, indent);
    size_t count = *(const size_t *)(at + field->quantifier_offset);
    const uint8_t *array = *(uint8_t *const *)(at + field->offset);
    bool broken = field->type == PROTOBUF_C_TYPE_MESSAGE;
    r = sp_buffer_printf(out, "[");
    for (size_t i = 0; r == 0 && i < count; i++) {
        r = broken ? sp_buffer_printf(out, "%s\n%*s", i ? "," : "", (int)(indent + 1) * 2, "")
                   : sp_buffer_printf(out, "%s", i ? ", " : "");
        if (r == 0)
            r = json_value(out, field, array + i * element_size(field->type), indent + 1);
    }
    if (r == 0 && broken && count)
        r = sp_buffer_printf(out, "\n%*s", (int)indent * 2, "");
    return r == 0 ? sp_buffer_printf(out, "]") : r;
}

int json_message(struct sp_buffer *out, const ProtobufCMessage *message, unsigned indent)
{
    int r = sp_buffer_printf(out, "{");
    bool first = true;
    for (unsigned i = 0; r == 0 && i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (!is_there(message, field))
            continue;
        r = sp_buffer_printf(out, "%s\n", first ? "" : ",");
        first = false;
        if (r == 0)
            r = json_field(out, message, field, indent + 1);
    }
    if (r == 0 && !first)
        r = sp_buffer_printf(out, "\n%*s", (int)indent * 2, "");
    return r == 0 ? sp_buffer_printf(out, "}") : r;
}
