/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Asking Azure: a token of the instance's identity (IMDS) or for client credentials, then questions
 * to one Key Vault. The token goes to that vault and to the KEKs' (kek_url), nowhere else.
 *
 *   GET  <metadata>/metadata/identity/oauth2/token?api-version=2018-02-01&resource=…   Metadata:
 * true POST <login>/<tenant>/oauth2/v2.0/token        grant_type=client_credentials&… GET
 * <vault>/secrets…?api-version=7.4          Authorization: Bearer … POST
 * <kek>/unwrapkey?api-version=7.4           the same */
#ifndef SEALPOINT_KEEPER_AZURE_CALL_H
#define SEALPOINT_KEEPER_AZURE_CALL_H

#include "controller/keeper/providers/provider.h"
#include "controller/keeper/providers/rest.h"

#define AZURE_API "api-version=7.4"

/* Options of a section. */
struct azure {
    char *url, *kek_url, *ca_file, *tenant, *client_id, *secret_file, *credential, *login_url,
        *metadata_url, *resource, *canary;
};

/* One call of a provider's function: all its questions share one deadline and one token. */
struct azure_call {
    const struct provider *p;
    const struct azure *a;
    char *vault, *kek_vault; /* without a slash at the end */
    struct sp_secret *token; /* after azure_log_on() */
    struct rest_link link;   /* to the vault */
    uint64_t until_ms;
    provider_stage *stage;
    struct sp_why *why;
};

/* What a question needs: named when it is missing. */
enum azure_right { AZURE_LIST, AZURE_GET, AZURE_UNWRAP, AZURE_GET_KEY };

int azure_check(const struct provider *, struct sp_why *);

int azure_call_begin(const struct provider *, struct azure_call *, provider_stage *,
                     struct sp_why *);
void azure_call_end(struct azure_call *);
#define AZURE_CALL __attribute__((cleanup(azure_call_end))) struct azure_call

/* Whether the vault is there at all: a question without a token. */
int azure_knock(struct azure_call *);
int azure_log_on(struct azure_call *);
/* A JSON object (new). `body` NULL: GET. -ENOENT: HTTP status 404; others as in provider.h. */
int azure_ask(struct azure_call *, enum azure_right, const char *url, const struct sp_secret *body,
              json_object **ret);

#endif
