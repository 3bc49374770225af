/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A CSV file of keys, as an admin exported it from anywhere. */
#include "controller/cli/cli.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    SP_FREE char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    struct cli_csv csv = {.at = text, .end = text + size};
    char *fields[16];
    for (;;) {
        char *before = csv.at;
        int count = cli_csv_next(&csv, fields, 16);
        if (count <= 0)
            return 0;
        for (int i = 0; i < count; i++) {
            if (fields[i] < text || fields[i] + strlen(fields[i]) > text + size)
                abort();
        }
        if (csv.at == before)
            abort(); /* a record that takes nothing would never end */
    }
}
