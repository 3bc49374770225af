/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What REST servers answer: the first byte says to which question, the rest is the answer. Whatever
 * it is, no key comes of an answer about something else, and no KEK of another vault. */
#include "controller/keeper/providers/azure_answer.h"
#include "controller/keeper/providers/hashicorp_answer.h"
#include "controller/keeper/providers/rest.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VAULT   "https://lab.vault.azure.net"
#define SECRET  "https://lab.vault.azure.net/secrets/bek/11111111111111111111111111111111"
#define KEK     "https://lab.vault.azure.net/keys/kek/22222222222222222222222222222222"
#define WRAPPED SECRET " " KEK " RSA-OAEP"

static void expect(bool holds)
{
    if (!holds)
        abort();
}

static void hashicorp(json_object *answer, bool secret)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    SP_SECRET struct sp_secret *key = NULL;
    struct sp_why why = {""};
    json_object *data = rest_member(answer, "data", json_type_object);
    if (!data)
        return;
    if (secret)
        expect((hashicorp_secret(data, "key", "7", &key, &why) == 0) == (key != NULL));
    else
        expect((hashicorp_versions(data, "a/b", SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, &items,
                                   &why) == 0) == (items.count > 0));
}

static void azure_listed(json_object *answer)
{
    struct azure_secret s;
    struct azure_bek b, again;
    struct sp_why why = {""};
    char guid[37];
    if (azure_secret_parse(VAULT, answer, &s, &why) < 0)
        return;
    expect(strlen(s.id.name) > 0 && !strpbrk(s.id.name, "/?#%."));
    azure_is_bek(&s);
    azure_is_passphrase(&s);
    if (azure_startup_key_id(&s, guid))
        expect(strlen(guid) == 36);
    if (azure_wrapping(&s, VAULT, &b, &why) < 0 || !s.id.version[0])
        return;
    expect(!b.wrapped || strncmp(b.kek, VAULT "/keys/", strlen(VAULT "/keys/")) == 0);
    SP_FREE char *locator = azure_locator(VAULT, &b);
    expect(locator && azure_locator_parse(VAULT, VAULT, locator, &again) == 0);
    expect(again.wrapped == b.wrapped && strcmp(again.secret.version, b.secret.version) == 0);
}

static void azure_value(json_object *answer, const char *locator)
{
    SP_SECRET struct sp_secret *value = NULL, *file = NULL, *text = NULL;
    struct azure_bek b;
    struct sp_why why = {""};
    expect(azure_locator_parse(VAULT, VAULT, locator, &b) == 0);
    if (azure_secret_value(VAULT, VAULT, answer, &b, &value, &why) < 0)
        return;
    azure_key(value, !b.wrapped, SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY, &file, &why);
    azure_key(value, !b.wrapped, SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, &text, &why);
}

static void azure_opened(json_object *answer)
{
    SP_SECRET struct sp_secret *value = NULL, *file = NULL, *text = NULL;
    struct azure_bek b;
    struct sp_why why = {""};
    expect(azure_locator_parse(VAULT, VAULT, WRAPPED, &b) == 0);
    if (azure_unwrapped(VAULT, answer, &b, &value, &why) < 0)
        return;
    azure_key(value, false, SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY, &file, &why);
    azure_key(value, false, SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, &text, &why);
}

static void azure_others(json_object *answer)
{
    SP_SECRET struct sp_secret *token = NULL;
    struct sp_why why = {""};
    char code[64];
    expect(strlen(azure_login_error(answer, code)) < 40);
    expect(strlen(azure_error_code(answer, code)) < 64);
    azure_token(answer, &token, &why);
    for (size_t i = 0; token && i < sp_secret_size(token); i++)
        expect(sp_secret_data(token)[i] > ' ' && sp_secret_data(token)[i] <= '~');
}

static void locators(const uint8_t *data, size_t size)
{
    SP_FREE char *text = strndup((const char *)data, size);
    struct azure_bek b;
    if (text && azure_locator_parse(VAULT, VAULT, text, &b) == 0)
        expect(b.secret.version[0] &&
               (!b.wrapped || strncasecmp(b.kek, VAULT, strlen(VAULT)) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    SP_CLEANUP(json) json_object *answer = rest_parse(data + 1, size - 1);
    switch (data[0]) {
    case '0':
        hashicorp(answer, false);
        break;
    case '1':
        hashicorp(answer, true);
        break;
    case '2':
        azure_listed(answer);
        break;
    case '3':
        azure_value(answer, SECRET);
        break;
    case '4':
        azure_value(answer, WRAPPED);
        break;
    case '5':
        azure_opened(answer);
        break;
    case '6':
        locators(data + 1, size - 1);
        break;
    default:
        azure_others(answer);
        break;
    }
    return 0;
}
