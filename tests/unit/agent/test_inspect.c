/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `inspect` of images: what an admin and a program get to read, and what it says when it cannot. */
#include "agent/inspect.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define UUID "66666666-7777-4888-9999-aaaaaaaaaaaa"

static char folder[64];

static void run(const char *command)
{
    SP_FREE char *line = sp_format("cd '%s' && { %s; } >/dev/null 2>&1", folder, command);
    if (system(line) != 0)
        fail_msg("failed: %s", command);
}

static int begin(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/sealpoint-inspect-XXXXXX");
    assert_non_null(mkdtemp(folder));
    run("truncate -s 18M luks zero && printf key | cryptsetup luksFormat -q --type luks2 --pbkdf "
        "pbkdf2 --pbkdf-force-iterations 1000 --label mine --uuid " UUID " luks -");
    run("head -c 1048576 /dev/urandom > random && mkdir folder && : > empty");
    run("cp luks damaged && printf x | dd of=damaged bs=1 seek=5000 conv=notrunc");
    run("printf 'QFI\\373' > box.qcow2 && truncate -s 1M box.qcow2");
    return 0;
}

static int end(void **state)
{
    (void)state;
    SP_FREE char *command = sp_format("rm -rf '%s'", folder);
    return system(command);
}

struct output {
    char *out, *errors;
    int rc;
};

static void output_clear(struct output *o)
{
    free(o->out);
    free(o->errors);
}

/* Names in the folder, NULL-terminated. */
static struct output inspect(bool json, const char *const *names)
{
    char *paths[16];
    size_t count = 0, size;
    struct output o = {0};
    for (; names[count]; count++)
        paths[count] = sp_format("%s/%s", folder, names[count]);
    FILE *out = open_memstream(&o.out, &size), *errors = open_memstream(&o.errors, &size);
    o.rc = inspect_paths(paths, count, json, out, errors);
    fclose(out);
    fclose(errors);
    while (count)
        free(paths[--count]);
    return o;
}

static void a_volume_is_told_in_words(void **state)
{
    (void)state;
    struct output o = inspect(false, (const char *[]){"luks", NULL});
    assert_int_equal(o.rc, 0);
    assert_string_equal(o.errors, "");
    static const char *const words[] = {
        "luks:" UUID "\n",
        "  is          LUKS2, 18.0 MiB\n",
        "  label       mine\n",
        "aes-xts-plain64",
        "copy at 0 B good (seqid ",
        "copy at 16.0 KiB good",
        "opened by   keyslot 0, pbkdf2 with sha256, 1000 iterations\n"};
    for (size_t i = 0; i < SP_COUNT(words); i++)
        if (!strstr(o.out, words[i]))
            fail_msg("no '%s' in %s", words[i], o.out);
    assert_null(strstr(o.out, "Findings"));
    output_clear(&o);
}

static void damage_says_what_to_do(void **state)
{
    (void)state;
    struct output o = inspect(false, (const char *[]){"damaged", NULL});
    assert_int_equal(o.rc, 0);
    assert_non_null(strstr(o.out, "copy at 0 B DAMAGED"));
    assert_non_null(strstr(o.out, "note: luks:" UUID));
    assert_non_null(strstr(o.out, "cryptsetup repair"));
    output_clear(&o);
}

/* Never "encrypted", never "not encrypted". */
static void random_bytes_are_unknown(void **state)
{
    (void)state;
    struct output o = inspect(false, (const char *[]){"random", NULL});
    assert_non_null(strstr(o.out, "UNKNOWN, looks random"));
    assert_non_null(strstr(o.out, "cannot be told"));
    assert_null(strstr(o.out, "not encrypted"));
    output_clear(&o);
    o = inspect(false, (const char *[]){"zero", NULL});
    assert_non_null(strstr(o.out, "nothing but zeros"));
    output_clear(&o);
}

static void each_fault_costs_its_own_line(void **state)
{
    (void)state;
    struct output o =
        inspect(false, (const char *[]){"nothing", "folder", "empty", "box.qcow2", "luks", NULL});
    assert_int_equal(o.rc, -ENOENT); /* the first */
    assert_non_null(strstr(o.out, "luks:" UUID));
    static const char *const words[] = {"/nothing': No such file", "neither a block device nor",
                                        "/empty' is empty", "is a qcow2 image", "qemu-nbd"};
    for (size_t i = 0; i < SP_COUNT(words); i++)
        if (!strstr(o.errors, words[i]))
            fail_msg("no '%s' in %s", words[i], o.errors);
    output_clear(&o);
}

static struct json_object *member(struct json_object *in, const char *name)
{
    struct json_object *o = NULL;
    if (!json_object_object_get_ex(in, name, &o))
        fail_msg("no %s", name);
    return o;
}

static void json_is_complete(void **state)
{
    (void)state;
    struct output o = inspect(true, (const char *[]){"luks", "nothing", "random", NULL});
    assert_int_equal(o.rc, -ENOENT);
    struct json_object *root = json_tokener_parse(o.out);
    assert_non_null(root);
    struct json_object *images = member(root, "images");
    assert_int_equal(json_object_array_length(images), 3);
    struct json_object *luks = json_object_array_get_idx(images, 0);
    struct json_object *v = json_object_array_get_idx(member(luks, "volumes"), 0);
    assert_string_equal(json_object_get_string(member(v, "kind")), "LUKS2");
    struct json_object *header = member(v, "header");
    assert_false(json_object_get_boolean(member(header, "damaged"))); /* said, not left out */
    assert_int_equal(json_object_array_length(member(header, "copies")), 2);
    assert_int_equal(json_object_array_length(member(luks, "findings")), 0);
    struct json_object *missing = json_object_array_get_idx(images, 1);
    assert_non_null(strstr(json_object_get_string(member(missing, "error")), "No such file"));
    struct json_object *random = json_object_array_get_idx(images, 2);
    struct json_object *rest = json_object_array_get_idx(member(random, "unknown"), 0);
    assert_string_equal(json_object_get_string(member(rest, "looks")), "random");
    assert_int_equal(json_object_get_int64(member(rest, "length_bytes")), 1 << 20);
    json_object_put(root);
    output_clear(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_volume_is_told_in_words),
        cmocka_unit_test(damage_says_what_to_do),
        cmocka_unit_test(random_bytes_are_unknown),
        cmocka_unit_test(each_fault_costs_its_own_line),
        cmocka_unit_test(json_is_complete),
    };
    return cmocka_run_group_tests_name("agent-inspect", tests, begin, end);
}
