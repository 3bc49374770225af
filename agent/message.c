/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/message.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int message_text(char **field, const char *text)
{
    char *copy = (char *)(uintptr_t)protobuf_c_empty_string;
    int r = 0;
    if (text && *text) {
        char *made = strdup(text);
        if (made)
            copy = made;
        else
            r = -ENOMEM;
    }
    if (*field && *field != protobuf_c_empty_string)
        free(*field);
    *field = copy;
    return r;
}

int message_append(void *array, size_t *count, void *item)
{
    /* The fields are T ** of many T: the pointer is moved as bytes, not through another type. */
    void **items;
    memcpy(&items, array, sizeof(items));
    items = reallocarray(items, *count + 1, sizeof(*items));
    if (!items)
        return -ENOMEM;
    items[(*count)++] = item;
    memcpy(array, &items, sizeof(items));
    return 0;
}

int message_append_text(char ***array, size_t *count, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    int r = message_append(array, count, copy);
    if (r < 0)
        free(copy);
    return r;
}

int message_bytes(ProtobufCBinaryData *field, const void *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, data, size);
    free(field->data);
    field->data = copy;
    field->len = size;
    return 0;
}
