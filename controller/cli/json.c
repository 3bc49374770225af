/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include <json-c/json.h>
#include <string.h>

static struct json_object *bytes_json(const ProtobufCBinaryData *b)
{
    SP_FREE char *hex = malloc(2 * b->len + 1);
    return hex ? json_object_new_string(sp_hex(hex, b->data, b->len)) : NULL;
}

static struct json_object *enum_json(const ProtobufCEnumDescriptor *of, int value)
{
    const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(of, value);
    return v ? json_object_new_string(v->name) : json_object_new_int(value);
}

/* One value at `at`. */
static struct json_object *value_json(const ProtobufCFieldDescriptor *f, const void *at)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_object_new_int(*(const int32_t *)at);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_object_new_int64(*(const uint32_t *)at);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return json_object_new_int64(*(const int64_t *)at);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return json_object_new_uint64(*(const uint64_t *)at);
    case PROTOBUF_C_TYPE_FLOAT:
        return json_object_new_double((double)*(const float *)at);
    case PROTOBUF_C_TYPE_DOUBLE:
        return json_object_new_double(*(const double *)at);
    case PROTOBUF_C_TYPE_BOOL:
        return json_object_new_boolean(*(const protobuf_c_boolean *)at);
    case PROTOBUF_C_TYPE_ENUM:
        return enum_json(f->descriptor, *(const int *)at);
    case PROTOBUF_C_TYPE_STRING:
        return json_object_new_string(*(char *const *)at ? *(char *const *)at : "");
    case PROTOBUF_C_TYPE_BYTES:
        return bytes_json(at);
    case PROTOBUF_C_TYPE_MESSAGE:
        return cli_json(*(ProtobufCMessage *const *)at);
    }
    return NULL;
}

static size_t element_size(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

static struct json_object *list_json(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *m)
{
    size_t count = *(const size_t *)(const void *)((const char *)m + f->quantifier_offset);
    const char *items = *(const char *const *)(const void *)((const char *)m + f->offset);
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; list && i < count; i++)
        json_object_array_add(list, value_json(f, items + i * element_size(f)));
    return list;
}

/* Members of a oneof and messages that are not there are left out; everything else is always
 * there, so that a script need not guess. */
static bool is_absent(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *m)
{
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        return *(const uint32_t *)(const void *)((const char *)m + f->quantifier_offset) != f->id;
    return f->type == PROTOBUF_C_TYPE_MESSAGE &&
           !*(ProtobufCMessage *const *)(const void *)((const char *)m + f->offset);
}

struct json_object *cli_json(const ProtobufCMessage *m)
{
    struct json_object *o = json_object_new_object();
    for (unsigned i = 0; o && i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        if (f->label == PROTOBUF_C_LABEL_REPEATED)
            json_object_object_add(o, f->name, list_json(f, m));
        else if (!is_absent(f, m))
            json_object_object_add(o, f->name, value_json(f, (const char *)m + f->offset));
    }
    return o;
}

int cli_print_json(const ProtobufCMessage *m)
{
    struct json_object *o = cli_json(m);
    if (!o)
        return cli_fail(CLI_ERROR, "no memory");
    puts(json_object_to_json_string_ext(o,
                                        JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
    return CLI_OK;
}
