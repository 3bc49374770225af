/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/providers/provider.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "controller/keeper/credential.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum {
    INSTANCES_MOST = 16,
    PASSWORD_MOST = 1024,
    TIMEOUT_LEAST_MS = 1000,
    TIMEOUT_MOST_MS = 20000
};

static const uint64_t timeout_default_ms = 10000;

/* A new provider: its file, and a line here. */
static const struct provider_type *const types[] = {&provider_ad, &provider_azure, &provider_clevis,
                                                    &provider_hashicorp, &provider_kmip};

struct providers {
    struct provider *instances[INSTANCES_MOST];
    size_t count;
};

/* Options that every instance has. */
static const struct sp_config_option common[] = {
    {"", "mirror", SP_CONFIG_BOOL, offsetof(struct provider, mirror), 0, 0},
    {"", "timeout", SP_CONFIG_DURATION_MS, offsetof(struct provider, timeout_ms), TIMEOUT_LEAST_MS,
     TIMEOUT_MOST_MS},
    {NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0},
};

/* ---- instances ---- */

int providers_new(struct providers **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret ? 0 : -ENOMEM;
}

static void provider_free(struct provider *p)
{
    if (p->settings && p->type->options)
        sp_config_free(p->type->options, p->settings);
    free(p->settings);
    free(p);
}

void providers_free(struct providers *all)
{
    for (size_t i = 0; all && i < all->count; i++)
        provider_free(all->instances[i]);
    free(all);
}

size_t providers_count(const struct providers *all)
{
    return all ? all->count : 0;
}

const struct provider *providers_at(const struct providers *all, size_t index)
{
    return all->instances[index];
}

const struct provider *providers_find(const struct providers *all, const char *name)
{
    for (size_t i = 0; all && i < all->count; i++)
        if (strcmp(all->instances[i]->name, name) == 0)
            return all->instances[i];
    return NULL;
}

int providers_add(struct providers *all, const struct provider_type *type, const char *name,
                  struct provider **ret)
{
    if (providers_find(all, name))
        return -EEXIST;
    if (all->count == INSTANCES_MOST)
        return -ENOSPC;
    struct provider *p = calloc(1, sizeof(*p));
    if (!p || !(p->settings = calloc(1, type->settings_bytes + 1))) {
        free(p);
        return -ENOMEM;
    }
    p->type = type;
    snprintf(p->name, sizeof(p->name), "%s", name);
    p->mirror = true;
    p->timeout_ms = timeout_default_ms;
    all->instances[all->count++] = p;
    if (ret)
        *ret = p;
    return 0;
}

/* ---- configuration ---- */

static const struct provider_type *find_type(const char *name, size_t length)
{
    for (size_t i = 0; i < SP_COUNT(types); i++)
        if (strlen(types[i]->name) == length && strncmp(types[i]->name, name, length) == 0)
            return types[i];
    return NULL;
}

static bool is_name(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length < PROVIDER_NAME_BYTES &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == length &&
           strcmp(name, "keystore") != 0;
}

/* The instance that a section is about, made when it is the first to say so. */
static int find_section(struct providers *all, const char *section, struct provider **ret,
                        struct sp_why *why)
{
    const char *space = strchr(section, ' ');
    const struct provider_type *type =
        find_type(section, space ? (size_t)(space - section) : strlen(section));
    if (!type)
        return -ENOENT;
    if (!space || !is_name(space + 1))
        return sp_why_set(
            why, -EINVAL,
            "[%.40s]: a provider's section is its type and a name of at most %d lower "
            "case letters, digits and hyphens, for example [%s corp]",
            section, PROVIDER_NAME_BYTES - 1, type->name);
    struct provider *p = NULL;
    for (size_t i = 0; i < all->count; i++)
        if (strcmp(all->instances[i]->name, space + 1) == 0)
            p = all->instances[i];
    if (p && p->type != type)
        return sp_why_set(why, -EEXIST,
                          "[%.40s]: there is a provider of this name already: [%s %s]", section,
                          p->type->name, p->name);
    int r = p ? 0 : providers_add(all, type, space + 1, &p);
    if (r == -ENOSPC)
        return sp_why_set(why, r, "more than %d providers", INSTANCES_MOST);
    if (r == 0)
        *ret = p;
    return r;
}

