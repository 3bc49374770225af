/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What /etc/sealpoint/controller.conf says; every value has a default that works. */
#ifndef SEALPOINT_CONTROLLER_CONFIG_H
#define SEALPOINT_CONTROLLER_CONFIG_H

#include "base/config.h"
#include <stdint.h>

struct controller_config {
    char *listen; /* "[::]:9443"; port 0: any free one */
    char *state;  /* catalog, key and certificates */
    char *keeper_socket;
    char *fleece;         /* for sources that name no room of their own */
    char *descriptors;    /* FileDescriptorSet for server reflection; missing: no reflection */
    uint64_t jobs;        /* backups and verifications at once */
    uint64_t loops;       /* RPC threads */
    uint64_t connections; /* agents and users to expect */
    uint64_t heartbeat_ms;
    uint64_t agent_wait_ms;     /* for an agent that is not connected when a backup begins */
    uint64_t reproof_after_ms;  /* kept points are proved again; 0: only by hand */
    uint64_t reproofs_per_hour; /* at most */
    uint64_t
        unreachable_most_ms; /* then a key that nobody can be asked about puts its point at risk */
};

#define CONTROLLER_CONFIG_PATH "/etc/sealpoint/controller.conf"

extern const struct sp_config_option controller_options[];

/* Defaults, then the file (which may miss when it is the default one), then assignments
 * "section.key=value". */
int controller_config_load(const char *path, char *const *assignments, size_t count,
                           struct controller_config *ret, struct sp_why *why);
void controller_config_free(struct controller_config *);

#endif
