/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The Azure Key Vault provider against a fake, not against Azure: it answers over HTTPS with the
 * shapes that the REST reference of Key Vault (api-version 7.4) and of the login service give, and
 * with shapes that they do not. No RSA here: see tests/integration/escrow/test_azure.py. */
#include "rig.h"
#include "tls_server.h"

#include "base/file.h"
#include "controller/keeper/providers/azure_answer.h"
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKEN   "eyJ0-the-token-that-no-text-may-hold"
#define CLIENT  "the+client/secret that no text may hold"
#define GUID    "4381f759-c4f8-4de0-bb61-fc33a831bda5"
#define FILE_OF "4381F759-C4F8-4DE0-BB61-FC33A831BDA5.BEK"
#define V1      "11111111111111111111111111111111"
#define V2      "22222222222222222222222222222222"
#define K1      "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk1"
#define API     "api-version=7.4"

/* ---- the fake ---- */

struct page {
    const char *path; /* "POST " before it unless GET; NULL ends the list */
    int status;
    const char *body; /* @ stands for the vault's URL */
    const char *header;
};
static const struct page *pages;
static bool endless, no_token_needed;
static char vault_url[64], asked[16][200], posted[1024];
static unsigned asked_count, foreign_count, throttled;

static char *fill_in(const char *body)
{
    SP_BUFFER struct sp_buffer out = {0};
    for (const char *p = body; *p; p++)
        assert_int_equal(*p == '@' ? sp_buffer_append(&out, vault_url, strlen(vault_url))
                                   : sp_buffer_append(&out, p, 1),
                         0);
    return strdup(sp_buffer_text(&out));
}

