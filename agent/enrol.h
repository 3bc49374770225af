/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * How the guest gets its identity and keeps it.
 *
 *   token file + CA fingerprint ─▶ CA of the controller ─▶ key, CSR ─▶ Enrol ─▶ state folder
 *
 * Blocking; not on an RPC loop. */
#ifndef SEALPOINT_AGENT_ENROL_H
#define SEALPOINT_AGENT_ENROL_H

#include "agent/config.h"
#include "agent/identity.h"

struct enrol_options {
    const char *controller;     /* host:port */
    const char *token_file;     /* "-": standard input */
    const char *ca_fingerprint; /* 64 hex digits, as `sealpointd init` printed them */
    bool again;                 /* replace an enrolment that is there */
    unsigned wait_s;            /* for an operator's approval; 0: as long as it takes */
};
/* -EEXIST: enrolled already. -ETIMEDOUT: not approved in time (ask again: same key). */
int agent_enrol(const struct agent_config *config, const struct enrol_options *options,
                struct sp_why *why);

/* A new key and certificate for the identity, stored. */
int agent_renew(const struct agent_config *config, const struct agent_identity *identity,
                struct sp_why *why);

/* Where the controller is: the configuration's word, else what enrol stored. */
const char *agent_controller(const struct agent_config *config,
                             const struct agent_identity *identity);

#endif
