/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "../base/test.h"
#include "controller/cli/cli.h"

static void records_of_rfc_4180(void **state)
{
    (void)state;
    char text[] = "a,b,c\r\n\r\n1,\"two, and \"\"quotes\"\"\",\n\"line\nbreak\",,x";
    struct cli_csv csv = {.at = text, .end = text + strlen(text)};
    char *f[4];
    assert_int_equal(cli_csv_next(&csv, f, 4), 3);
    assert_string_equal(f[0], "a");
    assert_string_equal(f[2], "c");
    assert_int_equal(cli_csv_next(&csv, f, 4), 3);
    assert_string_equal(f[0], "1");
    assert_string_equal(f[1], "two, and \"quotes\"");
    assert_string_equal(f[2], "");
    assert_int_equal(cli_csv_next(&csv, f, 4), 3);
    assert_string_equal(f[0], "line\nbreak");
    assert_string_equal(f[1], "");
    assert_string_equal(f[2], "x");
    assert_int_equal(cli_csv_next(&csv, f, 4), 0);
    assert_int_equal(cli_csv_next(&csv, f, 4), 0);
}

static void faults(void **state)
{
    (void)state;
    char open_quote[] = "a,\"b";
    struct cli_csv csv = {.at = open_quote, .end = open_quote + 4};
    char *f[2];
    assert_int_equal(cli_csv_next(&csv, f, 2), -EINVAL);
    char many[] = "a,b,c";
    csv = (struct cli_csv){.at = many, .end = many + 5};
    assert_int_equal(cli_csv_next(&csv, f, 2), -E2BIG);
    char none[] = "\n\r\n";
    csv = (struct cli_csv){.at = none, .end = none + 3};
    assert_int_equal(cli_csv_next(&csv, f, 2), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_of_rfc_4180),
        cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
