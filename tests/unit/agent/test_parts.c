/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The small parts: dm tables, configuration, JSON, identity files, the worker. */
#include "agent/config.h"
#include "agent/json.h"
#include "agent/linux/scan.h"
#include "agent/linux/sync.h"
#include "agent/message.h"
#include "agent/worker.h"
#include "base/cleanup.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* ---- dm tables ---- */

static void a_crypt_table_gives_its_parameters_and_loses_its_key(void **state)
{
    (void)state;
    char text[] = "aes-xts-plain64 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
                  " 7 254:3 4096 2 allow_discards sector_size:4096";
    size_t size = sizeof(text);
    struct inventory_dm_target target = {0};
    assert_int_equal(scan_dm_parse("crypt", text, &target), 0);
    assert_string_equal(target.type, "crypt");
    assert_string_equal(target.cipher, "aes-xts-plain64");
    assert_int_equal(target.key_bits, 256);
    assert_int_equal(target.iv_offset_sectors, 7);
    assert_string_equal(target.device, "254:3");
    assert_int_equal(target.device_offset_sectors, 4096);
    assert_int_equal(target.sector_bytes, 4096);
    assert_null(memmem(text, size, "0011", 4));
    assert_null(memmem(text, size, "eeff", 4));
}

static void a_key_in_the_keyring_is_measured(void **state)
{
    (void)state;
    char text[] = "aes-cbc-essiv:sha256 :32:logon:cryptsetup:abc 0 8:1 0";
    struct inventory_dm_target target = {0};
    assert_int_equal(scan_dm_parse("crypt", text, &target), 0);
    assert_int_equal(target.key_bits, 256);
    assert_string_equal(target.cipher, "aes-cbc-essiv:sha256");
    assert_int_equal(target.sector_bytes, 512);
}

static void broken_tables_are_refused(void **state)
{
    (void)state;
    const char *const broken[] = {"",
                                  "aes",
                                  "aes 00ff",
                                  "aes 00ff 0",
                                  "aes 00ff 0 8:1",
                                  "aes 00ff x 8:1 0",
                                  "aes 00ff 0 /dev/sda 0",
                                  "aes 00ff 0 8:1 -"};
    for (size_t i = 0; i < SP_COUNT(broken); i++) {
        SP_FREE char *text = strdup(broken[i]);
        struct inventory_dm_target target = {0};
        assert_int_equal(scan_dm_parse("crypt", text, &target), -EINVAL);
        assert_null(strstr(text, "00ff"));
    }
    char linear[] = "8:1";
    struct inventory_dm_target target = {0};
    assert_int_equal(scan_dm_parse("linear", linear, &target), -EINVAL);
    char other[] = "whatever it is";
    assert_int_equal(scan_dm_parse("thin", other, &target), 0);
    assert_string_equal(target.type, "thin");
}

/* ---- configuration ---- */

static void lists_of_mount_points(void **state)
{
    (void)state;
    assert_true(agent_config_lists("/a,/b", "/b"));
    assert_true(agent_config_lists(" /a , /b/ ", "/b"));
    assert_true(agent_config_lists("/", "/"));
    assert_false(agent_config_lists("/a,/bc", "/b"));
    assert_false(agent_config_lists("", "/"));
    assert_false(agent_config_lists(",,", "/"));
}

static void the_default_lease_stays_below_the_longest(void **state)
{
    (void)state;
    struct agent_config config = {0};
    struct sp_why why = {0};
    char max[] = "freeze.max_lease=5s", name[] = "agent.name=web1";
    char *assignments[] = {max, name};
    assert_int_equal(agent_config_load("/dev/null", assignments, 2, &config, &why), 0);
    assert_int_equal(config.max_lease_ms, 5000);
    assert_int_equal(config.default_lease_ms, 5000);
    assert_string_equal(config.name, "web1");
    assert_string_equal(config.state, "/var/lib/sealpoint-agent");
    agent_config_free(&config);
    char wrong[] = "freeze.max_lease=99h";
    char *wrongs[] = {wrong};
    assert_true(agent_config_load("/dev/null", wrongs, 1, &config, &why) < 0);
    agent_config_free(&config);
}

