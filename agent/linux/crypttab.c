/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/scan.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <stdlib.h>
#include <string.h>

/* crypttab(5): name device key-file options. Only what says how the key is made is taken. */
bool scan_crypttab_find(const struct scan *scan, const char *dm_name, struct scan_crypttab *ret)
{
    SP_FREE char *text = NULL;
    if (scan->roots->crypttab_text)
        text = strdup(scan->roots->crypttab_text);
    else if (sp_file_read(scan->roots->crypttab, 1 << 20, &text, NULL) < 0)
        return false;
    if (!text)
        return false;
    char *lines = NULL;
    for (char *line = strtok_r(text, "\n", &lines); line; line = strtok_r(NULL, "\n", &lines)) {
        char *words = NULL;
        char *name = strtok_r(line, " \t", &words);
        if (!name || name[0] == '#' || strcmp(name, dm_name) != 0)
            continue;
        strtok_r(NULL, " \t", &words);
        char *key = strtok_r(NULL, " \t", &words), *options = strtok_r(NULL, " \t", &words);
        *ret = (struct scan_crypttab){0};
        ret->random_key =
            key && (strcmp(key, "/dev/urandom") == 0 || strcmp(key, "/dev/random") == 0 ||
                    strcmp(key, "/dev/hwrng") == 0);
        char *save = NULL;
        for (char *o = options ? strtok_r(options, ",", &save) : NULL; o;
             o = strtok_r(NULL, ",", &save))
            if (strncmp(o, "hash=", 5) == 0)
                snprintf(ret->hash, sizeof(ret->hash), "%s", o + 5);
        return true;
    }
    return false;
}