static void reply(SSL *ssl, int status, const char *header, const char *body)
{
    SP_FREE char *filled = fill_in(body);
    SP_FREE char *text = sp_format("HTTP/1.1 %d X\r\n%sContent-Type: application/json\r\n"
                                   "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                                   status, header ? header : "", strlen(filled), filled);
    SSL_write(ssl, text, (int)strlen(text));
    SSL_shutdown(ssl);
}

static void say_without_end(SSL *ssl)
{
    static const char head[] = "HTTP/1.1 200 X\r\nConnection: close\r\n\r\n{\"value\":[\"";
    static char filler[4096];
    memset(filler, 'x', sizeof(filler));
    SSL_write(ssl, head, sizeof(head) - 1);
    while (SSL_write(ssl, filler, sizeof(filler)) > 0)
        ;
}

static bool read_request(SSL *ssl, char *out, size_t room)
{
    size_t size = 0, whole = room - 1;
    out[0] = 0;
    while (size < whole) {
        int n = SSL_read(ssl, out + size, (int)(room - 1 - size));
        if (n <= 0)
            return false;
        size += (size_t)n;
        out[size] = 0;
        const char *end = strstr(out, "\r\n\r\n"), *length = strstr(out, "Content-Length: ");
        if (end)
            whole = (size_t)(end - out) + 4 + (length ? (size_t)atoi(length + 16) : 0);
    }
    return true;
}

static void log_on(SSL *ssl, const char *body)
{
    static const char form[] =
        "grant_type=client_credentials&client_id=app-1&"
        "scope=https%3A%2F%2Fvault%2Eazure%2Enet%2F%2Edefault&"
        "client_secret=the%2Bclient%2Fsecret%20that%20no%20text%20may%20hold";
    if (strcmp(body, form) == 0)
        reply(ssl, 200, NULL,
              "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"" TOKEN "\"}");
    else
        reply(ssl, 401, NULL,
              "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: Invalid client "
              "secret provided.\"}");
}

static void serve(SSL *ssl)
{
    static char request[16384];
    char line[200];
    if (!read_request(ssl, request, sizeof(request)))
        return;
    bool post = strncmp(request, "POST ", 5) == 0;
    const char *path = request + (post ? 5 : 4), *body = strstr(request, "\r\n\r\n") + 4;
    snprintf(line, sizeof(line), "%s%.*s", post ? "POST " : "", (int)strcspn(path, " "), path);
    if (strcmp(line, "POST /lab/oauth2/v2.0/token") == 0) {
        log_on(ssl, body);
        return;
    }
    memcpy(asked[asked_count++ % SP_COUNT(asked)], line, sizeof(line));
    if (post)
        snprintf(posted, sizeof(posted), "%s", body);
    if (endless)
        say_without_end(ssl);
    else if (throttled > 0 && throttled--)
        reply(ssl, 429, "Retry-After: 0\r\n", "{\"error\":{\"code\":\"Throttled\"}}");
    else if (!no_token_needed && !strstr(request, "Authorization: Bearer " TOKEN "\r\n"))
        reply(ssl, 401, NULL, "{\"error\":{\"code\":\"Unauthorized\"}}");
    else {
        const struct page *p = pages;
        while (p->path && strcmp(p->path, line) != 0)
            p++;
        reply(ssl, p->path ? p->status : 404, p->header,
              p->path ? p->body : "{\"error\":{\"code\":\"SecretNotFound\"}}");
    }
}

static void serve_foreign(SSL *ssl)
{
    char request[4096];
    foreign_count++;
    if (read_request(ssl, request, sizeof(request)))
        reply(ssl, 200, NULL, "{\"value\":[]}");
}

#define LIST     "/secrets?" API "&maxresults=25"
#define DELETED  "/deletedsecrets?" API "&maxresults=25"
#define VERSIONS "/secrets/bek1/versions?" API "&maxresults=25"
#define SECRET   "/secrets/bek1/" V2 "?" API
#define UNWRAP   "POST /keys/kek/" K1 "/unwrapkey?" API

#define TAGS(file, more)                                                                           \
    "\"tags\":{\"MachineName\":\"Web1\",\"DiskEncryptionKeyFileName\":\"" file "\"" more "}"
#define WRAPPED_TAGS                                                                               \
    ",\"DiskEncryptionKeyEncryptionAlgorithm\":\"RSA-OAEP\","                                      \
    "\"DiskEncryptionKeyEncryptionKeyURL\":\"@/keys/kek/" K1 "\""
#define ITEM(id, created, type, tags)                                                              \
    "{\"id\":\"@/secrets/" id "\",\"contentType\":\"" type                                         \
    "\",\"attributes\":{\"enabled\":true,\"created\":" #created "}," tags "}"
#define OFF_ITEM(id, type, tags)                                                                   \
    "{\"id\":\"@/secrets/" id "\",\"contentType\":\"" type                                         \
    "\",\"attributes\":{\"enabled\":false,\"created\":5}," tags "}"
#define PAGE(items)   "{\"value\":[" items "],\"nextLink\":null}"
#define WIN           TAGS(FILE_OF, "")
#define WIN_WRAPPED   TAGS(FILE_OF, WRAPPED_TAGS)
#define LINUX         TAGS("LinuxPassPhraseFileName", "")
#define LINUX_WRAPPED TAGS("LinuxPassPhraseFileName_1_0", WRAPPED_TAGS)
#define BUNDLE(id, type, tags, value)                                                              \
    "{\"value\":" value ",\"id\":\"@/secrets/" id "\",\"contentType\":\"" type                     \
    "\",\"attributes\":{\"enabled\":true}," tags "}"
#define FORBIDDEN(code)                                                                            \
    "{\"error\":{\"code\":\"Forbidden\",\"message\":\"x\",\"innererror\":{\"code\":\"" code "\"}}" \
    "}"

/* ---- the provider ---- */

static struct tls_server server, foreign;
static struct providers *all;
static char secret_file[] = "/tmp/sp-azure-secret.XXXXXX";
static char wrapped_value[400]; /* of an RSA-2048 key's length */
static char bek_value[300];     /* base64 of a .BEK file of 156 bytes */

static void set(const char *key, const char *value)
{
    struct sp_why why = {""};
    if (providers_set(all, "azure-key-vault main", key, value, &why) < 0)
        fail_msg("%s", why.text);
}

static void set_client_secret(const char *text)
{
    assert_int_equal(sp_file_replace(secret_file, text, strlen(text), 0600), 0);
}

static int setup(void **state)
{
    struct sp_why why = {""};
    (void)state;
    asked_count = foreign_count = throttled = 0;
    endless = no_token_needed = false;
    server = (struct tls_server){.serve = serve};
    foreign = (struct tls_server){.serve = serve_foreign};
    tls_server_start(&server);
    tls_server_start(&foreign);
    assert_int_equal(providers_new(&all), 0);
    snprintf(vault_url, sizeof(vault_url), "https://127.0.0.1:%d", server.port);
    SP_FREE char *portal = sp_format("%s/", vault_url);
    set("url", portal);
    set("login_url", portal);
    set("ca_file", tls_ca_file);
    set("tenant", "lab");
    set("client_id", "app-1");
    set("secret_file", secret_file);
    set("canary", "bek1");
    set_client_secret(CLIENT "\n");
    assert_int_equal(providers_check(all, &why), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    providers_free(all);
    tls_server_end(&server);
    tls_server_end(&foreign);
    return 0;
}

static void says_no_secret(const struct sp_why *why)
{
    assert_null(strstr(why->text, TOKEN));
    assert_null(strstr(why->text, CLIENT));
}

static int lookup_of(Sp__VolumeKind kind, const char *machine, const struct page *now,
                     struct provider_items *out, struct sp_why *why)
{
    const struct provider *p = providers_find(all, "main");
    Sp__Volume volume = SP__VOLUME__INIT;
    Sp__HeaderFacts header = SP__HEADER_FACTS__INIT;
    Sp__Protector protector = SP__PROTECTOR__INIT, *list = &protector;
    provider_stage stage = 0;
    char guid[] = GUID;
    volume.volume_id = (char[]){"some:1"};
    volume.kind = kind;
    if (kind == SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER) {
        volume.header = &header;
        header.protectors = &list;
        header.n_protectors = 1;
        protector.id = guid;
        protector.type = SP__PROTECTOR_TYPE__PROTECTOR_TYPE_STARTUP_KEY;
    }
    const struct provider_query q = {
        .machine_id = MACHINE, .machine_name = machine, .volume = &volume};
    pages = now;
    assert_true(p->type->serves(p, &volume));
    int r = p->type->lookup(p, &q, out, &stage, why);
    says_no_secret(why);
    assert_int_equal(foreign_count, 0);
    return r;
}

static int lookup(const struct page *now, struct provider_items *out, struct sp_why *why)
{
    return lookup_of(SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER, "", now, out, why);
}

static int fetch(const char *locator, Sp__SecretType type, const struct page *now,
                 struct sp_secret **ret, struct sp_why *why)
{
    const struct provider *p = providers_find(all, "main");
    PROVIDER_ITEMS struct provider_items items = {0};
    provider_stage stage = 0;
    SP_FREE char *where = fill_in(locator);
    pages = now;
    assert_int_equal(provider_items_add(&items, where, V2, "", type), 0);
    int r = p->type->fetch(p, &items.items[0], ret, &stage, why);
    says_no_secret(why);
    assert_int_equal(foreign_count, 0);
    return r;
}

#define BARE    "@/secrets/bek1/" V2
#define WRAPPED BARE " @/keys/kek/" K1 " RSA-OAEP"
#define FILES   SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY
#define PHRASE  SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE

/* ---- looking ---- */

static void test_versions_are_pinned_newest_first(void **state)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    struct sp_why why = {""};
    char described[400];
    const struct provider *p = providers_find(all, "main");
    (void)state;
    /* Two pages; another machine's, a certificate's, and a name that only tags tell. */
    const struct page now[] = {
        {LIST, 200,
         "{\"value\":[" ITEM("other", 9, "BEK",
                             TAGS("00000000-0000-4000-8000-000000000000.BEK",
                                  "")) "],\"nextLink\":\"@/secrets?" API "&$skiptoken=2\"}",
         NULL},
        {"/secrets?" API "&$skiptoken=2", 200,
         PAGE("{\"id\":\"@/secrets/cert\",\"attributes\":{}}," ITEM("bek1", 9, "Wrapped BEK",
                                                                    WIN_WRAPPED)),
         NULL},
        {VERSIONS, 200,
         PAGE(ITEM("bek1/" V1, 1, "BEK", WIN) "," ITEM("bek1/" V2, 2, "Wrapped BEK", WIN_WRAPPED) //
              "," OFF_ITEM("bek1/33333333333333333333333333333333", "BEK", WIN)),
         NULL},
        {NULL, 0, NULL, NULL}};
    assert_int_equal(lookup(now, &items, &why), 0);
    assert_int_equal(items.count, 2);
    assert_string_equal(items.items[0].version, V2);
    assert_string_equal(items.items[0].protector_id, GUID);
    assert_int_equal(items.items[0].secret_type, FILES);
    assert_false(items.items[0].unwrapped);
    assert_true(items.items[1].unwrapped);
    SP_FREE char *first = fill_in(WRAPPED), *second = fill_in("@/secrets/bek1/" V1);
    assert_string_equal(items.items[0].locator, first);
    assert_string_equal(items.items[1].locator, second);
    /* What a point rests on names both, with versions, and is found again by it. */
    p->type->describe(p, &items.items[0], described, sizeof(described));
    SP_FREE char *both =
        fill_in("@/secrets/bek1/" V2 " wrapped by @/keys/kek/" K1 " with RSA-OAEP");
    assert_string_equal(described, both);
    Sp__EscrowRecord record = SP__ESCROW_RECORD__INIT;
    PROVIDER_ITEMS struct provider_items again = {0};
    record.note = described;
    record.version = (char[]){V2};
    assert_int_equal(p->type->recall(p, &record, &again), 0);
    assert_int_equal(again.count, 1);
    assert_string_equal(again.items[0].locator, first);
    assert_false(again.items[0].unwrapped);
    record.note = (char[]){"https://other.vault.azure.net/secrets/bek1/" V2};
    assert_int_equal(p->type->recall(p, &record, &again), 0);
    assert_int_equal(again.count, 1);
}

static void test_passphrases_are_found_by_the_machine(void **state)
{
    PROVIDER_ITEMS struct provider_items items = {0}, none = {0};
    struct sp_why why = {""};
    (void)state;
    const struct page now[] = {
        {LIST, 200,
         PAGE(ITEM("win", 9, "BEK", WIN) "," ITEM("bek1", 9, "Wrapped BEK", LINUX_WRAPPED)), NULL},
        {VERSIONS, 200, PAGE(ITEM("bek1/" V2, 2, "Wrapped BEK", LINUX_WRAPPED)), NULL},
        {DELETED, 200, PAGE(""), NULL},
        {NULL, 0, NULL, NULL}};
    const Sp__VolumeKind luks = SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    assert_int_equal(lookup_of(luks, "web1.corp.example", now, &items, &why), 0);
    assert_int_equal(items.count, 1);
    assert_int_equal(items.items[0].secret_type, PHRASE);
    assert_int_equal(lookup_of(luks, "web2", now, &none, &why), -ENOENT);
    assert_non_null(strstr(why.text, "'web2'"));
    assert_int_equal(lookup_of(luks, "", now, &none, &why), -EACCES);
}

static void test_answers_are_kept_apart(void **state)
{
    static const struct {
        int status, error;
        const char *body, *says, *header;
    } cases[] = {
        {200, -ENOENT, PAGE(""), "has no BEK", NULL},
        {403, -EACCES, FORBIDDEN("ForbiddenByPolicy"), "lacks secrets/list", NULL},
        {403, -EACCES, FORBIDDEN("ForbiddenByRbac"), "Key Vault Secrets User", NULL},
        {403, -EACCES, FORBIDDEN("ForbiddenByFirewall"), "network rules", NULL},
        {403, -EACCES, "", "lacks secrets/list", NULL},
        {401, -EACCES, "", "another tenant", NULL},
        {500, -EHOSTUNREACH, "", "status 500", NULL},
        {503, -EHOSTUNREACH, "", "status 503", NULL},
        {302, -EHOSTUNREACH, "", "status 302", "Location: https://127.0.0.1:1/\r\n"},
        {429, -EBUSY, "", "asked too much", "Retry-After: 3600\r\n"},
        {503, -EBUSY, "", "asked too much", "Retry-After: 3600\r\n"},
        {200, -EPROTO, "[]", "no JSON object", NULL},
        {200, -EPROTO, "{\"value\":7}", "listing is none", NULL},
        {200, -EPROTO, "{\"value\":[7]}", "no secret of its own", NULL},
        {200, -EPROTO, "{\"value\":[{\"id\":7}]}", "no secret of its own", NULL},
        {200, -EPROTO, "{\"value\":[{\"id\":\"https://evil.example/secrets/bek1\"}]}",
         "no secret of its own", NULL},
        {200, -EPROTO, "{\"value\":[{\"id\":\"@.evil.example/secrets/bek1\"}]}",
         "no secret of its own", NULL},
        {200, -EPROTO, "{\"value\":[{\"id\":\"@/secrets/../keys/x\"}]}", "no secret of its own",
         NULL},
        {200, -EPROTO, "{\"value\":[],\"nextLink\":\"https://evil.example/secrets\"}",
         "not its own", NULL},
        {200, -EPROTO, "{\"value\":[],\"nextLink\":\"@@evil.example/secrets\"}", "not its own",
         NULL},
        {200, -E2BIG, "{\"value\":[],\"nextLink\":\"@" LIST "\"}", "does not end", NULL},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        PROVIDER_ITEMS struct provider_items items = {0};
        struct sp_why why = {""};
        const struct page now[] = {{LIST, cases[i].status, cases[i].body, cases[i].header},
                                   {DELETED, 200, PAGE(""), NULL},
                                   {NULL, 0, NULL, NULL}};
        int r = lookup(now, &items, &why);
        if (r != cases[i].error || !strstr(why.text, cases[i].says))
            fail_msg("case %zu: %d %s", i, r, why.text);
    }
}

static void test_disabled_and_deleted_are_not_absent(void **state)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    struct sp_why why = {""};
    (void)state;
    const struct page off[] = {{LIST, 200, PAGE(OFF_ITEM("bek1", "BEK", WIN)), NULL},
                               {VERSIONS, 200, PAGE(OFF_ITEM("bek1/" V2, "BEK", WIN)), NULL},
                               {NULL, 0, NULL, NULL}};
    const struct page deleted[] = {{LIST, 200, PAGE(""), NULL},
                                   {DELETED, 200, PAGE(ITEM("bek1", 1, "BEK", WIN)), NULL},
                                   {NULL, 0, NULL, NULL}};
    const struct page untold[] = {{LIST, 200, PAGE(""), NULL},
                                  {DELETED, 403, FORBIDDEN("ForbiddenByPolicy"), NULL},
                                  {NULL, 0, NULL, NULL}};
    assert_int_equal(lookup(off, &items, &why), -EKEYEXPIRED);
    assert_non_null(strstr(why.text, "disabled"));
    assert_int_equal(lookup(deleted, &items, &why), -EKEYEXPIRED);
    assert_non_null(strstr(why.text, "recover"));
    assert_int_equal(lookup(untold, &items, &why), -EACCES);
    assert_int_equal(items.count, 0);
}

