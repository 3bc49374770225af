/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/config.h"

#include "base/cleanup.h"
#include "base/file.h"
#include <dirent.h>
#include <ini.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *suffix;
    uint64_t factor;
} durations[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}},
  sizes[] = {{"", 1}, {"K", 1ull << 10}, {"M", 1ull << 20}, {"G", 1ull << 30}, {"T", 1ull << 40}};

/* Digits, then a suffix of the type. */
static int parse_number(enum sp_config_type type, const char *text, uint64_t *ret)
{
    uint64_t n = 0;
    const char *p = text;
    if (*p < '0' || *p > '9')
        return -EINVAL;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
            return -ERANGE;
    }
    uint64_t factor = 0;
    if (type == SP_CONFIG_NUMBER)
        factor = *p ? 0 : 1;
    for (size_t i = 0; type == SP_CONFIG_DURATION_MS && i < SP_COUNT(durations); i++)
        factor = strcmp(p, durations[i].suffix) == 0 ? durations[i].factor : factor;
    for (size_t i = 0; type == SP_CONFIG_SIZE && i < SP_COUNT(sizes); i++)
        factor = strcmp(p, sizes[i].suffix) == 0 ? sizes[i].factor : factor;
    if (!factor)
        return -EINVAL;
    return __builtin_mul_overflow(n, factor, ret) ? -ERANGE : 0;
}

static int set_bool(const char *text, bool *ret)
{
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false",
                                                                                "off", "0"};
    for (size_t i = 0; i < SP_COUNT(yes); i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *ret = strcasecmp(text, yes[i]) == 0;
            return 0;
        }
    }
    return -EINVAL;
}

static const char *expected(enum sp_config_type type)
{
    switch (type) {
    case SP_CONFIG_BOOL:
        return "yes or no";
    case SP_CONFIG_NUMBER:
        return "a whole number";
    case SP_CONFIG_DURATION_MS:
        return "a time such as 500ms, 10s, 5min, 2h or 1d";
    case SP_CONFIG_SIZE:
        return "a size such as 64K, 10M, 4G or 1T";
    case SP_CONFIG_TEXT:
        break;
    }
    return "text";
}

static int set_value(const struct sp_config_option *o, void *target, const char *value,
                     struct sp_why *why)
{
    char *at = (char *)target + o->at;
    if (o->type == SP_CONFIG_TEXT) {
        char *copy = strdup(value);
        if (!copy)
            return -ENOMEM;
        char **text = (char **)(void *)at;
        free(*text);
        *text = copy;
        return 0;
    }
    uint64_t n = 0;
    int r = o->type == SP_CONFIG_BOOL ? set_bool(value, (bool *)(void *)at)
                                      : parse_number(o->type, value, &n);
    if (r < 0)
        return sp_why_set(why, -EINVAL, "%s.%s is '%s', expected %s", o->section, o->key, value,
                          expected(o->type));
    if (o->type == SP_CONFIG_BOOL)
        return 0;
    if ((o->least || o->most) && (n < o->least || n > o->most))
        return sp_why_set(why, -ERANGE, "%s.%s is %s, allowed is %llu to %llu%s", o->section,
                          o->key, value, (unsigned long long)o->least, (unsigned long long)o->most,
                          o->type == SP_CONFIG_DURATION_MS ? " ms"
                          : o->type == SP_CONFIG_SIZE      ? " bytes"
                                                           : "");
    *(uint64_t *)(void *)at = n;
    return 0;
}

int sp_config_set_option(const struct sp_config_option *table, void *target, const char *section,
                         const char *key, const char *value, struct sp_why *why)
{
    bool section_known = false;
    for (const struct sp_config_option *o = table; o->section; o++) {
        if (strcmp(o->section, section) != 0)
            continue;
        section_known = true;
        if (strcmp(o->key, key) == 0)
            return set_value(o, target, value, why);
    }
    if (!section_known)
        return sp_why_set(why, -EINVAL, "there is no section [%s]", section);
    return sp_why_set(why, -EINVAL, "section [%s] has no option '%s'", section, key);
}

