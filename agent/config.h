/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * /etc/sealpoint/agent.conf and its drop-ins.
 *
 *     [agent]
 *     controller = backup.example.com:9443    what `enrol` stored, unless set here
 *     state      = /var/lib/sealpoint-agent   keys and identity
 *     runtime    = /run/sealpoint-agent       must be a tmpfs: the frozen list lives there
 *     name       = web1                       host name, unless set
 *     metadata   = auto                       azure, openstack, off: where the guest's id in its
 *                                             cloud comes from; auto: as the firmware says
 *     metadata_url = http://169.254.169.254
 *     [freeze]
 *     max_lease     = 60s                     whatever a controller asks for
 *     default_lease = 10s
 *     most_per_hour = 120                     freezes
 *     exclude       = /scratch,/tmp           mount points that are never frozen
 *     only          = /srv,/home              nothing but these; empty: every one
 *     suspend       = /dev/mapper/db          devices in use without a file system that are
 *                                             suspended with the freeze, or "all"; empty: none
 *     [hooks]                                 programs before the freeze, after the thaw: hooks.h
 *     folder        = /etc/sealpoint/hooks.d
 *     timeout       = 20s                     of each call
 *     run_as        = 50-postgresql:postgres  NAME:USER,…; the others run as root
 *     [escrow]                                recovery keys in keyslots of their own: keyslot.proto
 *     enrol         = on                      the keeper may order them; off unless set
 *     crypttab      = /etc/crypttab           which key file opens which volume
 *     socket        = /run/sealpoint-enrol-volume.sock   of sealpoint-enrol-volume
 *     helper        = /usr/libexec/…          that program, for 'enrol-volume'
 */
#ifndef SEALPOINT_AGENT_CONFIG_H
#define SEALPOINT_AGENT_CONFIG_H

#include "base/config.h"

#define AGENT_CONFIG_PATH "/etc/sealpoint/agent.conf"

struct agent_config {
    char *controller, *state, *runtime, *name, *metadata, *metadata_url;
    uint64_t max_lease_ms, default_lease_ms, most_per_hour;
    char *exclude, *only, *suspend;
    char *hooks_folder, *hooks_run_as;
    uint64_t hooks_timeout_ms;
    bool escrow_enrol;
    char *escrow_crypttab, *escrow_socket, *escrow_helper;
};

extern const struct sp_config_option agent_config_table[];

/* Defaults, then the file (missing is fine if it is the default one), then the -o assignments.
 * 0 or negative errno with why; agent_config_free() in either case. */
int agent_config_load(const char *path, char *const *assignments, size_t count,
                      struct agent_config *config, struct sp_why *why);
void agent_config_free(struct agent_config *config);

/* True if `path` is one of the comma-separated entries of `list`. */
bool agent_config_lists(const char *list, const char *path);

#endif