static void test_a_throttled_question_is_asked_again(void **state)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    struct sp_why why = {""};
    (void)state;
    const struct page now[] = {
        {LIST, 200, PAGE(""), NULL}, {DELETED, 200, PAGE(""), NULL}, {NULL, 0, NULL, NULL}};
    throttled = 1;
    assert_int_equal(lookup(now, &items, &why), -ENOENT);
    assert_int_equal(asked_count, 3);
    set("timeout", "1s"); /* and not for ever */
    throttled = 1000;
    assert_int_equal(lookup(now, &items, &why), -EBUSY);
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

/* ---- fetching ---- */

static void test_every_form_of_a_key(void **state)
{
    struct sp_why why = {""};
    (void)state;
    /* "b3BlbiBzZXNhbWU=": base64 of "open sesame". */
    static const char random_text[] =
        "mZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZ"; /* decodes to 0x99… */
    SP_FREE char *win = sp_format(BUNDLE("bek1/" V2, "BEK", WIN, "\"%s\""), bek_value);
    SP_FREE char *raw = sp_format(BUNDLE("bek1/" V2, "BEK", LINUX, "\"%s\""), random_text);
    SP_FREE char *boxed =
        sp_format(BUNDLE("bek1/" V2, "Wrapped BEK", LINUX_WRAPPED, "\"%s\""), wrapped_value);
    const struct {
        const char *locator, *bundle, *key; /* key NULL: a .BEK file */
        Sp__SecretType type;
    } cases[] = {
        {BARE, win, NULL, FILES},
        {BARE, BUNDLE("bek1/" V2, "BEK", LINUX, "\"b3BlbiBzZXNhbWU=\""), "open sesame", PHRASE},
        {BARE, raw, random_text, PHRASE},
        {BARE, BUNDLE("bek1/" V2, "", LINUX, "\"not base64!\""), "not base64!", PHRASE},
        {WRAPPED, boxed, "b3BlbiBzZXNhbWU=", PHRASE}, /* base64 text: never decoded again */
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        SP_SECRET struct sp_secret *key = NULL;
        const struct page now[] = {
            {SECRET, 200, cases[i].bundle, NULL},
            {UNWRAP, 200, "{\"kid\":\"@/keys/kek/" K1 "\",\"value\":\"YjNCbGJpQnpaWE5oYldVPQ\"}",
             NULL},
            {NULL, 0, NULL, NULL}};
        int r = fetch(cases[i].locator, cases[i].type, now, &key, &why);
        if (r < 0)
            fail_msg("case %zu: %s", i, why.text);
        if (!cases[i].key) {
            assert_int_equal(sp_secret_size(key), 156);
            continue;
        }
        assert_int_equal(sp_secret_size(key), strlen(cases[i].key));
        assert_memory_equal(sp_secret_data(key), cases[i].key, strlen(cases[i].key));
    }
    SP_FREE char *question = sp_format("{\"alg\":\"RSA-OAEP\",\"value\":\"%s\"}", wrapped_value);
    assert_string_equal(posted, question);
}