/* ---- JSON ---- */

static void messages_become_json(void **state)
{
    (void)state;
    Sp__Volume volume = SP__VOLUME__INIT;
    Sp__Content content = SP__CONTENT__INIT;
    char id[] = "luks:1", quoted[] = "a\"b\\\n\xff\xc3\xa4", first[] = "vda1", second[] = "vda";
    char *stack[] = {first, second};
    volume.volume_id = id;
    volume.kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    volume.open = true;
    volume.content = &content;
    content.label = quoted;
    volume.stack = stack;
    volume.n_stack = 2;
    volume.size_bytes = UINT64_MAX;
    SP_BUFFER struct sp_buffer out = {0};
    assert_int_equal(json_message(&out, &volume.base, 0), 0);
    assert_string_equal(sp_buffer_text(&out),
                        "{\n"
                        "  \"volume_id\": \"luks:1\",\n"
                        "  \"kind\": \"LUKS2\",\n"
                        "  \"extents\": [],\n" /* empty is said, no header is not there */
                        "  \"open\": true,\n"
                        "  \"device\": \"\",\n"
                        "  \"mapped_name\": \"\",\n"
                        "  \"content\": {\n"
                        "    \"type\": \"\",\n"
                        "    \"uuid\": \"\",\n"
                        "    \"label\": \"a\\\"b\\\\\\u000a\\ufffd\xc3\xa4\",\n"
                        "    \"usage\": \"\"\n"
                        "  },\n"
                        "  \"ephemeral\": false,\n"
                        "  \"header_from_guest_sha256\": \"\",\n"
                        "  \"stack\": [\"vda1\", \"vda\"],\n"
                        "  \"size_bytes\": 18446744073709551615\n"
                        "}");
}

/* ---- messages ---- */

static void fields_are_owned_by_their_message(void **state)
{
    (void)state;
    Sp__BlockDevice *device = malloc(sizeof(*device));
    sp__block_device__init(device);
    assert_int_equal(message_text(&device->name, "vda"), 0);
    assert_int_equal(message_text(&device->name, "vdb"), 0);
    assert_string_equal(device->name, "vdb");
    assert_int_equal(message_text(&device->serial, NULL), 0);
    assert_string_equal(device->serial, "");
    assert_int_equal(message_append_text(&device->parents, &device->n_parents, "x"), 0);
    sp__block_device__free_unpacked(device, NULL);
}

/* ---- worker ---- */

static char order[8];

static void note(void *arg)
{
    strcat(order, arg);
}

static void jobs_run_in_order_and_none_is_lost(void **state)
{
    (void)state;
    struct worker *worker = NULL;
    char a[] = "a", b[] = "b", c[] = "c";
    assert_int_equal(worker_new(&worker), 0);
    worker_push(worker, note, a);
    worker_push(worker, note, b);
    worker_push(worker, note, c);
    worker_free(worker);
    assert_string_equal(order, "abc");
}

/* ---- sync ---- */

static void sync_tells_what_failed(void **state)
{
    (void)state;
    SP_FD int fd = open("/dev/shm", O_RDONLY | O_CLOEXEC);
    int results[3] = {1, 1, 1};
    assert_int_equal(sync_bounded((const int[]){fd, -1, fd}, 3, 30000, results), 0);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], -EBADF);
    assert_int_equal(results[2], 0);
    assert_int_equal(sync_bounded(NULL, 0, 0, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crypt_table_gives_its_parameters_and_loses_its_key),
        cmocka_unit_test(a_key_in_the_keyring_is_measured),
        cmocka_unit_test(broken_tables_are_refused),
        cmocka_unit_test(lists_of_mount_points),
        cmocka_unit_test(the_default_lease_stays_below_the_longest),
        cmocka_unit_test(messages_become_json),
        cmocka_unit_test(fields_are_owned_by_their_message),
        cmocka_unit_test(jobs_run_in_order_and_none_is_lost),
        cmocka_unit_test(sync_tells_what_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
