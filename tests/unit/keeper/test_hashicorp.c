/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The HashiCorp Vault provider against a fake, not against Vault: it answers over HTTPS with the
 * shapes that Vault's documentation gives for KV version 2, and with shapes that it does not. */
#include "rig.h"
#include "tls_server.h"

#include "base/file.h"
#include "controller/keeper/providers/provider.h"
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKEN "hvs.the-token-that-no-text-may-hold"

/* ---- the fake ---- */

struct page {
    const char *path; /* behind /v1/ */
    int status;
    const char *body;
};
static const struct page *pages; /* ends with a NULL path */
static bool endless;
static char asked[8][200];
static unsigned asked_count;

static void reply(SSL *ssl, int status, const char *body)
{
    SP_FREE char *text = sp_format("HTTP/1.1 %d X\r\nContent-Type: application/json\r\n"
                                   "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                                   status, strlen(body), body);
    SSL_write(ssl, text, (int)strlen(text));
    SSL_shutdown(ssl);
}

static void say_without_end(SSL *ssl)
{
    static const char head[] = "HTTP/1.1 200 X\r\nConnection: close\r\n\r\n{\"data\":\"";
    static char filler[4096];
    memset(filler, 'x', sizeof(filler));
    SSL_write(ssl, head, sizeof(head) - 1);
    while (SSL_write(ssl, filler, sizeof(filler)) > 0)
        ;
}

static void serve(SSL *ssl)
{
    char request[4096] = "", *path = request + strlen("GET /v1/");
    size_t size = 0;
    while (!strstr(request, "\r\n\r\n") && size < sizeof(request) - 1) {
        int n = SSL_read(ssl, request + size, (int)(sizeof(request) - 1 - size));
        if (n <= 0)
            return;
        size += (size_t)n;
        request[size] = 0;
    }
    bool allowed = strstr(request, "X-Vault-Token: " TOKEN "\r\n") != NULL;
    path[strcspn(path, " ")] = 0;
    snprintf(asked[asked_count++ % SP_COUNT(asked)], sizeof(asked[0]), "%.199s", path);
    if (endless)
        say_without_end(ssl);
    else if (!allowed)
        reply(ssl, 403, "{\"errors\":[\"permission denied\"]}");
    for (const struct page *p = pages; allowed && !endless; p++) {
        if (p->path && strcmp(p->path, path) != 0)
            continue;
        reply(ssl, p->path ? p->status : 404, p->path ? p->body : "{\"errors\":[]}");
        break;
    }
}

#define METADATA(current, most, versions)                                                          \
    "{\"data\":{\"current_version\":" #current ",\"oldest_version\":0,\"max_versions\":" #most     \
    ",\"versions\":{" versions "}}}"
#define GOOD                                                                                       \
    "{\"created_time\":\"2026-01-01T00:00:00Z\",\"deletion_time\":\"\",\"destroyed\":false}"
#define DELETED                                                                                    \
    "{\"created_time\":\"2026-01-01T00:00:00Z\",\"deletion_time\":\"2026-02-01T00:00:00Z\","       \
    "\"destroyed\":false}"
#define DESTROYED                                                                                  \
    "{\"created_time\":\"2026-01-01T00:00:00Z\",\"deletion_time\":\"\",\"destroyed\":true}"
#define DATA(version, value)                                                                       \
    "{\"data\":{\"data\":{\"key\":" value "},\"metadata\":{\"version\":" #version                  \
    ",\"destroyed\":false,\"deletion_time\":\"\"}}}"
#define WHERE "machines/web1/luks%3A1"
#define META  "secret/metadata/" WHERE
#define KEY   "secret/data/" WHERE

/* ---- the provider ---- */

static struct tls_server server;
static struct providers *all;
static char token_file[] = "/tmp/sp-vault-token.XXXXXX";

static void set(const char *key, const char *value)
{
    struct sp_why why = {""};
    if (providers_set(all, "hashicorp-vault main", key, value, &why) < 0)
        fail_msg("%s", why.text);
}

static void set_token(const char *token)
{
    assert_int_equal(sp_file_replace(token_file, token, strlen(token), 0600), 0);
}

static int setup(void **state)
{
    struct sp_why why = {""};
    (void)state;
    asked_count = 0;
    endless = false;
    server = (struct tls_server){.serve = serve};
    tls_server_start(&server);
    assert_int_equal(providers_new(&all), 0);
    SP_FREE char *url = sp_format("https://127.0.0.1:%d", server.port);
    set("url", url);
    set("ca_file", tls_ca_file);
    set("token_file", token_file);
    set("path", "machines/{machine}/{volume}");
    set("canary", "canary");
    set_token(TOKEN "\n");
    assert_int_equal(providers_check(all, &why), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    providers_free(all);
    tls_server_end(&server);
    return 0;
}

static int lookup(const struct page *now, struct provider_items *out, struct sp_why *why)
{
    const struct provider *p = providers_find(all, "main");
    Sp__Volume volume = SP__VOLUME__INIT;
    provider_stage stage = 0;
    volume.volume_id = (char[]){"luks:1"};
    volume.kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    const struct provider_query q = {
        .machine_id = MACHINE, .machine_name = "web1", .volume = &volume};
    pages = now;
    assert_true(p->type->serves(p, &volume));
    int r = p->type->lookup(p, &q, out, &stage, why);
    assert_null(strstr(why->text, TOKEN));
    return r;
}

static int fetch(const struct page *now, const char *version, struct sp_secret **ret,
                 struct sp_why *why)
{
    const struct provider *p = providers_find(all, "main");
    PROVIDER_ITEMS struct provider_items items = {0};
    provider_stage stage = 0;
    SP_FREE char *locator = sp_format("%s?version=%s", WHERE, version);
    pages = now;
    assert_int_equal(
        provider_items_add(&items, locator, version, "", SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE),
        0);
    int r = p->type->fetch(p, &items.items[0], ret, &stage, why);
    assert_null(strstr(why->text, TOKEN));
    assert_null(strstr(why->text, "sesame"));
    return r;
}

static void test_versions_are_pinned_newest_first(void **state)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    SP_SECRET struct sp_secret *secret = NULL;
    struct sp_why why = {""};
    char described[200];
    const struct provider *p = providers_find(all, "main");
    (void)state;
    const struct page now[] = {
        {META, 200,
         METADATA(4, 20, "\"1\":" GOOD ",\"2\":" DESTROYED ",\"3\":" DELETED ",\"4\":" GOOD)},
        {KEY "?version=4", 200, DATA(4, "\"open sesame\"")},
        {NULL, 0, NULL}};
    assert_int_equal(lookup(now, &items, &why), 0);
    assert_string_equal(asked[0], META);
    assert_int_equal(items.count, 2);
    assert_string_equal(items.items[0].version, "4");
    assert_string_equal(items.items[1].version, "1");
    assert_string_equal(items.items[0].locator, WHERE "?version=4");
    assert_null(items.items[0].warning);
    assert_int_equal(fetch(now, "4", &secret, &why), 0);
    assert_int_equal(sp_secret_size(secret), 11);
    assert_memory_equal(sp_secret_data(secret), "open sesame", 11);
    p->type->describe(p, &items.items[0], described, sizeof(described));
    assert_non_null(strstr(described, KEY "?version=4"));
}

static void test_pruning_is_warned_of_before_it_bites(void **state)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    struct sp_why why = {""};
    (void)state;
    /* max_versions 0: Vault's default of 10. */
    const struct page now[] = {
        {META, 200, METADATA(12, 0, "\"3\":" GOOD ",\"5\":" GOOD ",\"6\":" GOOD)}, {NULL, 0, NULL}};
    assert_int_equal(lookup(now, &items, &why), 0);
    assert_int_equal(items.count, 3);
    assert_null(items.items[0].warning);
    assert_non_null(strstr(items.items[1].warning, "keeps 10 versions"));
    assert_non_null(strstr(items.items[1].warning, "third write"));
    assert_non_null(strstr(items.items[2].warning, "next write"));
}

