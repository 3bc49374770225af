/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Hostile bytes that pretend to be decrypted content. */
#include "base/cleanup.h"
#include "controller/keeper/prover/recognise.h"
#include <string.h>

struct input {
    const uint8_t *data;
    size_t size;
};

static int read_input(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct input *in = self;
    if (offset > in->size || length > in->size - offset)
        return -ERANGE;
    memcpy(out, in->data + offset, length);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const types[] = {"ext4", "xfs"};
    struct input in = {data, size};
    struct volume_reader reader = {.read_at = read_input, .self = &in, .size_bytes = size};
    Sp__Content *content = NULL;
    if (prover_recognise(&reader, NULL, &content, NULL) == 1)
        sp__content__free_unpacked(content, NULL);
    for (size_t i = 0; i < SP_COUNT(types); i++) {
        Sp__Content c = SP__CONTENT__INIT;
        c.type = (char *)(uintptr_t)types[i];
        (void)prover_holds_together(&reader, &c, NULL);
    }
    return 0;
}