static void test_lies_about_a_secret(void **state)
{
    SP_FREE char *other =
        sp_format(BUNDLE("bek1/" V2, "Wrapped BEK",
                         TAGS(FILE_OF, ",\"DiskEncryptionKeyEncryptionKeyURL\":"
                                       "\"https://127.0.0.1:%d/keys/kek/" K1 "\""),
                         "\"%s\""),
                  wrapped_value, foreign.port);
    SP_FREE char *versionless = sp_format(
        BUNDLE("bek1/" V2, "Wrapped BEK",
               TAGS(FILE_OF, ",\"DiskEncryptionKeyEncryptionKeyURL\":\"@/keys/kek\""), "\"%s\""),
        wrapped_value);
    SP_FREE char *good = sp_format(BUNDLE("bek1/" V2, "BEK", WIN, "\"%s\""), bek_value);
    SP_FREE char *elder = sp_format(BUNDLE("bek1/" V1, "BEK", WIN, "\"%s\""), bek_value);
    SP_FREE char *alien = sp_format(BUNDLE("bek2/" V2, "BEK", WIN, "\"%s\""), bek_value);
    SP_FREE char *both = sp_format(BUNDLE("bek1/" V2, "BEK", WIN_WRAPPED, "\"%s\""), wrapped_value);
    SP_FREE char *unnamed =
        sp_format(BUNDLE("bek1/" V2, "Wrapped BEK", WIN, "\"%s\""), wrapped_value);
    const struct {
        int status, error;
        const char *body, *says;
    } cases[] = {
        {200, -EPROTO, elder, "hands out bek1/" V1},
        {200, -EPROTO, alien, "hands out bek2/"},
        {200, -EPROTO, other, "no key of https://127.0.0.1"},
        {200, -EPROTO, versionless, "no version of the KEK"},
        {200, -EPROTO, both, "says BEK"},
        {200, -EPROTO, unnamed, "names the KEK"},
        {200, -EPROTO, BUNDLE("bek1/" V2, "BEK", WIN, "7"), "no value"},
        {200, -EPROTO, BUNDLE("bek1/" V2, "BEK", WIN, "\"\""), "no value"},
        {200, -EPROTO, BUNDLE("bek1/" V2, "BEK", WIN, "\"*\""), "is base64"},
        {200, -EPROTO, BUNDLE("bek1/" V2, "BEK", WIN, "\"b3BlbiBzZXNhbWU=\""), "no .BEK file"},
        {200, -EPROTO, "{}", "no secret of its own"},
        {403, -EACCES, FORBIDDEN("ForbiddenByPolicy"), "lacks secrets/get"},
        {403, -EACCES, FORBIDDEN("ForbiddenByRbac"), "getSecret"},
        {403, -EKEYEXPIRED, FORBIDDEN("SecretDisabled"), "disabled"},
        {409, -EKEYEXPIRED, FORBIDDEN("ObjectIsDeletedButRecoverable"), "recovered"},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        SP_SECRET struct sp_secret *key = NULL;
        struct sp_why why = {""};
        const struct page now[] = {{SECRET, cases[i].status, cases[i].body, NULL},
                                   {NULL, 0, NULL, NULL}};
        int r = fetch(BARE, FILES, now, &key, &why);
        if (r != cases[i].error || !strstr(why.text, cases[i].says) || key)
            fail_msg("case %zu: %d %s", i, r, why.text);
    }
    /* Its being wrapped is part of what was listed. */
    SP_SECRET struct sp_secret *key = NULL;
    struct sp_why why = {""};
    const struct page bare_now[] = {{SECRET, 200, good, NULL}, {NULL, 0, NULL, NULL}};
    assert_int_equal(fetch(WRAPPED, FILES, bare_now, &key, &why), -EPROTO);
    assert_non_null(strstr(why.text, "another way than listed"));
    assert_int_equal(fetch("https://evil.example/secrets/bek1/" V2, FILES, bare_now, &key, &why),
                     -EPROTO);
}

