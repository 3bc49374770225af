/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/config.h"
#include "base/file.h"
#include "test.h"

struct target {
    char *name;
    bool on;
    uint64_t count, wait_ms, size;
};

static const struct sp_config_option table[] = {
    {"a", "name", SP_CONFIG_TEXT, offsetof(struct target, name), 0, 0},
    {"a", "on", SP_CONFIG_BOOL, offsetof(struct target, on), 0, 0},
    {"b", "count", SP_CONFIG_NUMBER, offsetof(struct target, count), 1, 10},
    {"b", "wait", SP_CONFIG_DURATION_MS, offsetof(struct target, wait_ms), 0, 0},
    {"b", "size", SP_CONFIG_SIZE, offsetof(struct target, size), 0, 0},
    {0},
};

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[200];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    assert_int_equal(sp_file_replace(path, text, strlen(text), 0600), 0);
}

static char *path_of(const char *folder, const char *name, char out[200])
{
    (void)snprintf(out, 200, "%s/%s", folder, name);
    return out;
}

static void later_drop_ins_win(void **state)
{
    char path[200];
    write_text(*state, "c.conf",
               "# comment\n[a]\nname = first\non = yes\n[b]\ncount=3\nwait = 2min\n");
    assert_int_equal(sp_make_directories(path_of(*state, "c.conf.d", path), 0700), 0);
    write_text(*state, "c.conf.d/20.conf", "[a]\nname = third\n");
    write_text(*state, "c.conf.d/10.conf", "[a]\nname = second\n[b]\nsize = 4K\n");
    write_text(*state, "c.conf.d/99.bak", "nonsense that is no drop-in\n");
    struct target t = {0};
    struct sp_why why = {0};
    assert_int_equal(sp_config_load(path_of(*state, "c.conf", path), false, table, &t, &why), 0);
    assert_string_equal(t.name, "third");
    assert_true(t.on);
    assert_int_equal(t.count, 3);
    assert_int_equal(t.wait_ms, 120000);
    assert_int_equal(t.size, 4096);
    sp_config_free(table, &t);
    assert_null(t.name);
}

static void faults_name_file_and_line(void **state)
{
    static const struct {
        const char *text, *expect;
    } cases[] = {
        {"[a]\nname = x\nnme = y\n", "line 3: section [a] has no option 'nme'"},
        {"[c]\nname = x\n", "line 2: there is no section [c]"},
        {"[b]\ncount = 11\n", "line 2: b.count is 11, allowed is 1 to 10"},
        {"[b]\ncount = 3x\n", "line 2: b.count is '3x', expected a whole number"},
        {"[b]\nwait = 10\n", "expected a time such as"},
        {"[b]\nsize = 99999999999999999999\n", "b.size"},
        {"[a]\non = maybe\n", "expected yes or no"},
        {"[a]\nthis is nothing\n", "line 2"},
    };
    char path[200];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct target t = {0};
        struct sp_why why = {0};
        write_text(*state, "c.conf", cases[i].text);
        assert_true(sp_config_load(path_of(*state, "c.conf", path), false, table, &t, &why) < 0);
        assert_non_null(strstr(why.text, cases[i].expect));
        assert_non_null(strstr(why.text, "c.conf"));
        sp_config_free(table, &t);
    }
}

static void a_missing_file(void **state)
{
    struct target t = {0};
    struct sp_why why = {0};
    char path[200];
    assert_int_equal(sp_config_load(path_of(*state, "no.conf", path), true, table, &t, &why), 0);
    assert_int_equal(sp_config_load(path, false, table, &t, &why), -ENOENT);
    assert_non_null(strstr(why.text, path));
}

static void assignments(void **state)
{
    (void)state;
    struct target t = {0};
    struct sp_why why = {0};
    assert_int_equal(sp_config_set(table, &t, "a.name=x=y.z", &why), 0);
    assert_string_equal(t.name, "x=y.z");
    assert_int_equal(sp_config_set(table, &t, "a.name=", &why), 0);
    assert_string_equal(t.name, "");
    assert_int_equal(sp_config_set(table, &t, "a=name.x", &why), -EINVAL);
    assert_int_equal(sp_config_set(table, &t, "name", &why), -EINVAL);
    sp_config_free(table, &t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(later_drop_ins_win, test_folder_setup,
                                        test_folder_teardown),
        cmocka_unit_test_setup_teardown(faults_name_file_and_line, test_folder_setup,
                                        test_folder_teardown),
        cmocka_unit_test_setup_teardown(a_missing_file, test_folder_setup, test_folder_teardown),
        cmocka_unit_test(assignments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
