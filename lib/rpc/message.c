/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * protobuf-c messages in gRPC's byte buffers. */
#include "internal.h"
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>

grpc_byte_buffer *rpc_encode(const ProtobufCMessage *message, size_t size)
{
    grpc_slice slice = grpc_slice_malloc(size);
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *bytes = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return bytes;
}

ProtobufCMessage *rpc_decode(const ProtobufCMessageDescriptor *of, grpc_byte_buffer *bytes)
{
    grpc_byte_buffer_reader reader;
    ProtobufCMessage *message = NULL;

    if (!grpc_byte_buffer_reader_init(&reader, bytes))
        return NULL;
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    message =
        protobuf_c_message_unpack(of, NULL, GRPC_SLICE_LENGTH(slice), GRPC_SLICE_START_PTR(slice));
    grpc_slice_unref(slice);
    grpc_byte_buffer_reader_destroy(&reader);
    return message;
}