static void test_absent_secret_or_one_to_be_recovered(void **state)
{
    SP_SECRET struct sp_secret *key = NULL;
    struct sp_why why = {""};
    (void)state;
    const struct page gone[] = {{NULL, 0, NULL, NULL}};
    const struct page deleted[] = {
        {"/deletedsecrets/bek1?" API, 200, "{\"recoveryId\":\"@/deletedsecrets/bek1\"}", NULL},
        {NULL, 0, NULL, NULL}};
    assert_int_equal(fetch(BARE, FILES, gone, &key, &why), -ENOENT);
    assert_non_null(strstr(why.text, "gone for good"));
    assert_int_equal(fetch(BARE, FILES, deleted, &key, &why), -EKEYEXPIRED);
}

static void test_lies_about_unwrapping(void **state)
{
    SP_FREE char *secret =
        sp_format(BUNDLE("bek1/" V2, "Wrapped BEK", WIN_WRAPPED, "\"%s\""), wrapped_value);
    static const struct {
        int status, error;
        const char *body, *says;
    } cases[] = {
        {200, -EPROTO, "{\"kid\":\"@/keys/kek/" V1 "\",\"value\":\"YQ\"}", "answers"},
        {200, -EPROTO, "{\"value\":\"YQ\"}", "answers"},
        {200, -EPROTO, "{\"kid\":\"@/keys/kek/" K1 "\",\"value\":\"YQ\"}", "no .BEK file"},
        {200, -EPROTO, "{\"kid\":\"@/keys/kek/" K1 "\",\"value\":\"a*b\"}", "no base64url"},
        {200, -EPROTO, "{\"kid\":\"@/keys/kek/" K1 "\",\"value\":[]}", "no base64url"},
        {400, -EPROTO, "{\"error\":{\"code\":\"BadParameter\"}}", "BadParameter"},
        {403, -EACCES, FORBIDDEN("ForbiddenByPolicy"), "lacks keys/unwrapKey"},
        {403, -EACCES, FORBIDDEN("ForbiddenByRbac"), "Crypto Service Encryption User"},
        {403, -EKEYEXPIRED, FORBIDDEN("KeyDisabled"), "the KEK is disabled"},
        {404, -ENOENT, "{\"error\":{\"code\":\"KeyNotFound\"}}", "gone for good"},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        SP_SECRET struct sp_secret *key = NULL;
        struct sp_why why = {""};
        const struct page now[] = {{SECRET, 200, secret, NULL},
                                   {UNWRAP, cases[i].status, cases[i].body, NULL},
                                   {NULL, 0, NULL, NULL}};
        int r = fetch(WRAPPED, FILES, now, &key, &why);
        if (r != cases[i].error || !strstr(why.text, cases[i].says) || key)
            fail_msg("case %zu: %d %s", i, r, why.text);
    }
    SP_SECRET struct sp_secret *key = NULL;
    struct sp_why why = {""};
    const struct page recoverable[] = {
        {SECRET, 200, secret, NULL},
        {"/deletedkeys/kek?" API, 200, "{\"recoveryId\":\"x\"}", NULL},
        {UNWRAP, 404, "{\"error\":{\"code\":\"KeyNotFound\"}}", NULL},
        {NULL, 0, NULL, NULL}};
    assert_int_equal(fetch(WRAPPED, FILES, recoverable, &key, &why), -EKEYEXPIRED);
    const struct page too_short[] = {
        {SECRET, 200, BUNDLE("bek1/" V2, "Wrapped BEK", WIN_WRAPPED, "\"YWJj\""), NULL},
        {NULL, 0, NULL, NULL}};
    assert_int_equal(fetch(WRAPPED, FILES, too_short, &key, &why), -EPROTO);
    assert_non_null(strstr(why.text, "length of no RSA key"));
}

