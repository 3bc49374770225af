/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A hostile header: our own parse, the copy in a memfd, libcryptsetup's load of it. */
#include "controller/keeper/prover/header.h"
#include "base/cleanup.h"
#include <string.h>

enum { VOLUME_BYTES = 5 << 20 };

struct input {
    const uint8_t *data;
    size_t size;
};

static int read_input(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct input *in = self;
    if (offset > VOLUME_BYTES || length > VOLUME_BYTES - offset)
        return -ERANGE;
    memset(out, 0, length);
    if (offset < in->size)
        memcpy(out, in->data + offset, in->size - offset < length ? in->size - offset : length);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return header_warm_up() < 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct volume_reader reader = {.read_at = read_input, .self = &in, .size_bytes = VOLUME_BYTES};
    struct header h;
    struct sp_why why = {0};
    if (header_find(&reader, &h) == 1 && !h.facts->damaged &&
        (h.format->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS1 ||
         h.format->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS2))
        (void)header_load(&reader, &h, &why);
    header_close(&h);
    return 0;
}