int providers_set(void *self, const char *section, const char *key, const char *value,
                  struct sp_why *why)
{
    struct provider *p = NULL;
    int r = find_section(self, section, &p, why);
    if (r < 0)
        return r;
    for (const struct sp_config_option *o = common; o->section; o++)
        if (strcmp(o->key, key) == 0)
            return sp_config_set_option(common, p, "", key, value, why);
    return sp_config_set_option(p->type->options, p->settings, p->type->name, key, value, why);
}

int providers_check(const struct providers *all, struct sp_why *why)
{
    int r = 0;
    for (size_t i = 0; i < providers_count(all) && r == 0; i++) {
        const struct provider *p = all->instances[i];
        if (p->type->check && (r = p->type->check(p, why)) < 0)
            sp_why_prefix(why, r, "[%s %s]", p->type->name, p->name);
    }
    return r;
}

/* ---- for providers ---- */

int provider_items_add(struct provider_items *all, const char *locator, const char *version,
                       const char *protector_id, Sp__SecretType type)
{
    if (all->count == PROVIDER_ITEMS_MOST)
        return -E2BIG;
    struct provider_item *grown =
        reallocarray(all->items, all->count + 1, sizeof(struct provider_item));
    if (!grown)
        return -ENOMEM;
    all->items = grown;
    struct provider_item *i = &grown[all->count];
    *i = (struct provider_item){.locator = strdup(locator),
                                .version = strdup(version),
                                .protector_id = strdup(protector_id),
                                .secret_type = type};
    all->count++;
    return i->locator && i->version && i->protector_id ? 0 : -ENOMEM;
}

void provider_items_clear(struct provider_items *all)
{
    for (size_t i = 0; i < all->count; i++) {
        free(all->items[i].locator);
        free(all->items[i].version);
        free(all->items[i].protector_id);
        free(all->items[i].warning);
    }
    free(all->items);
    *all = (struct provider_items){0};
}

int provider_fill(const char *text, const char *option, const struct provider_query *q,
                  int (*append)(struct sp_buffer *out, const char *value), struct sp_buffer *out,
                  struct sp_why *why)
{
    char volume[VOLUME_ID_BYTES];
    const char *colon = strchr(sp_volume_id_base(q->volume->volume_id, volume), ':');
    const struct {
        const char *name, *value;
    } fields[] = {{"{machine}", q->machine_name},
                  {"{machine_id}", q->machine_id},
                  {"{volume}", volume},
                  {"{uuid}", colon ? colon + 1 : volume}};
    int r = 0;
    for (const char *p = text; *p && r == 0;) {
        size_t i = 0;
        while (i < SP_COUNT(fields) && strncmp(p, fields[i].name, strlen(fields[i].name)) != 0)
            i++;
        if (i == SP_COUNT(fields)) {
            r = sp_buffer_append(out, p++, 1);
        } else if (!fields[i].value || !*fields[i].value) {
            r = sp_why_set(why, -EACCES, "the machine has no name for %s in '%s'", fields[i].name,
                           option);
        } else {
            r = append(out, fields[i].value);
            p += strlen(fields[i].name);
        }
    }
    return r;
}

static bool is_set(const char *text)
{
    return text && *text;
}

int provider_password_check(const struct provider *p, const char *file, const char *credential,
                            struct sp_why *why)
{
    if (is_set(file) == is_set(credential))
        return sp_why_set(why, -EINVAL,
                          "the password of '%s' comes from password_file or from credential: set "
                          "one of them",
                          p->name);
    return 0;
}

/* The permissions are those of the very file that is read. */
static int read_file(const char *what, const char *path, size_t most, struct sp_secret **ret,
                     struct sp_why *why)
{
    SP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return sp_why_set(why, -errno, "cannot open the %s file %s", what, path);
    if (st.st_mode & 077)
        return sp_why_set(why, -EPERM, "others may read the %s file %s: make its mode 0600", what,
                          path);
    int r = sp_secret_read(fd, most, ret);
    if (r < 0)
        return sp_why_set(why, r, "cannot read the %s file %s", what, path);
    if (credential_trim(*ret) == 0) {
        sp_secret_free(sp_steal(*ret));
        return sp_why_set(why, -EINVAL, "the %s file %s is empty", what, path);
    }
    return 0;
}

int provider_secret(const char *what, const char *file, const char *credential, size_t most,
                    struct sp_secret **ret, struct sp_why *why)
{
    return is_set(file) ? read_file(what, file, most, ret, why)
                        : credential_read(credential, most, ret, why);
}

int provider_password(const char *file, const char *credential, struct sp_secret **ret,
                      struct sp_why *why)
{
    return provider_secret("password", file, credential, PASSWORD_MOST, ret, why);
}