static void test_keks_of_another_vault_only_where_it_is_configured(void **state)
{
    const struct provider *p = providers_find(all, "main");
    PROVIDER_ITEMS struct provider_items items = {0};
    SP_SECRET struct sp_secret *key = NULL;
    struct sp_why why = {""};
    provider_stage stage = 0;
    SP_FREE char *there = sp_format("https://127.0.0.1:%d", foreign.port);
    SP_FREE char *tags = sp_format("\"DiskEncryptionKeyEncryptionKeyURL\":\"%s/keys/kek/" K1 "\","
                                   "\"DiskEncryptionKeyFileName\":\"" FILE_OF "\"",
                                   there);
    SP_FREE char *bundle = sp_format("{\"id\":\"@/secrets/bek1/" V2 "\",\"value\":\"%s\","
                                     "\"contentType\":\"Wrapped BEK\",\"tags\":{%s}}",
                                     wrapped_value, tags);
    SP_FREE char *locator = sp_format("@/secrets/bek1/" V2 " %s/keys/kek/" K1 " RSA-OAEP", there);
    SP_FREE char *where = fill_in(locator);
    const struct page now[] = {{SECRET, 200, bundle, NULL}, {NULL, 0, NULL, NULL}};
    (void)state;
    assert_int_equal(fetch(locator, FILES, now, &key, &why), -EPROTO); /* asks nobody there */
    set("kek_url", there);
    assert_int_equal(provider_items_add(&items, where, V2, "", FILES), 0);
    assert_int_equal(p->type->fetch(p, &items.items[0], &key, &stage, &why), -EPROTO);
    assert_non_null(strstr(why.text, "answers")); /* with nonsense, but it was asked */
    assert_int_equal(foreign_count, 1);
}

