/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/message.h"
#include <string.h>

int message_take(char **field, char *text)
{
    if (!text)
        return -ENOMEM;
    if (*field != protobuf_c_empty_string)
        free(*field);
    *field = text;
    return 0;
}

int message_set(char **field, const char *text)
{
    if (message_empty(text)) {
        if (*field != protobuf_c_empty_string)
            free(*field);
        *field = (char *)protobuf_c_empty_string;
        return 0;
    }
    return message_take(field, strdup(text));
}

int message_set_bytes(ProtobufCBinaryData *field, const void *data, size_t size)
{
    uint8_t *copy = NULL;
    if (size > 0) {
        copy = malloc(size);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, data, size);
    }
    free(field->data);
    field->data = copy;
    field->len = size;
    return 0;
}

int message_append_(void *items, size_t *count, void *item)
{
    if (!item)
        return -ENOMEM;
    void ***array = items;
    void **larger = reallocarray(*array, *count + 1, sizeof(void *));
    if (!larger) {
        message_free_(item);
        return -ENOMEM;
    }
    larger[(*count)++] = item;
    *array = larger;
    return 0;
}

int message_append_text(char ***items, size_t *count, const char *text)
{
    char *copy = strdup(text ? text : "");
    if (!copy)
        return -ENOMEM;
    char **larger = reallocarray(*items, *count + 1, sizeof(char *));
    if (!larger) {
        free(copy);
        return -ENOMEM;
    }
    larger[(*count)++] = copy;
    *items = larger;
    return 0;
}

void *message_new(const ProtobufCMessageDescriptor *type)
{
    ProtobufCMessage *message = malloc(type->sizeof_message);
    if (message)
        type->message_init(message);
    return message;
}

void message_free_(ProtobufCMessage *message)
{
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
}

int message_take_answer(Sp__KeeperResponse *response, Sp__KeeperRequest__KindCase asked,
                        ProtobufCMessage **ret)
{
    /* Question and answer have the same number, and every member of the oneof is a pointer. */
    if ((int)response->kind_case != (int)asked || !response->status)
        return -EPROTO;
    *ret = &response->status->base;
    response->status = NULL;
    response->kind_case = SP__KEEPER_RESPONSE__KIND__NOT_SET;
    return 0;
}
