/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/hashicorp_answer.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/providers/rest.h"
#include <string.h>

enum {
    VERSIONS_TRIED = 10,
    WARN_BEFORE = 3, /* writes before the version is removed */
    VERSIONS_DEFAULT = 10
};

static int add_version(const char *path, int64_t version, int64_t left, int64_t most,
                       Sp__SecretType type, struct provider_items *out)
{
    SP_FREE char *locator = sp_format("%s?version=%lld", path, (long long)version);
    char number[24];
    snprintf(number, sizeof(number), "%lld", (long long)version);
    int r = locator ? provider_items_add(out, locator, number, "", type) : -ENOMEM;
    if (r < 0 || left > WARN_BEFORE)
        return r;
    out->items[out->count - 1].warning = sp_format(
        "Vault keeps %lld versions (max_versions) and removes version %lld for good with the %s "
        "write from now: raise max_versions, or mirror it",
        (long long)most, (long long)version,
        left <= 1   ? "next"
        : left == 2 ? "second"
                    : "third");
    return out->items[out->count - 1].warning ? 0 : -ENOMEM;
}

/* Deleted ones can be undeleted, destroyed ones are gone. */
int hashicorp_versions(json_object *data, const char *path, Sp__SecretType type,
                       struct provider_items *out, struct sp_why *why)
{
    json_object *versions = rest_member(data, "versions", json_type_object);
    int64_t current = 0, most = 0;
    bool deleted = false;
    int r = 0;
    if (!rest_number(data, "current_version", &current) ||
        !rest_number(data, "max_versions", &most) || !versions)
        return sp_why_set(why, -EPROTO, "Vault's metadata of %.200s make no sense", path);
    most = most ? most : VERSIONS_DEFAULT;
    for (int64_t v = current; v > 0 && v > current - VERSIONS_TRIED && r == 0; v--) {
        char number[24];
        snprintf(number, sizeof(number), "%lld", (long long)v);
        json_object *one = rest_member(versions, number, json_type_object);
        const char *when = rest_text(one, "deletion_time");
        if (!one || rest_flag(one, "destroyed", false))
            continue;
        if (when && *when)
            deleted = true;
        else
            r = add_version(path, v, most - (current - v), most, type, out);
    }
    if (r < 0 || out->count > 0)
        return r;
    return deleted
               ? sp_why_set(why, -EKEYEXPIRED,
                            "every version at %.200s is deleted: 'vault kv undelete' brings one "
                            "back",
                            path)
               : sp_why_set(why, -ENOENT, "every version at %.200s is destroyed", path);
}

int hashicorp_secret(json_object *data, const char *field, const char *version,
                     struct sp_secret **ret, struct sp_why *why)
{
    int64_t said = 0;
    char number[24];
    if (!rest_number(rest_member(data, "metadata", json_type_object), "version", &said))
        return sp_why_set(why, -EPROTO, "Vault's answer does not say which version it is");
    snprintf(number, sizeof(number), "%lld", (long long)said);
    if (strcmp(number, version) != 0)
        return sp_why_set(why, -EPROTO, "Vault hands out version %s instead of %s", number,
                          version);
    int r =
        rest_secret(rest_member(data, "data", json_type_object), field, PROVIDER_SECRET_MOST, ret);
    return r == -EPROTO
               ? sp_why_set(why, r, "version %s has no text of a key's length in the field '%.60s'",
                            version, field)
               : r;
}
