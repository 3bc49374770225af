/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What comes from files and certificates as text: tokens, SPIFFE ids, base64url, hexadecimal. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/identity.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    SP_FREE char *text = strndup((const char *)data, size);
    SP_FREE uint8_t *out = malloc(size + 1);
    struct sp_identity id;
    char token_id[37], spiffe[320];
    SP_SECRET struct sp_secret *secret = NULL;
    size_t got;
    if (!text || !out)
        return 0;
    (void)sp_token_parse(data, size, token_id, &secret);
    if (sp_identity_parse(text, &id) == 0 &&
        strcmp(sp_identity_text(&id, spiffe, sizeof(spiffe)), text) != 0)
        abort(); /* what was taken must be what was said */
    if (sp_base64url_decode(text, out, size, &got) == 0) {
        SP_FREE char *again = sp_base64url(out, got);
        if (again && strcmp(again, text) != 0)
            abort();
    }
    (void)sp_unhex(text, out, size / 2);
    X509 *certificate = NULL;
    if (sp_certificate_from_pem(data, size, &certificate) == 0) {
        (void)sp_identity_of_certificate(certificate, &id);
        X509_free(certificate);
    }
    return 0;
}
