/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Building protobuf-c messages field by field, so that free_unpacked() frees them. */
#ifndef SEALPOINT_AGENT_MESSAGE_H
#define SEALPOINT_AGENT_MESSAGE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

/* Replaces the text of a string field. NULL and "" give the field's default. 0 or -ENOMEM, which
 * leaves it empty. */
int message_text(char **field, const char *text);

/* Appends a pointer to a repeated field: message_append(&m->devices, &m->n_devices, device).
 * 0 or -ENOMEM; the item stays the caller's then. */
int message_append(void *array, size_t *count, void *item);

/* A copy of `text` appended to a repeated string field. */
int message_append_text(char ***array, size_t *count, const char *text);

/* Replaces a bytes field. */
int message_bytes(ProtobufCBinaryData *field, const void *data, size_t size);

#endif
