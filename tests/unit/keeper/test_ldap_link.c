/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * LDAP servers that lie, made up here: silence, answers byte by byte, lengths that are not true,
 * answers without an end. Each ends in an error, in bounded time and memory. */
#include "rig.h"
#include "tls_server.h"

#include "base/file.h"
#include "controller/keeper/providers/ldap_link.h"
#include <string.h>

#define PASSWORD "the password that no text may hold"

/* ---- the server ---- */

/* One request of the client; false: it is gone. */
static bool take(SSL *ssl)
{
    char request[4096];
    return SSL_read(ssl, request, sizeof(request)) > 0;
}

static bool say(SSL *ssl, const void *bytes, size_t size)
{
    return SSL_write(ssl, bytes, (int)size) > 0;
}
#define SAY(ssl, ...)                                                                              \
    ({                                                                                             \
        const uint8_t said_[] = {__VA_ARGS__};                                                     \
        say(ssl, said_, sizeof(said_));                                                            \
    })

static void until_gone(SSL *ssl)
{
    while (take(ssl))
        ;
}

/* BindResponse, success. */
static bool let_in(SSL *ssl)
{
    return take(ssl) && SAY(ssl, 0x30, 12, 2, 1, 1, 0x61, 7, 0x0a, 1, 0, 4, 0, 4, 0);
}

static bool end_search(SSL *ssl, uint8_t code)
{
    return SAY(ssl, 0x30, 12, 2, 1, 2, 0x65, 7, 0x0a, 1, code, 4, 0, 4, 0);
}

/* ---- the client ---- */

static int open_to(struct tls_server *s, const char *ca, uint64_t timeout_ms,
                   struct ldap_link **ret, provider_stage *stage, struct sp_why *why)
{
    SP_SECRET struct sp_secret *password = sp_secret_copy(PASSWORD, strlen(PASSWORD));
    SP_FREE char *url = sp_format("ldaps://127.0.0.1:%d", s->port);
    const struct ldap_link_options o = {.url = url,
                                        .ca_file = ca,
                                        .bind_dn = "keeper@lab.example",
                                        .password = password,
                                        .timeout_ms = timeout_ms};
    int r = ldap_link_open(&o, ret, stage, why);
    assert_null(strstr(why->text, PASSWORD));
    assert_true(r == 0 || r == -ENOMEM || why->text[0]);
    return r;
}

static int open_with(tls_serve_fn *serve, uint64_t timeout_ms, provider_stage *stage,
                     struct sp_why *why)
{
    struct tls_server s = {.serve = serve, .silent = serve == NULL};
    LDAP_LINK struct ldap_link *l = NULL;
    tls_server_start(&s);
    int r = open_to(&s, tls_ca_file, timeout_ms, &l, stage, why);
    ldap_link_close(sp_steal(l));
    tls_server_end(&s);
    return r;
}

static unsigned search_most = 4;

static int search_with(tls_serve_fn *serve, uint64_t timeout_ms, ldap_link_entry_fn *entry,
                       void *self, struct sp_why *why)
{
    struct tls_server s = {.serve = serve};
    struct ldap_link *l = NULL;
    provider_stage stage = 0;
    static const char *const attributes[] = {"msFVE-RecoveryPassword", NULL};
    tls_server_start(&s);
    assert_int_equal(open_to(&s, tls_ca_file, timeout_ms, &l, &stage, why), 0);
    int r = ldap_link_search(l, "DC=lab", LDAP_SCOPE_SUBTREE, "(cn=x)", attributes, search_most,
                             entry, self, why);
    ldap_link_close(l);
    tls_server_end(&s);
    return r;
}

static int count_entry(void *self, const struct ldap_entry *e)
{
    SP_FREE char *dn = ldap_entry_dn(e);
    assert_true(!dn || strlen(dn) < 64);
    ++*(unsigned *)self;
    return 0;
}

/* ---- no answer ---- */

static void drip(SSL *ssl)
{
    const struct timespec pause = {.tv_nsec = 20 * 1000000};
    if (!take(ssl) || !SAY(ssl, 0x30, 0x82, 0x40, 0))
        return;
    while (SAY(ssl, 4))
        nanosleep(&pause, NULL);
}

static void test_deadline_holds_against_silence_and_dripping(void **state)
{
    tls_serve_fn *const servers[] = {NULL, until_gone, drip};
    static const provider_stage stages[] = {SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS,
                                            SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION,
                                            SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION};
    (void)state;
    for (size_t i = 0; i < SP_COUNT(servers); i++) {
        provider_stage stage = 0;
        struct sp_why why = {""};
        assert_int_equal(open_with(servers[i], 300, &stage, &why), -ETIMEDOUT);
        assert_int_equal(stage, stages[i]);
        assert_non_null(strstr(why.text, "no answer in time"));
    }
}