static void test_answers_are_kept_apart(void **state)
{
    static const struct {
        int status, error;
        const char *body, *says;
    } cases[] = {
        {404, -ENOENT, "{\"errors\":[]}", "has nothing"},
        {404, -EPROTO, "{\"errors\":[\"no handler for route\"]}", "KV version 2"},
        {403, -EACCES, "{\"errors\":[\"permission denied\"]}", "policy"},
        {503, -EHOSTUNREACH, "{\"errors\":[\"Vault is sealed\"]}", "unseal"},
        {500, -EHOSTUNREACH, "", "status 500"},
        {302, -EHOSTUNREACH, "", "status 302"},
        {200, -EKEYEXPIRED, METADATA(1, 0, "\"1\":" DELETED), "undelete"},
        {200, -ENOENT, METADATA(1, 0, "\"1\":" DESTROYED), "destroyed"},
        {200, -EPROTO, METADATA("1", 0, ""), "no sense"},
        {200, -EPROTO, "{\"data\":{\"current_version\":1,\"max_versions\":0,\"versions\":[]}}",
         "no sense"},
        {200, -EPROTO, METADATA(-1, 0, ""), "no sense"},
        {200, -EPROTO, METADATA(99999999999999999999, 0, ""), "no sense"},
        {200, -ENOENT, METADATA(2147483647, 0, "\"1\":" GOOD), "destroyed"},
        {200, -EPROTO, "{\"data\":7}", "no data"},
        {200, -EPROTO, "[]", "no JSON object"},
        {200, -EPROTO, "", "no JSON object"},
        {200, -EPROTO, "{\"data\":{\"current", "no JSON object"},
        {200, -EPROTO, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]", "no JSON object"},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        PROVIDER_ITEMS struct provider_items items = {0};
        struct sp_why why = {""};
        const struct page now[] = {{META, cases[i].status, cases[i].body}, {NULL, 0, NULL}};
        assert_int_equal(lookup(now, &items, &why), cases[i].error);
        assert_non_null(strstr(why.text, cases[i].says));
    }
}

