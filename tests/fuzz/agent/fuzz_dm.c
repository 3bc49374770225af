/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One line of a device-mapper table: its type, a blank, its parameters. After a crypt line no byte
 * of the key may be left. */
#include "agent/linux/scan.h"
#include "base/cleanup.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct inventory_dm_target *t)
{
    if (!memchr(t->type, 0, sizeof t->type) || !memchr(t->device, 0, sizeof t->device) ||
        !memchr(t->cipher, 0, sizeof t->cipher))
        abort();
}

/* The second word of the parameters is the key: "KEYKEY…" must be gone. */
static void parse_with_key(const char *parameters)
{
    static const char key[] = "0123456789abcdeffedcba9876543210";
    size_t size = strlen(parameters) + sizeof key + 16;
    SP_FREE char *text = malloc(size);
    struct inventory_dm_target target = {0};
    if (!text)
        return;
    snprintf(text, size, "aes-xts-plain64 %s %s", key, parameters);
    scan_dm_parse("crypt", text, &target);
    check(&target);
    if (memmem(text, size, key, 8) || target.key_bits != 128)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    SP_FREE char *line = calloc(1, size + 1);
    struct inventory_dm_target target = {0};
    if (!line)
        return 0;
    memcpy(line, data, size);
    char *parameters = line, *type = strsep(&parameters, " ");
    if (!parameters)
        return 0;
    parse_with_key(parameters);
    scan_dm_parse(type, parameters, &target);
    check(&target);
    return 0;
}
