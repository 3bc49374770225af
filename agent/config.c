/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/config.h"
#include "base/cleanup.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(struct agent_config, field)

const struct sp_config_option agent_config_table[] = {
    {"agent", "controller", SP_CONFIG_TEXT, AT(controller), 0, 0},
    {"agent", "state", SP_CONFIG_TEXT, AT(state), 0, 0},
    {"agent", "runtime", SP_CONFIG_TEXT, AT(runtime), 0, 0},
    {"agent", "name", SP_CONFIG_TEXT, AT(name), 0, 0},
    {"agent", "metadata", SP_CONFIG_TEXT, AT(metadata), 0, 0},
    {"agent", "metadata_url", SP_CONFIG_TEXT, AT(metadata_url), 0, 0},
    {"freeze", "max_lease", SP_CONFIG_DURATION_MS, AT(max_lease_ms), 100, 600000},
    {"freeze", "default_lease", SP_CONFIG_DURATION_MS, AT(default_lease_ms), 100, 600000},
    {"freeze", "most_per_hour", SP_CONFIG_NUMBER, AT(most_per_hour), 1, 3600},
    {"freeze", "exclude", SP_CONFIG_TEXT, AT(exclude), 0, 0},
    {"freeze", "only", SP_CONFIG_TEXT, AT(only), 0, 0},
    {"freeze", "suspend", SP_CONFIG_TEXT, AT(suspend), 0, 0},
    {"hooks", "folder", SP_CONFIG_TEXT, AT(hooks_folder), 0, 0},
    {"hooks", "timeout", SP_CONFIG_DURATION_MS, AT(hooks_timeout_ms), 100, 600000},
    {"hooks", "run_as", SP_CONFIG_TEXT, AT(hooks_run_as), 0, 0},
    {"escrow", "enrol", SP_CONFIG_BOOL, AT(escrow_enrol), 0, 0},
    {"escrow", "crypttab", SP_CONFIG_TEXT, AT(escrow_crypttab), 0, 0},
    {"escrow", "socket", SP_CONFIG_TEXT, AT(escrow_socket), 0, 0},
    {"escrow", "helper", SP_CONFIG_TEXT, AT(escrow_helper), 0, 0},
    {0},
};

static int set_defaults(struct agent_config *config)
{
    char host[256];
    if (gethostname(host, sizeof(host)) < 0 || !host[0])
        strcpy(host, "localhost");
    host[sizeof(host) - 1] = 0;
    *config = (struct agent_config){
        .controller = strdup(""),
        .state = strdup("/var/lib/sealpoint-agent"),
        .runtime = strdup("/run/sealpoint-agent"),
        .name = strdup(host),
        .metadata = strdup("auto"),
        .metadata_url = strdup("http://169.254.169.254"),
        .max_lease_ms = 60000,
        .default_lease_ms = 10000,
        .most_per_hour = 120,
        .exclude = strdup(""),
        .only = strdup(""),
        .suspend = strdup(""),
        .hooks_folder = strdup("/etc/sealpoint/hooks.d"),
        .hooks_run_as = strdup(""),
        .hooks_timeout_ms = 20000,
        .escrow_crypttab = strdup("/etc/crypttab"),
        .escrow_socket = strdup("/run/sealpoint-enrol-volume.sock"),
        .escrow_helper = strdup(SEALPOINT_ENROL_VOLUME),
    };
    if (!config->controller || !config->state || !config->runtime || !config->name ||
        !config->metadata || !config->metadata_url || !config->exclude || !config->only ||
        !config->suspend || !config->hooks_folder || !config->hooks_run_as ||
        !config->escrow_crypttab || !config->escrow_socket || !config->escrow_helper)
        return -ENOMEM;
    return 0;
}

int agent_config_load(const char *path, char *const *assignments, size_t count,
                      struct agent_config *config, struct sp_why *why)
{
    int r = set_defaults(config);
    if (r < 0)
        return r;
    r = sp_config_load(path ? path : AGENT_CONFIG_PATH, !path, agent_config_table, config, why);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = sp_config_set(agent_config_table, config, assignments[i], why);
    if (r < 0)
        return r;
    if (config->default_lease_ms > config->max_lease_ms)
        config->default_lease_ms = config->max_lease_ms;
    return 0;
}

void agent_config_free(struct agent_config *config)
{
    sp_config_free(agent_config_table, config);
}

bool agent_config_lists(const char *list, const char *path)
{
    size_t length = strlen(path);
    for (const char *at = list; at && *at;) {
        at += strspn(at, ", \t");
        size_t item = strcspn(at, ",");
        size_t trimmed = item;
        while (trimmed && (at[trimmed - 1] == ' ' || at[trimmed - 1] == '\t'))
            trimmed--;
        while (trimmed > 1 && at[trimmed - 1] == '/')
            trimmed--;
        if (trimmed == length && memcmp(at, path, length) == 0)
            return true;
        at += item;
    }
    return false;
}
