/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include <stdint.h>
#include <string.h>

/* Length of one well-formed UTF-8 character that is no control character; 0: it is not one. */
static size_t character(const unsigned char *p)
{
    if (p[0] < 0x80)
        return p[0] >= 0x20 && p[0] != 0x7f;
    size_t more = p[0] >= 0xf0 && p[0] < 0xf5 ? 3 : p[0] >= 0xe0 && p[0] < 0xf0 ? 2 : 1;
    if (p[0] < 0xc2 || p[0] >= 0xf5)
        return 0;
    uint32_t c = p[0] & (0x3fu >> more);
    for (size_t i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0xa0, 0x800, 0x10000}; /* C1 controls are below 0xa0 */
    return c >= least[more] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff) ? more + 1 : 0;
}

void cli_clean_text(char *text)
{
    while (*text) {
        size_t n = character((const unsigned char *)text);
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
