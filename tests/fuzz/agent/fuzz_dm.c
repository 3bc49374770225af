/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One line of a device-mapper table: its type, a blank, its parameters. After a crypt line no byte
 * of the key may be left. */
#include "agent/linux/scan.h"
#include "base/bytes.h"
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

/* The second word of the parameters is the key; nothing may be left in its place. */
static void parse_with_key(const char *parameters)
{
    static const char cipher[] = "aes-xts-plain64 ", key[] = "0123456789abcdeffedcba9876543210";
    size_t size = strlen(parameters) + sizeof key + sizeof cipher;
    SP_FREE char *text = malloc(size);
    struct inventory_dm_target target = {0};
    if (!text)
        return;
    snprintf(text, size, "%s%s %s", cipher, key, parameters);
    scan_dm_parse("crypt", text, &target);
    check(&target);
    if (!sp_is_zero(text + strlen(cipher), strlen(key)) || target.key_bits != 128)
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