static void test_whose_url_it_is(void **state)
{
    static const struct {
        const char *url, *behind;
    } cases[] = {
        {"https://lab.vault.azure.net/secrets/a", "secrets/a"},
        {"https://lab.vault.azure.net:443/secrets?x", "secrets?x"}, /* as in nextLink */
        {"https://LAB.Vault.azure.net/keys/a", "keys/a"},
        {"https://lab.vault.azure.net", NULL},
        {"https://lab.vault.azure.net:444/secrets/a", NULL},
        {"https://lab.vault.azure.net:443@evil.example/secrets/a", NULL},
        {"https://lab.vault.azure.net@evil.example/secrets/a", NULL},
        {"https://lab.vault.azure.net.evil.example/secrets/a", NULL},
        {"http://lab.vault.azure.net/secrets/a", NULL},
        {"//lab.vault.azure.net/secrets/a", NULL},
        {"", NULL},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        const char *behind = azure_behind("https://lab.vault.azure.net", cases[i].url);
        if (!cases[i].behind)
            assert_null(behind);
        else
            assert_string_equal(behind ? behind : "", cases[i].behind);
    }
    assert_null(azure_behind("https://127.0.0.1:8443", "https://127.0.0.1:8443:443/secrets/a"));
}

/* ---- the canary, the configuration ---- */

static int canary(const struct page *now, provider_stage *stage, struct sp_why *why)
{
    const struct provider *p = providers_find(all, "main");
    pages = now;
    *why = (struct sp_why){""};
    int r = p->type->canary(p, stage, why);
    says_no_secret(why);
    return r;
}

static void test_canary_walks_to_what_fails(void **state)
{
    SP_FREE char *bundle =
        sp_format(BUNDLE("bek1/" V2, "Wrapped BEK", LINUX_WRAPPED, "\"%s\""), wrapped_value);
    const struct page list = {LIST, 200, PAGE(ITEM("bek1", 1, "Wrapped BEK", LINUX_WRAPPED)), NULL},
                      versions = {VERSIONS, 200,
                                  PAGE(ITEM("bek1/" V2, 1, "Wrapped BEK", LINUX_WRAPPED)), NULL},
                      secret = {SECRET, 200, bundle, NULL},
                      unwrapped = {UNWRAP, 200,
                                   "{\"kid\":\"@/keys/kek/" K1
                                   "\",\"value\":\"YjNCbGJpQnpaWE5oYldVPQ\"}",
                                   NULL},
                      end = {NULL, 0, NULL, NULL};
    const struct page good[] = {list, versions, secret, unwrapped, end};
    const struct page no_get[] = {
        list, versions, {SECRET, 403, FORBIDDEN("ForbiddenByPolicy"), NULL}, end};
    const struct page no_unwrap[] = {
        list, versions, secret, {UNWRAP, 403, FORBIDDEN("ForbiddenByPolicy"), NULL}, end};
    const struct page no_list[] = {{LIST, 403, FORBIDDEN("ForbiddenByPolicy"), NULL}, end};
    const struct page not_there[] = {{LIST, 200, PAGE(""), NULL}, end};
    const struct page is_bare[] = {
        {LIST, 200, PAGE(ITEM("bek1", 1, "BEK", LINUX) "," ITEM("b", 1, "Wrapped BEK", WIN)), NULL},
        {VERSIONS, 200, PAGE(ITEM("bek1/" V2, 1, "BEK", LINUX)), NULL},
        end};
    const struct {
        const struct page *pages;
        int error;
        provider_stage stage;
        const char *says;
    } cases[] = {
        {good, 0, SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY, ""},
        {no_get, -EACCES, SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY, "lacks secrets/get"},
        {no_unwrap, -EACCES, SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY, "lacks keys/unwrapKey"},
        {no_list, -EACCES, SP__PROVIDER_STAGE__PROVIDER_STAGE_PERMISSION, "lacks secrets/list"},
        {not_there, -ENOENT, SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY, "no secret 'bek1'"},
        {is_bare, -EACCES, SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY, "not wrapped"},
    };
    provider_stage stage = 0;
    struct sp_why why = {""};
    (void)state;
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        stage = 0;
        int r = canary(cases[i].pages, &stage, &why);
        if (r != cases[i].error || stage != cases[i].stage || !strstr(why.text, cases[i].says))
            fail_msg("case %zu: %d stage %d %s", i, r, (int)stage, why.text);
    }
    set_client_secret("wrong");
    assert_int_equal(canary(good, &stage, &why), -EACCES);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION);
    assert_non_null(strstr(why.text, "AADSTS7000215"));
    assert_int_equal(chmod(secret_file, 0644), 0);
    assert_int_equal(canary(good, &stage, &why), -EPERM);
    set_client_secret(CLIENT);
    set("canary", "");
    assert_int_equal(canary(good, &stage, &why), -EACCES);
    assert_non_null(strstr(why.text, "no canary is configured"));
    set("ca_file", tls_other_ca);
    assert_int_equal(canary(good, &stage, &why), -ENOTCONN);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_TLS);
    set("url", "https://127.0.0.1:1");
    assert_int_equal(canary(good, &stage, &why), -EHOSTUNREACH);
    assert_int_equal(stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_CONNECTION);
    assert_int_equal(foreign_count, 0);
}