static int set_any(const struct sp_config_option *table, void *target,
                   const struct sp_config_more *more, const char *section, const char *key,
                   const char *value, struct sp_why *why)
{
    int r = more ? more->set(more->self, section, key, value, why) : -ENOENT;
    return r == -ENOENT ? sp_config_set_option(table, target, section, key, value, why) : r;
}

struct load {
    const struct sp_config_option *table;
    void *target;
    const struct sp_config_more *more;
    struct sp_why *why;
    int error;
};

static int on_option(void *user, const char *section, const char *key, const char *value)
{
    struct load *load = user;
    load->error =
        set_any(load->table, load->target, load->more, section, key, value ? value : "", load->why);
    return load->error == 0;
}

enum { CONFIG_MAX_BYTES = 1 << 20 };

static int load_file(const char *path, const struct sp_config_option *table, void *target,
                     const struct sp_config_more *more, struct sp_why *why)
{
    SP_FREE char *text = NULL;
    int r = sp_file_read(path, CONFIG_MAX_BYTES, &text, NULL);
    if (r < 0)
        return sp_why_set(why, r, "cannot read %s: %s", path, strerror(-r));
    struct load load = {.table = table, .target = target, .more = more, .why = why};
    int line = ini_parse_string(text, on_option, &load);
    if (line > 0 && load.error)
        return sp_why_prefix(why, load.error, "%s, line %d", path, line);
    if (line != 0)
        return sp_why_set(why, -EINVAL, "%s, line %d: not 'key = value' and not a [section]", path,
                          line);
    return 0;
}

static int is_drop_in(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return e->d_name[0] != '.' && n > 5 && strcmp(e->d_name + n - 5, ".conf") == 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

int sp_config_load(const char *path, bool may_miss, const struct sp_config_option *table,
                   void *target, struct sp_why *why)
{
    return sp_config_load_more(path, may_miss, table, target, NULL, why);
}

int sp_config_load_more(const char *path, bool may_miss, const struct sp_config_option *table,
                        void *target, const struct sp_config_more *more, struct sp_why *why)
{
    int r = load_file(path, table, target, more, why);
    if (r < 0 && !(r == -ENOENT && may_miss))
        return r;
    SP_FREE char *folder = sp_format("%s.d", path);
    if (!folder)
        return -ENOMEM;
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_drop_in, by_bytes);
    if (count < 0)
        return errno == ENOENT ? 0 : sp_why_set(why, -errno, "cannot read the folder %s", folder);
    r = 0;
    for (int i = 0; i < count; i++) {
        SP_FREE char *file = r == 0 ? sp_format("%s/%s", folder, entries[i]->d_name) : NULL;
        if (r == 0)
            r = file ? load_file(file, table, target, more, why) : -ENOMEM;
        free(entries[i]);
    }
    free(entries);
    return r;
}

int sp_config_set(const struct sp_config_option *table, void *target, const char *assignment,
                  struct sp_why *why)
{
    return sp_config_set_more(table, target, NULL, assignment, why);
}

int sp_config_set_more(const struct sp_config_option *table, void *target,
                       const struct sp_config_more *more, const char *assignment,
                       struct sp_why *why)
{
    const char *equals = strchr(assignment, '='), *dot = strchr(assignment, '.');
    if (!equals || !dot || dot > equals)
        return sp_why_set(why, -EINVAL, "'%s' is not section.key=value", assignment);
    SP_FREE char *section = strndup(assignment, (size_t)(dot - assignment));
    SP_FREE char *key = strndup(dot + 1, (size_t)(equals - dot - 1));
    if (!section || !key)
        return -ENOMEM;
    return set_any(table, target, more, section, key, equals + 1, why);
}

void sp_config_free(const struct sp_config_option *table, void *target)
{
    for (const struct sp_config_option *o = table; o->section; o++) {
        if (o->type != SP_CONFIG_TEXT)
            continue;
        char **text = (char **)(void *)((char *)target + o->at);
        free(*text);
        *text = NULL;
    }
}
