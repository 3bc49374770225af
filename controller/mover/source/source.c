/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/source/source.h"

#include <stddef.h>

extern const struct source source_qemu, source_file;

static const struct source *const sources[] = {
    &source_qemu,
    &source_file,
};

const struct source *source_for(const Sp__SourceConfig *config)
{
    for (size_t i = 0; config && i < sizeof sources / sizeof sources[0]; i++) {
        if (sources[i]->kind == config->kind_case)
            return sources[i];
    }
    return NULL;
}
