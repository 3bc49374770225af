/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bytes from a peer as each message of the contract: what unpacks must pack again. The first byte
 * picks the message. */
#include "rpc/methods.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {
    "AgentLink/Session", "Enrolment/Enrol", "Enrolment/Renew",  "Admin/AddUser",
    "Keys/Import",       "Keys/Release",    "Fleet/SetPolicy",  "Fleet/SetSource",
    "Backup/ReadDisk",   "Backup/AddVault", "Fleet/GetMachine",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t count = sizeof names / sizeof names[0];
    const struct rpc_method *m = sp_method(names[data[0] / 2 % count]);
    const ProtobufCMessageDescriptor *of = data[0] & 1 ? m->request : m->response;
    ProtobufCMessage *message = protobuf_c_message_unpack(of, NULL, size - 1, data + 1);
    if (!message)
        return 0;
    uint8_t *again = malloc(protobuf_c_message_get_packed_size(message) + 1);
    if (again)
        protobuf_c_message_pack(message, again);
    free(again);
    protobuf_c_message_free_unpacked(message, NULL);
    return 0;
}
