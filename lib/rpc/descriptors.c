/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A FileDescriptorSet (google/protobuf/descriptor.proto), kept packed and walked by hand:
 * reflection hands out the files' bytes as they are, and only names are looked at. Numbers of
 * fields:
 *
 *   FileDescriptorSet    file 1
 *   FileDescriptorProto  name 1, package 2, message_type 4, enum_type 5, service 6
 *   DescriptorProto      name 1, field 2, nested_type 3, enum_type 4
 *   EnumDescriptorProto, ServiceDescriptorProto, their children: name 1, value/method 2 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 16 << 20, MOST_DEPTH = 16 };

__asm__(".pushsection .rodata\n"
        ".global rpc_standard_protoset, rpc_standard_protoset_end\n"
        ".hidden rpc_standard_protoset, rpc_standard_protoset_end\n"
        "rpc_standard_protoset:\n"
        ".incbin \"" RPC_STANDARD_PROTOSET "\"\n"
        "rpc_standard_protoset_end:\n"
        ".byte 0\n"
        ".popsection\n");
extern const uint8_t rpc_standard_protoset[], rpc_standard_protoset_end[];

struct rpc_descriptors {
    char *data;
    struct sp_bytes sets[2]; /* the file's and the standard services' */
};

static uint64_t varint(struct sp_reader *r)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = sp_reader_u8(r);
        value |= (uint64_t)(byte & 127) << shift;
        if (!(byte & 128))
            return value;
    }
    r->failed = true;
    return 0;
}

/* The next field: its number and, if it is length-delimited, its bytes. 0 at the end or when the
 * bytes make no sense (then r->failed). */
static uint32_t next_field(struct sp_reader *r, struct sp_bytes *ret)
{
    *ret = (struct sp_bytes){0};
    if (r->failed || sp_reader_left(r) == 0)
        return 0;
    uint64_t key = varint(r), size = 0;
    switch (key & 7) {
    case 0:
        varint(r);
        break;
    case 1:
        size = 8;
        break;
    case 2:
        size = varint(r);
        break;
    case 5:
        size = 4;
        break;
    default:
        r->failed = true;
    }
    if (size > sp_reader_left(r))
        r->failed = true;
    if (r->failed || key >> 3 == 0 || key >> 3 > UINT32_MAX) {
        r->failed = true;
        return 0;
    }
    const uint8_t *bytes = sp_reader_take(r, (size_t)size);
    if ((key & 7) == 2)
        *ret = (struct sp_bytes){bytes, (size_t)size};
    return (uint32_t)(key >> 3);
}

static struct sp_bytes get(struct sp_bytes of, uint32_t number)
{
    struct sp_reader r = sp_reader_of(of.data, of.size);
    struct sp_bytes value;

    for (uint32_t n; (n = next_field(&r, &value));)
        if (n == number)
            return value;
    return (struct sp_bytes){0};
}

/* Does the declaration's name stand at the start of the symbol? *rest: what follows its dot, "" at
 * the symbol's end. */
static bool starts_with(struct sp_bytes declaration, const char *symbol, const char **rest)
{
    struct sp_bytes name = get(declaration, 1);

    if (name.size == 0 || strncmp(symbol, (const char *)name.data, name.size) != 0)
        return false;
    const char *after = symbol + name.size;
    if (*after != 0 && *after != '.')
        return false;
    *rest = *after ? after + 1 : after;
    return true;
}

/* Message, enum or service: itself or one of its members? */
static bool declares(struct sp_bytes declaration, bool is_message, const char *symbol,
                     unsigned depth)
{
    struct sp_reader r = sp_reader_of(declaration.data, declaration.size);
    struct sp_bytes part;
    const char *rest, *end;

    if (depth > MOST_DEPTH || !starts_with(declaration, symbol, &rest))
        return false;
    if (!*rest)
        return true;
    for (uint32_t n; (n = next_field(&r, &part));) {
        if (n == 2 && starts_with(part, rest, &end) && !*end)
            return true;
        if (is_message && (n == 3 || n == 4) && declares(part, n == 3, rest, depth + 1))
            return true;
    }
    return false;
}

static bool file_declares(struct sp_bytes file, const char *symbol)
{
    struct sp_bytes package = get(file, 2), part;
    struct sp_reader r = sp_reader_of(file.data, file.size);

    if (package.size > 0) {
        if (strncmp(symbol, (const char *)package.data, package.size) != 0 ||
            symbol[package.size] != '.')
            return false;
        symbol += package.size + 1;
    }
    for (uint32_t n; (n = next_field(&r, &part));)
        if (n >= 4 && n <= 6 && declares(part, n == 4, symbol, 0))
            return true;
    return false;
}

static bool file_is_named(struct sp_bytes file, const char *name)
{
    struct sp_bytes is = get(file, 1);
    return is.size > 0 && is.size == strlen(name) && memcmp(is.data, name, is.size) == 0;
}

static struct sp_bytes find(const struct rpc_descriptors *d, const char *what,
                            bool (*matches)(struct sp_bytes file, const char *what))
{
    struct sp_bytes file;

    for (size_t i = 0; i < SP_COUNT(d->sets); i++) {
        struct sp_reader r = sp_reader_of(d->sets[i].data, d->sets[i].size);
        for (uint32_t n; (n = next_field(&r, &file));)
            if (n == 1 && file.size > 0 && matches(file, what))
                return file;
    }
    return (struct sp_bytes){0};
}

struct sp_bytes rpc_descriptors_by_name(const struct rpc_descriptors *d, const char *file_name)
{
    return find(d, file_name, file_is_named);
}

struct sp_bytes rpc_descriptors_by_symbol(const struct rpc_descriptors *d, const char *symbol)
{
    return find(d, symbol, file_declares);
}

int rpc_descriptors_parse(const void *data, size_t size, struct rpc_descriptors **ret)
{
    struct sp_reader r = sp_reader_of(data, size);
    struct sp_bytes file;

    while (next_field(&r, &file))
        continue;
    if (r.failed)
        return -EBADMSG;
    struct rpc_descriptors *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->sets[0] = (struct sp_bytes){data, size};
    d->sets[1] = (struct sp_bytes){rpc_standard_protoset,
                                   (size_t)(rpc_standard_protoset_end - rpc_standard_protoset)};
    *ret = d;
    return 0;
}

int rpc_descriptors_load(const char *path, struct rpc_descriptors **ret, struct sp_why *why)
{
    SP_FREE char *data = NULL;
    size_t size;

    int rc = sp_file_read(path, MOST_BYTES, &data, &size);
    if (rc < 0)
        return sp_why_set(why, rc, "cannot read the descriptors %s: %s", path, strerror(-rc));
    rc = rpc_descriptors_parse(data, size, ret);
    if (rc < 0)
        return sp_why_set(why, rc, "%s is no FileDescriptorSet", path);
    (*ret)->data = sp_steal(data);
    return 0;
}

void rpc_descriptors_free(struct rpc_descriptors *d)
{
    if (!d)
        return;
    free(d->data);
    free(d);
}
