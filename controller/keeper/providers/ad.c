/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Active Directory: BitLocker recovery passwords that Windows has stored there. Each is an object
 * msFVE-RecoveryInformation below the computer's object ([MS-ADA2] 2.374 ff., [MS-ADTS]):
 *
 *   CN                   <date>{<GUID of the protector>}
 *   msFVE-RecoveryGuid   the same, 16 octets as Windows stores GUIDs: the first three fields
 *                        little-endian, as on the volume
 *   msFVE-RecoveryPassword  confidential: shown only to whoever has CONTROL_ACCESS on it, left out
 *                           of the object for all others
 *
 * To whom the object itself is not shown AD answers with success and nothing. So nothing is absent
 * only while the canary, a recovery object that is known to be there, can be read. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "controller/keeper/providers/ldap_link.h"
#include <string.h>

#define TYPE "active-directory"

enum { GUID_BYTES = 16, COMPUTERS_MOST = 8, RECOVERY_PASSWORD_BYTES = 55, ATTRIBUTE_MOST = 64 };

struct ad {
    char *url, *ca_file, *base, *bind_dn, *password_file, *credential, *computer_attribute, *canary;
};

static const struct sp_config_option options[] = {
    {TYPE, "url", SP_CONFIG_TEXT, offsetof(struct ad, url), 0, 0},
    {TYPE, "ca_file", SP_CONFIG_TEXT, offsetof(struct ad, ca_file), 0, 0},
    {TYPE, "base", SP_CONFIG_TEXT, offsetof(struct ad, base), 0, 0},
    {TYPE, "bind_dn", SP_CONFIG_TEXT, offsetof(struct ad, bind_dn), 0, 0},
    {TYPE, "password_file", SP_CONFIG_TEXT, offsetof(struct ad, password_file), 0, 0},
    {TYPE, "credential", SP_CONFIG_TEXT, offsetof(struct ad, credential), 0, 0},
    {TYPE, "computer_attribute", SP_CONFIG_TEXT, offsetof(struct ad, computer_attribute), 0, 0},
    {TYPE, "canary", SP_CONFIG_TEXT, offsetof(struct ad, canary), 0, 0},
    {NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0},
};

static bool is_set(const char *text)
{
    return text && *text;
}

/* ---- GUIDs ---- */

/* Text, with or without braces, to the octets that AD stores. */
static int guid_octets(const char *text, uint8_t out[GUID_BYTES])
{
    static const uint8_t order[GUID_BYTES] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    char hex[2 * GUID_BYTES + 1];
    uint8_t plain[GUID_BYTES];
    size_t digits = 0, length = strlen(text);
    if (length == 38 && text[0] == '{' && text[37] == '}')
        text++;
    else if (length != 36)
        return -EINVAL;
    for (size_t i = 0; i < 36; i++) {
        bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
        if (hyphen != (text[i] == '-'))
            return -EINVAL;
        if (!hyphen)
            hex[digits++] = text[i];
    }
    hex[digits] = 0;
    if (sp_unhex(hex, plain, sizeof(plain)) < 0)
        return -EINVAL;
    for (size_t i = 0; i < GUID_BYTES; i++)
        out[i] = plain[order[i]];
    return 0;
}

static void guid_text(const uint8_t g[GUID_BYTES], char out[37])
{
    snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", g[3],
             g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13],
             g[14], g[15]);
}

/* ---- configuration ---- */