static void test_only_the_version_asked_for_is_taken(void **state)
{
    static const struct {
        int status, error;
        const char *body;
    } cases[] = {
        {200, -EPROTO, DATA(3, "\"open sesame\"")},
        {200, -EPROTO, DATA(2, "7")},
        {200, -EPROTO, DATA(2, "\"\"")},
        {200, -EPROTO, "{\"data\":{\"data\":{\"other\":\"x\"},\"metadata\":{\"version\":2}}}"},
        {200, -EPROTO, "{\"data\":{\"data\":{\"key\":\"open sesame\"}}}"},
        {200, -EPROTO, "{\"data\":{\"data\":7,\"metadata\":{\"version\":2}}}"},
        {404, -EKEYEXPIRED,
         "{\"data\":{\"data\":null,\"metadata\":{\"version\":2,"
         "\"deletion_time\":\"2026-02-01T00:00:00Z\"}}}"},
        {404, -ENOENT, "{\"errors\":[]}"},
        {403, -EACCES, "{\"errors\":[]}"},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        SP_SECRET struct sp_secret *secret = NULL;
        struct sp_why why = {""};
        const struct page now[] = {{KEY "?version=2", cases[i].status, cases[i].body},
                                   {NULL, 0, NULL}};
        assert_int_equal(fetch(now, "2", &secret, &why), cases[i].error);
        assert_null(secret);
    }
}

static void test_answer_without_end(void **state)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    struct sp_why why = {""};
    (void)state;
    endless = true;
    assert_int_equal(lookup(NULL, &items, &why), -EPROTO);
    assert_non_null(strstr(why.text, "longer than"));
}

static int canary(provider_stage *stage, struct sp_why *why)
{
    const struct provider *p = providers_find(all, "main");
    int r = p->type->canary(p, stage, why);
    assert_null(strstr(why->text, TOKEN));
    return r;
}

static void test_canary_walks_to_what_fails(void **state)
{
    provider_stage stage = 0;
    struct sp_why why = {""};
    (void)state;
    const struct page good[] = {{"auth/token/lookup-self", 200, "{\"data\":{}}"},
                                {"secret/metadata/canary", 200, METADATA(1, 0, "\"1\":" GOOD)},
                                {"secret/data/canary?version=1", 200, DATA(1, "\"tweet\"")},
                                {NULL, 0, NULL}};
    const struct page no_data[] = {good[0],
                                   good[1],
                                   {"secret/data/canary?version=1", 403, "{\"errors\":[]}"},
                                   {NULL, 0, NULL}};
    pages = good;
    assert_int_equal(canary(&stage, &why), 0);
    pages = no_data;
    assert_int_equal(canary(&stage, &why), -EACCES);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY);
    pages = good + 3;
    pages = (const struct page[]){good[0], good[3]};
    assert_int_equal(canary(&stage, &why), -ENOENT);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_PERMISSION);
    set_token("wrong");
    assert_int_equal(canary(&stage, &why), -EACCES);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION);
    assert_non_null(strstr(why.text, "does not know the token"));
    set_token(TOKEN "\r\nX-Evil: yes");
    assert_int_equal(canary(&stage, &why), -EINVAL);
    set_token(TOKEN);
    assert_int_equal(chmod(token_file, 0644), 0);
    assert_int_equal(canary(&stage, &why), -EPERM);
    set_token(TOKEN);
    set("ca_file", tls_other_ca);
    assert_int_equal(canary(&stage, &why), -ENOTCONN);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS);
    set("url", "https://127.0.0.1:1");
    assert_int_equal(canary(&stage, &why), -EHOSTUNREACH);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_CONNECTION);
}

static void test_half_a_section_is_refused(void **state)
{
    struct sp_why why = {""};
    (void)state;
    static const struct {
        const char *key, *value, *says;
    } steps[] = {{"url", "http://127.0.0.1", "url is https://"},
                 {"url", "https://127.0.0.1", ""},
                 {"path", "", "path is needed"},
                 {"path", "x", ""},
                 {"key_type", "pgp", "key_type is"},
                 {"key_type", "recovery-password", ""},
                 {"credential", "vault", "set one of them"}};
    for (size_t i = 0; i < SP_COUNT(steps); i++) {
        set(steps[i].key, steps[i].value);
        assert_int_equal(providers_check(all, &why), *steps[i].says ? -EINVAL : 0);
        assert_non_null(strstr(*steps[i].says ? why.text : "", steps[i].says));
    }
}

static int group_setup(void **state)
{
    (void)state;
    tls_server_setup();
    int fd = mkstemp(token_file);
    assert_true(fd >= 0);
    close(fd);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    unlink(token_file);
    tls_server_teardown();
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_versions_are_pinned_newest_first),
        TEST(test_pruning_is_warned_of_before_it_bites),
        TEST(test_answers_are_kept_apart),
        TEST(test_only_the_version_asked_for_is_taken),
        TEST(test_answer_without_end),
        TEST(test_canary_walks_to_what_fails),
        TEST(test_half_a_section_is_refused),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