static void test_certificate_of_nobody_we_trust(void **state)
{
    struct tls_server s = {.serve = until_gone};
    struct ldap_link *l = NULL;
    provider_stage stage = 0;
    struct sp_why why = {""};
    (void)state;
    tls_server_start(&s);
    assert_int_equal(open_to(&s, tls_other_ca, 5000, &l, &stage, &why), -ENOTCONN);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS);
    tls_server_end(&s);
}

/* ---- answers that lie ---- */

static void oversize(SSL *ssl)
{
    if (take(ssl))
        SAY(ssl, 0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 2, 1, 1);
    until_gone(ssl);
}

static void garbage(SSL *ssl)
{
    static const char page[] = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: "
                               "close\r\n\r\n<html>This is no directory</html>\r\n";
    if (take(ssl))
        say(ssl, page, sizeof(page) - 1);
    until_gone(ssl);
}

static void other_type(SSL *ssl)
{
    if (take(ssl))
        end_search(ssl, 0); /* with an id that nobody asked under */
    until_gone(ssl);
}

static void refuses(SSL *ssl)
{
    /* 49, with a text that would move the cursor of a terminal. */
    if (take(ssl))
        SAY(ssl, 0x30, 20, 2, 1, 1, 0x61, 15, 0x0a, 1, 49, 4, 0, 4, 8, 0x1b, '[', '2', 'J', 7, 'd',
            'i', 'e');
    until_gone(ssl);
}

static void test_first_answer_that_lies(void **state)
{
    provider_stage stage = 0;
    struct sp_why why = {""};
    (void)state;
    /* Far more than is taken: refused by its length, without waiting for it. */
    assert_int_equal(open_with(oversize, 60000, &stage, &why), -EHOSTUNREACH);
    assert_int_equal(open_with(garbage, 60000, &stage, &why), -EHOSTUNREACH);
    assert_int_equal(open_with(other_type, 300, &stage, &why), -ETIMEDOUT);
    assert_int_equal(open_with(refuses, 60000, &stage, &why), -EACCES);
    for (const char *p = why.text; *p; p++)
        assert_true((unsigned char)*p >= ' ' && *p != 0x7f);
}

static void endless_references(SSL *ssl)
{
    if (!let_in(ssl) || !take(ssl))
        return;
    while (SAY(ssl, 0x30, 14, 2, 1, 2, 0x73, 9, 4, 7, 'l', 'd', 'a', 'p', ':', '/', '/'))
        ;
}

static void endless_entries(SSL *ssl)
{
    if (!let_in(ssl) || !take(ssl))
        return;
    while (SAY(ssl, 0x30, 12, 2, 1, 2, 0x64, 7, 4, 3, 'c', 'n', '=', 0x30, 0))
        ;
}

static void sends_elsewhere(SSL *ssl)
{
    if (let_in(ssl) && take(ssl))
        end_search(ssl, 10);
    until_gone(ssl);
}

static void not_shown(SSL *ssl)
{
    if (let_in(ssl) && take(ssl))
        end_search(ssl, 32);
    until_gone(ssl);
}

static void forbids(SSL *ssl)
{
    if (let_in(ssl) && take(ssl))
        end_search(ssl, 50);
    until_gone(ssl);
}

static void answers_a_bind(SSL *ssl)
{
    if (let_in(ssl) && take(ssl))
        SAY(ssl, 0x30, 12, 2, 1, 2, 0x61, 7, 0x0a, 1, 0, 4, 0, 4, 0);
    until_gone(ssl);
}

static void goes_away(SSL *ssl)
{
    if (let_in(ssl))
        take(ssl);
}

static void finds_nothing(SSL *ssl)
{
    if (let_in(ssl) && take(ssl))
        end_search(ssl, 0);
    until_gone(ssl);
}

static void test_search_that_lies_or_fails(void **state)
{
    static const struct {
        tls_serve_fn *serve;
        int error;
        const char *says;
    } cases[] = {{endless_references, -EPROTO, "does not end"},
                 {endless_entries, -E2BIG, "more than 4 objects"},
                 {sends_elsewhere, -EREMOTE, "not followed"},
                 {not_shown, -EACCES, "not shown to this user"},
                 {forbids, -EACCES, "does not allow"},
                 {answers_a_bind, -EPROTO, "something else"},
                 {goes_away, -EHOSTUNREACH, "failed"},
                 {finds_nothing, 0, ""}};
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct sp_why why = {""};
        unsigned count = 0;
        int r = search_with(cases[i].serve, 60000, count_entry, &count, &why);
        assert_int_equal(r, cases[i].error);
        assert_non_null(strstr(why.text, cases[i].says));
        assert_true(count <= 4);
    }
}

