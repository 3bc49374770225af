/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What Azure Key Vault answers, and how Azure Disk Encryption (ADE) keeps keys in it; apart from
 * how it is asked. Untrusted: an answer that is not about what was asked is -EPROTO.
 *
 * Sources: the REST reference of Key Vault (api-version 7.4: Get Secret, Get Secrets, Get Secret
 * Versions, Unwrap Key, error codes), and the tags that the ADE extensions write.
 *
 *     contentType  tags                                     value
 *     BEK          DiskEncryptionKeyFileName <GUID>.BEK     base64 of the startup key file
 *     BEK          … LinuxPassPhraseFileName[_<c>_<lun>]    base64 of the passphrase, itself base64
 * text Wrapped BEK  …EncryptionKeyURL, …EncryptionAlgorithm  base64url: what unwrapkey takes */
#ifndef SEALPOINT_KEEPER_AZURE_ANSWER_H
#define SEALPOINT_KEEPER_AZURE_ANSWER_H

#include "base/secret.h"
#include "base/why.h"
#include "controller/keeper/providers/provider.h"
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    AZURE_NAME_BYTES = 128,
    AZURE_VERSION_BYTES = 65,
    AZURE_URL_BYTES = 512,
    AZURE_ALGORITHM_BYTES = 16,
    AZURE_TOKEN_MOST = 16384
};

/* What is behind the vault's origin ("https://host[:port]") in a URL of it, else NULL. Key Vault
 * itself writes the port 443 into some URLs (nextLink) and not into others. */
const char *azure_behind(const char *vault, const char *url);
/* "<vault>/<kind>/<name>[/<version>]" of exactly this vault. `version` is "" when there is none. */
struct azure_id {
    char name[AZURE_NAME_BYTES], version[AZURE_VERSION_BYTES];
};
bool azure_id_parse(const char *vault, const char *kind, const char *text, struct azure_id *out);

/* Where and how a BEK is: what a point rests on. */
struct azure_bek {
    struct azure_id secret;
    bool wrapped;
    char kek[AZURE_URL_BYTES]; /* URL with version */
    char algorithm[AZURE_ALGORITHM_BYTES];
};
/* "SECRET-URL" or "SECRET-URL KEK-URL ALGORITHM", and back (-EINVAL: none, or of another vault). */
char *azure_locator(const char *vault, const struct azure_bek *);
int azure_locator_parse(const char *vault, const char *kek_vault, const char *locator,
                        struct azure_bek *out);

/* One secret as listed or given: texts are borrowed from the JSON, "" when absent. */
struct azure_secret {
    struct azure_id id;
    const char *content_type, *file_name, *machine, *kek, *algorithm;
    bool enabled;
    int64_t created;
};
/* -EPROTO: its id is not of this vault. */
int azure_secret_parse(const char *vault, json_object *, struct azure_secret *out, struct sp_why *);
/* By contentType or tags. */
bool azure_is_bek(const struct azure_secret *);
/* The protector's GUID in lower case; false: the file name is no <GUID>.BEK. */
bool azure_startup_key_id(const struct azure_secret *, char out[37]);
bool azure_is_passphrase(const struct azure_secret *);
/* What it says of its KEK, which must be a key with version of `kek_vault`. -EPROTO. */
int azure_wrapping(const struct azure_secret *, const char *kek_vault, struct azure_bek *out,
                   struct sp_why *);

/* `value` of the very secret that was asked for, with the wrapping that was listed. json-c's copy
 * is wiped. */
int azure_secret_value(const char *vault, const char *kek_vault, json_object *,
                       const struct azure_bek *asked, struct sp_secret **ret, struct sp_why *);
/* `value` of unwrapkey's answer, decoded; `kid` is the KEK's that was asked. */
int azure_unwrapped(const char *kek_vault, json_object *, const struct azure_bek *asked,
                    struct sp_secret **ret, struct sp_why *);
/* base64 or base64url, padded or not, strictly. -EINVAL. */
int azure_decode(const struct sp_secret *text, struct sp_secret **ret);
/* What opens the volume, from an unwrapped value, or from a bare secret's (which is encoded once
 * more). -EPROTO: not of the shape or length that ADE writes. */
int azure_key(const struct sp_secret *value, bool bare, Sp__SecretType, struct sp_secret **ret,
              struct sp_why *);

/* An access token from IMDS or the login service; json-c's copy is wiped. */
int azure_token(json_object *, struct sp_secret **ret, struct sp_why *);
/* "AADSTS7000222" of the login service's error_description, else its `error`; "": none. */
const char *azure_login_error(json_object *, char out[40]);

/* An error's code, the inner one when there is one ("ForbiddenByRbac"); "": none. */
const char *azure_error_code(json_object *, char out[64]);

#endif
