/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Filling protobuf-c messages that are freed with …__free_unpacked(, NULL). */
#ifndef SEALPOINT_KEEPER_MESSAGE_H
#define SEALPOINT_KEEPER_MESSAGE_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include <string.h>

/* A new, initialised message, or NULL. */
#define MESSAGE_NEW(type, init)                                                                    \
    ({                                                                                             \
        type *message_new_ = malloc(sizeof(*message_new_));                                        \
        if (message_new_)                                                                          \
            init(message_new_);                                                                    \
        message_new_;                                                                              \
    })

/* Grows an array of pointers by one slot, which the caller fills at once: array[(*count)++] = … .
 * 0 or -ENOMEM. */
#define MESSAGE_ROOM(array, count)                                                                 \
    ({                                                                                             \
        void *grown_ = realloc((array), ((count) + 1) * sizeof(*(array)));                         \
        if (grown_)                                                                                \
            (array) = grown_;                                                                      \
        grown_ ? 0 : -ENOMEM;                                                                      \
    })

/* SP_CLEANUP(name) for messages that free_unpacked() frees. */
#define MESSAGE_CLEANUP(name, type, free_unpacked)                                                 \
    static inline void sp_cleanup_##name(type **p)                                                 \
    {                                                                                              \
        if (*p)                                                                                    \
            free_unpacked(*p, NULL);                                                               \
    }

static inline int message_bytes(ProtobufCBinaryData *field, const void *data, size_t size)
{
    field->data = NULL;
    field->len = 0;
    if (size == 0)
        return 0;
    field->data = malloc(size);
    if (!field->data)
        return -ENOMEM;
    memcpy(field->data, data, size);
    field->len = size;
    return 0;
}

/* The field must hold its default. */
static inline int message_text(char **field, const char *text)
{
    if (!text || !*text)
        return 0;
    char *copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    *field = copy;
    return 0;
}

/* A pointer to `len` bytes, for code that wants a struct sp_bytes. */
static inline struct sp_bytes message_view(ProtobufCBinaryData field)
{
    return (struct sp_bytes){field.data, field.len};
}

#endif