static int check(const struct provider *p, struct sp_why *why)
{
    const struct ad *ad = p->settings;
    uint8_t octets[GUID_BYTES];
    const char *attribute = ad->computer_attribute;
    int r = ldap_link_check_url(ad->url, why);
    if (r == 0 && !is_set(ad->base))
        r = sp_why_set(why, -EINVAL, "base is needed: the DN below which the computers are");
    if (r == 0 && !is_set(ad->bind_dn))
        r = sp_why_set(why, -EINVAL, "bind_dn is needed: the DN, or user@domain, to log on as");
    if (r == 0)
        r = provider_password_check(p, ad->password_file, ad->credential, why);
    if (r == 0 && is_set(ad->canary) && guid_octets(ad->canary, octets) < 0)
        r = sp_why_set(why, -EINVAL, "canary is the GUID of a recovery password that is in AD");
    if (r == 0 && attribute &&
        (strlen(attribute) > ATTRIBUTE_MOST ||
         strspn(attribute, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") !=
             strlen(attribute)))
        r = sp_why_set(why, -EINVAL, "computer_attribute is the name of an LDAP attribute");
    /* Neither ldap.conf nor the environment has a say; still one thread. */
    if (r == 0 && setenv("LDAPNOINIT", "1", 1) < 0)
        r = -ENOMEM;
    return r;
}

static bool serves(const struct provider *p, const Sp__Volume *v)
{
    (void)p;
    if (v->kind != SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER || !v->header)
        return false;
    for (size_t i = 0; i < v->header->n_protectors; i++)
        if (v->header->protectors[i]->type == SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD)
            return true;
    return false;
}

/* ---- searches ---- */

static int open_link(const struct provider *p, struct ldap_link **ret, provider_stage *stage,
                     struct sp_why *why)
{
    const struct ad *ad = p->settings;
    SP_SECRET struct sp_secret *password = NULL;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION;
    int r = provider_password(ad->password_file, ad->credential, &password, why);
    if (r < 0)
        return r;
    const struct ldap_link_options o = {.url = ad->url,
                                        .ca_file = ad->ca_file,
                                        .bind_dn = ad->bind_dn,
                                        .password = password,
                                        .timeout_ms = p->timeout_ms};
    r = ldap_link_open(&o, ret, stage, why);
    if (r == 0)
        *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_PERMISSION;
    return r;
}

struct found {
    struct provider_items *items;
    const char *protector_id;
};

/* The GUID of the object makes a version that no other object ever has. */
static int add_item(void *self, const struct ldap_entry *e)
{
    const struct found *f = self;
    SP_FREE char *dn = ldap_entry_dn(e);
    SP_SECRET struct sp_secret *guid = NULL;
    char version[37];
    if (!dn)
        return -ENOMEM;
    int r = ldap_entry_value(e, "objectGUID", GUID_BYTES, &guid);
    if (r < 0 || sp_secret_size(guid) != GUID_BYTES)
        return r == -ENOMEM ? r : -EPROTO;
    guid_text(sp_secret_data(guid), version);
    return provider_items_add(f->items, dn, version, f->protector_id,
                              SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD);
}

static int find_recovery(struct ldap_link *l, const char *base, const char *protector_id,
                         struct provider_items *out, struct sp_why *why)
{
    static const char *const attributes[] = {"objectGUID", NULL};
    SP_BUFFER struct sp_buffer filter = {0};
    uint8_t octets[GUID_BYTES];
    struct found f = {out, protector_id};
    if (guid_octets(protector_id, octets) < 0)
        return 0; /* no header names such a protector */
    int r = sp_buffer_printf(&filter, "(&(objectClass=msFVE-RecoveryInformation)"
                                      "(msFVE-RecoveryGuid=");
    if (r == 0)
        r = ldap_filter_bytes(&filter, octets, sizeof(octets));
    if (r == 0)
        r = sp_buffer_printf(&filter, "))");
    if (r == 0)
        r = ldap_link_search(l, base, LDAP_SCOPE_SUBTREE, sp_buffer_text(&filter), attributes,
                             PROVIDER_ITEMS_MOST, add_item, &f, why);
    return r;
}

struct computers {
    char *dns[COMPUTERS_MOST];
    size_t count;
};

static void computers_clear(struct computers *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->dns[i]);
}
#define COMPUTERS __attribute__((cleanup(computers_clear)))

static int add_computer(void *self, const struct ldap_entry *e)
{
    struct computers *c = self;
    char *dn = ldap_entry_dn(e);
    if (!dn)
        return -ENOMEM;
    c->dns[c->count++] = dn; /* the search ends at COMPUTERS_MOST */
    return 0;
}

/* A computer's CN is the host's name without the domain. */
static int find_computers(struct ldap_link *l, const struct ad *ad, const char *machine,
                          struct computers *out, struct sp_why *why)
{
    static const char *const attributes[] = {LDAP_NO_ATTRS, NULL};
    const char *attribute = ad->computer_attribute ? ad->computer_attribute : "cn";
    SP_BUFFER struct sp_buffer filter = {0};
    SP_FREE char *name = strdup(machine);
    if (!name)
        return -ENOMEM;
    if (strcasecmp(attribute, "cn") == 0)
        name[strcspn(name, ".")] = 0;
    int r = sp_buffer_printf(&filter, "(&(objectCategory=computer)(%s=", attribute);
    if (r == 0)
        r = ldap_filter_text(&filter, name);
    if (r == 0)
        r = sp_buffer_printf(&filter, "))");
    if (r == 0)
        r = ldap_link_search(l, ad->base, LDAP_SCOPE_SUBTREE, sp_buffer_text(&filter), attributes,
                             COMPUTERS_MOST, add_computer, out, why);
    return r;
}

static int find_for_volume(struct ldap_link *l, const char *base, const Sp__Volume *v,
                           struct provider_items *out, struct sp_why *why)
{
    int r = 0;
    for (size_t i = 0; i < v->header->n_protectors && r == 0; i++) {
        const Sp__Protector *x = v->header->protectors[i];
        if (x->type == SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD)
            r = find_recovery(l, base, x->id, out, why);
    }
    return r;
}

/* ---- one object ---- */

struct reading {
    struct sp_secret *secret;
    unsigned entries;
    int error;
};

static int read_entry(void *self, const struct ldap_entry *e)
{
    struct reading *r = self;
    r->entries++;
    r->error = ldap_entry_value(e, "msFVE-RecoveryPassword", RECOVERY_PASSWORD_BYTES, &r->secret);
    return r->error == -ENOMEM ? r->error : 0;
}

