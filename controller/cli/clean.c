/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/bytes.h"
#include "controller/cli/cli.h"

#include <stdint.h>

void cli_clean_text(char *text)
{
    while (*text) {
        size_t n = sp_utf8_printable((const unsigned char *)text);
        if (n == 0)
            *text = '?';
        text += n ? n : 1;
    }
}

static void clean_value(const ProtobufCFieldDescriptor *f, void *at)
{
    if (f->type == PROTOBUF_C_TYPE_STRING) {
        char *text = *(char **)at;
        if (text && text != (char *)(uintptr_t)protobuf_c_empty_string)
            cli_clean_text(text);
    } else if (*(ProtobufCMessage **)at) {
        cli_clean(*(ProtobufCMessage **)at);
    }
}

static void clean_field(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    char *base = (char *)m;
    if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
        return;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t count = *(const size_t *)(const void *)(base + f->quantifier_offset);
        void **list = *(void ***)(void *)(base + f->offset);
        for (size_t i = 0; i < count; i++)
            clean_value(f, &list[i]);
    } else if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
               *(const uint32_t *)(const void *)(base + f->quantifier_offset) == f->id) {
        clean_value(f, base + f->offset);
    }
}

/* As deep as protobuf-c's own unpacking went. */
void cli_clean(ProtobufCMessage *m)
{
    for (unsigned i = 0; i < m->descriptor->n_fields; i++)
        clean_field(m, &m->descriptor->fields[i]);
}
