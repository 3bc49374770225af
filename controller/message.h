/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Building protobuf-c messages whose parts are all on the heap, so that free_unpacked() frees them.
 * Functions return 0 or -ENOMEM and leave the message whole on failure. */
#ifndef SEALPOINT_CONTROLLER_MESSAGE_H
#define SEALPOINT_CONTROLLER_MESSAGE_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include <protobuf-c/protobuf-c.h>
#include <sealpoint/v1/keeper.pb-c.h>
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>

/* Replaces a text field (the old one is freed unless it is the shared empty string). NULL: "". */
int message_set(char **field, const char *text);
/* As message_set; takes `text` (from malloc), also on failure. -ENOMEM when it is NULL. */
int message_take(char **field, char *text);
/* Replaces a bytes field with a copy. */
int message_set_bytes(ProtobufCBinaryData *field, const void *data, size_t size);
/* Adds `item` to a repeated message field; takes it, also on failure. -ENOMEM when it is NULL. */
int message_append_(void *items, size_t *count, void *item);
#define message_append(items, count, item) message_append_((void *)(items), (count), (item))
/* Adds a copy of `text` to a repeated string field. */
int message_append_text(char ***items, size_t *count, const char *text);
/* New, zeroed (initialised) message of a type; NULL on -ENOMEM. */
void *message_new(const ProtobufCMessageDescriptor *type);
/* Deep copy; NULL stays NULL, NULL on -ENOMEM. */
#define message_copy(m) ((void *)sp_message_copy((const ProtobufCMessage *)(m)))
#define message_free(m) message_free_((ProtobufCMessage *)(m))
void message_free_(ProtobufCMessage *message);

static inline bool message_empty(const char *text)
{
    return !text || !*text;
}

/* Scope cleanup for the types that the controller passes around. */
#define MESSAGE_CLEANUP(name, type)                                                                \
    static inline void sp_cleanup_##name(type **p)                                                 \
    {                                                                                              \
        if (*p)                                                                                    \
            message_free_((ProtobufCMessage *)*p);                                                 \
    }
MESSAGE_CLEANUP(keeper_response, Sp__KeeperResponse)
MESSAGE_CLEANUP(manifest, Sp__Manifest)
MESSAGE_CLEANUP(signed_message, Sp__Signed)
MESSAGE_CLEANUP(statement, Sp__ProofStatement)
MESSAGE_CLEANUP(inventory, Sp__Inventory)
MESSAGE_CLEANUP(finding, Sp__Finding)
MESSAGE_CLEANUP(identities, Sp__IdentitiesResponse)

/* Takes what answers a request of this kind out of the response. -EPROTO: it answers another. */
int message_take_answer(Sp__KeeperResponse *, Sp__KeeperRequest__KindCase asked,
                        ProtobufCMessage **ret);

#endif
