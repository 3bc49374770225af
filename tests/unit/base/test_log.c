/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/why.h"
#include "test.h"
#include <fcntl.h>

/* What `act` writes to stderr. */
static char *captured(const char *folder, void (*act)(void))
{
    char path[200];
    (void)snprintf(path, sizeof(path), "%s/log", folder);
    int old = dup(STDERR_FILENO), fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    act();
    assert_true(dup2(old, STDERR_FILENO) >= 0);
    close(old);
    close(fd);
    char *text = NULL;
    assert_int_equal(sp_file_read(path, 1 << 20, &text, NULL), 0);
    return text;
}

static void forge(void)
{
    sp_log(SP_LOG_INFO, "agent connected", "machine", "web1", "name", "a\n<3>forged x=\"y\"",
           "gone", NULL, "n", SP_LOG_NUMBER(-5), NULL);
    sp_log(SP_LOG_DEBUG, "never", NULL);
}

static void no_value_forges_a_line(void **state)
{
    sp_log_setup("t", SP_LOG_INFO, SP_LOG_TEXT);
    SP_FREE char *text = captured(*state, forge);
    assert_string_equal(
        text, "<6>agent connected machine=web1 name=\"a\\n<3>forged x=\\\"y\\\"\" n=-5\n");
}

static void log_failure(void)
{
    struct sp_why why;
    sp_why_set(&why, 0, "no room on %s", "/vault");
    sp_why_prefix(&why, 0, "point 7");
    sp_log_error("backup failed", -ENOSPC, &why, "point", "7", NULL);
}

static void json_is_one_object_a_line(void **state)
{
    sp_log_setup("t", SP_LOG_INFO, SP_LOG_JSON);
    SP_FREE char *text = captured(*state, log_failure);
    assert_non_null(strstr(text, "\"priority\":3,\"program\":\"t\",\"event\":\"backup failed\","
                                 "\"error\":\"No space left on device\","
                                 "\"why\":\"point 7: no room on /vault\",\"point\":\"7\"}\n"));
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static void long_reasons_are_cut(void **state)
{
    (void)state;
    struct sp_why why;
    char big[2000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    assert_int_equal(sp_why_set(&why, -EIO, "%s", big), -EIO);
    assert_int_equal(strlen(why.text), sizeof(why.text) - 1);
    assert_int_equal(sp_why_prefix(&why, -EIO, "disk"), -EIO);
    assert_memory_equal(why.text, "disk: xxx", 9);
    assert_int_equal(strlen(why.text), sizeof(why.text) - 1);
    assert_int_equal(sp_why_set(NULL, -EIO, "x"), -EIO);
}

static void only_a_bare_failure_gets_the_words_of_its_error(void **state)
{
    (void)state;
    struct sp_why why;
    sp_why_set(&why, -ENOENT, "cannot open '/dev/vda'");
    assert_string_equal(sp_why_told(&why, -ENOENT).text,
                        "cannot open '/dev/vda': No such file or directory");
    sp_why_set(&why, -EBUSY, "'/mnt' was frozen by another program");
    assert_string_equal(sp_why_told(&why, -EBUSY).text, why.text);
    sp_why_set(&why, -EIO, "cannot read 'x': Input/output error");
    assert_string_equal(sp_why_told(&why, -EIO).text, why.text);
    why.text[0] = 0;
    assert_string_equal(sp_why_told(&why, -EIO).text, "Input/output error");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_value_forges_a_line, test_folder_setup,
                                        test_folder_teardown),
        cmocka_unit_test_setup_teardown(json_is_one_object_a_line, test_folder_setup,
                                        test_folder_teardown),
        cmocka_unit_test(long_reasons_are_cut),
        cmocka_unit_test(only_a_bare_failure_gets_the_words_of_its_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