/* ---- values ---- */

/* SearchResultEntry "cn=" with one attribute; its values' bytes are given, lengths as they say. */
static struct sp_buffer entry_message;

static void one_entry(SSL *ssl)
{
    if (let_in(ssl) && take(ssl) && say(ssl, entry_message.data, entry_message.size))
        end_search(ssl, 0);
    until_gone(ssl);
}

static void wrap(struct sp_buffer *b, uint8_t tag)
{
    struct sp_buffer inner = *b;
    *b = (struct sp_buffer){0};
    const uint8_t head[] = {tag, 0x81, (uint8_t)inner.size};
    assert_true(inner.size < 256);
    assert_int_equal(sp_buffer_append(b, head, sizeof(head)), 0);
    assert_int_equal(sp_buffer_append(b, inner.data, inner.size), 0);
    sp_buffer_free(&inner);
}

static void prepend(struct sp_buffer *b, const void *data, size_t size)
{
    struct sp_buffer rest = *b;
    *b = (struct sp_buffer){0};
    assert_int_equal(sp_buffer_append(b, data, size), 0);
    assert_int_equal(sp_buffer_append(b, rest.data, rest.size), 0);
    sp_buffer_free(&rest);
}

/* `lie` is added to the length that the value says. */
static void make_entry(const char *const *values, uint8_t lie)
{
    static const char name[] = "\x04\x16msFVE-RecoveryPassword";
    struct sp_buffer b = {0};
    for (; *values; values++) {
        const uint8_t head[] = {4, (uint8_t)(strlen(*values) + lie)};
        assert_int_equal(sp_buffer_append(&b, head, 2), 0);
        assert_int_equal(sp_buffer_append(&b, *values, strlen(*values)), 0);
    }
    wrap(&b, 0x31);
    prepend(&b, name, sizeof(name) - 1);
    wrap(&b, 0x30);
    wrap(&b, 0x30);
    prepend(&b,
            "\x04\x03"
            "cn=",
            5);
    wrap(&b, 0x64);
    prepend(&b, "\x02\x01\x02", 3);
    wrap(&b, 0x30);
    sp_buffer_free(&entry_message);
    entry_message = b;
}

struct value {
    struct sp_secret *first, *second;
    int error, again;
};

static int read_value(void *self, const struct ldap_entry *e)
{
    struct value *v = self;
    struct sp_secret *none = NULL;
    v->error = ldap_entry_value(e, "msfve-recoverypassword", 8, &v->first);
    v->again = ldap_entry_value(e, "msFVE-RecoveryPassword", 8, &v->second);
    assert_int_equal(ldap_entry_value(e, "msFVE", 8, &none), -ENOENT);
    return 0;
}

static int read_made(const char *const *values, uint8_t lie, struct value *v)
{
    struct sp_why why = {""};
    *v = (struct value){.error = 1};
    make_entry(values, lie);
    return search_with(one_entry, 60000, read_value, v, &why);
}

static void test_value_is_taken_and_wiped(void **state)
{
    struct value v;
    (void)state;
    assert_int_equal(read_made((const char *const[]){"12345678", NULL}, 0, &v), 0);
    assert_int_equal(v.error, 0);
    assert_int_equal(sp_secret_size(v.first), 8);
    assert_memory_equal(sp_secret_data(v.first), "12345678", 8);
    assert_memory_equal(sp_secret_data(v.second), "\0\0\0\0\0\0\0\0", 8);
    sp_secret_free(v.first);
    sp_secret_free(v.second);
}

static void test_values_that_are_none(void **state)
{
    struct value v;
    (void)state;
    assert_int_equal(read_made((const char *const[]){NULL}, 0, &v), 0);
    assert_int_equal(v.error, -ENOENT);
    assert_int_equal(read_made((const char *const[]){"1", "2", NULL}, 0, &v), 0);
    assert_int_equal(v.error, -EPROTO);
    assert_int_equal(read_made((const char *const[]){"123456789", NULL}, 0, &v), 0);
    assert_int_equal(v.error, -EPROTO);
}

