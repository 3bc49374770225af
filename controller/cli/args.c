/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include "base/config.h"
#include <string.h>

static const struct cli_flag common_flags[] = {
    {"json", NULL, "print JSON, for scripts", NULL, NULL, NULL},
    {"profile", "DIR", "folder with the user's certificate (or $SEALPOINT_PROFILE)", NULL, NULL,
     NULL},
    {"help", NULL, "print this help", NULL, NULL, NULL},
    {0},
};

static void print_flags(const struct cli_flag *flags)
{
    for (const struct cli_flag *f = flags; f && f->name; f++) {
        char head[64];
        (void)snprintf(head, sizeof(head), "--%s%s%s", f->name, f->value_name ? " " : "",
                       f->value_name ? f->value_name : "");
        if (strlen(head) > 24)
            printf("  %s\n  %-24s  %s\n", head, "", f->help);
        else
            printf("  %-24s  %s\n", head, f->help);
    }
}

static void print_help(const struct cli_command *c, const struct cli_flag *flags)
{
    printf("Usage: sealpoint %s%s%s%s%s [options]\n\n%s\n", c->group ? c->group : "",
           c->group ? " " : "", c->name, *c->arguments ? " " : "", c->arguments, c->summary);
    if (*c->help)
        printf("\n%s", c->help);
    printf("\nOptions:\n");
    print_flags(flags);
    print_flags(common_flags);
}

static int usage(const struct cli_command *c, const char *before, const char *word,
                 const char *after)
{
    fprintf(stderr, "sealpoint: %s%s%s; 'sealpoint %s%s%s --help' shows how\n", before, word, after,
            c->group ? c->group : "", c->group ? " " : "", c->name);
    return CLI_PARSED_USAGE;
}

static const struct cli_flag *find_flag(const struct cli_flag *flags, const char *name,
                                        size_t length)
{
    for (const struct cli_flag *f = flags; f && f->name; f++) {
        if (strlen(f->name) == length && strncmp(f->name, name, length) == 0)
            return f;
    }
    return NULL;
}

static void append(const char **list, const char *value)
{
    size_t n = 0;
    while (n < CLI_LIST_MAX - 1 && list[n])
        n++;
    list[n] = value;
    list[n + 1 < CLI_LIST_MAX ? n + 1 : n] = NULL;
}

static void store(struct cli *cli, const struct cli_flag *f, const char *value)
{
    if (strcmp(f->name, "json") == 0 && !f->on)
        cli->json = true;
    else if (strcmp(f->name, "profile") == 0 && !f->value)
        cli->profile = value;
    else if (f->on)
        *f->on = true;
    else if (f->list)
        append(f->list, value);
    else if (f->value)
        *f->value = value;
}

int cli_parse(struct cli *cli, const struct cli_command *c, const struct cli_flag *flags, int argc,
              char **argv, int least, int most)
{
    int words = 0;
    bool only_words = false;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        if (only_words || strncmp(a, "-", 1) != 0 || strcmp(a, "-") == 0) {
            argv[words++] = argv[i];
            continue;
        }
        if (strcmp(a, "--") == 0) {
            only_words = true;
            continue;
        }
        if (strcmp(a, "-h") == 0 || strcmp(a, "--help") == 0) {
            print_help(c, flags);
            return CLI_PARSED_HELP;
        }
        if (strncmp(a, "--", 2) != 0)
            return usage(c, "there is no option ", a, "");
        const char *equals = strchr(a, '=');
        size_t length = equals ? (size_t)(equals - a - 2) : strlen(a + 2);
        const struct cli_flag *f = find_flag(flags, a + 2, length);
        if (!f)
            f = find_flag(common_flags, a + 2, length);
        if (!f)
            return usage(c, "there is no option ", a, "");
        if (!f->value_name && equals)
            return usage(c, "--", f->name, " takes no value");
        const char *value = equals ? equals + 1 : NULL;
        if (f->value_name && !value) {
            if (i + 1 >= argc)
                return usage(c, "--", f->name, " needs a value");
            value = argv[++i];
        }
        store(cli, f, value);
    }
    if (words < least)
        return usage(c, "expected: ", c->arguments, "");
    if (words > most)
        return usage(c, "unexpected word '", argv[most], "'");
    return words;
}

/* One value through the parser of configuration files, so that both take the same forms. */
static int parse(enum sp_config_type type, const char *flag, const char *text, uint64_t most,
                 uint64_t *ret)
{
    const struct sp_config_option table[] = {
        {"option", flag, type, 0, 0, most},
        {0},
    };
    SP_FREE char *assignment = NULL;
    if (asprintf(&assignment, "option.%s=%s", flag, text) < 0)
        return cli_fail(CLI_ERROR, "no memory");
    struct sp_why why = {0};
    uint64_t value = 0;
    if (sp_config_set(table, &value, assignment, &why) < 0)
        return cli_fail(CLI_USAGE, "%s", why.text);
    *ret = value;
    return CLI_OK;
}

int cli_number(const char *flag, const char *text, uint64_t most, uint64_t *ret)
{
    return parse(SP_CONFIG_NUMBER, flag, text, most, ret);
}

int cli_duration_ms(const char *flag, const char *text, uint64_t *ret)
{
    return parse(SP_CONFIG_DURATION_MS, flag, text, UINT64_MAX, ret);
}

int cli_size(const char *flag, const char *text, uint64_t *ret)
{
    return parse(SP_CONFIG_SIZE, flag, text, UINT64_MAX, ret);
}
