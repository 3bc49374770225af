/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a KMIP server answers: the first byte says to what, then the message. What passes as TTLV is
 * also written again, and must come out as it was. */
#include "controller/keeper/providers/kmip_message.h"

#include "base/cleanup.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NUMBER = 7, MINOR = 2 };

static void rewrite(struct ttlv_writer *w, const struct ttlv_item *item)
{
    struct sp_bytes rest = item->value;
    struct ttlv_item inner;
    if (item->type != TTLV_STRUCTURE) {
        ttlv_put(w, item->tag, item->type, item->value.data, item->value.size);
        return;
    }
    ttlv_begin(w, item->tag);
    while (ttlv_next(&rest, &inner))
        rewrite(w, &inner);
    ttlv_end(w);
}

static void check_again(struct sp_bytes message)
{
    struct ttlv_item all;
    if (ttlv_check(message, &all) < 0)
        return;
    struct ttlv_writer w = {.data = malloc(message.size), .capacity = message.size};
    if (!w.data)
        return;
    rewrite(&w, &all);
    if (!ttlv_done(&w) || w.size != message.size || memcmp(w.data, message.data, w.size) != 0)
        abort();
    free(w.data);
}

static void read_payload(enum kmip_operation operation, const struct ttlv_item *payload)
{
    SP_SECRET struct sp_secret *secret = NULL;
    struct sp_why why = {""};
    struct kmip_ids ids;
    char id[KMIP_ID_BYTES];
    uint32_t object, state;
    unsigned minor;
    switch (operation) {
    case KMIP_DISCOVER_VERSIONS:
        if (kmip_read_versions(payload, &minor, &why) == 0 && minor > KMIP_MINOR_MOST)
            abort();
        break;
    case KMIP_LOCATE:
        kmip_read_located(payload, &ids, &why);
        break;
    case KMIP_GET_ATTRIBUTES:
        kmip_read_attributes(payload, "17", &object, &state, &why);
        break;
    case KMIP_GET:
        for (object = KMIP_SYMMETRIC_KEY; object <= KMIP_OPAQUE_OBJECT && !secret; object++)
            if (kmip_read_key(payload, "17", object, 64, &secret, &why) == 0 &&
                (sp_secret_size(secret) == 0 || sp_secret_size(secret) > 64))
                abort();
        break;
    default:
        kmip_read_id(payload, id, &why);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sp_why why = {""};
    struct ttlv_item payload;
    uint32_t reason;
    if (size < 1)
        return 0;
    const struct sp_bytes message = {data + 1, size - 1};
    const struct kmip_ask ask = {
        .operation = (enum kmip_operation)data[0], .minor = MINOR, .number = NUMBER};
    if (message.size >= TTLV_HEADER_BYTES)
        kmip_answer_size(message.data);
    check_again(message);
    int r = kmip_answer(message, &ask, &payload, &reason, &why);
    if (r == 0)
        read_payload(ask.operation, &payload);
    else if (!why.text[0])
        abort();
    return 0;
}