/* What Windows writes there: eight groups of six digits. Anything else is not offered as a key. */
static bool is_recovery_password(const struct sp_secret *s)
{
    const uint8_t *text = sp_secret_data(s);
    if (sp_secret_size(s) != RECOVERY_PASSWORD_BYTES)
        return false;
    for (size_t i = 0; i < RECOVERY_PASSWORD_BYTES; i++)
        if (i % 7 == 6 ? text[i] != '-' : text[i] < '0' || text[i] > '9')
            return false;
    return true;
}

static int read_password(struct ldap_link *l, const char *dn, struct sp_secret **ret,
                         struct sp_why *why)
{
    static const char *const attributes[] = {"msFVE-RecoveryPassword", NULL};
    struct reading reading = {.error = -ENOENT};
    int r = ldap_link_search(l, dn, LDAP_SCOPE_BASE, "(objectClass=msFVE-RecoveryInformation)",
                             attributes, 1, read_entry, &reading, why);
    SP_SECRET struct sp_secret *secret = reading.secret;
    if (r < 0)
        return r;
    if (reading.entries == 0)
        return sp_why_set(why, -EACCES, "the recovery object %.200s is not shown any more", dn);
    if (reading.error == -ENOENT)
        return sp_why_set(why, -EACCES,
                          "the recovery object is shown, but not its password: give the user of "
                          "bind_dn control access to it (dsacls BASE /I:S /G "
                          "USER:RPCA;msFVE-RecoveryPassword;msFVE-RecoveryInformation)");
    if (reading.error < 0 || !is_recovery_password(secret))
        return sp_why_set(why, -EPROTO, "what %.200s holds is no recovery password", dn);
    *ret = sp_steal(secret);
    return 0;
}

/* ---- canary ---- */

static int try_canary(struct ldap_link *l, const struct ad *ad, provider_stage *stage,
                      struct sp_why *why)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    SP_SECRET struct sp_secret *secret = NULL;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_PERMISSION;
    if (!is_set(ad->canary))
        return sp_why_set(why, -EACCES,
                          "no canary is configured, and AD answers 'nothing' also to whom it shows "
                          "nothing: set canary to the GUID of any recovery password below 'base'");
    int r = find_recovery(l, ad->base, ad->canary, &items, why);
    if (r == 0 && items.count == 0)
        return sp_why_set(
            why, -EACCES,
            "the canary %s is not shown: the user of bind_dn may not see recovery "
            "objects below 'base', or the canary was deleted: grant the right, or name "
            "another one",
            ad->canary);
    if (r < 0)
        return r;
    *stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_CANARY;
    return read_password(l, items.items[0].locator, &secret, why);
}

static int canary(const struct provider *p, provider_stage *stage, struct sp_why *why)
{
    LDAP_LINK struct ldap_link *l = NULL;
    int r = open_link(p, &l, stage, why);
    return r < 0 ? r : try_canary(l, p->settings, stage, why);
}

/* ---- lookup and fetch ---- */

static int absent(struct ldap_link *l, const struct ad *ad, const char *what, provider_stage *stage,
                  struct sp_why *why)
{
    int r = try_canary(l, ad, stage, why);
    return r < 0 ? r : sp_why_set(why, -ENOENT, "%s", what);
}

static int lookup(const struct provider *p, const struct provider_query *q,
                  struct provider_items *out, provider_stage *stage, struct sp_why *why)
{
    const struct ad *ad = p->settings;
    LDAP_LINK struct ldap_link *l = NULL;
    COMPUTERS struct computers computers = {0};
    /* An empty name of the attribute: the protector's GUID is enough. */
    bool by_computer = !ad->computer_attribute || *ad->computer_attribute;
    if (by_computer && !is_set(q->machine_name))
        return sp_why_set(why, -EACCES,
                          "the machine has no name by which its computer object could be found");
    int r = open_link(p, &l, stage, why);
    if (r == 0 && !by_computer)
        r = find_for_volume(l, ad->base, q->volume, out, why);
    else if (r == 0)
        r = find_computers(l, ad, q->machine_name, &computers, why);
    for (size_t i = 0; i < computers.count && r == 0; i++)
        r = find_for_volume(l, computers.dns[i], q->volume, out, why);
    if (r < 0 || out->count > 0)
        return r;
    return absent(l, ad,
                  by_computer && computers.count == 0
                      ? "there is no computer object for the machine"
                      : "there is no recovery password for the volume's protectors",
                  stage, why);
}

static int fetch(const struct provider *p, const struct provider_item *item, struct sp_secret **ret,
                 provider_stage *stage, struct sp_why *why)
{
    LDAP_LINK struct ldap_link *l = NULL;
    int r = open_link(p, &l, stage, why);
    return r < 0 ? r : read_password(l, item->locator, ret, why);
}

static void describe(const struct provider *p, const struct provider_item *item, char *out,
                     size_t size)
{
    const struct ad *ad = p->settings;
    snprintf(out, size, "%s at %.60s", item->locator, ad->url);
}

const struct provider_type provider_ad = {.name = TYPE,
                                          .options = options,
                                          .settings_bytes = sizeof(struct ad),
                                          .check = check,
                                          .serves = serves,
                                          .lookup = lookup,
                                          .fetch = fetch,
                                          .describe = describe,
                                          .canary = canary};