static int expect_no_value(void *self, const struct ldap_entry *e)
{
    struct value *v = self;
    SP_FREE char *dn = ldap_entry_dn(e);
    assert_true(!dn || strlen(dn) < 64);
    v->error = ldap_entry_value(e, "msFVE-RecoveryPassword", 8, &v->first);
    return 0;
}

static void test_length_beyond_the_message(void **state)
{
    struct sp_why why = {""};
    (void)state;
    for (unsigned lie = 1; lie < 120; lie += 17) {
        struct value v = {.error = 1};
        make_entry((const char *const[]){"1234", NULL}, (uint8_t)lie);
        int r = search_with(one_entry, 60000, expect_no_value, &v, &why);
        assert_true(r < 0 || v.error < 0);
        assert_null(v.first);
    }
}

/* Hundreds of entries whose inside is mutated, on one connection: whatever libldap makes of them,
 * each is a value of at most 8 bytes or none. */
enum { MUTATED = 200 };
static uint32_t random_state;

static uint8_t random_byte(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint8_t)(random_state >> 24);
}

static void mutated_entries(SSL *ssl)
{
    if (!let_in(ssl) || !take(ssl))
        return;
    for (int i = 0; i < MUTATED; i++) {
        uint8_t m[256];
        memcpy(m, entry_message.data, entry_message.size);
        /* Past the outer lengths and the id, which keep the stream in step. */
        for (int k = random_byte() % 3; k >= 0; k--)
            m[9 + random_byte() % (entry_message.size - 9)] = random_byte();
        if (!say(ssl, m, entry_message.size))
            return;
    }
    end_search(ssl, 0);
    until_gone(ssl);
}

static int read_mutated(void *self, const struct ldap_entry *e)
{
    SP_SECRET struct sp_secret *value = NULL;
    SP_FREE char *dn = ldap_entry_dn(e);
    int r = ldap_entry_value(e, "msFVE-RecoveryPassword", 8, &value);
    assert_true(r == -ENOENT || r == -EPROTO || (r == 0 && sp_secret_size(value) <= 8));
    assert_true(!dn || strlen(dn) < 256);
    ++*(unsigned *)self;
    return 0;
}

static void test_mutated_entries(void **state)
{
    unsigned read = 0;
    (void)state;
    make_entry((const char *const[]){"12345678", NULL}, 0);
    for (random_state = 1; random_state < 6; random_state++) {
        struct sp_why why = {""};
        uint32_t seed = random_state;
        search_most = MUTATED;
        search_with(mutated_entries, 60000, read_mutated, &read, &why);
        search_most = 4;
        random_state = seed;
    }
    assert_true(read > 0);
}

/* ---- filters ---- */

static void test_filters_are_escaped(void **state)
{
    SP_BUFFER struct sp_buffer b = {0};
    (void)state;
    assert_int_equal(ldap_filter_text(&b, "a*(b)\\c"), 0);
    assert_string_equal(sp_buffer_text(&b), "a\\2a\\28b\\29\\5cc");
    b.size = 0;
    assert_int_equal(ldap_filter_bytes(&b, "\x67\x45\x00\xff", 4), 0);
    assert_string_equal(sp_buffer_text(&b), "\\67\\45\\00\\ff");
}

static void test_urls(void **state)
{
    struct sp_why why = {""};
    (void)state;
    assert_int_equal(ldap_link_check_url("ldaps://dc1.lab.example", &why), 0);
    assert_int_equal(ldap_link_check_url("ldap://dc1.lab.example:1389", &why), 0);
    static const char *const bad[] = {"",          "dc1",      "http://dc1",
                                      "ldapi:///", "ldaps://", "ldaps:/dc1"};
    for (size_t i = 0; i < SP_COUNT(bad); i++)
        assert_int_equal(ldap_link_check_url(bad[i], &why), -EINVAL);
    assert_int_equal(ldap_link_check_url(NULL, &why), -EINVAL);
}

static int setup(void **state)
{
    (void)state;
    setenv("LDAPNOINIT", "1", 1);
    tls_server_setup();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tls_server_teardown();
    sp_buffer_free(&entry_message);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deadline_holds_against_silence_and_dripping),
        cmocka_unit_test(test_certificate_of_nobody_we_trust),
        cmocka_unit_test(test_first_answer_that_lies),
        cmocka_unit_test(test_search_that_lies_or_fails),
        cmocka_unit_test(test_value_is_taken_and_wiped),
        cmocka_unit_test(test_values_that_are_none),
        cmocka_unit_test(test_length_beyond_the_message),
        cmocka_unit_test(test_mutated_entries),
        cmocka_unit_test(test_filters_are_escaped),
        cmocka_unit_test(test_urls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
