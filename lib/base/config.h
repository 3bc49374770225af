/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Configuration: INI files with drop-ins. `/etc/sealpoint/agent.conf`, then
 * `agent.conf.d/<name>.conf` in byte order; later wins. A program describes its options in a table;
 * an unknown section or key is an error with file and line, not a silence. */
#ifndef SEALPOINT_BASE_CONFIG_H
#define SEALPOINT_BASE_CONFIG_H

#include "base/why.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sp_config_type {
    SP_CONFIG_TEXT,
    SP_CONFIG_BOOL,
    SP_CONFIG_NUMBER,
    SP_CONFIG_DURATION_MS,
    SP_CONFIG_SIZE
};

/* One option. `at` is the offset in the program's struct of: char * (TEXT, owned by the struct),
 * bool, or uint64_t (NUMBER, DURATION_MS with ms/s/min/h/d, SIZE with K/M/G/T of 1024). */
struct sp_config_option {
    const char *section, *key;
    enum sp_config_type type;
    size_t at;
    uint64_t least, most; /* of numbers; both 0: unbounded */
};

/* Reads `path` (missing is fine when `may_miss`) and its drop-ins into `target`. The table ends
 * with a NULL section. 0, or negative errno with the file and line in why; target may be half
 * filled then. */
int sp_config_load(const char *path, bool may_miss, const struct sp_config_option *table,
                   void *target, struct sp_why *why);
/* Sets one option from "section.key=value" (for -o on a command line). */
int sp_config_set(const struct sp_config_option *table, void *target, const char *assignment,
                  struct sp_why *why);
/* For sections that no table can name, since the admin does ("active-directory corp"): asked about
 * each option first. 0: taken; -ENOENT: not its section; else refused, with why. */
struct sp_config_more {
    int (*set)(void *self, const char *section, const char *key, const char *value,
               struct sp_why *why);
    void *self;
};
/* As sp_config_load() and sp_config_set(). */
int sp_config_load_more(const char *path, bool may_miss, const struct sp_config_option *table,
                        void *target, const struct sp_config_more *more, struct sp_why *why);
int sp_config_set_more(const struct sp_config_option *table, void *target,
                       const struct sp_config_more *more, const char *assignment,
                       struct sp_why *why);
/* One option by the table. */
int sp_config_set_option(const struct sp_config_option *table, void *target, const char *section,
                         const char *key, const char *value, struct sp_why *why);
/* Frees every TEXT. */
void sp_config_free(const struct sp_config_option *table, void *target);

#endif
