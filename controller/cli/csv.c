/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

/* Reads one field; *ret_last: it ended the record. Unquoting only ever shortens, so it is done in
 * place. */
static int next_field(struct cli_csv *csv, char **ret, bool *ret_last)
{
    char *from = csv->at, *to = csv->at;
    *ret = to;
    bool quoted = from < csv->end && *from == '"';
    if (quoted)
        from++;
    for (;; from++) {
        if (from >= csv->end) {
            if (quoted)
                return -EINVAL;
            break;
        }
        if (quoted && *from == '"') {
            if (from + 1 < csv->end && from[1] == '"') {
                from++;
            } else {
                quoted = false;
                continue;
            }
        } else if (!quoted && (*from == ',' || *from == '\n' || *from == '\r')) {
            break;
        }
        *to++ = *from;
    }
    *ret_last = from >= csv->end || *from != ',';
    if (from < csv->end && *from == '\r')
        from++;
    if (from < csv->end && (*from == '\n' || *from == ','))
        from++;
    csv->at = from;
    *to = 0; /* at the latest where the separator was; the text ends with a 0 of its own */
    return 0;
}

int cli_csv_next(struct cli_csv *csv, char **fields, size_t capacity)
{
    while (csv->at < csv->end && (*csv->at == '\n' || *csv->at == '\r')) {
        csv->line += *csv->at == '\n';
        csv->at++;
    }
    if (csv->at >= csv->end)
        return 0;
    csv->line++;
    size_t count = 0;
    for (bool last = false; !last; count++) {
        if (count == capacity)
            return -E2BIG;
        int r = next_field(csv, &fields[count], &last);
        if (r < 0)
            return r;
    }
    return (int)count;
}
