/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a guest or a stranger wrote does not steer the admin's terminal. */
#include "controller/cli/cli.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void texts(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"", ""},
        {"web1", "web1"},
        {"\033[31mred\a\r\n\x7f", "?[31mred????"},
        {"Straße 日本 🔑", "Straße 日本 🔑"},
        {"\xc2\x9b"
         "31m",
         "??31m"},               /* a C1 control, CSI in one character */
        {"\xc0\xaf", "??"},      /* overlong */
        {"\xed\xa0\x80", "???"}, /* a surrogate */
        {"a\xe6\x97", "a??"},    /* cut off */
        {"\xff\xfe", "??"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        char *text = strdup(rows[i][0]);
        cli_clean_text(text);
        assert_string_equal(text, rows[i][1]);
        free(text);
    }
}

static void every_string_of_a_message(void **state)
{
    (void)state;
    char name[] = "a\033", what[] = "b\033", capability[] = "c\033", path[] = "d\033";
    Sp__Finding finding = SP__FINDING__INIT, *findings[] = {&finding};
    Sp__SourceConfig source = SP__SOURCE_CONFIG__INIT;
    Sp__QemuSource qemu = SP__QEMU_SOURCE__INIT;
    Sp__Machine m = SP__MACHINE__INIT;
    Sp__StatusResponse status = SP__STATUS_RESPONSE__INIT;
    char *warnings[] = {capability};
    m.name = name;
    finding.text = what;
    m.findings = findings;
    m.n_findings = 1;
    source.kind_case = SP__SOURCE_CONFIG__KIND_QEMU;
    source.qemu = &qemu;
    qemu.qmp_socket = path;
    m.source = &source;
    cli_clean(&m.base);
    assert_string_equal(name, "a?");
    assert_string_equal(what, "b?");
    assert_string_equal(path, "d?");
    status.warnings = warnings;
    status.n_warnings = 1;
    cli_clean(&status.base);
    assert_string_equal(capability, "c?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),
        cmocka_unit_test(every_string_of_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
