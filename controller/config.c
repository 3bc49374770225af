/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/config.h"
#include "base/cleanup.h"
#include <string.h>

#define AT(member) offsetof(struct controller_config, member)
#define DAY_MS     UINT64_C(86400000)

const struct sp_config_option controller_options[] = {
    {"controller", "listen", SP_CONFIG_TEXT, AT(listen), 0, 0},
    {"controller", "state", SP_CONFIG_TEXT, AT(state), 0, 0},
    {"controller", "keeper_socket", SP_CONFIG_TEXT, AT(keeper_socket), 0, 0},
    {"controller", "fleece", SP_CONFIG_TEXT, AT(fleece), 0, 0},
    {"controller", "descriptors", SP_CONFIG_TEXT, AT(descriptors), 0, 0},
    {"controller", "jobs", SP_CONFIG_NUMBER, AT(jobs), 1, 64},
    {"controller", "loops", SP_CONFIG_NUMBER, AT(loops), 1, 64},
    {"controller", "connections", SP_CONFIG_NUMBER, AT(connections), 1, 1000000},
    {"controller", "heartbeat", SP_CONFIG_DURATION_MS, AT(heartbeat_ms), 500, 600000},
    {"controller", "agent_wait", SP_CONFIG_DURATION_MS, AT(agent_wait_ms), 1, 600000},
    {"controller", "reproof_after", SP_CONFIG_DURATION_MS, AT(reproof_after_ms), 0, 400 * DAY_MS},
    {"controller", "reproofs_per_hour", SP_CONFIG_NUMBER, AT(reproofs_per_hour), 1, 100000},
    {"controller", "unreachable_most", SP_CONFIG_DURATION_MS, AT(unreachable_most_ms), 0,
     400 * DAY_MS},
    {NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0},
};

static int set_defaults(struct controller_config *c)
{
    *c = (struct controller_config){
        .jobs = 2,
        .loops = 2,
        .connections = 1000,
        .heartbeat_ms = 20000,
        .agent_wait_ms = 10000,
        .reproof_after_ms = 30 * DAY_MS,
        .reproofs_per_hour = 60,
        .unreachable_most_ms = 7 * DAY_MS,
    };
    c->listen = strdup("[::]:9443");
    c->state = strdup("/var/lib/sealpoint");
    c->keeper_socket = strdup("/run/sealpoint/keeper.sock");
    c->descriptors = strdup(SEALPOINT_DATADIR "/sealpoint.protoset");
    return c->listen && c->state && c->keeper_socket && c->descriptors ? 0 : -ENOMEM;
}

int controller_config_load(const char *path, char *const *assignments, size_t count,
                           struct controller_config *ret, struct sp_why *why)
{
    struct controller_config c;
    int r = set_defaults(&c);
    if (r == 0)
        r = sp_config_load(path ? path : CONTROLLER_CONFIG_PATH, !path, controller_options, &c,
                           why);
    for (size_t i = 0; i < count && r == 0; i++)
        r = sp_config_set(controller_options, &c, assignments[i], why);
    if (r == 0 && !c.fleece && asprintf(&c.fleece, "%s/fleece", c.state) < 0) {
        c.fleece = NULL;
        r = -ENOMEM;
    }
    if (r < 0) {
        controller_config_free(&c);
        return r;
    }
    *ret = c;
    return 0;
}

void controller_config_free(struct controller_config *c)
{
    sp_config_free(controller_options, c);
}
