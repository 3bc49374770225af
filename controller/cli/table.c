/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/clock.h"
#include <ctype.h>
#include <inttypes.h>
#include <libsmartcols.h>
#include <string.h>

struct cli_table {
    struct libscols_table *scols;
    size_t columns, rows;
};

struct cli_table *cli_table_new(const char *const *columns)
{
    struct cli_table *t = calloc(1, sizeof(*t));
    if (!t || !(t->scols = scols_new_table())) {
        free(t);
        return NULL;
    }
    for (; columns[t->columns]; t->columns++) {
        const char *name = columns[t->columns];
        bool right = *name == '>';
        if (!scols_table_new_column(t->scols, name + right, 0, right ? SCOLS_FL_RIGHT : 0))
            break;
    }
    return t;
}

void cli_table_row(struct cli_table *t, const char *const *cells)
{
    struct libscols_line *line = t ? scols_table_new_line(t->scols, NULL) : NULL;
    for (size_t i = 0; line && i < t->columns; i++)
        (void)scols_line_set_data(line, i, cells[i] ? cells[i] : "");
    if (line)
        t->rows++;
}

int cli_table_print(struct cli_table *t, const char *empty)
{
    if (!t)
        return cli_fail(CLI_ERROR, "no memory");
    int r = 0;
    if (t->rows)
        r = scols_print_table(t->scols);
    else
        fprintf(stderr, "%s\n", empty);
    scols_unref_table(t->scols);
    free(t);
    return r < 0 ? cli_fail(CLI_ERROR, "cannot print: %s", strerror(-r)) : CLI_OK;
}

char *cli_size_text(uint64_t bytes, char out[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit < SP_COUNT(units) - 1) {
        value /= 1024;
        unit++;
    }
    (void)snprintf(out, 24, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

char *cli_time_text(uint64_t unix_ms, char out[24])
{
    if (unix_ms)
        return sp_time_text(unix_ms, out);
    strcpy(out, "-"); // NOLINT
    return out;
}

char *cli_enum_text(const ProtobufCEnumDescriptor *of, int value, const char *prefix, char out[48])
{
    (void)snprintf(out, 48, "%s", sp_enum_name(of, value, prefix));
    for (char *p = out; *p; p++)
        *p = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
    return out;
}

int cli_enum_parse(const ProtobufCEnumDescriptor *of, const char *prefix, const char *text)
{
    char name[96];
    size_t n = (size_t)snprintf(name, sizeof(name), "%s", prefix);
    for (; *text && n < sizeof(name) - 1; text++)
        name[n++] = *text == '-' ? '_' : (char)toupper((unsigned char)*text);
    name[n] = 0;
    const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value_by_name(of, name);
    return v && v->value ? v->value : -1;
}

void cli_print_findings(Sp__Finding *const *findings, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const Sp__Finding *f = findings[i];
        printf("  %s%s%s%s%s", sp_enum_name(&sp__reason__descriptor, (int)f->reason, "REASON_"),
               f->note ? " (note)" : "", *f->volume_id ? " " : "", f->volume_id,
               *f->volume_id || !*f->disk_id ? "" : " disk ");
        if (!*f->volume_id && *f->disk_id) {
            printf("%s", f->disk_id);
            if (f->length_bytes)
                printf(" %" PRIu64 "+%" PRIu64, f->offset_bytes, f->length_bytes);
        }
        printf(": %s", f->text);
        if (*f->allowed_by)
            printf(" (allowed by %s)", f->allowed_by);
        printf("\n");
    }
}
