/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `sealpointd init`: the keeper makes CA, controller certificate and the first user's certificate;
 * this writes them where they belong and prints the recovery kit, once. */
#ifndef SEALPOINT_CONTROLLER_INIT_H
#define SEALPOINT_CONTROLLER_INIT_H

#include "base/why.h"
#include "controller/config.h"
#include <stddef.h>

struct init_options {
    const char *domain, *name, *user, *profile;
    char **hosts;
    size_t host_count;
};

/* Prints kit and CA fingerprint on standard output. Files are there before the keeper is asked, so
 * that a full disk cannot cost the only certificates. */
int init_run(const struct controller_config *, const struct init_options *, struct sp_why *why);

#endif
