/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A clevis token of a hostile header, and the answers of tang servers that lie. The first byte says
 * what the rest is:
 *
 *     0 a JWE            1 its header as JSON, newline, the server's answer (or shares)
 *     2 an advertisement 3 the set of keys in one, unsigned    4 an address */
#include "base/bytes.h"
#include "base/file.h"
#include "controller/keeper/providers/clevis_jwe.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    clevis_setup();
    return 0;
}

/* No address has two spellings: what is asked is what was compared with the list. */
static void check_url(const char *text)
{
    char once[CLEVIS_URL_BYTES], twice[CLEVIS_URL_BYTES];
    if (clevis_url(text, once) == 0 && (clevis_url(once, twice) < 0 || strcmp(once, twice) != 0))
        abort();
}

static unsigned count(const struct clevis_pin *pin, unsigned depth)
{
    unsigned all = 1;
    if (depth > CLEVIS_DEPTH_MOST || pin->count > CLEVIS_PINS_MOST ||
        (pin->kind == CLEVIS_SSS && (pin->threshold == 0 || pin->threshold > pin->count)) ||
        (pin->kind == CLEVIS_TANG && (!pin->server || !pin->epk || !*pin->kid)))
        abort();
    if (pin->kind == CLEVIS_TANG)
        check_url(pin->url);
    for (unsigned i = 0; i < pin->count; i++)
        all += count(&pin->shares[i], depth + 1);
    return all;
}

static void open_tang(const struct clevis_pin *pin, struct sp_bytes answer)
{
    CLEVIS_QUESTION struct clevis_question q = {NULL, NULL};
    SP_SECRET struct sp_secret *secret = NULL;
    struct sp_why why = {""};
    if (clevis_ask(pin, &q, &why) == 0)
        clevis_open_tang(pin, &q, answer.data, answer.size, &secret, &why);
}

static void open_sss(const struct clevis_pin *pin, struct sp_bytes bytes)
{
    struct sp_secret *shares[CLEVIS_PINS_MOST] = {NULL};
    SP_SECRET struct sp_secret *secret = NULL;
    struct sp_why why = {""};
    size_t each = bytes.size / pin->threshold;
    for (unsigned i = 0; i < pin->threshold && each > 0; i++)
        shares[i] = sp_secret_copy(bytes.data + i * each, each);
    if (each > 0 && shares[pin->threshold - 1])
        clevis_open_sss(pin, shares, &secret, &why);
    for (unsigned i = 0; i < pin->threshold; i++)
        sp_secret_free(shares[i]);
}

static void token(const char *jwe, size_t size, struct sp_bytes answer)
{
    SP_CLEANUP(clevis) struct clevis_pin *pin = NULL;
    struct sp_why why = {""};
    if (clevis_parse(jwe, size, &pin, &why) < 0)
        return;
    if (count(pin, 0) > CLEVIS_PINS_MOST)
        abort();
    if (pin->kind == CLEVIS_TANG)
        open_tang(pin, answer);
    else if (pin->kind == CLEVIS_SSS)
        open_sss(pin, answer);
}

static void header(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, '\n', size);
    size_t length = end ? (size_t)(end - data) : size;
    struct sp_bytes rest = {end ? end + 1 : data, end ? size - length - 1 : 0};
    SP_FREE char *text = sp_base64url(data, length);
    SP_FREE char *jwe =
        text ? sp_format("%s..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA", text) : NULL;
    if (jwe)
        token(jwe, strlen(jwe), rest);
}

/* Nobody signed it. */
static void keys(const uint8_t *data, size_t size)
{
    bool has = false;
    struct sp_why why = {""};
    SP_FREE char *text = sp_base64url(data, size);
    SP_FREE char *jws = text
                            ? sp_format("{\"payload\":\"%s\",\"protected\":"
                                        "\"eyJhbGciOiJFUzI1NiJ9\",\"signature\":\"%.86s\"}",
                                        text,
                                        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                                        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
                            : NULL;
    if (jws && clevis_advertisement(jws, strlen(jws), NULL, &has, &why) == 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool has = false;
    struct sp_why why = {""};
    if (size == 0)
        return 0;
    const uint8_t *rest = data + 1;
    SP_FREE char *text = strndup((const char *)rest, size - 1);
    switch (data[0]) {
    case '0':
        token((const char *)rest, size - 1, (struct sp_bytes){0});
        break;
    case '1':
        header(rest, size - 1);
        break;
    case '2':
        clevis_advertisement(rest, size - 1, "AAAA", &has, &why);
        break;
    case '3':
        keys(rest, size - 1);
        break;
    default:
        if (text)
            check_url(text);
    }
    return 0;
}