static void test_half_a_section_is_refused(void **state)
{
    struct sp_why why = {""};
    (void)state;
    static const struct {
        const char *key, *value, *says;
    } steps[] = {{"url", "http://lab.vault.azure.net", "url is https://"},
                 {"url", "https://lab.vault.azure.net/secrets", "url is https://"},
                 {"url", "https://user@lab.vault.azure.net", "url is https://"},
                 {"url", "https://lab.vault.azure.net/", ""},
                 {"kek_url", "lab2", "kek_url is"},
                 {"kek_url", "https://lab2.vault.azure.net", ""},
                 {"metadata_url", "http://evil.example", "metadata_url is"},
                 {"metadata_url", "http://127.0.0.1.evil.example", "metadata_url is"},
                 {"metadata_url", "http://169.254.169.254", ""},
                 {"login_url", "http://login", "login_url is"},
                 {"login_url", "https://login.microsoftonline.us", ""},
                 {"resource", "vault", "resource is"},
                 {"resource", "https://vault.azure.cn", ""},
                 {"canary", "a/b", "canary is the name"},
                 {"canary", "canary", ""},
                 {"tenant", "a/b", "GUIDs"},
                 {"tenant", "contoso.example", ""},
                 {"client_id", "", "client_id is needed"},
                 {"tenant", "", "tenant and client_id too"},
                 {"secret_file", "", ""},
                 {"tenant", "t", "client_id is needed"},
                 {"client_id", "c", "set one of them"}};
    for (size_t i = 0; i < SP_COUNT(steps); i++) {
        set(steps[i].key, steps[i].value);
        int r = providers_check(all, &why);
        if (r != (*steps[i].says ? -EINVAL : 0) ||
            (*steps[i].says && !strstr(why.text, steps[i].says)))
            fail_msg("step %zu: %d %s", i, r, why.text);
    }
}

static int group_setup(void **state)
{
    uint8_t bek[156] = {156, 0, 0, 0, 1, 0, 0, 0, 48}, random[256];
    (void)state;
    tls_server_setup();
    int fd = mkstemp(secret_file);
    assert_true(fd >= 0);
    close(fd);
    memset(random, 0xa5, sizeof(random));
    SP_FREE char *one = sp_base64url(random, sizeof(random)), *two = sp_base64url(bek, sizeof(bek));
    snprintf(wrapped_value, sizeof(wrapped_value), "%s", one);
    snprintf(bek_value, sizeof(bek_value), "%s", two);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    unlink(secret_file);
    tls_server_teardown();
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_versions_are_pinned_newest_first),
        TEST(test_passphrases_are_found_by_the_machine),
        TEST(test_answers_are_kept_apart),
        TEST(test_disabled_and_deleted_are_not_absent),
        TEST(test_a_throttled_question_is_asked_again),
        TEST(test_answer_without_end),
        TEST(test_every_form_of_a_key),
        TEST(test_lies_about_a_secret),
        TEST(test_absent_secret_or_one_to_be_recovered),
        TEST(test_lies_about_unwrapping),
        TEST(test_keks_of_another_vault_only_where_it_is_configured),
        cmocka_unit_test(test_whose_url_it_is),
        TEST(test_canary_walks_to_what_fails),
        TEST(test_half_a_section_is_refused),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
