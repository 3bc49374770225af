/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A message as JSON, after its descriptor: field names as in the .proto files, enums by name
 * without prefix, bytes in hexadecimal, 64-bit numbers as numbers. Every field is there, with its
 * default when it was not set; only messages that are not there are left out. */
#ifndef SEALPOINT_AGENT_JSON_H
#define SEALPOINT_AGENT_JSON_H

#include "base/bytes.h"

/* Appends the message; `indent` is the depth it stands at. 0 or -ENOMEM. */
int json_message(struct sp_buffer *out, const ProtobufCMessage *message, unsigned indent);
/* A quoted string; bytes that are no UTF-8 are replaced. */
int json_string(struct sp_buffer *out, const char *text);

#endif
